//! Runs seeds of the cluster simulation from the command line.

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use understudy_sim::scenario::{Mutation, Profile};
use understudy_sim::sweep::{jobs, sweep};
use understudy_sim::{Outcome, profile_of, run};

/// Seeded simulation of whole clusters. A failure prints the seed that replays it.
#[derive(Parser)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// Print everything that happens.
    #[arg(long)]
    trace: bool,
    /// Which faults; without it, the profiles take turns by seed.
    #[arg(long, value_parser = profile)]
    profile: Option<Profile>,
    /// Plant this bug.
    #[arg(long, value_parser = mutation)]
    mutation: Option<Mutation>,
    /// Threads; without it, one for each processor.
    #[arg(long)]
    jobs: Option<usize>,
    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,
}

fn profile(name: &str) -> Result<Profile, String> {
    Profile::from_str(name, true)
}

fn mutation(name: &str) -> Result<Mutation, String> {
    Mutation::from_str(name, true)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seeds = match args.seed {
        Some(seed) => seed..seed + 1,
        None => args.from..args.from + args.seeds,
    };
    let (begun, count) = (Instant::now(), seeds.end - seeds.start);
    let jobs = if args.trace { 1 } else { args.jobs.unwrap_or_else(jobs) };
    let of = |seed| args.profile.unwrap_or_else(|| profile_of(seed));
    let mutation = args.mutation.unwrap_or_default();
    let (mut failures, mut ran, mut total) = (0u64, 0u64, Outcome::default());
    sweep(
        seeds,
        jobs,
        |seed| run(seed, of(seed), mutation, args.trace),
        |seed, outcome| {
            ran += 1;
            add(&mut total, &outcome);
            if let Some(violation) = &outcome.violation {
                failures += 1;
                report(seed, of(seed), violation, &outcome);
            }
            outcome.violation.is_none() || args.keep_going
        },
    );
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{ran} of {count} seeds, {failures} failures, {seconds:.1} s on {jobs} threads: {:.1} seeds/s",
        ran as f64 / seconds
    );
    summary(&total);
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(seed: u64, profile: Profile, violation: &str, outcome: &Outcome) {
    println!("FAILED: seed {seed}, profile {}: {violation}", profile.name());
    for line in &outcome.trace {
        println!("  {line}");
    }
    println!("  replay: sim --seed {seed} --profile {} --trace", profile.name());
}

fn add(total: &mut Outcome, one: &Outcome) {
    total.steps += one.steps;
    total.simulated_ns += one.simulated_ns;
    total.released += one.released;
    total.adopted += one.adopted;
    total.audited += one.audited;
    total.ledger.add(&one.ledger);
    for (name, count) in &one.notes {
        *total.notes.entry(name.clone()).or_default() += count;
    }
}

fn summary(total: &Outcome) {
    println!(
        "simulated {} s in {} events; {} frames released, {} adoptions, {} digests the same",
        total.simulated_ns / 1_000_000_000,
        total.steps,
        total.released,
        total.adopted,
        total.audited
    );
    let ledger = &total.ledger;
    println!(
        "{} connections ended, {} replies, {} bytes compared, longest stall {} ms",
        ledger.connections,
        ledger.replies,
        ledger.bytes,
        ledger.stall_ns_max / 1_000_000
    );
    let notes: Vec<String> = total.notes.iter().map(|(k, v)| format!("{k}={v}")).collect();
    println!("{}", notes.join(" "));
}
