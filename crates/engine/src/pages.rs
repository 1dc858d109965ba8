//! Pages of keys and values.
//!
//! A [`Page`] is a share of memory from a [`PagePool`]; the memory is free again when its last
//! holder drops it, whatever path that takes. So `free + cached + held == total` needs no
//! bookkeeping that could be forgotten: free is counted here, cached and held by who has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rapport_kernels::{AttentionShape, KvPage, KvType};

/// A fixed number of pages.
pub(crate) struct PagePool {
    shape: AttentionShape,
    kv_type: KvType,
    n_total: usize,
    n_taken: Arc<AtomicUsize>,
}

/// One page. Cloning shares it; a page that is shared is never written again.
#[derive(Clone)]
pub(crate) struct Page {
    kv: Arc<KvPage>,
    lease: Arc<Lease>,
}

/// The right to one page's memory.
struct Lease {
    n_taken: Arc<AtomicUsize>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.n_taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PagePool {
    pub(crate) fn new(shape: AttentionShape, kv_type: KvType, n_total: usize) -> Self {
        Self { shape, kv_type, n_total, n_taken: Arc::default() }
    }

    pub(crate) fn n_total(&self) -> usize {
        self.n_total
    }

    pub(crate) fn n_free(&self) -> usize {
        self.n_total - self.n_taken.load(Ordering::Relaxed)
    }

    pub(crate) fn page_bytes(&self) -> usize {
        self.kv_type.page_bytes(self.shape)
    }

    /// An empty page, or `None` while none is free.
    pub(crate) fn take(&self) -> Option<Page> {
        self.lease(|| Some(KvPage::new(self.shape, self.kv_type)))
    }

    /// A page of stored bytes; `None` while none is free or if the bytes are not a page's.
    pub(crate) fn restore(&self, bytes: &[u8]) -> Option<Page> {
        self.lease(|| KvPage::from_bytes(self.shape, self.kv_type, bytes))
    }

    fn lease(&self, make: impl FnOnce() -> Option<KvPage>) -> Option<Page> {
        if self.n_free() == 0 {
            return None;
        }
        let kv = Arc::new(make()?);
        self.n_taken.fetch_add(1, Ordering::Relaxed);
        Some(Page { kv, lease: Arc::new(Lease { n_taken: Arc::clone(&self.n_taken) }) })
    }
}

impl Page {
    /// Whether somebody else holds this page too.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.lease) > 1
    }

    pub(crate) fn kv(&self) -> &Arc<KvPage> {
        &self.kv
    }
}

/// A sequence's pages in order, laid out as the model takes them.
#[derive(Default)]
pub(crate) struct PageTable {
    kv: Vec<Arc<KvPage>>,
    leases: Vec<Arc<Lease>>,
}

impl PageTable {
    pub(crate) fn len(&self) -> usize {
        self.kv.len()
    }

    pub(crate) fn push(&mut self, page: Page) {
        self.kv.push(page.kv);
        self.leases.push(page.lease);
    }

    pub(crate) fn get(&self, page_idx: usize) -> Page {
        Page { kv: Arc::clone(&self.kv[page_idx]), lease: Arc::clone(&self.leases[page_idx]) }
    }

    /// Puts another page of the same content in this one's place.
    pub(crate) fn replace(&mut self, page_idx: usize, page: &Page) {
        self.kv[page_idx] = Arc::clone(&page.kv);
        self.leases[page_idx] = Arc::clone(&page.lease);
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [Arc<KvPage>] {
        &mut self.kv
    }

    /// Something that tells pages apart.
    pub(crate) fn identities(&self) -> impl Iterator<Item = usize> {
        self.leases.iter().map(|lease| Arc::as_ptr(lease).addr())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn pool(n_total: usize) -> PagePool {
        let shape = AttentionShape { n_layers: 1, n_heads: 1, n_kv_heads: 1, head_dim: 2 };
        PagePool::new(shape, KvType::F16, n_total)
    }

    #[test]
    fn a_page_is_free_again_when_its_last_holder_lets_go() {
        let pool = pool(2);
        let page = pool.take().unwrap();
        let mut table = PageTable::default();
        table.push(page.clone());
        assert!(page.is_shared());
        drop(page);
        assert!(!table.get(0).lease.n_taken.load(Ordering::Relaxed).is_multiple_of(2));
        let second = pool.take().unwrap();
        assert!(pool.take().is_none());
        assert!(pool.restore(&[0; 7]).is_none());
        drop((table, second));
        assert_eq!(pool.n_free(), 2);
        assert!(pool.restore(&[0; 7]).is_none(), "seven bytes are no page");
        assert_eq!(pool.n_free(), 2);
    }
}
