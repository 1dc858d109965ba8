//! Settings from the environment and `config.toml`, read once.
//!
//! A flag wins over its `RAPPORT_*` variable, which wins over the file, which wins over what is
//! built in. [`Config::apply`] makes what was found the defaults of the flags, so that the commands
//! know of flags alone.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::bytes::ByteCount;
use crate::options::{DEFAULT_CACHE_BYTES, KvForm};
use rapport_cli::chat::Settings;
use rapport_cli::pull::{DEFAULT_MODEL, ModelReference};
use rapport_kernels::Isa;
use rapport_server::{LogFormat, LogLevel};
use rapport_types::{Mode, SamplingDraft, ThinkingBudget};
use serde_json::json;

/// One thing that can be set.
struct Setting {
    /// Its key in the file; what is before the point is a table.
    key: &'static str,
    variable: &'static str,
    /// The flag, and the only command that has it in this meaning; `None` for all.
    flag: Option<(&'static str, Option<&'static str>)>,
    is_secret: bool,
    default: fn() -> String,
    check: fn(&str) -> Result<(), String>,
}

const SETTINGS: &[Setting] = &[
    Setting {
        key: "model",
        variable: "RAPPORT_MODEL",
        flag: Some(("model", None)),
        is_secret: false,
        default: || DEFAULT_MODEL.to_owned(),
        check: |text| ModelReference::parse(text).map(drop).map_err(|error| error.to_string()),
    },
    Setting {
        key: "adapter",
        variable: "RAPPORT_ADAPTER",
        flag: Some(("adapter", None)),
        is_secret: false,
        default: String::new,
        check: |_| Ok(()),
    },
    Setting {
        key: "reading",
        variable: "RAPPORT_READING",
        flag: Some(("reading", None)),
        is_secret: false,
        default: || "on".to_owned(),
        check: parses::<crate::read::ReadingSwitch>,
    },
    Setting {
        key: "threads",
        variable: "RAPPORT_THREADS",
        flag: Some(("threads", None)),
        is_secret: false,
        default: || crate::machine::physical_cores().to_string(),
        check: parses::<NonZeroUsize>,
    },
    Setting {
        key: "isa",
        variable: "RAPPORT_ISA",
        flag: Some(("isa", None)),
        is_secret: false,
        default: || Isa::detect().to_string(),
        check: parses::<Isa>,
    },
    Setting {
        key: "kv",
        variable: "RAPPORT_KV",
        flag: Some(("kv", None)),
        is_secret: false,
        default: || KvForm::F16.to_string(),
        check: parses::<KvForm>,
    },
    Setting {
        key: "draft",
        variable: "RAPPORT_DRAFT",
        flag: Some(("draft", None)),
        is_secret: false,
        default: String::new,
        check: |text| match text {
            "" => Ok(()),
            text => ModelReference::parse(text).map(drop).map_err(|error| error.to_string()),
        },
    },
    Setting {
        key: "chat.mode",
        variable: "RAPPORT_MODE",
        flag: Some(("mode", Some("chat"))),
        is_secret: false,
        default: || Mode::Auto.to_string(),
        check: parses::<Mode>,
    },
    Setting {
        key: "chat.budget",
        variable: "RAPPORT_BUDGET",
        flag: Some(("budget", Some("chat"))),
        is_secret: false,
        default: || ThinkingBudget::Medium.to_string(),
        check: parses::<ThinkingBudget>,
    },
    Setting {
        key: "chat.temperature",
        variable: "RAPPORT_TEMPERATURE",
        flag: Some(("temperature", Some("chat"))),
        is_secret: false,
        // As the model's makers would have it.
        default: String::new,
        check: |text| {
            let temperature = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
            let draft = SamplingDraft { temperature, ..SamplingDraft::default() };
            draft.validate().map(drop).map_err(|error| error.to_string())
        },
    },
    Setting {
        key: "chat.max_tokens",
        variable: "RAPPORT_MAX_TOKENS",
        flag: Some(("max_tokens", Some("chat"))),
        is_secret: false,
        default: || Settings::DEFAULT_MAX_TOKENS.to_string(),
        check: parses::<NonZeroU32>,
    },
    Setting {
        key: "chat.system",
        variable: "RAPPORT_SYSTEM",
        flag: Some(("system", Some("chat"))),
        is_secret: false,
        default: String::new,
        check: |_| Ok(()),
    },
    Setting {
        key: "serve.host",
        variable: "RAPPORT_HOST",
        flag: Some(("host", Some("serve"))),
        is_secret: false,
        default: || "127.0.0.1".to_owned(),
        check: parses::<IpAddr>,
    },
    Setting {
        key: "serve.port",
        variable: "RAPPORT_PORT",
        flag: Some(("port", Some("serve"))),
        is_secret: false,
        default: || "8080".to_owned(),
        check: parses::<u16>,
    },
    Setting {
        key: "serve.api_key",
        variable: "RAPPORT_API_KEY",
        flag: None,
        is_secret: true,
        default: String::new,
        check: |_| Ok(()),
    },
    Setting {
        key: "serve.admin_key",
        variable: "RAPPORT_ADMIN_KEY",
        flag: None,
        is_secret: true,
        default: String::new,
        check: |text| {
            let is_long = text.is_empty() || text.chars().count() >= 16;
            if is_long { Ok(()) } else { Err("it has fewer than 16 characters".to_owned()) }
        },
    },
    Setting {
        key: "serve.data",
        variable: "RAPPORT_DATA",
        flag: Some(("data", Some("serve"))),
        is_secret: false,
        default: String::new,
        check: |_| Ok(()),
    },
    Setting {
        key: "serve.cache_dir",
        variable: "RAPPORT_CACHE_DIR",
        flag: Some(("cache_dir", Some("serve"))),
        is_secret: false,
        default: String::new,
        check: |_| Ok(()),
    },
    Setting {
        key: "serve.cache_bytes",
        variable: "RAPPORT_CACHE_BYTES",
        flag: Some(("cache_bytes", Some("serve"))),
        is_secret: false,
        default: || DEFAULT_CACHE_BYTES.to_string(),
        check: parses::<ByteCount>,
    },
    Setting {
        key: "serve.database",
        variable: "RAPPORT_DATABASE",
        flag: Some(("database", Some("serve"))),
        is_secret: true,
        default: String::new,
        check: |_| Ok(()),
    },
    Setting {
        key: "serve.plans",
        variable: "RAPPORT_PLANS",
        flag: Some(("plans", Some("serve"))),
        is_secret: false,
        default: String::new,
        check: |_| Ok(()),
    },
    Setting {
        key: "serve.tls_cert",
        variable: "RAPPORT_TLS_CERT",
        flag: Some(("tls_cert", Some("serve"))),
        is_secret: false,
        default: String::new,
        check: |_| Ok(()),
    },
    Setting {
        key: "serve.upstream",
        variable: "RAPPORT_UPSTREAM",
        flag: Some(("upstream", Some("serve"))),
        is_secret: false,
        default: String::new,
        check: |_| Ok(()),
    },
    Setting {
        key: "serve.tls_key",
        variable: "RAPPORT_TLS_KEY",
        flag: Some(("tls_key", Some("serve"))),
        is_secret: false,
        default: String::new,
        check: |_| Ok(()),
    },
    Setting {
        key: "serve.retention_days",
        variable: "RAPPORT_RETENTION_DAYS",
        flag: Some(("retention_days", Some("serve"))),
        is_secret: false,
        default: String::new,
        check: |text| match text.parse() {
            Ok(1..=36_500_u32) => Ok(()),
            _ if text.is_empty() => Ok(()),
            _ => Err(format!("`{text}` is not a number of days from 1 to 36500")),
        },
    },
    Setting {
        key: "serve.public_url",
        variable: "RAPPORT_PUBLIC_URL",
        flag: Some(("public_url", Some("serve"))),
        is_secret: false,
        default: String::new,
        check: |_| Ok(()),
    },
    Setting {
        key: "serve.log_format",
        variable: "RAPPORT_LOG_FORMAT",
        flag: Some(("log_format", Some("serve"))),
        is_secret: false,
        default: || "text".to_owned(),
        check: parses::<LogFormat>,
    },
    Setting {
        key: "serve.log_level",
        variable: "RAPPORT_LOG_LEVEL",
        flag: Some(("log_level", Some("serve"))),
        is_secret: false,
        default: || "warn".to_owned(),
        check: parses::<LogLevel>,
    },
    Setting {
        key: "serve.input_filter",
        variable: "RAPPORT_INPUT_FILTER",
        flag: Some(("input_filter", Some("serve"))),
        is_secret: false,
        default: String::new,
        check: |_| Ok(()),
    },
    Setting {
        key: "serve.policy",
        variable: "RAPPORT_POLICY",
        flag: Some(("policy", Some("serve"))),
        is_secret: false,
        default: || "off".to_owned(),
        check: |_| Ok(()),
    },
    Setting {
        key: "serve.otlp_endpoint",
        variable: "OTEL_EXPORTER_OTLP_ENDPOINT",
        flag: Some(("otlp_endpoint", Some("serve"))),
        is_secret: false,
        default: String::new,
        check: |text| collector(text).map(drop),
    },
    Setting {
        key: "serve.upstream_model",
        variable: "RAPPORT_UPSTREAM_MODEL",
        flag: Some(("upstream_model", Some("serve"))),
        is_secret: false,
        default: String::new,
        check: |_| Ok(()),
    },
    Setting {
        key: "oidc.issuer",
        variable: "RAPPORT_OIDC_ISSUER",
        flag: Some(("oidc_issuer", Some("serve"))),
        is_secret: false,
        default: String::new,
        check: |_| Ok(()),
    },
    Setting {
        key: "serve.upstream_key_env",
        variable: "RAPPORT_UPSTREAM_KEY_ENV",
        flag: Some(("upstream_key_env", Some("serve"))),
        is_secret: false,
        default: String::new,
        check: |_| Ok(()),
    },
    Setting {
        key: "oidc.client_id",
        variable: "RAPPORT_OIDC_CLIENT_ID",
        flag: Some(("oidc_client_id", Some("serve"))),
        is_secret: false,
        default: String::new,
        check: |_| Ok(()),
    },
    Setting {
        key: "serve.upstream_config",
        variable: "RAPPORT_UPSTREAM_CONFIG",
        flag: Some(("upstream_config", Some("serve"))),
        is_secret: false,
        default: String::new,
        check: |_| Ok(()),
    },
    Setting {
        key: "oidc.client_secret",
        variable: "RAPPORT_OIDC_CLIENT_SECRET",
        flag: None,
        is_secret: true,
        default: String::new,
        check: |_| Ok(()),
    },
    Setting {
        key: "oidc.label",
        variable: "RAPPORT_OIDC_LABEL",
        flag: Some(("oidc_label", Some("serve"))),
        is_secret: false,
        default: String::new,
        check: |_| Ok(()),
    },
    Setting {
        key: "oidc.domains",
        variable: "RAPPORT_OIDC_DOMAINS",
        flag: Some(("oidc_domains", Some("serve"))),
        is_secret: false,
        default: String::new,
        check: |_| Ok(()),
    },
    Setting {
        key: "oidc.admins",
        variable: "RAPPORT_OIDC_ADMINS",
        flag: Some(("oidc_admins", Some("serve"))),
        is_secret: false,
        default: String::new,
        check: |_| Ok(()),
    },
    Setting {
        key: "hub.endpoint",
        variable: "HF_ENDPOINT",
        flag: None,
        is_secret: false,
        default: String::new,
        check: endpoint,
    },
    Setting {
        key: "hub.token",
        variable: "HF_TOKEN",
        flag: None,
        is_secret: true,
        default: String::new,
        check: |_| Ok(()),
    },
];

