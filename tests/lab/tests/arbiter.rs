//! Two nodes and an etcd: who is named may serve, and nobody else, whatever is cut.

use std::time::Duration;

use understudy_api::{Arbiter, Role};
use understudy_lab::clients::Task;
use understudy_lab::clients::counter::Counter;
use understudy_lab::node::{READY_TIMEOUT, vip4};
use understudy_lab::sys::unix_ns;
use understudy_lab::{Group, Member, Net, NodeOptions, Scenario, cmd, scenario};

const REDIS: u16 = 6379;
/// No client is without service for longer, once it may be served.
const STALL_MAX: Duration = Duration::from_secs(20);
/// Long enough for whatever must not happen to happen: many times the suspicion and the lease.
const LONG: Duration = Duration::from_secs(2);
use Member::{A, B};

fn ready() -> Option<(Scenario, Task)> {
    if !scenario::can_run(&["understudyd", "understudy"]) {
        return None;
    }
    let options = NodeOptions { group: Group::Pair, ..NodeOptions::default() };
    let mut scenario = Scenario::start(&options).unwrap();
    assert_eq!(scenario.primary().unwrap(), A);
    wait_shared(&mut scenario, A);
    let plan =
        Counter { target: vip4(REDIS), key: "count".into(), pause: Duration::from_millis(2) };
    let task = plan.start(&scenario.lab.client_netns()).unwrap();
    task.wait_progress(50, STALL_MAX).unwrap();
    scenario.trio.wait_protected().unwrap();
    Some((scenario, task))
}

fn arbiter_of(scenario: &mut Scenario, member: Member) -> Arbiter {
    scenario.trio.node(member).status().unwrap().arbiter.expect("a pair has one")
}

/// Waits until the register names both nodes and the primary waits for its replica.
fn wait_shared(scenario: &mut Scenario, primary: Member) {
    wait_named(scenario, primary, &["a", "b"], false);
}

/// Waits until the primary is the only one named and serves without a replica.
fn wait_alone(scenario: &mut Scenario, primary: Member) {
    wait_named(scenario, primary, &[primary.name()], true);
    let verdict = scenario.trio.node(primary).status().unwrap().verdict_line();
    assert!(verdict.contains("exposed because") && verdict.contains("serves alone"), "{verdict}");
}

fn wait_named(scenario: &mut Scenario, primary: Member, members: &[&str], alone: bool) {
    cmd::wait_until(&format!("{members:?} named"), READY_TIMEOUT, || {
        let arbiter = arbiter_of(scenario, primary);
        Ok(arbiter.alone == alone && arbiter.register.is_some_and(|r| r.members == members))
    })
    .unwrap();
}

/// Cuts a node from the other one on both paths, and from the arbiter. Clients still reach it.
fn part(scenario: &Scenario, member: Member) -> u64 {
    let moment = unix_ns();
    scenario.lab.isolate(member, Net::Replica).unwrap();
    scenario.lab.isolate(member, Net::Mgmt).unwrap();
    moment
}

fn rejoin(scenario: &Scenario, member: Member) {
    scenario.lab.restore(member, Net::Replica).unwrap();
    scenario.lab.restore(member, Net::Mgmt).unwrap();
}

/// The node that was away is whole again, and either may die.
fn wait_protected(scenario: &mut Scenario, primary: Member, back: Member) {
    scenario.trio.node(back).wait_ready(READY_TIMEOUT).unwrap();
    wait_shared(scenario, primary);
}

/// Nothing is served for a while, and the node does not call itself primary.
fn nobody_serves(scenario: &mut Scenario, task: &Task, standby: Option<Member>) {
    std::thread::sleep(LONG / 4);
    let before = task.progress();
    std::thread::sleep(LONG);
    assert_eq!(task.progress(), before, "a reply left that nobody's consent covers");
    if let Some(member) = standby {
        let status = scenario.trio.node(member).status().unwrap();
        assert_ne!(status.role, Role::Primary, "{status:?}");
    }
}

/// The client's one connection goes on and ends well.
fn passes(task: Task, since_ns: u64) {
    task.wait_progress(50, STALL_MAX).unwrap();
    let verdict = task.finish().unwrap();
    let stall = verdict.stall(since_ns);
    println!("{verdict}  longest stall {:.1} ms", stall.longest_ns as f64 / 1e6);
    verdict.assert_pass();
}

