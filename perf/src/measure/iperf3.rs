//! iperf3 to a protected service, beside the same through testpmd.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use understudy_lab::topology::VIP4;
use understudy_lab::{Lab, NodeOptions, cmd, scenario};

use super::forwarded::{Driver, Forwarded};
use super::group::Service;
use super::{Plan, find};
use crate::findings::{Findings, Sides};
use crate::noise::Watched;
use crate::paired;

/// What it is.
pub const ABOUT: &str = "iperf3, one TCP connection from the client's namespace, which sends as much as it \
    can; goodput as the server received it, without the first second. The server is the application of a \
    group of three, with the gate on and commit policy `quorum`: its clones receive every byte too, \
    and no acknowledgement leaves before a majority holds what it acknowledges. Beside it the same \
    iperf3 server behind dpdk-testpmd, which passes frames (io mode, one core that polls) between the same \
    two ports, a client port and a host port by net_af_packet with the same rings, and keeps nothing. \
    Beside that the same daemon as a group of one. Each slice is a lab of its own, the kinds in turn. All \
    processes share the CPUs, and waiting for one is part of what is measured.";

const PAIRS: usize = 5;
const PAIRS_QUICK: usize = 3;
const SECONDS: usize = 5;
const SECONDS_QUICK: usize = 1;
/// Not counted: the window opens.
const OMITTED_S: usize = 1;
const PORT: u16 = 5201;
const TIMEOUT: Duration = Duration::from_secs(60);
/// Times that a test is asked for, and how long after a refusal.
const TRIES_MAX: usize = 5;
const PAUSE: Duration = Duration::from_millis(300);

/// How the server is reached.
#[derive(Clone, Copy)]
enum Way {
    Protected,
    Alone,
    Testpmd,
}

/// Runs it.
///
/// # Errors
/// If a group or testpmd does not come up, or iperf3 does not end well.
pub fn run(plan: &Plan, findings: &mut Findings) -> Result<()> {
    scenario::prepare_machine()?;
    let seconds = plan.count(SECONDS, SECONDS_QUICK);
    let pairs = plan.count(PAIRS, PAIRS_QUICK);
    let side = |way: Way| move |_: &mut ()| slice(way, seconds);
    let mut ratios = Vec::new();
    for (id, ours, way) in [
        ("iperf3/goodput", "three nodes", Way::Protected),
        ("iperf3/alone", "one node", Way::Alone),
    ] {
        let found = paired::run(pairs, &Watched::Nobody, &mut (), side(Way::Testpmd), side(way))?;
        let what = "goodput to iperf3's server";
        let sides = Sides { id, what, unit: "Mbit/s", ours, theirs: "testpmd io" };
        findings.compare(sides, &found);
        ratios.push(found.ratio().median);
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let why = format!(
        "{cpus} CPUs carry three nodes and three iperf3 servers, testpmd's side one of each; the \
         data path alone, as a group of one, has {:.2} of testpmd's goodput",
        ratios[1]
    );
    findings.explain("goodput", why);
    Ok(())
}

fn slice(way: Way, seconds: usize) -> Result<f64> {
    match way {
        Way::Testpmd => forwarded(Driver::AfPacket, seconds),
        Way::Protected => {
            let mut service = Service::protected(&options()?)?;
            let goodput = goodput(&service.lab, seconds)?;
            // A group that gave up its replicas on the way has measured something else.
            service.trio.wait_protected()?;
            let lost = service.trio.nodes.iter().map(|n| Ok(n.status()?.timeline));
            for event in lost.collect::<Result<Vec<_>>>()?.iter().flatten() {
                ensure!(!LOSSES.contains(&event.event.as_str()), "meanwhile: {event:?}");
            }
            Ok(goodput)
        }
        Way::Alone => goodput(&Service::alone(&options()?)?.lab, seconds),
    }
}

/// Events after which the service is not protected as it was. That clones say other bytes is none: those
/// are what their servers measured.
const LOSSES: [&str; 2] = ["evicted", "suspected"];

/// A test ends with what the server measured, and each clone measures for itself.
fn options() -> Result<NodeOptions> {
    let program = server()?.to_string_lossy().into_owned();
    let command = [&program, "-s", "-p", &PORT.to_string()].map(String::from).to_vec();
    Ok(NodeOptions {
        command: Some(command),
        ports: Some(vec![format!("tcp/{PORT}")]),
        set: vec![("service.audit".into(), "report".into())],
        ..NodeOptions::default()
    })
}

fn server() -> Result<PathBuf> {
    find("iperf3").context("no iperf3")
}

/// Goodput through testpmd, in Mbit/s.
///
/// # Errors
/// If it does not come up, or iperf3 does not end well.
pub fn forwarded(host: Driver, seconds: usize) -> Result<f64> {
    let program = server()?.to_string_lossy().into_owned();
    let forwarded = Forwarded::start(host, &[&program, "-s", "-p", &PORT.to_string()], PORT)?;
    goodput(&forwarded.lab, seconds)
}

/// What a client can bring to the server, in Mbit/s. The server has one test at a time, and takes whoever asks
/// whether it is there for one: what it refuses is asked for again.
fn goodput(lab: &Lab, seconds: usize) -> Result<f64> {
    let (port, seconds, omitted) = (PORT.to_string(), seconds.to_string(), OMITTED_S.to_string());
    let mut refused = String::new();
    for _ in 0..TRIES_MAX {
        let mut command = cmd::inside(&lab.client_netns(), server()?);
        command.args(["-c", VIP4, "-p", &port, "-t", &seconds, "-O", &omitted, "-J"]);
        let said = cmd::output(command, "", TIMEOUT)?;
        let report: Report = serde_json::from_str(&said.stdout).with_context(|| {
            format!("iperf3: exit {}: {} {}", said.code, said.stdout, said.stderr)
        })?;
        match report.error {
            None => return received(&report),
            Some(error) => refused = error,
        }
        std::thread::sleep(PAUSE);
    }
    bail!("iperf3: {refused}")
}

#[derive(Deserialize)]
struct Report {
    /// What kept it from a test; its exit code says nothing of that.
    error: Option<String>,
    end: Option<End>,
}

#[derive(Deserialize)]
struct End {
    sum_received: Option<Sum>,
}

#[derive(Deserialize)]
struct Sum {
    bits_per_second: f64,
}

fn received(report: &Report) -> Result<f64> {
    let sum = report.end.as_ref().and_then(|end| end.sum_received.as_ref());
    let bits = sum.context("iperf3 says nothing of what was received")?.bits_per_second;
    ensure!(bits > 0.0, "iperf3's server received nothing");
    Ok(bits / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goodput_is_read() {
        let read = |json: &str| serde_json::from_str::<Report>(json).unwrap();
        let json = r#"{"start":{},"end":{"sum_sent":{"bits_per_second":9e9},
            "sum_received":{"start":0,"bits_per_second":1.5e9}}}"#;
        assert_eq!(received(&read(json)).unwrap(), 1500.0);
        let refused = read(r#"{"start":{},"intervals":[],"end":{},"error":"the server is busy"}"#);
        assert_eq!(refused.error.as_deref(), Some("the server is busy"));
        assert!(received(&refused).is_err());
    }
}
