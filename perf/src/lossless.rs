//! The highest rate at which everything that is sent is stored.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::numbered::Stored;

/// Rates of a search go up by this factor until something is lost.
const UP: f64 = 1.6;
/// More steps than a search needs.
const STEPS_MAX: usize = 30;
/// Who loses some of so few frames a second has lost them for another reason.
const RATE_MIN: f64 = 5_000.0;
/// A generator that stays this far behind what it was told cannot do more.
const GENERATOR_SHARE_MIN: f64 = 0.9;

/// Set in the environment, each rate that is tried is told.
const TRACE: &str = "UNDERSTUDY_PERF_TRACE";

/// What sends frames.
pub trait Generator {
    /// Sends so many frames at that rate; gives the rate that it came to, infinity if it cannot
    /// tell.
    ///
    /// # Errors
    /// If it ends, or sends none.
    fn offer(&mut self, frames: u64, per_s: f64) -> Result<f64>;

    /// Reads a file of what it sent.
    ///
    /// # Errors
    /// If it is no file of a capture.
    fn read(&self, file: &Path) -> Result<Stored>;
}

/// What stores frames.
pub trait Recorder {
    /// Begins; what is sent afterwards is to be stored.
    ///
    /// # Errors
    /// If it does not come up.
    fn start(&mut self) -> Result<()>;

    /// Lets it take what is on its way, and ends it; gives the file that a reader of captures gets.
    ///
    /// # Errors
    /// If it ended before, or gives no file.
    fn finish(&mut self) -> Result<PathBuf>;

    /// What it said or counted of the last run.
    fn said(&self) -> String;
}

/// How a search is done.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// Bytes of a frame.
    pub frame_len: usize,
    /// The rate that it begins with, frames a second.
    pub first: f64,
    /// It ends when the rates with and without loss are no further apart than this factor.
    pub precision: f64,
    /// How long frames are sent at each rate, in s.
    pub seconds: f64,
    /// A rate is given up when something was lost so many times.
    pub tries: usize,
}

/// The end of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    /// The highest rate without loss, frames a second.
    pub rate: f64,
    /// Nothing was lost at any rate that the generator has.
    pub is_generators: bool,
}

/// What came of sending at one rate.
#[derive(Clone, Copy, Debug)]
struct Trial {
    /// Frames a second, as they were sent.
    rate: f64,
    is_whole: bool,
}

impl Search {
    /// The highest rate at which the recorder stores all frames of the generator, each as it was
    /// sent and in order.
    ///
    /// # Errors
    /// Those of both; if even the lowest rate is too high; if a frame comes out damaged.
    pub fn highest(
        &self,
        generator: &mut dyn Generator,
        recorder: &mut dyn Recorder,
    ) -> Result<Best> {
        self.search(|rate| self.attempt(rate, generator, recorder))
    }

    fn attempt(
        &self,
        rate: f64,
        generator: &mut dyn Generator,
        recorder: &mut dyn Recorder,
    ) -> Result<Trial> {
        let frames = (rate * self.seconds) as u64;
        recorder.start()?;
        let told = generator.offer(frames, rate)?;
        let file = recorder.finish()?;
        let stored = generator.read(&file)?;
        std::fs::remove_file(&file)?;
        // Loss is what is looked for; this is something else.
        ensure!(stored.wrong == 0, "{} frames of {frames} are not as they were sent", stored.wrong);
        let sent = told.min(stored.rate);
        if std::env::var_os(TRACE).is_some() {
            let (right, said) = (stored.right, recorder.said());
            eprintln!("asked {rate:.0}/s, sent {sent:.0}/s, stored {right} of {frames}: {said}");
        }
        Ok(Trial { rate: sent, is_whole: stored.right == frames })
    }

    fn search(&self, mut attempt: impl FnMut(f64) -> Result<Trial>) -> Result<Best> {
        let (mut whole, mut lossy) = (None, None);
        let mut rate = self.first;
        for _ in 0..STEPS_MAX {
            ensure!(rate > RATE_MIN, "something is lost even at {rate:.0} frames/s");
            let mut made = attempt(rate)?;
            for _ in 1..self.tries {
                if made.is_whole {
                    break;
                }
                made = attempt(rate)?;
            }
            if made.is_whole {
                whole = whole.max(Some(made.rate as u64));
                if made.rate < rate * GENERATOR_SHARE_MIN {
                    let most = whole.map_or(made.rate, |most| made.rate.max(most as f64));
                    return Ok(Best { rate: most, is_generators: true });
                }
            } else {
                lossy = Some(rate.min(made.rate));
            }
            let low = whole.map(|rate| rate as f64);
            rate = match (low, lossy) {
                (Some(low), Some(high)) if high <= low * self.precision => break,
                (Some(low), Some(high)) => (low * high).sqrt(),
                (Some(low), None) => low * UP,
                (None, Some(high)) => high / UP,
                (None, None) => unreachable!("an attempt is one or the other"),
            };
        }
        let rate = whole.context("something is lost at any rate")? as f64;
        Ok(Best { rate, is_generators: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEARCH: Search =
        Search { frame_len: 64, first: 100_000.0, precision: 1.05, seconds: 1.0, tries: 2 };

    #[test]
    fn the_border_is_found_from_both_sides() {
        for border in [20_000.0, 99_000.0, 100_000.0, 1_234_567.0] {
            let attempt = |rate| Ok(Trial { rate, is_whole: rate <= border });
            let best = SEARCH.search(attempt).unwrap();
            assert!(best.rate <= border && best.rate * 1.06 > border, "{border}: {best:?}");
            assert!(!best.is_generators);
        }
    }

    #[test]
    fn a_generator_that_can_no_more_ends_it_and_one_loss_is_forgiven() {
        let attempt = |rate: f64| Ok(Trial { rate: rate.min(500_000.0), is_whole: true });
        let best = SEARCH.search(attempt).unwrap();
        assert_eq!(best, Best { rate: 500_000.0, is_generators: true });
        let mut attempts = 0;
        let flaky = |rate: f64| {
            attempts += 1;
            Ok(Trial { rate, is_whole: attempts % 2 == 0 && rate < 500_000.0 })
        };
        assert!(SEARCH.search(flaky).unwrap().rate > 450_000.0);
        assert!(SEARCH.search(|rate| Ok(Trial { rate, is_whole: false })).is_err());
    }
}
