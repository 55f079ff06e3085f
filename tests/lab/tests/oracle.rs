//! `commit = "checkpoint"`: an application that would not say the same again is served all the same.
//!
//! No test asserts a speed: what it took is printed, and bounded by a generous liveness bound.

use std::time::{Duration, Instant};

use understudy_lab::clients::Task;
use understudy_lab::clients::oracle::{Oracle, Told};
use understudy_lab::node::{Paused, READY_TIMEOUT, vip4, vip6};
use understudy_lab::pattern::Rng;
use understudy_lab::{NodeOptions, Scenario, scenario};

const REDIS: u16 = 6379;
const CONNECTIONS: usize = 6;
const STALL_MAX: Duration = Duration::from_secs(15);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// `UNDERSTUDY_COMMIT=quorum` shows what happens without: hot clones that say something else.
fn options() -> NodeOptions {
    if std::env::var("UNDERSTUDY_COMMIT").is_ok_and(|policy| policy == "quorum") {
        return NodeOptions::default();
    }
    NodeOptions {
        commit: Some("checkpoint".into()),
        set: vec![("service.clone".into(), "warm".into())],
        ..NodeOptions::default()
    }
}

fn ready() -> Option<Scenario> {
    let can = scenario::can_run(&["understudyd", "understudy"]);
    can.then(|| Scenario::start(&options()).unwrap())
}

fn seed() -> u64 {
    std::env::var("UNDERSTUDY_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}

fn kills() -> usize {
    std::env::var("UNDERSTUDY_KILLS").ok().and_then(|s| s.parse().ok()).unwrap_or(2)
}

fn ask(scenario: &Scenario, rng: &mut Rng) -> Vec<Task> {
    let told = Told::default();
    let start = |number: usize| {
        let plan = Oracle {
            target: if number.is_multiple_of(3) { vip6(REDIS) } else { vip4(REDIS) },
            name: format!("o{number}"),
            told: Told::clone(&told),
            pause: ms(5),
            seed: rng.word(),
        };
        plan.start(&scenario.lab.client_netns()).unwrap()
    };
    let tasks: Vec<Task> = (0..CONNECTIONS).map(start).collect();
    tasks.iter().for_each(|task| task.wait_progress(3, STALL_MAX).unwrap());
    tasks
}

/// The same connections live through all kills, and nothing they were told is ever taken back.
#[test]
fn what_was_said_stays_said() {
    let Some(mut scenario) = ready() else { return };
    let mut rng = Rng::new(seed());
    let tasks = ask(&scenario, &mut rng);
    let mut moments = Vec::new();
    for kill in 0..kills() {
        std::thread::sleep(ms(300) + Duration::from_micros(rng.below(1_200_000)));
        let before: u64 = tasks.iter().map(Task::progress).sum();
        let old = scenario.primary().unwrap();
        let status = scenario.trio.node(old).status().unwrap();
        let checkpoints = status.checkpoints.unwrap();
        let newest = checkpoints.newest.unwrap_or_default();
        let killed_ns = scenario.trio.crash(&scenario.lab, old).unwrap();
        tasks.iter().for_each(|task| task.wait_progress(2, STALL_MAX).unwrap());
        let new = scenario.trio.wait_primary(Some(old), READY_TIMEOUT).unwrap();
        for (member, event) in scenario.trio.timeline(killed_ns) {
            let at_ms = (event.unix_ns - killed_ns) / 1_000_000;
            println!("  {at_ms:5} ms {member}: {} {}", event.event, event.detail);
        }
        scenario.trio.revive(&scenario.lab, old).unwrap();
        let begun = Instant::now();
        scenario.trio.wait_ready().unwrap();
        println!(
            "kill {kill}: {old} dead after {before} rounds and {} checkpoints of its own (the last: \
             {} KiB, frozen {} us, held {} us, {} ms), {new} serves, whole again in {} ms",
            checkpoints.taken,
            newest.bytes >> 10,
            newest.frozen_us,
            newest.held_us,
            newest.took_ms,
            begun.elapsed().as_millis()
        );
        moments.push(killed_ns);
    }
    let mut stalls = Vec::new();
    for task in tasks {
        let verdict = task.finish().unwrap();
        stalls.extend(moments.iter().filter_map(|&at| verdict.stall(at).around_ns()));
        println!("{verdict}");
        verdict.assert_pass();
    }
    stalls.sort_unstable();
    let of = |share: usize| stalls.get(stalls.len() * share / 100).map_or(0, |ns| ns / 1_000_000);
    println!("stalls: median {} ms, 90 % {} ms, longest {} ms", of(50), of(90), of(99));
    scenario.check_wire(moments.len()).unwrap();
}

/// A planned handover, a replica that stands still, and a primary that does and comes back.
#[test]
fn handovers_and_pauses() {
    let Some(mut scenario) = ready() else { return };
    let tasks = ask(&scenario, &mut Rng::new(seed() + 1));
    let goes_on = || tasks.iter().for_each(|task| task.wait_progress(3, STALL_MAX).unwrap());
    let first = scenario.primary().unwrap();
    let done = scenario.trio.node(first).switchover(None).unwrap();
    println!("switchover to {} in {} ms", done.to, done.took_ms);
    goes_on();
    scenario.trio.wait_ready().unwrap();
    let primary = scenario.primary().unwrap();
    let replica = primary.others().next().unwrap();
    scenario.trio.node(replica).pause(Paused::Machine).unwrap();
    goes_on();
    std::thread::sleep(ms(3000));
    goes_on();
    scenario.trio.node(replica).resume().unwrap();
    scenario.trio.wait_ready().unwrap();
    let paused = scenario.primary().unwrap();
    scenario.trio.node(paused).pause(Paused::Machine).unwrap();
    goes_on();
    scenario.trio.node(paused).resume().unwrap();
    scenario.trio.wait_ready().unwrap();
    goes_on();
    for task in tasks {
        let verdict = task.finish().unwrap();
        println!("{verdict}");
        verdict.assert_pass();
    }
    scenario.check_wire(2).unwrap();
}
