//! `rapport serve`, wired to a model in this process and to a store of people.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, anyhow};
use clap::Args;
use rapport_cli::late::{LateModel, Source, Stage};
use rapport_cli::pull::{
    self, Catalog, DEFAULT_MODEL, ModelFiles, ModelReference, Paths, ProgressStyleChoice,
    PullError, PullOptions,
};
use rapport_local::{DEFAULT_KV_TOKENS, LocalModel, LocalOptions};
use rapport_persona::reading::{AskedClassifier, Reader, crisis_guidance, language_of};
use rapport_persona::{Language, Layers, builtin_policy, check_policy};
use rapport_server::{
    Accounts, AccountsConfig, AdminClaim, Finding, InputFilter, Log, LogFormat, LogLevel, Oidc,
    OidcConfig, Pages, Persona, PersonaText, ReadMessages, Server, ServerConfig, Sink, SystemClock,
    Tls, Traces,
};
use rapport_store::{Error, Location, NewApiKey, NewUser, Store, UserRole};
use rapport_types::Generate;
use rapport_upstream::{Secret, Upstream, UpstreamConfig};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedSender;

use crate::options::{AdaptersOptions, ComputeOptions, EngineOptions};
use crate::read::{ReadingSwitch, needs_written_answers, written_answers};
use crate::store::{self, now};

/// The web app as it was built.
const WEB_FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/web_files.rs"));

#[derive(Debug, Args)]
pub(crate) struct ServeCommand {
    /// A model of the catalogue, or the path of a .gguf file
    #[arg(long, default_value = DEFAULT_MODEL)]
    model: String,
    /// The address to listen on; from other machines every request needs a key
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// 0 takes any that is free
    #[arg(long, default_value = "8080")]
    port: u16,
    /// A name under which the server may be called, beside its addresses and localhost
    #[arg(long, value_name = "NAME")]
    host_name: Vec<String>,
    /// The folder of accounts and conversations [default: rapport in the user's data folder]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A postgres:// URL that several servers may share, instead of a file in --data
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// What accounts may use and what it costs, in TOML
    #[arg(long, value_name = "FILE")]
    plans: Option<PathBuf>,
    /// Speak TLS with this chain of certificates in PEM, the server's own first; SIGHUP reads it again
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Lines about requests on standard error, never with prompts or answers: text or json
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,
    /// Which: off, error, warn (refusals too) or info (every request)
    #[arg(long, default_value = "warn", value_name = "LEVEL")]
    log_level: LogLevel,
    /// Send OpenTelemetry traces to this collector (OTLP over HTTP), such as http://127.0.0.1:4318
    #[arg(long, value_name = "URL", value_parser = crate::config::collector)]
    otlp_endpoint: Option<String>,
    /// Delete conversations without a message for so many days, unless an administrator has set it;
    /// pinned ones stay
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    retention_days: Option<u32>,
    #[command(flatten)]
    oidc: OidcOptions,
    /// Ask for an API key on this machine too
    #[arg(long)]
    require_key: bool,
    /// An engine that speaks OpenAI's protocol, instead of a model in this process; several are
    /// replicas of one model
    #[arg(long, value_name = "URL")]
    upstream: Vec<String>,
    /// The model as that engine calls it [default: the first it has]
    #[arg(long, value_name = "NAME")]
    upstream_model: Option<String>,
    /// The variable of the environment that the engine's key is in
    #[arg(long, value_name = "VARIABLE")]
    upstream_key_env: Option<String>,
    /// Replicas, modes and limits of the engine, in TOML
    #[arg(long, value_name = "FILE", conflicts_with_all = ["upstream", "upstream_key_env"])]
    upstream_config: Option<PathBuf>,
    /// Tokens of all conversations together that stay in memory, at most
    #[arg(long, default_value_t = NonZeroUsize::new(DEFAULT_KV_TOKENS).expect("some tokens"))]
    kv_tokens: NonZeroUsize,
    /// Whether messages are read: for auto mode, to help where there is danger, and for their writers
    #[arg(long, value_name = "on|off", default_value = "on")]
    reading: ReadingSwitch,
    /// Refuse what this classifier finds in what is asked; `rapport read train-asked` makes one
    #[arg(long, value_name = "FILE")]
    input_filter: Option<PathBuf>,
    /// Rules that stand first in what a model is told in the web app: on (those that come along), off,
    /// or a file
    #[arg(long, value_name = "on|off|FILE", default_value = "off")]
    policy: String,
    #[command(flatten)]
    adapters: AdaptersOptions,
    #[command(flatten)]
    engine: EngineOptions,
    #[command(flatten)]
    compute: ComputeOptions,
}

