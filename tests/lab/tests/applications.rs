//! Applications that were not made for this: nginx, PostgreSQL, BIRD; the primary is killed.
//!
//! No test asserts a speed: stalls are printed, and bounded by a generous liveness bound.

use std::time::{Duration, Instant};

use understudy_api::Status;
use understudy_lab::apps::bird::Timers;
use understudy_lab::apps::{bird, nginx, postgres};
use understudy_lab::bgp::{self, Kind};
use understudy_lab::capture::{Port, Recording, WHOLE};
use understudy_lab::clients::pg::{self, Pg, Rows};
use understudy_lab::clients::{Task, http};
use understudy_lab::node::{READY_TIMEOUT, vip4};
use understudy_lab::stream::{self, Said};
use understudy_lab::{
    Capture, Lab, Member, NodeOptions, Scenario, Verdict, cmd, proc, scenario, sys,
};

/// No client is without service for longer.
const STALL_MAX: Duration = Duration::from_secs(10);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A ready trio, or nothing when the test cannot run here.
fn ready(
    options: impl FnOnce() -> anyhow::Result<NodeOptions>,
    prepare: impl FnOnce(&Lab) -> anyhow::Result<()>,
) -> Option<Scenario> {
    let can = scenario::can_run(&["understudyd", "understudy"]);
    can.then(|| Scenario::start_prepared(&options().unwrap(), prepare).unwrap())
}

/// Kills the primary as if its machine died.
fn crash_primary(scenario: &mut Scenario) -> (Member, u64) {
    let primary = scenario.primary().unwrap();
    (primary, scenario.trio.crash(&scenario.lab, primary).unwrap())
}

/// Prints the verdict and the stall around a moment, and holds both to their bounds.
fn judge(verdict: &Verdict, moment_ns: u64) {
    let stall = verdict.stall(moment_ns);
    let around = stall.around_ns().map_or("-".into(), |ns| format!("{:.1}", ns as f64 / 1e6));
    println!("{verdict}  stall {around} ms, longest {:.1} ms", stall.longest_ns as f64 / 1e6);
    verdict.assert_pass();
    assert!(stall.longest_ns < STALL_MAX.as_nanos() as u64, "the service was gone");
}

/// What the data path of the survivors counted that tells of waiting.
fn print_waits(scenario: &mut Scenario, when: &str) {
    for node in scenario.trio.nodes.iter_mut() {
        let Ok(status) = node.status() else { continue };
        let names = ["ack_waits", "ack_waits_expired", "parked", "redelivered", "clone_resets"];
        let counts = names.map(|name| (name, status.counters.get(name).copied().unwrap_or(0)));
        println!(
            "{when}: {} {} {:?} {counts:?}",
            node.member, status.role, status.not_ready_because
        );
    }
}

fn nginx_survives(workers: usize, downloads: usize, lanes: u64) {
    let options = || {
        let mut options = nginx::options();
        let check = format!("http/{}/small/0", nginx::PORT);
        options.set.push(("supervise.health.check".into(), check.into()));
        options.set.push(("supervise.health.interval_ms".into(), 100.into()));
        Ok(options)
    };
    let Some(mut scenario) = ready(options, |lab| nginx::prepare(lab, workers)) else { return };
    let (netns, target) = (scenario.lab.client_netns(), vip4(nginx::PORT));
    let lane = |n: u64| http::keep_alive(&netns, target, n * 7, ms(3)).unwrap();
    let lanes: Vec<Task> = (0..lanes).map(lane).collect();
    lanes.iter().for_each(|task| task.wait_progress(30, STALL_MAX).unwrap());
    let start = |_| http::download(&netns, target).unwrap();
    let downloads: Vec<Task> = (0..downloads).map(start).collect();
    for task in &downloads {
        task.wait_progress(nginx::LARGE_BYTES / 4, STALL_MAX).unwrap();
    }
    assert!(!downloads.iter().any(Task::is_finished), "the kill must hit the transfers");
    let (_, killed_ns) = crash_primary(&mut scenario);
    for task in downloads {
        let verdict = task.join(ms(60_000)).unwrap();
        judge(&verdict, killed_ns);
        assert_eq!(verdict.counted("bytes"), nginx::LARGE_BYTES);
    }
    for task in lanes {
        task.wait_progress(50, STALL_MAX).unwrap();
        judge(&task.finish().unwrap(), killed_ns);
    }
    print_waits(&mut scenario, "after");
    // It was asked for its health all the time, here as a clone too.
    let new = scenario.primary().unwrap();
    let counters = scenario.trio.node(new).status().unwrap().counters;
    let checks = (counters["health_checks"], counters["health_checks_failed"]);
    assert!(checks.0 > 10 && checks.1 == 0, "health checks, and those that failed: {checks:?}");
    scenario.check_wire(1).unwrap();
}

