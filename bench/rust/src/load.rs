//! Owns a run of load: C keep-alive connections that send N distinct requests and time them.
//! Must not know what answers; it reports status, end of stream and durations.
//! On failure: a request that fails is counted under its reason and its connection opened anew; the run goes on.

mod connection;
mod plan;
mod report;
mod supply;

use std::{rc::Rc, sync::Arc};

use tokio::{sync::Semaphore, task::LocalSet};

use self::{connection::Connection, plan::Plan, report::Tally, supply::Supply};
use crate::{args::Args, child::own_cpu_s, error::BenchError};

/// Connections that may await their first answer at once: more would overrun a listener's backlog of 128 and time the
/// kernel's retries instead.
const OPENING_AT_ONCE: usize = 64;

/// What the connections of one run share.
#[derive(Debug)]
struct Shared {
    plan: Plan,
    supply: Supply,
    tally: Tally,
    opening: Arc<Semaphore>,
}

/// Sends the load, prints one line of JSON.
pub fn run(mut args: Args) -> Result<(), BenchError> {
    let plan = Plan::take(&mut args)?;
    args.finish()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("{}", LocalSet::new().block_on(&runtime, drive(plan)));
    Ok(())
}

async fn drive(plan: Plan) -> String {
    let shared = Rc::new(Shared {
        supply: Supply::prepare(&plan),
        plan,
        tally: Tally::default(),
        opening: Arc::new(Semaphore::new(OPENING_AT_ONCE)),
    });
    let cpu_before_s = own_cpu_s();
    let tasks: Vec<_> =
        (0..shared.plan.connections).map(|_| tokio::task::spawn_local(work(Rc::clone(&shared)))).collect();
    for task in tasks {
        if task.await.is_err() {
            shared.tally.error("panic");
        }
    }
    let wall = shared.supply.elapsed();
    shared.tally.to_json(wall, own_cpu_s() - cpu_before_s)
}

/// One connection: takes the next request until none is left.
async fn work(shared: Rc<Shared>) {
    let mut connection = None;
    let mut scratch = Vec::new();
    while let Some(turn) = shared.supply.next(&shared.plan, &mut scratch) {
        if let Some(due) = turn.due {
            tokio::time::sleep_until(due.into()).await;
        }
        let mut open = match connection.take() {
            Some(open) => open,
            None => match shared.open().await {
                Ok(open) => open,
                Err(reason) => {
                    shared.tally.error(reason);
                    continue;
                }
            },
        };
        match open.exchange(turn.request, &shared.plan, &shared.tally).await {
            Ok(()) => connection = Some(open),
            Err(reason) => shared.tally.error(reason),
        }
    }
}

// === impl Shared ===

impl Shared {
    async fn open(&self) -> Result<Connection, &'static str> {
        let turn = Arc::clone(&self.opening).acquire_owned().await.map_err(|_| "opening")?;
        Connection::open(self.plan.address, turn).await.map_err(|_| "connect")
    }
}
