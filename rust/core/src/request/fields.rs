//! Owns: reading one field of a body as one type, and the words of what is wrong with it.
//! Must not know: which fields an operation has.
//! On failure: closed; a missing field, a wrong type or a value out of range is refused with the field's path.

use std::fmt::Display;

use super::path::Path;
use crate::json::{Document, Json};
use crate::refusal::Refusal;

/// The most output tokens that a request may name.
const MOST_TOKENS: u64 = u32::MAX as u64;

/// A boolean, if it is there.
pub(super) fn boolean(document: &Document<'_>, name: &'static str) -> Result<Option<bool>, Refusal> {
    match document.get(name) {
        None => Ok(None),
        Some(Json::Bool(b)) => Ok(Some(*b)),
        Some(other) => Err(wrong_type(name, "a boolean", other)),
    }
}

/// A whole number within bounds, if it is there.
pub(super) fn integer(
    document: &Document<'_>,
    name: &'static str,
    least: u64,
    most: u64,
) -> Result<Option<u64>, Refusal> {
    document.get(name).map(|value| whole(name, value, least, most)).transpose()
}

/// A bound on output, if it is there.
pub(super) fn tokens(document: &Document<'_>, name: &'static str) -> Result<Option<u64>, Refusal> {
    integer(document, name, 1, MOST_TOKENS)
}

/// A whole number of a nested field within bounds.
pub(super) fn whole(param: impl Display, value: &Json<'_>, least: u64, most: u64) -> Result<u64, Refusal> {
    let Json::Number(text) = value else { return Err(wrong_type(&param, "a whole number", value)) };
    text.parse().ok().filter(|value| (least..=most).contains(value)).ok_or_else(|| {
        let message = format!("`{param}` is {text}; it must be a whole number from {least} to {most}");
        field(&param, message)
    })
}

/// Whether chance decides: a temperature above 0, or none given, which servers take as 1.
pub(super) fn sampled(document: &Document<'_>) -> Result<bool, Refusal> {
    match document.get("temperature") {
        None => Ok(true),
        Some(number @ Json::Number(_)) => Ok(number.as_f64().is_none_or(|t| t > 0.0)),
        Some(other) => Err(wrong_type("temperature", "a number", other)),
    }
}

/// Whether a class of service is asked for that has prices of its own.
pub(super) fn is_dearer(document: &Document<'_>) -> Result<bool, Refusal> {
    text(document, "service_tier")?;
    let tier = document.get("service_tier").and_then(Json::as_str);
    Ok(matches!(tier, Some("priority" | "fast")))
}

/// An object, if it is there.
pub(super) fn object<'d, 'a>(
    document: &'d Document<'a>,
    name: &'static str,
) -> Result<Option<&'d Json<'a>>, Refusal> {
    match document.get(name) {
        None => Ok(None),
        Some(object @ Json::Object(_)) => Ok(Some(object)),
        Some(other) => Err(wrong_type(name, "an object", other)),
    }
}

/// The items of an array; none, if it is not there.
pub(super) fn items<'d, 'a>(
    document: &'d Document<'a>,
    name: &'static str,
) -> Result<&'d [Json<'a>], Refusal> {
    match document.get(name) {
        None => Ok(&[]),
        Some(Json::Array(items)) => Ok(items),
        Some(other) => Err(wrong_type(name, "an array", other)),
    }
}

/// The items of an array that must be there and hold something.
pub(super) fn some_items<'d, 'a>(
    document: &'d Document<'a>,
    name: &'static str,
) -> Result<&'d [Json<'a>], Refusal> {
    if document.get(name).is_none() {
        return Err(missing(name, "an array"));
    }
    match items(document, name)? {
        [] => Err(empty(name)),
        items => Ok(items),
    }
}

/// A string, if it is there.
pub(super) fn text(document: &Document<'_>, name: &'static str) -> Result<(), Refusal> {
    match document.get(name) {
        None | Some(Json::String(_)) => Ok(()),
        Some(other) => Err(wrong_type(name, "a string", other)),
    }
}

/// A string that a nested object must have; `at` is the object's place.
pub(super) fn inner_text<'j>(object: &'j Json<'_>, at: &Path<'_>, name: &str) -> Result<&'j str, Refusal> {
    match object.get(name) {
        Some(Json::String(text)) => Ok(text),
        None | Some(Json::Null) => Err(missing(at.field(name), "a string")),
        Some(other) => Err(wrong_type(at.field(name), "a string", other)),
    }
}

/// Shows each part of a content with its place and its `type`; a string has none. `at` is the content's place.
pub(super) fn each_part<'j, 'a>(
    content: &'j Json<'a>,
    at: &Path<'_>,
    mut look: impl FnMut(&Path<'_>, &'j str, &'j Json<'a>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let parts = match content {
        Json::String(_) => return Ok(()),
        Json::Array(parts) => parts,
        other => return Err(wrong_type(at, "a string or an array", other)),
    };
    for (i, part) in parts.iter().enumerate() {
        let at = at.item(i);
        look(&at, inner_text(part, &at, "type")?, part)?;
    }
    Ok(())
}

pub(super) fn field(param: impl Display, message: String) -> Refusal {
    Refusal::Field { param: param.to_string(), message }
}

pub(super) fn missing(param: impl Display, expected: &str) -> Refusal {
    let message = format!("`{param}` is missing; it must be {expected}");
    field(param, message)
}

pub(super) fn empty(param: impl Display) -> Refusal {
    let message = format!("`{param}` must not be empty");
    field(param, message)
}

pub(super) fn wrong_type(param: impl Display, expected: &str, got: &Json<'_>) -> Refusal {
    let message = format!("`{param}` is of type {}; it must be {expected}", got.type_name());
    field(param, message)
}
