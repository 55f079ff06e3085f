//! `understudy replay`: a log that was recorded on a node says offline whether an application does again
//! what the primary's did, through a takeover too, and names the connection that got another answer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use understudy_api::replay::{Replay, ReplayVerdict};
use understudy_lab::clients::Task;
use understudy_lab::clients::pipelined::Pipelined;
use understudy_lab::node::{binary, vip4};
use understudy_lab::topology::VIP4;
use understudy_lab::{Member, NodeOptions, Scenario, cmd, scenario};

const REDIS: u16 = 6379;
const CONNECTIONS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);

fn clients(scenario: &Scenario, seed: u64) -> Task {
    let plan = Pipelined {
        target: vip4(REDIS),
        prefix: format!("lane{seed}"),
        connections: CONNECTIONS,
        depth: 4,
        pause: Duration::from_millis(2),
        seed,
    };
    plan.start(&scenario.lab.client_netns()).unwrap()
}

/// Asks redis something on a connection of its own.
fn asked(scenario: &Scenario, words: &[&str]) -> String {
    let address = VIP4.to_string();
    let words = [&["redis-cli", "-h", &address], words].concat();
    cmd::run_inside(&scenario.lab.client_netns(), &words).unwrap()
}

fn understudy(words: &[&str]) -> cmd::Output {
    let mut command = Command::new(binary("understudy").unwrap());
    command.args(words);
    cmd::output(command, "", PATIENCE).unwrap()
}

fn record(scenario: &mut Scenario, node: Member, name: &str, more: &[&str]) -> PathBuf {
    let path = scenario.lab.dir().join(name);
    let socket = scenario.trio.node(node).socket().to_str().unwrap().to_owned();
    let words = ["-s", &socket, "capture", "--raw", "-w", path.to_str().unwrap()];
    let said = understudy(&[&words, more].concat());
    assert_eq!(said.code, 0, "{}", said.stderr);
    path
}

/// Replays with a node's configuration: what was found, and the text for people.
fn replay(scenario: &mut Scenario, file: &Path, code: i32, more: &[&str]) -> (Replay, String) {
    let config = scenario.trio.node(Member::C).config().to_str().unwrap().to_owned();
    let words = ["-c", &config, "-j", "replay", file.to_str().unwrap()];
    let said = understudy(&[&words, more].concat());
    assert_eq!(said.code, code, "{}{}", said.stdout, said.stderr);
    let document: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(document["ok"], code == 0, "{document}");
    let found = serde_json::from_value(document["replay"].clone()).unwrap();
    (found, document["error"]["message"].as_str().unwrap_or_default().to_owned())
}

/// A directory with a dump in which a key has a value that the service's redis never had.
fn other_state(scenario: &Scenario) -> PathBuf {
    let directory = scenario.lab.dir().join("other-state");
    fs::create_dir(&directory).unwrap();
    let socket = directory.join("socket");
    let (at, socket) = (directory.to_str().unwrap(), socket.to_str().unwrap());
    let mut redis = Command::new("redis-server")
        .args(["--port", "0", "--unixsocket", socket, "--dir", at])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let is_up = || Ok(cmd::run(&["redis-cli", "-s", socket, "ping"]).is_ok());
    cmd::wait_until("a redis", PATIENCE, is_up).unwrap();
    cmd::run(&["redis-cli", "-s", socket, "set", "colour", "green"]).unwrap();
    let _ = cmd::run(&["redis-cli", "-s", socket, "shutdown", "save"]);
    redis.wait().unwrap();
    assert!(directory.join("dump.rdb").exists());
    directory
}

