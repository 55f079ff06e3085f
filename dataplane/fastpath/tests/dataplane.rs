//! Whole data paths over queues: a primary, a clone and a takeover, frame by frame.

#[path = "dataplane/checkpoint.rs"]
mod checkpoint;
#[path = "dataplane/covered.rs"]
mod covered;
#[path = "dataplane/delivery.rs"]
mod delivery;
#[path = "dataplane/oracle.rs"]
mod oracle;
#[path = "dataplane/order.rs"]
mod order;
#[path = "dataplane/sealing.rs"]
mod sealing;
#[path = "dataplane/takeover.rs"]
mod takeover;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;

use understudy_fastpath::MS;
use understudy_fastpath::adoption::AdoptAttrs;
use understudy_fastpath::audit::AuditConfig;
use understudy_fastpath::command::{Command, Event};
use understudy_fastpath::dataplane::{Dataplane, DataplaneConfig};
use understudy_fastpath::ports::{Burst, PortRole, Ports};
use understudy_fastpath::sender::{CommitPolicy, EvictCause, MemberChange, SenderConfig};
use understudy_log::CaptureLog;
use understudy_seal::{Channel, ClusterKey, Keyring, Path, Scope};
use understudy_wire::frame::{Ethernet, Mac};
use understudy_wire::pdu::{Ack, PduKind, TARGET_ALL};
use understudy_wire::tcp::{ACK, FIN, FlowKey, RST, SYN, Segment, build_segment};

const CLUSTER: u64 = 42;
const VMAC: Mac = [0, 0, 0x5e, 0, 1, 51];
const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 9];
const CLIENT_ISN: u32 = 1000;
const SERVER_ISN: u32 = 0xffff_ff00;
const SYN_OPTIONS: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 50, 0, 0, 0, 0, 1, 3, 3, 7];
const SYNACK_OPTIONS: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 3, 232, 0, 0, 0, 50, 1, 3, 3, 7];

#[derive(Default)]
struct Queues {
    rx: [VecDeque<Vec<u8>>; 3],
    tx: [Vec<Vec<u8>>; 3],
    /// Ports by which something left, in order.
    left_by: Vec<PortRole>,
    adopted: Vec<(FlowKey, AdoptAttrs)>,
    now_ns: u64,
    dying: bool,
    /// The client port's device takes nothing.
    stuck: bool,
    /// The host port's neither.
    host_stuck: bool,
}

struct TestPorts(Rc<RefCell<Queues>>);

fn index(port: PortRole) -> usize {
    match port {
        PortRole::Client => 0,
        PortRole::Replica => 1,
        PortRole::Host => 2,
    }
}

impl Ports for TestPorts {
    type Frame = Vec<u8>;
    fn rx(&mut self, port: PortRole, out: &mut Burst<Vec<u8>>) {
        let mut q = self.0.borrow_mut();
        while !out.is_full() {
            let Some(bytes) = q.rx[index(port)].pop_front() else { break };
            out.push(bytes);
        }
    }
    fn tx(&mut self, port: PortRole, frames: &mut Burst<Vec<u8>>) {
        if port == PortRole::Client && self.0.borrow().stuck
            || port == PortRole::Host && self.0.borrow().host_stuck
        {
            return;
        }
        let mut q = self.0.borrow_mut();
        if !frames.is_empty() {
            q.left_by.push(port);
        }
        q.tx[index(port)].extend(frames.drain(..));
    }
    fn clock_ns(&self) -> u64 {
        self.0.borrow().now_ns
    }
    fn service_is_dying(&self) -> bool {
        self.0.borrow().dying
    }
    fn alloc(&mut self, parts: &[&[u8]]) -> Option<Vec<u8>> {
        Some(parts.concat())
    }
    fn adopt(&mut self, key: &FlowKey, attrs: &AdoptAttrs) -> bool {
        self.0.borrow_mut().adopted.push((*key, *attrs));
        true
    }
}

/// A data path, its queues, and a clock.
struct Rig {
    dp: Dataplane<TestPorts>,
    config: DataplaneConfig,
    ports: TestPorts,
    q: Rc<RefCell<Queues>>,
    now_ns: u64,
}

