// The conversation that is open. A new chat hands itself over here, so that its reply goes on without a second load.

import { StoredThread } from './thread.svelte';

class Opened {
	private waiting: StoredThread | null = null;

	put(thread: StoredThread): void {
		this.waiting?.close();
		this.waiting = thread;
	}

	async take(id: string): Promise<StoredThread> {
		const waiting = this.waiting;
		this.waiting = null;
		if (waiting?.conversation.id === id) return waiting;
		waiting?.close();
		return StoredThread.open(id);
	}
}

export const opened = new Opened();
