//! Thousands of connections that go on elsewhere at once.

use std::thread;
use std::time::{Duration, Instant};

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
    every reply is checked. In a round the primary is killed (SIGKILL to daemon and application, links cut), and \
    0.2 s later the successor's gate opens. The rate is that of connections answered again, from then until the \
    last of them is answered. In one kind of sample the service answers nothing as each round begins (CLIENT \
    PAUSE, 0.25 s), and the primary is killed when all have asked: then each connection waits for what died with \
    the primary, and the rate is the takeover's. In the other the kill comes as clients ask: what they send to \
    the dead node is lost, and they wait for their own retransmission timers, which are as long as a round. \
    Each sample is a group of its own.";

const CONNECTIONS: usize = 10_000;
const CONNECTIONS_QUICK: usize = 1_000;
const ROUNDS: usize = 5;
const LIMIT: Duration = Duration::from_secs(60);
const PORT: u16 = 6379;
/// The service answers nothing as a round begins...
const HELD: Duration = Duration::from_millis(250);
/// ...and so long after all have asked, which is known to the group then, the primary dies.
const KNOWN: Duration = Duration::from_millis(20);

/// One takeover.
struct Takeover {
    lost: usize,
    rate: f64,
    half_after_ms: f64,
    all_after_ms: f64,
    /// Answers under way, and requests that came while nobody served, for which there was no room.
    given_up: u64,
    /// Of undisturbed rounds.
    quiet_rate: f64,
}

/// Runs it.
///
/// # Errors
/// If a group does not come up, or nobody takes over.
pub fn run(plan: &Plan, findings: &mut Findings) -> Result<()> {
    scenario::prepare_machine()?;
    let connections = plan.count(CONNECTIONS, CONNECTIONS_QUICK);
    let (mut waiting, mut asking) = (Vec::new(), Vec::new());
    for _ in 0..plan.count(ROUNDS, 1) {
        waiting.push(take_over(connections, HELD)?);
        asking.push(take_over(connections, Duration::ZERO)?);
    }
    let exact = Spread::exact(connections as f64);
    let samples = waiting.len() + asking.len();
    findings.figure("takeover/connections", "connections taken over at once", "", exact, samples);
    let sum = |of: fn(&Takeover) -> f64| waiting.iter().chain(&asking).map(of).sum();
    let lost = Spread::exact(sum(|t| t.lost as f64));
    findings.figure("takeover/lost", "of them lost", "", lost, samples);
    let given_up = Spread::exact(sum(|t| t.given_up as f64));
    let what = "frames under way that the successor gave up: it had no room for them";
    findings.figure("takeover/given-up", what, "", given_up, samples);
    kind(findings, "takeover", "each waits for an answer", &waiting);
    kind(findings, "takeover/asking", "killed as clients ask", &asking);
    let quiet = spread(&asking, |t| t.quiet_rate);
    let what = "answered in undisturbed rounds";
    findings.figure("takeover/quiet-rate", what, "/s", quiet, asking.len());
    let loaded = spread(&asking, |t| t.rate);
    let reason = format!(
        "client, switch and nodes share the CPUs; killed as clients ask, {:.0}/s (undisturbed {:.0}/s)",
        loaded.median, quiet.median
    );
    findings.explain("takeover", reason);
    Ok(())
}

fn spread(samples: &[Takeover], of: fn(&Takeover) -> f64) -> Spread {
    Spread::of(samples.iter().map(of))
}

fn kind(findings: &mut Findings, id: &str, when: &str, samples: &[Takeover]) {
    let mut figure = |name: &str, what: &str, unit: &str, of: fn(&Takeover) -> f64| {
        let what = format!("{when}: {what}");
        findings.figure(&format!("{id}/{name}"), &what, unit, spread(samples, of), samples.len());
    };
    figure("rate", "answered again", "/s", |t| t.rate);
    figure("half-after", "from the kill until half were answered", "ms", |t| t.half_after_ms);
    figure("all-after", "from the kill to the last answer", "ms", |t| t.all_after_ms);
}

/// `held`: how long the service answers nothing as a round begins.
fn take_over(connections: usize, held: Duration) -> Result<Takeover> {
    let clients = (connections + 100).to_string();
    let words = "/usr/bin/redis-server --port 6379 --bind * -::* --protected-mode no --save";
    let mut command: Vec<String> = words.split(' ').map(String::from).collect();
    let rest = ["", "--appendonly", "no", "--maxclients", &clients];
    command.extend(rest.map(String::from));
    let options = NodeOptions { command: Some(command), ..NodeOptions::default() };
    let mut service = Service::protected(&options)?;
    let crowd = Crowd { targets: vec![vip4(PORT), vip6(PORT)], connections, held };
    let task = crowd.start(&service.lab.client_netns())?;
    let old = service.trio.primary().context("no primary")?;
    task.wait_progress(2, LIMIT)?;
    let begun = Instant::now();
    task.wait_progress(4, LIMIT)?;
    let quiet_rate = 2.0 * connections as f64 / begun.elapsed().as_secs_f64();
    if !held.is_zero() {
        task.wait_progress(1, LIMIT)?;
        thread::sleep(KNOWN);
    }
    let killed_ns = service.trio.crash(&service.lab, old)?;
    let new = service.trio.wait_primary(Some(old), LIMIT)?;
    task.wait_progress(4, LIMIT)?;
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
        half_after_ms: after_ms(times[times.len() / 2]),
        all_after_ms: after_ms(last_ns),
        given_up,
        quiet_rate,
    })
}
