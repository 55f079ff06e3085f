//! Thousands of connections that go on elsewhere at once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use understudy_lab::clients::crowd::{Crowd, first_replies};
use understudy_lab::node::{vip4, vip6};
use understudy_lab::{NodeOptions, scenario};

use super::Plan;
use super::group::Service;
use crate::findings::Findings;
use crate::stats::Spread;

/// What it is.
pub const ABOUT: &str = "A group of three with redis and 10,000 connections, over IPv4 and IPv6, that all work: one \
    client thread sends a request on each, one after the other, then reads all replies, round after round; \
    every reply is checked. In the middle the primary is killed (SIGKILL to daemon and application, links \
    cut). The rate is that of connections answered again, from the moment when the successor's gate opens \
    until the last of them is answered; beside it the rate of replies in undisturbed rounds, which is what \
    this client and this machine can do at all. Each sample is a group of its own.";

const CONNECTIONS: usize = 10_000;
const CONNECTIONS_QUICK: usize = 1_000;
const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(60);
const PORT: u16 = 6379;

/// One takeover.
struct Takeover {
    lost: usize,
    rate: f64,
    quiet_rate: f64,
    half_after_ms: f64,
    all_after_ms: f64,
    /// Answers under way, and requests that came while nobody served, for which there was no room.
    given_up: u64,
}

/// Runs it.
///
/// # Errors
/// If a group does not come up, or nobody takes over.
pub fn run(plan: &Plan, findings: &mut Findings) -> Result<()> {
    scenario::prepare_machine()?;
    let connections = plan.count(CONNECTIONS, CONNECTIONS_QUICK);
    let mut all = Vec::new();
    for _ in 0..plan.count(ROUNDS, 1) {
        all.push(take_over(connections)?);
    }
    let samples = all.len();
    let spread = |of: fn(&Takeover) -> f64| Spread::of(all.iter().map(of));
    let exact = Spread::exact(connections as f64);
    findings.figure("takeover/connections", "connections taken over at once", "", exact, samples);
    let lost = Spread::exact(all.iter().map(|t| t.lost).sum::<usize>() as f64);
    findings.figure("takeover/lost", "of them lost", "", lost, samples);
    let rate = spread(|t| t.rate);
    findings.figure("takeover/rate", "answered again", "/s", rate, samples);
    let quiet = spread(|t| t.quiet_rate);
    findings.figure("takeover/quiet-rate", "answered in undisturbed rounds", "/s", quiet, samples);
    let after = spread(|t| t.half_after_ms);
    let what = "from the kill until half of them were answered";
    findings.figure("takeover/half-after", what, "ms", after, samples);
    let after = spread(|t| t.all_after_ms);
    findings.figure("takeover/all-after", "from the kill to the last answer", "ms", after, samples);
    let given_up = Spread::exact(all.iter().map(|t| t.given_up).sum::<u64>() as f64);
    let what = "frames under way that the successor gave up: it had no room for them";
    findings.figure("takeover/given-up", what, "", given_up, samples);
    let reason = format!(
        "client, switch and nodes share the CPUs; in undisturbed rounds the same client gets {:.0} replies a second",
        quiet.median
    );
    findings.explain("takeover", reason);
    Ok(())
}

fn take_over(connections: usize) -> Result<Takeover> {
    let clients = (connections + 100).to_string();
    let options = NodeOptions::default();
    let words = "/usr/bin/redis-server --port 6379 --bind * -::* --protected-mode no --save";
    let mut command: Vec<String> = words.split(' ').map(String::from).collect();
    let rest = ["", "--appendonly", "no", "--maxclients", &clients];
    command.extend(rest.map(String::from));
    let options = NodeOptions { command: Some(command), ..options };
    let mut service = Service::protected(&options)?;
    let crowd = Crowd { targets: vec![vip4(PORT), vip6(PORT)], connections };
    let task = crowd.start(&service.lab.client_netns())?;
    task.wait_progress(1, LIMIT)?;
    let begun = std::time::Instant::now();
    task.wait_progress(2, LIMIT)?;
    let quiet_rate = 2.0 * connections as f64 / begun.elapsed().as_secs_f64();
    let old = service.trio.primary().context("no primary")?;
    let killed_ns = service.trio.crash(&service.lab, old)?;
    let new = service.trio.wait_primary(Some(old), LIMIT)?;
    task.wait_progress(2, LIMIT)?;
    let timeline = service.trio.timeline(killed_ns);
    let opened = timeline.iter().find(|(m, e)| *m == new && e.event == "gate_open");
    let open_ns = opened.context("the gate did not open")?.1.unix_ns;
    let counters = service.trio.node(new).status()?.counters;
    let given_up = counters["retained_dropped"] + counters["kept_dropped"];
    let verdict = task.finish()?;
    ensure!(verdict.is_pass(), "{verdict}");
    let times = first_replies(&verdict, open_ns);
    let last_ns = *times.last().context("nobody was answered")?;
    let after_ms = |at_ns: u64| at_ns.saturating_sub(killed_ns) as f64 / 1e6;
    Ok(Takeover {
        lost: connections - times.len(),
        rate: times.len() as f64 / ((last_ns.saturating_sub(open_ns)).max(1) as f64 / 1e9),
        quiet_rate,
        half_after_ms: after_ms(times[times.len() / 2]),
        all_after_ms: after_ms(last_ns),
        given_up,
    })
}
