//! Where the log begins and ends, told to other threads by the one that writes it.
//!
//! A seqlock over a few words: the writer never waits, a reader tries again. The writer says that the
//! start moves *before* it writes over what was there, so a reader that copies a range and finds the
//! start at or before it afterwards has copied what was meant.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use understudy_wire::Position;

/// log2 of the bytes between two marks. Every stretch holds the start of a record: none is so long.
const MARK_SHIFT: u32 = 16;
const _: () = assert!(
    understudy_wire::record::stored_len(understudy_wire::record::RECORD_PAYLOAD_MAX)
        < 1 << MARK_SHIFT
);

/// What the log holds, at one moment. Records are counted from the first ever written here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Changes when everything was forgotten and positions begin anew.
    pub life: u64,
    /// How often the end was taken back.
    pub cuts: u64,
    /// Where to, the last time.
    pub cut_at: Position,
    /// The records before that.
    pub cut_records: u64,
    /// The oldest position held.
    pub start: Position,
    /// The records before it.
    pub start_records: u64,
    /// The end of the last whole record.
    pub end: Position,
    /// The records before it.
    pub end_records: u64,
}

/// The words.
pub(crate) struct Published {
    /// In a cache line or two of their own: what readers do costs the writer nothing else.
    words: Words,
    /// As many as there are stretches in the log; a power of two.
    marks: Box<[Mark]>,
}

/// The first record of a stretch. Believed only by who finds afterwards that the log held its
/// position all the time: until then it is not written again.
struct Mark {
    at: AtomicU64,
    records: AtomicU64,
}

#[repr(align(128))]
#[derive(Default)]
struct Words {
    /// Odd while the others change.
    version: AtomicU64,
    life: AtomicU64,
    cuts: AtomicU64,
    cut_at: AtomicU64,
    cut_records: AtomicU64,
    start: AtomicU64,
    start_records: AtomicU64,
    end: AtomicU64,
    end_records: AtomicU64,
}

impl Published {
    pub(crate) fn new(capacity: u64) -> Published {
        let marks = (capacity >> MARK_SHIFT).max(1);
        let none = || Mark { at: AtomicU64::new(u64::MAX), records: AtomicU64::new(0) };
        Published { words: Words::default(), marks: (0..marks).map(|_| none()).collect() }
    }

    /// The writer's, as the two below: only one thread calls them. Records were appended.
    #[inline]
    pub(crate) fn end(&self, end: Position, end_records: u64) {
        self.change(|w| {
            w.end.store(end, Ordering::Relaxed);
            w.end_records.store(end_records, Ordering::Relaxed);
        });
    }

    /// Records are about to be written over.
    #[inline]
    pub(crate) fn start(&self, start: Position, start_records: u64) {
        self.change(|w| {
            w.start.store(start, Ordering::Relaxed);
            w.start_records.store(start_records, Ordering::Relaxed);
        });
    }

    /// Everything may have changed.
    pub(crate) fn all(&self, now: &Extent) {
        self.change(|w| {
            w.life.store(now.life, Ordering::Relaxed);
            w.cuts.store(now.cuts, Ordering::Relaxed);
            w.cut_at.store(now.cut_at, Ordering::Relaxed);
            w.cut_records.store(now.cut_records, Ordering::Relaxed);
            w.start.store(now.start, Ordering::Relaxed);
            w.start_records.store(now.start_records, Ordering::Relaxed);
            w.end.store(now.end, Ordering::Relaxed);
            w.end_records.store(now.end_records, Ordering::Relaxed);
        });
    }

    #[inline]
    fn change(&self, store: impl FnOnce(&Words)) {
        let version = self.words.version.load(Ordering::Relaxed);
        self.words.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        store(&self.words);
        self.words.version.store(version + 2, Ordering::Release);
        // No byte of the log that is written from here on is seen by who has not seen this.
        fence(Ordering::Release);
    }

    /// One moment's. Also orders all that was read before it.
    pub(crate) fn read(&self) -> Extent {
        let w = &self.words;
        fence(Ordering::Acquire);
        loop {
            let version = w.version.load(Ordering::Acquire);
            let extent = Extent {
                life: w.life.load(Ordering::Relaxed),
                cuts: w.cuts.load(Ordering::Relaxed),
                cut_at: w.cut_at.load(Ordering::Relaxed),
                cut_records: w.cut_records.load(Ordering::Relaxed),
                start: w.start.load(Ordering::Relaxed),
                start_records: w.start_records.load(Ordering::Relaxed),
                end: w.end.load(Ordering::Relaxed),
                end_records: w.end_records.load(Ordering::Relaxed),
            };
            fence(Ordering::Acquire);
            if version.is_multiple_of(2) && w.version.load(Ordering::Relaxed) == version {
                return extent;
            }
            // The writer may have lost its CPU in between.
            std::thread::yield_now();
        }
    }

    /// Bytes between two marks.
    pub(crate) const STRETCH_LEN: u64 = 1 << MARK_SHIFT;

    #[inline]
    pub(crate) const fn stretch(at: Position) -> u64 {
        at >> MARK_SHIFT
    }

    /// The writer's: a record begins here, the first of its stretch, with so many before it.
    pub(crate) fn mark(&self, at: Position, records: u64) {
        let mark = &self.marks[self.slot(Self::stretch(at))];
        mark.at.store(at, Ordering::Relaxed);
        mark.records.store(records, Ordering::Relaxed);
    }

    /// Where the first record of a stretch begins, and the records before it.
    pub(crate) fn marked(&self, stretch: u64) -> Option<(Position, u64)> {
        let mark = &self.marks[self.slot(stretch)];
        let at = mark.at.load(Ordering::Relaxed);
        let records = mark.records.load(Ordering::Relaxed);
        (Self::stretch(at) == stretch).then_some((at, records))
    }

    fn slot(&self, stretch: u64) -> usize {
        stretch as usize & (self.marks.len() - 1)
    }
}
