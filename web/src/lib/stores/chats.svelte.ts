// The list of conversations and folders.

import { api, ApiError, offered } from '$lib/services/api';
import { forgetChat, keepList, keptList } from '$lib/services/offline';
import type { Conversation, Folder, ImportReport } from '$lib/services/types';

interface Page {
	items: Conversation[];
	next: string | null;
}

class Chats {
	items: Conversation[] = $state([]);
	folders: Folder[] = $state([]);
	folder: string | null = $state(null);
	next: string | null = $state(null);
	loaded = $state(false);

	async load(): Promise<void> {
		try {
			const page = await api.get<Page>(this.url(null));
			this.items = page.items;
			this.next = page.next;
			if (this.folder === null) void keepList('chats', page.items);
			this.folders = (await offered(api.get<Folder[]>('/api/folders'))) ?? [];
		} catch (error) {
			if (!(error instanceof ApiError && error.offline)) throw error;
			this.items = (await keptList<Conversation[]>('chats')) ?? [];
			this.next = null;
		} finally {
			this.loaded = true;
		}
	}

	private url(cursor: string | null): string {
		const query = new URLSearchParams({ limit: '50' });
		if (this.folder !== null) query.set('folder', this.folder);
		if (cursor !== null) query.set('cursor', cursor);
		return `/api/conversations?${query}`;
	}

	async more(): Promise<void> {
		if (this.next === null) return;
		const page = await api.get<Page>(this.url(this.next));
		const known = new Set(this.items.map((chat) => chat.id));
		this.items.push(...page.items.filter((chat) => !known.has(chat.id)));
		this.next = page.next;
	}

	async show(folder: string | null): Promise<void> {
		this.folder = folder;
		await this.load();
	}

	/** A conversation changed or came: it stands where the server would put it. */
	put(chat: Conversation): void {
		const rest = this.items.filter((other) => other.id !== chat.id);
		if (this.folder !== null && chat.folder_id !== this.folder) this.items = rest;
		else this.items = [chat, ...rest].sort((a, b) => Number(b.pinned) - Number(a.pinned) || b.updated_ms - a.updated_ms);
	}

	async change(id: string, change: Partial<Pick<Conversation, 'title' | 'folder_id' | 'pinned' | 'mode' | 'persona'>>): Promise<Conversation> {
		const chat = await api.patch<Conversation>(`/api/conversations/${id}`, change);
		this.put(chat);
		return chat;
	}

	async remove(id: string): Promise<void> {
		await api.remove(`/api/conversations/${id}`);
		this.items = this.items.filter((chat) => chat.id !== id);
		await forgetChat(id);
	}

	async addFolder(name: string): Promise<void> {
		this.folders.push(await api.post<Folder>('/api/folders', { name }));
	}

	async removeFolder(id: string): Promise<void> {
		await api.remove(`/api/folders/${id}`);
		this.folders = this.folders.filter((folder) => folder.id !== id);
		await this.show(this.folder === id ? null : this.folder);
	}

	async import(file: File): Promise<ImportReport> {
		const report = await api.upload<ImportReport>('/api/import', file);
		await this.load();
		return report;
	}
}

export const chats = new Chats();
