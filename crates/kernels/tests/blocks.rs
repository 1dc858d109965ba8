//! Every block type decodes to the weights that the `gguf` Python package computes, bit for bit.
//! The fixtures are written by `fixtures/make_blocks.py`.

use rapport_kernels::blocks::{BlockType, Group, decode_block, dequantize_row};

const FIXTURES: [(BlockType, &[u8]); 13] = [
    (BlockType::F32, include_bytes!("fixtures/F32.bin")),
    (BlockType::F16, include_bytes!("fixtures/F16.bin")),
    (BlockType::BF16, include_bytes!("fixtures/BF16.bin")),
    (BlockType::Q4_0, include_bytes!("fixtures/Q4_0.bin")),
    (BlockType::Q4_1, include_bytes!("fixtures/Q4_1.bin")),
    (BlockType::Q5_0, include_bytes!("fixtures/Q5_0.bin")),
    (BlockType::Q5_1, include_bytes!("fixtures/Q5_1.bin")),
    (BlockType::Q8_0, include_bytes!("fixtures/Q8_0.bin")),
    (BlockType::Q2K, include_bytes!("fixtures/Q2_K.bin")),
    (BlockType::Q3K, include_bytes!("fixtures/Q3_K.bin")),
    (BlockType::Q4K, include_bytes!("fixtures/Q4_K.bin")),
    (BlockType::Q5K, include_bytes!("fixtures/Q5_K.bin")),
    (BlockType::Q6K, include_bytes!("fixtures/Q6_K.bin")),
];

/// The blocks of a fixture, and the weights they stand for.
fn read_fixture(block_type: BlockType, fixture: &[u8]) -> (&[u8], Vec<f32>) {
    let bytes_per_block = block_type.block_bytes() + 4 * block_type.block_len();
    assert!(!fixture.is_empty() && fixture.len().is_multiple_of(bytes_per_block), "{block_type}");
    let n_blocks = fixture.len() / bytes_per_block;
    let (blocks, weights) = fixture.split_at(n_blocks * block_type.block_bytes());
    (blocks, weights.as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect())
}

#[test]
fn rows_equal_the_reference_bit_for_bit() {
    for (block_type, fixture) in FIXTURES {
        let (blocks, expected) = read_fixture(block_type, fixture);
        let mut found = vec![f32::NAN; expected.len()];
        dequantize_row(block_type, blocks, &mut found);
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(
                found.to_bits(),
                expected.to_bits(),
                "{block_type} weight {i}: found {found}, expected {expected}"
            );
        }
    }
}

#[test]
fn codes_stay_in_the_range_of_their_type() {
    let range = |block_type| match block_type {
        BlockType::Q4_0 => -8..=7,
        BlockType::Q5_0 => -16..=15,
        BlockType::Q8_0 => -128..=127,
        BlockType::Q3K => -4..=3,
        BlockType::Q6K => -32..=31,
        BlockType::Q2K => 0..=3,
        BlockType::Q4_1 | BlockType::Q4K => 0..=15,
        BlockType::Q5_1 | BlockType::Q5K => 0..=31,
        float => panic!("{float} has no codes"),
    };
    for (block_type, fixture) in FIXTURES {
        let Some(group_len) = block_type.group_len() else { continue };
        let (blocks, expected) = read_fixture(block_type, fixture);
        let mut codes = vec![0; block_type.block_len()];
        let mut groups = vec![Group::default(); block_type.block_len() / group_len];
        let expected_blocks = expected.chunks_exact(block_type.block_len());
        for (block, expected) in blocks.chunks_exact(block_type.block_bytes()).zip(expected_blocks)
        {
            decode_block(block_type, block, &mut codes, &mut groups);
            for (i, (&code, expected)) in codes.iter().zip(expected).enumerate() {
                assert!(range(block_type).contains(&code), "{block_type} code {i} is {code}");
                let weight = groups[i / group_len].weight(code);
                assert_eq!(weight.to_bits(), expected.to_bits(), "{block_type} weight {i}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "bytes of a Q4_0 row of 32 weights")]
fn a_row_of_the_wrong_length_is_a_bug_of_the_caller() {
    dequantize_row(BlockType::Q4_0, &[0; 17], &mut [0.0; 32]);
}

#[test]
#[should_panic(expected = "a quantised block type")]
fn float_types_have_no_groups() {
    decode_block(BlockType::F32, &[0; 4], &mut [0], &mut []);
}
