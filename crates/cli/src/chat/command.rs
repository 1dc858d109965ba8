//! What a typed line means: a message, a command, or nothing. Pure: text in, meaning out.
//!
//! The table [`COMMANDS`] is what parsing, completion and `/help` agree on.
//!
//! Start reading at [`parse`].

use std::path::PathBuf;

use rapport_types::{InvalidMode, InvalidThinkingBudget, Mode, ThinkingBudget};

use super::settings::SettingKey;

/// A line as its writer meant it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Nothing,
    Message(String),
    Command(Command),
}

/// Something to do other than to answer a message. `None` asks for the present value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Help,
    Mode(Option<Mode>),
    Budget(Option<ThinkingBudget>),
    Thought(Option<ThoughtView>),
    Set(Option<(SettingKey, String)>),
    System(Option<SystemChange>),
    Regenerate,
    /// The new text of the last message; `None` opens the old one for editing.
    Edit(Option<String>),
    Clear,
    Save {
        path: PathBuf,
        if_exists: IfExists,
    },
    Load(PathBuf),
    Model(Option<String>),
    Adapter(Option<String>),
    Stats,
    Quit,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SystemChange {
    Set(String),
    Remove,
}

/// What saving does to a file that is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IfExists {
    Refuse,
    Replace,
}

/// How much of a thought is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThoughtView {
    /// As it is written.
    Full,
    /// One line saying that there was one.
    Folded,
    Hidden,
}

impl ThoughtView {
    pub const ALL: [Self; 3] = [Self::Full, Self::Folded, Self::Hidden];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Folded => "folded",
            Self::Hidden => "hidden",
        }
    }
}

/// One row of `/help`.
#[derive(Clone, Copy, Debug)]
pub(super) struct CommandHelp {
    pub name: &'static str,
    pub arguments: &'static str,
    pub does: &'static str,
}

const fn row(name: &'static str, arguments: &'static str, does: &'static str) -> CommandHelp {
    CommandHelp { name, arguments, does }
}

/// Every command, in the order `/help` shows them.
pub(super) const COMMANDS: [CommandHelp; 17] = [
    row("help", "", "this table"),
    row("mode", "fast|thinking|auto", "answer at once, think first, or let Rapport choose"),
    row("budget", "none|low|medium|high|N", "how much a reply may think"),
    row("thought", "full|folded|hidden", "how thoughts are shown; alone, show the last one"),
    row("set", "NAME VALUE", "change sampling or max_tokens; alone, show all"),
    row("system", "TEXT|none", "what the model is told before the conversation"),
    row("regen", "", "answer the last message again"),
    row("edit", "[TEXT]", "change the last message and answer it"),
    row("clear", "", "start a new conversation"),
    row("new", "", "the same as /clear"),
    row("save", "FILE", "write the conversation as JSON lines; /save! replaces a file"),
    row("load", "FILE", "go on with a saved conversation"),
    row("model", "[NAME]", "answer with another model; alone, list them"),
    row("adapter", "[NAME|none]", "answer with another adapter; alone, list them"),
    row("stats", "", "what the last reply and the session took"),
    row("quit", "", "leave"),
    row("exit", "", "the same as /quit"),
];

