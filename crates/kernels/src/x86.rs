//! Tile kernels for x86-64. `matmul.rs` says what they compute; here is only how.

#![cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "intrinsics carry their prefix"))]

use std::arch::x86_64::*;

use crate::activations::QuantizedRow;
use crate::matmul::{MAX_TILE_TOKENS, TokenBlock};
use crate::packed::{Layout, PANEL_COLS, TILE_ROWS};

/// Checks once what the loads below rely on.
fn check(layout: Layout, tile: &[u8], x: &TokenBlock<'_>, n_tokens: usize) {
    let n_panels = x.stride / PANEL_COLS;
    assert_eq!(tile.len(), n_panels * layout.panel_bytes(), "bytes of a tile");
    assert_eq!(x.values.len(), n_tokens * x.stride, "values of the tokens");
    assert_eq!(x.codes.len(), n_tokens * x.stride, "codes of the tokens");
    assert_eq!(x.scales.len(), n_tokens * n_panels, "scales of the tokens");
    assert_eq!(x.neg_sums.len(), n_tokens * n_panels, "sums of the tokens");
    assert_eq!(x.neg_scaled_sums.len(), n_tokens * n_panels, "scaled sums of the tokens");
    assert_eq!(x.neg_half_sums.len(), n_tokens * n_panels * 2, "half sums of the tokens");
}

/// Calls `$kernel::<T, KIND>` for `n` tokens in steps of the sizes given, largest first.
macro_rules! by_tokens {
    ($kernel:ident <$kind:tt>, $tile:expr, $x:expr, $out:expr, [$($size:literal),*]) => {{
        let mut first = 0;
        let mut rest: &mut [[f32; TILE_ROWS]] = $out;
        $(
            while rest.len() >= $size {
                let (now, later) = rest.split_first_chunk_mut::<$size>().expect("checked length");
                // SAFETY: the processor has the features, and `check` has seen the lengths.
                unsafe { $kernel::<$size, $kind>($tile, &$x, first, now) };
                first += $size;
                rest = later;
            }
        )*
        debug_assert_eq!(first, $out.len());
    }};
}

macro_rules! by_layout {
    ($layout:expr, $quant:ident, $float:ident, $tile:expr, $x:expr, $out:expr, $sizes:tt) => {
        match $layout {
            Layout::Nibble { has_offset: false } => {
                by_tokens!($quant<NIBBLE>, $tile, $x, $out, $sizes)
            }
            Layout::Nibble { has_offset: true } => {
                by_tokens!($quant<{ NIBBLE | OFFSET }>, $tile, $x, $out, $sizes)
            }
            Layout::Byte { group_cols: 32, has_offset: false } => {
                by_tokens!($quant<0>, $tile, $x, $out, $sizes)
            }
            Layout::Byte { group_cols: 32, has_offset: true } => {
                by_tokens!($quant<OFFSET>, $tile, $x, $out, $sizes)
            }
            Layout::Byte { has_offset: false, .. } => {
                by_tokens!($quant<HALVES>, $tile, $x, $out, $sizes)
            }
            Layout::Byte { has_offset: true, .. } => {
                by_tokens!($quant<{ HALVES | OFFSET }>, $tile, $x, $out, $sizes)
            }
            Layout::F32 => by_tokens!($float<0>, $tile, $x, $out, $sizes),
            Layout::F16 => by_tokens!($float<1>, $tile, $x, $out, $sizes),
            Layout::BF16 => by_tokens!($float<2>, $tile, $x, $out, $sizes),
        }
    };
}

pub(crate) fn avx512_tile(
    layout: Layout,
    tile: &[u8],
    x: TokenBlock<'_>,
    out: &mut [[f32; TILE_ROWS]],
) {
    check(layout, tile, &x, out.len());
    assert!(out.len() <= MAX_TILE_TOKENS, "tokens of one call");
    by_layout!(layout, quant_512, float_512, tile, x, out, [8, 7, 6, 5, 4, 3, 2, 1]);
}

