//! What people who use tcpdump and Wireshark expect of a capture: pcapng files, their rotation,
//! filters in libpcap's language, and what is in a frame.
//!
//! Nothing here touches a device or a log. [`Filter`] needs libpcap, which compiles it.
#![forbid(unsafe_code)]

mod dissect;
mod filter;
mod reader;
mod rotate;
mod writer;

pub use dissect::{Dissected, Network, Transport, dissect, line};
pub use filter::{Filter, FilterError};
pub use reader::{Block, ReadError, ReadPacket, Reader};
pub use rotate::{Recorder, RotateError, Rotation};
pub use writer::{Direction, Interface, Packet, Section, Statistics, Writer};
