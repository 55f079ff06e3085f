//! A whole data path between mutated frames on all its ports, in every role.

use std::collections::VecDeque;
use std::net::IpAddr;

use understudy_fastpath::MS;
use understudy_fastpath::adoption::AdoptAttrs;
use understudy_fastpath::audit::AuditConfig;
use understudy_fastpath::command::{Command, DataRole};
use understudy_fastpath::dataplane::{Dataplane, DataplaneConfig};
use understudy_fastpath::ports::{Burst, PortRole, Ports};
use understudy_fastpath::sender::{CommitPolicy, SenderConfig};
use understudy_fuzz::{Rng, corpus, fuzz, mutated};
use understudy_log::CaptureLog;
use understudy_seal::{Channel, ClusterKey, Keyring, Path, Scope};
use understudy_wire::audit::{AuditRecord, Note};
use understudy_wire::frame::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Mac};
use understudy_wire::pdu::{
    Ack, DataHeader, ETHERTYPE_REPLICA, Nak, PDU_HEADER_LEN, PDU_TAG_LEN, PduKind, TARGET_ALL,
};
use understudy_wire::record::RecordKind;
use understudy_wire::said::{Progress, SaidRecord};
use understudy_wire::tcp::{ACK, FIN, FlowKey, RST, SYN, Segment, build_segment};

const CLUSTER: u64 = 77;
const VMAC: Mac = [0, 0, 0x5e, 0, 1, 51];
const CLIENT: Mac = [2, 0, 0, 0, 0, 1];
const PEER: Mac = [2, 0, 0, 0, 0, 2];
const LOG_LEN: usize = 64 * 1024;
const VIPS: [&str; 2] = ["10.77.0.100", "fd77::100"];

/// Three ports that take everything, or now and then nothing.
#[derive(Default)]
struct World {
    now_ns: u64,
    stubborn: bool,
    dying: bool,
    waiting: [VecDeque<Vec<u8>>; 3],
    /// Left the replica port.
    said: Vec<Vec<u8>>,
    answered: u64,
}

impl Ports for World {
    type Frame = Vec<u8>;

    fn rx(&mut self, port: PortRole, out: &mut Burst<Vec<u8>>) {
        while let (false, Some(frame)) = (out.is_full(), self.waiting[port as usize].pop_front()) {
            out.push(frame);
        }
    }

    fn tx(&mut self, port: PortRole, frames: &mut Burst<Vec<u8>>) {
        if self.stubborn {
            return;
        }
        if port == PortRole::Replica {
            self.said.extend(frames.iter().cloned());
        }
        self.answered += u64::from(port == PortRole::Client) * frames.len() as u64;
        frames.clear();
    }

    fn clock_ns(&self) -> u64 {
        self.now_ns
    }

    fn service_is_dying(&self) -> bool {
        self.dying
    }

    fn alloc(&mut self, parts: &[&[u8]]) -> Option<Vec<u8>> {
        (!self.stubborn).then(|| parts.concat())
    }

    fn adopt(&mut self, _: &FlowKey, _: &AdoptAttrs) -> bool {
        !self.stubborn
    }
}

fn config() -> DataplaneConfig {
    DataplaneConfig {
        me: 1,
        cluster: CLUSTER,
        peers: vec![2, 3],
        vmac: VMAC,
        vips: VIPS.iter().map(|vip| vip.parse().expect("an address")).collect(),
        replica_mac: [2, 0, 0, 0, 1, 1],
        replica_mtu: 1500,
        sender: SenderConfig {
            policy: CommitPolicy::Quorum,
            voters: 3,
            min_replicas: 1,
            lease_ns: 120 * MS,
            evict_after_ns: 2000 * MS,
            heartbeat_interval_ns: 10 * MS,
            chunk_len: 0,
        },
        gate_frames_max: 256,
        retained_frames_max: 64,
        kept_frames_max: 64,
        flows_max: 32,
        clone_wait_ns: 5_000 * MS,
        audit: Some(AuditConfig { seed: [9; 16], heal: true }),
        witness: false,
    }
}