/// Another provider to sign in through; its client secret comes from RAPPORT_OIDC_CLIENT_SECRET.
#[derive(Clone, Debug, Args)]
struct OidcOptions {
    /// An OpenID Connect provider to sign in through, as it names itself
    #[arg(long, value_name = "URL")]
    oidc_issuer: Option<String>,
    /// What the provider calls this server
    #[arg(long, value_name = "ID")]
    oidc_client_id: Option<String>,
    /// What the button says after "Sign in with" [default: the provider's host]
    #[arg(long, value_name = "TEXT")]
    oidc_label: Option<String>,
    /// Whose verified e-mail addresses may sign in, with commas between; * for everybody there
    #[arg(long, value_name = "DOMAINS", value_delimiter = ',')]
    oidc_domains: Vec<String>,
    /// Who is an administrator: a claim and its values, as groups=staff,owners
    #[arg(long, value_name = "CLAIM=VALUES")]
    oidc_admins: Option<String>,
    /// Where browsers reach this server, when they do not call it by its own name
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
}

impl OidcOptions {
    fn open(self, client_secret: Option<String>) -> anyhow::Result<Option<Oidc>> {
        let said = |value: Option<String>| value.filter(|value| !value.is_empty());
        let Some(issuer) = said(self.oidc_issuer) else { return Ok(None) };
        let host = issuer.split("://").last().unwrap_or_default();
        let host = host.split('/').next().unwrap_or_default().to_owned();
        let admins = said(self.oidc_admins).map(|text| admin_claim(&text)).transpose()?;
        let domains = self.oidc_domains.iter().map(|domain| domain.trim().to_owned());
        let config = OidcConfig {
            issuer,
            client_id: self.oidc_client_id.unwrap_or_default(),
            client_secret,
            label: said(self.oidc_label).unwrap_or(host),
            domains: domains.filter(|domain| !domain.is_empty()).collect(),
            admins,
            public_url: said(self.public_url),
        };
        Ok(Some(Oidc::new(config)?))
    }
}

fn admin_claim(text: &str) -> anyhow::Result<AdminClaim> {
    let (claim, values) =
        text.split_once('=').with_context(|| format!("`{text}`: write groups=staff,owners"))?;
    let values = values.split(',').map(str::trim).filter(|value| !value.is_empty());
    Ok(AdminClaim { claim: claim.trim().to_owned(), values: values.map(str::to_owned).collect() })
}

/// Secrets from the environment or the file of settings.
pub(crate) struct Keys {
    /// One for everybody, which belongs to no account.
    pub(crate) shared: Option<String>,
    /// Of the first admin, for starts that nobody watches.
    pub(crate) admin: Option<String>,
    /// Of this server at the provider that people sign in through.
    pub(crate) oidc: Option<String>,
}

