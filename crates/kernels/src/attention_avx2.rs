//! The two products of attention over one page in AVX2. `attention.rs` says what they compute; here
//! is only how: up to [`MAX_ROWS`] query rows at a time, so that a number of the page is loaded once
//! for all of them and their sums stay in registers.

#![cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "intrinsics carry their prefix"))]

use std::arch::x86_64::*;

use crate::PAGE_TOKENS;
use crate::attention::Visible;

/// Rows whose sums over four registers' worth of numbers fit the sixteen registers that there are.
pub(crate) const MAX_ROWS: usize = 3;

const LANES: usize = 8;
/// Registers of sums for each row.
const PARTS: usize = 4;

/// Each row's products with the 32 keys of a page.
///
/// # Panics
/// If a length does not fit.
pub(crate) fn scores(
    queries: &[f32],
    keys: &[f32],
    head_dim: usize,
    out: &mut [[f32; PAGE_TOKENS]],
) {
    assert_eq!(queries.len(), out.len() * head_dim, "queries of the rows");
    assert_eq!(keys.len(), head_dim * PAGE_TOKENS, "keys of the page");
    match out {
        // SAFETY: the processor has the features; lengths are checked.
        [a] => unsafe { scores_of(queries, keys, head_dim, [a]) },
        // SAFETY: as above.
        [a, b] => unsafe { scores_of(queries, keys, head_dim, [a, b]) },
        // SAFETY: as above.
        [a, b, c] => unsafe { scores_of(queries, keys, head_dim, [a, b, c]) },
        _ => unreachable!("1 to {MAX_ROWS} rows, not {}", out.len()),
    }
}

/// Adds to each row of `out` the values of the slots, by its weights.
///
/// # Panics
/// If a length does not fit, or `head_dim` is not a multiple of 8.
pub(crate) fn add_values(
    weights: &[[f32; PAGE_TOKENS]],
    values: &[f32],
    head_dim: usize,
    slots: &Visible,
    out: &mut [f32],
) {
    assert!(head_dim.is_multiple_of(LANES), "whole registers of a head");
    assert_eq!(out.len(), weights.len() * head_dim, "outputs of the rows");
    assert_eq!(values.len(), head_dim * PAGE_TOKENS, "values of the page");
    assert!(slots.end <= PAGE_TOKENS, "slots of the page");
    match weights {
        // SAFETY: the processor has the features; lengths are checked.
        [a] => unsafe { add_values_of([a], values, head_dim, slots, out) },
        // SAFETY: as above.
        [a, b] => unsafe { add_values_of([a, b], values, head_dim, slots, out) },
        // SAFETY: as above.
        [a, b, c] => unsafe { add_values_of([a, b, c], values, head_dim, slots, out) },
        _ => unreachable!("1 to {MAX_ROWS} rows, not {}", weights.len()),
    }
}

/// # Safety
/// The features, and lengths as [`scores`] checks them.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scores_of<const R: usize>(
    queries: &[f32],
    keys: &[f32],
    head_dim: usize,
    out: [&mut [f32; PAGE_TOKENS]; R],
) {
    let mut sums = [[_mm256_setzero_ps(); PARTS]; R];
    for (dim, keys) in keys.as_chunks::<PAGE_TOKENS>().0.iter().enumerate() {
        let mut query = [_mm256_setzero_ps(); R];
        for (row, query) in query.iter_mut().enumerate() {
            // SAFETY: queries are `R` rows of `head_dim`, and keys as many columns.
            *query = _mm256_set1_ps(*unsafe { queries.get_unchecked(row * head_dim + dim) });
        }
        for part in 0..PARTS {
            // SAFETY: 8 readable floats of the 32; unaligned.
            let keys = unsafe { _mm256_loadu_ps(keys[part * LANES..][..LANES].as_ptr()) };
            for (sums, query) in sums.iter_mut().zip(query) {
                sums[part] = _mm256_fmadd_ps(query, keys, sums[part]);
            }
        }
    }
    for (out, sums) in out.into_iter().zip(sums) {
        for (part, sum) in sums.into_iter().enumerate() {
            // SAFETY: 8 writable floats of the 32; unaligned.
            unsafe { _mm256_storeu_ps(out[part * LANES..][..LANES].as_mut_ptr(), sum) };
        }
    }
}

/// # Safety
/// The features, and lengths as [`add_values`] checks them.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_values_of<const R: usize>(
    weights: [&[f32; PAGE_TOKENS]; R],
    values: &[f32],
    head_dim: usize,
    slots: &Visible,
    out: &mut [f32],
) {
    let mut dim = 0;
    while dim + PARTS * LANES <= head_dim {
        // SAFETY: as the caller's; that many dimensions are left.
        unsafe { add_dims::<R, PARTS>(weights, values, (dim, head_dim), slots.clone(), out) };
        dim += PARTS * LANES;
    }
    while dim < head_dim {
        // SAFETY: as above.
        unsafe { add_dims::<R, 1>(weights, values, (dim, head_dim), slots.clone(), out) };
        dim += LANES;
    }
}

/// `N` registers' worth of dimensions from `dim` on.
///
/// # Safety
/// As [`add_values_of`]; the dimensions are there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_dims<const R: usize, const N: usize>(
    weights: [&[f32; PAGE_TOKENS]; R],
    values: &[f32],
    (dim, head_dim): (usize, usize),
    slots: Visible,
    out: &mut [f32],
) {
    let mut sums = [[_mm256_setzero_ps(); N]; R];
    for (row, sums) in sums.iter_mut().enumerate() {
        for (part, sum) in sums.iter_mut().enumerate() {
            let out = &out[row * head_dim + dim + part * LANES..][..LANES];
            // SAFETY: 8 readable floats; unaligned.
            *sum = unsafe { _mm256_loadu_ps(out.as_ptr()) };
        }
    }
    for slot in slots {
        let mut weight = [_mm256_setzero_ps(); R];
        for (weight, weights) in weight.iter_mut().zip(weights) {
            *weight = _mm256_set1_ps(weights[slot]);
        }
        for part in 0..N {
            // SAFETY: values are 32 rows of `head_dim`, and the slot is below 32.
            let at = unsafe { values.as_ptr().add(slot * head_dim + dim + part * LANES) };
            // SAFETY: as above: 8 readable floats; unaligned.
            let value = unsafe { _mm256_loadu_ps(at) };
            for (sums, weight) in sums.iter_mut().zip(weight) {
                sums[part] = _mm256_fmadd_ps(weight, value, sums[part]);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (part, sum) in sums.iter().enumerate() {
            let out = &mut out[row * head_dim + dim + part * LANES..][..LANES];
            // SAFETY: 8 writable floats; unaligned.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), *sum) };
        }
    }
}
