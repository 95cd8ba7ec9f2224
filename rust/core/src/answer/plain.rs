//! Owns judging a plain JSON answer: complete, of its kind, and not an error under status 200.
//! Must not know streams. The body is kept as it came; nothing is written anew.
//! On failure: what is not recognised as a complete answer is not stored.

use bytes::Bytes;

use super::choice::ends_an_answer;
use super::collect::{Answer, Expect};
use super::kind::AnswerKind;
use super::reject::NotStorable;
use super::usage::Usage;
use crate::json::{Bounds, Document, Json};

/// Judges one item of the answer.
type Check = fn(&Json<'_>) -> Result<(), NotStorable>;

/// Judges a complete body.
pub(super) fn judge(expect: Expect, body: Vec<u8>) -> Result<Answer, NotStorable> {
    let usage = {
        let document = Document::parse(&body, Bounds::default())
            .map_err(|_| NotStorable::Malformed("the body is not one JSON object"))?;
        if document.get("error").is_some() {
            return Err(NotStorable::ErrorObject);
        }
        if let Some(object) = document.get("object")
            && object.as_str() != Some(expect.kind.plain_object())
        {
            return Err(NotStorable::Malformed("`object` is not that of an answer of this kind"));
        }
        let (list, check): (&str, Check) = match expect.kind {
            AnswerKind::Chat => ("choices", chat_choice),
            AnswerKind::Completion => ("choices", text_choice),
            AnswerKind::Embedding => ("data", embedding),
        };
        let items = document
            .get(list)
            .and_then(Json::as_array)
            .ok_or(NotStorable::Malformed("`choices` or `data` is not an array"))?;
        if items.is_empty() {
            return Err(NotStorable::Incomplete("the answer is empty"));
        }
        expect.check(items.len())?;
        items.iter().try_for_each(check)?;
        document.get("usage").and_then(Usage::of)
    };
    Ok(Answer { kind: expect.kind, body: Bytes::from(body.into_boxed_slice()), usage })
}

fn chat_choice(choice: &Json<'_>) -> Result<(), NotStorable> {
    match choice.get("message") {
        Some(Json::Object(_)) => finished(choice),
        _ => Err(NotStorable::Malformed("a choice has no message")),
    }
}

fn text_choice(choice: &Json<'_>) -> Result<(), NotStorable> {
    match choice.get("text") {
        Some(Json::String(_)) => finished(choice),
        _ => Err(NotStorable::Malformed("a choice has no text")),
    }
}

fn finished(choice: &Json<'_>) -> Result<(), NotStorable> {
    match choice.get("finish_reason") {
        Some(Json::String(reason)) if ends_an_answer(reason) => Ok(()),
        Some(Json::String(_)) => Err(NotStorable::FinishReason),
        _ => Err(NotStorable::Incomplete("a choice has no finish_reason")),
    }
}

fn embedding(item: &Json<'_>) -> Result<(), NotStorable> {
    match item.get("embedding") {
        Some(Json::Array(numbers)) if !numbers.is_empty() => Ok(()),
        Some(Json::String(base64)) if !base64.is_empty() => Ok(()),
        _ => Err(NotStorable::Malformed("an item has no embedding")),
    }
}
