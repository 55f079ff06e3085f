//! Three daemons, a real application, and the deaths it has to survive.
//!
//! No test asserts a speed: stalls are printed, and bounded by a generous liveness bound.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use understudy_lab::capture::{Answer, Kind, Recording};
use understudy_lab::clients::bulk::{Bulk, Load};
use understudy_lab::clients::counter::Counter;
use understudy_lab::clients::handshake::RawClient;
use understudy_lab::clients::idle::Idle;
use understudy_lab::clients::inflight::InFlight;
use understudy_lab::clients::pipelined::Pipelined;
use understudy_lab::clients::rediscli::RedisCli;
use understudy_lab::clients::short::Short;
use understudy_lab::clients::udp::UdpEcho;
use understudy_lab::clients::{Task, resp};
use understudy_lab::frame::Body;
use understudy_lab::node::{READY_TIMEOUT, block_acknowledgements, vip4, vip6};
use understudy_lab::pattern::Rng;
use understudy_lab::topology::{VIP4, netns_names};
use understudy_lab::{Lab, Member, Net, NodeOptions, Scenario, Trio, Verdict, cmd, scenario, sys};

const REDIS: u16 = 6379;
/// No client is without service for longer.
const STALL_MAX: Duration = Duration::from_secs(10);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A ready trio, or nothing when the test cannot run here.
fn ready(options: &NodeOptions) -> Option<Scenario> {
    let can = scenario::can_run(&["understudyd", "understudy", "lab-server"]);
    can.then(|| Scenario::start(options).unwrap())
}

fn counter(scenario: &Scenario, target: SocketAddr, key: &str) -> Task {
    let plan = Counter { target, key: key.into(), pause: ms(2) };
    let task = plan.start(&scenario.lab.client_netns()).unwrap();
    task.wait_progress(50, STALL_MAX).unwrap();
    task
}

fn short(scenario: &Scenario, target: SocketAddr) -> Task {
    let plan = Short { target, prefix: "s".into(), pause: ms(10), connections_max: 1 << 20 };
    plan.start(&scenario.lab.client_netns()).unwrap()
}

fn redis_cli(scenario: &Scenario, target: SocketAddr) -> RedisCli {
    let lab = &scenario.lab;
    RedisCli::start(&lab.client_netns(), lab.dir(), lab.prefix(), target, "cli", ms(5)).unwrap()
}

/// Prints the verdict and the stall around a moment, and holds both to their bounds.
fn judge(verdict: &Verdict, moment_ns: u64) {
    let stall = verdict.stall(moment_ns);
    let around = stall.around_ns().map_or("-".into(), |ns| format!("{:.1}", ns as f64 / 1e6));
    println!("{verdict}  stall {around} ms, longest {:.1} ms", stall.longest_ns as f64 / 1e6);
    verdict.assert_pass();
    assert!(stall.longest_ns < STALL_MAX.as_nanos() as u64, "the service was gone");
}

/// For a client that does not read all the time: its times mean nothing.
fn passes(verdict: &Verdict) {
    println!("{verdict}");
    verdict.assert_pass();
}

/// Lets a client go on for a while after an event, then judges it.
fn go_on(task: Task, moment_ns: u64) {
    task.wait_progress(50, STALL_MAX).unwrap();
    judge(&task.finish().unwrap(), moment_ns);
}

/// Kills the primary as if its machine died.
fn crash_primary(scenario: &mut Scenario) -> (Member, u64) {
    let primary = scenario.primary().unwrap();
    (primary, scenario.trio.crash(&scenario.lab, primary).unwrap())
}

fn survives_kill(target: SocketAddr) {
    let Some(mut scenario) = ready(&NodeOptions::default()) else { return };
    let tasks = [counter(&scenario, target, "count"), short(&scenario, target)];
    let cli = redis_cli(&scenario, target);
    cli.wait_progress(20, STALL_MAX).unwrap();
    let (old, killed_ns) = crash_primary(&mut scenario);
    cli.wait_progress(50, STALL_MAX).unwrap();
    tasks.into_iter().for_each(|task| go_on(task, killed_ns));
    judge(&cli.finish().unwrap(), killed_ns);
    let new = scenario.trio.wait_primary(Some(old), READY_TIMEOUT).unwrap();
    let reigns = scenario.check_wire(1).unwrap();
    assert_eq!(reigns.iter().map(|reign| reign.member).collect::<Vec<_>>(), [old, new]);
}

#[test]
fn redis_survives_kill() {
    survives_kill(vip4(REDIS));
}

