//! How far a pull is, for a person to see.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

/// Where progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressStyleChoice {
    /// A bar on a terminal, lines elsewhere.
    Automatic,
    Lines,
    Hidden,
}

/// How far a pull is, for another thread to look at: the bytes of its present stage.
#[derive(Debug, Default)]
pub struct PullProgress {
    done_bytes: AtomicU64,
    /// 0 while it is not known.
    total_bytes: AtomicU64,
}

impl PullProgress {
    pub(crate) fn begin(&self, total_bytes: Option<u64>) {
        self.done_bytes.store(0, Ordering::Relaxed);
        self.total_bytes.store(total_bytes.unwrap_or(0), Ordering::Relaxed);
    }

    fn set(&self, done_bytes: u64) {
        self.done_bytes.store(done_bytes, Ordering::Relaxed);
    }

    /// What is done, and all that there is to do, where that is known.
    pub fn bytes(&self) -> (u64, Option<u64>) {
        let total_bytes = self.total_bytes.load(Ordering::Relaxed);
        let done_bytes = self.done_bytes.load(Ordering::Relaxed);
        match total_bytes {
            0 => (done_bytes, None),
            // A package may be larger than the file in it.
            _ => (done_bytes.min(total_bytes), Some(total_bytes)),
        }
    }
}

/// Tells of one stage after the other: to people, and to whoever looks.
pub(super) struct Progress {
    shown: Shown,
    watched: Option<Arc<PullProgress>>,
}

/// On the standard error stream.
enum Shown {
    Bar(ProgressBar),
    Lines(Lines),
    Hidden,
}

/// Progress as lines: one when a stage begins and one for every quarter of it.
struct Lines {
    stage: String,
    total_bytes: Option<u64>,
    quarters_shown: u64,
}

impl Progress {
    pub(super) fn new(choice: ProgressStyleChoice, watched: Option<Arc<PullProgress>>) -> Self {
        Self { shown: Shown::new(choice), watched }
    }

    /// Begins a stage of `total_bytes`, where that is known.
    pub(super) fn begin(&mut self, stage: &str, total_bytes: Option<u64>) {
        if let Some(watched) = &self.watched {
            watched.begin(total_bytes);
        }
        self.shown.begin(stage, total_bytes);
    }

    pub(super) fn set(&mut self, done_bytes: u64) {
        if let Some(watched) = &self.watched {
            watched.set(done_bytes);
        }
        self.shown.set(done_bytes);
    }

    /// Says something that is not progress.
    pub(super) fn note(&mut self, text: &str) {
        self.shown.note(text);
    }
}

impl Shown {
    fn new(choice: ProgressStyleChoice) -> Self {
        match choice {
            ProgressStyleChoice::Hidden => Self::Hidden,
            ProgressStyleChoice::Automatic if io::stderr().is_terminal() => {
                Self::Bar(ProgressBar::hidden())
            }
            ProgressStyleChoice::Automatic | ProgressStyleChoice::Lines => {
                Self::Lines(Lines { stage: String::new(), total_bytes: None, quarters_shown: 0 })
            }
        }
    }

    fn begin(&mut self, stage: &str, total_bytes: Option<u64>) {
        match self {
            Self::Bar(bar) => {
                bar.finish_and_clear();
                *bar = match total_bytes {
                    Some(total) => ProgressBar::new(total),
                    None => ProgressBar::no_length(),
                }
                .with_style(bar_style(total_bytes.is_some()))
                .with_message(stage.to_owned());
            }
            Self::Lines(lines) => {
                *lines = Lines { stage: stage.to_owned(), total_bytes, quarters_shown: 0 };
                let size = total_bytes.map_or(String::new(), |n| format!(" ({})", size(n)));
                say(&format!("{stage}{size}"));
            }
            Self::Hidden => {}
        }
    }

    fn set(&mut self, done_bytes: u64) {
        match self {
            Self::Bar(bar) => bar.set_position(done_bytes),
            Self::Lines(lines) => {
                let Some(total) = lines.total_bytes.filter(|&total| total > 0) else { return };
                let quarters = (done_bytes.saturating_mul(4) / total).min(4);
                if quarters > lines.quarters_shown {
                    lines.quarters_shown = quarters;
                    say(&format!("{}: {} %", lines.stage, quarters * 25));
                }
            }
            Self::Hidden => {}
        }
    }

    fn note(&mut self, text: &str) {
        match self {
            Self::Bar(bar) => bar.suspend(|| say(text)),
            Self::Lines(_) => say(text),
            Self::Hidden => {}
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

const BAR: &str = "{msg}  {wide_bar}  {decimal_bytes} of {decimal_total_bytes}  {eta}";
const BAR_WITHOUT_END: &str = "{msg}  {spinner}  {decimal_bytes}";

fn bar_style(has_end: bool) -> ProgressStyle {
    ProgressStyle::with_template(if has_end { BAR } else { BAR_WITHOUT_END })
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Progress nobody can read is no reason to stop.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A number of bytes as people write it, such as `98.4 MB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    // 999.95 would print as 1000.0.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1e3;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::{BAR, BAR_WITHOUT_END, ProgressStyle, size};

    #[test]
    fn bar_templates_are_valid() {
        for template in [BAR, BAR_WITHOUT_END] {
            ProgressStyle::with_template(template).unwrap();
        }
    }

    #[test]
    fn sizes_are_decimal() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (98_362_432, "98.4 MB"),
            (999_960_000, "1.0 GB"),
            (u64::MAX, "18446744.1 TB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }
}
