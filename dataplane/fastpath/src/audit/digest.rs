//! The digest: a keyed sum over a byte stream, each byte weighted by its sequence number.
//!
//! `sum = Σ word(i) · K[i mod 256] · R^(i div 256)` modulo the prime 2^61 - 1, where `word(i)` are
//! the 32-bit words of the stream as sequence numbers align them, and K and R are secret. So the
//! sum does not depend on segments, can be told at any byte, and grows by what is added: two ends
//! that begin to look at different bytes still agree on the difference. No hash of a library can do
//! that. It is a universal hash (multilinear within a block, a polynomial over blocks): two outputs
//! chosen without knowledge of the seed have the same sum with a probability below 2^-38. It is no
//! signature: its values never leave the sealed replica network.

use ring::hkdf;
use understudy_wire::audit::Seed;

/// The modulus, a Mersenne prime.
const P: u64 = (1 << 61) - 1;
const WORD_LEN: usize = 4;
/// Words between two powers of R.
const WORDS: usize = 256;
/// Bytes of a block, a power of two.
const BLOCK_LEN: usize = WORDS * WORD_LEN;
/// What FIN adds at its sequence number: no byte does.
const FIN_SYMBOL: u64 = 256;

/// `x` modulo P.
fn reduce(x: u128) -> u64 {
    let once = (x & u128::from(P)) + (x >> 61);
    let twice = (once as u64 & P) + (once >> 61) as u64;
    if twice >= P { twice - P } else { twice }
}

fn add(a: u64, b: u64) -> u64 {
    reduce(u128::from(a) + u128::from(b))
}

fn mul(a: u64, b: u64) -> u64 {
    reduce(u128::from(a) * u128::from(b))
}

/// The secret numbers that a seed stands for.
pub struct Key {
    seed: Seed,
    words: [u64; WORDS],
    block: u64,
}

/// Length of what is derived from the seed.
struct Wide;

impl hkdf::KeyType for Wide {
    fn len(&self) -> usize {
        (WORDS + 1) * 8
    }
}

impl Key {
    /// Derives the numbers; some tens of microseconds.
    pub fn new(seed: Seed) -> Key {
        let mut bytes = [0; (WORDS + 1) * 8];
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"understudy audit");
        let prk = salt.extract(&seed);
        prk.expand(&[b"digest"], Wide)
            .and_then(|okm| okm.fill(&mut bytes))
            .expect("HKDF-SHA256 gives up to 8160 bytes");
        let (numbers, _) = bytes.as_chunks::<8>();
        let number = |i: usize| reduce(u128::from(u64::from_le_bytes(numbers[i])));
        Key { seed, words: std::array::from_fn(number), block: number(WORDS).max(2) }
    }

    /// What it was derived from.
    pub fn seed(&self) -> Seed {
        self.seed
    }

    /// R to the number of the block that holds `seq`.
    fn power(&self, seq: u32) -> u64 {
        let (mut exponent, mut base, mut power) = (seq as usize / BLOCK_LEN, self.block, 1);
        while exponent > 0 {
            if exponent & 1 == 1 {
                power = mul(power, base);
            }
            base = mul(base, base);
            exponent >>= 1;
        }
        power
    }

    /// What `bytes` within one block, from byte `at` of it on, add before they are weighted by the
    /// block.
    fn weigh(&self, at: usize, bytes: &[u8]) -> u64 {
        let single = |at: usize, value: u64| -> u128 {
            let shifted = value << (8 * (at % WORD_LEN));
            u128::from(shifted) * u128::from(self.words[at / WORD_LEN])
        };
        let head_len = at.next_multiple_of(WORD_LEN).wrapping_sub(at).min(bytes.len());
        let (head, rest) = bytes.split_at(head_len);
        let mut sum = 0u128;
        for (i, byte) in head.iter().enumerate() {
            sum += single(at + i, u64::from(*byte));
        }
        let at = at + head_len;
        let (words, tail) = rest.as_chunks::<WORD_LEN>();
        let keys = &self.words[(at / WORD_LEN).min(WORDS)..];
        for (word, key) in words.iter().zip(keys) {
            sum += u128::from(u32::from_le_bytes(*word)) * u128::from(*key);
        }
        let at = at + words.len() * WORD_LEN;
        for (i, byte) in tail.iter().enumerate() {
            sum += single(at + i, u64::from(*byte));
        }
        reduce(sum)
    }
}

/// A digest on its way along a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    next: u32,
    len: u64,
    sum: u64,
    power: u64,
}

impl Running {
    /// Nothing in it yet; the next byte is that with sequence number `seq`.
    pub fn new(key: &Key, seq: u32) -> Running {
        Running { next: seq, len: 0, sum: 0, power: key.power(seq) }
    }

