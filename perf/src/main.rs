//! `perf`: measures and reports.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use understudy_perf::findings::{Outcome, Run};
use understudy_perf::measure::{self, Plan};
use understudy_perf::report;

/// The perf harness: see perf/README.md.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, write results.json, report.md and plots, and print the main table.
    Run(RunOptions),
    /// Write report.md and the plots of a run again, and print the main table.
    Report {
        /// The run's directory.
        dir: PathBuf,
    },
    /// The measurements there are.
    List,
}

#[derive(clap::Args)]
struct RunOptions {
    /// As little as shows that everything works; the figures mean little.
    #[arg(long)]
    quick: bool,
    /// Only these measurements; what the directory holds of others is kept.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where results, report and plots go.
    #[arg(long, default_value = "target/perf")]
    out: PathBuf,
    /// Kills of a node for the stopwatch; 200 are what is promised. Of all else there are as many, and 50 at most.
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// Minutes of the memory soak; 60 are what is promised. Half a minute in a quick run.
    #[arg(long, default_value_t = 10.0)]
    soak_min: f64,
}

fn main() -> ExitCode {
    let done = match Options::parse().command {
        Command::Run(options) => run(&options),
        Command::Report { dir } => write_report(&dir),
        Command::List => list(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn list() -> Result<bool> {
    for measure in measure::ALL {
        println!("{:<12}{}\n", measure.name, measure.about);
    }
    Ok(true)
}

/// False when a measurement failed; a missed target is a result, and no failure.
fn run(options: &RunOptions) -> Result<bool> {
    for name in &options.only {
        let known = measure::ALL.iter().any(|m| m.name == name);
        ensure!(known, "there is no measurement {name}; `perf list` names them");
    }
    ensure!(options.kills > 0, "--kills 0 measures nothing");
    let scratch = tempfile::tempdir()?;
    let kills = if options.quick { options.kills.min(2) } else { options.kills };
    ensure!(options.soak_min > 0.0, "--soak-min {} measures nothing", options.soak_min);
    let soak_min = if options.quick { options.soak_min.min(0.5) } else { options.soak_min };
    let soak = Duration::from_secs_f64(soak_min * 60.0);
    let plan = Plan { quick: options.quick, kills, soak, scratch: scratch.path().into() };
    let mut run = Run::load(&options.out)?;
    let mut is_whole = true;
    for measure in measure::ALL {
        if !options.only.is_empty() && !options.only.iter().any(|name| name == measure.name) {
            continue;
        }
        eprintln!("perf: {} ...", measure.name);
        let made = measure.make(&plan);
        match &made.outcome {
            Outcome::Done => eprintln!("perf: {}: {:.0} s", measure.name, made.took_s),
            Outcome::Skipped(why) => eprintln!("perf: {}: skipped: {why}", measure.name),
            Outcome::Failed(why) => {
                is_whole = false;
                eprintln!("perf: {}: failed: {why}", measure.name);
            }
        }
        run.measurements.insert(measure.name.into(), made);
        // After each: what was measured is kept whatever comes next.
        run.save(&options.out)?;
    }
    Ok(write_report(&options.out)? && is_whole)
}

fn write_report(dir: &std::path::Path) -> Result<bool> {
    let run = Run::load(dir)?;
    ensure!(!run.measurements.is_empty(), "{} holds no results", dir.display());
    report::write(&run, dir)?;
    println!("{}", report::table(&run));
    println!("{}", dir.join(report::FILE).display());
    Ok(true)
}