/// A node's end of the replica port, in one of its lives.
fn channel(me: u16, cluster: u64, life: u8) -> Channel {
    let peers: Vec<u16> = (1..=3).filter(|&n| n != me).collect();
    let keyring = Keyring::single(ClusterKey::new([7; 32]));
    let scope = Scope { cluster, path: Path::Replica };
    Channel::new(me, scope, &peers, &keyring, [me as u8 + (life << 4); 32])
}

impl Rig {
    fn new(me: u16, policy: CommitPolicy) -> Rig {
        Rig::of(me, policy, 3)
    }

    /// A replica without a clone.
    fn witness(me: u16) -> Rig {
        let mut rig = Rig::new(me, CommitPolicy::Quorum);
        let config = DataplaneConfig { witness: true, flows_max: 0, ..rig.config.clone() };
        rig.dp = Dataplane::new(config, CaptureLog::new(1 << 20).unwrap(), channel(me, CLUSTER, 0));
        rig
    }

    fn of(me: u16, policy: CommitPolicy, nodes: u16) -> Rig {
        let sender = SenderConfig {
            policy,
            voters: usize::from(nodes),
            // Two nodes have an arbiter: it may let one go on alone.
            min_replicas: usize::from(nodes > 2),
            lease_ns: 100 * MS,
            evict_after_ns: 1000 * MS,
            heartbeat_interval_ns: 10 * MS,
            chunk_len: 0,
        };
        let config = DataplaneConfig {
            me,
            cluster: CLUSTER,
            peers: (1..=nodes).filter(|&n| n != me).collect(),
            vmac: VMAC,
            vips: vec!["10.0.0.100".parse().unwrap()],
            replica_mac: [2, 1, 1, 1, 1, me as u8],
            replica_mtu: 1500,
            sender,
            gate_frames_max: 256,
            retained_frames_max: 64,
            kept_frames_max: 1000,
            flows_max: 16,
            clone_wait_ns: 700 * MS,
            audit: Some(AuditConfig { seed: [me as u8; 16], heal: true }),
            witness: false,
        };
        let q = Rc::new(RefCell::new(Queues::default()));
        let ports = TestPorts(Rc::clone(&q));
        let mut rig = Rig {
            dp: Dataplane::new(
                config.clone(),
                CaptureLog::new(1 << 20).unwrap(),
                channel(me, CLUSTER, 0),
            ),
            config,
            ports,
            q,
            now_ns: 1_000 * MS,
        };
        rig.order(Command::Service { up: true });
        rig
    }

    fn order(&mut self, command: Command) {
        self.dp.command(self.now_ns, command, &mut self.ports);
    }

    fn poll(&mut self) {
        self.now_ns += MS / 10;
        self.q.borrow_mut().now_ns = self.now_ns;
        self.dp.poll(self.now_ns, &mut self.ports);
    }

    fn give(&mut self, port: PortRole, frame: Vec<u8>) {
        self.q.borrow_mut().rx[index(port)].push_back(frame);
    }

    fn sent(&mut self, port: PortRole) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.q.borrow_mut().tx[index(port)])
    }

    /// Lets time pass in which nobody polls.
    fn stand_still(&mut self, ms: u64) {
        self.now_ns += ms * MS;
    }

    fn members(&mut self) -> Vec<(u16, MemberChange)> {
        let events = std::iter::from_fn(|| self.dp.poll_event());
        let member = |event| match event {
            Event::Member { node, change, .. } => Some((node, change)),
            _ => None,
        };
        events.filter_map(member).collect()
    }

    fn counter(&self, name: &str) -> u64 {
        let all = self.dp.counters().iter().chain(self.dp.channel().counters().iter());
        all.into_iter().find(|(n, _)| *n == name).expect("a counter").1
    }
}

/// Carries the replica network between two data paths, for some polls.
fn exchange(a: &mut Rig, b: &mut Rig, polls: usize) {
    for _ in 0..polls {
        a.poll();
        b.poll();
        for frame in a.sent(PortRole::Replica) {
            b.give(PortRole::Replica, frame);
        }
        for frame in b.sent(PortRole::Replica) {
            a.give(PortRole::Replica, frame);
        }
    }
}

/// Lets two nodes accept each other's sessions, as their heartbeats do.
fn acquaint(a: &mut Rig, b: &mut Rig) {
    a.order(Command::Control { target: TARGET_ALL, epoch: 0, body: Default::default() });
    exchange(a, b, 5);
}

