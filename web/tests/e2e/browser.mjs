// Chromium as people have it, driven by Playwright. `CHROMIUM` names another binary.
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import { chromium } from 'playwright-core';

const path = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((p) => p && existsSync(p));

const args = ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const found = () => {
	if (!path) throw new Error('no Chromium found: install the package chromium, or name a binary in CHROMIUM');
	return path;
};

export const launch = async () => chromium.launch({ executablePath: found(), args });

/** A browser with a profile of its own, which is no private window. */
export const installed = async (folder) => chromium.launchPersistentContext(folder, { executablePath: found(), args });

export const PHONE = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 };
export const DESKTOP = { viewport: { width: 1280, height: 800 } };

/** Closes a page's context, or a browser. Where a page is just going elsewhere, Chromium may never say that it is closed: what is
 *  still open then goes with the process. */
export async function shut(open) {
	let timer;
	const late = new Promise((resolve) => (timer = setTimeout(resolve, 15_000)));
	await Promise.race([open?.close(), late]);
	clearTimeout(timer);
}

/** Waits until a conversation has come to rest: what is built is measured, and what was at its end is at its end again. */
export const rest = (page) =>
	page.evaluate(async () => {
		const box = document.querySelector('#conversation');
		const at = () => `${box.scrollTop} ${box.scrollHeight}`;
		for (let still = 0, last = at(); still < 15; still = at() === last ? still + 1 : 0, last = at()) await new Promise(requestAnimationFrame);
	});

/** Steps of one way: where one failed, those after it have nothing to stand on, and fail at once. */
export function journey(timeout) {
	let lost = '';
	return (name, run) =>
		test(name, { timeout }, async () => {
			assert.equal(lost, '', 'an earlier step did not come to its end');
			lost = name;
			await run();
			lost = '';
		});
}

/** A page that reports what its scripts and its policy complain about. */
export async function open(browser, url, { locale = 'en', theme = 'light', ...options } = {}) {
	const context = await browser.newContext({ ...DESKTOP, locale: locale === 'ja' ? 'ja-JP' : 'en-GB', colorScheme: theme, serviceWorkers: 'block', ...options });
	const page = await context.newPage();
	page.setDefaultTimeout(60_000);
	const faults = [];
	page.on('pageerror', (error) => faults.push(String(error)));
	page.on('console', (line) => line.type() === 'error' && !/Failed to load resource/.test(line.text()) && faults.push(line.text()));
	page.faults = faults;
	if (url) await page.goto(url);
	return page;
}

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** What axe calls serious or critical on the page as it stands. */
export async function axe(page) {
	await page.evaluate(AXE);
	const { violations } = await page.evaluate(() => globalThis.axe.run({ resultTypes: ['violations'] }));
	return violations
		.filter(({ impact }) => impact === 'serious' || impact === 'critical')
		.map(({ id, nodes }) => `${id} ${nodes.map((n) => `${n.target} ${n.any[0]?.message ?? ''}`).slice(0, 3).join(' | ')}`);
}
