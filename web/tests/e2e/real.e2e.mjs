// Every flow with the real server and the real model, twice: on a desktop in English, and on a phone in Japanese. Axe looks
// at each screen on the way. Replies are kept short; what the model says is never judged here, and no test waits for a time:
// where a reply has to be caught while it is made, the server is given a small share of the time until it is.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { axe, journey, launch, open, PHONE, shut } from './browser.mjs';
import * as house from './house.mjs';

const LOOKS = {
	'desktop, English': { locale: 'en', name: 'Robin' },
	'phone, Japanese': { locale: 'ja', name: 'Mika', ...PHONE },
};
const PASSWORD = 'a long password';
let browser;
let server;
before(async () => ([browser, server] = await Promise.all([launch(), house.open('--threads', '1')])));
after(async () => {
	await shut(browser);
	await server?.end();
});

/** Tries until something was done while a reply was made: on a machine that is fast, the server gets ever less time. */
async function caught(attempt, was = async () => true) {
	for (const share of [0.06, 0.03, 0.01]) if ((await server.slowly(share, attempt)) && (await was())) return;
	assert.fail('the model was done first each time');
}

/** Does what signs somebody out, and waits for the page that is built anew after it. */
async function leave(page, act) {
	await page.evaluate(() => (globalThis.isOld = true));
	await act();
	await page.waitForURL(/sign-in/);
	await page.waitForFunction(() => !globalThis.isOld && document.querySelector('#name'));
}

// What the first look leaves for the second: an invitation, and all of its chats in a file.
let invitation;
let exported;

