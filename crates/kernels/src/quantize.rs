//! The way into ggml's block types: floats to the codes and scales that lose the least.
//!
//! Given codes, the best scale (and offset) of a group is a small weighted least-squares problem
//! with a closed form; given a scale, the best codes are the nearest ones. `fit_affine` and
//! `fit_symmetric` try a range of scales around the one that maps the extremes onto the end
//! codes, solve for each, and keep the best. The K types then round the scales of a block's groups
//! to small integers, trying the neighbours of each together with the codes that go with it.
//!
//! Large weights count more, `|x| + rms` of the group, because they carry more of a product.
//!
//! # Numerics
//! On the same data the root mean square error is at most that of llama.cpp without an importance
//! matrix, for every type; `tests/quantize.rs` has the figures. The bytes are not the same as
//! llama.cpp's, except for the float types and Q8_0.
//!
//! What was left out: importance matrices (they need a calibration text and a forward pass) and the
//! types that nothing here writes, Q5_0, Q5_1, Q2_K, Q3_K and Q5_K.
//!
//! Start reading at [`quantize_row`].

use half::{bf16, f16};

use crate::blocks::{BlockType, Group};

/// Why a row cannot be quantised.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum QuantizeError {
    #[error("{block_type} can be read and not written: choose {}", writable_types())]
    UnsupportedType { block_type: BlockType },
    #[error(
        "a row of {n_cols} weights is not a whole number of {block_type} blocks of {}",
        block_type.block_len()
    )]
    PartialBlock { block_type: BlockType, n_cols: usize },
    #[error("weight {column} of the row is {found}: only finite weights can be quantised")]
    NotFinite { column: usize, found: f32 },
    #[error(
        "the weights from column {column} on are too large for {block_type}: \
         choose F32, or BF16 which has the same range"
    )]
    TooLarge { block_type: BlockType, column: usize },
}

/// The types [`quantize_row`] can write.
pub const WRITABLE: [BlockType; 8] = [
    BlockType::F32,
    BlockType::F16,
    BlockType::BF16,
    BlockType::Q4_0,
    BlockType::Q4_1,
    BlockType::Q8_0,
    BlockType::Q4K,
    BlockType::Q6K,
];

fn writable_types() -> String {
    WRITABLE.map(BlockType::name).join(", ")
}

/// Appends a row of weights, as blocks of `block_type`, to `out`.
///
/// # Errors
/// See [`QuantizeError`]; `out` is as it was.
pub fn quantize_row(
    block_type: BlockType,
    weights: &[f32],
    out: &mut Vec<u8>,
) -> Result<(), QuantizeError> {
    if !WRITABLE.contains(&block_type) {
        return Err(QuantizeError::UnsupportedType { block_type });
    }
    let n_cols = weights.len();
    let Some(row_bytes) = block_type.row_bytes(n_cols) else {
        return Err(QuantizeError::PartialBlock { block_type, n_cols });
    };
    if let Some(column) = weights.iter().position(|weight| !weight.is_finite()) {
        return Err(QuantizeError::NotFinite { column, found: weights[column] });
    }

    let start_bytes = out.len();
    out.reserve(row_bytes);
    let block_len = block_type.block_len();
    for (block_idx, block) in weights.chunks_exact(block_len).enumerate() {
        if let Err(ScaleOverflow) = quantize_block(block_type, block, out) {
            out.truncate(start_bytes);
            return Err(QuantizeError::TooLarge { block_type, column: block_idx * block_len });
        }
    }
    debug_assert_eq!(out.len() - start_bytes, row_bytes);
    Ok(())
}

fn quantize_block(
    block_type: BlockType,
    weights: &[f32],
    out: &mut Vec<u8>,
) -> Result<(), ScaleOverflow> {
    match block_type {
        BlockType::F32 => out.extend(weights[0].to_le_bytes()),
        BlockType::F16 => out.extend(to_f16(weights[0])?.to_le_bytes()),
        BlockType::BF16 => out.extend(to_bf16(weights[0])?.to_le_bytes()),
        BlockType::Q4_0 => quantize_q4_0(weights, out)?,
        BlockType::Q4_1 => quantize_q4_1(weights, out)?,
        BlockType::Q8_0 => quantize_q8_0(weights, out)?,
        BlockType::Q4K => quantize_q4_k(weights, out)?,
        BlockType::Q6K => quantize_q6_k(weights, out)?,
        BlockType::Q5_0 | BlockType::Q5_1 | BlockType::Q2K | BlockType::Q3K | BlockType::Q5K => {
            unreachable!("not one of the writable types")
        }
    }
    Ok(())
}

