//! Owns: what a request says: its head, its body, and the same request as the upstream shall see it.
//! Must not know: who may send it, what it costs, where it goes.
//! On failure: closed; what cannot be read exactly is refused with the field's name.

mod body;
mod chat;
mod fields;
mod head;
mod messages;
mod path;
mod responses;
mod seen;
mod shape;

pub use body::{Asked, OutputCap};
pub use head::{CacheControl, Head, uuid};
pub use shape::{Shape, Shaped, UsageOption, shape};
