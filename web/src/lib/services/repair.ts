// Unfinished markdown, as it stands in the middle of a stream, made whole for the eye: what is open gets closed,
// what is not yet worth showing is held back. Only the last block of a reply passes here, and only while it arrives.

/** Closes or holds back what the last block of a stream leaves open. */
export function repair(source: string): string {
	let text = source;
	const fence = openFence(text);
	if (fence === 'opening') return text.slice(0, text.lastIndexOf('\n') + 1);
	if (fence === 'open') {
		// The closing fence may be half here: do not show its first backticks as code.
		return text.replace(/\n[ \t]{0,3}(`{1,2}|~{1,2})$/, '\n');
	}
	text = text.replace(/(^|\n)[ \t]*([-=_*]{1,2}|#{1,6}|>|\d{1,9}[.)]|\|)[ \t]*$/, '$1');
	text = table(text);
	text = links(text);
	return closeInline(text);
}

/** Whether the text ends inside a code block, or in the line that opens one. */
export function openFence(text: string): 'none' | 'opening' | 'open' {
	let open: { mark: string; length: number } | null = null;
	const lines = text.split('\n');
	for (let i = 0; i < lines.length; i++) {
		const line = lines[i] ?? '';
		const match = /^[ \t]{0,3}(`{3,}|~{3,})(.*)$/.exec(line);
		if (open === null) {
			if (match && !(match[1]?.startsWith('`') && match[2]?.includes('`'))) {
				open = { mark: match[1]?.[0] ?? '`', length: match[1]?.length ?? 3 };
				// The info string may still grow: "```py" before "```python".
				if (i === lines.length - 1) return 'opening';
			} else if (i === lines.length - 1 && /^[ \t]{0,3}(`{1,2}|~{1,2})$/.test(line)) return 'opening';
		} else if (match && match[1]?.[0] === open.mark && (match[1]?.length ?? 0) >= open.length && match[2]?.trim() === '') {
			open = null;
		}
	}
	return open === null ? 'none' : 'open';
}

/** A header row alone becomes a table at once, so that the paragraph does not jump into one. */
function table(text: string): string {
	const lines = text.split('\n');
	const start = lastBlank(lines) + 1;
	const header = lines[start] ?? '';
	if (!/^[ \t]*\|.*\S/.test(header) || lines.length - start > 2) return text;
	const columns = header.trim().replace(/^\||\|$/g, '').split(/(?<!\\)\|/).length;
	const rule = lines[start + 1];
	if (rule !== undefined && !/^[ \t]*\|?[\s:|-]*$/.test(rule)) return text;
	const closed = header.trimEnd().endsWith('|') ? header : `${header} |`;
	return [...lines.slice(0, start), closed, `|${' --- |'.repeat(columns)}`].join('\n');
}

function lastBlank(lines: string[]): number {
	for (let i = lines.length - 1; i >= 0; i--) if (lines[i]?.trim() === '') return i;
	return -1;
}

/** `[text](https://…` shows its text until the address is whole; half an image shows nothing. */
function links(text: string): string {
	return text
		.replace(/!\[[^\]\n]*(\]\([^)\n]*)?$/, '')
		.replace(/!$/, '')
		.replace(/\[([^\]\n]*)\]\([^)\n]*$/, '$1')
		.replace(/\[([^\]\n]*)\]$/, '$1')
		.replace(/(^|[^\\])\[([^\]\n]*)$/, '$1$2')
		.replace(/<[a-z][a-z0-9+.-]*:[^>\s]*$/i, '');
}

/** Closes code, bold, italics, strike and maths in the last paragraph, innermost first. */
function closeInline(text: string): string {
	const lines = text.split('\n');
	const from = lastBlank(lines) + 1;
	if (from >= lines.length) return text;
	const head = lines.slice(0, from).join('\n') + (from > 0 ? '\n' : '');
	let tail = lines.slice(from).join('\n');
	const open: string[] = [];
	for (let i = 0; i < tail.length; ) {
		const c = tail[i] ?? '';
		if (c === '\\') {
			i += 2;
			continue;
		}
		if (c === '`') {
			let n = 1;
			while (tail[i + n] === '`') n++;
			const mark = '`'.repeat(n);
			const close = findRun(tail, i + n, n);
			if (close < 0) {
				if (tail.slice(i + n).trim() === '') return head + stripped(tail.slice(0, i), open);
				return head + tail + mark + closing(open);
			}
			i = close + n;
			continue;
		}
		if (c === '$' && tail[i + 1] === '$') {
			const close = tail.indexOf('$$', i + 2);
			if (close < 0) return head + stripped(tail.slice(0, i), open);
			i = close + 2;
			continue;
		}
		if (c === '*' || c === '_' || (c === '~' && tail[i + 1] === '~')) {
			let n = 1;
			while (tail[i + n] === c) n++;
			let left = Math.min(n, 3);
			const before = tail[i - 1] ?? ' ';
			const after = tail[i + n] ?? '';
			const canClose = !/\s/.test(before);
			const canOpen = after !== '' && !/\s/.test(after) && !(c === '_' && /\w/.test(before));
			while (left > 0) {
				const top = open.at(-1);
				if (canClose && top !== undefined && top[0] === c && top.length <= left) {
					open.pop();
					left -= top.length;
				} else if (canOpen && !(c === '*' && i > 0 && tail.slice(0, i).trim() === '' && /\s/.test(after))) {
					const mark = c.repeat(c === '~' ? 2 : left === 3 ? 2 : left);
					open.push(mark);
					left -= mark.length;
				} else break;
			}
			if (after === '' && left > 0 && !canClose) {
				tail = tail.slice(0, i);
				break;
			}
			if (after === '' && left > 0) {
				tail = tail.slice(0, tail.length - left);
				break;
			}
			i += n;
			continue;
		}
		i++;
	}
	return head + stripped(tail, open);
}

function findRun(text: string, from: number, n: number): number {
	for (let i = from; i < text.length; i++) {
		if (text[i] !== '`') continue;
		let run = 1;
		while (text[i + run] === '`') run++;
		if (run === n) return i;
		i += run - 1;
	}
	return -1;
}

const closing = (open: string[]) => [...open].reverse().join('');

/** Closing marks hold only directly after a word: spaces before them go. */
function stripped(tail: string, open: string[]): string {
	if (open.length === 0) return tail;
	let body = tail.trimEnd();
	const marks = [...open];
	for (let mark = marks.at(-1); mark !== undefined && body.endsWith(mark); mark = marks.at(-1)) {
		body = body.slice(0, -mark.length).trimEnd();
		marks.pop();
	}
	return body + closing(marks);
}