/// A number does not fit in the float type that a block keeps it in.
struct ScaleOverflow;

fn to_f16(value: f32) -> Result<f16, ScaleOverflow> {
    let rounded = f16::from_f32(value);
    if rounded.is_finite() { Ok(rounded) } else { Err(ScaleOverflow) }
}

/// Rounds away from zero, so that the largest of the whole numbers that go with a K block's scale is
/// never one more than there is. Matters where the scale is subnormal in f16 and rounds coarsely.
fn to_f16_outwards(value: f32) -> Result<f16, ScaleOverflow> {
    let nearest = f16::from_f32(value);
    let is_inwards = nearest.to_f32().abs() < value.abs();
    let outwards = if is_inwards { f16::from_bits(nearest.to_bits() + 1) } else { nearest };
    if outwards.is_finite() { Ok(outwards) } else { Err(ScaleOverflow) }
}

fn to_bf16(value: f32) -> Result<bf16, ScaleOverflow> {
    let rounded = bf16::from_f32(value);
    if rounded.is_finite() { Ok(rounded) } else { Err(ScaleOverflow) }
}

fn quantize_q8_0(weights: &[f32], out: &mut Vec<u8>) -> Result<(), ScaleOverflow> {
    // With 255 codes a search gains nothing worth its time, and this is bit for bit what ggml does:
    // codes go with the scale before it is rounded to f16, ties away from zero.
    let largest = weights.iter().fold(0.0, |largest: f32, weight| largest.max(weight.abs()));
    let scale = largest / 127.0;
    out.extend(to_f16(scale)?.to_le_bytes());
    let inverse = inverse_or_zero(scale);
    out.extend(weights.iter().map(|weight| (weight * inverse).round() as i8 as u8));
    Ok(())
}

fn quantize_q4_0(weights: &[f32], out: &mut Vec<u8>) -> Result<(), ScaleOverflow> {
    let codes = SignedCodes { half_range: 8.0 };
    let scale = to_f16(fit_symmetric(weights, codes))?;
    out.extend(scale.to_le_bytes());
    let inverse = inverse_or_zero(scale.to_f32());
    let codes: [u8; 32] =
        std::array::from_fn(|i| (codes.nearest(weights[i] * inverse) + 8.0) as u8);
    pack_nibbles(&codes, out);
    Ok(())
}

fn quantize_q4_1(weights: &[f32], out: &mut Vec<u8>) -> Result<(), ScaleOverflow> {
    let codes = UnsignedCodes { largest: 15.0 };
    let fit = fit_affine(weights, codes, Offset::Any);
    let (scale, offset) = (to_f16(fit.scale)?, to_f16(fit.offset)?);
    out.extend(scale.to_le_bytes());
    out.extend(offset.to_le_bytes());
    let group = Group { scale: scale.to_f32(), offset: offset.to_f32() };
    let inverse = inverse_or_zero(group.scale);
    let codes: [u8; 32] =
        std::array::from_fn(|i| codes.nearest((weights[i] - group.offset) * inverse) as u8);
    pack_nibbles(&codes, out);
    Ok(())
}

/// The largest scale and minimum of a Q4_K group: six bits.
const MAX_Q4_K_SCALE: f32 = 63.0;

