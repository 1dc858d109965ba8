export type { Messages } from './types';

export type Locale = 'en' | 'ja';
export const LOCALES: { id: Locale; name: string }[] = [
	{ id: 'en', name: 'English' },
	{ id: 'ja', name: '日本語' },
];
