//! Compares what an application says now with what a recorded log says that the primary's said.
//!
//! Unlike a clone's audit it knows all notes beforehand: each is compared where it falls due, none comes
//! too late. Offline: it allocates as the recording is long.

use std::collections::{HashMap, VecDeque};

use understudy_wire::Position;
use understudy_wire::audit::AuditRecord;
use understudy_wire::record::{RecordHeader, RecordKind};
use understudy_wire::tcp::{ACK, FIN, FlowKey, RST, SYN, Segment, before, later};

use super::digest::{Key, Running, difference};
use super::entry::Claim;
use crate::command::{Handshake, Resume};
use crate::flows::FlowSeed;

/// How an application left the primary's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It said other bytes.
    Other,
    /// It said nothing more, though nothing that its client had not acknowledged was in flight.
    Less,
}

/// The first difference on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// How.
    pub manner: Manner,
    /// Sequence numbers: everything before was the same, or could not be compared.
    pub from: u32,
    /// The first difference is before this.
    pub to: u32,
    /// Bytes that the application had said before `from`, or since the checkpoint that it came with.
    pub offset: u64,
    /// Where the log has the note that it was compared with.
    pub at: Position,
    /// When the primary wrote that, ns since 1970: its application had spoken up to 50 ms before, or
    /// earlier, where notes had to wait.
    pub at_ns: u64,
}

/// A connection of the recording.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Its ends.
    pub key: FlowKey,
    /// When the service answered the handshake, ns since 1970; 0: before the checkpoint with which the
    /// application came.
    pub opened_ns: u64,
    /// Bytes of the client that were applied.
    pub heard_bytes: u64,
    /// Bytes that the application said.
    pub said_bytes: u64,
    /// Notes that agree.
    pub same: u64,
    /// Notes that only say where the primary's digest began: what follows them is compared.
    pub aligned: u64,
    /// Notes that could not be compared: output was lost before it was read, or the log ended first.
    pub uncompared: u64,
    /// The application's kernel reset it.
    pub reset: bool,
    /// Where it first differs.
    pub difference: Option<Difference>,
}

/// A note of the recording.
#[derive(Clone, Copy)]
struct Expected {
    claim: Claim,
    at: Position,
    at_ns: u64,
}

struct Flow {
    told: Connection,
    first: u32,
    /// The application came with it.
    is_carried: bool,
    /// From its SYN-ACK on.
    output: Option<Running>,
    closed: bool,
    /// What its kernel sent reaches to here, compared or not.
    spoken: u32,
    /// Compared up to here.
    covered: u32,
    acked: u32,
    client_next: Option<u32>,
    expected: VecDeque<Expected>,
}

/// All connections of a recording.
#[derive(Default)]
pub struct Comparison {
    key: Option<Box<Key>>,
    flows: Vec<Flow>,
    /// By the position of the SYN-ACK.
    opens: HashMap<Position, usize>,
    /// The connection that these ends have: first in the recording, then in what is applied.
    newest: HashMap<FlowKey, usize>,
    current: HashMap<FlowKey, usize>,
    notes_elsewhere: u64,
    differs: bool,
    /// What comes before is in the application already, but for handshakes of these ends.
    from: Position,
    pending: Vec<Handshake>,
}

impl Comparison {
    /// Of an application that goes on from a checkpoint.
    pub fn resumed(resume: &Resume) -> Comparison {
        let mut comparison = Comparison {
            from: resume.barrier.position,
            pending: resume.pending.clone(),
            ..Comparison::default()
        };
        for (nth, seed) in resume.flows.iter().enumerate() {
            comparison.newest.insert(seed.key, nth);
            comparison.current.insert(seed.key, nth);
            comparison.flows.push(Flow::carried(seed));
        }
        comparison
    }

    /// The next record of the recording, before any of it is applied.
    pub fn expect(&mut self, at: Position, header: &RecordHeader, payload: &[u8]) {
        match header.kind {
            RecordKind::SynAck => self.expect_connection(at, header.timestamp_ns, payload),
            RecordKind::Audit => self.expect_notes(at, header.timestamp_ns, payload),
            _ => {}
        }
    }

