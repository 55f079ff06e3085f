//! Somebody on the replica network without the key, and keys that change under load.
//!
//! The attacker has a port of the switch: hears everything, says anything, in anybody's name.

use std::collections::BTreeMap;
use std::time::Duration;

use understudy_lab::clients::Task;
use understudy_lab::clients::counter::Counter;
use understudy_lab::clients::inflight::InFlight;
use understudy_lab::clients::pipelined::Pipelined;
use understudy_lab::node::{FIRST_KEY, READY_TIMEOUT, block_acknowledgements, vip4};
use understudy_lab::pattern::Rng;
use understudy_lab::sys::{self, PacketSocket};
use understudy_lab::{Member, NodeOptions, Scenario, cmd, scenario};

const REDIS: u16 = 6379;
const SECOND_KEY: &str = "7365636f6e642d6b65792d6f662d7468652d6c61622c2d6e6f2d736563726574";
const STALL_MAX: Duration = Duration::from_secs(10);
/// Where a frame's PDU has its kind, and ACK's number; see `understudy_wire::pdu`.
const KIND_AT: usize = 14 + 5;
const ACK: u8 = 2;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn ready() -> Option<Scenario> {
    let can = scenario::can_run(&["understudyd", "understudy"]);
    can.then(|| Scenario::start(&NodeOptions::default()).unwrap())
}

fn counter(scenario: &Scenario, key: &str) -> Task {
    let plan = Counter { target: vip4(REDIS), key: key.into(), pause: ms(2) };
    let task = plan.start(&scenario.lab.client_netns()).unwrap();
    task.wait_progress(50, STALL_MAX).unwrap();
    task
}

/// The attacker's port on the replica network.
struct Attacker(PacketSocket);

impl Attacker {
    fn plug_in(scenario: &Scenario) -> Attacker {
        let netns = scenario.lab.switch_netns();
        // The bridge hands its own interface what it forwards, and forwards what that sends.
        cmd::run_inside(&netns, &["ip", "link", "set", "br-replica", "promisc", "on"]).unwrap();
        let socket = sys::in_netns(&netns, || PacketSocket::open("br-replica", true));
        Attacker(socket.unwrap().unwrap())
    }

    /// Everything heard for so long.
    fn record(&mut self, time: Duration) -> Vec<Vec<u8>> {
        self.hear();
        std::thread::sleep(time);
        self.hear()
    }

    fn hear(&mut self) -> Vec<Vec<u8>> {
        let mut heard = Vec::new();
        while self.0.receive(|_, _, frame| heard.push(frame.to_vec())).unwrap() > 0 {}
        heard
    }

    /// Says it all, not faster than the nodes' devices take it.
    fn say<'a>(&self, frames: impl IntoIterator<Item = &'a Vec<u8>>) {
        for (i, frame) in frames.into_iter().enumerate() {
            self.0.send(frame).unwrap();
            if i % 64 == 63 {
                std::thread::sleep(ms(2));
            }
        }
        std::thread::sleep(ms(30));
    }
}

fn acks(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    frames.iter().filter(|f| f.get(KIND_AT) == Some(&ACK)).cloned().collect()
}

/// What an attacker makes of what was recorded.
fn forgeries(recorded: &[Vec<u8>], rng: &mut Rng) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for frame in recorded.iter().take(300) {
        let mut flipped = frame.clone();
        let at = KIND_AT as u64 + rng.below(flipped.len() as u64 - KIND_AT as u64);
        flipped[at as usize] ^= 1 << rng.below(8);
        let mut cut_short = frame.clone();
        cut_short.truncate(14 + rng.below(frame.len() as u64 - 14) as usize);
        let mut random = frame.clone();
        for byte in &mut random[14 + rng.below(60) as usize..] {
            *byte = rng.below(256) as u8;
        }
        // The counter far ahead, all else as it was.
        let mut ahead = frame.clone();
        ahead[14 + 42] ^= 1;
        out.extend([flipped, cut_short, random, ahead]);
    }
    out
}

fn counters(scenario: &mut Scenario, member: Member) -> BTreeMap<String, u64> {
    scenario.trio.node(member).status().unwrap().counters
}

