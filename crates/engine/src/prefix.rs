//! What finished sequences leave for the next ones: a radix tree of whole pages.
//!
//! Every edge is labelled with the tokens of one page, the adapter they were computed with and the
//! namespace that owns it, so a path from the root says all that a page's keys and values depend on,
//! and nobody can walk into pages
//! under another's label: another tenant's pages are neither found nor searched.
//!
//! [`PrefixTree`] knows only paths and ages; [`PrefixCache`] puts pages in it. The disk tier keeps
//! file places in another such tree.
//!
//! What is not here: edges of several pages. A tree of single pages is simpler, a walk costs a
//! hash of 160 bytes for each 32 tokens, and pages leave one at a time anyway.

use std::collections::{BTreeSet, HashMap};

use rapport_kernels::PAGE_TOKENS;

use crate::pages::{Page, PageTable};

/// An opaque name that pages are cached under, such as a keyed hash of a tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheKey(pub [u8; 32]);

/// Who may reuse what a sequence computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheScope {
    /// Only requests with the same key find these pages.
    pub key: CacheKey,
    /// A beginning that the operator owns and lets several keys share.
    pub shared: Option<SharedPrefix>,
    /// What was added to the model; a request's own says so, whatever stands here.
    pub adapter: AdapterKey,
}

/// Names an adapter's bytes; all zeros for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdapterKey(pub [u8; 32]);

/// The operator's part of a prompt: the same text for everybody who has its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedPrefix {
    pub key: CacheKey,
    /// How much of the prompt's beginning it is.
    pub n_tokens: usize,
}

/// The label of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Edge {
    pub(crate) key: CacheKey,
    pub(crate) adapter: AdapterKey,
    pub(crate) tokens: [u32; PAGE_TOKENS],
}

impl CacheScope {
    /// The labels of the whole pages of `tokens`.
    pub(crate) fn edges(&self, tokens: &[u32]) -> impl Iterator<Item = Edge> {
        let n_shared_pages = self.shared.map_or(0, |shared| shared.n_tokens / PAGE_TOKENS);
        let shared_key = self.shared.map_or(self.key, |shared| shared.key);
        tokens.as_chunks().0.iter().enumerate().map(move |(page_idx, tokens)| Edge {
            key: if page_idx < n_shared_pages { shared_key } else { self.key },
            adapter: self.adapter,
            tokens: *tokens,
        })
    }
}

/// A place in a [`PrefixTree`]; valid until its node is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeIdx(usize);

/// Values at the ends of paths, with the age of each.
pub(crate) struct PrefixTree<T> {
    nodes: Vec<Option<Node<T>>>,
    vacant: Vec<NodeIdx>,
    roots: HashMap<Edge, NodeIdx>,
    /// Oldest use first.
    leaves: BTreeSet<(u64, NodeIdx)>,
    /// Counts uses.
    clock: u64,
}

struct Node<T> {
    value: T,
    edge: Edge,
    parent: Option<NodeIdx>,
    children: HashMap<Edge, NodeIdx>,
    last_use: u64,
    n_pins: u32,
}

impl<T> PrefixTree<T> {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            vacant: Vec::new(),
            roots: HashMap::new(),
            leaves: BTreeSet::new(),
            clock: 0,
        }
    }

    fn node(&self, idx: NodeIdx) -> &Node<T> {
        self.nodes[idx.0].as_ref().expect("a place that is in use")
    }

    fn node_mut(&mut self, idx: NodeIdx) -> &mut Node<T> {
        self.nodes[idx.0].as_mut().expect("a place that is in use")
    }

    pub(crate) fn value(&self, idx: NodeIdx) -> &T {
        &self.node(idx).value
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.nodes.iter().flatten().map(|node| &node.value)
    }

    /// The longest path that exists, and marks it as used now.
    pub(crate) fn walk(&mut self, edges: impl Iterator<Item = Edge>) -> Vec<NodeIdx> {
        self.clock += 1;
        let mut path = Vec::new();
        for edge in edges {
            let Some(idx) = self.child(path.last().copied(), &edge) else { break };
            self.touch(idx);
            path.push(idx);
        }
        path
    }

    fn child(&self, parent: Option<NodeIdx>, edge: &Edge) -> Option<NodeIdx> {
        let children = parent.map_or(&self.roots, |parent| &self.node(parent).children);
        children.get(edge).copied()
    }

    fn touch(&mut self, idx: NodeIdx) {
        let clock = self.clock;
        let node = self.node_mut(idx);
        let before = std::mem::replace(&mut node.last_use, clock);
        if self.leaves.remove(&(before, idx)) {
            self.leaves.insert((clock, idx));
        }
    }

    /// Adds a node that does not exist yet.
    pub(crate) fn insert(&mut self, parent: Option<NodeIdx>, edge: Edge, value: T) -> NodeIdx {
        let last_use = self.clock;
        let node = Node { value, edge, parent, children: HashMap::new(), last_use, n_pins: 0 };
        let idx = if let Some(idx) = self.vacant.pop() {
            self.nodes[idx.0] = Some(node);
            idx
        } else {
            self.nodes.push(Some(node));
            NodeIdx(self.nodes.len() - 1)
        };
        let before = match parent {
            None => self.roots.insert(edge, idx),
            Some(parent) => {
                let parent_use = self.node(parent).last_use;
                self.leaves.remove(&(parent_use, parent));
                self.node_mut(parent).children.insert(edge, idx)
            }
        };
        debug_assert!(before.is_none(), "a path leads to one place");
        self.leaves.insert((last_use, idx));
        idx
    }

    /// Those that nothing hangs under, the one used longest ago first.
    fn leaves(&self) -> impl Iterator<Item = NodeIdx> {
        self.leaves.iter().map(|(_, idx)| *idx)
    }

    /// Removes a node and all under it; returns their values, the deepest first.
    pub(crate) fn remove(&mut self, idx: NodeIdx) -> Vec<T> {
        let parent = self.node(idx).parent;
        let edge = self.node(idx).edge;
        match parent {
            None => {
                self.roots.remove(&edge);
            }
            Some(parent) => {
                let node = self.node_mut(parent);
                node.children.remove(&edge);
                if node.children.is_empty() {
                    let last_use = node.last_use;
                    self.leaves.insert((last_use, parent));
                }
            }
        }
        let mut values = Vec::new();
        let mut remaining = vec![idx];
        while let Some(idx) = remaining.pop() {
            let node = self.nodes[idx.0].take().expect("a place that is in use");
            self.leaves.remove(&(node.last_use, idx));
            self.vacant.push(idx);
            remaining.extend(node.children.into_values());
            values.push(node.value);
        }
        values.reverse();
        values
    }

    /// What hangs at the ends of a key's labels.
    pub(crate) fn of_key(&self, key: CacheKey) -> impl Iterator<Item = &T> {
        let nodes = self.nodes.iter().flatten();
        nodes.filter(move |node| node.edge.key == key).map(|node| &node.value)
    }

    /// Removes everything under a key's labels.
    pub(crate) fn remove_key(&mut self, key: CacheKey) -> Vec<T> {
        let mut values = Vec::new();
        for at in 0..self.nodes.len() {
            if self.nodes[at].as_ref().is_some_and(|node| node.edge.key == key) {
                values.extend(self.remove(NodeIdx(at)));
            }
        }
        values
    }
}

