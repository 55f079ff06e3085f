//! Progress records: how far the primary's output on some connections had come when the frames that
//! follow in the log were taken. Little-endian.
//!
//! ```text
//! 0       2          8
//! | count | reserved | progress ... | progress ... |
//!
//! 0        1          2             4             6          8    12               12 + 4 or 16
//! | family | reserved | client port | server port | reserved | to | client address | server address |
//! ```

use arrayvec::ArrayVec;

use crate::audit::{put_addresses, take_addresses};
use crate::tcp::FlowKey;

/// Connections in one record at most.
pub const SAID_MAX: usize = 32;
/// No record's payload is longer.
pub const SAID_LEN_MAX: usize = HEADER_LEN + SAID_MAX * (PROGRESS_FIXED_LEN + 32);

const HEADER_LEN: usize = 8;
const PROGRESS_FIXED_LEN: usize = 12;

/// The primary's application had said so much on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The connection.
    pub key: FlowKey,
    /// Sequence number after the last byte.
    pub to: u32,
}

/// Payload of a progress record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaidRecord {
    /// Some of one connection may be there twice; the later one is the newer.
    pub progress: ArrayVec<Progress, SAID_MAX>,
}

/// A progress record's bytes.
pub type SaidBytes = ArrayVec<u8, SAID_LEN_MAX>;

impl Progress {
    fn encode(&self, out: &mut SaidBytes) {
        out.extend([if self.key.client.0.is_ipv6() { 6 } else { 4 }, 0]);
        out.extend(self.key.client.1.to_le_bytes());
        out.extend(self.key.server.1.to_le_bytes());
        out.extend([0; 2]);
        out.extend(self.to.to_le_bytes());
        put_addresses(&self.key, out);
    }

    /// The one at the start of `bytes`, and what follows.
    fn decode(bytes: &[u8]) -> Option<(Progress, &[u8])> {
        let (b, rest) = bytes.split_first_chunk::<PROGRESS_FIXED_LEN>()?;
        let (client, server, rest) = take_addresses(b[0], rest)?;
        let port = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
        let key = FlowKey { client: (client, port(2)), server: (server, port(4)) };
        let to = u32::from_le_bytes([b[8], b[9], b[10], b[11]]);
        (b[1] == 0 && b[6..8] == [0; 2]).then_some((Progress { key, to }, rest))
    }
}

impl SaidRecord {
    /// Payload bytes.
    pub fn encode(&self) -> SaidBytes {
        let mut out = SaidBytes::new();
        out.extend((self.progress.len() as u16).to_le_bytes());
        out.extend([0; 6]);
        self.progress.iter().for_each(|progress| progress.encode(&mut out));
        out
    }

    /// Reads a payload; `None` for what no primary writes.
    pub fn decode(bytes: &[u8]) -> Option<SaidRecord> {
        let (head, mut rest) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let count = usize::from(u16::from_le_bytes([head[0], head[1]]));
        if count > SAID_MAX || head[2..] != [0; 6] {
            return None;
        }
        let mut progress = ArrayVec::new();
        for _ in 0..count {
            let (one, after) = Progress::decode(rest)?;
            progress.push(one);
            rest = after;
        }
        rest.is_empty().then_some(SaidRecord { progress })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn progress(v6: bool, port: u16, to: u32) -> Progress {
        let [client, server] = match v6 {
            false => ["10.0.0.1", "10.0.0.100"],
            true => ["fd77::1", "fd77::100"],
        };
        let end = |text: &str, port| (text.parse().unwrap(), port);
        Progress { key: FlowKey { client: end(client, port), server: end(server, 6379) }, to }
    }

    proptest! {
        #[test]
        fn round_trip(all in proptest::collection::vec(any::<(bool, u16, u32)>(), 0..=SAID_MAX)) {
            let progress = all.into_iter().map(|(v6, port, to)| progress(v6, port, to)).collect();
            let record = SaidRecord { progress };
            let bytes = record.encode();
            prop_assert_eq!(SaidRecord::decode(&bytes), Some(record));
            prop_assert_eq!(SaidRecord::decode(&bytes[..bytes.len() - 1]), None);
        }
    }

    #[test]
    fn the_longest_record_fits() {
        let progress = [progress(true, 1, 2); SAID_MAX].into();
        assert_eq!(SaidRecord { progress }.encode().len(), SAID_LEN_MAX);
        const { assert!(SAID_LEN_MAX <= crate::record::RECORD_PAYLOAD_MAX) };
    }
}
