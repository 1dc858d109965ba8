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
use clap::{Args, Subcommand, ValueEnum};
use rapport_cli::pull::{self, Paths};
use rapport_train::recipe::RecipeFile;
use rapport_train::{
    ExportFormat, Outcome, Plan, PointKind, Policy, Progress, Training, export, terminal_plot,
};

use crate::options::ComputeOptions;
use crate::rollouts::{LiveRollouts, Scores};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct TrainCommand {
    #[command(subcommand)]
    other: Option<OtherCommand>,
    /// A recipe: what to train on what, in TOML
    #[arg(required = true)]
    pub(crate) recipe: Option<PathBuf>,
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

#[derive(Debug, Subcommand)]
enum OtherCommand {
    /// Write conversations, pairs, labels and prompts as other trainers read them
    Export(ExportOptions),
}

#[derive(Debug, Args)]
pub(crate) struct ExportOptions {
    /// Files, and folders of .jsonl files, in the forms that recipes take
    #[arg(required = true)]
    data: Vec<PathBuf>,
    /// Whose form
    #[arg(long, value_enum)]
    format: Format,
    /// The folder that gets sft.jsonl, preference.jsonl, unpaired.jsonl and prompts.jsonl
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Trl,
    Openrlhf,
    Verl,
}

/// How often a terminal is drawn anew.
const REDRAW: Duration = Duration::from_millis(500);
/// Columns and rows of the plot.
const PLOT: (usize, usize) = (60, 8);

pub(crate) fn run(
    command: &TrainCommand,
    paths: &Paths,
    out: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let Some(OtherCommand::Export(options)) = &command.other else {
        return train(command, paths, out);
    };
    let format = match options.format {
        Format::Trl => ExportFormat::Trl,
        Format::Openrlhf => ExportFormat::OpenRlhf,
        Format::Verl => ExportFormat::Verl,
    };
    for exported in export(format, &options.data, &options.out)? {
        writeln!(out, "{}: {} rows", exported.file.display(), exported.n_rows)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Trains, showing progress on standard error; Ctrl-C stops after the step under way.
fn train(options: &TrainCommand, paths: &Paths, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let recipe = options.recipe.as_deref().context("say which recipe: `rapport train RECIPE`")?;
    let recipe = RecipeFile::read(recipe)?;
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
    let live = if recipe.writes_replies() {
        let scores = Scores::new(&recipe, &base, &options.compute)?;
        Some((LiveRollouts::new(&base, &options.compute)?, scores))
    } else {
        None
    };
    let policy = live.as_ref().map(|(rollouts, reward)| Policy { rollouts, reward });
    let training = Training {
        recipe: &recipe,
        base: &base,
        out: &folder,
        commit: commit(),
        stop: &stop,
        policy,
    };
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
                if let (Some(first), Some(last)) = (stage.first_reward, stage.last_reward) {
                    write!(out, ", worth {first:.3} to {last:.3}")?;
                }
                if let Some(reward) = stage.held_out_reward {
                    write!(out, ", to held-out prompts {reward:.3}")?;
                }
                writeln!(out)?;
            }
            if let Some(peak) = card.peak_memory_bytes {
                let (peak, planned) = (peak as f64, card.planned_memory_bytes as f64);
                writeln!(out, "memory: {:.2} GB of at most {:.2} GB", peak / 1e9, planned / 1e9)?;
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
            Progress::Rollouts { scores, mean_tokens, example } => {
                if !self.is_terminal {
                    let scores = scores.iter().map(|(name, mean)| format!("{name} {mean:.3}"));
                    let scores: Vec<String> = scores.collect();
                    let start: String = example.content.chars().take(60).collect();
                    eprintln!(
                        "replies: {}, {mean_tokens:.0} tokens each; the first: {start:?}",
                        scores.join(", ")
                    );
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
                if let Some(reward) = point.reward {
                    let _ = write!(line, "  worth {reward:.3}");
                }
                if let Some(kl) = point.kl {
                    let _ = write!(line, "  kl {kl:.4}");
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
                match point.reward {
                    Some(reward) => {
                        eprint!("held out after step {}: worth {reward:.3}", point.step);
                    }
                    None => eprint!("held out after step {}: loss {:.4}", point.step, point.loss),
                }
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
