//! Owns what a run sends, as its options and files say it.
//! Must not know sockets.
//! On failure: an option or a file that cannot be read is an error that names it.

use std::{path::PathBuf, str::FromStr, time::Duration};

use bytes::Bytes;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};

use crate::{args::Args, error::BenchError};

/// Bytes of one entry of a schedule.
const ENTRY: usize = 12;

/// A whole run.
#[derive(Debug)]
pub struct Plan {
    /// `host:port`
    pub address: String,
    /// How many connections the calls are dealt out to
    pub connections: usize,
    /// Encoded requests
    pub messages: Vec<Bytes>,
    /// Who sends them
    pub groups: Vec<Group>,
    /// No client of a closed loop begins a call after this
    pub last: Duration,
    /// What is not answered so long after that has failed
    pub drain: Duration,
    /// Where the records go
    pub out: PathBuf,
}

/// Calls with the same metadata, sent in the same manner.
#[derive(Debug)]
pub struct Group {
    /// Closed or open
    pub sending: Sending,
    /// What is sent, in order
    pub schedule: Vec<Entry>,
    /// On every call
    pub metadata: MetadataMap,
}

/// What makes a call begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// An answer to the call before
    Closed {
        /// How many wait for answers
        clients: usize,
    },
    /// The time
    Open,
}

/// One call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// After the start; a closed loop does not look at it
    pub due_ns: u64,
    /// Which message
    pub message: u32,
}

// === impl Plan ===

impl Plan {
    /// `--messages` is a file of requests, each behind its length in 4 bytes. `--group` is
    /// `clients=N;schedule=FILE;name=value…`: 0 clients are an open loop, every other name is metadata. A schedule is a
    /// file of entries: 8 bytes of nanoseconds, 4 bytes of message. All numbers are little-endian.
    pub fn take(args: &mut Args) -> Result<Self, BenchError> {
        let messages = std::fs::read(args.get("--messages", String::new())?)?;
        let groups: Result<_, _> = args.all("--group").iter().map(|text| Group::read(text)).collect();
        let plan = Self {
            address: args.get("--addr", String::new())?,
            connections: args.get("--connections", 4_usize)?.max(1),
            messages: split(&Bytes::from(messages)),
            groups: groups?,
            last: Duration::from_secs_f64(args.get("--seconds", 10.0)?),
            drain: Duration::from_secs_f64(args.get("--drain-seconds", 30.0)?),
            out: args.get("--out", PathBuf::new().display().to_string())?.into(),
        };
        let known = plan.messages.len();
        if let Some(entry) =
            plan.groups.iter().flat_map(|group| &group.schedule).find(|entry| entry.message as usize >= known)
        {
            let why = format!("names message {}, but `--messages` has {known}", entry.message);
            return Err(BenchError::option("--group", why));
        }
        Ok(plan)
    }
}

// === impl Group ===

impl Group {
    fn read(text: &str) -> Result<Self, BenchError> {
        let wrong = |why: String| BenchError::option("--group", why);
        let mut group = Self { sending: Sending::Open, schedule: Vec::new(), metadata: MetadataMap::new() };
        for part in text.split(';') {
            let (name, value) = part
                .split_once('=')
                .ok_or_else(|| wrong(format!("has `{part}`, which is no `name=value`")))?;
            match name {
                "clients" => {
                    let clients = value.parse().map_err(|error| wrong(format!("has `{part}`: {error}")))?;
                    if clients > 0 {
                        group.sending = Sending::Closed { clients };
                    }
                }
                "schedule" => group.schedule = entries(&std::fs::read(value)?),
                _ => {
                    let key = AsciiMetadataKey::from_str(name);
                    let value = AsciiMetadataValue::from_str(value);
                    let (Ok(key), Ok(value)) = (key, value) else {
                        return Err(wrong(format!("has `{part}`, which cannot be metadata")));
                    };
                    group.metadata.append(key, value);
                }
            }
        }
        Ok(group)
    }
}

/// Pieces behind their lengths; what is left of a file that was cut is left out.
fn split(whole: &Bytes) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while let Some(head) = whole.get(at..at + 4) {
        let length = head.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        if at + 4 + length > whole.len() {
            break;
        }
        pieces.push(whole.slice(at + 4..at + 4 + length));
        at += 4 + length;
    }
    pieces
}

fn entries(bytes: &[u8]) -> Vec<Entry> {
    let number = |part: &[u8]| part.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    bytes
        .chunks_exact(ENTRY)
        .map(|entry| Entry { due_ns: number(&entry[..8]), message: number(&entry[8..]) as u32 })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn messages_stand_behind_their_lengths() {
        let whole = Bytes::from_static(b"\x02\0\0\0ab\0\0\0\0\x01\0\0\0c\x09\0\0\0cut");
        assert_eq!(split(&whole), ["ab", "", "c"]);
    }

    #[test]
    fn a_schedule_is_read_little_endian() {
        let bytes = [1, 1, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0];
        assert_eq!(entries(&bytes), [Entry { due_ns: 257, message: 7 }]);
    }

    #[test]
    fn a_group_names_its_clients_and_metadata() {
        let group = Group::read("clients=3;authorization=Bearer a=b").unwrap();
        assert_eq!(group.sending, Sending::Closed { clients: 3 });
        assert_eq!(group.metadata.get("authorization").unwrap(), "Bearer a=b");
        assert_eq!(Group::read("clients=0").unwrap().sending, Sending::Open);
        assert!(Group::read("clients").is_err());
    }
}
