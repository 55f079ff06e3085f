//! How a segment is laid out. Little-endian; every part has a checksum of its own.
//!
//! ```text
//! | file header, 8 KiB | block | block | ... | footer: time index, keys of all | trailer |
//! block: | header, 96 bytes | keys (a Bloom filter) | records of the capture log | padding |
//! ```
//! A file without a trailer is one that is written, or was when its writer died: its blocks are read one
//! after the other, as far as they are whole.

use crate::bloom::{BLOOM_BYTES_MAX, Bloom};

/// Bytes of the file header.
pub const FILE_HEADER_BYTES: usize = 8192;
/// Bytes of a block's header.
pub const BLOCK_HEADER_BYTES: usize = 96;
/// Bytes of the trailer, the last in the file.
pub const TRAILER_BYTES: usize = 64;
/// Bytes of a block's entry in the time index.
const ENTRY_BYTES: usize = 48;
/// No block holds more bytes of records.
pub const BLOCK_RECORDS_BYTES_MAX: usize = 4 << 20;
/// No segment has more blocks.
pub const BLOCKS_MAX: usize = 65_536;
const FILE_MAGIC: [u8; 8] = *b"USEGMNT1";
const BLOCK_MAGIC: [u8; 8] = *b"USEGBLK1";
const TRAILER_MAGIC: [u8; 8] = *b"USEGEND1";
/// No text of the file header is longer; the rest is cut off.
const TEXT_BYTES_MAX: usize = 1024;
/// Links in the file header.
pub const LINKS_MAX: usize = 8;
const LINK_BYTES_MAX: usize = 256;

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Something else, or of another version.
    #[error("it is no {0} of a segment")]
    Magic(&'static str),
    /// Damaged.
    #[error("the checksum of the {0} is wrong")]
    Checksum(&'static str),
    /// The lengths contradict each other.
    #[error("the {0} contradicts itself")]
    Contradiction(&'static str),
    /// Cut short.
    #[error("the {0} is cut short")]
    Short(&'static str),
}

/// What a segment's records were captured with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Number of the segment; a later one's is larger.
    pub id: u64,
    /// When the daemon that wrote it started, ns since 1970: positions of one run are of one log.
    pub run_ns: u64,
    /// When it was begun, ns since 1970.
    pub created_ns: u64,
    /// Bytes kept of a frame; 0 for all.
    pub snap_len: u32,
    /// Name of the node.
    pub node: String,
    /// What stamped the frames.
    pub clock: String,
    /// The filter in the data path; empty for none.
    pub filter: String,
    /// The links, in the order of the records' numbers for them.
    pub links: Vec<String>,
}

struct Out(Vec<u8>);

impl Out {
    fn u32(&mut self, v: u32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn u64(&mut self, v: u64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn text(&mut self, text: &str, max: usize) {
        let mut end = text.len().min(max);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.u32(end as u32);
        self.0.extend_from_slice(&text.as_bytes()[..end]);
    }
}

struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }
    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?))
    }
    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }
    fn text(&mut self) -> Option<String> {
        let len = self.u32()? as usize;
        Some(String::from_utf8_lossy(self.bytes(len)?).into_owned())
    }
}

/// The checksum of all but the last four bytes, in these.
fn seal(bytes: &mut [u8]) {
    let (body, sum) = bytes.split_at_mut(bytes.len() - 4);
    sum.copy_from_slice(&crc32fast::hash(body).to_le_bytes());
}

fn is_sealed(bytes: &[u8]) -> bool {
    let (body, sum) = bytes.split_at(bytes.len() - 4);
    crc32fast::hash(body).to_le_bytes() == sum
}

impl SegmentInfo {
    /// The file header.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Out(Vec::with_capacity(FILE_HEADER_BYTES));
        out.0.extend_from_slice(&FILE_MAGIC);
        out.u64(self.id);
        out.u64(self.run_ns);
        out.u64(self.created_ns);
        out.u32(self.snap_len);
        let links = &self.links[..self.links.len().min(LINKS_MAX)];
        out.u32(links.len() as u32);
        for text in [&self.node, &self.clock, &self.filter] {
            out.text(text, TEXT_BYTES_MAX);
        }
        links.iter().for_each(|link| out.text(link, LINK_BYTES_MAX));
        out.0.resize(FILE_HEADER_BYTES, 0);
        seal(&mut out.0);
        out.0
    }

    /// Reads a file header.
    ///
    /// # Errors
    /// If it is none, or damaged.
    pub fn decode(bytes: &[u8]) -> Result<SegmentInfo, FormatError> {
        const WHAT: &str = "file header";
        let bytes = bytes.get(..FILE_HEADER_BYTES).ok_or(FormatError::Short(WHAT))?;
        if bytes[..8] != FILE_MAGIC {
            return Err(FormatError::Magic(WHAT));
        }
        if !is_sealed(bytes) {
            return Err(FormatError::Checksum(WHAT));
        }
        Self::fields(&mut In(&bytes[8..])).ok_or(FormatError::Contradiction(WHAT))
    }

    fn fields(input: &mut In<'_>) -> Option<SegmentInfo> {
        let (id, run_ns, created_ns) = (input.u64()?, input.u64()?, input.u64()?);
        let (snap_len, links) = (input.u32()?, input.u32()? as usize);
        let (node, clock, filter) = (input.text()?, input.text()?, input.text()?);
        let links = (0..links.min(LINKS_MAX)).map(|_| input.text()).collect::<Option<_>>()?;
        Some(SegmentInfo { id, run_ns, created_ns, snap_len, node, clock, filter, links })
    }
}

