//! A store as a daemon has it: what was written is read, by time and by what it holds; what a dead
//! writer left is ended; old segments go; a full or a missing disk is counted.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use proptest::prelude::*;
use understudy_segments::{
    BlockEntry, Limits, Needs, Segment, SegmentError, SegmentInfo, Store, Wanted, list,
};
use understudy_wire::record::{LinkFrame, RecordHeader, RecordKind, records};

const SECOND_NS: u64 = 1_000_000_000;
const START_NS: u64 = 1_763_888_400 * SECOND_NS;

fn limits() -> Limits {
    Limits {
        segment_bytes: 64 * 1024,
        block_bytes: 4096,
        keep_bytes: u64::MAX,
        keep_ns: 0,
        flush_ns: SECOND_NS,
        direct: false,
    }
}

fn info() -> SegmentInfo {
    SegmentInfo {
        run_ns: 5,
        node: "tap".into(),
        links: vec!["net_x".into()],
        ..SegmentInfo::default()
    }
}

/// UDP of a host, which is how a packet is known again.
fn frame(host: u16, len: usize) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 1]);
    frame.extend(host.to_be_bytes());
    frame.extend([10, 0, 0, 1]);
    frame.extend(1000u16.to_be_bytes());
    frame.extend((host % 100).to_be_bytes());
    frame.extend([0, 8, 0, 0]);
    frame.resize(frame.len() + len, 9);
    frame
}

fn record(timestamp_ns: u64, frame: &[u8]) -> Vec<u8> {
    let head = LinkFrame { wire_len: frame.len() as u32, ..LinkFrame::default() };
    let payload = [&head.encode()[..], frame].concat();
    let header =
        RecordHeader { len: payload.len() as u32, kind: RecordKind::LinkFrame, timestamp_ns };
    let mut record = [&header.encode()[..], &payload].concat();
    record.resize(header.stored_len(), 0);
    record
}

/// Host `i` at second `i`.
fn fill(store: &mut Store, hosts: std::ops::Range<u16>) {
    let mut position = u64::from(hosts.start) * 1000;
    for host in hosts {
        let now_ns = START_NS + u64::from(host) * SECOND_NS;
        let record = record(now_ns, &frame(host, 200));
        store.records(position, &record, now_ns);
        position += record.len() as u64;
    }
}

/// What a query gives: times, and how many blocks it read and did not read.
fn query(dir: &Path, from_ns: u64, to_ns: u64, filter: &str) -> (Vec<u64>, usize, usize) {
    let wanted = Wanted { from_ns, to_ns, needs: Needs::of_filter(filter) };
    let (mut times, mut read, mut skipped) = (Vec::new(), 0, 0);
    for path in list(dir).unwrap() {
        let segment = Segment::open(&path).unwrap();
        if !segment.may_hold(&wanted) {
            skipped += segment.blocks().len();
            continue;
        }
        for entry in segment.blocks() {
            let in_time = wanted.is_in_time(entry.first_ns, entry.last_ns);
            let block = if in_time { segment.read(entry, &wanted.needs).unwrap() } else { None };
            let Some(block) = block else {
                skipped += 1;
                continue;
            };
            read += 1;
            times.extend(records(&block.records).map(|record| record.header.timestamp_ns));
        }
    }
    (times, read, skipped)
}

fn all(dir: &Path) -> Vec<u64> {
    query(dir, 0, u64::MAX, "").0
}

fn times(hosts: std::ops::Range<u16>) -> Vec<u64> {
    hosts.map(|i| START_NS + u64::from(i) * SECOND_NS).collect()
}

#[test]
fn a_query_reads_only_what_it_must() {
    for direct in [false, true] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (mut store, _) =
            Store::open(dir.path(), Limits { direct, ..limits() }, info()).unwrap();
        fill(&mut store, 0..1000);
        store.close(START_NS);
        assert!(list(dir.path()).unwrap().len() > 3);
        assert_eq!(all(dir.path()), times(0..1000));
        let blocks = query(dir.path(), 0, u64::MAX, "").1;
        let at = |i: u64| START_NS + i * SECOND_NS;
        let (found, read, skipped) = query(dir.path(), at(500), at(501), "");
        assert!(found.contains(&at(500)) && found.contains(&at(501)));
        assert!(read <= 2 && read + skipped == blocks, "{read} read, {skipped} not");
        // Host 0x1f4 is 500.
        let (found, read, _) = query(dir.path(), 0, u64::MAX, "host 10.1.1.244 and udp");
        assert!(found.contains(&at(500)) && read <= 3, "{read} blocks read");
        let (found, read, _) = query(dir.path(), 0, u64::MAX, "host 10.9.9.9");
        assert!(found.is_empty() && read <= 2, "{read} blocks read for nobody");
        assert_eq!(query(dir.path(), 0, u64::MAX, "arp").1, 0);
        assert_eq!(query(dir.path(), at(2000), u64::MAX, "").1, 0);
    }
}

