//! The poll-mode data path: capture, replicate, gate, apply.
//!
//! Sans-IO over one trait, [`ports::Ports`]: time is an argument, frames come
//! from and go to the trait. The daemon backs it with DPDK, the simulator with
//! queues. One [`dataplane::Dataplane`] belongs to one poll-mode thread.
#![forbid(unsafe_code)]

pub mod adoption;
pub mod apply;
pub mod audit;
pub mod command;
pub mod counters;
pub mod dataplane;
pub mod device_clock;
pub mod flows;
pub mod gate;
mod hasher;
pub mod kept;
pub mod neighbors;
pub mod ports;
pub mod receiver;
pub mod retained;
pub mod sender;
mod slots;
pub mod tsclock;
pub mod waits;

/// Nanoseconds in a millisecond.
pub const MS: u64 = 1_000_000;
