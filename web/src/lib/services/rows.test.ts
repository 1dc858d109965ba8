import { describe, expect, it } from 'vitest';
import { Rows } from './rows';

describe('Rows', () => {
	const ids = Array.from({ length: 2000 }, (_, i) => String(i));
	it('covers the window, and its parts always add up to the whole', () => {
		const rows = new Rows(100);
		rows.setIds(ids);
		ids.forEach((id, i) => i % 3 === 0 && rows.measure(id, 20 + ((i * 37) % 400)));
		for (let top = 0; top < rows.total; top += 997) {
			const { start, end, before, after } = rows.range(top, 800, 200);
			expect(before).toBeLessThanOrEqual(top);
			expect(rows.total - after).toBeGreaterThanOrEqual(Math.min(top + 800, rows.total));
			expect(before + (rows.offset(end) - rows.offset(start)) + after).toBeCloseTo(rows.total);
			expect(end - start).toBeLessThan(80);
		}
	});
	it('says by how much a row differs from what was assumed', () => {
		const rows = new Rows(100);
		rows.setIds(ids);
		expect(rows.measure('5', 130)).toBe(30);
		expect(rows.measure('5', 130)).toBe(0);
		expect(rows.total).toBe(200_030);
	});
	it('builds nothing of nothing', () => {
		const rows = new Rows(100);
		rows.setIds([]);
		expect(rows.range(0, 800, 100)).toEqual({ start: 0, end: 0, before: 0, after: 0 });
	});
});
