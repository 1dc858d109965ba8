//! Learning a head from labelled texts.
//!
//! One L2-regularised support vector machine with squared hinge loss an output, by dual coordinate
//! descent (Hsieh et al. 2008); rarer labels cost more. Scores on folds that were left out give
//! Platt's line (Platt 1999) and the threshold, so that neither is judged on what was learned from.
//! The same examples and options give the same head to the bit, on any number of threads.
//!
//! Left out: shrinking (passes are few), a validation set for stopping, and hidden layers: an
//! averaged-embedding network scored below the linear model on the development split and added too
//! little to it to pay for twice the file.

use std::collections::HashMap;

use super::features::features;
use super::head::{Head, Output, idf_steps, vector};

/// A text and which outputs are right for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    pub text: String,
    /// Bit i is output i.
    pub labels: u64,
    /// Examples of one group are left out together.
    pub group: u64,
}

/// What a threshold is chosen for, on folds that were left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Aim {
    /// The best F1 of the output.
    F1,
    /// The fewest false alarms with at least this share of the right ones found.
    Recall(f32),
}

/// How to learn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FitOptions {
    /// Features of fewer texts are not looked at.
    pub min_documents: u32,
    /// At most so many features are kept: those with the largest weights.
    pub max_features: usize,
    /// What a text on the wrong side costs.
    pub cost: f32,
    /// How much more a text with the label costs: (others / with it) to this power.
    pub balance: f32,
    pub passes: u32,
    pub folds: u32,
    pub aim: Aim,
    pub n_threads: usize,
    pub seed: u64,
}

/// A head, and its scores as probabilities on the folds that were left out, (example, output).
#[derive(Debug)]
pub struct Fitted {
    pub head: Head,
    pub held_out: Vec<Vec<f32>>,
}

/// Why nothing can be learned.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FitError {
    #[error("there are no examples")]
    Empty,
    #[error(
        "label `{label}` has {n} of {total} examples: each needs some, and some without it, in \
         every fold"
    )]
    OneSided { label: String, n: usize, total: usize },
    #[error("{n} labels are too many: at most 64")]
    TooManyLabels { n: usize },
}

/// Texts as rows over a table of features.
struct Rows {
    starts: Vec<usize>,
    cells: Vec<(u32, f32)>,
    n_features: usize,
}

impl Rows {
    fn new(features_of: &[Vec<u32>], known: &[u32], idf: &[u8]) -> Self {
        let mut rows = Self { starts: vec![0], cells: Vec::new(), n_features: known.len() };
        for features in features_of {
            rows.cells.extend(vector(known, idf, features));
            rows.starts.push(rows.cells.len());
        }
        rows
    }

    fn row(&self, at: usize) -> &[(u32, f32)] {
        &self.cells[self.starts[at]..self.starts[at + 1]]
    }
}

/// The weights of one output.
struct Machine {
    weights: Vec<f32>,
    bias: f32,
}

impl Machine {
    fn score(&self, row: &[(u32, f32)]) -> f32 {
        row.iter().map(|(at, value)| self.weights[*at as usize] * value).sum::<f32>() + self.bias
    }
}

/// Xorshift (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % n as u64) as usize
    }
}

fn learn(rows: &Rows, chosen: &[u32], is_right: &[bool], options: &FitOptions) -> Machine {
    let n_right = chosen.iter().filter(|at| is_right[**at as usize]).count().max(1);
    let n_wrong = chosen.len().saturating_sub(n_right).max(1);
    let cost_of_right = options.cost * (n_wrong as f32 / n_right as f32).powf(options.balance);
    let mut machine = Machine { weights: vec![0.0; rows.n_features], bias: 0.0 };
    let mut duals = vec![0.0_f32; chosen.len()];
    let squares: Vec<f32> = chosen
        .iter()
        .map(|at| rows.row(*at as usize).iter().map(|(_, value)| value * value).sum::<f32>() + 1.0)
        .collect();
    let mut order: Vec<usize> = (0..chosen.len()).collect();
    let mut random = Random(options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _ in 0..options.passes {
        for at in (1..order.len()).rev() {
            order.swap(at, random.below(at + 1));
        }
        for &at in &order {
            let row = rows.row(chosen[at] as usize);
            let is_right = is_right[chosen[at] as usize];
            let (side, cost) = if is_right { (1.0, cost_of_right) } else { (-1.0, options.cost) };
            let diagonal = 0.5 / cost;
            let gradient = side * machine.score(row) - 1.0 + duals[at] * diagonal;
            let dual = (duals[at] - gradient / (squares[at] + diagonal)).max(0.0);
            let step = (dual - duals[at]) * side;
            if step != 0.0 {
                duals[at] = dual;
                machine.bias += step;
                for (feature, value) in row {
                    machine.weights[*feature as usize] += step * value;
                }
            }
        }
    }
    machine
}

/// Runs `task` for 0, 1, ..., `n`, on several threads; results in order.
fn parallel<T: Send>(n: usize, n_threads: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let n_threads = n_threads.clamp(1, n.max(1));
    let run = |first: usize| (first..n).step_by(n_threads).map(&task).collect::<Vec<T>>();
    let mut columns: Vec<std::vec::IntoIter<T>> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..n_threads).map(|first| scope.spawn(move || run(first))).collect();
        let own = run(0);
        let joined = others.into_iter().map(|other| other.join().unwrap_or_else(resume));
        std::iter::once(own).chain(joined).map(Vec::into_iter).collect()
    });
    (0..n).filter_map(|at| columns[at % n_threads].next()).collect()
}

