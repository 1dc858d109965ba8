//! Attention over one page in AVX-512. `attention.rs` says what it computes; here is only how: rows
//! in groups small enough that all their sums stay in registers, and stored keys and values widened
//! on their way there.

#![cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "intrinsics carry their prefix"))]

use std::arch::x86_64::*;

use crate::PAGE_TOKENS;
use crate::attention::{PageHead, PageVisit, Running, Visible, scale};
use crate::float::{EXP_POLYNOMIAL, LN2_HIGH, LN2_LOW, exp, soft_cap};

/// Query rows that are computed together at most, for as many independent sums as registers hold.
const MAX_ROWS: usize = 8;

/// The rows that one call takes: as in [`PageVisit`].
struct Rows<'a> {
    queries: &'a [f32],
    visible: &'a [Visible],
    running: &'a mut [Running],
    out: &'a mut [f32],
    head_dim: usize,
    soft_cap: Option<f32>,
}

/// # Panics
/// If `head_dim` is not a multiple of 16 or a length does not fit.
pub(crate) fn visit_page_512(visit: PageVisit<'_>) {
    let PageVisit { queries, page, next, visible, soft_cap, running, out, head_dim } = visit;
    assert!(head_dim.is_multiple_of(16), "whole registers of a head");
    let n_rows = running.len();
    assert_eq!(visible.len(), n_rows, "visible slots of each row");
    assert_eq!(queries.len(), n_rows * head_dim, "queries of the rows");
    assert_eq!(out.len(), n_rows * head_dim, "outputs of the rows");
    for first in (0..n_rows).step_by(MAX_ROWS) {
        let n = MAX_ROWS.min(n_rows - first);
        let mut rows = Rows {
            queries: &queries[first * head_dim..][..n * head_dim],
            visible: &visible[first..][..n],
            running: &mut running[first..][..n],
            out: &mut out[first * head_dim..][..n * head_dim],
            head_dim,
            soft_cap,
        };
        if rows.visible.iter().all(Visible::is_empty) {
            continue;
        }
        match page {
            PageHead::F16 { keys, values } => {
                let next = match next {
                    Some(PageHead::F16 { keys, values }) => [keys, values],
                    _ => [keys, values],
                };
                assert_eq!(keys.len(), PAGE_TOKENS * head_dim, "keys of the page");
                assert_eq!(values.len(), keys.len(), "values of the page");
                // SAFETY: the processor has the features; f16 and u16 have one layout.
                unsafe {
                    by_rows::<true>(
                        &mut rows,
                        Side::new(keys, next[0]),
                        Side::new(values, next[1]),
                    );
                };
            }
            PageHead::F32 { keys, values } => {
                let next = match next {
                    Some(PageHead::F32 { keys, values }) => [keys, values],
                    _ => [keys, values],
                };
                assert_eq!(keys.len(), PAGE_TOKENS * head_dim, "keys of the page");
                assert_eq!(values.len(), keys.len(), "values of the page");
                // SAFETY: the processor has the features.
                unsafe {
                    by_rows::<false>(
                        &mut rows,
                        Side::new(keys, next[0]),
                        Side::new(values, next[1]),
                    );
                };
            }
            PageHead::Q8 { .. } => unreachable!("8-bit pages are widened before"),
        }
    }
}

/// # Safety
/// The features; `keys` and `values` are `32 * head_dim` numbers, f16 where `IS_F16`, else f32.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn by_rows<const IS_F16: bool>(rows: &mut Rows<'_>, keys: Side, values: Side) {
    macro_rules! by_count {
        ($($n:literal),*) => {
            match rows.running.len() {
                $(
                    // SAFETY: as the caller's.
                    $n => unsafe { visit_rows::<$n, IS_F16>(rows, keys, values) },
                )*
                n => unreachable!("at most {MAX_ROWS} rows, not {n}"),
            }
        };
    }
    by_count!(1, 2, 3, 4, 5, 6, 7, 8);
}

