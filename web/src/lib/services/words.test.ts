import { expect, test } from 'vitest';
import { en } from '$lib/messages/en';
import { ja } from '$lib/messages/ja';
import { explained, formOf, named, reaction, readingWords, reason, sentence } from './words';

test('what the server says is said in the language of the reader, and what is unknown as it came', () => {
	expect(reason(ja, 'your message speaks of a feeling ("sad")')).toBe('気持ちに触れるメッセージのため(「sad」)');
	expect(reason(en, 'your message speaks of a feeling (sadness)')).toBe('your message speaks of a feeling (sadness)');
	expect(reason(ja, 'your message asks for care (celebrate)')).toBe('寄り添いを求めるメッセージのため(喜びを分かち合うこと)');
	expect(reason(ja, 'your message may speak of danger')).toBe('危険に触れている可能性があるため');
	expect(reason(ja, 'the stars were right')).toBe('the stars were right');
	expect(reaction(ja, 'thumb', -1)).toBe('良くない');
	expect(reaction(en, 'choice', { other_message_id: 'x', verdict: 'tie' })).toBe('about the same');
	expect(reaction(en, 'poke', { a: 1 })).toBe('{"a":1}');
	expect(named(ja.kinds, 'constructor')).toBe('constructor');
});

test('how it talks is explained from what the server told the model', () => {
	const line = { about: 'slider', slider: 'warmth', told: 'Be warm and friendly.', text: 'x' };
	expect(explained(en, 'en', line, [])).toBe('You set warmth; the assistant is told: “Be warm and friendly.”');
	expect(explained(ja, 'ja', line, [])).toContain('あたたかさ');
	expect(explained(ja, 'ja', { about: 'tomorrow', text: 'As it came.' }, [])).toBe('As it came.');
	expect(explained(ja, 'ja', 'As it came.', [])).toBe('As it came.');
});

test('a thought that is a form has its parts, as far as it has come', () => {
	expect(formOf('feel: sadness | need: comfort | tone: gentle | do: ask one question')?.map(({ part, value }) => [part, value])).toEqual([['feel', 'sadness'], ['need', 'comfort'], ['tone', 'gentle'], ['do', 'ask one question']]);
	expect(formOf('feel: sad')).toEqual([{ part: 'feel', value: 'sad' }]);
	expect(formOf('feel: joy | nee')).toEqual([{ part: 'feel', value: 'joy' }]);
	expect(formOf('I feel: it is late | and so on')).toBeNull();
});

test('errors read as sentences', () => {
	expect(sentence('write the name of the account to delete it')).toBe('Write the name of the account to delete it.');
	expect(sentence('Try again.')).toBe('Try again.');
	expect(ja.errorWords('limited', 'x')).toContain('上限');
	expect(en.errorWords('limited', 'Your messages are used up.')).toBe('Your messages are used up.');
});

test('a reading is told in words, and no more than was read', () => {
	const read = { basis: 'trained' as const, feelings: [{ label: 'sadness', probability: 0.8 }, { label: 'awe', probability: 0.4 }], intensity: 0.9, needs: [{ label: 'comfort', probability: 0.6 }], risk: { probability: 0.1, is_cue: false }, formality: null };
	expect(readingWords(en, read)).toBe('Strong: sadness, awe. Most likely wanted: comfort.');
	expect(readingWords(ja, { ...read, risk: { probability: 0.9, is_cue: true } })).toBe('強い：悲しみ、awe。求めていそうなこと：なぐさめ。危険に触れている可能性があるため、助けを先に伝えます。');
	expect(readingWords(en, { ...read, feelings: [{ label: 'neutral', probability: 0.9 }], needs: [] })).toBe('No feeling stands out.');
	expect(readingWords(en, { ...read, basis: 'none' })).toBe('This language is not read.');
});
