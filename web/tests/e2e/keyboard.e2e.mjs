// Everything by keys alone, on the scripted server, in both languages: no pointer, no script that clicks. What has the
// keyboard can be seen at every stop on the way, and is never lost.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { chat, start } from '../fake-server.mjs';
import { journey, launch, open, shut } from './browser.mjs';
import { words } from './house.mjs';

let browser;
before(async () => (browser = await launch()));
after(() => shut(browser));

/** What has the keyboard: its name, its kind, and whether a person sees that it has it. */
const focus = () => {
	const node = document.activeElement;
	if (!node || node === document.body) return { name: '', kind: 'nothing', seen: false };
	const words = (el) => el?.getAttribute('aria-label') ?? el?.textContent?.trim().replace(/\s+/g, ' ') ?? '';
	const labelled = node.getAttribute('aria-labelledby');
	const name = node.getAttribute('aria-label') ?? (labelled ? words(document.getElementById(labelled)) : (node.labels?.[0] && words(node.labels[0].querySelector('.name') ?? node.labels[0])) || words(node));
	// A radio of the mode picker is drawn by its label, the message's field by its box.
	const drawn = [node, node.closest('label'), node.closest('.box:focus-within')].filter(Boolean);
	const outlined = drawn.some((el) => {
		const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(el);
		return (outlineStyle !== 'none' && parseFloat(outlineWidth) >= 1) || (el.matches('.box') && boxShadow !== 'none');
	});
	const inSight = drawn.some((el) => {
		const box = el.getBoundingClientRect();
		return box.width > 1 && box.height > 1 && box.bottom > 0 && box.right > 0 && box.top < innerHeight && box.left < innerWidth;
	});
	return { name, kind: node.getAttribute('role') ?? node.tagName.toLowerCase(), id: node.id, seen: outlined && inSight };
};