/// Serves until SIGINT or SIGTERM; replies that are being made may end first.
pub(crate) fn run(options: Box<ServeCommand>, keys: Keys, paths: &Paths) -> anyhow::Result<()> {
    let plans = store::plans(options.plans.as_deref())?;
    let location = location(&options, paths)?;
    let tls = match (options.tls_cert.clone(), options.tls_key.clone()) {
        (Some(certificate), Some(key)) if !certificate.as_os_str().is_empty() => {
            Some(Arc::new(Tls::open(certificate, key)?))
        }
        _ => None,
    };
    // Whoever speaks TLS in this process uses the same.
    let _was_there = rustls::crypto::ring::default_provider().install_default();
    let oidc = options.oidc.clone().open(keys.oidc.clone())?;
    let filter = input_filter(options.input_filter.as_deref())?;
    let policy = policy(&options.policy)?;
    let options: Arc<ServeCommand> = options.into();
    let (broken, mut breaks) = tokio::sync::mpsc::unbounded_channel();
    let Answering { name, model, late, has_written_answers } =
        answering(&options, &location, paths, broken)?;
    let address = SocketAddr::new(options.host, options.port);
    let config = ServerConfig {
        host_names: options.host_name.clone(),
        api_key: keys.shared,
        // Whoever can reach another address than the loopback one is anybody.
        requires_key: options.require_key || !options.host.is_loopback(),
        ..ServerConfig::new(address)
    };
    runtime()?.block_on(async {
        let asked_to_end = asked_to_end()?;
        let store = Arc::new(Store::open(&location, now()).await?);
        let _attendance = store.attend(now()).await?;
        if let Some(key) = &keys.admin {
            adopt(&store, key).await?;
        }
        let accounts = AccountsConfig {
            store: Arc::clone(&store),
            plans,
            personas: personas(),
            pages: Pages::new(WEB_FILES),
            has_tls: tls.is_some(),
            retention_days: options.retention_days,
            clock: Arc::new(SystemClock),
            oidc,
        };
        let mut accounts = Accounts::open(accounts).await?;
        if options.reading == ReadingSwitch::On {
            accounts = accounts.with_reader(Arc::new(MessageReader {
                reader: Reader::builtin(),
                has_written_answers,
            }));
        }
        if let Some(policy) = policy {
            accounts = accounts.with_policy(policy);
        }
        let link = accounts.first_link().await?;
        let server = Server::listen(config, model).await?;
        let mut server = server.with_accounts(accounts);
        let address = server.address()?;
        let log = Log {
            sink: Box::new(Stderr),
            format: options.log_format,
            level: options.log_level,
        };
        server = server.with_log(log);
        if let Some(filter) = filter {
            server = server.with_input_filter(filter);
        }
        let endpoint = options.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty());
        if let Some(endpoint) = endpoint {
            server = server.with_traces(Traces::start(endpoint));
        }
        let mut scheme = "http";
        if let Some(tls) = tls {
            scheme = "https";
            server = server.with_tls(Arc::clone(&tls));
            let hung_up = signal(SignalKind::hangup())?;
            tokio::spawn(reload_when_told(tls, hung_up));
        } else if !address.ip().is_loopback() {
            crate::say(format_args!(
                "rapport: warning: whoever is on the way to {address} can read and change everything, \
                 keys and passwords too: use --tls-cert and --tls-key, or put a proxy with TLS in front"
            ));
        }
        crate::say(format_args!("rapport: {name} at {scheme}://{address}"));
        if let Some(link) = link {
            crate::say(format_args!(
                "rapport: sign in once at {scheme}://{address}/setup#{}",
                link.reveal()
            ));
        }
        if let Some(late) = &late {
            late.begin();
        }
        let mut failure = None;
        let stop = async {
            tokio::select! {
                () = asked_to_end => {}
                Some(error) = breaks.recv() => {
                    failure = Some(error);
                    return;
                }
            }
            crate::say(format_args!(
                "rapport: ending; replies that are being made have half a minute"
            ));
        };
        server.run(stop).await;
        if let Some(late) = &late {
            late.give_up();
        }
        store.close().await;
        failure.map_or(Ok(()), Err)
    })
}

/// The classifier in a file, where one is wanted.
fn input_filter(file: Option<&Path>) -> anyhow::Result<Option<Arc<dyn InputFilter>>> {
    let Some(file) = file.filter(|file| !file.as_os_str().is_empty()) else { return Ok(None) };
    let context = || format!("{} is no input filter", file.display());
    let bytes = std::fs::read(file).with_context(context)?;
    let classifier = AskedClassifier::from_bytes(&bytes).with_context(context)?;
    Ok(Some(Arc::new(AskedFilter(classifier))))
}

/// A trained classifier, for the server.
#[derive(Debug)]
struct AskedFilter(AskedClassifier);

impl InputFilter for AskedFilter {
    fn version(&self) -> &str {
        self.0.version()
    }

    fn judge(&self, text: &str) -> Option<Finding> {
        let (category, probability) = self.0.judge(text)?;
        Some(Finding { category: category.to_owned(), probability })
    }
}

