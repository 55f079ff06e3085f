//! Instructions per packet, counted by callgrind and held to a committed baseline.
//!
//! Counted are instructions of Rust functions of this program. Left out, and listed as such: the C
//! library and `ring`, which choose their code by what the CPU offers (memcpy, AES-GCM), so that
//! their counts would be those of a machine. What is left is a function of the source, the compiler
//! and the flags; when the compiler is another one than the baseline's, the baseline's commit is
//! built anew with this one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{callgrind, rebuild, work};

/// Raised when a field changes its meaning or goes, or when other work is counted.
const SCHEMA_VERSION: u32 = 1;
/// A case that needs more than this part more instructions than its baseline fails.
const GROWTH_MAX: f64 = 0.03;
/// Functions with fewer instructions per packet are not worth a line.
const WORTH_SAYING: f64 = 0.05;
/// Functions that a failure names.
const NAMED_MAX: usize = 8;

/// What of the gate is wanted.
#[derive(clap::Args)]
pub struct Options {
    /// Write what is counted now as the new baseline.
    #[arg(long)]
    update: bool,
    /// Say what each function costs.
    #[arg(long)]
    list: bool,
    /// The baseline.
    #[arg(long, default_value = "perf/gate/baseline.json")]
    baseline: PathBuf,
    /// Print what is counted as a JSON document, and compare nothing.
    #[arg(long)]
    json: bool,
    /// What callgrind runs: the work itself.
    #[arg(long, hide = true)]
    work: Option<String>,
}

/// What was counted, by case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counts {
    schema_version: u32,
    rustc: String,
    cases: BTreeMap<String, Case>,
}

/// Instructions per packet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Case {
    /// Of all that is counted.
    total: f64,
    /// Of single functions.
    functions: BTreeMap<String, f64>,
    /// Of what is left out, by name. Another CPU would show others, so it is in no baseline.
    #[serde(skip)]
    left_out: BTreeMap<String, f64>,
}

/// Runs the gate; false if a case grew too much.
///
/// # Errors
/// If nothing can be counted or there is nothing to compare with.
pub fn run(options: &Options) -> Result<bool> {
    if let Some(case) = &options.work {
        return work::run(case).map(|()| true);
    }
    ensure!(!cfg!(debug_assertions), "not a release build: there is nothing to compare with");
    let now = count(&std::env::current_exe()?)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&now)?);
        return Ok(true);
    }
    if options.list {
        print_functions(&now);
    }
    if options.update {
        let text = serde_json::to_string_pretty(&now)? + "\n";
        fs::write(&options.baseline, text)
            .with_context(|| format!("write {}", options.baseline.display()))?;
        println!("{}: {}", options.baseline.display(), totals(&now));
        return Ok(true);
    }
    let before = baseline(&options.baseline, &now)?;
    let mut is_good = true;
    for (name, case) in &now.cases {
        let before = before.cases.get(name).with_context(|| format!("{name} has no baseline"))?;
        let verdict = judge(before, case);
        is_good &= verdict.is_good;
        println!("{name}: {}", verdict.text);
    }
    Ok(is_good)
}

/// The functions that need most of a case's instructions per packet, as this `perf-gate` counts them.
///
/// # Errors
/// If nothing can be counted.
pub fn heaviest(gate: &Path, case: &str, most: usize) -> Result<Vec<(String, f64)>> {
    let counted = callgrind::count(gate, case)?;
    let mut all: Vec<(String, f64)> = counted
        .into_iter()
        .map(|(function, count)| (function.name, count as f64 / work::counted(case) as f64))
        .collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(most);
    Ok(all)
}

/// The committed one, or what its commit needs when built by this compiler.
fn baseline(path: &Path, now: &Counts) -> Result<Counts> {
    let renew = "; `perf-gate --update` makes it";
    let text = fs::read_to_string(path)
        .with_context(|| format!("no baseline at {}{renew}", path.display()))?;
    let before: Counts = serde_json::from_str(&text)
        .with_context(|| format!("{} is no baseline{renew}", path.display()))?;
    ensure!(before.schema_version == SCHEMA_VERSION, "{} counts other work{renew}", path.display());
    if before.rustc == now.rustc {
        return Ok(before);
    }
    println!("the baseline is of {}, this is {}: building its commit", before.rustc, now.rustc);
    rebuild::counts_of_baseline(path)
}

