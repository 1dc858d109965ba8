// No serious accessibility fault on any screen of the scripted server, light and dark, desktop and phone. Japanese, and the
// keyboard alone, are in `real.e2e.mjs`.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { chat, MARKDOWN, start } from '../fake-server.mjs';
import { axe, launch, open, PHONE, shut } from './browser.mjs';

let browser;
before(async () => (browser = await launch()));
after(() => shut(browser));

const SCREENS = ['/', '/c/tour', '/private', '/style', '/memory', '/account', '/admin/live', '/admin/users', '/admin/keys', '/admin/plans', '/admin/models', '/admin/feedback', '/admin/settings', '/s/tour', '/nowhere', '/sign-in', '/setup#x'];

for (const [label, look] of Object.entries({ light: {}, 'dark phone': { theme: 'dark', ...PHONE } })) {
	test(`no serious fault on ${SCREENS.length + 3} screens (${label})`, { timeout: 600_000 }, async () => {
		const server = await start();
		chat(server.state, 'A small tour', [['Show me', { content: MARKDOWN, thought: 'A thought.', mode: 'thinking' }]], { id: 'tour' });
		server.state.shared.set('tour', { title: 'A small tour', shared_ms: Date.now(), messages: server.state.chats.get('tour').messages });
		const page = await open(browser, null, { ...look, baseURL: server.url, reducedMotion: 'reduce' });
		const faults = [];
		const check = async (name) => faults.push(...(await axe(page)).map((fault) => `${name}: ${fault}`));
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
		await shut(page.context());
		await server.close();
	});
}
