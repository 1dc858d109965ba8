//! Runs a template over a conversation.

use std::collections::HashMap;
use std::rc::Rc;

use super::budget::Budget;
use super::clock::CivilTime;
use super::fault::{Fault, TemplateError, TemplateLimit};
use super::syntax::{
    Arguments, Arithmetic, Comparison, Expr, For, Macro, Node, Postfix, Slice, Statement, Target,
};
use super::text::{Text, Writer};
use super::value::{Dict, Function, Loop, Number, Value};
use super::{filters, methods, predicates};

/// Statements, expressions and macros within each other while running. With the parser's bound on
/// nesting this keeps the stack below a thread's usual 2 MiB.
const MAX_DEPTH: u32 = 160;

/// `range` ends here, as in Jinja2's sandbox.
const MAX_RANGE: u64 = 100_000;

pub(super) struct Interpreter<'t> {
    pub(super) budget: Budget,
    pub(super) now: CivilTime,
    /// Innermost last; the first is the conversation.
    scopes: Vec<HashMap<&'t str, Value>>,
    output: Text,
    max_output_bytes: usize,
    depth: u32,
    macros: Vec<MacroScope<'t>>,
    line: u32,
}

/// A macro and how many of the scopes around it it sees.
#[derive(Clone, Copy)]
struct MacroScope<'t> {
    definition: &'t Macro,
    n_scopes: usize,
}

/// How a block was left.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    End,
    Break,
    Continue,
}

/// The evaluated arguments of a call, filter or test.
#[derive(Default)]
pub(super) struct Call {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(String, Value)>,
}

impl Call {
    /// The argument at `index` or of this name.
    pub(super) fn get(&self, index: usize, name: &str) -> Option<&Value> {
        self.positional
            .get(index)
            .or_else(|| self.named.iter().find(|(found, _)| found == name).map(|(_, value)| value))
    }
}

impl<'t> Interpreter<'t> {
    pub(super) fn new(
        globals: HashMap<&'t str, Value>,
        now: CivilTime,
        budget: Budget,
        max_output_bytes: usize,
    ) -> Self {
        Self {
            budget,
            now,
            // The template's own variables hide the conversation's, so they get a scope.
            scopes: vec![globals, HashMap::new()],
            output: Text::default(),
            max_output_bytes,
            depth: 0,
            macros: Vec::new(),
            line: 1,
        }
    }

    pub(super) fn run(mut self, nodes: &'t [Node]) -> Result<Text, TemplateError> {
        match self.block(nodes) {
            Ok(_) => Ok(self.output),
            Err(fault) => Err(fault.at_line(self.line)),
        }
    }

