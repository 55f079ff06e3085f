//! Records: what the capture log is made of. Little-endian, 8-byte aligned.
//!
//! ```text
//! 0        4     5      6        8              16
//! | length | kind | flags | check | timestamp ns | bytes ... | padding to 8 |
//! ```

use thiserror::Error;

use crate::ids::{Epoch, NodeId, Position};

/// Bytes of a record header.
pub const RECORD_HEADER_LEN: usize = 16;
/// No record's payload is longer: a jumbo frame and room.
pub const RECORD_PAYLOAD_MAX: usize = 16 * 1024;
/// Version of the record format, kept in every header's check.
const VERSION: u16 = 1;

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// A frame a client sent.
    ClientFrame = 1,
    /// Egress note: the SYN-ACK frame the primary's kernel sent.
    SynAck = 2,
    /// Egress notes: digests of what the primary's application said, see [`crate::audit`].
    Audit = 3,
    /// A reign begins; the payload is an [`EpochRecord`].
    Epoch = 4,
    /// A checkpoint was taken, and output waits for the replicas to store it; the payload is a
    /// [`CheckpointRecord`].
    Checkpoint = 5,
    /// Egress notes: how far the primary's application had come on its connections when it was given
    /// what follows, see [`crate::said`].
    Said = 6,
    /// A frame of a link that a capture-only node listens to; the payload begins with a [`LinkFrame`].
    LinkFrame = 16,
}

impl RecordKind {
    #[inline]
    fn from_u8(v: u8) -> Option<RecordKind> {
        match v {
            1 => Some(RecordKind::ClientFrame),
            2 => Some(RecordKind::SynAck),
            3 => Some(RecordKind::Audit),
            4 => Some(RecordKind::Epoch),
            5 => Some(RecordKind::Checkpoint),
            6 => Some(RecordKind::Said),
            16 => Some(RecordKind::LinkFrame),
            _ => None,
        }
    }
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Payload bytes.
    pub len: u32,
    /// What the payload is.
    pub kind: RecordKind,
    /// Wall-clock time of the primary, ns since 1970.
    pub timestamp_ns: u64,
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// Fewer bytes than a header, or than the header promises.
    #[error("record is cut short")]
    Short,
    /// The header contradicts itself.
    #[error("record header is corrupt")]
    Corrupt,
}

impl RecordHeader {
    /// Header, payload and padding.
    #[inline]
    pub fn stored_len(&self) -> usize {
        stored_len(self.len as usize)
    }

    #[inline]
    fn check(&self) -> u16 {
        let t = self.timestamp_ns;
        let mix = self.len.wrapping_mul(0x9e37_79b1) ^ (t as u32) ^ (t >> 32) as u32;
        ((mix >> 16) ^ mix) as u16 ^ (u16::from(self.kind as u8) << 8) ^ VERSION
    }

    /// The header's bytes.
    #[inline]
    pub fn encode(&self) -> [u8; RECORD_HEADER_LEN] {
        let kind_and_check = u64::from(self.kind as u8) << 32 | u64::from(self.check()) << 48;
        let first = u64::from(self.len) | kind_and_check;
        let mut out = [0; RECORD_HEADER_LEN];
        out[0..8].copy_from_slice(&first.to_le_bytes());
        out[8..16].copy_from_slice(&self.timestamp_ns.to_le_bytes());
        out
    }

    /// Reads the header at the start of `bytes`.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<RecordHeader, RecordError> {
        let b: &[u8; RECORD_HEADER_LEN] = bytes.first_chunk().ok_or(RecordError::Short)?;
        let header = RecordHeader {
            len: u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            kind: RecordKind::from_u8(b[4]).ok_or(RecordError::Corrupt)?,
            timestamp_ns: u64::from_le_bytes([
                b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15],
            ]),
        };
        let intact = header.len as usize <= RECORD_PAYLOAD_MAX
            && b[5] == 0
            && header.check() == u16::from_le_bytes([b[6], b[7]]);
        if intact { Ok(header) } else { Err(RecordError::Corrupt) }
    }
}

/// A record among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredRecord<'a> {
    /// Where it begins, in bytes.
    pub at: usize,
    /// Where the next one does.
    pub next: usize,
    /// Its header.
    pub header: RecordHeader,
    /// What it holds.
    pub payload: &'a [u8],
}

/// The records that lie one after the other in `bytes`, up to the first that is not whole or not intact.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = StoredRecord<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let header = RecordHeader::decode(&bytes[at..]).ok()?;
        let stored = bytes[at..].get(..header.stored_len())?;
        let payload = &stored[RECORD_HEADER_LEN..][..header.len as usize];
        let record = StoredRecord { at, next: at + stored.len(), header, payload };
        at = record.next;
        Some(record)
    })
}

/// Bytes a record with such a payload takes in the log.
#[inline]
pub const fn stored_len(payload_len: usize) -> usize {
    (RECORD_HEADER_LEN + payload_len + 7) & !7
}

/// What is before the frame in the payload of [`RecordKind::LinkFrame`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkFrame {
    /// Bytes that the frame had on the wire; fewer may be kept.
    pub wire_len: u32,
    /// Number of the link.
    pub link: u8,
    /// When the device says that it received it, ns since 1970, where that is known. The record's own
    /// time is the software's: it never decreases, whatever devices say.
    pub device_ns: Option<u64>,
}

/// Bytes of a [`LinkFrame`].
pub const LINK_FRAME_HEADER_LEN: usize = 16;