/// Keys or values of a page, and those that will be wanted after them.
#[derive(Clone, Copy)]
struct Side {
    numbers: *const u8,
    next: *const u8,
}

impl Side {
    fn new<T>(numbers: &[T], next: &[T]) -> Self {
        Self { numbers: numbers.as_ptr().cast(), next: next.as_ptr().cast() }
    }
}

/// 16 numbers from the `idx`th on; the processor is told to fetch the same of what comes next, for
/// pages lie too far apart for it to guess.
///
/// # Safety
/// They are there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn load<const IS_F16: bool>(side: Side, idx: usize) -> __m512 {
    let at = idx * const { if IS_F16 { 2 } else { 4 } };
    _mm_prefetch::<_MM_HINT_T0>(side.next.wrapping_add(at).cast());
    if IS_F16 {
        // SAFETY: inside the numbers.
        let at = unsafe { side.numbers.add(at) };
        // SAFETY: 32 readable bytes; unaligned.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(at.cast()) })
    } else {
        // SAFETY: inside the numbers.
        let at = unsafe { side.numbers.add(at) };
        // SAFETY: 64 readable bytes; unaligned.
        unsafe { _mm512_loadu_ps(at.cast()) }
    }
}

/// [`exp`], 16 at a time.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn exp_512(x: __m512) -> __m512 {
    let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(
        _mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E)),
    );
    let r = _mm512_fmadd_ps(n, _mm512_set1_ps(-LN2_HIGH), x);
    let r = _mm512_fmadd_ps(n, _mm512_set1_ps(-LN2_LOW), r);
    let mut p = _mm512_set1_ps(EXP_POLYNOMIAL[0]);
    for coefficient in &EXP_POLYNOMIAL[1..] {
        p = _mm512_fmadd_ps(r, p, _mm512_set1_ps(*coefficient));
    }
    let exponent = _mm512_add_epi32(_mm512_cvttps_epi32(n), _mm512_set1_epi32(127));
    let power = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent));
    let tiny = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, _mm512_set1_ps(-87.3));
    _mm512_maskz_mul_ps(!tiny, p, power)
}