pub(crate) fn avx2_tile(
    layout: Layout,
    tile: &[u8],
    x: TokenBlock<'_>,
    out: &mut [[f32; TILE_ROWS]],
) {
    check(layout, tile, &x, out.len());
    by_layout!(layout, quant_256, float_256, tile, x, out, [6, 4, 2, 1]);
}

fn check_row(values: &[f32], out: &QuantizedRow<'_>) {
    let n_panels = values.len() / PANEL_COLS;
    assert_eq!(out.codes.len(), n_panels * PANEL_COLS, "codes of the row");
    assert_eq!(out.scales.len(), n_panels, "scales of the row");
    assert_eq!(out.neg_sums.len(), n_panels, "sums of the row");
    assert_eq!(out.neg_scaled_sums.len(), n_panels, "scaled sums of the row");
    assert_eq!(out.neg_half_sums.len(), n_panels * 2, "half sums of the row");
}

/// # Panics
/// If a length does not fit.
pub(crate) fn quantize_row_512(values: &[f32], mut out: QuantizedRow<'_>) {
    check_row(values, &out);
    // SAFETY: the processor has the features; lengths are checked.
    unsafe { quantize_panels_512(values, &mut out) };
}

/// # Panics
/// If a length does not fit.
pub(crate) fn quantize_row_256(values: &[f32], mut out: QuantizedRow<'_>) {
    check_row(values, &out);
    // SAFETY: the processor has the features; lengths are checked.
    unsafe { quantize_panels_256(values, &mut out) };
}

/// # Safety
/// The features, and lengths as [`check_row`] sees them.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantize_panels_256(values: &[f32], out: &mut QuantizedRow<'_>) {
    let sign_bit = _mm256_set1_epi8(i8::MIN);
    let no_sign = _mm256_set1_epi32(i32::MAX);
    // Where the quarters of the codes lie after they were narrowed.
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (panel_idx, values) in values.as_chunks::<PANEL_COLS>().0.iter().enumerate() {
        // SAFETY: 8 readable floats; unaligned.
        let parts = [0, 8, 16, 24].map(|at| unsafe { _mm256_loadu_ps(values[at..][..8].as_ptr()) });
        let bits = parts.map(|part| _mm256_and_si256(_mm256_castps_si256(part), no_sign));
        let [low, high] =
            [[bits[0], bits[1]], [bits[2], bits[3]]].map(|[a, b]| _mm256_max_epu32(a, b));
        let max = _mm256_max_epu32(low, high);
        let max = _mm_max_epu32(_mm256_castsi256_si128(max), _mm256_extracti128_si256::<1>(max));
        let max = _mm_max_epu32(max, _mm_shuffle_epi32::<0b01_00_11_10>(max));
        let max = _mm_max_epu32(max, _mm_shuffle_epi32::<0b10_11_00_01>(max));
        let largest = f32::from_bits(_mm_cvtsi128_si32(max).cast_unsigned());
        let scale = largest / 127.0;
        let inverse = _mm256_set1_ps(if scale > 0.0 { 127.0 / largest } else { 0.0 });
        let wide = parts.map(|part| {
            let value = _mm256_mul_ps(part, inverse);
            // What is no number becomes zero.
            let value = _mm256_and_ps(value, _mm256_cmp_ps::<_CMP_ORD_Q>(value, value));
            let value = _mm256_max_ps(value, _mm256_set1_ps(-128.0));
            // Rounds to nearest, ties to even: no other rounding is ever set.
            _mm256_cvtps_epi32(_mm256_min_ps(value, _mm256_set1_ps(127.0)))
        });
        let low = _mm256_packs_epi32(wide[0], wide[1]);
        let high = _mm256_packs_epi32(wide[2], wide[3]);
        let codes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
        let at = out.codes[panel_idx * PANEL_COLS..][..PANEL_COLS].as_mut_ptr();
        // SAFETY: 32 writable bytes; unaligned.
        unsafe { _mm256_storeu_si256(at.cast(), codes) };
        // Sums of bytes are of unsigned ones: each is 128 too large.
        let sum = _mm256_sad_epu8(_mm256_xor_si256(codes, sign_bit), _mm256_setzero_si256());
        let sums = [
            16 * 128 - _mm256_extract_epi32::<0>(sum) - _mm256_extract_epi32::<2>(sum),
            16 * 128 - _mm256_extract_epi32::<4>(sum) - _mm256_extract_epi32::<6>(sum),
        ];
        out.scales[panel_idx] = scale;
        out.neg_sums[panel_idx] = sums[0] + sums[1];
        out.neg_scaled_sums[panel_idx] = (sums[0] + sums[1]) as f32 * scale;
        out.neg_half_sums[panel_idx * 2] = sums[0];
        out.neg_half_sums[panel_idx * 2 + 1] = sums[1];
    }
}

