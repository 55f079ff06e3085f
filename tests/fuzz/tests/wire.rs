//! PDUs, control messages and records: what other nodes send.

use understudy_fuzz::{Rng, corpus, corpus_file, fuzz, is_inside, mutated};
use understudy_wire::audit::{AUDIT_LEN_MAX, AuditRecord, NOTES_MAX, Note};
use understudy_wire::control::{
    Ballot, CONTROL_LEN_MAX, Candidacy, Control, EpochStart, HISTORY_MAX, Heard, Heartbeat, Reign,
    StepDown, StepDownReason, VOTERS_MAX,
};
use understudy_wire::pdu::{
    Ack, DataHeader, Nak, PDU_HEADER_LEN, PDU_OVERHEAD_LEN, PDU_TAG_LEN, POSITION_MAX, PduHeader,
    PduKind, Sealing, TARGET_ALL, in_frame,
};
use understudy_wire::record::{
    EpochRecord, RECORD_HEADER_LEN, RECORD_PAYLOAD_MAX, RecordHeader, RecordKind,
};
use understudy_wire::said::{Progress, SAID_LEN_MAX, SAID_MAX, SaidRecord};
use understudy_wire::tcp::FlowKey;

const CLUSTER: u64 = 0x7e57_c105_7e57;

fn controls() -> Vec<Control> {
    let mut full = Heartbeat { heir: Some(2), reign: Some(Reign::default()), ..Default::default() };
    full.heard.extend([Heard { node: 3, incarnation: 9, on_replica: true }; VOTERS_MAX]);
    let history = &mut full.reign.as_mut().expect("just set").history;
    history.extend([EpochStart { epoch: 4, start: 64 }; HISTORY_MAX]);
    let candidacy = Candidacy { epoch: 5, log_epoch: 4, position: 4096, ..Default::default() };
    let ballot = Ballot { epoch: 5, granted: true };
    let reason = StepDownReason::ClientLinkDown;
    vec![
        Control::Heartbeat(Heartbeat::default()),
        Control::Heartbeat(full),
        Control::PreVote(candidacy),
        Control::Vote(candidacy),
        Control::PreVoteReply(ballot),
        Control::VoteReply(ballot),
        Control::StepDown(StepDown { epoch: 5, reason, position: 1 << 40, to: Some(2) }),
    ]
}

fn encoded(control: &Control) -> Vec<u8> {
    let mut bytes = Vec::new();
    control.encode(&mut bytes);
    bytes
}

fn pdus() -> Vec<Vec<u8>> {
    let data = DataHeader { position: 64, end: 4096, committed: 64, log_start: 0, sent_at_ns: 7 };
    let ack = Ack { position: 4096, applied: 64, covered: 4096, echo_ns: 7 };
    let nak = Nak { position: 64, length: 1000 };
    let mut bodies = vec![
        (PduKind::Data, data.encode().to_vec()),
        (PduKind::Data, [&data.encode()[..], &[0x5a; 200]].concat()),
        (PduKind::Ack, ack.encode().to_vec()),
        (PduKind::Nak, nak.encode().to_vec()),
    ];
    bodies.extend(controls().iter().map(|control| (PduKind::Control, encoded(control))));
    bodies.extend(corpus("pdus").iter().map(|pdu| recorded(pdu)));
    let pdu = |(kind, body): (PduKind, Vec<u8>)| {
        let header =
            PduHeader { kind, node: 2, target: TARGET_ALL, cluster: CLUSTER, epoch: 4, stream: 0 };
        let sealing = Sealing { key: 1, session: 2, counter: 3 };
        [&header.encode(body.len(), &sealing)[..], &body, &[0; PDU_TAG_LEN]].concat()
    };
    bodies.into_iter().map(pdu).collect()
}

/// Kind and body of a recorded PDU.
fn recorded(pdu: &[u8]) -> (PduKind, Vec<u8>) {
    let kind = match pdu[0] {
        1 => PduKind::Data,
        2 => PduKind::Ack,
        3 => PduKind::Nak,
        4 => PduKind::Control,
        5 => PduKind::Frame,
        other => panic!("a recorded PDU of kind {other}"),
    };
    (kind, pdu[13..].to_vec())
}

fn check_body(kind: PduKind, body: &[u8]) {
    match kind {
        PduKind::Data => {
            if let Ok((header, log_bytes)) = DataHeader::decode(body) {
                assert!(is_inside(log_bytes, body));
                assert!(header.position + log_bytes.len() as u64 <= header.end);
                assert!(header.end <= POSITION_MAX);
                assert_eq!([&header.encode()[..], log_bytes].concat(), body);
            }
        }
        PduKind::Ack => {
            if let Ok(ack) = Ack::decode(body) {
                assert_eq!(ack.encode(), body);
            }
        }
        PduKind::Nak => {
            if let Ok(nak) = Nak::decode(body) {
                assert!(nak.position + nak.length <= 2 * POSITION_MAX);
                assert_eq!(nak.encode(), body);
            }
        }
        PduKind::Control => drop(check_control(body)),
        // A client's frame: as it is.
        PduKind::Frame | PduKind::Challenge | PduKind::Proof => {}
    }
}

/// Whether it is a control message; if so, it has this one encoding.
fn check_control(bytes: &[u8]) -> bool {
    let Ok(message) = Control::decode(bytes) else { return false };
    assert!(bytes.len() <= CONTROL_LEN_MAX);
    assert_eq!(encoded(&message), bytes, "{message:?} has two encodings");
    true
}

