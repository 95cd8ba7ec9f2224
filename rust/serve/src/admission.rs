//! Owns: the engine as the batch service sees it.
//! Must not know: tensors, batches.
//! On failure: closed; an id without an open reservation is refused.

use std::sync::Arc;

use forebay_core::engine::{Clock, Engine};
use forebay_core::refusal::Refusal;
use tonic::Code;

use crate::clock::SystemClock;
use crate::kserve::{Admission, Admitted, BatchEnd, Denied};

/// Admission by open reservations.
pub struct EngineAdmission {
    engine: Arc<Engine>,
    clock: SystemClock,
}

// === impl EngineAdmission ===

impl EngineAdmission {
    /// Over an engine.
    pub fn new(engine: Arc<Engine>, clock: SystemClock) -> Self {
        Self { engine, clock }
    }
}

impl Admission for EngineAdmission {
    fn admitted(&self, id: u128) -> Option<Admitted> {
        let caller = self.engine.batch_caller(id)?;
        Some(Admitted {
            pool: caller.pool.clone(),
            tenant: caller.tenant.clone(),
            key: caller.key.clone(),
            models: Arc::new(move |model| caller.may_use(model).is_ok()),
        })
    }

    fn model(&self, id: u128, model: &str, _rows: u64) -> Result<Arc<str>, Denied> {
        let denied = |refusal: &Refusal| {
            let wire = refusal.wire();
            Denied { code: Code::from_i32(wire.grpc as i32), slug: wire.code, message: wire.message }
        };
        let caller = self.engine.batch_caller(id).ok_or_else(|| denied(&Refusal::UnknownKey))?;
        caller.may_use(model).map_err(|refusal| denied(&refusal))
    }

    fn finished(&self, id: u128, _end: BatchEnd) {
        self.engine.batch_finished(id, self.clock.now_ns());
    }
}