/// A block's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockHeader {
    /// The segment it belongs to.
    pub segment: u64,
    /// Header, keys, records and padding.
    pub stored_bytes: u32,
    /// Bytes of the keys.
    pub keys_bytes: u32,
    /// Bytes of the records.
    pub records_bytes: u32,
    /// Records.
    pub records: u32,
    /// Time of the oldest record.
    pub first_ns: u64,
    /// Time of the youngest.
    pub last_ns: u64,
    /// Position of the first record in the log of that run.
    pub position: u64,
    /// Records that were lost between the block before and this one: overwritten in memory, or
    /// the disk was full.
    pub lost: u64,
    /// Checksum of the keys.
    pub keys_sum: u32,
    /// Checksum of the records.
    pub records_sum: u32,
}

impl BlockHeader {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; BLOCK_HEADER_BYTES] {
        let mut out = Out(Vec::with_capacity(BLOCK_HEADER_BYTES));
        out.0.extend_from_slice(&BLOCK_MAGIC);
        out.u64(self.segment);
        for v in [self.stored_bytes, self.keys_bytes, self.records_bytes, self.records] {
            out.u32(v);
        }
        for v in [self.first_ns, self.last_ns, self.position, self.lost] {
            out.u64(v);
        }
        out.u32(self.keys_sum);
        out.u32(self.records_sum);
        out.0.resize(BLOCK_HEADER_BYTES, 0);
        seal(&mut out.0);
        let mut bytes = [0; BLOCK_HEADER_BYTES];
        bytes.copy_from_slice(&out.0);
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// If it is none, damaged, or promises what no block may have.
    pub fn decode(bytes: &[u8]) -> Result<BlockHeader, FormatError> {
        const WHAT: &str = "block header";
        let bytes = bytes.get(..BLOCK_HEADER_BYTES).ok_or(FormatError::Short(WHAT))?;
        if bytes[..8] != BLOCK_MAGIC {
            return Err(FormatError::Magic(WHAT));
        }
        if !is_sealed(bytes) {
            return Err(FormatError::Checksum(WHAT));
        }
        let header = Self::fields(&mut In(&bytes[8..])).ok_or(FormatError::Contradiction(WHAT))?;
        let inside = BLOCK_HEADER_BYTES as u64
            + u64::from(header.keys_bytes)
            + u64::from(header.records_bytes);
        let is_sound = header.keys_bytes as usize <= BLOOM_BYTES_MAX
            && header.records_bytes as usize <= BLOCK_RECORDS_BYTES_MAX
            && inside <= header.stored_bytes.into()
            && u64::from(header.stored_bytes) <= inside + FILE_HEADER_BYTES as u64
            && header.first_ns <= header.last_ns;
        if is_sound { Ok(header) } else { Err(FormatError::Contradiction(WHAT)) }
    }

    fn fields(input: &mut In<'_>) -> Option<BlockHeader> {
        Some(BlockHeader {
            segment: input.u64()?,
            stored_bytes: input.u32()?,
            keys_bytes: input.u32()?,
            records_bytes: input.u32()?,
            records: input.u32()?,
            first_ns: input.u64()?,
            last_ns: input.u64()?,
            position: input.u64()?,
            lost: input.u64()?,
            keys_sum: input.u32()?,
            records_sum: input.u32()?,
        })
    }
}

/// Where a block is and what it is from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockEntry {
    /// Where in the file.
    pub offset: u64,
    /// Bytes there.
    pub stored_bytes: u32,
    /// Bytes of its keys.
    pub keys_bytes: u32,
    /// Records.
    pub records: u32,
    /// Bytes of the records.
    pub records_bytes: u32,
    /// Time of the oldest record.
    pub first_ns: u64,
    /// Time of the youngest.
    pub last_ns: u64,
    /// Position of the first record in the log of that run.
    pub position: u64,
}

impl BlockEntry {
    /// Of a block at an offset.
    #[must_use]
    pub fn of(header: &BlockHeader, offset: u64) -> BlockEntry {
        BlockEntry {
            offset,
            stored_bytes: header.stored_bytes,
            keys_bytes: header.keys_bytes,
            records: header.records,
            records_bytes: header.records_bytes,
            first_ns: header.first_ns,
            last_ns: header.last_ns,
            position: header.position,
        }
    }

    /// Position behind its last record.
    #[must_use]
    pub fn end_position(&self) -> u64 {
        self.position + u64::from(self.records_bytes)
    }
}

