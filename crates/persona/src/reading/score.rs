//! How well readings agree with labels: F1 as GoEmotions reports it, calibration, shares.

/// Of one label.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LabelScore {
    /// How many texts have it.
    pub n: usize,
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
}

/// Precision, recall and F1 of what is said against what is right; 0 where nothing is there to
/// divide by, as scikit-learn has it.
pub fn label_score(said: &[bool], right: &[bool]) -> LabelScore {
    let n_both = said.iter().zip(right).filter(|(said, right)| **said && **right).count() as f64;
    let n_said = said.iter().filter(|said| **said).count() as f64;
    let n = right.iter().filter(|right| **right).count();
    let ratio = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    LabelScore {
        n,
        precision: ratio(n_both, n_said),
        recall: ratio(n_both, n as f64),
        f1: ratio(2.0 * n_both, n_said + n as f64),
    }
}

/// Expected calibration error over `n_bins` bins of equal width (Guo et al. 2017): the mean gap of
/// probability and share of right ones, weighted by the bins' sizes.
pub fn calibration_error(probabilities: &[f32], right: &[bool], n_bins: usize) -> f64 {
    let mut bins = vec![(0.0, 0.0); n_bins];
    for (probability, right) in probabilities.iter().zip(right) {
        let bin = ((probability * n_bins as f32) as usize).min(n_bins - 1);
        bins[bin].0 += f64::from(*probability);
        bins[bin].1 += f64::from(u8::from(*right));
    }
    let n = probabilities.len().max(1) as f64;
    bins.iter().map(|(said, happened)| (said - happened).abs()).sum::<f64>() / n
}

/// Pearson's correlation; 0 where one side does not vary.
pub fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len().min(b.len()).max(1) as f64;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / n;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut both, mut of_a, mut of_b) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        both += (a - mean_a) * (b - mean_b);
        of_a += (a - mean_a).powi(2);
        of_b += (b - mean_b).powi(2);
    }
    if of_a > 0.0 && of_b > 0.0 { both / (of_a * of_b).sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_by_hand() {
        let score = label_score(&[true, true, false, false], &[true, false, true, false]);
        let expected = LabelScore { n: 2, precision: 0.5, recall: 0.5, f1: 0.5 };
        assert_eq!(score, expected);
        assert_eq!(label_score(&[false], &[false]), LabelScore::default());
    }

    #[test]
    fn calibration_by_hand() {
        // Two bins: 0.25 said of which half happened, 0.75 of which all.
        let error = calibration_error(&[0.25, 0.25, 0.75], &[true, false, true], 2);
        assert!((error - (0.5 + 0.25) / 3.0).abs() < 1e-6, "{error}");
    }

    #[test]
    fn correlation_by_hand() {
        assert!((correlation(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.0]) - 1.0).abs() < 1e-12);
        assert!(correlation(&[1.0, 2.0], &[5.0, 5.0]).abs() < 1e-12);
    }
}