fn trio_pair(policy: CommitPolicy) -> (Rig, Rig) {
    let (mut a, mut b) = (Rig::new(1, policy), Rig::new(2, policy));
    acquaint(&mut a, &mut b);
    a.order(Command::Lead { epoch: 1, serve: true });
    b.order(Command::Follow { epoch: 1, primary: 1, cut: u64::MAX });
    exchange(&mut a, &mut b, 20);
    (a, b)
}

fn client() -> (IpAddr, u16) {
    ("10.0.0.1".parse().unwrap(), 40000)
}

fn server() -> (IpAddr, u16) {
    ("10.0.0.100".parse().unwrap(), 6379)
}

fn ts(tsval: u32, tsecr: u32) -> Vec<u8> {
    [&[1, 1, 8, 10][..], &tsval.to_be_bytes(), &tsecr.to_be_bytes()].concat()
}

fn from_client(seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let eth = Ethernet { dst: VMAC, src: CLIENT_MAC, ethertype: 0x0800 };
    let syn = flags & SYN != 0;
    let options = if syn { SYN_OPTIONS.to_vec() } else { ts(60, 1000) };
    build_segment(&eth, client(), server(), (seq, ack, flags, 500), &options, payload)
}

fn from_server(seq: u32, ack: u32, flags: u8, window: u16, payload: &[u8]) -> Vec<u8> {
    let eth = Ethernet { dst: CLIENT_MAC, src: VMAC, ethertype: 0x0800 };
    let syn = flags & SYN != 0;
    let options = if syn { SYNACK_OPTIONS.to_vec() } else { ts(1005, 60) };
    build_segment(&eth, server(), client(), (seq, ack, flags, window), &options, payload)
}

/// Sequence number of the service's byte `n`.
fn srv(n: u32) -> u32 {
    SERVER_ISN.wrapping_add(1 + n)
}

fn cli(n: u32) -> u32 {
    CLIENT_ISN + 1 + n
}

/// Handshake on the primary, with its frames towards the capsule checked.
fn handshake(a: &mut Rig, b: &mut Rig) {
    a.give(PortRole::Client, from_client(CLIENT_ISN, 0, SYN, b""));
    exchange(a, b, 10);
    assert_eq!(a.sent(PortRole::Host).len(), 1, "the SYN reaches the primary's kernel");
    assert!(b.sent(PortRole::Host).is_empty(), "and not the clone's");
    a.give(PortRole::Host, from_server(SERVER_ISN, cli(0), SYN | ACK, 65535, b""));
    exchange(a, b, 10);
    assert_eq!(a.sent(PortRole::Client).len(), 1);
}

fn request(a: &mut Rig, b: &mut Rig, payload: &[u8]) {
    a.give(PortRole::Client, from_client(cli(0), srv(0), ACK, payload));
    exchange(a, b, 10);
}

fn segments(frames: &[Vec<u8>]) -> Vec<Segment> {
    frames.iter().map(|f| Segment::parse(f).expect("a segment")).collect()
}

#[test]
fn output_waits_for_its_cause_to_be_held_elsewhere() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    handshake(&mut a, &mut b);
    a.give(PortRole::Client, from_client(cli(0), srv(0), ACK, b"request"));
    a.poll();
    let replicated = a.sent(PortRole::Replica);
    assert!(!replicated.is_empty());
    a.give(PortRole::Host, from_server(srv(0), cli(7), ACK, 500, b"reply"));
    for _ in 0..20 {
        a.poll();
    }
    assert!(a.sent(PortRole::Client).is_empty(), "nobody else holds the request");
    for frame in replicated {
        b.give(PortRole::Replica, frame);
    }
    exchange(&mut a, &mut b, 5);
    assert_eq!(a.sent(PortRole::Client).len(), 1);
}

#[test]
fn a_lease_that_ran_out_holds_committed_output() {
    let (mut a, mut b) = trio_pair(CommitPolicy::None);
    handshake(&mut a, &mut b);
    a.now_ns += 200 * MS;
    a.give(PortRole::Host, from_server(srv(0), cli(0), ACK, 500, b"late"));
    a.poll();
    assert!(a.sent(PortRole::Client).is_empty());
    assert!(a.counter("lease_holds") > 0);
    b.now_ns = a.now_ns;
    exchange(&mut a, &mut b, 10);
    assert_eq!(a.sent(PortRole::Client).len(), 1, "a replica's acknowledgement renews it");
}