/// Pages in memory, shared without copying.
///
/// A page in the tree is held (some sequence has it too) or cached. Sequences hold whole paths
/// from the root, so under a cached page there are only cached ones.
pub(crate) struct PrefixCache {
    tree: PrefixTree<Page>,
}

impl PrefixCache {
    pub(crate) fn new() -> Self {
        Self { tree: PrefixTree::new() }
    }

    /// The pages of the longest cached beginning of `tokens`.
    pub(crate) fn find(&mut self, scope: &CacheScope, tokens: &[u32]) -> Vec<Page> {
        let path = self.tree.walk(scope.edges(tokens));
        path.into_iter().map(|idx| self.tree.value(idx).clone()).collect()
    }

    /// Keeps a sequence's whole pages. Where the same ones are there already the sequence gets
    /// those, and its own are free again.
    pub(crate) fn keep(&mut self, scope: &CacheScope, tokens: &[u32], pages: &mut PageTable) {
        let path = self.tree.walk(scope.edges(tokens));
        for (page_idx, idx) in path.iter().enumerate() {
            pages.replace(page_idx, self.tree.value(*idx));
        }
        let mut parent = path.last().copied();
        for (page_idx, edge) in scope.edges(tokens).enumerate().skip(path.len()) {
            parent = Some(self.tree.insert(parent, edge, pages.get(page_idx)));
        }
    }

    /// Frees the page that was used longest ago and nobody holds; pinned ones only on demand.
    pub(crate) fn evict(&mut self, evict: Evict) -> bool {
        let victim = self.tree.leaves().find(|idx| {
            let node = self.tree.node(*idx);
            !node.value.is_shared() && (node.n_pins == 0 || evict == Evict::Pinned)
        });
        let Some(idx) = victim else { return false };
        self.tree.remove(idx);
        true
    }

    /// How many pages of the cached beginning of `tokens` cannot be evicted anyway.
    pub(crate) fn n_held(&mut self, scope: &CacheScope, tokens: &[u32]) -> usize {
        let path = self.tree.walk(scope.edges(tokens));
        let nodes = path.into_iter().map(|idx| self.tree.node(idx));
        nodes.filter(|node| node.n_pins > 0 || node.value.is_shared()).count()
    }

    /// Whether at least `n_pages` could be freed by [`Self::evict`], pinned ones left alone.
    pub(crate) fn can_evict(&self, n_pages: usize) -> bool {
        let pages = self.tree.nodes.iter().flatten();
        let evictable = pages.filter(|node| node.n_pins == 0 && !node.value.is_shared());
        evictable.take(n_pages).count() == n_pages
    }

    /// Pages that only the tree holds.
    pub(crate) fn n_cached(&self) -> usize {
        self.tree.values().filter(|page| !page.is_shared()).count()
    }

    /// Pins the cached beginning of `tokens` once more; returns how many tokens that is.
    pub(crate) fn pin(&mut self, scope: &CacheScope, tokens: &[u32]) -> usize {
        let path = self.tree.walk(scope.edges(tokens));
        for idx in &path {
            self.tree.node_mut(*idx).n_pins += 1;
        }
        path.len() * PAGE_TOKENS
    }

    /// Takes one pin back from the cached beginning of `tokens`.
    pub(crate) fn unpin(&mut self, scope: &CacheScope, tokens: &[u32]) {
        for idx in self.tree.walk(scope.edges(tokens)) {
            let node = self.tree.node_mut(idx);
            node.n_pins = node.n_pins.saturating_sub(1);
        }
    }

    pub(crate) fn forget(&mut self, key: CacheKey) {
        self.tree.remove_key(key);
    }
}

/// What may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evict {
    Unpinned,
    Pinned,
}
