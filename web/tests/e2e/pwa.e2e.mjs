// The app as something installed, and as something on a small screen: manifest and icons, updates, the share sheet, the
// keyboard of a phone, calm for those who want it, and every screen at 320 pixels in both directions.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { chat, MARKDOWN, start } from '../fake-server.mjs';
import { installed, launch, open, PHONE, rest, shut } from './browser.mjs';

let browser;
before(async () => (browser = await launch()));
after(() => shut(browser));

const timeout = 300_000;

test('the browser finds nothing that keeps the app from being installed', { timeout }, async () => {
	const server = await start();
	const folder = mkdtempSync(join(tmpdir(), 'rapport-pwa-'));
	// A private window offers no installation: this is a common one.
	const context = await installed(folder);
	const page = await context.newPage();
	await page.goto(server.url);
	await page.evaluate(() => navigator.serviceWorker.ready.then(() => {}));
	const cdp = await context.newCDPSession(page);
	const { errors, data, url } = await cdp.send('Page.getAppManifest');
	assert.deepEqual(errors, []);
	const { installabilityErrors } = await cdp.send('Page.getInstallabilityErrors');
	assert.deepEqual(installabilityErrors, []);
	const manifest = JSON.parse(data);
	assert.equal(manifest.display, 'standalone');
	assert.ok(manifest.icons.some(({ purpose }) => purpose === 'maskable'));
	for (const { src, sizes, type } of manifest.icons) {
		const bytes = Buffer.from(await (await fetch(new URL(src, url))).arrayBuffer());
		// The width stands in a PNG's first chunk.
		if (type === 'image/png') assert.equal(`${bytes.readUInt32BE(16)}x${bytes.readUInt32BE(20)}`, sizes, src);
		else assert.match(bytes.toString(), /^<svg/, src);
	}
	await shut(context);
	rmSync(folder, { recursive: true, force: true });
	await server.close();
});

test('a newer app waits until the reader takes it', { timeout }, async () => {
	const server = await start();
	const page = await open(browser, null, { baseURL: server.url, serviceWorkers: 'allow' });
	await page.goto('/');
	await page.waitForFunction(() => Boolean(navigator.serviceWorker.controller));
	await page.locator('form .box textarea').fill('half a thought');
	assert.equal(await page.getByText('A new version is ready.').count(), 0);
	server.state.newer = 'another build';
	await page.evaluate(async () => (await navigator.serviceWorker.ready).update());
	await page.getByText('A new version is ready.').waitFor();
	const before = await page.evaluate(() => performance.timeOrigin);
	await page.getByRole('button', { name: 'Reload', exact: true }).click();
	await page.waitForFunction((origin) => performance.timeOrigin !== origin, before);
	await page.locator('form .box').waitFor();
	assert.equal(await page.locator('form .box textarea').inputValue(), 'half a thought', 'what was being written is still there');
	assert.equal(await page.getByText('A new version is ready.').count(), 0);
	assert.deepEqual(page.faults, []);
	await shut(page.context());
	await server.close();
});

test('what another app shares arrives unsent', { timeout }, async () => {
	const server = await start();
	const page = await open(browser, null, { baseURL: server.url, ...PHONE });
	await page.goto(`/share?title=${encodeURIComponent('A page')}&text=${encodeURIComponent('Look at this')}&url=${encodeURIComponent('https://example.org/x')}`);
	await page.waitForFunction(() => document.querySelector('form .box textarea')?.value.startsWith('A page'));
	assert.equal(await page.locator('form .box textarea').inputValue(), 'A page\nLook at this\nhttps://example.org/x');
	assert.equal(server.state.requests.filter((r) => r.method === 'POST').length, 0);
	await shut(page.context());
	await server.close();
});

test('the composer stays above a keyboard that covers the page', { timeout }, async () => {
	const server = await start();
	const id = chat(server.state, 'x', [['hello', 'Good morning.']]);
	const page = await open(browser, null, { baseURL: server.url, ...PHONE });
	await page.goto(`/c/${id}`);
	await page.locator('form .box').waitFor();
	// As iOS has it: the page keeps its height, and less of it is seen.
	const cover = (px) =>
		page.evaluate((height) => {
			Object.defineProperty(visualViewport, 'height', { configurable: true, get: () => height });
			visualViewport.dispatchEvent(new Event('resize'));
		}, PHONE.viewport.height - px);
	await cover(336);
	const bottom = () => page.locator('form .box').evaluate((box) => box.getBoundingClientRect().bottom);
	assert.ok((await bottom()) <= PHONE.viewport.height - 336, `${await bottom()}`);
	await cover(0);
	assert.ok((await bottom()) > PHONE.viewport.height - 336);
	await shut(page.context());
	await server.close();
});

