// Which rows of a long list are worth building: heights are guessed until a row has been seen, then known.

export interface Range {
	/** First row to build, and one past the last. */
	start: number;
	end: number;
	/** Pixels of the rows left out above and below. */
	before: number;
	after: number;
}

export class Rows {
	private heights = new Map<string, number>();
	private ids: readonly string[] = [];
	private offsets: number[] = [0];
	private dirty = true;

	constructor(private guess: number) {}

	setIds(ids: readonly string[]): void {
		this.ids = ids;
		this.dirty = true;
	}

	/** Returns by how many pixels the row differs from what was assumed of it. */
	measure(id: string, height: number): number {
		const change = height - (this.heights.get(id) ?? this.guess);
		if (change !== 0 || !this.heights.has(id)) {
			this.heights.set(id, height);
			this.dirty = true;
		}
		return change;
	}

	private sums(): number[] {
		if (this.dirty) {
			const sums = [0];
			let sum = 0;
			for (const id of this.ids) sums.push((sum += this.heights.get(id) ?? this.guess));
			this.offsets = sums;
			this.dirty = false;
		}
		return this.offsets;
	}

	get total(): number {
		return this.sums()[this.ids.length] ?? 0;
	}

	offset(index: number): number {
		return this.sums()[Math.max(0, Math.min(index, this.ids.length))] ?? 0;
	}

	/** The row at a height, by halving. */
	at(y: number): number {
		const sums = this.sums();
		let low = 0;
		let high = this.ids.length;
		while (low < high) {
			const mid = (low + high) >> 1;
			if ((sums[mid + 1] ?? 0) <= y) low = mid + 1;
			else high = mid;
		}
		return Math.min(low, Math.max(0, this.ids.length - 1));
	}

	/** The rows that touch the window, and `over` pixels more on both sides. */
	range(top: number, height: number, over: number): Range {
		if (this.ids.length === 0) return { start: 0, end: 0, before: 0, after: 0 };
		const start = this.at(Math.max(0, top - over));
		const end = Math.min(this.ids.length, this.at(top + height + over) + 1);
		return { start, end, before: this.offset(start), after: this.total - this.offset(end) };
	}
}
