//! The primary's way of a client frame over ports in memory: no network card, no DPDK, no root.
//!
//! Measured until everything captured is acknowledged by the replicas. The baseline moves the same
//! frames from the client's ring to the capsule's side in the same bursts, and nothing else.

use std::time::Instant;

use anyhow::{Result, ensure};
use understudy_fastpath::ports::{Burst, PortRole, Ports};
use understudy_wire::pdu::DATA_HEADER_LEN;

use super::Plan;
use super::auditing;
use super::sealing;
use crate::findings::{Findings, Sides};
use crate::noise::Watched;
use crate::paired;
use crate::stats::Spread;
use understudy_perf_gate::world::memory::MemoryPorts;
use understudy_perf_gate::world::{Primary, World, client_frame};

/// What it is.
pub const ABOUT: &str = "What a client frame costs the primary's poll-mode thread, over ports in \
    memory: recognised, appended to the log, cut into sealed DATA PDUs, delivered, until both \
    replicas have acknowledged it; beside moving the same frames from ring to ring. Sealing (its \
    part of that, for PDUs of that length) and opening are timed in pairs of their own. Not \
    measured: devices, the kernel, the application, replicas, reading the clock, many connections.";

const FRAME_LENS: [usize; 2] = [64, 1500];
const PAIRS: usize = 200;
const PAIRS_QUICK: usize = 20;
const SLICE_FRAMES: usize = 4096;
/// A slice of auditing is 4 ms of its clock, and notes are due each 50 ms.
const AUDIT_PAIRS_MIN: usize = 40;
/// Pairs that are run and not counted.
const WARM_UP_PAIRS: usize = 5;
/// A slice that takes more polls than this makes no progress.
const POLLS_MAX: usize = 1 << 20;

/// One frame length.
struct Bench {
    frame: Vec<u8>,
    slice_frames: usize,
    slices: u64,
    primary: Primary<MemoryPorts>,
}

/// Runs it.
///
/// # Errors
/// If there is no memory, or if the data path loses a frame or does not come to an end.
pub fn run(plan: &Plan, findings: &mut Findings) -> Result<()> {
    if cfg!(debug_assertions) {
        findings.note("Not a release build: the figures mean little.");
    }
    for len in FRAME_LENS {
        measure(len, plan.count(PAIRS, PAIRS_QUICK), SLICE_FRAMES, findings)?;
    }
    Ok(())
}

fn measure(len: usize, pairs: usize, slice_frames: usize, findings: &mut Findings) -> Result<()> {
    let mut bench = Bench::new(len, slice_frames)?;
    let own = Watched::ThisThread;
    paired::run(
        WARM_UP_PAIRS,
        &Watched::Nobody,
        &mut bench,
        Bench::move_slice,
        Bench::capture_slice,
    )?;
    let before = bench.totals();
    let found = paired::run(pairs, &own, &mut bench, Bench::move_slice, Bench::capture_slice)?;
    let frames = bench.slices * slice_frames as u64;
    bench.primary.check(frames)?;
    // The baseline delivers as well.
    ensure!(bench.primary.ports.delivered >= frames, "frames did not arrive");
    let after = bench.totals();
    let (frames, pdus) = (after.0 - before.0, (after.1 - before.1).max(1));
    let (pdus_per_frame, body_len) =
        (pdus as f64 / frames as f64, DATA_HEADER_LEN + ((after.2 - before.2) / pdus) as usize);
    findings.compare(
        Sides {
            id: &format!("data-path/{len}"),
            what: &format!("{len} B frame"),
            unit: "ns",
            ours: "capture, log, replicate",
            theirs: "move only",
        },
        &found,
    );
    let mut figure = |id: &str, what: &str, unit: &str, value: Spread| {
        let (id, what) = (format!("data-path/{len}/{id}"), format!("{what}, {len} B frames"));
        findings.figure(&id, &what, unit, value, found.kept.len());
    };
    figure("added", "added by the data path to a frame", "ns", found.added());
    figure("pdus", "DATA PDUs per frame", "", Spread::exact(pdus_per_frame));
    figure("body", "bytes of their bodies", "B", Spread::exact(body_len as f64));
    let sealing = sealing::run(body_len, pairs)?;
    figure("seal", "sealing a PDU of that length", "ns", sealing.seal_ns);
    figure("open", "opening it", "ns", sealing.open_ns);
    let auditing = auditing::run(len, pairs.max(AUDIT_PAIRS_MIN))?;
    figure("audit", "added by the divergence audit to an output frame", "ns", auditing.audit_ns);
    let notes = Spread::exact(auditing.notes_per_frame);
    figure("notes", "audit notes per output frame", "", notes);
    Ok(())
}

impl Bench {
    fn new(len: usize, slice_frames: usize) -> Result<Bench> {
        let primary = Primary::new(MemoryPorts::new(slice_frames + 1024))?;
        Ok(Bench { frame: client_frame(len)?, slice_frames, slices: 0, primary })
    }

    /// Captured frames, DATA PDUs, bytes of the log that they carried.
    fn totals(&self) -> (u64, u64, u64) {
        let replicas = self.primary.ports.replicas();
        (self.primary.counters().captured_frames, replicas.pdus(), replicas.sent_to())
    }

    /// Nanoseconds per frame. Filling the ring is not timed.
    fn capture_slice(&mut self) -> Result<f64> {
        self.primary.ports.prefill(PortRole::Client, &self.frame, self.slice_frames);
        self.slices += 1;
        let begun = Instant::now();
        for _ in 0..POLLS_MAX {
            self.primary.poll();
            if self.primary.ports.is_drained() && self.primary.is_replicated() {
                break;
            }
        }
        // Takes the last acknowledgements.
        self.primary.poll();
        Ok(self.per_frame(begun))
    }

    fn move_slice(&mut self) -> Result<f64> {
        let ports = &mut self.primary.ports;
        ports.prefill(PortRole::Client, &self.frame, self.slice_frames);
        let begun = Instant::now();
        while !ports.is_drained() {
            let mut burst = Burst::new();
            ports.rx(PortRole::Client, &mut burst);
            ports.tx(PortRole::Host, &mut burst);
        }
        Ok(self.per_frame(begun))
    }

    fn per_frame(&self, begun: Instant) -> f64 {
        begun.elapsed().as_nanos() as f64 / self.slice_frames as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_measures_what_it_says() {
        let mut findings = Findings::default();
        for len in FRAME_LENS {
            measure(len, 3, 300, &mut findings).unwrap();
        }
        assert_eq!(findings.comparisons.len(), 2);
        assert!(findings.comparisons.iter().all(|c| c.ratio.median > 1.0 && c.theirs.min > 0.0));
        let value = |id: &str| findings.figures.iter().find(|f| f.id == id).unwrap().value.median;
        assert!(value("data-path/64/pdus") > 0.0 && value("data-path/1500/seal") > 0.0);
    }

    #[test]
    fn impossible_frames_are_refused() {
        let mut findings = Findings::default();
        assert!(measure(20, 1, 10, &mut findings).is_err());
        assert!(measure(9000, 1, 10, &mut findings).is_err());
    }
}
