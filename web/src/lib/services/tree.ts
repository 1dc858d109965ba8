// A conversation is a tree: each message knows its parent, and the head names the leaf that is shown.

export interface Node {
	id: string;
	parent_id: string | null;
	created_ms: number;
}

export class Tree<T extends Node> {
	private readonly byId = new Map<string, T>();
	private readonly childrenOf = new Map<string | null, T[]>();

	constructor(nodes: readonly T[]) {
		for (const node of nodes) this.byId.set(node.id, node);
		for (const node of nodes) {
			// A parent that is not there (cut by an import) makes a root of its own.
			const parent = node.parent_id !== null && this.byId.has(node.parent_id) ? node.parent_id : null;
			const list = this.childrenOf.get(parent);
			if (list) list.push(node);
			else this.childrenOf.set(parent, [node]);
		}
		for (const list of this.childrenOf.values()) list.sort((a, b) => a.created_ms - b.created_ms || (a.id < b.id ? -1 : 1));
	}

	get(id: string): T | undefined {
		return this.byId.get(id);
	}

	children(id: string | null): readonly T[] {
		return this.childrenOf.get(id) ?? [];
	}

	/** From the root to the head; empty for an unknown head. A damaged loop ends where it closes. */
	path(head: string | null): T[] {
		const path: T[] = [];
		const seen = new Set<string>();
		for (let at = head; at !== null && !seen.has(at); ) {
			const node = this.byId.get(at);
			if (!node) break;
			seen.add(at);
			path.push(node);
			at = node.parent_id;
		}
		return path.reverse();
	}

	/** The message with its brothers, in the order they were made, itself among them. */
	siblings(id: string): readonly T[] {
		const node = this.byId.get(id);
		if (!node) return [];
		const parent = node.parent_id !== null && this.byId.has(node.parent_id) ? node.parent_id : null;
		return this.children(parent);
	}

	/** The newest leaf below a message: what a person saw last on that branch. */
	leaf(id: string): string {
		const seen = new Set<string>();
		let at = id;
		for (;;) {
			seen.add(at);
			const next = this.children(at).at(-1);
			if (!next || seen.has(next.id)) return at;
			at = next.id;
		}
	}

	/** The newest leaf of all, for a conversation that names no head. */
	newest(): string | null {
		const root = this.children(null).at(-1);
		return root ? this.leaf(root.id) : null;
	}

	get branches(): number {
		let n = 0;
		for (const list of this.childrenOf.values()) n += list.length - 1;
		return n + (this.byId.size > 0 ? 1 : 0);
	}
}

export interface Row<T> {
	node: T;
	/** How many forks lie above: straight lines stay at one depth. */
	depth: number;
}

/** The tree in reading order, indented only where it forks. */
export function outline<T extends Node>(tree: Tree<T>): Row<T>[] {
	const rows: Row<T>[] = [];
	const stack: Row<T>[] = [...tree.children(null)].reverse().map((node) => ({ node, depth: 0 }));
	const seen = new Set<string>();
	while (stack.length > 0) {
		const row = stack.pop();
		if (!row || seen.has(row.node.id)) continue;
		seen.add(row.node.id);
		rows.push(row);
		const below = tree.children(row.node.id);
		const depth = below.length > 1 ? row.depth + 1 : row.depth;
		for (let i = below.length - 1; i >= 0; i--) {
			const node = below[i];
			if (node) stack.push({ node, depth });
		}
	}
	return rows;
}
