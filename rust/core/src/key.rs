//! Owns: the identity of an answer: a keyed BLAKE3, 256 bits, over an injective form of the effective request.
//! Must not know: where answers are kept.
//! On failure: it cannot fail; without a tenant no key can be built.
//!
//! The form is a sequence of values, each with its type and length before it, so that no two different sequences have
//! the same bytes. Numbers stand as they were written. Two spellings of one request may differ (a miss); two different
//! requests never agree.

use crate::cache::CacheKey;
use crate::json::Json;
use crate::request::Asked;

/// Fields that do not change the answer, or that stand in the key by their effective value.
pub const IGNORED_FIELDS: [&str; 9] = [
    "model",                 // by name and revision of the resolved model
    "max_tokens",            // by the effective bound
    "max_completion_tokens", // by the effective bound
    "stream",                // one entry serves both forms
    "stream_options",
    "user", // who asks is the scope's matter
    "safety_identifier",
    "prompt_cache_key",
    "store", // a request with `store: true` is never looked up
];

/// The secret that keys every hash of one process or fleet.
#[derive(Clone)]
pub struct KeySecret([u8; 32]);

/// Whose answer it is, and from what. There is no constructor without a tenant.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// Always part of the key
    pub tenant: &'a str,
    /// Part of the key where the feature shares answers by user only
    pub user: Option<&'a str>,
    /// Features do not share answers
    pub feature: &'a str,
    /// The resolved model
    pub model: &'a str,
    /// Its revision
    pub revision: &'a str,
}

// === impl KeySecret ===

impl KeySecret {
    /// A secret from 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key of the answer to `asked` for `identity`, with this effective output bound of one choice.
    pub fn cache_key(
        &self,
        identity: &Identity<'_>,
        asked: &Asked<'_>,
        output_tokens: Option<u64>,
    ) -> CacheKey {
        let mut form = Form(Vec::with_capacity(asked.document.text.len() + 256));
        form.text("forebay.v1");
        form.number(asked.operation as u64);
        form.identity(identity);
        match output_tokens {
            Some(tokens) => form.number(tokens),
            None => form.0.push(b'-'),
        }
        let mut fields: Vec<_> = asked
            .document
            .fields
            .iter()
            .filter(|f| !f.value.is_null() && !IGNORED_FIELDS.contains(&f.key.as_ref()))
            .collect();
        fields.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        form.number(fields.len() as u64);
        for field in fields {
            form.text(&field.key);
            form.value(&field.value);
        }
        CacheKey(*blake3::keyed_hash(&self.0, &form.0).as_bytes())
    }

    /// The key of the answer to tensors, of which `parts` are all, each bounded by its place. No part is copied.
    pub fn tensor_key(&self, identity: &Identity<'_>, parts: &[&[u8]]) -> CacheKey {
        let mut form = Form(Vec::with_capacity(256));
        form.text("forebay.tensors.v1");
        form.identity(identity);
        form.number(parts.len() as u64);
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&form.0);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        CacheKey(*hasher.finalize().as_bytes())
    }
}

impl std::fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeySecret(***)")
    }
}

/// The injective form under construction.
struct Form(Vec<u8>);

// === impl Form ===

impl Form {
    fn identity(&mut self, identity: &Identity<'_>) {
        self.text(identity.tenant);
        match identity.user {
            Some(user) => self.text(user),
            None => self.0.push(b'-'),
        }
        self.text(identity.feature);
        self.text(identity.model);
        self.text(identity.revision);
    }

