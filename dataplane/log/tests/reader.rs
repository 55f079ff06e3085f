//! Readers on other threads: every record they get is whole and in its place, and what they do not
//! get is counted, however the writer hurries, cuts or begins anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use understudy_log::{CaptureLog, LogReader, Read};
use understudy_wire::record::{RECORD_HEADER_LEN, RecordHeader, RecordKind, stored_len};

/// A payload from which its number, and any damage, can be seen.
fn payload(number: u64) -> Vec<u8> {
    let len = (number.wrapping_mul(0x9e37_79b9) % 300) as usize;
    [&number.to_le_bytes()[..], &vec![number as u8; len]].concat()
}

fn append(log: &mut CaptureLog, number: u64) {
    let floor = log.boundary();
    log.append(RecordKind::ClientFrame, number, &payload(number), floor).unwrap();
}

/// The numbers of the records in what was read; any damage fails.
fn numbers(mut bytes: &[u8]) -> Vec<u64> {
    let mut numbers = Vec::new();
    while !bytes.is_empty() {
        let header = RecordHeader::decode(bytes).unwrap();
        let body = &bytes[RECORD_HEADER_LEN..][..header.len as usize];
        let number = u64::from_le_bytes(body[..8].try_into().unwrap());
        let stamps = number.saturating_sub(BURST - 1)..=number;
        assert!(stamps.contains(&header.timestamp_ns), "{} at {number}", header.timestamp_ns);
        assert_eq!(body, payload(number));
        numbers.push(number);
        bytes = &bytes[header.stored_len()..];
    }
    numbers
}

/// Everything there is: numbers read, records lost, records taken back.
fn drain(reader: &mut LogReader) -> (Vec<u64>, u64, u64) {
    let (mut all, mut lost, mut back) = (Vec::new(), 0, 0);
    loop {
        match reader.read() {
            Read::Records(_, bytes) => all.extend(numbers(bytes)),
            Read::Lost(n) => lost += n,
            Read::TakenBack(n) => back += n,
            Read::Nothing => return (all, lost, back),
        }
    }
}

#[test]
fn what_is_read_is_whole_while_the_writer_hurries() {
    // Small, so that the writer laps the readers all the time.
    hurry(CaptureLog::new(1 << 16).unwrap(), append, 1);
}

#[test]
fn what_is_read_is_whole_while_the_writer_hurries_in_bursts() {
    let burst = |log: &mut CaptureLog, number| {
        let payloads: Vec<_> = (number..number + BURST).map(payload).collect();
        let (slices, floor) = (payloads.iter().map(|p| &p[..]), log.boundary());
        log.append_burst(RecordKind::ClientFrame, number, slices, floor).unwrap();
    };
    // Large enough to give up whole stretches.
    hurry(CaptureLog::new(1 << 22).unwrap(), burst, BURST);
}

/// Frames in a burst.
const BURST: u64 = 25;

/// Appends many records, `step` by `step`, while two readers read.
fn hurry(mut log: CaptureLog, append: impl Fn(&mut CaptureLog, u64), step: u64) {
    const RECORDS: u64 = 2_000_000;
    let view = log.view().unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (mut reader, done) = (view.reader(), Arc::clone(&done));
            std::thread::spawn(move || {
                let (mut next, mut read, mut lost) = (0, 0, 0);
                loop {
                    let is_last = done.load(Ordering::Acquire);
                    let (all, missed, back) = drain(&mut reader);
                    assert_eq!(back, 0);
                    lost += missed;
                    read += all.len() as u64;
                    for number in all {
                        assert!(number >= next, "{number} after {next}");
                        next = number + 1;
                    }
                    if is_last {
                        return (read, lost);
                    }
                }
            })
        })
        .collect();
    (0..RECORDS).step_by(step as usize).for_each(|number| append(&mut log, number));
    done.store(true, Ordering::Release);
    for reader in readers {
        let (read, lost) = reader.join().unwrap();
        println!("{read} records read, {lost} lost");
        assert_eq!(read + lost, RECORDS);
        assert!(read > 0);
    }
}

#[test]
fn what_a_cut_takes_back_is_said() {
    let mut log = CaptureLog::new(1 << 16).unwrap();
    let mut reader = log.view().unwrap().reader();
    let mut late = log.view().unwrap().reader();
    (0..5).for_each(|number| append(&mut log, number));
    let cut = log.end();
    (5..8).for_each(|number| append(&mut log, number));
    assert_eq!(drain(&mut reader), ((0..8).collect(), 0, 0));
    log.truncate_to(cut);
    (90..95).for_each(|number| append(&mut log, number));
    assert_eq!(drain(&mut reader), ((90..95).collect(), 0, 3));
    let history: Vec<u64> = (0..5).chain(90..95).collect();
    assert_eq!(drain(&mut late), (history, 0, 0));
    // Two cuts while nobody looks: where the first was is not known any more.
    log.truncate_to(cut);
    (95..97).for_each(|number| append(&mut log, number));
    log.truncate_to(cut);
    append(&mut log, 97);
    assert_eq!(drain(&mut late).0, []);
    append(&mut log, 98);
    assert_eq!(drain(&mut late), (vec![98], 0, 0));
}

#[test]
fn a_log_that_begins_anew_is_followed() {
    let mut log = CaptureLog::new(1 << 16).unwrap();
    let mut reader = log.view().unwrap().reader();
    (0..5).for_each(|number| append(&mut log, number));
    log.begin_at(4096, &log.history().clone());
    assert_eq!(drain(&mut reader), (vec![], 5, 0));
    append(&mut log, 5);
    assert_eq!(drain(&mut reader), (vec![5], 0, 0));
    log.reset();
    append(&mut log, 6);
    assert_eq!(drain(&mut reader), (vec![6], 0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Everything that is young enough is found, and hardly anything else.
    #[test]
    fn a_moment_is_found(records in 0u64..4000, wanted in 0u64..4100, cut in 0u64..200) {
        let mut log = CaptureLog::new(1 << 18).unwrap();
        let view = log.view().unwrap();
        let mut reader = view.reader();
        let mut at = Vec::new();
        for number in 0..records {
            at.push(log.end());
            append(&mut log, number);
        }
        // A deposed primary's end, and other records in its place.
        if let Some(number) = records.checked_sub(cut + 1)
            && at[number as usize] >= log.start()
        {
            log.truncate_to(at[number as usize]);
            (number..records).for_each(|number| append(&mut log, number));
        }
        reader.seek_time(wanted);
        let from = reader.at();
        let (found, lost, back) = drain(&mut reader);
        prop_assert_eq!((lost, back), (0, 0));
        let held: Vec<u64> = {
            let mut all = view.reader();
            all.seek_start();
            drain(&mut all).0
        };
        let young = held.iter().filter(|n| **n >= wanted).count();
        prop_assert_eq!(found.iter().filter(|n| **n >= wanted).count(), young);
        let before: u64 = found.iter().filter(|n| **n < wanted).map(|n| stored_len(payload(*n).len()) as u64).sum();
        prop_assert!(before <= 2 << 16, "{} bytes before it, from {}", before, from);
    }
}
