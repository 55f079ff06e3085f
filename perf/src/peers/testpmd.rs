//! dpdk-testpmd over virtual devices: forwarding in slices, or for as long as it lives.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Lines;
use crate::measure::find;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A running testpmd.
pub struct Testpmd {
    lines: Lines,
    first: Option<String>,
}

/// What testpmd is told on its command line.
struct Setup<'a> {
    netns: Option<&'a Path>,
    /// Of DPDK's environment.
    eal: Vec<String>,
    devices: &'a [&'a str],
    mode: &'a str,
    /// Others of testpmd's own.
    words: &'a [&'a str],
}

impl Testpmd {
    /// Starts one that receives from and sends to one device: `net_null...` or `net_ring...`, the
    /// command line on `cpus.0`, forwarding on `cpus.1`. A ring is filled with eight bursts.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(device: &str, cpus: (usize, usize)) -> Result<Testpmd> {
        let first = device.starts_with("net_ring").then(|| "start tx_first 8".to_string());
        let words = ["--port-topology=loop", "--no-flush-rx", "--record-core-cycles"];
        let lines = launch(&Setup {
            netns: None,
            eal: vec![lcores(cpus), "--in-memory".into()],
            devices: &[device],
            mode: "io",
            words: &[&words[..], &["--total-num-mbufs=8191"]].concat(),
        })?;
        Ok(Testpmd { lines, first })
    }

    /// Starts one that passes frames between two devices, both ways, in a namespace.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn bridge(netns: &Path, devices: [&str; 2], cpus: (usize, usize)) -> Result<Testpmd> {
        let mut lines = launch(&Setup {
            netns: Some(netns),
            eal: vec![lcores(cpus), "--in-memory".into()],
            devices: &devices,
            mode: "io",
            words: &["--port-topology=paired", "--total-num-mbufs=16384"],
        })?;
        lines.tell("start")?;
        Ok(Testpmd { lines, first: None })
    }

    /// Starts one that receives from a device and keeps nothing; other DPDK processes can attach to
    /// it by its file prefix, as dpdk-dumpcap does.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn receive(device: &str, file_prefix: &str, cpus: (usize, usize)) -> Result<Testpmd> {
        let mut lines = launch(&Setup {
            netns: None,
            eal: vec![lcores(cpus), format!("--file-prefix={file_prefix}")],
            devices: &[device],
            mode: "rxonly",
            words: &["--total-num-mbufs=16384"],
        })?;
        lines.tell("start")?;
        Ok(Testpmd { lines, first: None })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.lines.pid()
    }

    /// Cycles per packet of one slice.
    ///
    /// # Errors
    /// If it ends.
    pub fn slice(&mut self, length: Duration) -> Result<f64> {
        let start = self.first.take().unwrap_or_else(|| "start".into());
        self.lines.tell(&start)?;
        std::thread::sleep(length);
        self.lines.tell("stop")?;
        self.lines.expect("cycles", TIMEOUT, cycles_per_packet)
    }
}

fn lcores(cpus: (usize, usize)) -> String {
    format!("--lcores=0@{},1@{}", cpus.0, cpus.1)
}

fn launch(setup: &Setup) -> Result<Lines> {
    let testpmd = find("dpdk-testpmd").context("no dpdk-testpmd")?;
    // Its output is held back otherwise, since it goes into a pipe.
    let mut command = match setup.netns {
        Some(netns) => understudy_lab::cmd::inside(netns, "stdbuf"),
        None => Command::new("stdbuf"),
    };
    command.arg("-oL").arg(testpmd).args(&setup.eal);
    command.args(["-m", "128", "--no-pci", "--no-telemetry", "--log-level=error"]);
    command.args(setup.devices.iter().map(|device| format!("--vdev={device}")));
    command.args(["--", "-i", "--nb-cores=1", &format!("--forward-mode={}", setup.mode)]);
    command.args(setup.words);
    let mut lines = Lines::start(command)?;
    // The prompt is no line of its own; the answer to this is.
    lines.tell("show config fwd")?;
    let ready = format!("{} packet forwarding", setup.mode);
    lines.expect("readiness", TIMEOUT, |line| line.contains(&ready).then_some(()))?;
    Ok(lines)
}

/// `  CPU cycles/packet=35.97 (total cycles=...`
fn cycles_per_packet(line: &str) -> Option<f64> {
    let (_, rest) = line.split_once("CPU cycles/packet=")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_are_read() {
        let line = "  CPU cycles/packet=4.23 (total cycles=59 / total io packets=13) at 2450 MHz";
        assert_eq!(cycles_per_packet(line), Some(4.23));
        assert_eq!(cycles_per_packet("Done."), None);
    }
}