    fn expect_connection(&mut self, at: Position, at_ns: u64, frame: &[u8]) {
        let Some(segment) = Segment::parse(frame) else { return };
        let (key, first) = (segment.key_from_server(), segment.seq_end());
        let is_pending = |h: &Handshake| h.key == key && h.from <= at;
        if at < self.from && !self.pending.iter().any(is_pending) {
            return;
        }
        if let Some(&known) = self.newest.get(&key)
            && self.flows[known].first == first
        {
            return;
        }
        self.newest.insert(key, self.flows.len());
        self.opens.insert(at, self.flows.len());
        self.flows.push(Flow::new(key, first, at_ns));
    }

    fn expect_notes(&mut self, at: Position, at_ns: u64, payload: &[u8]) {
        let Some(record) = AuditRecord::decode(payload) else { return };
        let key = self.key.get_or_insert_with(|| {
            let key = Box::new(Key::new(record.seed));
            self.flows.iter_mut().for_each(|flow| flow.begin_carried(&key));
            key
        });
        let is_ours = key.seed() == record.seed;
        for note in &record.notes {
            match self.newest.get(&note.key).filter(|_| is_ours) {
                Some(&flow) => {
                    self.flows[flow].expect(Expected { claim: Claim::from(note), at, at_ns });
                }
                None => self.notes_elsewhere += u64::from(at >= self.from),
            }
        }
    }

    /// This record has been given to the application.
    pub fn applied(&mut self, at: Position, header: &RecordHeader, payload: &[u8]) {
        let Some(segment) = Segment::parse(payload) else { return };
        match header.kind {
            RecordKind::SynAck => {
                if let Some(&flow) = self.opens.get(&at) {
                    let flow_of = &mut self.flows[flow];
                    flow_of.output = self.key.as_ref().map(|key| Running::new(key, flow_of.first));
                    self.current.insert(flow_of.told.key, flow);
                }
            }
            RecordKind::ClientFrame if !segment.has(SYN) => {
                if let Some(&flow) = self.current.get(&segment.key_from_client()) {
                    self.flows[flow].heard(&segment);
                }
            }
            _ => {}
        }
    }

    /// The application's kernel sent this segment, which is whole in `frame`. True: some of it is new. What
    /// nobody acknowledges, a kernel sends again for a quarter of an hour.
    pub fn said(&mut self, segment: &Segment, frame: &[u8]) -> bool {
        let Some(&flow) = self.current.get(&segment.key_from_server()) else { return false };
        let flow = &mut self.flows[flow];
        if segment.has(RST) {
            return !std::mem::replace(&mut flow.told.reset, true);
        }
        if segment.has(SYN) {
            return false;
        }
        if let Some(key) = self.key.as_deref() {
            flow.said(key, segment.seq, segment.payload(frame), segment.has(FIN));
            self.differs |= flow.told.difference.is_some();
        }
        let is_new = before(flow.spoken, segment.seq_end());
        flow.spoken = later(flow.spoken, segment.seq_end());
        is_new
    }

    /// A difference was found.
    pub fn differs(&self) -> bool {
        self.differs
    }

    /// Nothing more is expected of what is in the recording.
    pub fn is_settled(&self) -> bool {
        self.flows.iter().all(|flow| flow.expected.is_empty())
    }

    /// Nothing more will be said. What is missing is a difference, unless the application may be
    /// waiting for an acknowledgement that the recording does not reach.
    pub fn finish(&mut self) {
        self.flows.iter_mut().for_each(Flow::finish);
    }

    /// Every connection, in the order of the recording.
    pub fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.flows.iter().map(|flow| &flow.told)
    }

    /// Notes of connections whose beginning is not in the recording, or of another digest.
    pub fn notes_elsewhere(&self) -> u64 {
        self.notes_elsewhere
    }
}

impl Flow {
    fn new(key: FlowKey, first: u32, opened_ns: u64) -> Flow {
        let told = Connection {
            key,
            opened_ns,
            heard_bytes: 0,
            said_bytes: 0,
            same: 0,
            aligned: 0,
            uncompared: 0,
            reset: false,
            difference: None,
        };
        Flow {
            told,
            first,
            is_carried: false,
            output: None,
            closed: false,
            spoken: first,
            covered: first,
            acked: first,
            client_next: None,
            expected: VecDeque::new(),
        }
    }

    fn carried(seed: &FlowSeed) -> Flow {
        let flow = Flow::new(seed.key, seed.snd_nxt, 0);
        Flow {
            is_carried: true,
            closed: seed.server_closed,
            acked: seed.client_acked,
            client_next: Some(seed.rcv_nxt),
            ..flow
        }
    }