    fn deeper<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        if self.depth == MAX_DEPTH {
            return Err(Fault::Limit(TemplateLimit::Depth));
        }
        self.depth += 1;
        let result = run(self);
        self.depth -= 1;
        result
    }

    /// Runs in a scope of its own: what is set there is gone afterwards.
    fn scoped<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        self.budget.spend_steps(1)?;
        self.scopes.push(HashMap::new());
        let result = run(self);
        self.scopes.pop();
        result
    }

    fn block(&mut self, nodes: &'t [Node]) -> Result<Flow, Fault> {
        self.deeper(|this| {
            for node in nodes {
                this.line = node.line;
                let flow = this.statement(&node.statement)?;
                if flow != Flow::End {
                    return Ok(flow);
                }
            }
            Ok(Flow::End)
        })
    }

    /// Runs a block and returns what it printed instead of printing it.
    fn captured(&mut self, nodes: &'t [Node]) -> Result<Text, Fault> {
        let outer = std::mem::take(&mut self.output);
        let flow = self.scoped(|this| this.block(nodes));
        let text = std::mem::replace(&mut self.output, outer);
        match flow? {
            Flow::End => Ok(text),
            Flow::Break | Flow::Continue => {
                Err(Fault::Unsupported("`break` or `continue` across a block's end".to_owned()))
            }
        }
    }

    fn print(
        &mut self,
        write: impl FnOnce(&mut Writer<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let output = std::mem::take(&mut self.output);
        let mut writer = Writer::append_to(output, &mut self.budget);
        let result = write(&mut writer);
        self.output = writer.finish();
        result?;
        if self.output.len() > self.max_output_bytes {
            return Err(Fault::Limit(TemplateLimit::Output));
        }
        Ok(())
    }

    fn statement(&mut self, statement: &'t Statement) -> Result<Flow, Fault> {
        self.budget.spend_steps(1)?;
        match statement {
            Statement::Data(data) => {
                self.print(|writer| writer.push_str(data, super::text::Origin::Template))?;
            }
            Statement::Print(expression) => {
                let value = self.evaluate(expression)?;
                self.print(|writer| writer.push_value(&value))?;
            }
            Statement::If { branches, otherwise } => {
                for (condition, body) in branches {
                    if self.evaluate(condition)?.is_true() {
                        return self.block(body);
                    }
                }
                return self.block(otherwise);
            }
            Statement::For(statement) => return self.for_loop(statement),
            Statement::Set { target, value } => {
                let value = self.evaluate(value)?;
                self.assign(target, value)?;
            }
            Statement::SetBlock { target, filters, body } => {
                let text = Value::text(self.captured(body)?);
                let value = self.postfix(text, filters, "")?;
                self.assign(target, value)?;
            }
            Statement::With { assignments, body } => {
                // Every value is of the scope outside, whatever the ones before are called.
                let mut values = Vec::with_capacity(assignments.len());
                for (target, value) in assignments {
                    values.push((target, self.evaluate(value)?));
                }
                return self.scoped(|this| {
                    for (target, value) in values {
                        this.assign(target, value)?;
                    }
                    this.block(body)
                });
            }
            Statement::Filter { filters, body } => {
                let text = Value::text(self.captured(body)?);
                let value = self.postfix(text, filters, "")?;
                self.print(|writer| writer.push_value(&value))?;
            }
            Statement::Macro(definition) => {
                let value = Value::Macro(self.macros.len());
                self.macros.push(MacroScope { definition, n_scopes: self.scopes.len() });
                self.set(&definition.name, value);
            }
            Statement::Break => return Ok(Flow::Break),
            Statement::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::End)
    }

    fn for_loop(&mut self, statement: &'t For) -> Result<Flow, Fault> {
        let iterable = self.evaluate(&statement.iterable)?;
        let mut items = iterable.items(&mut self.budget)?;
        if let Some(condition) = &statement.condition {
            let mut kept = Vec::new();
            for item in items {
                let keep = self.scoped(|this| {
                    this.assign(&statement.target, item.clone())?;
                    this.evaluate(condition)
                })?;
                if keep.is_true() {
                    kept.push(item);
                }
            }
            items = kept;
        }
        if items.is_empty() {
            return self.scoped(|this| this.block(&statement.otherwise));
        }
        let items = Rc::new(items);
        for (index0, item) in items.iter().enumerate() {
            let state = Loop { items: Rc::clone(&items), index0 };
            let flow = self.scoped(|this| {
                this.assign(&statement.target, item.clone())?;
                this.set("loop", Value::Loop(Rc::new(state)));
                this.block(&statement.body)
            });
            if flow? == Flow::Break {
                break;
            }
        }
        Ok(Flow::End)
    }

    fn set(&mut self, name: &'t str, value: Value) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, value);
        }
    }

    fn assign(&mut self, target: &'t Target, value: Value) -> Result<(), Fault> {
        match target {
            Target::Name(name) => self.set(name, value),
            Target::Attribute { namespace, name } => {
                let Value::Namespace(attributes) = self.lookup(namespace) else {
                    return Err(Fault::Operation(format!("`{namespace}` is not a namespace")));
                };
                value.check_storable()?;
                let mut attributes = attributes.borrow_mut();
                self.budget.spend_steps(attributes.len() as u64)?;
                match attributes.iter_mut().find(|(present, _)| present == name) {
                    Some((_, present)) => *present = value,
                    None => attributes.push((name.clone(), value)),
                }
            }
            Target::Unpack(targets) => {
                let items = value.items(&mut self.budget)?;
                if items.len() != targets.len() {
                    return Err(Fault::Operation(format!(
                        "{} values for {} variables",
                        items.len(),
                        targets.len()
                    )));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.assign(target, item)?;
                }
            }
        }
        Ok(())
    }

    fn lookup(&self, name: &str) -> Value {
        let found = self.scopes.iter().rev().find_map(|scope| scope.get(name));
        found.cloned().unwrap_or_else(|| match name {
            "range" => Value::Function(Function::Range),
            "namespace" => Value::Function(Function::Namespace),
            "dict" => Value::Function(Function::Dict),
            "raise_exception" => Value::Function(Function::RaiseException),
            "strftime_now" => Value::Function(Function::StrftimeNow),
            _ => Value::undefined(name),
        })
    }

    fn evaluate(&mut self, expression: &'t Expr) -> Result<Value, Fault> {
        self.budget.spend_steps(1)?;
        self.deeper(|this| this.evaluate_here(expression))
    }

    fn evaluate_all(&mut self, expressions: &'t [Expr]) -> Result<Vec<Value>, Fault> {
        expressions.iter().map(|expression| self.evaluate(expression)).collect()
    }

    fn evaluate_here(&mut self, expression: &'t Expr) -> Result<Value, Fault> {
        Ok(match expression {
            Expr::None => Value::None,
            Expr::Bool(value) => Value::Bool(*value),
            Expr::Integer(value) => Value::Integer(*value),
            Expr::Float(value) => Value::Float(*value),
            Expr::String(string) => return Value::template_text(string, &mut self.budget),
            Expr::Name(name) => {
                self.budget.spend_steps(self.scopes.len() as u64)?;
                self.lookup(name)
            }
            Expr::List(items) => {
                let items = self.evaluate_all(items)?;
                return Value::list(items, &mut self.budget);
            }
            Expr::Tuple(items) => {
                let items = self.evaluate_all(items)?;
                return Value::sequence(items, true, &mut self.budget);
            }
            Expr::Dict(entries) => {
                let mut values = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    values.push((self.evaluate(key)?, self.evaluate(value)?));
                }
                return Value::dict(values, &mut self.budget);
            }
            Expr::Postfix(base, operations) => {
                let name = if let Expr::Name(name) = base.as_ref() { name } else { "" };
                let base = self.evaluate(base)?;
                return self.postfix(base, operations, name);
            }
            Expr::Not(operand) => Value::Bool(!self.evaluate(operand)?.is_true()),
            Expr::Sign { negative, operand } => {
                let value = self.evaluate(operand)?;
                match value.as_number() {
                    None => return Err(value.cannot("have a sign")),
                    Some(Number::Float(value)) => {
                        Value::Float(if *negative { -value } else { value })
                    }
                    Some(Number::Integer(value)) => {
                        let signed = if *negative { value.checked_neg() } else { Some(value) };
                        Value::Integer(signed.ok_or_else(overflow)?)
                    }
                }
            }
            Expr::Arithmetic(first, rest) => {
                let mut value = self.evaluate(first)?;
                for (operator, operand) in rest {
                    let operand = self.evaluate(operand)?;
                    value = self.arithmetic(*operator, &value, &operand)?;
                }
                value
            }
            Expr::Concat(operands) => {
                let values = self.evaluate_all(operands)?;
                let mut writer = Writer::new(&mut self.budget);
                for value in &values {
                    writer.push_value(value)?;
                }
                Value::text(writer.finish())
            }
            Expr::Compare(first, rest) => {
                let mut left = self.evaluate(first)?;
                for (comparison, operand) in rest {
                    let right = self.evaluate(operand)?;
                    if !self.compare(*comparison, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Value::Bool(true)
            }
            Expr::And(operands) => return self.short_circuit(operands, false),
            Expr::Or(operands) => return self.short_circuit(operands, true),
            Expr::Ternary { value, condition, otherwise } => {
                if self.evaluate(condition)?.is_true() {
                    self.evaluate(value)?
                } else if let Some(otherwise) = otherwise {
                    self.evaluate(otherwise)?
                } else {
                    Value::undefined("the value of an `if` without `else`")
                }
            }
        })
    }

    /// The first operand whose truth is `stop`, or the last one.
    fn short_circuit(&mut self, operands: &'t [Expr], stop: bool) -> Result<Value, Fault> {
        let mut last = Value::None;
        for operand in operands {
            last = self.evaluate(operand)?;
            if last.is_true() == stop {
                break;
            }
        }
        Ok(last)
    }

    fn compare(
        &mut self,
        comparison: Comparison,
        left: &Value,
        right: &Value,
    ) -> Result<bool, Fault> {
        let budget = &mut self.budget;
        Ok(match comparison {
            Comparison::Equal => left.equals(right, budget)?,
            Comparison::NotEqual => !left.equals(right, budget)?,
            Comparison::In => right.contains(left, budget)?,
            Comparison::NotIn => !right.contains(left, budget)?,
            Comparison::Less => left.order(right, budget)?.is_some_and(std::cmp::Ordering::is_lt),
            Comparison::LessEqual => {
                left.order(right, budget)?.is_some_and(std::cmp::Ordering::is_le)
            }
            Comparison::Greater => {
                left.order(right, budget)?.is_some_and(std::cmp::Ordering::is_gt)
            }
            Comparison::GreaterEqual => {
                left.order(right, budget)?.is_some_and(std::cmp::Ordering::is_ge)
            }
        })
    }

    pub(super) fn arithmetic(
        &mut self,
        operator: Arithmetic,
        left: &Value,
        right: &Value,
    ) -> Result<Value, Fault> {
        if let (Some(a), Some(b)) = (left.as_number(), right.as_number()) {
            return number_arithmetic(operator, a, b);
        }
        match (operator, left, right) {
            (Arithmetic::Add, Value::Text(a), Value::Text(b)) => {
                let mut writer = Writer::new(&mut self.budget);
                writer.push(a)?;
                writer.push(b)?;
                Ok(Value::text(writer.finish()))
            }
            (Arithmetic::Add, Value::List(a), Value::List(b)) if a.is_tuple == b.is_tuple => {
                self.budget.spend_items(a.items.len() + b.items.len())?;
                let items = a.items.iter().chain(&b.items).cloned().collect();
                Value::sequence(items, a.is_tuple, &mut self.budget)
            }
            (Arithmetic::Multiply, value @ (Value::Text(_) | Value::List(_)), count)
            | (Arithmetic::Multiply, count, value @ (Value::Text(_) | Value::List(_))) => {
                match count.as_number() {
                    Some(Number::Integer(n)) => self.repeat(value, n.try_into().unwrap_or(0)),
                    _ => Err(count.cannot("be how often something is repeated")),
                }
            }
            (Arithmetic::Modulo, Value::Text(format), arguments) => {
                let mut writer = Writer::new(&mut self.budget);
                writer.push_percent(format, arguments)?;
                Ok(Value::text(writer.finish()))
            }
            _ => {
                let (symbol, culprit) = match (left, right) {
                    (_, Value::Undefined(_)) => (operator.symbol(), right),
                    _ => (operator.symbol(), left),
                };
                let other = if std::ptr::eq(culprit, left) { right } else { left };
                Err(culprit.cannot(&format!("be combined by `{symbol}` with {}", other.kind())))
            }
        }
    }

    fn repeat(&mut self, value: &Value, n: usize) -> Result<Value, Fault> {
        match value {
            Value::List(list) => {
                let n_items = list.items.len().saturating_mul(n);
                self.budget.spend_items(n_items)?;
                let items = list.items.iter().cycle().take(n_items).cloned().collect();
                Value::sequence(items, list.is_tuple, &mut self.budget)
            }
            Value::Text(text) => {
                let mut writer = Writer::new(&mut self.budget);
                if !text.is_empty() {
                    for _ in 0..n {
                        writer.push(text)?;
                    }
                }
                Ok(Value::text(writer.finish()))
            }
            _ => Err(value.cannot("be repeated")),
        }
    }

    /// Applies attributes, items, calls, filters and tests; `name` is what an error calls `value`.
    fn postfix(
        &mut self,
        mut value: Value,
        operations: &'t [Postfix],
        name: &str,
    ) -> Result<Value, Fault> {
        for operation in operations {
            self.budget.spend_steps(1)?;
            value = match operation {
                Postfix::Attribute(name) => self.attribute(&value, name)?,
                Postfix::Item(index) => {
                    let index = self.evaluate(index)?;
                    self.item(&value, &index)?
                }
                Postfix::Slice(slice) => self.slice(&value, slice)?,
                Postfix::Call(arguments) => {
                    let call = self.call(arguments)?;
                    self.deeper(|this| this.invoke(&value, call, name))?
                }
                Postfix::Filter { name, arguments } => {
                    let call = self.call(arguments)?;
                    filters::apply(self, name, &value, &call)?
                }
                Postfix::Test { name, arguments, negated } => {
                    let call = self.call(arguments)?;
                    let passed = predicates::passes(self, name, &value, &call)?;
                    Value::Bool(passed != *negated)
                }
            };
        }
        Ok(value)
    }

    fn call(&mut self, arguments: &'t Arguments) -> Result<Call, Fault> {
        let positional = self.evaluate_all(&arguments.positional)?;
        let mut named = Vec::with_capacity(arguments.named.len());
        for (name, value) in &arguments.named {
            named.push((name.clone(), self.evaluate(value)?));
        }
        Ok(Call { positional, named })
    }

    /// `value.name`: a method or attribute of Python's, then an entry of that name.
    pub(super) fn attribute(&mut self, value: &Value, name: &str) -> Result<Value, Fault> {
        if methods::exists(value, name) {
            return Ok(Value::Method(Rc::new((value.clone(), name.to_owned()))));
        }
        Ok(match value {
            Value::Undefined(_) => return Err(value.cannot("have attributes")),
            Value::Dict(dict) => self.entry(dict, name)?,
            Value::Namespace(attributes) => {
                let attributes = attributes.borrow();
                self.budget.spend_steps(attributes.len() as u64)?;
                let found = attributes.iter().find(|(present, _)| present == name);
                found.map_or_else(|| Value::undefined(name), |(_, value)| value.clone())
            }
            Value::Loop(state) => loop_attribute(state, name),
            _ => Value::undefined(name),
        })
    }

    fn entry(&mut self, dict: &Rc<Dict>, name: &str) -> Result<Value, Fault> {
        self.budget.spend_steps(dict.entries.len() as u64)?;
        Ok(dict.get_str(name).cloned().unwrap_or_else(|| Value::undefined(name)))
    }

    /// `value[index]`: an entry or element, then an attribute of that name.
    pub(super) fn item(&mut self, value: &Value, index: &Value) -> Result<Value, Fault> {
        match (value, index) {
            (Value::Undefined(_), _) => Err(value.cannot("have items")),
            (Value::Dict(dict), Value::Text(key)) => match dict.get_str(key.as_str()) {
                Some(value) => {
                    self.budget.spend_steps(dict.entries.len() as u64)?;
                    Ok(value.clone())
                }
                None => self.attribute(value, key.as_str()),
            },
            (Value::Dict(dict), _) => {
                let found = dict.get(index, &mut self.budget)?;
                Ok(found.cloned().unwrap_or_else(|| Value::undefined("an item")))
            }
            (Value::List(list), Value::Integer(index)) => {
                let found = place(*index, list.items.len()).map(|at| list.items[at].clone());
                Ok(found.unwrap_or_else(|| Value::undefined(&format!("item {index}"))))
            }
            (Value::Text(text), Value::Integer(index)) => {
                self.budget.spend_scan(text.len())?;
                let length = text.as_str().chars().count();
                let Some(at) = place(*index, length) else {
                    return Ok(Value::undefined(&format!("character {index}")));
                };
                let character = text.chars().nth(at);
                Ok(character.map_or_else(
                    || Value::undefined("a character"),
                    |(character, origin)| Value::text(Text::new(character, origin)),
                ))
            }
            (_, Value::Text(key)) => self.attribute(value, key.as_str()),
            _ => Ok(Value::undefined("an item")),
        }
    }

    fn slice(&mut self, value: &Value, slice: &'t Slice) -> Result<Value, Fault> {
        let mut bounds = [None; 3];
        for (bound, part) in bounds.iter_mut().zip([&slice.start, &slice.stop, &slice.step]) {
            let Some(part) = part else { continue };
            *bound = match self.evaluate(part)? {
                Value::None => None,
                Value::Integer(value) => Some(value),
                other => return Err(other.cannot("bound a slice")),
            };
        }
        let [start, stop, step] = bounds;
        let step = step.unwrap_or(1);
        if step == 0 {
            return Err(Fault::Operation("the step of a slice is zero".to_owned()));
        }
        match value {
            Value::List(list) => {
                let indices = slice_indices(start, stop, step, list.items.len());
                self.budget.spend_items(list.items.len())?;
                let items = indices.map(|index| list.items[index].clone()).collect();
                Value::sequence(items, list.is_tuple, &mut self.budget)
            }
            Value::Text(text) => {
                self.budget.spend_items(text.len() / 8)?;
                let characters: Vec<_> = text.chars().collect();
                let mut writer = Writer::new(&mut self.budget);
                for index in slice_indices(start, stop, step, characters.len()) {
                    let (character, origin) = characters[index];
                    writer.push_char(character, origin)?;
                }
                Ok(Value::text(writer.finish()))
            }
            _ => Err(value.cannot("be sliced")),
        }
    }

    fn invoke(&mut self, function: &Value, call: Call, name: &str) -> Result<Value, Fault> {
        match function {
            Value::Function(Function::Range) => self.range(&call),
            Value::Function(Function::Namespace) => {
                let mut attributes = Vec::new();
                for (name, value) in call.named {
                    value.check_storable()?;
                    attributes.push((name, value));
                }
                Ok(Value::Namespace(Rc::new(attributes.into())))
            }
            Value::Function(Function::Dict) => {
                let mut entries = Vec::new();
                for (name, value) in call.named {
                    entries.push((Value::template_text(&name, &mut self.budget)?, value));
                }
                Value::dict(entries, &mut self.budget)
            }
            Value::Function(Function::RaiseException) => {
                let mut writer = Writer::new(&mut self.budget);
                if let Some(message) = call.get(0, "message") {
                    writer.push_value(message)?;
                }
                Err(Fault::Refused(writer.finish().as_str().to_owned()))
            }
            Value::Function(Function::StrftimeNow) => match call.get(0, "format") {
                Some(Value::Text(format)) => {
                    let formatted = self.now.format(format.as_str(), &mut self.budget)?;
                    Value::template_text(&formatted, &mut self.budget)
                }
                _ => Err(Fault::Operation("`strftime_now` takes a format".to_owned())),
            },
            Value::Macro(index) => self.call_macro(self.macros[*index], &call),
            Value::Method(method) => methods::call(self, &method.0, &method.1, &call),
            Value::Undefined(undefined) => {
                let name = if name.is_empty() { undefined } else { name };
                Err(Fault::Undefined(format!("the function `{name}`")))
            }
            _ => Err(function.cannot("be called")),
        }
    }

    fn range(&mut self, call: &Call) -> Result<Value, Fault> {
        let mut bounds = Vec::new();
        for bound in &call.positional {
            match bound.as_number() {
                Some(Number::Integer(bound)) => bounds.push(bound),
                _ => return Err(bound.cannot("bound a range")),
            }
        }
        let (start, stop, step) = match bounds[..] {
            [stop] => (0, stop, 1),
            [start, stop] => (start, stop, 1),
            [start, stop, step] if step != 0 => (start, stop, step),
            _ => return Err(Fault::Operation("`range` takes one to three numbers".to_owned())),
        };
        let forward = if step > 0 { start < stop } else { start > stop };
        let n_items = if forward { start.abs_diff(stop).div_ceil(step.unsigned_abs()) } else { 0 };
        if n_items > MAX_RANGE {
            return Err(Fault::Limit(TemplateLimit::Steps));
        }
        self.budget.spend_items(n_items as usize)?;
        // Within the range, so no sum below overflows.
        let items = (0..n_items as i64).map(|index| Value::Integer(start + index * step)).collect();
        Value::list(items, &mut self.budget)
    }

    fn call_macro(&mut self, value: MacroScope<'t>, call: &Call) -> Result<Value, Fault> {
        let definition = value.definition;
        let name = &definition.name;
        if call.positional.len() > definition.parameters.len() {
            return Err(Fault::Operation(format!(
                "the macro `{name}` takes {} arguments, not {}",
                definition.parameters.len(),
                call.positional.len()
            )));
        }
        let known = |given: &str| definition.parameters.iter().any(|(name, _)| name == given);
        if let Some((unknown, _)) = call.named.iter().find(|(given, _)| !known(given)) {
            return Err(Fault::Operation(format!("the macro `{name}` takes no `{unknown}`")));
        }
        // The macro sees the scopes around its definition, not those around the call.
        let n_scopes = value.n_scopes.min(self.scopes.len());
        let hidden = self.scopes.split_off(n_scopes);
        let line = self.line;
        let result = self.scoped(|this| {
            for (index, (parameter, default)) in definition.parameters.iter().enumerate() {
                let argument = match (call.get(index, parameter), default) {
                    (Some(argument), _) => argument.clone(),
                    (None, Some(default)) => this.evaluate(default)?,
                    (None, None) => Value::undefined(parameter),
                };
                this.set(parameter, argument);
            }
            this.captured(&definition.body)
        });
        self.scopes.truncate(n_scopes);
        self.scopes.extend(hidden);
        if result.is_ok() {
            self.line = line;
        }
        result.map(Value::text)
    }
}