fn parses<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<(), String> {
    text.parse::<T>().map(drop).map_err(|error| format!("`{text}`: {error}"))
}

/// Where traces go; empty for nowhere.
pub(crate) fn collector(text: &str) -> Result<String, String> {
    if !text.is_empty() {
        endpoint(text)?;
    }
    Ok(text.to_owned())
}

fn endpoint(text: &str) -> Result<(), String> {
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return Err("it is not an http(s) address".to_owned());
    };
    // An address is said in messages and records, so it must not carry a secret.
    if rest.split('/').next().is_some_and(|authority| authority.contains('@')) {
        return Err("it has a name or password in it, and addresses are written down".to_owned());
    }
    Ok(())
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{path} cannot be read: {source}", path = path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// Without the line itself: it may hold a secret.
    #[error("{path} is not valid TOML at line {line}, column {column}: {reason}", path = path.display())]
    Syntax { path: PathBuf, line: usize, column: usize, reason: String },
    #[error("{path} has the unknown key `{key}`: {}", instead(*nearest), path = path.display())]
    UnknownKey { path: PathBuf, key: String, nearest: Option<&'static str> },
    #[error("`{name}` in the environment is not Unicode")]
    NotUnicode { name: &'static str },
    #[error("`{name}` in {origin} is not valid: {reason}")]
    Value { name: &'static str, origin: String, reason: String },
}

fn instead(nearest: Option<&str>) -> String {
    nearest.map_or_else(
        || {
            let keys: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
            format!("there are {}", keys.join(", "))
        },
        |nearest| format!("did you mean `{nearest}`?"),
    )
}

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    Environment,
    File,
}

/// The settings that are not as built in.
#[derive(Debug)]
pub(crate) struct Config {
    path: PathBuf,
    values: BTreeMap<&'static str, (String, Layer)>,
}

impl Config {
    /// Reads `path`, if it is there, and the variables that `variable` looks up.
    ///
    /// # Errors
    /// Anything in either that is not a setting or not valid.
    pub(crate) fn load(
        path: PathBuf,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let mut values = BTreeMap::new();
        match std::fs::read_to_string(&path) {
            Ok(text) => read_file(&path, &text, &mut values)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(ConfigError::Unreadable { path, source }),
        }
        for setting in SETTINGS {
            if let Some(value) = variable(setting.variable) {
                let name = setting.variable;
                let value = value.into_string().map_err(|_| ConfigError::NotUnicode { name })?;
                (setting.check)(&value).map_err(|reason| ConfigError::Value {
                    name,
                    origin: "the environment".to_owned(),
                    reason: hidden(setting, reason),
                })?;
                values.insert(setting.key, (value, Layer::Environment));
            }
        }
        Ok(Self { path, values })
    }

    /// What is set for a key, unless it is as built in.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|(value, _)| value.as_str())
    }

    /// Makes the settings the defaults of the flags.
    pub(crate) fn apply(&self, command: clap::Command) -> clap::Command {
        let command = command.mut_subcommands(|command| self.apply(command));
        let name = command.get_name().to_owned();
        command.mut_args(|argument| match self.default_of(&name, argument.get_id().as_str()) {
            Some(value) => argument.default_value(value),
            None => argument,
        })
    }

    fn default_of(&self, command: &str, flag: &str) -> Option<String> {
        let setting = SETTINGS.iter().find(|setting| {
            setting.flag.is_some_and(|(id, only)| {
                id == flag && only.is_none_or(|only_command| only_command == command)
            })
        })?;
        self.get(setting.key).map(str::to_owned)
    }

    /// `rapport config show`: every setting, what it is and who said so.
    pub(crate) fn show(&self, as_json: bool, out: &mut impl Write) -> io::Result<()> {
        let rows: Vec<(&str, String, String)> = SETTINGS
            .iter()
            .map(|setting| {
                let (value, source) = match self.values.get(setting.key) {
                    Some((value, Layer::Environment)) => {
                        (value.clone(), setting.variable.to_owned())
                    }
                    Some((value, Layer::File)) => (value.clone(), self.path.display().to_string()),
                    None => ((setting.default)(), "default".to_owned()),
                };
                (setting.key, hidden(setting, value), source)
            })
            .collect();
        if as_json {
            let settings: serde_json::Map<_, _> = rows
                .into_iter()
                .map(|(key, value, source)| {
                    let value = (!value.is_empty()).then_some(value);
                    (key.to_owned(), json!({ "value": value, "source": source }))
                })
                .collect();
            let path = self.path.display().to_string();
            return writeln!(out, "{:#}", json!({ "file": path, "settings": settings }));
        }
        let note = if self.path.exists() { "" } else { " (not there)" };
        writeln!(out, "# {}{note}", self.path.display())?;
        for (key, value, source) in rows {
            let value = if value.is_empty() { "-".to_owned() } else { on_one_line(&value) };
            writeln!(out, "{key:<22} {value:<24} {source}")?;
        }
        Ok(())
    }
}

