//! Owns: tokenizers from files, loaded once and again when a file changes; at most so many at a time.
//! Must not know: models, texts' meaning.
//! On failure: closed; a file that cannot be used is an error until it can, looked at again at most once a second.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ::tokenizers::Tokenizer;
use ahash::AHashMap;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;

/// More files than any fleet names; above it the one that was looked at longest ago goes.
const MAX_FILES: usize = 32;
/// The largest tokenizers known have 30 MiB.
const MAX_FILE_BYTES: u64 = 128 << 20;
/// How long a look at a file holds.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Tokenizers by the file that they come from.
#[derive(Default)]
pub(crate) struct Tokenizers {
    files: Mutex<AHashMap<Arc<str>, Looked>>,
}

/// A tokenizer and the state of the file that it was read from.
#[derive(Debug)]
struct Read {
    tokenizer: Arc<Tokenizer>,
    modified: SystemTime,
    bytes: u64,
}

/// The last look at a file; everyone who asks meanwhile waits for the same one.
struct Looked {
    at: Instant,
    outcome: Shared<BoxFuture<'static, Outcome>>,
}

type Outcome = Result<Arc<Read>, Unusable>;

/// Why a file cannot be used, for the operator. It names the file, so no client reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unusable(pub String);

// === impl Tokenizers ===

impl Tokenizers {
    /// The tokenizer of a file, loaded away from this thread if nobody has it.
    pub(super) async fn of_file(&self, path: &str) -> Result<Arc<Tokenizer>, Unusable> {
        let outcome = self.look(path, Instant::now());
        outcome.await.map(|read| Arc::clone(&read.tokenizer))
    }

    fn look(&self, path: &str, now: Instant) -> Shared<BoxFuture<'static, Outcome>> {
        let mut files = self.files.lock();
        let known = files.get(path);
        if let Some(looked) = known
            && (now.saturating_duration_since(looked.at) < LOOK_AGAIN_AFTER
                || looked.outcome.peek().is_none())
        {
            return looked.outcome.clone();
        }
        let before = known.and_then(|looked| looked.outcome.peek().cloned()?.ok());
        if known.is_none()
            && files.len() >= MAX_FILES
            && let Some(oldest) =
                files.iter().min_by_key(|(_, looked)| looked.at).map(|(path, _)| Arc::clone(path))
        {
            files.remove(&oldest);
        }
        let file = PathBuf::from(path);
        let task = tokio::task::spawn_blocking(move || read(&file, before));
        let outcome = async move { task.await.unwrap_or_else(|error| Err(Unusable(error.to_string()))) };
        let outcome = outcome.boxed().shared();
        files.insert(path.into(), Looked { at: now, outcome: outcome.clone() });
        outcome
    }
}

impl std::fmt::Debug for Tokenizers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tokenizers").field(&self.files.lock().len()).finish()
    }
}

/// What the file holds now; `before` again if it is unchanged.
fn read(path: &Path, before: Option<Arc<Read>>) -> Outcome {
    let unusable = |reason: &dyn std::fmt::Display| {
        Unusable(format!("the tokenizer file `{}` cannot be used: {reason}", path.display()))
    };
    let mut file = fs::File::open(path).map_err(|error| unusable(&error))?;
    let metadata = file.metadata().map_err(|error| unusable(&error))?;
    let modified = metadata.modified().map_err(|error| unusable(&error))?;
    let bytes = metadata.len();
    if let Some(before) = before.filter(|before| (before.modified, before.bytes) == (modified, bytes)) {
        return Ok(before);
    }
    if bytes > MAX_FILE_BYTES {
        return Err(unusable(&format_args!("it has {bytes} bytes, at most {MAX_FILE_BYTES} are read")));
    }
    let mut text = Vec::new();
    file.by_ref().take(MAX_FILE_BYTES).read_to_end(&mut text).map_err(|error| unusable(&error))?;
    let mut tokenizer = Tokenizer::from_bytes(&text).map_err(|error| unusable(&error))?;
    // A text that is too long is refused and not cut, and padding is the batch's business.
    tokenizer.with_truncation(None).map_err(|error| unusable(&error))?;
    tokenizer.with_padding(None);
    Ok(Arc::new(Read { tokenizer: Arc::new(tokenizer), modified, bytes }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::openai::testing::{Folder, WORDS};

    #[tokio::test]
    async fn a_file_is_loaded_once_and_again_when_it_changes() {
        let folder = Folder::new("tokenizers");
        let path = folder.write("tokenizer.json", WORDS);
        let table = Tokenizers::default();
        let now = Instant::now();
        let first = table.look(&path, now).await.unwrap();
        let again = table.look(&path, now + LOOK_AGAIN_AFTER / 2).await.unwrap();
        assert!(Arc::ptr_eq(&first, &again), "it was looked at twice within a second");
        let later = table.look(&path, now + LOOK_AGAIN_AFTER).await.unwrap();
        assert!(Arc::ptr_eq(&first, &later), "an unchanged file was read again");
        folder.write("tokenizer.json", &WORDS.replace("\"world\": 5", "\"globe\": 5"));
        let changed = table.look(&path, now + 2 * LOOK_AGAIN_AFTER).await.unwrap();
        let ids = changed.tokenizer.encode_fast("hello globe", true).unwrap();
        assert_eq!(ids.get_ids(), [2, 4, 5, 3]);
    }

    #[tokio::test]
    async fn a_bad_file_is_an_error_until_it_is_good() {
        let folder = Folder::new("bad-tokenizers");
        let path = folder.write("tokenizer.json", "{");
        let table = Tokenizers::default();
        let now = Instant::now();
        let bad = table.look(&path, now).await.unwrap_err();
        assert!(bad.0.contains(&path) && bad.0.contains("cannot be used"), "{}", bad.0);
        folder.write("tokenizer.json", WORDS);
        assert!(table.look(&path, now).await.is_err(), "a failure holds for a second");
        assert!(table.look(&path, now + LOOK_AGAIN_AFTER).await.is_ok());
        assert!(table.look(&format!("{path}.absent"), now).await.is_err());
    }

    #[tokio::test]
    async fn the_table_is_bounded() {
        let folder = Folder::new("many-tokenizers");
        let table = Tokenizers::default();
        let now = Instant::now();
        for at in 0..MAX_FILES + 3 {
            let path = folder.write(&format!("{at}.json"), WORDS);
            table.look(&path, now + Duration::from_nanos(at as u64)).await.unwrap();
        }
        let files = table.files.lock();
        assert_eq!(files.len(), MAX_FILES);
        assert!(!files.keys().any(|path| path.ends_with("/0.json")));
    }
}
