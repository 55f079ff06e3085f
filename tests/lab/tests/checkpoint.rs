//! Nodes that join late: a checkpoint of the running application, and the log from there on.
//!
//! No test asserts a speed: what it took is printed, and bounded by a generous liveness bound.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use understudy_api::Status;
use understudy_lab::clients::Task;
use understudy_lab::clients::counter::Counter;
use understudy_lab::clients::data::Data;
use understudy_lab::clients::pipelined::Pipelined;
use understudy_lab::node::{READY_TIMEOUT, vip4, vip6};
use understudy_lab::pattern::Rng;
use understudy_lab::topology::VIP4;
use understudy_lab::{Member, NodeOptions, Scenario, Verdict, cmd, scenario, sys};

const REDIS: u16 = 6379;
const STALL_MAX: Duration = Duration::from_secs(10);
/// A log that the data overwrites.
const LOG_MB: i64 = 16;
const DATA_KEYS: usize = 500;
const DATA_BYTES: usize = 100 << 10;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn options() -> NodeOptions {
    NodeOptions { set: vec![("log.size_mb".into(), LOG_MB.into())], ..NodeOptions::default() }
}

/// Two ready nodes of three, or nothing when the test cannot run here.
fn two_of_three(options: &NodeOptions) -> Option<Scenario> {
    let can = scenario::can_run(&["understudyd", "understudy"]);
    can.then(|| Scenario::start_some(options, &[Member::A, Member::B]).unwrap())
}

fn data() -> Data {
    Data { target: vip4(REDIS), keys: DATA_KEYS, length: DATA_BYTES }
}

/// Its verdict, which must be clean.
fn done(task: Task) -> Verdict {
    let verdict = task.join(ms(60_000)).unwrap();
    println!("{verdict}");
    verdict.assert_pass();
    verdict
}

fn load(scenario: &Scenario, connections: usize) -> Task {
    load_to(scenario, vip4(REDIS), connections)
}

fn load_to(scenario: &Scenario, target: SocketAddr, connections: usize) -> Task {
    let plan = Pipelined {
        target,
        prefix: format!("lane{}", if target.is_ipv4() { 4 } else { 6 }),
        connections,
        depth: 8,
        pause: ms(20),
        seed: 7,
    };
    let task = plan.start(&scenario.lab.client_netns()).unwrap();
    task.wait_progress(200, STALL_MAX).unwrap();
    task
}

/// The data is written: no log reaches back to where it began.
fn wrapped(options: &NodeOptions) -> Option<Scenario> {
    let can = scenario::can_run(&["understudyd", "understudy"]);
    let scenario = can.then(|| Scenario::start(options).unwrap())?;
    done(data().write(&scenario.lab.client_netns()).unwrap());
    Some(scenario)
}

fn replicas(scenario: &mut Scenario) -> (Member, Member, Member) {
    let primary = scenario.primary().unwrap();
    let mut others = primary.others();
    (primary, others.next().unwrap(), others.next().unwrap())
}

/// How it became whole, in its own words.
fn tell(member: Member, status: &Status) {
    for event in &status.timeline {
        let of_it = ["checkpoint", "restore", "whole"].iter().any(|w| event.event.contains(w));
        if of_it {
            println!("  {member}: {} {}", event.event, event.detail);
        }
    }
}

/// A node comes up and is ready by a checkpoint.
fn joins(scenario: &mut Scenario, member: Member) {
    scenario.trio.node(member).wait_ready(READY_TIMEOUT).unwrap();
    // It is counted in the moment after.
    cmd::wait_until(&format!("{member} came by a checkpoint"), READY_TIMEOUT, || {
        let status = scenario.trio.node(member).status()?;
        let is_restored = status.checkpoints.as_ref().is_some_and(|c| c.restored == 1);
        if is_restored {
            tell(member, &status);
        }
        Ok(is_restored)
    })
    .unwrap();
}

/// The primary dies; its successor.
fn kill_primary(scenario: &mut Scenario, task: &Task) -> (Member, u64, Member) {
    let old = scenario.primary().unwrap();
    let killed_ns = scenario.trio.crash(&scenario.lab, old).unwrap();
    task.wait_progress(200, STALL_MAX).unwrap();
    let new = scenario.trio.wait_primary(Some(old), READY_TIMEOUT).unwrap();
    println!("{old} is dead, {new} serves");
    (old, killed_ns, new)
}

