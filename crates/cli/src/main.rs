//! `rapport`: a conversational AI that people own.
//!
//! This crate reads flags and the environment once and wires the others together; each command is
//! a file.

#![expect(clippy::print_stderr, reason = "errors and progress go there")]

mod bench;
mod files;
mod machine;
mod measure;
mod options;
mod pull;
mod talk;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use options::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    run(cli.command).unwrap_or_else(|error| {
        // Whoever reads the output has what they wanted, as `head` has.
        if error.downcast_ref::<io::Error>().is_some_and(is_broken_pipe) {
            return ExitCode::SUCCESS;
        }
        eprintln!("rapport: {}", described(&error));
        ExitCode::FAILURE
    })
}

fn is_broken_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// An error and its causes, each said once: many of ours say their cause themselves.
fn described(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |mut text, cause| {
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
        text
    })
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let home = home()?;
    let out = &mut io::stdout();
    match command {
        Command::Chat(options) => return talk::run(options, &home),
        Command::Pull { name } => {
            pull::pull(&name, &home, &|line| eprintln!("{line}"))?;
        }
        Command::Models => pull::list(&home, out)?,
        Command::Inspect { file } => files::inspect(&file, out)?,
        Command::Quantize(options) => files::quantize(&options, out)?,
        Command::Doctor => machine::doctor(&home, out)?,
        Command::Bench(options) => bench::run(&options, &home, out)?,
        Command::Logits(options) => measure::logits(&options, &home, out)?,
        Command::Perplexity(options) => measure::perplexity(&options, &home, out)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// An environment variable that is set and not empty.
#[expect(clippy::disallowed_methods, reason = "the one place where the environment is read")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where models and the chat's history are kept.
fn home() -> anyhow::Result<PathBuf> {
    variable("RAPPORT_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| PathBuf::from(cache).join("rapport")))
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".cache/rapport")))
        .context("no home folder: set RAPPORT_HOME to a folder for models")
}