test('nothing moves for those who want less motion', { timeout }, async () => {
	const server = await start();
	const page = await open(browser, null, { baseURL: server.url, reducedMotion: 'reduce' });
	await page.goto('/');
	await page.locator('form .box textarea').fill('THINK SLOW ECHO:x');
	await page.locator('form .go').click();
	await page.locator('.thought.thinking').waitFor();
	const moving = await page.evaluate(() => document.getAnimations().filter((a) => Number(a.effect?.getComputedTiming().duration) > 1 || a.effect?.getComputedTiming().iterations === Infinity).length);
	assert.equal(moving, 0);
	server.state.release();
	await shut(page.context());
	await server.close();
});

const ARABIC = `قل ذلك **ببساطة** ومن دون أعذار، ثم شغّل \`cargo test --release\` مرتين.

This paragraph is English.

1. أنك صمتّ طويلًا
2. أنك اشتقت إليه

| المدينة | السكان |
| --- | ---: |
| القاهرة | 10,000,000 |

> الصدق والدفء لا يتعارضان.

\`\`\`rust
fn greet() -> &'static str { "مرحبا" }
\`\`\`

والمعادلة $a^2 + b^2 = c^2$ معروفة.`;
const HEBREW = 'שלום, מה שלומך היום?';

for (const [label, look] of Object.entries({ desktop: {}, '320 pixels': { ...PHONE, viewport: { width: 320, height: 640 } } })) {
	test(`Arabic and Hebrew run as they are written, and code from left to right (${label})`, { timeout }, async () => {
		const server = await start();
		chat(server.state, HEBREW, [[`${HEBREW}\nand a line in English`, { content: ARABIC, thought: HEBREW, mode: 'thinking' }]], { id: 'rtl' });
		const page = await open(browser, null, { ...look, baseURL: server.url, reducedMotion: 'reduce' });
		await page.goto('/c/rtl');
		await page.locator('.prose table').waitFor();
		await page.locator('.thought [aria-expanded]').click();
		await page.waitForFunction(() => !document.querySelector('.maths:not([data-set])'));
		const found = await page.evaluate(() => {
			const one = (selector, words) => [...document.querySelectorAll(selector)].find((node) => node.textContent.includes(words));
			const way = (node) => getComputedStyle(node).direction;
			/** Whether a text begins farther left than it ends. */
			const ends = (node) => {
				const walk = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
				const texts = [];
				while (walk.nextNode()) if (walk.currentNode.data.trim() !== '') texts.push(walk.currentNode);
				const at = (text, i) => {
					const range = document.createRange();
					range.setStart(text, i);
					range.setEnd(text, i + 1);
					return range.getBoundingClientRect().left;
				};
				return at(texts[0], 0) < at(texts.at(-1), texts.at(-1).data.trimEnd().length - 1);
			};
			const item = one('.prose li', 'صمت');
			const [line, english] = ['מה שלומך', 'and a line'].map((words) => {
				const text = one('.bubble', words).firstChild;
				const range = document.createRange();
				const from = text.data.indexOf(words);
				range.setStart(text, from);
				range.setEnd(text, from + words.length);
				return range.getBoundingClientRect();
			});
			return {
				paragraph: way(one('.prose p', 'ببساطة')),
				english: way(one('.prose p', 'English')),
				quote: way(one('.prose blockquote', 'الصدق')),
				table: way(one('.prose table', 'القاهرة')),
				thought: way(one('.thought .prose p', 'שלום')),
				title: way(one('h1', 'שלום')),
				markerIsRight: item.parentElement.getBoundingClientRect().right - item.getBoundingClientRect().right > 10,
				code: way(one('figure pre', 'greet')),
				codeRunsRight: ends(one('figure pre', 'greet')),
				inline: way(one('.prose p > code', 'cargo')),
				inlineRunsRight: ends(one('.prose p > code', 'cargo')),
				maths: way(document.querySelector('.prose math')),
				hebrewIsRight: line.right > english.right && english.left < line.left,
				isWide: document.documentElement.scrollWidth > innerWidth,
			};
		});
		assert.deepEqual(found, {
			paragraph: 'rtl', english: 'ltr', quote: 'rtl', table: 'rtl', thought: 'rtl', title: 'rtl', markerIsRight: true, code: 'ltr', codeRunsRight: true,
			inline: 'ltr', inlineRunsRight: true, maths: 'ltr', hebrewIsRight: true, isWide: false,
		});
		// What is being written, and a reply while it arrives.
		await page.locator('form .box textarea').fill(`${HEBREW} SLOW ECHO:${ARABIC}`);
		assert.equal(await page.locator('form .box textarea').evaluate((node) => getComputedStyle(node).direction), 'rtl');
		await page.locator('form .go').click();
		const reply = page.locator('article[aria-busy="true"] .prose p').first();
		await reply.waitFor();
		assert.equal(await reply.evaluate((node) => getComputedStyle(node).direction), 'rtl');
		server.state.release();
		await page.locator('article[aria-busy="true"]').waitFor({ state: 'detached' });
		assert.deepEqual(page.faults, []);
		await shut(page.context());
		await server.close();
	});
}

