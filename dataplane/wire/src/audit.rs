//! Audit records: how far the primary's output on a connection has come, and its digest there.
//! Little-endian.
//!
//! ```text
//! 0       16      18         24
//! | seed  | count | reserved | note ... | note ... |
//!
//! 0        1          2             4             6          8        12       20
//! | family | reserved | client port | server port | reserved | to     | length | digest ...
//! 28                28 + 4 or 16
//! | client address  | server address |
//! ```

use std::net::IpAddr;

use arrayvec::ArrayVec;

use crate::tcp::FlowKey;

/// Bytes of the secret that chooses the digest.
pub const SEED_LEN: usize = 16;
/// Notes in one record at most.
pub const NOTES_MAX: usize = 32;
/// Bytes before the first note.
pub const AUDIT_HEADER_LEN: usize = 24;
/// Bytes of the longest note.
pub const NOTE_LEN_MAX: usize = NOTE_FIXED_LEN + 32;
/// No record's payload is longer.
pub const AUDIT_LEN_MAX: usize = AUDIT_HEADER_LEN + NOTES_MAX * NOTE_LEN_MAX;

const NOTE_FIXED_LEN: usize = 28;

/// What chooses the digest; whoever knows it can make two outputs of one digest.
pub type Seed = [u8; SEED_LEN];

/// The primary's application has said so much on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// The connection.
    pub key: FlowKey,
    /// Sequence number after the last byte that is in the digest.
    pub to: u32,
    /// Bytes in the digest: it begins so far before `to`.
    pub len: u64,
    /// Their digest.
    pub digest: u64,
}

/// Payload of an audit record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// Chooses the digest.
    pub seed: Seed,
    /// None, in a record that only tells the seed.
    pub notes: ArrayVec<Note, NOTES_MAX>,
}

/// An audit record's bytes.
pub type AuditBytes = ArrayVec<u8, AUDIT_LEN_MAX>;

impl Note {
    /// Bytes it takes in a record.
    pub fn encoded_len(&self) -> usize {
        NOTE_FIXED_LEN + if self.key.client.0.is_ipv6() { 32 } else { 8 }
    }

    fn encode(&self, out: &mut AuditBytes) {
        let (client, server) = (self.key.client, self.key.server);
        // Both of one family: they come from one packet.
        out.extend([if client.0.is_ipv6() { 6 } else { 4 }, 0]);
        out.extend(client.1.to_le_bytes());
        out.extend(server.1.to_le_bytes());
        out.extend([0; 2]);
        out.extend(self.to.to_le_bytes());
        out.extend(self.len.to_le_bytes());
        out.extend(self.digest.to_le_bytes());
        put_addresses(&self.key, out);
    }

    /// The note at the start of `bytes`, and what follows.
    fn decode(bytes: &[u8]) -> Option<(Note, &[u8])> {
        let (b, rest) = bytes.split_first_chunk::<NOTE_FIXED_LEN>()?;
        let (client, server, rest) = take_addresses(b[0], rest)?;
        let port = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
        let word = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().unwrap_or_default());
        let note = Note {
            key: FlowKey { client: (client, port(2)), server: (server, port(4)) },
            to: u32::from_le_bytes([b[8], b[9], b[10], b[11]]),
            len: word(12),
            digest: word(20),
        };
        (b[1] == 0 && b[6..8] == [0; 2]).then_some((note, rest))
    }
}

/// The client's address, then the service's.
pub(crate) fn put_addresses(key: &FlowKey, out: &mut impl Extend<u8>) {
    for (address, _) in [key.client, key.server] {
        match address {
            IpAddr::V4(a) => out.extend(a.octets()),
            IpAddr::V6(a) => out.extend(a.octets()),
        }
    }
}

/// Both addresses at the start of `bytes`, and what follows.
pub(crate) fn take_addresses(family: u8, bytes: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    fn both<const N: usize>(bytes: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])>
    where
        IpAddr: From<[u8; N]>,
    {
        let (client, rest) = bytes.split_first_chunk::<N>()?;
        let (server, rest) = rest.split_first_chunk::<N>()?;
        Some((IpAddr::from(*client), IpAddr::from(*server), rest))
    }
    match family {
        4 => both::<4>(bytes),
        6 => both::<16>(bytes),
        _ => None,
    }
}

impl AuditRecord {
    /// Payload bytes.
    pub fn encode(&self) -> AuditBytes {
        let mut out = AuditBytes::new();
        out.extend(self.seed);
        out.extend((self.notes.len() as u16).to_le_bytes());
        out.extend([0; 6]);
        self.notes.iter().for_each(|note| note.encode(&mut out));
        out
    }

    /// Reads a payload; `None` for what no primary writes.
    pub fn decode(bytes: &[u8]) -> Option<AuditRecord> {
        let (head, mut rest) = bytes.split_first_chunk::<AUDIT_HEADER_LEN>()?;
        let count = usize::from(u16::from_le_bytes([head[16], head[17]]));
        if count > NOTES_MAX || head[18..] != [0; 6] {
            return None;
        }
        let mut notes = ArrayVec::new();
        for _ in 0..count {
            let (note, after) = Note::decode(rest)?;
            notes.push(note);
            rest = after;
        }
        let seed = *head.first_chunk()?;
        rest.is_empty().then_some(AuditRecord { seed, notes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn note(v6: bool, port: u16, to: u32, len: u64, digest: u64) -> Note {
        let [client, server] = match v6 {
            false => ["10.0.0.1", "10.0.0.100"],
            true => ["fd77::1", "fd77::100"],
        };
        let end = |text: &str, port| (text.parse().unwrap(), port);
        let key = FlowKey { client: end(client, port), server: end(server, 6379) };
        Note { key, to, len, digest }
    }

    proptest! {
        #[test]
        fn round_trip(
            seed: Seed,
            notes in proptest::collection::vec(any::<(bool, u16, u32, u64, u64)>(), 0..=NOTES_MAX),
        ) {
            let notes = notes.into_iter().map(|(v6, p, t, l, d)| note(v6, p, t, l, d)).collect();
            let record = AuditRecord { seed, notes };
            let bytes = record.encode();
            prop_assert_eq!(AuditRecord::decode(&bytes), Some(record));
            prop_assert_eq!(AuditRecord::decode(&bytes[..bytes.len() - 1]), None);
        }
    }

    #[test]
    fn the_longest_record_fits() {
        let notes = [note(true, 1, 2, 3, 4); NOTES_MAX].into();
        assert_eq!(AuditRecord { seed: [7; SEED_LEN], notes }.encode().len(), AUDIT_LEN_MAX);
        const { assert!(AUDIT_LEN_MAX <= crate::record::RECORD_PAYLOAD_MAX) };
    }
}
