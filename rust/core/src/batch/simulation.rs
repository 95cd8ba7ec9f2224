//! Owns: the assembler beside other policies on a model server that exists only as a cost, in virtual time.
//! Must not know: threads, real clocks; the seed is fixed, so every run is the same.
//! On failure: the figures of every policy, by assertion.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use bytes::Bytes;

use super::*;

mod policies;
mod tests;

use policies::Policy;

const MS: u64 = 1_000_000;
const MAX_ROWS: u64 = 64;

/// What the model server needs for a batch: 4 ms and 2 us for every padded token.
fn cost_ns(padded_tokens: u64) -> u64 {
    4 * MS + 2000 * padded_tokens
}

/// One request on its way.
#[derive(Debug, Clone)]
struct Request {
    id: usize,
    client: usize,
    tenant: &'static str,
    weight: u32,
    priority: Priority,
    length: u64,
    sent_ns: u64,
}

/// Requests that leave together, and the length that they are padded to.
#[derive(Debug, Clone)]
struct Sent {
    requests: Vec<Request>,
    length: u64,
    departed: Departed,
}

/// Those who send.
#[derive(Debug, Clone, Copy)]
struct Clients {
    tenant: &'static str,
    weight: u32,
    priority: Priority,
    lengths: Lengths,
    arrivals: Arrivals,
}

/// When they send.
#[derive(Debug, Clone, Copy)]
enum Arrivals {
    /// So many, each as soon as it has its answer and this time is over
    Closed { clients: usize, pause_ns: u64 },
    /// At random, so many in a second, whatever is answered
    Open { per_s: f64 },
}

/// How long requests are.
#[derive(Debug, Clone, Copy)]
enum Lengths {
    /// Log-normal of median 64 and sigma 1, from 4 to 512
    Mixed,
    /// All alike
    Equal(u64),
}

/// The model server.
#[derive(Debug, Clone, Copy)]
struct Server {
    instances: u32,
    slots: u32,
}

const ONE: Server = Server { instances: 1, slots: 2 };

/// What came of a run.
#[derive(Debug, Default)]
struct Outcome {
    latencies_ns: BTreeMap<&'static str, Vec<u64>>,
    padded_tokens: BTreeMap<&'static str, u64>,
    tokens: u64,
    batches: u64,
    /// Padded tokens of the longest
    longest_batch: u64,
    answered: u64,
    span_ns: u64,
}

/// A generator of random numbers that is the same everywhere (the mixer of Steele, Lea and Flood, 2014).
#[derive(Debug)]
struct Random(u64);

// === impl Random ===

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// Above 0, up to 1.
    fn share(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    fn length(&mut self, lengths: Lengths) -> u64 {
        match lengths {
            Lengths::Equal(length) => length,
            Lengths::Mixed => {
                let normal = (-2.0 * self.share().ln()).sqrt() * (std::f64::consts::TAU * self.share()).cos();
                ((64.0 * normal.exp()) as u64).clamp(4, 512)
            }
        }
    }

    fn gap_ns(&mut self, per_s: f64) -> u64 {
        (-self.share().ln() / per_s * 1e9) as u64
    }
}

// === impl Outcome ===

impl Outcome {
    fn per_s(&self) -> f64 {
        self.answered as f64 * 1e9 / self.span_ns as f64
    }

    fn p_ms(&self, tenant: &str, share: f64) -> f64 {
        let mut all = self.latencies_ns.get(tenant).cloned().unwrap_or_default();
        all.sort_unstable();
        let at = ((all.len() as f64 * share) as usize).min(all.len().saturating_sub(1));
        all.get(at).map_or(f64::NAN, |&ns| ns as f64 / MS as f64)
    }

    fn shown(&self, tenant: &str) -> String {
        format!(
            "{:>6.0}/s p50 {:>6.1} p99 {:>6.1} ms, {:>4.1} rows, padding {:.3}",
            self.per_s(),
            self.p_ms(tenant, 0.5),
            self.p_ms(tenant, 0.99),
            self.answered as f64 / self.batches as f64,
            self.padding()
        )
    }