fn count(program: &Path) -> Result<Counts> {
    let mut cases = BTreeMap::new();
    for name in work::CASES {
        let mut case = Case::default();
        for (function, instructions) in callgrind::count(program, name)? {
            let per_packet = instructions as f64 / work::counted(name) as f64;
            let rounded = (per_packet * 1000.0).round() / 1000.0;
            let into = match function.is_counted {
                true => {
                    case.total += per_packet;
                    &mut case.functions
                }
                false => &mut case.left_out,
            };
            if per_packet >= WORTH_SAYING {
                into.insert(function.name, rounded);
            }
        }
        ensure!(case.total > 0.0, "callgrind saw nothing of {name}");
        case.total = (case.total * 1000.0).round() / 1000.0;
        cases.insert(name.to_string(), case);
    }
    Ok(Counts { schema_version: SCHEMA_VERSION, rustc: rustc()?, cases })
}

fn rustc() -> Result<String> {
    let output = Command::new("rustc").arg("--version").output().context("cannot run rustc")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}

struct Verdict {
    is_good: bool,
    text: String,
}

fn judge(before: &Case, now: &Case) -> Verdict {
    let growth = now.total / before.total - 1.0;
    let is_good = growth <= GROWTH_MAX;
    let mut text = format!(
        "{:.1} instructions per packet, baseline {:.1} ({:+.1} %)",
        now.total,
        before.total,
        growth * 100.0
    );
    if growth < -GROWTH_MAX {
        text += ": better; renew the baseline with `perf-gate --update`";
    }
    if !is_good {
        text += &format!(": more than {:.0} % more; grown:", GROWTH_MAX * 100.0);
        for (name, was, is) in grown(before, now).into_iter().take(NAMED_MAX) {
            text += &format!("\n  {:+8.2}  {name} ({was:.2} -> {is:.2})", is - was);
        }
    }
    Verdict { is_good, text }
}

/// Functions that need more than before, the most first.
fn grown<'a>(before: &Case, now: &'a Case) -> Vec<(&'a str, f64, f64)> {
    let was = |name: &str| before.functions.get(name).copied().unwrap_or(0.0);
    let all = now.functions.iter().map(|(name, &is)| (name.as_str(), was(name), is));
    let mut grown: Vec<_> = all.filter(|(_, was, is)| is - was >= WORTH_SAYING).collect();
    grown.sort_by(|a, b| (b.2 - b.1).total_cmp(&(a.2 - a.1)));
    grown
}

fn totals(counts: &Counts) -> String {
    let cases = counts.cases.iter().map(|(name, case)| format!("{name} {:.1}", case.total));
    cases.collect::<Vec<_>>().join(", ")
}

fn print_functions(counts: &Counts) {
    for (name, case) in &counts.cases {
        println!("{name}: {:.1} instructions per packet", case.total);
        for (title, functions) in [("", &case.functions), ("left out: ", &case.left_out)] {
            let mut sorted: Vec<_> = functions.iter().collect();
            sorted.sort_by(|a, b| b.1.total_cmp(a.1));
            for (function, count) in sorted {
                println!("  {count:>8.2}  {title}{function}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(functions: &[(&str, f64)]) -> Case {
        let total = functions.iter().map(|(_, count)| count).sum();
        let functions = functions.iter().map(|(name, count)| (name.to_string(), *count)).collect();
        Case { total, functions, left_out: BTreeMap::new() }
    }

    #[test]
    fn three_percent_more_fails_and_names_the_function() {
        let before = case(&[("capture", 60.0), ("append", 40.0)]);
        assert!(judge(&before, &before).is_good);
        assert!(judge(&before, &case(&[("capture", 60.0), ("append", 42.9)])).is_good);
        let verdict = judge(&before, &case(&[("capture", 59.0), ("append", 42.0), ("new", 2.5)]));
        assert!(!verdict.is_good);
        assert!(verdict.text.contains("+2.50  new (0.00 -> 2.50)"), "{}", verdict.text);
        assert!(verdict.text.contains("+2.00  append (40.00 -> 42.00)"), "{}", verdict.text);
        assert!(!verdict.text.contains("capture"), "{}", verdict.text);
        let better = judge(&before, &case(&[("capture", 50.0), ("append", 40.0)]));
        assert!(better.is_good && better.text.contains("renew"), "{}", better.text);
    }
}
