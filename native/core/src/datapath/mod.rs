//! The packet path: one loop out, one loop in, and the engine that runs them.
mod batch;
mod coalesce;
pub mod driver;
pub mod engine;
mod inbound;
mod kernel_drops;
mod load;
mod outbound;
pub mod probe;
mod queue;
mod segment;
pub mod shared;
mod transport;
mod writer;
