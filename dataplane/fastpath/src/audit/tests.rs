//! A primary's auditor and a clone's, with the log between them.

use proptest::prelude::*;
use understudy_wire::frame::{ETHERTYPE_IPV4, Ethernet};
use understudy_wire::tcp::{ACK, build_segment};

use super::*;

const OURS: Seed = [1; 16];
const THEIRS: Seed = [2; 16];

/// One connection's output, as a kernel sends it.
#[derive(Clone, Debug)]
struct Output {
    isn: u32,
    bytes: Vec<u8>,
    closes: bool,
}

impl Output {
    fn frame(&self, from: usize, to: usize, port: u16) -> Vec<u8> {
        let eth = Ethernet { dst: [2; 6], src: [4; 6], ethertype: ETHERTYPE_IPV4 };
        let (service, client) = (([10, 0, 0, 100].into(), 6379), ([10, 0, 0, 1].into(), port));
        let seq = self.isn.wrapping_add(1 + from as u32);
        let flags = if self.closes && to == self.bytes.len() { ACK | FIN } else { ACK };
        build_segment(&eth, service, client, (seq, 0, flags, 100), &[], &self.bytes[from..to])
    }
}

struct End {
    auditor: Auditor,
    counters: Counters,
    now_ns: u64,
    log_end: u64,
}

impl End {
    fn new(seed: Seed, flows: usize) -> End {
        End {
            auditor: Auditor::new(seed, flows),
            counters: Counters::default(),
            now_ns: 0,
            log_end: 0,
        }
    }

    fn primary(flows: usize) -> End {
        let mut end = End::new(OURS, flows);
        end.auditor.serve(0, 0);
        end
    }

    fn open(&mut self, output: &Output, port: u16) {
        let frame = output.frame(0, 0, port);
        let key = Segment::parse(&frame).unwrap().key_from_server();
        self.auditor.open(self.now_ns, &key, output.isn.wrapping_add(1), &mut self.counters);
    }

    fn says(&mut self, frame: &[u8]) {
        let segment = Segment::parse(frame).unwrap();
        self.auditor.said(self.now_ns, &segment, frame, &mut self.counters);
    }

    fn notes(&mut self, ms: u64) -> Vec<AuditRecord> {
        self.now_ns += ms * MS;
        self.log_end += ms * 10_000;
        let next = || self.auditor.note(self.now_ns, self.log_end, &mut self.counters);
        let records: Vec<AuditRecord> = std::iter::from_fn(next).collect();
        // As the log carries them.
        records.iter().map(|r| AuditRecord::decode(&r.encode()).unwrap()).collect()
    }

    fn hears(&mut self, records: &[AuditRecord]) {
        records.iter().for_each(|record| self.auditor.hear(record, &mut self.counters));
    }
}

/// How a kernel cuts the stream, what it repeats, and how far it comes between two looks at notes.
#[derive(Clone, Debug)]
struct Manner {
    lens: Vec<usize>,
    repeats: Vec<bool>,
    bursts: Vec<usize>,
}

fn manner() -> impl Strategy<Value = Manner> {
    let lens = proptest::collection::vec(prop_oneof![1usize..40, Just(1448), 1usize..1448], 1..8);
    let repeats = proptest::collection::vec(proptest::bool::weighted(0.2), 1..8);
    let bursts = proptest::collection::vec(0usize..12, 1..8);
    (lens, repeats, bursts).prop_map(|(lens, repeats, bursts)| Manner { lens, repeats, bursts })
}

fn output() -> impl Strategy<Value = Output> {
    let isn = prop_oneof![any::<u32>(), Just(u32::MAX - 30_000), Just(0xffff_fff0)];
    let len = prop_oneof![1usize..300, 1usize..20_000, 120_000usize..200_000];
    (isn, len, any::<u64>(), any::<bool>()).prop_map(|(isn, len, salt, closes)| {
        let byte = |i: u64| (salt ^ i.wrapping_mul(0x9e37_79b9_7f4a_7c15)) as u8 ^ (i >> 3) as u8;
        Output { isn, bytes: (0..len as u64).map(byte).collect(), closes }
    })
}

/// A kernel in the middle of its work.
struct Speaker<'a> {
    output: &'a Output,
    manner: &'a Manner,
    sent: usize,
    turn: usize,
}