/// What stands first in what a model is told.
fn policy(chosen: &str) -> anyhow::Result<Option<String>> {
    let text = match chosen {
        "off" | "" => return Ok(None),
        "on" => builtin_policy().to_owned(),
        file => std::fs::read_to_string(file).with_context(|| {
            format!("cannot read the policy in {file}: write on, off or a file")
        })?,
    };
    check_policy(&text).map_err(|problem| anyhow!("the policy in {chosen}: {problem}"))?;
    Ok(Layers { policy: Some(&text), ..Layers::default() }.render())
}

/// What HTTP runs on. The engine has the cores; HTTP needs little beside it.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the threads of the server")
}

/// Resolves at SIGINT or SIGTERM, which end the process no more from now on.
pub(crate) fn asked_to_end() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    })
}

/// Lines of the log.
struct Stderr;

impl Sink for Stderr {
    fn write(&self, line: &str) {
        crate::say(format_args!("{line}"));
    }
}

/// Reads the certificate again at every SIGHUP.
async fn reload_when_told(tls: Arc<Tls>, mut hung_up: Signal) {
    while hung_up.recv().await.is_some() {
        match tls.reload() {
            Ok(()) => crate::say(format_args!("rapport: the certificate was read again")),
            Err(error) => {
                crate::say(format_args!("rapport: the certificate stays as it was: {error}"));
            }
        }
    }
}

/// A model on its way to the server.
struct Coming {
    options: Arc<ServeCommand>,
    /// Where it keeps pages on disk, if nothing else is said.
    cache: Option<PathBuf>,
    paths: Paths,
    /// Its files and how to run them, where they are on this machine; taken by the first try.
    found: Mutex<Option<(ModelFiles, LocalOptions)>>,
    /// Whether they were; then a failure ends the server.
    was_here: bool,
    has_written_answers: WrittenAnswers,
    /// What ends the server.
    broken: UnboundedSender<anyhow::Error>,
}

impl Source for Coming {
    fn bring(&self, stage: &Stage) -> Result<Box<dyn Generate>, String> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner).take();
        let files = match found {
            Some(found) => Ok(found),
            None => self.pull(stage),
        };
        stage.loading();
        let compute = self.options.compute.compute();
        let loaded = files.and_then(|(files, local)| {
            self.has_written_answers.decide(&files.gguf);
            Ok(LocalModel::open(&files.gguf, compute, &local)?)
        });
        let error = match loaded {
            Ok(model) => return Ok(Box::new(model)),
            Err(error) => error,
        };
        let reason = crate::described(&error);
        if self.was_here {
            // Another try would not go better.
            let _ = self.broken.send(error);
        }
        Err(reason)
    }

    fn settled(&self, stage: &Stage, outcome: Result<(), &str>) {
        match outcome {
            Ok(()) => crate::say(format_args!("rapport: {} is ready", self.options.model)),
            Err(reason) if !self.was_here && !stage.cancelled().load(Ordering::Acquire) => {
                let advice = "an administrator's page has a button to try again";
                crate::say(format_args!("rapport: no model yet: {reason}; {advice}"));
            }
            Err(_) => {}
        }
    }
}

impl Coming {
    fn pull(&self, stage: &Stage) -> anyhow::Result<(ModelFiles, LocalOptions)> {
        pull::run(&PullOptions {
            model: &ModelReference::parse(&self.options.model)?,
            from: None,
            paths: &self.paths,
            python: "python3",
            progress: ProgressStyleChoice::Automatic,
            watched: Some(stage.pulling()),
            cancelled: stage.cancelled(),
        })?;
        let files = pull::find(&self.options.model, &self.paths)?;
        let local = self.local(&files)?;
        Ok((files, local))
    }

    fn local(&self, files: &ModelFiles) -> anyhow::Result<LocalOptions> {
        let ServeCommand { engine, adapters, .. } = &*self.options;
        Ok(LocalOptions {
            kv_tokens: self.options.kv_tokens.get(),
            auto: self.options.reading.auto_mode(),
            ..engine.local(files, adapters, self.cache.clone(), &self.paths)?
        })
    }
}

