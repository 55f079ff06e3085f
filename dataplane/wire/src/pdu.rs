//! PDUs: what nodes of a group say to each other on the replica port and the second path.
//!
//! ```text
//! 0       4   5      6      8         16      24       26       28       30    32        40        48
//! | magic | v | kind | node | cluster | epoch | stream | target | length | key | session | counter |
//! | body, sealed ... | tag, 16 bytes |
//! ```
//! On the replica port a PDU is the payload of an Ethernet frame of
//! [`ETHERTYPE_REPLICA`]; on the second path it is a UDP payload. `length` is the
//! body's, so Ethernet padding is not taken for content. Only the layout is here: what
//! seals and opens a PDU is `understudy-seal`.

use thiserror::Error;

use crate::frame::{ETH_LEN, Mac, be16};
use crate::ids::{Epoch, NodeId, Position};

/// EtherType of the replica port (IEEE 802 local experimental 1).
pub const ETHERTYPE_REPLICA: u16 = 0x88b5;
/// Bytes of a PDU header.
pub const PDU_HEADER_LEN: usize = 48;
/// Bytes behind a PDU's body that authenticate all before them.
pub const PDU_TAG_LEN: usize = 16;
/// What a PDU is longer than its body.
pub const PDU_OVERHEAD_LEN: usize = PDU_HEADER_LEN + PDU_TAG_LEN;
/// Bytes before the log bytes in a DATA body.
pub const DATA_HEADER_LEN: usize = 40;
const MAGIC: u32 = u32::from_le_bytes(*b"USDY");
const VERSION: u8 = 2;
/// A target meaning every node.
pub const TARGET_ALL: NodeId = 0;

/// The replica network's group address: locally administered, one per cluster.
pub fn group_mac(cluster: u64) -> Mac {
    let c = cluster.to_le_bytes();
    [0x03, 0x55, 0x53, c[0], c[1], c[2]]
}

/// What a PDU's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PduKind {
    /// A byte range of the log, or none: the primary's sign of life.
    Data = 1,
    /// What a replica holds.
    Ack = 2,
    /// What a replica misses first.
    Nak = 3,
    /// A [`crate::control::Control`] message.
    Control = 4,
    /// A client frame that reached a deposed primary, whole.
    Frame = 5,
    /// Asks a node to prove that its session lives.
    Challenge = 6,
    /// The answer.
    Proof = 7,
}

/// A PDU's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PduHeader {
    /// What the body is.
    pub kind: PduKind,
    /// Sender.
    pub node: NodeId,
    /// Addressee or [`TARGET_ALL`].
    pub target: NodeId,
    /// The group.
    pub cluster: u64,
    /// The sender's epoch.
    pub epoch: Epoch,
    /// RX queue the log belongs to.
    pub stream: u16,
}

/// What a PDU was sealed with, in clear beside the header's other fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sealing {
    /// Id of the cluster key.
    pub key: u16,
    /// One life of the sender on this path.
    pub session: u64,
    /// Number of the PDU in its session; none is used twice.
    pub counter: u64,
}

/// A DATA body before the log bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DataHeader {
    /// Where the bytes belong.
    pub position: Position,
    /// End of the primary's log.
    pub end: Position,
    /// Committed in this epoch, or before it.
    pub committed: Position,
    /// The oldest position the primary still holds.
    pub log_start: Position,
    /// When it was sent, the primary's monotonic clock.
    pub sent_at_ns: u64,
}

/// An ACK body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ack {
    /// Everything before it is held; the end of a record.
    pub position: Position,
    /// Everything before it was given to the clone.
    pub applied: Position,
    /// Everything before it is held, and so are the checkpoints that it speaks of. Not after
    /// `position`, and the same where it speaks of none.
    pub covered: Position,
    /// Newest `sent_at_ns` seen in this epoch: what a TX lease may count from.
    pub echo_ns: u64,
}

/// A NAK body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Nak {
    /// First byte missing.
    pub position: Position,
    /// How many are known to be missing from there.
    pub length: u64,
}

