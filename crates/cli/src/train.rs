//! `rapport train`: a recipe becomes an adapter, with a plot while it does.

#![expect(clippy::print_stderr, reason = "progress goes to standard error, as it comes")]

use std::fmt::Write as _;
use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use rapport_cli::pull::{self, Paths};
use rapport_train::recipe::RecipeFile;
use rapport_train::{Outcome, Plan, PointKind, Progress, Training, terminal_plot};

use crate::options::ComputeOptions;

#[derive(Debug, Args)]
pub(crate) struct TrainCommand {
    /// A recipe: what to train on what, in TOML
    pub(crate) recipe: PathBuf,
    /// Where the adapter goes [default: models/NAME]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: Option<PathBuf>,
    /// The base model, instead of the recipe's: a name of the catalogue or a .gguf file
    #[arg(long)]
    pub(crate) base: Option<String>,
    /// Start over, even if there is a checkpoint to go on from
    #[arg(long)]
    pub(crate) fresh: bool,
    #[command(flatten)]
    pub(crate) compute: ComputeOptions,
}

/// How often a terminal is drawn anew.
const REDRAW: Duration = Duration::from_millis(500);
/// Columns and rows of the plot.
const PLOT: (usize, usize) = (60, 8);

/// Trains, showing progress on standard error; Ctrl-C stops after the step under way.
pub(crate) fn run(
    options: &TrainCommand,
    paths: &Paths,
    out: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let recipe = RecipeFile::read(&options.recipe)?;
    let base = pull::resolve(options.base.as_deref().unwrap_or(&recipe.recipe.base), paths)?;
    let default_out = || Path::new("models").join(&recipe.recipe.name);
    let folder = options.out.clone().unwrap_or_else(default_out);
    if options.fresh {
        let checkpoint = folder.join("training");
        match fs::remove_dir_all(&checkpoint) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| checkpoint.display().to_string());
            }
            _ => {}
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .context("cannot listen for Ctrl-C")?;
    }
    let training =
        Training { recipe: &recipe, base: &base, out: &folder, commit: commit(), stop: &stop };
    let mut screen = Screen::new(stop.clone());
    let outcome = rapport_train::train(&training, options.compute.compute(), &mut |progress| {
        screen.show(progress);
    })?;
    match outcome {
        Outcome::Finished(card) => {
            writeln!(
                out,
                "{}: {:.1} MB from {} tokens in {}, {:.0} tokens/s",
                folder.join(&card.adapter_file).display(),
                card.adapter_bytes as f64 / 1e6,
                card.n_tokens,
                time(card.seconds),
                card.n_tokens as f64 / card.seconds,
            )?;
            for (stage, number) in card.stages.iter().zip(1..) {
                write!(
                    out,
                    "stage {number} ({}): loss {:.4} to {:.4}",
                    stage.plan.method.name(),
                    stage.first_loss,
                    stage.last_loss
                )?;
                if let Some(loss) = stage.held_out_loss {
                    write!(out, ", held out {loss:.4}")?;
                }
                if let Some(accuracy) = stage.held_out_accuracy {
                    write!(out, ", held-out pairs right {:.1} %", accuracy * 100.0)?;
                }
                writeln!(out)?;
            }
            writeln!(out, "report: {}", folder.join("report.html").display())?;
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Stopped => {
            writeln!(out, "stopped; the same command goes on from here")?;
            Ok(ExitCode::from(130))
        }
    }
}

/// The commit that is checked out, if this is a checkout and there is a git to ask.
fn commit() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "HEAD"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn time(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

/// Lines on standard error: a plot that is drawn over in a terminal, plain lines elsewhere.
struct Screen {
    is_terminal: bool,
    drawn: Option<Instant>,
    drawn_lines: usize,
    stop: Arc<AtomicBool>,
}

impl Screen {
    fn new(stop: Arc<AtomicBool>) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self { is_terminal, drawn: None, drawn_lines: 0, stop }
    }

    fn show(&mut self, progress: &Progress<'_>) {
        match progress {
            Progress::Planned(plan) => planned(plan),
            Progress::Resumed { stage_idx, step } => {
                eprintln!("going on from stage {}, step {step}", stage_idx + 1);
            }
            Progress::Reference { n_done, n_sequences } => {
                if n_done == n_sequences || !self.is_terminal && n_done % 100 < 2 {
                    eprintln!("reference: {n_done} of {n_sequences} replies");
                }
            }
            Progress::Step { point, curve, tokens_per_second, seconds_left } => {
                let mut line = format!(
                    "stage {} step {:>4}  loss {:.4}  lr {:.2e}  |g| {:.2}  {tokens_per_second:.0} \
                     tokens/s  {} left",
                    point.stage_idx + 1,
                    point.step,
                    point.loss,
                    point.learning_rate,
                    point.gradient_norm,
                    time(*seconds_left)
                );
                if let (Some(margin), Some(accuracy)) = (point.margin, point.accuracy) {
                    // Writing to a string cannot fail.
                    let _ = write!(line, "  margin {margin:.3}  right {:.0} %", accuracy * 100.0);
                }
                if self.stop.load(Ordering::Relaxed) {
                    line += "  stopping";
                }
                if !self.is_terminal {
                    eprintln!("{line}");
                } else if self.drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW) {
                    let of_stage = curve.iter().filter(|other| {
                        other.stage_idx == point.stage_idx && other.kind == PointKind::Step
                    });
                    let losses: Vec<f64> = of_stage.map(|point| point.loss).collect();
                    self.draw(&format!("{}{line}\n", terminal_plot(&losses, PLOT)));
                }
            }
            Progress::HeldOut { point } => {
                self.leave();
                eprint!("held out after step {}: loss {:.4}", point.step, point.loss);
                match (point.margin, point.accuracy) {
                    (Some(margin), Some(accuracy)) => {
                        eprintln!("  margin {margin:.3}  right {:.1} %", accuracy * 100.0);
                    }
                    _ => eprintln!(),
                }
            }
            Progress::Saved { file } => {
                self.leave();
                eprintln!("saved {}", file.display());
            }
        }
    }

    /// Draws over what was drawn before.
    fn draw(&mut self, text: &str) {
        let up = match self.drawn_lines {
            0 => String::new(),
            n_lines => format!("\x1b[{n_lines}A\x1b[J"),
        };
        eprint!("{up}{text}");
        self.drawn_lines = text.lines().count();
        self.drawn = Some(Instant::now());
    }

    /// Lets what is drawn stand.
    fn leave(&mut self) {
        self.drawn_lines = 0;
        self.drawn = None;
    }
}

fn planned(plan: &Plan) {
    eprintln!(
        "{:.2} M parameters; at most {:.2} GB of memory",
        plan.n_parameters as f64 / 1e6,
        plan.memory_bytes as f64 / 1e9
    );
    for (stage, number) in plan.stages.iter().zip(1..) {
        eprint!(
            "stage {number} ({}): {} rows, {} held out, {} steps, {} tokens, {} of them learned",
            stage.method.name(),
            stage.n_rows,
            stage.n_held_out,
            stage.n_steps,
            stage.n_tokens,
            stage.n_targets
        );
        match stage.n_too_long {
            0 => eprintln!(),
            n_too_long => eprintln!("; {n_too_long} rows are longer than max_tokens and left out"),
        }
    }
}