fn hidden(setting: &Setting, value: String) -> String {
    if setting.is_secret && !value.is_empty() { "(set)".to_owned() } else { value }
}

/// The value with its line ends, and whatever else could steer a terminal, written out.
pub(crate) fn on_one_line(value: &str) -> String {
    let mut line = String::with_capacity(value.len());
    for c in value.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

fn read_file(
    path: &Path,
    text: &str,
    values: &mut BTreeMap<&'static str, (String, Layer)>,
) -> Result<(), ConfigError> {
    let table: toml::Table = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let before = text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        ConfigError::Syntax {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            reason: error.message().to_owned(),
        }
    })?;
    let mut leaves = Vec::new();
    flatten(table, "", &mut leaves);
    for (key, value) in leaves {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
            let nearest = nearest_key(&key);
            return Err(ConfigError::UnknownKey { path: path.to_owned(), key, nearest });
        };
        let text = match value {
            toml::Value::String(text) => Ok(text),
            toml::Value::Integer(number) => Ok(number.to_string()),
            toml::Value::Float(number) => Ok(number.to_string()),
            value => Err(format!("it is a {}, not a text or a number", value.type_str())),
        };
        let value =
            text.and_then(|text| (setting.check)(&text).map(|()| text)).map_err(|reason| {
                ConfigError::Value {
                    name: setting.key,
                    origin: path.display().to_string(),
                    reason: hidden(setting, reason),
                }
            })?;
        values.insert(setting.key, (value, Layer::File));
    }
    Ok(())
}