/// What grew, of the refusals.
fn refused(
    scenario: &mut Scenario,
    of: Member,
    since: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    let now = counters(scenario, of);
    let grown = |name: &str| now[name] - since.get(name).copied().unwrap_or(0);
    let names = now.keys().filter(|n| n.starts_with("seal_") || n.starts_with("pdu_"));
    names.map(|n| (n.clone(), grown(n))).filter(|(_, n)| *n > 0).collect()
}

#[test]
fn nothing_that_an_attacker_says_is_believed() {
    let Some(mut scenario) = ready() else { return };
    let primary = scenario.primary().unwrap();
    let mut attacker = Attacker::plug_in(&scenario);
    let mut rng = Rng::new(7);
    let task = counter(&scenario, "count");
    let recorded = attacker.record(ms(700));
    assert!(acks(&recorded).len() > 20, "{} frames, too few acks", recorded.len());
    // While the service runs.
    let before = counters(&mut scenario, primary);
    let moment_ns = sys::unix_ns();
    attacker.say(&recorded);
    attacker.say(&forgeries(&recorded, &mut rng));
    task.wait_progress(100, STALL_MAX).unwrap();
    let grown = refused(&mut scenario, primary, &before);
    println!("primary under attack: {grown:?}");
    for name in ["seal_replayed", "seal_forged", "seal_unknown_session", "pdu_malformed"] {
        assert!(grown.get(name).is_some_and(|n| *n > 0), "{name} did not grow: {grown:?}");
    }
    let verdict = task.finish().unwrap();
    println!("{verdict}  longest {:.1} ms", verdict.stall(moment_ns).longest_ns as f64 / 1e6);
    verdict.assert_pass();
    assert_eq!(scenario.primary().unwrap(), primary, "nobody was deposed");
    scenario.check_wire(0).unwrap();
}

/// With the true acknowledgements blocked, recorded and forged ones must not release a reply.
#[test]
fn a_forged_acknowledgement_releases_nothing() {
    let Some(mut scenario) = ready() else { return };
    let primary = scenario.primary().unwrap();
    let mut attacker = Attacker::plug_in(&scenario);
    let mut rng = Rng::new(8);
    let task = counter(&scenario, "count");
    let recorded = acks(&attacker.record(ms(500)));
    task.finish().unwrap().assert_pass();
    let netns = scenario.lab.client_netns();
    let mut client = InFlight::connect(&netns, vip4(REDIS), "blocked").unwrap();
    std::thread::sleep(ms(200));
    let before = counters(&mut scenario, primary);
    block_acknowledgements(&scenario.lab, primary, true).unwrap();
    client.send_whole().unwrap();
    // Soon, before the primary steps down for want of a lease and starts anew.
    let lies = forgeries(&recorded, &mut rng);
    for _ in 0..2 {
        attacker.say(recorded.iter().chain(&lies));
    }
    let grown = refused(&mut scenario, primary, &before);
    let after = counters(&mut scenario, primary);
    println!("primary without true acknowledgements: {grown:?}");
    assert!(grown["seal_replayed"] > 0 && grown["seal_forged"] > 0, "{grown:?}");
    assert_eq!(before["gate_released"], after["gate_released"], "something was released");
    block_acknowledgements(&scenario.lab, primary, false).unwrap();
    client.take_reply().unwrap();
    let verdict = client.finish();
    println!("{verdict}");
    verdict.assert_pass();
}

