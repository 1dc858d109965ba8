// One open conversation: the tree of its messages, the replies that stream into it, and what a person can do to it.
// `Thread` is what the screens see; `StoredThread` lives on the server, `PrivateThread` only in this page.

import { api, ApiError, errorOf, headers, offered } from '$lib/services/api';
import { keepChat, keptChat } from '$lib/services/offline';
import { eventsOf, follow } from '$lib/services/sse';
import { Tree } from '$lib/services/tree';
import type { Conversation, Message, Mode, ReplyEvent } from '$lib/services/types';
import { chats } from './chats.svelte';
import { describe, toasts } from './toasts.svelte';

/** What is known of a reply only while it streams. */
export interface Live {
	started: boolean;
	waiting: boolean;
	/** When its thought began and ended, by this page's clock. */
	thoughtFrom_ms: number | null;
	thoughtTo_ms: number | null;
}

export interface Thread {
	readonly path: Message[];
	readonly busy: boolean;
	readonly live: Record<string, Live>;
	siblings(id: string): readonly Message[];
	send(content: string, mode: Mode): Promise<void>;
	stop(): Promise<void>;
	regenerate(message: Message, mode: Mode): Promise<void>;
}

/** Collects what arrives and hands it over once a frame, however fast tokens come. */
class Feed {
	private text = '';
	private thought = '';
	private scheduled = false;

	constructor(private readonly message: Message) {}

	add(kind: 'text' | 'thought', piece: string): void {
		this[kind] += piece;
		if (this.scheduled) return;
		this.scheduled = true;
		const flush = () => {
			this.scheduled = false;
			this.flush();
		};
		// A hidden page draws no frames but must go on.
		if (document.hidden) setTimeout(flush, 200);
		else requestAnimationFrame(flush);
	}

	flush(): void {
		// A stream replays from its start: what is shown already is never shortened.
		if (this.text.length > this.message.content.length) this.message.content = this.text;
		if (this.thought.length > (this.message.thought?.length ?? 0)) this.message.thought = this.thought;
	}
}

/** Plays one event into its message. Returns true when the reply is over. */
function play(event: ReplyEvent, message: Message, live: Live, feed: Feed): boolean {
	switch (event.type) {
		case 'started':
			live.started = true;
			message.mode = event.choice.mode;
			message.mode_reason = event.choice.reason;
			return false;
		case 'thought':
			live.thoughtFrom_ms ??= Math.min(Date.now(), Math.max(message.created_ms, Date.now() - 600_000));
			feed.add('thought', event.text);
			return false;
		case 'text':
			if (live.thoughtFrom_ms !== null) live.thoughtTo_ms ??= Date.now();
			feed.add('text', event.text);
			return false;
		case 'finished':
			Object.assign(message, event.message);
			return true;
		case 'failed':
			feed.flush();
			if (event.message) Object.assign(message, event.message);
			message.status = 'failed';
			message.error ??= event.error.message;
			return true;
	}
}

const fresh = (): Live => ({ started: false, waiting: false, thoughtFrom_ms: null, thoughtTo_ms: null });

export class StoredThread implements Thread {
	conversation: Conversation = $state() as Conversation;
	messages: Message[] = $state([]);
	head: string | null = $state(null);
	live: Record<string, Live> = $state({});
	/** Read from this device, without the server. */
	kept = $state(false);
	/** Two replies wait for the person's choice. */
	choice: { reply: string; alternative: string } | null = $state(null);

	readonly tree = $derived(new Tree(this.messages.map((m) => ({ id: m.id, parent_id: m.parent_id, created_ms: m.created_ms, at: m }))));
	readonly path = $derived(this.tree.path(this.head).map((node) => node.at));
	readonly busy = $derived(this.path.some((m) => m.status === 'streaming'));

	private readonly streams = new Map<string, AbortController>();
	private pending: { content: string; parent: string | null; clientId: string } | null = null;

	private constructor(conversation: Conversation, messages: Message[], kept: boolean) {
		this.conversation = conversation;
		this.messages = messages;
		this.kept = kept;
		this.head = conversation.head && this.tree.get(conversation.head) ? conversation.head : this.tree.newest();
	}

