//! Records at positions: append (primary), write at a position (replica), truncate, reclaim.

use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;
use understudy_wire::control::{EpochStart, History};
use understudy_wire::record::{
    CheckpointRecord, EpochRecord, RECORD_HEADER_LEN, RECORD_PAYLOAD_MAX, RecordHeader, RecordKind,
    stored_len,
};
use understudy_wire::{Epoch, NodeId, Position};

use crate::copy::copy_frame;
use crate::marks::Marks;
use crate::published::{Extent, Published};
use crate::reader::LogView;
use crate::ring::{MirroredRing, RingError};

/// A log of fewer stretches gives up records one by one, a larger one whole stretches.
const STRETCHES_MIN: u64 = 64;

/// A record in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Kind, length, timestamp.
    pub header: RecordHeader,
    /// Its bytes.
    pub payload: &'a [u8],
    /// Position of the record after it.
    pub next: Position,
}

/// What a log refuses.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum LogError {
    /// Room would have to come from records somebody still needs.
    #[error("the capture log is full")]
    Full,
    /// Longer than any record may be.
    #[error("a record of that length is not allowed")]
    TooLong,
    /// Bytes before the start, or further ahead than the log is long.
    #[error("that position is outside the capture log")]
    Outside,
}

/// The capture log of one stream.
pub struct CaptureLog {
    ring: MirroredRing,
    start: Position,
    end: Position,
    /// Everything before it is whole records; `end` may be in the middle of one.
    boundary: Position,
    corrupt: bool,
    history: History,
    marks: Marks,
    /// What readers on other threads have been told.
    told: Extent,
    published: Arc<Published>,
    /// The stretch of the log whose first record is marked.
    marked: Option<u64>,
}

impl CaptureLog {
    /// An empty log that holds up to `capacity` bytes (a power of two).
    pub fn new(capacity: usize) -> Result<CaptureLog, RingError> {
        Ok(CaptureLog {
            ring: MirroredRing::new(capacity)?,
            start: 0,
            end: 0,
            boundary: 0,
            corrupt: false,
            history: History::new(),
            marks: Marks::default(),
            told: Extent::default(),
            published: Arc::new(Published::new(capacity as u64)),
            marked: None,
        })
    }

    /// The log for readers on other threads.
    ///
    /// # Errors
    /// If the memory cannot be mapped once more.
    pub fn view(&self) -> Result<LogView, RingError> {
        Ok(LogView::new(self.ring.view()?, Arc::clone(&self.published), self.capacity()))
    }

    /// The oldest position held.
    pub fn start(&self) -> Position {
        self.start
    }

    /// The position after the last byte held.
    pub fn end(&self) -> Position {
        self.end
    }

    /// The end of the last whole record.
    pub fn boundary(&self) -> Position {
        self.boundary
    }

    /// Bytes it can hold.
    pub fn capacity(&self) -> u64 {
        self.ring.len() as u64
    }

    /// Whether its memory is in huge pages.
    pub fn is_huge(&self) -> bool {
        self.ring.is_huge()
    }

    /// Whether bytes were received that are not records.
    pub fn is_corrupt(&self) -> bool {
        self.corrupt
    }

    /// The newest reigns, oldest first.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The end of what this node holds in full: log, and a checkpoint for each that the log speaks
    /// of. [`CaptureLog::end`] where it speaks of none.
    pub fn held(&self) -> Position {
        self.marks.unproven().unwrap_or(self.end)
    }

    /// The newest checkpoint that the log speaks of in `range`.
    pub fn newest_checkpoint(&self, range: Range<Position>) -> Option<CheckpointRecord> {
        self.marks.newest_in(range)
    }

    /// Tells of which checkpoints something is stored that brings back as much.
    pub fn prove_checkpoints(&mut self, is_stored: impl Fn(&CheckpointRecord) -> bool) {
        self.marks.prove(is_stored);
    }

    /// The reign of the last record; 0 when there is none.
    pub fn last_epoch(&self) -> Epoch {
        self.history.last().map_or(0, |e| e.epoch)
    }

    /// The bytes of a range, `None` unless all of it is held.
    #[inline]
    pub fn bytes(&self, from: Position, to: Position) -> Option<&[u8]> {
        let held = self.start <= from && from <= to && to <= self.end;
        held.then(|| self.ring.slice(from, (to - from) as usize))
    }

