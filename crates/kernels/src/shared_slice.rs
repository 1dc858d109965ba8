//! One mutable slice handed out in disjoint pieces to the threads of a job.

use std::marker::PhantomData;

/// A slice that each task of a job takes its own piece of.
///
/// Private to the crate: every use shows beside it why its pieces do not overlap. Bounds are
/// checked; that the pieces are disjoint is the caller's promise.
pub(crate) struct SharedSlice<'a, T> {
    start: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: the pieces are disjoint, so each element is only ever reached by one thread.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), lifetime: PhantomData }
    }

    /// Where the `len` elements from `start` on begin.
    ///
    /// # Panics
    /// If they are not all within the slice.
    pub(crate) fn place(&self, start: usize, len: usize) -> *mut T {
        let end = start.checked_add(len).expect("a piece inside the slice");
        assert!(end <= self.len, "piece {start}..{end} of {}", self.len);
        // SAFETY: `start` is within the slice.
        unsafe { self.start.add(start) }
    }

    /// The piece of `len` elements from `start` on.
    ///
    /// # Safety
    /// No two pieces that are alive at once may overlap.
    #[expect(clippy::mut_from_ref, reason = "that is what this type is for")]
    pub(crate) unsafe fn take(&self, start: usize, len: usize) -> &mut [T] {
        let first = self.place(start, len);
        // SAFETY: the range is within the slice, and callers take disjoint ranges.
        unsafe { std::slice::from_raw_parts_mut(first, len) }
    }
}
