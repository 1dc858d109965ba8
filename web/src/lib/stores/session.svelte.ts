// Who is signed in, what the server is, and which parts it offers.

import { goto } from '$app/navigation';
import { api, ApiError, connect, offered } from '$lib/services/api';
import { forgetAll, keepList, keptList } from '$lib/services/offline';
import type { Folder, MemoryItem, ModelState, Persona, SessionInfo, Style } from '$lib/services/types';
import { i18n } from './i18n.svelte';

class Session {
	info: SessionInfo | null = $state(null);
	/** The server did not answer; what is kept on the device can be read. */
	offline = $state(false);
	failed: string | null = $state(null);
	personas: Persona[] = $state([]);
	offers = $state({ style: false, memory: false, personas: false, folders: false });

	private timer: ReturnType<typeof setTimeout> | undefined;

	constructor() {
		connect({
			csrf: () => this.info?.csrf ?? '',
			renew: () => this.load(),
			signedOut: () => {
				if (this.info) this.info.user = null;
			},
		});
	}

	get user() {
		return this.info?.user ?? null;
	}

	get model() {
		return this.info?.model ?? { state: 'loading' as const };
	}

	async load(): Promise<void> {
		try {
			const before = this.info?.user?.id;
			this.info = await api.get<SessionInfo>('/api/session');
			this.offline = false;
			this.failed = null;
			void keepList('session', $state.snapshot(this.info));
			const user = this.info.user;
			if (user && user.id !== before) {
				if (user.locale === 'ja' || user.locale === 'en') await i18n.use(user.locale);
				void this.look();
			}
		} catch (error) {
			if (error instanceof ApiError && error.offline) {
				this.offline = true;
				this.info ??= await keptList<SessionInfo>('session');
			} else this.failed = error instanceof Error ? error.message : String(error);
		}
		this.watchModel();
	}

	/** Finds what this server offers, so that the rest is not shown. */
	private async look(): Promise<void> {
		const there = async <T>(path: string): Promise<T | null> => {
			try {
				return await offered(api.get<T>(path));
			} catch {
				return null;
			}
		};
		const [style, memory, personas, folders] = await Promise.all([
			there<Style>('/api/style'),
			there<MemoryItem[]>('/api/memory'),
			there<Persona[]>('/api/personas'),
			there<Folder[]>('/api/folders'),
		]);
		this.personas = personas ?? [];
		this.offers = { style: style !== null, memory: memory !== null, personas: (personas ?? []).length > 0, folders: folders !== null };
	}

	/** Asks again while the model is on its way, or while the server is away. */
	private watchModel(): void {
		clearTimeout(this.timer);
		if (this.offline) this.timer = setTimeout(() => void this.load(), 5000);
		else if (['pulling', 'loading', 'away'].includes(this.info?.model.state ?? '')) this.timer = setTimeout(() => void this.lookAtModel(), 1000);
	}

	private async lookAtModel(): Promise<void> {
		try {
			const model = await offered(api.get<ModelState>('/api/model'));
			// A server that does not tell it alone tells it with the rest.
			if (model === null) return await this.load();
			if (this.info) this.info.model = model;
		} catch (error) {
			if (error instanceof ApiError && error.offline) this.offline = true;
		}
		this.watchModel();
	}

	/** Fetches a model again that could not be had; for administrators. */
	async retryModel(): Promise<void> {
		const model = await api.post<ModelState>('/api/model/retry');
		if (this.info) this.info.model = model;
		this.watchModel();
	}

	async signIn(name: string, password: string): Promise<void> {
		await api.post('/api/session', { name, password });
		await this.load();
	}

	async signUp(name: string, password: string): Promise<void> {
		await api.post('/api/sign-up', { name, password });
		await this.load();
	}

	async setUp(token: string, name: string, password: string): Promise<void> {
		await api.post('/api/setup', { token, ...(name ? { name } : {}), ...(password ? { password } : {}) });
		await this.load();
	}

	async signOut(): Promise<void> {
		await api.remove('/api/session');
		await this.forget();
	}

	/** Leaves nothing of the person on this device. */
	async forget(): Promise<void> {
		await forgetAll();
		sessionStorage.clear();
		// A page built anew: no store keeps what the last person saw.
		await goto('/sign-in', { replaceState: true });
		location.reload();
	}
}

export const session = new Session();