/// Ends the load, prints the stall of each kill, and holds the ledger to be clean.
fn judge(task: Task, kills: &[u64]) {
    let verdict = task.finish().unwrap();
    for (kill, &killed_ns) in kills.iter().enumerate() {
        let stall = verdict.stall(killed_ns).around_ns().map(|ns| ns as f64 / 1e6);
        println!("kill {}: stall {stall:.1?} ms", kill + 1);
    }
    println!("{verdict}");
    verdict.assert_pass();
}

/// The same connections live through five kills, each node of the three killed at least once.
#[test]
fn five_kills() {
    let Some(mut scenario) = two_of_three(&options()) else { return };
    done(data().write(&scenario.lab.client_netns()).unwrap());
    let task = load(&scenario, 80);
    let ipv6 = load_to(&scenario, vip6(REDIS), 20);
    scenario.trio.node(Member::C).start().unwrap();
    joins(&mut scenario, Member::C);
    let mut kills = Vec::new();
    let mut handovers = 0;
    for kill in 0..5 {
        if kill == 1 {
            // The one that joined late dies while it serves.
            let from = scenario.primary().unwrap();
            if from != Member::C {
                scenario.trio.node(from).switchover(Some(Member::C)).unwrap();
                scenario.trio.wait_primary(Some(from), READY_TIMEOUT).unwrap();
                handovers += 1;
                joins(&mut scenario, from);
            }
        }
        let (old, killed_ns, _) = kill_primary(&mut scenario, &task);
        kills.push(killed_ns);
        handovers += 1;
        scenario.trio.revive(&scenario.lab, old).unwrap();
        joins(&mut scenario, old);
        task.wait_progress(200, STALL_MAX).unwrap();
    }
    ipv6.wait_progress(200, STALL_MAX).unwrap();
    judge(ipv6, &[]);
    judge(task, &kills);
    done(data().read(&scenario.lab.client_netns()).unwrap());
    scenario.check_wire(handovers).unwrap();
}

/// A node whose newest checkpoint is damaged uses the one before, and the longer log.
#[test]
fn a_corrupt_newest_checkpoint() {
    let Some(mut scenario) = wrapped(&options()) else { return };
    let task = load(&scenario, 20);
    let (_, _, node) = replicas(&mut scenario);
    let older = scenario.trio.node(node).checkpoint().unwrap();
    task.wait_progress(100, STALL_MAX).unwrap();
    let newer = scenario.trio.node(node).checkpoint().unwrap();
    assert!(newer.generation == older.generation + 1 && newer.position > older.position);
    scenario.trio.crash(&scenario.lab, node).unwrap();
    let image = scenario.trio.node(node).checkpoints().join(newer.generation.to_string());
    let pages = image.join("image/pages-1.img");
    let mut bytes = fs::read(&pages).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pages, bytes).unwrap();
    scenario.trio.revive(&scenario.lab, node).unwrap();
    joins(&mut scenario, node);
    let status = scenario.trio.node(node).status().unwrap();
    let used = format!("generation {} this node's own", older.generation);
    assert!(status.timeline.iter().any(|e| e.detail == used), "{:?}", status.timeline);
    let (_, killed_ns, _) = kill_primary(&mut scenario, &task);
    let verdict = task.finish().unwrap();
    println!("{verdict} stall {:?} ns", verdict.stall(killed_ns).around_ns());
    verdict.assert_pass();
    done(data().read(&scenario.lab.client_netns()).unwrap());
    scenario.check_wire(1).unwrap();
}

/// A small file system in place of a directory, until dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> SmallDisk {
        let at_text = at.to_str().unwrap().to_string();
        let options = format!("size={size}");
        cmd::run(&["mount", "-t", "tmpfs", "-o", &options, "tmpfs", &at_text]).unwrap();
        SmallDisk(at)
    }

    fn grow(&self, size: &str) {
        let options = format!("remount,size={size}");
        cmd::run(&["mount", "-o", &options, self.0.to_str().unwrap()]).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = cmd::run(&["umount", "-l", self.0.to_str().unwrap()]);
    }
}

