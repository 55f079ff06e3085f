//! Makes a block of records, with what it can be searched by.

use understudy_wire::record::{LINK_FRAME_HEADER_LEN, RECORD_HEADER_LEN, RecordHeader, RecordKind};

use crate::bloom::Bloom;
use crate::format::{BLOCK_HEADER_BYTES, BlockHeader};
use crate::keys::frame_keys;

/// Flows that are remembered as being in the block already: a slot for each.
const SEEN_FLOWS: usize = 4096;

/// Records on their way to disk.
pub struct BlockBuilder {
    records: Vec<u8>,
    count: u32,
    first_ns: u64,
    last_ns: u64,
    position: u64,
    lost: u64,
    keys: KeySet,
}

/// The keys of a block. Their number is bounded by the block's bytes.
struct KeySet {
    keys: Vec<u64>,
    /// Hashes of headers that were looked at: most frames are of a flow that is known.
    seen: Box<[u64]>,
}

impl KeySet {
    fn new() -> KeySet {
        KeySet { keys: Vec::new(), seen: vec![0; SEEN_FLOWS].into() }
    }

    fn clear(&mut self) {
        self.keys.clear();
        self.seen.fill(0);
    }

    fn add(&mut self, frame: &[u8]) {
        let keys = &mut self.keys;
        let mut of_frame = [0; 24];
        let mut count = 0;
        let mut mixed = 1;
        frame_keys(frame, |key| {
            mixed = crate::keys::mix(8, mixed, key);
            if count < of_frame.len() {
                of_frame[count] = key;
                count += 1;
            } else {
                keys.push(key);
            }
        });
        let slot = &mut self.seen[mixed as usize % SEEN_FLOWS];
        if *slot == mixed {
            return;
        }
        *slot = mixed;
        self.keys.extend_from_slice(&of_frame[..count]);
    }

    fn order(&mut self) {
        self.keys.sort_unstable();
        self.keys.dedup();
    }
}

impl Default for BlockBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// The captured bytes of a record that holds a frame.
#[must_use]
pub fn frame_of(kind: RecordKind, payload: &[u8]) -> Option<&[u8]> {
    match kind {
        RecordKind::LinkFrame => payload.get(LINK_FRAME_HEADER_LEN..),
        RecordKind::ClientFrame | RecordKind::SynAck => Some(payload),
        _ => None,
    }
}

impl BlockBuilder {
    /// An empty one.
    #[must_use]
    pub fn new() -> BlockBuilder {
        BlockBuilder {
            records: Vec::new(),
            count: 0,
            first_ns: u64::MAX,
            last_ns: 0,
            position: 0,
            lost: 0,
            keys: KeySet::new(),
        }
    }

    /// Bytes of its records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Records in it.
    #[must_use]
    pub fn records(&self) -> u32 {
        self.count
    }

    /// Records were lost since the last one.
    pub fn lost(&mut self, records: u64) {
        self.lost += records;
    }

    /// What was lost so far, which the next to be written is not told of.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Takes a record: its bytes with header and padding, as the log has them.
    pub fn push(&mut self, position: u64, header: &RecordHeader, stored: &[u8]) {
        if self.records.is_empty() {
            self.position = position;
        }
        self.records.extend_from_slice(stored);
        self.count += 1;
        self.first_ns = self.first_ns.min(header.timestamp_ns);
        self.last_ns = self.last_ns.max(header.timestamp_ns);
        let payload = stored.get(RECORD_HEADER_LEN..RECORD_HEADER_LEN + header.len as usize);
        if let Some(frame) = payload.and_then(|payload| frame_of(header.kind, payload)) {
            self.keys.add(frame);
        }
    }

    /// Writes the block behind what `out` holds, and puts its keys into `all` too.
    pub fn write_to(
        &mut self,
        segment: u64,
        align: usize,
        all: &mut Bloom,
        out: &mut Vec<u8>,
    ) -> BlockHeader {
        self.keys.order();
        let mut keys = Bloom::for_keys(self.keys.keys.len());
        for &key in &self.keys.keys {
            keys.insert(key);
            all.insert(key);
        }
        let inside = BLOCK_HEADER_BYTES + keys.bytes().len() + self.records.len();
        let stored = inside.next_multiple_of(align.max(8));
        let header = BlockHeader {
            segment,
            stored_bytes: stored as u32,
            keys_bytes: keys.bytes().len() as u32,
            records_bytes: self.records.len() as u32,
            records: self.count,
            first_ns: self.first_ns.min(self.last_ns),
            last_ns: self.last_ns,
            position: self.position,
            lost: self.lost,
            keys_sum: crc32fast::hash(keys.bytes()),
            records_sum: crc32fast::hash(&self.records),
        };
        let end = out.len() + stored;
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(keys.bytes());
        out.extend_from_slice(&self.records);
        out.resize(end, 0);
        header
    }

    /// Forgets everything, also what was lost.
    pub fn clear(&mut self) {
        self.records.clear();
        self.keys.clear();
        (self.count, self.first_ns, self.last_ns, self.position, self.lost) =
            (0, u64::MAX, 0, 0, 0);
    }
}