/// What ends a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footer {
    /// The time index.
    pub blocks: Vec<BlockEntry>,
    /// Keys of all blocks.
    pub keys: Bloom,
}

/// The end of the file, which says where the footer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trailer {
    /// The segment it belongs to.
    pub segment: u64,
    /// Where the footer begins.
    pub footer_at: u64,
    /// Its bytes.
    pub footer_bytes: u32,
    /// Its checksum.
    pub footer_sum: u32,
    /// Time of the oldest record.
    pub first_ns: u64,
    /// Time of the youngest.
    pub last_ns: u64,
    /// Records.
    pub records: u64,
}

impl Footer {
    /// Footer and trailer, padded so that the file's end is a multiple of `align`. `at`: where they go.
    #[must_use]
    pub fn encode(&self, segment: u64, at: u64, align: usize) -> Vec<u8> {
        let mut out = Out(Vec::new());
        out.u32(self.blocks.len() as u32);
        out.u32(self.keys.bytes().len() as u32);
        for b in &self.blocks {
            out.u64(b.offset);
            for v in [b.stored_bytes, b.keys_bytes, b.records, b.records_bytes] {
                out.u32(v);
            }
            for v in [b.first_ns, b.last_ns, b.position] {
                out.u64(v);
            }
        }
        out.0.extend_from_slice(self.keys.bytes());
        let footer_bytes = out.0.len();
        let trailer = Trailer {
            segment,
            footer_at: at,
            footer_bytes: footer_bytes as u32,
            footer_sum: crc32fast::hash(&out.0),
            first_ns: self.blocks.iter().map(|b| b.first_ns).min().unwrap_or(0),
            last_ns: self.blocks.iter().map(|b| b.last_ns).max().unwrap_or(0),
            records: self.blocks.iter().map(|b| u64::from(b.records)).sum(),
        };
        let end = (footer_bytes + TRAILER_BYTES).next_multiple_of(align.max(8));
        out.0.resize(end - TRAILER_BYTES, 0);
        out.0.extend_from_slice(&trailer.encode());
        out.0
    }

    /// Reads a footer.
    ///
    /// # Errors
    /// If it is not the one that the trailer means.
    pub fn decode(bytes: &[u8], trailer: &Trailer) -> Result<Footer, FormatError> {
        const WHAT: &str = "footer";
        let len = trailer.footer_bytes as usize;
        let bytes = bytes.get(..len).ok_or(FormatError::Short(WHAT))?;
        if crc32fast::hash(bytes) != trailer.footer_sum {
            return Err(FormatError::Checksum(WHAT));
        }
        Self::fields(&mut In(bytes)).ok_or(FormatError::Contradiction(WHAT))
    }

    fn fields(input: &mut In<'_>) -> Option<Footer> {
        let (blocks, keys) = (input.u32()? as usize, input.u32()? as usize);
        if blocks > BLOCKS_MAX
            || keys > BLOOM_BYTES_MAX
            || input.0.len() != blocks * ENTRY_BYTES + keys
        {
            return None;
        }
        let entry = |_| {
            Some(BlockEntry {
                offset: input.u64()?,
                stored_bytes: input.u32()?,
                keys_bytes: input.u32()?,
                records: input.u32()?,
                records_bytes: input.u32()?,
                first_ns: input.u64()?,
                last_ns: input.u64()?,
                position: input.u64()?,
            })
        };
        let blocks = (0..blocks).map(entry).collect::<Option<_>>()?;
        Some(Footer { blocks, keys: Bloom::from_bytes(input.0.to_vec()) })
    }
}

impl Trailer {
    fn encode(&self) -> Vec<u8> {
        let mut out = Out(Vec::with_capacity(TRAILER_BYTES));
        out.0.extend_from_slice(&TRAILER_MAGIC);
        out.u64(self.segment);
        out.u64(self.footer_at);
        out.u32(self.footer_bytes);
        out.u32(self.footer_sum);
        out.u64(self.first_ns);
        out.u64(self.last_ns);
        out.u64(self.records);
        out.0.resize(TRAILER_BYTES, 0);
        seal(&mut out.0);
        out.0
    }

    /// Reads the last bytes of a file.
    ///
    /// # Errors
    /// If they are no trailer: the segment was not sealed.
    pub fn decode(bytes: &[u8]) -> Result<Trailer, FormatError> {
        const WHAT: &str = "trailer";
        let bytes = bytes.get(..TRAILER_BYTES).ok_or(FormatError::Short(WHAT))?;
        if bytes[..8] != TRAILER_MAGIC {
            return Err(FormatError::Magic(WHAT));
        }
        if !is_sealed(bytes) {
            return Err(FormatError::Checksum(WHAT));
        }
        let fields = |input: &mut In<'_>| {
            Some(Trailer {
                segment: input.u64()?,
                footer_at: input.u64()?,
                footer_bytes: input.u32()?,
                footer_sum: input.u32()?,
                first_ns: input.u64()?,
                last_ns: input.u64()?,
                records: input.u64()?,
            })
        };
        fields(&mut In(&bytes[8..])).ok_or(FormatError::Contradiction(WHAT))
    }
}
