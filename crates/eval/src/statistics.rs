//! Intervals and tests for counts.

/// A share with the interval that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    pub n: u32,
    /// Successes; a tie counts half.
    pub successes: f64,
    pub low: f64,
    pub high: f64,
}

impl Share {
    /// Wilson's score interval at 95 % (Wilson 1927). With no trials it is everything, 0 to 1.
    pub fn wilson(successes: f64, n: u32) -> Self {
        /// The 97.5th percentile of the normal distribution.
        const Z: f64 = 1.959_963_984_540_054;
        if n == 0 {
            return Self { n, successes, low: 0.0, high: 1.0 };
        }
        let trials = f64::from(n);
        let share = successes / trials;
        let centre = share + Z * Z / (2.0 * trials);
        let spread = Z * (share * (1.0 - share) / trials + Z * Z / (4.0 * trials * trials)).sqrt();
        let scale = 1.0 + Z * Z / trials;
        Self {
            n,
            successes,
            low: ((centre - spread) / scale).max(0.0),
            high: ((centre + spread) / scale).min(1.0),
        }
    }

    /// `None` where nothing was counted.
    pub fn share(&self) -> Option<f64> {
        (self.n > 0).then(|| self.successes / f64::from(self.n))
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.share() {
            Some(share) => write!(
                f,
                "{:.1} % [{:.1}, {:.1}] (n {})",
                share * 100.0,
                self.low * 100.0,
                self.high * 100.0,
                self.n
            ),
            None => f.write_str("- (n 0)"),
        }
    }
}

/// The two-sided sign test: how likely a split at least as uneven is if both sides win equally
/// often. Ties are left out before (Dixon and Mood 1946).
pub fn sign_test(wins: u32, losses: u32) -> f64 {
    let n = wins + losses;
    let fewer = wins.min(losses);
    // Sums of the binomial in logarithms: 2^-n underflows for large n.
    let mut log_choose = 0.0_f64;
    let log_half = -f64::from(n) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=fewer {
        tail += (log_choose + log_half).exp();
        log_choose += (f64::from(n - k) / f64::from(k + 1)).ln();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R 4: `binom.test(x, n)$p.value`; statsmodels `proportion_confint(method="wilson")`.
    #[test]
    fn agrees_with_published_values() {
        assert!((sign_test(8, 2) - 0.109_375).abs() < 1e-12);
        assert!((sign_test(15, 5) - 0.041_389_465_332_031_25).abs() < 1e-12);
        assert!((sign_test(5, 5) - 1.0).abs() < 1e-12);
        assert!(sign_test(900, 100) < 1e-100);
        let share = Share::wilson(8.0, 10);
        assert!((share.low - 0.490_162_5).abs() < 1e-6, "{share:?}");
        assert!((share.high - 0.943_317_8).abs() < 1e-6, "{share:?}");
    }

    #[test]
    fn nothing_counted_says_nothing() {
        let share = Share::wilson(0.0, 0);
        assert_eq!((share.low, share.high, share.share()), (0.0, 1.0, None));
        assert!((sign_test(0, 0) - 1.0).abs() < f64::EPSILON);
    }
}
