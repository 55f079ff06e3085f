//! The promises hold in every state within the small bounds, and each broken rule is noticed.

use understudy_model::scope::{CRASH, Planted, QUICK, Scope};
use understudy_model::{Limits, explore};

const LIMITS: Limits = Limits { threads: 1, transitions_max: 3_000_000, stop_at_violation: true };

fn scope(name: &str) -> Scope {
    *QUICK.iter().find(|scope| scope.name == name).expect("a model of that name")
}

fn holds(name: &str) {
    let found = explore(scope(name), LIMITS);
    println!(
        "{name}: {} states, {} transitions, depth {}, {:.1} s",
        found.states,
        found.transitions,
        found.depth,
        found.took.as_secs_f64()
    );
    assert_eq!(found.violations, [], "{name}");
    assert!(found.unreached.is_empty(), "{name} shows nothing: {:?}", found.unreached);
    assert!(!found.cut_short, "{name} was not explored to its end");
}

/// The broken rule is noticed as one of `properties`, and the steps that show it are there to read.
fn noticed(planted: Planted, scope: Scope, properties: &[&str]) {
    let found = explore(scope.planted(planted), LIMITS);
    let Some((property, steps)) = found.violations.first() else {
        panic!("{planted:?} goes unnoticed in {} states", found.states)
    };
    println!("{planted:?} breaks \"{property}\" ({} states):\n{}", found.states, steps.join("\n"));
    assert!(properties.contains(property), "{planted:?} was noticed as {property}");
    assert!(!steps.is_empty());
}

#[test]
fn election_holds() {
    holds("election");
}

#[test]
fn cut_holds() {
    holds("cut");
}

#[test]
fn pause_holds() {
    holds("pause");
}

#[test]
fn eviction_holds() {
    holds("eviction");
}

#[test]
fn arbiter_holds() {
    holds("arbiter");
}

#[test]
fn a_vote_less_than_a_majority() {
    noticed(
        Planted::VoteQuorum,
        Scope { ticks: 4, ..CRASH },
        &["one leader an epoch", "a leader holds all that was committed"],
    );
}

#[test]
fn a_copy_less_than_a_majority() {
    noticed(
        Planted::CommitQuorum,
        scope("cut"),
        &[
            "what was released is held by a majority",
            "a leader holds all that was committed",
            "one node transmits at a time",
        ],
    );
}

#[test]
fn a_forgotten_vote() {
    noticed(
        Planted::ForgottenVote,
        Scope { ticks: 4, ..CRASH },
        &["one leader an epoch", "a leader holds all that was committed"],
    );
}

#[test]
fn a_promise_not_kept() {
    noticed(
        Planted::SkippedPromise,
        Scope { ticks: 4, late: 2, ..scope("cut") },
        &[
            "a leader holds all that was committed",
            "committed logs agree",
            "one node transmits at a time",
        ],
    );
}

#[test]
fn a_lease_that_outlives_the_suspicion() {
    noticed(Planted::LongLease, scope("cut"), &["one node transmits at a time"]);
}

#[test]
fn a_clock_that_stands_still() {
    noticed(Planted::StoppedClock, scope("pause"), &["one node transmits at a time"]);
}

#[test]
fn an_arbiter_that_writes_blindly() {
    noticed(
        Planted::BlindWrite,
        scope("arbiter"),
        &["one node transmits at a time", "a leader holds all that was committed"],
    );
}
