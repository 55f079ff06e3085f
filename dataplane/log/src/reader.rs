//! Reading the log from other threads while it is written: nothing the reader does slows the writer.
//! A reader that is too slow loses records, and is told how many.

use std::sync::Arc;

use understudy_wire::Position;
use understudy_wire::record::{
    RECORD_HEADER_LEN, RECORD_PAYLOAD_MAX, RecordHeader, records, stored_len,
};

use crate::published::{Extent, Published};
use crate::ring::RingView;

/// Bytes copied at once.
const BUFFER_LEN: usize = 256 * 1024;
const _: () = assert!(BUFFER_LEN >= stored_len(RECORD_PAYLOAD_MAX));
/// Copies that are tried again because the log was written over meanwhile.
const TRIES_MAX: usize = 8;

/// The log as other threads see it.
#[derive(Clone)]
pub struct LogView {
    ring: Arc<RingView>,
    published: Arc<Published>,
    capacity: u64,
}

/// One reader's place in the log.
pub struct LogReader {
    view: LogView,
    buffer: Box<[u8]>,
    life: u64,
    cuts: u64,
    at: Position,
    /// Records before `at`.
    records: u64,
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Read<'a> {
    /// Whole records, one after the other, from this position on.
    Records(Position, &'a [u8]),
    /// It has read everything.
    Nothing,
    /// So many records were gone before they were read.
    Lost(u64),
    /// So many of the records read last are no part of the log: a deposed primary's, or all of them
    /// when a node starts anew.
    TakenBack(u64),
}

impl LogView {
    pub(crate) fn new(ring: RingView, published: Arc<Published>, capacity: u64) -> LogView {
        LogView { ring: Arc::new(ring), published, capacity }
    }

    /// What the log holds now.
    pub fn extent(&self) -> Extent {
        self.published.read()
    }

    /// A reader at the end.
    pub fn reader(&self) -> LogReader {
        let now = self.extent();
        LogReader {
            view: self.clone(),
            buffer: vec![0; BUFFER_LEN.min(self.capacity as usize)].into(),
            life: now.life,
            cuts: now.cuts,
            at: now.end,
            records: now.end_records,
        }
    }

    /// Copies a range; false if it was not held all the time.
    fn copy(&self, now: &Extent, at: Position, out: &mut [u8]) -> bool {
        self.ring.copy_to(at, out);
        let after = self.published.read();
        (after.life, after.cuts) == (now.life, now.cuts) && after.start <= at
    }

    fn header(&self, now: &Extent, at: Position) -> Option<RecordHeader> {
        let mut head = [0; RECORD_HEADER_LEN];
        let held = now.start <= at && at < now.end && self.copy(now, at, &mut head);
        held.then(|| RecordHeader::decode(&head).ok()).flatten()
    }
}

impl LogReader {
    /// Position of the record to be read next.
    pub fn at(&self) -> Position {
        self.at
    }

    /// Goes to the oldest record.
    pub fn seek_start(&mut self) {
        let now = self.view.extent();
        (self.life, self.cuts, self.at, self.records) =
            (now.life, now.cuts, now.start, now.start_records);
    }

    /// Goes near the oldest record that is as young as `timestamp_ns`, whose timestamp is still to be
    /// looked for: at most a stretch of the log, 64 KiB, is before it. Timestamps never decrease.
    pub fn seek_time(&mut self, timestamp_ns: u64) {
        self.seek_start();
        let now = self.view.extent();
        let published = Arc::clone(&self.view.published);
        // The last stretch whose first record is older: what is wanted is in it, or begins the next.
        let mut low = Published::stretch(now.start) + 1;
        let mut high = Published::stretch(now.end) + 1;
        while low < high {
            let middle = low + (high - low) / 2;
            let marked = published.marked(middle);
            let found = marked.and_then(|mark| Some((mark, self.view.header(&now, mark.0)?)));
            match found {
                Some(((at, records), header)) if header.timestamp_ns < timestamp_ns => {
                    (self.at, self.records, low) = (at, records, middle + 1);
                }
                // Written over while it was looked for: what is wanted is later.
                None if middle <= Published::stretch(self.view.extent().start) => low = middle + 1,
                _ => high = middle,
            }
        }
    }

    /// What comes next, copied.
    pub fn read(&mut self) -> Read<'_> {
        for _ in 0..TRIES_MAX {
            let now = self.view.extent();
            if let Some(happened) = self.follow(&now) {
                return happened;
            }
            let len = (now.end - self.at).min(self.buffer.len() as u64) as usize;
            if len == 0 {
                return Read::Nothing;
            }
            if !self.view.copy(&now, self.at, &mut self.buffer[..len]) {
                continue;
            }
            let (whole, count) = whole_records(&self.buffer[..len]);
            if whole == 0 {
                // Not records: a damaged log has none to give.
                return self.skip_to_end(&now);
            }
            let from = self.at;
            self.at += whole as u64;
            self.records += count;
            return Read::Records(from, &self.buffer[..whole]);
        }
        let now = self.view.extent();
        self.skip_to_end(&now)
    }

    /// Whether the log has left this reader behind, or was taken back below it.
    fn follow(&mut self, now: &Extent) -> Option<Read<'static>> {
        if now.life != self.life {
            let lost = now.start_records.saturating_sub(self.records);
            (self.life, self.cuts) = (now.life, now.cuts);
            (self.at, self.records) = (now.start, now.start_records);
            return (lost > 0).then_some(Read::Lost(lost));
        }
        let missed = now.cuts - self.cuts;
        self.cuts = now.cuts;
        if missed > 1 {
            return Some(self.skip_to_end(now));
        }
        if missed == 1 && now.cut_at < self.at {
            let taken_back = self.records.saturating_sub(now.cut_records);
            (self.at, self.records) = (now.cut_at, now.cut_records);
            return Some(Read::TakenBack(taken_back));
        }
        if self.at < now.start {
            let lost = now.start_records.saturating_sub(self.records);
            (self.at, self.records) = (now.start, now.start_records);
            return Some(Read::Lost(lost));
        }
        None
    }

    fn skip_to_end(&mut self, now: &Extent) -> Read<'static> {
        let lost = now.end_records.saturating_sub(self.records);
        (self.at, self.records) = (now.end, now.end_records);
        Read::Lost(lost)
    }
}

/// Bytes of the whole records at the start, and how many there are.
fn whole_records(bytes: &[u8]) -> (usize, u64) {
    records(bytes).fold((0, 0), |(_, count), record| (record.next, count + 1))
}
