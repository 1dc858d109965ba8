import { describe, expect, it } from 'vitest';
import { outline, Tree } from './tree';

const node = (id: string, parent_id: string | null, created_ms: number) => ({ id, parent_id, created_ms });
// u1 - a1 - u2 - a2 ; a1 regenerated as a1b ; u2 edited as u2b - a3
const nodes = [node('u1', null, 1), node('a1', 'u1', 2), node('u2', 'a1', 3), node('a2', 'u2', 4), node('a1b', 'u1', 5), node('u2b', 'a1', 6), node('a3', 'u2b', 7)];
const tree = new Tree(nodes);
const ids = (list: readonly { id: string }[]) => list.map((n) => n.id);

describe('Tree', () => {
	it('walks from the root to the head', () => {
		expect(ids(tree.path('a2'))).toEqual(['u1', 'a1', 'u2', 'a2']);
		expect(tree.path('nobody')).toEqual([]);
		expect(tree.path(null)).toEqual([]);
	});
	it('knows the versions of a message in the order they were made', () => {
		expect(ids(tree.siblings('u2b'))).toEqual(['u2', 'u2b']);
		expect(ids(tree.siblings('a1'))).toEqual(['a1', 'a1b']);
		expect(ids(tree.siblings('u1'))).toEqual(['u1']);
	});
	it('goes back to where a branch was left', () => {
		expect(tree.leaf('a1')).toBe('a3');
		expect(tree.leaf('u2')).toBe('a2');
		expect(tree.newest()).toBe('a1b');
		expect(tree.branches).toBe(3);
	});
	it('ends on loops and takes orphans as roots', () => {
		const odd = new Tree([node('x', 'y', 1), node('y', 'x', 2), node('o', 'gone', 3)]);
		expect(ids(odd.path('x'))).toEqual(['y', 'x']);
		expect(odd.newest()).toBe('o');
	});
	it('indents only where it forks', () => {
		expect(outline(tree).map(({ node: n, depth }) => `${n.id}:${depth}`)).toEqual(['u1:0', 'a1:1', 'u2:2', 'a2:2', 'u2b:2', 'a3:2', 'a1b:1']);
	});
});
