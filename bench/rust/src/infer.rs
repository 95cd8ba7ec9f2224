//! Owns a run of inference calls: messages that were encoded before, sent by clients that wait or at times that are due.
//! Must not know what a message says; it keeps every answer whole for whoever does.
//! On failure: a call that fails is kept with its gRPC code; only what cannot be read or connected ends the run.

mod call;
mod clock;
mod plan;
mod record;

use std::{cell::RefCell, rc::Rc, time::Duration};

use tokio::{sync::mpsc, task::LocalSet, time::timeout};

use self::{
    call::Caller,
    clock::Due,
    plan::{Group, Plan, Sending},
    record::{Answered, Records, UNANSWERED},
};
use crate::{args::Args, child::own_cpu_s, error::BenchError};

/// What the tasks of one run share.
struct Shared {
    plan: Plan,
    callers: Vec<Caller>,
    records: RefCell<Records>,
    start: std::time::Instant,
}

/// Sends the plan, writes every answer, prints one line of JSON.
pub fn run(mut args: Args) -> Result<(), BenchError> {
    let plan = Plan::take(&mut args)?;
    args.finish()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("{}", LocalSet::new().block_on(&runtime, drive(plan))?);
    Ok(())
}

async fn drive(plan: Plan) -> Result<String, BenchError> {
    let mut callers = Vec::new();
    for _ in 0..plan.connections {
        callers.push(Caller::connect(&plan.address).await?);
    }
    let cpu_before_s = own_cpu_s();
    let start = std::time::Instant::now();
    let shared = Rc::new(Shared { plan, callers, records: RefCell::default(), start });
    let senders: Vec<_> = (0..shared.plan.groups.len())
        .map(|group| tokio::task::spawn_local(send_group(Rc::clone(&shared), group)))
        .collect();
    for sender in senders {
        let _ = sender.await;
    }
    let cpu_s = own_cpu_s() - cpu_before_s;
    let wall_s = start.elapsed().as_secs_f64();
    let records = shared.records.borrow();
    records.write(&shared.plan.out)?;
    Ok(format!("{{\"calls\":{},\"wall_s\":{wall_s:.6},\"own_cpu_s\":{cpu_s:.6}}}", records.calls()))
}

/// Sends one group to its end.
async fn send_group(shared: Rc<Shared>, group: usize) {
    match shared.plan.groups[group].sending {
        Sending::Closed { clients } => {
            let turns = Rc::new(RefCell::new(0..shared.plan.groups[group].schedule.len()));
            let tasks: Vec<_> = (0..clients)
                .map(|client| {
                    tokio::task::spawn_local(wait_and_send(
                        Rc::clone(&shared),
                        group,
                        client,
                        Rc::clone(&turns),
                    ))
                })
                .collect();
            for task in tasks {
                let _ = task.await;
            }
        }
        Sending::Open => send_when_due(shared, group).await,
    }
}

/// One client of a closed loop: its next call follows its last answer.
async fn wait_and_send(
    shared: Rc<Shared>,
    group: usize,
    client: usize,
    turns: Rc<RefCell<std::ops::Range<usize>>>,
) {
    while shared.start.elapsed() < shared.plan.last {
        let Some(turn) = turns.borrow_mut().next() else { return };
        let due_ns = shared.elapsed_ns();
        shared.call(group, turn, client, due_ns).await;
    }
}

/// Calls that begin when they are due, whatever has been answered.
async fn send_when_due(shared: Rc<Shared>, group: usize) {
    let times: Vec<u64> = shared.plan.groups[group].schedule.iter().map(|entry| entry.due_ns).collect();
    let (sender, mut due) = mpsc::unbounded_channel();
    Due { start: shared.start, times }.tell(sender);
    let mut tasks = Vec::new();
    while let Some(turn) = due.recv().await {
        let shared = Rc::clone(&shared);
        tasks.push(tokio::task::spawn_local(async move {
            let due_ns = shared.plan.groups[group].schedule[turn].due_ns;
            shared.call(group, turn, turn, due_ns).await;
        }));
    }
    for task in tasks {
        let _ = task.await;
    }
}

// === impl Shared ===

impl Shared {
    fn elapsed_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// One call and its record; what is not answered in time is recorded too.
    async fn call(&self, number: usize, turn: usize, lot: usize, due_ns: u64) {
        let group: &Group = &self.plan.groups[number];
        let message = group.schedule[turn].message;
        let begun_ns = self.elapsed_ns();
        let caller = &self.callers[lot % self.callers.len()];
        let call = caller.call(self.plan.messages[message as usize].clone(), &group.metadata);
        let (code, answer) =
            timeout(self.time_left(), call).await.unwrap_or((UNANSWERED, bytes::Bytes::new()));
        let answered =
            Answered { group: number as u32, message, due_ns, begun_ns, ended_ns: self.elapsed_ns(), code };
        self.records.borrow_mut().push(&answered, &answer);
    }

    /// Until the last call may end.
    fn time_left(&self) -> Duration {
        (self.plan.last + self.plan.drain).saturating_sub(self.start.elapsed())
    }
}
