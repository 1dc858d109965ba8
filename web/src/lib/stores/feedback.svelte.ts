// A person's reactions: sent, shown on the message, and acknowledged in words that say no more than the server did.

import { api } from '$lib/services/api';
import type { Chip, FeedbackReceipt, Message } from '$lib/services/types';
import { i18n } from './i18n.svelte';
import { toasts } from './toasts.svelte';

export type Verdict = 'this' | 'other' | 'tie' | 'both_bad';

function acknowledge(receipt: FeedbackReceipt): void {
	if (!receipt.kept) return;
	const kept = receipt.kept_for === 'training' ? i18n.t.keptForTraining : i18n.t.keptForYou;
	if (receipt.style_changed) toasts.say(`${kept} ${i18n.t.styleChanged}`, { link: { href: '/style', text: i18n.t.seeStyle } });
	else toasts.say(kept);
}

const give = (message_id: string, kind: string, value: unknown) => api.post<FeedbackReceipt>('/api/feedback', { message_id, kind, value });

export const feedback = {
	/** The same thumb again takes it back. */
	async thumb(message: Message, thumb: 1 | -1): Promise<void> {
		const value = message.feedback.thumb === thumb ? 0 : thumb;
		const receipt = await give(message.id, 'thumb', value);
		message.feedback.thumb = value === 0 ? null : value;
		if (value === 0) toasts.say(i18n.t.takenBack);
		else acknowledge(receipt);
	},
	async chip(message: Message, chip: Chip): Promise<void> {
		if (message.feedback.chips.includes(chip)) return;
		const receipt = await give(message.id, 'chip', chip);
		message.feedback.chips = [...message.feedback.chips, chip];
		acknowledge(receipt);
	},
	async comment(message: Message, text: string): Promise<void> {
		const receipt = await give(message.id, 'comment', text);
		message.feedback.comment = text;
		acknowledge(receipt);
	},
	async improve(message: Message, text: string): Promise<void> {
		acknowledge(await give(message.id, 'edit', text));
	},
	async choice(message_id: string, other_message_id: string, verdict: Verdict): Promise<void> {
		acknowledge(await give(message_id, 'choice', { other_message_id, verdict }));
	},
	/** Copying says that a reply was useful; whether the server keeps it is its own affair. */
	copied(message: Message): void {
		void give(message.id, 'copy', 1).catch(() => {});
	},
};
