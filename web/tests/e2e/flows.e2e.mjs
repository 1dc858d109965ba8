// What people do, on a desktop and a phone, in English and Japanese, against the scripted server: states that a real
// model cannot be asked for. The main way through with the real server and model is in `real.e2e.mjs`.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { chat, start } from '../fake-server.mjs';
import { launch, open, PHONE } from './browser.mjs';

let browser;
before(async () => (browser = await launch()));
after(() => browser.close());

async function scene(name, looks, run) {
	for (const [label, look] of Object.entries(looks)) {
		test(`${name} (${label})`, { timeout: 120_000 }, async () => {
			const server = await start();
			const page = await open(browser, null, { ...look, baseURL: server.url });
			try {
				await run(page, server, label);
				assert.deepEqual(page.faults, []);
			} finally {
				await page.context().close();
				await server.close();
			}
		});
	}
}
const DESKTOP = { desktop: {} };
const BOTH = { desktop: {}, phone: PHONE };
const box = (page) => page.locator('form .box textarea');
const say = async (page, text) => {
	await box(page).fill(text);
	await page.locator('form .go').click();
};
const done = (page) => page.locator('form .go[type=submit]').waitFor();
const named = (page, role, name) => page.getByRole(role, { name, exact: true });

await scene('a first chat: mode, thought, reply, details', BOTH, async (page, server) => {
	await page.goto('/');
	await page.locator('.start li button').first().click();
	assert.match(await box(page).inputValue(), /rough day/);
	await page.getByText('Thinking', { exact: true }).click();
	await say(page, 'I had a rough day');
	await page.waitForURL(/\/c\//);
	await page.getByText('Thought first: your message speaks of a feeling').waitFor();
	await page.locator('.prose strong', { hasText: 'piece by piece' }).waitFor();
	await named(page, 'button', 'Details').click();
	await page.getByText('90%').waitFor();
	const sent = server.state.requests.find((r) => r.path.endsWith('/messages'));
	assert.equal(sent.body.mode, 'thinking');
	assert.ok(sent.body.client_id);
});

await scene('a reply goes on after a lost connection, and after a reload', DESKTOP, async (page, server) => {
	const id = chat(server.state, 'x', []);
	await page.goto(`/c/${id}`);
	await say(page, 'CUT ECHO:one two three four five six seven eight nine ten');
	await page.getByText('one two three four five six seven eight nine ten', { exact: true }).last().waitFor();
	await done(page);
	assert.equal(await page.locator('.prose').last().textContent().then((t) => t.trim()), 'one two three four five six seven eight nine ten');
	await say(page, 'SLOW ECHO:alpha beta gamma delta epsilon zeta eta theta');
	await page.locator('.prose', { hasText: 'alpha' }).waitFor();
	await page.reload();
	await page.locator('.prose', { hasText: 'alpha' }).waitFor();
	server.state.release();
	await page.locator('.prose', { hasText: 'eta theta' }).waitFor();
	assert.equal(await page.locator('.prose').last().textContent().then((t) => t.trim()), 'alpha beta gamma delta epsilon zeta eta theta');
});

await scene('stop, continue, answer again, edit, go between versions and branches', DESKTOP, async (page, server) => {
	const id = chat(server.state, 'x', []);
	await page.goto(`/c/${id}`);
	await say(page, 'SLOW tell me');
	await named(page, 'button', 'Stop').click();
	await page.getByText('You stopped this reply.').waitFor();
	await named(page, 'button', 'Continue').click();
	await page.getByText('And one thing more.').waitFor();
	server.state.release();
	await named(page, 'button', 'Answer again').click();
	await page.getByText('2/2').waitFor();
	await named(page, 'button', 'Previous version').click();
	await page.getByText('1/2').waitFor();
	await page.getByText('And one thing more.').waitFor();
	await page.locator('.bubble').hover();
	await named(page, 'button', 'Edit').click();
	await page.locator('.edit textarea').fill('Tell me more');
	await named(page, 'button', 'Send as a new branch').click();
	await page.locator('.bubble', { hasText: 'Tell me more' }).waitFor();
	await named(page, 'button', 'Branches').click();
	assert.equal(await page.locator('dialog li').count(), 5);
	await page.locator('dialog li button').first().click();
	await page.locator('.bubble', { hasText: 'SLOW tell me' }).waitFor();
});

await scene('answer now ends the thought', DESKTOP, async (page, server) => {
	await page.goto('/');
	await say(page, 'THINK SLOW ECHO:x');
	await named(page, 'button', 'Answer now').waitFor();
	await named(page, 'button', 'Answer now').click();
	await page.getByText('Thought first').waitFor();
	assert.ok(server.state.requests.some((r) => r.path.endsWith('/answer-now')));
});

await scene('what fails says so and loses nothing', BOTH, async (page, server) => {
	await page.goto('/');
	await say(page, 'REFUSE this');
	await page.getByText('Your plan’s messages for today are used up.').waitFor();
	assert.equal(await box(page).inputValue(), 'REFUSE this');
	await say(page, 'FAIL please');
	await page.getByText('The model ran out of memory. Try a shorter message.').waitFor();
	assert.equal(server.state.requests.filter((r) => r.path === '/api/conversations' && r.method === 'POST').length, 1);
	await named(page, 'button', 'Answer again').waitFor();
});

await scene('feedback is kept, and its words are true', BOTH, async (page, server) => {
	const id = chat(server.state, 'x', [['hello', 'Good morning.']]);
	await page.goto(`/c/${id}`);
	await named(page, 'button', 'Bad reply').click();
	await page.getByText('Kept, for your own assistant only.').waitFor();
	assert.equal(await page.getByText('style changed').count(), 0);
	server.state.receipt = { kept: true, kept_for: 'training', style_changed: true };
	await named(page, 'button', 'Too long').click();
	await page.getByText('Your assistant’s style changed because of it.').waitFor();
	await named(page, 'button', 'Write it better').click();
	await page.locator('.panel textarea').fill('Good morning to you.');
	await named(page, 'button', 'Send').first().click();
	await page.locator('.panel').waitFor({ state: 'detached' });
	assert.deepEqual(server.state.feedback.map((f) => [f.kind, f.value]), [['thumb', -1], ['chip', 'too_long'], ['edit', 'Good morning to you.']]);
	await named(page, 'button', 'Bad reply').click();
	assert.deepEqual(server.state.feedback.at(-1).value, 0);
});

await scene('a blind choice decides where the chat goes on', BOTH, async (page, server, label) => {
	const id = chat(server.state, 'x', []);
	await page.goto(`/c/${id}`);
	await say(page, 'CHOICE what first?');
	await page.getByText('Two replies: which one is better?').waitFor();
	assert.equal(await page.getByText('smollm2').count(), 0, 'the build is not named');
	await named(page, 'button', label === 'phone' ? 'Second is better' : 'Right is better').click();
	await page.getByText('2/2').waitFor();
	assert.equal(server.state.feedback[0].value.verdict, 'other');
});

await scene('a private chat leaves nothing', DESKTOP, async (page, server) => {
	await page.goto('/private');
	await say(page, 'just between us');
	await page.locator('.prose strong').waitFor();
	await done(page);
	assert.equal(server.state.chats.size, 0);
	page.on('dialog', (dialog) => void dialog.accept());
	await named(page, 'link', 'Memory').click();
	await page.waitForURL(/memory/);
	await page.goto('/private');
	assert.equal(await page.locator('.bubble').count(), 0);
});

await scene('share, read as a stranger, take back', DESKTOP, async (page, server) => {
	const id = chat(server.state, 'A talk', [['hello', 'Good **morning**.']]);
	await page.goto(`/c/${id}`);
	await named(page, 'button', 'Share').click();
	await named(page, 'button', 'Make a link').click();
	const link = await page.locator('#share-link').inputValue();
	server.state.signedIn = false;
	const stranger = await open(browser, link);
	await stranger.locator('.prose strong').waitFor();
	assert.equal(await stranger.locator('textarea').count(), 0);
	server.state.signedIn = true;
	await named(page, 'button', 'Take back').click();
	await page.getByText('The link no longer works.').waitFor();
	await stranger.reload();
	await stranger.getByText('This chat is not shared, or no longer.').waitFor();
	await stranger.context().close();
});

await scene('search, rename, pin, move, delete, import', BOTH, async (page, server, label) => {
	chat(server.state, 'Bread', [['why does bread rise', 'Yeast breathes out gas.']]);
	await page.goto('/');
	await page.locator('form .box').waitFor();
	await page.keyboard.press('Control+k');
	await page.locator('dialog input').fill('yeast');
	await page.locator('dialog mark', { hasText: 'Yeast' }).click();
	await page.waitForURL(/\/c\/.*m=/);
	const menu = async () => {
		if (label === 'phone') await named(page, 'button', 'Open the menu').click();
		await page.locator('.chat').first().hover();
		await page.locator('.chat [aria-haspopup]').first().click();
	};
	await menu();
	await named(page, 'menuitem', 'Rename').click();
	await page.locator('dialog input').fill('Good bread');
	await named(page, 'button', 'Save').click();
	await page.locator('dialog[open]').waitFor({ state: 'detached' }).catch(() => {});
	assert.equal([...server.state.chats.values()][0].conversation.title, 'Good bread');
	await page.locator('input[type=file]').setInputFiles({ name: 'c.json', mimeType: 'application/json', buffer: Buffer.from('[]') });
	await page.getByText('3 chats imported (ChatGPT).').waitFor();
	await page.getByText('Broken one: it has no messages').waitFor();
	await page.keyboard.press('Escape');
	await page.locator('.chat').first().hover();
	await page.locator('.chat [aria-haspopup]').first().click();
	await named(page, 'menuitem', 'Delete').click();
	await page.locator('dialog .danger').click();
	await page.waitForFunction(() => document.querySelectorAll('.chat').length === 0);
	assert.equal(server.state.chats.size, 0);
});

await scene('persona, sliders, instructions, undo, reset', DESKTOP, async (page, server) => {
	await page.goto('/style');
	await page.getByText('because you marked two as too long').waitFor();
	await page.getByRole('radio', { name: /Spark/ }).click();
	await page.getByText('Saved.').first().waitFor();
	await page.locator('#warmth').focus();
	await page.keyboard.press('ArrowRight');
	await page.waitForFunction(() => document.querySelector('output[for=warmth]')?.textContent === 'Much more warm');
	await page.locator('#instructions').fill('Explain as to a colleague.');
	await named(page, 'button', 'Save').click();
	await named(page, 'button', 'Undo').click();
	await page.getByText('The last change was undone.').waitFor();
	assert.deepEqual([server.state.style.persona, server.state.style.sliders.warmth, server.state.style.instructions], ['spark', 2, 'Explain as to a colleague.']);
	await named(page, 'button', 'Reset').click();
	await page.locator('dialog .danger').click();
	await page.getByText('Nothing special').waitFor();
});

await scene('memory: add, change, forget', DESKTOP, async (page, server) => {
	await page.goto('/memory');
	await page.getByLabel('Remember something').fill('I keep bees.');
	await named(page, 'button', 'Add').click();
	await page.getByText('I keep bees.').waitFor();
	await named(page, 'button', 'Forget: I prefer metric units.').click();
	await page.waitForFunction(() => !document.body.textContent?.includes('metric units'));
	await named(page, 'button', 'Forget everything').first().click();
	await page.locator('dialog .danger').click();
	await page.getByText('Nothing is remembered.').waitFor();
	assert.equal(server.state.memory.length, 0);
});

await scene('account: a key is shown once, consent, Japanese, sign out', DESKTOP, async (page, server) => {
	await page.goto('/account');
	await named(page, 'button', 'New key').click();
	await page.locator('#key-name').fill('Script');
	await page.locator('dialog form .primary').click();
	await page.getByText('rk-9b1c0d2e3f405162738495a6b7c8d9e0').waitFor();
	await page.keyboard.press('Escape');
	await page.waitForFunction(() => !document.body.textContent?.includes('rk-9b1c0d2e3f'));
	await page.locator('#training').click();
	await page.getByText('Saved.').waitFor();
	assert.equal(server.state.training, true);
	await page.locator('#language').selectOption('ja');
	await page.getByRole('heading', { name: 'アカウント' }).waitFor();
	assert.equal(await page.evaluate(() => document.documentElement.lang), 'ja');
	await page.locator('.person [aria-haspopup]').click();
	await named(page, 'menuitem', 'サインアウト').click();
	await page.waitForURL(/sign-in/);
	await page.waitForFunction(() => new Promise((ok) => {
		const open = indexedDB.open('rapport');
		open.onerror = () => ok(false);
		open.onsuccess = () => {
			if (!open.result.objectStoreNames.contains('chats')) return ok(true);
			const count = open.result.transaction('chats').objectStore('chats').count();
			count.onsuccess = () => ok(count.result === 0);
		};
	}));
});

await scene('sign in: wrong, then right, back to where one was going', BOTH, async (page, server) => {
	server.state.signedIn = false;
	await page.goto('/memory');
	await page.waitForURL(/sign-in/);
	await page.getByLabel('Name').fill('Robin');
	await page.getByLabel('Password').fill('wrong');
	await page.locator('form .primary').click();
	await page.getByText('The name or the password is wrong.').waitFor();
	await page.getByLabel('Password').fill('right and long');
	await page.locator('form .primary').click();
	await page.waitForURL(/\/memory$/);
	assert.equal(await named(page, 'link', 'Sign in with House ID').count(), 0);
});

await scene('the setup link signs its opener in, and leaves the address', DESKTOP, async (page, server) => {
	server.state.signedIn = false;
	server.state.instance.set_up = false;
	await page.goto('/setup#secret-token');
	await page.locator('form .primary').click();
	await page.waitForURL((url) => url.pathname === '/');
	assert.equal(server.state.requests.find((r) => r.path === '/api/setup').body.token, 'secret-token');
});

await scene('what the server does not offer is not shown', DESKTOP, async (page, server) => {
	for (const gone of ['/api/style', '/api/memory', '/api/folders', '/api/personas', '/api/account/keys', '/api/shares', '/api/account/consent']) server.state.absent.add(gone);
	await page.goto('/account');
	await page.getByRole('heading', { name: 'Usage' }).waitFor();
	for (const name of ['Persona and style', 'Memory']) assert.equal(await named(page, 'link', name).count(), 0);
	assert.equal(await page.getByText('API keys').count() + (await page.getByText('Shared chats').count()) + (await page.locator('#training').count()) + (await page.locator('.folders').count()), 0);
});

await scene('the app and the last chats open without a network', DESKTOP, async (_page, server) => {
	const id = chat(server.state, 'Kept', [['hello', 'A kept reply.']]);
	const page = await open(browser, null, { baseURL: server.url, serviceWorkers: 'allow' });
	await page.goto(`/c/${id}`);
	await page.getByText('A kept reply.').waitFor();
	await page.evaluate(async () => (await navigator.serviceWorker.ready).active?.state);
	await page.waitForFunction(async () => (await caches.keys()).length > 0 && Boolean(navigator.serviceWorker.controller));
	await server.close();
	await page.reload();
	await page.getByText('A kept reply.').waitFor();
	await page.getByText('You are offline.').first().waitFor();
	assert.equal(await page.locator('textarea').count(), 0);
	await page.context().close();
	server.close = async () => {};
});

await scene('2,000 messages: few are built, and both ends can be read', DESKTOP, async (page, server) => {
	const id = chat(server.state, 'Long', Array.from({ length: 1000 }, (_, i) => [`question ${i}`, `answer ${i}\n\n${'word '.repeat((i * 37) % 120)}`]));
	await page.goto(`/c/${id}`);
	await page.getByText('answer 999').waitFor();
	assert.ok((await page.locator('[data-id]').count()) < 60);
	await page.locator('#conversation').evaluate((b) => (b.scrollTop = 0));
	await page.getByText('question 0', { exact: true }).waitFor();
	await named(page, 'button', 'To the newest message').click();
	await page.getByText('answer 999').waitFor();
});