#[test]
fn a_recorded_log_is_replayed_and_what_differs_is_named() {
    if !scenario::can_run(&["understudyd", "understudy"]) {
        return;
    }
    let mut scenario = Scenario::start(&NodeOptions::default()).unwrap();
    let primary = scenario.primary().unwrap();
    let replica = primary.others().next().unwrap();
    let task = clients(&scenario, 1);
    task.wait_progress(2000, PATIENCE).unwrap();
    assert_eq!(asked(&scenario, &["get", "colour"]).trim(), "");
    task.finish().unwrap().assert_pass();
    // The last notes are written.
    std::thread::sleep(Duration::from_millis(500));
    let before = record(&mut scenario, replica, "before.log", &[]);

    // On the machine of a group that serves: it notices nothing.
    let pcapng = scenario.lab.dir().join("said.pcapng");
    let (same, _) = replay(&mut scenario, &before, 0, &["-w", pcapng.to_str().unwrap()]);
    println!("{same:?}");
    assert_eq!((same.verdict, same.ended_early.as_deref()), (ReplayVerdict::Same, None));
    assert_eq!((same.applied, same.connections_total), (same.end, CONNECTIONS as u64 + 1));
    assert_eq!((same.connections_differing, same.notes_uncompared), (0, 0));
    assert!(same.notes_same > CONNECTIONS as u64 && same.said_bytes > 10_000, "{same:?}");
    for c in &same.connections {
        assert!(c.notes_same > 0 && c.said_bytes > 0 && c.applied_bytes > 0, "{c:?}");
    }
    let filter = ["-Y", "tcp.len > 0", "-T", "fields", "-e", "tcp.len"];
    let read = [&["tshark", "-n", "-r", pcapng.to_str().unwrap()], &filter[..]].concat();
    let lengths = cmd::run(&read).unwrap();
    let written: u64 = lengths.lines().filter_map(|line| line.parse::<u64>().ok()).sum();
    assert!(written >= same.said_bytes, "{written} bytes written of {}", same.said_bytes);

    // As fast as it was: it takes as long.
    let (slow, _) = replay(&mut scenario, &before, 0, &["--speed", "2"]);
    let half_ms = (slow.to_unix_ns - slow.from_unix_ns) / 2_000_000;
    assert!(slow.took_ms >= half_ms, "{} of {half_ms} ms", slow.took_ms);

    // Through a takeover, from the successor's log.
    let task = clients(&scenario, 2);
    task.wait_progress(500, PATIENCE).unwrap();
    scenario.trio.crash(&scenario.lab, primary).unwrap();
    let successor = scenario.trio.wait_primary(Some(primary), PATIENCE).unwrap();
    task.wait_progress(1500, PATIENCE).unwrap();
    task.finish().unwrap().assert_pass();
    std::thread::sleep(Duration::from_millis(500));
    let through = record(&mut scenario, successor, "through.log", &[]);
    let (same, _) = replay(&mut scenario, &through, 0, &[]);
    assert_eq!((same.verdict, same.connections_total), (ReplayVerdict::Same, 41));

    // Another state: one connection hears of it.
    let state = other_state(&scenario);
    let words = ["--work-dir", state.to_str().unwrap()];
    let (other, why) = replay(&mut scenario, &before, 1, &words);
    println!("{why}: {:?}", other.connections.first());
    assert_eq!((other.verdict, other.connections_differing), (ReplayVerdict::Differs, 1));
    assert!(why.contains("differs on 1 of 21 connections"), "{why}");
    let named = &other.connections[0];
    let difference = named.difference.as_ref().unwrap();
    assert!(!difference.said_less && named.server == vip4(REDIS).to_string(), "{named:?}");
    // "$-1\r\n" is told by its first note, if that does not cover the client's opening question too.
    assert!(difference.to_seq.wrapping_sub(difference.from_seq) <= named.said_bytes as u32 + 1);
    assert!(difference.noted_unix_ns >= named.opened_unix_ns && difference.position < other.end);
    let said = understudy(&[
        "-c",
        scenario.trio.node(Member::C).config().to_str().unwrap(),
        "replay",
        before.to_str().unwrap(),
        "--work-dir",
        state.to_str().unwrap(),
    ]);
    println!("{}", said.stdout);
    assert_eq!(said.code, 1);
    assert!(said.stdout.contains(&format!("{} to {}", named.client, named.server)));

    // Another program: everybody does. One that ends, or never comes up, is told.
    let (all, _) = replay(&mut scenario, &before, 1, &["--", "redis-server", "--requirepass", "x"]);
    assert_eq!(all.connections_differing, CONNECTIONS as u64 + 1);
    let config = scenario.trio.node(Member::C).config().to_str().unwrap().to_owned();
    let said = understudy(&["-c", &config, "replay", before.to_str().unwrap(), "--", "false"]);
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("the application ended: exit status: 1"), "{}", said.stderr);

    // What does not begin where the log does, and what is none.
    let from_ns = same.to_unix_ns - 1_000_000_000;
    let from = format!("@{}.{:09}", from_ns / 1_000_000_000, from_ns % 1_000_000_000);
    let part = record(&mut scenario, successor, "part.log", &["--from", &from]);
    let said = understudy(&["-c", &config, "replay", part.to_str().unwrap()]);
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("only from 0 on"), "{}", said.stderr);
    let said = understudy(&["-c", &config, "replay", &config]);
    assert!(said.code == 1 && said.stderr.contains("no recording"), "{}", said.stderr);

    // Nothing of it is left, and the group has noticed nothing.
    assert!(scenario.trio.node(successor).status().unwrap().ready);
    let left = fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let left: Vec<_> = left
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().starts_with("understudy-replay-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