#[test]
fn nginx_one_worker() {
    nginx_survives(1, 1, 2);
}

#[test]
fn nginx_four_workers() {
    nginx_survives(4, 2, 8);
}

const ALL_KEPT: &str = "SELECT n, word FROM kept ORDER BY n";

/// The first rows of the table `kept`.
fn kept(count: usize) -> Rows {
    (0..count).map(|n| vec![n.to_string(), format!("word {n}")]).collect()
}

/// Inserts one of them with the prepared statement, in the open transaction.
fn put(pg: &mut Pg, n: usize) {
    let row = &kept(n + 1)[n];
    assert_eq!(pg.execute("put", &[&row[0], &row[1]], 'T').unwrap(), [[row[0].clone()]]);
}

/// What happens to a primary; gives the moment just before.
type Death = fn(&mut Scenario, Member) -> anyhow::Result<u64>;

fn postgres_survives(death: Death) {
    let Some(mut scenario) = ready(postgres::options, postgres::prepare) else { return };
    postgres::wait_ready(&scenario.lab).unwrap();
    let (netns, target) = (scenario.lab.client_netns(), vip4(postgres::PORT));
    let mut open = Pg::connect_in(&netns, target).unwrap();
    let tables = "CREATE TABLE kept (n int PRIMARY KEY, word text); CREATE TABLE busy (n int)";
    open.query(tables, 'I').unwrap();
    let busy = pg::inserts(&netns, target, "busy", ms(5)).unwrap();
    busy.wait_progress(20, STALL_MAX).unwrap();
    open.prepare("put", "INSERT INTO kept VALUES ($1, $2) RETURNING n").unwrap();
    open.query("BEGIN", 'T').unwrap();
    (0..20).for_each(|n| put(&mut open, n));
    let old = scenario.primary().unwrap();
    let killed_ns = death(&mut scenario, old).unwrap();
    (20..40).for_each(|n| put(&mut open, n));
    assert_eq!(open.query(ALL_KEPT, 'T').unwrap(), kept(40), "its own, uncommitted");
    let mut other = Pg::connect_in(&netns, target).unwrap();
    assert_eq!(other.query(ALL_KEPT, 'I').unwrap(), kept(0), "nobody else's");
    open.query("COMMIT", 'I').unwrap();
    assert_eq!(other.query(ALL_KEPT, 'I').unwrap(), kept(40));
    assert_eq!(open.query(ALL_KEPT, 'I').unwrap(), kept(40));
    busy.wait_progress(50, STALL_MAX).unwrap();
    judge(&busy.finish().unwrap(), killed_ns);
    for pg in [open, other] {
        pg.finish().unwrap();
    }
    print_waits(&mut scenario, "after");
    assert_ne!(scenario.primary().unwrap(), old);
    scenario.check_wire(1).unwrap();
}

#[test]
fn postgres_transaction() {
    postgres_survives(|scenario, primary| scenario.trio.crash(&scenario.lab, primary));
}

/// The postmaster alone is killed; the kernel ends the sessions' processes with it.
#[test]
fn postgres_killed_with_its_sessions() {
    postgres_survives(|scenario, primary| scenario.trio.node(primary).kill_application());
}

