// What a real model cannot be asked for, on a desktop in English and on a phone in Japanese, against the scripted server;
// and in one look, quickly, what `real.e2e.mjs` does with the real server and model in both.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { chat, start } from '../fake-server.mjs';
import { launch, open, PHONE, shut } from './browser.mjs';
import { words } from './house.mjs';

let browser;
before(async () => (browser = await launch()));
after(() => shut(browser));

async function scene(name, looks, run) {
	for (const [label, look] of Object.entries(looks)) {
		test(`${name} (${label})`, { timeout: 600_000 }, async () => {
			const server = await start();
			const page = await open(browser, null, { ...look, baseURL: server.url });
			try {
				await run(page, server, { t: await words(look.locale ?? 'en'), isPhone: Boolean(look.isMobile) });
				assert.deepEqual(page.faults, []);
			} finally {
				await shut(page.context());
				await server.close();
			}
		});
	}
}
const DESKTOP = { desktop: {} };
const BOTH = { 'desktop, English': {}, 'phone, Japanese': { locale: 'ja', ...PHONE } };
const box = (page) => page.locator('form .box textarea');
const say = async (page, text) => {
	await box(page).fill(text);
	await page.locator('form .go').click();
};
const done = (page) => page.locator('form .go[type=submit]').waitFor();
const named = (page, role, name) => page.getByRole(role, { name, exact: true });