/// The values of a table and of those in it, each with its whole key. An empty table that no key
/// begins with counts as a value, so that it is found to be unknown.
fn flatten(table: toml::Table, prefix: &str, leaves: &mut Vec<(String, toml::Value)>) {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        let inside = format!("{key}.");
        match value {
            toml::Value::Table(inner)
                if !inner.is_empty() || SETTINGS.iter().any(|s| s.key.starts_with(&inside)) =>
            {
                flatten(inner, &inside, leaves);
            }
            value => leaves.push((key, value)),
        }
    }
}

/// The key that was most likely meant: spelt nearly so, or of that name in another table.
fn nearest_key(key: &str) -> Option<&'static str> {
    fn name(key: &str) -> &str {
        key.rsplit('.').next().unwrap_or(key)
    }
    let similarity = |known: &str| {
        strsim::jaro_winkler(known, key).max(strsim::jaro_winkler(name(known), name(key)))
    };
    SETTINGS
        .iter()
        .map(|setting| (setting.key, similarity(setting.key)))
        .filter(|(_, similarity)| *similarity > 0.8)
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(key, _)| key)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::*;
    use crate::options::{Cli, Command};

    fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(path, |name| {
            variables.iter().find(|(found, _)| *found == name).map(|(_, value)| value.into())
        })
    }

    fn chat_mode(config: &Config, arguments: &[&str]) -> Mode {
        let arguments = ["rapport", "chat"].iter().chain(arguments);
        let matches = config.apply(Cli::command()).try_get_matches_from(arguments).unwrap();
        match Cli::from_arg_matches(&matches).unwrap().command {
            Command::Chat(options) => options.mode,
            _ => unreachable!("the command is chat"),
        }
    }

    #[test]
    fn a_collector_that_is_no_address_is_refused_wherever_it_is_said() {
        for text in ["nonsense", "http://name:word@127.0.0.1"] {
            let flags = ["rapport", "serve", "--otlp-endpoint", text];
            assert!(Cli::command().try_get_matches_from(flags).is_err(), "{text}");
            load("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", text)]).unwrap_err();
        }
        let flags = ["rapport", "serve", "--otlp-endpoint", "http://127.0.0.1:4318"];
        Cli::command().try_get_matches_from(flags).unwrap();
    }

    #[test]
    fn flags_win_over_variables_over_the_file_over_defaults() {
        let none = load("", &[]).unwrap();
        assert_eq!(chat_mode(&none, &[]), Mode::Auto);
        let file = load("[chat]\nmode = \"fast\"", &[]).unwrap();
        assert_eq!(chat_mode(&file, &[]), Mode::Fast);
        let both = load("[chat]\nmode = \"fast\"", &[("RAPPORT_MODE", "thinking")]).unwrap();
        assert_eq!(chat_mode(&both, &[]), Mode::Thinking);
        assert_eq!(chat_mode(&both, &["--mode", "auto"]), Mode::Auto);
    }

    #[test]
    fn every_flag_of_a_setting_exists() {
        let cli = Cli::command();
        for setting in SETTINGS {
            let Some((flag, only)) = setting.flag else { continue };
            let command = cli.find_subcommand(only.unwrap_or("chat")).unwrap();
            assert!(command.get_arguments().any(|a| a.get_id() == flag), "{}", setting.key);
            // An empty one stands for what others decide.
            let default = (setting.default)();
            assert!(default.is_empty() || (setting.check)(&default).is_ok(), "{}", setting.key);
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_what_to_do() {
        let error = |text: &str| load(text, &[]).unwrap_err().to_string();
        assert!(error("modell = \"x\"").contains("did you mean `model`?"));
        assert!(error("[chat]\nmod = \"fast\"").contains("did you mean `chat.mode`?"));
        // A key in the wrong table, in none, and tables that are not there.
        assert!(error("mode = \"fast\"").contains("did you mean `chat.mode`?"));
        assert!(error("[chat]\nport = 1").contains("did you mean `serve.port`?"));
        assert!(error("[chatt]\nmode = 1").contains("unknown key `chatt.mode`: did you mean"));
        let none = error("[zzz]\nqqq = 1");
        assert!(none.contains("`zzz.qqq`") && none.contains("hub.token"), "{none}");
        assert!(error("[zzz]").contains("unknown key `zzz`"));
        assert!(error("model = {}").contains("table"));
        let mode = error("[chat]\nmode = \"slow\"");
        assert!(mode.contains("`chat.mode`") && mode.contains("fast, thinking or auto"), "{mode}");
        assert!(error("threads = 0").contains("`threads`"));
        assert!(error("threads = true").contains("boolean"));
        assert!(error("[chat]\ntemperature = 3.1").contains("3.1:"));
        assert!(error("threads = 2\nmodel = ").contains("not valid TOML at line 2, column 9"));
        assert!(error("[hub]\nendpoint = \"hub.example\"").contains("not an http(s) address"));
        let error = load("", &[("RAPPORT_THREADS", "many")]).unwrap_err().to_string();
        assert!(error.contains("`RAPPORT_THREADS` in the environment"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_variable_that_is_not_unicode_is_named() {
        use std::os::unix::ffi::OsStringExt;
        let error = Config::load(PathBuf::from("/no/such/config.toml"), |name| {
            (name == "RAPPORT_MODEL").then(|| OsString::from_vec(vec![0xff]))
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("`RAPPORT_MODEL`"), "{error}");
    }

    #[test]
    fn errors_never_show_secrets() {
        for text in [
            "[hub]\ntoken = \"hush",
            "[hub]\ntoken = hush",
            "[hub]\ntoken = [\"hush\"]",
            "[hub]\ntoken = \"a\"\ntoken = \"hush\"",
            "[hub]\nendpoint = \"https://me:hush@hub.example/path\"",
        ] {
            let error = load(text, &[]).unwrap_err();
            let said = format!("{error} {error:?}");
            assert!(!said.contains("hush"), "{text}: {said}");
        }
    }

    #[test]
    fn a_value_of_many_lines_is_shown_on_one() {
        let config = load("[chat]\nsystem = \"one\\ntwo \\u001b[31m\"", &[]).unwrap();
        let mut out = Vec::new();
        config.show(false, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("one\\ntwo \\u{1b}[31m"), "{text}");
        assert_eq!(text.lines().count(), SETTINGS.len() + 1);
    }

    #[test]
    fn each_value_is_shown_with_its_source_and_secrets_are_not() {
        let config = load("threads = 3\n[hub]\ntoken = \"hush\"", &[("RAPPORT_MODE", "fast")]);
        let config = config.unwrap();
        for as_json in [false, true] {
            let mut out = Vec::new();
            config.show(as_json, &mut out).unwrap();
            let text = String::from_utf8(out).unwrap();
            assert!(!text.contains("hush"), "{text}");
            for part in ["config.toml", "RAPPORT_MODE", "(set)", "default", "chat.max_tokens"] {
                assert!(text.contains(part), "{part} in {text}");
            }
        }
    }
}
