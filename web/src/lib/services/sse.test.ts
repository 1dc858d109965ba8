import { describe, expect, it } from 'vitest';
import { ApiError } from './api';
import { EventParser, follow, type ServerEvent } from './sse';

const STREAM = ': ping\r\nid: 1\r\nevent: text\r\ndata: {"text":"a\u00e9"}\r\n\r\nid: 2\ndata: one\ndata:two\n\nevent: end\rdata: x\r\rdata: never ended';
const EVENTS: ServerEvent[] = [
	{ id: '1', event: 'text', data: '{"text":"a\u00e9"}' },
	{ id: '2', event: 'message', data: 'one\ntwo' },
	{ id: '2', event: 'end', data: 'x' },
];

describe('EventParser', () => {
	it('gives the same events for every cut in two', () => {
		for (let i = 0; i <= STREAM.length; i++) {
			const parser = new EventParser();
			expect([...parser.push(STREAM.slice(0, i)), ...parser.push(STREAM.slice(i))]).toEqual(EVENTS);
		}
	});
	it('gives the same events one character at a time', () => {
		const parser = new EventParser();
		expect([...STREAM].flatMap((c) => parser.push(c))).toEqual(EVENTS);
	});
	it('skips fields that it does not know, and ids with NUL', () => {
		expect(new EventParser().push('retry: 1\nid: a\0b\ndata\n\n')).toEqual([{ id: null, event: 'message', data: '' }]);
	});
});

/** A server that hands out the events from the asked one, and drops the connection where it is told. */
function server(events: string[], drops: number[]) {
	const asked: (string | null)[] = [];
	const get = (async (_url: string, init: RequestInit) => {
		const from = (init.headers as Record<string, string>)['last-event-id'] ?? null;
		asked.push(from);
		const end = drops.shift() ?? events.length;
		const text = events.map((data, i) => `id: ${i + 1}\ndata: ${data}\n\n`).slice(Math.max(0, Number(from ?? 0) - 1), end).join('');
		return new Response(text, { headers: { 'content-type': 'text/event-stream' } });
	}) as unknown as typeof fetch;
	return { get, asked };
}

describe('follow', () => {
	it('loses and repeats nothing over lost connections, even when the server overlaps', async () => {
		const { get, asked } = server(['a', 'b', 'c', 'd', 'e'], [2, 3, 3]);
		const seen: string[] = [];
		const waits: boolean[] = [];
		await follow({ url: '/', signal: new AbortController().signal, fetch: get, pause: async () => {}, onWaiting: (w) => waits.push(w), onEvent: ({ data }) => (seen.push(data), data === 'e') });
		expect(seen).toEqual(['a', 'b', 'c', 'd', 'e']);
		expect(asked).toEqual([null, '2', '3', '3']);
		expect(waits).toEqual([false, true, false, true, false, true, false]);
	});
	it('gives up where the server refuses for good', async () => {
		const get = (async () => new Response('{"error":{"code":"not_found","message":"gone"}}', { status: 404 })) as unknown as typeof fetch;
		const run = follow({ url: '/', signal: new AbortController().signal, fetch: get, pause: async () => {}, onEvent: () => false });
		await expect(run).rejects.toEqual(new ApiError(404, 'not_found', 'gone'));
	});
	it('ends without an error when it is left', async () => {
		const stop = new AbortController();
		const { get } = server(['a', 'b'], []);
		await follow({ url: '/', signal: stop.signal, fetch: get, pause: async () => {}, onEvent: () => (stop.abort(), false) });
	});
});
