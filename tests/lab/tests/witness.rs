//! Two nodes that serve and a witness that holds the log: any one of the three may die.

use std::path::Path;
use std::time::Duration;

use understudy_api::Role;
use understudy_lab::clients::Task;
use understudy_lab::clients::counter::Counter;
use understudy_lab::node::{READY_TIMEOUT, vip4};
use understudy_lab::{Member, Net, NodeOptions, Scenario, cmd, scenario};

const REDIS: u16 = 6379;
/// No client is without service for longer.
const STALL_MAX: Duration = Duration::from_secs(10);
const WITNESS: Member = Member::C;

/// The shipped trio, the third of it a witness.
fn options() -> NodeOptions {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/trio/a.toml");
    let table: toml::Table = std::fs::read_to_string(file).unwrap().parse().unwrap();
    let mut nodes = table["nodes"].clone();
    let witness =
        nodes.as_array_mut().unwrap().iter_mut().find(|n| n["name"].as_str() == Some("c"));
    witness.unwrap().as_table_mut().unwrap().insert("role".into(), "witness".into());
    NodeOptions { set: vec![("nodes".into(), nodes)], ..NodeOptions::default() }
}

fn ready() -> Option<(Scenario, Task)> {
    if !scenario::can_run(&["understudyd", "understudy"]) {
        return None;
    }
    let mut scenario = Scenario::start(&options()).unwrap();
    assert_eq!(scenario.primary().unwrap(), Member::A);
    let plan =
        Counter { target: vip4(REDIS), key: "count".into(), pause: Duration::from_millis(2) };
    let task = plan.start(&scenario.lab.client_netns()).unwrap();
    task.wait_progress(50, STALL_MAX).unwrap();
    scenario.trio.wait_protected().unwrap();
    Some((scenario, task))
}

/// The client's one connection goes on and ends well.
fn passes(task: Task, killed_ns: u64) {
    task.wait_progress(50, STALL_MAX).unwrap();
    let verdict = task.finish().unwrap();
    let stall = verdict.stall(killed_ns);
    println!("{verdict}  longest stall {:.1} ms", stall.longest_ns as f64 / 1e6);
    verdict.assert_pass();
    assert!(stall.longest_ns < STALL_MAX.as_nanos() as u64, "the service was gone");
}

fn has_no_capsule(scenario: &mut Scenario) {
    let witness = scenario.trio.node(WITNESS);
    let status = witness.status().unwrap();
    assert_eq!((status.role, status.ready), (Role::Witness, true), "{status:?}");
    assert!(!status.service.app_running && witness.conns().unwrap().conns.is_empty());
    let name = scenario.lab.node_netns(WITNESS);
    let links = cmd::run_inside(&name, &["ip", "-o", "link"]).unwrap();
    assert!(!links.contains("us-host"), "a host port: {links}");
}

/// Waits until the primary says, in its status and on its time line, that the witness left the
/// commit set or entered it.
fn wait_commit_set(scenario: &mut Scenario, is_in: bool) {
    let event = if is_in { "admitted" } else { "evicted" };
    cmd::wait_until(&format!("the witness is {event}"), READY_TIMEOUT, || {
        let status = scenario.trio.node(Member::A).status()?;
        let peer = status.peers.iter().find(|p| p.name == WITNESS.name()).expect("a peer");
        let told = status.timeline.iter().rev().find(|e| e.detail.starts_with(WITNESS.name()));
        Ok(peer.in_commit_set == is_in
            && peer.evicted_because.is_none() == is_in
            && told.is_some_and(|e| e.event == event))
    })
    .unwrap();
}

#[test]
fn the_witness_dies_and_returns_and_then_the_primary_dies() {
    let Some((mut scenario, task)) = ready() else { return };
    has_no_capsule(&mut scenario);
    scenario.trio.crash(&scenario.lab, WITNESS).unwrap();
    wait_commit_set(&mut scenario, false);
    scenario.trio.revive(&scenario.lab, WITNESS).unwrap();
    scenario.trio.node(WITNESS).wait_ready(READY_TIMEOUT).unwrap();
    wait_commit_set(&mut scenario, true);
    let killed_ns = scenario.trio.crash(&scenario.lab, Member::A).unwrap();
    let new = scenario.trio.wait_primary(Some(Member::A), READY_TIMEOUT).unwrap();
    assert_eq!(new, Member::B, "a witness serves nobody");
    passes(task, killed_ns);
    has_no_capsule(&mut scenario);
    scenario.check_wire(1).unwrap();
}

#[test]
fn what_only_the_witness_holds_is_handed_to_the_node_that_serves() {
    let Some((mut scenario, task)) = ready() else { return };
    // Everything is committed with the witness alone; B only knows that the primary lives.
    scenario.lab.isolate(Member::B, Net::Replica).unwrap();
    task.wait_progress(100, STALL_MAX).unwrap();
    let behind = scenario.trio.node(Member::B).status().unwrap().log.end;
    let killed_ns = scenario.trio.crash(&scenario.lab, Member::A).unwrap();
    scenario.lab.restore(Member::B, Net::Replica).unwrap();
    let held = scenario.trio.node(WITNESS).status().unwrap().log.end;
    assert!(behind < held, "B lacks nothing: {behind}, {held}");
    let new = scenario.trio.wait_primary(Some(Member::A), READY_TIMEOUT).unwrap();
    assert_eq!(new, Member::B);
    passes(task, killed_ns);
    let events = scenario.trio.timeline(killed_ns);
    let is = |event: &str| events.iter().any(|(m, e)| *m == WITNESS && e.event == event);
    assert!(is("caretaker") && !is("gate_open") && !is("service_restart"), "{events:?}");
    has_no_capsule(&mut scenario);
    scenario.check_wire(1).unwrap();
}
