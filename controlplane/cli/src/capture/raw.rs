//! A capture of the log as it is, for `understudy replay`: a segment, as a capture-only node writes them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use understudy_api::Capturing;
use understudy_segments::{BlockBuilder, SegmentInfo, SegmentWriter};
use understudy_wire::record::RecordHeader;

/// A block is written when it is so large, or so old and nothing more comes.
const BLOCK_BYTES: usize = 1 << 20;
const BLOCK_AGE: Duration = Duration::from_secs(1);
/// Of the set that speaks for all blocks.
const KEYS_BYTES: usize = 64 << 10;

/// A recording that cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", .path.display())]
pub struct RawError {
    path: PathBuf,
    source: io::Error,
}

/// The log on its way to a file.
pub struct RawLog {
    writer: SegmentWriter,
    block: BlockBuilder,
    begun: Instant,
    /// Position behind the last record.
    next: u64,
}

impl RawLog {
    /// Makes the file; one that exists is left alone.
    pub fn create(path: &Path, from: &Capturing, now_ns: u64) -> Result<RawLog, RawError> {
        let info = SegmentInfo {
            id: 1,
            run_ns: now_ns,
            created_ns: now_ns,
            node: from.node.clone(),
            clock: from.clock.clone(),
            links: from.links.clone(),
            ..SegmentInfo::default()
        };
        let writer = SegmentWriter::create(path, info, KEYS_BYTES, false)
            .map_err(|source| RawError { path: path.into(), source })?;
        Ok(RawLog { writer, block: BlockBuilder::new(), begun: Instant::now(), next: 0 })
    }

    /// A record: its bytes with header and padding.
    pub fn push(
        &mut self,
        position: u64,
        header: &RecordHeader,
        stored: &[u8],
    ) -> Result<(), RawError> {
        // A block's records follow one another.
        if position != self.next || self.block.len() >= BLOCK_BYTES {
            self.write()?;
        }
        if self.block.is_empty() {
            self.begun = Instant::now();
        }
        self.block.push(position, header, stored);
        self.next = position + stored.len() as u64;
        Ok(())
    }

    /// So many records were lost after the last.
    pub fn lost(&mut self, records: u64) -> Result<(), RawError> {
        self.write()?;
        self.block.lost(records);
        Ok(())
    }

    /// Nothing more has come for now.
    pub fn pause(&mut self) -> Result<(), RawError> {
        if self.begun.elapsed() >= BLOCK_AGE { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), RawError> {
        if self.block.is_empty() {
            return Ok(());
        }
        if self.writer.is_full() {
            let full =
                io::Error::new(io::ErrorKind::FileTooLarge, "it has no room for more blocks");
            return Err(self.failed(full));
        }
        match self.writer.block(&mut self.block) {
            Ok(_) => Ok(()),
            Err(e) => Err(self.failed(e)),
        }
    }

    fn failed(&self, source: io::Error) -> RawError {
        RawError { path: self.writer.path().into(), source }
    }

    /// Ends the file, on disk.
    pub fn finish(mut self) -> Result<(), RawError> {
        self.write()?;
        let path = self.writer.path().to_path_buf();
        let synced = self.writer.seal().and_then(|file| file.sync_all());
        synced.map_err(|source| RawError { path, source })
    }
}
