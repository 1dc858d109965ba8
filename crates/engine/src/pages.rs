//! Pages of keys and values, and what finished sequences leave for the next ones.
//!
//! A page is free (a number), held by a running sequence, or cached: `free + held + cached` is
//! always the total. Cached pages are whole, never written again, and shared by every sequence that
//! starts with their tokens.

use std::sync::Arc;

use rapport_kernels::{AttentionShape, KvPage, KvType, PAGE_TOKENS};

pub(crate) struct Pages {
    shape: AttentionShape,
    kv_type: KvType,
    n_total: usize,
    /// Reserved by running sequences, written or not yet. Shared pages count for each holder, so
    /// memory is never above the total.
    n_held: usize,
    /// Oldest use first.
    cached: Vec<CachedPrefix>,
}

/// A finished sequence's whole pages and the tokens they hold.
struct CachedPrefix {
    tokens: Vec<u32>,
    pages: Vec<Arc<KvPage>>,
}

/// Room for one sequence: shared pages first, then those it writes.
pub(crate) struct Reservation {
    pub(crate) pages: Vec<Arc<KvPage>>,
    pub(crate) n_shared: usize,
    pub(crate) n_pages: usize,
}

impl Pages {
    pub(crate) fn new(shape: AttentionShape, kv_type: KvType, n_total: usize) -> Self {
        Self { shape, kv_type, n_total, n_held: 0, cached: Vec::new() }
    }

    pub(crate) fn n_total(&self) -> usize {
        self.n_total
    }

    fn n_cached(&self) -> usize {
        self.cached.iter().map(|prefix| prefix.pages.len()).sum()
    }

    #[cfg(test)]
    pub(crate) fn n_free(&self) -> usize {
        self.n_total - self.n_held - self.n_cached()
    }

    #[cfg(test)]
    pub(crate) fn n_held(&self) -> usize {
        self.n_held
    }

    /// Reserves room for `n_tokens`, sharing the longest cached prefix of `prompt`; drops the
    /// prefixes used longest ago where that makes the room. `None` while others hold it.
    pub(crate) fn reserve(&mut self, prompt: &[u32], n_tokens: usize) -> Option<Reservation> {
        // The prompt's last token is always computed: its logits are what the reply starts from.
        let usable = &prompt[..prompt.len() - 1];
        let best = (0..self.cached.len())
            .map(|idx| (self.cached[idx].n_common_pages(usable), idx))
            .max_by_key(|(n_common, idx)| (*n_common, *idx))
            .filter(|(n_common, _)| *n_common > 0);
        let mut shared = Vec::new();
        if let Some((n_common, idx)) = best {
            let prefix = self.cached.remove(idx);
            shared.extend_from_slice(&prefix.pages[..n_common]);
            self.cached.push(prefix);
        }
        let n_shared = shared.len();
        let n_pages = n_tokens.div_ceil(PAGE_TOKENS);
        if self.n_held + n_pages > self.n_total {
            return None;
        }
        while self.n_held + self.n_cached() + n_pages > self.n_total {
            self.cached.remove(0);
        }
        self.n_held += n_pages;
        Some(Reservation { pages: shared, n_shared, n_pages })
    }

    /// A fresh page for a sequence that has reserved it.
    pub(crate) fn page(&self) -> Arc<KvPage> {
        Arc::new(KvPage::new(self.shape, self.kv_type))
    }

    /// Takes a sequence's room back and keeps its whole pages for the next turn.
    pub(crate) fn release(&mut self, reservation: Reservation, tokens: &[u32]) {
        self.n_held -= reservation.n_pages;
        let n_whole = (tokens.len() / PAGE_TOKENS).min(reservation.pages.len());
        let mut pages = reservation.pages;
        pages.truncate(n_whole);
        if n_whole == 0 {
            return;
        }
        let tokens = tokens[..n_whole * PAGE_TOKENS].to_vec();
        // What this prefix continues is part of it now.
        self.cached.retain(|prefix| !tokens.starts_with(&prefix.tokens));
        if self.cached.iter().any(|prefix| prefix.tokens.starts_with(&tokens)) {
            return;
        }
        self.cached.push(CachedPrefix { tokens, pages });
        while self.n_held + self.n_cached() > self.n_total {
            self.cached.remove(0);
        }
    }
}

impl CachedPrefix {
    fn n_common_pages(&self, tokens: &[u32]) -> usize {
        let common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        common / PAGE_TOKENS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(n_total: usize) -> Pages {
        let shape = AttentionShape { n_layers: 1, n_heads: 1, n_kv_heads: 1, head_dim: 2 };
        Pages::new(shape, KvType::F16, n_total)
    }

    /// Writes a sequence's pages as the engine would.
    fn fill(pages: &Pages, mut reservation: Reservation) -> Reservation {
        while reservation.pages.len() < reservation.n_pages {
            reservation.pages.push(pages.page());
        }
        reservation
    }

    /// Random turns over two tokens, so that prefixes meet often.
    #[test]
    fn free_held_and_cached_are_always_the_total() {
        let mut pages = pages(12);
        let mut running: Vec<(Vec<u32>, Reservation)> = Vec::new();
        let (mut n_refused, mut n_shared) = (0, 0);
        let mut random = 1_u64;
        for _ in 0..5_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let draw = (random >> 33) as usize;
            if draw.is_multiple_of(2) || running.is_empty() {
                let n_tokens = 1 + draw / 2 % (5 * PAGE_TOKENS);
                let change_at = draw / 7 % (4 * PAGE_TOKENS);
                let tokens: Vec<u32> = (0..n_tokens).map(|at| u32::from(at >= change_at)).collect();
                match pages.reserve(&tokens, n_tokens) {
                    Some(reservation) => {
                        n_shared += reservation.n_shared;
                        let reservation = fill(&pages, reservation);
                        running.push((tokens, reservation));
                    }
                    None => n_refused += 1,
                }
            } else {
                let (tokens, reservation) = running.swap_remove(draw / 3 % running.len());
                pages.release(reservation, &tokens);
            }
            let n_held: usize = running.iter().map(|(_, reservation)| reservation.n_pages).sum();
            assert_eq!(pages.n_held(), n_held);
            assert_eq!(pages.n_free() + pages.n_held() + pages.n_cached(), pages.n_total());
        }
        assert!(n_refused > 100 && n_shared > 100, "{n_refused} refused, {n_shared} shared");
    }

    #[test]
    fn a_prefix_is_shared_up_to_its_whole_pages_and_never_the_last_token() {
        let mut pages = pages(10);
        let tokens: Vec<u32> = (0..70).collect();
        let reservation = pages.reserve(&tokens, 70).unwrap();
        let reservation = fill(&pages, reservation);
        pages.release(reservation, &tokens);
        assert_eq!(pages.n_cached(), 2);
        assert_eq!(pages.reserve(&tokens[..64], 64).unwrap().n_shared, 1);
        assert_eq!(pages.reserve(&tokens[..65], 65).unwrap().n_shared, 2);
        assert_eq!(pages.reserve(&[9, 9], 2).unwrap().n_shared, 0);
    }
}
