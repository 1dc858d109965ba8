/// Something the model may ask its caller to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    pub name: String,
    /// What it does and when to use it; empty where nobody said.
    pub description: String,
    /// The JSON schema of its arguments, as text.
    pub parameters: String,
}

/// The tools of a request. The default offers none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tools {
    pub offered: Vec<Tool>,
    pub choice: ToolChoice,
    pub calls: CallCount,
}

impl Tools {
    /// The tools that may be called: none of them where the choice says so.
    pub fn callable(&self) -> impl Iterator<Item = &Tool> {
        self.offered.iter().filter(|tool| match &self.choice {
            ToolChoice::None => false,
            ToolChoice::Auto | ToolChoice::Required => true,
            ToolChoice::Named(name) => tool.name == *name,
        })
    }

    pub fn is_callable(&self) -> bool {
        self.callable().next().is_some()
    }
}

/// Whether the answer calls tools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model is not told of them.
    None,
    /// The model calls tools or answers in words.
    #[default]
    Auto,
    /// The answer is calls.
    Required,
    /// The answer is a call of the tool of this name.
    Named(String),
}

/// How many calls one answer may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CallCount {
    One,
    #[default]
    Several,
}

/// One call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Names the call, for its result to refer to.
    pub id: String,
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}
