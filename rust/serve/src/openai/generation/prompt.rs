//! Owns: the text that the model reads: a completion's prompt, or messages through a chat template.
//! Must not know: tensors, sampling.
//! On failure: closed; content that the model cannot read is refused with its path.

use forebay_core::json::{Document, Json};
use minijinja::value::Value;

use super::template::{NoPrompt, Templates};
use crate::openai::fault::Fault;

/// The prompt of `/v1/completions`.
pub(super) fn of_completion(document: &Document<'_>) -> Result<String, Fault> {
    let one = |value: &Json<'_>| match value {
        Json::String(text) => Ok(text.to_string()),
        Json::Number(_) | Json::Array(_) => {
            let message = "`prompt` holds token numbers, but the model reads text; send a string".to_owned();
            Err(Fault::field("prompt", message))
        }
        other => Err(Fault::wrong_type("prompt", "a string", other)),
    };
    match document.get("prompt") {
        None => Err(Fault::missing("prompt", "a string")),
        Some(Json::Array(prompts)) => match prompts.as_slice() {
            [prompt] => one(prompt),
            [Json::Number(_), ..] => one(&prompts[0]),
            _ => {
                let message =
                    format!("`prompt` has {} texts; send one at a time to this model", prompts.len());
                Err(Fault::field("prompt", message))
            }
        },
        Some(prompt) => one(prompt),
    }
}

/// The prompt of `/v1/chat/completions`.
pub(super) fn of_chat(
    document: &Document<'_>,
    templates: &Templates,
    template: &str,
    max_bytes: usize,
) -> Result<String, Fault> {
    let messages = match document.get("messages") {
        None => return Err(Fault::missing("messages", "an array")),
        Some(Json::Array(messages)) => messages,
        Some(other) => return Err(Fault::wrong_type("messages", "an array", other)),
    };
    let read = messages.iter().enumerate().map(|(at, message)| read_message(at, message));
    let messages = Value::from(read.collect::<Result<Vec<_>, _>>()?);
    templates.render(template, messages, max_bytes).map_err(|reason| match reason {
        NoPrompt::Rejected(why) => {
            Fault::field("messages", format!("the chat template of this model rejects the messages: {why}"))
        }
        NoPrompt::Broken(why) => Fault::mapping(format!("the chat template of this model failed: {why}")),
        NoPrompt::TooLarge => Fault::field(
            "messages",
            format!("the messages make a prompt of more than {max_bytes} bytes; send less"),
        ),
    })
}

fn read_message(at: usize, message: &Json<'_>) -> Result<Value, Fault> {
    let Json::Object(fields) = message else {
        return Err(Fault::wrong_type(format!("messages[{at}]"), "an object", message));
    };
    let mut read = Vec::with_capacity(fields.len());
    for (name, value) in fields {
        let value = if name == "content" { read_content(at, value)? } else { value_of(value) };
        read.push((name.to_string(), value));
    }
    Ok(Value::from_pairs(read))
}

/// Content as templates expect it: a text, or nothing.
fn read_content(at: usize, content: &Json<'_>) -> Result<Value, Fault> {
    let parts = match content {
        Json::String(_) | Json::Null => return Ok(value_of(content)),
        Json::Array(parts) => parts,
        other => {
            return Err(Fault::wrong_type(format!("messages[{at}].content"), "a string or an array", other));
        }
    };
    let mut whole = String::new();
    for (part_at, part) in parts.iter().enumerate() {
        match (part.get("type").and_then(Json::as_str), part.get("text").and_then(Json::as_str)) {
            (Some("text"), Some(text)) => {
                if !whole.is_empty() {
                    whole.push('\n');
                }
                whole.push_str(text);
            }
            (kind, _) => {
                let path = format!("messages[{at}].content[{part_at}]");
                let kind = kind.unwrap_or("unknown");
                let message = format!("`{path}` is of the kind `{kind}`; the model reads text alone");
                return Err(Fault::field(path, message));
            }
        }
    }
    Ok(Value::from(whole))
}

/// Any JSON as templates see it.
fn value_of(json: &Json<'_>) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(text) => match (text.parse::<i64>(), json.as_f64()) {
            (Ok(whole), _) => Value::from(whole),
            (_, Some(number)) => Value::from(number),
            _ => Value::from(*text),
        },
        Json::String(text) => Value::from(text.as_ref()),
        Json::Array(items) => Value::from(items.iter().map(value_of).collect::<Vec<_>>()),
        Json::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(name, value)| (name.to_string(), value_of(value))))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use forebay_core::json::Bounds;

    fn document(body: &str) -> Document<'_> {
        Document::parse(body.as_bytes(), Bounds::default()).unwrap()
    }

    fn chat(messages: &str, template: &str) -> Result<String, String> {
        let body = format!(r#"{{"messages":{messages}}}"#);
        let rendered = of_chat(&document(&body), &Templates::default(), template, 100);
        rendered.map_err(|fault| String::from_utf8(fault.body()).unwrap())
    }

    #[test]
    fn a_completion_has_one_text() {
        let prompt = |value: &str| of_completion(&document(&format!(r#"{{"prompt":{value}}}"#)));
        assert_eq!(prompt(r#""a""#).unwrap(), "a");
        assert_eq!(prompt(r#"["a"]"#).unwrap(), "a");
        for (value, expected) in [
            (r#"["a","b"]"#, "has 2 texts"),
            ("[1,2]", "token numbers"),
            ("[[1]]", "token numbers"),
            ("null", "is missing"),
        ] {
            let body = String::from_utf8(prompt(value).unwrap_err().body()).unwrap();
            assert!(body.contains(expected), "{value}: {body}");
        }
    }

    #[test]
    fn parts_become_one_text_and_other_fields_stay() {
        let template = "{% for m in messages %}{{ m.role }}:{{ m.content }}:{{ m.n }}:{% if m.calls %}{{ m.calls[0].id }}{% endif %};{% endfor %}";
        let messages = r#"[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}],"n":1.5},
            {"role":"assistant","content":null,"calls":[{"id":7}]}]"#;
        assert_eq!(chat(messages, template).unwrap(), "user:a\nb:1.5:;assistant:None::7;");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let image = r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"u"}}]}]"#;
        for (messages, template, expected) in [
            (image, "", "`messages[0].content[0]` is of the kind `image_url`"),
            ("[1]", "", "`messages[0]` is of type number"),
            (r#"[{"role":"u","content":{}}]"#, "", "`messages[0].content` is of type object"),
            ("[]", "{{ raise_exception('no user') }}", "rejects the messages: no user"),
            ("[]", "{% if %}", "the chat template of this model failed"),
            (
                r#"[{"role":"u","content":"a"}]"#,
                "{{ 'x' * 101 }}{% for i in range(101) %}x{% endfor %}",
                "more than 100 bytes",
            ),
        ] {
            let body = chat(messages, template).unwrap_err();
            assert!(body.contains(expected), "{messages}: {body}");
        }
    }
}
