//! `rapport serve`, wired to a model in this process and to a store of people.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;
use rapport_cli::pull::{self, DEFAULT_MODEL, Paths};
use rapport_local::{DEFAULT_KV_TOKENS, LocalModel, LocalOptions};
use rapport_persona::{Language, Layers};
use rapport_server::{Accounts, AccountsConfig, Pages, Persona, Plans, Server, ServerConfig};
use rapport_store::{Location, NewApiKey, NewUser, Store, UnixMs, UserRole};
use tokio::signal::unix::{SignalKind, signal};

use crate::options::{AdapterOptions, ComputeOptions};

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
    /// Ask for an API key on this machine too
    #[arg(long)]
    require_key: bool,
    /// Tokens of all conversations together that stay in memory, at most
    #[arg(long, default_value_t = NonZeroUsize::new(DEFAULT_KV_TOKENS).expect("some tokens"))]
    kv_tokens: NonZeroUsize,
    #[command(flatten)]
    adapter: AdapterOptions,
    #[command(flatten)]
    compute: ComputeOptions,
}

/// Secrets from the environment or the file of settings.
pub(crate) struct Keys {
    /// One for everybody, which belongs to no account.
    pub(crate) shared: Option<String>,
    /// Of the first admin, for starts that nobody watches.
    pub(crate) admin: Option<String>,
}

/// Serves until SIGINT or SIGTERM; replies that are being made may end first.
pub(crate) fn run(options: ServeCommand, keys: Keys, paths: &Paths) -> anyhow::Result<()> {
    let plans = options.plans.as_deref().map_or_else(|| Ok(Plans::default()), read_plans)?;
    let location = location(&options, paths)?;
    let path = pull::resolve(&options.model, paths)?;
    let local =
        LocalOptions { kv_tokens: options.kv_tokens.get(), adapter: options.adapter.open()? };
    let model = LocalModel::open(&path, options.compute.compute(), &local)?;
    let address = SocketAddr::new(options.host, options.port);
    let config = ServerConfig {
        host_names: options.host_name,
        api_key: keys.shared,
        // Whoever can reach another address than the loopback one is anybody.
        requires_key: options.require_key || !options.host.is_loopback(),
        ..ServerConfig::new(address)
    };
    // The engine has the cores; HTTP needs little beside it.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the threads of the server")?;
    runtime.block_on(async {
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminated = signal(SignalKind::terminate())?;
        let store = Arc::new(Store::open(&location, now()).await?);
        if let Some(key) = &keys.admin {
            adopt(&store, key).await?;
        }
        let accounts = AccountsConfig {
            store: Arc::clone(&store),
            plans,
            personas: personas(),
            pages: Pages::new(WEB_FILES),
            has_tls: false,
        };
        let accounts = Accounts::open(accounts).await?;
        let link = accounts.first_link().await?;
        let server = Server::listen(config, Arc::new(model)).await?.with_accounts(accounts);
        let address = server.address()?;
        crate::say(format_args!("rapport: {} at http://{address}", options.model));
        if let Some(link) = link {
            crate::say(format_args!(
                "rapport: sign in once at http://{address}/setup#{}",
                link.reveal()
            ));
        }
        let stop = async move {
            tokio::select! {
                _ = interrupted.recv() => {}
                _ = terminated.recv() => {}
            }
            crate::say(format_args!(
                "rapport: ending; replies that are being made have half a minute"
            ));
        };
        server.run(stop).await;
        store.close().await;
        Ok(())
    })
}

fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixMs(since.map_or(0, |since| since.as_millis() as i64))
}

/// Where accounts and conversations are; makes the folder.
fn location(options: &ServeCommand, paths: &Paths) -> anyhow::Result<Location> {
    if let Some(url) = options.database.as_deref().filter(|url| !url.is_empty()) {
        return Ok(Location::parse(url));
    }
    let chosen = options.data.as_deref().filter(|folder| !folder.as_os_str().is_empty());
    let folder = chosen.unwrap_or(&paths.data);
    make_private_folder(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    Ok(Location::Sqlite(folder.join("rapport.db")))
}

/// A folder that only its owner may read: conversations are in it.
fn make_private_folder(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn read_plans(path: &Path) -> anyhow::Result<Plans> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the plans in {}", path.display()))?;
    let plans: Plans = toml::from_str(&text)
        .with_context(|| format!("{} is not a file of plans", path.display()))?;
    anyhow::ensure!(!plans.0.is_empty(), "{} has no plan in it", path.display());
    Ok(plans)
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
            break store.create_user(new, now()).await?;
        }
    };
    let scopes = ["api".to_owned()];
    let new = NewApiKey { name: "RAPPORT_ADMIN_KEY", scopes: &scopes, expires_at: None };
    store.adopt_api_key(admin.id, new, key, now()).await?;
    Ok(())
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
                id: persona.name.clone(),
            })
        })
        .collect()
}

fn capitalised(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
