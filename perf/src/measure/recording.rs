//! Contests of programs that store what they hear: the highest rate without loss of each, in turn.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Plan;
use crate::lossless::{Best, Search};

/// Frames that are sent, in bytes.
pub const FRAME_LENS: [usize; 2] = [64, 1514];
pub const PAIRS: usize = 3;
pub const PAIRS_QUICK: usize = 1;
const SECONDS: f64 = 3.0;
const SECONDS_QUICK: f64 = 1.0;
const PRECISION: f64 = 1.1;
const PRECISION_QUICK: f64 = 1.4;
const TRIES: usize = 2;
/// A later search begins below what an earlier one found by this factor.
const BELOW: f64 = 1.3;
const FIRST: f64 = 200_000.0;
/// Memory has no seek times and no write-back: the programs are compared, not the disk.
const MEMORY: &str = "/dev/shm";

/// One side of a contest: it remembers where to begin.
#[derive(Default)]
pub struct Side {
    found: Vec<Best>,
}

impl Side {
    /// Runs a search of `plan`'s size.
    pub fn search(
        &mut self,
        plan: &Plan,
        frame_len: usize,
        run: impl FnOnce(&Search) -> Result<Best>,
    ) -> Result<f64> {
        let best = run(&Search {
            frame_len,
            first: self.found.last().map_or(FIRST, |best| best.rate / BELOW),
            precision: if plan.quick { PRECISION_QUICK } else { PRECISION },
            seconds: if plan.quick { SECONDS_QUICK } else { SECONDS },
            tries: TRIES,
        })?;
        self.found.push(best);
        Ok(best.rate)
    }

    /// How many searches ended because the generator could do no more.
    pub fn generators(&self) -> usize {
        self.found.iter().filter(|best| best.is_generators).count()
    }

    /// How many searches there were.
    pub fn searches(&self) -> usize {
        self.found.len()
    }

    /// What each found, frames a second.
    pub fn rates(&self) -> impl Iterator<Item = f64> {
        self.found.iter().map(|best| best.rate)
    }

    /// The best of all, frames a second.
    pub fn most(&self) -> f64 {
        self.rates().fold(0.0, f64::max)
    }
}

/// Where both sides write.
pub struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    /// In memory where the system has a place for that.
    pub fn new(plan: &Plan) -> Result<Scratch> {
        let place = if Path::new(MEMORY).is_dir() { Path::new(MEMORY) } else { &plan.scratch };
        let dir = tempfile::Builder::new().prefix("understudy-perf").tempdir_in(place);
        Ok(Scratch { dir: dir.with_context(|| format!("a directory in {}", place.display()))? })
    }

    /// An empty directory.
    pub fn fresh(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        std::fs::create_dir(&path)?;
        Ok(path)
    }
}
