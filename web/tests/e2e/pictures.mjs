// The pictures of the README, from the scripted server: light, dark, phone, Japanese, administration, a thought.
//   npm run pictures [-- PATTERN]
import { mkdirSync, writeFileSync } from 'node:fs';
import { chat, start } from '../fake-server.mjs';
import { launch, open, PHONE, shut } from './browser.mjs';
import { small } from './palette.mjs';

const out = new URL('../../../docs/web/', import.meta.url).pathname;
mkdirSync(out, { recursive: true });
const only = new RegExp(process.argv[2] ?? '');

const SAVING = `Yes, if you can do without it. Saved early, **time** does most of the work:

| Saved each month | After 10 years | After 40 years |
| --- | ---: | ---: |
| 50 | 7,764 | 76,301 |
| 100 | 15,528 | 152,602 |

That is $S = m \\cdot \\frac{(1+i)^n - 1}{i}$ with 5 % a year. To try other sums:

\`\`\`python
def saved(monthly, years, rate=0.05):
    i, n = rate / 12, 12 * years
    return monthly * ((1 + i) ** n - 1) / i
\`\`\`

What rate you will get is not known to anybody, so take these as a direction.`;
const FRIEND = 'Say it **plainly**, and without an excuse: that you went quiet, that it was not fair, that you miss them.\n\nThen leave room. They may need time, and that is not a no.';

const TITLES = { 'Why bread rises': 'パンがふくらむ理由', 'A name for the cat': '猫の名前', 'Interview on Thursday': '木曜日の面接', 'Apology to an old friend': '旧友へのおわび', 'Saving, early': '早めの貯金' };

function fill(state, locale) {
	const hour = 3_600_000;
	const now = Date.now();
	chat(state, 'Why bread rises', [['Why does bread rise?', 'Yeast eats sugar and breathes out gas.']], { updated_ms: now - 90 * hour });
	chat(state, 'A name for the cat', [['Names for a grey cat?', 'Pebble, Ash, Juniper.']], { updated_ms: now - 60 * hour });
	chat(state, 'Interview on Thursday', [['I am nervous.', 'That is a fair thing to be.']], { pinned: true, updated_ms: now - 30 * hour });
	const why = { mode: 'thinking', mode_reason: 'your message speaks of a feeling (remorse)', thought: 'feel: remorse | need: comfort | tone: warm | do: give words to begin with', timings: { first_token_ms: 620, prompt_ms: 61, decode_ms: 1640, thought_ms: 1180 } };
	chat(state, 'Apology to an old friend', [['I have not written to my best friend for two years, and I am ashamed. How do I even begin?', { content: FRIEND, ...why }]], { id: 'friend', updated_ms: now - 2 * hour });
	chat(state, 'Saving, early', [['I earn my first money. Is it worth saving 50 a month, honestly?', SAVING]], { id: 'saving', updated_ms: now - hour });
	if (locale !== 'ja') return;
	for (const { conversation } of state.chats.values()) conversation.title = TITLES[conversation.title];
	state.personas[1].texts = { ja: { tagline: '明るく、好奇心いっぱい', description: '問い返し、アイデアで遊びます。' } };
}

/** Sends a message whose reply is held in the middle. */
async function held(page, state, text, also) {
	state.also = also;
	await page.locator('form .box textarea').fill(text);
	await page.locator('form .go').click();
}
const top = (page) => page.locator('#conversation').evaluate((box) => (box.scrollTop = 0));
const pictures = {
	light: [{}, async (page) => page.goto('/')],
	dark: [{ theme: 'dark' }, async (page) => {
		await page.goto('/c/saving');
		await page.locator('.prose .hljs-keyword').first().waitFor();
		await top(page);
		await page.evaluate(() => document.activeElement?.blur());
	}],
	phone: [PHONE, async (page, state) => {
		await page.goto('/c/friend');
		await held(page, state, 'And if they never answer?', ' SLOW ECHO:Then you will have said what was true, and that stays good. You could write it so that it needs no answer: a memory you both like, **what you are sorry for**, and one line that leaves the door open.');
		await page.locator('article[aria-busy="true"] .prose').waitFor();
	}],
	japanese: [{ locale: 'ja' }, async (page) => page.goto('/style')],
	admin: [{}, async (page) => {
		await page.goto('/admin/live');
		await page.locator('polyline').first().waitFor();
		await page.waitForFunction(() => document.querySelector('polyline')?.points.length === 120);
	}],
	thought: [{}, async (page, state) => {
		await page.goto('/c/friend');
		await held(page, state, 'I wrote it. Now I am afraid to send it.', ' THINK SLOW ECHO:Of course.');
		await page.locator('.thought.thinking dd >> nth=1').waitFor();
	}],
};

const browser = await launch();
for (const [name, [look, go]] of Object.entries(pictures)) {
	if (!only.test(name)) continue;
	const server = await start();
	fill(server.state, look.locale);
	const page = await open(browser, null, { ...look, ...(look.isMobile ? { deviceScaleFactor: 1.5 } : {}), baseURL: server.url, reducedMotion: 'reduce' });
	await go(page, server.state);
	await page.locator('main :is(h1, h2)').first().waitFor({ state: 'attached' });
	await page.waitForFunction(() => document.fonts.status === 'loaded' && !document.querySelector('main[aria-busy="true"], main p[role="status"]:not(.wait)'));
	await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))));
	const png = small(await page.screenshot());
	writeFileSync(`${out}${name}.png`, png);
	console.log(`${name}.png ${(png.length / 1000).toFixed(0)} kB`);
	if (page.faults.length > 0) throw new Error(page.faults.join('\n'));
	await shut(page.context());
	await server.close();
}
await shut(browser);
