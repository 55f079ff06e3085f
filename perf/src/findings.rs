//! What a run found: the JSON document, its shapes and units.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::noise::Discarded;
use crate::paired::Pairs;
use crate::stats::{Distribution, Estimate, Spread};

/// Raised when a field changes its meaning or goes.
pub const SCHEMA_VERSION: u32 = 1;
/// Name of the document in a run's directory.
pub const FILE: &str = "results.json";

/// A run, or several of one directory: each measurement is of the last run that had it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// By name.
    pub measurements: BTreeMap<String, Measurement>,
}

impl Default for Run {
    fn default() -> Run {
        Run { schema_version: SCHEMA_VERSION, measurements: BTreeMap::new() }
    }
}

/// How a measurement ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// With figures.
    Done,
    /// It cannot be made here: what is missing.
    Skipped(String),
    /// It was begun and did not come to its end.
    Failed(String),
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measurement {
    /// What is measured, and how.
    pub about: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether it was cut short (`--quick`).
    pub quick: bool,
    /// When it began, seconds since 1970.
    pub begun_unix_s: u64,
    /// How long it took.
    pub took_s: f64,
    /// Where.
    pub machine: Machine,
    /// What it found.
    pub findings: Findings,
}

/// What a measurement found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Findings {
    /// Pairs of ours and theirs.
    pub comparisons: Vec<Comparison>,
    /// Single figures.
    pub figures: Vec<Figure>,
    /// Distributions of times.
    pub distributions: Vec<Series>,
    /// Stacked parts of a time.
    pub parts: Vec<Parts>,
    /// What a reader must know to read them.
    pub notes: Vec<String>,
    /// Why a target is missed, by the target's id.
    pub reasons: BTreeMap<String, String>,
}

/// Ours beside theirs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// Unique in the run.
    pub id: String,
    /// What is compared, with its unit.
    pub what: String,
    /// Unit of both sides.
    pub unit: String,
    /// What ours is.
    pub ours_name: String,
    /// What theirs is.
    pub theirs_name: String,
    /// Ours.
    pub ours: Spread,
    /// Theirs.
    pub theirs: Spread,
    /// Ours over theirs, pair by pair.
    pub ratio: Estimate,
    /// Pairs that count.
    pub pairs: usize,
    /// Pairs that do not.
    pub discarded: Discarded,
}

/// A figure by itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// Unique in the run.
    pub id: String,
    /// What it is.
    pub what: String,
    /// Its unit.
    pub unit: String,
    /// Its value.
    pub value: Spread,
    /// Of how many samples.
    pub samples: usize,
}

/// A distribution of times and the plot it belongs to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    /// Unique in the run.
    pub id: String,
    /// What it is.
    pub what: String,
    /// Series of one plot are drawn together.
    pub plot: String,
    /// The times.
    pub times: Distribution,
}

/// A time and what it is made of, in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Parts {
    /// What it is.
    pub what: String,
    /// Median of each part, in ms.
    pub parts_ms: Vec<(String, f64)>,
}

/// Both sides of a comparison, in words.
#[derive(Clone, Copy, Debug)]
pub struct Sides<'a> {
    /// Unique in the run.
    pub id: &'a str,
    /// What is compared.
    pub what: &'a str,
    /// Its unit.
    pub unit: &'a str,
    /// What ours is.
    pub ours: &'a str,
    /// What theirs is.
    pub theirs: &'a str,
}

impl Findings {
    /// Adds a comparison: the subject is ours, the baseline theirs.
    pub fn compare(&mut self, sides: Sides, pairs: &Pairs) {
        self.comparisons.push(Comparison {
            id: sides.id.into(),
            what: sides.what.into(),
            unit: sides.unit.into(),
            ours_name: sides.ours.into(),
            theirs_name: sides.theirs.into(),
            ours: pairs.subject(),
            theirs: pairs.baseline(),
            ratio: pairs.ratio(),
            pairs: pairs.kept.len(),
            discarded: pairs.discarded,
        });
    }

    /// Adds a figure.
    pub fn figure(&mut self, id: &str, what: &str, unit: &str, value: Spread, samples: usize) {
        let (id, what, unit) = (id.into(), what.into(), unit.into());
        self.figures.push(Figure { id, what, unit, value, samples });
    }

    /// Adds a distribution; an empty one is left out.
    pub fn times(&mut self, plot: &str, id: &str, what: &str, times: Option<Distribution>) {
        let (id, what, plot) = (id.into(), what.into(), plot.into());
        self.distributions.extend(times.map(|times| Series { id, what, plot, times }));
    }

    /// Adds a remark.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Says why a target is missed, if it is.
    pub fn explain(&mut self, target: &str, why: impl Into<String>) {
        self.reasons.insert(target.into(), why.into());
    }
}

impl Run {
    /// What is in a directory; nothing if it has no document.
    ///
    /// # Errors
    /// If the document is of another version, or none.
    pub fn load(dir: &Path) -> Result<Run> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Ok(Run::default());
        }
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let version: Version = serde_json::from_str(&text)
            .with_context(|| format!("{} is no document of a run", path.display()))?;
        ensure!(
            version.schema_version == SCHEMA_VERSION,
            "{} has schema version {}, this program writes and reads {SCHEMA_VERSION}",
            path.display(),
            version.schema_version
        );
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Writes the document into a directory.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        fs::create_dir_all(dir)
            .and_then(|()| fs::write(&path, serde_json::to_string_pretty(self)? + "\n"))
            .with_context(|| format!("write {}", path.display()))
    }

    fn findings(&self) -> impl Iterator<Item = &Findings> {
        self.measurements.values().map(|measurement| &measurement.findings)
    }

    /// The comparison of that id.
    pub fn comparison(&self, id: &str) -> Option<&Comparison> {
        self.findings().flat_map(|f| &f.comparisons).find(|c| c.id == id)
    }

    /// The figure of that id.
    pub fn figure(&self, id: &str) -> Option<&Figure> {
        self.findings().flat_map(|f| &f.figures).find(|f| f.id == id)
    }

    /// The distribution of that id.
    pub fn times(&self, id: &str) -> Option<&Distribution> {
        self.findings().flat_map(|f| &f.distributions).find(|s| s.id == id).map(|s| &s.times)
    }

    /// Why a target is missed, as far as a measurement could tell.
    pub fn reason(&self, target: &str) -> Option<&str> {
        self.findings().find_map(|f| f.reasons.get(target)).map(String::as_str)
    }
}

#[derive(Deserialize)]
struct Version {
    schema_version: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_comes_back_from_its_directory_and_another_version_does_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Run::load(dir.path()).unwrap().measurements.is_empty());
        let mut findings = Findings::default();
        findings.figure("x/y", "a figure", "ms", Spread::exact(2.5), 1);
        findings.times("p", "x/t", "times", Distribution::of_ns([5_000_000]));
        findings.explain("target", "because");
        let mut run = Run::default();
        let measurement = Measurement {
            about: "a test".into(),
            outcome: Outcome::Skipped("nothing to do".into()),
            quick: true,
            begun_unix_s: 1,
            took_s: 0.5,
            machine: Machine::default(),
            findings,
        };
        run.measurements.insert("x".into(), measurement);
        run.save(dir.path()).unwrap();
        let back = Run::load(dir.path()).unwrap();
        assert_eq!(back.figure("x/y").unwrap().value.median, 2.5);
        assert_eq!(back.times("x/t").unwrap().count, 1);
        assert_eq!(back.reason("target"), Some("because"));
        run.schema_version += 1;
        run.save(dir.path()).unwrap();
        let error = Run::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("schema version 2"), "{error}");
    }
}
