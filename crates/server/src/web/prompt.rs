//! What a model is told before a conversation: who it is to be, and how this person wants to be
//! spoken to.
//!
//! One system message, in a fixed order (policy, persona, style, instructions, memories), so that what was
//! computed of it is found again; none at all where there is nothing to say.

use std::collections::BTreeMap;

use rapport_store::User;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Web;
use super::error::WebError;
use super::settings::Settings;

/// Somebody that the assistant can be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Persona {
    pub id: String,
    /// Changes with what a model is told.
    pub version: String,
    pub name: String,
    pub tagline: String,
    pub description: String,
    /// As BCP 47 has them.
    pub languages: Vec<String>,
    /// The tagline and the description in other languages than English.
    pub texts: BTreeMap<String, PersonaText>,
    /// What the model is told; empty for the default.
    #[serde(skip)]
    pub prompt: String,
}

/// How a persona is shown in one language.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PersonaText {
    pub tagline: String,
    pub description: String,
}

/// How somebody wants to be spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct StyleBody {
    pub(super) persona: Option<String>,
    pub(super) instructions: String,
    pub(super) sliders: Sliders,
}

/// Each from -2 to 2; 0 is as the model is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Sliders {
    pub(super) warmth: i8,
    pub(super) length: i8,
    pub(super) formality: i8,
    pub(super) humour: i8,
    pub(super) directness: i8,
}

pub(super) const SLIDER_RANGE: std::ops::RangeInclusive<i8> = -2..=2;

/// For each slider: what the model is told from -2 to 2 (the middle is nothing), and how that is
/// told to the person.
type Words = (&'static str, [&'static str; 4]);

const WARMTH: Words = (
    "warmth",
    [
        "Be matter-of-fact: no small talk, no comforting.",
        "Be a little reserved.",
        "Be warm and friendly.",
        "Be very warm: notice feelings and answer them first, without flattery.",
    ],
);
const LENGTH: Words = (
    "length",
    [
        "Answer in one or two sentences unless asked for more.",
        "Keep answers short.",
        "Answer in some detail.",
        "Answer thoroughly, with examples and background.",
    ],
);
const FORMALITY: Words = (
    "formality",
    [
        "Write casually, as to a close friend.",
        "Write informally.",
        "Write politely and formally.",
        "Write very formally.",
    ],
);
const HUMOUR: Words = (
    "humour",
    [
        "Do not joke.",
        "Be serious; joke rarely.",
        "Be light-hearted where it fits.",
        "Be playful and funny where the moment allows it.",
    ],
);
const DIRECTNESS: Words = (
    "directness",
    [
        "Be gentle: suggest instead of telling, and soften disagreement without hiding it.",
        "Be tactful.",
        "Be direct: say what you think.",
        "Be blunt: say what you think first and plainly, disagreement above all.",
    ],
);

impl Sliders {
    fn all(self) -> [(Words, i8); 5] {
        [
            (WARMTH, self.warmth),
            (LENGTH, self.length),
            (FORMALITY, self.formality),
            (HUMOUR, self.humour),
            (DIRECTNESS, self.directness),
        ]
    }

    /// The name of a slider that is out of range.
    pub(super) fn out_of_range(self) -> Option<&'static str> {
        let wrong = self.all().into_iter().find(|(_, value)| !SLIDER_RANGE.contains(value));
        wrong.map(|((name, _), _)| name)
    }

    fn sentences(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.all().into_iter().filter_map(|((name, words), value)| {
            let idx = match value {
                -2 => 0,
                -1 => 1,
                1 => 2,
                2 => 3,
                _ => return None,
            };
            Some((name, words[idx]))
        })
    }
}

impl StyleBody {
    /// What of this reaches the model, for the person: each a plain sentence in English (`text`),
    /// and what it is `about`, so that a page can say it in another language.
    pub(super) fn explanation(&self, personas: &[Persona], n_memories: usize) -> Vec<Value> {
        let mut lines = Vec::new();
        if let Some(persona) =
            personas.iter().find(|known| Some(&known.id) == self.persona.as_ref())
        {
            let text = format!("You chose {}: {}", persona.name, persona.tagline);
            lines.push(json!({ "about": "persona", "persona": persona.id, "text": text }));
        }
        for (name, told) in self.sliders.sentences() {
            let text = format!("You set {name}; the assistant is told: “{told}”");
            lines.push(json!({ "about": "slider", "slider": name, "told": told, "text": text }));
        }
        if !self.instructions.trim().is_empty() {
            let text = "Your own instructions are given word for word.";
            lines.push(json!({ "about": "instructions", "text": text }));
        }
        if n_memories > 0 {
            let text = match n_memories {
                1 => "One thing you asked it to remember is given with them.".to_owned(),
                n => format!("{n} things you asked it to remember are given with them."),
            };
            lines.push(json!({ "about": "memories", "n": n_memories, "text": text }));
        }
        if lines.is_empty() {
            let text = "Nothing is set: the assistant talks as it was trained to.";
            lines.push(json!({ "about": "nothing", "text": text }));
        }
        lines
    }
}

/// How somebody wants to be spoken to, as it is stored now.
pub(super) async fn style_of(web: &Web, user: &User) -> Result<StyleBody, WebError> {
    let style = web.store().style(user.id).await?;
    // What an older program wrote and this one cannot read is as good as nothing.
    Ok(style.and_then(|style| serde_json::from_value(style.body).ok()).unwrap_or_default())
}

/// The system message of a conversation.
pub(super) async fn system(
    web: &Web,
    settings: &Settings,
    user: &User,
    persona: Option<&str>,
) -> Result<Option<String>, WebError> {
    let style = style_of(web, user).await?;
    let memories = web.store().memories(user.id).await?;
    let wanted = persona.or(style.persona.as_deref()).or(settings.default_persona.as_deref());
    let persona = web.accounts.personas.iter().find(|known| Some(known.id.as_str()) == wanted);
    let mut parts: Vec<String> = web.accounts.policy.iter().cloned().collect();
    if let Some(persona) = persona.filter(|persona| !persona.prompt.is_empty()) {
        parts.push(persona.prompt.clone());
    }
    let sentences: Vec<&str> = style.sliders.sentences().map(|(_, told)| told).collect();
    if !sentences.is_empty() {
        parts.push(sentences.join(" "));
    }
    if !style.instructions.trim().is_empty() {
        parts.push(style.instructions.trim().to_owned());
    }
    if !memories.is_empty() {
        let lines: Vec<String> =
            memories.iter().map(|memory| format!("- {}", memory.text)).collect();
        parts.push(format!("What you know of the person you talk to:\n{}", lines.join("\n")));
    }
    Ok((!parts.is_empty()).then(|| parts.join("\n\n")))
}
