//! redis-benchmark through a protected service, beside the same without replicas.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use understudy_lab::node::vip4;
use understudy_lab::{Lab, NodeOptions, cmd, scenario};

use super::Plan;
use super::group::Service;
use crate::findings::{Findings, Sides};
use crate::noise::Watched;
use crate::paired;

/// What it is.
pub const ABOUT: &str = "redis-benchmark (SET and GET, 20 connections, pipeline 1 and 16) from the client's \
    namespace, against a group of three with the gate on, beside the same daemon as a group of one. \
    Each slice is a group of its own, the two kinds in turn. Operations per second are the harmonic \
    mean of the two tests'. All nodes, every copy of redis, and the client share the CPUs.";

const PAIRS: usize = 7;
const PAIRS_QUICK: usize = 3;
/// Requests on their way at once.
pub const DEPTHS: [usize; 2] = [1, 16];
const REQUESTS: usize = 40_000;
const REQUESTS_QUICK: usize = 5_000;
const TIMEOUT: Duration = Duration::from_secs(120);
/// redis-server's.
pub const PORT: u16 = 6379;

/// Runs it.
///
/// # Errors
/// If a group does not come up or redis-benchmark does not end well.
pub fn run(plan: &Plan, findings: &mut Findings) -> Result<()> {
    scenario::prepare_machine()?;
    let requests = plan.count(REQUESTS, REQUESTS_QUICK);
    for depth in DEPTHS {
        let side = |is_protected| move |_: &mut ()| slice(is_protected, requests * depth, depth);
        let pairs = plan.count(PAIRS, PAIRS_QUICK);
        // All of it shares the CPUs: waiting for one is part of what is measured.
        let found = paired::run(pairs, &Watched::Nobody, &mut (), side(false), side(true))?;
        let sides = Sides {
            id: &format!("redis/pipeline-{depth}"),
            what: &format!("redis-benchmark, pipeline {depth}"),
            unit: "ops/s",
            ours: "three nodes",
            theirs: "one node",
        };
        findings.compare(sides, &found);
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let why = format!("{cpus} CPUs carry the client, three nodes and three copies of redis");
    findings.explain("redis", why);
    Ok(())
}

/// Operations per second in one group's life.
fn slice(is_protected: bool, requests: usize, depth: usize) -> Result<f64> {
    let service = Service::start(is_protected, &NodeOptions::default())?;
    benchmark(&service.lab, requests, depth)
}

/// Operations per second that redis-benchmark in the client's namespace sees.
///
/// # Errors
/// If it does not end well.
pub fn benchmark(lab: &Lab, requests: usize, depth: usize) -> Result<f64> {
    let (ip, port) = (vip4(PORT).ip().to_string(), PORT.to_string());
    let (requests, depth) = (requests.to_string(), depth.to_string());
    let mut command = cmd::inside(&lab.client_netns(), "redis-benchmark");
    command.args(["-h", &ip, "-p", &port, "-c", "20", "-n", &requests, "-P", &depth]);
    command.args(["-t", "set,get", "--csv"]);
    let said = cmd::output(command, "", TIMEOUT)?;
    if said.code != 0 {
        bail!("redis-benchmark: exit {}: {}", said.code, said.stderr.trim());
    }
    ops_per_s(&said.stdout)
}

/// Of lines such as `"SET","41152.26","0.1",...`; the first line names the columns.
fn ops_per_s(csv: &str) -> Result<f64> {
    let mut seconds_per_op = Vec::new();
    for line in
        csv.lines().filter(|line| line.starts_with("\"SET\"") || line.starts_with("\"GET\""))
    {
        let rate = line.split(',').nth(1).context("redis-benchmark: a short line")?;
        let rate: f64 = rate.trim_matches('"').parse()?;
        ensure!(rate > 0.0, "redis-benchmark: {line}");
        seconds_per_op.push(1.0 / rate);
    }
    ensure!(seconds_per_op.len() == 2, "redis-benchmark said {csv:?}");
    Ok(2.0 / seconds_per_op.iter().sum::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        let csv = "\"test\",\"rps\",\"avg\"\n\"SET\",\"100.00\",\"1\"\n\"GET\",\"300.00\",\"1\"\n";
        assert!((ops_per_s(csv).unwrap() - 150.0).abs() < 1e-9);
        assert!(ops_per_s("\"SET\",\"100.00\"\n").is_err());
    }
}