#[test]
fn the_oldest_segments_go_by_size_and_by_age() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) =
        Store::open(dir.path(), Limits { keep_bytes: 200 * 1024, ..limits() }, info()).unwrap();
    fill(&mut store, 0..2000);
    let kept = store.catalogue().kept();
    assert!(kept.bytes <= 270 * 1024 && kept.segments >= 3, "{kept:?}");
    assert!(kept.removed_segments > 3 && kept.removed_for_space == 0, "{kept:?}");
    assert_eq!(kept.segments as usize, list(dir.path()).unwrap().len());
    store.close(START_NS);
    let found = all(dir.path());
    assert_eq!(found.last(), times(1999..2000).last());
    assert_eq!(found, times(0..2000)[2000 - found.len()..]);
    assert_eq!(kept.oldest_ns, found.first().copied());

    // By age, after a restart.
    let keep_ns = 100 * SECOND_NS;
    let (mut store, _) = Store::open(dir.path(), Limits { keep_ns, ..limits() }, info()).unwrap();
    store.tick(START_NS + 2000 * SECOND_NS);
    let oldest_ns = store.catalogue().kept().oldest_ns.unwrap();
    assert!(oldest_ns > found[0] && oldest_ns <= START_NS + 1900 * SECOND_NS);
}

#[test]
fn records_wait_no_longer_than_they_may() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(dir.path(), limits(), info()).unwrap();
    fill(&mut store, 0..3);
    assert_eq!(store.catalogue().kept().written_records, 0);
    store.tick(START_NS + 4 * SECOND_NS);
    assert_eq!(store.catalogue().kept().written_records, 3);
    // What is written is read before the segment is ended.
    assert_eq!(all(dir.path()), times(0..3));
    assert!(!Segment::open(&list(dir.path()).unwrap()[0]).unwrap().is_sealed());
}

/// The writer dies: `mem::forget`, as nothing of it runs then.
fn die(store: Store, dir: &Path) {
    std::mem::forget(store);
    // The lock would be gone with the process.
    fs::remove_file(dir.join("lock")).unwrap();
}

#[test]
fn a_dead_writers_segment_is_ended_at_its_last_whole_block() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(dir.path(), limits(), info()).unwrap();
    fill(&mut store, 0..100);
    store.tick(START_NS + 200 * SECOND_NS);
    fill(&mut store, 100..105);
    die(store, dir.path());
    let path = list(dir.path()).unwrap().pop().unwrap();
    // A block of which only the first bytes came to the disk.
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let len = file.metadata().unwrap().len();
    file.write_all_at(b"USEGBLK1 and no more", len).unwrap();
    let (store, recovered) = Store::open(dir.path(), limits(), info()).unwrap();
    assert_eq!((recovered.segments, recovered.records, recovered.cut_bytes), (1, 100, 20));
    assert_eq!(store.catalogue().kept().oldest_ns, Some(START_NS));
    let segment = Segment::open(&path).unwrap();
    assert!(segment.is_sealed());
    let absent = Wanted { from_ns: 0, to_ns: u64::MAX, needs: Needs::of_filter("arp") };
    assert!(!segment.may_hold(&absent), "its keys were made again");
    drop(store);
    assert_eq!(all(dir.path()), times(0..100));
    // The machine died while it was ended: once more.
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 30).unwrap();
    let (store, recovered) = Store::open(dir.path(), limits(), info()).unwrap();
    assert_eq!((recovered.segments, recovered.records), (1, 100));
    drop(store);
    assert_eq!(all(dir.path()), times(0..100));
    // The next one begins behind it.
    let (mut store, recovered) = Store::open(dir.path(), limits(), info()).unwrap();
    assert_eq!(recovered.segments, 0);
    fill(&mut store, 100..110);
    store.close(START_NS);
    assert_eq!(all(dir.path()), times(0..110));
    assert_eq!(list(dir.path()).unwrap().len(), 2);
}

#[test]
fn what_is_no_segment_is_set_aside_and_one_without_blocks_goes() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("segment-000000000007.useg"), vec![1; 20_000]).unwrap();
    fs::write(dir.path().join("segment-000000000008.useg"), b"USEGMNT1").unwrap();
    let mut empty = SegmentInfo { id: 9, ..info() }.encode();
    empty.extend([0; 5000]);
    fs::write(dir.path().join("segment-000000000009.useg"), empty).unwrap();
    fs::write(dir.path().join("other"), b"x").unwrap();
    let (store, recovered) = Store::open(dir.path(), limits(), info()).unwrap();
    assert_eq!((recovered.segments, recovered.damaged_files), (0, 1));
    assert_eq!(store.catalogue().kept().segments, 0);
    assert!(dir.path().join("segment-000000000007.damaged").exists());
    assert!(list(dir.path()).unwrap().is_empty() && dir.path().join("other").exists());
}

