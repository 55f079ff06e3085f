//! A directory of segments as a ring: the newest is written, the oldest go.
//!
//! Nothing that goes wrong with the disk stops it: what cannot be written is counted and dropped, the
//! reason is kept for the operator, and it is tried again.

mod catalogue;
mod recover;

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use understudy_wire::record::RecordHeader;

pub use catalogue::{Catalogue, Kept, SegmentMeta};
pub use recover::{Recovered, list};

use crate::block::BlockBuilder;
use crate::format::{BLOCK_RECORDS_BYTES_MAX, SegmentInfo};
use crate::writer::SegmentWriter;

/// Segments that wait to be forced to the disk.
const SYNCS_MAX: usize = 4;
/// After an error the disk is left alone for so long.
const RETRY_INTERVAL_NS: u64 = 500_000_000;
/// How often age, and whether the files are still there, is looked at.
const LOOK_INTERVAL_NS: u64 = 250_000_000;
/// A segment's set of keys takes this part of its bytes, and no less than that.
const KEYS_PART: u64 = 256;
const KEYS_BYTES_MIN: u64 = 4096;
const LOCK_NAME: &str = "lock";

/// How much, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a segment; it ends with the block that reaches them.
    pub segment_bytes: u64,
    /// Bytes of records in a block, at most.
    pub block_bytes: usize,
    /// Bytes of all segments.
    pub keep_bytes: u64,
    /// Age of the youngest record of a segment that is kept, ns; 0: any.
    pub keep_ns: u64,
    /// Records wait no longer for their block to be full.
    pub flush_ns: u64,
    /// Past the page cache.
    pub direct: bool,
}

/// The directory, as its one writer has it.
pub struct Store {
    dir: PathBuf,
    limits: Limits,
    /// What segments are made with; the number is the next one's.
    info: SegmentInfo,
    block: BlockBuilder,
    /// When the first record of the block came.
    block_since_ns: u64,
    writer: Option<SegmentWriter>,
    catalogue: Arc<Catalogue>,
    retry_at_ns: u64,
    look_at_ns: u64,
    syncer: Option<Syncer>,
    /// Held while the store lives.
    _lock: File,
}

/// Forces ended segments to the disk, beside the writer.
struct Syncer {
    files: SyncSender<File>,
    thread: JoinHandle<()>,
}