fn resume<T>(panic: Box<dyn std::any::Any + Send>) -> T {
    std::panic::resume_unwind(panic)
}

/// The fold that a group belongs to.
fn fold(group: u64, folds: u32) -> u32 {
    let mixed = (group ^ (group >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 32) % u64::from(folds)) as u32
}

/// Features that at least `min_documents` texts have, ascending, and their stored weights.
fn known_features(features_of: &[Vec<u32>], min_documents: u32) -> (Vec<u32>, Vec<u8>) {
    let mut n_documents: HashMap<u32, u32> = HashMap::new();
    for feature in features_of.iter().flatten() {
        *n_documents.entry(*feature).or_default() += 1;
    }
    let mut known: Vec<(u32, u32)> =
        n_documents.into_iter().filter(|(_, n)| *n >= min_documents.max(1)).collect();
    known.sort_unstable();
    known.into_iter().map(|(feature, n)| (feature, idf_steps(features_of.len(), n))).unzip()
}

/// Learns a head for `labels`.
///
/// # Errors
/// If there is nothing to learn, or a label that is always or never right.
pub fn fit(
    labels: &[&str],
    examples: &[Example],
    options: &FitOptions,
) -> Result<Fitted, FitError> {
    if examples.is_empty() {
        return Err(FitError::Empty);
    }
    if labels.len() > 64 {
        return Err(FitError::TooManyLabels { n: labels.len() });
    }
    let n = examples.len();
    for (at, label) in labels.iter().enumerate() {
        let n_right = examples.iter().filter(|example| example.labels >> at & 1 == 1).count();
        if n_right < 2 || n - n_right < 2 {
            return Err(FitError::OneSided { label: (*label).to_owned(), n: n_right, total: n });
        }
    }
    let rights: Vec<Vec<bool>> = (0..labels.len())
        .map(|at| examples.iter().map(|example| example.labels >> at & 1 == 1).collect())
        .collect();
    let texts = parallel(n, options.n_threads, |at| features(&examples[at].text));
    let (mut known, mut idf) = known_features(&texts, options.min_documents);
    let mut rows = Rows::new(&texts, &known, &idf);
    let all: Vec<u32> = (0..n as u32).collect();
    let learn_all = |rows: &Rows| {
        parallel(labels.len(), options.n_threads, |at| learn(rows, &all, &rights[at], options))
    };
    let mut machines = learn_all(&rows);
    if known.len() > options.max_features {
        let kept = heaviest(&machines, options.max_features);
        known = kept.iter().map(|at| known[*at]).collect();
        idf = kept.iter().map(|at| idf[*at]).collect();
        rows = Rows::new(&texts, &known, &idf);
        machines = learn_all(&rows);
    }

    let folds: Vec<u32> = examples.iter().map(|e| fold(e.group, options.folds.max(2))).collect();
    let held_out = parallel(labels.len(), options.n_threads, |at| {
        let mut scores = vec![0.0; n];
        for left_out in 0..options.folds.max(2) {
            let rest: Vec<u32> =
                all.iter().copied().filter(|row| folds[*row as usize] != left_out).collect();
            let machine = learn(&rows, &rest, &rights[at], options);
            for row in (0..n).filter(|row| folds[*row] == left_out) {
                scores[row] = machine.score(rows.row(row));
            }
        }
        scores
    });
    let mut outputs = Vec::new();
    for (at, label) in labels.iter().enumerate() {
        let (slope, offset) = platt(&held_out[at], &rights[at]);
        let mut output = Output {
            label: (*label).to_owned(),
            scale: 1.0,
            bias: machines[at].bias,
            slope,
            offset,
            threshold: 0.5,
        };
        let scored: Vec<(f32, bool)> = held_out[at]
            .iter()
            .zip(&rights[at])
            .map(|(score, is_right)| (output.probability(*score), *is_right))
            .collect();
        output.threshold = threshold(scored, options.aim);
        let largest = machines[at].weights.iter().fold(0.0_f32, |most, w| most.max(w.abs()));
        output.scale = (largest / 127.0).max(f32::MIN_POSITIVE);
        outputs.push(output);
    }
    let mut weights = Vec::with_capacity(known.len() * labels.len());
    for feature in 0..known.len() {
        for (machine, output) in machines.iter().zip(&outputs) {
            weights.push((machine.weights[feature] / output.scale).round() as i8);
        }
    }
    let held_out = (0..n)
        .map(|row| {
            outputs.iter().zip(&held_out).map(|(output, s)| output.probability(s[row])).collect()
        })
        .collect();
    Ok(Fitted { head: Head { outputs, features: known, idf, weights }, held_out })
}

