//! Owns the reading of `--name value` options.
//! Must not know what any option means.
//! On failure: an unknown, missing or unreadable option is an error that names it.

use std::{collections::BTreeMap, fmt::Display, str::FromStr};

use crate::error::BenchError;

/// Options of one subcommand, each taken once by the code that understands it.
#[derive(Debug, Default)]
pub struct Args {
    values: BTreeMap<String, Vec<String>>,
}

// === impl Args ===

impl Args {
    /// Splits `--name value` pairs; a name without a value is a flag.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, BenchError> {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut words = words.into_iter().peekable();
        while let Some(word) = words.next() {
            if !word.starts_with("--") {
                return Err(BenchError::option(&word, "is not an option; options start with `--`"));
            }
            let value = words.next_if(|next| !next.starts_with("--"));
            values.entry(word).or_default().push(value.unwrap_or_default());
        }
        Ok(Self { values })
    }

    /// The value of `name`, or `default` if it was not given.
    pub fn get<T: FromStr<Err: Display>>(&mut self, name: &str, default: T) -> Result<T, BenchError> {
        match self.values.remove(name).and_then(|mut all| all.pop()) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|error| BenchError::option(name, format!("has the value `{text}`: {error}"))),
        }
    }

    /// Every value given for `name`, in order.
    pub fn all(&mut self, name: &str) -> Vec<String> {
        self.values.remove(name).unwrap_or_default()
    }

    /// Whether the flag `name` was given.
    pub fn flag(&mut self, name: &str) -> bool {
        self.values.remove(name).is_some()
    }

    /// Refuses what nobody took.
    pub fn finish(self) -> Result<(), BenchError> {
        match self.values.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(BenchError::option(&name, "is not an option of this command")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn args(line: &str) -> Args {
        Args::parse(line.split(' ').map(str::to_owned)).unwrap()
    }

    #[test]
    fn reads_values_flags_and_repeats() {
        let mut args = args("--n 3 --flag --header a --header b");
        assert_eq!(args.get("--n", 0).unwrap(), 3);
        assert_eq!(args.get("--absent", 7).unwrap(), 7);
        assert!(args.flag("--flag"));
        assert_eq!(args.all("--header"), ["a", "b"]);
        args.finish().unwrap();
    }

    #[test]
    fn refuses_the_unknown_and_the_unreadable() {
        assert_eq!(args("--what 1").finish().unwrap_err().slug(), "option");
        assert!(args("--n three").get("--n", 0).is_err());
    }
}
