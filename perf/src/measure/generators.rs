//! What a capture-only node stores without loss of what others' generators send.

use std::path::Path;

use anyhow::Result;
use understudy_lab::tap::{self, SENDER};
use understudy_lab::{Lab, scenario};

use super::Plan;
use super::recording::{FRAME_LENS, PAIRS, PAIRS_QUICK, Scratch, Side};
use super::veth;
use crate::findings::Findings;
use crate::lossless::Generator;
use crate::peers::pktgen::Pktgen;
use crate::peers::tcpreplay::Tcpreplay;
use crate::stats::Spread;

/// What it is with tcpreplay.
pub const TCPREPLAY: &str = "As `veth`, ours alone, and tcpreplay sends: a file of numbered frames, read before, \
    at a rate in packets per second.";

/// What it is with Pktgen-DPDK.
pub const PKTGEN: &str = "As `veth`, ours alone, and Pktgen-DPDK sends (23.03 for DPDK 22.11; no Debian package \
    has it), told by `perf/pktgen/offer.lua`: UDP frames that are alike but for the identification in their IPv4 headers, \
    so what is checked is that all are there and none is damaged.";

/// Runs it with tcpreplay.
///
/// # Errors
/// If a program does not come up, or a frame is stored that was not sent.
pub fn tcpreplay(plan: &Plan, findings: &mut Findings) -> Result<()> {
    run(plan, findings, "tcpreplay", |lab, len, dir| {
        Ok(Box::new(Tcpreplay::new(lab.client_netns(), SENDER, len, dir)))
    })
}

/// Runs it with Pktgen-DPDK.
///
/// # Errors
/// As with tcpreplay.
pub fn pktgen(plan: &Plan, findings: &mut Findings) -> Result<()> {
    run(plan, findings, "pktgen", |lab, len, dir| {
        Ok(Box::new(Pktgen::new(lab.client_netns(), SENDER, len, dir)?))
    })
}

type Make = fn(&Lab, usize, &Path) -> Result<Box<dyn Generator>>;

fn run(plan: &Plan, findings: &mut Findings, name: &str, make: Make) -> Result<()> {
    scenario::prepare_machine()?;
    let scratch = Scratch::new(plan)?;
    let lab = Lab::new()?;
    tap::link(&lab)?;
    for len in FRAME_LENS {
        let mut ours = Side::default();
        let rounds = plan.count(PAIRS, PAIRS_QUICK);
        for _ in 0..rounds {
            ours.search(plan, len, |search| {
                let mut generator = make(&lab, len, &scratch.fresh(name)?)?;
                search.highest(generator.as_mut(), &mut veth::node(&lab, &scratch)?)
            })?;
        }
        let what = format!("{len} B frames stored without loss");
        let value = Spread::of(ours.rates());
        findings.figure(&format!("{name}/{len}"), &what, "/s", value, rounds);
        let ends = ours.generators();
        findings.note(format!(
            "{len} B: in {ends} of {rounds} searches the generator could send no faster."
        ));
    }
    Ok(())
}
