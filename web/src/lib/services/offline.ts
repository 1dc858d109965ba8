// The chats that were open last, kept in the browser to be read without a network. Emptied on sign-out. A closed or
// full store is never an error: the app then needs the network, as any page does.

import type { Conversation, Message } from './types';

const NAME = 'rapport';
const KEEP = 40;

interface Kept {
	id: string;
	at_ms: number;
	conversation: Conversation;
	messages: Message[];
}

function open(): Promise<IDBDatabase> {
	return new Promise((resolve, reject) => {
		const request = indexedDB.open(NAME, 1);
		request.onupgradeneeded = () => {
			request.result.createObjectStore('chats', { keyPath: 'id' });
			request.result.createObjectStore('lists', { keyPath: 'id' });
		};
		request.onsuccess = () => resolve(request.result);
		request.onerror = () => reject(request.error ?? new Error('closed'));
	});
}

async function run<T>(store: 'chats' | 'lists', mode: IDBTransactionMode, work: (s: IDBObjectStore) => IDBRequest<T>): Promise<T | null> {
	try {
		const db = await open();
		try {
			return await new Promise<T>((resolve, reject) => {
				const request = work(db.transaction(store, mode).objectStore(store));
				request.onsuccess = () => resolve(request.result);
				request.onerror = () => reject(request.error ?? new Error('refused'));
			});
		} finally {
			db.close();
		}
	} catch {
		return null;
	}
}

export const keepChat = async (conversation: Conversation, messages: Message[]) => {
	const kept: Kept = { id: conversation.id, at_ms: Date.now(), conversation, messages };
	await run('chats', 'readwrite', (s) => s.put(kept));
	const all = (await run('chats', 'readonly', (s) => s.getAll() as IDBRequest<Kept[]>)) ?? [];
	const old = all.sort((a, b) => b.at_ms - a.at_ms).slice(KEEP);
	for (const chat of old) await run('chats', 'readwrite', (s) => s.delete(chat.id));
};

export const keptChat = (id: string) => run('chats', 'readonly', (s) => s.get(id) as IDBRequest<Kept | undefined>);

export const forgetChat = (id: string) => run('chats', 'readwrite', (s) => s.delete(id));

export const keepList = <T>(id: string, items: T) => run('lists', 'readwrite', (s) => s.put({ id, items }));

export async function keptList<T>(id: string): Promise<T | null> {
	const kept = await run('lists', 'readonly', (s) => s.get(id) as IDBRequest<{ id: string; items: T } | undefined>);
	return kept?.items ?? null;
}

export async function forgetAll(): Promise<void> {
	await run('chats', 'readwrite', (s) => s.clear());
	await run('lists', 'readwrite', (s) => s.clear());
}
