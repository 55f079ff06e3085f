//! A TCP connection as data: all that a kernel must know to go on with it elsewhere.
//!
//! [`SocketImage`] is read from a running process and put into another one by `understudy-linux`;
//! this crate holds the type, what must be true of it, and its format. No IO, no clock.
//!
//! Not in an image, since Linux does not tell: bytes received out of order (the peer keeps what
//! is not acknowledged, and sends it again), the peer's newest timestamp, ECN, signature keys.
#![forbid(unsafe_code)]

mod codec;
mod image;

pub use codec::{Error, IMAGE_BYTES_MAX, LIST_BYTES_MAX, VERSION};
pub use image::{
    Agreed, Fin, Inconsistent, Options, SocketImage, State, Timestamps, Timing, Unsavable, Window,
};
