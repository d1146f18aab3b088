//! The packet path: one loop out, one loop in, and the engine that runs them.
mod coalesce;
pub mod engine;
mod inbound;
mod outbound;
pub mod probe;
mod queue;
mod segment;
pub mod shared;
mod transport;
mod writer;
