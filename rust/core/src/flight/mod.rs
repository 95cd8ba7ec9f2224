//! Owns equal requests in flight: one leads, the others follow it to its end.
//! Must not know how anyone waits: a follower leaves a handle here and gets it back with its outcome.
//! On failure: followers are freed: one of them leads, or they go alone. Nobody is left behind.

mod flights;
mod outcome;
mod table;

pub use flights::{FlightConfig, Flights};
pub use outcome::{Join, Left, Outcome, Wake};
