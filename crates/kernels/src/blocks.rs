//! ggml's block types: what the bytes of a weight mean.
//!
//! A row of weights is stored as blocks of 1, 32 or 256 weights. Every quantised block is groups of
//! 16 or 32 small integer codes sharing one affine map, `weight = scale * code + offset`, so one
//! function, [`decode_block`], is the single source of truth: [`dequantize_row`] is written on it,
//! and packed layouts are repacked from it. The numbers equal those of the `gguf` Python package's
//! `quants.dequantize` bit for bit.
//!
//! What is not here: the way back ([`crate::quantize`]), and speed. This is the plain scalar
//! specification that the kernels are tested against.
//!
//! Start reading at [`BlockType`], then [`decode_block`].

use half::{bf16, f16};

/// How the weights of a tensor are stored. Names, ids and layouts are ggml's; all numbers are
/// little-endian.
///
/// Layouts, by byte offset (`d`, `m`, `dmin` are f16; `qs` low bits of the codes, `qh` high bits):
///
/// | type | bytes | layout |
/// | --- | --- | --- |
/// | Q4_0 | 18 | `d` 0, `qs` 2..18 |
/// | Q4_1 | 20 | `d` 0, `m` 2, `qs` 4..20 |
/// | Q5_0 | 22 | `d` 0, `qh` 2..6, `qs` 6..22 |
/// | Q5_1 | 24 | `d` 0, `m` 2, `qh` 4..8, `qs` 8..24 |
/// | Q8_0 | 34 | `d` 0, codes 2..34 |
/// | Q2_K | 84 | 4-bit scales and minima 0..16, `qs` 16..80, `d` 80, `dmin` 82 |
/// | Q3_K | 110 | `qh` 0..32, `qs` 32..96, 6-bit scales 96..108, `d` 108 |
/// | Q4_K | 144 | `d` 0, `dmin` 2, 6-bit scales and minima 4..16, `qs` 16..144 |
/// | Q5_K | 176 | `d` 0, `dmin` 2, 6-bit scales and minima 4..16, `qh` 16..48, `qs` 48..176 |
/// | Q6_K | 210 | `qs` 0..128, `qh` 128..192, 8-bit scales 192..208, `d` 208 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

/// The longest block of any type, in weights: room for this many codes holds any block.
pub const MAX_BLOCK_LEN: usize = 256;

/// The most groups in a block of any type.
pub const MAX_BLOCK_GROUPS: usize = 16;

/// What a [`BlockType`] is; one row of the table behind its methods.
struct Facts {
    ggml_id: u32,
    name: &'static str,
    block_len: usize,
    block_bytes: usize,
    group_len: Option<usize>,
}

impl BlockType {
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    const fn facts(self) -> Facts {
        let (ggml_id, name, block_len, block_bytes, group_len) = match self {
            Self::F32 => (0, "F32", 1, 4, None),
            Self::F16 => (1, "F16", 1, 2, None),
            Self::BF16 => (30, "BF16", 1, 2, None),
            Self::Q4_0 => (2, "Q4_0", 32, 18, Some(32)),
            Self::Q4_1 => (3, "Q4_1", 32, 20, Some(32)),
            Self::Q5_0 => (6, "Q5_0", 32, 22, Some(32)),
            Self::Q5_1 => (7, "Q5_1", 32, 24, Some(32)),
            Self::Q8_0 => (8, "Q8_0", 32, 34, Some(32)),
            Self::Q2K => (10, "Q2_K", 256, 84, Some(16)),
            Self::Q3K => (11, "Q3_K", 256, 110, Some(16)),
            Self::Q4K => (12, "Q4_K", 256, 144, Some(32)),
            Self::Q5K => (13, "Q5_K", 256, 176, Some(32)),
            Self::Q6K => (14, "Q6_K", 256, 210, Some(16)),
        };
        Facts { ggml_id, name, block_len, block_bytes, group_len }
    }

