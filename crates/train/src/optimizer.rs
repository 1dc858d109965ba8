//! AdamW (Loshchilov and Hutter 2019), clipping by the global norm, and the learning rate's curve.

/// What a step of the optimiser is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AdamW {
    pub(crate) learning_rate: f64,
    pub(crate) betas: [f64; 2],
    pub(crate) weight_decay: f64,
}

const EPSILON: f64 = 1e-8;

/// What the optimiser remembers of each parameter.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Moments {
    pub(crate) mean: Vec<f32>,
    pub(crate) square: Vec<f32>,
}

impl Moments {
    pub(crate) fn new(n_parameters: usize) -> Self {
        Self { mean: vec![0.0; n_parameters], square: vec![0.0; n_parameters] }
    }
}

impl AdamW {
    /// One step; `step` counts from 1.
    pub(crate) fn step(
        &self,
        step: usize,
        moments: &mut Moments,
        gradients: &[f32],
        values: &mut [f32],
    ) {
        let [beta_mean, beta_square] = self.betas.map(|beta| beta as f32);
        let correction = |beta: f64| 1.0 - beta.powi(step as i32);
        let step_size = (self.learning_rate / correction(self.betas[0])) as f32;
        let square_scale = (1.0 / correction(self.betas[1])) as f32;
        let keep = (1.0 - self.learning_rate * self.weight_decay) as f32;
        let state = moments.mean.iter_mut().zip(&mut moments.square);
        for ((value, gradient), (mean, square)) in values.iter_mut().zip(gradients).zip(state) {
            *mean = beta_mean * *mean + (1.0 - beta_mean) * gradient;
            *square = beta_square * *square + (1.0 - beta_square) * gradient * gradient;
            let scale = (*square * square_scale).sqrt() + EPSILON as f32;
            *value = *value * keep - step_size * *mean / scale;
        }
    }
}

/// Scales gradients so that their norm is at most `limit`; gives the norm they had.
pub(crate) fn clip(gradients: &mut [f32], limit: f64) -> f64 {
    let norm = gradients.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
    if norm > limit {
        let scale = (limit / norm) as f32;
        for gradient in gradients {
            *gradient *= scale;
        }
    }
    norm
}

/// A learning rate that rises in a straight line and falls along half a cosine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Schedule {
    pub(crate) peak: f64,
    /// As parts of all steps and of the peak.
    pub(crate) warmup: f64,
    pub(crate) end: f64,
    pub(crate) n_steps: usize,
}

impl Schedule {
    /// The learning rate of a step; `step` counts from 1.
    pub(crate) fn at(&self, step: usize) -> f64 {
        let n_warmup = self.warmup * self.n_steps as f64;
        let step = step as f64;
        if step < n_warmup {
            return self.peak * step / n_warmup;
        }
        let rest = (self.n_steps as f64 - n_warmup).max(1.0);
        let progress = ((step - n_warmup) / rest).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        self.peak * (self.end + (1.0 - self.end) * cosine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_equal_the_formula_by_hand() {
        let adam = AdamW { learning_rate: 0.1, betas: [0.9, 0.99], weight_decay: 0.5 };
        let mut moments = Moments::new(2);
        let mut values = [1.0, -2.0];
        adam.step(1, &mut moments, &[0.5, -0.25], &mut values);
        // After one step the corrected moments are g and g squared: each moves by the learning
        // rate against its gradient's sign, after decaying by lr * wd.
        assert!((values[0] - (1.0 * 0.95 - 0.1)).abs() < 1e-6, "{values:?}");
        assert!((values[1] - (-2.0 * 0.95 + 0.1)).abs() < 1e-6, "{values:?}");
        adam.step(2, &mut moments, &[0.1, 0.0], &mut values);
        let mean = (0.9 * 0.05 + 0.1 * 0.1) / (1.0 - 0.81);
        let square: f64 = (0.99 * 0.0025 + 0.01 * 0.01) / (1.0 - 0.9801);
        let expected = 0.85 * 0.95 - 0.1 * mean / square.sqrt();
        assert!((f64::from(values[0]) - expected).abs() < 1e-5, "{values:?} {expected}");
    }

    #[test]
    fn clipping_keeps_the_direction() {
        let mut gradients = [3.0, 4.0];
        assert!((clip(&mut gradients, 10.0) - 5.0).abs() < 1e-9);
        assert_eq!(gradients.map(f32::to_bits), [3.0, 4.0].map(f32::to_bits));
        assert!((clip(&mut gradients, 1.0) - 5.0).abs() < 1e-9);
        assert!((gradients[0] - 0.6).abs() < 1e-6 && (gradients[1] - 0.8).abs() < 1e-6);
    }

    #[test]
    fn the_rate_rises_and_falls_to_its_end() {
        let schedule = Schedule { peak: 2.0, warmup: 0.1, end: 0.25, n_steps: 100 };
        let rates: Vec<f64> = (1..=100).map(|step| schedule.at(step)).collect();
        assert!((rates[4] - 1.0).abs() < 1e-9 && (rates[9] - 2.0).abs() < 1e-9);
        assert!(rates[..10].is_sorted() && rates[9..].is_sorted_by(|a, b| a >= b));
        assert!((rates[99] - 0.5).abs() < 1e-9);
        let short = Schedule { peak: 1.0, warmup: 0.0, end: 0.0, n_steps: 1 };
        assert!(short.at(1).is_finite());
    }
}
