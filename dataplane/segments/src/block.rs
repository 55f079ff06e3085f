//! Makes a block of records, with what it can be searched by.

use understudy_wire::record::{LINK_FRAME_HEADER_LEN, RECORD_HEADER_LEN, RecordHeader, RecordKind};

use crate::bloom::Bloom;
use crate::format::{BLOCK_HEADER_BYTES, BlockHeader};
use crate::keys::{frame_keys, mix};

/// Flows that are remembered as being in the block already: a slot for each.
const SEEN_FLOWS: usize = 4096;
/// Keys that are remembered as being there.
const SEEN_KEYS: usize = 8192;

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

/// The keys of a block, most of them once: twice does no harm. Their number is bounded by the block's
/// bytes.
struct KeySet {
    keys: Vec<u64>,
    /// Signatures of flows that are in it: most frames are of one.
    flows: Box<[u64]>,
    /// Keys that are in it: flows have most of theirs in common.
    recent: Box<[u64]>,
}

impl KeySet {
    fn new() -> KeySet {
        KeySet {
            keys: Vec::new(),
            flows: vec![0; SEEN_FLOWS].into(),
            recent: vec![0; SEEN_KEYS].into(),
        }
    }

    fn clear(&mut self) {
        self.keys.clear();
        self.flows.fill(0);
        self.recent.fill(0);
    }

    fn add(&mut self, frame: &[u8]) {
        if let Some(flow) = signature(frame)
            && is_seen(&mut self.flows, flow)
        {
            return;
        }
        let (keys, recent) = (&mut self.keys, &mut self.recent);
        frame_keys(frame, |key| {
            if !is_seen(recent, key) {
                keys.push(key);
            }
        });
    }
}

/// Whether a hash is remembered; it is from now on, in place of another. 0 never is: who has it is
/// taken for new each time.
fn is_seen(seen: &mut [u64], hash: u64) -> bool {
    let at = hash as usize % seen.len();
    let slot = &mut seen[at];
    std::mem::replace(slot, hash) == hash && hash != 0
}

/// Of frames of the usual kinds: two with the same signature have the same keys. The rest is taken apart
/// each time.
fn signature(frame: &[u8]) -> Option<u64> {
    let word = |at: usize| frame.get(at..at + 8)?.first_chunk().map(|b| u64::from_le_bytes(*b));
    let ports = |at: usize| frame.get(at..at + 4)?.first_chunk().map(|b| u32::from_le_bytes(*b));
    match frame.get(12..15)? {
        // No options, no fragment.
        [8, 0, 0x45] if frame.get(20..22).is_some_and(|f| f[0] & 0x1f == 0 && f[1] == 0) => {
            let protocol = u64::from(*frame.get(23)?);
            let ports = if matches!(protocol, 6 | 17 | 132) { ports(34)? } else { 0 };
            Some(mix(9, word(26)?, protocol << 32 | u64::from(ports)))
        }
        // No extension headers.
        [0x86, 0xdd, _] if matches!(frame.get(20), Some(6 | 17)) => {
            let addresses = mix(10, mix(11, word(22)?, word(30)?), mix(12, word(38)?, word(46)?));
            Some(mix(13, addresses, u64::from(frame[20]) << 32 | u64::from(ports(54)?)))
        }
        _ => None,
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
