// Signing in to the real server through another service, whose part a small provider with a real key plays.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { axe, journey, launch, open, PHONE, shut } from './browser.mjs';
import * as house from './house.mjs';
import { provide } from './provider.mjs';

const LOOKS = {
	'desktop, English': { locale: 'en', sub: '1', email: 'robin@example.org' },
	'phone, Japanese': { locale: 'ja', sub: '2', email: 'mika@example.org', ...PHONE },
};
let browser;
let provider;
let server;
before(async () => {
	provider = await provide();
	[browser, server] = await Promise.all([launch(), house.open('--threads', '1', '--oidc-issuer', provider.issuer, '--oidc-client-id', 'rapport', '--oidc-label', 'House ID', '--oidc-domains', '*')]);
});
after(async () => {
	await shut(browser);
	await server?.end();
	await provider?.end();
});

for (const [label, { locale, sub, email, ...look }] of Object.entries(LOOKS)) {
	describe(label, () => {
		const step = journey(120_000);
		let page;
		let t;
		before(async () => {
			t = await house.words(locale);
			page = await open(browser, null, { ...look, locale, baseURL: server.url, reducedMotion: 'reduce' });
		});
		after(() => shut(page?.context()));
		const way = (name) => page.getByRole('link', { name, exact: true });
		const connected = () => page.locator('section[aria-labelledby=ways]', { hasText: provider.issuer }).waitFor();
		const leave = async () => {
			if (look.isMobile) await page.getByRole('button', { name: t.openMenu, exact: true }).click();
			await page.locator('.person [aria-haspopup]').click();
			await page.getByRole('menuitem', { name: t.signOut, exact: true }).click();
			await page.locator('#name').waitFor();
		};

		step('who has an account connects the service, and a stranger gets one', async () => {
			provider.person = { sub, email, email_verified: true, preferred_username: email };
			if (look.isMobile) {
				await page.goto('/sign-in');
				await way(t.signInWith('House ID')).click();
				await page.locator('form .box').waitFor();
				await page.goto('/account');
			} else {
				await page.goto(server.link);
				await page.locator('#password').fill('a long password');
				await page.locator('form .primary').click();
				await page.locator('form .box').waitFor();
				await page.goto('/account');
				await way(t.connect('House ID')).click();
			}
			await connected();
			assert.deepEqual(await axe(page), [], 'account');
		});

		step('it is refused in plain words, then leads back to where one was going', async () => {
			await leave();
			await page.goto('/memory');
			await page.waitForURL(/sign-in/);
			provider.refuses = true;
			await way(t.signInWith('House ID')).click();
			await page.getByText(t.oidcErrors.refused).waitFor();
			assert.deepEqual(await axe(page), [], 'sign-in');
			provider.refuses = false;
			await page.goto('/memory');
			await page.waitForURL(/sign-in/);
			await way(t.signInWith('House ID')).click();
			await page.waitForURL((url) => url.pathname === '/memory');
			await page.locator('main h2', { hasText: t.memory }).waitFor();
			await page.goto('/account');
			await connected();
			assert.deepEqual(page.faults, []);
		});
	});
}