/// # Safety
/// The features, and lengths as [`check_row`] sees them.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn quantize_panels_512(values: &[f32], out: &mut QuantizedRow<'_>) {
    let sign_bit = _mm_set1_epi8(i8::MIN);
    for (panel_idx, values) in values.as_chunks::<PANEL_COLS>().0.iter().enumerate() {
        // SAFETY: 16 readable floats; unaligned.
        let halves = [0, 16].map(|at| unsafe { _mm512_loadu_ps(values[at..][..16].as_ptr()) });
        let [low, high] = halves.map(|half| _mm512_castps_si512(_mm512_abs_ps(half)));
        let largest = f32::from_bits(_mm512_reduce_max_epu32(_mm512_max_epu32(low, high)));
        let scale = largest / 127.0;
        let inverse = _mm512_set1_ps(if scale > 0.0 { 127.0 / largest } else { 0.0 });
        let mut sums = [0_i32; 2];
        for (half_idx, half) in halves.into_iter().enumerate() {
            // Rounds to nearest, ties to even: no other rounding is ever set.
            let wide = _mm512_cvtps_epi32(_mm512_mul_ps(half, inverse));
            let codes = _mm512_cvtepi32_epi8(wide);
            let at = out.codes[panel_idx * PANEL_COLS + half_idx * 16..][..16].as_mut_ptr();
            // SAFETY: 16 writable bytes; unaligned.
            unsafe { _mm_storeu_si128(at.cast(), codes) };
            // Sums of bytes are of unsigned ones: each is 128 too large.
            let sum = _mm_sad_epu8(_mm_xor_si128(codes, sign_bit), _mm_setzero_si128());
            sums[half_idx] = 16 * 128 - _mm_extract_epi32::<0>(sum) - _mm_extract_epi32::<2>(sum);
        }
        out.scales[panel_idx] = scale;
        out.neg_sums[panel_idx] = sums[0] + sums[1];
        out.neg_scaled_sums[panel_idx] = (sums[0] + sums[1]) as f32 * scale;
        out.neg_half_sums[panel_idx * 2] = sums[0];
        out.neg_half_sums[panel_idx * 2 + 1] = sums[1];
    }
}

/// Four-bit codes; else a byte each.
const NIBBLE: u8 = 1;
/// A scale for each half panel; else for the whole.
const HALVES: u8 = 2;
/// Offsets beside the scales.
const OFFSET: u8 = 4;

const fn panel_bytes(kind: u8) -> usize {
    let has_offset = kind & OFFSET != 0;
    let layout = if kind & NIBBLE != 0 {
        Layout::Nibble { has_offset }
    } else {
        Layout::Byte { group_cols: if kind & HALVES != 0 { 16 } else { 32 }, has_offset }
    };
    layout.panel_bytes()
}

/// Four consecutive codes of a token in every lane.
macro_rules! quad {
    ($set1:ident, $codes:expr, $quad:expr) => {{
        // SAFETY: the caller's panel has 32 codes, and `quad` is below 8.
        let quad = unsafe { $codes.add($quad * 4) };
        // SAFETY: as above; unaligned.
        $set1(unsafe { quad.cast::<i32>().read_unaligned() })
    }};
}