/// Why bytes are not a PDU for us; each is a counted drop.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PduError {
    /// Not ours at all: other magic.
    #[error("not an Understudy PDU")]
    Magic,
    /// Another version of the protocol.
    #[error("PDU of an unknown version")]
    Version,
    /// Fewer bytes than the header promises.
    #[error("PDU is cut short")]
    Short,
    /// A field has no meaning.
    #[error("PDU is malformed")]
    Malformed,
    /// Another group's.
    #[error("PDU of another cluster")]
    Cluster,
}

impl PduHeader {
    /// The header for a body of `body_len` bytes, at most 65535.
    #[inline]
    pub fn encode(&self, body_len: usize, sealing: &Sealing) -> [u8; PDU_HEADER_LEN] {
        debug_assert!(body_len <= usize::from(u16::MAX));
        let first = u64::from(MAGIC)
            | u64::from(VERSION) << 32
            | u64::from(self.kind as u8) << 40
            | u64::from(self.node) << 48;
        let fourth = u64::from(self.stream)
            | u64::from(self.target) << 16
            | (body_len as u64) << 32
            | u64::from(sealing.key) << 48;
        words([first, self.cluster, self.epoch, fourth, sealing.session, sealing.counter])
    }

    /// Reads the header of a PDU of `cluster`, and the length of its body, which is there with its
    /// tag. Nothing of it is authentic yet.
    pub fn decode(bytes: &[u8], cluster: u64) -> Result<(PduHeader, Sealing, usize), PduError> {
        let b: &[u8; PDU_HEADER_LEN] = bytes.first_chunk().ok_or(PduError::Short)?;
        if b[0..4] != MAGIC.to_le_bytes() {
            return Err(PduError::Magic);
        }
        if b[4] != VERSION {
            return Err(PduError::Version);
        }
        let kind = match b[5] {
            1 => PduKind::Data,
            2 => PduKind::Ack,
            3 => PduKind::Nak,
            4 => PduKind::Control,
            5 => PduKind::Frame,
            6 => PduKind::Challenge,
            7 => PduKind::Proof,
            _ => return Err(PduError::Malformed),
        };
        let header = PduHeader {
            kind,
            node: le16(b, 6),
            cluster: le64(b, 8),
            epoch: le64(b, 16),
            stream: le16(b, 24),
            target: le16(b, 26),
        };
        if header.cluster != cluster {
            return Err(PduError::Cluster);
        }
        if header.node == 0 {
            return Err(PduError::Malformed);
        }
        let body_len = usize::from(le16(b, 28));
        if bytes.len() < PDU_OVERHEAD_LEN + body_len {
            return Err(PduError::Short);
        }
        let sealing = Sealing { key: le16(b, 30), session: le64(b, 32), counter: le64(b, 40) };
        Ok((header, sealing, body_len))
    }
}

impl DataHeader {
    /// The body's fixed part.
    #[inline]
    pub fn encode(&self) -> [u8; DATA_HEADER_LEN] {
        words([self.position, self.end, self.committed, self.log_start, self.sent_at_ns])
    }

    /// Splits a DATA body into its fixed part and the log bytes.
    pub fn decode(body: &[u8]) -> Result<(DataHeader, &[u8]), PduError> {
        let b: &[u8; DATA_HEADER_LEN] = body.first_chunk().ok_or(PduError::Short)?;
        let header = DataHeader {
            position: le64(b, 0),
            end: le64(b, 8),
            committed: le64(b, 16),
            log_start: le64(b, 24),
            sent_at_ns: le64(b, 32),
        };
        let bytes = &body[DATA_HEADER_LEN..];
        let last = header.position.checked_add(bytes.len() as u64);
        let sane = header.end <= POSITION_MAX
            && last.is_some_and(|l| l <= header.end)
            && header.committed <= header.end
            && header.log_start <= header.end;
        if sane { Ok((header, bytes)) } else { Err(PduError::Malformed) }
    }
}

/// No position is beyond it, so that sums of positions and lengths do not overflow.
pub const POSITION_MAX: Position = 1 << 62;

