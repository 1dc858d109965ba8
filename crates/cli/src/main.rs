//! `rapport`: a conversational AI that people own.
//!
//! This crate reads flags and the environment once and wires the others together; each command is
//! a file.

mod bench;
mod bytes;
mod config;
mod eval;
mod files;
mod machine;
mod measure;
mod options;
mod persona;
mod read;
mod reward;
mod rollouts;
mod serve;
mod store;
mod talk;
mod train;
mod users;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches};
use rapport_cli::chat::ExitStatus;
use rapport_cli::models;
use rapport_cli::pull::{self, ModelReference, Paths, ProgressStyleChoice, PullError};
use signal_hook::consts::SIGINT;

use config::Config;
use options::{Cli, Command, ConfigCommand, PullCommand};

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        // Whoever reads the output has what they wanted, as `head` has.
        if error.downcast_ref::<io::Error>().is_some_and(is_broken_pipe) {
            return ExitCode::SUCCESS;
        }
        say(format_args!("rapport: {}", described(&error)));
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

fn run() -> anyhow::Result<ExitCode> {
    let config = match Config::load(Paths::from_environment(os_variable, None).config, os_variable)
    {
        Ok(config) => config,
        Err(error) => {
            // Help and the version are given even so; they end the program here.
            Cli::command().get_matches();
            return Err(error.into());
        }
    };
    let executable = std::env::current_exe().ok();
    let paths = Paths::from_environment(
        |name| {
            let from_file = |key| config.get(key).map(OsString::from);
            os_variable(name).or_else(|| match name {
                "HF_ENDPOINT" => from_file("hub.endpoint"),
                "HF_TOKEN" => from_file("hub.token"),
                _ => None,
            })
        },
        executable.as_deref(),
    );
    let matches = config.apply(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let out = &mut io::stdout();
    match cli.command {
        Command::Chat(options) => return talk::run(options, &paths),
        Command::Pull(options) => return bring(&options, &paths),
        Command::Models { json } => {
            let rows = models::list(&paths)?;
            let text = if json { models::json(&rows) + "\n" } else { models::table(&rows) };
            out.write_all(text.as_bytes())?;
        }
        Command::Config(ConfigCommand::Show { json }) => config.show(json, out)?,
        Command::Serve(options) => {
            let key = |name| config.get(name).filter(|key| !key.is_empty()).map(str::to_owned);
            let keys = serve::Keys {
                shared: key("serve.api_key"),
                admin: key("serve.admin_key"),
                oidc: key("oidc.client_secret"),
            };
            serve::run(options, keys, &paths)?;
        }
        Command::Store { place, command } => {
            store::run(&command, &place.location(&config, &paths), out)?;
        }
        Command::Users { place, command } => {
            let plans = store::plans(config.get("serve.plans").map(std::path::Path::new))?;
            users::run(&command, &place.location(&config, &paths), &plans, out)?;
        }
        Command::Train(options) => return train::run(&options, &paths, out),
        Command::Inspect { file } => files::inspect(&file, out)?,
        Command::Quantize(options) => files::quantize(&options, out)?,
        Command::Doctor => machine::doctor(&paths, out)?,
        Command::Bench(options) => bench::run(&options, &paths, out)?,
        Command::Logits(options) => measure::logits(&options, &paths, out)?,
        Command::Perplexity(options) => measure::perplexity(&options, &paths, out)?,
        Command::Persona(command) => persona::run(&command, out)?,
        Command::Read(command) => read::run(command, out)?,
        Command::Eval(command) => eval::run(&command, &paths, out)?,
        Command::Reward(command) => reward::run(&command, &paths, out)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// `rapport pull`; Ctrl-C stops it within a moment, and a download goes on from there next time. A
/// second one does not wait for that moment.
fn bring(options: &PullCommand, paths: &Paths) -> anyhow::Result<ExitCode> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let interrupted = ExitStatus::Interrupted as u8;
    signal_hook::flag::register_conditional_shutdown(
        SIGINT,
        i32::from(interrupted),
        Arc::clone(&cancelled),
    )
    .and_then(|_| signal_hook::flag::register(SIGINT, Arc::clone(&cancelled)))
    .context("cannot listen for Ctrl-C")?;
    let pulled = pull::run(&pull::PullOptions {
        model: &ModelReference::parse(&options.model)?,
        from: options.from.as_deref(),
        paths,
        python: &options.python,
        progress: if options.quiet {
            ProgressStyleChoice::Hidden
        } else {
            ProgressStyleChoice::Automatic
        },
        watched: None,
        cancelled: &cancelled,
    });
    let pulled = match pulled {
        Err(error @ PullError::Cancelled) => {
            say(format_args!("rapport: {error}"));
            return Ok(ExitCode::from(interrupted));
        }
        pulled => pulled?,
    };
    if !options.quiet {
        let already = if pulled.was_here { "already " } else { "" };
        say(format_args!("{} is {already}at {}", pulled.name, pulled.path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a line to the error output. Whoever closed it wants none, and that fails nothing.
fn say(line: fmt::Arguments<'_>) {
    let _closed = writeln!(io::stderr(), "{line}");
}

#[expect(clippy::disallowed_methods, reason = "the one place where the environment is read")]
fn os_variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// An environment variable that is set, not empty and Unicode.
fn variable(name: &str) -> Option<String> {
    os_variable(name)?.into_string().ok()
}