#[test]
fn one_directory_has_one_writer() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, _) = Store::open(dir.path(), limits(), info()).unwrap();
    let error = Store::open(dir.path(), limits(), info()).err().unwrap();
    assert!(error.to_string().contains("another daemon"), "{error}");
}

#[test]
fn a_directory_that_is_removed_is_counted_and_made_again() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("capture");
    let (mut store, _) = Store::open(&dir, limits(), info()).unwrap();
    fill(&mut store, 0..50);
    fs::remove_dir_all(&dir).unwrap();
    store.tick(START_NS + 60 * SECOND_NS);
    assert!(store.catalogue().kept().failed_because.unwrap().contains("deleted"));
    // A file stands where the directory was: nothing can be written.
    fs::write(&dir, b"").unwrap();
    fill(&mut store, 100..200);
    let kept = store.catalogue().kept();
    assert!(kept.unwritten_records > 50 && kept.failed_because.is_some(), "{kept:?}");
    fs::remove_file(&dir).unwrap();
    fill(&mut store, 300..400);
    store.close(START_NS + 500 * SECOND_NS);
    let found: BTreeSet<u64> = all(&dir).into_iter().collect();
    assert!(times(320..400).iter().all(|t| found.contains(t)));
    // The first block says what is missing before it.
    let segment = Segment::open(&list(&dir).unwrap()[0]).unwrap();
    let first = segment.read(&segment.blocks()[0], &Needs::Any).unwrap().unwrap();
    assert!(first.header.lost >= kept.unwritten_records, "{:?}", first.header);
}

#[test]
fn damage_is_an_error_and_no_records() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(dir.path(), limits(), info()).unwrap();
    fill(&mut store, 0..100);
    store.close(START_NS);
    let path = list(dir.path()).unwrap().pop().unwrap();
    let segment = Segment::open(&path).unwrap();
    let entry = segment.blocks()[1];
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"!", entry.offset + u64::from(entry.stored_bytes) - 100).unwrap();
    let damaged = segment.read(&entry, &Needs::Any);
    assert!(matches!(damaged, Err(SegmentError::Format { .. })), "{damaged:?}");
    assert!(segment.read(&segment.blocks()[0], &Needs::Any).unwrap().is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Whatever is written, wherever it is cut off: what is read is a prefix of it, in order, without
    /// what was not whole; and the end that is made is one that is read again.
    #[test]
    fn a_torn_segment_is_a_prefix(
        lens in proptest::collection::vec(0usize..1500, 1..60),
        cut in 0.0f64..1.0,
        flip in proptest::option::of(0.0f64..1.0),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let whole = Limits { segment_bytes: 1 << 30, ..limits() };
        let (mut store, _) = Store::open(dir.path(), whole, info()).unwrap();
        let written: Vec<u64> = (0..lens.len() as u64).map(|i| START_NS + i).collect();
        for (i, len) in lens.iter().enumerate() {
            store.records(i as u64, &record(written[i], &frame(i as u16, *len)), 0);
        }
        store.tick(2 * SECOND_NS);
        die(store, dir.path());
        let Some(path) = list(dir.path()).unwrap().pop() else { panic!("nothing was written") };
        let blocks = Segment::open(&path).unwrap().blocks().to_vec();
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate((bytes.len() as f64 * cut) as usize);
        // Everything before the first byte that is missing or wrong, by whole blocks.
        let mut good = bytes.len() as u64;
        if let Some(flip) = flip
            && !bytes.is_empty()
        {
            let at = ((bytes.len() - 1) as f64 * flip) as usize;
            bytes[at] ^= 0x10;
            good = at as u64;
        }
        let is_whole = |b: &&BlockEntry| b.offset + u64::from(b.stored_bytes) <= good;
        let expected: u32 = blocks.iter().take_while(is_whole).map(|b| b.records).sum();
        fs::write(&path, bytes).unwrap();
        let (store, _) = Store::open(dir.path(), whole, info()).unwrap();
        drop(store);
        let found = all(dir.path());
        prop_assert_eq!(found.len(), expected as usize);
        prop_assert_eq!(&found[..], &written[..found.len()]);
        for path in list(dir.path()).unwrap() {
            prop_assert!(Segment::open(&path).unwrap().is_sealed());
        }
    }
}
