//! Seeds of every profile keep every promise, and a seed is one run.

use clap::ValueEnum;
use understudy_sim::scenario::{Mutation, Profile};
use understudy_sim::sweep::{jobs, sweep};
use understudy_sim::{Outcome, SEEDS_TESTED, profile_of, run};

/// A failure names the seed and says what happened last.
fn check(seed: u64, profile: Profile, outcome: &Outcome) {
    if let Some(violation) = &outcome.violation {
        let name = profile.name();
        eprintln!("{}", outcome.trace.join("\n"));
        panic!("{violation}\nreplay: sim --seed {seed} --profile {name} --trace");
    }
}

#[test]
fn seeds_of_every_profile_keep_every_promise() {
    let one = |seed| run(seed, profile_of(seed), Mutation::None, false);
    let mut held = 0;
    sweep(0..SEEDS_TESTED, jobs(), one, |seed, outcome| {
        check(seed, profile_of(seed), &outcome);
        held += 1;
        true
    });
    println!("{held} seeds");
}

/// Each broke something once; the scenario may since have changed under the seed.
#[test]
fn seeds_that_failed_once() {
    for (seed, profile) in [
        (257, Profile::Lossy),
        (27, Profile::Chaos),
        (148, Profile::Chaos),
        (156, Profile::Chaos),
        // A caretaker's clone was fed what was not committed.
        (94, Profile::Elections),
        (148, Profile::Elections),
    ] {
        check(seed, profile, &run(seed, profile, Mutation::None, false));
    }
}

#[test]
fn a_seed_replays_identically() {
    for &profile in Profile::value_variants() {
        let (a, b) = (3, 4);
        let first = run(a, profile, Mutation::None, false);
        let again = run(a, profile, Mutation::None, false);
        let other = run(b, profile, Mutation::None, false);
        assert_eq!((first.digest, first.steps), (again.digest, again.steps), "{profile:?}");
        assert_eq!((first.trace, first.ledger), (again.trace, again.ledger), "{profile:?}");
        assert_ne!(first.digest, other.digest, "{profile:?}");
    }
}

/// The same of groups that are not just nodes all alike.
#[test]
fn the_runs_reach_what_other_groups_do() {
    let mut notes = std::collections::BTreeMap::<String, u64>::new();
    for seed in 500..530 {
        for (name, count) in run(seed, Profile::Groups, Mutation::None, false).notes {
            *notes.entry(name).or_default() += count;
        }
    }
    for kind in ["Alone", "Shared", "RegisterClaim", "RegisterSeclude", "RegisterShare"] {
        assert!(notes.get(kind).is_some_and(|n| *n > 0), "never saw {kind}: {notes:?}");
    }
}

/// A simulation in which nothing happens would hold every promise.
#[test]
fn the_runs_reach_what_they_are_to_test() {
    let mut notes = std::collections::BTreeMap::<String, u64>::new();
    let (mut adopted, mut audited, mut replies, mut connections) = (0, 0, 0, 0);
    for seed in 500..512 {
        let outcome = run(seed, Profile::All, Mutation::None, false);
        adopted += outcome.adopted;
        audited += outcome.audited;
        replies += outcome.ledger.replies;
        connections += outcome.ledger.connections;
        for (name, count) in outcome.notes {
            *notes.entry(name).or_default() += count;
        }
    }
    for kind in ["Suspicion", "ElectionWon", "GateOpen", "SteppedDown", "ServiceRestart"] {
        assert!(notes.get(kind).is_some_and(|n| *n > 0), "never saw {kind}: {notes:?}");
    }
    assert!(
        adopted > 20 && audited > 200 && replies > 1000 && connections > 10,
        "{adopted} {audited} {replies} {connections}"
    );
}
