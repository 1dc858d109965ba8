import katex from 'katex';

/** MathML of a formula; a formula that cannot be read comes back as its source. Nothing in it may link or load. */
export function render(source: string, display: boolean): string {
	try {
		return katex.renderToString(source, { displayMode: display, output: 'mathml', trust: false, strict: 'ignore', throwOnError: true, maxExpand: 200, maxSize: 20 });
	} catch {
		const code = document.createElement('span');
		code.textContent = source;
		return code.innerHTML;
	}
}