    fn padding(&self) -> f64 {
        self.padded_tokens.values().sum::<u64>() as f64 / self.tokens as f64
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Done { instance: usize },
    Arrives { clients: usize, client: usize },
    Wake,
}

/// Runs `clients` against a server for `span_ns`, and counts what is answered after a tenth of it.
fn run(policy: &mut dyn Policy, clients: &[Clients], server: Server, span_ns: u64) -> Outcome {
    let mut random = Random(5);
    let mut events: BinaryHeap<Reverse<(u64, Event)>> = BinaryHeap::new();
    for (at, group) in clients.iter().enumerate() {
        match group.arrivals {
            Arrivals::Closed { clients, .. } => {
                for client in 0..clients {
                    events.push(Reverse((random.next() % MS, Event::Arrives { clients: at, client })));
                }
            }
            Arrivals::Open { per_s } => {
                events.push(Reverse((random.gap_ns(per_s), Event::Arrives { clients: at, client: 0 })));
            }
        }
    }
    let mut outcome = Outcome { span_ns: span_ns - span_ns / 10, ..Outcome::default() };
    let mut idle: Vec<usize> = (0..server.instances as usize).rev().collect();
    let mut running: Vec<Option<Sent>> = idle.iter().map(|_| None).collect();
    let mut queued: VecDeque<Sent> = VecDeque::new();
    let mut of_request: Vec<usize> = Vec::new();
    while let Some(Reverse((now_ns, event))) = events.pop() {
        if now_ns > span_ns {
            break;
        }
        match event {
            Event::Wake => {}
            Event::Arrives { clients: at, client } => {
                let group = clients[at];
                let id = of_request.len();
                of_request.push(at);
                let Clients { tenant, weight, priority, lengths, arrivals } = group;
                let length = random.length(lengths);
                policy
                    .push(Request { id, client, tenant, weight, priority, length, sent_ns: now_ns }, now_ns);
                if let Arrivals::Open { per_s } = arrivals {
                    let next_ns = now_ns + random.gap_ns(per_s);
                    events.push(Reverse((next_ns, Event::Arrives { clients: at, client: 0 })));
                }
            }
            Event::Done { instance } => {
                let sent = running[instance].take().unwrap();
                idle.push(instance);
                policy.ended(&sent, now_ns);
                for request in &sent.requests {
                    let at = of_request[request.id];
                    if now_ns > span_ns / 10 {
                        outcome.answered += 1;
                        outcome.tokens += request.length;
                        *outcome.padded_tokens.entry(request.tenant).or_default() += sent.length;
                        let latencies = outcome.latencies_ns.entry(request.tenant).or_default();
                        latencies.push(now_ns - request.sent_ns);
                    }
                    if let Arrivals::Closed { pause_ns, .. } = clients[at].arrivals {
                        let event = Event::Arrives { clients: at, client: request.client };
                        events.push(Reverse((now_ns + pause_ns, event)));
                    }
                }
                outcome.batches += u64::from(now_ns > span_ns / 10);
                outcome.longest_batch = outcome.longest_batch.max(sent.departed.padded_tokens);
            }
        }
        let more_now = events.peek().is_some_and(|Reverse((at_ns, _))| *at_ns == now_ns);
        if more_now {
            continue; // everything of this moment first
        }
        loop {
            while let (Some(&instance), Some(sent)) = (idle.last(), queued.front().cloned()) {
                idle.pop();
                queued.pop_front();
                let done_ns = now_ns + cost_ns(sent.departed.padded_tokens);
                events.push(Reverse((done_ns, Event::Done { instance })));
                running[instance] = Some(sent);
            }
            let in_flight = queued.len() + running.iter().flatten().count();
            let Some(sent) = policy.next(now_ns) else { break };
            assert!(in_flight < server.slots as usize);
            queued.push_back(sent);
        }
        if let Some(at_ns) = policy.wake_at(now_ns).filter(|&at_ns| at_ns > now_ns) {
            events.push(Reverse((at_ns, Event::Wake)));
        }
    }
    outcome
}