/// Both sides of short conversations, in both families.
fn segments(from_client: bool) -> Vec<Vec<u8>> {
    let options = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9, 1, 3, 3, 7];
    let stamp = [1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 9];
    let mut out = Vec::new();
    for (vip, client, ethertype) in
        [(VIPS[0], "10.77.0.1", ETHERTYPE_IPV4), (VIPS[1], "fd77::1", ETHERTYPE_IPV6)]
    {
        let address = |text: &str| -> IpAddr { text.parse().expect("an address") };
        let ends = ((address(client), 40000), (address(vip), 6379));
        let eth = Ethernet { dst: VMAC, src: CLIENT, ethertype };
        let mut add = |seq, ack, flags, options: &[u8], payload: &[u8]| {
            out.push(if from_client {
                build_segment(&eth, ends.0, ends.1, (seq, ack, flags, 512), options, payload)
            } else {
                let eth = Ethernet { dst: CLIENT, src: VMAC, ..eth };
                build_segment(&eth, ends.1, ends.0, (ack, seq, flags, 512), options, payload)
            });
        };
        if from_client {
            add(1000, 0, SYN, &options, b"");
        } else {
            add(1001, 5000, SYN | ACK, &options, b"");
        }
        add(1001, 5001, ACK, &stamp, b"");
        add(1001, 5001, ACK, &stamp, &[0x5a; 100]);
        add(1101, 5101, ACK, &stamp, &[0x5a; 900]);
        add(2001, 5101, ACK | FIN, &stamp, b"");
        add(2001, 5101, RST, &[], b"");
    }
    out
}

/// What a node says, before it is sealed.
#[derive(Clone)]
struct Saying {
    node: u16,
    kind: PduKind,
    body: Vec<u8>,
}

fn channel(me: u16) -> Channel {
    let peers: Vec<u16> = (1..=3).filter(|&n| n != me).collect();
    let keyring = Keyring::single(ClusterKey::new([7; 32]));
    let scope = Scope { cluster: CLUSTER, path: Path::Replica };
    Channel::new(me, scope, &peers, &keyring, [me as u8; 32])
}

fn framed(pdu: &[u8]) -> Vec<u8> {
    let eth = Ethernet { dst: PEER, src: PEER, ethertype: ETHERTYPE_REPLICA };
    [&eth.bytes()[..], pdu].concat()
}

/// Nodes 2 and 3, who hold the key and may have gone mad.
struct Others([Channel; 2]);

impl Others {
    fn seal(&mut self, saying: &Saying, epoch: u64) -> Vec<u8> {
        let mut pdu = [&[0; PDU_HEADER_LEN][..], &saying.body, &[0; PDU_TAG_LEN]].concat();
        let from = &mut self.0[usize::from(saying.node) - 2];
        let sealed = from.seal_in_place(saying.kind, TARGET_ALL, epoch, &mut pdu);
        sealed.map_or(Vec::new(), |()| framed(&pdu))
    }

    /// Makes their sessions known to the node.
    fn introduce(&mut self, plane: &mut Dataplane<World>, world: &mut World) {
        for node in [2, 3] {
            let hello = Saying { node, kind: PduKind::Control, body: Vec::new() };
            world.waiting[PortRole::Replica as usize].push_back(self.seal(&hello, 0));
        }
        plane.poll(world.now_ns, world);
        for mut frame in std::mem::take(&mut world.said) {
            for other in &mut self.0 {
                let _ = other.open_in_place(world.now_ns, &mut frame[14..]);
                while let Some(handshake) = other.poll_handshake(world.now_ns) {
                    let frame = framed(&handshake.pdu);
                    world.waiting[PortRole::Replica as usize].push_back(frame);
                }
            }
        }
        plane.poll(world.now_ns, world);
        assert_eq!(plane.channel().counters().sessions, 2, "both are known");
    }

