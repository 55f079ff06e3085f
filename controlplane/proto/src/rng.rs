//! A small seeded generator for the delays that break ties.
//!
//! What belongs here: nothing that needs secrecy.

/// SplitMix64.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound_ns`, or 0.
    pub(crate) fn below(&mut self, bound_ns: u64) -> u64 {
        if bound_ns == 0 { 0 } else { self.next() % bound_ns }
    }
}
