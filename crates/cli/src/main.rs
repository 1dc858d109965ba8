//! `rapport`: a conversational AI that people own.
//!
//! This crate reads flags and the environment once and wires the others together; each command is
//! a file.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program prints")]

mod bench;
mod files;
mod machine;
mod measure;
mod options;
mod pull;
mod talk;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use options::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    run(cli.command).unwrap_or_else(|error| {
        eprintln!("rapport: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let home = home()?;
    match command {
        Command::Chat(options) => return talk::run(options, &home),
        Command::Pull { name } => {
            pull::pull(&name, &home, &|line| println!("{line}"))?;
        }
        Command::Models => pull::list(&home, &mut std::io::stdout().lock())?,
        Command::Inspect { file } => files::inspect(&file)?,
        Command::Quantize(options) => files::quantize(&options)?,
        Command::Doctor => machine::doctor(&home),
        Command::Bench(options) => bench::run(&options, &home)?,
        Command::Logits(options) => measure::logits(&options, &home)?,
        Command::Perplexity(options) => measure::perplexity(&options, &home)?,
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
