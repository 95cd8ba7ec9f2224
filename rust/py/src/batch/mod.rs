//! Owns: batches as Python sees them: the queue of the gateway, the assembler alone, a service alone.
//! Must not know: how batches reach a model server.
//! On failure: `BatchRefused` with the reason that a client would read; the queue's own failures are gRPC codes.

mod assembler;
mod model;
mod queue;
mod server;

use pyo3::prelude::*;

pub use queue::BatchQueue;

/// Adds the classes of this folder to the extension module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<model::ModelShape>()?;
    module.add_class::<model::LaneSettings>()?;
    module.add_class::<queue::BatchQueue>()?;
    module.add_class::<queue::BatchQueueStats>()?;
    module.add_class::<queue::UnknownModel>()?;
    module.add_class::<assembler::BatchAssembler>()?;
    module.add_class::<assembler::AssembledBatch>()?;
    module.add_class::<server::BatchServer>()
}