fn quantize_q4_k(weights: &[f32], out: &mut Vec<u8>) -> Result<(), ScaleOverflow> {
    let code_range = UnsignedCodes { largest: 15.0 };
    let groups: [&[f32]; 8] = std::array::from_fn(|i| &weights[32 * i..32 * (i + 1)]);
    let fits = groups.map(|group| fit_affine(group, code_range, Offset::NotPositive));

    let largest_scale = fits.iter().fold(0.0, |largest: f32, fit| largest.max(fit.scale));
    let largest_minimum = fits.iter().fold(0.0, |largest: f32, fit| largest.max(-fit.offset));
    let scale = to_f16_outwards(largest_scale / MAX_Q4_K_SCALE)?;
    let minimum = to_f16_outwards(largest_minimum / MAX_Q4_K_SCALE)?;
    out.extend(scale.to_le_bytes());
    out.extend(minimum.to_le_bytes());

    let (scale, minimum) = (scale.to_f32(), minimum.to_f32());
    let mut packed = [0_u8; 12];
    let mut codes = [0_u8; 256];
    for (group_idx, (group, fit)) in groups.into_iter().zip(fits).enumerate() {
        let importance = Importance::of(group);
        let nearest_scale = fit.scale * inverse_or_zero(scale);
        let nearest_minimum = -fit.offset * inverse_or_zero(minimum);
        let candidates = neighbours(nearest_scale, 0.0, MAX_Q4_K_SCALE).flat_map(|group_scale| {
            neighbours(nearest_minimum, 0.0, MAX_Q4_K_SCALE)
                .map(move |group_minimum| (group_scale, group_minimum))
        });
        let (_, group_scale, group_minimum) = candidates
            .map(|(group_scale, group_minimum)| {
                let group_fit =
                    Group { scale: scale * group_scale, offset: -(minimum * group_minimum) };
                let inverse = inverse_or_zero(group_fit.scale);
                let error = importance.error(group, |weight| {
                    let code = code_range.nearest((weight - group_fit.offset) * inverse);
                    group_fit.scale * code + group_fit.offset
                });
                (error, group_scale, group_minimum)
            })
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .expect("a number has itself for a neighbour");

        pack_scale_and_minimum(&mut packed, group_idx, group_scale as u8, group_minimum as u8);
        let offset = -(minimum * group_minimum);
        let inverse = inverse_or_zero(scale * group_scale);
        for (code, weight) in codes[32 * group_idx..].iter_mut().zip(group) {
            *code = code_range.nearest((weight - offset) * inverse) as u8;
        }
    }
    out.extend(packed);
    codes.chunks_exact(64).for_each(|codes| pack_nibbles(codes, out));
    Ok(())
}

fn quantize_q6_k(weights: &[f32], out: &mut Vec<u8>) -> Result<(), ScaleOverflow> {
    let code_range = SignedCodes { half_range: 32.0 };
    let groups: [&[f32]; 16] = std::array::from_fn(|i| &weights[16 * i..16 * (i + 1)]);
    let fits = groups.map(|group| fit_symmetric(group, code_range));

    // The scales' own range is one longer on the negative side: the largest goes there.
    let largest = fits.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(0.0);
    let scale = to_f16_outwards(largest / -128.0)?;
    let block_scale = scale.to_f32();

    let mut group_scales = [0_i8; 16];
    let mut codes = [0_u8; 256];
    for (group_idx, (group, fit)) in groups.into_iter().zip(fits).enumerate() {
        let importance = Importance::of(group);
        let (_, group_scale) = neighbours(fit * inverse_or_zero(block_scale), -128.0, 127.0)
            .map(|group_scale| {
                let scale = block_scale * group_scale;
                let inverse = inverse_or_zero(scale);
                let error =
                    importance.error(group, |weight| scale * code_range.nearest(weight * inverse));
                (error, group_scale)
            })
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .expect("a number has itself for a neighbour");

        group_scales[group_idx] = group_scale as i8;
        let inverse = inverse_or_zero(block_scale * group_scale);
        for (code, weight) in codes[16 * group_idx..].iter_mut().zip(group) {
            *code = (code_range.nearest(weight * inverse) + 32.0) as u8;
        }
    }

    for codes in codes.chunks_exact(128) {
        let low: [u8; 128] = std::array::from_fn(|i| codes[i] & 0xF);
        pack_nibbles(&low, out);
    }
    for codes in codes.chunks_exact(128) {
        out.extend(
            (0..32).map(|i| {
                (0..4).fold(0, |byte, run| byte | (codes[32 * run + i] >> 4) << (2 * run))
            }),
        );
    }
    out.extend(group_scales.map(|group_scale| group_scale as u8));
    out.extend(scale.to_le_bytes());
    Ok(())
}

/// Packs codes below 16: the first half in the low halves of the bytes, the second in the high.
fn pack_nibbles(codes: &[u8], out: &mut Vec<u8>) {
    let (low, high) = codes.split_at(codes.len() / 2);
    out.extend(low.iter().zip(high).map(|(low, high)| low | high << 4));
}

/// Packs six bits each; the inverse of how [`crate::blocks`] reads them.
fn pack_scale_and_minimum(packed: &mut [u8; 12], group_idx: usize, scale: u8, minimum: u8) {
    if group_idx < 4 {
        packed[group_idx] |= scale;
        packed[group_idx + 4] |= minimum;
    } else {
        packed[group_idx + 4] = scale & 0xF | minimum << 4;
        packed[group_idx - 4] |= scale >> 4 << 6;
        packed[group_idx] |= minimum >> 4 << 6;
    }
}

