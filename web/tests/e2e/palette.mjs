// A screenshot as a small PNG: at most 256 colours, those that would be missed most; each other one as the nearest of them.
import { crc32, deflateSync, inflateSync } from 'node:zlib';

const SIGNATURE = Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]);

/** Width, height and RGB of an 8-bit PNG without interlace, as browsers write them. */
function pixels(png) {
	const parts = [];
	let width = 0;
	let height = 0;
	let bytesEach = 3;
	for (let at = 8; at < png.length; ) {
		const length = png.readUInt32BE(at);
		const type = png.toString('latin1', at + 4, at + 8);
		const data = png.subarray(at + 8, at + 8 + length);
		if (type === 'IHDR') {
			[width, height] = [data.readUInt32BE(0), data.readUInt32BE(4)];
			if (data[8] !== 8 || ![2, 6].includes(data[9]) || data[12] !== 0) throw new Error('not the kind of PNG that a browser writes');
			bytesEach = data[9] === 6 ? 4 : 3;
		}
		if (type === 'IDAT') parts.push(data);
		at += length + 12;
	}
	const raw = inflateSync(Buffer.concat(parts));
	const wide = width * bytesEach;
	const rgb = Buffer.alloc(width * height * 3);
	let above = Buffer.alloc(wide);
	for (let y = 0; y < height; y++) {
		const filter = raw[y * (wide + 1)];
		const row = Buffer.from(raw.subarray(y * (wide + 1) + 1, (y + 1) * (wide + 1)));
		for (let i = 0; i < wide; i++) {
			const [a, b, c] = [i < bytesEach ? 0 : row[i - bytesEach], above[i], i < bytesEach ? 0 : above[i - bytesEach]];
			const [da, db, dc] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
			const paeth = da <= db && da <= dc ? a : db <= dc ? b : c;
			row[i] += [0, a, b, (a + b) >> 1, paeth][filter];
		}
		for (let x = 0; x < width; x++) row.copy(rgb, (y * width + x) * 3, x * bytesEach, x * bytesEach + 3);
		above = row;
	}
	return { width, height, rgb };
}

function chunk(type, data) {
	const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
	const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
	length.writeUInt32BE(data.length);
	sum.writeUInt32BE(crc32(body));
	return Buffer.concat([length, body, sum]);
}

export function small(png) {
	const { width, height, rgb } = pixels(png);
	const n = new Map();
	for (let i = 0; i < rgb.length; i += 3) {
		const colour = rgb.readUIntBE(i, 3);
		n.set(colour, (n.get(colour) ?? 0) + 1);
	}
	const far = (a, b) => ((a >> 16) - (b >> 16)) ** 2 + (((a >> 8) & 255) - ((b >> 8) & 255)) ** 2 + ((a & 255) - (b & 255)) ** 2;
	// Each colour that is taken in is the one that the others stand in for worst: how often it comes, times how far it is.
	const colours = [...n].map(([colour, count]) => ({ colour, count, error: Infinity, at: 0 }));
	const palette = [];
	while (palette.length < Math.min(256, colours.length)) {
		const next = colours.reduce((worst, c) => (c.count * c.error > worst.count * worst.error || (c.error === worst.error && c.count > worst.count) ? c : worst));
		for (const c of colours) {
			const error = far(c.colour, next.colour);
			if (error < c.error) Object.assign(c, { error, at: palette.length });
		}
		palette.push(next.colour);
	}
	const index = new Map(colours.map(({ colour, at }) => [colour, at]));
	const rows = Buffer.alloc(height * (width + 1));
	for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) rows[y * (width + 1) + 1 + x] = index.get(rgb.readUIntBE((y * width + x) * 3, 3));
	const head = Buffer.alloc(13);
	head.writeUInt32BE(width, 0);
	head.writeUInt32BE(height, 4);
	head.set([8, 3, 0, 0, 0], 8);
	const table = Buffer.from(palette.flatMap((colour) => [colour >> 16, (colour >> 8) & 255, colour & 255]));
	return Buffer.concat([SIGNATURE, chunk('IHDR', head), chunk('PLTE', table), chunk('IDAT', deflateSync(rows, { level: 9 })), chunk('IEND', Buffer.alloc(0))]);
}