await scene('a first chat: mode, thought, reply, details', BOTH, async (page, server, { t }) => {
	await page.goto('/');
	await page.locator('.start li button').first().click();
	assert.equal(await box(page).inputValue(), t.starters[0].text);
	await page.getByText(t.thinking, { exact: true }).click();
	await say(page, 'I had a rough day');
	await page.waitForURL(/\/c\//);
	await page.getByText(t.because(t.answeredThinking, 'your message speaks of a feeling')).waitFor();
	await page.locator('.prose strong', { hasText: 'piece by piece' }).waitFor();
	assert.equal(server.state.requests.filter((r) => r.path.endsWith('/reading')).length, 0, 'only who asks is told how it was read');
	server.state.reads = true;
	await named(page, 'button', t.details).click();
	await page.getByText('90%').waitFor();
	await page.getByText(`${t.reading.feels([t.feelings.sadness, t.feelings.nervousness], 2)}${t.reading.between}${t.reading.needs(t.needs.comfort)}`).waitFor();
	const sent = server.state.requests.find((r) => r.path.endsWith('/messages'));
	assert.equal(sent.body.mode, 'thinking');
	assert.ok(sent.body.client_id);
});

await scene('marks are whole while they arrive; code has colours and is copied, tables and formulas stand', BOTH, async (page, server, { t }) => {
	const id = chat(server.state, 'x', []);
	await page.context().grantPermissions(['clipboard-read', 'clipboard-write'], { origin: server.url });
	await page.goto(`/c/${id}`);
	await say(page, 'MARKDOWN SLOW');
	await page.locator('.prose table td').first().waitFor();
	assert.doesNotMatch(await page.locator('.prose').textContent(), /\*\*|```|\| ---/, 'no half of a mark is seen');
	server.state.release();
	await page.locator('.prose .hljs-keyword').first().waitFor();
	await page.locator('.prose div.maths math').waitFor();
	await named(page, 'button', t.copyCode).click();
	await page.waitForFunction(async () => (await navigator.clipboard.readText()).startsWith('/// Greets'));
	assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^\/\/\/ Greets[^]*\n}$/);
	await named(page, 'button', t.copy).last().click();
	await page.waitForFunction(async () => (await navigator.clipboard.readText()).startsWith('Here is a **small tour**'));
});

await scene('a reply goes on after a lost connection, and after a reload', BOTH, async (page, server) => {
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

await scene('what fails says so and loses nothing', BOTH, async (page, server, { t }) => {
	await page.goto('/');
	await say(page, 'REFUSE this');
	await page.getByText(t.errorWords('limited', 'Your plan’s messages for today are used up.')).waitFor();
	assert.equal(await box(page).inputValue(), 'REFUSE this');
	await say(page, 'FAIL please');
	await page.getByText('The model ran out of memory. Try a shorter message.').waitFor();
	assert.equal(server.state.requests.filter((r) => r.path === '/api/conversations' && r.method === 'POST').length, 1);
	await named(page, 'button', t.regenerate).waitFor();
});

await scene('feedback is kept, and its words are true', BOTH, async (page, server, { t }) => {
	const id = chat(server.state, 'x', [['hello', 'Good morning.']]);
	await page.goto(`/c/${id}`);
	await named(page, 'button', t.bad).click();
	await page.getByText(t.keptForYou).waitFor();
	assert.equal(await page.getByText(t.styleChanged).count(), 0);
	server.state.receipt = { kept: true, kept_for: 'training', style_changed: true };
	await named(page, 'button', t.too_long).click();
	await page.getByText(t.styleChanged).waitFor();
	await named(page, 'button', t.improve).click();
	await page.locator('.panel textarea').fill('Good morning to you.');
	await named(page, 'button', t.thanksComment).first().click();
	await page.locator('.panel').waitFor({ state: 'detached' });
	assert.deepEqual(server.state.feedback.map((f) => [f.kind, f.value]), [['thumb', -1], ['chip', 'too_long'], ['edit', 'Good morning to you.']]);
	await named(page, 'button', t.bad).click();
	assert.deepEqual(server.state.feedback.at(-1).value, 0);
});

await scene('a blind choice decides where the chat goes on', BOTH, async (page, server, { t, isPhone }) => {
	const id = chat(server.state, 'x', []);
	await page.goto(`/c/${id}`);
	await say(page, 'CHOICE what first?');
	await page.getByText(t.choiceTitle).waitFor();
	assert.equal(await page.getByText('smollm2').count(), 0, 'the build is not named');
	await named(page, 'button', isPhone ? t.choiceOtherPhone : t.choiceOther).click();
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
	await shut(stranger.context());
});

await scene('two chats of one title are both found, and opened', BOTH, async (page, server) => {
	for (const id of ['first', 'second']) chat(server.state, 'Rye', [['why', 'Because.']], { id });
	await page.goto('/');
	await page.locator('form .box').waitFor();
	await page.keyboard.press('Control+k');
	await page.locator('dialog input').fill('rye');
	const found = page.locator('dialog li button', { hasText: 'Rye' });
	await found.nth(1).waitFor();
	assert.equal(await found.count(), 2);
	await found.nth(1).click();
	await page.waitForURL(/\/c\/second$/);
	await page.locator('.bubble', { hasText: 'why' }).waitFor();
});

await scene('search, rename, delete, import', BOTH, async (page, server, { t, isPhone }) => {
	chat(server.state, 'Bread', [['why does bread rise', 'Yeast breathes out gas.']]);
	await page.goto('/');
	await page.locator('form .box').waitFor();
	await page.keyboard.press('Control+k');
	await page.locator('dialog input').fill('yeast');
	await page.locator('dialog mark', { hasText: 'Yeast' }).click();
	await page.waitForURL(/\/c\/.*m=/);
	const menu = async () => {
		if (isPhone) await named(page, 'button', t.openMenu).click();
		await page.locator('.chat').first().hover();
		await page.locator('.chat [aria-haspopup]').first().click();
	};
	await menu();
	await named(page, 'menuitem', t.rename).click();
	await page.locator('dialog input').fill('Good bread');
	await named(page, 'button', t.save).click();
	await page.locator('dialog[open]').waitFor({ state: 'detached' }).catch(() => {});
	assert.equal([...server.state.chats.values()][0].conversation.title, 'Good bread');
	await page.locator('input[type=file]').setInputFiles({ name: 'c.json', mimeType: 'application/json', buffer: Buffer.from('[]') });
	await page.getByText(t.imported(3, 'ChatGPT')).waitFor();
	await page.getByText(`Broken one: ${t.importReasons['there is no text in it']}`).waitFor();
	await page.keyboard.press('Escape');
	await page.locator('.chat').first().hover();
	await page.locator('.chat [aria-haspopup]').first().click();
	await named(page, 'menuitem', t.remove).click();
	await page.locator('dialog .danger').click();
	await page.waitForFunction(() => document.querySelectorAll('.chat').length === 0);
	assert.equal(server.state.chats.size, 0);
});

await scene('what is set and typed while the style is on its way to be kept stays', DESKTOP, async (page, server) => {
	await page.goto('/style');
	await page.locator('#warmth').waitFor();
	server.state.late_ms = 400;
	await page.locator('#warmth').focus();
	await page.keyboard.press('ArrowRight');
	await page.waitForFunction(() => document.querySelector('output[for=warmth]')?.textContent === 'Much more warm');
	await page.locator('#instructions').fill('Explain as to a colleague.');
	await page.locator('#length').focus();
	await page.keyboard.press('ArrowLeft');
	await page.getByText('Saved.').first().waitFor();
	assert.equal(await page.locator('#instructions').inputValue(), 'Explain as to a colleague.');
	assert.equal(await page.locator('#length').inputValue(), '-2');
	await named(page, 'button', 'Save').click();
	await page.locator('form.card .primary:disabled').waitFor();
	await page.waitForFunction(() => fetch('/api/style').then((r) => r.json()).then((kept) => kept.instructions !== ''));
	assert.deepEqual([server.state.style.sliders.warmth, server.state.style.sliders.length, server.state.style.instructions], [2, -2, 'Explain as to a colleague.']);
});

await scene('persona, sliders, instructions, undo, reset', DESKTOP, async (page, server) => {
	await page.goto('/style');
	await page.getByText('You set length; the assistant is told: “Keep answers short.”').waitFor();
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

await scene('sign in: wrong, then right, back to where one was going', BOTH, async (page, server, { t }) => {
	server.state.signedIn = false;
	await page.goto('/memory');
	await page.waitForURL(/sign-in/);
	await page.getByLabel(t.name, { exact: true }).fill('Robin');
	await page.getByLabel(t.password, { exact: true }).fill('wrong');
	await page.locator('form .primary').click();
	await page.getByText(t.errorWords('invalid', 'The name or the password is wrong.')).waitFor();
	await page.getByLabel(t.password, { exact: true }).fill('right and long');
	await page.locator('form .primary').click();
	await page.waitForURL(/\/memory$/);
	assert.equal(await named(page, 'link', t.signInWith('House ID')).count(), 0);
});

await scene('the setup link signs its opener in, and leaves the address', BOTH, async (page, server) => {
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

await scene('a model that is fetched shows how far it is, and can be fetched again', BOTH, async (page, server, { t }) => {
	server.state.model = { state: 'pulling', name: 'SmolLM2-135M-Instruct', bytes: 41e6, total_bytes: 98e6 };
	await page.goto('/');
	await page.getByText(t.ofBytes('41 MB', '98 MB')).waitFor();
	await box(page).fill('Good morning');
	assert.ok(await page.locator('form .go').isDisabled());
	server.state.model = { state: 'failed', name: 'SmolLM2-135M-Instruct', error: 'The disk is full: free 60 MB.' };
	await page.getByText('The disk is full: free 60 MB.').waitFor();
	await named(page, 'button', t.modelRetry).click();
	await page.getByText(t.modelPulling).waitFor();
	server.state.model = { state: 'ready', name: 'SmolLM2-135M-Instruct', context_tokens: 8192 };
	await page.locator('progress').waitFor({ state: 'detached' });
	await page.locator('form .go').click();
	await page.waitForURL(/\/c\//);
	await page.locator('.prose strong').waitFor();
});

await scene('a private chat has a persona, and its thought can be ended', BOTH, async (page, server, { t }) => {
	await page.goto('/private');
	await page.locator('select.persona').selectOption('spark');
	await say(page, 'THINK SLOW ECHO:just between us');
	await named(page, 'button', t.answerNow).click();
	await page.getByText(t.answeredThinking).waitFor();
	const asked = server.state.requests.find((r) => r.path === '/api/private/replies');
	assert.equal(asked.body.persona, 'spark');
	assert.ok(server.state.requests.some((r) => r.path === `/api/private/replies/${asked.body.id}/answer-now`));
});

await scene('another service signs in, and how it failed is told', BOTH, async (page, server, { t }) => {
	server.state.signedIn = false;
	await page.goto('/sign-in?to=/memory&oidc_error=taken');
	await page.getByText(t.oidcErrors.taken).waitFor();
	assert.equal(await named(page, 'link', t.signInWith('House ID')).getAttribute('href'), '/api/auth/oidc/start?to=%2Fmemory');
	await page.goto('/sign-in?oidc_error=%3Cimg%20src=x%3E');
	await page.getByText(t.unknownError).waitFor();
	server.state.signedIn = true;
	await page.goto('/account');
	assert.equal(await named(page, 'link', t.connect('House ID')).getAttribute('href'), '/api/auth/oidc/start?link=1&to=/account');
});

await scene('every label of administration is Japanese', { japanese: { locale: 'ja' } }, async (page) => {
	for (const tab of ['live', 'users', 'keys', 'plans', 'models', 'feedback', 'settings']) {
		await page.goto(`/admin/${tab}`);
		await page.locator('.card').first().waitFor();
		const english = await page.evaluate(() => {
			const found = [];
			const walk = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
			while (walk.nextNode()) {
				const { parentElement, textContent } = walk.currentNode;
				// Names that people and programs gave, builds, and words that are the same in Japanese.
				const text = textContent.replace(/SmolLM2-135M-Instruct|Rapport|Robin|Kim|Notebook|Steady|Spark|Plus|plus|Free|free|API|\b[MGk]B\b|\bm\b/g, '');
				if (!parentElement.closest('code, style, script') && /[a-z]{2,}/i.test(text)) found.push(textContent.trim());
			}
			return found;
		});
		assert.deepEqual(english, [], tab);
	}
});

await scene('the app and the last chats open without a network', BOTH, async (_page, server, { t, isPhone }) => {
	const id = chat(server.state, 'Kept', [['hello', 'A kept reply.']]);
	const page = await open(browser, null, { baseURL: server.url, serviceWorkers: 'allow', ...(isPhone ? { locale: 'ja', ...PHONE } : {}) });
	await page.goto(`/c/${id}`);
	await page.getByText('A kept reply.').waitFor();
	await page.evaluate(async () => (await navigator.serviceWorker.ready).active?.state);
	await page.waitForFunction(async () => (await caches.keys()).length > 0 && Boolean(navigator.serviceWorker.controller));
	await server.close();
	await page.reload();
	await page.getByText('A kept reply.').waitFor();
	await page.getByText(t.offline).first().waitFor();
	assert.equal(await page.locator('textarea').count(), 0);
	await shut(page.context());
	server.close = async () => {};
});

await scene('2,000 messages: few are built, and both ends can be read', BOTH, async (page, server, { t }) => {
	const id = chat(server.state, 'Long', Array.from({ length: 1000 }, (_, i) => [`question ${i}`, `answer ${i}\n\n${'word '.repeat((i * 37) % 120)}`]));
	await page.goto(`/c/${id}`);
	await page.getByText('answer 999').waitFor();
	assert.ok((await page.locator('[data-id]').count()) < 60);
	await page.locator('#conversation').evaluate((b) => (b.scrollTop = 0));
	await page.getByText('question 0', { exact: true }).waitFor();
	await named(page, 'button', t.toEnd).click();
	await page.getByText('answer 999').waitFor();
});