	/** @throws ApiError */
	static async open(id: string): Promise<StoredThread> {
		try {
			const { conversation, messages } = await api.get<{ conversation: Conversation; messages: Message[] }>(`/api/conversations/${id}`);
			void keepChat(conversation, messages);
			const thread = new StoredThread(conversation, messages, false);
			for (const message of messages) if (message.status === 'streaming') thread.listen(message.id);
			thread.findChoice();
			return thread;
		} catch (error) {
			if (!(error instanceof ApiError && error.offline)) throw error;
			const kept = await keptChat(id);
			if (!kept) throw error;
			return new StoredThread(kept.conversation, kept.messages, true);
		}
	}

	/** A conversation that was just made, with nothing in it. */
	static empty(conversation: Conversation): StoredThread {
		return new StoredThread(conversation, [], false);
	}

	close(): void {
		for (const stream of this.streams.values()) stream.abort();
		this.streams.clear();
	}

	/** A choice that was left open by a reload is still open. */
	private findChoice(): void {
		const last = this.path.at(-1);
		if (!last) return;
		const other = this.messages.find((m) => m.choice_of === last.id || (last.choice_of !== null && m.id === last.choice_of));
		if (other && last.status === 'streaming') this.choice = { reply: last.id, alternative: other.id };
	}

	message(id: string): Message | undefined {
		return this.messages.find((m) => m.id === id);
	}

	siblings(id: string): readonly Message[] {
		return this.tree.siblings(id).map((node) => node.at);
	}

	private put(message: Message): void {
		const i = this.messages.findIndex((m) => m.id === message.id);
		if (i < 0) this.messages.push(message);
		else this.messages[i] = message;
	}

	async send(content: string, mode: Mode): Promise<void> {
		await this.post(content, this.head, mode);
	}

	/** An edited message stands beside the old one, with its own answers. */
	async editMessage(message: Message, content: string, mode: Mode): Promise<void> {
		await this.post(content, message.parent_id, mode);
	}

	private async post(content: string, parent: string | null, mode: Mode): Promise<void> {
		// The same words after a failure are the same message: the server does not take them twice.
		if (this.pending?.content !== content || this.pending.parent !== parent)
			this.pending = { content, parent, clientId: crypto.randomUUID() };
		const sent = await api.post<{ user: Message; reply: Message; alternative: Message | null }>(
			`/api/conversations/${this.conversation.id}/messages`,
			{ client_id: this.pending.clientId, parent_id: parent, content, mode },
		);
		this.pending = null;
		this.put(sent.user);
		this.put(sent.reply);
		this.head = sent.reply.id;
		this.listen(sent.reply.id);
		if (sent.alternative) {
			this.put(sent.alternative);
			this.choice = { reply: sent.reply.id, alternative: sent.alternative.id };
			this.listen(sent.alternative.id);
		} else this.choice = null;
		this.touch();
	}

	async regenerate(message: Message, mode: Mode): Promise<void> {
		const { reply } = await api.post<{ reply: Message }>(`/api/messages/${message.parent_id}/replies`, { client_id: crypto.randomUUID(), mode });
		this.put(reply);
		this.head = reply.id;
		this.choice = null;
		this.listen(reply.id);
		void api.post('/api/feedback', { message_id: message.id, kind: 'regenerate', value: 1 }).catch(() => {});
	}

	async goOn(message: Message): Promise<void> {
		const { reply } = await api.post<{ reply: Message }>(`/api/messages/${message.id}/continue`, { client_id: crypto.randomUUID() });
		this.put(reply);
		this.listen(reply.id);
	}

	async stop(): Promise<void> {
		const running = this.path.filter((m) => m.status === 'streaming').map((m) => m.id);
		if (this.choice) running.push(this.choice.alternative);
		await Promise.all([...new Set(running)].map((id) => api.post(`/api/replies/${id}/stop`)));
	}

	async answerNow(message: Message): Promise<void> {
		await api.post(`/api/replies/${message.id}/answer-now`);
	}

	/** Goes to the branch of a message, where it was left last. */
	async show(id: string): Promise<void> {
		const leaf = this.tree.leaf(id);
		this.head = leaf;
		this.choice = null;
		try {
			await api.patch(`/api/conversations/${this.conversation.id}`, { head: leaf });
		} catch {
			// Which branch is shown is kept when the server is back and it is changed again.
		}
	}

	/** The blind choice was made: the chat goes on with the better one. */
	async chosen(winner: string): Promise<void> {
		this.choice = null;
		if (winner !== this.head) await this.show(winner);
	}

