// Markdown of a model or a person into HTML that is safe to show. Both are hostile: HTML in the text is shown as text,
// addresses are checked, pictures of other hosts become links, and what is left passes DOMPurify with a short list.
// Highlighting and maths come later and only where they are needed (see `enrich.ts`).

import DOMPurify from 'dompurify';
import { Marked, type Token, type TokenizerAndRendererExtension, type Tokens } from 'marked';
import { repair } from './repair';

export type Block = { kind: 'html'; source: string } | { kind: 'code'; language: string; text: string; closed: boolean };

const escapes: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
export const escapeHtml = (text: string) => text.replace(/[&<>"']/g, (c) => escapes[c] ?? c);

/** The address if it may be a link: http, https or mailto, written plainly. */
export function safeLink(href: string): string | null {
	// Browsers skip control characters and spaces inside a scheme; a link that needs that is none.
	// eslint-disable-next-line no-control-regex
	if (/[\u0000-\u0020\u007f-\u009f\u2028\u2029]/.test(href)) return null;
	try {
		const url = new URL(href);
		return ['http:', 'https:', 'mailto:'].includes(url.protocol) ? url.href : null;
	} catch {
		return null;
	}
}

/** Pictures that travel inside the text itself; SVG is a document and stays out. */
export const safePicture = (href: string) => /^data:image\/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+$/.test(href);

function maths(display: boolean, source: string): string {
	return display ? `<div class="maths">${escapeHtml(source)}</div>` : `<span class="maths">${escapeHtml(source)}</span>`;
}

const mathsBlock: TokenizerAndRendererExtension = {
	name: 'mathsBlock',
	level: 'block',
	start: (src) => /\$\$|\\\[/.exec(src)?.index,
	tokenizer(src) {
		const match = /^(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n|$)/.exec(src);
		if (!match) return undefined;
		return { type: 'mathsBlock', raw: match[0], text: (match[1] ?? match[2] ?? '').trim() };
	},
	renderer: (token) => maths(true, String(token.text)),
};

const mathsInline: TokenizerAndRendererExtension = {
	name: 'mathsInline',
	level: 'inline',
	start: (src) => /\$|\\\(|\\\[/.exec(src)?.index,
	tokenizer(src) {
		// A dollar opens maths only before a sign that is not a space, and closes it only if no digit follows: "$5 and $6".
		const match =
			/^\$\$([^$]+?)\$\$/.exec(src) ??
			/^\$((?:[^\s$\\]|\\[^\n])(?:(?:[^$\n\\]|\\[^\n])*?(?:[^\s$\\]|\\[^\n]))?)\$(?!\d)/.exec(src) ??
			/^\\\(([\s\S]+?)\\\)/.exec(src) ??
			/^\\\[([\s\S]+?)\\\]/.exec(src);
		if (!match) return undefined;
		return { type: 'mathsInline', raw: match[0], text: (match[1] ?? '').trim() };
	},
	renderer: (token) => maths(false, String(token.text)),
};

const marked = new Marked({
	gfm: true,
	breaks: false,
	extensions: [mathsBlock, mathsInline],
	renderer: {
		html: ({ text }) => escapeHtml(text),
		code: ({ text, lang }) => `<pre tabindex="0"><code class="language-${language(lang)}">${escapeHtml(text)}</code></pre>`,
		link({ href, tokens }) {
			const inside = this.parser.parseInline(tokens);
			const safe = safeLink(href);
			return safe === null ? inside : `<a href="${escapeHtml(safe)}" target="_blank" rel="noopener noreferrer nofollow">${inside}</a>`;
		},
		image({ href, text }) {
			if (safePicture(href)) return `<img src="${href}" alt="${escapeHtml(text)}">`;
			const safe = safeLink(href);
			const label = escapeHtml(text || '…');
			if (safe === null || safe.startsWith('mailto:')) return label;
			// The picture's host learns nothing until the reader opens the link.
			return `<a class="remote-picture" href="${escapeHtml(safe)}" target="_blank" rel="noopener noreferrer nofollow"><span>${label}</span><small>${escapeHtml(new URL(safe).host)} ↗</small></a>`;
		},
		checkbox: ({ checked }) => (checked ? '☑ ' : '☐ '),
		heading({ tokens, depth }) {
			// The page's own headings stand above; a reply starts at the third level.
			const level = Math.min(6, depth + 2);
			return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>\n`;
		},
		table(token) {
			const cell = (c: Tokens.TableCell, tag: 'th' | 'td') =>
				`<${tag}${c.align ? ` align="${c.align}"` : ''}>${this.parser.parseInline(c.tokens)}</${tag}>`;
			const head = token.header.map((c) => cell(c, 'th')).join('');
			const rows = token.rows.map((row) => `<tr>${row.map((c) => cell(c, 'td')).join('')}</tr>`).join('');
			return `<div class="table" tabindex="0"><table><thead><tr>${head}</tr></thead><tbody>${rows}</tbody></table></div>`;
		},
	},
});

export const language = (lang: string | undefined) => (lang ?? '').trim().split(/\s/)[0]?.replace(/[^\w+#.-]/g, '').slice(0, 24) ?? '';

const ALLOWED_TAGS = [
	...['p', 'br', 'hr', 'h3', 'h4', 'h5', 'h6', 'strong', 'em', 'del', 'code', 'pre', 'blockquote', 'ul', 'ol', 'li'],
	...['a', 'img', 'div', 'span', 'small', 'table', 'thead', 'tbody', 'tr', 'th', 'td', '#text'],
];
const ALLOWED_ATTR = ['href', 'target', 'rel', 'class', 'src', 'alt', 'align', 'start', 'tabindex'];

export function purify(html: string): string {
	return DOMPurify.sanitize(html, {
		ALLOWED_TAGS,
		ALLOWED_ATTR,
		ALLOW_DATA_ATTR: false,
		ALLOW_ARIA_ATTR: false,
		ALLOWED_URI_REGEXP: /^(?:https?:|mailto:|data:image\/(?:png|jpeg|gif|webp);base64,)/i,
		// These hold words, not addresses; the pattern above would take them away.
		ADD_URI_SAFE_ATTR: ['target', 'rel', 'align', 'start', 'tabindex'],
	});
}

/** Cuts a text into blocks, so that while it streams only the last one is built anew. */
export function blocksOf(text: string, streaming: boolean): Block[] {
	const blocks: Block[] = [];
	const tokens = marked.lexer(text);
	const definitions = Object.entries(tokens.links)
		.map(([name, link]) => `[${name}]: <${link.href ?? ''}>`)
		.join('\n');
	tokens.forEach((token: Token, i: number) => {
		const last = i === tokens.length - 1;
		if (token.type === 'space' || token.type === 'def') return;
		if (token.type === 'code' && token.codeBlockStyle !== 'indented') {
			const closed = !(last && streaming);
			const body = closed ? token.text : String(token.text).replace(/\n?[ \t]{0,3}(`{1,2}|~{1,2})$/, '');
			if (!closed && !token.raw.includes('\n')) return;
			blocks.push({ kind: 'code', language: language(token.lang), text: body, closed });
			return;
		}
		let source = last && streaming ? repair(token.raw) : token.raw;
		if (source.trim() === '') return;
		if (definitions !== '' && /\]\[|\]/.test(source)) source = `${source}\n\n${definitions}`;
		blocks.push({ kind: 'html', source });
	});
	return blocks;
}

const cache = new Map<string, string>();

/** One block's safe HTML. Kept for the blocks that were built last, as a long chat scrolls back and forth. */
export function htmlOf(source: string): string {
	const known = cache.get(source);
	if (known !== undefined) return known;
	const html = purify(marked.parse(source, { async: false }));
	if (cache.size > 500) cache.delete(cache.keys().next().value ?? '');
	cache.set(source, html);
	return html;
}

/** A text without its marks: for titles, previews and screen readers. */
export const plain = (text: string, chars: number) => {
	const flat = text.replace(/[`*_#>|~]/g, '').replace(/\s+/g, ' ').trim();
	return flat.length > chars ? `${flat.slice(0, chars - 1)}…` : flat;
};
