//! `perf-gate`: holds instructions per packet to their baseline; see perf/README.md.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use understudy_perf_gate::gate;

/// Counts instructions per packet of the data path and holds them to the committed baseline.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    gate: gate::Options,
}

fn main() -> ExitCode {
    match gate::run(&Options::parse().gate) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("perf-gate: {error:#}");
            ExitCode::from(2)
        }
    }
}
