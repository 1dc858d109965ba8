// A scripted server of the app's contract, for states that a real model cannot be asked for: replies held in the
// middle, lost connections, blind choices, hostile text. It keeps everything in memory and speaks only as told.
//   const server = await start({ user: 'admin' });  // { url, state, close }
// What a reply says follows from the message: "SLOW" holds it until `state.release()`, "CUT" drops the connection once,
// "FAIL" fails, "LENGTH" ends by length, "THINK" thinks first, "CHOICE" makes an alternative, "MARKDOWN" shows all marks.
import { createServer } from 'node:http';
import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { extname, join } from 'node:path';

const BUILD = new URL('../build/', import.meta.url).pathname;
export const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.png': 'image/png', '.woff2': 'font/woff2', '.webmanifest': 'application/manifest+json' };
export const CSP = "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; script-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'";

export const MARKDOWN = `Here is a **small tour**. Inline maths like $e^{i\\pi} + 1 = 0$ sits in the line.

## A table

| City | People | River |
| --- | ---: | --- |
| Wellington | 215,000 | Hutt |
| Kyoto | 1,460,000 | Kamo |

1. First, *breathe*.
2. Then write \`cargo test\`.

\`\`\`rust
/// Greets whoever is there.
fn greet(name: &str) -> String {
    format!("Good morning, {name}!")
}
\`\`\`

> Being warm and being honest are not opposites.

$$\\int_0^1 x^2\\,dx = \\frac{1}{3}$$`;

const now = () => Date.now();
// Messages made in one moment still have an order, as the server's ids give them.
let last_ms = 0;
const moment = () => (last_ms = Math.max(last_ms + 1, Date.now()));
const day = (back) => new Date(now() - back * 86_400_000).toISOString().slice(0, 10);

export function fresh(options = {}) {
	const state = {
		user: { id: 'u1', name: 'Robin', role: 'admin', plan: 'plus', locale: null, has_password: true },
		signedIn: true,
		model: { state: 'ready', name: 'SmolLM2-135M-Instruct', context_tokens: 8192 },
		instance: { name: 'Rapport', version: '0.1.0', sign_up: true, oidc: [{ id: 'oidc', label: 'House ID' }], set_up: true },
		absent: new Set(),
		chats: new Map(),
		folders: [{ id: 'f1', name: 'Work' }, { id: 'f2', name: 'Reading' }],
		memory: [
			{ id: 'm1', text: 'I prefer metric units.', created_ms: now() - 6e8, source: 'user' },
			{ id: 'm2', text: 'I am learning to bake sourdough.', created_ms: now() - 2e8, source: 'user' },
		],
		style: { persona: 'steady', instructions: '', sliders: { warmth: 1, length: -1, formality: 0, humour: 0, directness: 1 }, explanation: [{ about: 'persona', persona: 'steady', text: 'You chose Steady: Calm, clear, unhurried' }, { about: 'slider', slider: 'warmth', told: 'Be warm and friendly.', text: 'You set warmth; the assistant is told: “Be warm and friendly.”' }, { about: 'slider', slider: 'length', told: 'Keep answers short.', text: 'You set length; the assistant is told: “Keep answers short.”' }, { about: 'memories', n: 2, text: '2 things you asked it to remember are given with them.' }], can_undo: true },
		personas: [
			{ id: 'steady', version: 3, name: 'Steady', tagline: 'Calm, clear, unhurried', description: 'Listens first, answers plainly.', languages: ['en', 'ja'], texts: { ja: { tagline: '穏やかで、明快、急がない', description: 'まず聞き、率直に答えます。' } } },
			{ id: 'spark', version: 2, name: 'Spark', tagline: 'Lively and curious', description: 'Asks back, plays with ideas.', languages: ['en'] },
		],
		keys: [{ id: 'k1', name: 'Notebook', prefix: 'rk-4f2a', scopes: [], created_ms: now() - 9e8, expires_ms: now() + 5e9, last_used_ms: now() - 4e6 }],
		shares: [],
		shared: new Map(),
		training: false,
		feedback: [],
		receipt: { kept: true, kept_for: 'you', style_changed: false },
		report: { format: 'chatgpt', imported: 3, skipped: [{ title: 'Broken one', reason: 'there is no text in it' }] },
		requests: [],
		release: () => {},
		delay_ms: 0,
		late_ms: 0,
		...options,
	};
	state.held = new Promise((resolve) => (state.release = resolve));
	return state;
}

