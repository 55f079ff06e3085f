//! From a failure to the first reply as clients see it, beside keepalived.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use understudy_api::TimelineEvent;
use understudy_lab::node::vip4;
use understudy_lab::sys::unix_ns;
use understudy_lab::{Lab, Member, Net, NodeOptions, Trio, scenario};

use super::Plan;
use crate::clients::{self, Clients, Record};
use crate::findings::{Findings, Parts, Sides};
use crate::noise::{Discarded, Fate, Watch};
use crate::paired::{Pair, Pairs};
use crate::peers::keepalived;
use crate::stats::{Distribution, Spread};

/// What it is.
pub const ABOUT: &str = "From a failure to the first reply, as clients see it: a real redis in a lab of \
    network namespaces, four connections that each ask every 2 ms whether replies come or not, the \
    same connections through all failures of a kind; every reply is checked. A stall is the longest \
    silence that the failure caused on one connection; each connection and failure is a sample. Host \
    death: SIGKILL to daemon and application, and in that moment all links cut, so that the switch floods \
    what clients send and the others keep it. Panic: the same, but the links stay up: until the takeover is \
    announced all that clients send is lost, and one whose congestion window that fills waits for its own \
    timer. Process death: SIGKILL to the application. Link loss: the primary's client link goes down. Switchover: `understudy \
    switchover`. The parts are told by the nodes' timelines: detect until suspicion, elect until the \
    election is won, finish until the gate opens, announce until that is announced, retransmit until \
    the first reply. Beside it, in blocks in turn on the same topology, keepalived (VRRP 3) with a \
    redis on each of two nodes: its connections die, so what is timed is the silence of clients that \
    connect again, and `new connections` is the time until a new connection is answered. Hosts die as often as \
    `--kills` says; of all else 50 failures are enough. A failure whose half second the hypervisor took more \
    than 3 % of is discarded, counted and made up for, on both sides; connections that are lost in it count.";

const CLIENTS: usize = 4;
const INTERVAL: Duration = Duration::from_millis(2);
/// A client connects again after so long without a reply (keepalived only).
const PATIENCE: Duration = Duration::from_secs(1);
/// The lab's detection: as quick as a group that is otherwise idle bears on a small machine.
const DETECTION_MS: [(&str, i64); 3] =
    [("detect.heartbeat_interval_ms", 2), ("detect.suspect_after_ms", 12), ("detect.lease_ms", 8)];
/// Failures between which the other side has its turn.
const BLOCK: usize = 10;
const LIVENESS: Duration = Duration::from_secs(20);
/// Failures of what is no host's death, at most.
const OTHERS_MAX: usize = 50;
/// Failures for each that is wanted: of some the hypervisor makes nothing.
const ATTEMPTS: usize = 2;
/// Quiet work before a failure, and time for its consequences.
const SETTLE: Duration = Duration::from_millis(500);
const PORT: u16 = 6379;
/// Set in the environment, every failure is told.
const TRACE: &str = "UNDERSTUDY_PERF_TRACE";

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    HostDeath,
    Panic,
    ProcessDeath,
    LinkLoss,
    Switchover,
}

impl Kind {
    const ALL: [Kind; 5] =
        [Kind::HostDeath, Kind::Panic, Kind::ProcessDeath, Kind::LinkLoss, Kind::Switchover];

    fn name(self) -> &'static str {
        ["host-death", "panic", "process-death", "link-loss", "switchover"][self as usize]
    }

    fn words(self) -> &'static str {
        [
            "node killed",
            "node killed, links stay up",
            "application killed",
            "client link lost",
            "planned switchover",
        ][self as usize]
    }
}

/// One failure on the nodes' side.
struct Failure {
    at_ns: u64,
    /// Until here the clients' deaths are its doing.
    over_ns: u64,
    timeline: Vec<(Member, TimelineEvent)>,
    successor: Member,
    fate: Fate,
}

/// All failures of a kind.
#[derive(Default)]
struct Tally {
    /// Of every connection, in ns.
    stalls_ns: Vec<u64>,
    /// Of every failure, the worst connection's, in ms.
    worst_ms: Vec<f64>,
    lost: usize,
    failures: usize,
    /// Of them, those whose times do not count.
    discarded: Discarded,
    /// Failures whose stall no timeline explains.
    unexplained: usize,
    /// Parts of each failure, by name, in ms.
    parts_ms: BTreeMap<&'static str, Vec<f64>>,
}

/// The names of the parts, in order.
const PARTS: [&str; 5] = ["detect", "elect", "finish", "announce", "retransmit"];