/// Why a line that begins with a slash does nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CommandError {
    #[error("there is no command `/{found}`{}; a message that begins with a slash is sent with //", did_you_mean("/", *nearest))]
    Unknown { found: String, nearest: Option<&'static str> },
    #[error("there is no setting `{found}`{}: the settings are {}", did_you_mean("", *nearest), setting_names())]
    UnknownSetting { found: String, nearest: Option<&'static str> },
    #[error("`/{name}` needs more: write `/{name} {arguments}`")]
    MissingArgument { name: &'static str, arguments: &'static str },
    #[error("`/{name}` takes nothing after it, found `{found}`")]
    UnexpectedArgument { name: &'static str, found: String },
    #[error("thoughts cannot be shown `{found}`: use full, folded or hidden")]
    InvalidThoughtView { found: String },
    #[error(transparent)]
    InvalidMode(#[from] InvalidMode),
    #[error(transparent)]
    InvalidBudget(#[from] InvalidThinkingBudget),
}

fn did_you_mean(before: &str, nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!(" (did you mean `{before}{name}`?)"))
}

fn setting_names() -> String {
    SettingKey::ALL.map(SettingKey::as_str).join(", ")
}

/// Reads a line as it was typed.
///
/// `//` at the start sends a message that begins with one slash. Everything after a command's name
/// belongs to it, more lines included.
///
/// # Errors
/// The line begins with a slash and is not a command.
pub(super) fn parse(line: &str) -> Result<Input, CommandError> {
    let line = line.trim_end();
    if line.trim_start().is_empty() {
        return Ok(Input::Nothing);
    }
    let Some(command) = line.strip_prefix('/') else {
        return Ok(Input::Message(line.to_owned()));
    };
    if command.starts_with('/') {
        return Ok(Input::Message(command.to_owned()));
    }
    let (name, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    parse_command(name, argument.trim()).map(Input::Command)
}

fn parse_command(name: &str, argument: &str) -> Result<Command, CommandError> {
    let optional = (!argument.is_empty()).then_some(argument);
    let (plain_name, if_exists) = match name.strip_suffix('!') {
        Some("save") => ("save", IfExists::Replace),
        _ => (name, IfExists::Refuse),
    };
    let unknown = || {
        let nearest = nearest(name, COMMANDS.iter().map(|help| help.name));
        CommandError::Unknown { found: name.to_owned(), nearest }
    };
    let help = COMMANDS.iter().find(|help| help.name == plain_name).ok_or_else(unknown)?;
    if let Some(found) = optional
        && help.arguments.is_empty()
    {
        return Err(CommandError::UnexpectedArgument { name: help.name, found: found.to_owned() });
    }
    let missing = CommandError::MissingArgument { name: help.name, arguments: help.arguments };

    Ok(match help.name {
        "help" => Command::Help,
        "mode" => Command::Mode(optional.map(str::parse).transpose()?),
        "budget" => Command::Budget(optional.map(str::parse).transpose()?),
        "thought" => Command::Thought(optional.map(parse_thought_view).transpose()?),
        "set" => Command::Set(optional.map(|text| parse_setting(text, missing)).transpose()?),
        "system" => Command::System(optional.map(|text| match text {
            "none" => SystemChange::Remove,
            text => SystemChange::Set(text.to_owned()),
        })),
        "regen" => Command::Regenerate,
        "edit" => Command::Edit(optional.map(str::to_owned)),
        "clear" | "new" => Command::Clear,
        "save" => Command::Save { path: optional.ok_or(missing)?.into(), if_exists },
        "load" => Command::Load(optional.ok_or(missing)?.into()),
        "model" => Command::Model(optional.map(str::to_owned)),
        "adapter" => Command::Adapter(optional.map(str::to_owned)),
        "stats" => Command::Stats,
        "quit" | "exit" => Command::Quit,
        _ => return Err(unknown()),
    })
}

fn parse_thought_view(text: &str) -> Result<ThoughtView, CommandError> {
    ThoughtView::ALL
        .into_iter()
        .find(|view| view.as_str() == text)
        .ok_or_else(|| CommandError::InvalidThoughtView { found: text.to_owned() })
}

fn parse_setting(text: &str, missing: CommandError) -> Result<(SettingKey, String), CommandError> {
    let (name, value) = text
        .split_once(|c: char| c.is_whitespace() || c == '=')
        .ok_or(missing)
        .map(|(name, value)| (name, value.trim_start_matches([' ', '=']).to_owned()))?;
    let key = SettingKey::ALL.into_iter().find(|key| key.as_str() == name);
    key.map(|key| (key, value)).ok_or_else(|| CommandError::UnknownSetting {
        found: name.to_owned(),
        nearest: nearest(name, SettingKey::ALL.into_iter().map(SettingKey::as_str)),
    })
}

/// The name that was probably meant: at most a third of its letters are different.
fn nearest(found: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    names
        .map(|name| (edit_distance(found, name), name))
        .filter(|(distance, name)| *distance <= name.len().div_ceil(3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Insertions, deletions, replacements and swaps of neighbours that make one text the other
/// (optimal string alignment).
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    let mut previous = None;
    for (row, c) in from.chars().enumerate() {
        let mut current = vec![row + 1];
        for (column, &d) in to.iter().enumerate() {
            let replaced = last[column] + usize::from(c != d);
            let mut best = replaced.min(last[column + 1] + 1).min(current[column] + 1);
            if column > 0 && previous == Some(d) && to[column - 1] == c {
                best = best.min(before_last[column - 1] + 1);
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
        previous = Some(c);
    }
    last[to.len()]
}

/// How the word before the cursor can go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Completion {
    /// Replace the text from this byte by one of these.
    Words { start: usize, words: Vec<String> },
    /// A file name is wanted; its path begins at this byte.
    File { start: usize },
}

/// Completes a line up to the cursor.
pub(super) fn complete(before_cursor: &str, model_names: &[String]) -> Completion {
    let nothing = Completion::Words { start: before_cursor.len(), words: Vec::new() };
    let Some(command) = before_cursor.strip_prefix('/') else { return nothing };
    let Some((name, argument)) = command.split_once(' ') else {
        let names = COMMANDS.iter().map(|help| help.name.to_owned());
        return words(before_cursor, command, names);
    };
    match name {
        "mode" => words(before_cursor, argument, Mode::ALL.map(|mode| mode.to_string())),
        "budget" => {
            words(before_cursor, argument, ["none", "low", "medium", "high"].map(str::to_owned))
        }
        "thought" => {
            words(before_cursor, argument, ThoughtView::ALL.map(|view| view.as_str().to_owned()))
        }
        "set" => words(before_cursor, argument, SettingKey::ALL.map(|key| key.as_str().to_owned())),
        "model" => words(before_cursor, argument, model_names.iter().cloned()),
        "save" | "save!" | "load" => {
            Completion::File { start: before_cursor.len() - argument.len() }
        }
        _ => nothing,
    }
}

fn words(line: &str, prefix: &str, words: impl IntoIterator<Item = String>) -> Completion {
    let words = words.into_iter().filter(|word| word.starts_with(prefix)).collect();
    Completion::Words { start: line.len() - prefix.len(), words }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn command(line: &str) -> Command {
        match parse(line) {
            Ok(Input::Command(command)) => command,
            other => panic!("{line:?} is {other:?}"),
        }
    }

    fn error(line: &str) -> String {
        parse(line).unwrap_err().to_string()
    }

    #[test]
    fn messages_and_nothing() {
        assert_eq!(parse("  \n\t "), Ok(Input::Nothing));
        assert_eq!(parse("hi / there\n"), Ok(Input::Message("hi / there".to_owned())));
        assert_eq!(parse("  indented"), Ok(Input::Message("  indented".to_owned())));
        assert_eq!(parse("//etc/hosts"), Ok(Input::Message("/etc/hosts".to_owned())));
        assert_eq!(parse(" /help"), Ok(Input::Message(" /help".to_owned())));
    }

    #[test]
    fn every_command_in_the_table_is_known() {
        for help in COMMANDS {
            let bare = parse(&format!("/{}", help.name));
            let known = !matches!(bare, Err(CommandError::Unknown { .. }));
            assert!(known, "/{}: {bare:?}", help.name);
        }
    }

    #[test]
    fn commands_with_arguments() {
        assert_eq!(command("/mode fast"), Command::Mode(Some(Mode::Fast)));
        assert_eq!(command("/mode"), Command::Mode(None));
        assert_eq!(command("/budget 40"), Command::Budget(Some(ThinkingBudget::Tokens(40))));
        assert_eq!(command("/thought folded"), Command::Thought(Some(ThoughtView::Folded)));
        assert_eq!(command("/system none"), Command::System(Some(SystemChange::Remove)));
        let persona = SystemChange::Set("Be kind.\nBe brief.".to_owned());
        assert_eq!(command("/system Be kind.\nBe brief."), Command::System(Some(persona)));
        let setting = Some((SettingKey::TopP, "0.5".to_owned()));
        assert_eq!(command("/set top_p 0.5"), Command::Set(setting.clone()));
        assert_eq!(command("/set top_p=0.5"), Command::Set(setting));
        assert_eq!(command("/adapter warm"), Command::Adapter(Some("warm".to_owned())));
        assert_eq!(command("/edit Why?"), Command::Edit(Some("Why?".to_owned())));
        let path = PathBuf::from("my chat.jsonl");
        assert_eq!(command("/load my chat.jsonl "), Command::Load(path.clone()));
        let if_exists = IfExists::Refuse;
        assert_eq!(command("/save my chat.jsonl"), Command::Save { path: path.clone(), if_exists });
        let if_exists = IfExists::Replace;
        assert_eq!(command("/save! my chat.jsonl"), Command::Save { path, if_exists });
    }

    #[test]
    fn errors_say_what_to_do() {
        let slash = "a message that begins with a slash is sent with //";
        assert_eq!(
            error("/moed fast"),
            format!("there is no command `/moed` (did you mean `/mode`?); {slash}")
        );
        assert_eq!(error("/usr/bin/env"), format!("there is no command `/usr/bin/env`; {slash}"));
        assert_eq!(error("/save"), "`/save` needs more: write `/save FILE`");
        assert_eq!(error("/set top_p"), "`/set` needs more: write `/set NAME VALUE`");
        assert_eq!(error("/quit now"), "`/quit` takes nothing after it, found `now`");
        assert_eq!(error("/mode slow"), "unknown mode `slow`: use fast, thinking or auto");
        assert!(error("/set temprature 1").starts_with(
            "there is no setting `temprature` (did you mean `temperature`?): the settings are"
        ));
        assert_eq!(
            error("/thought loud"),
            "thoughts cannot be shown `loud`: use full, folded or hidden"
        );
    }

    #[test]
    fn distances() {
        for (from, to, distance) in
            [("", "abc", 3), ("mode", "mode", 0), ("moed", "mode", 1), ("stat", "stats", 1)]
        {
            assert_eq!(edit_distance(from, to), distance, "{from} {to}");
            assert_eq!(edit_distance(to, from), distance, "{to} {from}");
        }
    }

    #[test]
    fn completion_knows_commands_values_and_models() {
        let models = ["small".to_owned(), "smaller".to_owned(), "big".to_owned()];
        let completed = |line: &str| match complete(line, &models) {
            Completion::Words { start, words } => {
                words.iter().map(|word| format!("{}{word}", &line[..start])).collect()
            }
            Completion::File { start } => vec![format!("{}FILE", &line[..start])],
        };
        assert_eq!(completed("/st"), ["/stats"]);
        assert_eq!(completed("/s"), ["/set", "/system", "/save", "/stats"]);
        assert_eq!(completed("/mode t"), ["/mode thinking"]);
        assert_eq!(completed("/set rep"), ["/set repetition_penalty"]);
        assert_eq!(completed("/model sm"), ["/model small", "/model smaller"]);
        assert_eq!(completed("/load x"), ["/load FILE"]);
        assert_eq!(completed("hello /m"), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn any_line_means_something(line in any::<String>()) {
            let parsed = parse(&line);
            let escaped = parse(&format!("/{line}"));
            if line.starts_with('/') {
                prop_assert_eq!(escaped, Ok(Input::Message(line.trim_end().to_owned())));
            } else {
                prop_assert!(parsed.is_ok());
            }
        }

        #[test]
        fn slashes_never_panic(line in "/[a-z!/ =\\n]{0,12}") {
            let _meaning = parse(&line);
            let _completion = complete(&line, &[]);
        }
    }
}
