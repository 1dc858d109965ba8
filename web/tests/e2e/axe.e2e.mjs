// No serious accessibility fault on any screen, light and dark, desktop and phone; and the keyboard alone sends,
// reads and steers.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { chat, MARKDOWN, start } from '../fake-server.mjs';
import { launch, open, PHONE } from './browser.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
let browser;
before(async () => (browser = await launch()));
after(() => browser.close());

const SCREENS = ['/', '/c/tour', '/private', '/style', '/memory', '/account', '/admin/live', '/admin/users', '/admin/keys', '/admin/plans', '/admin/models', '/admin/feedback', '/admin/settings', '/s/tour', '/nowhere', '/sign-in', '/setup#x'];

for (const [label, look] of Object.entries({ light: {}, 'dark phone': { theme: 'dark', ...PHONE }, japanese: { locale: 'ja' } })) {
	test(`no serious fault on ${SCREENS.length + 3} screens (${label})`, { timeout: 240_000 }, async () => {
		const server = await start();
		chat(server.state, 'A small tour', [['Show me', { content: MARKDOWN, thought: 'A thought.', mode: 'thinking' }]], { id: 'tour' });
		server.state.shared.set('tour', { title: 'A small tour', shared_ms: Date.now(), messages: server.state.chats.get('tour').messages });
		const page = await open(browser, null, { ...look, baseURL: server.url, bypassCSP: true, reducedMotion: 'reduce' });
		const faults = [];
		const check = async (name) => {
			await page.waitForTimeout(150);
			await page.evaluate(axe);
			const { violations } = await page.evaluate(() => globalThis.axe.run({ resultTypes: ['violations'] }));
			for (const v of violations) if (v.impact === 'serious' || v.impact === 'critical') faults.push(`${name}: ${v.id} ${v.nodes.map((n) => `${n.target} ${n.any[0]?.message ?? ''}`).slice(0, 3).join(' | ')}`);
		};
		for (const path of SCREENS) {
			server.state.signedIn = !/sign-in|setup/.test(path);
			await page.goto('about:blank');
			await page.goto(path);
			await page.waitForSelector('main :is(h1, h2)', { state: 'attached' });
			await page.waitForFunction(() => !document.querySelector('[aria-busy="true"], main [role="status"]'), null, { timeout: 5000 }).catch(() => {});
			await check(path);
		}
		server.state.signedIn = true;
		await page.goto('/c/tour');
		await page.locator('.actions [aria-expanded="false"]').last().click();
		await check('details');
		await page.locator('.actions [aria-pressed="false"]').last().click();
		await page.locator('.panel').waitFor();
		await check('feedback');
		await page.keyboard.press('Control+k');
		await check('search');
		assert.deepEqual(faults, []);
		await page.context().close();
		await server.close();
	});
}

test('the keyboard alone writes, sends, rates and opens a menu', { timeout: 120_000 }, async () => {
	const server = await start();
	const page = await open(browser, null, { baseURL: server.url });
	await page.goto('/');
	await page.locator('textarea').waitFor();
	await page.keyboard.press('Tab');
	const focused = () => page.evaluate(() => document.activeElement?.getAttribute('aria-label') ?? document.activeElement?.textContent?.trim() ?? '');
	const to = async (name, key = 'Tab') => {
		for (let i = 0; i < 60; i++) {
			if ((await focused()).startsWith(name)) return;
			await page.keyboard.press(key);
		}
		assert.fail(`${name} cannot be reached by ${key}`);
	};
	await to('Message');
	await page.keyboard.type('Good morning');
	await page.keyboard.press('Enter');
	await page.locator('.prose strong').waitFor();
	await page.locator('form .go[type=submit]').waitFor();
	await to('Good reply', 'Shift+Tab');
	const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
	assert.equal(outline, 'solid', 'focus can be seen');
	await page.keyboard.press('Enter');
	await page.getByText('Kept, for your own assistant only.').waitFor();
	await to('Account', 'Shift+Tab');
	await page.keyboard.press('Enter');
	await page.waitForFunction(() => document.activeElement?.getAttribute('role') === 'menuitem');
	await page.keyboard.press('ArrowDown');
	await page.keyboard.press('Escape');
	assert.equal(await focused(), 'Account');
	await page.context().close();
	await server.close();
});