#[test]
fn a_fence_drops_what_waits() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    handshake(&mut a, &mut b);
    a.give(PortRole::Client, from_client(cli(0), srv(0), ACK, b"request"));
    a.poll();
    a.give(PortRole::Host, from_server(srv(0), cli(7), ACK, 500, b"reply"));
    a.poll();
    a.order(Command::Promise { epoch: 2 });
    exchange(&mut a, &mut b, 20);
    assert!(a.sent(PortRole::Client).is_empty());
    assert_eq!(a.counter("gate_fenced"), 1);
}

/// One reply at the gate of a primary that had been serving: its cause is committed, the device
/// takes nothing.
fn output_stuck_in_the_device() -> (Rig, Rig) {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    handshake(&mut a, &mut b);
    a.q.borrow_mut().stuck = true;
    a.give(PortRole::Host, from_server(srv(0), cli(0), ACK, 500, b"stale"));
    exchange(&mut a, &mut b, 5);
    assert_eq!(a.counter("gate_released"), 2, "it has left the gate");
    let waits = a.dp.snapshot(a.now_ns).gate_waits;
    assert_eq!(waits.counts.iter().sum::<u64>(), 2, "each wait is counted once");
    (a, b)
}

#[test]
fn what_the_device_did_not_take_in_time_is_not_sent_without_a_lease() {
    let (mut a, mut b) = output_stuck_in_the_device();
    a.stand_still(5_000);
    a.q.borrow_mut().stuck = false;
    a.order(Command::Announce);
    for _ in 0..20 {
        a.poll();
    }
    assert!(a.sent(PortRole::Client).is_empty(), "the lease ran out while nobody polled");
    b.stand_still(5_000);
    exchange(&mut a, &mut b, 20);
    assert_eq!(a.sent(PortRole::Client).len(), 1, "the same reign goes on");
}

#[test]
fn what_the_device_did_not_take_in_one_reign_is_not_sent_in_a_later_one() {
    let ends: [fn(&mut Rig); 4] = [
        |a| a.order(Command::Fence { epoch: 1 }),
        |a| a.order(Command::Promise { epoch: 2 }),
        |a| a.order(Command::Follow { epoch: 2, primary: 2, cut: u64::MAX }),
        |a| a.order(Command::Lead { epoch: 2, serve: true }),
    ];
    for end in ends {
        let (mut a, mut b) = output_stuck_in_the_device();
        end(&mut a);
        a.q.borrow_mut().stuck = false;
        a.order(Command::Lead { epoch: 3, serve: true });
        b.order(Command::Follow { epoch: 3, primary: 1, cut: u64::MAX });
        exchange(&mut a, &mut b, 40);
        assert!(a.dp.snapshot(a.now_ns).gate_open);
        let stale = a.sent(PortRole::Client).iter().any(|f| f.ends_with(b"stale"));
        assert!(!stale, "output of reign 1 in reign 3");
        assert_eq!(a.counter("gate_fenced"), 1);
    }
}

#[test]
fn a_thread_that_stood_still_sends_nothing_of_before_until_it_is_acknowledged_anew() {
    let (mut a, mut b) = trio_pair(CommitPolicy::None);
    handshake(&mut a, &mut b);
    // Acknowledgements of what was sent before the pause wait in the ring: they are old.
    exchange(&mut a, &mut b, 3);
    a.give(PortRole::Host, from_server(srv(0), cli(0), ACK, 500, b"late"));
    a.give(PortRole::Client, from_client(cli(0), srv(0), ACK, b"x"));
    a.members();
    a.stand_still(3_000);
    a.poll();
    a.order(Command::Announce);
    a.poll();
    assert!(a.sent(PortRole::Client).is_empty());
    assert!(!a.dp.snapshot(a.now_ns).gate_open);
    assert!(a.members().is_empty(), "our own pause is nobody's fault");
}

