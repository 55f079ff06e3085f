//! How tables are hashed whose keys are what strangers choose: addresses and ports.

use std::hash::BuildHasher;

use ahash::RandomState;

/// A fast one that strangers cannot aim at: keyed from the standard library's random state.
pub fn hasher() -> RandomState {
    let random = std::hash::RandomState::new();
    let [a, b, c, d] = [0u8, 1, 2, 3].map(|n| random.hash_one(n));
    RandomState::with_seeds(a, b, c, d)
}
