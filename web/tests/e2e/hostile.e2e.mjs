// The corpus of hostile texts in every place that shows what others wrote, with the content policy and without it:
// the sanitiser has to hold alone, and the policy is the second wall.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { chat, start } from '../fake-server.mjs';
import { launch, open, shut } from './browser.mjs';
import { MARKDOWN, WORDS } from './xss-corpus.mjs';

let browser;
before(async () => (browser = await launch()));
after(() => shut(browser));

/** A page on which anything that comes alive leaves a mark. */
async function watched(server) {
	const page = await open(browser, null, { baseURL: server.url });
	page.alive = [];
	page.on('dialog', async (dialog) => {
		page.alive.push(`dialog: ${dialog.message()}`);
		await dialog.dismiss();
	});
	page.on('request', (request) => {
		const url = request.url();
		if (!url.startsWith(server.url) && !url.startsWith('data:') && !url.startsWith('blob:')) page.alive.push(`request: ${url}`);
	});
	page.on('popup', (popup) => page.alive.push(`popup: ${popup.url()}`));
	return page;
}

/** What must never stand in the page, wherever text came from. */
const findings = () => {
	const bad = [];
	for (const node of document.querySelectorAll('#app script:not([src^="/_app/immutable/start"]), #app iframe, #app object, #app embed, #app base, #app meta, #app link, #app style, #app video, #app audio, #app template, #app foreignObject, .prose svg:not(figcaption svg), .prose form, .prose input, .prose select, .prose textarea, .prose dialog, .prose [style], .prose [id]')) bad.push(node.outerHTML.slice(0, 160));
	for (const node of document.querySelectorAll('#app *')) {
		for (const { name, value } of node.attributes) {
			if (name.startsWith('on')) bad.push(`${node.tagName} ${name}`);
			if (/^(href|src|action|formaction|xlink:href|data|poster|srcset|ping)$/.test(name) && /^\s*(javascript|vbscript|data:text|data:image\/svg|file|blob)/i.test(value)) bad.push(`${node.tagName} ${name}=${value}`);
			if (name === 'src' && !/^(data:image\/(png|jpeg|gif|webp);base64,|\/)/.test(value)) bad.push(`${node.tagName} src=${value}`);
		}
	}
	for (const a of document.querySelectorAll('.prose a')) if (!/noopener/.test(a.rel) || !/noreferrer/.test(a.rel) || a.target !== '_blank') bad.push(`link without its guards: ${a.outerHTML}`);
	return bad;
};

/** Goes through a whole conversation, with every thought open, and looks at all that was built. */
async function readAll(page) {
	await page.waitForSelector('.prose');
	const seen = new Set();
	await page.evaluate(() => (document.querySelector('#conversation').scrollTop = 0));
	for (let isEnd = false; !isEnd; ) {
		const step = await page.evaluate(async () => {
			const box = document.querySelector('#conversation');
			// What was scrolled to is built in the next frame, and measured in the one after it.
			const drawn = () => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
			await drawn();
			for (const button of box.querySelectorAll('.thought button[aria-expanded="false"]')) button.click();
			await drawn();
			const ids = [...box.querySelectorAll('[data-id]')].map((n) => n.dataset.id);
			const isEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 2;
			box.scrollTop += box.clientHeight;
			return { ids, isEnd };
		});
		assert.deepEqual(await page.evaluate(findings), []);
		step.ids.forEach((id) => seen.add(id));
		isEnd = step.isEnd;
	}
	// Colours and formulas come later, and could bring something alive.
	await page.waitForFunction(() => !document.querySelector('.maths:not([data-set])'));
	assert.deepEqual(await page.evaluate(findings), []);
	return seen.size;
}

test(`${MARKDOWN.length} hostile texts as messages, replies and thoughts, with the content policy`, { timeout: 600_000 }, async () => {
	const server = await start();
	const id = chat(server.state, 'x', MARKDOWN.map((text) => [text, { content: text, thought: text }]));
	const page = await watched(server);
	await page.goto(`/c/${id}`);
	assert.equal(await readAll(page), MARKDOWN.length * 2, 'every message was shown');
	assert.deepEqual(page.alive, []);
	await shut(page.context());
	await server.close();
});