/// The process that has the only session, on a node.
fn session_process(scenario: &mut Scenario, member: Member) -> u32 {
    let node = scenario.trio.node(member);
    let postmaster = node.status().unwrap().service.app_pid.unwrap();
    let is_session = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"postgres: postgres postgres ")
    };
    let find = || proc::descendants(postmaster).into_iter().find(is_session);
    let what = format!("the session's process on {member}");
    cmd::wait_until(&what, STALL_MAX, || Ok(find().is_some())).unwrap();
    find().unwrap()
}

/// One session relies on the other's answer before its client's kernel has acknowledged that (it
/// waits up to 40 ms). On the clones, the process that has the other session stands still meanwhile.
#[test]
fn postgres_two_sessions() {
    const ROUNDS: u64 = 40;
    let Some(mut scenario) = ready(postgres::options, postgres::prepare) else { return };
    postgres::wait_ready(&scenario.lab).unwrap();
    let (netns, target) = (scenario.lab.client_netns(), vip4(postgres::PORT));
    let heard = Capture::start(&scenario.lab, WHOLE).unwrap();
    let inside = Capture::of_applications(&scenario.lab, &Member::ALL, WHOLE).unwrap();
    let mut makes = Pg::connect_in(&netns, target).unwrap();
    let clones: Vec<Member> = scenario.primary().unwrap().others().collect();
    let of = |member: &Member| session_process(&mut scenario, *member);
    let processes: Vec<u32> = clones.iter().map(of).collect();
    let mut relies = Pg::connect_in(&netns, target).unwrap();
    for n in 0..ROUNDS {
        let process = processes[n as usize % processes.len()];
        // Who has just answered delays the next acknowledgement.
        makes.query("SELECT 1", 'I').unwrap();
        std::thread::sleep(ms(5));
        sys::kill(process, libc::SIGSTOP).unwrap();
        makes.query(&format!("CREATE TABLE t{n} (n int)"), 'I').unwrap();
        relies.query(&format!("INSERT INTO t{n} VALUES (1)"), 'I').unwrap();
        std::thread::sleep(ms(10));
        sys::kill(process, libc::SIGCONT).unwrap();
        std::thread::sleep(ms(60));
    }
    for member in clones {
        let counters = scenario.trio.node(member).status().unwrap().counters;
        let (waits, expired) = (counters["order_waits"], counters["order_waits_expired"]);
        let acks = counters["ack_waits"];
        println!("{member}: {waits} waits, {expired} in vain; {acks} waits for what ACKs tell");
        assert!(waits >= ROUNDS / 4, "{member} did not wait: nothing was tested");
        assert_eq!(expired, 0, "{member}");
    }
    let (heard, inside) = (heard.finish().unwrap(), inside.finish().unwrap());
    for connection in stream::connections(&heard, postgres::PORT) {
        let there = connection.service_said(&heard, |port| matches!(port, Port::Node(_)));
        for member in Member::ALL {
            let said = connection.service_said(&inside, |port| port == Port::Host(member)).bytes;
            let refused = said.windows(14).filter(|bytes| bytes == b"does not exist").count();
            assert_eq!(refused, 0, "refusals of {member}, port {}", connection.client_port);
            assert_eq!(said.len(), there.bytes.len(), "{member}, port {}", connection.client_port);
        }
    }
}

/// The peer's view of the session at short intervals: it must not change.
fn watch(peer: &bird::Peer, first: &bird::Session, time: Duration) {
    let end = Instant::now() + time;
    let mut looks = 0;
    while Instant::now() < end {
        let now = peer.session().unwrap();
        assert!(now.is_same_as(first), "after {looks} looks: {now:?}, was {first:?}");
        looks += 1;
        std::thread::sleep(ms(100));
    }
    println!("{looks} looks in {time:?}: {first:?}");
}