/// What a model calls itself before it is there: as its file will be called.
fn model_name(reference: &str, found: Option<&Path>, paths: &Paths) -> anyhow::Result<String> {
    let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    if let Some(name) = found.and_then(stem) {
        return Ok(name);
    }
    let catalog = Catalog::load(&paths.user_catalog)?;
    let file = match ModelReference::parse(reference)? {
        ModelReference::Name(name) => {
            let base = catalog.adapted(&name).map_or(&name, |adapted| &adapted.base);
            catalog.get(base).map(|entry| entry.file.clone())
        }
        ModelReference::Hub(file) => Some(file.file_name().to_owned()),
        ModelReference::File(path) => Some(path.display().to_string()),
    };
    Ok(file.and_then(|file| stem(Path::new(&file))).unwrap_or_else(|| reference.to_owned()))
}

/// What answers.
struct Answering {
    /// What it is called.
    name: String,
    model: Arc<dyn Generate>,
    /// What has to begin where it is a model in this process.
    late: Option<Arc<LateModel>>,
    has_written_answers: WrittenAnswers,
}

/// Whether somebody in danger is answered in words that people wrote. They are until it is known that
/// the model can be trusted to find its own.
#[derive(Clone, Debug)]
struct WrittenAnswers(Arc<AtomicBool>);

impl WrittenAnswers {
    fn new(are_needed: bool) -> Self {
        Self(Arc::new(AtomicBool::new(are_needed)))
    }

    fn are_needed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn decide(&self, gguf: &Path) {
        self.0.store(needs_written_answers(gguf), Ordering::Release);
    }
}

fn answering(
    options: &Arc<ServeCommand>,
    location: &Location,
    paths: &Paths,
    broken: UnboundedSender<anyhow::Error>,
) -> anyhow::Result<Answering> {
    if let Some(config) = upstream(options)? {
        let upstream = Upstream::open(config)?;
        let name = format!("{} ({})", upstream.model().name, upstream.dialect());
        let has_written_answers = WrittenAnswers::new(false);
        return Ok(Answering { name, model: Arc::new(upstream), late: None, has_written_answers });
    }
    // What no wait can mend is said at once.
    let found = match pull::find(&options.model, paths) {
        Ok(files) => Some(files),
        Err(PullError::NotPulled { .. }) => {
            options.adapters.check()?;
            None
        }
        Err(error) => return Err(error.into()),
    };
    let cache = match location {
        Location::Sqlite(file) => file.parent().map(|folder| folder.join("cache")),
        // Several servers share it, and each would need a folder of its own.
        Location::Postgres(_) => None,
    };
    let gguf = found.as_ref().map(|files| files.gguf.as_path());
    let own_name = model_name(&options.model, gguf, paths)?;
    let mut coming = Coming {
        options: Arc::clone(options),
        cache,
        paths: paths.clone(),
        found: Mutex::default(),
        was_here: found.is_some(),
        has_written_answers: WrittenAnswers::new(true),
        broken,
    };
    if let Some(files) = found {
        let local = coming.local(&files)?;
        coming.found = Mutex::new(Some((files, local)));
    }
    let has_written_answers = coming.has_written_answers.clone();
    let late = LateModel::new(own_name, Box::new(coming));
    let late = Arc::new(late);
    Ok(Answering {
        name: options.model.clone(),
        model: Arc::clone(&late) as Arc<dyn Generate>,
        late: Some(late),
        has_written_answers,
    })
}

/// The engine to stand in front of, if there is one.
fn upstream(options: &ServeCommand) -> anyhow::Result<Option<UpstreamConfig>> {
    let urls: Vec<&String> = options.upstream.iter().filter(|url| !url.is_empty()).collect();
    let file = options.upstream_config.as_deref().filter(|path| !path.as_os_str().is_empty());
    let mut config = match (urls.as_slice(), file) {
        ([], None) => return Ok(None),
        (_, Some(path)) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            toml::from_str::<UpstreamConfig>(&text)
                .with_context(|| format!("{} does not describe an engine", path.display()))?
        }
        ([first, rest @ ..], None) => {
            let mut config = UpstreamConfig::new(first);
            for url in rest {
                config.replicas.extend(UpstreamConfig::new(url).replicas);
            }
            for replica in &mut config.replicas {
                replica.key_env = options.upstream_key_env.clone().filter(|name| !name.is_empty());
            }
            config
        }
    };
    for replica in &mut config.replicas {
        if let Some(name) = &replica.key_env {
            let key = crate::variable(name).with_context(|| {
                format!("{name} is not set: the key for {} is in it", replica.url)
            })?;
            replica.key = Some(Secret::new(key));
        }
    }
    let named = options.upstream_model.clone().filter(|name| !name.is_empty());
    config.model = named.or(config.model);
    Ok(Some(config))
}

