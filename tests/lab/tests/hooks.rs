//! Checkpoints by the operator's commands, the shipped ones for redis: what redis knows is an RDB file, and
//! its clients' connections are taken up in the middle by a fresh one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use understudy_lab::clients::Task;
use understudy_lab::clients::data::Data;
use understudy_lab::clients::pipelined::Pipelined;
use understudy_lab::node::{READY_TIMEOUT, vip4, vip6};
use understudy_lab::{Member, NodeOptions, Scenario, cmd, scenario};

const REDIS: u16 = 6379;
const STALL_MAX: Duration = Duration::from_secs(10);

fn data() -> Data {
    Data { target: vip4(REDIS), keys: 300, length: 100 << 10 }
}

fn script(name: &str) -> toml::Value {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/hooks");
    let program: PathBuf = std::fs::canonicalize(dir.join(name)).unwrap();
    toml::Value::from(vec![program.to_str().unwrap().to_string()])
}

/// A log that the data overwrites.
fn options(more: &[(&str, toml::Value)]) -> NodeOptions {
    let mut set: Vec<(String, toml::Value)> = vec![
        ("log.size_mb".into(), 16.into()),
        ("checkpoint.method".into(), "hooks".into()),
        ("checkpoint.snapshot_command".into(), script("redis-snapshot.sh")),
        ("checkpoint.restore_command".into(), script("redis-restore.sh")),
        ("checkpoint.ready_command".into(), script("redis-ready.sh")),
    ];
    set.extend(more.iter().map(|(key, value)| ((*key).into(), value.clone())));
    NodeOptions { set, ..NodeOptions::default() }
}

fn load(scenario: &Scenario, v6: bool) -> Task {
    let plan = Pipelined {
        target: if v6 { vip6(REDIS) } else { vip4(REDIS) },
        prefix: format!("lane{}", if v6 { 6 } else { 4 }),
        connections: 20,
        depth: 8,
        pause: Duration::from_millis(20),
        seed: 7,
    };
    let task = plan.start(&scenario.lab.client_netns()).unwrap();
    task.wait_progress(200, STALL_MAX).unwrap();
    task
}

fn done(task: Task) {
    let verdict = task.join(Duration::from_secs(60)).unwrap();
    println!("{verdict}");
    verdict.assert_pass();
}

/// What of its time line tells how it became whole.
fn tell(scenario: &mut Scenario, member: Member) {
    for event in scenario.trio.node(member).status().unwrap().timeline {
        if ["checkpoint", "restore", "whole", "raised", "parked"]
            .iter()
            .any(|word| event.event.contains(word))
        {
            println!("  {member}: {} {}", event.event, event.detail);
        }
    }
}

fn kill_primary(scenario: &mut Scenario, task: &Task) -> (Member, Member, u64) {
    let old = scenario.primary().unwrap();
    let killed_ns = scenario.trio.crash(&scenario.lab, old).unwrap();
    task.wait_progress(200, STALL_MAX).unwrap();
    let new = scenario.trio.wait_primary(Some(old), READY_TIMEOUT).unwrap();
    println!("{old} is dead, {new} serves");
    (old, new, killed_ns)
}

/// It comes back, by a checkpoint.
fn revive(scenario: &mut Scenario, member: Member) {
    scenario.trio.revive(&scenario.lab, member).unwrap();
    let status = scenario.trio.node(member).wait_ready(READY_TIMEOUT).unwrap();
    assert_eq!(status.checkpoints.unwrap().restored, 1, "{member} came by a checkpoint");
    tell(scenario, member);
}

fn judge(scenario: &mut Scenario, tasks: [Task; 2], kills: &[u64], handovers: usize) {
    for task in tasks {
        let verdict = task.finish().unwrap();
        for &killed_ns in kills {
            let stall = verdict.stall(killed_ns).around_ns().map(|ns| ns as f64 / 1e6);
            println!("stall {stall:.1?} ms");
        }
        println!("{verdict}");
        verdict.assert_pass();
    }
    done(data().read(&scenario.lab.client_netns()).unwrap());
    scenario.check_wire(handovers).unwrap();
}

/// A node joins late by such a checkpoint and serves; the connections are the same before and after.
#[test]
fn who_joins_late_serves_the_same_connections() {
    if !scenario::can_run(&["understudyd", "understudy"]) {
        return;
    }
    let both = [Member::A, Member::B];
    let mut scenario = Scenario::start_some(&options(&[]), &both).unwrap();
    let tasks = [load(&scenario, false), load(&scenario, true)];
    done(data().write(&scenario.lab.client_netns()).unwrap());
    scenario.trio.node(Member::C).start().unwrap();
    scenario.trio.node(Member::C).wait_ready(READY_TIMEOUT).unwrap();
    // It is counted in the moment after.
    cmd::wait_until("c came by a checkpoint", READY_TIMEOUT, || {
        let checkpoints = scenario.trio.node(Member::C).status()?.checkpoints;
        Ok(checkpoints.is_some_and(|c| c.restored == 1))
    })
    .unwrap();
    tell(&mut scenario, Member::C);
    // The first dies; the one that joined late takes over from whoever follows it, and dies in its turn.
    let (first, mut primary, killed_ns) = kill_primary(&mut scenario, &tasks[0]);
    let mut kills = vec![killed_ns];
    revive(&mut scenario, first);
    let mut handovers = 2;
    if primary != Member::C {
        scenario.trio.node(primary).switchover(Some(Member::C)).unwrap();
        primary = scenario.trio.wait_primary(Some(primary), READY_TIMEOUT).unwrap();
        handovers += 1;
    }
    assert_eq!(primary, Member::C);
    scenario.trio.wait_ready().unwrap();
    kills.push(kill_primary(&mut scenario, &tasks[0]).2);
    for task in &tasks {
        task.wait_progress(200, STALL_MAX).unwrap();
    }
    judge(&mut scenario, tasks, &kills, handovers);
}

/// Nothing runs on the replicas: whoever takes over starts a redis, which loads what was saved, takes up
/// the connections, and is given the log.
#[test]
fn a_warm_clone_comes_to_life() {
    if !scenario::can_run(&["understudyd", "understudy"]) {
        return;
    }
    let warm = options(&[("service.clone", "warm".into())]);
    let mut scenario = Scenario::start(&warm).unwrap();
    let tasks = [load(&scenario, false), load(&scenario, true)];
    done(data().write(&scenario.lab.client_netns()).unwrap());
    let primary = scenario.primary().unwrap();
    for replica in primary.others() {
        cmd::wait_until("a checkpoint on each replica", READY_TIMEOUT, || {
            let status = scenario.trio.node(replica).status()?;
            Ok(status.ready && status.timeline.iter().any(|event| event.event == "parked"))
        })
        .unwrap();
    }
    tasks[0].wait_progress(200, STALL_MAX).unwrap();
    let (_, new, killed_ns) = kill_primary(&mut scenario, &tasks[0]);
    tell(&mut scenario, new);
    tasks[1].wait_progress(200, STALL_MAX).unwrap();
    judge(&mut scenario, tasks, &[killed_ns], 1);
}
