//! How long output waited at the gate, as a histogram: a shift and an add for each frame.

/// Buckets, the last one without an upper bound.
pub const WAIT_BUCKETS: usize = 24;
/// The first bucket ends at 2 to this many nanoseconds, about a microsecond; each further one at
/// twice the bound of the one before.
const FIRST_BITS: u32 = 10;

/// Counts of waits by their length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Frames in each bucket.
    pub counts: [u64; WAIT_BUCKETS],
    /// All waits added up.
    pub sum_ns: u64,
}

impl Waits {
    /// Counts one wait.
    #[inline]
    pub fn record(&mut self, wait_ns: u64) {
        let above = wait_ns.saturating_sub(1) >> FIRST_BITS;
        let bucket = (u64::BITS - above.leading_zeros()) as usize;
        self.counts[bucket.min(WAIT_BUCKETS - 1)] += 1;
        self.sum_ns += wait_ns;
    }

    /// Upper bound of a bucket, which belongs to it; the last one has none.
    #[must_use]
    pub fn bound_ns(bucket: usize) -> Option<u64> {
        (bucket + 1 < WAIT_BUCKETS).then(|| 1 << (FIRST_BITS as usize + bucket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bucket_of(wait_ns: u64) -> usize {
        let mut waits = Waits::default();
        waits.record(wait_ns);
        assert_eq!(waits.sum_ns, wait_ns);
        waits.counts.iter().position(|&n| n == 1).unwrap()
    }

    #[test]
    fn bounds_belong_to_their_bucket() {
        assert_eq!(bucket_of(0), 0);
        assert_eq!((bucket_of(1024), bucket_of(1025)), (0, 1));
        assert_eq!((bucket_of(1 << 32), bucket_of((1 << 32) + 1)), (22, 23));
        assert_eq!(bucket_of(u64::MAX), WAIT_BUCKETS - 1);
        assert_eq!(Waits::bound_ns(WAIT_BUCKETS - 1), None);
    }

    proptest! {
        #[test]
        fn every_wait_is_within_its_bounds(wait_ns: u64) {
            let bucket = bucket_of(wait_ns);
            prop_assert!(Waits::bound_ns(bucket).is_none_or(|bound| wait_ns <= bound));
            let below = bucket.checked_sub(1).and_then(Waits::bound_ns);
            prop_assert!(below.is_none_or(|bound| wait_ns > bound));
        }
    }
}
