//! What a node keeps across its lives, and how it is written: one line of text with a checksum.
//!
//! What belongs here: the format, so that whoever keeps the bytes (a file, a simulated disk) reads them by one
//! rule. Damaged bytes are refused: guessing an epoch could elect two primaries.

use understudy_wire::{Epoch, NodeId};

const MAGIC: &str = "understudy-epoch-1";

/// What survives a restart: given at start, written through `Output::Persist`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Persisted {
    /// The highest epoch this node took part in.
    pub epoch: Epoch,
    /// Whom it voted for in that epoch.
    pub voted_for: Option<NodeId>,
}

impl Persisted {
    /// The bytes to keep.
    #[must_use]
    pub fn encode(&self) -> String {
        let body = format!("{MAGIC} {} {}", self.epoch, self.voted_for.unwrap_or(0));
        format!("{body} {:016x}\n", checksum(&body))
    }

    /// Reads what `encode` made; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Persisted> {
        let mut words = str::from_utf8(bytes).ok()?.split(' ');
        if words.next()? != MAGIC {
            return None;
        }
        let epoch = words.next()?.parse().ok()?;
        let vote: NodeId = words.next()?.parse().ok()?;
        let state = Persisted { epoch, voted_for: (vote != 0).then_some(vote) };
        // With its checksum, and no other spelling of it.
        (state.encode().as_bytes() == bytes).then_some(state)
    }
}

/// FNV-1a: tells a torn write, not an attacker.
fn checksum(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_and_any_flipped_bit_is_refused() {
        for state in [
            Persisted::default(),
            Persisted { epoch: 7, voted_for: Some(3) },
            Persisted { epoch: u64::MAX, voted_for: None },
        ] {
            let whole = state.encode().into_bytes();
            assert_eq!(Persisted::decode(&whole), Some(state));
            for cut in 0..whole.len() {
                assert_eq!(Persisted::decode(&whole[..cut]), None, "cut at {cut}");
            }
            for at in 0..whole.len() - 1 {
                for bit in 0..8 {
                    let mut bytes = whole.clone();
                    bytes[at] ^= 1 << bit;
                    let read = Persisted::decode(&bytes);
                    assert!(read.is_none_or(|r| r == state), "bit {bit} flipped at {at}: {read:?}");
                }
            }
        }
    }

    #[test]
    fn a_new_state_over_an_old_one_is_refused_at_every_point() {
        let old = Persisted { epoch: 99, voted_for: Some(12) }.encode().into_bytes();
        let new = Persisted { epoch: 100, voted_for: None }.encode().into_bytes();
        for at in 1..new.len() - 1 {
            let torn = [&new[..at], old.get(at..).unwrap_or_default()].concat();
            let read = Persisted::decode(&torn);
            assert!(torn == new || torn == old || read.is_none(), "{at}: {read:?}");
        }
    }
}
