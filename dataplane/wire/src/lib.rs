//! Codecs: what is on a wire or in the capture log, as bytes and as values.
//!
//! Checked views that never read past their end, parsed representations, and
//! builders. No IO, no unsafe, no dependency on the environment.
#![forbid(unsafe_code)]

pub mod audit;
pub mod checksum;
pub mod control;
pub mod frame;
pub mod ids;
pub mod neighbor;
pub mod pdu;
pub mod record;
pub mod said;
pub mod tcp;

pub use ids::{Epoch, NodeId, Position};
