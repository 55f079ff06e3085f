//! Comparing two things fairly: in pairs of slices, the first of a pair in turn.
//!
//! What disturbs a machine for longer than a slice disturbs both of a pair, so the median of the
//! pairs' ratios says more than the ratio of two averages.

use serde::Serialize;

/// Times of one pair, in nanoseconds per packet.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// What is compared with.
    pub baseline: f64,
    /// What is measured.
    pub subject: f64,
}

/// Runs `pairs` pairs; each closure gives nanoseconds per packet of one slice.
pub fn run<T>(
    pairs: usize,
    state: &mut T,
    mut baseline: impl FnMut(&mut T) -> f64,
    mut subject: impl FnMut(&mut T) -> f64,
) -> Vec<Pair> {
    let mut out = Vec::with_capacity(pairs);
    for i in 0..pairs {
        let pair = if i % 2 == 0 {
            let baseline = baseline(state);
            Pair { baseline, subject: subject(state) }
        } else {
            let subject = subject(state);
            Pair { baseline: baseline(state), subject }
        };
        out.push(pair);
    }
    out
}

/// Median and extremes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Half of the values are not above it.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of some values, at least one.
    pub fn of(values: impl Iterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            (values[middle - 1] + values[middle]) / 2.0
        } else {
            values[middle]
        };
        Spread { median, min: values[0], max: values[values.len() - 1] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let odd = Spread::of([3.0, 1.0, 2.0].into_iter());
        assert_eq!(odd, Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0].into_iter()).median, 2.5);
    }

    #[test]
    fn each_side_goes_first_in_turn() {
        let mut order = Vec::new();
        let log = |name: char| move |order: &mut Vec<char>| (order.push(name), 1.0).1;
        let pairs = run(4, &mut order, log('b'), log('s'));
        assert_eq!(pairs.len(), 4);
        assert_eq!(order.iter().collect::<String>(), "bssbbssb");
    }
}
