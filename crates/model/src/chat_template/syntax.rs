//! The syntax tree of a chat template.
//!
//! Chains of operators, filters and attributes are flat lists: a template's depth is the depth of
//! its brackets and blocks, which the parser bounds, and never the length of an expression.

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) statement: Statement,
}

#[derive(Clone, Debug)]
pub(super) enum Statement {
    Data(String),
    Print(Expr),
    If { branches: Vec<(Expr, Vec<Node>)>, otherwise: Vec<Node> },
    For(For),
    Set { target: Target, value: Expr },
    SetBlock { target: Target, filters: Vec<Postfix>, body: Vec<Node> },
    With { assignments: Vec<(Target, Expr)>, body: Vec<Node> },
    Filter { filters: Vec<Postfix>, body: Vec<Node> },
    Macro(Macro),
    Break,
    Continue,
}

#[derive(Clone, Debug)]
pub(super) struct For {
    pub(super) target: Target,
    pub(super) iterable: Expr,
    pub(super) condition: Option<Expr>,
    pub(super) body: Vec<Node>,
    pub(super) otherwise: Vec<Node>,
}

#[derive(Clone, Debug)]
pub(super) struct Macro {
    pub(super) name: String,
    pub(super) parameters: Vec<(String, Option<Expr>)>,
    pub(super) body: Vec<Node>,
}

#[derive(Clone, Debug)]
pub(super) enum Target {
    Name(String),
    /// `namespace.name`
    Attribute {
        namespace: String,
        name: String,
    },
    Unpack(Vec<Target>),
}

#[derive(Clone, Debug)]
pub(super) enum Expr {
    None,
    Bool(bool),
    Integer(i64),
    Float(f64),
    String(String),
    Name(String),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Postfix(Box<Expr>, Vec<Postfix>),
    Not(Box<Expr>),
    Sign {
        negative: bool,
        operand: Box<Expr>,
    },
    /// `a + b - c`, left to right.
    Arithmetic(Box<Expr>, Vec<(Arithmetic, Expr)>),
    /// `a ~ b ~ c`
    Concat(Vec<Expr>),
    /// `a < b <= c`
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Ternary {
        value: Box<Expr>,
        condition: Box<Expr>,
        otherwise: Option<Box<Expr>>,
    },
}

#[derive(Clone, Debug)]
pub(super) enum Postfix {
    Attribute(String),
    Item(Expr),
    Slice(Slice),
    Call(Arguments),
    Filter { name: String, arguments: Arguments },
    Test { name: String, arguments: Arguments, negated: bool },
}

#[derive(Clone, Debug, Default)]
pub(super) struct Slice {
    pub(super) start: Option<Box<Expr>>,
    pub(super) stop: Option<Box<Expr>>,
    pub(super) step: Option<Box<Expr>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Expr>,
    pub(super) named: Vec<(String, Expr)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
}