/// The primary's disk is full while it takes a checkpoint: the service does not notice, the
/// operator does; with room it works again.
#[test]
fn a_full_disk() {
    let Some(mut scenario) = wrapped(&options()) else { return };
    let task = load(&scenario, 20);
    let (primary, _, _) = replicas(&mut scenario);
    let node = scenario.trio.node(primary);
    let disk = SmallDisk::mount(node.checkpoints(), "20m");
    for _ in 0..2 {
        let error = node.checkpoint().unwrap_err().to_string();
        println!("{error}");
        assert!(error.contains("No space left") || error.contains("cannot dump"), "{error}");
        let status = node.status().unwrap();
        assert!(status.checkpoints.unwrap().failed_because.is_some());
        assert_eq!(fs::read_dir(node.checkpoints()).unwrap().count(), 0, "nothing of it stays");
    }
    task.wait_progress(100, STALL_MAX).unwrap();
    disk.grow("400m");
    let taken = node.checkpoint().unwrap();
    println!("{taken:?}");
    assert_eq!(node.status().unwrap().checkpoints.unwrap().failed_because, None);
    task.wait_progress(100, STALL_MAX).unwrap();
    assert_eq!(scenario.primary().unwrap(), primary, "it serves on");
    let verdict = task.finish().unwrap();
    println!("{verdict} longest stall {:.1} ms", verdict.stall(0).longest_ns as f64 / 1e6);
    verdict.assert_pass();
    scenario.check_wire(0).unwrap();
    drop(scenario);
    drop(disk);
}

/// The node that gives a checkpoint dies while it does. Only the primary is left: it can commit
/// nothing more alone, and the node that joins must get its checkpoint, or nobody is served again.
#[test]
fn the_source_dies_during_the_transfer() {
    let mut slow = options();
    slow.set.push(("checkpoint.transfer_mb_s".into(), 20.into()));
    let Some(mut scenario) = wrapped(&slow) else { return };
    let task = load(&scenario, 20);
    let (primary, source, node) = replicas(&mut scenario);
    scenario.trio.crash(&scenario.lab, node).unwrap();
    scenario.trio.revive(&scenario.lab, node).unwrap();
    cmd::wait_until("the transfer", READY_TIMEOUT, || {
        let status = scenario.trio.node(node).status();
        let restoring = status.ok().and_then(|s| s.checkpoints?.restoring);
        Ok(restoring.is_some_and(|r| r.bytes_done > 5 << 20))
    })
    .unwrap();
    let killed_ns = scenario.trio.crash(&scenario.lab, source).unwrap();
    joins(&mut scenario, node);
    task.wait_progress(100, STALL_MAX).unwrap();
    assert_eq!(scenario.primary().unwrap(), primary);
    let verdict = task.finish().unwrap();
    let stall = verdict.stall(killed_ns).longest_ns as f64 / 1e6;
    println!("{verdict} longest stall {stall:.0} ms, in which the checkpoint of the primary came");
    verdict.assert_pass();
    done(data().read(&scenario.lab.client_netns()).unwrap());
    scenario.check_wire(0).unwrap();
}

/// Says a line to the application, and hears one.
fn ask(stream: &mut TcpStream, line: &str) -> String {
    stream.write_all(format!("{line}\r\n").as_bytes()).unwrap();
    hear(stream)
}

fn hear(stream: &mut TcpStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.trim_end().into()
}

/// The application is busy when it is saved: its kernel has a connection, and a request on it, which it has not
/// accepted. Whoever restores it goes on with that connection too.
#[test]
fn a_connection_not_yet_accepted() {
    let Some(mut scenario) = wrapped(&options()) else { return };
    let (primary, taker, node) = replicas(&mut scenario);
    scenario.trio.crash(&scenario.lab, node).unwrap();
    let netns = scenario.lab.client_netns();
    let connect = || {
        let stream = sys::in_netns(&netns, || TcpStream::connect(vip4(REDIS))).unwrap().unwrap();
        stream.set_read_timeout(Some(STALL_MAX)).unwrap();
        stream
    };
    let mut busy = connect();
    busy.write_all(b"EVAL \"for i=1,200000000 do end return 7\" 0\r\n").unwrap();
    std::thread::sleep(ms(200));
    let mut late = connect();
    late.write_all(b"INCR late\r\n").unwrap();
    std::thread::sleep(ms(100));
    let taken = scenario.trio.node(taker).checkpoint().unwrap();
    assert_eq!(taken.pending, 1, "{taken:?}");
    scenario.trio.revive(&scenario.lab, node).unwrap();
    joins(&mut scenario, node);
    assert_eq!((hear(&mut busy), hear(&mut late)), (":7".into(), ":1".into()));
    let status = scenario.trio.node(node).status().unwrap();
    let used = format!("generation {} from {taker}", taken.generation);
    assert!(status.timeline.iter().any(|e| e.detail.starts_with(&used)), "{:?}", status.timeline);
    scenario.trio.node(primary).switchover(Some(node)).unwrap();
    assert_eq!(
        (ask(&mut late, "INCR late"), ask(&mut busy, "GET late")),
        (":2".into(), "$1".into())
    );
    scenario.check_wire(1).unwrap();
}

