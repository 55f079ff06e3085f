//! What a capture-only node stores without loss of an interface of the kernel, beside tcpdump and
//! netsniff-ng.

use anyhow::{Context, Result};
use understudy_lab::tap::{self, LISTENER, SENDER};
use understudy_lab::{Lab, Member, cmd, scenario};

use super::recording::{FRAME_LENS, PAIRS, PAIRS_QUICK, Scratch, Side};
use super::{Plan, find};
use crate::findings::{Findings, Sides};
use crate::lossless::{Best, Recorder, Search};
use crate::noise::Watched;
use crate::paired;
use crate::peers::capture_node::CaptureNode;
use crate::peers::generator::Embedded;
use crate::peers::recorder::Program;
use crate::peers::veth_device;

/// What it is.
pub const ABOUT: &str = "As `dumpcap`, on one veth: a node that only captures (net_af_packet) beside tcpdump \
    and netsniff-ng, of which the better counts in each pair. The embedded generator sends through \
    net_af_packet past the queueing discipline; each recorder has 64 MiB for the ring that it shares with \
    the kernel. The kernel takes a frame across the veth and into that ring on the sender's CPU time.";

/// Of the kernel's ring.
const RING_KB: usize = 64 << 10;
const LOG_MB: u64 = 64;

#[derive(Default)]
struct Contest {
    tcpdump: Side,
    netsniff: Side,
    ours: Side,
}

/// Runs it.
///
/// # Errors
/// If a program does not come up, or a frame is stored that was not sent.
pub fn run(plan: &Plan, findings: &mut Findings) -> Result<()> {
    scenario::prepare_machine()?;
    let scratch = Scratch::new(plan)?;
    let lab = Lab::new()?;
    tap::link(&lab)?;
    let mut limits = Vec::new();
    for len in FRAME_LENS {
        let mut contest = Contest::default();
        let place = Place { lab: &lab, scratch: &scratch };
        let found = paired::run(
            plan.count(PAIRS, PAIRS_QUICK),
            &Watched::Nobody,
            &mut contest,
            |c| {
                let tcpdump = c.tcpdump.search(plan, len, |search| place.tcpdump(search))?;
                let netsniff = c.netsniff.search(plan, len, |search| place.netsniff(search))?;
                Ok(tcpdump.max(netsniff))
            },
            |c| c.ours.search(plan, len, |search| place.ours(search)),
        )?;
        findings.compare(
            Sides {
                id: &format!("veth/{len}"),
                what: &format!("{len} B frames stored without loss, by veth"),
                unit: "/s",
                ours: "capture-only node",
                theirs: "best of tcpdump, netsniff-ng",
            },
            &found,
        );
        findings.note(format!(
            "{len} B: at most {:.0}/s by tcpdump, {:.0}/s by netsniff-ng, {:.0}/s by ours.",
            contest.tcpdump.most(),
            contest.netsniff.most(),
            contest.ours.most()
        ));
        limits.push(format!(
            "{len} B: nothing was lost at the fastest that the generator can send in {} of {} searches \
             of tcpdump's, {} of netsniff-ng's, {} of ours",
            contest.tcpdump.generators(),
            contest.tcpdump.searches(),
            contest.netsniff.generators(),
            contest.ours.generators()
        ));
    }
    findings.explain("veth", limits.join("; "));
    Ok(())
}

struct Place<'a> {
    lab: &'a Lab,
    scratch: &'a Scratch,
}

impl Place<'_> {
    fn highest(&self, search: &Search, recorder: &mut dyn Recorder) -> Result<Best> {
        let netns = self.lab.client_netns();
        let mut generator = Embedded::start(&veth_device(SENDER), Some(&netns), search.frame_len)?;
        search.highest(&mut generator, recorder)
    }

    fn ours(&self, search: &Search) -> Result<Best> {
        self.highest(search, &mut node(self.lab, self.scratch)?)
    }

    fn program(
        &self,
        name: &'static str,
        ready: &'static str,
        words: impl Fn(&str) -> Vec<String> + 'static,
    ) -> Result<Program> {
        let netns = self.lab.node_netns(Member::A);
        Ok(Program::new(self.scratch.fresh(name)?, ready, move |file| {
            let program = find(name).with_context(|| format!("no {name}"))?;
            // What goes to a file is held back otherwise.
            let mut command = cmd::inside(&netns, "stdbuf");
            command.arg("-oL").arg(program).args(words(file));
            Ok(command)
        }))
    }

    fn tcpdump(&self, search: &Search) -> Result<Best> {
        let words = |file: &str| {
            let ring = RING_KB.to_string();
            ["-i", LISTENER, "-B", &ring, "-Z", "root", "-w", file].map(String::from).to_vec()
        };
        self.highest(search, &mut self.program("tcpdump", "listening on", words)?)
    }

    fn netsniff(&self, search: &Search) -> Result<Best> {
        let words = |file: &str| {
            let ring = format!("{}KiB", RING_KB);
            let words = ["--in", LISTENER, "--out", file, "--silent", "--no-sock-mem"];
            let words = [&words[..], &["--ring-size", &ring]].concat();
            words.into_iter().map(String::from).collect()
        };
        self.highest(search, &mut self.program("netsniff-ng", "Running!", words)?)
    }
}

/// Our recorder, at the link's far end.
pub fn node(lab: &Lab, scratch: &Scratch) -> Result<CaptureNode> {
    let frames = RING_KB / 2;
    let device =
        format!("net_af_packet_tap,iface={LISTENER},blocksz=65536,framesz=2048,framecnt={frames}");
    let netns = lab.node_netns(Member::A);
    Ok(CaptureNode::new(device, Some(netns), scratch.fresh("ours")?, LOG_MB))
}
