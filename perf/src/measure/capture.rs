//! What capture costs beside testpmd, in cycles a packet, over the same virtual devices.

use std::time::Duration;

use anyhow::Result;
use understudy_lab::node;
use understudy_perf_gate::gate;
use understudy_wire::pdu::DATA_HEADER_LEN;

use super::{Plan, first_and_last_cpu, sealing};
use crate::findings::{Findings, Sides};
use crate::noise::Watched;
use crate::paired::{self, Pair, Pairs};
use crate::peers::embedded::Embedded;
use crate::peers::testpmd::Testpmd;

/// What it is.
pub const ABOUT: &str = "Cycles (time-stamp counter) that a 64 B client frame costs the primary's \
    poll-mode thread over real DPDK devices and mbufs: received, time-stamped, parsed, appended to \
    the log, multicast to two replicas in sealed PDUs (every acknowledgement opened), and sent on to \
    the application's side; beside dpdk-testpmd in io mode on the same kind of device, in turn. \
    Device `net_null` over a pool whose mbufs all hold the frame: both sides take an mbuf from a \
    pool for each frame and give it back, as with a network card's driver. Device `net_ring`, in \
    which 256 frames go round, moves nothing but pointers on testpmd's side and is given beside it. \
    What the two made-up replicas need to acknowledge is not counted. There is no mode without \
    sealing: `unsealed` is the same slice less what sealing its PDUs costs, timed in the same run.";

const FRAME_LEN: usize = 64;
const PAIRS: usize = 40;
const PAIRS_QUICK: usize = 8;
const SLICE: Duration = Duration::from_millis(50);
/// As many as take some 10 ms.
const SLICE_FRAMES: u64 = 200_000;
/// Functions that a reason names.
const HEAVIEST: usize = 6;
/// Slices that are run and not counted.
const WARM_UP_SLICES: usize = 3;

/// Both sides, and the PDUs of ours.
struct Both {
    ours: Embedded,
    theirs: Testpmd,
    /// Per kept or discarded pair: PDUs per frame, bytes of their bodies.
    pdus_per_frame: f64,
    body_len: usize,
    tsc_hz: u64,
}

impl Both {
    fn start(device: &str, vdev: &str) -> Result<Both> {
        let cpus = first_and_last_cpu()?;
        let ours = Embedded::start(device, FRAME_LEN, cpus.1)?;
        let theirs = Testpmd::start(vdev, cpus)?;
        Ok(Both { ours, theirs, pdus_per_frame: 0.0, body_len: 0, tsc_hz: 0 })
    }

    fn our_slice(&mut self) -> Result<f64> {
        let slice = self.ours.slice(SLICE_FRAMES)?;
        self.pdus_per_frame = slice.pdus as f64 / slice.frames as f64;
        self.body_len = DATA_HEADER_LEN + (slice.log_bytes / slice.pdus.max(1)) as usize;
        self.tsc_hz = slice.tsc_hz;
        Ok(slice.cycles / slice.frames as f64)
    }

    fn run(&mut self, pairs: usize) -> Result<Pairs> {
        let watched = Watched::Processes(vec![self.ours.pid(), self.theirs.pid()]);
        for _ in 0..WARM_UP_SLICES {
            self.our_slice()?;
            self.theirs.slice(SLICE)?;
        }
        let theirs = |both: &mut Both| both.theirs.slice(SLICE);
        let found = paired::run(pairs, &watched, self, theirs, Both::our_slice)?;
        self.ours.check()?;
        Ok(found)
    }
}

/// Runs it.
///
/// # Errors
/// If one side does not run, or ours loses a frame.
pub fn run(plan: &Plan, findings: &mut Findings) -> Result<()> {
    let pairs = plan.count(PAIRS, PAIRS_QUICK);
    let mut both = Both::start("null", &format!("net_null0,size={FRAME_LEN}"))?;
    let sealed = both.run(pairs)?;
    let sealing = sealing::run(both.body_len, pairs)?;
    let seal_cycles = sealing.seal_ns.median * both.tsc_hz as f64 / 1e9 * both.pdus_per_frame;
    let unsealed = Pairs {
        kept: sealed.kept.iter().map(|p| Pair { subject: p.subject - seal_cycles, ..*p }).collect(),
        discarded: sealed.discarded,
    };
    let (theirs, unit) = ("testpmd io", "cycles");
    let what = "64 B frame, net_null over a prefilled pool";
    for (id, ours, found) in [
        ("capture/unsealed", "capture, unsealed", &unsealed),
        ("capture/sealed", "capture, sealed", &sealed),
    ] {
        findings.compare(Sides { id, what, unit, ours, theirs }, found);
    }
    findings.note(format!(
        "{:.4} DATA PDUs per frame, bodies of {} B; sealing one costs {:.0} ns, which is {:.1} cycles \
         a frame.",
        both.pdus_per_frame, both.body_len, sealing.seal_ns.median, seal_cycles
    ));
    explain(findings, &sealed, seal_cycles);
    drop(both);
    let mut both = Both::start("ring", "net_ring0")?;
    let ring = both.run(pairs)?;
    let (id, what, ours) = ("capture/ring", "64 B frame, net_ring going round", "capture, sealed");
    findings.compare(Sides { id, what, unit, ours, theirs }, &ring);
    Ok(())
}

/// What a frame's cycles go into, as far as callgrind can say.
fn explain(findings: &mut Findings, sealed: &Pairs, seal_cycles: f64) {
    let (ours, theirs) = (sealed.subject().median, sealed.baseline().median);
    let heaviest = match node::binary("perf-gate")
        .and_then(|own| gate::heaviest(&own, "capture-64", HEAVIEST))
    {
        Ok(functions) => {
            let words = functions.iter().map(|(name, count)| {
                let parts: Vec<&str> = name.split("::").collect();
                let short = parts[parts.len().saturating_sub(2)..].join("::");
                format!("{short} {count:.0}")
            });
            format!("most instructions: {}", words.collect::<Vec<_>>().join(", "))
        }
        Err(error) => format!("where they go is not known: {error:#}"),
    };
    let rest = ours - seal_cycles;
    let text = format!("{rest:.0} cycles a frame beside {theirs:.0}; {heaviest}");
    findings.explain("capture", text);
    let share = format!("sealing takes {seal_cycles:.0} of {ours:.0} cycles a frame; {heaviest}");
    findings.explain("capture-sealed", share);
}