/// Nothing runs on the replicas: the application is brought to life at takeover, from a checkpoint,
/// and given the log from its barrier on; at first, when there is none, from the start.
#[test]
fn warm_clones() {
    let mut warm = NodeOptions::default();
    warm.set.push(("service.clone".into(), "warm".into()));
    let can = scenario::can_run(&["understudyd", "understudy"]);
    let Some(mut scenario) = can.then(|| Scenario::start(&warm).unwrap()) else { return };
    let task = load(&scenario, 100);
    let (_, first_ns, _) = kill_primary(&mut scenario, &task);
    let mut kills = vec![first_ns];
    let mut dead = Member::ALL.into_iter().find(|&m| !scenario.trio.node(m).is_running()).unwrap();
    for _ in 0..3 {
        scenario.trio.revive(&scenario.lab, dead).unwrap();
        if kills.len() == 1 {
            done(data().write(&scenario.lab.client_netns()).unwrap());
        }
        scenario.trio.wait_ready().unwrap();
        let primary = scenario.primary().unwrap();
        for replica in primary.others() {
            let status = scenario.trio.node(replica).status().unwrap();
            assert_eq!(status.service.app_pid, None, "{replica} runs nothing");
        }
        task.wait_progress(200, STALL_MAX).unwrap();
        let (old, killed_ns, new) = kill_primary(&mut scenario, &task);
        takeover(&mut scenario, new, killed_ns);
        kills.push(killed_ns);
        dead = old;
    }
    judge(task, &kills);
    done(data().read(&scenario.lab.client_netns()).unwrap());
    scenario.check_wire(kills.len()).unwrap();
}

/// From the kill to the open gate: detection and election, restore, replay.
fn takeover(scenario: &mut Scenario, new: Member, killed_ns: u64) {
    let Status { timeline, counters, .. } = scenario.trio.node(new).status().unwrap();
    let at = |event: &str| {
        let found = timeline.iter().rev().find(|e| e.event == event && e.unix_ns > killed_ns);
        found.map(|e| (e.unix_ns - killed_ns) as f64 / 1e6)
    };
    let raised = timeline.iter().rev().find(|e| e.event == "raised").map(|e| e.detail.clone());
    println!(
        "  {new}: elected {:.0?} ms, restored {:.0?} ms, open {:.0?} ms after the kill ({})",
        at("election_won"),
        at("restored"),
        at("gate_open"),
        raised.unwrap_or_default()
    );
    let told = ["redelivered", "parked", "ack_waits", "ack_waits_expired", "host_tx_dropped"];
    let told = told.map(|name| format!("{name} {}", counters.get(name).copied().unwrap_or(0)));
    println!("  {new}: {}", told.join(", "));
}

