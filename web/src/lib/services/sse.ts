// Server-sent events over fetch: a parser that takes bytes in any cut, and a follower that goes on where a lost
// connection stopped. Nothing is shown twice and nothing is left out, because every event carries its number.

import { ApiError, errorOf } from './api';

export interface ServerEvent {
	id: string | null;
	event: string;
	data: string;
}

/** Follows the WHATWG event-stream grammar: LF, CRLF or CR lines, comments, several data lines, one space after `:`. */
export class EventParser {
	private rest = '';
	private data: string[] = [];
	private event = '';
	private id: string | null = null;
	private first = true;

	push(text: string): ServerEvent[] {
		if (this.first && text.length > 0) {
			text = text.replace(/^\uFEFF/, '');
			this.first = false;
		}
		this.rest += text;
		const events: ServerEvent[] = [];
		let start = 0;
		for (;;) {
			const end = this.lineEnd(start);
			if (end === null) break;
			const ready = this.line(this.rest.slice(start, end.at));
			if (ready !== null) events.push(ready);
			start = end.next;
		}
		this.rest = this.rest.slice(start);
		return events;
	}

	private lineEnd(from: number): { at: number; next: number } | null {
		for (let i = from; i < this.rest.length; i++) {
			const c = this.rest[i];
			if (c === '\n') return { at: i, next: i + 1 };
			if (c === '\r') {
				// A CR at the end may be half of CRLF: wait for the next piece.
				if (i + 1 === this.rest.length) return null;
				return { at: i, next: this.rest[i + 1] === '\n' ? i + 2 : i + 1 };
			}
		}
		return null;
	}

	private line(line: string): ServerEvent | null {
		if (line === '') {
			const ready = this.data.length > 0 ? { id: this.id, event: this.event || 'message', data: this.data.join('\n') } : null;
			this.data = [];
			this.event = '';
			return ready;
		}
		if (line.startsWith(':')) return null;
		const colon = line.indexOf(':');
		const field = colon < 0 ? line : line.slice(0, colon);
		let value = colon < 0 ? '' : line.slice(colon + 1);
		if (value.startsWith(' ')) value = value.slice(1);
		if (field === 'data') this.data.push(value);
		else if (field === 'event') this.event = value;
		else if (field === 'id' && !value.includes('\0')) this.id = value;
		return null;
	}
}

export async function* eventsOf(body: ReadableStream<Uint8Array>): AsyncGenerator<ServerEvent> {
	const parser = new EventParser();
	const decoder = new TextDecoder();
	const reader = body.getReader();
	try {
		for (;;) {
			const { done, value } = await reader.read();
			if (done) return;
			yield* parser.push(decoder.decode(value, { stream: true }));
		}
	} finally {
		reader.cancel().catch(() => {});
	}
}

export interface Follow {
	url: string;
	signal: AbortSignal;
	/** Returns true when this was the last event. */
	onEvent: (event: ServerEvent) => boolean;
	/** The connection is lost and will be tried again; `false` when it is back. */
	onWaiting?: (waiting: boolean) => void;
	/** Resolves when a new try makes sense; replaced in tests. */
	pause?: (attempt: number, signal: AbortSignal) => Promise<void>;
	fetch?: typeof fetch;
}

/** Waits longer after each failure, and at once when the network or the page comes back. */
export function pauseBeforeRetry(attempt: number, signal: AbortSignal): Promise<void> {
	return new Promise((resolve) => {
		const timer = setTimeout(done, Math.min(8000, 250 * 2 ** attempt));
		function done() {
			clearTimeout(timer);
			globalThis.removeEventListener?.('online', done);
			globalThis.document?.removeEventListener('visibilitychange', done);
			resolve();
		}
		globalThis.addEventListener?.('online', done);
		globalThis.document?.addEventListener('visibilitychange', done);
		signal.addEventListener('abort', done);
	});
}

/**
 * Reads a stream to its last event through any number of connections.
 * @throws ApiError when the server refuses for good (4xx); DOMException AbortError never: an abort just ends it.
 */
export async function follow({ url, signal, onEvent, onWaiting, pause = pauseBeforeRetry, fetch: get = fetch }: Follow): Promise<void> {
	let last: string | null = null;
	let attempt = 0;
	while (!signal.aborted) {
		try {
			const response: Response = await get(url, {
				headers: { accept: 'text/event-stream', ...(last === null ? {} : { 'last-event-id': last }) },
				credentials: 'same-origin',
				cache: 'no-store',
				signal,
			});
			if (!response.ok || response.body === null) {
				const error = await errorOf(response);
				if (error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
				throw new Error(error.message);
			}
			onWaiting?.(false);
			for await (const event of eventsOf(response.body)) {
				attempt = 0;
				if (event.id !== null) {
					if (last !== null && Number(event.id) <= Number(last)) continue;
					last = event.id;
				}
				if (onEvent(event)) return;
			}
		} catch (error) {
			if (error instanceof ApiError) throw error;
			if (signal.aborted) return;
		}
		if (signal.aborted) return;
		onWaiting?.(true);
		await pause(attempt++, signal);
	}
}
