//! Owns: what this front's tests share: a small tokenizer, a folder of their own, a parsed body.
//! Must not know: any one test.
//! On failure: the test fails.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use forebay_core::batch::{Batching, Datatype, ModelShape, OutputSpec, Presence, TensorSpec};

/// Words, `[CLS]` before and `[SEP]` behind, and a truncation and a padding that must not count.
pub(crate) const WORDS: &str = r#"{
  "version": "1.0",
  "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
  "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
    "pad_type_id": 0, "pad_token": "[PAD]"},
  "added_tokens": [],
  "normalizer": {"type": "Lowercase"},
  "pre_tokenizer": {"type": "Whitespace"},
  "post_processor": {"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
      {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
      "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
  "decoder": null,
  "model": {"type": "WordLevel", "unk_token": "[UNK]",
    "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "hello": 4, "world": 5}}
}"#;

/// A folder that goes with the test.
pub(crate) struct Folder(PathBuf);

// === impl Folder ===

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("forebay-openai-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Writes a file and gives its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A model with these inputs (required) and outputs; `None`: its requests pass whole.
pub(crate) fn shape_of(
    max_rows: Option<u64>,
    inputs: &[(&str, Datatype, &[i64])],
    outputs: &[&str],
) -> ModelShape {
    let spec = |&(name, datatype, dims): &(&str, Datatype, &[i64])| TensorSpec {
        name: name.into(),
        datatype,
        dims: dims.to_vec(),
        presence: Presence::Required,
        ragged: None,
    };
    ModelShape {
        inputs: inputs.iter().map(spec).collect(),
        outputs: outputs.iter().map(|&name| OutputSpec { name: name.into(), ragged_dim: None }).collect(),
        mask: None,
        batching: max_rows.map_or(Batching::Whole, |max_rows| Batching::Rows { max_rows }),
    }
}
