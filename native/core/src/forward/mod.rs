//! Where packets go and which may come in: immutable tables and pure decisions over them.
pub mod counters;
pub mod decide;
pub mod drop;
pub mod prefix;
pub mod table;