impl Store {
    /// Takes a directory, ends what a dead writer left, and says what that was.
    ///
    /// # Errors
    /// If the directory cannot be made or read, or another daemon has it.
    pub fn open(dir: &Path, limits: Limits, info: SegmentInfo) -> io::Result<(Store, Recovered)> {
        make_directory(dir)?;
        let lock = File::options().create(true).append(true).open(dir.join(LOCK_NAME))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other("another daemon writes to this directory"));
            }
            Err(TryLockError::Error(e)) => return Err(e),
        }
        let (segments, recovered) = recover::recover(dir)?;
        let id = segments.last().map_or(0, |s| s.id) + 1;
        let catalogue = Arc::new(Catalogue::new(segments));
        let syncer = Syncer::start(dir, Arc::clone(&catalogue))?;
        let limits = Limits {
            block_bytes: limits.block_bytes.clamp(1, BLOCK_RECORDS_BYTES_MAX / 2),
            ..limits
        };
        let store = Store {
            dir: dir.into(),
            limits,
            info: SegmentInfo { id, ..info },
            block: BlockBuilder::new(),
            block_since_ns: 0,
            writer: None,
            catalogue,
            retry_at_ns: 0,
            look_at_ns: 0,
            syncer: Some(syncer),
            _lock: lock,
        };
        store.catalogue.change(|kept| {
            kept.recovered_segments = recovered.segments;
            kept.cut_bytes = recovered.cut_bytes;
            kept.damaged_files = recovered.damaged_files;
        });
        Ok((store, recovered))
    }

    /// What is kept, for other threads.
    #[must_use]
    pub fn catalogue(&self) -> Arc<Catalogue> {
        Arc::clone(&self.catalogue)
    }

    /// Takes whole records of the log, the first at this position.
    pub fn records(&mut self, position: u64, bytes: &[u8], now_ns: u64) {
        let mut at = 0;
        while let Some((header, stored)) = record_at(bytes, at) {
            if self.block.is_empty() {
                self.block_since_ns = now_ns;
            }
            self.block.push(position + at as u64, &header, stored);
            at += stored.len();
            if self.block.len() >= self.limits.block_bytes {
                self.flush(now_ns);
            }
        }
    }

    /// Other limits from now on: bytes and age (ns) of what is kept, and how long records wait for their
    /// block. What is too much by them goes at the next look.
    pub fn set_kept(&mut self, keep_bytes: u64, keep_ns: u64, flush_ns: u64) {
        let limits = &mut self.limits;
        (limits.keep_bytes, limits.keep_ns, limits.flush_ns) = (keep_bytes, keep_ns, flush_ns);
    }

    /// Records of the log were overwritten before they came here.
    pub fn lost(&mut self, records: u64) {
        self.block.lost(records);
        self.catalogue.change(|kept| kept.lost_records += records);
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ns: u64) {
        if !self.block.is_empty() && now_ns >= self.block_since_ns + self.limits.flush_ns {
            self.flush(now_ns);
        }
        if now_ns >= self.look_at_ns {
            self.look_at_ns = now_ns + LOOK_INTERVAL_NS;
            if self.writer.as_ref().is_some_and(SegmentWriter::is_gone) {
                self.writer = None;
                self.catalogue.forget_active();
                self.catalogue.failed("the segment that was written has been deleted".into());
            }
            self.retain(now_ns);
        }
    }

    /// Writes what waits and ends the segment.
    pub fn close(mut self, now_ns: u64) {
        self.retry_at_ns = 0;
        self.flush(now_ns);
        self.seal();
        if let Some(syncer) = self.syncer.take() {
            drop(syncer.files);
            let _ = syncer.thread.join();
        }
    }

    /// Writes the block, to a segment that is begun if there is none.
    fn flush(&mut self, now_ns: u64) {
        if self.block.is_empty() {
            return;
        }
        let records = u64::from(self.block.records());
        let mut written = if now_ns < self.retry_at_ns { None } else { Some(self.write(now_ns)) };
        while let Some(Err(e)) = &written
            && matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            && self.make_room()
        {
            written = Some(self.write(now_ns));
        }
        match written {
            Some(Ok(())) => {}
            Some(Err(e)) => {
                self.retry_at_ns = now_ns + RETRY_INTERVAL_NS;
                self.catalogue.failed(format!("{}: {e}", self.dir.display()));
                self.drop_block(records);
            }
            None => self.drop_block(records),
        }
        if self
            .writer
            .as_ref()
            .is_some_and(|w| w.bytes() >= self.limits.segment_bytes || w.is_full())
        {
            self.seal();
            self.retain(now_ns);
        }
    }

    /// The block cannot be written: the next one says how many records that were.
    fn drop_block(&mut self, records: u64) {
        let before = self.block.take_lost();
        self.block.clear();
        self.block.lost(before + records);
        self.catalogue.change(|kept| kept.unwritten_records += records);
    }

    fn write(&mut self, now_ns: u64) -> io::Result<()> {
        if self.writer.is_none() {
            self.begin(now_ns)?;
        }
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let records = u64::from(self.block.records());
        let entry = writer.block(&mut self.block)?;
        self.catalogue.wrote(&entry, records, writer.bytes());
        Ok(())
    }

    fn begin(&mut self, now_ns: u64) -> io::Result<()> {
        // It may have been removed since.
        make_directory(&self.dir)?;
        let path = recover::path_of(&self.dir, self.info.id);
        let info = SegmentInfo { created_ns: now_ns, ..self.info.clone() };
        let keys_bytes = keys_bytes(self.limits.segment_bytes);
        let writer = SegmentWriter::create(&path, info, keys_bytes, self.limits.direct)
            .map_err(|e| if self.limits.direct { direct_hint(e) } else { e })?;
        self.catalogue.begin(SegmentMeta {
            id: self.info.id,
            run_ns: self.info.run_ns,
            path,
            bytes: writer.bytes(),
            records: 0,
            first_ns: 0,
            last_ns: 0,
        });
        self.info.id += 1;
        self.writer = Some(writer);
        Ok(())
    }

    /// Ends the segment; its index is made again at the next start if it cannot be written.
    fn seal(&mut self) {
        let Some(writer) = self.writer.take() else { return };
        let path = writer.path().to_path_buf();
        match writer.seal() {
            Ok(file) => {
                let bytes = file.metadata().map_or(0, |m| m.len());
                self.catalogue.sealed(bytes);
                let refused = self.syncer.as_ref().map(|s| s.files.try_send(file));
                if let Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) = refused {
                    self.catalogue.change(|kept| kept.unsynced_segments += 1);
                }
            }
            Err(e) => {
                self.catalogue.sealed(fs::metadata(&path).map_or(0, |m| m.len()));
                self.catalogue.failed(format!("{} was not ended: {e}", path.display()));
            }
        }
    }

    /// Deletes what is too much or too old.
    fn retain(&mut self, now_ns: u64) {
        let old_ns = match self.limits.keep_ns {
            0 => 0,
            keep_ns => now_ns.saturating_sub(keep_ns),
        };
        while let Some(oldest) = self.catalogue.oldest_beyond(self.limits.keep_bytes, old_ns) {
            if !self.remove(&oldest) {
                return;
            }
        }
    }

    /// The disk is full: the oldest segment goes, if there is one.
    fn make_room(&mut self) -> bool {
        let Some(oldest) = self.catalogue.oldest_beyond(0, 0) else { return false };
        let removed = self.remove(&oldest);
        if removed {
            self.catalogue.change(|kept| kept.removed_for_space += 1);
        }
        removed
    }

    fn remove(&mut self, oldest: &SegmentMeta) -> bool {
        match fs::remove_file(&oldest.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                self.catalogue.failed(format!("cannot delete {}: {e}", oldest.path.display()));
                false
            }
            _ => {
                self.catalogue.removed(oldest.id);
                true
            }
        }
    }
}