/// # Safety
/// `check` passed for this layout and at least `first + T` tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn quant_512<const T: usize, const KIND: u8>(
    tile: &[u8],
    x: &TokenBlock<'_>,
    first: usize,
    out: &mut [[f32; TILE_ROWS]; T],
) {
    let nibble = const { KIND & NIBBLE != 0 };
    let halves = const { KIND & HALVES != 0 };
    let has_offset = const { KIND & OFFSET != 0 };
    let n_panels = x.stride / PANEL_COLS;
    let low_mask = _mm512_set1_epi8(0x0f);
    let mut sums = [_mm512_setzero_ps(); T];
    for (panel_idx, panel) in tile.chunks_exact(const { panel_bytes(KIND) }).enumerate() {
        if T > 1 && first == 0 {
            // The tile that follows: products of several tokens are too long for the processor to
            // look that far ahead by itself.
            for at in (0..panel.len()).step_by(64) {
                let ahead = panel.as_ptr().wrapping_add(tile.len() + at);
                _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
            }
        }
        let load = |at: usize| {
            let bytes: &[u8; 64] = panel[at..].first_chunk().expect("inside the panel");
            // SAFETY: 64 readable bytes; unaligned.
            unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
        };
        let load_f16 = |at: usize| {
            let bytes: &[u8; 32] = panel[at..].first_chunk().expect("inside the panel");
            // SAFETY: 32 readable bytes; unaligned.
            _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
        };
        let mut weights = [_mm512_setzero_si512(); 8];
        if nibble {
            for quad in 0..4 {
                let both = load(quad * 64);
                weights[quad] = _mm512_and_si512(both, low_mask);
                weights[quad + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(both), low_mask);
            }
        } else {
            for (quad, weights) in weights.iter_mut().enumerate() {
                *weights = load(quad * 64);
            }
        }
        let scales_at = if nibble { 256 } else { 512 };
        let n_groups = if halves { 2 } else { 1 };
        let mut scale = [_mm512_setzero_ps(); 2];
        let mut offset = [_mm512_setzero_ps(); 2];
        for group in 0..n_groups {
            scale[group] = load_f16(scales_at + group * 32);
            if has_offset {
                offset[group] = load_f16(scales_at + (n_groups + group) * 32);
            }
        }
        for token_idx in 0..T {
            let flat = (first + token_idx) * n_panels + panel_idx;
            let codes = x.codes[flat * PANEL_COLS..][..PANEL_COLS].as_ptr();
            let token_scale = _mm512_set1_ps(x.scales[flat]);
            for group in 0..n_groups {
                let neg_sum =
                    if halves { x.neg_half_sums[flat * 2 + group] } else { x.neg_sums[flat] };
                let mut sum = if !nibble {
                    _mm512_slli_epi32::<7>(_mm512_set1_epi32(neg_sum))
                } else if !has_offset {
                    _mm512_slli_epi32::<3>(_mm512_set1_epi32(neg_sum))
                } else {
                    _mm512_setzero_si512()
                };
                let quads = 8 / n_groups;
                for quad in group * quads..(group + 1) * quads {
                    let x4 = quad!(_mm512_set1_epi32, codes, quad);
                    sum = _mm512_dpbusd_epi32(sum, weights[quad], x4);
                }
                let scale = _mm512_mul_ps(scale[group], token_scale);
                sums[token_idx] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, sums[token_idx]);
                if has_offset {
                    let neg_scaled = if halves {
                        _mm512_set1_ps(neg_sum as f32 * x.scales[flat])
                    } else {
                        _mm512_set1_ps(x.neg_scaled_sums[flat])
                    };
                    sums[token_idx] = _mm512_fnmadd_ps(neg_scaled, offset[group], sums[token_idx]);
                }
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        // SAFETY: 16 writable floats; unaligned.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sums) };
    }
}

/// `KIND`: 0 for f32, 1 for f16, 2 for bf16 weights.
///
/// # Safety
/// As [`quant_512`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn float_512<const T: usize, const KIND: u8>(
    tile: &[u8],
    x: &TokenBlock<'_>,
    first: usize,
    out: &mut [[f32; TILE_ROWS]; T],
) {
    let width = if KIND == 0 { 4 } else { 2 };
    let mut sums = [_mm512_setzero_ps(); T];
    for (col, bytes) in tile.chunks_exact(TILE_ROWS * width).enumerate() {
        let weights = if KIND == 0 {
            // SAFETY: 64 readable bytes; unaligned.
            unsafe { _mm512_loadu_ps(bytes.as_ptr().cast()) }
        } else {
            // SAFETY: 32 readable bytes; unaligned.
            let narrow = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
            if KIND == 1 {
                _mm512_cvtph_ps(narrow)
            } else {
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(narrow)))
            }
        };
        for (token_idx, sums) in sums.iter_mut().enumerate() {
            let value = x.values[(first + token_idx) * x.stride + col];
            *sums = _mm512_fmadd_ps(weights, _mm512_set1_ps(value), *sums);
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        // SAFETY: 16 writable floats; unaligned.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sums) };
    }
}

