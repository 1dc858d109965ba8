import { describe, expect, it } from 'vitest';
import { openFence, repair } from './repair';

describe('repair', () => {
	it.each([
		['a **bold', 'a **bold**'],
		['a **bold ', 'a **bold**'],
		['a **', 'a '],
		['a *b **c', 'a *b **c***'],
		['a *soft', 'a *soft*'],
		['a ~~gone', 'a ~~gone~~'],
		['snake_case_name', 'snake_case_name'],
		['2 * 3 * 4', '2 * 3 * 4'],
		['run `cargo te', 'run `cargo te`'],
		['run `', 'run '],
		['`**` and **x', '`**` and **x**'],
		['see [the book](https://exa', 'see the book'],
		['see [the bo', 'see the bo'],
		['see [the book]', 'see the book'],
		['![a pic', ''],
		['![a pic](https://x', ''],
		['whole [link](https://x.y) stays', 'whole [link](https://x.y) stays'],
		['text\n-', 'text\n'],
		['text\n##', 'text\n'],
		['mass $$x^2 + ', 'mass '],
		['| a | b |', '| a | b |\n| --- | --- |'],
		['| a | b', '| a | b |\n| --- | --- |'],
		['| a | b |\n| -', '| a | b |\n| --- | --- |'],
		['done **whole** text', 'done **whole** text'],
	])('%j becomes %j', (open, whole) => expect(repair(open)).toBe(whole));

	it('never shows a fence before its line is whole, nor half of its end', () => {
		expect(repair('say:\n```pyth')).toBe('say:\n');
		expect(repair('```py\nx = 1\n``')).toBe('```py\nx = 1\n');
		expect(openFence('```\na\n```')).toBe('none');
		expect(openFence('~~~\n```\n')).toBe('open');
	});
	it('ends for every beginning of a text, and never grows far', () => {
		const text = 'A **b *c* `d** e` [f](http://g) | h\n\n| i | j |\n| --- | --- |\n| k | l |\n\n```m\nn\n```\n$$o$$ ~~p~~ ***q*** \\*r';
		for (let i = 0; i <= text.length; i++) expect(repair(text.slice(0, i)).length).toBeLessThan(i + 40);
	});
});