/// Runs it.
///
/// # Errors
/// If a group does not come up, a reply is wrong, or nobody takes over.
pub fn run(plan: &Plan, findings: &mut Findings) -> Result<()> {
    scenario::prepare_machine()?;
    let mut ours: BTreeMap<Kind, Tally> = BTreeMap::new();
    let mut theirs: BTreeMap<u32, keepalived::Tally> = BTreeMap::new();
    let outcome = blocks(plan.kills, &mut ours, &mut theirs);
    // What was measured before a failure counts.
    report(&ours, &theirs, findings);
    outcome
}

/// Both sides in turn, a block at a time.
fn blocks(
    kills: usize,
    ours: &mut BTreeMap<Kind, Tally>,
    theirs: &mut BTreeMap<u32, keepalived::Tally>,
) -> Result<()> {
    for done in (0..kills).step_by(BLOCK) {
        let block = BLOCK.min(kills - done);
        let others = block.min(OTHERS_MAX.saturating_sub(done));
        for kind in Kind::ALL {
            let count = if kind == Kind::HostDeath { block } else { others };
            let tally = ours.entry(kind).or_default();
            block_of(kind, count, tally).with_context(|| kind.name().to_string())?;
        }
        for advert_ms in keepalived::ADVERTS_MS.into_iter().filter(|_| others > 0) {
            let tally = theirs.entry(advert_ms).or_default();
            let clients = (CLIENTS, client_plan(Some(PATIENCE)));
            keepalived::block(advert_ms, others, clients, tally)
                .with_context(|| format!("keepalived, advert {advert_ms} ms"))?;
        }
    }
    Ok(())
}

fn client_plan(patience: Option<Duration>) -> clients::Plan {
    clients::Plan { target: vip4(PORT), interval: INTERVAL, patience }
}

fn options() -> NodeOptions {
    let set = DETECTION_MS.map(|(key, ms)| (key.to_string(), ms.into())).to_vec();
    NodeOptions { set, ..NodeOptions::default() }
}

/// A group, and failures of one kind one after another; none if there are to be none.
fn block_of(kind: Kind, count: usize, tally: &mut Tally) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    let lab = Lab::new()?;
    let mut trio = Trio::start(&lab, &options())?;
    // A connection that dies is counted, and made again, so that the next failure has four.
    let clients = Clients::start(&lab.client_netns(), CLIENTS, client_plan(Some(LIVENESS)))?;
    clients.wait_replies_after(unix_ns(), LIVENESS)?;
    let mut failures = Vec::with_capacity(count);
    let mut wanted = count;
    while wanted > 0 && failures.len() < count * ATTEMPTS {
        std::thread::sleep(SETTLE);
        let since_ns = unix_ns();
        let failure = fail(kind, &lab, &mut trio, &clients);
        if failure.is_err() && traces() {
            eprintln!("{}: failure {}", kind.name(), failures.len() + 1);
            trace_nodes(&mut trio, since_ns);
        }
        let failure = failure.with_context(|| format!("failure {}", failures.len() + 1))?;
        wanted -= usize::from(failure.fate == Fate::Quiet);
        failures.push(failure);
    }
    let records = clients.finish()?;
    for failure in &failures {
        tally.add(failure, &records);
        if traces() {
            trace(kind, failure, &records);
        }
    }
    Ok(())
}

/// Tells a failure's stalls, and what the nodes did about it.
fn trace(kind: Kind, failure: &Failure, records: &[Record]) {
    let ms = |ns: u64| (ns as f64 - failure.at_ns as f64) / 1e6;
    let stalls = records.iter().filter_map(|r| r.stall(failure.at_ns));
    let silences: Vec<_> =
        stalls.map(|(length, end)| format!("{:.1}..{:.1}", ms(end - length), ms(end))).collect();
    let (name, silences, fate) = (kind.name(), silences.join(", "), failure.fate);
    eprintln!("{name}: silences, ms after it: {silences}; {fate:?}");
    trace_events(&failure.timeline, failure.at_ns);
}

fn trace_events(timeline: &[(Member, TimelineEvent)], since_ns: u64) {
    for (member, event) in timeline {
        let (at, epoch) = ((event.unix_ns as f64 - since_ns as f64) / 1e6, event.epoch);
        eprintln!("  {at:9.1} {member} epoch {epoch} {} {}", event.event, event.detail);
    }
}

/// Tells how the nodes are after a failure that was not survived.
fn trace_nodes(trio: &mut Trio, since_ns: u64) {
    trace_events(&trio.timeline(since_ns), since_ns);
    for node in &mut trio.nodes {
        eprintln!("  {}: {:?}", node.member, node.status());
    }
}

fn traces() -> bool {
    std::env::var_os(TRACE).is_some()
}