/// # Safety
/// As [`quant_512`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quant_256<const T: usize, const KIND: u8>(
    tile: &[u8],
    x: &TokenBlock<'_>,
    first: usize,
    out: &mut [[f32; TILE_ROWS]; T],
) {
    // Sixteen rows at a time while registers last, else eight and then the other eight.
    if T <= 2 {
        // SAFETY: as the caller's.
        unsafe { rows_256::<T, 2, KIND>(tile, x, first, 0, out) };
    } else {
        // SAFETY: as the caller's.
        unsafe { rows_256::<T, 1, KIND>(tile, x, first, 0, out) };
        // SAFETY: as the caller's.
        unsafe { rows_256::<T, 1, KIND>(tile, x, first, 1, out) };
    }
}

/// `H` times eight rows, from eight times `first_half` on.
///
/// Products of codes of four bits leave room in 16 bits for a whole panel's sum: eight times two
/// products of at most 15 * 128. So they are added up there, and widened once a panel. Codes of a
/// byte are two of four bits, one of them times 16.
///
/// # Safety
/// As [`quant_512`]; there are as many halves.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows_256<const T: usize, const H: usize, const KIND: u8>(
    tile: &[u8],
    x: &TokenBlock<'_>,
    first: usize,
    first_half: usize,
    out: &mut [[f32; TILE_ROWS]; T],
) {
    let nibble = const { KIND & NIBBLE != 0 };
    let halves = const { KIND & HALVES != 0 };
    let has_offset = const { KIND & OFFSET != 0 };
    let n_panels = x.stride / PANEL_COLS;
    let low_mask = _mm256_set1_epi8(0x0f);
    let (ones, sixteens) = (_mm256_set1_epi16(1), _mm256_set1_epi16(16));
    let scales_at = if nibble { 256 } else { 512 };
    let n_groups = if halves { 2 } else { 1 };
    let mut sums = [[_mm256_setzero_ps(); H]; T];
    for (panel_idx, panel) in tile.chunks_exact(const { panel_bytes(KIND) }).enumerate() {
        let load = |quad: usize, half: usize| {
            let bytes: &[u8; 32] =
                panel[quad * 64 + half * 32..].first_chunk().expect("inside the panel");
            // SAFETY: 32 readable bytes; unaligned.
            unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
        };
        let load_f16 = |at: usize, half: usize| {
            let bytes: &[u8; 16] = panel[at + half * 16..].first_chunk().expect("inside the panel");
            // SAFETY: 16 readable bytes; unaligned.
            _mm256_cvtph_ps(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
        };
        let flat = |token_idx: usize| (first + token_idx) * n_panels + panel_idx;
        for group in 0..n_groups {
            // Of the low and of the high four bits; four-bit codes are all low.
            let mut low_sums = [[_mm256_setzero_si256(); H]; T];
            let mut high_sums = [[_mm256_setzero_si256(); H]; T];
            let n_loads = if nibble { 4 } else { 8 / n_groups };
            for quad in group * n_loads..(group + 1) * n_loads {
                for half in 0..H {
                    let both = load(quad, first_half + half);
                    let low = _mm256_and_si256(both, low_mask);
                    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(both), low_mask);
                    for token_idx in 0..T {
                        // SAFETY: `check` has seen that the codes of this panel are there.
                        let codes = unsafe { x.codes.as_ptr().add(flat(token_idx) * PANEL_COLS) };
                        let low_x = quad!(_mm256_set1_epi32, codes, quad);
                        let products = _mm256_maddubs_epi16(low, low_x);
                        let sum = &mut low_sums[token_idx][half];
                        *sum = _mm256_add_epi16(*sum, products);
                        if nibble {
                            let high_x = quad!(_mm256_set1_epi32, codes, quad + 4);
                            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(high, high_x));
                        } else {
                            let products = _mm256_maddubs_epi16(high, low_x);
                            let sum = &mut high_sums[token_idx][half];
                            *sum = _mm256_add_epi16(*sum, products);
                        }
                    }
                }
            }
            for token_idx in 0..T {
                let flat = flat(token_idx);
                // SAFETY: `check` has seen the lengths.
                let token_scale = unsafe { *x.scales.get_unchecked(flat) };
                let neg_sum = if halves {
                    // SAFETY: as above.
                    unsafe { *x.neg_half_sums.get_unchecked(flat * 2 + group) }
                } else {
                    // SAFETY: as above.
                    unsafe { *x.neg_sums.get_unchecked(flat) }
                };
                for half in 0..H {
                    let mut sum = _mm256_madd_epi16(low_sums[token_idx][half], ones);
                    if !nibble {
                        let high = _mm256_madd_epi16(high_sums[token_idx][half], sixteens);
                        let neg_sum = _mm256_slli_epi32::<7>(_mm256_set1_epi32(neg_sum));
                        sum = _mm256_add_epi32(_mm256_add_epi32(sum, high), neg_sum);
                    } else if !has_offset {
                        let neg_sum = _mm256_slli_epi32::<3>(_mm256_set1_epi32(neg_sum));
                        sum = _mm256_add_epi32(sum, neg_sum);
                    }
                    let scale = load_f16(scales_at + group * 32, first_half + half);
                    let scale = _mm256_mul_ps(scale, _mm256_set1_ps(token_scale));
                    let total = &mut sums[token_idx][half];
                    *total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, *total);
                    if has_offset {
                        let at = scales_at + (n_groups + group) * 32;
                        let offset = load_f16(at, first_half + half);
                        let neg_scaled = if halves {
                            neg_sum as f32 * token_scale
                        } else {
                            // SAFETY: as above.
                            unsafe { *x.neg_scaled_sums.get_unchecked(flat) }
                        };
                        *total = _mm256_fnmadd_ps(_mm256_set1_ps(neg_scaled), offset, *total);
                    }
                }
            }
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        for (half, sums) in (first_half..).zip(sums) {
            // SAFETY: 8 writable floats from lane `half * 8` on; unaligned.
            unsafe { _mm256_storeu_ps(out[half * 8..][..8].as_mut_ptr(), sums) };
        }
    }
}