impl Arithmetic {
    fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::FloorDivide => "//",
            Self::Modulo => "%",
            Self::Power => "**",
        }
    }
}

fn overflow() -> Fault {
    Fault::Operation("a number does not fit into 64 bits".to_owned())
}

fn number_arithmetic(operator: Arithmetic, a: Number, b: Number) -> Result<Value, Fault> {
    let by_zero = || Fault::Operation("division by zero".to_owned());
    if let (Number::Integer(a), Number::Integer(b)) = (a, b) {
        let result = match operator {
            Arithmetic::Add => a.checked_add(b),
            Arithmetic::Subtract => a.checked_sub(b),
            Arithmetic::Multiply => a.checked_mul(b),
            Arithmetic::FloorDivide | Arithmetic::Modulo if b == 0 => return Err(by_zero()),
            // Python rounds down: the remainder has the divisor's sign.
            Arithmetic::FloorDivide => a.checked_div_euclid(b).map(|quotient| {
                if b < 0 && a.rem_euclid(b) != 0 { quotient - 1 } else { quotient }
            }),
            Arithmetic::Modulo => a
                .checked_rem_euclid(b)
                .map(|remainder| if b < 0 && remainder != 0 { remainder + b } else { remainder }),
            Arithmetic::Power if b >= 0 => {
                u32::try_from(b).ok().and_then(|exponent| a.checked_pow(exponent))
            }
            Arithmetic::Power | Arithmetic::Divide => {
                return float_arithmetic(operator, a as f64, b as f64);
            }
        };
        return result.map(Value::Integer).ok_or_else(overflow);
    }
    float_arithmetic(operator, a.as_float(), b.as_float())
}

