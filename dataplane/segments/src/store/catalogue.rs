//! What a store keeps, told to other threads: queries and `status`.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::format::BlockEntry;
use crate::reader::Wanted;

/// Segments that are kept at most, however small.
const SEGMENTS_MAX: usize = 100_000;

/// One segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentMeta {
    /// Its number.
    pub id: u64,
    /// The run of the daemon that wrote it.
    pub run_ns: u64,
    /// Its file.
    pub path: PathBuf,
    /// Bytes of the file.
    pub bytes: u64,
    /// Records in it.
    pub records: u64,
    /// Time of the oldest record.
    pub first_ns: u64,
    /// Time of the youngest.
    pub last_ns: u64,
}

/// What is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Segments, the one that is written included.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Time of the oldest record.
    pub oldest_ns: Option<u64>,
    /// Records written since the start.
    pub written_records: u64,
    /// Bytes written since the start.
    pub written_bytes: u64,
    /// Blocks written since the start.
    pub blocks: u64,
    /// Records that were overwritten in memory before they could be written.
    pub lost_records: u64,
    /// Records that the disk did not take.
    pub unwritten_records: u64,
    /// Segments deleted because of their age or number.
    pub removed_segments: u64,
    /// Of these, because the disk was full.
    pub removed_for_space: u64,
    /// Segments that a dead writer had left and that were ended at the start.
    pub recovered_segments: u64,
    /// Bytes cut off them: blocks that were not whole.
    pub cut_bytes: u64,
    /// Files that were no segments and were set aside.
    pub damaged_files: u64,
    /// Segments that were left to the kernel to write to the disk.
    pub unsynced_segments: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Why the last one did.
    pub failed_because: Option<String>,
}

/// What a store keeps.
#[derive(Default)]
pub struct Catalogue {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Oldest first, without the one that is written.
    segments: std::collections::VecDeque<SegmentMeta>,
    active: Option<SegmentMeta>,
    kept: Kept,
    /// Run, end position and time of the last block that was written.
    written: Option<(u64, u64, u64)>,
}

impl Catalogue {
    pub(super) fn new(segments: Vec<SegmentMeta>) -> Catalogue {
        let inner = Inner { segments: segments.into(), ..Inner::default() };
        Catalogue { inner: Mutex::new(inner) }
    }

    /// A thread that panicked with it left whole numbers.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is counted.
    #[must_use]
    pub fn kept(&self) -> Kept {
        let inner = self.lock();
        let all = || inner.segments.iter().chain(&inner.active);
        Kept {
            segments: all().count() as u64,
            bytes: all().map(|s| s.bytes).sum(),
            oldest_ns: all().filter(|s| s.records > 0).map(|s| s.first_ns).min(),
            ..inner.kept.clone()
        }
    }

    /// The segments that may hold something of a time, oldest first, and how many may not.
    #[must_use]
    pub fn in_time(&self, wanted: &Wanted) -> (Vec<SegmentMeta>, u64) {
        let inner = self.lock();
        let all = inner.segments.iter().chain(&inner.active);
        let (mut found, mut others) = (Vec::new(), 0);
        for segment in all {
            // Of the one that is written more may come while it is read.
            let is_active = inner.active.as_ref().is_some_and(|a| a.id == segment.id);
            if is_active && segment.first_ns <= wanted.to_ns
                || wanted.is_in_time(segment.first_ns, segment.last_ns)
            {
                found.push(segment.clone());
            } else {
                others += 1;
            }
        }
        (found, others)
    }

    /// Up to which position of a run's log everything was written, or was lost, and the time of the last
    /// record before it.
    #[must_use]
    pub fn written(&self, run_ns: u64) -> Option<(u64, u64)> {
        let (run, position, last_ns) = self.lock().written?;
        (run == run_ns).then_some((position, last_ns))
    }

    /// Something went wrong.
    pub fn failed(&self, why: String) {
        let mut inner = self.lock();
        inner.kept.failures += 1;
        inner.kept.failed_because = Some(why);
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Kept)) {
        change(&mut self.lock().kept);
    }

    pub(super) fn begin(&self, segment: SegmentMeta) {
        self.lock().active = Some(segment);
    }

    pub(super) fn wrote(&self, entry: &BlockEntry, records: u64, bytes: u64) {
        let mut inner = self.lock();
        if let Some(active) = &mut inner.active {
            active.first_ns = if active.records == 0 {
                entry.first_ns
            } else {
                active.first_ns.min(entry.first_ns)
            };
            active.last_ns = active.last_ns.max(entry.last_ns);
            active.records += records;
            active.bytes = bytes;
            let run_ns = active.run_ns;
            inner.written = Some((run_ns, entry.end_position(), entry.last_ns));
        }
        inner.kept.blocks += 1;
        inner.kept.written_records += records;
        inner.kept.written_bytes += u64::from(entry.stored_bytes);
        // It goes well again.
        inner.kept.failed_because = None;
    }

    pub(super) fn sealed(&self, bytes: u64) {
        let mut inner = self.lock();
        if let Some(mut active) = inner.active.take() {
            active.bytes = bytes;
            inner.segments.push_back(active);
        }
    }

    pub(super) fn forget_active(&self) {
        self.lock().active = None;
    }

    /// The oldest ended segment, if all together are more than so many bytes, or it is older.
    pub(super) fn oldest_beyond(&self, keep_bytes: u64, old_ns: u64) -> Option<SegmentMeta> {
        let inner = self.lock();
        let oldest = inner.segments.front()?;
        let bytes: u64 = inner.segments.iter().chain(&inner.active).map(|s| s.bytes).sum();
        let is_too_much = bytes > keep_bytes || inner.segments.len() > SEGMENTS_MAX;
        (is_too_much || oldest.last_ns < old_ns).then(|| oldest.clone())
    }

    pub(super) fn removed(&self, id: u64) {
        let mut inner = self.lock();
        inner.segments.retain(|s| s.id != id);
        inner.kept.removed_segments += 1;
    }
}