impl Ack {
    /// The body.
    pub fn encode(&self) -> [u8; 32] {
        words([self.position, self.applied, self.covered, self.echo_ns])
    }

    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Ack, PduError> {
        let b: &[u8; 32] = body.try_into().map_err(|_| PduError::Malformed)?;
        let ack = Ack {
            position: le64(b, 0),
            applied: le64(b, 8),
            covered: le64(b, 16),
            echo_ns: le64(b, 24),
        };
        if ack.position <= POSITION_MAX && ack.covered <= ack.position {
            Ok(ack)
        } else {
            Err(PduError::Malformed)
        }
    }
}

impl Nak {
    /// The body.
    pub fn encode(&self) -> [u8; 16] {
        words([self.position, self.length])
    }

    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Nak, PduError> {
        let b: &[u8; 16] = body.try_into().map_err(|_| PduError::Malformed)?;
        let nak = Nak { position: le64(b, 0), length: le64(b, 8) };
        let sane = nak.position <= POSITION_MAX && nak.length <= POSITION_MAX;
        if sane { Ok(nak) } else { Err(PduError::Malformed) }
    }
}

/// The PDU's bytes in a frame from the replica port, `None` for other traffic.
pub fn in_frame(frame: &[u8]) -> Option<&[u8]> {
    (be16(frame, 12)? == ETHERTYPE_REPLICA).then(|| &frame[ETH_LEN..])
}

fn le16(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

fn le64(b: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&b[at..at + 8]);
    u64::from_le_bytes(word)
}

#[inline]
fn words<const N: usize, const B: usize>(values: [u64; N]) -> [u8; B] {
    const { assert!(N * 8 == B) };
    let mut out = [0; B];
    for (slot, value) in out.chunks_exact_mut(8).zip(values) {
        slot.copy_from_slice(&value.to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> PduHeader {
        PduHeader { kind: PduKind::Data, node: 3, target: 0, cluster: 77, epoch: 5, stream: 0 }
    }

    fn sealing() -> Sealing {
        Sealing { key: 0xabcd, session: 8, counter: 9 }
    }

    fn pdu(header: &PduHeader, body: &[u8]) -> Vec<u8> {
        [&header.encode(body.len(), &sealing())[..], body, &[0; PDU_TAG_LEN]].concat()
    }

    #[test]
    fn padding_is_not_content_and_foreign_is_told_apart() {
        let mut bytes = pdu(&header(), b"body");
        bytes.extend([0; 20]);
        assert_eq!(PduHeader::decode(&bytes, 77), Ok((header(), sealing(), 4)));
        assert_eq!(PduHeader::decode(&bytes, 78), Err(PduError::Cluster));
        assert_eq!(PduHeader::decode(&bytes[..67], 77), Err(PduError::Short));
    }

    #[test]
    fn data_beyond_its_own_end_is_malformed() {
        let h = DataHeader { position: 10, end: 12, ..Default::default() };
        let ok = [&h.encode()[..], b"ab"].concat();
        assert_eq!(DataHeader::decode(&ok), Ok((h, &b"ab"[..])));
        let bad = [&h.encode()[..], b"abc"].concat();
        assert_eq!(DataHeader::decode(&bad), Err(PduError::Malformed));
    }

    proptest! {
        #[test]
        fn headers_round_trip(node in 1u16.., target: u16, epoch: u64, kind in 0usize..7, stream: u16) {
            let kind = [PduKind::Data, PduKind::Ack, PduKind::Nak, PduKind::Control, PduKind::Frame, PduKind::Challenge, PduKind::Proof][kind];
            let h = PduHeader { kind, node, target, cluster: 9, epoch, stream };
            let bytes = pdu(&h, b"x");
            prop_assert_eq!(PduHeader::decode(&bytes, 9).unwrap().0, h);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..80, value: u8) {
            let _ = PduHeader::decode(&bytes, 0);
            let _ = DataHeader::decode(&bytes);
            let _ = Ack::decode(&bytes);
            let _ = Nak::decode(&bytes);
            let mut near = pdu(&header(), &bytes);
            if at < near.len() { near[at] = value; }
            if let Ok((_, _, len)) = PduHeader::decode(&near, 77) { prop_assert!(PDU_OVERHEAD_LEN + len <= near.len()); }
        }
    }
}
