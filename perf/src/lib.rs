//! The perf harness.
//!
//! [`measure`] is the table of measurements, [`paired`] how two things are compared on a machine
//! that has other things to do, [`noise`] what makes a slice void, [`stats`] medians and intervals,
//! [`peers`] the programs that take turns, [`findings`] the JSON document, [`targets`] what is
//! promised, [`report`] the report. [`lossless`] finds the highest rate at which nothing is lost, of
//! frames as [`numbered`] makes and checks them. Instructions per packet are `understudy-perf-gate`'s,
//! and so is the world that the data path runs in without a network card.
#![forbid(unsafe_code)]

pub mod clients;
pub mod findings;
pub mod lossless;
pub mod machine;
pub mod measure;
pub mod noise;
pub mod numbered;
pub mod paired;
pub mod peers;
pub mod report;
pub mod stats;
pub mod targets;
