//! The demo: a Redis that clients use, its machine killed, and nobody notices.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::capture::{Kind, Recording};
use crate::clients::Task;
use crate::clients::counter::Counter;
use crate::clients::rediscli::RedisCli;
use crate::clients::short::Short;
use crate::ledger::{Stall, Verdict};
use crate::node::{NodeOptions, vip4};
use crate::scenario::Scenario;
use crate::topology::Member;

/// A client that stalls longer has lost its service.
const STALL_MAX: Duration = Duration::from_secs(10);
const PORT: u16 = 6379;

/// What the demo may vary.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How long the clients work before the kill.
    pub before: Duration,
    /// How long they work after it.
    pub after: Duration,
    /// Another commit policy.
    pub commit: Option<String>,
}

/// A line of the time line.
#[derive(Clone, Debug, Serialize)]
pub struct Moment {
    /// Milliseconds after the kill.
    pub ms: f64,
    /// `client`, `switch`, or the name of a node.
    pub seen_by: String,
    /// What happened.
    pub what: String,
    /// More about it.
    pub detail: String,
}

/// What the demo found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether everything was as it must be.
    pub pass: bool,
    /// The primary that was killed.
    pub killed: String,
    /// The primary after it.
    pub successor: String,
    /// What happened around the kill.
    pub timeline: Vec<Moment>,
    /// Silence of the long-lived connection around the kill, in ms.
    pub stall_ms: Option<f64>,
    /// Longest silence of it in the whole run, in ms.
    pub longest_gap_ms: f64,
    /// The clients' verdicts.
    pub clients: Vec<Verdict>,
    /// What was wrong with the group as such.
    pub faults: Vec<String>,
}

struct Clients {
    counter: Task,
    short: Task,
    redis_cli: RedisCli,
}

impl Clients {
    fn start(scenario: &Scenario) -> Result<Clients> {
        let netns = scenario.lab.client_netns();
        let (target, ms) = (vip4(PORT), Duration::from_millis);
        let (dir, mark) = (scenario.lab.dir(), scenario.lab.prefix());
        let counter = Counter { target, key: "visits".into(), pause: ms(2) };
        let short =
            Short { target, prefix: "short".into(), pause: ms(10), connections_max: 1 << 20 };
        Ok(Clients {
            counter: counter.start(&netns)?,
            short: short.start(&netns)?,
            redis_cli: RedisCli::start(&netns, dir, mark, target, "cli", ms(5))?,
        })
    }

    fn finish(self) -> Result<Vec<Verdict>> {
        self.counter.stop();
        self.short.stop();
        Ok(vec![self.counter.finish()?, self.redis_cli.finish()?, self.short.finish()?])
    }
}

/// Runs the demo.
pub fn run(plan: &Plan) -> Result<Report> {
    let options = NodeOptions { commit: plan.commit.clone(), ..NodeOptions::default() };
    let mut scenario = Scenario::start(&options)?;
    let old = scenario.primary()?;
    let clients = Clients::start(&scenario)?;
    clients.counter.wait_progress(10, STALL_MAX).context("before the kill")?;
    std::thread::sleep(plan.before);
    let kill_ns = scenario.trio.crash(&scenario.lab, old)?;
    let mut faults = Vec::new();
    // Liveness is judged by the clients; the verdicts are wanted in any case.
    if let Err(error) = clients.counter.wait_progress(10, STALL_MAX) {
        faults.push(format!("after the kill: {error:#}"));
    }
    std::thread::sleep(plan.after);
    let clients = clients.finish()?;
    let successor = scenario.trio.primary();
    if successor.is_none() {
        faults.push("no primary after the kill".into());
    }
    let recording = scenario.recording()?;
    if let Err(error) = recording.check_one_answers(1).and_then(|_| recording.check_tcp()) {
        faults.push(format!("{error:#}"));
    }
    let stall = clients[0].stall(kill_ns);
    let timeline = timeline(&mut scenario, &recording, (old, successor), kill_ns, &stall);
    let ms = |ns: u64| ns as f64 / 1e6;
    Ok(Report {
        pass: faults.is_empty() && clients.iter().all(Verdict::is_pass),
        killed: old.to_string(),
        successor: successor.map_or("nobody", Member::name).into(),
        timeline,
        stall_ms: stall.around_ns().map(ms),
        longest_gap_ms: ms(stall.longest_ns),
        clients,
        faults,
    })
}

/// The new primary's events, what the switch saw and what the client saw, in order.
fn timeline(
    scenario: &mut Scenario,
    recording: &Recording,
    (old, successor): (Member, Option<Member>),
    kill_ns: u64,
    stall: &Stall,
) -> Vec<Moment> {
    let mut moments = Vec::new();
    let mut note = |unix_ns: u64, seen_by: &str, what: &str, detail: &str| {
        let ms = (i128::from(unix_ns) - i128::from(kill_ns)) as f64 / 1e6;
        let (seen_by, what, detail) = (seen_by.into(), what.into(), detail.into());
        moments.push(Moment { ms, seen_by, what, detail });
    };
    note(kill_ns, "lab", "kill", &format!("{old}: daemon, application, all links"));
    for (member, event) in scenario.trio.timeline(kill_ns) {
        if Some(member) == successor {
            note(event.unix_ns, member.name(), &event.event.replace('_', " "), &event.detail);
        }
    }
    let answers = recording.answers();
    let of =
        |member, kind| answers.iter().filter(move |a| Some(a.member) == member && a.kind == kind);
    let after = |member, kind| of(member, kind).find(|answer| answer.unix_ns > kill_ns);
    if let Some(last) = of(Some(old), Kind::Service).next_back() {
        note(last.unix_ns, "switch", "last frame of the old primary", "");
    }
    if let Some(first) = after(successor, Kind::Claim) {
        note(first.unix_ns, "switch", "first announcement", "");
    }
    if let Some(first) = after(successor, Kind::Service) {
        note(first.unix_ns, "switch", "first frame of the new primary", "");
    }
    if let Some(last_ns) = stall.last_before_ns {
        note(last_ns, "client", "last reply of the old primary", "");
    }
    if let Some(first_ns) = stall.first_after_ns {
        note(first_ns, "client", "first reply of the new primary", "");
    }
    moments.sort_by(|a, b| a.ms.total_cmp(&b.ms));
    moments
}

impl Report {
    /// The report for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "\nPrimary {} killed, {} took over\n", self.killed, self.successor);
        for moment in &self.timeline {
            let Moment { ms, seen_by, what, detail } = moment;
            let line = format!("{ms:>12.2} ms  {seen_by:<7} {what:<31} {detail}");
            let _ = writeln!(out, "{}", line.trim_end());
        }
        let stall = self.stall_ms.map_or("for good".into(), |ms| format!("{ms:.1} ms"));
        let _ = writeln!(
            out,
            "\n  stall of the long-lived connection: {stall} (longest gap of the run {:.1} ms)\n",
            self.longest_gap_ms
        );
        for client in &self.clients {
            let _ = writeln!(out, "  {client}");
        }
        for fault in &self.faults {
            let _ = writeln!(out, "  FAIL  {fault}");
        }
        let _ = write!(out, "\n{}", if self.pass { "PASS" } else { "FAIL" });
        out
    }
}
