//! The embedded generator, `perf-dpdk generate`: numbered frames at a rate to a virtual device.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use understudy_lab::cmd;

use super::Lines;
use crate::lossless::Generator;
use crate::measure::first_and_last_cpu;
use crate::numbered::{self, Stored};

const TIMEOUT: Duration = Duration::from_secs(30);

/// A running one.
pub struct Embedded {
    lines: Lines,
    frame_len: usize,
}

#[derive(Deserialize)]
struct Offered {
    per_s: f64,
}

impl Embedded {
    /// Starts one on any CPU, in a namespace or where this program is.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(device: &str, netns: Option<&Path>, frame_len: usize) -> Result<Embedded> {
        // It goes before those whom it sends to, or its rate would be theirs.
        let mut command = match netns {
            Some(netns) => cmd::inside(netns, "nice"),
            None => std::process::Command::new("nice"),
        };
        command.args(["-n", "-15"]).arg(understudy_lab::node::binary("perf-dpdk")?);
        let (first, last) = first_and_last_cpu()?;
        command.args(["generate", "--device", device, "--frame-len", &frame_len.to_string()]);
        command.args(["--lcores", &format!("0@({first}-{last})")]);
        let mut lines = Lines::start(command)?;
        lines.expect("readiness", TIMEOUT, |line| line.contains("\"ready\"").then_some(()))?;
        Ok(Embedded { lines, frame_len })
    }
}

impl Generator for Embedded {
    fn offer(&mut self, frames: u64, per_s: f64) -> Result<f64> {
        self.lines.tell(&format!("offer {frames} {per_s}"))?;
        let is_answer = |line: &str| line.starts_with('{').then(|| line.to_string());
        let answer: String = self.lines.expect("offer", TIMEOUT, is_answer)?;
        let offered: Offered =
            serde_json::from_str(&answer).with_context(|| format!("what is {answer:?}?"))?;
        Ok(offered.per_s)
    }
    fn read(&self, file: &Path) -> Result<Stored> {
        numbered::read(file, self.frame_len)
    }
}
