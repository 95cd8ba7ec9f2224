//! Owns: what a request says: its head, its body, and the same request as the upstream shall see it.
//! Must not know: who may send it, what it costs, where it goes.
//! On failure: closed; what cannot be read exactly is refused with the field's name.

mod body;
mod head;
mod shape;

pub use body::{Asked, OutputCap};
pub use head::{CacheControl, Head};
pub use shape::{Shape, shape};