/// A clone that leaves the primary's way is noticed and made anew from another one's checkpoint; the
/// client's connection goes on with it.
#[test]
fn a_clone_that_diverged() {
    let mut impatient = NodeOptions::default();
    impatient.set.push(("service.clone_wait_ms".into(), 1000.into()));
    let can = scenario::can_run(&["understudyd", "understudy"]);
    let Some(mut scenario) = can.then(|| Scenario::start(&impatient).unwrap()) else { return };
    let plan = Counter { target: vip4(REDIS), key: "count".into(), pause: ms(2) };
    let task = plan.start(&scenario.lab.client_netns()).unwrap();
    // Replies of four digits; the clone's become shorter.
    task.wait_progress(1500, ms(60_000)).unwrap();
    let (_, spoilt, _) = replicas(&mut scenario);
    let pid = scenario.trio.node(spoilt).status().unwrap().service.app_pid.unwrap().to_string();
    let set = ["nsenter", "--net", "-t", &pid, "redis-cli", "-h", VIP4, "set", "count", "1"];
    assert_eq!(cmd::run(&set).unwrap().trim(), "OK");
    let node = scenario.trio.node(spoilt);
    cmd::wait_until("the divergence", READY_TIMEOUT, || {
        Ok(node.status()?.not_ready_because.iter().any(|why| why == "the clone has diverged"))
    })
    .unwrap();
    joins(&mut scenario, spoilt);
    // It serves: what was made anew goes on where the others were.
    let from = scenario.primary().unwrap();
    scenario.trio.node(from).switchover(Some(spoilt)).unwrap();
    scenario.trio.wait_primary(Some(from), READY_TIMEOUT).unwrap();
    task.wait_progress(200, STALL_MAX).unwrap();
    let verdict = task.finish().unwrap();
    println!("{verdict}");
    verdict.assert_pass();
    scenario.check_wire(1).unwrap();
}

/// The event's first time on a node's time line after a moment, and what it said.
fn told(status: &Status, event: &str, since_ns: u64) -> Option<(u64, String)> {
    let found = status.timeline.iter().find(|e| e.event == event && e.unix_ns >= since_ns);
    found.map(|e| (e.unix_ns - since_ns, e.detail.clone()))
}

/// A clone whose replies are as long as the primary's but hold other bytes is noticed by the audit,
/// and made anew; the client's connection goes on with it.
#[test]
fn a_clone_that_says_other_bytes() {
    let can = scenario::can_run(&["understudyd", "understudy"]);
    let options = NodeOptions::default();
    let Some(mut scenario) = can.then(|| Scenario::start(&options).unwrap()) else { return };
    let plan = Counter { target: vip4(REDIS), key: "count".into(), pause: ms(2) };
    let task = plan.start(&scenario.lab.client_netns()).unwrap();
    // Replies of four digits, for long enough; the clone's have four others.
    task.wait_progress(1100, ms(60_000)).unwrap();
    let (primary, spoilt, other) = replicas(&mut scenario);
    let pid = scenario.trio.node(spoilt).status().unwrap().service.app_pid.unwrap().to_string();
    let set = ["nsenter", "--net", "-t", &pid, "redis-cli", "-h", VIP4, "set", "count", "7000"];
    let spoilt_ns = sys::unix_ns();
    assert_eq!(cmd::run(&set).unwrap().trim(), "OK");
    let node = scenario.trio.node(spoilt);
    cmd::wait_until("the divergence", ms(10_000), || {
        Ok(told(&node.status()?, "diverged", spoilt_ns).is_some())
    })
    .unwrap();
    joins(&mut scenario, spoilt);
    let status = scenario.trio.node(spoilt).status().unwrap();
    let (late_ns, text) = told(&status, "diverged", spoilt_ns).unwrap();
    println!("noticed after {} ms: {text}", late_ns / 1_000_000);
    assert!(text.contains("other bytes") && text.contains(":6379"), "{text}");
    assert_eq!(status.counters["audit_diverged"], 1);
    for sound in [primary, other] {
        let counters = scenario.trio.node(sound).status().unwrap().counters;
        assert_eq!(counters["audit_diverged"], 0, "{sound}");
        assert!(counters["audit_same"] + counters["audit_notes"] > 0, "{sound} is audited");
    }
    // It serves: what was made anew goes on where the others were.
    scenario.trio.node(primary).switchover(Some(spoilt)).unwrap();
    scenario.trio.wait_primary(Some(primary), READY_TIMEOUT).unwrap();
    task.wait_progress(200, STALL_MAX).unwrap();
    let verdict = task.finish().unwrap();
    println!("{verdict}");
    verdict.assert_pass();
    scenario.check_wire(1).unwrap();
}