    /// Its output begins where the checkpoint left it, once it is known how it is digested.
    fn begin_carried(&mut self, key: &Key) {
        if self.is_carried {
            self.output = Some(Running::new(key, self.first));
        }
    }

    /// What a carried connection had said before, nobody says again; but a note of just then tells the
    /// primary's digest there.
    fn expect(&mut self, expected: Expected) {
        let claim = expected.claim;
        match &mut self.output {
            Some(_) if self.is_carried && before(claim.to, self.first) => {}
            Some(output) if self.is_carried && claim.to == self.first => {
                output.shift(
                    claim.len.wrapping_sub(output.len()),
                    difference(claim.digest, output.sum()),
                );
            }
            _ => self.expected.push_back(expected),
        }
    }

    fn heard(&mut self, segment: &Segment) {
        let next = self.client_next.unwrap_or(segment.seq);
        let end = segment.seq.wrapping_add(segment.payload_len);
        if before(next, end) {
            self.told.heard_bytes += u64::from(end.wrapping_sub(next));
        }
        self.client_next = Some(later(next, end));
        if segment.has(ACK) {
            self.acked = later(self.acked, segment.ack);
        }
    }

    fn said(&mut self, key: &Key, seq: u32, bytes: &[u8], fin: bool) {
        let Some(mut output) = self.output else { return };
        if before(output.next(), seq) {
            // What was between was lost before it was read: the next note tells the digest there.
            output = Running::new(key, seq);
        }
        let known = output.next().wrapping_sub(seq) as usize;
        let mut fresh = bytes.get(known..).unwrap_or_default();
        let end = seq.wrapping_add(bytes.len() as u32);
        while !fresh.is_empty() {
            let (part, rest) = fresh.split_at(fresh.len().min(self.stop(&output)));
            output.take(key, part);
            self.told.said_bytes += part.len() as u64;
            self.judge(&mut output);
            fresh = rest;
        }
        if fin && !self.closed && output.next() == end {
            self.closed = true;
            output.take_fin(key);
            self.judge(&mut output);
        }
        self.output = Some(output);
    }

    /// Bytes until a note falls due.
    fn stop(&self, output: &Running) -> usize {
        let ahead = self.expected.iter().map(|e| e.claim.to.wrapping_sub(output.next()));
        ahead.map(|n| n as usize).find(|&n| n > 0).unwrap_or(usize::MAX)
    }

    fn judge(&mut self, output: &mut Running) {
        while let Some(due) = self.expected.front().copied()
            && !before(output.next(), due.claim.to)
        {
            self.expected.pop_front();
            let claim = due.claim;
            if claim.to != output.next() {
                self.told.uncompared += 1;
            } else if claim.len != output.len() {
                self.told.aligned += 1;
                let by = difference(claim.digest, output.sum());
                output.shift(claim.len.wrapping_sub(output.len()), by);
                self.covered = claim.to;
            } else if claim.digest == output.sum() {
                self.told.same += 1;
                self.covered = claim.to;
            } else {
                self.differs(Manner::Other, self.covered, claim.to, &due);
            }
        }
    }

    /// What comes after the first difference says nothing new.
    fn differs(&mut self, manner: Manner, from: u32, to: u32, due: &Expected) {
        let offset = u64::from(from.wrapping_sub(self.first));
        let (at, at_ns) = (due.at, due.at_ns);
        self.told.difference = Some(Difference { manner, from, to, offset, at, at_ns });
        self.expected.clear();
    }

    fn finish(&mut self) {
        let (Some(due), Some(last)) = (self.expected.front().copied(), self.expected.back()) else {
            return;
        };
        let to = last.claim.to;
        match self.output {
            Some(output) if !before(self.acked, output.next()) => {
                self.differs(Manner::Less, output.next(), to, &due);
            }
            _ => self.told.uncompared += self.expected.len() as u64,
        }
        self.expected.clear();
    }
}

#[cfg(test)]
mod tests {
    use understudy_wire::frame::{ETHERTYPE_IPV4, Ethernet};
    use understudy_wire::tcp::build_segment;

    use super::super::Auditor;
    use super::*;
    use crate::MS;
    use crate::command::Barrier;
    use crate::counters::Counters;

    const ISN: u32 = 0xffff_f000;

