//! `understudy replay`: a log that was recorded on a node says offline whether an application does again
//! what the primary's did, through a takeover too, and names the connection that got another answer. It
//! begins with a fresh application, or with a checkpoint.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use understudy_api::replay::{Replay, ReplayVerdict};
use understudy_lab::clients::Task;
use understudy_lab::clients::data::Data;
use understudy_lab::clients::pipelined::Pipelined;
use understudy_lab::clients::resp;
use understudy_lab::clients::wire::Wire;
use understudy_lab::node::{binary, vip4};
use understudy_lab::topology::VIP4;
use understudy_lab::{Member, NodeOptions, Scenario, cmd, scenario, sys};

const REDIS: u16 = 6379;
const CONNECTIONS: usize = 20;
/// A log that the data overwrites.
const LOG_MB: i64 = 16;
const PATIENCE: Duration = Duration::from_secs(60);

fn clients(scenario: &Scenario, seed: u64) -> Task {
    let plan = Pipelined::pressing(CONNECTIONS, seed);
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

/// Replays with node c's configuration: what was found, and the error.
fn replay(scenario: &mut Scenario, file: &Path, code: i32, more: &[&str]) -> (Replay, String) {
    replay_on(scenario, Member::C, file, code, more)
}

fn replay_on(
    scenario: &mut Scenario,
    node: Member,
    file: &Path,
    code: i32,
    more: &[&str],
) -> (Replay, String) {
    let config = scenario.trio.node(node).config().to_str().unwrap().to_owned();
    let words = ["-c", &config, "-j", "replay", file.to_str().unwrap()];
    let said = understudy(&[&words, more].concat());
    assert_eq!(said.code, code, "{}{}", said.stdout, said.stderr);
    let document: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(document["ok"], code == 0, "{document}");
    let found = serde_json::from_value(document["replay"].clone()).unwrap_or_default();
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
    nothing_is_left();
}

fn nothing_is_left() {
    let left = fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let left: Vec<_> = left
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().starts_with("understudy-replay-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A copy of a checkpoint, changed.
fn copy(scenario: &Scenario, checkpoint: &Path, name: &str, change: impl Fn(&Path)) -> String {
    let to = scenario.lab.dir().join(name);
    cmd::run(&["cp", "-a", checkpoint.to_str().unwrap(), to.to_str().unwrap()]).unwrap();
    change(&to);
    to.to_str().unwrap().to_owned()
}

fn manifest(checkpoint: &Path) -> toml::Table {
    fs::read_to_string(checkpoint.join("manifest.toml")).unwrap().parse().unwrap()
}

/// The log has overwritten its beginning, and the primary died since the checkpoint: that and what the
/// successor holds are enough.
#[test]
fn what_follows_a_checkpoint_is_replayed_when_the_beginning_is_gone() {
    if !scenario::can_run(&["understudyd", "understudy"]) {
        return;
    }
    let set = vec![("log.size_mb".into(), LOG_MB.into())];
    let mut scenario = Scenario::start(&NodeOptions { set, ..NodeOptions::default() }).unwrap();
    let primary = scenario.primary().unwrap();
    let (saver, netns) = (primary.others().next().unwrap(), scenario.lab.client_netns());

    // A connection that lives through all of it, others that press, and a log that wraps.
    let mut kept = sys::in_netns(&netns, || Wire::connect(vip4(REDIS), PATIENCE)).unwrap().unwrap();
    kept.ask(&["SET", "colour", "red"], b"+OK\r\n", PATIENCE).unwrap();
    let data = Data { target: vip4(REDIS), keys: 13 * LOG_MB as usize, length: 100 << 10 };
    data.write(&netns).unwrap().join(PATIENCE).unwrap().assert_pass();
    let first = scenario.trio.node(saver).checkpoint().unwrap();
    assert_eq!(asked(&scenario, &["set", "colour", "tan"]).trim(), "OK");
    let task = clients(&scenario, 1);
    task.wait_progress(500, PATIENCE).unwrap();
    let second = scenario.trio.node(saver).checkpoint().unwrap();
    assert!(first.floor > 0 && second.position > first.position);
    task.wait_progress(500, PATIENCE).unwrap();
    scenario.trio.crash(&scenario.lab, primary).unwrap();
    let successor = scenario.trio.wait_primary(Some(primary), PATIENCE).unwrap();
    task.wait_progress(500, PATIENCE).unwrap();
    task.finish().unwrap().assert_pass();
    kept.ask(&["GET", "colour"], &resp::bulk("tan"), PATIENCE).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    kept.ask(&["GET", "colour"], &resp::bulk("tan"), PATIENCE).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let recorded = record(&mut scenario, successor, "wrapped.log", &[]);
    let (_, why) = replay_on(&mut scenario, saver, &recorded, 1, &[]);
    assert!(why.contains("only from 0 on") && why.contains("--checkpoint"), "{why}");

    // By number: with the connections that were open then, and those that came.
    let number = second.generation.to_string();
    let of_second = ["--checkpoint", &number];
    let (same, _) = replay_on(&mut scenario, saver, &recorded, 0, &of_second);
    println!("{same:?}");
    assert_eq!((same.verdict, same.ended_early.as_deref()), (ReplayVerdict::Same, None));
    assert_eq!((same.applied, same.connections_differing), (same.end, 0));
    let from = same.checkpoint.unwrap();
    assert_eq!((from.position, from.floor), (second.position, second.floor));
    assert_eq!(from.taken_on, scenario.trio.node(saver).status().unwrap().node);
    let open = CONNECTIONS as u64 + 1;
    assert_eq!((from.connections, same.connections_total), (open, open));
    for c in &same.connections {
        assert!(c.notes_same > 0 && c.said_bytes > 0 && c.applied_bytes > 0, "{c:?}");
        assert_eq!((c.opened_unix_ns, &c.difference), (0, &None));
    }

    // From a copy, and from before the pressing connections came.
    let store = scenario.trio.node(saver).checkpoints();
    let (older, newer) = (store.join(first.generation.to_string()), store.join(&number));
    let at = copy(&scenario, &older, "older", |_| ());
    let (same, _) = replay(&mut scenario, &recorded, 0, &["--checkpoint", &at]);
    assert_eq!((same.verdict, same.connections_total), (ReplayVerdict::Same, open + 1));
    assert_eq!(same.checkpoint.unwrap().connections, 1);

    // One whose application lacks what its place in the log says that it was told: that connection is
    // named which asks for it.
    let lacking = copy(&scenario, &older, "lacking", |at| {
        let (mut of_older, of_newer) = (manifest(at), manifest(&newer));
        for field in ["position", "floor", "at_ns", "reigns"] {
            of_older.insert(field.into(), of_newer[field].clone());
        }
        fs::write(at.join("manifest.toml"), of_older.to_string()).unwrap();
    });
    let (other, why) = replay(&mut scenario, &recorded, 1, &["--checkpoint", &lacking]);
    println!("{why}: {:?}", other.connections.first());
    assert_eq!((other.verdict, other.connections_differing), (ReplayVerdict::Differs, 1));
    let (named, port) = (&other.connections[0], kept.stream().local_addr().unwrap().port());
    assert!(named.client.ends_with(&format!(":{port}")), "{named:?}");
    let difference = named.difference.as_ref().unwrap();
    assert!(!difference.said_less && difference.position > second.position, "{named:?}");

    unusable(&mut scenario, saver, &recorded, &newer);
    nothing_is_left();
    // Whose directory it was has noticed nothing.
    assert!(scenario.trio.node(saver).status().unwrap().ready && newer.exists());
}

/// What cannot be begun with is refused, and why is said.
fn unusable(scenario: &mut Scenario, node: Member, recorded: &Path, checkpoint: &Path) {
    let damaged = copy(scenario, checkpoint, "damaged", |at| {
        let pages = at.join("image/pages-1.img");
        let mut bytes = fs::read(&pages).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(pages, bytes).unwrap();
    });
    let changed = |field: &str, value: toml::Value| {
        copy(scenario, checkpoint, &format!("other-{field}"), |at| {
            let mut manifest = manifest(at);
            manifest.insert(field.into(), value.clone());
            fs::write(at.join("manifest.toml"), manifest.to_string()).unwrap();
        })
    };
    let (is_at, floor) = {
        let manifest = manifest(checkpoint);
        (manifest["position"].as_integer().unwrap(), manifest["floor"].as_integer().unwrap())
    };
    let reign = |epoch: i64| {
        toml::Table::from_iter([
            ("epoch".to_owned(), toml::Value::from(epoch)),
            ("start".to_owned(), toml::Value::from(floor - 8)),
        ])
    };
    let later = toml::Value::from(is_at + (1 << 40));
    for (name, expected) in [
        (damaged, "image/pages-1.img is not what was written"),
        (changed("position", later), "before the checkpoint"),
        (changed("floor", 1.into()), "the checkpoint needs it from 1 on"),
        (changed("cluster", "else".into()), "is of cluster \"else\""),
        (changed("reigns", vec![reign(77)].into()), "beside another"),
        (changed("at_ns", 1.into()), "beside another"),
        ("999".into(), "there is no checkpoint"),
        (recorded.parent().unwrap().to_str().unwrap().into(), "manifest.toml"),
    ] {
        let (_, why) = replay_on(scenario, node, recorded, 1, &["--checkpoint", &name]);
        assert!(why.contains(expected), "{name}: {why}");
    }
    let config = scenario.trio.node(node).config().to_str().unwrap().to_owned();
    let recorded = recorded.to_str().unwrap();
    let words = ["-c", &config, "replay", recorded, "--checkpoint", "1", "--", "redis-server"];
    assert_eq!(understudy(&words).code, 2);
}
