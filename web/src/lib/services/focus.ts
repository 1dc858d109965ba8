// Where the keyboard goes when what had it is gone: a button that its own press takes away must not leave nobody focused.

import { tick } from 'svelte';

/** Focuses what stands once the page has changed; a function looks for it only then. */
export async function focusOn(what: (() => HTMLElement | null | undefined) | HTMLElement | null | undefined): Promise<void> {
	await tick();
	const node = typeof what === 'function' ? what() : what;
	node?.focus({ preventScroll: true });
}

/** A keyboard is likely at hand; on phones, focus in a field would open one over half of the screen. */
export const hasKeyboard = () => matchMedia('(hover: hover)').matches;

/** For fields that were asked for by a press, and take words at once. */
export const focused = (node: HTMLElement) => node.focus();