/// # Safety
/// As [`quant_512`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn float_256<const T: usize, const KIND: u8>(
    tile: &[u8],
    x: &TokenBlock<'_>,
    first: usize,
    out: &mut [[f32; TILE_ROWS]; T],
) {
    let width = if KIND == 0 { 4 } else { 2 };
    for half in 0..2 {
        let mut sums = [_mm256_setzero_ps(); T];
        for (col, bytes) in tile.chunks_exact(TILE_ROWS * width).enumerate() {
            let bytes = &bytes[half * 8 * width..][..8 * width];
            let weights = if KIND == 0 {
                // SAFETY: 32 readable bytes; unaligned.
                unsafe { _mm256_loadu_ps(bytes.as_ptr().cast()) }
            } else {
                // SAFETY: 16 readable bytes; unaligned.
                let narrow = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
                if KIND == 1 {
                    _mm256_cvtph_ps(narrow)
                } else {
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(narrow)))
                }
            };
            for (token_idx, sums) in sums.iter_mut().enumerate() {
                let value = x.values[(first + token_idx) * x.stride + col];
                *sums = _mm256_fmadd_ps(weights, _mm256_set1_ps(value), *sums);
            }
        }
        for (out, sums) in out.iter_mut().zip(sums) {
            // SAFETY: 8 writable floats from lane `half * 8` on; unaligned.
            unsafe { _mm256_storeu_ps(out[half * 8..][..8].as_mut_ptr(), sums) };
        }
    }
}
