//! dpdk-testpmd, forwarding between virtual devices, in slices.

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

impl Testpmd {
    /// Starts one that receives from and sends to one device: `net_null...` or `net_ring...`, the
    /// command line on `cpus.0`, forwarding on `cpus.1`. A ring is filled with eight bursts.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(device: &str, cpus: (usize, usize)) -> Result<Testpmd> {
        // Its output is held back otherwise, since it goes into a pipe.
        let mut command = Command::new("stdbuf");
        command.arg("-oL").arg(find("dpdk-testpmd").context("no dpdk-testpmd")?);
        command.args([&format!("--lcores=0@{},1@{}", cpus.0, cpus.1), "--in-memory", "-m", "128"]);
        command.args(["--no-pci", "--no-telemetry", "--log-level=error"]);
        command.arg(format!("--vdev={device}"));
        command.args(["--", "-i", "--forward-mode=io", "--port-topology=loop", "--no-flush-rx"]);
        command.args(["--record-core-cycles", "--nb-cores=1", "--total-num-mbufs=8191"]);
        let mut lines = Lines::start(command)?;
        // The prompt is no line of its own; the answer to this is.
        lines.tell("show config fwd")?;
        lines.expect("readiness", TIMEOUT, |line| {
            line.contains("io packet forwarding").then_some(())
        })?;
        let first = device.starts_with("net_ring").then(|| "start tx_first 8".to_string());
        Ok(Testpmd { lines, first })
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
