//! The capture log: an append-only byte stream of records in bounded memory.
//!
//! One writer, one thread. Positions only grow; the oldest records make room
//! for new ones when nobody needs them any more (`floor`).

mod log;
mod marks;
mod ring;

pub use log::{CaptureLog, LogError, Record};
pub use ring::{MirroredRing, RingError};
