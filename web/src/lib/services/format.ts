// Numbers, times and money in the reader's language.

export const number = (n: number, locale: string, digits = 0) => new Intl.NumberFormat(locale, { maximumFractionDigits: digits }).format(n);

export const compact = (n: number, locale: string) => new Intl.NumberFormat(locale, { notation: 'compact', maximumFractionDigits: 1 }).format(n);

export const percent = (share: number, locale: string) => new Intl.NumberFormat(locale, { style: 'percent', maximumFractionDigits: 0 }).format(share);

/** Micro-dollars as dollars, with as many digits as a small sum needs. */
export function money(microdollars: number, locale: string): string {
	const dollars = microdollars / 1e6;
	const digits = dollars !== 0 && Math.abs(dollars) < 0.01 ? 6 : 2;
	return new Intl.NumberFormat(locale, { style: 'currency', currency: 'USD', minimumFractionDigits: 2, maximumFractionDigits: digits }).format(dollars);
}

export function bytes(n: number, locale: string): string {
	const units = ['byte', 'kilobyte', 'megabyte', 'gigabyte', 'terabyte'] as const;
	let i = 0;
	for (; n >= 1000 && i < units.length - 1; i++) n /= 1000;
	return new Intl.NumberFormat(locale, { style: 'unit', unit: units[i] ?? 'byte', unitDisplay: 'short', maximumFractionDigits: n < 10 ? 1 : 0 }).format(n);
}

/** A length of time in seconds, to a tenth below ten. */
export const seconds = (ms: number, locale: string) =>
	new Intl.NumberFormat(locale, { style: 'unit', unit: 'second', unitDisplay: locale.startsWith('ja') ? 'short' : 'narrow', maximumFractionDigits: ms < 10_000 ? 1 : 0 }).format(ms / 1000);

/** How long something will last, in whole seconds or minutes. */
export function lasting(ms: number, locale: string): string {
	const [n, unit] = ms < 90_000 ? [Math.max(1, Math.round(ms / 1000)), 'second'] : [Math.round(ms / 60_000), 'minute'];
	return new Intl.NumberFormat(locale, { style: 'unit', unit, unitDisplay: 'short' }).format(n);
}

export const date = (ms: number, locale: string) => new Intl.DateTimeFormat(locale, { dateStyle: 'medium' }).format(ms);

export const dateTime = (ms: number, locale: string) => new Intl.DateTimeFormat(locale, { dateStyle: 'medium', timeStyle: 'short' }).format(ms);

export type Age = 'pinned' | 'today' | 'yesterday' | 'week' | 'month' | 'older';

/** Where a conversation stands in the list, by the reader's own midnight. */
export function age(ms: number, now: number): Age {
	const midnight = new Date(now);
	midnight.setHours(0, 0, 0, 0);
	const days = (midnight.getTime() - ms) / 86_400_000;
	if (days <= 0) return 'today';
	if (days <= 1) return 'yesterday';
	if (days <= 7) return 'week';
	if (days <= 30) return 'month';
	return 'older';
}
