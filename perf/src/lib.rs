//! Benchmarks, without a network card.
//!
//! [`memory`] is the world that the data path runs in, [`capture`] what is measured in it,
//! [`checkpoint`] what a checkpoint costs, [`sealing`] what sealing a PDU costs, [`auditing`] what the audit costs an output frame, [`paired`] how two things are compared on a machine that has other things to do.
#![forbid(unsafe_code)]

pub mod auditing;
pub mod capture;
pub mod checkpoint;
pub mod memory;
pub mod paired;
pub mod sealing;
