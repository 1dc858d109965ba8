// What a reply needs only sometimes: colours for code, and maths. Each is brought when the first such block is shown.

import DOMPurify from 'dompurify';

type Highlight = (code: string, language: string) => string | null;

let highlighter: Promise<Highlight> | null = null;

/** Code with `<span class="hljs-…">`, or null for a language that is not known. */
export function highlight(code: string, language: string): Promise<string | null> {
	// Above this, colouring takes longer than a frame on a phone, and nobody reads it.
	if (code.length > 50_000) return Promise.resolve(null);
	highlighter ??= import('./highlight').then((m) => m.highlight);
	return highlighter.then((run) => {
		const html = run(code, language);
		return html === null ? null : DOMPurify.sanitize(html, { ALLOWED_TAGS: ['span'], ALLOWED_ATTR: ['class'] });
	});
}

let renderer: Promise<(source: string, display: boolean) => string> | null = null;

/** Sets the formulas below a node in MathML, which browsers draw themselves: no fonts, no styles. */
export async function setMaths(root: HTMLElement): Promise<void> {
	const places = root.querySelectorAll<HTMLElement>('.maths:not([data-set])');
	if (places.length === 0) return;
	renderer ??= import('./maths').then((m) => m.render);
	const render = await renderer;
	for (const place of places) {
		if (place.dataset.set !== undefined) continue;
		place.dataset.set = '';
		const html = render(place.textContent ?? '', place.tagName === 'DIV');
		place.innerHTML = DOMPurify.sanitize(html, { USE_PROFILES: { mathMl: true }, ADD_TAGS: ['semantics'], FORBID_ATTR: ['style', 'href', 'xlink:href'] });
	}
}