    /// A mad node's PDU, or what somebody without the key makes of one.
    fn frame(&mut self, rng: &mut Rng, sayings: &[Saying], epoch: u64) -> Vec<u8> {
        let mut saying = rng.pick(sayings).clone();
        if rng.one_in(2) {
            saying.body = mutated(rng, &[saying.body]);
            saying.body.truncate(1400);
        }
        if rng.one_in(8) {
            let kinds =
                [PduKind::Data, PduKind::Ack, PduKind::Nak, PduKind::Control, PduKind::Frame];
            saying.kind = *rng.pick(&kinds);
        }
        let frame = self.seal(&saying, if rng.one_in(8) { rng.word() } else { epoch });
        if rng.one_in(4) { mutated(rng, &[frame]) } else { frame }
    }
}

/// What a primary of epoch 1 with these conversations sends, and what its replicas answer.
fn sayings() -> Vec<Saying> {
    let mut log = CaptureLog::new(LOG_LEN).expect("a little memory");
    log.append_epoch(1, 2, 5, 0).expect("room");
    let (client, service) = (segments(true), segments(false));
    let mut said = SaidRecord::default();
    for (asked, answered) in client.iter().zip(&service) {
        log.append(RecordKind::Said, 6, &said.encode(), 0).expect("room");
        log.append(RecordKind::ClientFrame, 6, asked, 0).expect("room");
        if let Some(segment) = Segment::parse(answered) {
            let progress = Progress { key: segment.key_from_server(), to: segment.seq_end() };
            said.progress = [progress].into_iter().collect();
        }
        if answered[answered.len().min(47)] & SYN != 0 {
            log.append(RecordKind::SynAck, 6, answered, 0).expect("room");
        }
    }
    // Notes of the answers, mostly untrue.
    let notes = service.iter().filter_map(|frame| Segment::parse(frame)).map(|segment| Note {
        key: segment.key_from_server(),
        to: segment.seq_end(),
        len: u64::from(segment.seq_end().wrapping_sub(5001)),
        digest: 0,
    });
    let record = AuditRecord { seed: [9; 16], notes: notes.collect() };
    log.append(RecordKind::Audit, 6, &record.encode(), 0).expect("room");
    let end = log.end();
    let mut out = Vec::new();
    for position in (0..=end).step_by(700) {
        let bytes = log.bytes(position, (position + 700).min(end)).expect("it is held");
        let header = DataHeader { position, end, committed: end, log_start: 0, sent_at_ns: 1000 };
        let body = [&header.encode()[..], bytes].concat();
        out.push(Saying { node: 2, kind: PduKind::Data, body });
    }
    for node in [2, 3] {
        let ack = Ack { position: end, applied: end, covered: end, echo_ns: 50 * MS };
        out.push(Saying { node, kind: PduKind::Ack, body: ack.encode().to_vec() });
        let nak = Nak { position: 40, length: 500 };
        out.push(Saying { node, kind: PduKind::Nak, body: nak.encode().to_vec() });
    }
    out
}

/// The recorded PDUs of the first reign, as if node 2 had led it.
fn recorded_sayings() -> Vec<Saying> {
    let recorded = corpus("pdus");
    let mut out = Vec::new();
    for (i, piece) in recorded.iter().enumerate() {
        let (kind, node) = match piece[0] {
            1 => (PduKind::Data, 2),
            2 => (PduKind::Ack, 2 + i as u16 % 2),
            3 => (PduKind::Nak, 3),
            4 => (PduKind::Control, 3),
            _ => continue,
        };
        if piece[5..13] == 1u64.to_le_bytes() || kind == PduKind::Control {
            out.push(Saying { node, kind, body: piece[13..].to_vec() });
        }
    }
    out
}

