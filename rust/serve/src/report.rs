//! Owns: lines for the log from the request path, as JSON on standard error, at most one a second for each kind.
//! Must not know: prompts, keys; only what an operator must mend.
//! On failure: a line that cannot be written is lost.

use std::collections::HashMap;
use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

const EVERY: Duration = Duration::from_secs(1);

/// The log of the request path.
#[derive(Debug, Default)]
pub struct Report {
    last: Mutex<HashMap<&'static str, (Instant, u64)>>,
}

impl Report {
    /// Writes a line, or counts it where one of its kind was just written. `message` is ASCII without quotes.
    pub fn say(&self, kind: &'static str, message: &str) {
        let mut last = self.last.lock();
        let now = Instant::now();
        let suppressed = match last.get_mut(kind) {
            Some((at, count)) if now.duration_since(*at) < EVERY => {
                *count += 1;
                return;
            }
            Some((_, count)) => *count,
            None => 0,
        };
        last.insert(kind, (now, 0));
        drop(last);
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let mut line = format!(
            "{{\"unix_s\":{unix_s},\"level\":\"error\",\"event\":\"{kind}\",\"suppressed\":{suppressed},\"message\":"
        );
        forebay_core::refusal::push_json_string(&mut line, message);
        line.push_str("}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_kind_is_said_once_a_second_and_the_rest_is_counted() {
        let report = Report::default();
        let suppressed = |kind| report.last.lock()[kind].1;
        for _ in 0..5 {
            report.say("one", "a \"quoted\" line");
        }
        report.say("two", "");
        assert_eq!((suppressed("one"), suppressed("two")), (4, 0));
        let earlier = Instant::now().checked_sub(EVERY).unwrap();
        report.last.lock().get_mut("one").unwrap().0 = earlier;
        report.say("one", "again");
        assert_eq!(suppressed("one"), 0, "the line told how many were left out");
    }
}