/// Of the set that speaks for a whole segment.
fn keys_bytes(segment_bytes: u64) -> usize {
    usize::try_from((segment_bytes / KEYS_PART).max(KEYS_BYTES_MIN)).unwrap_or(usize::MAX)
}

/// Not for everybody: what others said is in it.
fn make_directory(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)
}

fn record_at(bytes: &[u8], at: usize) -> Option<(RecordHeader, &[u8])> {
    let rest = bytes.get(at..)?;
    let header = RecordHeader::decode(rest).ok()?;
    Some((header, rest.get(..header.stored_len())?))
}

fn direct_hint(e: io::Error) -> io::Error {
    match e.kind() {
        io::ErrorKind::InvalidInput => io::Error::new(
            e.kind(),
            format!("{e}; its file system may not have direct I/O: set capture.direct = false"),
        ),
        _ => e,
    }
}

impl Syncer {
    fn start(dir: &Path, catalogue: Arc<Catalogue>) -> io::Result<Syncer> {
        let (files, waiting) = sync_channel::<File>(SYNCS_MAX);
        let dir = dir.to_path_buf();
        let thread = std::thread::Builder::new().name("segment-sync".into()).spawn(move || {
            for file in waiting {
                let synced = file.sync_all().and_then(|()| File::open(&dir)?.sync_all());
                if let Err(e) = synced {
                    catalogue.failed(format!("cannot force a segment to the disk: {e}"));
                }
            }
        })?;
        Ok(Syncer { files, thread })
    }
}
