//! Nodes that join late: a checkpoint of the running application, and the log from there on.
//!
//! No test asserts a speed: what it took is printed, and bounded by a generous liveness bound.

use std::time::Duration;

use understudy_api::Status;
use understudy_lab::clients::Task;
use understudy_lab::clients::data::Data;
use understudy_lab::clients::pipelined::Pipelined;
use understudy_lab::node::{READY_TIMEOUT, vip4};
use understudy_lab::{Member, NodeOptions, Scenario, Verdict, scenario};

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
    let plan = Pipelined {
        target: vip4(REDIS),
        prefix: "lane".into(),
        connections,
        depth: 8,
        pause: ms(20),
        seed: 7,
    };
    let task = plan.start(&scenario.lab.client_netns()).unwrap();
    task.wait_progress(200, STALL_MAX).unwrap();
    task
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
    let status = scenario.trio.node(member).wait_ready(READY_TIMEOUT).unwrap();
    tell(member, &status);
    assert_eq!(status.checkpoints.unwrap().restored, 1, "{member} came by a checkpoint");
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

/// The same connections live through five kills, each node of the three killed at least once.
#[test]
fn five_kills() {
    let Some(mut scenario) = two_of_three(&options()) else { return };
    done(data().write(&scenario.lab.client_netns()).unwrap());
    let task = load(&scenario, 100);
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
    let verdict = task.finish().unwrap();
    for (kill, &killed_ns) in kills.iter().enumerate() {
        let stall = verdict.stall(killed_ns).around_ns().map(|ns| ns as f64 / 1e6);
        println!("kill {}: stall {stall:.1?} ms", kill + 1);
    }
    println!("{verdict}");
    verdict.assert_pass();
    done(data().read(&scenario.lab.client_netns()).unwrap());
    scenario.check_wire(handovers).unwrap();
}
