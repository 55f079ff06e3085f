//! Whom output waits for: the commit set and `commit.min`, as an operator sees them.

use std::time::Duration;

use understudy_lab::clients::Task;
use understudy_lab::clients::counter::Counter;
use understudy_lab::node::{READY_TIMEOUT, vip4};
use understudy_lab::{NodeOptions, Scenario, cmd, scenario};

const REDIS: u16 = 6379;
/// No client is without service for longer, unless the policy says so.
const STALL_MAX: Duration = Duration::from_secs(10);

fn ready(commit: &[(&str, toml::Value)]) -> Option<(Scenario, Task)> {
    if !scenario::can_run(&["understudyd", "understudy"]) {
        return None;
    }
    let set = commit.iter().map(|(key, value)| (format!("commit.{key}"), value.clone()));
    let options = NodeOptions { set: set.collect(), ..NodeOptions::default() };
    let scenario = Scenario::start(&options).unwrap();
    let plan =
        Counter { target: vip4(REDIS), key: "count".into(), pause: Duration::from_millis(2) };
    let task = plan.start(&scenario.lab.client_netns()).unwrap();
    task.wait_progress(50, STALL_MAX).unwrap();
    Some((scenario, task))
}

#[test]
fn all_waits_for_nobody_who_was_dead_when_the_reign_began() {
    // Whoever waited for the dead primary's eviction would wait a minute.
    let Some((mut scenario, task)) =
        ready(&[("policy", "all".into()), ("evict_after_ms", 60_000.into())])
    else {
        return;
    };
    let old = scenario.primary().unwrap();
    let killed_ns = scenario.trio.crash(&scenario.lab, old).unwrap();
    let new = scenario.trio.wait_primary(Some(old), READY_TIMEOUT).unwrap();
    task.wait_progress(50, STALL_MAX).unwrap();
    let verdict = task.finish().unwrap();
    let stall = verdict.stall(killed_ns);
    println!("{verdict}  longest stall {:.1} ms", stall.longest_ns as f64 / 1e6);
    verdict.assert_pass();
    assert!(stall.longest_ns < STALL_MAX.as_nanos() as u64);
    let status = scenario.trio.node(new).status().unwrap();
    let dead = status.peers.iter().find(|p| p.name == old.name()).unwrap();
    assert!(!dead.in_commit_set && dead.evicted_because.is_some(), "{dead:?}");
    assert!(status.timeline.iter().any(|e| e.event == "evicted"), "{:?}", status.timeline);
    scenario.check_wire(1).unwrap();
}

#[test]
fn with_commit_min_output_stops_while_a_replica_is_missing_and_status_says_so() {
    const HELD: &str = "output held: 1 of 2 replicas required by commit.min";
    let Some((mut scenario, task)) = ready(&[("min", 2.into()), ("evict_after_ms", 500.into())])
    else {
        return;
    };
    let primary = scenario.primary().unwrap();
    let replica = primary.others().last().unwrap();
    let is_held = |scenario: &mut Scenario| {
        let status = scenario.trio.node(primary).status()?;
        Ok(!status.ready && status.not_ready_because.iter().any(|why| why == HELD))
    };
    scenario.trio.crash(&scenario.lab, replica).unwrap();
    cmd::wait_until("output is held", READY_TIMEOUT, || is_held(&mut scenario)).unwrap();
    let before = task.progress();
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(task.progress(), before, "a reply left with one replica");
    assert_eq!(scenario.trio.primary(), Some(primary), "it still leads");
    scenario.trio.revive(&scenario.lab, replica).unwrap();
    task.wait_progress(50, STALL_MAX).unwrap();
    assert!(!is_held(&mut scenario).unwrap());
    task.finish().unwrap().assert_pass();
    scenario.check_wire(0).unwrap();
}