const LONG = 'Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft';
const RTL = 'صباح الخير، كيف حالك اليوم؟';

for (const [label, { dir, ...look }] of Object.entries({ english: {}, japanese: { locale: 'ja' }, mirrored: { dir: 'rtl' } })) {
	test(`no screen is wider than 320 pixels (${label})`, { timeout }, async () => {
		const server = await start();
		const { state } = server;
		chat(state, `${LONG} ${LONG}`, [[`${LONG}${LONG}`, { content: `${MARKDOWN}\n\n${LONG}${LONG}\n\n\`${LONG}${LONG}\`\n\nhttps://example.org/${LONG}${LONG}`, thought: LONG, mode: 'thinking', mode_reason: LONG }], [RTL, RTL]], { id: 'tour' });
		state.shared.set('tour', { title: `${LONG} ${LONG}`, shared_ms: Date.now(), messages: state.chats.get('tour').messages });
		state.user.name = state.personas[0].name = state.keys[0].name = state.memory[0].text = LONG;
		const page = await open(browser, null, { ...look, baseURL: server.url, ...PHONE, viewport: { width: 320, height: 640 }, reducedMotion: 'reduce' });
		if (dir) await page.addInitScript((d) => document.addEventListener('DOMContentLoaded', () => (document.documentElement.dir = d)), dir);
		const wide = [];
		const check = async (name) => {
			const found = await page.evaluate(() => {
				const inside = (node) => node.closest('.scroll-x, .table, pre, nav, [inert], .hidden-visually, .skip, .veil');
				const width = document.documentElement.clientWidth;
				const out = [...document.querySelectorAll('body *')].filter((node) => {
					const box = node.getBoundingClientRect();
					return box.width > 0 && box.height > 0 && (box.right > width + 1 || box.left < -1) && !inside(node) && getComputedStyle(node).visibility !== 'hidden';
				});
				const box = document.querySelector('form .box')?.getBoundingClientRect();
				if (box && Math.abs(box.left - (width - box.right)) > 2) out.push(document.querySelector('form .box'));
				return [document.documentElement.scrollWidth > width ? 'the page scrolls sideways' : '', ...out.slice(0, 3).map((node) => `${node.tagName}.${node.className?.baseVal ?? node.className} ${node.textContent?.trim().slice(0, 30)}`)].filter(Boolean);
			});
			wide.push(...found.map((what) => `${name}: ${what}`));
		};
		for (const path of ['/', '/c/tour', '/private', '/style', '/memory', '/account', '/admin/live', '/admin/users', '/admin/keys', '/admin/plans', '/admin/models', '/admin/feedback', '/admin/settings', '/s/tour', '/nowhere', '/sign-in', '/setup#x']) {
			state.signedIn = !/sign-in|setup/.test(path);
			await page.goto('about:blank');
			await page.goto(path);
			await page.waitForSelector('main :is(h1, h2)', { state: 'attached' });
			await page.waitForFunction(() => !document.querySelector('main [role="status"]:not(.toasts, .note)'), null, { timeout: 10_000 }).catch(() => {});
			await check(path);
		}
		state.signedIn = true;
		await page.goto('/c/tour');
		const said = page.locator('.bubble', { hasText: 'صباح' });
		await said.waitFor();
		assert.equal(await said.evaluate((node) => getComputedStyle(node).direction), 'rtl', 'a message runs as it is written');
		// Formulas, and what is read in the message, come late and move what is around them: a pointer would have to aim again.
		await page.waitForFunction(() => !document.querySelector('.maths:not([data-set])'));
		const read = page.waitForResponse((r) => r.url().endsWith('/reading'));
		await page.locator('.actions [aria-expanded="false"]').last().dispatchEvent('click');
		await (await read).finished();
		await rest(page);
		await check('details');
		await page.locator('.actions [aria-pressed="false"]').last().dispatchEvent('click');
		await page.locator('.panel').waitFor();
		await check('feedback');
		await page.locator('.menu').click();
		await page.locator('aside.open').waitFor();
		await check('menu');
		assert.deepEqual(wide, []);
		await shut(page.context());
		await server.close();
	});
}
