//! The capture log of a replica: bytes from the network, at positions from the network.

use understudy_fuzz::{Rng, corpus_file, fuzz, mutated};
use understudy_log::CaptureLog;
use understudy_wire::Position;
use understudy_wire::record::{RECORD_HEADER_LEN, RecordKind};

const CAPACITY: usize = 16 * 1024;

/// A primary's log, whole.
fn stream(records: usize) -> Vec<u8> {
    let mut log = CaptureLog::new(CAPACITY).expect("a little memory");
    log.append_epoch(1, 1, 5, 0).expect("room");
    for i in 0..records {
        let kind = if i % 5 == 1 { RecordKind::SynAck } else { RecordKind::ClientFrame };
        log.append(kind, i as u64, &vec![i as u8; i * 37 % 400], 0).expect("room");
        if i % 9 == 8 {
            log.append_epoch(i as u64, 2, i as u64, 0).expect("room");
        }
    }
    log.bytes(0, log.end()).expect("all of it is held").to_vec()
}

/// Feeds bytes as a receiver does: in pieces, some ahead of a gap that closes later.
fn feed(rng: &mut Rng, log: &mut CaptureLog, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(1 + rng.below(rest.len().min(1500)));
        let (at, floor) = (log.end(), log.boundary());
        if let Some(ahead) = after.get(..rng.below(64)) {
            // It may be refused, or be written again when its turn comes.
            _ = log.write_at(at + piece.len() as u64, ahead, floor);
        }
        if log.write_at(at, piece, floor).is_err() {
            return;
        }
        log.extend_to(at + piece.len() as u64);
        check(log);
        rest = after;
    }
}

fn check(log: &CaptureLog) {
    assert!(log.start() <= log.boundary() && log.boundary() <= log.end());
    assert!(log.end() - log.start() <= log.capacity());
    assert!(log.bytes(log.start(), log.end()).is_some());
    assert!(log.bytes(log.start(), log.end() + 1).is_none());
}

/// Every record up to the boundary is whole, in the log, and leads to the next.
fn walk(log: &CaptureLog) -> u64 {
    let (mut at, mut records) = (log.start(), 0);
    while at < log.boundary() {
        let record = log.record(at).expect("a record before the boundary");
        let stored = log.bytes(at, record.next).expect("its bytes are held");
        let (header, rest) = stored.split_at(RECORD_HEADER_LEN);
        assert!(record.next <= log.boundary() && header == record.header.encode());
        assert_eq!(record.payload, &rest[..record.header.len as usize]);
        at = record.next;
        records += 1;
    }
    assert!(log.record(log.boundary()).is_none());
    records
}

#[test]
fn streams() {
    let mut real = std::fs::read(corpus_file("log")).expect("the recorded log");
    real.truncate(CAPACITY * 3 / 4);
    let seeds = [stream(1), stream(8), stream(40), real];
    let mut log = CaptureLog::new(CAPACITY).expect("a little memory");
    let (mut read, mut corrupt) = (0, 0);
    fuzz("log", 20, |rng| {
        log.reset();
        for _ in 0..1 + rng.below(3) {
            let bytes = mutated(rng, &seeds);
            feed(rng, &mut log, &bytes);
        }
        read += walk(&log);
        corrupt += u64::from(log.is_corrupt());
        cut(rng, &mut log);
    });
    println!("{read} records were read, {corrupt} streams were corrupt");
}

/// What an election cuts off: everything from some record on.
fn cut(rng: &mut Rng, log: &mut CaptureLog) {
    let mut at: Position = log.start();
    for _ in 0..rng.below(8) {
        at = log.record(at).map_or(at, |record| record.next);
    }
    log.truncate_to(at);
    check(log);
    assert_eq!(log.end().min(at), log.end());
    assert!(log.history().iter().all(|epoch| epoch.start < log.end()));
    walk(log);
}