#[test]
fn the_last_pdu_before_silence_is_asked_for_by_the_next_sign_of_life() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    a.give(PortRole::Client, from_client(CLIENT_ISN, 0, SYN, b""));
    a.poll();
    assert_eq!(a.sent(PortRole::Replica).len(), 1, "lost");
    let before = b.dp.log().end();
    assert!(before < a.dp.log().end());
    // Nothing more comes from the clients: 10 ms to the sign of life.
    exchange(&mut a, &mut b, 105);
    assert_eq!(b.dp.log().end(), a.dp.log().end());
    assert_eq!((b.counter("naks_sent"), a.counter("data_retransmitted")), (1, 1));
    // And an idle primary goes on showing that it lives, and keeps its lease by it.
    let sent = a.counter("acks_received");
    exchange(&mut a, &mut b, 3000);
    assert!(a.counter("acks_received") >= sent + 25, "300 ms of silence");
    assert!(a.dp.snapshot(a.now_ns).gate_open);
}

#[test]
fn a_long_gap_is_fetched_with_few_naks_and_no_byte_twice() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Any);
    for _ in 0..500 {
        a.give(PortRole::Client, from_client(cli(0), srv(0), ACK, &[7; 1400]));
    }
    for _ in 0..200 {
        a.poll();
        a.sent(PortRole::Replica);
    }
    exchange(&mut a, &mut b, 300);
    assert_eq!(b.dp.log().end(), a.dp.log().end());
    let bytes = a.dp.log().end();
    assert!(b.counter("naks_sent") <= 2 * bytes.div_ceil(64 << 10), "{}", b.counter("naks_sent"));
    assert_eq!(b.counter("data_duplicate"), 0);
}

#[test]
fn a_group_of_two_goes_on_alone_when_told_and_only_in_its_reign() {
    let mut a = Rig::of(1, CommitPolicy::Quorum, 2);
    a.order(Command::Lead { epoch: 4, serve: true });
    a.give(PortRole::Client, from_client(CLIENT_ISN, 0, SYN, b""));
    let polls = |a: &mut Rig, n: usize| (0..n).for_each(|_| a.poll());
    polls(&mut a, 5);
    for (epoch, on) in [(3, true), (5, true)] {
        a.order(Command::Alone { epoch, on });
        polls(&mut a, 5);
        assert!(!a.dp.snapshot(a.now_ns).gate_open && !a.dp.snapshot(a.now_ns).alone);
    }
    a.order(Command::Alone { epoch: 4, on: true });
    polls(&mut a, 5);
    a.give(PortRole::Host, from_server(SERVER_ISN, cli(0), SYN | ACK, 65535, b""));
    a.stand_still(10_000);
    polls(&mut a, 5);
    assert_eq!(a.sent(PortRole::Client).len(), 1, "no acknowledgement, and no lease to run out");
    let view = a.dp.snapshot(a.now_ns);
    assert!(view.alone && view.gate_open && view.lease_valid && view.committed == view.log_end);
    a.order(Command::Alone { epoch: 3, on: false });
    assert!(a.dp.snapshot(a.now_ns).alone, "another reign's order");
    // The other is back, has caught up, and counts again.
    let mut b = Rig::of(2, CommitPolicy::Quorum, 2);
    b.now_ns = a.now_ns;
    b.order(Command::Follow { epoch: 4, primary: 1, cut: 0 });
    exchange(&mut a, &mut b, 150);
    assert_eq!(b.dp.log().end(), a.dp.log().end());
    a.order(Command::Alone { epoch: 4, on: false });
    exchange(&mut a, &mut b, 150);
    assert!(a.dp.snapshot(a.now_ns).gate_open && !a.dp.snapshot(a.now_ns).alone);
    let committed = a.dp.snapshot(a.now_ns).committed;
    a.give(PortRole::Client, from_client(cli(0), srv(0), ACK, b"x"));
    a.give(PortRole::Host, from_server(srv(0), cli(1), ACK, 500, b"y"));
    a.stand_still(200);
    polls(&mut a, 20);
    assert!(a.sent(PortRole::Client).is_empty(), "without the other nothing leaves any more");
    assert_eq!(a.dp.snapshot(a.now_ns).committed, committed);
}

