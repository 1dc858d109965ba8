//! What may follow `is` in a template.

use std::cmp::Ordering;

use super::fault::Fault;
use super::interpreter::{Call, Interpreter};
use super::value::{Number, Value};

/// Whether `value is name(call)`.
pub(super) fn passes(
    interpreter: &mut Interpreter<'_>,
    name: &str,
    value: &Value,
    call: &Call,
) -> Result<bool, Fault> {
    let budget = &mut interpreter.budget;
    let argument = || {
        call.get(0, "other")
            .ok_or_else(|| Fault::Operation(format!("the test `{name}` takes an argument")))
    };
    Ok(match name {
        "defined" => !matches!(value, Value::Undefined(_)),
        "undefined" => matches!(value, Value::Undefined(_)),
        "none" => matches!(value, Value::None),
        "string" => matches!(value, Value::Text(_)),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Integer(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => value.as_number().is_some(),
        "mapping" => matches!(value, Value::Dict(_)),
        "sequence" => {
            matches!(value, Value::Text(_) | Value::List(_) | Value::Dict(_) | Value::Undefined(_))
        }
        "iterable" => {
            matches!(value, Value::Text(_) | Value::List(_) | Value::Dict(_) | Value::Undefined(_))
        }
        "callable" => {
            matches!(value, Value::Function(_) | Value::Macro(_) | Value::Method(_))
        }
        "equalto" | "eq" | "==" => value.equals(argument()?, budget)?,
        "ne" | "!=" => !value.equals(argument()?, budget)?,
        "sameas" => {
            let other = argument()?;
            value.kind() == other.kind() && value.equals(other, budget)?
        }
        "lt" | "lessthan" | "<" => value.order(argument()?, budget)?.is_some_and(Ordering::is_lt),
        "le" | "<=" => value.order(argument()?, budget)?.is_some_and(Ordering::is_le),
        "gt" | "greaterthan" | ">" => {
            value.order(argument()?, budget)?.is_some_and(Ordering::is_gt)
        }
        "ge" | ">=" => value.order(argument()?, budget)?.is_some_and(Ordering::is_ge),
        "in" => argument()?.contains(value, budget)?,
        "even" => remainder(value, 2)? == 0,
        "odd" => remainder(value, 2)? == 1,
        "divisibleby" => match argument()? {
            Value::Integer(divisor) if *divisor != 0 => remainder(value, *divisor)? == 0,
            other => return Err(other.cannot("divide")),
        },
        "lower" | "upper" => {
            let Value::Text(text) = value else { return Err(value.cannot("have a case")) };
            budget.spend_scan(text.len())?;
            is_cased(text.as_str(), name == "upper")
        }
        _ => return Err(Fault::Unsupported(format!("the test `{name}`"))),
    })
}

fn remainder(value: &Value, divisor: i64) -> Result<i64, Fault> {
    match value.as_number() {
        Some(Number::Integer(value)) => value
            .checked_rem_euclid(divisor)
            .ok_or_else(|| Fault::Operation("a number does not fit into 64 bits".to_owned())),
        _ => Err(value.cannot("be divided")),
    }
}

/// Python's `str.isupper` and `str.islower`: some letter has a case, and none the other one.
pub(super) fn is_cased(text: &str, upper: bool) -> bool {
    let (has_upper, has_lower) =
        (text.contains(char::is_uppercase), text.contains(char::is_lowercase));
    if upper { has_upper && !has_lower } else { has_lower && !has_upper }
}
