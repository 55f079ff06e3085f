//! Reads a segment: by its index where it was ended, block by block where it was not.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use understudy_wire::record::records;

use crate::bloom::Bloom;
use crate::format::{
    BLOCK_HEADER_BYTES, BLOCKS_MAX, BlockEntry, BlockHeader, FILE_HEADER_BYTES, Footer,
    FormatError, SegmentInfo, TRAILER_BYTES, Trailer,
};
use crate::query::Needs;

/// A footer is no longer.
const FOOTER_BYTES_MAX: u32 = 8 << 20;

/// A segment that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The file.
    #[error("cannot read {}: {source}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in it.
    #[error("{}: {source}", .path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// Why.
        source: FormatError,
    },
}

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Records that are not older, ns since 1970.
    pub from_ns: u64,
    /// Records that are not younger.
    pub to_ns: u64,
    /// What a block must hold.
    pub needs: Needs,
}

impl Wanted {
    /// Whether something of that time may be wanted.
    #[must_use]
    pub fn is_in_time(&self, first_ns: u64, last_ns: u64) -> bool {
        first_ns <= self.to_ns && last_ns >= self.from_ns
    }
}

/// A block's records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadBlock {
    /// Its header.
    pub header: BlockHeader,
    /// The records, one after the other, as in the log.
    pub records: Vec<u8>,
}

impl ReadBlock {
    /// The records of a time, and the position of the first. In a block their times do not decrease.
    #[must_use]
    pub fn between(&self, from_ns: u64, to_ns: u64) -> (u64, &[u8]) {
        let (mut first, mut end) = (0, 0);
        for record in records(&self.records).take_while(|r| r.header.timestamp_ns <= to_ns) {
            end = record.next;
            if record.header.timestamp_ns < from_ns {
                first = end;
            }
        }
        (self.header.position + first as u64, &self.records[first..end])
    }
}

/// An open segment.
pub struct Segment {
    path: PathBuf,
    file: File,
    info: SegmentInfo,
    blocks: Vec<BlockEntry>,
    /// Keys of all blocks; says yes to everything where the segment was not ended.
    keys: Bloom,
    is_sealed: bool,
    /// Where its whole blocks end.
    end: u64,
}

impl Segment {
    /// Opens a file. One that was not ended is walked through by its blocks' headers.
    ///
    /// # Errors
    /// If it cannot be read, or is no segment.
    pub fn open(path: &Path) -> Result<Segment, SegmentError> {
        let failed = |source| SegmentError::Io { path: path.into(), source };
        let malformed = |source| SegmentError::Format { path: path.into(), source };
        let file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let mut head = vec![0; FILE_HEADER_BYTES.min(usize::try_from(len).unwrap_or(usize::MAX))];
        file.read_exact_at(&mut head, 0).map_err(failed)?;
        let info = SegmentInfo::decode(&head).map_err(malformed)?;
        let mut segment = Segment {
            path: path.into(),
            file,
            info,
            blocks: Vec::new(),
            keys: Bloom::default(),
            is_sealed: false,
            end: FILE_HEADER_BYTES as u64,
        };
        match segment.footer(len).map_err(failed)? {
            Some((trailer, footer)) => {
                (segment.blocks, segment.keys) = (footer.blocks, footer.keys);
                (segment.is_sealed, segment.end) = (true, trailer.footer_at);
            }
            None => segment.walk(len).map_err(failed)?,
        }
        Ok(segment)
    }

    /// The end of the file, if it is one.
    fn footer(&self, len: u64) -> io::Result<Option<(Trailer, Footer)>> {
        let Some(at) = len.checked_sub(TRAILER_BYTES as u64) else { return Ok(None) };
        let mut tail = [0; TRAILER_BYTES];
        self.file.read_exact_at(&mut tail, at)?;
        let Ok(trailer) = Trailer::decode(&tail) else { return Ok(None) };
        let footer_end = trailer.footer_at.checked_add(trailer.footer_bytes.into());
        if trailer.segment != self.info.id
            || trailer.footer_bytes > FOOTER_BYTES_MAX
            || footer_end.is_none_or(|end| end > at)
        {
            return Ok(None);
        }
        let mut bytes = vec![0; trailer.footer_bytes as usize];
        self.file.read_exact_at(&mut bytes, trailer.footer_at)?;
        Ok(Footer::decode(&bytes, &trailer).ok().map(|footer| (trailer, footer)))
    }

