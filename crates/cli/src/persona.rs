//! `rapport persona`: list, show and check who can answer.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Subcommand;
use rapport_persona::{Language, Layers, Persona, builtin};

#[derive(Debug, Subcommand)]
pub(crate) enum PersonaCommand {
    /// Those that come along
    List,
    /// What a model is told of one
    Show {
        /// A name, or a file
        persona: String,
        /// Its text in Japanese
        #[arg(long)]
        japanese: bool,
    },
    /// Say everything that is wrong with files, or with those that come along
    Check { files: Vec<PathBuf> },
}

/// A persona by its name, or by its file.
pub(crate) fn find(name: &str) -> anyhow::Result<Persona> {
    let known = builtin();
    if let Some(persona) = known.iter().find(|persona| persona.name == name) {
        return Ok(persona.clone());
    }
    let is_file = std::path::Path::new(name).extension().is_some_and(|end| end == "toml");
    let names: Vec<_> = known.iter().map(|persona| persona.name.as_str()).collect();
    ensure!(
        is_file,
        "there is no persona `{name}`: use one of {}, or a .toml file",
        names.join(", ")
    );
    Ok(Persona::read(name.as_ref())?)
}

pub(crate) fn run(command: &PersonaCommand, out: &mut impl Write) -> anyhow::Result<()> {
    match command {
        PersonaCommand::List => {
            for persona in builtin() {
                let text = persona.text(Language::En).context("an English text")?;
                let version = persona.version(Language::En);
                writeln!(out, "{:<10} {version}  {}", persona.name, text.tagline)?;
            }
        }
        PersonaCommand::Show { persona, japanese } => {
            let persona = find(persona)?;
            let language = if *japanese { Language::Ja } else { Language::En };
            // Shown as another model is told; the trained one needs no telling.
            let told = Persona { is_default: false, ..persona.clone() };
            let layers = Layers { persona: Some(&told), language, ..Layers::default() };
            writeln!(out, "{} {}", persona.name, persona.version(language))?;
            writeln!(out, "{}", layers.render().unwrap_or_default())?;
        }
        PersonaCommand::Check { files } if files.is_empty() => {
            let n = builtin().len();
            writeln!(out, "the {n} that come along are in order")?;
        }
        PersonaCommand::Check { files } => {
            for file in files {
                let persona = Persona::read(file)?;
                writeln!(out, "{}: {} is in order", file.display(), persona.name)?;
            }
        }
    }
    Ok(())
}
