// Measures what a person feels; prints a table and one line of JSON. No test: times depend on the machine.
//   npm run measure
// - interactive: from navigation to a composer that takes words, with the CPU slowed down four times
// - frames: while 100 tokens a second arrive in a reply of markdown
// - layout shift: the browser's own measure (CLS) during that reply
// - long chat: frames while 2,000 messages scroll by
// Beside each, the time that the page's main thread itself computed (`busy`): it does not grow when other programs have the
// processor, so it tells what the app needs on a machine that has time.
import { chat, start } from '../fake-server.mjs';
import { launch, open, shut } from '../e2e/browser.mjs';

const browser = await launch();

/** What the main thread computed while something ran, in ms of its own clock. */
async function busy(page, run) {
	const cdp = await page.context().newCDPSession(page);
	await cdp.send('Performance.enable', { timeDomain: 'threadTicks' });
	const at = async () => (await cdp.send('Performance.getMetrics')).metrics.find(({ name }) => name === 'TaskDuration').value * 1000;
	const from = await at();
	const result = await run();
	return { busy_ms: (await at()) - from, result };
}

async function frames(page, run) {
	await page.evaluate(() => {
		globalThis.gaps = [];
		globalThis.shift = 0;
		new PerformanceObserver((list) => list.getEntries().forEach((e) => !e.hadRecentInput && (globalThis.shift += e.value))).observe({ type: 'layout-shift' });
		let last = performance.now();
		const tick = (now) => {
			globalThis.gaps.push(now - last);
			last = now;
			globalThis.running !== false && requestAnimationFrame(tick);
		};
		requestAnimationFrame(tick);
	});
	const { busy_ms } = await busy(page, run);
	const seen = await page.evaluate(() => {
		globalThis.running = false;
		const gaps = globalThis.gaps.slice(2).sort((a, b) => a - b);
		const sum = gaps.reduce((a, b) => a + b, 0);
		return { frames: gaps.length, fps: +((gaps.length / sum) * 1000).toFixed(1), p99_gap_ms: +gaps[Math.floor(gaps.length * 0.99)].toFixed(1), layout_shift: +globalThis.shift.toFixed(4) };
	});
	return { ...seen, busy_ms_a_frame: +(busy_ms / seen.frames).toFixed(2) };
}

const server = await start({ delay_ms: 0 });
const slow = await open(browser, null, { baseURL: server.url });
const cdp = await slow.context().newCDPSession(slow);
await cdp.send('Emulation.setCPUThrottlingRate', { rate: 4 });
const times = [];
for (let i = 0; i < 5; i++) {
	await slow.goto('about:blank');
	const from = Date.now();
	await slow.goto('/', { waitUntil: 'commit' });
	await slow.locator('textarea').fill('x');
	times.push(Date.now() - from);
}
await shut(slow.context());
const first = await open(browser, null, { baseURL: server.url });
await first.goto('/icon.svg');
const { busy_ms } = await busy(first, async () => {
	await first.goto('/', { waitUntil: 'commit' });
	await first.locator('textarea').fill('x');
});
await shut(first.context());

server.state.delay_ms = 10;
const id = chat(server.state, 'x', []);
const page = await open(browser, null, { baseURL: server.url });
await page.goto(`/c/${id}`);
const para = 'Some **bold** words and `code` in a line that goes on for a while, as replies do.\n\n';
await page.locator('textarea').fill(`ECHO:${para.repeat(12)}- one\n- two\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\n\`\`\`rust\nfn main() {}\n\`\`\`\n${para.repeat(12)}`);
const streaming = await frames(page, async () => {
	await page.locator('form .go').click();
	await page.locator('form .go[type=button]').waitFor();
	await page.locator('form .go[type=submit]').waitFor();
});
await shut(page.context());

const long = chat(server.state, 'Long', Array.from({ length: 1000 }, (_, i) => [`question ${i}`, `answer **${i}**\n\n${'word '.repeat((i * 37) % 160)}`]));
const reader = await open(browser, null, { baseURL: server.url });
await reader.goto(`/c/${long}`);
await reader.locator('.prose').first().waitFor();
await reader.waitForTimeout(800);
const scrolling = await frames(reader, () => reader.evaluate(async () => {
	const b = document.querySelector('#conversation');
	const seen = () => [...b.querySelectorAll('[data-id]')].find((row) => row.getBoundingClientRect().top > 100);
	globalThis.jump = 0;
	for (let i = 0; i < 180; i++) {
		const row = seen();
		const top = row?.getBoundingClientRect().top ?? 0;
		b.scrollTop -= 60;
		await new Promise(requestAnimationFrame);
		await new Promise(requestAnimationFrame);
		// What is read moves by what was scrolled, and no more, whatever was built above it.
		if (row?.isConnected) globalThis.jump = Math.max(globalThis.jump, Math.abs(row.getBoundingClientRect().top - top - 60));
	}
}));
scrolling.jump_px = +(await reader.evaluate(() => globalThis.jump)).toFixed(1);
delete scrolling.layout_shift;
await shut(browser);
await server.close();

times.sort((a, b) => a - b);
console.log(`interactive   ${times[2]} ms (median of 5, CPU slowed 4 times; wanted under 1500); busy ${busy_ms.toFixed(0)} ms without the slowing`);
console.log(`streaming     ${streaming.fps} frames/s, 99 % of gaps under ${streaming.p99_gap_ms} ms, layout shift ${streaming.layout_shift}; busy ${streaming.busy_ms_a_frame} ms a frame (60 frames/s leave 16.7)`);
console.log(`2000 messages ${scrolling.fps} frames/s while scrolling, 99 % of gaps under ${scrolling.p99_gap_ms} ms, ${scrolling.jump_px} pixels more than was scrolled at most; busy ${scrolling.busy_ms_a_frame} ms a frame`);
console.log(JSON.stringify({ interactive_ms: times[2], interactive_busy_ms: +busy_ms.toFixed(0), streaming, scrolling }));