/// An order the control plane may give now.
fn order(rng: &mut Rng, plane: &Dataplane<World>, epoch: &mut u64) -> Command {
    match rng.below(10) {
        8 => Command::Alone { epoch: *epoch, on: rng.one_in(2) },
        0 => Command::Follow { epoch: *epoch, primary: 2, cut: plane.log().boundary() },
        1 => Command::Lead { epoch: *epoch, serve: !epoch.is_multiple_of(5) },
        2 => Command::Promise { epoch: *epoch },
        3 => Command::Fence { epoch: *epoch },
        4 => Command::Drain,
        5 => Command::Undrain,
        6 => Command::Announce,
        7 => {
            *epoch += 1;
            Command::Promise { epoch: *epoch }
        }
        _ => Command::ClientLink { up: rng.one_in(2) },
    }
}

fn check(plane: &Dataplane<World>, now_ns: u64) {
    let view = plane.snapshot(now_ns);
    assert!(view.log_start <= view.log_end && view.log_end - view.log_start <= view.log_capacity);
    assert!(view.committed <= view.log_end, "committed what is not held");
    assert!(view.applied <= view.log_end, "applied what is not held");
    assert!(!view.gate_open || matches!(view.role, DataRole::Lead(_)), "only a primary speaks");
}

/// One short life: a role, then frames and orders in any order.
fn life(rng: &mut Rng, seeds: &[Vec<Vec<u8>>; 3], sayings: &[Saying]) -> (u64, u64) {
    let mut world = World { now_ns: 100 * MS, ..World::default() };
    let log = CaptureLog::new(LOG_LEN).expect("a little memory");
    let mut plane = Dataplane::new(config(), log, channel(1));
    let mut others = Others([channel(2), channel(3)]);
    others.introduce(&mut plane, &mut world);
    let mut epoch = 1;
    plane.command(world.now_ns, Command::Service { up: true }, &mut world);
    let first = match rng.one_in(2) {
        true => Command::Follow { epoch, primary: 2, cut: 0 },
        false => Command::Lead { epoch, serve: true },
    };
    plane.command(world.now_ns, first, &mut world);
    // In order and whole, so that there are connections to disturb.
    for saying in sayings {
        world.waiting[PortRole::Replica as usize].push_back(others.seal(saying, 1));
    }
    for _ in 0..rng.below(60) {
        let port = rng.below(3);
        for _ in 0..rng.below(4) {
            let frame = match port == PortRole::Replica as usize {
                true => others.frame(rng, sayings, epoch),
                false => mutated(rng, &seeds[port]),
            };
            world.waiting[port].push_back(frame);
        }
        world.stubborn = rng.one_in(10);
        world.dying = rng.one_in(40);
        let answered = world.answered;
        plane.poll(world.now_ns, &mut world);
        check(&plane, world.now_ns);
        let led = plane.counters().gate_released;
        assert!(led > 0 || world.answered == answered, "a mute node answered");
        while plane.poll_event().is_some() {}
        world.said.clear();
        world.now_ns += *rng.pick(&[1000, 100_000, MS, 20 * MS, 300 * MS]);
        if rng.one_in(8) {
            let order = order(rng, &plane, &mut epoch);
            plane.command(world.now_ns, order, &mut world);
        }
    }
    (plane.counters().captured_frames, plane.counters().adoptions)
}

#[test]
fn data_path() {
    // By the number of the port.
    let made = ([segments(true), Vec::new(), segments(false)], sayings());
    let real = ([corpus("client.frames"), Vec::new(), corpus("host.frames")], recorded_sayings());
    assert_eq!([PortRole::Client as usize, PortRole::Host as usize], [0, 2]);
    let (mut captured, mut adopted) = (0, 0);
    fuzz("dataplane", 70, |rng| {
        let (seeds, sayings) = if rng.one_in(2) { &made } else { &real };
        let (frames, flows) = life(rng, seeds, sayings);
        captured += frames;
        adopted += flows;
    });
    println!("{captured} frames were captured, {adopted} connections adopted");
}
