//! Comparing two things fairly: in pairs of slices, the first of a pair in turn.
//!
//! What disturbs a machine for longer than a slice disturbs both of a pair, so the median of the
//! pairs' ratios says more than the ratio of two averages. A pair with a disturbed slice is
//! discarded, counted, and made up for.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::noise::{Discarded, Watch, Watched};
use crate::stats::{Estimate, Spread};

/// Pairs that are tried for each that is wanted.
const ATTEMPTS_PER_PAIR: usize = 6;
/// Fewer pairs than this say nothing.
const PAIRS_MIN: usize = 3;

/// What was measured in one pair, in any unit.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Pair {
    /// What is compared with.
    pub baseline: f64,
    /// What is measured.
    pub subject: f64,
}

/// All pairs of a comparison.
#[derive(Clone, Debug)]
pub struct Pairs {
    /// Those that count.
    pub kept: Vec<Pair>,
    /// Those that do not.
    pub discarded: Discarded,
}

impl Pairs {
    /// What is compared with.
    pub fn baseline(&self) -> Spread {
        Spread::of(self.kept.iter().map(|pair| pair.baseline))
    }

    /// What is measured.
    pub fn subject(&self) -> Spread {
        Spread::of(self.kept.iter().map(|pair| pair.subject))
    }

    /// Subject over baseline, pair by pair.
    pub fn ratio(&self) -> Estimate {
        Estimate::of(&self.kept.iter().map(|p| p.subject / p.baseline).collect::<Vec<_>>())
    }

    /// Subject less baseline, pair by pair.
    pub fn added(&self) -> Spread {
        Spread::of(self.kept.iter().map(|pair| pair.subject - pair.baseline))
    }
}

/// Runs pairs until `wanted` count; each closure measures one slice.
///
/// # Errors
/// Those of the closures; or if the machine is too busy for a handful of undisturbed pairs.
pub fn run<T>(
    wanted: usize,
    watched: &Watched,
    state: &mut T,
    mut baseline: impl FnMut(&mut T) -> Result<f64>,
    mut subject: impl FnMut(&mut T) -> Result<f64>,
) -> Result<Pairs> {
    let mut pairs = Pairs { kept: Vec::with_capacity(wanted), discarded: Discarded::default() };
    for attempt in 0..wanted * ATTEMPTS_PER_PAIR {
        if pairs.kept.len() == wanted {
            break;
        }
        let watch = Watch::begin(watched);
        let pair = if attempt % 2 == 0 {
            let baseline = baseline(state)?;
            Pair { baseline, subject: subject(state)? }
        } else {
            let subject = subject(state)?;
            Pair { baseline: baseline(state)?, subject }
        };
        if !pairs.discarded.count(watch.end()) {
            pairs.kept.push(pair);
        }
    }
    ensure!(
        pairs.kept.len() >= PAIRS_MIN.min(wanted),
        "the machine is too busy: of {} pairs of slices only {} were not disturbed",
        pairs.kept.len() as u64 + pairs.discarded.total(),
        pairs.kept.len()
    );
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_goes_first_in_turn() {
        let mut order = Vec::new();
        let log = |name: char| {
            move |order: &mut Vec<char>| {
                order.push(name);
                Ok(f64::from(u32::from(name)))
            }
        };
        let pairs = run(4, &Watched::Nobody, &mut order, log('b'), log('s')).unwrap();
        assert_eq!(pairs.kept.len(), 4);
        let order: String = order.iter().collect();
        assert!(order.starts_with("bssbbssb"), "{order}");
        assert!(pairs.ratio().median > 1.0 && pairs.added().median > 0.0);
    }

    #[test]
    fn an_error_of_a_slice_ends_it() {
        let fails = |_: &mut ()| anyhow::bail!("no");
        assert!(run(4, &Watched::Nobody, &mut (), |_| Ok(1.0), fails).is_err());
    }
}