/// # Safety
/// As [`by_rows`], and there are `R` rows.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn visit_rows<const R: usize, const IS_F16: bool>(
    rows: &mut Rows<'_>,
    keys: Side,
    values: Side,
) {
    let head_dim = rows.head_dim;
    let mut scores = [[_mm512_setzero_ps(); 2]; R];
    for dim in 0..head_dim {
        // SAFETY: keys are `head_dim` columns of 32.
        let low = unsafe { load::<IS_F16>(keys, dim * PAGE_TOKENS) };
        // SAFETY: as above.
        let high = unsafe { load::<IS_F16>(keys, dim * PAGE_TOKENS + 16) };
        for (row, scores) in scores.iter_mut().enumerate() {
            // SAFETY: queries are `R` rows of `head_dim`.
            let query =
                _mm512_set1_ps(*unsafe { rows.queries.get_unchecked(row * head_dim + dim) });
            scores[0] = _mm512_fmadd_ps(query, low, scores[0]);
            scores[1] = _mm512_fmadd_ps(query, high, scores[1]);
        }
    }
    let mut weights = [[0.0_f32; PAGE_TOKENS]; R];
    for (row, scores) in scores.iter().enumerate() {
        let visible = &rows.visible[row];
        if visible.is_empty() {
            continue;
        }
        let weights = &mut weights[row];
        // SAFETY: 32 writable floats; unaligned.
        unsafe { _mm512_storeu_ps(weights.as_mut_ptr(), scores[0]) };
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(weights[16..].as_mut_ptr(), scores[1]) };
        if let Some(cap) = rows.soft_cap {
            for weight in weights.iter_mut() {
                *weight = soft_cap(*weight, cap);
            }
        }
        // SAFETY: 32 readable floats; unaligned.
        let low = unsafe { _mm512_loadu_ps(weights.as_ptr()) };
        // SAFETY: as above.
        let high = unsafe { _mm512_loadu_ps(weights[16..].as_ptr()) };
        let mask = (u32::MAX >> (PAGE_TOKENS - visible.len())) << visible.start;
        let (low_mask, high_mask) = (mask as u16, (mask >> 16) as u16);

        let running = &mut rows.running[row];
        // Of a NaN and a number, `max` keeps its second operand.
        let seen = _mm512_set1_ps(running.max);
        let seen = _mm512_mask_max_ps(seen, low_mask, low, seen);
        let seen = _mm512_mask_max_ps(seen, high_mask, high, seen);
        let max = _mm512_reduce_max_ps(seen);
        if max > running.max {
            let shrink = exp(running.max - max);
            running.max = max;
            scale(&mut running.sums, shrink);
            scale(&mut rows.out[row * head_dim..][..head_dim], shrink);
        }
        let max = _mm512_set1_ps(max);
        for (half, (scores, mask)) in [(low, low_mask), (high, high_mask)].into_iter().enumerate() {
            let weight = _mm512_maskz_mov_ps(mask, exp_512(_mm512_sub_ps(scores, max)));
            let sums = running.sums[half * 16..].as_mut_ptr();
            // SAFETY: 16 readable floats; unaligned.
            let sum = _mm512_add_ps(unsafe { _mm512_loadu_ps(sums) }, weight);
            // SAFETY: 16 writable floats; unaligned.
            unsafe { _mm512_storeu_ps(sums, sum) };
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(weights[half * 16..].as_mut_ptr(), weight) };
        }
    }
    let start = rows.visible.iter().filter(|v| !v.is_empty()).map(|v| v.start).min().unwrap_or(0);
    let end = rows.visible.iter().map(|visible| visible.end).max().unwrap_or(0);
    let mut dim = 0;
    while dim + 32 <= head_dim {
        // SAFETY: as the caller's, and 32 dimensions are left.
        unsafe {
            add_values::<R, 2, IS_F16>(rows.out, &weights, values, (dim, head_dim), start..end);
        }
        dim += 32;
    }
    if dim < head_dim {
        // SAFETY: as the caller's, and 16 dimensions are left.
        unsafe {
            add_values::<R, 1, IS_F16>(rows.out, &weights, values, (dim, head_dim), start..end);
        }
    }
}

/// Adds the weighted values of `N * 16` dimensions.
///
/// # Safety
/// As [`visit_rows`]; the dimensions are there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn add_values<const R: usize, const N: usize, const IS_F16: bool>(
    out: &mut [f32],
    weights: &[[f32; PAGE_TOKENS]; R],
    values: Side,
    (dim, head_dim): (usize, usize),
    slots: Visible,
) {
    let mut sums = [[_mm512_setzero_ps(); N]; R];
    for (row, sums) in sums.iter_mut().enumerate() {
        for (part, sum) in sums.iter_mut().enumerate() {
            let out = &out[row * head_dim + dim + part * 16..][..16];
            // SAFETY: 16 readable floats; unaligned.
            *sum = unsafe { _mm512_loadu_ps(out.as_ptr()) };
        }
    }
    for slot in slots {
        let mut value = [_mm512_setzero_ps(); N];
        for (part, value) in value.iter_mut().enumerate() {
            // SAFETY: values are 32 rows of `head_dim`.
            *value = unsafe { load::<IS_F16>(values, slot * head_dim + dim + part * 16) };
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            let weight = _mm512_set1_ps(weights[row][slot]);
            for (sum, value) in sums.iter_mut().zip(value) {
                *sum = _mm512_fmadd_ps(weight, value, *sum);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (part, sum) in sums.iter().enumerate() {
            let out = &mut out[row * head_dim + dim + part * 16..][..16];
            // SAFETY: 16 writable floats; unaligned.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), *sum) };
        }
    }
}
