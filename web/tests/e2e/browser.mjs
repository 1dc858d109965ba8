// Chromium as people have it, driven by Playwright. `CHROMIUM` names another binary.
import { existsSync } from 'node:fs';
import { chromium } from 'playwright-core';

const path = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((p) => p && existsSync(p));

export async function launch() {
	if (!path) throw new Error('no Chromium found: install the package chromium, or name a binary in CHROMIUM');
	return chromium.launch({ executablePath: path, args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync'] });
}

export const PHONE = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 };
export const DESKTOP = { viewport: { width: 1280, height: 800 } };

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