    /// Sequence number after what is in it.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Bytes in it.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Its value.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Takes the next bytes.
    pub fn take(&mut self, key: &Key, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let at = self.next as usize % BLOCK_LEN;
            let (part, rest) = bytes.split_at(bytes.len().min(BLOCK_LEN - at));
            self.add(key, key.weigh(at, part), part.len() as u32);
            bytes = rest;
        }
    }

    /// Takes FIN, which stands where the next byte would.
    pub fn take_fin(&mut self, key: &Key) {
        let at = self.next as usize % BLOCK_LEN;
        let value = FIN_SYMBOL << (8 * (at % WORD_LEN));
        self.add(key, reduce(u128::from(value) * u128::from(key.words[at / WORD_LEN])), 1);
    }

    fn add(&mut self, key: &Key, weight: u64, len: u32) {
        self.sum = add(self.sum, mul(weight, self.power));
        self.len += u64::from(len);
        self.next = self.next.wrapping_add(len);
        if (self.next as usize).is_multiple_of(BLOCK_LEN) {
            self.power = if self.next == 0 { 1 } else { mul(self.power, key.block) };
        }
    }

    /// Becomes one that began elsewhere: that has `len` bytes more in it (or fewer: modulo 2^64), and
    /// a sum larger by `sum`.
    pub fn shift(&mut self, len: u64, sum: u64) {
        self.len = self.len.wrapping_add(len);
        self.sum = add(self.sum, sum);
    }
}

/// `a - b`, as sums are counted.
pub fn difference(a: u64, b: u64) -> u64 {
    add(a % P, P - b % P)
}

/// `a + b`, as sums are counted.
pub fn total(a: u64, b: u64) -> u64 {
    add(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> Key {
        Key::new([7; 16])
    }

    fn digest(key: &Key, seq: u32, pieces: &[&[u8]]) -> Running {
        let mut running = Running::new(key, seq);
        pieces.iter().for_each(|piece| running.take(key, piece));
        running
    }

    proptest! {
        #[test]
        fn segments_do_not_matter(
            seq: u32,
            bytes in proptest::collection::vec(any::<u8>(), 0..5000),
            cuts in proptest::collection::vec(0usize..5000, 0..20),
        ) {
            let key = key();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            let whole = digest(&key, seq, &[&bytes]);
            prop_assert_eq!(digest(&key, seq, &pieces), whole);
            prop_assert_eq!(whole.next(), seq.wrapping_add(bytes.len() as u32));
            // The power along the way is that of a fresh start there.
            prop_assert_eq!(whole.power, Running::new(&key, whole.next()).power);
        }

        #[test]
        fn one_byte_matters(
            seq: u32,
            bytes in proptest::collection::vec(any::<u8>(), 1..3000),
            at: proptest::sample::Index,
            flip in 1u8..,
        ) {
            let key = key();
            let mut other = bytes.clone();
            other[at.index(bytes.len())] ^= flip;
            prop_assert_ne!(digest(&key, seq, &[&bytes]).sum, digest(&key, seq, &[&other]).sum);
        }

        /// Whoever began later has the same difference between any two later moments.
        #[test]
        fn a_late_start_differs_by_a_constant(
            seq: u32,
            bytes in proptest::collection::vec(any::<u8>(), 3..4000),
            at in proptest::collection::vec(any::<proptest::sample::Index>(), 3),
        ) {
            let key = key();
            let mut at: Vec<usize> = at.iter().map(|i| i.index(bytes.len())).collect();
            at.sort_unstable();
            let sum = |from: usize, to: usize| {
                digest(&key, seq.wrapping_add(from as u32), &[&bytes[from..to]]).sum
            };
            prop_assert_eq!(
                difference(sum(0, at[1]), sum(at[0], at[1])),
                difference(sum(0, at[2]), sum(at[0], at[2]))
            );
        }

        #[test]
        fn reduction_is_exact(x: u128) {
            let x = x >> 20;
            prop_assert_eq!(u128::from(reduce(x)), x % u128::from(P));
        }
    }

    #[test]
    fn a_close_is_no_byte() {
        let key = key();
        for seq in 1020..1030 {
            let mut closed = Running::new(&key, seq);
            closed.take_fin(&key);
            for byte in 0..=255 {
                assert_ne!(digest(&key, seq, &[&[byte]]).sum, closed.sum);
            }
        }
    }

    /// What a library's hash of the same bytes would see: swapped blocks and words are other output.
    #[test]
    fn the_place_matters() {
        let key = key();
        let block = |n: u8| vec![n; BLOCK_LEN];
        let sum = |a, b| digest(&key, 0, &[&block(a), &block(b)]).sum;
        assert_ne!(sum(1, 2), sum(2, 1));
        assert_ne!(digest(&key, 0, &[b"aaaabbbb"]).sum, digest(&key, 0, &[b"bbbbaaaa"]).sum);
        assert_ne!(Key::new([8; 16]).words, key.words);
    }
}
