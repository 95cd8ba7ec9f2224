//! Owns what is kept of every call, and its file.
//! Must not know why a call ended as it did.
//! On failure: a file that cannot be written is an error.

use std::path::Path;

use crate::error::BenchError;

/// The code of a call that had no answer in time; no gRPC code is so large.
pub const UNANSWERED: u32 = 255;

/// One call that ended. Times are nanoseconds after the start.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    /// Its group
    pub group: u32,
    /// Its message
    pub message: u32,
    /// When it should begin
    pub due_ns: u64,
    /// When it began
    pub begun_ns: u64,
    /// When it ended
    pub ended_ns: u64,
    /// gRPC code
    pub code: u32,
}

/// All calls of a run, encoded: three times of 8 bytes; group, message, code and the length of the answer, 4 bytes
/// each; the answer. Little-endian.
#[derive(Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
    calls: u64,
}

// === impl Records ===

impl Records {
    /// Adds one call.
    pub fn push(&mut self, answered: &Answered, answer: &[u8]) {
        self.calls += 1;
        for number in [answered.due_ns, answered.begun_ns, answered.ended_ns] {
            self.bytes.extend_from_slice(&number.to_le_bytes());
        }
        for number in [answered.group, answered.message, answered.code, answer.len() as u32] {
            self.bytes.extend_from_slice(&number.to_le_bytes());
        }
        self.bytes.extend_from_slice(answer);
    }

    /// How many there are.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Writes them all.
    pub fn write(&self, path: &Path) -> Result<(), BenchError> {
        Ok(std::fs::write(path, &self.bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_forty_bytes_and_its_answer() {
        let mut records = Records::default();
        let answered =
            Answered { group: 1, message: 2, due_ns: 3, begun_ns: 4, ended_ns: 257, code: UNANSWERED };
        records.push(&answered, b"xy");
        let numbers = [3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(records.bytes[..24], numbers);
        assert_eq!(records.bytes[24..], *b"\x01\0\0\0\x02\0\0\0\xff\0\0\0\x02\0\0\0xy");
        assert_eq!(records.calls(), 1);
    }
}
