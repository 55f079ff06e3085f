//! Instructions per packet of the data path, and what they are held to.
//!
//! [`world`] is what the data path runs in without a network card; [`work`] the packets that are
//! counted there, [`callgrind`] who counts them, [`gate`] the comparison with the committed baseline
//! (`baseline.json`). A crate of its own, with few dependencies: so that continuous integration can
//! build it anew, optimised, in every run.
#![forbid(unsafe_code)]

pub mod callgrind;
pub mod gate;
mod rebuild;
pub mod work;
pub mod world;
