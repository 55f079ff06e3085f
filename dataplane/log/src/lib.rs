//! The capture log: an append-only byte stream of records in bounded memory.
//!
//! One writer, one thread. Positions only grow; the oldest records make room for new ones when nobody
//! needs them any more (`floor`). Any number of readers on other threads ([`LogView`]): the writer does
//! not wait for them, so they may come too late, and then know how much they missed.

mod copy;
mod log;
mod marks;
mod published;
mod reader;
mod ring;

pub use log::{CaptureLog, LogError, Record};
pub use published::Extent;
pub use reader::{LogReader, LogView, Read};
pub use ring::{MirroredRing, RingError, RingView};