/// The whole numbers next to `value`, within bounds.
fn neighbours(value: f32, low: f32, high: f32) -> impl Iterator<Item = f32> + Clone {
    let nearest = nearest_integer(value.clamp(low, high));
    [nearest, nearest - 1.0, nearest + 1.0]
        .into_iter()
        .filter(move |candidate| (low..=high).contains(candidate))
}

/// Rounds to the nearest whole number; only for values below 2^22.
///
/// Adding 1.5 * 2^23 pushes the fraction out of the mantissa. Unlike `f32::round`, which is a
/// function call on the baseline x86-64, this is two additions and vectorises.
fn nearest_integer(value: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (value + SHIFT) - SHIFT
}

/// The reciprocal, or 0 for a scale too small to have one: every code is then 0.
fn inverse_or_zero(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// Codes `0..=largest`.
#[derive(Clone, Copy)]
struct UnsignedCodes {
    largest: f32,
}

impl UnsignedCodes {
    fn nearest(self, value: f32) -> f32 {
        nearest_integer(value.clamp(0.0, self.largest))
    }
}

/// Codes `-half_range..half_range`.
#[derive(Clone, Copy)]
struct SignedCodes {
    half_range: f32,
}

impl SignedCodes {
    fn nearest(self, value: f32) -> f32 {
        nearest_integer(value.clamp(-self.half_range, self.half_range - 1.0))
    }
}

/// How much an error in each weight of a group counts.
#[derive(Clone, Copy)]
struct Importance {
    root_mean_square: f32,
}

impl Importance {
    fn of(group: &[f32]) -> Self {
        let [sum_of_squares] = sums(group, |weight| [weight * weight]);
        Self { root_mean_square: (sum_of_squares / group.len() as f32).sqrt() }
    }

    fn weight(self, weight: f32) -> f32 {
        self.root_mean_square + weight.abs()
    }

    /// The weighted squared error of what `decoded` makes of a group.
    fn error(self, group: &[f32], decoded: impl Fn(f32) -> f32) -> f32 {
        let [error] = sums(group, |weight| {
            let difference = decoded(weight) - weight;
            [self.weight(weight) * difference * difference]
        });
        error
    }
}

/// Sums of several terms over the weights of a group, whose length is a multiple of 4. Four partial
/// sums each, because the compiler may not reorder one sum into the lanes of a vector.
fn sums<const N: usize>(group: &[f32], terms: impl Fn(f32) -> [f32; N]) -> [f32; N] {
    const LANES: usize = 4;
    let mut lanes = [[0.0; LANES]; N];
    for weights in group.as_chunks::<LANES>().0 {
        for (lane_idx, &weight) in weights.iter().enumerate() {
            for (lanes, term) in lanes.iter_mut().zip(terms(weight)) {
                lanes[lane_idx] += term;
            }
        }
    }
    lanes.map(|lanes| lanes.into_iter().sum())
}

/// What the offset of an affine fit may be.
#[derive(Clone, Copy, PartialEq)]
enum Offset {
    Any,
    NotPositive,
}

/// How far from the scale that spans the whole range others are tried, in codes, and how finely.
const SEARCH_CODES: f32 = 1.0;
const SEARCH_STEPS: i32 = 10;

/// A range so small that its scale would be 0 in f16, however it is split; far from where squares
/// and reciprocals stop being normal numbers.
const SMALLEST_RANGE: f32 = 1e-12;

/// Numbers of codes that the range of a group is tried to span, the plain one first: clipping the
/// extremes (more) or leaving end codes unused (fewer) can lower the error of all the others.
fn spans(n_codes: f32) -> impl Iterator<Item = f32> {
    let step = SEARCH_CODES / SEARCH_STEPS as f32;
    let others = (1..=SEARCH_STEPS).flat_map(move |i| [i as f32 * step, -i as f32 * step]);
    std::iter::once(n_codes).chain(others.map(move |change| n_codes + change))
}

/// The scale and offset of a group for codes `0..=largest`.
fn fit_affine(group: &[f32], codes: UnsignedCodes, offset: Offset) -> Group {
    let (low, high) = group
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)));
    // All sums are of differences from `base`: a small spread on a large value keeps its digits.
    let base = if offset == Offset::NotPositive { low.min(0.0) } else { low };
    let largest_change = if offset == Offset::NotPositive { -base } else { f32::INFINITY };
    let range = high - base;
    if range < SMALLEST_RANGE {
        return Group { scale: 0.0, offset: base };
    }

    let importance = Importance::of(group);
    let mut best = Group { scale: range / codes.largest, offset: base };
    let mut best_error = f32::INFINITY;
    for span in spans(codes.largest) {
        let inverse = span / range;
        let sums = AffineSums::of(group, importance, |x| {
            let change = x - base;
            (change, codes.nearest(change * inverse))
        });
        let Some((scale, change)) = sums.solve(largest_change) else { continue };
        let candidate = Group { scale, offset: base + change };
        let inverse = inverse_or_zero(scale);
        let error = importance.error(group, |x| {
            // The nearest codes of the new scale, which may be better than those it came from.
            let code = codes.nearest((x - candidate.offset) * inverse);
            scale * code + candidate.offset
        });
        if error < best_error {
            (best, best_error) = (candidate, error);
        }
    }
    best
}