    /// Follows the headers of blocks to the last that is whole by its length.
    fn walk(&mut self, len: u64) -> io::Result<()> {
        while self.blocks.len() < BLOCKS_MAX {
            let Some(header) = self.header_at(self.end, len)? else { break };
            self.blocks.push(BlockEntry::of(&header, self.end));
            self.end += u64::from(header.stored_bytes);
        }
        Ok(())
    }

    fn header_at(&self, at: u64, len: u64) -> io::Result<Option<BlockHeader>> {
        if at + BLOCK_HEADER_BYTES as u64 > len {
            return Ok(None);
        }
        let mut bytes = [0; BLOCK_HEADER_BYTES];
        self.file.read_exact_at(&mut bytes, at)?;
        let header = BlockHeader::decode(&bytes).ok().filter(|h| h.segment == self.info.id);
        Ok(header.filter(|h| at + u64::from(h.stored_bytes) <= len))
    }

    /// What it was captured with.
    #[must_use]
    pub fn info(&self) -> &SegmentInfo {
        &self.info
    }

    /// Its blocks, oldest first.
    #[must_use]
    pub fn blocks(&self) -> &[BlockEntry] {
        &self.blocks
    }

    /// Whether it was ended.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.is_sealed
    }

    /// Where its blocks end.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Whether any of it may be wanted, by what is known of it as a whole.
    #[must_use]
    pub fn may_hold(&self, wanted: &Wanted) -> bool {
        let first_ns = self.blocks.iter().map(|b| b.first_ns).min();
        let last_ns = self.blocks.iter().map(|b| b.last_ns).max();
        first_ns.zip(last_ns).is_some_and(|(first, last)| wanted.is_in_time(first, last))
            && wanted.needs.may_be_in(&self.keys)
    }

    /// A block, if by its keys it may hold what is needed; `None` if it holds nothing of that.
    ///
    /// # Errors
    /// If it cannot be read, or is damaged.
    pub fn read(
        &self,
        entry: &BlockEntry,
        needs: &Needs,
    ) -> Result<Option<ReadBlock>, SegmentError> {
        let failed = |source| SegmentError::Io { path: self.path.clone(), source };
        let malformed = |source| SegmentError::Format { path: self.path.clone(), source };
        let mut head = vec![0; BLOCK_HEADER_BYTES + entry.keys_bytes as usize];
        self.file.read_exact_at(&mut head, entry.offset).map_err(failed)?;
        let header = BlockHeader::decode(&head).map_err(malformed)?;
        if BlockEntry::of(&header, entry.offset) != *entry {
            return Err(malformed(FormatError::Contradiction("block header")));
        }
        let keys = &head[BLOCK_HEADER_BYTES..];
        if crc32fast::hash(keys) != header.keys_sum {
            return Err(malformed(FormatError::Checksum("block's keys")));
        }
        if !needs.may_be_in(&Bloom::from_bytes(keys.to_vec())) {
            return Ok(None);
        }
        let mut records = vec![0; header.records_bytes as usize];
        self.file.read_exact_at(&mut records, entry.offset + head.len() as u64).map_err(failed)?;
        if crc32fast::hash(&records) != header.records_sum || !are_records(&records, header.records)
        {
            return Err(malformed(FormatError::Checksum("block's records")));
        }
        Ok(Some(ReadBlock { header, records }))
    }
}

/// Whether bytes are so many whole records.
fn are_records(bytes: &[u8], count: u32) -> bool {
    let whole = records(bytes).fold((0, 0), |(_, found), record| (record.next, found + 1));
    whole == (bytes.len(), count)
}
