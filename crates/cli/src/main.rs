//! `rapport`: a conversational AI that people own.
//!
//! This crate reads flags and the environment once and wires the others together; each command is
//! a file.

#![expect(clippy::print_stdout, reason = "a command line program prints")]

mod bench;
mod machine;
mod measure;
mod options;

use std::process::ExitCode;

use clap::Parser;

use options::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Bench(options) => bench::run(&options),
        Command::Logits(options) => measure::logits(&options),
        Command::Perplexity(options) => measure::perplexity(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the one place where errors are shown")]
            {
                eprintln!("rapport: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
