//! Quantising loses no more than llama.cpp does, and refuses what cannot be stored.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use proptest::prelude::*;
use rapport_kernels::blocks::{BlockType, dequantize_row};
use rapport_kernels::quantize::{QuantizeError, WRITABLE, quantize_row};

const N_ROWS: usize = 64;
const N_COLS: usize = 256;

/// Sums of four 16-bit lanes of SplitMix64, centred: all exact in f32.
fn bell(seed: u64) -> Vec<f32> {
    let weight = |i: u64| {
        let state = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let z = z ^ (z >> 31);
        let lanes: u64 = (0..4).map(|lane| z >> (16 * lane) & 0xFFFF).sum();
        (lanes as f32 - 131_070.0) / 65_536.0
    };
    (1..=(N_ROWS * N_COLS) as u64).map(weight).collect()
}

/// The same weights as `fixtures/measure_ggml.py` makes.
fn kinds() -> [(&'static str, Vec<f32>); 4] {
    let mut outliers = bell(4);
    outliers.iter_mut().step_by(64).for_each(|weight| *weight *= 16.0);
    [
        ("bell", bell(1)),
        ("heavy tails", bell(2).into_iter().map(|x| x * x * x).collect()),
        ("shifted", bell(3).into_iter().map(|x| x * 0.25 + 1.0).collect()),
        ("outliers", outliers),
    ]
}

fn there_and_back(block_type: BlockType, weights: &[f32]) -> Vec<f32> {
    let mut bytes = Vec::new();
    for row in weights.chunks_exact(N_COLS) {
        quantize_row(block_type, row, &mut bytes).unwrap();
    }
    let mut decoded = vec![f32::NAN; weights.len()];
    dequantize_row(block_type, &bytes, &mut decoded);
    decoded
}

fn root_mean_square_error(weights: &[f32], decoded: &[f32]) -> f64 {
    let squares = weights.iter().zip(decoded).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
    (squares.sum::<f64>() / weights.len() as f64).sqrt()
}

/// What ggml's own quantisation loses on [`kinds`], as `fixtures/measure_ggml.py` prints it.
const GGML_ERRORS: [(BlockType, [f64; 4]); 7] = [
    (BlockType::F16, [1.193_295e-4, 1.382_558e-4, 2.212_414e-4, 2.674_708e-4]),
    (BlockType::BF16, [9.596_622e-4, 1.078_406e-3, 1.785_605e-3, 2.120_212e-3]),
    (BlockType::Q8_0, [2.935_178e-3, 5.359_628e-3, 2.910_975e-3, 1.477_840e-2]),
    (BlockType::Q4_0, [4.712_045e-2, 7.180_912e-2, 4.625_835e-2, 2.170_574e-1]),
    (BlockType::Q4_1, [4.359_628e-2, 7.415_724e-2, 1.104_276e-2, 1.390_486e-1]),
    (BlockType::Q4K, [3.984_648e-2, 5.882_377e-2, 2.252_387e-2, 1.287_253e-1]),
    (BlockType::Q6K, [9.762_781e-3, 1.555_052e-2, 9.847_557e-3, 4.096_249e-2]),
];

#[test]
fn loses_no_more_than_ggml() {
    for (block_type, ggml_errors) in GGML_ERRORS {
        for ((kind, weights), ggml_error) in kinds().into_iter().zip(ggml_errors) {
            let error = root_mean_square_error(&weights, &there_and_back(block_type, &weights));
            // The figures have seven digits.
            let bound = ggml_error * (1.0 + 1e-6);
            assert!(error <= bound, "{block_type} of {kind}: {error:e}, ggml {ggml_error:e}");
        }
    }
}

#[test]
fn f32_is_exact() {
    for (_, weights) in kinds() {
        assert_eq!(there_and_back(BlockType::F32, &weights), weights);
    }
}

#[test]
fn zeros_stay_zeros() {
    for block_type in WRITABLE {
        let decoded = there_and_back(block_type, &[0.0; N_COLS]);
        assert!(decoded.iter().all(|&weight| weight == 0.0), "{block_type}");
    }
}

#[test]
fn constant_rows_stay_close() {
    for block_type in WRITABLE {
        for constant in [1.0, -1.0, 3e-3, 1e4] {
            for weight in there_and_back(block_type, &[constant; N_COLS]) {
                let error = (weight - constant).abs() / constant.abs();
                assert!(error < 0.01, "{block_type}: {constant} became {weight}");
            }
        }
    }
}

#[test]
fn a_row_that_cannot_be_stored_leaves_nothing_behind() {
    let mut out = vec![7];
    let mut refused = |block_type, weights: &[f32]| {
        let error = quantize_row(block_type, weights, &mut out).unwrap_err();
        assert_eq!(out, [7]);
        error
    };
    let (block_type, n_cols) = (BlockType::Q4K, 255);
    assert_eq!(
        refused(block_type, &[0.0; 255]),
        QuantizeError::PartialBlock { block_type, n_cols }
    );
    assert_eq!(
        refused(BlockType::Q5K, &[0.0; 256]),
        QuantizeError::UnsupportedType { block_type: BlockType::Q5K }
    );
    for block_type in WRITABLE {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut weights = [1.0; 512];
            weights[300] = bad;
            let error = refused(block_type, &weights);
            assert!(matches!(error, QuantizeError::NotFinite { column: 300, .. }), "{error}");
        }
        if block_type != BlockType::F32 {
            let mut weights = [1.0; 512];
            weights[256] = f32::MAX;
            let column = 256;
            assert_eq!(
                refused(block_type, &weights),
                QuantizeError::TooLarge { block_type, column }
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// No weight moves by more than a quarter of the largest one of its block, at any scale.
    #[test]
    fn every_weight_stays_near(
        weights in proptest::collection::vec(-1.0_f32..1.0, N_COLS),
        sparse in any::<bool>(),
        exponent in -8..5,
    ) {
        let scale = 10_f32.powi(exponent);
        let shape = |x: f32| if sparse { x.powi(9) } else { x };
        let weights: Vec<f32> = weights.into_iter().map(|x| shape(x) * scale).collect();
        for block_type in WRITABLE {
            let decoded = there_and_back(block_type, &weights);
            let block_len = block_type.block_len();
            for (block, decoded) in weights.chunks(block_len).zip(decoded.chunks(block_len)) {
                let largest = block.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
                // The smallest f16 scale that is not 0, times the largest number it goes with.
                let granularity = 6e-8 * 128.0 * 32.0;
                for (weight, decoded) in block.iter().zip(decoded) {
                    let error = (weight - decoded).abs();
                    prop_assert!(
                        error <= 0.25 * largest + granularity,
                        "{block_type}: {weight} became {decoded} beside {largest}"
                    );
                }
            }
        }
    }

    /// Whatever the weights, the result is an error or finite.
    #[test]
    fn any_floats_are_refused_or_finite(
        bits in proptest::collection::vec(any::<u32>(), N_COLS),
    ) {
        let weights: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        for block_type in WRITABLE {
            let mut bytes = Vec::new();
            if quantize_row(block_type, &weights, &mut bytes).is_ok() {
                let mut decoded = vec![f32::NAN; N_COLS];
                dequantize_row(block_type, &bytes, &mut decoded);
                prop_assert!(decoded.iter().all(|weight| weight.is_finite()), "{block_type}");
            }
        }
    }
}
