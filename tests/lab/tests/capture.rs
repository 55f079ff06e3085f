//! `understudy capture` while clients press: what it writes is what the switch saw on its way to the
//! service, tshark reads it, and a takeover shows.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use understudy_lab::capture::{Capture, Port, Recording, WHOLE};
use understudy_lab::clients::Task;
use understudy_lab::clients::pipelined::Pipelined;
use understudy_lab::proc::Proc;
use understudy_lab::topology::VMAC4;
use understudy_lab::{NodeOptions, Scenario, cmd, scenario, sys};

const CONNECTIONS: usize = 20;
/// A bound on liveness.
const PATIENCE: Duration = Duration::from_secs(20);
/// A file that does not grow for so long has everything.
const STILL: Duration = Duration::from_millis(700);

fn clients(scenario: &Scenario, seed: u64) -> Task {
    let plan = Pipelined::pressing(CONNECTIONS, seed);
    plan.start(&scenario.lab.client_netns()).unwrap()
}

/// Starts a capture on a node and waits until it has begun.
fn start(scenario: &mut Scenario, node: understudy_lab::Member, name: &str) -> (Proc, PathBuf) {
    let path = scenario.lab.dir().join(name);
    let words = ["-w", path.to_str().unwrap(), "tcp"];
    let capture = scenario.trio.node(node).capture(&words).unwrap();
    cmd::wait_until("a capture that begins", PATIENCE, || Ok(path.exists())).unwrap();
    (capture, path)
}

/// Ends a capture once it has written everything; gives its exit code.
fn stop(capture: &mut Proc, path: &Path) -> i32 {
    let len = || fs::metadata(path).map_or(0, |m| m.len());
    let (mut last, mut since) = (len(), Instant::now());
    cmd::wait_until("a capture that has everything", PATIENCE, || {
        let now = len();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        Ok(since.elapsed() >= STILL)
    })
    .unwrap();
    capture.terminate(PATIENCE).unwrap()
}

/// The frames that match, as tshark reads them: time and bytes.
fn read(path: &Path, display_filter: &str) -> Vec<(u64, Vec<u8>)> {
    let out = path.with_extension("tshark");
    let (from, to) = (path.to_str().unwrap(), out.to_str().unwrap());
    cmd::run(&["tshark", "-n", "-r", from, "-Y", display_filter, "-w", to, "-F", "nsecpcap"])
        .unwrap();
    let file = fs::read(&out).unwrap();
    assert_eq!(file[..4], 0xa1b2_3c4d_u32.to_le_bytes());
    let (mut frames, mut at) = (Vec::new(), 24);
    while at < file.len() {
        let word = |i: usize| u32::from_le_bytes(file[at + 4 * i..][..4].try_into().unwrap());
        let (len, wire_len) = (word(2) as usize, word(3) as usize);
        assert_eq!(len, wire_len, "a frame that was cut");
        let ns = u64::from(word(0)) * 1_000_000_000 + u64::from(word(1));
        frames.push((ns, file[at + 16..at + 16 + len].to_vec()));
        at += 16 + len;
    }
    frames
}

/// TCP of the clients to the service, as the switch saw it.
fn seen_by_switch(recording: &Recording) -> Vec<Vec<u8>> {
    assert_eq!(recording.drops, 0, "the switch's capture missed frames: no verdict");
    let to_service =
        |bytes: &[u8]| bytes[..6] == VMAC4 && bytes[12..14] == [8, 0] && bytes[23] == 6;
    let frames = recording.frames.iter().filter(|f| f.port == Port::Clients);
    frames.filter(|f| to_service(&f.bytes)).map(|f| f.bytes.clone()).collect()
}

fn sorted(mut frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    frames.sort();
    frames
}

fn bytes(frames: &[(u64, Vec<u8>)]) -> Vec<Vec<u8>> {
    sorted(frames.iter().map(|(_, bytes)| bytes.clone()).collect())
}

