//! The tables of the chat: `/help`, `/stats`, `/set`. Pure: values in, lines out.

use rapport_types::{FinishReason, Usage};
use unicode_width::UnicodeWidthStr;

use super::command::COMMANDS;
use super::render::{Layout, wrap};
use super::session::{ReplyRecord, Session, Totals};
use super::settings::{SettingKey, Settings};

/// Space between the columns of a table, and the indentation of its rows.
const GAP: usize = 2;

/// The right column gets at least so much, or goes below the left one.
const MIN_RIGHT_COLUMNS: usize = 24;

/// Keys that do something, for `/help`.
const KEYS: [(&str, &str); 7] = [
    ("Enter", "sends; after a backslash it begins a new line, as Alt-Enter does"),
    ("Tab", "completes commands, values and files"),
    ("Up, Ctrl-R", "earlier lines; a line that begins with a space is not kept"),
    ("Ctrl-C", "during a thought: answer now; during an answer: stop; while typing: clear"),
    ("Ctrl-C twice", "during a thought: stop"),
    ("Ctrl-D", "leaves"),
    ("//", "sends a message that begins with a slash"),
];

/// What `/help` shows.
pub(super) fn help(columns: usize) -> String {
    let commands = COMMANDS.map(|help| {
        (format!("/{} {}", help.name, help.arguments).trim_end().to_owned(), help.does.to_owned())
    });
    let keys = KEYS.map(|(key, does)| (key.to_owned(), does.to_owned()));
    format!("Commands\n{}\nKeys\n{}", table(&commands, columns), table(&keys, columns))
}

/// What `/set` shows.
pub(super) fn settings(settings: &Settings, columns: usize) -> String {
    let rows = SettingKey::ALL.map(|key| (key.as_str().to_owned(), settings.get(key)));
    table(&rows, columns)
}

/// What `/stats` shows.
pub(super) fn stats(session: &Session, columns: usize) -> String {
    let mut lines = String::new();
    if let Some(reply) = session.last_reply() {
        lines.push_str("Last reply\n");
        lines.push_str(&table(&reply_rows(reply), columns));
        lines.push('\n');
    }
    lines.push_str("Session\n");
    lines.push_str(&table(&session_rows(session, &session.totals()), columns));
    lines
}

fn reply_rows(reply: &ReplyRecord) -> Vec<(String, String)> {
    let outcome = &reply.outcome;
    let tokens_per_second = outcome.timings.decode_tokens_per_second(&outcome.usage);
    let ended = match outcome.reason {
        FinishReason::Stop => "by itself",
        FinishReason::Length => "at its longest",
        FinishReason::Cancelled => "stopped",
    };
    [
        ("mode", format!("{}: {}", reply.choice.mode, reply.choice.reason)),
        ("tokens", tokens(&outcome.usage)),
        ("first token", format!("{:.0} ms", outcome.timings.first_token_ms)),
        (
            "speed",
            tokens_per_second
                .map_or("too short to tell".to_owned(), |n| format!("{n:.1} tokens/s")),
        ),
        ("ended", ended.to_owned()),
        ("seed", reply.seed.to_string()),
        ("build", outcome.build.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn session_rows(session: &Session, totals: &Totals) -> Vec<(String, String)> {
    let settings = &session.settings;
    let stopped = match totals.n_stopped {
        0 => String::new(),
        n_stopped => format!(" ({n_stopped} stopped)"),
    };
    let messages = match session.n_unseen() {
        0 => session.n_messages().to_string(),
        n_unseen => {
            format!("{} (the model sees all but the first {n_unseen})", session.n_messages())
        }
    };
    [
        ("replies", format!("{}{stopped}", totals.n_replies)),
        ("tokens", tokens(&totals.usage)),
        ("messages", messages),
        ("next mode", format!("{} (budget {})", settings.mode, settings.thinking_budget)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn tokens(usage: &Usage) -> String {
    format!(
        "prompt {} ({} cached), answer {}, thought {}",
        usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, usage.reasoning_tokens
    )
}

/// Two columns; the right one wraps, or goes below the left one where the terminal is narrow.
fn table(rows: &[(String, String)], columns: usize) -> String {
    let left_columns = rows.iter().map(|(left, _)| left.width()).max().unwrap_or(0);
    let beside = GAP + left_columns + GAP;
    let is_wide = columns >= beside + MIN_RIGHT_COLUMNS;
    let indent = if is_wide { beside } else { 2 * GAP };

    let mut lines = String::new();
    for (left, right) in rows {
        let room = Layout { columns: Some(columns.saturating_sub(indent)), gutter: "" };
        let mut start = " ".repeat(GAP) + left;
        if !is_wide {
            lines.push_str(&wrap(&start, Layout { columns: Some(columns), gutter: "" }));
            start.clear();
        }
        for line in wrap(right, room).lines() {
            lines.push_str(&start);
            lines.push_str(&" ".repeat(indent.saturating_sub(start.width())));
            lines.push_str(line);
            lines.push('\n');
            start.clear();
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use rapport_types::SamplingDraft;

    use super::*;
    use crate::chat::session::tests::reply;

    fn session() -> Session {
        let sampling = SamplingDraft::default().validate().unwrap();
        let mut session = Session::new(Settings::new(sampling), None);
        let attempt = session.ask("hi".to_owned());
        session.record(attempt, reply("Hello!"));
        session
    }

    #[test]
    fn help_fits_wide_and_narrow_terminals() {
        assert_snapshot!("help_80", help(80));
        assert_snapshot!("help_40", help(40));
        for columns in 20..140 {
            for line in help(columns).lines() {
                assert!(line.width() <= columns, "{line:?} at {columns}");
            }
        }
    }

    #[test]
    fn stats_say_what_a_reply_took() {
        assert_snapshot!("stats_80", stats(&session(), 80));
        assert_snapshot!("stats_40", stats(&session(), 40));
    }

    #[test]
    fn settings_are_listed_as_they_are_set() {
        assert_snapshot!("settings", settings(&session().settings, 80));
    }
}
