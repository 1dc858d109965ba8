//! `rapport chat`, wired to a model in this process.

use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rapport_local::{DEFAULT_KV_TOKENS, LocalModel};
use rapport_types::{Generate, SamplingDraft};

use crate::options::{ChatCommand, ComputeOptions};
use crate::pull;
use rapport_cli::chat::{
    self, Backend, ChatOptions, Details, Interrupts, PipeInput, Settings, Streams,
    SwitchModelError, Terminal, ThoughtView,
};

struct LocalBackend {
    model: LocalModel,
    compute: ComputeOptions,
    home: PathBuf,
}

impl Backend for LocalBackend {
    fn generate(&self) -> &dyn Generate {
        &self.model
    }

    fn model_names(&self) -> Vec<String> {
        let models = pull::catalogue().model.into_iter();
        models.filter(|model| model.is_pulled(&self.home)).map(|model| model.name).collect()
    }

    fn switch_model(&mut self, name: &str) -> Result<(), SwitchModelError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| SwitchModelError::Load {
            name: name.to_owned(),
            source,
        };
        let path = pull::resolve(name, &self.home).map_err(|error| match error {
            pull::PullError::UnknownModel { found, known } => {
                SwitchModelError::Unknown { name: found, known }
            }
            error => failed(error.into()),
        })?;
        self.model = LocalModel::load(&path, self.compute.compute(), DEFAULT_KV_TOKENS)
            .map_err(|error| failed(error.into()))?;
        Ok(())
    }
}

pub(crate) fn run(options: ChatCommand, home: &Path) -> anyhow::Result<ExitCode> {
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

    let path = pull::resolve(&options.model, home)?;
    let model = LocalModel::load(&path, options.compute.compute(), DEFAULT_KV_TOKENS)?;
    let mut backend = LocalBackend { model, compute: options.compute, home: home.to_owned() };
    let terminal = Terminal::detect(crate::variable);
    let chat_options = ChatOptions {
        settings,
        system: options.system,
        thought_view: ThoughtView::Full,
        details: if options.verbose { Details::Verbose } else { Details::AnswersOnly },
        pipe_input: if options.lines { PipeInput::Lines } else { PipeInput::Whole },
        load: options.load,
        history_file: Some(home.join("history")),
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