test(`${MARKDOWN.length} hostile texts in a shared chat, without the content policy`, { timeout: 600_000 }, async () => {
	const server = await start({ policy: false });
	server.state.shared.set('s', { title: 'x', shared_ms: Date.now(), messages: MARKDOWN.flatMap((text) => [{ role: 'user', content: text }, { role: 'assistant', content: text, thought: text }]) });
	server.state.signedIn = false;
	const page = await watched(server);
	await page.goto('/s/s');
	assert.equal(await readAll(page), MARKDOWN.length * 2, 'every message was shown');
	assert.deepEqual(page.alive, []);
	await shut(page.context());
	await server.close();
});

test(`${WORDS.length} hostile texts in titles, names of files and people, personas, memory, errors, search, shares, the model and details`, { timeout: 600_000 }, async () => {
	for (const word of WORDS) {
		const server = await start({ policy: false });
		const { state } = server;
		const id = chat(state, word, [[word, { content: word, thought: word, mode: 'thinking', mode_reason: word, build: word }], ['again', { content: '', status: 'failed', error: word }]]);
		Object.assign(state.personas[0], { name: word, tagline: word, description: word });
		Object.assign(state.style, { explanation: [word, { about: 'slider', slider: word, told: word, text: word }, { about: word, text: word }, { about: 'persona', persona: 'steady', text: word }], instructions: word });
		state.report = { format: word, imported: 1, skipped: [{ title: word, reason: word }] };
		state.model = { state: 'ready', name: word, context_tokens: 1 };
		state.folders[0].name = state.memory[0].text = state.keys[0].name = state.user.name = state.instance.name = word;
		state.instance.oidc[0].label = word;
		state.shared.set('s', { title: word, shared_ms: Date.now(), messages: state.chats.get(id).messages });
		state.shares.push({ id: 's', token: 's', url: '/s/s', title: word, created_ms: Date.now() });
		const page = await watched(server);
		const look = async (path) => {
			if (path) await page.goto(path);
			await page.locator('main, dialog[open]').first().waitFor();
			await page.waitForFunction(() => !document.querySelector('[aria-busy="true"], main [role="status"]:not(.note)'), null, { timeout: 3000 }).catch(() => {});
			assert.deepEqual(await page.evaluate(findings), [], path);
		};
		await look(`/c/${id}`);
		await page.evaluate(() => document.querySelectorAll('.actions [aria-expanded="false"]').forEach((button) => button.click()));
		await look();
		for (const path of ['/', `/?text=${encodeURIComponent(word)}`, `/share?text=${encodeURIComponent(word)}&url=javascript:alert(1)`, '/style', '/memory', '/account', '/admin/users', '/admin/keys', '/admin/feedback', '/admin/models', '/private', '/s/s', `/sign-in?to=${encodeURIComponent(`javascript:${word}`)}`, '/sign-in?to=//evil.example']) await look(path);
		await page.goto('/');
		await page.locator('form .box').waitFor();
		await page.keyboard.press('Control+k');
		await page.locator('input[type=search]').fill(word.slice(0, 6));
		await page.locator('dialog mark').first().waitFor();
		await look();
		await page.keyboard.press('Escape');
		await page.locator('input[type=file]').setInputFiles({ name: `${word.replaceAll('/', '_')}.json`, mimeType: 'application/json', buffer: Buffer.from('[]') });
		await page.locator('dialog[open] li').first().waitFor();
		await look();
		// A model that failed with hostile words.
		state.model = { state: 'failed', name: word, error: word };
		await look('/private');
		assert.deepEqual(page.alive, []);
		await shut(page.context());
		await server.close();
	}
});

test('a remote picture is a link, and loads nothing before the click', async () => {
	const server = await start({ policy: false });
	const id = chat(server.state, 'x', [['?', '![a cat](https://evil.example/cat.png)']]);
	const page = await watched(server);
	await page.goto(`/c/${id}`);
	const link = page.locator('.remote-picture');
	assert.equal(await link.getAttribute('href'), 'https://evil.example/cat.png');
	assert.match(await link.textContent(), /a cat.*evil\.example/);
	assert.equal(await page.locator('.prose img').count(), 0);
	assert.deepEqual(page.alive, []);
	await shut(page.context());
	await server.close();
});
