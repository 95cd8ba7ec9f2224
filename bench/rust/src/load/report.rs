//! Owns what a run of load counted and timed, and its JSON.
//! Must not know how requests are sent.
//! On failure: nothing here can fail; what was not timed is `null`.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt::Display,
    time::Duration,
};

use crate::latency::Durations;

/// Counters of a run on one thread.
#[derive(Debug, Default)]
pub struct Tally {
    statuses: RefCell<BTreeMap<u16, u64>>,
    errors: RefCell<BTreeMap<&'static str, u64>>,
    latency: RefCell<Durations>,
    first_data: RefCell<Durations>,
    events: Cell<u64>,
    open: Cell<u64>,
    most_open: Cell<u64>,
}

// === impl Tally ===

impl Tally {
    /// A whole head arrived.
    pub fn status(&self, status: u16) {
        *self.statuses.borrow_mut().entry(status).or_default() += 1;
    }

    /// A request failed for `reason`.
    pub fn error(&self, reason: &'static str) {
        *self.errors.borrow_mut().entry(reason).or_default() += 1;
    }

    /// A request was answered whole.
    pub fn latency(&self, elapsed: Duration) {
        self.latency.borrow_mut().push(elapsed.as_nanos() as u64);
    }

    /// The first byte of a stream's data arrived.
    pub fn first_data(&self, elapsed: Duration) {
        self.first_data.borrow_mut().push(elapsed.as_nanos() as u64);
    }

    /// A stream ended with this many events.
    pub fn events(&self, events: u64) {
        self.events.set(self.events.get() + events);
    }

    /// A stream's head arrived.
    pub fn open(&self) {
        self.open.set(self.open.get() + 1);
        self.most_open.set(self.most_open.get().max(self.open.get()));
    }

    /// A stream ended, well or not.
    pub fn close(&self) {
        self.open.set(self.open.get() - 1);
    }

    /// One line of JSON.
    pub fn to_json(&self, wall: Duration, own_cpu_s: f64) -> String {
        format!(
            "{{\"statuses\":{},\"errors\":{},\"latency_us\":{},\"first_data_us\":{},\"events\":{},\"most_open\":{},\
             \"wall_s\":{:.6},\"own_cpu_s\":{own_cpu_s:.6}}}",
            object(&self.statuses.borrow()),
            object(&self.errors.borrow()),
            self.latency.borrow_mut().json_us(),
            self.first_data.borrow_mut().json_us(),
            self.events.get(),
            self.most_open.get(),
            wall.as_secs_f64(),
        )
    }
}

fn object(counts: &BTreeMap<impl Display, u64>) -> String {
    let fields: Vec<_> = counts.iter().map(|(name, count)| format!("\"{name}\":{count}")).collect();
    format!("{{{}}}", fields.join(","))
}
