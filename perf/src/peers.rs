//! What we are compared with, and what drives both: programs that take turns.

pub mod embedded;
pub mod keepalived;
mod lines;
pub mod testpmd;

pub use lines::Lines;
