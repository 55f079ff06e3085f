//! The embedded generator: the shipped data path over DPDK's virtual devices, no network card.
//!
//! It runs slices when told to on stdin, and tells what they cost on stdout, one JSON document a
//! line, so that `perf` can let it and testpmd take turns. A process of its own, because DPDK's
//! environment belongs to a whole process.
#![forbid(unsafe_code)]

use std::io::{BufRead, Write};

use anyhow::{Context, Result, bail};
use clap::Parser;
use understudy_dpdk::Eal;
use understudy_perf_gate::world::{Primary, World, client_frame};

mod ports;

use ports::{Device, VdevPorts};

/// Runs slices of client frames through the data path: `slice FRAMES` and `check` on stdin.
#[derive(Parser)]
struct Options {
    /// Where the client frames come from.
    #[arg(long, value_enum, default_value = "null")]
    device: Device,
    /// Bytes of a client frame.
    #[arg(long, default_value_t = 64)]
    frame_len: usize,
    /// The CPU that polls.
    #[arg(long, default_value_t = 0)]
    cpu: usize,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let cpu = options.cpu.to_string();
    let mut args = ["-l", &cpu, "--no-pci", "--no-telemetry", "--log-level=error", "--in-memory"]
        .map(String::from)
        .to_vec();
    args.extend(["-m", "192"].map(String::from));
    let _eal = Eal::init(&args)?;
    let ports = VdevPorts::open(options.device, &client_frame(options.frame_len)?)?;
    let mut primary = Primary::new(ports)?;
    say(&serde_json::json!({ "ready": true, "huge_pages": primary.plane.log().is_huge() }))?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["slice", frames] => say(&slice(&mut primary, frames.parse()?))?,
            ["check"] => say(&check(&mut primary)?)?,
            _ => bail!("what is {line:?}?"),
        }
    }
    Ok(())
}

fn say(document: &serde_json::Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{document}").and_then(|()| out.flush()).context("stdout")
}

/// Captures at least so many frames; tells how many, and the cycles they took.
fn slice(primary: &mut Primary<VdevPorts>, frames: u64) -> serde_json::Value {
    primary.ports.open_tap();
    let totals = |primary: &Primary<VdevPorts>| {
        let replicas = primary.ports.replicas();
        (primary.counters().captured_frames, replicas.pdus(), replicas.sent_to())
    };
    let before = totals(primary);
    let begun_ns = primary.ports.timed_ns();
    while primary.counters().captured_frames < before.0 + frames {
        primary.poll();
    }
    let took_ns = primary.ports.timed_ns() - begun_ns;
    let after = totals(primary);
    primary.ports.close_tap();
    serde_json::json!({
        "frames": after.0 - before.0,
        "pdus": after.1 - before.1,
        "log_bytes": after.2 - before.2,
        "cycles": took_ns as f64 * primary.ports.tsc_hz() as f64 / 1e9,
        "tsc_hz": primary.ports.tsc_hz(),
    })
}

/// Whether every frame that was received was captured, delivered and committed.
fn check(primary: &mut Primary<VdevPorts>) -> Result<serde_json::Value> {
    for _ in 0..1000 {
        primary.poll();
    }
    let frames = primary.ports.received();
    primary.check(frames)?;
    Ok(serde_json::json!({ "checked_frames": frames }))
}
