//! Deterministic bytes and their hash: what both ends of a test can compute alone.

/// One step of splitmix64: a well-mixed word for every input.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A small seeded generator for choices (not for payload).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next word.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(mix(self.0))
    }

    /// A number below `bound` (0 when the bound is 0).
    pub fn below(&mut self, bound: u64) -> u64 {
        self.word().checked_rem(bound).unwrap_or(0)
    }
}

/// Fills `out` with the bytes of stream `seed` that start at `offset`.
pub fn fill(seed: u64, offset: u64, out: &mut [u8]) {
    let key = mix(seed);
    let mut at = offset;
    let mut rest = out;
    while !rest.is_empty() {
        let word = mix(key ^ (at / 8)).to_le_bytes();
        let skip = (at % 8) as usize;
        let count = (8 - skip).min(rest.len());
        let (now, later) = rest.split_at_mut(count);
        now.copy_from_slice(&word[skip..skip + count]);
        at += count as u64;
        rest = later;
    }
}

/// The bytes of stream `seed` from `offset` on.
pub fn bytes(seed: u64, offset: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    fill(seed, offset, &mut out);
    out
}

/// A lower-case word of `length` letters out of `seed`: a payload that reads well in a capture.
pub fn letters(seed: u64, length: usize) -> String {
    bytes(seed, 0, length).iter().map(|byte| char::from(b'a' + byte % 26)).collect()
}

/// FNV-1a over a stream, with its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash {
    state: u64,
    length: u64,
}

impl Default for Hash {
    fn default() -> Self {
        Self { state: 0xcbf2_9ce4_8422_2325, length: 0 }
    }
}

impl Hash {
    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.state = (self.state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.length += bytes.len() as u64;
    }

    /// Bytes taken in so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The value so far.
    pub fn value(&self) -> u64 {
        mix(self.state ^ self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let whole = bytes(7, 0, 1000);
        for cut in [0, 1, 7, 8, 9, 500, 999] {
            let mut parts = bytes(7, 0, cut);
            parts.extend(bytes(7, cut as u64, 1000 - cut));
            assert_eq!(parts, whole);
        }
        assert_ne!(bytes(8, 0, 1000), whole);
    }

    #[test]
    fn the_hash_sees_order_and_length() {
        let hash = |parts: &[&[u8]]| {
            let mut hash = Hash::default();
            parts.iter().for_each(|part| hash.update(part));
            hash.value()
        };
        assert_eq!(hash(&[b"ab", b"c"]), hash(&[b"abc"]));
        assert_ne!(hash(&[b"acb"]), hash(&[b"abc"]));
        assert_ne!(hash(&[b"abc\0"]), hash(&[b"abc"]));
    }
}