    /// The type with this id in a GGUF tensor directory, or `None` for one that is not supported.
    pub fn from_ggml(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|block_type| block_type.ggml_id() == id)
    }

    /// The type's id in a GGUF tensor directory.
    pub const fn ggml_id(self) -> u32 {
        self.facts().ggml_id
    }

    /// ggml's name, as in file names and listings: `Q4_K`.
    pub const fn name(self) -> &'static str {
        self.facts().name
    }

    /// Weights in a block: 1, 32 or 256.
    pub const fn block_len(self) -> usize {
        self.facts().block_len
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        self.facts().block_bytes
    }

    /// Weights that share a scale, 16 or 32; `None` for the float types, which have no scale.
    pub const fn group_len(self) -> Option<usize> {
        self.facts().group_len
    }

    /// Whether weights are codes in scaled groups, rather than floats.
    pub const fn is_quantized(self) -> bool {
        self.group_len().is_some()
    }

    /// Bytes of a row of `n_cols` weights; `None` when that is not a whole number of blocks, or
    /// does not fit in a `usize`.
    pub const fn row_bytes(self, n_cols: usize) -> Option<usize> {
        if !n_cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (n_cols / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl std::fmt::Display for BlockType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The affine map of one group: `weight = scale * code + offset`, evaluated in f32 without fusing.
///
/// A symmetric type has the offset `-0.0`, the number that changes nothing when added (`+0.0`
/// would turn a weight of `-0.0` into `+0.0`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Group {
    pub scale: f32,
    pub offset: f32,
}

impl Group {
    const fn symmetric(scale: f32) -> Self {
        Self { scale, offset: -0.0 }
    }

    /// The weight that `code` stands for in this group.
    pub fn weight(self, code: i8) -> f32 {
        self.scale * f32::from(code) + self.offset
    }
}

/// Decodes one block of a quantised type into codes, in the order of the weights along the row
/// (ggml's interleaving is undone), and one [`Group`] for each `group_len` codes.
///
/// Codes are signed where the type is symmetric (Q4_0 -8..=7, Q5_0 -16..=15, Q8_0 -128..=127,
/// Q3_K -4..=3, Q6_K -32..=31) and unsigned where it has a minimum (Q4_1 and Q4_K 0..=15, Q5_1 and
/// Q5_K 0..=31, Q2_K 0..=3). Scales are whatever the bytes say, infinities and NaN included.
///
/// # Panics
/// When `block_type` is a float type, or a slice does not have the length of one block.
pub fn decode_block(block_type: BlockType, bytes: &[u8], codes: &mut [i8], groups: &mut [Group]) {
    let decode = block_decoder(block_type).expect("a quantised block type");
    assert_eq!(bytes.len(), block_type.block_bytes(), "bytes of one {block_type} block");
    assert_eq!(codes.len(), block_type.block_len(), "codes of one {block_type} block");
    let n_groups = block_type.group_len().map_or(0, |group_len| codes.len() / group_len);
    assert_eq!(groups.len(), n_groups, "groups of one {block_type} block");
    decode(bytes, codes, groups);
}

/// Decodes a row of whole blocks to f32.
///
/// # Panics
/// When `bytes` is not exactly `out.len()` weights of `block_type`.
pub fn dequantize_row(block_type: BlockType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(
        Some(bytes.len()),
        block_type.row_bytes(out.len()),
        "bytes of a {block_type} row of {} weights",
        out.len()
    );
    match block_type {
        BlockType::F32 => decode_floats(bytes, out, f32::from_le_bytes),
        BlockType::F16 => decode_floats(bytes, out, |raw| f16::from_le_bytes(raw).to_f32()),
        BlockType::BF16 => decode_floats(bytes, out, |raw| bf16::from_le_bytes(raw).to_f32()),
        quantized => dequantize_blocks(quantized, bytes, out),
    }
}

fn decode_floats<const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    let (raws, []) = bytes.as_chunks::<N>() else { unreachable!("the length was checked") };
    for (weight, raw) in out.iter_mut().zip(raws) {
        *weight = decode(*raw);
    }
}

fn dequantize_blocks(block_type: BlockType, bytes: &[u8], out: &mut [f32]) {
    let (Some(decode), Some(group_len)) = (block_decoder(block_type), block_type.group_len())
    else {
        unreachable!("float types are decoded above")
    };
    let block_len = block_type.block_len();
    let mut codes = [0; MAX_BLOCK_LEN];
    let mut groups = [Group::default(); MAX_BLOCK_GROUPS];
    let codes = &mut codes[..block_len];
    let groups = &mut groups[..block_len / group_len];

    let blocks = bytes.chunks_exact(block_type.block_bytes());
    for (block, weights) in blocks.zip(out.chunks_exact_mut(block_len)) {
        decode(block, codes, groups);
        let decoded = groups.iter().zip(codes.chunks_exact(group_len));
        for ((group, codes), weights) in decoded.zip(weights.chunks_exact_mut(group_len)) {
            for (weight, &code) in weights.iter_mut().zip(codes) {
                *weight = group.weight(code);
            }
        }
    }
}

/// Decodes one block whose slices have the right lengths.
type DecodeBlock = fn(&[u8], &mut [i8], &mut [Group]);

fn block_decoder(block_type: BlockType) -> Option<DecodeBlock> {
    Some(match block_type {
        BlockType::F32 | BlockType::F16 | BlockType::BF16 => return None,
        BlockType::Q4_0 => decode_q4_0,
        BlockType::Q4_1 => decode_q4_1,
        BlockType::Q5_0 => decode_q5_0,
        BlockType::Q5_1 => decode_q5_1,
        BlockType::Q8_0 => decode_q8_0,
        BlockType::Q2K => decode_q2_k,
        BlockType::Q3K => decode_q3_k,
        BlockType::Q4K => decode_q4_k,
        BlockType::Q5K => decode_q5_k,
        BlockType::Q6K => decode_q6_k,
    })
}

