import type { en } from './en';

type Wide<T> = T extends (...args: infer A) => string
	? (...args: A) => string
	: T extends string
		? string
		: T extends readonly unknown[]
			? { readonly [K in keyof T]: Wide<T[K]> }
			: T extends object
				? { readonly [K in keyof T]: Wide<T[K]> }
				: T;

/** The shape that each language has to fill, whole. */
export type Messages = { readonly [K in keyof typeof en]: Wide<(typeof en)[K]> };