#[test]
fn each_of_the_two_dies_in_turn() {
    let Some((mut scenario, task)) = ready() else { return };
    let killed_ns = scenario.trio.crash(&scenario.lab, A).unwrap();
    assert_eq!(scenario.trio.wait_primary(Some(A), READY_TIMEOUT).unwrap(), B);
    wait_alone(&mut scenario, B);
    task.wait_progress(50, STALL_MAX).unwrap();
    scenario.trio.revive(&scenario.lab, A).unwrap();
    wait_protected(&mut scenario, B, A);
    scenario.trio.crash(&scenario.lab, B).unwrap();
    assert_eq!(scenario.trio.wait_primary(Some(B), READY_TIMEOUT).unwrap(), A);
    passes(task, killed_ns);
    scenario.check_wire(2).unwrap();
}

#[test]
fn parted_and_only_the_primary_reaches_the_arbiter() {
    let Some((mut scenario, task)) = ready() else { return };
    let parted_ns = part(&scenario, B);
    wait_alone(&mut scenario, A);
    task.wait_progress(50, STALL_MAX).unwrap();
    std::thread::sleep(LONG);
    let status = scenario.trio.node(B).status().unwrap();
    assert_ne!(status.role, Role::Primary, "{status:?}");
    assert_eq!(arbiter_of(&mut scenario, B).reachable, Some(false));
    rejoin(&scenario, B);
    wait_protected(&mut scenario, A, B);
    passes(task, parted_ns);
    scenario.check_wire(0).unwrap();
}

#[test]
fn parted_and_only_the_replica_reaches_the_arbiter() {
    let Some((mut scenario, task)) = ready() else { return };
    let parted_ns = part(&scenario, A);
    assert_eq!(scenario.trio.wait_primary(Some(A), READY_TIMEOUT).unwrap(), B);
    task.wait_progress(50, STALL_MAX).unwrap();
    std::thread::sleep(LONG);
    rejoin(&scenario, A);
    wait_protected(&mut scenario, B, A);
    passes(task, parted_ns);
    scenario.check_wire(1).unwrap();
}

#[test]
fn without_the_arbiter_the_primary_goes_on_and_nobody_takes_over() {
    let Some((mut scenario, task)) = ready() else { return };
    scenario.etcd().unwrap().kill9().unwrap();
    let down_ns = unix_ns();
    cmd::wait_until("the loss is seen", READY_TIMEOUT, || {
        Ok(arbiter_of(&mut scenario, A).reachable == Some(false))
    })
    .unwrap();
    task.wait_progress(200, STALL_MAX).unwrap();
    println!("etcd killed at {down_ns}: served on");
    let killed_ns = scenario.trio.crash(&scenario.lab, A).unwrap();
    nobody_serves(&mut scenario, &task, Some(B));
    scenario.etcd().unwrap().restart().unwrap();
    assert_eq!(scenario.trio.wait_primary(Some(A), READY_TIMEOUT).unwrap(), B);
    passes(task, killed_ns);
    scenario.check_wire(1).unwrap();
}

#[test]
fn the_replica_dies_and_the_primary_goes_on_alone() {
    let Some((mut scenario, task)) = ready() else { return };
    let killed_ns = scenario.trio.crash(&scenario.lab, B).unwrap();
    wait_alone(&mut scenario, A);
    task.wait_progress(50, STALL_MAX).unwrap();
    scenario.trio.revive(&scenario.lab, B).unwrap();
    wait_protected(&mut scenario, A, B);
    passes(task, killed_ns);
    scenario.check_wire(0).unwrap();
}

#[test]
fn the_replica_dies_while_the_arbiter_stands_still() {
    let Some((mut scenario, task)) = ready() else { return };
    scenario.etcd().unwrap().pause().unwrap();
    let killed_ns = scenario.trio.crash(&scenario.lab, B).unwrap();
    nobody_serves(&mut scenario, &task, None);
    scenario.etcd().unwrap().resume().unwrap();
    wait_alone(&mut scenario, A);
    passes(task, killed_ns);
    scenario.check_wire(0).unwrap();
}