impl<'a> Speaker<'a> {
    fn new(output: &'a Output, manner: &'a Manner, sent: usize) -> Speaker<'a> {
        Speaker { output, manner, sent, turn: 0 }
    }

    fn is_done(&self) -> bool {
        self.sent == self.output.bytes.len()
    }

    /// Some segments; false when there is nothing more.
    fn speak(&mut self, end: &mut End) -> bool {
        let m = self.manner;
        for _ in 0..m.bursts[self.turn % m.bursts.len()] {
            self.turn += 1;
            if self.is_done() {
                break;
            }
            let len = m.lens[self.turn % m.lens.len()];
            // A retransmission may hold new bytes, too.
            let back =
                if m.repeats[self.turn % m.repeats.len()] { self.sent.min(len / 2) } else { 0 };
            let to = (self.sent - back + len).clamp(self.sent, self.output.bytes.len());
            end.says(&self.output.frame(self.sent - back, to, 40000));
            self.sent = to;
        }
        self.turn += 1;
        !self.is_done()
    }
}

/// Both sides speak, each at its own pace; the log is read with delays. Gives the clone.
fn run(
    said: (&Output, &Manner, &mut End),
    repeated: (&Output, &Manner, End),
    lags: &[usize],
) -> End {
    let (output, manner, primary) = said;
    let (other, their_manner, mut clone) = repeated;
    let mut speaks = Speaker::new(output, manner, 0);
    let mut repeats = Speaker::new(other, their_manner, 0);
    let mut log = std::collections::VecDeque::new();
    let mut turn = 0;
    while !speaks.is_done() || !repeats.is_done() {
        speaks.speak(primary);
        repeats.speak(&mut clone);
        clone.now_ns += MS;
        log.extend(primary.notes(1 + turn as u64 % 9));
        while log.len() > lags[turn % lags.len()] {
            clone.hears(&[log.pop_front().unwrap()]);
        }
        turn += 1;
    }
    clone.hears(log.make_contiguous());
    for _ in 0..3 {
        clone.hears(&primary.notes(100));
    }
    clone
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the segments, the retransmissions, and who is first: no false alarm, and in the end
    /// everything has been compared.
    #[test]
    fn the_same_output_is_the_same(
        output in output(),
        ours in manner(),
        theirs in manner(),
        lags in proptest::collection::vec(0usize..5, 1..5),
    ) {
        prop_assume!(ours.bursts.iter().any(|n| *n > 0) && theirs.bursts.iter().any(|n| *n > 0));
        let (mut primary, mut clone) = (End::primary(4), End::new(THEIRS, 4));
        clone.hears(&primary.notes(0));
        primary.open(&output, 40000);
        clone.open(&output, 40000);
        let clone = run((&output, &ours, &mut primary), (&output, &theirs, clone), &lags);
        let c = &clone.counters;
        prop_assert_eq!((c.audit_diverged, c.audit_aligned, c.audit_gaps), (0, 0, 0));
        prop_assert!(c.audit_same > 0);
        let covered = clone.auditor.slots.iter().all(|(_, e)| !e.is_uncovered());
        prop_assert!(covered && primary.counters.audit_uncovered == 0, "{:?}", c);
    }

    /// One other byte is always found, and the range that is told holds it.
    #[test]
    fn one_other_byte_is_found(
        output in output(),
        at: proptest::sample::Index,
        flip in 1u8..,
        ours in manner(),
        theirs in manner(),
        lags in proptest::collection::vec(0usize..5, 1..5),
    ) {
        prop_assume!(ours.bursts.iter().any(|n| *n > 0) && theirs.bursts.iter().any(|n| *n > 0));
        let mut other = output.clone();
        let at = at.index(output.bytes.len());
        other.bytes[at] ^= flip;
        let (mut primary, mut clone) = (End::primary(4), End::new(THEIRS, 4));
        clone.hears(&primary.notes(0));
        primary.open(&output, 40000);
        clone.open(&output, 40000);
        let mut clone = run((&output, &ours, &mut primary), (&other, &theirs, clone), &lags);
        prop_assert_eq!(clone.counters.audit_diverged, 1);
        let found = clone.auditor.take_found().unwrap();
        let seq = output.isn.wrapping_add(1 + at as u32);
        let (behind, ahead) = (seq.wrapping_sub(found.from), found.to.wrapping_sub(seq));
        prop_assert!(behind < 1 << 30 && ahead <= 1 << 30 && ahead > 0, "{:?} holds {}", found, seq);
    }

    /// A clone that was restored in the middle of it, or whose beginning was not seen, is compared
    /// from its first note on.
    #[test]
    fn a_late_start_is_compared_from_the_first_note_on(
        output in output(),
        from: proptest::sample::Index,
        at: proptest::sample::Index,
        restored: bool,
    ) {
        let output = Output { closes: false, ..output };
        let len = output.bytes.len();
        let from = from.index(len);
        let (mut primary, mut clone) = (End::primary(4), End::new(THEIRS, 4));
        clone.hears(&primary.notes(0));
        primary.open(&output, 40000);
        let seq = output.isn.wrapping_add(1 + from as u32);
        let key = Segment::parse(&output.frame(0, 0, 40000)).unwrap().key_from_server();
        if restored {
            clone.auditor.go_on(0, &key, seq, &mut clone.counters);
        }
        let first = (from + 1).min(len);
        let at = first + at.index(len - first + 1);
        for to in [first, len] {
            let before = clone.auditor.index.get(&key).map_or(from, |_| first);
            for part in (0..to).collect::<Vec<_>>().chunks(1448) {
                primary.says(&output.frame(part[0], part[part.len() - 1] + 1, 40000));
            }
            let mut other = output.clone();
            if at < len {
                other.bytes[at] ^= 1;
            }
            let start = if to == first { from } else { before.min(first) };
            for part in (start..to).collect::<Vec<_>>().chunks(1000) {
                clone.says(&other.frame(part[0], part[part.len() - 1] + 1, 40000));
            }
            clone.hears(&primary.notes(100));
        }
        let c = &clone.counters;
        let differs = first < len && at < len;
        prop_assert_eq!(c.audit_diverged, u64::from(differs), "{:?}", c);
        prop_assert!(c.audit_aligned <= 1);
    }

    /// A gap on either side is counted and never an alarm; what comes after it is compared.
    #[test]
    fn output_lost_before_it_was_read_is_no_divergence(
        output in output(),
        ours: proptest::sample::Index,
        theirs: proptest::sample::Index,
    ) {
        let (mut primary, mut clone) = (End::primary(4), End::new(THEIRS, 4));
        clone.hears(&primary.notes(0));
        primary.open(&output, 40000);
        clone.open(&output, 40000);
        let segments: Vec<usize> = (0..output.bytes.len()).step_by(700).collect();
        let lost = [ours.index(segments.len()), theirs.index(segments.len())];
        for (i, from) in segments.iter().enumerate() {
            let frame = output.frame(*from, (from + 700).min(output.bytes.len()), 40000);
            if i != lost[0] {
                primary.says(&frame);
            }
            if i != lost[1] {
                clone.says(&frame);
            }
            clone.hears(&primary.notes(7));
        }
        clone.hears(&primary.notes(200));
        prop_assert_eq!(clone.counters.audit_diverged, 0);
    }
}

