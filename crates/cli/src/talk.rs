//! `rapport chat`, wired to a model in this process.

use std::io::{self, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;

use rapport_local::{LocalModel, LocalOptions};
use rapport_persona::Layers;
use rapport_types::{
    AdapterChoice, AdapterInfo, Control, EventSink, Generate, GenerateError, Message, ModelInfo,
    OutputFormat, Request, Role, SamplingDraft, TextToken,
};

use crate::options::{AdaptersOptions, ChatCommand, ComputeOptions, EngineOptions};
use crate::read::{ReadingSwitch, needs_written_answers, written_answers};
use rapport_cli::chat::{
    self, Backend, ChatOptions, Details, Interrupts, PipeInput, Settings, Streams,
    SwitchModelError, Terminal, ThoughtView,
};
use rapport_cli::models::{self, ModelState};
use rapport_cli::pull::{self, Paths};

/// A model whose person is read: where a message speaks of danger, the model is told to help first.
struct Guided {
    model: LocalModel,
    reading: ReadingSwitch,
    /// Whether somebody in danger is answered in words that people wrote.
    has_written_answers: bool,
}

impl Generate for Guided {
    fn model(&self) -> ModelInfo {
        self.model.model()
    }

    fn adapters(&self) -> Vec<AdapterInfo> {
        self.model.adapters()
    }

    fn sampling(&self, adapter: &AdapterChoice) -> SamplingDraft {
        self.model.sampling(adapter)
    }

    fn start(&self, mut request: Request, sink: EventSink) -> Result<Control, GenerateError> {
        let last = request.messages.iter().rfind(|message| message.role == Role::User).cloned();
        if let Some(last) = last
            && let Some(guidance) = self.reading.guidance(&last.content)
        {
            if self.has_written_answers && request.format == OutputFormat::Text {
                request.format = OutputFormat::Regex(written_answers(&last.content));
            }
            match request.messages.first_mut().filter(|first| first.role == Role::System) {
                Some(system) => system.content = format!("{}\n\n{guidance}", system.content),
                None => request.messages.insert(0, Message::system(guidance)),
            }
        }
        self.model.start(request, sink)
    }

    fn tokenize(&self, text: &str) -> Option<Vec<TextToken>> {
        self.model.tokenize(text)
    }

    fn count_prompt_tokens(&self, request: &Request) -> Result<Option<u32>, GenerateError> {
        self.model.count_prompt_tokens(request)
    }
}

struct LocalBackend {
    model: Guided,
    compute: ComputeOptions,
    engine: EngineOptions,
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
        let files = pull::find(name, &self.paths).map_err(|error| match error {
            pull::PullError::UnknownModel { name, known, .. } => {
                SwitchModelError::Unknown { name, known }
            }
            error => failed(error.into()),
        })?;
        let open = || -> anyhow::Result<LocalModel> {
            // What guesses ahead knows the first model's tokens.
            let local = LocalOptions {
                draft: None,
                auto: self.model.reading.auto_mode(),
                ..self.engine.local(&files, &AdaptersOptions::default(), None, &self.paths)?
            };
            Ok(LocalModel::open(&files.gguf, self.compute.compute(), &local)?)
        };
        self.model.has_written_answers = needs_written_answers(&files.gguf);
        self.model.model = open().map_err(|error| failed(error.into()))?;
        Ok(())
    }
}

pub(crate) fn run(options: ChatCommand, paths: &Paths) -> anyhow::Result<ExitCode> {
    if let Some(temperature) = options.temperature {
        SamplingDraft { temperature, ..SamplingDraft::default() }.validate()?;
    }
    let format = options.format.read()?;
    let persona = options.persona.as_deref().map(crate::persona::find).transpose()?;
    let layers = Layers {
        persona: persona.as_ref(),
        request: options.system.as_deref(),
        ..Layers::default()
    };
    let files = pull::find(&options.model, paths)?;
    let local = LocalOptions {
        auto: options.reading.auto_mode(),
        ..options.engine.local(&files, &options.adapters, None, paths)?
    };
    let model = LocalModel::open(&files.gguf, options.compute.compute(), &local)?;
    let usual = model.sampling(&AdapterChoice::Default);
    let draft = SamplingDraft {
        temperature: options.temperature.unwrap_or(usual.temperature),
        seed: options.seed,
        ..usual
    };
    let settings = Settings {
        mode: options.mode,
        thinking_budget: options.budget,
        max_tokens: options.max_tokens,
        format,
        ..Settings::new(draft.validate()?)
    };
    let has_written_answers = needs_written_answers(&files.gguf);
    let model = Guided { model, reading: options.reading, has_written_answers };
    let mut backend = LocalBackend {
        model,
        compute: options.compute,
        engine: options.engine,
        paths: paths.clone(),
    };
    let terminal = Terminal::detect(crate::variable);
    let chat_options = ChatOptions {
        settings,
        system: layers.render(),
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
