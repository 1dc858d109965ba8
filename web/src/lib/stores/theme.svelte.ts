export type Theme = 'system' | 'light' | 'dark';
const KEY = 'rapport.theme';

class ThemeStore {
	theme: Theme = $state('system');

	start(): void {
		const kept = document.documentElement.dataset.theme;
		this.theme = kept === 'light' || kept === 'dark' ? kept : 'system';
	}

	use(theme: Theme): void {
		this.theme = theme;
		if (theme === 'system') delete document.documentElement.dataset.theme;
		else document.documentElement.dataset.theme = theme;
		try {
			if (theme === 'system') localStorage.removeItem(KEY);
			else localStorage.setItem(KEY, theme);
		} catch {
			// Without storage the choice holds for this page.
		}
	}
}

export const theme = new ThemeStore();