/// One failure: caused, survived, and mended.
fn fail(kind: Kind, lab: &Lab, trio: &mut Trio, clients: &Clients) -> Result<Failure> {
    let old = trio.primary().context("no primary")?;
    let watch = Watch::begin_failure();
    let at_ns = match kind {
        Kind::HostDeath => trio.crash(lab, old)?,
        Kind::Panic => trio.node(old).kill9()?,
        Kind::ProcessDeath => trio.node(old).kill_application()?,
        Kind::LinkLoss => {
            let at_ns = unix_ns();
            lab.cut_link(old, Net::Client)?;
            at_ns
        }
        Kind::Switchover => {
            let at_ns = unix_ns();
            trio.node(old).switchover(None)?;
            at_ns
        }
    };
    // Nobody is asked anything meanwhile: that would take CPU time from those who take over.
    std::thread::sleep(SETTLE);
    let fate = watch.end();
    clients.wait_replies_after(unix_ns(), LIVENESS)?;
    let successor = trio.wait_primary(Some(old), LIVENESS)?;
    let timeline = trio.timeline(at_ns);
    let over_ns = unix_ns();
    match kind {
        Kind::HostDeath => trio.revive(lab, old)?,
        Kind::Panic => trio.node(old).start()?,
        Kind::LinkLoss => lab.restore_link(old, Net::Client)?,
        Kind::ProcessDeath | Kind::Switchover => {}
    }
    trio.wait_ready()?;
    Ok(Failure { at_ns, over_ns, timeline, successor, fate })
}

impl Tally {
    fn add(&mut self, failure: &Failure, records: &[Record]) {
        self.failures += 1;
        let deaths = |r: &Record| r.deaths_between(failure.at_ns, failure.over_ns);
        self.lost += records.iter().map(deaths).sum::<usize>();
        if self.discarded.count(failure.fate) {
            return;
        }
        let stalls: Vec<_> = records.iter().filter_map(|r| r.stall(failure.at_ns)).collect();
        self.stalls_ns.extend(stalls.iter().map(|(length, _)| length));
        let worst = stalls.iter().map(|(length, _)| *length).max().unwrap_or(0);
        self.worst_ms.push(worst as f64 / 1e6);
        let first = stalls.iter().max().map(|(_, end)| *end);
        match first.and_then(|first_ns| parts(failure, first_ns)) {
            Some(found) => {
                for (name, ms) in PARTS.into_iter().zip(found) {
                    self.parts_ms.entry(name).or_default().push(ms);
                }
            }
            None => self.unexplained += 1,
        }
    }

    fn medians(&self) -> Vec<(String, f64)> {
        let median = |name: &str| Spread::of(self.parts_ms[name].iter().copied()).median;
        let names = PARTS.into_iter().filter(|name| self.parts_ms.contains_key(name));
        names.map(|name| (name.to_string(), median(name))).collect()
    }
}

/// The time from the failure to the first reply, cut at the events of the timelines; in ms.
///
/// The control plane notes an event up to a millisecond after the data path acted on it, so a part
/// that would be negative is nothing.
fn parts(failure: &Failure, first_reply_ns: u64) -> Option<[f64; 5]> {
    let first = |member: Option<Member>, events: &[&str]| {
        let of = |m: Member| member.is_none_or(|wanted| wanted == m);
        let found =
            failure.timeline.iter().find(|(m, e)| of(*m) && events.contains(&e.event.as_str()));
        found.map(|(_, event)| event.unix_ns)
    };
    let successor = Some(failure.successor);
    let won = first(successor, &["election_won"])?;
    let noticed =
        ["suspected", "peer_stepped_down", "stepped_down", "fenced", "switchover_started"];
    let detected = first(None, &noticed).unwrap_or(won).min(won);
    let open = first(successor, &["gate_open"])?;
    let announced = first(successor, &["announce"])?;
    let marks = [failure.at_ns, detected, won, open, announced, first_reply_ns];
    // What happens before its predecessor on this list takes none of the time.
    let mut at = failure.at_ns;
    let mut found = [0.0; 5];
    for (part, &mark) in found.iter_mut().zip(&marks[1..]) {
        let mark = mark.clamp(at, first_reply_ns.max(at));
        *part = (mark - at) as f64 / 1e6;
        at = mark;
    }
    Some(found)
}