/// A node starts anew, knows nobody, and hears the recording of former lives.
#[test]
fn a_recording_is_worth_nothing_to_a_node_that_starts() {
    let Some(mut scenario) = ready() else { return };
    let primary = scenario.primary().unwrap();
    let replica = primary.others().next().unwrap();
    let mut attacker = Attacker::plug_in(&scenario);
    let task = counter(&scenario, "count");
    let recorded = attacker.record(ms(500));
    let moment_ns = sys::unix_ns();
    scenario.trio.node(replica).kill9().unwrap();
    scenario.trio.node(replica).start().unwrap();
    cmd::wait_until("an answer of the new life", READY_TIMEOUT, || {
        Ok(scenario.trio.node(replica).status().is_ok())
    })
    .unwrap();
    attacker.say(&recorded);
    let heard = counters(&mut scenario, replica);
    println!(
        "the new life: replayed {} stale {} unknown session {}, sessions {}",
        heard["seal_replayed"],
        heard["seal_stale"],
        heard["seal_unknown_session"],
        heard["seal_sessions"]
    );
    let refusals = heard["seal_replayed"] + heard["seal_stale"] + heard["seal_unknown_session"];
    assert!(refusals as usize > recorded.len() / 4, "{refusals} of {}", recorded.len());
    // The recording of the life that was killed, to the primary.
    let before = counters(&mut scenario, primary);
    attacker.say(&recorded);
    let grown = refused(&mut scenario, primary, &before);
    assert!(grown["seal_unknown_session"] > 0, "{grown:?}");
    scenario.trio.wait_ready().unwrap();
    task.wait_progress(100, STALL_MAX).unwrap();
    let verdict = task.finish().unwrap();
    println!("{verdict}  longest {:.1} ms", verdict.stall(moment_ns).longest_ns as f64 / 1e6);
    verdict.assert_pass();
    assert_eq!(scenario.primary().unwrap(), primary);
    scenario.check_wire(0).unwrap();
}

fn rotate(scenario: &mut Scenario, members: &[Member], keys: &[&str]) {
    for &member in members {
        let node = scenario.trio.node(member);
        node.write_keys(keys).unwrap();
        node.reload_keys().unwrap();
        std::thread::sleep(ms(100));
    }
}

#[test]
fn keys_rotate_under_load() {
    let Some(mut scenario) = ready() else { return };
    let primary = scenario.primary().unwrap();
    let plan = Pipelined {
        target: vip4(REDIS),
        prefix: "lane".into(),
        connections: 50,
        depth: 4,
        pause: ms(10),
        seed: 9,
    };
    let lanes = plan.start(&scenario.lab.client_netns()).unwrap();
    let task = counter(&scenario, "count");
    lanes.wait_progress(500, STALL_MAX).unwrap();
    let mut attacker = Attacker::plug_in(&scenario);
    let under_the_first = attacker.record(ms(200));
    let moment_ns = sys::unix_ns();
    rotate(&mut scenario, &Member::ALL, &[FIRST_KEY, SECOND_KEY]);
    rotate(&mut scenario, &Member::ALL, &[SECOND_KEY, FIRST_KEY]);
    let [late, others] = match primary.others().collect::<Vec<_>>()[..] {
        [a, b] => [vec![b], vec![primary, a]],
        _ => unreachable!("a trio"),
    };
    // One is late: it goes back to the first key just before the others drop it.
    rotate(&mut scenario, &late, &[FIRST_KEY, SECOND_KEY]);
    let before = counters(&mut scenario, primary);
    rotate(&mut scenario, &others, &[SECOND_KEY]);
    attacker.say(&under_the_first);
    let grown = refused(&mut scenario, primary, &before);
    println!("under the removed key, of a node and recorded: {grown:?}");
    assert!(grown["seal_unknown_key"] as usize > under_the_first.len() / 4, "{grown:?}");
    rotate(&mut scenario, &late, &[SECOND_KEY]);
    for member in Member::ALL {
        let keys = scenario.trio.node(member).keys().unwrap();
        assert_eq!(keys.opens, vec![keys.seals.clone()]);
        cmd::wait_until("every peer under the new key", STALL_MAX, || {
            let keys = scenario.trio.node(member).keys()?;
            let mut peers = keys.paths.iter().flat_map(|path| &path.peers);
            Ok(keys.paths.len() == 2
                && peers.all(|p| p.known && p.key.as_ref() == Some(&keys.seals)))
        })
        .unwrap();
    }
    // A bad file changes nothing.
    let node = scenario.trio.node(primary);
    node.write_keys(&["nonsense"]).unwrap();
    let error = node.reload_keys().unwrap_err().to_string();
    assert!(error.contains("64 hexadecimal digits") && error.contains("nothing"), "{error}");
    task.wait_progress(100, STALL_MAX).unwrap();
    for task in [task, lanes] {
        let verdict = task.finish().unwrap();
        println!("{verdict}  longest {:.1} ms", verdict.stall(moment_ns).longest_ns as f64 / 1e6);
        verdict.assert_pass();
    }
    scenario.trio.wait_ready().unwrap();
    assert_eq!(scenario.primary().unwrap(), primary);
    scenario.check_wire(0).unwrap();
}
