//! What was measured at each step: a line of JSON each, from which the report is drawn.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// One step, or one look at the held-out rows.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Point {
    pub stage_idx: usize,
    /// Counts from 1 within the stage.
    pub step: usize,
    pub kind: PointKind,
    pub loss: f64,
    /// Preferences only: how far chosen replies are ahead, and the part of the pairs where they are.
    pub margin: Option<f64>,
    pub accuracy: Option<f64>,
    /// Replies that the model wrote only: the mean of what they are worth, and how far a token's
    /// log-probability is from the reference (k3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    pub learning_rate: f64,
    /// Before clipping.
    pub gradient_norm: f64,
    /// The busiest expert of any layer, as a multiple of an even share; 1 for a dense adapter.
    pub busiest_expert: f64,
    /// Tokens so far, over all stages.
    pub n_tokens: u64,
    /// Time spent so far, over all stages and restarts.
    pub seconds: f64,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PointKind {
    Step,
    HeldOut,
}

/// The points of a training, in memory and on disk.
pub(crate) struct Curve {
    pub(crate) points: Vec<Point>,
    file: File,
}

impl Curve {
    /// Opens a curve's file and forgets what comes after a checkpoint: it will be measured again.
    pub(crate) fn open(file: &Path, stage_idx: usize, step: usize) -> io::Result<Self> {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        // A last line that a crash cut short is one of those to forget.
        let points: Vec<Point> = text
            .lines()
            .map_while(|line| serde_json::from_str(line).ok())
            .filter(|point: &Point| (point.stage_idx, point.step) <= (stage_idx, step))
            .collect();
        // Beside the old file and renamed, so that a crash at this moment loses no point.
        let part = file.with_extension("part");
        let mut curve = Self { points: Vec::new(), file: File::create(&part)? };
        points.into_iter().try_for_each(|point| curve.push(point))?;
        fs::rename(&part, file)?;
        Ok(curve)
    }

    pub(crate) fn push(&mut self, point: Point) -> io::Result<()> {
        self.points.push(point);
        let line = serde_json::to_string(&point).map_err(io::Error::other)?;
        writeln!(self.file, "{line}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_goes_on_from_its_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("curve.jsonl");
        let point = |step: usize| Point {
            stage_idx: 0,
            step,
            kind: PointKind::Step,
            loss: 1.0 / step as f64,
            margin: None,
            accuracy: None,
            reward: None,
            kl: None,
            learning_rate: 0.1,
            gradient_norm: 1.0,
            busiest_expert: 1.0,
            n_tokens: 1,
            seconds: 0.1,
        };
        let mut curve = Curve::open(&file, 0, 0).unwrap();
        (1..=5).for_each(|step| curve.push(point(step)).unwrap());
        fs::write(&file, fs::read_to_string(&file).unwrap() + "{\"stage_").unwrap();
        let mut curve = Curve::open(&file, 0, 3).unwrap();
        assert_eq!(curve.points, (1..=3).map(point).collect::<Vec<_>>());
        curve.push(point(4)).unwrap();
        assert_eq!(Curve::open(&file, 9, 0).unwrap().points.len(), 4);
    }
}
