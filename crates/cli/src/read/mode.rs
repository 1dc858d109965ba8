//! The mode that a reading asks for.

use rapport_local::{AutoMode, WordRule};
use rapport_persona::reading::{Basis, Reader, Reading};
use rapport_types::{Mode, ModeChoice};

/// Thinks where there is danger or a feeling to answer; else by the words that ask for reasons.
#[derive(Debug)]
pub(crate) struct ReadingMode(pub(crate) &'static Reader);

/// Needs that a thought serves: facts, company and texts are answered at once.
const CARE: &[&str] = &["vent", "comfort", "celebrate"];

/// Why a message needs a thought, if it does.
pub(crate) fn reason(reading: &Reading) -> Option<String> {
    if reading.risk.is_cue {
        return Some("your message may speak of danger".to_owned());
    }
    let need = reading.need().filter(|need| CARE.contains(&need.label))?;
    Some(match reading.feeling() {
        Some(feeling) => format!("your message speaks of a feeling ({})", feeling.label),
        None => format!("your message asks for care ({})", need.label),
    })
}

impl AutoMode for ReadingMode {
    fn choose(&self, message: &str) -> ModeChoice {
        let reading = self.0.read(message);
        if reading.basis == Basis::None {
            return WordRule.choose(message);
        }
        match reason(&reading) {
            Some(reason) => ModeChoice { mode: Mode::Thinking, reason },
            None => WordRule::by_reasons(message),
        }
    }
}
