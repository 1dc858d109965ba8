import { describe, expect, it } from 'vitest';
import { blocksOf, language, plain, safeLink, safePicture } from './markdown';

describe('addresses', () => {
	it.each(['javascript:alert(1)', 'JaVaScRiPt:alert(1)', ' javascript:alert(1)', 'java\nscript:alert(1)', 'data:text/html,x', 'vbscript:x', 'file:///etc/passwd', 'blob:x', '/relative', '//host', ''])('%j is no link', (href) => expect(safeLink(href)).toBeNull());
	it('takes what people link to', () => {
		expect(safeLink('https://example.org/a?b=c#d')).toBe('https://example.org/a?b=c#d');
		expect(safeLink('mailto:a@example.org')).toBe('mailto:a@example.org');
	});
	it('shows only pictures that are in the text, and no documents', () => {
		expect(safePicture('data:image/png;base64,iVBORw0KGgo=')).toBe(true);
		expect(safePicture('data:image/svg+xml;base64,PHN2Zz4=')).toBe(false);
		expect(safePicture('https://example.org/a.png')).toBe(false);
	});
});

describe('blocksOf', () => {
	it('keeps every block but the last as it was while a text grows', () => {
		const text = 'One.\n\nTwo **bold**.\n\n```rust\nfn main() {}\n```\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\nEnd.';
		let before = blocksOf('', true);
		for (let i = 1; i <= text.length; i++) {
			const now = blocksOf(text.slice(0, i), true);
			expect(now.slice(0, Math.max(0, before.length - 1))).toEqual(before.slice(0, Math.max(0, before.length - 1)).map((block) => (block.kind === 'code' ? { ...block, closed: true } : block)));
			before = now;
		}
		expect(blocksOf(text, false).map((b) => b.kind)).toEqual(['html', 'html', 'code', 'html', 'html']);
	});
	it('takes only a plain word as a language', () => {
		expect(language('rust" onclick="x')).toBe('rust');
		expect(language(undefined)).toBe('');
	});
});

it('plain drops marks and cuts', () => expect(plain('**Hello** `you`', 8)).toBe('Hello y…'));
