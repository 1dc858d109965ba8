//! Advantages: how much better a reply is than the others to the same prompt.
//!
//! Formulas and the constant as in TRL 1.16, deviations with n - 1. A score that does not apply to a
//! reply counts nothing for it and is left out of its group's mean.

use crate::recipe::Advantage;

const EPSILON: f64 = 1e-4;

/// Advantages of replies that stand group by group.
///
/// # Shapes
/// `scores`: (replies, names); `weights`: (names).
pub(crate) fn advantages(
    form: Advantage,
    scores: &[Vec<Option<f64>>],
    weights: &[f64],
    n_group: usize,
) -> Vec<f64> {
    if form == Advantage::Gdpo {
        let mut sums = vec![0.0; scores.len()];
        for (name_idx, weight) in weights.iter().enumerate() {
            let of_name: Vec<Option<f64>> = scores.iter().map(|row| row[name_idx]).collect();
            for (sums, group) in sums.chunks_mut(n_group).zip(of_name.chunks(n_group)) {
                let there: Vec<f64> = group.iter().copied().flatten().collect();
                let (mean, deviation) = mean_and_deviation(&there);
                for (sum, score) in sums.iter_mut().zip(group) {
                    *sum +=
                        score.map_or(0.0, |score| weight * (score - mean) / (deviation + EPSILON));
                }
            }
        }
        let (mean, deviation) = mean_and_deviation(&sums);
        return sums.iter().map(|sum| (sum - mean) / (deviation + EPSILON)).collect();
    }
    let sums: Vec<f64> = scores.iter().map(|row| weighted(row, weights)).collect();
    let of_group = |group: &[f64]| -> Vec<f64> {
        let (mean, deviation) = mean_and_deviation(group);
        let scale = if form == Advantage::Mean { 1.0 } else { 1.0 / (deviation + EPSILON) };
        group.iter().map(|sum| (sum - mean) * scale).collect()
    };
    sums.chunks(n_group).flat_map(of_group).collect()
}

/// What a reply's scores are worth together.
pub(crate) fn weighted(scores: &[Option<f64>], weights: &[f64]) -> f64 {
    scores.iter().zip(weights).map(|(score, weight)| score.unwrap_or(0.0) * weight).sum()
}

fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let n_values = values.len() as f64;
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let mean = values.iter().sum::<f64>() / n_values;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (n_values - 1.0).max(1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_of_another_scale_drowns_no_other() {
        let scores: Vec<Vec<Option<f64>>> =
            [[1000.0, 0.0], [1000.0, 1.0], [2000.0, 0.0], [2000.0, 1.0]]
                .map(|row| row.map(Some).to_vec())
                .to_vec();
        let found = advantages(Advantage::Gdpo, &scores, &[1.0, 1.0], 4);
        assert!(found[0] < found[1] - 0.5 && found[1] < found[3] - 0.5, "{found:?}");
        assert!((found[1] - found[2]).abs() < 1e-3, "{found:?}");
        let summed = advantages(Advantage::Group, &scores, &[1.0, 1.0], 4);
        assert!((summed[0] - summed[1]).abs() < 0.01, "{summed:?}");
    }

    #[test]
    fn a_group_without_a_difference_moves_nothing() {
        let scores = vec![vec![Some(0.3)]; 4];
        for form in [Advantage::Gdpo, Advantage::Group, Advantage::Mean] {
            assert!(advantages(form, &scores, &[1.0], 2).iter().all(|a| a.abs() < 1e-9));
        }
        let missing = [vec![Some(1.0), None], vec![Some(0.0), None]];
        let found = advantages(Advantage::Gdpo, &missing, &[1.0, 5.0], 2);
        assert!(found[0] > 0.5 && found.iter().all(|a| a.is_finite()), "{found:?}");
    }
}
