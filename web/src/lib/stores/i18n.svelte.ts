// The words of the interface in the reader's language. English is always there; others are brought when chosen.

import type { Locale, Messages } from '$lib/messages';
import { en } from '$lib/messages/en';

const KEY = 'rapport.locale';

class I18n {
	t: Messages = $state.raw(en);
	locale: Locale = $state('en');

	async use(locale: Locale): Promise<void> {
		if (locale !== this.locale) {
			this.t = locale === 'ja' ? (await import('$lib/messages/ja')).ja : en;
			this.locale = locale;
		}
		document.documentElement.lang = locale;
		try {
			localStorage.setItem(KEY, locale);
		} catch {
			// Without storage the choice holds for this page.
		}
	}

	/** The language chosen before, else the browser's. */
	start(): Promise<void> {
		let chosen: string | null = null;
		try {
			chosen = localStorage.getItem(KEY);
		} catch {
			chosen = null;
		}
		return this.use((chosen ?? navigator.language).startsWith('ja') ? 'ja' : 'en');
	}
}

export const i18n = new I18n();
