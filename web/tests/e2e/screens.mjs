// Pictures of every screen (light, dark, phone, Japanese) into `shots/`, for people to look at.
//   npm run screens [-- PATTERN]      a pattern of names, such as `^phone-(start|chat)`
import { mkdirSync } from 'node:fs';
import { chat, MARKDOWN, start } from '../fake-server.mjs';
import { launch, open, PHONE, shut } from './browser.mjs';

const only = new RegExp(process.argv[2] ?? '');
const out = new URL('../../shots/', import.meta.url).pathname;
mkdirSync(out, { recursive: true });
const browser = await launch();

export function fill(state) {
	chat(state, 'Apology to an old friend', [['How do I apologise after two years of silence?', 'Say it **plainly**, and without an excuse: that you went quiet, that it was not fair, that you miss them. Then leave room. They may need time.']], { folder_id: 'f1', updated_ms: Date.now() - 9e7 });
	chat(state, 'Why bread rises', [['Why does bread rise?', 'Yeast eats sugar and breathes out gas.']], { updated_ms: Date.now() - 4e8 });
	chat(state, 'Interview on Thursday', [['I am nervous.', 'That is a fair thing to be.']], { pinned: true });
	const id = chat(state, 'A small tour', [['I had a rough day, and I still have to learn all this. Can you show me how you write?', { content: MARKDOWN, thought: 'The person is tired, and curious.\nNeed: company first, then something clear.\nTone: warm, plain.', mode: 'thinking', mode_reason: 'your message speaks of a feeling', timings: { first_token_ms: 1240, prompt_ms: 61, decode_ms: 1640, thought_ms: 1180 } }], ['Thank you. One more thing: is it normal to forget half of it by tomorrow?', 'Yes. Most people lose about half within a day. Reading it once more tomorrow, for five minutes, keeps far more of it than an hour tonight would.']], { id: 'tour' });
	return id;
}

const screens = {
	start: async (p) => p.goto('/'),
	chat: async (p) => p.goto('/c/tour'),
	chat_top: async (p) => {
		await p.goto('/c/tour');
		await p.waitForSelector('.prose');
		await p.waitForTimeout(300);
		await p.locator('#conversation').evaluate((b) => (b.scrollTop = 0));
		await p.waitForTimeout(300);
	},
	details: async (p, _phone, state) => {
		state.reads = true;
		await p.goto('/c/tour');
		await p.locator('[aria-expanded="false"].icon-button.small:not([aria-haspopup])').last().click();
	},
	feedback: async (p) => {
		await p.goto('/c/tour');
		await p.locator('[aria-pressed="false"].icon-button.small').last().click();
		await p.waitForTimeout(300);
	},
	streaming: async (p) => {
		await p.goto('/c/tour');
		await p.locator('textarea').fill('Please go on. THINK MARKDOWN SLOW');
		await p.locator('form .go').click();
		await p.waitForTimeout(1200);
	},
	choice: async (p) => {
		await p.goto('/c/tour');
		await p.locator('textarea').fill('What should I read first? CHOICE');
		await p.locator('form .go').click();
		await p.locator('.verdicts button:enabled').first().waitFor();
		await p.waitForTimeout(300);
	},
	private: async (p) => {
		await p.goto('/private');
		await p.locator('textarea').fill('Just between us: hello.');
		await p.locator('form .go').click();
		await p.waitForTimeout(700);
	},
	menu: async (p, phone) => {
		await p.goto('/');
		if (phone) await p.locator('.menu').click();
		else await p.locator('.person [aria-haspopup="menu"]').click();
		await p.waitForTimeout(400);
	},
	search: async (p) => {
		await p.goto('/');
		await p.locator('form .box').waitFor();
		await p.keyboard.press('Control+k');
		await p.locator('input[type=search]').fill('half');
		await p.waitForTimeout(600);
	},
	style: async (p) => p.goto('/style'),
	memory: async (p) => p.goto('/memory'),
	account: async (p) => p.goto('/account'),
	...Object.fromEntries(['live', 'users', 'plans', 'models', 'feedback', 'settings'].map((tab) => [`admin_${tab}`, async (p) => p.goto(`/admin/${tab}`)])),
	shared: async (p) => p.goto('/s/tour'),
	missing: async (p) => p.goto('/nowhere'),
	sign_in: async (p, _phone, state) => {
		state.signedIn = false;
		await p.goto('/sign-in');
	},
	setup: async (p, _phone, state) => {
		state.signedIn = false;
		state.model = { state: 'pulling', name: 'SmolLM2-135M-Instruct', bytes: 41e6, total_bytes: 98e6 };
		await p.goto('/setup#abc');
	},
	private_new: async (p) => p.goto('/private'),
	import: async (p, phone) => {
		await p.goto('/');
		if (phone) await p.locator('.menu').click();
		await p.locator('.person [aria-haspopup="menu"]').click();
		await p.locator('[role=menuitem]').nth(2).click();
	},
	rtl: async (p, _phone, state) => {
		chat(state, 'صباح الخير', [['صباح الخير! كيف أعتذر لصديق قديم بعد سنتين من الصمت؟', 'قل ذلك **ببساطة** ومن دون أعذار:\n\n1. أنك صمتّ طويلًا\n2. أن ذلك لم يكن عدلًا\n3. أنك اشتقت إليه\n\nثم امنحه وقتًا. `cargo test`']], { id: 'rtl' });
		await p.goto('/c/rtl');
	},
	empty: async (p, _phone, state) => {
		state.chats.clear();
		state.memory = [];
		await p.goto('/memory');
	},
	failed: async (p, _phone, state) => {
		state.model = { state: 'failed', name: 'SmolLM2-135M-Instruct', error: 'The disk is full: free 60 MB, then fetch it again.' };
		await p.goto('/');
	},
	pulling: async (p, _phone, state) => {
		state.model = { state: 'pulling', name: 'SmolLM2-135M-Instruct', bytes: 41e6, total_bytes: 98e6 };
		await p.goto('/');
	},
};

for (const look of [{ name: 'light' }, { name: 'dark', theme: 'dark' }, { name: 'phone', ...PHONE }, { name: 'phone-dark', theme: 'dark', ...PHONE }, { name: 'ja', locale: 'ja' }, { name: 'ja-phone', locale: 'ja', ...PHONE }, { name: 'narrow', ...PHONE, viewport: { width: 320, height: 568 } }]) {
	for (const [name, go] of Object.entries(screens)) {
		if (!only.test(`${look.name}-${name}`)) continue;
		const server = await start();
		fill(server.state);
		server.state.shared.set('tour', { title: 'A small tour', shared_ms: Date.now(), messages: server.state.chats.get('tour').messages });
		const page = await open(browser, null, { ...look, baseURL: server.url });
		try {
			await go(page, Boolean(look.isMobile), server.state);
			await page.locator('main :is(h1, h2)').first().waitFor({ state: 'attached' });
		await page.waitForFunction(() => document.fonts.status === 'loaded' && !document.querySelector('main[aria-busy="true"], main p[role="status"]'), null, { timeout: 8000 }).catch(() => {});
		await page.waitForTimeout(900);
		} catch (error) {
			console.log(`${look.name}-${name}: ${String(error).split('\n')[0]}`);
		}
		await page.screenshot({ path: `${out}${look.name}-${name}.png` });
		if (page.faults.length > 0) console.log(`${look.name}-${name}: ${page.faults.join(' | ')}`);
		await shut(page.context());
		await server.close();
	}
}
await shut(browser);