for (const locale of ['en', 'ja']) {
	describe(`the keyboard alone (${locale})`, () => {
		const step = journey(120_000);
		let server;
		let page;
		let t;
		before(async () => {
			t = await words(locale);
			server = await start();
			server.state.signedIn = false;
			chat(server.state, 'Bread', [['why does bread rise', 'Yeast breathes out gas.']], { id: 'bread' });
			page = await open(browser, null, { locale, baseURL: server.url, reducedMotion: 'reduce' });
			await page.addInitScript(`globalThis.focusOfKeys = ${focus}`);
		});
		after(async () => {
			await shut(page?.context());
			await server?.close();
		});

		const press = (...keys) => keys.reduce((done, key) => done.then(() => page.keyboard.press(key)), Promise.resolve());
		const type = (text) => page.keyboard.insertText(text);
		/** Goes on by Tab until something is reached, and sees every stop. */
		async function to(name, { key = 'Tab', kind } = {}) {
			const been = [];
			for (let i = 0; i < 120; i++) {
				const at = await page.evaluate(focus);
				const isIt = (name instanceof RegExp ? name.test(at.name) : at.name === name || at.id === name) && (!kind || at.kind === kind);
				// What slides into sight, such as the link over the list, takes a moment.
				if (at.kind !== 'nothing' && at.id !== 'main' && !at.seen) await page.waitForFunction(() => globalThis.focusOfKeys().seen, null, { timeout: 2000 }).catch(() => assert.fail(`the keyboard is at “${at.name}” (${at.kind}), and nobody sees it`));
				if (isIt) return;
				been.push(at.name.slice(0, 24));
				await press(key);
			}
			assert.fail(`“${name}” cannot be reached by ${key}; it went by ${been.join(', ')}`);
		}
		const use = async (name, options) => {
			await to(name, options);
			await press('Enter');
		};
		/** The keyboard is somewhere now, without a press. */
		const isAt = async (name) => {
			await page.waitForFunction((wanted) => {
				const at = globalThis.focusOfKeys();
				return at.seen && (at.name === wanted || at.id === wanted);
			}, name);
		};
		const told = (text) => page.getByText(text).first().waitFor();
		/** An entry of the menu that is open. */
		const choose = async (label) => {
			await page.waitForFunction(() => document.activeElement?.getAttribute('role') === 'menuitem');
			await use(label, { key: 'ArrowDown' });
		};
		/** A dialog is open, and has the keyboard. */
		const asked = () => page.waitForFunction(() => document.activeElement?.closest('dialog[open]'));
		const done = () => page.locator('form .go[type=submit]').waitFor();

		step('signs in', async () => {
			await page.goto('/');
			await page.locator('#name').waitFor();
			await to('name');
			await type('Robin');
			await to('password');
			await type('right and long');
			await press('Enter');
			await isAt(t.message);
		});

		step('chooses a mode, sends, stops, and goes on', async () => {
			await to(t.auto, { kind: 'input' });
			await press('ArrowRight', 'ArrowRight');
			await to(t.thinking, { kind: 'input' });
			assert.equal(await page.locator('input[value=thinking]').isChecked(), true);
			await to(t.message, { key: 'Shift+Tab' });
			await type('SLOW tell me');
			await use(t.send);
			await page.waitForURL(/\/c\//);
			await page.getByRole('button', { name: t.stop, exact: true }).waitFor();
			await to(t.stop);
			await press('Enter');
			await told(t.stopped);
			await isAt(t.message);
			await use(t.goOn, { key: 'Shift+Tab' });
			await told('And one thing more.');
			await isAt(t.message);
			server.state.release();
		});

		step('ends a thought, and opens it', async () => {
			server.state.held = new Promise((resolve) => (server.state.release = resolve));
			await to(t.message);
			await type('THINK SLOW ECHO:a plain answer');
			await press('Enter');
			await page.locator('.thought.thinking').last().waitFor();
			await use(t.answerNow, { key: 'Shift+Tab' });
			await page.waitForFunction(() => document.activeElement?.hasAttribute('aria-expanded'));
			await done();
			assert.ok((await page.evaluate(focus)).seen, 'the keyboard stays at the thought');
		});

		step('rates, says why, and writes it better', async () => {
			await to(t.message);
			await use(t.bad, { key: 'Shift+Tab' });
			await told(t.keptForYou);
			await use(t.too_long);
			await use(t.addComment);
			await page.waitForFunction(() => document.activeElement?.tagName === 'TEXTAREA');
			await type('It goes on and on.');
			await use(t.thanksComment);
			await page.locator('.panel').waitFor({ state: 'detached' });
			await isAt(t.bad);
			await press('Enter');
			await told(t.takenBack);
			await press('Enter');
			await use(t.improve);
			await press('Escape');
			await isAt(t.improve);
			await use(t.close);
			await isAt(t.bad);
			assert.deepEqual(server.state.feedback.filter((f) => f.kind !== 'regenerate').map((f) => f.value), [-1, 'too_long', 'It goes on and on.', 0, -1]);
		});

		step('looks at details, copies, answers again, and goes between versions', async () => {
			await use(t.details);
			await told(t.detailBuild);
			await press('Enter');
			await use(t.regenerate, { key: 'Shift+Tab' });
			await isAt(t.message);
			await told('2/2');
			await done();
			await use(t.previousVersion, { key: 'Shift+Tab' });
			await told('1/2');
			await isAt(t.nextVersion);
			await press('Enter');
			await told('2/2');
			await isAt(t.previousVersion);
		});

		step('edits into a branch, and goes to the other by the tree', async () => {
			await use(t.edit, { key: 'Shift+Tab' });
			await isAt(t.editMessage);
			await press('Escape');
			await isAt(t.edit);
			await press('Enter', 'Control+a');
			await type('Tell me in other words');
			await use(t.sendEdited);
			await page.locator('.bubble', { hasText: 'in other words' }).waitFor();
			await isAt(t.message);
			await use(t.branches, { key: 'Shift+Tab' });
			await page.locator('dialog[open] li').first().waitFor();
			await asked();
			await use(/THINK SLOW/);
			await page.locator('.bubble', { hasText: 'THINK SLOW' }).waitFor();
			await isAt(t.branches);
		});

		step('shares, and takes it back', async () => {
			await use(t.share);
			await asked();
			await use(t.shareMake);
			await isAt(t.shareLink);
			await use(t.shareRevoke);
			await told(t.shareRevoked);
			await isAt(t.shareMake);
			await press('Escape');
			await isAt(t.share);
		});

		step('chooses blindly between two replies', async () => {
			await to(t.message);
			await type('CHOICE which first?');
			await press('Enter');
			await page.locator('.verdicts button:enabled').first().waitFor();
			await use(new RegExp(t.choiceOther), { key: 'Shift+Tab' });
			await page.locator('.verdicts').waitFor({ state: 'detached' });
			await isAt(t.message);
		});

		step('searches, and opens what was found', async () => {
			await press('Control+k');
			await isAt(t.searchChats);
			await type('yeast');
			await page.locator('dialog mark').first().waitFor();
			await press('ArrowDown', 'Enter');
			await page.waitForURL(/\/c\/bread/);
			await page.locator('.prose', { hasText: 'Yeast' }).waitFor();
		});

		step('skips the list, makes a folder, moves, renames and deletes a chat', async () => {
			await page.goto('/');
			await page.locator('form .box').waitFor();
			await to(t.skip, { key: 'Shift+Tab' });
			await press('Enter');
			assert.equal(await page.evaluate(() => document.activeElement?.id), 'main');
			await use(t.newFolder, { key: 'Shift+Tab' });
			await isAt('new-name');
			await type('Kitchen');
			await press('Enter');
			await isAt(t.newFolder);
			const options = t.chatMenu('Bread');
			await use(options);
			await choose(t.moveTo);
			await asked();
			await use('Kitchen');
			await isAt(options);
			assert.equal(server.state.chats.get('bread').conversation.folder_id, server.state.folders.at(-1).id);
			await press('Enter');
			await choose(t.rename);
			await isAt('new-name');
			await press('Control+a');
			await type('Good bread');
			await press('Enter');
			await isAt(t.chatMenu('Good bread'));
			await press('Enter');
			await choose(t.remove);
			await asked();
			await use(t.remove);
			await page.locator('.chat', { hasText: 'Good bread' }).waitFor({ state: 'detached' });
			assert.equal(server.state.chats.has('bread'), false);
			await to(t.folders, { key: 'Shift+Tab' });
			await press('End');
			await page.getByRole('button', { name: t.deleteFolder, exact: true }).waitFor();
		});

		step('sets persona, sliders and instructions, takes back, and remembers', async () => {
			await page.goto('/style');
			await page.locator('#warmth').waitFor();
			await to(/Steady/, { kind: 'radio' });
			await press('ArrowDown');
			await to(/Spark/, { kind: 'radio' });
			await press('Space');
			await page.locator('[role=radio][aria-checked=true]', { hasText: 'Spark' }).waitFor();
			assert.ok((await page.evaluate(focus)).seen);
			await to('warmth');
			await press('ArrowRight');
			await page.waitForFunction(() => document.querySelector('#warmth')?.value === '2');
			await to('instructions');
			await type('Explain as to a colleague.');
			await use(t.save);
			await page.locator('form.card .primary:disabled').waitFor();
			await use(t.undo, { key: 'Shift+Tab' });
			await told(t.styleUndone);
			assert.deepEqual([server.state.style.persona, server.state.style.sliders.warmth, server.state.style.instructions], ['spark', 2, 'Explain as to a colleague.']);
			await use(t.reset);
			await asked();
			await use(t.reset);
			await told(t.howItTalksEmpty);
			await page.goto('/memory');
			await page.locator('.lines').waitFor();
			await to(t.memoryAdd);
			await type('I keep bees.');
			await press('Enter');
			await told('I keep bees.');
			await use(`${t.edit}: I keep bees.`);
			await press('Control+a');
			await type('I keep goats.');
			await press('Enter');
			await isAt(`${t.edit}: I keep goats.`);
			await use(`${t.forget}: I keep goats.`);
			await isAt(t.memoryAdd);
		});

		step('makes and revokes a key, and changes colours', async () => {
			await page.goto('/account');
			await page.locator('#theme').waitFor();
			await to('theme');
			await press('ArrowDown', 'ArrowDown');
			assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), 'dark');
			await use(t.newKey);
			await isAt('key-name');
			await type('Script');
			await press('Enter');
			await page.locator('.secret').waitFor();
			await press('Escape');
			await isAt(t.newKey);
			await use(t.revoke);
			await asked();
			await use(t.revoke);
			await page.locator('.lines', { hasText: 'Notebook' }).waitFor({ state: 'detached' });
			await to('training');
			await press('Space');
			await told(t.saved);
			assert.equal(server.state.training, true);
		});

		step('administers: every page, a person, the settings', async () => {
			await page.goto('/admin/live');
			await page.locator('.plots .card').first().waitFor();
			for (const tab of ['users', 'keys', 'plans', 'models', 'feedback', 'settings']) {
				await use(t[tab], { kind: 'a' });
				await page.waitForURL(new RegExp(`/admin/${tab}`));
				await page.locator('.page .card').first().waitFor();
			}
			await to('sign-up');
			await press('Space');
			await to('choice-every');
			await press('Home');
			await use(t.save);
			await told(t.saved);
			const saved = server.state.requests.findLast((r) => r.method === 'PATCH' && r.path === '/api/admin/settings').body;
			assert.deepEqual([saved.sign_up, saved.choice_every], [false, 0]);
			await use(t.users, { key: 'Shift+Tab', kind: 'a' });
			await page.locator('table').waitFor();
			await use(`${t.more}: Kim`);
			await choose(t.edit);
			await asked();
			await to('user-role');
			await press('ArrowDown');
			await use(t.save);
			await isAt(`${t.more}: Kim`);
			assert.equal(server.state.requests.findLast((r) => r.path === '/api/admin/users/u2').body.role, 'admin');
		});

		step('signs out, with nothing in the way', async () => {
			await page.evaluate(() => (globalThis.isOld = true));
			await use(t.account, { kind: 'button' });
			await choose(t.signOut);
			await page.waitForURL(/sign-in/);
			await page.waitForFunction(() => !globalThis.isOld && document.querySelector('#name'));
			assert.deepEqual(page.faults, []);
		});
	});
}
