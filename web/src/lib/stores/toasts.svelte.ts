import { ApiError } from '$lib/services/api';
import { sentence } from '$lib/services/words';
import { i18n } from './i18n.svelte';

export interface Toast {
	id: number;
	text: string;
	bad: boolean;
	link?: { href: string; text: string } | undefined;
	/** Something to do; such a toast stays until it is done or closed. */
	action?: { text: string; act: () => void } | undefined;
}

class Toasts {
	list: Toast[] = $state([]);
	private next = 1;

	say(text: string, options: { bad?: boolean; link?: Toast['link']; action?: Toast['action'] } = {}): void {
		const toast: Toast = { id: this.next++, text, bad: options.bad ?? false, link: options.link, action: options.action };
		this.list = [...this.list.slice(-2), toast];
		if (toast.action) return;
		setTimeout(() => this.drop(toast.id), toast.bad || toast.link ? 9000 : 4500);
	}

	drop(id: number): void {
		this.list = this.list.filter((toast) => toast.id !== id);
	}

	/** Says an error in the server's words, which name what to do. */
	fail(error: unknown): void {
		this.say(describe(error), { bad: true });
	}
}

export const toasts = new Toasts();

export function describe(error: unknown): string {
	if (error instanceof ApiError) {
		if (error.offline) return i18n.t.offline;
		const wait = error.retryAfterSeconds;
		const words = i18n.t.errorWords(error.code, sentence(error.message));
		return wait === null ? words : `${words} ${i18n.t.tryLater(wait)}`;
	}
	return i18n.t.unknownError;
}