#[test]
fn redis_survives_kill_ipv6() {
    survives_kill(vip6(REDIS));
}

/// Whatever queue a connection's frames come by, they end in one log, in their order.
#[test]
fn redis_survives_kill_with_receive_queues() {
    const QUEUES: usize = 4;
    let device = format!(
        "net_af_packet_cl,iface=us-cl,blocksz=65536,framesz=2048,framecnt=4096,qpairs={QUEUES}"
    );
    let set = vec![
        ("ports.client.device".into(), device.into()),
        ("ports.client.rx_queues".into(), (QUEUES as i64).into()),
    ];
    let Some(mut scenario) = ready(&NodeOptions { set, ..NodeOptions::default() }) else { return };
    let target = |n: u32| if n.is_multiple_of(2) { vip4(REDIS) } else { vip6(REDIS) };
    let tasks: Vec<Task> =
        (0..16).map(|n| counter(&scenario, target(n), &format!("count-{n}"))).collect();
    let received = |scenario: &mut Scenario| {
        let primary = scenario.primary().unwrap();
        let counters = scenario.trio.node(primary).status().unwrap().counters;
        (0..QUEUES).map(|q| counters[&format!("client_rx_queue_{q}")]).collect::<Vec<u64>>()
    };
    let before = received(&mut scenario);
    let (old, killed_ns) = crash_primary(&mut scenario);
    let new = scenario.trio.wait_primary(Some(old), READY_TIMEOUT).unwrap();
    tasks.into_iter().for_each(|task| go_on(task, killed_ns));
    let after = received(&mut scenario);
    println!("frames by queue: {before:?} at {old:?}, then {after:?} at {new:?}");
    for queues in [before, after] {
        assert!(queues.iter().filter(|frames| **frames > 20).count() > 1, "one queue had it all");
    }
    scenario.check_wire(1).unwrap();
}

#[test]
fn concurrent_200_pipelined() {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let seed = number("UNDERSTUDY_SEED", sys::unix_ns());
    println!("UNDERSTUDY_SEED={seed}");
    let mut rng = Rng::new(seed);
    for kill in 0..number("UNDERSTUDY_KILLS", 6) {
        let Some(mut scenario) = ready(&NodeOptions::default()) else { return };
        let plan = Pipelined {
            target: vip4(REDIS),
            prefix: "lane".into(),
            connections: 200,
            depth: 8,
            pause: ms(20),
            seed: rng.word(),
        };
        let task = plan.start(&scenario.lab.client_netns()).unwrap();
        task.wait_progress(200, STALL_MAX * 2).unwrap();
        let wait = Duration::from_micros(rng.below(1_000_000));
        std::thread::sleep(wait);
        let (_, killed_ns) = crash_primary(&mut scenario);
        println!("kill {kill} after {wait:?}");
        task.wait_progress(1000, STALL_MAX * 2).unwrap();
        judge(&task.finish().unwrap(), killed_ns);
        scenario.check_wire(1).unwrap();
    }
}

#[test]
fn idle_10s() {
    let Some(mut scenario) = ready(&NodeOptions::default()) else { return };
    let idle = Idle { target: vip4(REDIS), key: "idle".into(), silence: ms(10_000) };
    let idle = idle.start(&scenario.lab.client_netns()).unwrap();
    idle.wait_progress(1, STALL_MAX).unwrap();
    std::thread::sleep(ms(3000));
    crash_primary(&mut scenario);
    passes(&idle.join(ms(60_000)).unwrap());
    scenario.check_wire(1).unwrap();
}

#[test]
fn in_flight() {
    let Some(mut scenario) = ready(&NodeOptions::default()) else { return };
    let netns = scenario.lab.client_netns();
    let names = ["halves-at-once", "halves-late", "sent-before", "sent-after"];
    let mut clients = names.map(|key| InFlight::connect(&netns, vip4(REDIS), key).unwrap());
    clients[0].send_first_half().unwrap();
    clients[1].send_first_half().unwrap();
    std::thread::sleep(ms(100));
    let old = scenario.primary().unwrap();
    clients[2].send_whole().unwrap();
    scenario.trio.crash(&scenario.lab, old).unwrap();
    clients[0].send_second_half().unwrap();
    clients[3].send_whole().unwrap();
    let sent_ns = sys::unix_ns();
    let new = scenario.trio.wait_primary(Some(old), READY_TIMEOUT).unwrap();
    let gap = scenario.trio.timeline(sent_ns).iter().any(|(_, e)| e.event == "election_won");
    // The switch has seen the links go, and floods.
    let counters = scenario.trio.node(new).status().unwrap().counters;
    println!("sent meanwhile: {gap}, kept {}", counters["kept_applied"]);
    assert!(!gap || counters["kept_applied"] > 0, "what came meanwhile was not kept");
    clients[1].send_second_half().unwrap();
    for mut client in clients {
        client.take_reply().unwrap();
        passes(&client.finish());
    }
    scenario.check_wire(1).unwrap();
}

