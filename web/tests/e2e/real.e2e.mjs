// The main way through with the real server and the real model: the owner's link, a chat that streams and is there
// after a reload, versions, feedback, style, memory, a share, a key, administration. Replies are kept short; what the
// model says is never judged here.
// Needs target/release/rapport with the model pulled, as `make test` leaves them (RAPPORT_BIN names another).
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { launch, open, PHONE } from './browser.mjs';

const binary = process.env.RAPPORT_BIN ?? new URL('../../../target/release/rapport', import.meta.url).pathname;
let browser;
let server;
let data;
let url;
let link;

before(async () => {
	data = mkdtempSync(join(tmpdir(), 'rapport-web-'));
	server = spawn(binary, ['serve', '--port', '0', '--data', data], { stdio: ['ignore', 'ignore', 'pipe'] });
	const lines = [];
	await new Promise((resolve, reject) => {
		createInterface({ input: server.stderr }).on('line', (line) => {
			lines.push(line);
			link ??= line.match(/http:\/\/\S+\/setup#\S+/)?.[0];
			if (link) resolve();
		});
		server.on('error', reject);
		server.on('exit', () => reject(new Error(`the server ended: ${lines.join('\n')}`)));
	});
	url = new URL(link).origin;
	browser = await launch();
});
after(async () => {
	await browser?.close();
	server?.removeAllListeners('exit').kill();
	rmSync(data, { recursive: true, force: true });
});

const named = (page, role, name) => page.getByRole(role, { name, exact: true });
const say = async (page, text) => {
	await page.locator('form .box textarea').fill(text);
	await page.locator('form .go').click();
};
const done = (page) => page.locator('.actions [aria-label="Copy"], .actions [aria-label="コピー"]').nth(1).waitFor();

let state;
test('the owner comes in by the link, chats, reloads, makes versions, rates', { timeout: 300_000 }, async () => {
	const page = await open(browser, link);
	await page.locator('form input').first().fill('Robin');
	await page.locator('#password').fill('a long password');
	await page.locator('form .primary').click();
	await page.waitForURL((to) => to.pathname === '/');
	await page.getByText('Fast', { exact: true }).click();
	await say(page, 'Say hello in one word.');
	await page.waitForURL(/\/c\//);
	await page.reload();
	await done(page);
	const words = await page.locator('.prose').last().textContent();
	assert.ok(words.trim().length > 0);
	await page.reload();
	await page.locator('.prose').last().waitFor();
	assert.equal(await page.locator('.prose').last().textContent(), words, 'the reply is the same after a reload');
	await page.getByText('Answered at once').waitFor();
	await named(page, 'button', 'Details').click();
	await page.getByText('tokens/s').waitFor();
	await named(page, 'button', 'Good reply').click();
	await page.getByText('Kept, for your own assistant only.').waitFor();
	await named(page, 'button', 'Answer again').click();
	await page.getByText('2/2').waitFor();
	await named(page, 'button', 'Previous version').click();
	await page.getByText('1/2').waitFor();
	assert.equal(await page.locator('.prose').last().textContent(), words);
	assert.deepEqual(page.faults, []);
	state = await page.context().storageState();
	await page.context().close();
});

test('thinking, stop and continue', { timeout: 300_000 }, async () => {
	const page = await open(browser, url, { storageState: state });
	await page.getByText('Thinking', { exact: true }).click();
	await say(page, 'I feel sad today.');
	await page.locator('.thought').waitFor();
	await page.getByText('Thought first').waitFor();
	await page.getByText('Fast', { exact: true }).click();
	await say(page, 'Tell me a very long story of a ship, with every day of its voyage.');
	// At once: the small model writes hundreds of tokens a second, and a mouse waits for a button to rest.
	await named(page, 'button', 'Stop').dispatchEvent('click');
	await page.getByText('You stopped this reply.').waitFor();
	await named(page, 'button', 'Continue').last().click();
	await page.getByText('You stopped this reply.').waitFor({ state: 'detached' });
	assert.deepEqual(page.faults, []);
	await page.context().close();
});

test('private, search, share, memory, style, key and administration, on a phone too', { timeout: 300_000 }, async () => {
	const page = await open(browser, url, { storageState: state, ...PHONE });
	await page.goto(`${url}/private`);
	await say(page, 'Say yes.');
	await page.locator('.prose').waitFor();
	await named(page, 'button', 'Answer again').waitFor();
	page.on('dialog', (dialog) => void dialog.accept());
	await page.goto(`${url}/memory`);
	await page.getByLabel('Remember something').fill('I keep bees.');
	await named(page, 'button', 'Add').click();
	await page.getByText('I keep bees.').waitFor();
	await page.goto(`${url}/style`);
	await page.locator('#warmth').focus();
	await page.keyboard.press('ArrowRight');
	await page.getByText('Saved.').waitFor();
	await page.locator('.now li').first().waitFor();
	await named(page, 'button', 'Undo').click();
	await page.getByText('The last change was undone.').waitFor();
	await page.goto(`${url}/account`);
	await named(page, 'button', 'New key').click();
	await page.locator('#key-name').fill('Script');
	await page.locator('dialog form .primary').click();
	await page.locator('.secret code').waitFor();
	for (const tab of ['live', 'users', 'keys', 'plans', 'models', 'feedback', 'settings']) {
		await page.goto(`${url}/admin/${tab}`);
		await page.locator('.card').first().waitFor();
		assert.equal(await page.locator('.note.bad').count(), 0, tab);
	}
	await page.goto(url);
	await page.locator('form .box').waitFor();
	await page.keyboard.press('Control+k');
	await page.locator('input[type=search]').fill('hello');
	await page.locator('dialog mark').first().click();
	await page.waitForURL(/\/c\//);
	await named(page, 'button', 'Share').click();
	await named(page, 'button', 'Make a link').click();
	const shared = await page.locator('#share-link').inputValue();
	const stranger = await open(browser, shared, { locale: 'ja' });
	await stranger.locator('.prose').first().waitFor();
	await stranger.getByText('閲覧のみ').waitFor();
	await named(page, 'button', 'Take back').click();
	await page.getByText('The link no longer works.').waitFor();
	await stranger.reload();
	await stranger.getByText('このチャットは共有されていないか').waitFor();
	assert.deepEqual(page.faults, []);
	await page.context().close();
});

test('a stranger sees nothing, and a wrong password says so, in Japanese', { timeout: 120_000 }, async () => {
	const page = await open(browser, `${url}/account`, { locale: 'ja' });
	await page.waitForURL(/sign-in/);
	await page.getByLabel('名前').fill('Robin');
	await page.getByLabel('パスワード').fill('not the password');
	await page.locator('form .primary').click();
	await page.locator('[role=alert]').waitFor();
	await page.getByLabel('パスワード').fill('a long password');
	await page.locator('form .primary').click();
	await page.waitForURL(/account/);
	await page.getByRole('heading', { name: 'アカウント' }).waitFor();
	await page.context().close();
});