#[test]
fn pdu() {
    let seeds = pdus();
    let mut understood = 0;
    fuzz("pdu", 1, |rng| {
        let bytes = mutated(rng, &seeds);
        // Either through the header, or past it: a body is not trusted more than a header.
        if let Ok((header, sealing, len)) = PduHeader::decode(&bytes, CLUSTER) {
            understood += 1;
            assert!(PDU_OVERHEAD_LEN + len <= bytes.len() && header.node != 0);
            assert_eq!(header.encode(len, &sealing)[..], bytes[..PDU_HEADER_LEN]);
            check_body(header.kind, &bytes[PDU_HEADER_LEN..PDU_HEADER_LEN + len]);
        }
        let kinds = [PduKind::Data, PduKind::Ack, PduKind::Nak, PduKind::Control];
        check_body(*rng.pick(&kinds), bytes.get(PDU_HEADER_LEN..).unwrap_or_default());
        assert!(in_frame(&bytes).is_none_or(|pdu| is_inside(pdu, &bytes)));
    });
    println!("{understood} PDUs were understood");
}

#[test]
fn control() {
    let mut seeds: Vec<_> = controls().iter().map(encoded).collect();
    let real = corpus("control");
    assert!(real.iter().all(|message| check_control(message)), "a recorded message is refused");
    seeds.extend(real);
    let mut understood = 0;
    fuzz("control", 1, |rng| understood += u64::from(check_control(&mutated(rng, &seeds))));
    println!("{understood} control messages were understood");
}

fn record(rng: &mut Rng) -> Vec<u8> {
    let kinds = [RecordKind::ClientFrame, RecordKind::SynAck, RecordKind::Said, RecordKind::Epoch];
    let kind = *rng.pick(&kinds);
    let len = rng.below(RECORD_PAYLOAD_MAX * 2) as u32;
    RecordHeader { len, kind, timestamp_ns: rng.word() }.encode().to_vec()
}

#[test]
fn records() {
    let log = std::fs::read(corpus_file("log")).expect("the recorded log");
    let mut real = Vec::new();
    for record in understudy_wire::record::records(&log) {
        let whole = &log[record.at..record.next];
        real.push(whole.to_vec());
        // And what lies behind its header, for the decoder of that.
        real.push(whole[RECORD_HEADER_LEN..].to_vec());
    }
    assert!(real.len() > 50, "the recorded log begins with records");
    fuzz("record", 1, |rng| {
        let made = [record(rng), record(rng)];
        let bytes = if rng.one_in(2) { mutated(rng, &made) } else { mutated(rng, &real) };
        if let Ok(header) = RecordHeader::decode(&bytes) {
            assert!(header.len as usize <= RECORD_PAYLOAD_MAX);
            assert!(header.stored_len() >= RECORD_HEADER_LEN + header.len as usize);
            assert_eq!(header.encode(), bytes[..RECORD_HEADER_LEN]);
        }
        if let Some(epoch) = EpochRecord::decode(&bytes) {
            assert_eq!(EpochRecord::decode(&epoch.encode()), Some(epoch));
        }
    });
}

/// Notes of both families, none to as many as fit.
fn audits() -> Vec<Vec<u8>> {
    let note = |n: usize| {
        let [client, server] = match n % 3 {
            0 => ["fd77::1", "fd77::100"],
            _ => ["10.77.0.1", "10.77.0.100"],
        };
        let end = |text: &str, port| (text.parse().expect("an address"), port);
        let key = FlowKey { client: end(client, 40000 + n as u16), server: end(server, 6379) };
        Note { key, to: n as u32 * 4096, len: n as u64 * 4096, digest: (n as u64) << 40 }
    };
    let record = |n: usize| AuditRecord { seed: [n as u8; 16], notes: (0..n).map(note).collect() };
    [0, 1, 2, 7, NOTES_MAX].map(|n| record(n).encode().to_vec()).into()
}

#[test]
fn audit() {
    let seeds = audits();
    let mut understood = 0;
    fuzz("audit", 1, |rng| {
        let bytes = mutated(rng, &seeds);
        if let Some(record) = AuditRecord::decode(&bytes) {
            understood += 1;
            assert!(bytes.len() <= AUDIT_LEN_MAX);
            assert_eq!(record.encode()[..], bytes, "{record:?} has two encodings");
        }
    });
    println!("{understood} audit records were understood");
}

#[test]
fn said() {
    let progress = |n: usize| {
        let [client, server] = match n % 3 {
            0 => ["fd77::1", "fd77::100"],
            _ => ["10.77.0.1", "10.77.0.100"],
        };
        let end = |text: &str, port| (text.parse().expect("an address"), port);
        let key = FlowKey { client: end(client, 40000 + n as u16), server: end(server, 6379) };
        Progress { key, to: n as u32 * 4096 }
    };
    let record = |n: usize| SaidRecord { progress: (0..n).map(progress).collect() };
    let seeds = [0, 1, 2, 7, SAID_MAX].map(|n| record(n).encode().to_vec());
    let mut understood = 0;
    fuzz("said", 1, |rng| {
        let bytes = mutated(rng, &seeds);
        if let Some(record) = SaidRecord::decode(&bytes) {
            understood += 1;
            assert!(bytes.len() <= SAID_LEN_MAX);
            assert_eq!(record.encode()[..], bytes, "{record:?} has two encodings");
        }
    });
    println!("{understood} progress records were understood");
}