fn float_arithmetic(operator: Arithmetic, a: f64, b: f64) -> Result<Value, Fault> {
    let divides =
        matches!(operator, Arithmetic::Divide | Arithmetic::FloorDivide | Arithmetic::Modulo);
    if divides && b == 0.0 {
        return Err(Fault::Operation("division by zero".to_owned()));
    }
    Ok(Value::Float(match operator {
        Arithmetic::Add => a + b,
        Arithmetic::Subtract => a - b,
        Arithmetic::Multiply => a * b,
        Arithmetic::Divide => a / b,
        Arithmetic::FloorDivide => (a / b).floor(),
        Arithmetic::Modulo => a - (a / b).floor() * b,
        Arithmetic::Power => a.powf(b),
    }))
}

fn loop_attribute(state: &Loop, name: &str) -> Value {
    let length = state.items.len();
    let index0 = state.index0;
    let integer = |value: usize| Value::Integer(value as i64);
    match name {
        "index" => integer(index0 + 1),
        "index0" => integer(index0),
        "revindex" => integer(length - index0),
        "revindex0" => integer(length - index0 - 1),
        "first" => Value::Bool(index0 == 0),
        "last" => Value::Bool(index0 + 1 == length),
        "length" => integer(length),
        // Counts only recursive loops.
        "depth" => integer(1),
        "depth0" => integer(0),
        "previtem" if index0 > 0 => state.items[index0 - 1].clone(),
        "nextitem" if index0 + 1 < length => state.items[index0 + 1].clone(),
        _ => Value::undefined(&format!("loop.{name}")),
    }
}

/// The place a Python index means; negative ones count from the end.
fn place(index: i64, length: usize) -> Option<usize> {
    let length = length as i64;
    let at = if index < 0 { index + length } else { index };
    (0..length).contains(&at).then_some(at as usize)
}

/// The places a Python slice means.
fn slice_indices(
    start: Option<i64>,
    stop: Option<i64>,
    step: i64,
    length: usize,
) -> impl Iterator<Item = usize> {
    let length = length as i64;
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let bound = |bound: Option<i64>, default: i64| match bound {
        None => default,
        Some(bound) if bound < 0 => bound.saturating_add(length).max(low),
        Some(bound) => bound.min(high),
    };
    let first = bound(start, if step > 0 { low } else { high });
    let end = bound(stop, if step > 0 { high } else { low });
    std::iter::successors(Some(first), move |index| index.checked_add(step))
        .take_while(move |&index| if step > 0 { index < end } else { index > end })
        .map(|index| index as usize)
}