    /// Asks the CPU for the memory of `count` bytes that are to be appended once `ahead` others are:
    /// it is as old as the log is long. For where there is other work to do meanwhile.
    #[inline]
    pub fn prefetch(&self, ahead: u64, count: usize) {
        self.ring.prefetch(self.end.wrapping_add(ahead), count);
    }

    /// The record at a record's position, `None` unless whole.
    pub fn record(&self, at: Position) -> Option<Record<'_>> {
        if at < self.start || at >= self.boundary {
            return None;
        }
        self.record_before(at, self.boundary)
    }

    fn record_before(&self, at: Position, limit: Position) -> Option<Record<'_>> {
        let head = self.bytes(at, (at + RECORD_HEADER_LEN as u64).min(limit))?;
        let header = RecordHeader::decode(head).ok()?;
        let next = at + header.stored_len() as u64;
        let payload_at = at + RECORD_HEADER_LEN as u64;
        (next <= limit).then_some(())?;
        let payload = self.bytes(payload_at, payload_at + u64::from(header.len))?;
        Some(Record { header, payload, next })
    }

    /// Appends a record; older ones before `floor` may be overwritten. Returns its position.
    pub fn append(
        &mut self,
        kind: RecordKind,
        timestamp_ns: u64,
        payload: &[u8],
        floor: Position,
    ) -> Result<Position, LogError> {
        self.append_with(kind, timestamp_ns, payload.len(), floor, |out| {
            copy_frame(payload, out);
        })
    }

    /// Appends a record for each of `payloads`, of one kind and time: all of them, or none. Returns
    /// the position of the first, and the payloads' bytes. Readers see them once all are written.
    // Its loops want the registers for themselves.
    #[inline(never)]
    pub fn append_burst<'a>(
        &mut self,
        kind: RecordKind,
        timestamp_ns: u64,
        payloads: impl Iterator<Item = &'a [u8]> + Clone,
        floor: Position,
    ) -> Result<(Position, u64), LogError> {
        debug_assert_eq!(self.end, self.boundary, "append to a log cut in mid-record");
        let (mut stored, mut longest, mut bytes) = (0, 0, 0);
        for payload in payloads.clone() {
            let len = payload.len();
            stored += stored_len(len);
            longest = longest.max(len);
            bytes += len as u64;
        }
        if longest > RECORD_PAYLOAD_MAX {
            return Err(LogError::TooLong);
        }
        let (first, end) = (self.end, self.end + stored as u64);
        self.make_room(end, floor)?;
        if self.marked != Some(Published::stretch(end)) {
            self.mark_burst(payloads.clone());
        }
        let mut records = self.told.end_records;
        let mut rest = self.ring.slice_mut(first, stored);
        for payload in payloads {
            let len = payload.len();
            let header = RecordHeader { len: len as u32, kind, timestamp_ns };
            let (record, after) = rest.split_at_mut(stored_len(len));
            copy_frame(payload, fill_head(record, &header));
            rest = after;
            records += 1;
        }
        self.end = end;
        self.boundary = end;
        self.tell_end(records);
        Ok((first, bytes))
    }

    /// Marks what of a burst about to be appended begins a stretch.
    #[inline(never)]
    fn mark_burst<'a>(&mut self, payloads: impl Iterator<Item = &'a [u8]>) {
        let mut at = self.end;
        for (records, payload) in (self.told.end_records..).zip(payloads) {
            self.mark(at, records);
            at += stored_len(payload.len()) as u64;
        }
    }

    /// As [`CaptureLog::append`], of `len` bytes that `fill` writes in their place.
    #[inline]
    pub fn append_with(
        &mut self,
        kind: RecordKind,
        timestamp_ns: u64,
        len: usize,
        floor: Position,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Position, LogError> {
        debug_assert_eq!(self.end, self.boundary, "append to a log cut in mid-record");
        if len > RECORD_PAYLOAD_MAX {
            return Err(LogError::TooLong);
        }
        let stored = stored_len(len);
        self.make_room(self.end + stored as u64, floor)?;
        let header = RecordHeader { len: len as u32, kind, timestamp_ns };
        let at = self.end;
        self.mark(at, self.told.end_records);
        fill(fill_head(self.ring.slice_mut(at, stored), &header));
        self.end += stored as u64;
        self.boundary = self.end;
        self.tell_end(self.told.end_records + 1);
        Ok(at)
    }

    /// Opens a reign: appends its epoch record. Returns the position after it.
    pub fn append_epoch(
        &mut self,
        epoch: Epoch,
        primary: NodeId,
        timestamp_ns: u64,
        floor: Position,
    ) -> Result<Position, LogError> {
        let payload = EpochRecord { epoch, primary }.encode();
        let start = self.append(RecordKind::Epoch, timestamp_ns, &payload, floor)?;
        self.remember(EpochStart { epoch, start });
        Ok(self.end)
    }

    /// Appends the record of a checkpoint that this node has taken. Returns the position after it.
    pub fn append_checkpoint(
        &mut self,
        checkpoint: CheckpointRecord,
        timestamp_ns: u64,
        floor: Position,
    ) -> Result<Position, LogError> {
        let payload = checkpoint.encode();
        let at = self.append(RecordKind::Checkpoint, timestamp_ns, &payload, floor)?;
        self.marks.push(at, checkpoint);
        Ok(self.end)
    }

    /// Writes received bytes at their position, which may be beyond the end (a gap);
    /// they count as held once [`CaptureLog::extend_to`] covers them.
    pub fn write_at(
        &mut self,
        at: Position,
        bytes: &[u8],
        floor: Position,
    ) -> Result<(), LogError> {
        if at < self.end {
            return Err(LogError::Outside);
        }
        if bytes.len() as u64 > self.capacity() {
            return Err(LogError::Outside);
        }
        self.make_room(at + bytes.len() as u64, floor)?;
        self.ring.slice_mut(at, bytes.len()).copy_from_slice(bytes);
        Ok(())
    }

    /// Everything up to `end` has been written: it is now part of the log.
    pub fn extend_to(&mut self, end: Position) {
        debug_assert!(end >= self.end);
        self.end = end;
        let mut records = self.told.end_records;
        while self.boundary < self.end && !self.corrupt {
            let at = self.boundary;
            match self.record_before(at, self.end) {
                Some(r) => {
                    let (kind, next) = (r.header.kind, r.next);
                    let epoch =
                        EpochRecord::decode(r.payload).filter(|_| kind == RecordKind::Epoch);
                    let checkpoint = CheckpointRecord::decode(r.payload)
                        .filter(|_| kind == RecordKind::Checkpoint);
                    if let Some(e) = epoch {
                        self.remember(EpochStart { epoch: e.epoch, start: at });
                    }
                    if let Some(checkpoint) = checkpoint {
                        self.marks.note(at, checkpoint);
                    }
                    self.mark(at, records);
                    self.boundary = next;
                    records += 1;
                }
                None => {
                    let head = self.bytes(at, self.end.min(at + RECORD_HEADER_LEN as u64));
                    let whole = head.filter(|h| h.len() == RECORD_HEADER_LEN);
                    self.corrupt = whole.is_some_and(|h| RecordHeader::decode(h).is_err());
                    break;
                }
            }
        }
        self.tell_end(records);
    }

    /// Cuts what a deposed primary left uncommitted: everything from `at` (a record's position) on.
    pub fn truncate_to(&mut self, at: Position) {
        if at >= self.end {
            return;
        }
        let mut cut = 0;
        let cut_at = at.max(self.start);
        let mut next = cut_at;
        while let Some(record) = self.record(next) {
            (next, cut) = (record.next, cut + 1);
        }
        self.end = cut_at;
        self.boundary = self.boundary.min(self.end);
        self.corrupt = false;
        while self.history.last().is_some_and(|e| e.start >= self.end) {
            self.history.pop();
        }
        self.marks.truncate(self.end);
        let (cuts, end_records) = (self.told.cuts + 1, self.told.end_records - cut);
        self.tell(Extent {
            cuts,
            cut_at: self.boundary,
            cut_records: end_records,
            end: self.boundary,
            end_records,
            ..self.told
        });
        // What the mark of the last stretch says may be cut too: it is made again.
        self.marked = None;
    }

    /// Forgets everything and begins again at position 0.
    pub fn reset(&mut self) {
        self.restart_at(0);
        self.history.clear();
    }

    /// Forgets everything and begins at a position: what came before is covered by a checkpoint.
    /// `history`: the reigns that began before it.
    pub fn begin_at(&mut self, at: Position, history: &History) {
        self.restart_at(at);
        self.history = history.iter().copied().filter(|e| e.start < at).collect();
    }

    fn restart_at(&mut self, at: Position) {
        (self.start, self.end, self.boundary) = (at, at, at);
        self.corrupt = false;
        self.marks = Marks::default();
        self.marked = None;
        let (life, start_records) = (self.told.life + 1, self.told.end_records);
        self.tell(Extent { life, start: at, end: at, start_records, ..self.told });
    }

    /// Readers learn of it.
    fn tell(&mut self, now: Extent) {
        self.published.all(&now);
        self.told = now;
    }

    /// Readers learn where the whole records end.
    #[inline]
    fn tell_end(&mut self, end_records: u64) {
        self.told.end = self.boundary;
        self.told.end_records = end_records;
        self.published.end(self.boundary, end_records);
    }

    /// A record begins, with so many before it.
    #[inline]
    fn mark(&mut self, at: Position, records: u64) {
        let stretch = Published::stretch(at);
        if self.marked != Some(stretch) {
            self.marked = Some(stretch);
            self.published.mark(at, records);
        }
    }

    fn remember(&mut self, start: EpochStart) {
        if self.history.is_full() {
            self.history.remove(0);
        }
        self.history.push(start);
    }

    /// Moves the start so that the log may reach `end`, by whole records before `floor`.
    #[inline]
    fn make_room(&mut self, end: Position, floor: Position) -> Result<(), LogError> {
        if end.saturating_sub(self.start) <= self.capacity() {
            return Ok(());
        }
        self.overwrite(end, floor)
    }

    /// A start that leaves room behind `needed`, at the next stretch, and the records before it that
    /// go: reading the header of every old record would cost more than writing a new one does. Where
    /// that may not be, or is too much of the log, nothing goes.
    fn next_stretch(&self, needed: Position, floor: Position) -> (Position, u64) {
        let unmoved = (self.start, 0);
        if self.capacity() < Published::STRETCH_LEN * STRETCHES_MIN {
            return unmoved;
        }
        match self.published.marked(Published::stretch(needed) + 1) {
            Some((at, records)) if self.start < at && at <= floor => {
                (at, records - self.told.start_records)
            }
            _ => unmoved,
        }
    }

    #[inline(never)]
    fn overwrite(&mut self, end: Position, floor: Position) -> Result<(), LogError> {
        let capacity = self.capacity();
        let floor = floor.min(self.boundary);
        let (mut start, mut gone) = self.next_stretch(end - capacity, floor);
        while end.saturating_sub(start) > capacity {
            if start >= floor {
                return Err(if start >= self.end { LogError::Outside } else { LogError::Full });
            }
            match self.record_before(start, self.boundary) {
                Some(r) if r.next <= floor => (start, gone) = (r.next, gone + 1),
                _ => return Err(LogError::Full),
            }
        }
        if gone > 0 {
            self.start = start;
            // Before anything is written over: readers rely on it.
            self.told.start = start;
            self.told.start_records += gone;
            self.published.start(start, self.told.start_records);
        }
        Ok(())
    }
}