/// Places of the features with the largest weights in any machine, measured by each machine's own
/// largest; ascending.
fn heaviest(machines: &[Machine], n: usize) -> Vec<usize> {
    let n_features = machines.first().map_or(0, |machine| machine.weights.len());
    let mut most = vec![0.0_f32; n_features];
    for machine in machines {
        let largest = machine.weights.iter().fold(f32::MIN_POSITIVE, |most, w| most.max(w.abs()));
        for (most, weight) in most.iter_mut().zip(&machine.weights) {
            *most += (weight / largest).powi(2);
        }
    }
    let mut order: Vec<usize> = (0..n_features).collect();
    order.sort_by(|a, b| most[*b].total_cmp(&most[*a]).then(a.cmp(b)));
    order.truncate(n);
    order.sort_unstable();
    order
}

/// Slope and offset of the log-odds over the score, by Newton's method on the log-loss with Platt's
/// softened targets.
fn platt(scores: &[f32], is_right: &[bool]) -> (f32, f32) {
    let n_right = is_right.iter().filter(|right| **right).count() as f64;
    let n_wrong = is_right.len() as f64 - n_right;
    let (high, low) = ((n_right + 1.0) / (n_right + 2.0), 1.0 / (n_wrong + 2.0));
    let (mut slope, mut offset) = (1.0_f64, ((n_right + 1.0) / (n_wrong + 1.0)).ln());
    for _ in 0..50 {
        let (mut g1, mut g0, mut h11, mut h10, mut h00) = (0.0, 0.0, 1e-6, 0.0, 1e-6);
        for (score, right) in scores.iter().zip(is_right) {
            let score = f64::from(*score);
            let probability = 1.0 / (1.0 + (-(slope * score + offset)).exp());
            let gap = probability - if *right { high } else { low };
            let curve = probability * (1.0 - probability);
            g1 += gap * score;
            g0 += gap;
            h11 += curve * score * score;
            h10 += curve * score;
            h00 += curve;
        }
        let determinant = h11 * h00 - h10 * h10;
        let step_1 = (g1 * h00 - g0 * h10) / determinant;
        let step_0 = (g0 * h11 - g1 * h10) / determinant;
        // A step that is too long on a flat stretch would leave for good.
        slope -= step_1.clamp(-2.0, 2.0);
        offset -= step_0.clamp(-2.0, 2.0);
        if step_1.abs() + step_0.abs() < 1e-9 {
            break;
        }
    }
    (slope as f32, offset as f32)
}

