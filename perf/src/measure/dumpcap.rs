//! What a capture-only node stores without loss, beside dpdk-dumpcap.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use understudy_lab::{cmd, scenario};

use super::recording::{FRAME_LENS, PAIRS, PAIRS_QUICK, Scratch, Side};
use super::{Plan, find, first_and_last_cpu};
use crate::findings::{Findings, Sides};
use crate::lossless::{Best, Recorder, Search};
use crate::noise::Watched;
use crate::paired;
use crate::peers::capture_node::CaptureNode;
use crate::peers::generator::Embedded;
use crate::peers::recorder::Program;
use crate::peers::testpmd::Testpmd;

/// What it is.
pub const ABOUT: &str = "The highest rate of frames, sent evenly for some seconds, all of which are in the \
    file afterwards, each as it was sent and in order: a node that only captures (the shipped daemon and \
    configuration, its segments read by `understudy capture`) beside dpdk-dumpcap, which takes a copy of \
    what a dpdk-testpmd in rxonly mode receives. Both hear the embedded generator through a memif, DPDK's \
    link between two processes, with the same rings of 16,384 frames, and write to memory (tmpfs). Each \
    frame has a number that the rest of it follows from, and the files are read by libpcap. Rates go up \
    until something is lost twice, then the border is looked for by bisection; the sides search in turn. \
    Processes on either side: generator, receiver, writer; they share the CPUs.";

const FILE_PREFIX: &str = "understudy-perf";
const LOG_MB: u64 = 64;

/// Runs it.
///
/// # Errors
/// If a program does not come up, or a frame is stored that was not sent.
pub fn run(plan: &Plan, findings: &mut Findings) -> Result<()> {
    scenario::prepare_machine()?;
    let scratch = Scratch::new(plan)?;
    let mut limits = Vec::new();
    for len in FRAME_LENS {
        let mut sides = (Side::default(), Side::default());
        let found = paired::run(
            plan.count(PAIRS, PAIRS_QUICK),
            &Watched::Nobody,
            &mut sides,
            |sides| sides.0.search(plan, len, |search| theirs(&scratch, search)),
            |sides| sides.1.search(plan, len, |search| ours(&scratch, search)),
        )?;
        findings.compare(
            Sides {
                id: &format!("dumpcap/{len}"),
                what: &format!("{len} B frames stored without loss, by memif"),
                unit: "/s",
                ours: "capture-only node",
                theirs: "dpdk-dumpcap",
            },
            &found,
        );
        limits.push(format!(
            "{len} B: in {} of {} searches of ours the generator could send no faster",
            sides.1.generators(),
            sides.1.searches()
        ));
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let why = format!(
        "generator, receiver and writer share {cpus} CPUs, so a rate ends with the CPUs and not with \
         the writer; {}",
        limits.join("; ")
    );
    findings.explain("dumpcap", why);
    Ok(())
}

/// One end of the link; the generator's end is the server.
fn memif(role: &str, dir: &Path) -> String {
    let socket = dir.join("memif");
    format!("net_memif0,role={role},socket={},socket-abstract=no,rsize=14", socket.display())
}

fn ours(scratch: &Scratch, search: &Search) -> Result<Best> {
    let dir = scratch.fresh("ours")?;
    let mut generator = Embedded::start(&memif("server", &dir), None, search.frame_len)?;
    let device = memif("client", &dir);
    let mut node = CaptureNode::new(device, None, dir, LOG_MB);
    search.highest(&mut generator, &mut node)
}

fn theirs(scratch: &Scratch, search: &Search) -> Result<Best> {
    let dir = scratch.fresh("theirs")?;
    let mut generator = Embedded::start(&memif("server", &dir), None, search.frame_len)?;
    let prefix = format!("{FILE_PREFIX}-{}", std::process::id());
    let testpmd = Testpmd::receive(&memif("client", &dir), &prefix, first_and_last_cpu()?)?;
    let preload = linked_mempools()?;
    let mut dumpcap = Program::new(dir, "Capturing on", move |file| {
        // What goes to a file is held back otherwise.
        let mut command = Command::new("stdbuf");
        command.arg("-oL").arg(find("dpdk-dumpcap").context("no dpdk-dumpcap")?);
        command.env("LD_PRELOAD", &preload);
        command.args([&format!("--file-prefix={prefix}"), "-q", "-i", "net_memif0", "-w", file]);
        Ok(command)
    });
    let best = search.highest(&mut generator, &mut dumpcap as &mut dyn Recorder);
    drop(testpmd);
    best
}

/// The memory pool drivers that testpmd is linked with, for LD_PRELOAD. A process that attaches to
/// another must register the same ones first: a pool names its driver by the order of registration.
/// Without them the frames of testpmd's are given to a driver that is another in dumpcap.
fn linked_mempools() -> Result<String> {
    let mut command = Command::new("ldd");
    command.arg(find("dpdk-testpmd").context("no dpdk-testpmd")?);
    let said = cmd::output(command, "", Duration::from_secs(10))?.stdout;
    let path = |line: &str| line.split_once(" => ")?.1.split(' ').next().map(String::from);
    let drivers = said.lines().filter(|line| line.contains("librte_mempool_"));
    Ok(drivers.filter_map(path).collect::<Vec<_>>().join(":"))
}
