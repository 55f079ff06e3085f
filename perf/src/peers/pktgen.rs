//! Pktgen-DPDK, told by a Lua script: frames at a rate to an interface. It numbers none of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use understudy_lab::cmd;

use super::{Lines, veth_device};
use crate::lossless::Generator;
use crate::measure::{find, first_and_last_cpu};
use crate::numbered::{self, Stored};

/// What it may be called.
pub const NAMES: &[&str] = &["pktgen", "dpdk-pktgen"];
const SCRIPT: &str = include_str!("../../pktgen/offer.lua");
/// What net_af_packet says that its link has, in bits a second.
const LINK_SPEED: f64 = 10e9;
/// Preamble, frame check sequence and gap: a link's rate counts them.
const ON_WIRE_LEN: usize = 24;
const CHECK_SEQUENCE_LEN: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(60);

/// Started anew for every offer.
pub struct Pktgen {
    netns: PathBuf,
    interface: &'static str,
    frame_len: usize,
    script: PathBuf,
}

impl Pktgen {
    /// One that sends to an interface of a namespace; its script goes into a directory.
    ///
    /// # Errors
    /// If the script cannot be written.
    pub fn new(
        netns: PathBuf,
        interface: &'static str,
        frame_len: usize,
        dir: &Path,
    ) -> Result<Pktgen> {
        let script = dir.join("offer.lua");
        fs::write(&script, SCRIPT)?;
        Ok(Pktgen { netns, interface, frame_len, script })
    }
}

impl Generator for Pktgen {
    fn offer(&mut self, frames: u64, per_s: f64) -> Result<f64> {
        let program = NAMES.iter().find_map(|name| find(name)).context("no pktgen")?;
        let (first, last) = first_and_last_cpu()?;
        let percent = per_s * ((self.frame_len + ON_WIRE_LEN) * 8) as f64 / LINK_SPEED * 100.0;
        let mut command = cmd::inside(&self.netns, program);
        command.env("UNDERSTUDY_COUNT", frames.to_string());
        command.env("UNDERSTUDY_SIZE", (self.frame_len + CHECK_SEQUENCE_LEN).to_string());
        command.env("UNDERSTUDY_RATE", format!("{percent:.5}"));
        command.args(["--lcores", &format!("0@{first},1@{last}"), "--no-pci", "--in-memory"]);
        command.args(["-m", "256", "--no-telemetry", "--log-level=error"]);
        command.arg(format!("--vdev={}", veth_device(self.interface)));
        command.args(["--", "-P", "-m", "1.0", "-f"]).arg(&self.script);
        let mut lines = Lines::start(command)?;
        let sent: u64 = lines.expect("count", TIMEOUT, |line| {
            line.split_once("understudy: sent ")?.1.trim().parse().ok()
        })?;
        ensure!(sent == frames, "Pktgen sent {sent} frames of {frames}");
        // Its schedule is its own: what it came to is in the file.
        Ok(f64::INFINITY)
    }

    fn read(&self, file: &Path) -> Result<Stored> {
        let stored = numbered::read_alike(file, self.frame_len)?;
        if stored.right == 0 {
            bail!("nothing of what Pktgen sent was stored");
        }
        Ok(stored)
    }
}
