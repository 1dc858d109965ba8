//! `rapport chat`, wired to a model in this process.

use std::io::{self, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;

use rapport_local::{DEFAULT_KV_TOKENS, LocalModel, LocalOptions};
use rapport_types::{Generate, SamplingDraft};

use crate::options::{ChatCommand, ComputeOptions};
use rapport_cli::chat::{
    self, Backend, ChatOptions, Details, Interrupts, PipeInput, Settings, Streams,
    SwitchModelError, Terminal, ThoughtView,
};
use rapport_cli::models::{self, ModelState};
use rapport_cli::pull::{self, Paths};

struct LocalBackend {
    model: LocalModel,
    compute: ComputeOptions,
    paths: Paths,
}

impl Backend for LocalBackend {
    fn generate(&self) -> &dyn Generate {
        &self.model
    }

    fn model_names(&self) -> Vec<String> {
        // A catalogue that cannot be read is said where a model is asked for.
        let models = models::list(&self.paths).unwrap_or_default().into_iter();
        models.filter(|row| row.state == ModelState::Pulled).map(|row| row.name).collect()
    }

    fn switch_model(&mut self, name: &str) -> Result<(), SwitchModelError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| SwitchModelError::Load {
            name: name.to_owned(),
            source,
        };
        let path = pull::resolve(name, &self.paths).map_err(|error| match error {
            pull::PullError::UnknownModel { name, known, .. } => {
                SwitchModelError::Unknown { name, known }
            }
            error => failed(error.into()),
        })?;
        self.model = LocalModel::load(&path, self.compute.compute(), DEFAULT_KV_TOKENS)
            .map_err(|error| failed(error.into()))?;
        Ok(())
    }
}

pub(crate) fn run(options: ChatCommand, paths: &Paths) -> anyhow::Result<ExitCode> {
    let draft = SamplingDraft {
        temperature: options.temperature,
        seed: options.seed,
        ..SamplingDraft::default()
    };
    let mut settings = Settings::new(draft.validate()?);
    settings.mode = options.mode;
    settings.thinking_budget = options.budget;
    settings.max_tokens = options.max_tokens;
    settings.format = options.format.read()?;

    let path = pull::resolve(&options.model, paths)?;
    let local = LocalOptions { adapter: options.adapter.open()?, ..LocalOptions::default() };
    let model = LocalModel::open(&path, options.compute.compute(), &local)?;
    let mut backend = LocalBackend { model, compute: options.compute, paths: paths.clone() };
    let terminal = Terminal::detect(crate::variable);
    let chat_options = ChatOptions {
        settings,
        system: options.system,
        thought_view: ThoughtView::Full,
        details: if options.verbose { Details::Verbose } else { Details::AnswersOnly },
        pipe_input: if options.lines { PipeInput::Lines } else { PipeInput::Whole },
        load: options.load,
        history_file: Some(paths.cache.join("history")),
        home: crate::variable("HOME").map(PathBuf::from),
    };
    let streams = Streams {
        input: &mut BufReader::new(io::stdin()),
        output: &mut io::stdout(),
        errors: &mut io::stderr(),
    };
    let interrupts = Interrupts::from_signal()?;
    Ok(chat::run(chat_options, &mut backend, terminal, streams, &interrupts).into())
}
