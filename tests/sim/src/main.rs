//! Runs seeds of the cluster simulation from the command line.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use understudy_sim::scenario::{Mutation, Profile};
use understudy_sim::{Outcome, run};

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
    /// Which faults; without it, every profile in turn.
    #[arg(long, value_enum)]
    profile: Option<Choice>,
    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Choice {
    Calm,
    Lossy,
    Partitions,
    Crashes,
    All,
    Chaos,
}

fn profile(choice: Choice) -> Profile {
    match choice {
        Choice::Calm => Profile::Calm,
        Choice::Lossy => Profile::Lossy,
        Choice::Partitions => Profile::Partitions,
        Choice::Crashes => Profile::Crashes,
        Choice::All => Profile::All,
        Choice::Chaos => Profile::Chaos,
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let profiles: Vec<Profile> = match args.profile {
        Some(choice) => vec![profile(choice)],
        None => Profile::NAMES.iter().map(|(_, p)| *p).collect(),
    };
    let seeds = match args.seed {
        Some(seed) => seed..seed + 1,
        None => args.from..args.from + args.seeds,
    };
    let mut failures = 0;
    let mut total = Outcome::default();
    for profile in profiles {
        for seed in seeds.clone() {
            let outcome = run(seed, profile, Mutation::None, args.trace);
            add(&mut total, &outcome);
            if let Some(violation) = &outcome.violation {
                failures += 1;
                report(seed, profile, violation, &outcome);
                if !args.keep_going {
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    println!("{} seeds of each profile; failures: {failures}", seeds.end - seeds.start);
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
    total.ledger.connections += one.ledger.connections;
    total.ledger.replies += one.ledger.replies;
    total.ledger.bytes += one.ledger.bytes;
    total.ledger.stall_ns_max = total.ledger.stall_ns_max.max(one.ledger.stall_ns_max);
    for (name, count) in &one.notes {
        *total.notes.entry(name.clone()).or_default() += count;
    }
}

fn summary(total: &Outcome) {
    println!(
        "simulated {} s in {} events; {} frames released, {} adoptions",
        total.simulated_ns / 1_000_000_000,
        total.steps,
        total.released,
        total.adopted
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
