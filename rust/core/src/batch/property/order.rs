//! Budgets, capacity and order hold, the time to wake is exact, and nobody is lost or kept back for ever.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const MAX_ROWS: u64 = 8;
const BOUNDS: Bounds = Bounds { max_rows: 60, max_tokens: 900, max_bytes: 900 };
/// What a lane lets pass, and one for each of the two other priorities.
const PASSED: usize = 18;

#[derive(Debug, Clone)]
enum Step {
    Push(Sent),
    Next,
    Done { at: usize, answered: bool },
    Again,
    Cancel(usize),
    Pass(u64),
    Open(usize),
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    rows: u64,
    length: u64,
    tenant: usize,
    priority: Priority,
    lane: usize,
    wait_ns: u64,
}

fn sent() -> impl Strategy<Value = Sent> {
    let priority = prop_oneof![Just(Priority::P0), Just(Priority::P1), Just(Priority::P2)];
    (1..6_u64, 1..60_u64, 0..3_usize, priority, 0..2_usize, 0..1000_u64).prop_map(
        |(rows, length, tenant, priority, lane, wait_ns)| Sent {
            rows,
            length,
            tenant,
            priority,
            lane,
            wait_ns,
        },
    )
}

impl Sent {
    fn request(self, model: &ModelShape, now_ns: u64, waiter: usize) -> PendingRequest<usize> {
        let tenant = Tenant { name: self.tenant.to_string().into(), weight: 1 };
        let checked = bytes_request(model, self.rows, self.length);
        let deadline_ns = now_ns + self.wait_ns;
        PendingRequest { checked, tenant, priority: self.priority, deadline_ns, waiter }
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => sent().prop_map(Step::Push),
        4 => Just(Step::Next),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(at, answered)| Step::Done { at, answered }),
        1 => Just(Step::Again),
        1 => any::<usize>().prop_map(Step::Cancel),
        1 => (0..5_000_000_u64).prop_map(Step::Pass),
        1 => any::<usize>().prop_map(Step::Open),
    ]
}

fn settings(which: usize) -> LaneSettings {
    let capacity = Capacity { instances: 1 + which as u32 % 2, slots: 2 + which as u32 % 3 };
    let mut settings = LaneSettings::of(capacity);
    settings.max_padded_tokens = [0, 100][which % 2];
    settings.preferred_rows = [&[][..], &[2, 6]][which / 2 % 2].into();
    if which.is_multiple_of(3) {
        settings.classes = LengthClasses::Fixed([10, 40].into());
    }
    settings
}

