//! A set of keys that may say yes wrongly, and never no: what is not in it need not be read.

/// Bits for each key: about one wrong yes in 150.
const BITS_PER_KEY: usize = 12;
const HASHES: u64 = 4;
/// A block's set is no longer; beyond it there are more wrong answers.
pub const BLOOM_BYTES_MAX: usize = 256 * 1024;

/// A Bloom filter over 64-bit keys, which are hashes already. Empty: it says yes to everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bloom {
    bytes: Vec<u8>,
}

impl Bloom {
    /// With room for so many keys.
    #[must_use]
    pub fn for_keys(keys: usize) -> Bloom {
        let len = (keys.saturating_mul(BITS_PER_KEY) / 8).clamp(8, BLOOM_BYTES_MAX);
        Bloom::with_bytes(len)
    }

    /// Of so many bytes, to the next eight.
    #[must_use]
    pub fn with_bytes(len: usize) -> Bloom {
        Bloom { bytes: vec![0; len.clamp(8, BLOOM_BYTES_MAX).next_multiple_of(8)] }
    }

    /// As it is stored; no bytes: it says yes to everything.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Bloom {
        Bloom { bytes }
    }

    /// What is stored.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Puts a key in.
    pub fn insert(&mut self, key: u64) {
        let bits = self.bytes.len() as u64 * 8;
        if bits == 0 {
            return;
        }
        for bit in positions(key, bits) {
            self.bytes[bit / 8] |= 1 << (bit % 8);
        }
    }

    /// Whether the key may be in it.
    #[must_use]
    pub fn may_hold(&self, key: u64) -> bool {
        let bits = self.bytes.len() as u64 * 8;
        bits == 0 || positions(key, bits).all(|bit| self.bytes[bit / 8] & (1 << (bit % 8)) != 0)
    }
}

/// The key's bits, by double hashing.
fn positions(key: u64, bits: u64) -> impl Iterator<Item = usize> {
    let (first, step) = (key & 0xffff_ffff, (key >> 32) | 1);
    (0..HASHES).map(move |i| {
        let hash = first.wrapping_add(i.wrapping_mul(step)) & 0xffff_ffff;
        ((hash * bits) >> 32) as usize
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::mix;

    #[test]
    fn all_that_was_put_in_is_found_and_little_else() {
        let mut bloom = Bloom::for_keys(10_000);
        (0..10_000).for_each(|i| bloom.insert(mix(1, i, 0)));
        assert!((0..10_000).all(|i| bloom.may_hold(mix(1, i, 0))));
        let wrong = (0..100_000).filter(|&i| bloom.may_hold(mix(2, i, 0))).count();
        assert!(wrong < 1500, "{wrong} of 100000");
        assert!(Bloom::default().may_hold(5), "without bits nothing is excluded");
    }
}
