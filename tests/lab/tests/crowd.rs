//! Thousands of connections live through the death of the primary.
//!
//! `UNDERSTUDY_CONNECTIONS=10000`: how many (default 2000).

use std::time::Duration;

use understudy_lab::clients::crowd::{Crowd, first_replies};
use understudy_lab::node::{READY_TIMEOUT, vip4, vip6};
use understudy_lab::{NodeOptions, Scenario, scenario};

const REDIS: u16 = 6379;
const ROUND_MAX: Duration = Duration::from_secs(60);

fn connections() -> usize {
    std::env::var("UNDERSTUDY_CONNECTIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(2000)
}

#[test]
fn a_crowd_lives_through_a_kill() {
    if !scenario::can_run(&["understudyd", "understudy"]) {
        return;
    }
    let connections = connections();
    let clients = (connections + 100).to_string();
    let command = ["/usr/bin/redis-server", "--port", "6379", "--bind", "*", "-::*"];
    let rest = ["--protected-mode", "no", "--save", "", "--appendonly", "no", "--maxclients"];
    let command = command.iter().chain(&rest).copied().chain([clients.as_str()]);
    let options = NodeOptions {
        command: Some(command.map(String::from).collect()),
        ..NodeOptions::default()
    };
    let mut scenario = Scenario::start(&options).unwrap();
    let targets = vec![vip4(REDIS), vip6(REDIS)];
    let crowd = Crowd { targets, connections, held: Duration::ZERO };
    let task = crowd.start(&scenario.lab.client_netns()).unwrap();
    task.wait_progress(4, ROUND_MAX).unwrap();
    let old = scenario.primary().unwrap();
    let killed_ns = scenario.trio.crash(&scenario.lab, old).unwrap();
    let new = scenario.trio.wait_primary(Some(old), READY_TIMEOUT).unwrap();
    task.wait_progress(6, ROUND_MAX).unwrap();
    let counters = scenario.trio.node(new).status().unwrap().counters;
    let verdict = task.finish().unwrap();
    println!("{verdict}");
    verdict.assert_pass();
    let times = first_replies(&verdict, killed_ns);
    assert_eq!(times.len(), connections, "connections that were answered after the kill");
    let bridged = ["retained_sent", "retained_dropped", "kept_applied", "kept_dropped"];
    println!("{:?}", bridged.map(|name| (name, counters[name])));
    assert_eq!(counters["retained_dropped"], 0, "answers under way for which there was no room");
    let ms = |ns: u64| ns as f64 / 1e6;
    let (first, last) = (times[0], times[times.len() - 1]);
    println!(
        "answered after the kill: the first at {:.1} ms, half at {:.1}, all at {:.1}",
        ms(first - killed_ns),
        ms(times[times.len() / 2] - killed_ns),
        ms(last - killed_ns),
    );
    scenario.check_wire(1).unwrap();
}