/// redis tells the time, which no clone tells alike: the clones are made anew from the primary, which
/// serves all the while; when it does so again and again, that is said, and they are made anew rarely.
#[test]
fn an_application_that_is_not_deterministic() {
    let can = scenario::can_run(&["understudyd", "understudy"]);
    let options = NodeOptions::default();
    let Some(mut scenario) = can.then(|| Scenario::start(&options).unwrap()) else { return };
    let task = load(&scenario, 5);
    let (primary, replica, _) = replicas(&mut scenario);
    let netns = scenario.lab.client_netns();
    for round in 1..=3 {
        let asked_ns = sys::unix_ns();
        let said = cmd::run_inside(&netns, &["redis-cli", "-h", VIP4, "time"]).unwrap();
        println!("{}", said.replace('\n', " "));
        let node = scenario.trio.node(replica);
        cmd::wait_until("the divergence", ms(10_000), || {
            Ok(told(&node.status()?, "diverged", asked_ns).is_some())
        })
        .unwrap();
        if round < 3 {
            node.wait_ready(READY_TIMEOUT).unwrap();
            scenario.trio.wait_ready().unwrap();
        }
    }
    let node = scenario.trio.node(replica);
    cmd::wait_until("the verdict", ms(10_000), || {
        let because = node.status()?.not_ready_because;
        Ok(because.iter().any(|why| why.starts_with("the application is not deterministic: ")))
    })
    .unwrap();
    let status = node.status().unwrap();
    tell(replica, &status);
    println!("{:?}", status.not_ready_because);
    assert_eq!(status.checkpoints.unwrap().restored, 2, "the third waits");
    assert!(status.timeline.iter().any(|e| e.event == "not_deterministic"));
    task.wait_progress(200, STALL_MAX).unwrap();
    assert_eq!(scenario.primary().unwrap(), primary, "it serves on");
    judge(task, &[]);
}

/// Killed again and again while it joins, in the transfer, in the restore, in the first steps: it
/// becomes whole when it is let, and nobody notices.
#[test]
fn killed_while_it_joins() {
    let Some(mut scenario) = wrapped(&options()) else { return };
    let task = load(&scenario, 20);
    let (primary, _, node) = replicas(&mut scenario);
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let seed = number("UNDERSTUDY_SEED", sys::unix_ns());
    println!("UNDERSTUDY_SEED={seed}");
    let mut rng = Rng::new(seed);
    scenario.trio.crash(&scenario.lab, node).unwrap();
    for _ in 0..number("UNDERSTUDY_KILLS", 6) {
        scenario.trio.revive(&scenario.lab, node).unwrap();
        let wait = ms(300 + rng.below(2200));
        std::thread::sleep(wait);
        let status = scenario.trio.node(node).status().ok();
        let stage = status.and_then(|s| s.checkpoints?.restoring).map(|r| r.stage);
        println!("killed after {wait:?}: {}", stage.unwrap_or_else(|| "-".into()));
        scenario.trio.crash(&scenario.lab, node).unwrap();
        task.wait_progress(50, STALL_MAX).unwrap();
    }
    scenario.trio.revive(&scenario.lab, node).unwrap();
    joins(&mut scenario, node);
    assert_eq!(scenario.primary().unwrap(), primary);
    let (_, killed_ns, _) = kill_primary(&mut scenario, &task);
    let verdict = task.finish().unwrap();
    println!("{verdict} stall {:?} ns", verdict.stall(killed_ns).around_ns());
    verdict.assert_pass();
    scenario.check_wire(1).unwrap();
}

/// Nobody asks for them: a clone takes them by time, and after new connections.
#[test]
fn taken_by_themselves() {
    for (key, value) in [("checkpoint.interval_s", 1), ("checkpoint.connections", 10)] {
        let set = vec![(key.into(), value.into())];
        let options = NodeOptions { set, ..NodeOptions::default() };
        let Some(mut scenario) = two_of_three(&options) else { return };
        let follower = scenario.primary().unwrap().others().find(|&m| m != Member::C).unwrap();
        let taken = |scenario: &mut Scenario, member| {
            scenario.trio.node(member).status().unwrap().checkpoints.unwrap().taken
        };
        if key == "checkpoint.connections" {
            std::thread::sleep(ms(1500));
            assert_eq!(taken(&mut scenario, follower), 0, "there were no connections");
        }
        let task = load(&scenario, 20);
        cmd::wait_until("a checkpoint", STALL_MAX, || Ok(taken(&mut scenario, follower) > 0))
            .unwrap();
        let primary = scenario.primary().unwrap();
        assert_eq!(taken(&mut scenario, primary), 0, "a primary leaves it to its follower");
        done_after(task);
    }
}

fn done_after(task: Task) {
    let verdict = task.finish().unwrap();
    println!("{verdict}");
    verdict.assert_pass();
}