/// A successor goes on with the digest that it compared until then, and a third node never notices.
#[test]
fn a_successor_goes_on() {
    let bytes: Vec<u8> = (0..3000u32).map(|i| (i * 7) as u8).collect();
    let output = Output { isn: 77, bytes, closes: false };
    let (mut first, mut second, mut third) =
        (End::primary(4), End::new(THEIRS, 4), End::new([3; 16], 4));
    let told = first.notes(0);
    let nodes = [&mut first, &mut second, &mut third];
    for node in nodes {
        node.hears(&told);
        node.open(&output, 40000);
        node.says(&output.frame(0, 1000, 40000));
    }
    let notes = first.notes(100);
    second.hears(&notes);
    third.hears(&notes);
    // The first one dies; what it noted last nobody got.
    second.now_ns = 10_000 * MS;
    second.auditor.serve(second.now_ns, 0);
    for node in [&mut second, &mut third] {
        node.says(&output.frame(1000, 2000, 40000));
    }
    let notes = second.notes(100);
    assert!(notes.iter().all(|record| record.seed == OURS));
    third.hears(&notes);
    assert_eq!(third.counters.audit_same, 2);
    let mut other = output.clone();
    other.bytes[2500] ^= 4;
    second.says(&output.frame(2000, 3000, 40000));
    third.says(&other.frame(2000, 3000, 40000));
    third.hears(&second.notes(100));
    let found = third.auditor.take_found().unwrap();
    assert_eq!((found.from, found.to), (78 + 2000, 78 + 3000));
    assert_eq!((third.counters.audit_aligned, third.counters.audit_diverged), (0, 1));
}