const message = (parent, role, content, more = {}) => ({
	id: randomUUID(), parent_id: parent, role, content, thought: null, status: 'done', mode_asked: 'auto', mode: null, mode_reason: null, build: null, usage: null, timings: null,
	cost_microdollars: null, created_ms: moment(), error: null, feedback: { thumb: null, chips: [], comment: null }, choice_of: null, ...more,
});

const answered = {
	mode: 'fast', mode_reason: 'a short, plain message', build: 'smollm2-135m-q4_1@e816e29',
	usage: { prompt_tokens: 412, cached_tokens: 371, completion_tokens: 118, reasoning_tokens: 0 }, timings: { first_token_ms: 84, prompt_ms: 61, decode_ms: 640 }, cost_microdollars: 41,
};

/** Puts a whole chat into the state; `turns` are pairs of what was said. */
export function chat(state, title, turns, more = {}) {
	const id = more.id ?? randomUUID();
	const messages = [];
	let parent = null;
	for (const [said, reply] of turns) {
		const user = message(parent, 'user', said);
		const answer = message(user.id, 'assistant', reply.content ?? reply, { ...answered, ...(reply.content ? reply : {}) });
		messages.push(user, answer);
		parent = answer.id;
	}
	messages.forEach((m, i) => (m.created_ms = now() - 1e6 + i));
	state.chats.set(id, { conversation: { id, title, folder_id: null, persona: null, mode: 'auto', pinned: false, head: parent, created_ms: now(), updated_ms: now(), ...more }, messages });
	return id;
}

/** The events of a reply, in order, with what it becomes. */
function script(said, reply) {
	const thinks = /THINK/.test(said) || reply.mode_asked === 'thinking';
	const text = /MARKDOWN/.test(said) ? MARKDOWN : (said.match(/ECHO:([\s\S]*)/)?.[1] ?? 'That sounds like a lot for one day. Shall we look at it **piece by piece**? Tell me which part weighs most, and we start there.');
	const thought = thinks ? 'feel: nervousness | need: comfort | tone: gentle | do: ask what weighs most' : null;
	const events = [['started', { choice: thinks ? { mode: 'thinking', reason: 'your message speaks of a feeling' } : { mode: 'fast', reason: 'a short, plain message' }, prompt_tokens: 412, cached_tokens: 371 }]];
	for (const piece of thought?.match(/\S+\s*/g) ?? []) events.push(['thought', { text: piece }]);
	for (const piece of text.match(/[\s\S]{1,6}/g) ?? []) events.push(['text', { text: piece }]);
	const done = { ...answered, ...(thinks ? { mode: 'thinking', mode_reason: 'your message speaks of a feeling' } : {}), content: text, thought, status: /LENGTH/.test(said) ? 'length' : 'done' };
	if (thinks) done.usage = { ...done.usage, reasoning_tokens: 31 };
	return { events, done };
}

function reply(state, chat, parent, said, mode, more = {}) {
	const made = message(parent, 'assistant', '', { status: 'streaming', mode_asked: mode, ...more });
	// What a picture needs without a word of it in the message.
	said += state.also ?? '';
	const { events, done } = script(said, made);
	const run = { message: made, events, done, said, stopped: false, cut: /CUT/.test(said) };
	state.runs ??= new Map();
	state.runs.set(made.id, run);
	chat.messages.push(made);
	return made;
}

