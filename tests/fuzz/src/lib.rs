//! Mutation: what the fuzzers in `tests/` have in common.
//!
//! Coverage-guided fuzzing needs a nightly compiler, so these begin with what is valid, change it a
//! little, and are bounded: `UNDERSTUDY_FUZZ_ITERS` inputs per decoder, a few seconds in all. Every
//! input follows from one number, which a failure prints and `UNDERSTUDY_FUZZ_SEED` takes.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::path::{Path, PathBuf};

/// Inputs per decoder, unless `UNDERSTUDY_FUZZ_ITERS` says otherwise.
const ITERATIONS: u64 = 200_000;
const SEED: u64 = 0x5eed_0f1e_55ed;
/// Distance of the seeds of successive inputs.
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;
/// No mutated input is longer.
const LEN_MAX: usize = 16 * 1024;

/// A small deterministic generator (xorshift64*).
pub struct Rng(u64);

impl Rng {
    /// From any seed.
    pub fn new(seed: u64) -> Rng {
        let mixed = (seed ^ (seed >> 31)).wrapping_mul(STRIDE);
        Rng((mixed ^ (mixed >> 29)) | 1)
    }

    /// 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, 0 if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        ((self.word() >> 32) as usize).checked_rem(end).unwrap_or(0)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of them; there must be one.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Says which input it was when a check panics.
struct Witness {
    name: &'static str,
    seed: Cell<u64>,
}

impl Drop for Witness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.seed.get();
            eprintln!(
                "{}: repeat with UNDERSTUDY_FUZZ_SEED={seed} UNDERSTUDY_FUZZ_ITERS=1",
                self.name
            );
        }
    }
}

/// Runs `check` for each input; `cost` is how many times dearer than a small decoder it is.
///
/// # Panics
/// If an environment variable is not a number, and whenever `check` does.
pub fn fuzz(name: &'static str, cost: u64, mut check: impl FnMut(&mut Rng)) {
    let first = number("UNDERSTUDY_FUZZ_SEED", SEED);
    let witness = Witness { name, seed: Cell::new(first) };
    for i in 0..(number("UNDERSTUDY_FUZZ_ITERS", ITERATIONS) / cost).max(1) {
        witness.seed.set(first.wrapping_add(i.wrapping_mul(STRIDE)));
        check(&mut Rng::new(witness.seed.get()));
    }
}

fn number(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}"))
}

/// What was recorded, committed beside the fuzzers.
pub fn corpus_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)
}

/// The pieces of a recorded file: 16 bits of length, little-endian, then the bytes.
///
/// # Panics
/// If the file is missing, damaged or empty.
pub fn corpus(name: &str) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(corpus_file(name)).expect("a recorded file");
    let pieces = pieces(&bytes);
    assert!(!pieces.is_empty(), "{name} is empty");
    pieces
}

/// Splits what [`joined`] made.
///
/// # Panics
/// If it did not.
pub fn pieces(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk() {
        let (piece, rest) = rest.split_at(u16::from_le_bytes(*len).into());
        out.push(piece.to_vec());
        bytes = rest;
    }
    assert!(bytes.is_empty(), "cut short");
    out
}

/// Pieces in one file, each shorter than 64 KiB.
pub fn joined(pieces: &[Vec<u8>]) -> Vec<u8> {
    let one = |piece: &Vec<u8>| [&(piece.len() as u16).to_le_bytes()[..], piece].concat();
    pieces.iter().flat_map(one).collect()
}

/// One of the seeds, changed in a few places; now and then not at all.
pub fn mutated(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = rng.pick(seeds).clone();
    for _ in 0..rng.below(5) {
        mutate(rng, &mut bytes, seeds);
    }
    bytes.truncate(LEN_MAX);
    bytes
}

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let at = rng.below(bytes.len());
    match rng.below(8) {
        0 | 1 => edit_field(rng, bytes, at),
        2 => flip_bit(rng, bytes, at),
        3 => bytes.truncate(at),
        4 => bytes.extend((0..rng.below(40)).map(|_| rng.word() as u8)),
        5 => splice(rng, bytes, at, seeds),
        6 => drop(bytes.drain(at..(at + 1 + rng.below(8)).min(bytes.len()).max(at))),
        _ => repeat(rng, bytes, at),
    }
}

fn flip_bit(rng: &mut Rng, bytes: &mut [u8], at: usize) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << rng.below(8);
    }
}

/// Another seed's end after this one's beginning.
fn splice(rng: &mut Rng, bytes: &mut Vec<u8>, at: usize, seeds: &[Vec<u8>]) {
    let other = rng.pick(seeds);
    bytes.truncate(at);
    bytes.extend(&other[rng.below(other.len())..]);
}

fn repeat(rng: &mut Rng, bytes: &mut Vec<u8>, at: usize) {
    let piece = bytes[at..(at + 1 + rng.below(32)).min(bytes.len()).max(at)].to_vec();
    let to = rng.below(bytes.len());
    bytes.splice(to..to, piece);
}

/// A number of 1 to 8 bytes, of either byte order, moved to where lengths and positions go wrong.
fn edit_field(rng: &mut Rng, bytes: &mut [u8], at: usize) {
    let total = bytes.len() as u64;
    let width = *rng.pick(&[1usize, 2, 4, 8]);
    let Some(field) = bytes.get_mut(at..at + width) else { return };
    let mut word = [0; 8];
    let big_endian = rng.one_in(2);
    word[..width].copy_from_slice(field);
    if big_endian {
        word[..width].reverse();
    }
    let old = u64::from_le_bytes(word);
    let near = rng.below(17) as u64;
    let new = match rng.below(6) {
        0 => old.wrapping_add(near).wrapping_sub(8),
        1 => total.wrapping_add(near).wrapping_sub(8),
        2 => u64::MAX - near,
        3 => near,
        4 => 1u64.wrapping_shl(rng.word() as u32).wrapping_sub(u64::from(rng.one_in(2))),
        _ => rng.word(),
    };
    let mut new = new.to_le_bytes();
    if big_endian {
        new[..width].reverse();
    }
    field.copy_from_slice(&new[..width]);
}

/// Whether `part` lies in `whole`, as memory.
pub fn is_inside(part: &[u8], whole: &[u8]) -> bool {
    let (part, whole) = (part.as_ptr_range(), whole.as_ptr_range());
    whole.start <= part.start && part.end <= whole.end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_is_the_same_input() {
        let seeds = [b"one seed".to_vec(), b"another, longer seed".to_vec(), Vec::new()];
        let inputs = |seed| {
            let mut rng = Rng::new(seed);
            (0..2000).map(|_| mutated(&mut rng, &seeds)).collect::<Vec<_>>()
        };
        assert_eq!(inputs(7), inputs(7));
        assert_ne!(inputs(7), inputs(8));
        let whole = inputs(7).iter().filter(|input| seeds.contains(input)).count();
        assert!((100..1500).contains(&whole), "{whole} inputs of 2000 were left as they are");
    }

    #[test]
    #[should_panic(expected = "planted")]
    fn a_failure_ends_the_run() {
        fuzz("planted", 1, |_| panic!("planted"));
    }
}
