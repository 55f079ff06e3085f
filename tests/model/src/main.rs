//! Explores the models and prints what there is to know; fails if a promise can be broken.

use std::process::ExitCode;

use clap::Parser;
use understudy_model::scope::{LARGE, QUICK, Scope};
use understudy_model::{Found, Limits, explore};

/// Explores every state that a small group can reach, over the shipped state machines.
#[derive(Parser)]
struct Args {
    /// Only the models whose name contains this.
    filter: Option<String>,
    /// The small bounds that the tests use.
    #[arg(long)]
    quick: bool,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Give a model up after so many transitions.
    #[arg(long, default_value_t = 20_000_000)]
    transitions_max: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let scopes: &[Scope] = if args.quick { &QUICK } else { &LARGE };
    let limits = Limits {
        threads: args.threads,
        transitions_max: args.transitions_max,
        stop_at_violation: true,
    };
    let mut good = true;
    let (mut states, mut transitions) = (0, 0);
    for scope in scopes {
        if args.filter.as_ref().is_some_and(|f| !scope.name.contains(f.as_str())) {
            continue;
        }
        println!("{}: {}", scope.name, scope.about);
        let found = explore(*scope, limits);
        states += found.states;
        transitions += found.transitions;
        good &= print(&found);
    }
    println!("total: {states} states, {transitions} transitions");
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(found: &Found) -> bool {
    println!(
        "  {} states, {} transitions, depth {}, {:.1} s",
        found.states,
        found.transitions,
        found.depth,
        found.took.as_secs_f64()
    );
    for (property, steps) in &found.violations {
        println!("  violated: {property}");
        for step in steps {
            println!("    {step}");
        }
    }
    for property in &found.unreached {
        println!("  never reached: {property}");
    }
    if found.cut_short {
        println!("  not complete: the limit of transitions was reached");
    }
    found.violations.is_empty() && found.unreached.is_empty() && !found.cut_short
}
