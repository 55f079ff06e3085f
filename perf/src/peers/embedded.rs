//! The embedded generator, `perf-dpdk`: our data path over virtual devices.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Lines;
use crate::measure::built;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A running one.
pub struct Embedded {
    lines: Lines,
}

/// What a slice cost.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Slice {
    /// Client frames captured.
    pub frames: u64,
    /// DATA PDUs sent.
    pub pdus: u64,
    /// Bytes of the log in them.
    pub log_bytes: u64,
    /// Cycles of the time-stamp counter.
    pub cycles: f64,
    /// Cycles in a second.
    pub tsc_hz: u64,
}

impl Embedded {
    /// Starts one on a CPU, with client frames of that length from a `null` or `ring` device.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(device: &str, frame_len: usize, cpu: usize) -> Result<Embedded> {
        let mut command = built("perf-dpdk")?;
        let (len, cpu) = (frame_len.to_string(), cpu.to_string());
        command.args(["data-path", "--device", device, "--frame-len", &len, "--cpu", &cpu]);
        let mut lines = Lines::start(command)?;
        lines.expect("readiness", TIMEOUT, |line| line.contains("\"ready\"").then_some(()))?;
        Ok(Embedded { lines })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.lines.pid()
    }

    /// Captures at least so many frames.
    ///
    /// # Errors
    /// If it ends.
    pub fn slice(&mut self, frames: u64) -> Result<Slice> {
        self.lines.tell(&format!("slice {frames}"))?;
        let answer = self
            .lines
            .expect("slice", TIMEOUT, |line| line.starts_with('{').then(|| line.into()))?;
        let answer: String = answer;
        serde_json::from_str(&answer).with_context(|| format!("what is {answer:?}?"))
    }

    /// Checks that every frame was captured, delivered and committed.
    ///
    /// # Errors
    /// What was not.
    pub fn check(&mut self) -> Result<()> {
        self.lines.tell("check")?;
        self.lines.expect("check", TIMEOUT, |line| line.contains("checked_frames").then_some(()))
    }
}