	private listen(id: string): void {
		this.streams.get(id)?.abort();
		const message = this.message(id);
		if (!message) return;
		const stream = new AbortController();
		this.streams.set(id, stream);
		this.live[id] = fresh();
		const live = this.live[id];
		if (!live) return;
		const feed = new Feed(message);
		void follow({
			url: `/api/replies/${id}/events?from=0`,
			signal: stream.signal,
			onWaiting: (waiting) => (live.waiting = waiting),
			onEvent: ({ event, data }) => play({ type: event, ...JSON.parse(data) } as ReplyEvent, message, live, feed),
		})
			.then(() => this.ended(stream))
			.catch((error: unknown) => {
				message.status = 'failed';
				message.error = describe(error);
			})
			.finally(() => {
				if (this.streams.get(id) === stream) this.streams.delete(id);
			});
	}

	private ended(stream: AbortController): void {
		if (stream.signal.aborted) return;
		void keepChat($state.snapshot(this.conversation), $state.snapshot(this.messages));
		this.touch();
	}

	/** The title may have come with the first reply, and the place in the list changes. */
	private touch(): void {
		api
			.get<{ conversation: Conversation }>(`/api/conversations/${this.conversation.id}`)
			.then(({ conversation }) => {
				this.conversation.title = conversation.title;
				chats.put(conversation);
			})
			.catch(() => {});
	}
}

/** A chat that leaves nothing behind: its messages live in this page alone. */
export class PrivateThread implements Thread {
	messages: Message[] = $state([]);
	live: Record<string, Live> = $state({});
	/** Who the assistant is to be here; null as it is set. */
	persona: string | null = $state(null);
	readonly path = $derived(this.messages);
	readonly busy = $derived(this.messages.some((m) => m.status === 'streaming'));
	private stream: AbortController | null = null;

	siblings(): readonly Message[] {
		return [];
	}

	private make(role: 'user' | 'assistant', content: string, mode: Mode): Message {
		return {
			id: crypto.randomUUID(),
			parent_id: this.messages.at(-1)?.id ?? null,
			role,
			content,
			thought: null,
			status: role === 'user' ? 'done' : 'streaming',
			mode_asked: mode,
			mode: null,
			mode_reason: null,
			build: null,
			usage: null,
			timings: null,
			cost_microdollars: null,
			created_ms: Date.now(),
			error: null,
			feedback: { thumb: null, chips: [], comment: null },
			choice_of: null,
		};
	}

	async send(content: string, mode: Mode): Promise<void> {
		this.messages.push(this.make('user', content, mode));
		await this.reply(mode);
	}

	async regenerate(_message: Message, mode: Mode): Promise<void> {
		if (this.messages.at(-1)?.role === 'assistant') this.messages.pop();
		await this.reply(mode);
	}

	private async reply(mode: Mode): Promise<void> {
		const words = this.messages.filter((m) => m.content !== '').map(({ role, content }) => ({ role, content }));
		this.messages.push(this.make('assistant', '', mode));
		const message = this.messages.at(-1);
		if (!message) return;
		const id = message.id;
		this.live[id] = fresh();
		const live = this.live[id];
		if (!live) return;
		const feed = new Feed(message);
		this.stream = new AbortController();
		const signal = this.stream.signal;
		try {
			const response = await fetch('/api/private/replies', {
				method: 'POST',
				headers: headers('POST', { 'content-type': 'application/json', accept: 'text/event-stream' }),
				credentials: 'same-origin',
				body: JSON.stringify({ id, messages: words, mode, ...(this.persona === null ? {} : { persona: this.persona }) }),
				signal,
			});
			if (!response.ok || !response.body) throw await errorOf(response);
			for await (const { event, data } of eventsOf(response.body)) {
				const parsed = { type: event, ...JSON.parse(data) } as ReplyEvent;
				// The id of this page stays: the server keeps none.
				if (parsed.type === 'finished' || parsed.type === 'failed') {
					feed.flush();
					if (parsed.message) parsed.message = { ...parsed.message, id, parent_id: message.parent_id };
				}
				if (play(parsed, message, live, feed)) break;
			}
			if (message.status === 'streaming') message.status = 'failed';
		} catch (error) {
			feed.flush();
			if (signal.aborted) message.status = 'stopped';
			else {
				message.status = 'failed';
				message.error = describe(error instanceof ApiError ? error : new ApiError(0, 'offline', ''));
				toasts.fail(error);
			}
		}
	}

	async stop(): Promise<void> {
		this.stream?.abort();
	}

	async answerNow(message: Message): Promise<void> {
		// A thought that has ended by itself is what was wanted.
		await offered(api.post(`/api/private/replies/${message.id}/answer-now`));
	}

	close(): void {
		this.stream?.abort();
	}
}