proptest! {
    #[test]
    fn budgets_hold_the_time_to_wake_is_exact_and_nobody_is_lost(steps in vec(step(), 1..150)) {
        let model = bytes_model(MAX_ROWS);
        let lanes = [lane("a"), lane("b")];
        let mut assembler = Assembler::new(BOUNDS);
        let mut now = [settings(0), settings(0)];
        for (key, settings) in lanes.iter().zip(&now) {
            assembler.open(key.clone(), settings);
        }
        let mut now_ns = 0;
        let mut waiting: BTreeMap<usize, Sent> = BTreeMap::new();
        let mut tickets = Vec::new();
        let mut pushed = 0;
        let mut in_flight: [Vec<Departed>; 2] = [Vec::new(), Vec::new()];
        for step in steps {
            match step {
                Step::Push(sent) => {
                    let at = pushed;
                    let request = sent.request(&model, now_ns, at);
                    let load = assembler.load("pool");
                    let tenants: BTreeSet<usize> = waiting.values().map(|sent| sent.tenant).collect();
                    let is_new = !tenants.contains(&sent.tenant);
                    let bounds = BOUNDS.of(if is_new { Priority::P0 } else { request.priority });
                    let own: Vec<&Sent> = waiting.values().filter(|other| other.tenant == sent.tenant).collect();
                    let own_rows: u64 = own.iter().map(|sent| sent.rows).sum();
                    let own_tokens: u64 = own.iter().map(|sent| sent.rows * sent.length).sum();
                    let bytes = |sent: &&Sent| bytes_request(&model, sent.rows, sent.length).bytes();
                    let own_bytes: u64 = own.iter().map(bytes).sum();
                    let keeps = |waiting: u64, own: u64, given: u64, max: u64| {
                        let share = max / tenants.len().max(1) as u64;
                        waiting + given <= max && (is_new || own + given <= share || waiting + given <= max / 2)
                    };
                    let fits = keeps(load.rows, own_rows, sent.rows, bounds.max_rows)
                        && keeps(load.tokens, own_tokens, request.checked.tokens(), bounds.max_tokens)
                        && keeps(load.bytes, own_bytes, request.checked.bytes(), bounds.max_bytes);
                    match assembler.push(&lanes[sent.lane], request, now_ns) {
                        Ok(ticket) => {
                            prop_assert!(fits);
                            tickets.push((at, ticket));
                            waiting.insert(at, sent);
                            pushed += 1;
                        }
                        Err(error) => {
                            prop_assert!(!fits);
                            prop_assert_eq!(error.class(), Class::Load);
                        }
                    }
                }
                Step::Next => {
                    let due = assembler.wake_at(now_ns).is_some_and(|at_ns| at_ns <= now_ns);
                    let batch = assembler.next(now_ns);
                    prop_assert_eq!(due, batch.is_some());
                    let Some(batch) = batch else { continue };
                    let at = usize::from(batch.lane == lanes[1]);
                    let budget = now[at].max_padded_tokens;
                    prop_assert!(batch.rows <= MAX_ROWS);
                    prop_assert!(
                        batch.members.len() == 1 || budget == 0 || batch.padded_tokens() <= budget
                    );
                    prop_assert_eq!(batch.rows, batch.members.iter().map(|member| member.rows).sum::<u64>());
                    prop_assert!(batch.members.iter().all(|member| member.length <= batch.length));
                    prop_assert!(in_flight[at].len() < now[at].capacity.slots as usize);
                    for member in &batch.members {
                        let sent = waiting.remove(&member.waiter);
                        prop_assert_eq!(sent.map(|sent| (sent.lane, sent.length)), Some((at, member.length)));
                    }
                    in_flight[at].push(batch.departed());
                }
                Step::Done { at, answered } => {
                    let lane = at % 2;
                    if !in_flight[lane].is_empty() {
                        let count = in_flight[lane].len();
                        let departed = in_flight[lane].remove(at / 2 % count);
                        assembler.ended(&departed, answered.then_some(now_ns));
                    }
                }
                Step::Again => {
                    if let Some(departed) = in_flight[0].first() {
                        assembler.ended(departed, None);
                        assembler.again(&lanes[0]);
                    }
                }
                Step::Cancel(any) if !tickets.is_empty() => {
                    let (at, ticket) = &tickets[any % tickets.len()];
                    let back = waiting.remove(at).map(|_| *at);
                    prop_assert_eq!(assembler.cancel(ticket), back);
                }
                Step::Cancel(_) => {}
                Step::Pass(ns) => now_ns += ns,
                Step::Open(which) => {
                    now[which % 2] = settings(which / 2);
                    assembler.open(lanes[which % 2].clone(), &now[which % 2]);
                }
            }
            let load = assembler.load("pool");
            prop_assert_eq!(load.requests, waiting.len() as u64);
            prop_assert_eq!(load.rows, waiting.values().map(|sent| sent.rows).sum::<u64>());
            for (at, view) in assembler.lanes().enumerate() {
                prop_assert_eq!(view.in_flight as usize, in_flight[at].len());
                for priority in Priority::ALL {
                    let of = waiting.values().filter(|sent| sent.lane == at && sent.priority == priority);
                    prop_assert_eq!(view.waiting[priority as usize].requests, of.count() as u64);
                }
            }
        }
        let left: BTreeSet<usize> = assembler.drain().into_iter().collect();
        prop_assert_eq!(left, waiting.into_keys().collect::<BTreeSet<usize>>());
        prop_assert_eq!(assembler.wake_at(now_ns), None);
    }

    #[test]
    fn the_most_urgent_leads_and_of_a_tenant_the_earliest_due(all in vec(sent(), 1..80)) {
        let (model, key) = (bytes_model(MAX_ROWS), lane("a"));
        let mut assembler = Assembler::new(ROOMY);
        assembler.open(key.clone(), &LaneSettings::of(Capacity { instances: 99, slots: 99 }));
        let mut waiting: BTreeMap<usize, Sent> = BTreeMap::new();
        for (at, &sent) in all.iter().enumerate() {
            assembler.push(&key, sent.request(&model, 0, at), 0).unwrap();
            waiting.insert(at, sent);
        }
        let mut passed = [0; 3];
        while let Some(batch) = assembler.next(0) {
            let head = waiting[&batch.members[0].waiter];
            let same = |sent: &Sent| sent.priority == head.priority && sent.tenant == head.tenant;
            let rivals = waiting.iter().filter(|(_, sent)| same(sent));
            let first = rivals.map(|(&at, sent)| (sent.wait_ns, at)).min();
            prop_assert_eq!(first, Some((head.wait_ns, batch.members[0].waiter)));
            for priority in Priority::ALL {
                let waits = waiting.values().any(|sent| sent.priority == priority);
                let at = priority as usize;
                prop_assert!(!waits || priority >= head.priority || passed[head.priority as usize] >= 16);
                passed[at] = if waits && priority != head.priority { passed[at] + 1 } else { 0 };
                prop_assert!(passed[at] <= PASSED);
            }
            for member in batch.members {
                waiting.remove(&member.waiter);
            }
        }
        prop_assert!(waiting.is_empty());
    }

    #[test]
    fn tenants_that_always_wait_differ_by_two_batches_at_most(
        lengths in vec(1..60_u64, 2..5),
        rows in vec(1..5_u64, 5),
    ) {
        let (model, key) = (bytes_model(MAX_ROWS), lane("a"));
        let mut assembler = Assembler::new(ROOMY);
        assembler.open(key.clone(), &LaneSettings::of(Capacity { instances: 1, slots: 1 }));
        let mut padded = vec![0_u64; lengths.len()];
        let mut waiting = vec![0; lengths.len()];
        for now_ns in 0..60 {
            for (tenant, length) in lengths.iter().enumerate() {
                while waiting[tenant] < 12 {
                    let checked = bytes_request(&model, rows[(tenant + waiting[tenant]) % 5], *length);
                    let name = Tenant { name: tenant.to_string().into(), weight: 1 };
                    let request = PendingRequest { tenant: name, ..pending(checked, tenant) };
                    assembler.push(&key, request, now_ns).unwrap();
                    waiting[tenant] += 1;
                }
            }
            let batch = assembler.next(now_ns).unwrap();
            assembler.ended(&batch.departed(), None);
            for member in batch.members {
                waiting[member.waiter] -= 1;
                padded[member.waiter] += member.rows * batch.length;
            }
            let (least, most) = (padded.iter().min().unwrap(), padded.iter().max().unwrap());
            prop_assert!(most - least <= 2 * MAX_ROWS * 60, "{:?}", padded);
        }
    }
}
