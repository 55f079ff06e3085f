//! The ways to the application: what drives the daemon's end of the capsule's veth pair.

use anyhow::Result;
use understudy_lab::scenario;

use super::forwarded::{Driver, Forwarded};
use super::{Plan, iperf3, redis};
use crate::findings::{Findings, Sides};
use crate::noise::Watched;
use crate::paired;

/// What it is.
pub const ABOUT: &str = "The host port's driver: net_af_xdp on the daemon's end of the capsule's veth pair beside \
    net_af_packet, which the daemon uses. dpdk-testpmd (io mode, one core that polls) passes frames between a \
    client port and the host port, so that the driver is all that differs. iperf3 to the server, and \
    redis-benchmark with pipelines of 1 and 16. Each slice is a lab of its own, the two in turn. net_tap needs \
    /dev/net/tun and is not compared.";

const PAIRS: usize = 9;
const PAIRS_QUICK: usize = 2;
const SECONDS: usize = 3;
const REQUESTS: usize = 30_000;
const REQUESTS_QUICK: usize = 3_000;

/// Runs it.
///
/// # Errors
/// If testpmd does not come up, or a client does not end well.
pub fn run(plan: &Plan, findings: &mut Findings) -> Result<()> {
    scenario::prepare_machine()?;
    let pairs = plan.count(PAIRS, PAIRS_QUICK);
    let (seconds, requests) = (plan.count(SECONDS, 1), plan.count(REQUESTS, REQUESTS_QUICK));
    let goodput = |driver| move |_: &mut ()| iperf3::forwarded(driver, seconds);
    compare(findings, "host-port/iperf3", "Mbit/s", pairs, goodput)?;
    for depth in redis::DEPTHS {
        let rate = |driver| {
            move |_: &mut ()| {
                let server = ["redis-server", "--protected-mode", "no", "--save", ""];
                let forwarded = Forwarded::start(driver, &server, redis::PORT)?;
                redis::benchmark(&forwarded.lab, requests * depth, depth)
            }
        };
        compare(findings, &format!("host-port/redis-{depth}"), "ops/s", pairs, rate)?;
    }
    Ok(())
}

fn compare<S: FnMut(&mut ()) -> Result<f64>>(
    findings: &mut Findings,
    id: &str,
    unit: &str,
    pairs: usize,
    side: impl Fn(Driver) -> S,
) -> Result<()> {
    let (theirs, ours) = (side(Driver::AfPacket), side(Driver::AfXdp));
    let found = paired::run(pairs, &Watched::Nobody, &mut (), theirs, ours)?;
    let what = "the application behind testpmd, by the host port's driver";
    findings.compare(Sides { id, what, unit, ours: "net_af_xdp", theirs: "net_af_packet" }, &found);
    Ok(())
}