    fn text(&mut self, text: &str) {
        self.0.push(b's');
        self.0.extend_from_slice(&(text.len() as u64).to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn number(&mut self, number: u64) {
        self.0.push(b'u');
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn value(&mut self, value: &Json<'_>) {
        match value {
            Json::Null => self.0.push(b'n'),
            Json::Bool(true) => self.0.push(b't'),
            Json::Bool(false) => self.0.push(b'f'),
            Json::Number(text) => {
                self.0.push(b'd');
                self.0.extend_from_slice(&(text.len() as u64).to_le_bytes());
                self.0.extend_from_slice(text.as_bytes());
            }
            Json::String(text) => self.text(text),
            Json::Array(items) => {
                self.0.push(b'[');
                self.number(items.len() as u64);
                for item in items {
                    self.value(item);
                }
            }
            Json::Object(pairs) => {
                // Source order: servers render tool schemas into the prompt in that order.
                self.0.push(b'{');
                self.number(pairs.len() as u64);
                for (key, value) in pairs {
                    self.text(key);
                    self.value(value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::json::{Bounds, Document};
    use crate::policy::pb::route::Operation;
    use proptest::prelude::*;

    fn identity() -> Identity<'static> {
        Identity { tenant: "t", user: None, feature: "", model: "m", revision: "1" }
    }

    fn key(identity: &Identity<'_>, body: &str) -> CacheKey {
        bounded(identity, body, Some(9))
    }

    fn bounded(identity: &Identity<'_>, body: &str, output_tokens: Option<u64>) -> CacheKey {
        let document = Document::parse(body.as_bytes(), Bounds::default()).unwrap();
        let asked = Asked::read(document, Operation::ChatCompletions).unwrap();
        KeySecret::new([7; 32]).cache_key(identity, &asked, output_tokens)
    }

    const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":0}"#;

    #[test]
    fn it_ignores_only_what_it_says() {
        let same = [
            r#"{"temperature":0,"messages":[{"role":"user","content":"h\u0069"}],"model":"alias","stream":true}"#,
            r#"{ "model":"m", "messages":[{"role":"user","content":"hi"}],"temperature":0,"user":"u","max_tokens":3}"#,
            r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":0,"seed":null,"store":false}"#,
        ];
        for body in same {
            assert_eq!(key(&identity(), body).0, key(&identity(), BODY).0, "{body}");
        }
        let different = [
            r#"{"model":"m","messages":[{"role":"user","content":"hi "}],"temperature":0}"#,
            r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":0.0}"#,
            r#"{"model":"m","messages":[{"role":"system","content":"hi"}],"temperature":0}"#,
            r#"{"model":"m","messages":[{"role":"user","content":"hi","name":"a"}],"temperature":0}"#,
            r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":0,"seed":1}"#,
            r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":0,"tools":[]}"#,
        ];
        for body in different {
            assert_ne!(key(&identity(), body).0, key(&identity(), BODY).0, "{body}");
        }
    }

    #[test]
    fn numbers_above_2_pow_53_stay_apart() {
        let of =
            |seed: &str| key(&identity(), &BODY.replace("\"temperature\":0", &format!("\"seed\":{seed}")));
        assert_ne!(of("9007199254740992").0, of("9007199254740993").0);
    }

    #[test]
    fn every_part_of_the_identity_counts() {
        let base = key(&identity(), BODY);
        let others = [
            Identity { tenant: "t2", ..identity() },
            Identity { user: Some(""), ..identity() },
            Identity { user: Some("u"), ..identity() },
            Identity { feature: "f", ..identity() },
            Identity { model: "m2", ..identity() },
            Identity { revision: "2", ..identity() },
        ];
        for other in others {
            assert_ne!(key(&other, BODY).0, base.0, "{other:?}");
        }
        assert_ne!(bounded(&identity(), BODY, None).0, base.0);
        assert_ne!(bounded(&identity(), BODY, Some(8)).0, base.0);
    }

    #[test]
    fn a_tensor_key_tells_every_part_and_where_it_ends() {
        let base = Identity { tenant: "t", user: None, feature: "f", model: "m", revision: "1" };
        let of = |scope: Identity<'_>, parts: &[&[u8]]| KeySecret::new([7; 32]).tensor_key(&scope, parts).0;
        let scopes = [
            base,
            Identity { tenant: "t2", ..base },
            Identity { user: Some(""), ..base },
            Identity { user: Some("u"), ..base },
            Identity { feature: "", ..base },
            Identity { model: "m2", ..base },
            Identity { revision: "", ..base },
        ];
        let splits: [&[&[u8]]; 6] = [&[], &[b""], &[b"ab"], &[b"a", b"b"], &[b"", b"ab"], &[b"ab", b""]];
        let mut seen = std::collections::HashSet::new();
        for scope in scopes {
            for parts in splits {
                assert!(seen.insert(of(scope, parts)), "{scope:?} {parts:?}");
                assert_eq!(of(scope, parts), of(scope, parts));
            }
        }
        assert_ne!(KeySecret::new([8; 32]).tensor_key(&base, &[b"ab"]).0, of(base, &[b"ab"]));
    }

    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            "-?[1-9][0-9]{0,3}",
            "[a-z{}:,\\[\\]]{0,6}".prop_map(|s| format!("\"{s}\"")),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(|v| format!("[{}]", v.join(","))),
                proptest::collection::btree_map("[a-z]{0,3}", inner, 0..4).prop_map(|m| {
                    let pairs: Vec<String> = m.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
                    format!("{{{}}}", pairs.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn different_values_have_different_forms(a in json(), b in json()) {
            let body = |v: &str| format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}],"logit_bias":{v}}}"#);
            let same = key(&identity(), &body(&a)).0 == key(&identity(), &body(&b)).0;
            prop_assert_eq!(same, a == b);
        }
    }
}