fn f16_at(bytes: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([bytes[offset], bytes[offset + 1]]).to_f32()
}

/// Sixteen bytes hold 32 codes: low halves are the first 16 codes, high halves the last 16.
fn low_and_high_nibbles(qs: &[u8], codes: &mut [i8]) {
    let (first, last) = codes.split_at_mut(qs.len());
    for ((&q, low), high) in qs.iter().zip(first).zip(last) {
        *low = (q & 0xF) as i8;
        *high = (q >> 4) as i8;
    }
}

fn decode_q4_0(block: &[u8], codes: &mut [i8], groups: &mut [Group]) {
    groups[0] = Group::symmetric(f16_at(block, 0));
    low_and_high_nibbles(&block[2..18], codes);
    for code in codes {
        *code -= 8;
    }
}

fn decode_q4_1(block: &[u8], codes: &mut [i8], groups: &mut [Group]) {
    groups[0] = Group { scale: f16_at(block, 0), offset: f16_at(block, 2) };
    low_and_high_nibbles(&block[4..20], codes);
}

/// Adds the fifth bit of 32 codes: bit `i` of the little-endian `qh` belongs to code `i`.
fn add_fifth_bits(qh: &[u8], codes: &mut [i8]) {
    for (&bits, codes) in qh.iter().zip(codes.chunks_exact_mut(8)) {
        for (bit, code) in codes.iter_mut().enumerate() {
            *code |= ((bits >> bit & 1) << 4) as i8;
        }
    }
}

fn decode_q5_0(block: &[u8], codes: &mut [i8], groups: &mut [Group]) {
    groups[0] = Group::symmetric(f16_at(block, 0));
    low_and_high_nibbles(&block[6..22], codes);
    add_fifth_bits(&block[2..6], codes);
    for code in codes {
        *code -= 16;
    }
}

fn decode_q5_1(block: &[u8], codes: &mut [i8], groups: &mut [Group]) {
    groups[0] = Group { scale: f16_at(block, 0), offset: f16_at(block, 2) };
    low_and_high_nibbles(&block[8..24], codes);
    add_fifth_bits(&block[4..8], codes);
}

fn decode_q8_0(block: &[u8], codes: &mut [i8], groups: &mut [Group]) {
    groups[0] = Group::symmetric(f16_at(block, 0));
    for (code, &byte) in codes.iter_mut().zip(&block[2..34]) {
        *code = byte as i8;
    }
}

/// Two-bit codes of a 256 block: each 32 bytes hold 128 codes, 32 for each pair of bits, low
/// pair first.
fn two_bit_codes(qs: &[u8], codes: &mut [i8]) {
    for (qs, codes) in qs.chunks_exact(32).zip(codes.chunks_exact_mut(128)) {
        for (pair, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (&q, code) in qs.iter().zip(codes) {
                *code = (q >> (2 * pair) & 3) as i8;
            }
        }
    }
}

fn decode_q2_k(block: &[u8], codes: &mut [i8], groups: &mut [Group]) {
    let (scale, minimum) = (f16_at(block, 80), f16_at(block, 82));
    for (group, &packed) in groups.iter_mut().zip(&block[..16]) {
        *group = Group {
            scale: scale * f32::from(packed & 0xF),
            offset: -(minimum * f32::from(packed >> 4)),
        };
    }
    two_bit_codes(&block[16..80], codes);
}

fn decode_q3_k(block: &[u8], codes: &mut [i8], groups: &mut [Group]) {
    let (high_bits, qs, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let scale = f16_at(block, 108);
    for (i, group) in groups.iter_mut().enumerate() {
        // Sixteen scales of six bits: the low four in halves of the first eight bytes, the high
        // two in quarters of the last four.
        let low = packed[i % 8] >> (4 * (i / 8)) & 0xF;
        let high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
        *group = Group::symmetric(scale * f32::from((low | high << 4) as i8 - 32));
    }
    two_bit_codes(qs, codes);
    for (bit, codes) in codes.chunks_exact_mut(32).enumerate() {
        for (&bits, code) in high_bits.iter().zip(codes) {
            // A set bit is the third bit of the code plus the offset of 4: it cancels.
            *code -= ((!bits >> bit & 1) << 2) as i8;
        }
    }
}

/// The eight scales and minima of a Q4_K or Q5_K block, six bits each: `(scale, minimum)`.
///
/// Groups 0..4 have theirs in the low six bits of bytes 0..4 and 4..8; groups 4..8 have the low
/// four bits in bytes 8..12 (scale low half, minimum high half) and the high two in the top bits of
/// bytes 0..4 and 4..8.
fn six_bit_scale_and_minimum(packed: &[u8], group_idx: usize) -> (u8, u8) {
    if group_idx < 4 {
        (packed[group_idx] & 0x3F, packed[group_idx + 4] & 0x3F)
    } else {
        let low = packed[group_idx + 4];
        let scale_high = packed[group_idx - 4] >> 6;
        let minimum_high = packed[group_idx] >> 6;
        (low & 0xF | scale_high << 4, low >> 4 | minimum_high << 4)
    }
}

fn six_bit_groups(block: &[u8], groups: &mut [Group]) {
    let (scale, minimum) = (f16_at(block, 0), f16_at(block, 2));
    for (group_idx, group) in groups.iter_mut().enumerate() {
        let (group_scale, group_minimum) = six_bit_scale_and_minimum(&block[4..16], group_idx);
        *group = Group {
            scale: scale * f32::from(group_scale),
            offset: -(minimum * f32::from(group_minimum)),
        };
    }
}

fn decode_q4_k(block: &[u8], codes: &mut [i8], groups: &mut [Group]) {
    six_bit_groups(block, groups);
    for (qs, codes) in block[16..144].chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
        low_and_high_nibbles(qs, codes);
    }
}