/// One session of the peer, whole messages both ways, none of which ends or reopens it.
fn check_session(recording: &Recording) {
    let connections = stream::connections(recording, bird::PORT);
    assert_eq!(connections.len(), 1, "one connection");
    let from_vip = |port| matches!(port, Port::Node(_));
    let said = connections[0].service_said(recording, from_vip);
    let heard = connections[0].client_said(recording);
    for (who, said) in [("vip", &said), ("peer", &heard)] {
        let messages = bgp::messages(&said.bytes).unwrap();
        let counts = bgp::count(&messages);
        let silences = said.growth.windows(2).map(|pair| (pair[1].0 - pair[0].0) / 1_000_000);
        let longest = silences.max().unwrap_or(0);
        println!("{who}: {} bytes, {counts:?}, longest silence {longest} ms", said.bytes.len());
        assert!(!said.is_closed && said.contradiction.is_none(), "{who}: {:?}", said.contradiction);
        assert_eq!(messages.last().unwrap().end, said.bytes.len(), "{who} ends in a message");
        assert!(messages.iter().all(|message| !message.withdraws), "{who} withdraws");
        assert_eq!(counts.get(&Kind::Open), Some(&1), "{who} opens once");
        assert_eq!(counts.get(&Kind::Notification), None, "{who}");
    }
}

/// A session in which each end has the other's 10,000 routes. The peer's come after those of the
/// BIRD behind the VIP: see `bird_both_at_once`.
fn session_with_routes(scenario: &Scenario, timers: Timers) -> bird::Peer {
    let peer = bird::Peer::start(&scenario.lab, timers, false).unwrap();
    peer.wait_routes(bird::ROUTES, 0).unwrap();
    peer.announce().unwrap();
    peer.wait_routes(bird::ROUTES, bird::ROUTES).unwrap();
    for member in Member::ALL {
        let has_all = || Ok(bird::session_of(&scenario.lab, member)?.routes.0 == bird::ROUTES);
        cmd::wait_until(&format!("the routes at {member}"), STALL_MAX, has_all).unwrap();
    }
    peer
}

/// A trio of BIRDs, and what their peer and their host ports hear.
fn birds(
    timers: Timers,
    prepare: impl FnOnce(&Lab) -> anyhow::Result<()>,
) -> Option<(Scenario, Capture, Capture)> {
    let scenario = ready(|| Ok(bird::options(timers)), prepare)?;
    let heard = Capture::start(&scenario.lab, WHOLE).unwrap();
    let inside = Capture::of_applications(&scenario.lab, &Member::ALL, WHOLE).unwrap();
    Some((scenario, heard, inside))
}

#[test]
fn bird_session() {
    let timers = Timers::SHORT;
    let Some((mut scenario, heard, inside)) = birds(timers, |lab| bird::prepare(lab, timers))
    else {
        return;
    };
    let peer = session_with_routes(&scenario, timers);
    let first = peer.session().unwrap();
    watch(&peer, &first, Duration::from_secs(2 * timers.keepalive_s));
    let inside = inside.finish().unwrap();
    print_waits(&mut scenario, "before");
    let (old, _) = crash_primary(&mut scenario);
    watch(&peer, &first, Duration::from_secs(3 * timers.hold_s + 1));
    print_waits(&mut scenario, "after");
    for member in old.others() {
        let session = bird::session_of(&scenario.lab, member).unwrap();
        assert_eq!(session.routes.0, bird::ROUTES, "{member}: {session:?}");
    }
    let heard = heard.finish().unwrap();
    let others = print_nodes(&heard, &inside);
    assert!(others.is_empty(), "{others:?} said other bytes than the primary");
    check_session(&heard);
    scenario.check_wire(1).unwrap();
}

