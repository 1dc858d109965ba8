//! Why a template does not render.

/// Why a chat template cannot be read or does not render a conversation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("chat template, line {line}: expected {expected}, found {found}")]
    Syntax { line: u32, expected: String, found: String },
    #[error("chat template, line {line}: nested more than {limit} deep")]
    TooDeep { line: u32, limit: u32 },
    #[error("chat template: {found_bytes} bytes long; at most {limit_bytes} are read")]
    TooLong { found_bytes: usize, limit_bytes: usize },
    /// Something of Jinja that chat templates have no need of or must not do.
    #[error("chat template, line {line}: {construct} is not available to chat templates")]
    Unsupported { line: u32, construct: String },
    /// The template called `raise_exception`: it does not take this conversation.
    #[error("{message}")]
    Refused { message: String },
    #[error("chat template, line {line}: {name} is not defined")]
    Undefined { line: u32, name: String },
    #[error("chat template, line {line}: {problem}")]
    Operation { line: u32, problem: String },
    #[error("chat template, line {line}: stopped, {limit}")]
    Limit { line: u32, limit: TemplateLimit },
}

/// Which bound a template ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateLimit {
    #[error("it takes too many steps")]
    Steps,
    #[error("it builds too much text on the way")]
    Memory,
    #[error("its output is too long for this conversation")]
    Output,
    #[error("it calls or nests too deep")]
    Depth,
}

/// A [`TemplateError`] of a running template before its line is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Undefined(String),
    Operation(String),
    Unsupported(String),
    Refused(String),
    Limit(TemplateLimit),
}

impl Fault {
    pub(super) fn at_line(self, line: u32) -> TemplateError {
        match self {
            Self::Undefined(name) => TemplateError::Undefined { line, name },
            Self::Operation(problem) => TemplateError::Operation { line, problem },
            Self::Unsupported(construct) => TemplateError::Unsupported { line, construct },
            Self::Refused(message) => TemplateError::Refused { message },
            Self::Limit(limit) => TemplateError::Limit { line, limit },
        }
    }
}