/// The sums of a weighted least-squares fit of `x = scale * code + offset`.
struct AffineSums {
    weight: f32,
    code: f32,
    code_code: f32,
    x: f32,
    x_code: f32,
}

impl AffineSums {
    /// `pair` gives the `x` and the code of a weight.
    fn of(group: &[f32], importance: Importance, pair: impl Fn(f32) -> (f32, f32)) -> Self {
        let [weight, code, code_code, x, x_code] = sums(group, |original| {
            let weight = importance.weight(original);
            let (x, code) = pair(original);
            [weight, weight * code, weight * code * code, weight * x, weight * x * code]
        });
        Self { weight, code, code_code, x, x_code }
    }

    /// The best scale and offset with the offset at most `largest_offset`.
    fn solve(&self, largest_offset: f32) -> Option<(f32, f32)> {
        let determinant = self.weight * self.code_code - self.code * self.code;
        let mut scale = (self.weight * self.x_code - self.code * self.x) / determinant;
        let mut offset = (self.code_code * self.x - self.code * self.x_code) / determinant;
        if offset > largest_offset {
            offset = largest_offset;
            scale = (self.x_code - offset * self.code) / self.code_code;
        }
        (scale > 0.0 && scale.is_finite() && offset.is_finite()).then_some((scale, offset))
    }
}

/// The scale of a group for codes `-half_range..half_range`; negative where the extreme is positive,
/// because the negative end has one code more.
fn fit_symmetric(group: &[f32], codes: SignedCodes) -> f32 {
    let extreme =
        group.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or_default();
    if extreme.abs() < SMALLEST_RANGE {
        return 0.0;
    }
    let importance = Importance::of(group);
    let mut best_scale = -extreme / codes.half_range;
    let mut best_error = f32::INFINITY;
    for span in spans(codes.half_range) {
        let inverse = -span / extreme;
        let [x_code, code_code] = sums(group, |x| {
            let (weight, code) = (importance.weight(x), codes.nearest(x * inverse));
            [weight * x * code, weight * code * code]
        });
        let scale = x_code / code_code;
        let inverse = inverse_or_zero(scale);
        let error = importance.error(group, |x| scale * codes.nearest(x * inverse));
        if error < best_error {
            (best_scale, best_error) = (scale, error);
        }
    }
    best_scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::dequantize_row;

    #[test]
    fn six_bit_pairs_are_read_back() {
        // Through a block whose scale and minimum are 1: the pairs are the groups' own numbers.
        let pairs: [(u8, u8); 8] = std::array::from_fn(|i| (63 - 9 * i as u8, 8 * i as u8 + 7));
        let mut packed = [0; 12];
        for (group_idx, (scale, minimum)) in pairs.into_iter().enumerate() {
            pack_scale_and_minimum(&mut packed, group_idx, scale, minimum);
        }
        let one = f16::ONE.to_le_bytes();
        let block = [&one[..], &one, &packed, &[0x11; 128]].concat();
        let mut weights = [0.0; 256];
        dequantize_row(BlockType::Q4K, &block, &mut weights);
        for (group, (scale, minimum)) in weights.chunks_exact(32).zip(pairs) {
            let expected = f32::from(scale) - f32::from(minimum);
            assert!(group.iter().all(|weight| weight.to_bits() == expected.to_bits()));
        }
    }

    #[test]
    fn rounding_is_to_the_nearest() {
        for (value, expected) in [(0.0, 0.0), (0.49, 0.0), (0.51, 1.0), (-3.7, -4.0), (62.6, 63.0)]
        {
            assert_eq!(nearest_integer(value).to_bits(), f32::to_bits(expected), "{value}");
        }
    }
}