fn decode_q5_k(block: &[u8], codes: &mut [i8], groups: &mut [Group]) {
    six_bit_groups(block, groups);
    for (qs, codes) in block[48..176].chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
        low_and_high_nibbles(qs, codes);
    }
    for (bit, codes) in codes.chunks_exact_mut(32).enumerate() {
        for (&bits, code) in block[16..48].iter().zip(codes) {
            *code |= ((bits >> bit & 1) << 4) as i8;
        }
    }
}

fn decode_q6_k(block: &[u8], codes: &mut [i8], groups: &mut [Group]) {
    let scale = f16_at(block, 208);
    for (group, &group_scale) in groups.iter_mut().zip(&block[192..208]) {
        *group = Group::symmetric(scale * f32::from(group_scale as i8));
    }
    let halves = block[..128].chunks_exact(64).zip(block[128..192].chunks_exact(32));
    for ((low, high), codes) in halves.zip(codes.chunks_exact_mut(128)) {
        // 128 codes in four runs of 32: low four bits in halves of 64 bytes, high two in quarters
        // of 32 bytes.
        low_and_high_nibbles(low, codes);
        for (pair, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (&bits, code) in high.iter().zip(codes) {
                *code = (*code | ((bits >> (2 * pair) & 3) << 4) as i8) - 32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_are_distinct_and_invert() {
        for block_type in BlockType::ALL {
            assert_eq!(BlockType::from_ggml(block_type.ggml_id()), Some(block_type));
            let same_name = BlockType::ALL.iter().filter(|other| other.name() == block_type.name());
            assert_eq!(same_name.count(), 1);
        }
        // Ids that ggml has retired, uses for intermediate results only, or does not know.
        for id in [4, 5, 9, 15, 16, 24, 31, 1000, u32::MAX] {
            assert_eq!(BlockType::from_ggml(id), None);
        }
    }

    #[test]
    fn room_for_any_block_is_room_for_every_block() {
        for block_type in BlockType::ALL {
            assert!(block_type.block_len() <= MAX_BLOCK_LEN);
            if let Some(group_len) = block_type.group_len() {
                assert_eq!(block_type.block_len() % group_len, 0);
                assert!(block_type.block_len() / group_len <= MAX_BLOCK_GROUPS);
            }
        }
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(BlockType::Q4_1.row_bytes(576), Some(18 * 20));
        assert_eq!(BlockType::Q4_1.row_bytes(0), Some(0));
        assert_eq!(BlockType::Q4_1.row_bytes(33), None);
        assert_eq!(BlockType::Q4K.row_bytes(576), None);
        assert_eq!(BlockType::F16.row_bytes(7), Some(14));
        assert_eq!(BlockType::F32.row_bytes(usize::MAX), None);
    }

    #[test]
    fn symmetric_offset_keeps_negative_zero() {
        let weight = Group::symmetric(-1.0).weight(0);
        assert_eq!(weight.to_bits(), (-0.0_f32).to_bits());
    }

    #[test]
    fn f07_non_finite_scales_pass_through() {
        for scale in [f16::INFINITY, f16::NEG_INFINITY, f16::NAN] {
            for block_type in BlockType::ALL.into_iter().filter(|t| t.is_quantized()) {
                // Every f16 in the block is `scale`, wherever the type keeps it.
                let block = scale.to_le_bytes().repeat(block_type.block_bytes() / 2);
                let mut weights = vec![0.0; block_type.block_len()];
                dequantize_row(block_type, &block, &mut weights);
                assert!(weights.iter().any(|weight| !weight.is_finite()), "{block_type}");
            }
        }
    }
}