/// When both ends announce at the same moment, what BIRD packs into an update depends on how many
/// of the peer's routes it has in its table by then: primary and clone may say other bytes. One BIRD
/// does in any case: its configuration is not the others'. The audit notices exactly the clones that
/// did, and they are made anew.
#[test]
fn bird_both_at_once() {
    let timers = Timers::SHORT;
    let prepare = |lab: &Lab| bird::prepare(lab, timers).and_then(|()| bird::drift(lab, Member::C));
    let Some((mut scenario, heard, inside)) = birds(timers, prepare) else { return };
    let peer = bird::Peer::start(&scenario.lab, timers, true).unwrap();
    peer.wait_routes(bird::ROUTES, bird::ROUTES).unwrap();
    // Longer than a note takes, and its answer.
    std::thread::sleep(ms(1000));
    let others = print_nodes(&heard.finish().unwrap(), &inside.finish().unwrap());
    let first = peer.session().unwrap();
    let primary = scenario.primary().unwrap();
    for member in primary.others() {
        let differs = others.contains(&member);
        let status = whole(&mut scenario, member, u64::from(differs));
        let mut told = status.timeline.iter().filter(|event| event.event == "diverged");
        let noticed = told.next().map(|event| event.detail.clone());
        let restored = status.checkpoints.map_or(0, |checkpoints| checkpoints.restored);
        println!("{member} {noticed:?}, restored {restored} times");
        assert_eq!(restored > 0, differs, "{member}: {noticed:?}");
    }
    let healed = others.into_iter().find(|member| *member != primary);
    let healed = healed.expect("one has another configuration than the primary");
    // It serves: the peer's session goes on with it.
    scenario.trio.node(primary).switchover(Some(healed)).unwrap();
    scenario.trio.wait_primary(Some(primary), READY_TIMEOUT).unwrap();
    watch(&peer, &first, Duration::from_secs(2 * timers.hold_s));
}

/// The node is ready, and was made anew so often at least. One that said less is only late at first:
/// that takes `service.clone_wait_ms`.
fn whole(scenario: &mut Scenario, member: Member, times: u64) -> Status {
    let node = scenario.trio.node(member);
    let is_whole = |status: &Status| {
        status.ready && status.checkpoints.as_ref().is_some_and(|c| c.restored >= times)
    };
    let look = || Ok(is_whole(&node.status()?));
    cmd::wait_until(&format!("{member} to be whole"), READY_TIMEOUT, look).unwrap();
    node.status().unwrap()
}

/// How far apart the nodes' timers drift within two periods of BIRD's defaults.
#[test]
#[ignore = "takes three minutes: measures how far timers drift apart"]
fn bird_default_timers() {
    let timers = Timers::DEFAULT;
    let Some((mut scenario, heard, inside)) = birds(timers, |lab| bird::prepare(lab, timers))
    else {
        return;
    };
    let peer = session_with_routes(&scenario, timers);
    let two_periods = Duration::from_secs(2 * timers.keepalive_s + 10);
    watch(&peer, &peer.session().unwrap(), two_periods);
    print_waits(&mut scenario, "after two periods");
    print_nodes(&heard.finish().unwrap(), &inside.finish().unwrap());
}

/// Prints what each node's BIRD said by itself beside what the peer heard; gives those that said
/// anything else.
fn print_nodes(heard: &Recording, inside: &Recording) -> Vec<Member> {
    let connection = &stream::connections(heard, bird::PORT)[0];
    let there = connection.service_said(heard, |port| matches!(port, Port::Node(_)));
    let mut others = Vec::new();
    for member in Member::ALL {
        let said = connection.service_said(inside, |port| port == Port::Host(member));
        let differs = said.bytes.iter().zip(&there.bytes).position(|(a, b)| a != b);
        others.extend(differs.map(|_| member));
        let messages = bgp::messages(&said.bytes).unwrap();
        let alive = messages.iter().filter(|message| message.kind == Kind::Keepalive);
        let late = alive.filter_map(|message| {
            let at = |said: &Said| said.said_at(message.end).map(|ns| ns as i64 / 1_000_000);
            Some(at(&said)? - at(&there)?)
        });
        println!(
            "{member}: {} bytes, first other {differs:?}, {:?}, keepalives late by ms {:?}",
            said.bytes.len(),
            bgp::count(&messages),
            late.collect::<Vec<_>>()
        );
    }
    others
}
