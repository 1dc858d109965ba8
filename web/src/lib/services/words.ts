// What the server tells in its own words (kinds, states, reasons), in the reader's. What is not known is shown as it came:
// a newer server may say more than this page knows.

import type { Messages } from '$lib/messages';
import type { Explained, Persona, Reading } from './types';

/** The name for a key of the server, or the key. */
export function named(names: Readonly<Record<string, string>>, key: string): string {
	return Object.hasOwn(names, key) ? (names[key] ?? key) : key;
}

const REASONS: [RegExp, (t: Messages, word: string) => string][] = [
	[/^your message speaks of a feeling \("(.*)"\)$/, (t, word) => t.reasons.feeling(word)],
	[/^your message speaks of a feeling \((\w+)\)$/, (t, label) => t.reasons.read(named(t.feelings, label))],
	[/^your message asks for care \((\w+)\)$/, (t, label) => t.reasons.care(named(t.needs, label))],
	[/^your message may speak of danger$/, (t) => t.reasons.danger],
	[/^the question asks for reasons \("(.*)"\)$/, (t, word) => t.reasons.asksWhy(word)],
	[/^the message is long$/, (t) => t.reasons.long],
	[/^a short, plain message$/, (t) => t.reasons.plain],
	[/^you asked for fast$/, (t) => t.reasons.askedFast],
	[/^you asked for thinking$/, (t) => t.reasons.askedThinking],
	[/^the thinking budget is none$/, (t) => t.reasons.noBudget],
	[/^a reply that goes on has had its thoughts$/, (t) => t.reasons.goesOn],
];

/** Why a mode was taken. */
export function reason(t: Messages, why: string): string {
	for (const [pattern, say] of REASONS) {
		const match = pattern.exec(why);
		if (match) return say(t, match[1] ?? '');
	}
	return why;
}

/** One sentence of how the assistant talks now. */
export function explained(t: Messages, locale: string, line: Explained | string, personas: readonly Persona[]): string {
	if (typeof line === 'string') return line;
	switch (line.about) {
		case 'persona': {
			const persona = personas.find((p) => p.id === line.persona);
			return persona ? t.explained.persona(persona.name, tagline(persona, locale)) : line.text;
		}
		case 'slider':
			return t.explained.slider(named(sliders(t), line.slider ?? ''), line.told ?? '');
		case 'instructions':
			return t.explained.instructions;
		case 'memories':
			return t.explained.memories(line.n ?? 0);
		case 'nothing':
			return t.explained.nothing;
		default:
			return line.text;
	}
}

const sliders = (t: Messages) => ({ warmth: t.warmth, length: t.length, formality: t.formality, humour: t.humour, directness: t.directness });

export const tagline = (persona: Persona, locale: string) => persona.texts?.[locale]?.tagline ?? persona.tagline;
export const description = (persona: Persona, locale: string) => persona.texts?.[locale]?.description ?? persona.description;

/** What somebody said of a reply, for the list of reactions. */
export function reaction(t: Messages, kind: string, value: unknown): string {
	if (kind === 'thumb') return value === 1 || value === 'up' ? t.thumbs.up : value === -1 || value === 'down' ? t.thumbs.down : t.thumbs.none;
	if (kind === 'chip') return named({ too_long: t.too_long, too_cold: t.too_cold, too_pushy: t.too_pushy, not_true: t.not_true }, String(value));
	if (kind === 'choice' && typeof value === 'object' && value !== null && 'verdict' in value) return named(t.verdicts, String(value.verdict));
	if (kind === 'copy' || kind === 'regenerate') return '';
	return (typeof value === 'string' ? value : (JSON.stringify(value) ?? '')).slice(0, 160);
}

/** The parts of a thought that is a form (`feel: … | need: … | tone: … | do: …`), as far as it has come; null for free text. */
export function formOf(thought: string): { part: 'feel' | 'need' | 'tone' | 'do'; value: string }[] | null {
	if (!/^\s*feel:/.test(thought)) return null;
	const parts = [...thought.matchAll(/(?:^|\|)\s*(feel|need|tone|do):([^|]*)/g)];
	return parts.map(([, part, value]) => ({ part: part as 'feel' | 'need' | 'tone' | 'do', value: (value ?? '').trim() }));
}

/** How a message was read, in plain words that claim no more than was read. */
export function readingWords(t: Messages, read: Reading): string {
	if (read.basis === 'none') return t.reading.unread;
	const feelings = read.feelings.filter(({ label }) => label !== 'neutral').slice(0, 3).map(({ label }) => named(t.feelings, label));
	const sentences = [feelings.length === 0 ? t.reading.plain : t.reading.feels(feelings, read.intensity >= 0.66 ? 2 : read.intensity >= 0.33 ? 1 : 0)];
	const need = read.needs[0];
	if (need) sentences.push(t.reading.needs(named(t.needs, need.label)));
	if (read.risk.is_cue) sentences.push(t.reading.risk);
	return sentences.join(t.reading.between);
}

/** A sentence of the server as one: it begins large and ends with a stop. */
export function sentence(message: string): string {
	const text = message.trim();
	if (text === '') return text;
	const whole = /[.!?…。！？)]$/.test(text) ? text : `${text}.`;
	return whole.charAt(0).toUpperCase() + whole.slice(1);
}
