//! The conversation: what was said, what is asked next, what the model still sees. Pure: no
//! terminal, no engine, no files.
//!
//! A reply is asked for with an [`Attempt`]. Nothing changes until it succeeds, so a reply that
//! fails or says nothing leaves the conversation as it was and can be tried again.
//!
//! When the conversation outgrows the model, the oldest turns are no longer sent
//! ([`Session::drop_oldest_turn`]); they stay in the conversation and in saved files. The system
//! message is always sent.
//!
//! Start reading at [`Session::ask`].

use rapport_types::{
    Caller, FinishReason, Message, ModeChoice, Outcome, PromptForm, Request, Role, Tools, Usage,
};

use super::settings::Settings;

/// A conversation and how it goes on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Session {
    pub settings: Settings,
    system: Option<String>,
    /// Without the system message; ends with a reply.
    messages: Vec<Message>,
    /// How many of the oldest messages the model no longer sees.
    n_unseen: usize,
    /// The last message, when it got no reply.
    unanswered: Option<Attempt>,
    last_reply: Option<ReplyRecord>,
    totals: Totals,
}

/// A message to be answered after part of the conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    text: String,
    /// How many messages come before it; those after it are replaced when the reply succeeds.
    n_before: usize,
    n_unseen: usize,
}

/// What is known about a reply that ran.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ReplyRecord {
    pub text: String,
    pub thought: Option<String>,
    pub choice: ModeChoice,
    pub seed: u64,
    pub outcome: Outcome,
}

/// The whole session, conversations that were cleared included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub n_replies: u32,
    pub n_stopped: u32,
    pub usage: Usage,
}

/// Why there is nothing to ask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SessionError {
    #[error("there is no message to answer again yet")]
    NothingToRegenerate,
    #[error("there is no message to edit yet")]
    NothingToEdit,
}

impl Session {
    pub(super) fn new(settings: Settings, system: Option<String>) -> Self {
        Self {
            settings,
            system,
            messages: Vec::new(),
            n_unseen: 0,
            unanswered: None,
            last_reply: None,
            totals: Totals::default(),
        }
    }

    pub(super) fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// Counts from the next reply on.
    pub(super) fn set_system(&mut self, system: Option<String>) {
        self.system = system;
    }