for (const [label, { name, ...look }] of Object.entries(LOOKS)) {
	const isPhone = Boolean(look.isMobile);
	describe(label, () => {
		const step = journey(300_000);
		let page;
		let t;
		let chat;
		before(async () => {
			t = await house.words(look.locale);
			page = await open(browser, null, { ...look, baseURL: server.url, reducedMotion: 'reduce' });
		});
		after(() => shut(page?.context()));

		const button = (label, at = page) => at.getByRole('button', { name: label, exact: true });
		const row = (id) => page.locator(`[data-id="${id}"]`);
		const settled = (id) => row(id).locator('article[aria-busy="false"]').waitFor();
		const mode = (value) => page.locator(`label:has(input[value=${value}])`).click();
		const menu = async () => isPhone && button(t.openMenu).click();
		const idOf = async (response) => (await (await response).json()).reply.id;
		/** Sends a message; the id of the reply that is on its way. */
		async function say(text) {
			const sent = page.waitForResponse((r) => r.url().endsWith('/messages') && r.status() === 202);
			await page.locator('form .box textarea').fill(text);
			await page.locator('form .go[type=submit]').click();
			return idOf(sent);
		}
		/** A reply need not be long: one that is still being made is stopped. */
		async function short(id) {
			await Promise.race([button(t.stop).dispatchEvent('click').catch(() => {}), settled(id)]);
			await settled(id);
		}
		async function told(text) {
			await page.getByText(text).first().waitFor();
		}
		async function fair(screen) {
			assert.deepEqual(await axe(page), [], screen);
		}
		const go = async (path) => {
			await page.goto(path);
			await page.locator('main :is(h1, h2)').first().waitFor({ state: 'attached' });
		};

		step('a link lets in, and three good starting points wait', async () => {
			await page.goto(invitation ?? server.link);
			await page.locator('#password').waitFor();
			await fair('setup');
			if (!invitation) await page.locator('#name').fill(name);
			await page.locator('#password').fill(PASSWORD);
			await page.locator('form .primary').click();
			await page.locator('form .box').waitFor();
			assert.equal(await page.locator('.start li').count(), 3);
			await page.locator('.start li button').first().click();
			assert.equal(await page.locator('form .box textarea').inputValue(), t.starters[0].text);
			await fair('start');
		});

		step('a reply streams, is there after a reload, tells its details and takes feedback', async () => {
			await mode('fast');
			const id = await say('Say hello in one word.');
			await page.waitForURL(/\/c\//);
			chat = new URL(page.url()).pathname;
			await page.reload();
			await settled(id);
			const words = await row(id).locator('.prose').textContent();
			assert.ok(words.trim().length > 0);
			await page.reload();
			await settled(id);
			assert.equal(await row(id).locator('.prose').textContent(), words, 'the reply is the same after a reload');
			await told(`${t.answeredFast}`);
			await button(t.details).click();
			await told(t.detailBuild);
			await fair('details');
			await button(t.bad).click();
			await told(t.keptForYou);
			await button(t.too_long).click();
			await button(t.too_long).and(page.locator('[aria-pressed="true"]')).waitFor();
			await button(t.addComment).click();
			await page.locator('.panel textarea').fill('a comment');
			await page.locator('.panel .primary').click();
			await page.locator('.panel').waitFor({ state: 'detached' });
			await fair('feedback');
		});

		step('versions and branches: answer again, edit, go between them in the tree', async () => {
			const again = page.waitForResponse((r) => r.url().endsWith('/replies'));
			await button(t.regenerate).click();
			const second = await idOf(again);
			await settled(second);
			await told('2/2');
			await button(t.previousVersion).click();
			await told('1/2');
			await page.locator('.bubble').hover();
			await button(t.edit).click();
			await page.locator('.edit textarea').fill('Say good night in two words.');
			const sent = page.waitForResponse((r) => r.url().endsWith('/messages'));
			await button(t.sendEdited).click();
			await settled(await idOf(sent));
			await button(t.branches).click();
			await page.locator('dialog li').nth(4).waitFor();
			assert.equal(await page.locator('dialog li').count(), 5);
			await fair('branches');
			await page.locator('dialog li button', { hasText: 'hello' }).first().click();
			await page.locator('.bubble', { hasText: 'hello' }).waitFor();
			// Which branch is shown is kept.
			await page.reload();
			await page.locator('.bubble', { hasText: 'hello' }).waitFor();
		});

		step('a thought streams apart, and ends when the answer is wanted now', async () => {
			await mode('thinking');
			let id;
			let pressed;
			await caught(async () => {
				pressed = page.waitForResponse((r) => r.url().endsWith('/answer-now'), { timeout: 0 });
				id = await say('I feel sad today.');
				const now = row(id).getByRole('button', { name: t.answerNow, exact: true });
				return Promise.race([now.dispatchEvent('click').then(() => pressed, () => false), settled(id).then(() => false)]);
			}, async () => {
				await settled(id);
				await row(id).locator('.thought [aria-expanded]').click();
				// A whole thought has four parts: this one was cut.
				return (await row(id).locator('.thought dt').count()) < 4;
			});
			assert.equal((await pressed).status(), 202);
			assert.ok((await row(id).locator('.prose').textContent()).trim().length > 0, 'the answer follows');
			await told(t.answeredThinking);
		});

		step('a reply survives a lost network', async () => {
			const wire = await house.wire(server.url);
			await page.goto(new URL(chat, wire.url).href);
			await mode('fast');
			let id;
			let seen;
			await caught(async () => {
				id = await say('Tell me a very long story of a ship, with every day of its voyage.');
				const prose = row(id).locator('.prose');
				await prose.waitFor();
				seen = await prose.textContent();
				await page.context().setOffline(true);
				wire.cut();
				const isLost = await Promise.race([row(id).getByText(t.reconnecting, { exact: true }).waitFor().then(() => true), settled(id).then(() => false)]);
				await page.context().setOffline(false);
				return isLost;
			});
			await settled(id);
			assert.equal(await row(id).getByText(t.reconnecting, { exact: true }).count(), 0);
			assert.ok((await row(id).locator('.prose').textContent()).startsWith(seen.trimEnd()), 'nothing of it was lost');
			await page.goto(chat);
			await wire.end();
		});

		step('a reply stops, and goes on', async () => {
			await mode('fast');
			await caught(async () => {
				const id = await say('Tell me a very long story of a ship, with every day of its voyage.');
				await row(id).locator('.prose').waitFor();
				await short(id);
				return (await row(id).getByText(t.stopped, { exact: true }).count()) > 0;
			});
			const more = page.waitForResponse((r) => r.url().endsWith('/continue'));
			const before = await page.locator('.prose').last().textContent();
			await button(t.goOn).last().click();
			const id = await idOf(more);
			await short(id);
			assert.ok((await row(id).locator('.prose').textContent()).startsWith(before.trimEnd().slice(0, 20)), 'it goes on from where it was');
		});

		step('a blind choice comes as often as it is set, and decides where the chat goes on', async () => {
			await go('/admin/settings');
			await page.locator('#choice-every').selectOption('1');
			await page.locator('form.card .primary').click();
			await told(t.saved);
			await go('/');
			await mode('fast');
			const sent = page.waitForResponse((r) => r.url().endsWith('/messages') && r.status() === 202);
			await say('Say yes in one word.');
			const { reply, alternative } = await (await sent).json();
			await told(t.choiceTitle);
			assert.equal(await page.getByText('smollm2').count(), 0, 'the build is not named');
			await fair('choice');
			await button(isPhone ? t.choiceOtherPhone : t.choiceOther).and(page.locator(':enabled')).click();
			await settled(alternative.id);
			await row(alternative.id).locator('.versions').waitFor();
			assert.notEqual(reply.id, alternative.id);
			await go('/admin/settings');
			await page.locator('#choice-every').selectOption('0');
			await page.locator('form.card .primary').click();
			await told(t.saved);
		});

		step('a private chat with a persona leaves nothing, and its thought can be ended', async () => {
			await go('/private');
			await page.locator('select.persona').selectOption('listener');
			await mode('thinking');
			const pressed = page.waitForResponse((r) => r.url().endsWith('/answer-now'), { timeout: 0 });
			const asked = page.waitForRequest((r) => r.url().endsWith('/api/private/replies'));
			const over = () => page.locator('form .go[type=submit]').waitFor();
			await caught(async () => {
				await page.locator('form .box textarea').fill('I feel zebra-striped today.');
				await page.locator('form .go[type=submit]').click();
				await page.locator('form .go[type=button]').waitFor();
				return Promise.race([button(t.answerNow).dispatchEvent('click').then(() => pressed, () => false), over().then(() => false)]);
			});
			assert.equal((await pressed).status(), 202);
			await over();
			assert.equal((await asked).postDataJSON().persona, 'listener');
			await fair('private');
			page.once('dialog', (dialog) => void dialog.accept());
			await page.goto('/');
			await page.locator('form .box').waitFor();
			await page.keyboard.press('Control+k');
			await page.locator('input[type=search]').fill('zebra');
			await told(t.searchNothing('zebra'));
			await page.keyboard.press('Escape');
		});

		step('chats come in from three programs and go out in one file', async () => {
			const take = async (file, n, format) => {
				await menu();
				await page.locator('.person [aria-haspopup]').click();
				await page.getByRole('menuitem', { name: t.importChats, exact: true }).click();
				await told(t.importHint);
				if (format === 'ChatGPT') await fair('import');
				await page.locator('input[type=file]').setInputFiles({ name: 'chats.json', mimeType: 'application/json', buffer: Buffer.from(JSON.stringify(file)) });
				await told(t.imported(n, format));
				await page.keyboard.press('Escape');
				if (isPhone) await page.keyboard.press('Escape');
			};
			const part = (role, text) => ({ author: { role }, content: { parts: [text] } });
			await take([{ title: 'Green leaves', create_time: 1.7e9, current_node: 'c', mapping: { a: { id: 'a', parent: null, message: null }, b: { id: 'b', parent: 'a', message: part('user', 'why are leaves green?') }, c: { id: 'c', parent: 'b', message: part('assistant', 'Because of chlorophyll.') } } }], 1, 'ChatGPT');
			await take([{ title: 'Salt sea', created_at: 1_700_000_000, chat: { history: { currentId: 'y', messages: { x: { id: 'x', parentId: null, role: 'user', content: 'why is the sea salty?' }, y: { id: 'y', parentId: 'x', role: 'assistant', content: 'Rivers bring it.' } } } } }], 1, 'Open WebUI');
			await go('/account');
			const download = page.waitForEvent('download');
			await page.getByRole('link', { name: t.exportData, exact: true }).click();
			const file = JSON.parse(readFileSync(await (await download).path(), 'utf8'));
			assert.equal(file.format, 'rapport-export');
			assert.ok(JSON.stringify(file).includes('Because of chlorophyll.'));
			assert.ok(!JSON.stringify(file).includes('zebra'), 'nothing of the private chat');
			// One's own chats are here already; somebody else's come in.
			await take(file, 0, 'Rapport');
			if (exported) await take(exported, exported.conversations.length, 'Rapport');
			exported ??= file;
			await fair('account');
		});

		step('folders: made, filled, looked into, taken away', async () => {
			await go('/');
			await menu();
			await button(t.newFolder).click();
			await page.locator('#new-name').fill('Nature');
			await page.locator('dialog form .primary').click();
			const leaves = page.locator('.chat', { hasText: 'Green leaves' }).first();
			await leaves.hover();
			await leaves.locator('[aria-haspopup]').click();
			await page.getByRole('menuitem', { name: t.moveTo, exact: true }).click();
			await page.locator('dialog li button', { hasText: 'Nature' }).click();
			await page.locator('.folders select').selectOption({ label: 'Nature' });
			await page.waitForFunction(() => document.querySelectorAll('.chat').length === 1);
			await page.locator('.chat', { hasText: 'Green leaves' }).waitFor();
			await button(t.deleteFolder).click();
			await page.locator('dialog .danger').click();
			await page.locator('.chat', { hasText: 'Salt sea' }).first().waitFor();
			await page.locator('.chat', { hasText: 'Green leaves' }).first().waitFor();
		});

		step('search finds a message; a share is read by a stranger until it is taken back', async () => {
			await go('/');
			await page.keyboard.press('Control+k');
			await page.locator('input[type=search]').fill('chlorophyll');
			await page.locator('dialog mark').first().waitFor();
			await fair('search');
			await page.locator('dialog mark').first().click();
			await page.waitForURL(/\/c\/.*m=/);
			await page.locator('.prose', { hasText: 'chlorophyll' }).waitFor();
			await button(t.share).click();
			await button(t.shareMake).click();
			const link = await page.locator('#share-link').inputValue();
			await fair('share');
			const stranger = await open(browser, link, { locale: look.locale === 'ja' ? 'en' : 'ja', ...(isPhone ? {} : PHONE) });
			await stranger.locator('.prose', { hasText: 'chlorophyll' }).waitFor();
			assert.equal(await stranger.locator('textarea').count(), 0);
			assert.deepEqual(await axe(stranger), [], 'shared');
			await go('/account');
			await page.locator('section[aria-labelledby=shares] .danger').first().click();
			await told(t.shareRevoked);
			await stranger.reload();
			await stranger.locator('[role=alert]').waitFor();
			assert.deepEqual(stranger.faults, []);
			await shut(stranger.context());
		});

		step('style and memory reach the server, and can be undone', async () => {
			await go('/style');
			await page.locator('#warmth').focus();
			await page.keyboard.press(await page.evaluate(() => (document.dir === 'rtl' ? 'ArrowLeft' : 'ArrowRight')));
			await page.locator('.now li', { hasText: t.explained.slider(t.warmth, 'Be warm and friendly.') }).waitFor();
			await page.getByRole('radio', { name: /Expert/ }).click();
			await page.locator('.now li', { hasText: 'Expert' }).waitFor();
			await page.locator('#instructions').fill('Call me Captain.');
			await button(t.save).click();
			await page.locator('.now li', { hasText: t.explained.instructions }).waitFor();
			await fair('style');
			await button(t.undo).click();
			await told(t.styleUndone);
			await button(t.reset).click();
			await page.locator('dialog .danger').click();
			await told(t.explained.nothing);
			await go('/memory');
			await page.getByLabel(t.memoryAdd).fill('I keep bees.');
			await button(t.add).click();
			await button(`${t.edit}: I keep bees.`).click();
			await page.locator('li input').fill('I keep goats.');
			await page.locator('li form .primary').click();
			await told('I keep goats.');
			await fair('memory');
			await button(`${t.forget}: I keep goats.`).click();
			await told(t.memoryEmpty);
		});

		step('a key opens the API until it is revoked', async () => {
			await go('/account');
			await button(t.newKey).click();
			await page.locator('#key-name').fill('Script');
			await page.locator('dialog form .primary').click();
			const key = await page.locator('.secret code').textContent();
			const ask = () => fetch(`${server.url}/v1/models`, { headers: { authorization: `Bearer ${key}` } });
			assert.equal((await ask()).status, 200);
			await page.keyboard.press('Escape');
			await page.locator('section[aria-labelledby=keys] .danger').first().click();
			await page.locator('dialog .danger').click();
			await told(t.noKeys);
			assert.equal((await ask()).status, 401);
		});

		step('administration: every page in the reader’s language, a person invited', async () => {
			for (const tab of ['live', 'users', 'keys', 'plans', 'models', 'feedback', 'settings']) {
				await page.goto(`/admin/${tab}`);
				await page.locator('.card').first().waitFor();
				assert.equal(await page.locator('.note.bad').count(), 0, tab);
				await fair(`admin ${tab}`);
			}
			if (invitation) return;
			await go('/admin/users');
			await button(t.newUser).click();
			await page.locator('#user-name').fill(LOOKS['phone, Japanese'].name);
			await page.locator('#user-role').selectOption('admin');
			await page.locator('dialog form .primary').click();
			invitation = await page.locator('code.link').textContent();
			assert.match(invitation, /\/setup#/);
		});

		step('somebody signs up, and deletes the account for good', async () => {
			if (!isPhone) {
				await go('/admin/settings');
				await page.locator('#sign-up').check();
				await page.locator('form.card .primary').click();
				await told(t.saved);
			}
			const other = await open(browser, null, { ...look, baseURL: server.url });
			const visitor = `Guest ${look.locale}`;
			const enter = async () => {
				await other.locator('#name').fill(visitor);
				await other.locator('#password').fill(PASSWORD);
				await other.locator('form .primary').click();
			};
			await other.goto('/sign-in');
			await button(t.signUp, other).click();
			assert.deepEqual(await axe(other), [], 'sign-up');
			await enter();
			await other.locator('form .box').waitFor();
			await other.goto('/account');
			await button(t.deleteAccount, other).click();
			await other.locator('#confirm-name').fill(visitor);
			await leave(other, () => button(t.deleteForever, other).click());
			await enter();
			await other.locator('[role=alert]').waitFor();
			assert.deepEqual(other.faults, []);
			await shut(other.context());
		});

		step('signed out, nothing is seen; a wrong password says so; the right one leads back', async () => {
			await go('/');
			await menu();
			await page.locator('.person [aria-haspopup]').click();
			await leave(page, () => page.getByRole('menuitem', { name: t.signOut, exact: true }).click());
			await page.goto(chat);
			await page.waitForURL(/sign-in/);
			await page.locator('#name').fill(name);
			await page.locator('#password').fill('not the password');
			await page.locator('form .primary').click();
			await page.locator('[role=alert]').waitFor();
			await fair('sign-in');
			await page.locator('#password').fill(PASSWORD);
			await page.locator('form .primary').click();
			await page.waitForURL((url) => url.pathname === chat);
			await page.locator('.prose').first().waitFor();
			assert.deepEqual(page.faults, []);
		});
	});
}

test('the keyboard alone signs in, chats, rates, searches and signs out', { timeout: 300_000 }, async () => {
	const t = await house.words('en');
	const page = await open(browser, `${server.url}/sign-in`);
	const focused = () => page.evaluate(() => document.activeElement?.getAttribute('aria-label') ?? document.activeElement?.id ?? '');
	const to = async (name, key = 'Tab') => {
		for (let i = 0; i < 80; i++) {
			if ((await page.evaluate(() => document.activeElement?.textContent?.trim())) === name || (await focused()) === name) return;
			await page.keyboard.press(key);
		}
		assert.fail(`${name} cannot be reached by ${key}`);
	};
	const seen = async () => assert.notEqual(await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle), 'none', 'focus can be seen');
	await page.locator('#name').waitFor();
	await to('name');
	await page.keyboard.type('Robin');
	await page.keyboard.press('Tab');
	await page.keyboard.type(PASSWORD);
	await page.keyboard.press('Enter');
	await page.locator('form .box').waitFor();
	await to(t.message);
	await page.keyboard.type('Say hello in one word.');
	await page.keyboard.press('Enter');
	await page.waitForURL(/\/c\//);
	await page.locator('[data-id] article[aria-busy="false"] .actions').last().waitFor();
	await to(t.good, 'Shift+Tab');
	await seen();
	await page.keyboard.press('Enter');
	await page.getByText(t.keptForYou).waitFor();
	await page.keyboard.press('Control+k');
	await page.waitForFunction(() => document.activeElement?.getAttribute('type') === 'search');
	await page.keyboard.type('hello');
	await page.locator('dialog mark').first().waitFor();
	await page.keyboard.press('Escape');
	await to(t.account, 'Shift+Tab');
	await seen();
	await page.keyboard.press('Enter');
	await page.waitForFunction(() => document.activeElement?.getAttribute('role') === 'menuitem');
	await page.keyboard.press('End');
	await page.keyboard.press('Enter');
	await page.waitForURL(/sign-in/);
	assert.deepEqual(page.faults, []);
	await shut(page.context());
});
