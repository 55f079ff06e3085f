//! iperf3 to a protected service, beside the same through testpmd.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use understudy_lab::node::vip4;
use understudy_lab::proc::Proc;
use understudy_lab::topology::{VIP4, offloads_off};
use understudy_lab::{Lab, Member, NodeOptions, cmd, plain, scenario};

use super::group::Service;
use super::{Plan, find, first_and_last_cpu};
use crate::findings::{Findings, Sides};
use crate::noise::Watched;
use crate::paired;
use crate::peers::testpmd::Testpmd;

/// What it is.
pub const ABOUT: &str = "iperf3, one TCP connection from the client's namespace, which sends as much as it \
    can; goodput as the server received it, without the first second. The server is the application of a \
    group of three, with the gate on and commit policy `quorum`: its clones receive every byte too, \
    and no acknowledgement leaves before a majority holds what it acknowledges. Beside it the same \
    iperf3 server behind dpdk-testpmd, which passes frames (io mode, one core that polls) between the same \
    two ports, a client port and a host port by net_af_packet with the same rings, and keeps nothing. \
    Beside that the same daemon as a group of one. Each slice is a lab of its own, the kinds in turn. All \
    processes share the CPUs, and waiting for one is part of what is measured.";

const PAIRS: usize = 7;
const PAIRS_QUICK: usize = 3;
const SECONDS: usize = 5;
const SECONDS_QUICK: usize = 1;
/// Not counted: the window opens.
const OMITTED_S: usize = 1;
const PORT: u16 = 5201;
const TIMEOUT: Duration = Duration::from_secs(60);
/// The daemon's rings.
const RINGS: &str = "blocksz=65536,framesz=2048,framecnt=4096,qdisc_bypass=1";
/// The forwarder's host port, and the application's end of it.
const HOST_PORT: (&str, &str) = ("us-host", "app0");

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
    findings.explain("iperf3", why);
    Ok(())
}

fn slice(way: Way, seconds: usize) -> Result<f64> {
    match way {
        Way::Testpmd => {
            let forwarded = Forwarded::start()?;
            goodput(&forwarded.lab, seconds)
        }
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

/// Node a forwards between its client port and a server in node b's namespace. The order is that
/// in which they must go.
struct Forwarded {
    _testpmd: Testpmd,
    _server: Proc,
    lab: Lab,
}

impl Forwarded {
    fn start() -> Result<Forwarded> {
        let lab = Lab::new()?;
        let (node, app) = (lab.node_netns(Member::A), lab.node_netns(Member::B));
        let (outer, inner) = HOST_PORT;
        let peer = app.file_name().and_then(|name| name.to_str()).context("a namespace's name")?;
        let words = ["ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns"];
        cmd::run_inside(&node, &[&words[..], &[peer]].concat())?;
        for (netns, name) in [(&node, outer), (&app, inner)] {
            offloads_off(netns, name)?;
            cmd::run_inside(netns, &["ip", "link", "set", name, "up"])?;
        }
        let address = format!("{VIP4}/24");
        cmd::run_inside(&app, &["ip", "addr", "add", &address, "dev", inner])?;
        let program = server()?.to_string_lossy().into_owned();
        let words = [&program, "-s", "-p", &PORT.to_string()];
        let server = plain::start(&lab, Member::B, "iperf3", &words)?;
        let device = |number, interface| format!("net_af_packet{number},iface={interface},{RINGS}");
        let (client, host) = (device(0, "us-cl"), device(1, outer));
        let testpmd = Testpmd::bridge(&node, [&client, &host], first_and_last_cpu()?)?;
        plain::wait_port(&lab.client_netns(), vip4(PORT))?;
        Ok(Forwarded { _testpmd: testpmd, _server: server, lab })
    }
}

/// What a client can bring to the server, in Mbit/s.
fn goodput(lab: &Lab, seconds: usize) -> Result<f64> {
    let (port, seconds, omitted) = (PORT.to_string(), seconds.to_string(), OMITTED_S.to_string());
    let mut command = cmd::inside(&lab.client_netns(), server()?);
    command.args(["-c", VIP4, "-p", &port, "-t", &seconds, "-O", &omitted, "-J"]);
    let said = cmd::output(command, "", TIMEOUT)?;
    if said.code != 0 {
        bail!("iperf3: exit {}: {} {}", said.code, said.stdout.trim(), said.stderr.trim());
    }
    received(&said.stdout)
}

#[derive(Deserialize)]
struct Report {
    end: End,
}

#[derive(Deserialize)]
struct End {
    sum_received: Sum,
}

#[derive(Deserialize)]
struct Sum {
    bits_per_second: f64,
}

fn received(json: &str) -> Result<f64> {
    let report: Report = serde_json::from_str(json).context("what iperf3 said")?;
    let bits = report.end.sum_received.bits_per_second;
    ensure!(bits > 0.0, "iperf3's server received nothing");
    Ok(bits / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goodput_is_read() {
        let json = r#"{"start":{},"end":{"sum_sent":{"bits_per_second":9e9},
            "sum_received":{"start":0,"bits_per_second":1.5e9}}}"#;
        assert_eq!(received(json).unwrap(), 1500.0);
        assert!(received(r#"{"error":"unable to connect"}"#).is_err());
    }
}