impl LinkFrame {
    /// What the payload begins with.
    pub fn encode(&self) -> [u8; LINK_FRAME_HEADER_LEN] {
        let mut out = [0; LINK_FRAME_HEADER_LEN];
        out[0..4].copy_from_slice(&self.wire_len.to_le_bytes());
        out[4] = self.link;
        out[8..16].copy_from_slice(&self.device_ns.unwrap_or(0).to_le_bytes());
        out
    }

    /// Reads a payload; gives the frame's bytes too.
    pub fn decode(payload: &[u8]) -> Option<(LinkFrame, &[u8])> {
        let (head, frame) = payload.split_first_chunk::<LINK_FRAME_HEADER_LEN>()?;
        let wire_len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let ns = u64::from_le_bytes(head[8..16].try_into().ok()?);
        Some((LinkFrame { wire_len, link: head[4], device_ns: (ns != 0).then_some(ns) }, frame))
    }
}

/// Payload of [`RecordKind::Epoch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochRecord {
    /// The new reign.
    pub epoch: Epoch,
    /// Who reigns.
    pub primary: NodeId,
}

impl EpochRecord {
    /// Payload bytes.
    pub fn encode(&self) -> [u8; 16] {
        let mut out = [0; 16];
        out[0..8].copy_from_slice(&self.epoch.to_le_bytes());
        out[8..10].copy_from_slice(&self.primary.to_le_bytes());
        out
    }

    /// Reads a payload.
    pub fn decode(bytes: &[u8]) -> Option<EpochRecord> {
        let b: &[u8; 16] = bytes.try_into().ok()?;
        Some(EpochRecord {
            epoch: u64::from_le_bytes(b[0..8].try_into().ok()?),
            primary: u16::from_le_bytes([b[8], b[9]]),
        })
    }
}

/// Payload of [`RecordKind::Checkpoint`], and what tells a checkpoint from every other one of the
/// same history; a later one is larger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointRecord {
    /// The barrier: the application had been given everything before it.
    pub position: Position,
    /// The log's clock at the barrier, ns. Two may be taken at one position.
    pub at_ns: u64,
}

impl CheckpointRecord {
    /// Payload bytes.
    pub fn encode(&self) -> [u8; 16] {
        let mut out = [0; 16];
        out[0..8].copy_from_slice(&self.position.to_le_bytes());
        out[8..16].copy_from_slice(&self.at_ns.to_le_bytes());
        out
    }

    /// Reads a payload.
    pub fn decode(bytes: &[u8]) -> Option<CheckpointRecord> {
        let b: &[u8; 16] = bytes.try_into().ok()?;
        Some(CheckpointRecord {
            position: u64::from_le_bytes(b[0..8].try_into().ok()?),
            at_ns: u64::from_le_bytes(b[8..16].try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(len in 0u32..=RECORD_PAYLOAD_MAX as u32, timestamp_ns: u64) {
            let h = RecordHeader { len, kind: RecordKind::SynAck, timestamp_ns };
            prop_assert_eq!(RecordHeader::decode(&h.encode()), Ok(h));
            prop_assert_eq!(h.stored_len() % 8, 0);
        }

        #[test]
        fn any_bytes_decode_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(h) = RecordHeader::decode(&bytes) {
                prop_assert!(h.len as usize <= RECORD_PAYLOAD_MAX);
            }
        }

        /// Whatever follows them, and wherever they are cut.
        #[test]
        fn records_are_walked_as_far_as_they_are_whole(
            lens in proptest::collection::vec(0u32..100, 0..6),
            cut in 0usize..800,
            rest in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut all = Vec::new();
            for (n, &len) in lens.iter().enumerate() {
                let header =
                    RecordHeader { len, kind: RecordKind::ClientFrame, timestamp_ns: n as u64 };
                all.extend(header.encode());
                all.resize(all.len() + header.stored_len() - RECORD_HEADER_LEN, n as u8);
            }
            let (whole, cut) = (all.len(), cut.min(all.len()));
            for (nth, r) in records(&all[..cut]).enumerate() {
                prop_assert_eq!((r.header.timestamp_ns, r.header.len), (nth as u64, lens[nth]));
                prop_assert_eq!(r.payload, &vec![nth as u8; lens[nth] as usize][..]);
                prop_assert!(r.next - r.at == r.header.stored_len() && r.next <= cut);
            }
            let fit = |n: &usize| lens[..*n].iter().map(|&l| stored_len(l as usize)).sum::<usize>() <= cut;
            let fitting = (0..=lens.len()).rev().find(fit).unwrap_or(0);
            prop_assert_eq!(records(&all[..cut]).count(), fitting);
            all.extend(rest);
            let last = records(&all).take_while(|r| r.at < whole).last();
            prop_assert_eq!(last.map_or(0, |r| r.next), whole);
        }

        #[test]
        fn link_frame_round_trip(wire_len: u32, link: u8, ns in 1u64.., known: bool, frame: Vec<u8>) {
            let head = LinkFrame { wire_len, link, device_ns: known.then_some(ns) };
            let payload = [&head.encode()[..], &frame].concat();
            prop_assert_eq!(LinkFrame::decode(&payload), Some((head, &frame[..])));
        }

        #[test]
        fn epoch_round_trip(epoch: u64, primary: u16) {
            let r = EpochRecord { epoch, primary };
            prop_assert_eq!(EpochRecord::decode(&r.encode()), Some(r));
        }

        #[test]
        fn checkpoint_round_trip(position: u64, at_ns: u64) {
            let r = CheckpointRecord { position, at_ns };
            prop_assert_eq!(CheckpointRecord::decode(&r.encode()), Some(r));
        }
    }
}