#[test]
fn the_control_plane_hears_who_leaves_the_commit_set_and_who_comes_back() {
    let (mut a, mut b) = trio_pair(CommitPolicy::All);
    let changes = a.members();
    let absent =
        |c: &MemberChange| matches!(c, MemberChange::Evicted(e) if e.cause == EvictCause::Absent);
    assert!(changes[..2].iter().all(|(_, c)| absent(c)), "nobody was heard before: {changes:?}");
    assert_eq!(changes[2..], [(2, MemberChange::Admitted)]);
    for _ in 0..1100 {
        (0..10).for_each(|_| a.poll());
    }
    let changes = a.members();
    let (2, MemberChange::Evicted(e)) = changes[0] else { panic!("{changes:?}") };
    assert_eq!(e.cause, EvictCause::Silent);
    b.now_ns = a.now_ns;
    exchange(&mut a, &mut b, 150);
    assert_eq!(a.members(), [(2, MemberChange::Admitted)]);
}

#[test]
fn what_a_dying_application_says_never_leaves() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    handshake(&mut a, &mut b);
    a.give(PortRole::Host, from_server(srv(0), cli(0), ACK, 500, b"an answer."));
    exchange(&mut a, &mut b, 10);
    a.q.borrow_mut().dying = true;
    a.give(PortRole::Host, from_server(srv(10), cli(0), ACK, 500, b"last words"));
    a.give(PortRole::Host, from_server(srv(20), cli(0), ACK | FIN, 500, b""));
    exchange(&mut a, &mut b, 10);
    a.give(PortRole::Host, from_server(srv(20), cli(0), ACK | RST, 500, b""));
    exchange(&mut a, &mut b, 10);
    let out = segments(&a.sent(PortRole::Client));
    assert_eq!(out.iter().map(|s| (s.flags, s.payload_len)).collect::<Vec<_>>(), vec![(ACK, 10)]);
    assert!(std::iter::from_fn(|| a.dp.poll_event()).any(|e| matches!(e, Event::ServiceDying)));
    assert_eq!(a.counter("death_withheld"), 3);
}

#[test]
fn a_clone_adopts_at_the_primarys_numbers_and_gets_every_byte_once() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    handshake(&mut a, &mut b);
    request(&mut a, &mut b, b"request");
    let (key, attrs) = b.q.borrow().adopted[0];
    assert_eq!((key.client, key.server), (client(), server()));
    assert_eq!(
        (attrs.mss, attrs.snd_wscale, attrs.rcv_wscale, attrs.sack),
        (1460, Some(7), 7, true)
    );
    let (tsval, tsecr) = attrs.timestamps.unwrap();
    assert_eq!(tsval, 50, "the SYN's");
    assert!((1050..1065).contains(&tsecr), "the primary's clock, projected: {tsecr}");
    let got = segments(&b.sent(PortRole::Host));
    assert_eq!(got.len(), 2);
    assert_eq!(
        (got[0].seq, got[0].ack, got[0].payload_len),
        (cli(0), srv(0), 0),
        "our bare ACK first"
    );
    assert_eq!((got[1].seq, got[1].payload_len), (cli(0), 7));
    assert_eq!(got[0].options.timestamps, Some((50, tsecr)), "no false round-trip sample");
    b.give(PortRole::Host, from_server(srv(0), cli(7), ACK, 500, b"reply"));
    for _ in 0..2000 {
        exchange(&mut a, &mut b, 1);
    }
    assert!(b.sent(PortRole::Host).is_empty(), "confirmed: not given again");
    assert!(b.sent(PortRole::Client).is_empty(), "a clone is mute");
}

#[test]
fn what_the_clone_does_not_confirm_is_given_again_and_a_lost_adoption_repeated() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    handshake(&mut a, &mut b);
    request(&mut a, &mut b, b"request");
    b.sent(PortRole::Host);
    // The accept queue was full: the kernel knows no such connection.
    b.give(PortRole::Host, from_server(srv(0), 0, RST, 0, b""));
    exchange(&mut a, &mut b, 700);
    let again = segments(&b.sent(PortRole::Host));
    assert_eq!(again.len(), 2, "adoption and data");
    assert_eq!((again[0].payload_len, again[1].payload_len), (0, 7));
    assert_eq!(b.q.borrow().adopted.len(), 2);
    assert_eq!(b.counter("redelivered"), 1);
}

