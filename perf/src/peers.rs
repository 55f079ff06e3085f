//! What we are compared with, and what drives both: programs that take turns.

pub mod capture_node;
pub mod embedded;
pub mod generator;
pub mod keepalived;
mod lines;
pub mod recorder;
pub mod testpmd;

pub use lines::Lines;
