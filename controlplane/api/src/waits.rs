//! How long output has waited at the gate.

use serde::{Deserialize, Serialize};

/// A histogram: how many frames waited how long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits {
    /// Upper bounds of the buckets, ascending; a bound belongs to its bucket.
    pub bounds_ns: Vec<u64>,
    /// Frames in each bucket: one more than there are bounds, as the last has none.
    pub counts: Vec<u64>,
    /// All waits added up.
    pub sum_ns: u64,
}

impl Waits {
    /// How many frames were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What was counted since `earlier`; all of it if the daemon began anew meanwhile.
    #[must_use]
    pub fn since(&self, earlier: &Waits) -> Waits {
        let grown = earlier.bounds_ns == self.bounds_ns
            && earlier.counts.len() == self.counts.len()
            && earlier.counts.iter().zip(&self.counts).all(|(old, new)| old <= new);
        if !grown {
            return self.clone();
        }
        Waits {
            bounds_ns: self.bounds_ns.clone(),
            counts: self.counts.iter().zip(&earlier.counts).map(|(new, old)| new - old).collect(),
            sum_ns: self.sum_ns.saturating_sub(earlier.sum_ns),
        }
    }

    /// The bound below which so many hundredths of the frames waited; `None` without any, or if
    /// that is in the bucket that has no bound.
    #[must_use]
    pub fn percentile_ns(&self, percent: u64) -> Option<u64> {
        let total = self.total();
        let wanted = u128::from(total) * u128::from(percent.min(100));
        let mut below = 0u128;
        let bucket = self.counts.iter().position(|&count| {
            below += u128::from(count);
            below > 0 && below * 100 >= wanted
        })?;
        self.bounds_ns.get(bucket).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::Waits;

    fn waits(counts: &[u64]) -> Waits {
        Waits { bounds_ns: vec![1_000, 2_000, 4_000], counts: counts.to_vec(), sum_ns: 9 }
    }

    #[test]
    fn percentiles_are_bounds() {
        let some = waits(&[90, 9, 1, 0]);
        assert_eq!(some.percentile_ns(50), Some(1_000));
        assert_eq!(some.percentile_ns(99), Some(2_000));
        assert_eq!(some.percentile_ns(100), Some(4_000));
        assert_eq!(waits(&[0, 0, 0, 1]).percentile_ns(50), None);
        assert_eq!(waits(&[0, 0, 0, 0]).percentile_ns(50), None);
        assert_eq!(Waits::default().percentile_ns(50), None);
        assert_eq!(waits(&[0, 1, 0, 0]).percentile_ns(0), Some(2_000));
    }

    #[test]
    fn differences_survive_a_fresh_start() {
        let (old, new) = (waits(&[1, 2, 0, 0]), waits(&[4, 2, 1, 0]));
        assert_eq!(new.since(&old).counts, [3, 0, 1, 0]);
        assert_eq!(old.since(&new), old, "counts went back: the daemon is another one");
        assert_eq!(new.since(&Waits::default()), new);
    }
}
