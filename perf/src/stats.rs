//! Medians, their confidence intervals, and distributions.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Samples that are drawn anew for one confidence interval.
const RESAMPLES: usize = 2000;
/// The same draws each time: a report is a function of its samples.
const SEED: u64 = 0x5eed;
/// What a histogram holds: a microsecond to ten minutes, in ns, to three digits.
const RANGE_NS: (u64, u64) = (1_000, 600_000_000_000);

/// Median and extremes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
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
        let median = median(&mut values);
        Spread { median, min: values[0], max: values[values.len() - 1] }
    }

    /// Of a value that is known exactly.
    pub fn exact(value: f64) -> Spread {
        Spread { median: value, min: value, max: value }
    }
}

/// The median; the values are sorted afterwards.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) {
        (values[middle - 1] + values[middle]) / 2.0
    } else {
        values[middle]
    }
}

/// A median and where it lies with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The samples' median.
    pub median: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl Estimate {
    /// Of some values, at least one: percentile bootstrap of the median.
    pub fn of(values: &[f64]) -> Estimate {
        let mut rng = fastrand::Rng::with_seed(SEED);
        let mut draw = vec![0.0; values.len()];
        let mut medians: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                draw.iter_mut().for_each(|slot| *slot = values[rng.usize(..values.len())]);
                median(&mut draw)
            })
            .collect();
        medians.sort_by(f64::total_cmp);
        let at = |share: f64| medians[((RESAMPLES - 1) as f64 * share).round() as usize];
        Estimate { median: median(&mut values.to_vec()), low: at(0.025), high: at(0.975) }
    }
}

/// How times are spread, from a histogram with three digits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Distribution {
    /// How many.
    pub count: u64,
    /// The smallest, in ms.
    pub min_ms: f64,
    /// Half of them are not above it.
    pub p50_ms: f64,
    /// 90 % of them are not above it.
    pub p90_ms: f64,
    /// 99 % of them are not above it.
    pub p99_ms: f64,
    /// 99.9 % of them are not above it.
    pub p999_ms: f64,
    /// The largest.
    pub max_ms: f64,
    /// (share of the samples in %, ms) for plots.
    pub curve: Vec<(f64, f64)>,
}

/// An empty histogram of ns.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(RANGE_NS.0, RANGE_NS.1, 3).expect("constant bounds")
}

impl Distribution {
    /// Of a histogram of ns with at least one sample.
    pub fn of(histogram: &Histogram<u64>) -> Option<Distribution> {
        let ms = |ns: u64| ns as f64 / 1e6;
        let at = |share: f64| ms(histogram.value_at_quantile(share));
        let points = histogram.iter_quantiles(5);
        let curve = points.map(|p| (p.quantile() * 100.0, ms(p.value_iterated_to()))).collect();
        (!histogram.is_empty()).then(|| Distribution {
            count: histogram.len(),
            min_ms: ms(histogram.min()),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: ms(histogram.max()),
            curve,
        })
    }

    /// Of single times in ns.
    pub fn of_ns(values: impl IntoIterator<Item = u64>) -> Option<Distribution> {
        let mut histogram = histogram();
        values.into_iter().for_each(|ns| histogram.saturating_record(ns));
        Distribution::of(&histogram)
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
    fn intervals_hold_the_median_and_shrink_with_more_samples() {
        let samples: Vec<f64> = (0..400).map(|i| 1.0 + f64::from(i) / 400.0).collect();
        let some: Vec<f64> = samples.iter().copied().step_by(20).collect();
        let (few, many) = (Estimate::of(&some), Estimate::of(&samples));
        for estimate in [few, many] {
            assert!(estimate.low <= estimate.median && estimate.median <= estimate.high);
        }
        assert!(many.low < 1.5 && 1.5 < many.high, "{many:?}");
        assert!(many.high - many.low < few.high - few.low);
        let one = Estimate::of(&[3.0]);
        assert_eq!((one.low, one.median, one.high), (3.0, 3.0, 3.0));
    }

    #[test]
    fn distributions() {
        assert!(Distribution::of_ns([]).is_none());
        let found = Distribution::of_ns((1..=1000).map(|ms| ms * 1_000_000)).unwrap();
        assert_eq!(found.count, 1000);
        assert!((found.p50_ms - 500.0).abs() < 1.0 && (found.p99_ms - 990.0).abs() < 1.0);
        assert!(found.curve.windows(2).all(|w| w[0].0 <= w[1].0 && w[0].1 <= w[1].1));
    }
}
