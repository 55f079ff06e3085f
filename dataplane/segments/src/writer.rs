//! Writes one segment: whole blocks, one after the other; what was written in part is taken back.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::block::BlockBuilder;
use crate::bloom::Bloom;
use crate::format::{BLOCKS_MAX, BlockEntry, Footer, SegmentInfo};

/// What direct I/O wants of addresses, offsets and lengths.
const DIRECT_ALIGN: usize = 4096;

/// A segment that is written.
pub struct SegmentWriter {
    path: PathBuf,
    file: File,
    info: SegmentInfo,
    footer: Footer,
    end: u64,
    align: usize,
    buffer: AlignedBuffer,
}

/// Bytes that begin at an address direct I/O accepts.
#[derive(Default)]
struct AlignedBuffer {
    bytes: Vec<u8>,
    staged: Vec<u8>,
}

impl AlignedBuffer {
    /// The staged bytes, at an aligned address. One more copy, and no unsafe code.
    fn aligned(&mut self, align: usize) -> &[u8] {
        if align == 1 {
            return &self.staged;
        }
        let len = self.staged.len();
        self.bytes.resize(self.bytes.len().max(len + align), 0);
        let at = self.bytes.as_ptr().align_offset(align).min(align);
        self.bytes[at..at + len].copy_from_slice(&self.staged);
        &self.bytes[at..at + len]
    }
}

impl SegmentWriter {
    /// Makes the file. `keys_bytes`: of the set that speaks for the whole segment.
    ///
    /// # Errors
    /// If it cannot be made, or exists.
    pub fn create(
        path: &Path,
        info: SegmentInfo,
        keys_bytes: usize,
        direct: bool,
    ) -> io::Result<SegmentWriter> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o640);
        if direct {
            options.custom_flags(libc::O_DIRECT);
        }
        let file = options.open(path)?;
        let mut writer = SegmentWriter {
            path: path.into(),
            file,
            footer: Footer { blocks: Vec::new(), keys: Bloom::with_bytes(keys_bytes) },
            end: 0,
            align: if direct { DIRECT_ALIGN } else { 1 },
            buffer: AlignedBuffer::default(),
            info,
        };
        writer.buffer.staged = writer.info.encode();
        if let Err(e) = writer.write() {
            let _ = std::fs::remove_file(path);
            return Err(e);
        }
        Ok(writer)
    }

    /// Writes a block and clears it. After an error the block is as it was, and so is the file.
    ///
    /// # Errors
    /// If the disk is full or broken.
    pub fn block(&mut self, block: &mut BlockBuilder) -> io::Result<BlockEntry> {
        self.buffer.staged.clear();
        // Its keys may be in the footer although it is not written: then more is read, and that is all.
        let header = block.write_to(
            self.info.id,
            self.align,
            &mut self.footer.keys,
            &mut self.buffer.staged,
        );
        let entry = BlockEntry::of(&header, self.end);
        self.write()?;
        block.clear();
        self.footer.blocks.push(entry);
        Ok(entry)
    }

    /// The staged bytes to the end of the file, or none of them.
    fn write(&mut self) -> io::Result<()> {
        let bytes = self.buffer.aligned(self.align);
        let written = self.file.write_all_at(bytes, self.end);
        if let Err(e) = written {
            // What is left of it would be a torn block, which readers see as the end: no harm, if it
            // cannot be taken back either.
            let _ = self.file.set_len(self.end);
            return Err(e);
        }
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Ends it by the time index. What it gives is to be synced.
    ///
    /// # Errors
    /// If the index cannot be written; the blocks are there all the same.
    pub fn seal(mut self) -> io::Result<File> {
        self.buffer.staged = self.footer.encode(self.info.id, self.end, self.align);
        self.write()?;
        Ok(self.file)
    }

    /// Bytes so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.end
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.info.id
    }

    /// Blocks written.
    #[must_use]
    pub fn blocks(&self) -> &[BlockEntry] {
        &self.footer.blocks
    }

    /// Whether there is room in its index for one more block.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.footer.blocks.len() >= BLOCKS_MAX
    }

    /// Whether somebody has deleted the file: then what is written goes nowhere.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.file.metadata().is_ok_and(|m| m.nlink() == 0)
    }
}