async function stream(state, run, response, from) {
	response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
	const write = (id, event, data) => response.write(`id: ${id}\nevent: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
	for (let i = from; i < run.events.length; i++) {
		if (run.stopped) break;
		if (/SLOW/.test(run.said) && i === Math.floor(run.events.length / 2)) await Promise.race([state.held, new Promise((resolve) => (run.stop = resolve))]);
		if (run.stopped) break;
		if (run.cut && i === 6) {
			run.cut = false;
			response.destroy();
			return;
		}
		if (/FAIL/.test(run.said) && i === 5) {
			Object.assign(run.message, { status: 'failed', error: 'The model ran out of memory. Try a shorter message.' });
			write(i + 1, 'failed', { error: { code: 'failed', message: run.message.error }, message: run.message });
			return response.end();
		}
		const [event, data] = run.events[i];
		write(i + 1, event, data);
		if (state.delay_ms > 0) await new Promise((resolve) => setTimeout(resolve, state.delay_ms));
		if (response.destroyed) return;
	}
	if (run.stopped) Object.assign(run.message, { ...run.done, status: 'stopped', content: run.done.content.slice(0, 40) });
	else if (run.message.status === 'streaming') Object.assign(run.message, run.done);
	write(run.events.length + 1, 'finished', { message: run.message });
	response.end();
}

const usageDays = () => Array.from({ length: 30 }, (_, i) => ({ day: day(29 - i), requests: 8, prompt_tokens: 2000 + ((i * 797) % 4200), cached_tokens: 900 + ((i * 331) % 900), completion_tokens: 700 + ((i * 523) % 2600), reasoning_tokens: 90, cost_microdollars: 900 }));
const plan = { id: 'plus', name: 'Plus', limits: { requests: 500, tokens: 400000, thinking_tokens: 100000, concurrent: 4 }, prices: { prompt_microdollars: 40000, cached_microdollars: 4000, completion_microdollars: 160000 } };

export async function start(options = {}) {
	const state = fresh(options);
	const fail = (response, status, code, text, more = {}) => json(response, { error: { code, message: text, ...more } }, status);
	const json = (response, value, status = 200) => {
		response.writeHead(status, { 'content-type': 'application/json' });
		response.end(value === undefined ? '' : JSON.stringify(value));
	};

	const server = createServer(async (request, response) => {
		try {
			await answer(request, response);
		} catch (error) {
			if (!response.headersSent) fail(response, 500, 'internal', String(error));
			else response.destroy();
		}
	});

	async function answer(request, response) {
		const url = new URL(request.url, 'http://127.0.0.1');
		const path = url.pathname;
		if (!path.startsWith('/api/')) return file(path, request, response);
		const chunks = [];
		for await (const chunk of request) chunks.push(chunk);
		const text = Buffer.concat(chunks).toString();
		const body = text === '' ? {} : JSON.parse(text);
		const method = request.method;
		state.requests.push({ method, path, body });
		if (method !== 'GET' && request.headers['x-rapport-csrf'] !== 'token-1') return fail(response, 403, 'forbidden', 'The page is out of date. Reload it.');
		if ([...state.absent].some((gone) => path.startsWith(gone))) return fail(response, 404, 'not_found', 'Not offered here.');
		const at = (wanted, pattern) => method === wanted && path.match(new RegExp(`^${pattern.replaceAll('{}', '([^/]+)')}$`));
		let m;

		if (at('GET', '/api/session')) return json(response, { user: state.signedIn ? state.user : null, csrf: 'token-1', instance: state.instance, model: state.model });
		if (at('GET', '/api/model')) return json(response, state.model);
		if (at('POST', '/api/session') || at('POST', '/api/sign-up')) {
			if (body.password === 'wrong') return fail(response, 422, 'invalid', 'The name or the password is wrong.', { field: 'password' });
			state.signedIn = true;
			return json(response, {});
		}
		if (at('POST', '/api/setup')) {
			state.signedIn = true;
			state.instance.set_up = true;
			return json(response, {});
		}
		if ((m = at('GET', '/api/shared/{}'))) return state.shared.has(m[1]) ? json(response, state.shared.get(m[1])) : fail(response, 404, 'not_found', 'This chat is not shared.');
		if (!state.signedIn) return fail(response, 401, 'signed_out', 'Sign in first.');
		if (at('DELETE', '/api/session')) {
			state.signedIn = false;
			return json(response, {});
		}

		if (at('GET', '/api/conversations')) {
			const folder = url.searchParams.get('folder');
			const items = [...state.chats.values()].map((c) => c.conversation).filter((c) => !folder || c.folder_id === folder).sort((a, b) => Number(b.pinned) - Number(a.pinned) || b.updated_ms - a.updated_ms);
			return json(response, { items, next: null });
		}
		if (at('POST', '/api/conversations')) {
			const id = chat(state, body.title ?? '', [], { folder_id: body.folder_id ?? null, mode: body.mode ?? 'auto' });
			return json(response, state.chats.get(id).conversation);
		}
		if ((m = path.match(/^\/api\/conversations\/([^/]+)(\/.*)?$/))) {
			const found = state.chats.get(m[1]);
			if (!found) return fail(response, 404, 'not_found', 'There is no such chat.');
			const { conversation, messages } = found;
			if (method === 'GET') return json(response, { conversation, messages });
			if (method === 'PATCH') return json(response, Object.assign(conversation, body));
			if (method === 'DELETE') return state.chats.delete(m[1]), json(response, {});
			if (m[2] === '/messages') {
				if (/REFUSE/.test(body.content)) return fail(response, 429, 'limited', 'Your plan’s messages for today are used up.', {});
				const user = message(body.parent_id, 'user', body.content);
				messages.push(user);
				const made = reply(state, found, user.id, body.content, body.mode);
				const alternative = /CHOICE/.test(body.content) ? reply(state, found, user.id, 'THINK', body.mode, { choice_of: made.id }) : null;
				Object.assign(conversation, { head: made.id, updated_ms: now(), title: conversation.title || body.content.slice(0, 40) });
				return json(response, { user, reply: made, alternative }, 202);
			}
			if (m[2] === '/shares') {
				const share = { id: randomUUID(), token: randomUUID().slice(0, 8), created_ms: now(), title: conversation.title };
				share.url = `/s/${share.token}`;
				state.shares.push(share);
				state.shared.set(share.token, { title: conversation.title, messages: messages.map(({ role, content, thought }) => ({ role, content, thought })), shared_ms: now() });
				return json(response, share);
			}
		}
		if ((m = at('POST', '/api/messages/{}/replies'))) {
			for (const c of state.chats.values()) {
				const user = c.messages.find((x) => x.id === m[1]);
				if (user) return json(response, { reply: reply(state, c, user.id, user.content, body.mode) }, 202);
			}
		}
		if ((m = at('POST', '/api/messages/{}/continue'))) {
			const c = [...state.chats.values()].find((x) => x.messages.some((y) => y.id === m[1]));
			const old = c.messages.find((x) => x.id === m[1]);
			const more = ' And one thing more.';
			old.status = 'streaming';
			state.runs.set(old.id, { message: old, said: '', events: [['started', { choice: { mode: 'fast', reason: 'continued' } }], ['text', { text: old.content }], ['text', { text: more }]], done: { content: old.content + more, status: 'done' } });
			return json(response, { reply: old }, 202);
		}
		if ((m = at('GET', '/api/messages/{}/reading'))) {
			if (!state.reads) return fail(response, 404, 'not_found', 'There is no such reading.');
			const likely = (label, probability) => ({ label, probability });
			return json(response, { message_id: m[1], reading: { basis: 'trained', feelings: [likely('sadness', 0.81), likely('nervousness', 0.44)], intensity: 0.72, needs: [likely('comfort', 0.58)], risk: { probability: 0.03, is_cue: false }, formality: 0.2 } });
		}
		if ((m = at('GET', '/api/replies/{}/events'))) {
			const run = state.runs?.get(m[1]);
			if (!run) return fail(response, 404, 'not_found', 'There is no such reply.');
			return stream(state, run, response, Number(request.headers['last-event-id'] ?? url.searchParams.get('from') ?? 0));
		}
		if ((m = at('POST', '/api/replies/{}/stop'))) {
			const run = state.runs.get(m[1]);
			run.stopped = true;
			run.stop?.();
			return json(response, {});
		}
		if ((m = at('POST', '/api/replies/{}/answer-now'))) return state.release(), json(response, {});
		if (at('POST', '/api/private/replies')) {
			const made = message(null, 'assistant', '', { status: 'streaming' });
			const said = body.messages.at(-1).content;
			return stream(state, { message: made, said, ...script(said, made) }, response, 0);
		}
		if (at('POST', '/api/private/replies/{}/answer-now')) return state.release(), json(response, {}, 202);
		if (at('GET', '/api/search')) {
			const q = url.searchParams.get('q').toLowerCase();
			// As the real one: titles first, which have no message.
			const all = [...state.chats.values()];
			const titled = all.filter(({ conversation }) => conversation.title.toLowerCase().includes(q));
			const items = titled.map(({ conversation: { id, title } }) => ({ conversation_id: id, title, message_id: null, snippet: '' }));
			for (const { conversation, messages } of all)
				for (const x of messages) {
					const i = x.content.toLowerCase().indexOf(q);
					if (i >= 0) items.push({ conversation_id: conversation.id, title: conversation.title, message_id: x.id, snippet: `${x.content.slice(Math.max(0, i - 30), i)}\u0002${x.content.slice(i, i + q.length)}\u0003${x.content.slice(i + q.length, i + 60)}` });
				}
			return json(response, { items: items.slice(0, 20) });
		}
		if (at('GET', '/api/folders')) return json(response, state.folders);
		if (at('POST', '/api/folders')) {
			const folder = { id: randomUUID(), name: body.name };
			state.folders.push(folder);
			return json(response, folder);
		}
		if ((m = at('DELETE', '/api/folders/{}'))) return (state.folders = state.folders.filter((f) => f.id !== m[1])), json(response, {});
		if (at('GET', '/api/shares')) return json(response, state.shares);
		if ((m = at('DELETE', '/api/shares/{}'))) {
			const gone = state.shares.find((s) => s.id === m[1]);
			state.shared.delete(gone?.token);
			state.shares = state.shares.filter((s) => s !== gone);
			return json(response, {});
		}
		if (at('POST', '/api/import')) return json(response, state.report);
		if (at('POST', '/api/feedback')) return state.feedback.push(body), json(response, state.receipt);
		if (at('GET', '/api/personas')) return json(response, state.personas);
		if (at('GET', '/api/style')) {
			const asAsked = structuredClone(state.style);
			if (state.late_ms > 0) await new Promise((resolve) => setTimeout(resolve, state.late_ms));
			return json(response, asAsked);
		}
		if (at('PUT', '/api/style')) return json(response, Object.assign(state.style, body, { can_undo: true }));
		if (at('POST', '/api/style/undo')) return json(response, Object.assign(state.style, { can_undo: false }));
		if (at('DELETE', '/api/style')) return json(response, Object.assign(state.style, { persona: null, instructions: '', sliders: { warmth: 0, length: 0, formality: 0, humour: 0, directness: 0 }, explanation: [], can_undo: true }));
		if (at('GET', '/api/memory')) return json(response, state.memory);
		if (at('POST', '/api/memory')) return state.memory.unshift({ id: randomUUID(), text: body.text, created_ms: now(), source: 'user' }), json(response, state.memory[0]);
		if (at('DELETE', '/api/memory')) return (state.memory = []), json(response, {});
		if ((m = path.match(/^\/api\/memory\/(.+)$/))) {
			if (method === 'PATCH') state.memory.find((x) => x.id === m[1]).text = body.text;
			if (method === 'DELETE') state.memory = state.memory.filter((x) => x.id !== m[1]);
			return json(response, {});
		}
		if (at('GET', '/api/account')) return json(response, { user: state.user, plan, usage_today: { requests: 37, tokens: 61240, thinking_tokens: 9120, cost_microdollars: 18400 }, resets_ms: new Date().setUTCHours(24, 0, 0, 0) });
		if (at('PATCH', '/api/account')) return json(response, Object.assign(state.user, body));
		if (at('DELETE', '/api/account')) return (state.signedIn = false), json(response, {});
		if (at('POST', '/api/account/password')) return json(response, {});
		if (at('GET', '/api/account/keys') || at('GET', '/api/admin/keys')) return json(response, state.keys.map((k) => ({ ...k, user_name: 'Robin' })));
		if (at('POST', '/api/account/keys')) {
			const key = { id: randomUUID(), name: body.name, prefix: 'rk-9b1c', scopes: [], created_ms: now(), expires_ms: null, last_used_ms: null };
			state.keys.push(key);
			return json(response, { key: 'rk-9b1c0d2e3f405162738495a6b7c8d9e0', ...key, key_shown: true });
		}
		if ((m = at('DELETE', '/api/account/keys/{}') || at('DELETE', '/api/admin/keys/{}'))) return (state.keys = state.keys.filter((k) => k.id !== m[1])), json(response, {});
		if (at('GET', '/api/account/usage')) return json(response, { days: usageDays() });
		if (at('GET', '/api/account/consent')) return json(response, { training: state.training });
		if (at('PUT', '/api/account/consent')) return (state.training = body.training), json(response, { training: state.training });
		if (path.startsWith('/api/admin/') && state.user.role !== 'admin') return fail(response, 403, 'forbidden', 'Only administrators may do this.');
		if (at('POST', '/api/model/retry')) {
			state.model = { state: 'pulling', name: 'SmolLM2-135M-Instruct', bytes: 0, total_bytes: 98e6 };
			return json(response, state.model, 202);
		}
		if (at('GET', '/api/admin/users')) return json(response, [{ ...state.user, disabled: false, created_ms: now() - 9e9, last_seen_ms: now(), usage_today: { requests: 37, tokens: 61240 } }, { id: 'u2', name: 'Kim', role: 'user', plan: 'free', disabled: true, created_ms: now() - 5e9, last_seen_ms: null, usage_today: null }]);
		if (path.startsWith('/api/admin/users')) return json(response, {});
		if (at('GET', '/api/admin/plans')) return json(response, [plan, { id: 'free', name: 'Free', limits: { requests: 50, tokens: 40000, thinking_tokens: 5000, concurrent: 1 }, prices: { prompt_microdollars: 0, cached_microdollars: 0, completion_microdollars: 0 } }]);
		if (at('GET', '/api/admin/models')) return json(response, [{ id: 'rapport', name: 'SmolLM2-135M-Instruct', build: answered.build, context_tokens: 8192, state: 'ready', adapters: [] }]);
		if (at('GET', '/api/admin/feedback')) return json(response, { items: [{ id: '1', at_ms: now(), user_name: 'Robin', kind: 'thumb', value: 1, build: answered.build, message_id: 'x' }, { id: '2', at_ms: now() - 9e5, user_name: 'Kim', kind: 'chip', value: 'too_long', build: answered.build, message_id: 'y' }], next: null });
		if (at('GET', '/api/admin/feedback/days')) return json(response, { days: Array.from({ length: 30 }, (_, i) => ({ day: day(29 - i), total: ((i * 7) % 11) + ((i * 5) % 4) + (i % 3), counts: { thumb: (i * 7) % 11, chip: (i * 5) % 4, choice: i % 3 } })) });
		if (at('GET', '/api/admin/settings')) return json(response, { instance_name: 'Rapport', sign_up: true, retention_days: null, default_persona: 'steady', default_plan: 'free', choice_every: 25 });
		if (at('PATCH', '/api/admin/settings')) return json(response, body);
		if (at('GET', '/api/admin/live')) {
			response.writeHead(200, { 'content-type': 'text/event-stream' });
			// Two minutes of an evening: people come and go, and what is written follows them.
			for (let i = 0; i < 120; i++) {
				const streams = Math.max(0, Math.round(3 + 2.4 * Math.sin(i / 17) + 1.2 * Math.sin(i / 5)));
				const cache = { used_tokens: Math.round(3900 + 22 * i + 260 * Math.sin(i / 6)), total_tokens: 8192, hit_share: 0.78 + 0.06 * Math.sin(i / 13) };
				const load = { streams, queue: streams > 5 ? streams - 5 : 0, tokens_per_second: streams === 0 ? 0 : 120 + 38 * streams + 9 * Math.sin(i), prompt_tokens_per_second: Math.max(0, 500 + 420 * Math.sin(i / 8) * Math.cos(i / 3)) };
				response.write(`event: live\ndata: ${JSON.stringify({ ...load, cache, users_online: 4 + (i > 50 ? 1 : 0) + (i > 90 ? 1 : 0), memory_bytes: 208e6 + 9e4 * i })}\n\n`);
			}
			return;
		}
		return fail(response, 404, 'not_found', 'There is no such route.');
	}

	async function file(path, request, response) {
		let name = path === '/' ? 'index.html' : path.slice(1);
		let bytes;
		try {
			bytes = await readFile(join(BUILD, name));
		} catch {
			name = 'index.html';
			bytes = await readFile(join(BUILD, name));
		}
		if (name === 'service-worker.js' && state.newer) bytes = Buffer.concat([bytes, Buffer.from(`\n// ${state.newer}`)]);
		response.writeHead(200, {
			'content-type': TYPES[extname(name)] ?? 'application/octet-stream', ...(options.policy === false ? {} : { 'content-security-policy': CSP }), 'x-content-type-options': 'nosniff', 'referrer-policy': 'no-referrer',
			'cache-control': path.startsWith('/_app/immutable/') ? 'public, max-age=31536000, immutable' : 'no-cache',
		});
		response.end(bytes);
	}

	await new Promise((resolve) => server.listen(options.port ?? 0, '127.0.0.1', resolve));
	// A test that failed on its way leaves it open, and that must not keep the process.
	server.unref();
	return { url: `http://127.0.0.1:${server.address().port}`, state, close: () => new Promise((resolve) => (server.close(resolve), server.closeAllConnections())) };
}
