//! What we are compared with, and what drives both: programs that take turns.

pub mod embedded;
mod lines;
pub mod testpmd;

pub use lines::Lines;