#[test]
fn mid_handshake() {
    let Some(mut scenario) = ready(&NodeOptions::default()) else { return };
    let netns = scenario.lab.client_netns();
    let start = || RawClient::connect_half(&netns, VIP4.parse().unwrap(), REDIS).unwrap();
    let mut at_once = start();
    let mut late = start();
    // The SYNs must have reached the replicas' logs: nothing else is asked of this pause.
    late.hold(ms(100)).unwrap();
    let (old, _) = crash_primary(&mut scenario);
    let request = |key: &str| resp::command(&["INCR", key]);
    at_once.complete(&request("at-once"), b":1\r\n").unwrap();
    scenario.trio.wait_primary(Some(old), READY_TIMEOUT).unwrap();
    late.hold(ms(500)).unwrap();
    late.complete(&request("late"), b":1\r\n").unwrap();
    for (mut client, key) in [(at_once, "at-once"), (late, "late")] {
        client.converse(&request(key), b":2\r\n").unwrap();
        passes(&client.finish());
    }
    scenario.check_wire(1).unwrap();
}

/// Something happens to a replica; the clients of the primary go on with it.
fn replica_suffers(what: impl FnOnce(&mut Scenario, Member)) {
    let Some(mut scenario) = ready(&NodeOptions::default()) else { return };
    let primary = scenario.primary().unwrap();
    let replica = primary.others().next().unwrap();
    let tasks = [counter(&scenario, vip4(REDIS), "count"), short(&scenario, vip4(REDIS))];
    let moment_ns = sys::unix_ns();
    what(&mut scenario, replica);
    std::thread::sleep(ms(1500));
    tasks.into_iter().for_each(|task| go_on(task, moment_ns));
    assert_eq!(scenario.primary().unwrap(), primary, "the primary has not changed");
    scenario.check_wire(0).unwrap();
}

#[test]
fn replica_killed() {
    replica_suffers(|scenario, replica| {
        scenario.trio.crash(&scenario.lab, replica).unwrap();
    });
}

#[test]
fn replica_link_cut() {
    replica_suffers(|scenario, replica| {
        scenario.lab.cut_link(replica, Net::Replica).unwrap();
    });
}

/// Something happens to the primary that a successor must make good.
fn primary_suffers(what: impl FnOnce(&mut Scenario, Member)) {
    let Some(mut scenario) = ready(&NodeOptions::default()) else { return };
    let old = scenario.primary().unwrap();
    let tasks = [counter(&scenario, vip4(REDIS), "count"), short(&scenario, vip4(REDIS))];
    let moment_ns = sys::unix_ns();
    what(&mut scenario, old);
    scenario.trio.wait_primary(Some(old), READY_TIMEOUT).unwrap();
    tasks.into_iter().for_each(|task| go_on(task, moment_ns));
    for net in Net::ALL {
        scenario.lab.restore_link(old, net).unwrap();
        scenario.lab.restore(old, net).unwrap();
    }
    // The old one is back among them: it must not speak again.
    let after = counter(&scenario, vip4(REDIS), "after");
    std::thread::sleep(ms(1000));
    go_on(after, moment_ns);
    scenario.check_wire(1).unwrap();
}

#[test]
fn primary_client_link_cut() {
    primary_suffers(|scenario, primary| scenario.lab.cut_link(primary, Net::Client).unwrap());
}

#[test]
fn primary_replica_partition() {
    primary_suffers(|scenario, primary| scenario.lab.isolate(primary, Net::Replica).unwrap());
}

#[test]
fn primary_full_partition() {
    primary_suffers(|scenario, primary| {
        for net in [Net::Replica, Net::Mgmt] {
            scenario.lab.isolate(primary, net).unwrap();
        }
    });
}

#[test]
fn application_killed() {
    primary_suffers(|scenario, primary| {
        let node = scenario.trio.node(primary);
        node.kill_application().unwrap();
        // It is acted upon before it is known.
        let ending = "the application ended: signal: 9 (SIGKILL)";
        let is_told = || Ok(fs::read_to_string(node.log())?.contains(ending));
        cmd::wait_until("how it ended in the log", ms(5000), is_told).unwrap();
    });
}