/// A clone that says more than the primary, and is done: there is no mark where the primary ended.
#[test]
fn a_longer_answer_is_found() {
    let bytes: Vec<u8> = (0..9000u32).map(|i| (i * 7) as u8).collect();
    let output = Output { isn: u32::MAX - 4000, bytes, closes: true };
    for (at, said, diverges) in [(100, 5000, 1), (6000, 5000, 0), (4999, 5000, 1), (5000, 5000, 0)]
    {
        let (mut primary, mut clone) = (End::primary(4), End::new(THEIRS, 4));
        clone.hears(&primary.notes(0));
        primary.open(&output, 40000);
        clone.open(&output, 40000);
        primary.says(&output.frame(0, said, 40000));
        let mut other = output.clone();
        other.bytes[at] ^= 1;
        let segments: Vec<_> =
            (0..9).map(|n| other.frame(n * 1000, n * 1000 + 1000, 40000)).collect();
        segments.iter().for_each(|frame| clone.says(frame));
        let mut notes = primary.notes(100);
        // Of its notes, that of the end.
        notes[0].notes.retain(|note| note.len == said as u64);
        clone.auditor.slots.iter_mut().for_each(|(_, entry)| entry.forget_marks());
        clone.hears(&notes);
        let mut late = clone.auditor.take_late();
        assert_eq!(late.len(), 1);
        // Acknowledged ones are gone, one is retransmitted.
        for frame in segments[4..].iter().chain([&segments[6]]) {
            late[0].take(&clone.auditor, &Segment::parse(frame).unwrap(), frame);
        }
        clone.auditor.settle(&late[0], &mut clone.counters);
        assert_eq!(clone.counters.audit_diverged, diverges, "{at}");
        assert_eq!(clone.counters.audit_same, 1 - diverges, "{at}");
        assert_eq!(clone.counters.audit_skipped, 0);
    }
}

/// A close that only one of the two did is another output.
#[test]
fn a_close_is_output() {
    let output = Output { isn: 5, bytes: b"answer, and more".to_vec(), closes: false };
    let closed = Output { bytes: output.bytes[..6].to_vec(), closes: true, ..output.clone() };
    let (mut primary, mut clone) = (End::primary(4), End::new(THEIRS, 4));
    clone.hears(&primary.notes(0));
    primary.open(&output, 40000);
    clone.open(&output, 40000);
    primary.says(&output.frame(0, 16, 40000));
    clone.says(&closed.frame(0, 6, 40000));
    clone.says(&output.frame(7, 16, 40000));
    clone.hears(&primary.notes(100));
    assert_eq!(clone.counters.audit_diverged, 1);
}

/// Many short connections: notes stay a small part of the log, and nothing grows.
#[test]
fn notes_are_rationed() {
    let mut primary = End::primary(8192);
    let mut taken = 0;
    primary.notes(0);
    for n in 0..60_000u32 {
        let output = Output { isn: n, bytes: vec![n as u8; 40], closes: true };
        let port = n as u16;
        primary.open(&output, port);
        primary.says(&output.frame(0, 40, port));
        primary.now_ns += MS / 100;
        primary.log_end += 600;
        for record in primary.notes(0) {
            taken += understudy_wire::record::stored_len(record.encode().len()) as u64;
        }
    }
    let c = &primary.counters;
    let (log, ms) = (primary.log_end, primary.now_ns / MS);
    let allowed = RATION_MAX / 4 + log / SHARE + ms * 17;
    assert!(taken <= allowed && taken > allowed / 2, "{taken} of {allowed}, {log} in the log");
    assert!(c.audit_uncovered > 0 && c.audit_evicted > 0, "what is not covered is counted");
    assert!(primary.auditor.due.len() <= 16_384 && primary.auditor.index.len() <= 8192);
}

/// Another connection between the same ends has nothing to do with the one before.
#[test]
fn the_same_ends_again() {
    let (mut primary, mut clone) = (End::primary(2), End::new(THEIRS, 2));
    clone.hears(&primary.notes(0));
    for round in 0..20u32 {
        let output =
            Output { isn: round << 20, bytes: vec![round as u8; 100], closes: round % 3 > 0 };
        primary.open(&output, 40000);
        primary.says(&output.frame(0, 100, 40000));
        clone.open(&output, 40000);
        clone.open(&output, 40000);
        if round % 2 == 0 {
            clone.says(&output.frame(0, 100, 40000));
            clone.hears(&primary.notes(60));
        }
    }
    assert_eq!(clone.counters.audit_diverged, 0);
    assert!(clone.counters.audit_same >= 10);
}