/// The probability from which on an output is said.
fn threshold(mut scored: Vec<(f32, bool)>, aim: Aim) -> f32 {
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let n_right = scored.iter().filter(|(_, right)| *right).count() as f32;
    let between = |at: usize| {
        let next = scored.get(at + 1).map_or(0.0, |(probability, _)| *probability);
        f32::midpoint(scored[at].0, next)
    };
    let (mut n_found, mut best, mut chosen) = (0.0, 0.0, 0.5);
    for (at, (_, right)) in scored.iter().enumerate() {
        n_found += f32::from(u8::from(*right));
        match aim {
            Aim::F1 => {
                let f1 = 2.0 * n_found / (at as f32 + 1.0 + n_right);
                if f1 > best {
                    (best, chosen) = (f1, between(at));
                }
            }
            Aim::Recall(least) => {
                if n_found >= least * n_right {
                    return between(at);
                }
            }
        }
    }
    chosen
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// For a handful of examples.
    pub(crate) fn options() -> FitOptions {
        FitOptions {
            min_documents: 1,
            max_features: 100_000,
            cost: 1.0,
            balance: 0.5,
            passes: 20,
            folds: 2,
            aim: Aim::F1,
            n_threads: 1,
            seed: 1,
        }
    }

    fn examples() -> Vec<Example> {
        let texts = [
            ("what a happy day", 0b01),
            ("so happy to be here", 0b01),
            ("this makes me happy", 0b01),
            ("happy again at last", 0b01),
            ("a sad old song", 0b10),
            ("sad to see it end", 0b10),
            ("he looks sad today", 0b10),
            ("sad and grey", 0b10),
            ("the train leaves at nine", 0),
            ("put it on the table", 0),
            ("two plus two is four", 0),
            ("where is the station", 0),
        ];
        texts
            .iter()
            .enumerate()
            .map(|(at, (text, labels))| Example {
                text: (*text).to_owned(),
                labels: *labels,
                group: at as u64,
            })
            .collect()
    }

    #[test]
    fn it_learns_what_tells_texts_apart() {
        let head = fit(&["joy", "sadness"], &examples(), &options()).unwrap().head;
        let joy = head.probabilities(&features("a happy song"));
        let sadness = head.probabilities(&features("a sad table"));
        assert!(joy[0] > sadness[0] && joy[1] < sadness[1], "{joy:?} {sadness:?}");
    }

    #[test]
    fn it_learns_the_same_on_any_number_of_threads() {
        let labels = ["joy", "sadness"];
        let one = fit(&labels, &examples(), &options()).unwrap();
        let many = fit(&labels, &examples(), &FitOptions { n_threads: 3, ..options() }).unwrap();
        assert_eq!(one.head, many.head);
        assert_eq!(one.held_out, many.held_out);
    }

    #[test]
    fn fewer_features_keep_the_heaviest() {
        let few = FitOptions { max_features: 12, ..options() };
        let head = fit(&["joy", "sadness"], &examples(), &few).unwrap().head;
        assert_eq!(head.features.len(), 12);
        let read = head.probabilities(&features("happy"));
        assert!(read[0] > read[1], "{read:?}");
    }

    #[test]
    fn a_label_that_is_never_right_is_refused() {
        let error = fit(&["joy", "sadness", "envy"], &examples(), &options()).unwrap_err();
        assert_eq!(error, FitError::OneSided { label: "envy".to_owned(), n: 0, total: 12 });
        assert_eq!(fit(&["joy"], &[], &options()).unwrap_err(), FitError::Empty);
    }

    /// The line of least log-loss has no better neighbour.
    #[test]
    fn platts_line_is_the_best_near_it() {
        let scores: Vec<f32> = (0..200).map(|at| (at as f32 - 100.0) / 40.0).collect();
        let is_right: Vec<bool> = (0..200).map(|at| (at * 7919) % 200 < at).collect();
        let (slope, offset) = platt(&scores, &is_right);
        let n_right = is_right.iter().filter(|right| **right).count() as f32;
        let loss = |slope: f32, offset: f32| -> f32 {
            let target = |right: bool| {
                if right { (n_right + 1.0) / (n_right + 2.0) } else { 1.0 / (202.0 - n_right) }
            };
            let one = |(score, right): (&f32, &bool)| {
                let p = 1.0 / (1.0 + (-(slope * score + offset)).exp());
                -target(*right) * p.ln() - (1.0 - target(*right)) * (1.0 - p).ln()
            };
            scores.iter().zip(&is_right).map(one).sum()
        };
        let least = loss(slope, offset);
        for (ds, d0) in [(0.05, 0.0), (-0.05, 0.0), (0.0, 0.05), (0.0, -0.05)] {
            assert!(loss(slope + ds, offset + d0) > least, "{slope} {offset}");
        }
    }

    #[test]
    fn thresholds_follow_their_aim() {
        let scored = vec![(0.9, true), (0.8, true), (0.6, false), (0.4, true), (0.1, false)];
        assert!((threshold(scored.clone(), Aim::F1) - 0.25).abs() < 1e-6);
        assert!((threshold(scored.clone(), Aim::Recall(0.6)) - 0.7).abs() < 1e-6);
        assert!((threshold(scored, Aim::Recall(1.0)) - 0.25).abs() < 1e-6);
    }
}