/// Asks once while no acknowledgement reaches the primary; what left it for the asker meanwhile.
fn ask_with_acks_blocked(scenario: &mut Scenario) -> Vec<Answer> {
    let primary = scenario.primary().unwrap();
    let netns = scenario.lab.client_netns();
    let mut client = InFlight::connect(&netns, vip4(REDIS), "blocked").unwrap();
    let port = client.local_port().unwrap();
    std::thread::sleep(ms(300));
    block_acknowledgements(&scenario.lab, primary, true).unwrap();
    std::thread::sleep(ms(20));
    let sent_ns = sys::unix_ns();
    client.send_whole().unwrap();
    std::thread::sleep(ms(2000));
    let unblocked_ns = sys::unix_ns();
    block_acknowledgements(&scenario.lab, primary, false).unwrap();
    client.take_reply().unwrap();
    passes(&client.finish());
    let recording = scenario.recording().unwrap();
    // The group may hand over, and back, while its acknowledgements are lost.
    recording.check_one_answers(2).unwrap();
    recording.check_tcp().unwrap();
    uncommitted(&recording, primary, port, sent_ns..unblocked_ns)
}

fn with_policy(policy: &str) -> NodeOptions {
    NodeOptions { commit: Some(policy.into()), ..NodeOptions::default() }
}

#[test]
fn acks_blocked() {
    for policy in ["any", "quorum"] {
        let Some(mut scenario) = ready(&with_policy(policy)) else { return };
        let leaked = ask_with_acks_blocked(&mut scenario);
        assert!(leaked.is_empty(), "{policy}: left the primary uncommitted: {leaked:?}");
    }
}

/// The proof that `acks_blocked` would see a leak: this policy waits for nobody.
#[test]
fn acks_blocked_without_commit_leaks() {
    let Some(mut scenario) = ready(&with_policy("none")) else { return };
    assert!(!ask_with_acks_blocked(&mut scenario).is_empty(), "policy none waits for somebody");
}

/// Frames to a client's port that acknowledge or say more than any frame before the time.
fn uncommitted(
    recording: &Recording,
    primary: Member,
    port: u16,
    time: std::ops::Range<u64>,
) -> Vec<Answer> {
    let mut known: Option<(u32, u32)> = None;
    let mut leaked = Vec::new();
    for answer in recording.answers() {
        let Body::Tcp(tcp) = &answer.frame.body else { continue };
        if answer.member != primary || answer.kind != Kind::Service || tcp.destination != port {
            continue;
        }
        let end = tcp.seq.wrapping_add(tcp.payload_bytes as u32);
        let newer = |a: u32, b: u32| a.wrapping_sub(b) as i32 > 0;
        if answer.unix_ns < time.start {
            let (ack, seq) = known.unwrap_or((tcp.ack, end));
            let later = |a, b| if newer(a, b) { a } else { b };
            known = Some((later(tcp.ack, ack), later(end, seq)));
        } else if answer.unix_ns < time.end
            && known.is_none_or(|(ack, seq)| newer(tcp.ack, ack) || newer(end, seq))
        {
            leaked.push(answer);
        }
    }
    assert!(known.is_some(), "the connection was never seen");
    leaked
}

#[test]
fn udp_echo() {
    if !scenario::can_run(&["lab-server"]) {
        return;
    }
    let Some(mut scenario) = ready(&NodeOptions::lab_server("udp", 7000).unwrap()) else { return };
    let plan = UdpEcho { target: vip4(7000), seed: 11, pause: ms(2) };
    let task = plan.start(&scenario.lab.client_netns()).unwrap();
    task.wait_progress(100, STALL_MAX).unwrap();
    let (_, killed_ns) = crash_primary(&mut scenario);
    go_on(task, killed_ns);
    scenario.check_wire(1).unwrap();
}

fn tcp_bulk(load: Load) {
    if !scenario::can_run(&["lab-server"]) {
        return;
    }
    let mut options = NodeOptions::lab_server("tcp", 7000).unwrap();
    // The whole upload stays in the log: no checkpoint is asked for here.
    options.set.push(("log.size_mb".into(), 256.into()));
    let Some(mut scenario) = ready(&options) else { return };
    let bytes = 100 << 20;
    let plan = Bulk { target: vip4(7000), load, bytes, seed: 13, pause: Duration::ZERO };
    let task = plan.start(&scenario.lab.client_netns()).unwrap();
    task.wait_progress(bytes / 3, ms(60_000)).unwrap();
    assert!(!task.is_finished(), "the kill must hit the transfer");
    let (_, killed_ns) = crash_primary(&mut scenario);
    let verdict = task.join(ms(120_000)).unwrap();
    let stall = verdict.stall(killed_ns);
    println!("{verdict}  stall {:?}", stall.around_ns().map(Duration::from_nanos));
    verdict.assert_pass();
    assert_eq!(verdict.counted("bytes"), bytes);
    scenario.check_wire(1).unwrap();
}