    /// A recording in the making: what a primary's application says is noted as it notes.
    struct Recording {
        auditor: Auditor,
        counters: Counters,
        records: Vec<(Position, RecordHeader, Vec<u8>)>,
        now_ns: u64,
    }

    fn frame(port: u16, seq: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let eth = Ethernet { dst: [2; 6], src: [4; 6], ethertype: ETHERTYPE_IPV4 };
        let (service, client) = (([10, 0, 0, 100].into(), 6379), ([10, 0, 0, 1].into(), port));
        build_segment(&eth, service, client, (seq, 1, flags, 100), &[], payload)
    }

    /// What the client acknowledges.
    fn ack(port: u16, ack: u32) -> Vec<u8> {
        let eth = Ethernet { dst: [4; 6], src: [2; 6], ethertype: ETHERTYPE_IPV4 };
        let (service, client) = (([10, 0, 0, 100].into(), 6379), ([10, 0, 0, 1].into(), port));
        build_segment(&eth, client, service, (1, ack, ACK, 100), &[], b"abc")
    }

    impl Recording {
        fn new() -> Recording {
            let mut auditor = Auditor::new([3; 16], 16);
            auditor.serve(0, 0);
            Recording {
                auditor,
                counters: Counters::default(),
                records: Vec::new(),
                now_ns: 1_000 * MS,
            }
        }

        fn push(&mut self, kind: RecordKind, payload: Vec<u8>) {
            let header =
                RecordHeader { len: payload.len() as u32, kind, timestamp_ns: self.now_ns };
            let at = self.records.last().map_or(0, |(at, h, _)| at + h.stored_len() as u64);
            self.records.push((at, header, payload));
        }

        fn open(&mut self, port: u16, isn: u32) {
            let synack = frame(port, isn, SYN | ACK, &[]);
            let key = Segment::parse(&synack).unwrap().key_from_server();
            self.auditor.open(self.now_ns, &key, isn.wrapping_add(1), &mut self.counters);
            self.push(RecordKind::SynAck, synack);
        }

        fn says(&mut self, frame: &[u8]) {
            let segment = Segment::parse(frame).unwrap();
            self.auditor.said(self.now_ns, &segment, frame, &mut self.counters);
        }

        fn notes(&mut self) {
            self.now_ns += 1_000 * MS;
            while let Some(record) = self.auditor.note(self.now_ns, 0, &mut self.counters) {
                self.push(RecordKind::Audit, record.encode().to_vec());
            }
        }

        /// All of it is applied, then this is said.
        fn replay(&self, said: &[Vec<u8>]) -> Comparison {
            let mut comparison = Comparison::default();
            self.records.iter().for_each(|(at, h, p)| comparison.expect(*at, h, p));
            self.records.iter().for_each(|(at, h, p)| comparison.applied(*at, h, p));
            for frame in said {
                comparison.said(&Segment::parse(frame).unwrap(), frame);
            }
            comparison
        }
    }

    fn only(comparison: &Comparison) -> Connection {
        *comparison.connections().next().unwrap()
    }

    /// 9000 bytes across the end of the numbers, in two notes and more, and a close.
    fn recording() -> (Recording, Vec<u8>) {
        let bytes: Vec<u8> = (0..9000u32).map(|i| (i * i) as u8).collect();
        let mut recording = Recording::new();
        recording.open(7, ISN);
        for (i, part) in bytes.chunks(1000).enumerate() {
            recording.says(&frame(7, ISN.wrapping_add(1 + 1000 * i as u32), ACK, part));
            recording.notes();
        }
        recording.says(&frame(7, ISN.wrapping_add(9001), ACK | FIN, &[]));
        recording.notes();
        recording.push(RecordKind::ClientFrame, ack(7, ISN.wrapping_add(1)));
        (recording, bytes)
    }

    fn segments(bytes: &[u8], len: usize) -> Vec<Vec<u8>> {
        let seq = |i: usize| ISN.wrapping_add(1 + (i * len) as u32);
        bytes.chunks(len).enumerate().map(|(i, part)| frame(7, seq(i), ACK, part)).collect()
    }

