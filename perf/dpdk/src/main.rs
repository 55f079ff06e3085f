//! The embedded generator: the shipped data path over DPDK's virtual devices, no network card; and
//! numbered frames at a rate, for whatever is to record them.
//!
//! It does what it is told on stdin, and tells what came of it on stdout, one JSON document a line,
//! so that `perf` can let it and others take turns. A process of its own, because DPDK's environment
//! belongs to a whole process.
#![forbid(unsafe_code)]

use std::io::{BufRead, Write};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use understudy_dpdk::Eal;
use understudy_perf_gate::world::{Primary, World, client_frame};

mod generate;
mod ports;

use generate::Generator;
use ports::{Device, VdevPorts};

#[derive(Parser)]
#[command(about = "The embedded generator of the perf harness")]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs slices of client frames through the data path: `slice FRAMES` and `check` on stdin.
    DataPath {
        /// Where the client frames come from.
        #[arg(long, value_enum, default_value = "null")]
        device: Device,
        /// Bytes of a client frame.
        #[arg(long, default_value_t = 64)]
        frame_len: usize,
        /// The CPU that polls.
        #[arg(long, default_value_t = 0)]
        cpu: usize,
    },
    /// Sends numbered frames to a device: `offer FRAMES PER_SECOND` on stdin.
    Generate {
        /// Devargs of a virtual device.
        #[arg(long)]
        device: String,
        /// Bytes of a frame.
        #[arg(long, default_value_t = 64)]
        frame_len: usize,
        /// Where its thread may run, as EAL's --lcores.
        #[arg(long, default_value = "0@0")]
        lcores: String,
    },
}

fn main() -> Result<()> {
    match Options::parse().command {
        Command::DataPath { device, frame_len, cpu } => data_path(device, frame_len, cpu),
        Command::Generate { device, frame_len, lcores } => generate(&device, frame_len, &lcores),
    }
}

fn eal(lcores: &str, memory_mb: &str) -> Result<Eal> {
    let args = ["--lcores", lcores, "--no-pci", "--no-telemetry", "--log-level=error"];
    let args = [&args[..], &["--in-memory", "-m", memory_mb]].concat();
    Ok(Eal::init(&args.into_iter().map(String::from).collect::<Vec<_>>())?)
}

fn data_path(device: Device, frame_len: usize, cpu: usize) -> Result<()> {
    let _eal = eal(&format!("0@{cpu}"), "192")?;
    let ports = VdevPorts::open(device, &client_frame(frame_len)?)?;
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

fn generate(device: &str, frame_len: usize, lcores: &str) -> Result<()> {
    let _eal = eal(lcores, "64")?;
    let mut generator = Generator::open(device, frame_len)?;
    say(&serde_json::json!({ "ready": true }))?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["offer", frames, per_s] => {
                let offered = generator.offer(frames.parse()?, per_s.parse()?)?;
                say(&serde_json::json!({ "per_s": offered.per_s, "refused": offered.refused }))?;
            }
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
