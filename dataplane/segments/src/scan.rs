//! Reads what is wanted of many segments, and counts what it did not have to read.

use std::io;
use std::path::Path;

use crate::format::SegmentInfo;
use crate::reader::{ReadBlock, Segment, SegmentError, Wanted};

/// How much was read, and how much not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Segments that something was read of.
    pub segments_read: u64,
    /// Segments that hold nothing of the time or of what is needed.
    pub segments_skipped: u64,
    /// Blocks whose records were read.
    pub blocks_read: u64,
    /// Blocks of opened segments that were not.
    pub blocks_skipped: u64,
    /// Bytes of records that were read.
    pub bytes_read: u64,
    /// Blocks and segments that could not be read.
    pub damaged: u64,
}

/// What a scan comes upon.
pub enum Found<'a> {
    /// A segment begins of which something may be read.
    Segment(&'a SegmentInfo),
    /// A block that may hold what is wanted.
    Block(&'a SegmentInfo, &'a ReadBlock),
    /// Something was left out; time passes.
    Skipped,
    /// Something cannot be read.
    Damaged(&'a SegmentError),
}

/// What is read of segments, from where on.
pub struct Scan {
    /// What is looked for.
    pub wanted: Wanted,
    /// Of this run of the daemon, only what is not before a position.
    pub after: Option<(u64, u64)>,
    /// What was done so far.
    pub scanned: Scanned,
}

impl Scan {
    /// From the oldest on.
    #[must_use]
    pub fn new(wanted: Wanted) -> Scan {
        Scan { wanted, after: None, scanned: Scanned::default() }
    }

    /// Reads one segment. One that has been deleted meanwhile is passed over.
    ///
    /// # Errors
    /// Only `each`'s.
    pub fn segment<E>(
        &mut self,
        path: &Path,
        each: &mut impl FnMut(Found<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let segment = match Segment::open(path) {
            Ok(segment) => segment,
            Err(SegmentError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(());
            }
            Err(e) => {
                self.scanned.damaged += 1;
                return each(Found::Damaged(&e));
            }
        };
        if !segment.may_hold(&self.wanted) {
            self.scanned.segments_skipped += 1;
            return each(Found::Skipped);
        }
        let read_before = self.scanned.blocks_read;
        each(Found::Segment(segment.info()))?;
        for entry in segment.blocks() {
            let run_ns = segment.info().run_ns;
            let is_sent =
                self.after.is_some_and(|(run, at)| run == run_ns && entry.end_position() <= at);
            let is_wanted = !is_sent && self.wanted.is_in_time(entry.first_ns, entry.last_ns);
            let block = if is_wanted { segment.read(entry, &self.wanted.needs) } else { Ok(None) };
            match block {
                Ok(Some(block)) => {
                    self.scanned.blocks_read += 1;
                    self.scanned.bytes_read += block.records.len() as u64;
                    each(Found::Block(segment.info(), &block))?;
                }
                Ok(None) => {
                    self.scanned.blocks_skipped += 1;
                    each(Found::Skipped)?;
                }
                Err(e) => {
                    self.scanned.damaged += 1;
                    each(Found::Damaged(&e))?;
                    // One that is written may end here as yet.
                    if !segment.is_sealed() {
                        break;
                    }
                }
            }
        }
        let read_any = self.scanned.blocks_read > read_before;
        if read_any {
            self.scanned.segments_read += 1
        } else {
            self.scanned.segments_skipped += 1
        }
        Ok(())
    }
}