    pub(super) fn last_reply(&self) -> Option<&ReplyRecord> {
        self.last_reply.as_ref()
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// Messages of the conversation, the system message not counted.
    pub(super) fn n_messages(&self) -> usize {
        self.messages.len()
    }

    /// How many of the oldest messages the model no longer sees.
    pub(super) fn n_unseen(&self) -> usize {
        self.n_unseen
    }

    /// Whether the last message has no reply.
    pub(super) fn has_unanswered(&self) -> bool {
        self.unanswered.is_some()
    }

    /// The whole conversation, the system message first, a message without a reply last.
    pub(super) fn conversation(&self) -> Vec<Message> {
        let is_new = |attempt: &&Attempt| attempt.n_before == self.messages.len();
        let unanswered = self.unanswered.as_ref().filter(is_new);
        let system = self.system.iter().map(Message::system);
        let unanswered = unanswered.map(|attempt| Message::user(&attempt.text));
        system.chain(self.messages.iter().cloned()).chain(unanswered).collect()
    }

    /// Forgets the conversation; the system message and the settings stay.
    pub(super) fn clear(&mut self) {
        self.replace(Vec::new());
    }

    /// Goes on with another conversation, its system message included.
    pub(super) fn load(&mut self, mut conversation: Vec<Message>) {
        self.system = match conversation.first() {
            Some(first) if first.role == Role::System => Some(conversation.remove(0).content),
            _ => None,
        };
        self.replace(conversation);
    }

    fn replace(&mut self, mut messages: Vec<Message>) {
        let unanswered = messages.pop_if(|last| last.role == Role::User);
        self.unanswered = unanswered.map(|message| Attempt {
            text: message.content,
            n_before: messages.len(),
            n_unseen: 0,
        });
        self.messages = messages;
        self.n_unseen = 0;
        self.last_reply = None;
    }

    /// Sends everything again: another model may have more room.
    pub(super) fn see_all_again(&mut self) {
        self.n_unseen = 0;
    }

    /// Asks `text` after the conversation.
    pub(super) fn ask(&self, text: String) -> Attempt {
        Attempt { text, n_before: self.messages.len(), n_unseen: self.n_unseen }
    }

    /// Asks the last message again.
    ///
    /// # Errors
    /// Nothing was asked yet.
    pub(super) fn regenerate(&self) -> Result<Attempt, SessionError> {
        self.last_attempt().ok_or(SessionError::NothingToRegenerate)
    }

    /// Asks `text` in place of the last message.
    ///
    /// # Errors
    /// Nothing was asked yet.
    pub(super) fn edit(&self, text: String) -> Result<Attempt, SessionError> {
        let last = self.last_attempt().ok_or(SessionError::NothingToEdit)?;
        Ok(Attempt { text, ..last })
    }

    /// The message that [`Session::edit`] replaces.
    ///
    /// # Errors
    /// Nothing was asked yet.
    pub(super) fn text_to_edit(&self) -> Result<String, SessionError> {
        self.last_attempt().map(|last| last.text).ok_or(SessionError::NothingToEdit)
    }

    fn last_attempt(&self) -> Option<Attempt> {
        let from_reply = || {
            let n_before = self.messages.iter().rposition(|message| message.role == Role::User)?;
            let text = self.messages[n_before].content.clone();
            Some(Attempt { text, n_before, n_unseen: self.n_unseen.min(n_before) })
        };
        self.unanswered.clone().or_else(from_reply)
    }

    /// The request for an attempt, in the mode and with the limits of [`Session::settings`].
    pub(super) fn request(&self, attempt: &Attempt) -> Request {
        let seen = &self.messages[attempt.n_unseen..attempt.n_before];
        let messages = self.system.iter().map(Message::system).chain(seen.iter().cloned());
        Request {
            messages: messages.chain([Message::user(&attempt.text)]).collect(),
            mode: self.settings.mode,
            thinking_budget: self.settings.thinking_budget,
            sampling: self.settings.sampling.clone(),
            max_tokens: self.settings.max_tokens.get(),
            stop: self.settings.stop.clone(),
            format: self.settings.format.clone(),
            tools: Tools::default(),
            prompt_form: PromptForm::default(),
            adapter: self.settings.adapter.clone(),
            caller: Caller::default(),
        }
    }

    /// The attempt without its oldest turn (a message and what answered it), or `None` when only
    /// the message itself is left.
    pub(super) fn drop_oldest_turn(&self, attempt: &Attempt) -> Option<Attempt> {
        if attempt.n_unseen >= attempt.n_before {
            return None;
        }
        let after_first = attempt.n_unseen + 1;
        let n_unseen = self.messages[after_first..attempt.n_before]
            .iter()
            .position(|message| message.role == Role::User)
            .map_or(attempt.n_before, |offset| after_first + offset);
        Some(Attempt { n_unseen, ..attempt.clone() })
    }

    /// How many turns an attempt leaves out that the conversation still sent before it.
    pub(super) fn n_newly_dropped(&self, attempt: &Attempt) -> usize {
        let dropped = self.messages.get(self.n_unseen..attempt.n_unseen).unwrap_or_default();
        dropped.iter().filter(|message| message.role == Role::User).count()
    }

    /// Takes a reply that ran, stopped ones included. One that says nothing answers nothing.
    pub(super) fn record(&mut self, attempt: Attempt, reply: ReplyRecord) {
        let usage = reply.outcome.usage;
        self.totals.n_replies += 1;
        self.totals.n_stopped += u32::from(reply.outcome.reason == FinishReason::Cancelled);
        self.totals.usage = sum(&self.totals.usage, &usage);

        if reply.text.trim().is_empty() {
            self.leave_unanswered(attempt);
        } else {
            self.messages.truncate(attempt.n_before);
            self.messages.push(Message::user(attempt.text));
            let thought = reply.thought.clone();
            self.messages.push(Message { thought, ..Message::assistant(&reply.text) });
            self.n_unseen = attempt.n_unseen;
            self.unanswered = None;
        }
        self.last_reply = Some(reply);
    }

    /// Keeps the message of a failed attempt for [`Session::regenerate`] and [`Session::edit`].
    pub(super) fn leave_unanswered(&mut self, attempt: Attempt) {
        self.unanswered = Some(attempt);
    }

    /// Whether the same request would be answered with the same text again.
    pub(super) fn regenerates_the_same(&self) -> bool {
        self.settings.sampling.seed.is_some() || self.settings.sampling.is_greedy()
    }
}

fn sum(a: &Usage, b: &Usage) -> Usage {
    Usage {
        prompt_tokens: a.prompt_tokens.saturating_add(b.prompt_tokens),
        cached_tokens: a.cached_tokens.saturating_add(b.cached_tokens),
        completion_tokens: a.completion_tokens.saturating_add(b.completion_tokens),
        reasoning_tokens: a.reasoning_tokens.saturating_add(b.reasoning_tokens),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use rapport_types::{BuildId, Mode, SamplingDraft, Timings};

    use super::*;

    fn session() -> Session {
        let sampling = SamplingDraft::default().validate().unwrap();
        Session::new(Settings::new(sampling), Some("Be kind.".to_owned()))
    }

    pub(crate) fn reply(text: &str) -> ReplyRecord {
        let hash = |digit: &str| digit.repeat(12);
        ReplyRecord {
            text: text.to_owned(),
            thought: None,
            choice: ModeChoice { mode: Mode::Fast, reason: "a greeting".to_owned() },
            seed: 7,
            outcome: Outcome {
                reason: FinishReason::Stop,
                stop: None,
                usage: Usage {
                    prompt_tokens: 20,
                    cached_tokens: 12,
                    completion_tokens: 5,
                    reasoning_tokens: 0,
                },
                timings: Timings { first_token_ms: 182.4, prompt_ms: 150.0, decode_ms: 40.0 },
                build: BuildId {
                    weights: hash("a"),
                    adapter: "none".to_owned(),
                    persona: hash("b"),
                    engine: hash("c"),
                },
            },
        }
    }

    fn say(session: &mut Session, text: &str, answer: &str) {
        let attempt = session.ask(text.to_owned());
        session.record(attempt, reply(answer));
    }

    fn texts(messages: &[Message]) -> Vec<&str> {
        messages.iter().map(|message| message.content.as_str()).collect()
    }

    fn sent(session: &Session, attempt: &Attempt) -> Vec<String> {
        session.request(attempt).messages.into_iter().map(|message| message.content).collect()
    }

    #[test]
    fn a_conversation_grows_by_turns() {
        let mut session = session();
        say(&mut session, "one", "1");
        let attempt = session.ask("two".to_owned());
        assert_eq!(sent(&session, &attempt), ["Be kind.", "one", "1", "two"]);
        session.record(attempt, reply("2"));
        assert_eq!(texts(&session.conversation()), ["Be kind.", "one", "1", "two", "2"]);
        assert_eq!(session.totals().n_replies, 2);
        assert_eq!(session.totals().usage.prompt_tokens, 40);
    }

    #[test]
    fn regenerating_replaces_the_reply_only_when_there_is_a_new_one() {
        let mut session = session();
        assert_eq!(session.regenerate(), Err(SessionError::NothingToRegenerate));
        say(&mut session, "one", "1");
        say(&mut session, "two", "2");

        let attempt = session.regenerate().unwrap();
        assert_eq!(sent(&session, &attempt), ["Be kind.", "one", "1", "two"]);
        session.record(attempt, reply(" \n"));
        assert_eq!(texts(&session.conversation()), ["Be kind.", "one", "1", "two", "2"]);

        let attempt = session.regenerate().unwrap();
        session.record(attempt, reply("zwei"));
        assert_eq!(texts(&session.conversation()), ["Be kind.", "one", "1", "two", "zwei"]);
    }

    #[test]
    fn editing_replaces_the_last_message() {
        let mut session = session();
        assert_eq!(session.text_to_edit(), Err(SessionError::NothingToEdit));
        say(&mut session, "one", "1");
        assert_eq!(session.text_to_edit().unwrap(), "one");
        let attempt = session.edit("uno".to_owned()).unwrap();
        assert_eq!(sent(&session, &attempt), ["Be kind.", "uno"]);
        session.leave_unanswered(attempt);
        assert_eq!(session.text_to_edit().unwrap(), "uno");
        assert_eq!(texts(&session.conversation()), ["Be kind.", "one", "1"]);
        let attempt = session.regenerate().unwrap();
        session.record(attempt, reply("I"));
        assert_eq!(texts(&session.conversation()), ["Be kind.", "uno", "I"]);
    }

    #[test]
    fn a_message_without_a_reply_can_be_tried_again_or_left() {
        let mut session = session();
        say(&mut session, "one", "1");
        let attempt = session.ask("two".to_owned());
        session.leave_unanswered(attempt);
        assert_eq!(texts(&session.conversation()), ["Be kind.", "one", "1", "two"]);
        assert_eq!(sent(&session, &session.regenerate().unwrap())[1..], ["one", "1", "two"]);
        let attempt = session.ask("three".to_owned());
        assert_eq!(sent(&session, &attempt)[1..], ["one", "1", "three"]);
        session.record(attempt, reply("3"));
        assert_eq!(texts(&session.conversation())[1..], ["one", "1", "three", "3"]);
    }

    #[test]
    fn the_oldest_turns_are_left_out_but_not_lost() {
        let mut session = session();
        for (text, answer) in [("one", "1"), ("two", "2"), ("three", "3")] {
            say(&mut session, text, answer);
        }
        let whole = session.ask("four".to_owned());
        let shorter = session.drop_oldest_turn(&whole).unwrap();
        assert_eq!(sent(&session, &shorter), ["Be kind.", "two", "2", "three", "3", "four"]);
        let shorter = session.drop_oldest_turn(&shorter).unwrap();
        assert_eq!(session.n_newly_dropped(&shorter), 2);
        let shortest = session.drop_oldest_turn(&shorter).unwrap();
        assert_eq!(sent(&session, &shortest), ["Be kind.", "four"]);
        assert_eq!(session.drop_oldest_turn(&shortest), None);

        session.record(shorter, reply("4"));
        let next = session.ask("five".to_owned());
        assert_eq!(sent(&session, &next), ["Be kind.", "three", "3", "four", "4", "five"]);
        assert_eq!(session.n_newly_dropped(&next), 0);
        assert_eq!(session.conversation().len(), 9);
        session.see_all_again();
        assert_eq!(sent(&session, &session.ask("five".to_owned())).len(), 10);
    }

    #[test]
    fn a_loaded_conversation_goes_on() {
        let mut session = session();
        say(&mut session, "old", "gone");
        let loaded = vec![
            Message::system("Be brief."),
            Message::user("one"),
            Message::assistant("1"),
            Message::user("two"),
        ];
        session.load(loaded.clone());
        assert_eq!(session.conversation(), loaded);
        assert_eq!(session.last_reply(), None);
        assert_eq!(
            sent(&session, &session.regenerate().unwrap()),
            ["Be brief.", "one", "1", "two"]
        );
        session.clear();
        assert_eq!(session.conversation(), [Message::system("Be brief.")]);
        session.load(Vec::new());
        assert_eq!(session.system(), None);
    }
}