    #[test]
    fn the_same_bytes_are_the_same_however_they_are_cut() {
        let (recording, bytes) = recording();
        for len in [1, 700, 1448, 9000] {
            let mut said = segments(&bytes, len);
            let repeated = said[said.len() / 2].clone();
            said.push(repeated);
            said.push(frame(7, ISN.wrapping_add(9001), ACK | FIN, &[]));
            let mut comparison = recording.replay(&said);
            assert!(comparison.is_settled(), "{len}");
            comparison.finish();
            let c = only(&comparison);
            assert_eq!((c.difference, c.uncompared, c.aligned), (None, 0, 0));
            assert!(c.same >= 10, "{c:?}");
            assert_eq!((c.said_bytes, c.heard_bytes), (9000, 3));
        }
    }

    #[test]
    fn one_other_byte_is_found_between_its_notes() {
        let (recording, bytes) = recording();
        for at in [0, 1, 4095, 5000, 8999] {
            let mut other = bytes.clone();
            other[at] ^= 1;
            let comparison = recording.replay(&segments(&other, 1448));
            let found = only(&comparison).difference.expect("a difference");
            assert_eq!(found.manner, Manner::Other);
            let first = ISN.wrapping_add(1);
            let (from, to) = (found.from.wrapping_sub(first), found.to.wrapping_sub(first));
            assert!((from..to).contains(&(at as u32)) && to - from <= 1000, "{at}: {found:?}");
            assert_eq!(found.offset, u64::from(from));
            let noted = recording.records.iter().find(|(at, ..)| *at == found.at).unwrap();
            assert_eq!((noted.1.kind, noted.1.timestamp_ns), (RecordKind::Audit, found.at_ns));
        }
    }

    #[test]
    fn what_is_sent_again_is_nothing_new() {
        let (recording, bytes) = recording();
        let mut comparison = recording.replay(&[]);
        let mut is_new = |frame: &[u8]| comparison.said(&Segment::parse(frame).unwrap(), frame);
        let said = segments(&bytes, 3000);
        assert!(said.iter().all(|frame| is_new(frame)));
        assert!(!is_new(&said[1]) && !is_new(&frame(7, ISN.wrapping_add(9001), ACK, &[])));
        let fin = frame(7, ISN.wrapping_add(9001), ACK | FIN, &[]);
        assert!(is_new(&fin) && !is_new(&fin) && !is_new(&said[2]));
        let reset = frame(7, ISN.wrapping_add(9002), RST, &[]);
        assert!(is_new(&reset) && !is_new(&reset));
        // Of no connection that was applied.
        assert!(!is_new(&frame(8, 1, ACK, b"x")));
    }

    #[test]
    fn silence_is_a_difference_unless_an_acknowledgement_may_be_missing() {
        let (recording, bytes) = recording();
        let mut silent = recording.replay(&[]);
        assert!(!silent.is_settled());
        silent.finish();
        let found = only(&silent).difference.unwrap();
        assert_eq!((found.manner, found.from), (Manner::Less, ISN.wrapping_add(1)));
        assert_eq!(found.to, ISN.wrapping_add(9002));
        // It has said something that nobody acknowledges.
        let mut stopped = recording.replay(&segments(&bytes[..4000], 1000));
        stopped.finish();
        let c = only(&stopped);
        assert_eq!(c.difference, None);
        assert!(c.same >= 4 && c.uncompared >= 5, "{c:?}");
    }

    #[test]
    fn after_a_gap_the_digest_is_found_again() {
        let (recording, bytes) = recording();
        let mut said = segments(&bytes, 1000);
        said.remove(2);
        let c = only(&recording.replay(&said));
        assert_eq!((c.difference, c.uncompared, c.aligned), (None, 1, 1));
        let mut other = bytes.clone();
        other[8500] ^= 1;
        let mut said = segments(&other, 1000);
        said.remove(2);
        assert!(only(&recording.replay(&said)).difference.is_some());
    }

    /// A checkpoint after 3000 of the 9000 bytes, taken before the record at `position` was applied.
    fn resumed(recording: &Recording, position: Position, pending: Vec<Handshake>) -> Comparison {
        let key = Segment::parse(&ack(7, 0)).unwrap().key_from_client();
        let seed = FlowSeed {
            key,
            rcv_nxt: 1,
            rcv_edge: 60_000,
            snd_nxt: ISN.wrapping_add(3001),
            client_acked: ISN.wrapping_add(2001),
            client_edge: ISN.wrapping_add(60_000),
            scales: None,
            tsval: None,
            client_closed: false,
            server_closed: false,
        };
        let history = Default::default();
        let handshakes = Vec::new();
        let barrier = Barrier { position, floor: position, at_ns: 0, history, handshakes };
        let (flows, owed) = (vec![seed], Vec::new());
        let mut comparison = Comparison::resumed(&Resume { barrier, flows, pending, owed });
        recording.records.iter().for_each(|(at, h, p)| comparison.expect(*at, h, p));
        let after = recording.records.iter().filter(|(at, ..)| *at >= position);
        after.for_each(|(at, h, p)| comparison.applied(*at, h, p));
        comparison
    }