/// Writes a record's header and the zeros behind its payload; gives the payload's place.
#[inline]
fn fill_head<'a>(out: &'a mut [u8], header: &RecordHeader) -> &'a mut [u8] {
    let (head, body) = out.split_at_mut(RECORD_HEADER_LEN);
    head.copy_from_slice(&header.encode());
    // One store, whatever the length: the payload is written afterwards.
    if let Some(end) = body.last_chunk_mut::<8>() {
        *end = [0; 8];
    }
    &mut body[..header.len as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn log() -> CaptureLog {
        CaptureLog::new(4096).unwrap()
    }

    proptest! {
        /// Records, positions and what goes for them; or none of them, and nothing changed.
        #[test]
        fn a_burst_is_its_frames_one_by_one(
            bursts in prop::collection::vec(prop::collection::vec(0usize..600, 0..6), 1..20),
            keep in 0u64..4096,
        ) {
            let (mut all, mut each) = (log(), log());
            for (n, lens) in bursts.iter().enumerate() {
                let payloads: Vec<_> = lens.iter().map(|&len| vec![n as u8; len]).collect();
                let (end, floor) = (all.end(), all.end().saturating_sub(keep));
                let slices = payloads.iter().map(|p| &p[..]);
                let burst = all.append_burst(RecordKind::ClientFrame, n as u64, slices, floor);
                if burst.is_err() {
                    prop_assert_eq!(all.end(), end);
                    break;
                }
                let bytes = lens.iter().sum::<usize>() as u64;
                prop_assert_eq!(burst, Ok((end, bytes)));
                for payload in &payloads {
                    each.append(RecordKind::ClientFrame, n as u64, payload, floor).unwrap();
                }
                prop_assert_eq!((all.start(), all.end()), (each.start(), each.end()));
                prop_assert_eq!(all.bytes(all.start(), end), each.bytes(each.start(), end));
            }
        }
    }

    #[test]
    fn a_large_log_gives_up_little_more_than_it_must() {
        const CAPACITY: u64 = 1 << 22;
        let mut log = CaptureLog::new(CAPACITY as usize).unwrap();
        let mut records = 0;
        while log.end() < 3 * CAPACITY {
            let floor = log.end().saturating_sub(CAPACITY / 2);
            log.append(RecordKind::ClientFrame, 1, &[7; 1000], floor).unwrap();
            records += 1;
        }
        let held = log.end() - log.start();
        assert!(held <= CAPACITY && held > CAPACITY - 2 * Published::STRETCH_LEN, "{held}");
        let told = log.published.read();
        assert_eq!((told.start, told.end, told.end_records), (log.start(), log.end(), records));
        assert_eq!((told.end_records - told.start_records) * 1016, held);
        // What is needed stays.
        let (needed, start) = (log.start() + 10 * 1016, log.start());
        while log.append(RecordKind::ClientFrame, 1, &[7; 1000], needed).is_ok() {}
        assert!(log.start() > start && log.start() <= needed);
    }

    #[test]
    fn a_full_log_keeps_what_is_needed() {
        let mut log = log();
        while log.append(RecordKind::ClientFrame, 1, &[7; 100], 0).is_ok() {}
        assert_eq!(log.append(RecordKind::ClientFrame, 1, &[7; 100], 0), Err(LogError::Full));
        assert_eq!(log.start(), 0);
        let second = log.record(0).unwrap().next;
        assert!(log.append(RecordKind::ClientFrame, 1, &[8; 100], second).is_ok());
        assert_eq!(log.start(), second);
        assert!(log.record(0).is_none());
    }

    #[test]
    fn truncation_forgets_the_reigns_it_cuts() {
        let mut log = log();
        log.append_epoch(1, 1, 5, 0).unwrap();
        let cut = log.end();
        log.append_epoch(3, 2, 6, 0).unwrap();
        log.append(RecordKind::ClientFrame, 1, b"gone", 0).unwrap();
        assert_eq!(log.last_epoch(), 3);
        log.truncate_to(cut);
        assert_eq!((log.end(), log.boundary(), log.last_epoch()), (cut, cut, 1));
    }

    #[test]
    fn garbage_is_noticed_and_never_a_record() {
        let mut log = log();
        log.write_at(0, &[0xff; 64], 0).unwrap();
        log.extend_to(64);
        assert!(log.is_corrupt() && log.record(0).is_none() && log.boundary() == 0);
    }

    #[test]
    fn bytes_before_the_end_are_never_rewritten() {
        let mut log = log();
        log.append(RecordKind::ClientFrame, 1, b"fixed", 0).unwrap();
        assert_eq!(log.write_at(0, b"other", 0), Err(LogError::Outside));
    }

    proptest! {
        /// A replica fed any split of the primary's bytes holds the same records.
        #[test]
        fn a_replica_is_a_prefix(
            lens in proptest::collection::vec(0usize..300, 1..60),
            chunk in 1usize..200,
        ) {
            let mut primary = log();
            let mut replica = log();
            for (i, len) in lens.iter().enumerate() {
                let (pf, rf) = (primary.boundary(), replica.boundary());
                if i % 7 == 0 {
                    primary.append_epoch(i as u64 + 1, 1, 9, pf).unwrap();
                }
                let at = primary
                    .append(RecordKind::ClientFrame, i as u64, &vec![i as u8; *len], pf)
                    .unwrap();
                let _ = at;
                while replica.end() < primary.end() {
                    let from = replica.end();
                    let to = (from + chunk as u64).min(primary.end());
                    let bytes = primary.bytes(from, to).unwrap().to_vec();
                    replica.write_at(from, &bytes, rf).unwrap();
                    replica.extend_to(to);
                }
                let here = primary.record(at).unwrap();
                prop_assert_eq!(here.payload, &vec![i as u8; *len][..]);
                prop_assert_eq!(replica.record(at), Some(here));
                prop_assert_eq!(replica.boundary(), primary.end());
            }
            prop_assert_eq!(primary.history(), replica.history());
        }
    }
}