/// Where accounts and conversations are; makes the folder.
fn location(options: &ServeCommand, paths: &Paths) -> anyhow::Result<Location> {
    let chosen = options.data.as_deref().filter(|folder| !folder.as_os_str().is_empty());
    let folder = chosen.unwrap_or(&paths.data);
    let location = store::location(options.database.as_deref(), folder);
    if matches!(location, Location::Sqlite(_)) {
        store::make_private_folder(folder)?;
    }
    Ok(location)
}

/// Gives the first admin a key that was chosen outside, and makes that admin where there is nobody.
async fn adopt(store: &Store, key: &str) -> anyhow::Result<()> {
    const PAGE: u32 = 200;
    let mut after = None;
    let admin = loop {
        let users = store.users(after, PAGE).await?;
        let is_admin = |user: &&rapport_store::User| user.role == UserRole::Admin;
        if let Some(admin) = users.iter().find(is_admin) {
            break admin.clone();
        }
        after = users.last().map(|last| last.id);
        if users.len() < PAGE as usize {
            let new =
                NewUser { name: "owner", role: UserRole::Admin, plan: "unlimited", password: None };
            match store.create_user(new, now()).await {
                // Another server that starts at the same time was faster.
                Err(Error::Conflict { .. }) => break store.user_by_name(new.name).await?,
                made => break made?,
            }
        }
    };
    let scopes = ["api".to_owned()];
    let new = NewApiKey { name: "RAPPORT_ADMIN_KEY", scopes: &scopes, expires_at: None };
    store.adopt_api_key(admin.id, new, key, now()).await?;
    Ok(())
}

/// The reader that comes along, for the server.
#[derive(Debug)]
struct MessageReader {
    reader: &'static Reader,
    has_written_answers: WrittenAnswers,
}

impl ReadMessages for MessageReader {
    fn read(&self, message: &str) -> serde_json::Value {
        let mut reading = serde_json::to_value(self.reader.read(message)).unwrap_or_default();
        reading["reader"] = self.reader.version().into();
        reading
    }

    fn guidance(&self, message: &str) -> Option<String> {
        let is_cue = self.reader.read(message).risk.is_cue;
        is_cue.then(|| crisis_guidance(language_of(message)).to_owned())
    }

    fn written(&self, message: &str) -> Option<String> {
        let is_cue = self.has_written_answers.are_needed() && self.reader.read(message).risk.is_cue;
        is_cue.then(|| written_answers(message))
    }
}

/// Those that come along, as the pages show them.
fn personas() -> Vec<Persona> {
    let known = rapport_persona::builtin().into_iter();
    known
        .filter_map(|persona| {
            let text = persona.text(Language::En)?;
            let layers = Layers { persona: Some(&persona), ..Layers::default() };
            Some(Persona {
                version: persona.version(Language::En),
                name: capitalised(&persona.name),
                tagline: text.tagline.clone(),
                description: text.description.clone(),
                languages: persona.text.keys().map(|known| known.as_str().to_owned()).collect(),
                prompt: layers.render().unwrap_or_default(),
                texts: persona
                    .text
                    .iter()
                    .filter(|(language, _)| **language != Language::En)
                    .map(|(language, text)| {
                        let (tagline, description) =
                            (text.tagline.clone(), text.description.clone());
                        (language.as_str().to_owned(), PersonaText { tagline, description })
                    })
                    .collect(),
                id: persona.name.clone(),
            })
        })
        .collect()
}

fn capitalised(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_people_wrote_are_said_until_a_model_is_known_to_be_large() {
        let written = WrittenAnswers::new(true);
        let of_reader = written.clone();
        let file = tempfile::NamedTempFile::new().unwrap();
        written.decide(&file.path().with_extension("missing"));
        assert!(of_reader.are_needed());
        written.decide(file.path());
        assert!(of_reader.are_needed());
        file.as_file().set_len(1_000_000_000).unwrap();
        written.decide(file.path());
        assert!(!of_reader.are_needed());
    }
}
