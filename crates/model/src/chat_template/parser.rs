//! Tokens to syntax tree, with Jinja2's grammar and precedence.

use super::fault::TemplateError;
use super::lexer::{Lexeme, Token, tokenize};
use super::syntax::{
    Arguments, Arithmetic, Comparison, Expr, For, Macro, Node, Postfix, Slice, Statement, Target,
};

/// Brackets and blocks within each other; templates of real models stay below 20.
const MAX_DEPTH: u32 = 48;

pub(super) fn parse(source: &str) -> Result<Vec<Node>, TemplateError> {
    let lexemes = tokenize(source)?;
    let mut parser = Parser { lexemes, position: 0, depth: 0 };
    let (nodes, end) = parser.block(&[])?;
    debug_assert!(end.is_empty(), "a block without end names ends with the template");
    Ok(nodes)
}

struct Parser {
    lexemes: Vec<Lexeme>,
    position: usize,
    depth: u32,
}

type Parsed<T> = Result<T, TemplateError>;

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.lexemes.get(self.position).map(|lexeme| &lexeme.token)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.lexemes.get(self.position)?.token.clone();
        self.position += 1;
        Some(token)
    }

    fn line(&self) -> u32 {
        let lexeme = self.lexemes.get(self.position).or(self.lexemes.last());
        lexeme.map_or(1, |lexeme| lexeme.line)
    }

    fn unexpected<T>(&self, expected: &str) -> Parsed<T> {
        let found = self.peek().map_or("the end of the template".to_owned(), Token::describe);
        Err(TemplateError::Syntax { line: self.line(), expected: expected.to_owned(), found })
    }

    fn unsupported<T>(&self, construct: impl Into<String>) -> Parsed<T> {
        Err(TemplateError::Unsupported { line: self.line(), construct: construct.into() })
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth == MAX_DEPTH {
            return Err(TemplateError::TooDeep { line: self.line(), limit: MAX_DEPTH });
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn take(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        self.position += usize::from(found);
        found
    }

    fn expect(&mut self, token: &Token) -> Parsed<()> {
        if self.take(token) { Ok(()) } else { self.unexpected(&token.describe()) }
    }

    fn at_operator(&self, operator: &str) -> bool {
        matches!(self.peek(), Some(Token::Operator(found)) if *found == operator)
    }

    fn take_operator(&mut self, operator: &str) -> bool {
        let found = self.at_operator(operator);
        self.position += usize::from(found);
        found
    }

    fn expect_operator(&mut self, operator: &'static str) -> Parsed<()> {
        self.expect(&Token::Operator(operator))
    }

    fn at_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if found == name)
    }

    fn take_name(&mut self, name: &str) -> bool {
        let found = self.at_name(name);
        self.position += usize::from(found);
        found
    }

    fn name(&mut self, what: &str) -> Parsed<String> {
        match self.peek() {
            Some(Token::Name(name)) => {
                let name = name.clone();
                self.position += 1;
                Ok(name)
            }
            _ => self.unexpected(what),
        }
    }

    // Statements.

    /// Statements up to a tag named in `ends`, whose name is passed and returned; up to the end of
    /// the template when `ends` is empty.
    fn block(&mut self, ends: &[&'static str]) -> Parsed<(Vec<Node>, &'static str)> {
        let mut nodes = Vec::new();
        loop {
            let line = self.line();
            let statement = match self.next() {
                None if ends.is_empty() => return Ok((nodes, "")),
                Some(Token::Data(data)) => Statement::Data(data),
                Some(Token::PrintBegin) => {
                    let value = self.tuple_or_expression()?;
                    self.expect(&Token::PrintEnd)?;
                    Statement::Print(value)
                }
                Some(Token::BlockBegin) => {
                    if let Some(end) = ends.iter().find(|end| self.at_name(end)) {
                        self.position += 1;
                        return Ok((nodes, end));
                    }
                    let Some(statement) = self.deeper(Self::statement)? else { continue };
                    statement
                }
                _ => {
                    let expected: Vec<_> = ends.iter().map(|end| format!("`{end}`")).collect();
                    return self.unexpected(&expected.join(" or "));
                }
            };
            nodes.push(Node { line, statement });
        }
    }

    fn body(&mut self, end: &'static str) -> Parsed<Vec<Node>> {
        self.expect(&Token::BlockEnd)?;
        let (body, _) = self.block(&[end])?;
        self.expect(&Token::BlockEnd)?;
        Ok(body)
    }

    /// The inside of a `{% %}` tag and the block it opens; `None` for a tag that does nothing.
    fn statement(&mut self) -> Parsed<Option<Statement>> {
        let name = self.name("a statement")?;
        Ok(Some(match name.as_str() {
            "if" => self.if_statement()?,
            "for" => self.for_statement()?,
            "set" => self.set_statement()?,
            "macro" => self.macro_statement()?,
            "with" => self.with_statement()?,
            "filter" => {
                let mut filters = vec![self.filter()?];
                while self.take_operator("|") {
                    filters.push(self.filter()?);
                }
                Statement::Filter { filters, body: self.body("endfilter")? }
            }
            // Marks the assistant's turns for training; a scope of its own, otherwise nothing.
            "generation" => {
                let body = self.body("endgeneration")?;
                Statement::With { assignments: Vec::new(), body }
            }
            "break" | "continue" => {
                self.expect(&Token::BlockEnd)?;
                if name == "break" { Statement::Break } else { Statement::Continue }
            }
            "include" | "import" | "from" | "extends" | "block" | "call" | "autoescape" | "do" => {
                return self.unsupported(format!("`{{% {name} %}}`"));
            }
            _ => {
                self.position -= 1;
                return self.unexpected("a statement");
            }
        }))
    }

    fn if_statement(&mut self) -> Parsed<Statement> {
        let mut branches = Vec::new();
        loop {
            let condition = self.tuple(false)?;
            self.expect(&Token::BlockEnd)?;
            let (body, end) = self.block(&["elif", "else", "endif"])?;
            branches.push((condition, body));
            if end == "elif" {
                continue;
            }
            self.expect(&Token::BlockEnd)?;
            let mut otherwise = Vec::new();
            if end == "else" {
                otherwise = self.block(&["endif"])?.0;
                self.expect(&Token::BlockEnd)?;
            }
            return Ok(Statement::If { branches, otherwise });
        }
    }

    fn for_statement(&mut self) -> Parsed<Statement> {
        let target = self.target()?;
        if !self.take_name("in") {
            return self.unexpected("`in`");
        }
        let iterable = self.tuple(false)?;
        let condition = if self.take_name("if") { Some(self.expression()?) } else { None };
        if self.at_name("recursive") {
            return self.unsupported("a recursive loop");
        }
        self.expect(&Token::BlockEnd)?;
        let (body, end) = self.block(&["else", "endfor"])?;
        self.expect(&Token::BlockEnd)?;
        let mut otherwise = Vec::new();
        if end == "else" {
            otherwise = self.block(&["endfor"])?.0;
            self.expect(&Token::BlockEnd)?;
        }
        Ok(Statement::For(For { target, iterable, condition, body, otherwise }))
    }

    fn set_statement(&mut self) -> Parsed<Statement> {
        let target = self.target()?;
        if self.take_operator("=") {
            let value = self.tuple_or_expression()?;
            self.expect(&Token::BlockEnd)?;
            return Ok(Statement::Set { target, value });
        }
        let mut filters = Vec::new();
        while self.take_operator("|") {
            filters.push(self.filter()?);
        }
        Ok(Statement::SetBlock { target, filters, body: self.body("endset")? })
    }

    fn with_statement(&mut self) -> Parsed<Statement> {
        let mut assignments = Vec::new();
        while self.peek() != Some(&Token::BlockEnd) {
            if !assignments.is_empty() {
                self.expect_operator(",")?;
            }
            let target = self.target()?;
            self.expect_operator("=")?;
            assignments.push((target, self.expression()?));
        }
        Ok(Statement::With { assignments, body: self.body("endwith")? })
    }

    fn macro_statement(&mut self) -> Parsed<Statement> {
        let name = self.name("the macro's name")?;
        let mut parameters: Vec<(String, Option<Expr>)> = Vec::new();
        self.expect_operator("(")?;
        while !self.take_operator(")") {
            if !parameters.is_empty() {
                self.expect_operator(",")?;
            }
            let parameter = self.name("a parameter")?;
            let default = if self.take_operator("=") { Some(self.expression()?) } else { None };
            if default.is_none() && parameters.last().is_some_and(|(_, last)| last.is_some()) {
                return self.unexpected("a default: the parameter before has one");
            }
            parameters.push((parameter, default));
        }
        Ok(Statement::Macro(Macro { name, parameters, body: self.body("endmacro")? }))
    }

    fn target(&mut self) -> Parsed<Target> {
        let first = self.single_target()?;
        if !self.at_operator(",") {
            return Ok(first);
        }
        let mut targets = vec![first];
        while self.take_operator(",") {
            if !matches!(self.peek(), Some(Token::Name(name)) if name != "in")
                && !self.at_operator("(")
            {
                break;
            }
            targets.push(self.single_target()?);
        }
        Ok(Target::Unpack(targets))
    }

    fn single_target(&mut self) -> Parsed<Target> {
        if self.take_operator("(") {
            let target = self.deeper(Self::target)?;
            self.expect_operator(")")?;
            return Ok(target);
        }
        let name = self.name("a variable")?;
        if matches!(name.as_str(), "true" | "false" | "none" | "True" | "False" | "None") {
            self.position -= 1;
            return self.unexpected("a variable");
        }
        if self.take_operator(".") {
            return Ok(Target::Attribute { namespace: name, name: self.name("an attribute")? });
        }
        Ok(Target::Name(name))
    }

    // Expressions, loosest first.

    fn expression(&mut self) -> Parsed<Expr> {
        self.deeper(|parser| {
            let mut value = parser.or()?;
            while parser.take_name("if") {
                let condition = parser.or()?;
                let otherwise = if parser.take_name("else") {
                    Some(Box::new(parser.expression()?))
                } else {
                    None
                };
                // `a if b if c` without brackets would nest without bound.
                let nested = matches!(value, Expr::Ternary { .. });
                value = Expr::Ternary {
                    value: Box::new(value),
                    condition: Box::new(condition),
                    otherwise,
                };
                if nested && parser.at_name("if") {
                    return parser.unsupported("a chain of `if` without `else`");
                }
            }
            Ok(value)
        })
    }

    fn tuple_or_expression(&mut self) -> Parsed<Expr> {
        self.tuple(true)
    }

    /// One expression, or several with commas between them.
    fn tuple(&mut self, with_ternary: bool) -> Parsed<Expr> {
        let item = |parser: &mut Self| {
            if with_ternary { parser.expression() } else { parser.deeper(Self::or) }
        };
        let first = item(self)?;
        if !self.at_operator(",") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.take_operator(",") {
            let ended = matches!(self.peek(), None | Some(Token::PrintEnd | Token::BlockEnd))
                || self.at_operator(")");
            if ended {
                break;
            }
            items.push(item(self)?);
        }
        Ok(Expr::Tuple(items))
    }

    fn or(&mut self) -> Parsed<Expr> {
        let first = self.and()?;
        if !self.at_name("or") {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.take_name("or") {
            operands.push(self.and()?);
        }
        Ok(Expr::Or(operands))
    }

    fn and(&mut self) -> Parsed<Expr> {
        let first = self.not()?;
        if !self.at_name("and") {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.take_name("and") {
            operands.push(self.not()?);
        }
        Ok(Expr::And(operands))
    }

    fn not(&mut self) -> Parsed<Expr> {
        if self.take_name("not") {
            return Ok(Expr::Not(Box::new(self.deeper(Self::not)?)));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Parsed<Expr> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        while let Some(comparison) = self.take_comparison() {
            rest.push((comparison, self.sum()?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Compare(Box::new(first), rest) })
    }

    fn take_comparison(&mut self) -> Option<Comparison> {
        let comparison = match self.peek()? {
            Token::Operator("==") => Comparison::Equal,
            Token::Operator("!=") => Comparison::NotEqual,
            Token::Operator("<") => Comparison::Less,
            Token::Operator("<=") => Comparison::LessEqual,
            Token::Operator(">") => Comparison::Greater,
            Token::Operator(">=") => Comparison::GreaterEqual,
            Token::Name(name) if name == "in" => Comparison::In,
            Token::Name(name) if name == "not" => {
                let after = self.lexemes.get(self.position + 1).map(|lexeme| &lexeme.token);
                if !matches!(after, Some(Token::Name(name)) if name == "in") {
                    return None;
                }
                self.position += 1;
                Comparison::NotIn
            }
            _ => return None,
        };
        self.position += 1;
        Some(comparison)
    }

    /// `operand (operator operand)*`
    fn arithmetic(
        &mut self,
        operators: &[(&str, Arithmetic)],
        operand: fn(&mut Self) -> Parsed<Expr>,
    ) -> Parsed<Expr> {
        let first = operand(self)?;
        let mut rest = Vec::new();
        while let Some((_, operator)) =
            operators.iter().find(|(operator, _)| self.at_operator(operator))
        {
            self.position += 1;
            rest.push((*operator, operand(self)?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Arithmetic(Box::new(first), rest) })
    }

    fn sum(&mut self) -> Parsed<Expr> {
        let operators = [("+", Arithmetic::Add), ("-", Arithmetic::Subtract)];
        self.arithmetic(&operators, Self::concat)
    }

    fn concat(&mut self) -> Parsed<Expr> {
        let first = self.product()?;
        if !self.at_operator("~") {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.take_operator("~") {
            operands.push(self.product()?);
        }
        Ok(Expr::Concat(operands))
    }

    fn product(&mut self) -> Parsed<Expr> {
        let operators = [
            ("*", Arithmetic::Multiply),
            ("/", Arithmetic::Divide),
            ("//", Arithmetic::FloorDivide),
            ("%", Arithmetic::Modulo),
        ];
        self.arithmetic(&operators, Self::power)
    }

    fn power(&mut self) -> Parsed<Expr> {
        self.arithmetic(&[("**", Arithmetic::Power)], |parser| parser.unary(true))
    }

    fn unary(&mut self, with_filters: bool) -> Parsed<Expr> {
        let base = if self.at_operator("-") || self.at_operator("+") {
            let negative = self.take_operator("-") || !self.take_operator("+");
            let operand = Box::new(self.deeper(|parser| parser.unary(false))?);
            Expr::Sign { negative, operand }
        } else {
            self.primary()?
        };
        self.postfix(base, with_filters)
    }

    /// Attributes, items and calls, then (if wanted) filters and tests.
    fn postfix(&mut self, base: Expr, with_filters: bool) -> Parsed<Expr> {
        let mut operations = Vec::new();
        loop {
            if self.take_operator(".") {
                operations.push(match self.next() {
                    Some(Token::Name(name)) => Postfix::Attribute(name),
                    Some(Token::Integer(index)) => Postfix::Item(Expr::Integer(index)),
                    _ => {
                        self.position -= 1;
                        return self.unexpected("an attribute");
                    }
                });
            } else if self.take_operator("[") {
                operations.push(self.subscript()?);
            } else if self.take_operator("(") {
                operations.push(Postfix::Call(self.arguments()?));
            } else {
                break;
            }
        }
        if with_filters {
            self.filters_and_tests(&mut operations)?;
        }
        Ok(if operations.is_empty() { base } else { Expr::Postfix(Box::new(base), operations) })
    }

    fn filters_and_tests(&mut self, operations: &mut Vec<Postfix>) -> Parsed<()> {
        loop {
            operations.push(if self.take_operator("|") {
                self.filter()?
            } else if self.take_name("is") {
                self.test()?
            } else if self.take_operator("(") {
                Postfix::Call(self.arguments()?)
            } else {
                return Ok(());
            });
        }
    }

    fn subscript(&mut self) -> Parsed<Postfix> {
        let mut parts: [Option<Box<Expr>>; 3] = [None, None, None];
        let mut n_colons = 0;
        loop {
            if self.take_operator(":") {
                n_colons += 1;
                if n_colons > 2 {
                    return self.unexpected("`]`");
                }
            } else if self.take_operator("]") {
                break;
            } else if self.at_operator(",") {
                return self.unsupported("a subscript of several parts");
            } else if parts[n_colons].is_none() {
                parts[n_colons] = Some(Box::new(self.expression()?));
            } else {
                return self.unexpected("`]`");
            }
        }
        let [start, stop, step] = parts;
        match (n_colons, start) {
            (0, Some(index)) => Ok(Postfix::Item(*index)),
            (0, None) => {
                self.position -= 1;
                self.unexpected("an index")
            }
            (_, start) => Ok(Postfix::Slice(Slice { start, stop, step })),
        }
    }

    /// What follows `(`.
    fn arguments(&mut self) -> Parsed<Arguments> {
        let mut arguments = Arguments::default();
        let mut first = true;
        while !self.take_operator(")") {
            if !first {
                self.expect_operator(",")?;
                if self.take_operator(")") {
                    break;
                }
            }
            first = false;
            if self.at_operator("*") || self.at_operator("**") {
                return self.unsupported("`*` before an argument");
            }
            let after = self.lexemes.get(self.position + 1).map(|lexeme| &lexeme.token);
            if let (Some(Token::Name(name)), Some(Token::Operator("="))) = (self.peek(), after) {
                let name = name.clone();
                self.position += 2;
                arguments.named.push((name, self.expression()?));
            } else if arguments.named.is_empty() {
                arguments.positional.push(self.expression()?);
            } else {
                return self.unexpected("an argument with a name, as the one before");
            }
        }
        Ok(arguments)
    }

    /// What follows `|`.
    fn filter(&mut self) -> Parsed<Postfix> {
        let name = self.name("a filter")?;
        let arguments =
            if self.take_operator("(") { self.arguments()? } else { Arguments::default() };
        Ok(Postfix::Filter { name, arguments })
    }

    /// What follows `is`.
    fn test(&mut self) -> Parsed<Postfix> {
        let negated = self.take_name("not");
        let name = self.name("a test")?;
        let mut arguments = Arguments::default();
        if self.take_operator("(") {
            arguments = self.arguments()?;
        } else {
            let takes_argument = match self.peek() {
                Some(Token::Name(name)) => !matches!(name.as_str(), "else" | "or" | "and"),
                Some(Token::String(_) | Token::Integer(_) | Token::Float(_)) => true,
                _ => self.at_operator("[") || self.at_operator("{"),
            };
            if self.at_name("is") {
                return self.unexpected("no second `is`");
            }
            if takes_argument {
                let base = self.deeper(Self::primary)?;
                arguments.positional.push(self.deeper(|parser| parser.postfix(base, false))?);
            }
        }
        Ok(Postfix::Test { name, arguments, negated })
    }

    fn primary(&mut self) -> Parsed<Expr> {
        Ok(match self.next() {
            Some(Token::Name(name)) => match name.as_str() {
                "true" | "True" => Expr::Bool(true),
                "false" | "False" => Expr::Bool(false),
                "none" | "None" => Expr::None,
                _ => Expr::Name(name),
            },
            Some(Token::Integer(value)) => Expr::Integer(value),
            Some(Token::Float(value)) => Expr::Float(value),
            Some(Token::String(mut value)) => {
                while let Some(Token::String(next)) = self.peek() {
                    value.push_str(next);
                    self.position += 1;
                }
                Expr::String(value)
            }
            Some(Token::Operator("(")) => {
                if self.take_operator(")") {
                    return Ok(Expr::Tuple(Vec::new()));
                }
                let inner = self.tuple_or_expression()?;
                self.expect_operator(")")?;
                inner
            }
            Some(Token::Operator("[")) => {
                let mut items = Vec::new();
                while !self.take_operator("]") {
                    if !items.is_empty() {
                        self.expect_operator(",")?;
                        if self.take_operator("]") {
                            break;
                        }
                    }
                    items.push(self.expression()?);
                }
                Expr::List(items)
            }
            Some(Token::Operator("{")) => {
                let mut entries = Vec::new();
                while !self.take_operator("}") {
                    if !entries.is_empty() {
                        self.expect_operator(",")?;
                        if self.take_operator("}") {
                            break;
                        }
                    }
                    let key = self.expression()?;
                    self.expect_operator(":")?;
                    entries.push((key, self.expression()?));
                }
                Expr::Dict(entries)
            }
            found => {
                self.position -= usize::from(found.is_some());
                return self.unexpected("an expression");
            }
        })
    }
}
