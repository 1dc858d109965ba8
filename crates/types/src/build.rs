use std::fmt;

/// What made a reply: every reply carries it, so a rating always belongs to a build.
///
/// Each hash is the first 12 hexadecimal digits of a SHA-256; `none` where there is no such part.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BuildId {
    pub weights: String,
    pub adapter: String,
    pub persona: String,
    pub engine: String,
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}+{}+{}", self.weights, self.adapter, self.persona, self.engine)
    }
}