    #[test]
    fn a_connection_of_a_checkpoint_is_compared_from_there_on() {
        let (recording, bytes) = recording();
        // After the note that covers the first 3000 bytes: all that follows is compared. Before it: the
        // same, as the note of that moment is in the recording. Without it, the next note is the beginning.
        let noted: Vec<_> = recording.records.iter().map(|(at, ..)| *at).collect();
        for (position, at_first) in [(noted[4], true), (noted[3], true), (noted[3], false)] {
            let mut recording =
                Recording { records: recording.records.clone(), ..Recording::new() };
            if !at_first {
                recording.records.remove(3);
            }
            let say = |comparison: &mut Comparison, bytes: &[u8]| {
                for frame in &segments(bytes, 1000)[2..] {
                    comparison.said(&Segment::parse(frame).unwrap(), frame);
                }
                let fin = frame(7, ISN.wrapping_add(9001), ACK | FIN, &[]);
                comparison.said(&Segment::parse(&fin).unwrap(), &fin);
                assert!(comparison.is_settled());
                comparison.finish();
            };
            let mut comparison = resumed(&recording, position, Vec::new());
            say(&mut comparison, &bytes);
            let c = only(&comparison);
            assert_eq!((c.difference, c.uncompared, c.opened_ns), (None, 0, 0));
            assert_eq!((c.said_bytes, c.aligned), (6000, u64::from(!at_first)));
            let mut other = bytes.clone();
            other[3500] ^= 1;
            let mut comparison = resumed(&recording, position, Vec::new());
            say(&mut comparison, &other);
            let found = only(&comparison).difference;
            assert_eq!(found.is_some(), at_first, "{found:?}");
            if let Some(found) = found {
                assert_eq!((found.from, found.offset), (ISN.wrapping_add(3001), 0));
            }
            other[4500] ^= 1;
            let mut comparison = resumed(&recording, position, Vec::new());
            say(&mut comparison, &other);
            assert!(only(&comparison).difference.is_some());
        }
    }

    #[test]
    fn what_ended_before_a_checkpoint_is_missed_by_nobody() {
        let (mut recording, _) = recording();
        recording.open(8, 500);
        recording.says(&frame(8, 501, ACK, b"gone"));
        let barrier =
            recording.records.last().map(|(at, h, _)| at + h.stored_len() as u64).unwrap();
        recording.notes();
        let key = Segment::parse(&ack(8, 0)).unwrap().key_from_client();
        let other = Handshake { key, from: 0 };
        for (pending, connections) in [(vec![], 1), (vec![other], 2)] {
            let mut comparison = resumed(&recording, barrier, pending);
            comparison.finish();
            assert_eq!(comparison.connections().count(), connections);
            assert!(
                comparison.connections().all(|c| c.key.client.1 == 7 || c.difference.is_none())
            );
            assert_eq!(comparison.notes_elsewhere(), u64::from(connections == 1));
        }
    }

    #[test]
    fn the_next_connection_of_the_same_ends_is_another_one() {
        let mut recording = Recording::new();
        for isn in [100, 5_000_000] {
            recording.open(7, isn);
            recording.says(&frame(7, isn + 1, ACK, b"hello"));
            recording.notes();
        }
        let mut comparison = Comparison::default();
        recording.records.iter().for_each(|(at, h, p)| comparison.expect(*at, h, p));
        for (at, header, payload) in &recording.records {
            comparison.applied(*at, header, payload);
            if header.kind == RecordKind::SynAck {
                let isn = Segment::parse(payload).unwrap().seq;
                let said = frame(7, isn + 1, ACK, if isn == 100 { b"hello" } else { b"hallo" });
                comparison.said(&Segment::parse(&said).unwrap(), &said);
            }
        }
        let all: Vec<_> = comparison.connections().collect();
        assert_eq!(all.len(), 2);
        assert!(all[0].difference.is_none() && all[0].same == 1);
        assert!(all[1].difference.is_some());
    }
}