#[test]
fn a_capture_is_what_the_switch_saw_and_shows_a_takeover() {
    if !scenario::can_run(&["understudyd", "understudy"]) {
        return;
    }
    let mut scenario = Scenario::start(&NodeOptions::default()).unwrap();
    let primary = scenario.primary().unwrap();
    let replica = primary.others().next().unwrap();

    // Live, on the primary and on a replica.
    let switch = Capture::start(&scenario.lab, WHOLE).unwrap();
    let begun_ns = sys::unix_ns();
    let mut captures: Vec<_> = [primary, replica]
        .map(|node| (node, start(&mut scenario, node, &format!("{node}-live.pcapng"))))
        .into();
    let task = clients(&scenario, 3);
    task.wait_progress(3000, PATIENCE).unwrap();
    task.finish().unwrap().assert_pass();
    for (_, (capture, path)) in &mut captures {
        assert_eq!(stop(capture, path), 0, "{}", capture.log_tail());
        println!("{}", capture.log_tail());
        assert!(capture.log_tail().contains("\n0 records dropped"), "{}", capture.log_tail());
    }
    let expected = sorted(seen_by_switch(&switch.finish().unwrap()));
    assert!(expected.len() > 3000, "{} frames", expected.len());
    for (node, (_, path)) in &captures {
        let frames = read(path, "frame.interface_name == \"clients\"");
        println!("{node}: {} frames, the switch saw {}", frames.len(), expected.len());
        assert!(bytes(&frames) == expected, "not the same frames");
        assert!(frames.is_sorted_by_key(|(ns, _)| *ns), "time goes back");
        assert!(frames.iter().all(|(ns, _)| *ns >= begun_ns && *ns <= sys::unix_ns()));
        let syn_acks = read(path, "frame.interface_name == \"service\" && tcp.flags == 0x12");
        assert_eq!(syn_acks.len(), CONNECTIONS);
    }

    // Past, from the primary's log.
    let path = scenario.lab.dir().join("past.pcapng");
    let begun = format!("@{}.{:09}", begun_ns / 1_000_000_000, begun_ns % 1_000_000_000);
    let words = ["-w", path.to_str().unwrap(), "--from", &begun, "--to", "-0s", "tcp"];
    let mut past = scenario.trio.node(primary).capture(&words).unwrap();
    cmd::wait_until("a past range", PATIENCE, || Ok(!past.is_running())).unwrap();
    println!("{}", past.log_tail());
    assert!(bytes(&read(&path, "frame.interface_name == \"clients\"")) == expected, "another past");

    // Through a takeover.
    let (mut live, path) = start(&mut scenario, replica, "takeover.pcapng");
    let (mut dies, _) = start(&mut scenario, primary, "dies.pcapng");
    let task = clients(&scenario, 4);
    task.wait_progress(500, PATIENCE).unwrap();
    scenario.trio.crash(&scenario.lab, primary).unwrap();
    task.wait_progress(500, PATIENCE).unwrap();
    let successor = scenario.trio.wait_primary(Some(primary), PATIENCE).unwrap();
    let epoch = scenario.trio.node(successor).status().unwrap().epoch;
    task.finish().unwrap().assert_pass();
    assert_eq!(stop(&mut live, &path), 0, "{}", live.log_tail());
    cmd::wait_until("the end of a dead node's capture", PATIENCE, || Ok(!dies.is_running()))
        .unwrap();
    let file = path.to_str().unwrap();
    let comments = cmd::run(&[
        "tshark",
        "-n",
        "-r",
        file,
        "-Y",
        "frame.comment",
        "-T",
        "fields",
        "-e",
        "frame.comment",
    ]);
    let comments = comments.unwrap();
    println!("{comments}");
    assert!(
        comments.contains(&format!("epoch {epoch}: node {successor} is primary")),
        "{comments}"
    );
    let dead = scenario.lab.dir().join("dies.pcapng");
    assert!(read(&dead, "tcp").len() > 500, "what was captured until a node died is there");
}