#[test]
fn a_frame_waits_for_the_output_it_acknowledges_with_partial_acks() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    handshake(&mut a, &mut b);
    request(&mut a, &mut b, b"get");
    b.sent(PortRole::Host);
    // The client acknowledges 20 bytes and asks again; the clone has sent 5.
    a.give(PortRole::Client, from_client(cli(3), srv(20), ACK, b"more"));
    b.give(PortRole::Host, from_server(srv(0), cli(3), ACK, 500, b"12345"));
    exchange(&mut a, &mut b, 50);
    let got = segments(&b.sent(PortRole::Host));
    assert_eq!(got.len(), 1, "only the ACK for what it has sent");
    assert_eq!((got[0].ack, got[0].payload_len), (srv(5), 0));
    assert_eq!(got[0].window, 501, "the same right edge, rounded up to the scale");
    assert!(b.dp.snapshot(b.now_ns).applied < b.dp.snapshot(b.now_ns).committed);
    b.give(PortRole::Host, from_server(srv(5), cli(3), ACK, 500, &[7; 15]));
    exchange(&mut a, &mut b, 10);
    let got = segments(&b.sent(PortRole::Host));
    assert_eq!(got.last().map(|s| (s.ack, s.payload_len)), Some((srv(20), 4)));
}

#[test]
fn a_frame_beyond_the_clones_window_is_parked_in_order() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    handshake(&mut a, &mut b);
    request(&mut a, &mut b, b"x");
    // Window closed by the clone: scale 7, so 0 means 0. (Edges never move back.)
    let edge = CLIENT_ISN.wrapping_add(1 + 65535);
    a.give(PortRole::Client, from_client(edge.wrapping_sub(2), srv(0), ACK, b"beyond"));
    a.give(PortRole::Client, from_client(edge.wrapping_add(4), srv(0), ACK, b"next"));
    b.sent(PortRole::Host);
    exchange(&mut a, &mut b, 20);
    assert!(b.sent(PortRole::Host).is_empty());
    assert_eq!(b.counter("parked"), 2);
    b.give(PortRole::Host, from_server(srv(0), edge.wrapping_sub(2), ACK, 500, b""));
    exchange(&mut a, &mut b, 20);
    let got = segments(&b.sent(PortRole::Host));
    assert_eq!(got.iter().map(|s| s.payload_len).collect::<Vec<_>>(), vec![6, 4]);
}

#[test]
fn a_caretaker_hands_its_log_over_and_serves_nobody() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    let mut c = Rig::new(3, CommitPolicy::Quorum);
    acquaint(&mut b, &mut c);
    handshake(&mut a, &mut b);
    request(&mut a, &mut b, b"request");
    exchange(&mut a, &mut b, 10);
    b.sent(PortRole::Host);
    b.order(Command::Lead { epoch: 2, serve: false });
    c.now_ns = b.now_ns;
    c.order(Command::Follow { epoch: 2, primary: 2, cut: 0 });
    b.give(PortRole::Client, from_client(cli(7), srv(0), ACK, b"again"));
    b.give(PortRole::Host, from_server(srv(0), cli(7), ACK, 500, b"reply"));
    exchange(&mut b, &mut c, 60);
    assert!(b.sent(PortRole::Client).is_empty() && b.sent(PortRole::Host).is_empty());
    assert_eq!((b.counter("kept_frames"), b.counter("gate_in")), (1, 0));
    let end = b.dp.log().end();
    assert_eq!(b.dp.log().bytes(0, end), c.dp.log().bytes(0, end));
    assert_eq!(b.dp.snapshot(b.now_ns).peers[1].acked, end);
    b.order(Command::Fence { epoch: 2 });
    c.order(Command::Lead { epoch: 3, serve: true });
    b.order(Command::Follow { epoch: 3, primary: 3, cut: u64::MAX });
    exchange(&mut b, &mut c, 60);
    assert!(c.dp.snapshot(c.now_ns).gate_open, "its follower held everything, and acknowledges");
    assert_eq!(b.dp.log().end(), c.dp.log().end());
}