fn report(
    ours: &BTreeMap<Kind, Tally>,
    theirs: &BTreeMap<u32, keepalived::Tally>,
    findings: &mut Findings,
) {
    let mut lost = 0;
    for (kind, tally) in ours {
        let name = kind.name();
        let times = Distribution::of_ns(tally.stalls_ns.iter().copied());
        let what = format!("Understudy, {}", kind.words());
        findings.times("stall", &format!("stopwatch/{name}"), &what, times);
        lost += tally.lost;
        if let Some(remark) = tally.discarded.remark(name, tally.failures) {
            findings.note(remark);
        }
        let what = format!("{name}, {} failures", tally.worst_ms.len());
        findings.parts.push(Parts { what, parts_ms: tally.medians() });
        if tally.unexplained > 0 {
            findings.note(format!(
                "{name}: of {} failures {} are in no timeline and have no parts.",
                tally.failures, tally.unexplained
            ));
        }
    }
    let count = ours.values().map(|t| t.failures).sum::<usize>();
    if count > 0 {
        let what = format!("connections lost in {count} failures");
        findings.figure("stopwatch/lost", &what, "", Spread::exact(lost as f64), count);
    }
    for (advert_ms, tally) in theirs {
        tally.report(*advert_ms, findings);
    }
    let detection = DETECTION_MS.map(|(key, ms)| format!("{key} = {ms}")).join(", ");
    findings.note(format!("The group's detection: {detection}."));
    compare(ours, theirs, findings);
    for (target, kinds) in [
        ("host-death", &[Kind::HostDeath][..]),
        ("planned", &[Kind::Switchover, Kind::ProcessDeath]),
    ] {
        let parts = kinds.iter().filter_map(|kind| Some((kind, ours.get(kind)?)));
        let texts = parts.map(|(kind, tally)| {
            let parts = tally.medians().into_iter().map(|(name, ms)| format!("{name} {ms:.1}"));
            format!("{}: {} ms", kind.name(), parts.collect::<Vec<_>>().join(" + "))
        });
        findings.explain(target, texts.collect::<Vec<_>>().join("; "));
    }
}

fn compare(
    ours: &BTreeMap<Kind, Tally>,
    theirs: &BTreeMap<u32, keepalived::Tally>,
    findings: &mut Findings,
) {
    let Some(ours) = ours.get(&Kind::HostDeath) else { return };
    for (advert_ms, tally) in theirs {
        let pair = |(&subject, &baseline)| Pair { baseline, subject };
        let kept: Vec<Pair> = ours.worst_ms.iter().zip(&tally.worst_ms).map(pair).collect();
        if kept.is_empty() {
            continue;
        }
        let discarded = ours.discarded.with(tally.discarded);
        let pairs = Pairs { kept, discarded };
        let sides = Sides {
            id: &format!("stopwatch/keepalived-{advert_ms}"),
            what: "node killed, stall of the worst client",
            unit: "ms",
            ours: "Understudy",
            theirs: &format!("keepalived, advert {advert_ms} ms"),
        };
        findings.compare(sides, &pairs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::Reply;

    fn event(unix_ns: u64, event: &str) -> (Member, TimelineEvent) {
        (Member::B, TimelineEvent { unix_ns, event: event.into(), ..TimelineEvent::default() })
    }

    #[test]
    fn what_the_hypervisor_disturbed_counts_only_for_what_is_lost() {
        let mut failure = Failure {
            at_ns: 100,
            over_ns: 200,
            timeline: Vec::new(),
            successor: Member::B,
            fate: Fate::Stolen,
        };
        let replies = [90, 150].map(|at| Reply { intended_ns: at, came_ns: at }).to_vec();
        let records = [Record { replies, deaths: vec![(120, "reset".into())], unanswered: 0 }];
        let mut tally = Tally::default();
        tally.add(&failure, &records);
        assert_eq!((tally.failures, tally.lost, tally.discarded.total()), (1, 1, 1));
        assert!(tally.stalls_ns.is_empty() && tally.worst_ms.is_empty());
        failure.fate = Fate::Quiet;
        tally.add(&failure, &records);
        assert_eq!((tally.failures, tally.lost, tally.discarded.total()), (2, 2, 1));
        assert_eq!(tally.stalls_ns, [60]);
    }

    #[test]
    fn a_stall_is_cut_at_the_events_and_its_parts_add_up() {
        let ms = |ms: u64| ms * 1_000_000;
        let timeline = vec![
            event(ms(112), "suspected"),
            event(ms(120), "election_won"),
            // The control plane tells it a little after the data path did it.
            event(ms(131), "gate_open"),
            event(ms(131), "announce"),
        ];
        let mut failure = Failure {
            at_ns: ms(100),
            over_ns: ms(200),
            timeline,
            successor: Member::B,
            fate: Fate::Quiet,
        };
        assert_eq!(parts(&failure, ms(133)), Some([12.0, 8.0, 11.0, 0.0, 2.0]));
        assert_eq!(parts(&failure, ms(130)), Some([12.0, 8.0, 10.0, 0.0, 0.0]));
        failure.successor = Member::C;
        assert_eq!(parts(&failure, ms(133)), None);
    }
}
