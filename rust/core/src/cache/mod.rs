//! Owns the exact cache: complete answers under an opaque key, bounded in bytes, with age and invalidation.
//! Must not know how a key is built, who may read an answer, or whether a request may be cached.
//! On failure: a miss; what cannot be kept or was invalidated meanwhile is not stored.

mod entry;
mod exact;
mod ghost;
mod invalidation;
mod key;
mod queue;
mod shard;
mod stats;

pub use entry::{Entry, Streams};
pub use exact::{CacheConfig, ExactCache, StoreOutcome};
pub use invalidation::{FillTicket, Selector};
pub use key::CacheKey;
pub use stats::CacheStats;