#[test]
fn a_witness_holds_the_newest_log_and_hands_it_over() {
    let (mut a, mut w) = (Rig::new(1, CommitPolicy::Quorum), Rig::witness(3));
    a.order(Command::Lead { epoch: 1, serve: true });
    w.order(Command::Follow { epoch: 1, primary: 1, cut: u64::MAX });
    // Three times what it can hold: nobody consumes it there, and nothing stops it.
    let (mut b, mut lacks) = (Rig::new(2, CommitPolicy::Quorum), 0);
    b.order(Command::Follow { epoch: 1, primary: 1, cut: u64::MAX });
    for i in 0..2200 {
        a.give(PortRole::Client, from_client(cli(0), srv(0), ACK, &[7; 1400]));
        a.poll();
        for rig in [&mut b, &mut w] {
            rig.now_ns = a.now_ns;
            rig.poll();
        }
        for frame in a.sent(PortRole::Replica) {
            w.give(PortRole::Replica, frame.clone());
            if i < 2150 {
                b.give(PortRole::Replica, frame);
                lacks = a.dp.log().end();
            }
        }
        for frame in [b.sent(PortRole::Replica), w.sent(PortRole::Replica)].concat() {
            a.give(PortRole::Replica, frame);
        }
    }
    exchange(&mut a, &mut w, 5);
    assert_eq!((w.counter("data_log_full"), a.counter("log_full")), (0, 0));
    assert_eq!(w.dp.log().end(), a.dp.log().end());
    assert!(w.dp.log().start() > 0 && w.sent(PortRole::Host).is_empty());
    assert!(b.dp.log().end() <= lacks && lacks < w.dp.log().end());
    // The primary is dead; what only the witness holds was committed.
    w.order(Command::Lead { epoch: 2, serve: false });
    b.order(Command::Follow { epoch: 2, primary: 3, cut: b.dp.log().boundary() });
    exchange(&mut w, &mut b, 200);
    assert_eq!(b.dp.log().end(), w.dp.log().end());
    assert!(!w.dp.snapshot(w.now_ns).gate_open && w.sent(PortRole::Client).is_empty());
    w.order(Command::Fence { epoch: 2 });
    b.order(Command::Lead { epoch: 3, serve: true });
    w.order(Command::Follow { epoch: 3, primary: 2, cut: u64::MAX });
    exchange(&mut w, &mut b, 100);
    assert!(b.dp.snapshot(b.now_ns).gate_open, "with the witness alone it serves");
}

#[test]
fn a_handshake_cut_by_the_death_is_completed() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    let mut c = Rig::new(3, CommitPolicy::Quorum);
    acquaint(&mut b, &mut c);
    handshake(&mut a, &mut b);
    b.order(Command::Lead { epoch: 2, serve: true });
    c.now_ns = b.now_ns;
    c.order(Command::Follow { epoch: 2, primary: 2, cut: 0 });
    exchange(&mut b, &mut c, 60);
    let out = segments(&b.sent(PortRole::Client));
    assert_eq!(out.len(), 1, "the SYN-ACK goes out again");
    assert!(out[0].has(SYN | ACK) && out[0].seq == SERVER_ISN);
    b.give(PortRole::Client, from_client(cli(0), srv(0), ACK, b"hello"));
    exchange(&mut b, &mut c, 10);
    assert_eq!(b.q.borrow().adopted.len(), 1);
    let host = segments(&b.sent(PortRole::Host));
    assert_eq!(host.iter().map(|s| s.payload_len).collect::<Vec<_>>(), vec![0, 5]);
}

#[test]
fn malformed_client_frames_are_logged_and_delivered_as_they_are() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    let whole = from_client(cli(0), srv(0), ACK, b"some payload");
    let mut cut_short = whole[..20].to_vec();
    let mut bad_sum = whole.clone();
    *bad_sum.last_mut().unwrap() ^= 1;
    let mut bad_offset = whole.clone();
    bad_offset[46] = 0xf0;
    cut_short.resize(60, 0);
    for frame in [cut_short, bad_sum, bad_offset] {
        a.give(PortRole::Client, frame.clone());
        exchange(&mut a, &mut b, 10);
        assert_eq!(a.sent(PortRole::Host), vec![frame.clone()]);
        assert_eq!(b.sent(PortRole::Host), vec![frame]);
    }
    assert_eq!(b.counter("corrupt_records"), 0);
}

#[test]
fn frames_for_others_are_counted_and_go_nowhere() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    let mut other = from_client(cli(0), srv(0), ACK, b"");
    other[0..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    a.give(PortRole::Client, other);
    a.give(PortRole::Client, vec![1, 2, 3]);
    exchange(&mut a, &mut b, 5);
    assert!(a.sent(PortRole::Host).is_empty());
    assert_eq!(a.counter("not_for_service"), 2);
}