#[test]
fn tcp_bulk_up() {
    tcp_bulk(Load::Up);
}

#[test]
fn tcp_bulk_down() {
    tcp_bulk(Load::Down);
}

#[test]
fn switchover() {
    let Some(mut scenario) = ready(&NodeOptions::default()) else { return };
    let old = scenario.primary().unwrap();
    let to = old.others().last().unwrap();
    let tasks = [counter(&scenario, vip4(REDIS), "count"), short(&scenario, vip4(REDIS))];
    let moment_ns = sys::unix_ns();
    let done = scenario.trio.node(old).switchover(Some(to)).unwrap();
    println!("{done:?}");
    tasks.into_iter().for_each(|task| go_on(task, moment_ns));
    assert_eq!(scenario.primary().unwrap(), to);
    scenario.check_wire(1).unwrap();
}

/// The old primary starts itself anew, with an empty log; meanwhile the new one dies. It knows what it
/// held, and helps the third node, which holds all of it.
#[test]
fn switchover_then_death() {
    let Some(mut scenario) = ready(&NodeOptions::default()) else { return };
    let old = scenario.primary().unwrap();
    let [to, third]: [Member; 2] = old.others().collect::<Vec<_>>().try_into().unwrap();
    let tasks = [counter(&scenario, vip4(REDIS), "count"), short(&scenario, vip4(REDIS))];
    scenario.trio.node(old).switchover(Some(to)).unwrap();
    let killed_ns = scenario.trio.crash(&scenario.lab, to).unwrap();
    tasks.into_iter().for_each(|task| go_on(task, killed_ns));
    assert_eq!(scenario.trio.wait_primary(Some(to), READY_TIMEOUT).unwrap(), third);
    scenario.check_wire(2).unwrap();
}

#[test]
fn second_failure() {
    let Some(mut scenario) = ready(&NodeOptions::default()) else { return };
    let task = counter(&scenario, vip4(REDIS), "count");
    let (first, first_ns) = crash_primary(&mut scenario);
    let second = scenario.trio.wait_primary(Some(first), READY_TIMEOUT).unwrap();
    task.wait_progress(50, STALL_MAX).unwrap();
    scenario.trio.revive(&scenario.lab, first).unwrap();
    scenario.trio.node(first).wait_ready(READY_TIMEOUT).unwrap();
    task.wait_progress(50, STALL_MAX).unwrap();
    assert_eq!(scenario.primary().unwrap(), second, "a return is no reason for a handover");
    let (_, second_ns) = crash_primary(&mut scenario);
    task.wait_progress(50, STALL_MAX).unwrap();
    let verdict = task.finish().unwrap();
    judge(&verdict, first_ns);
    judge(&verdict, second_ns);
    scenario.check_wire(2).unwrap();
}

#[test]
fn stop_and_start_leaves_nothing_behind() {
    if !scenario::can_run(&["understudyd", "understudy"]) {
        return;
    }
    scenario::prepare_machine().unwrap();
    let lab = Lab::new().unwrap();
    let links = || Member::ALL.map(|member| interfaces(&lab.node_netns(member)));
    let seen = || (links(), namespaces(), scenario::huge_page_files());
    let before = seen();
    for round in 0..2 {
        let mut trio = Trio::start(&lab, &NodeOptions::default()).unwrap();
        assert!(lab.processes().len() >= 6, "three daemons and three applications are marked");
        for (member, code) in trio.stop().unwrap() {
            assert_eq!(code, 0, "node {member}, round {round}");
        }
        let left = cmd::wait_until("the end of all processes", STALL_MAX, || {
            Ok(lab.processes().is_empty())
        });
        left.unwrap_or_else(|error| panic!("{error}: {:?}", lab.processes()));
        assert_eq!(seen(), before, "round {round}");
    }
}

/// Names of the interfaces of a namespace.
fn interfaces(netns: &Path) -> BTreeSet<String> {
    let text = cmd::run_inside(netns, &["ip", "-o", "link"]).unwrap();
    text.lines().filter_map(|line| line.split_whitespace().nth(1)).map(String::from).collect()
}

fn namespaces() -> BTreeSet<String> {
    netns_names().into_iter().collect()
}
