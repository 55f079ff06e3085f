//! Planted bugs are caught: the checks notice what they are there to notice.

use understudy_sim::run;
use understudy_sim::scenario::{Mutation, Profile};

const SEEDS_MAX: u64 = 150;

/// Some seed notices, and says so in these words.
fn caught(mutation: Mutation, profile: Profile, words: &[&str]) {
    let hit = (0..SEEDS_MAX).find_map(|seed| {
        let violation = run(seed, profile, mutation, false).violation?;
        Some((seed, violation))
    });
    let Some((seed, violation)) = hit else { panic!("{mutation:?} goes unnoticed") };
    assert!(
        words.iter().any(|w| violation.contains(w)),
        "{mutation:?} is noticed by seed {seed} as something else: {violation}"
    );
}

#[test]
fn acknowledging_before_writing() {
    caught(Mutation::ForgedAcks, Profile::Lossy, &["hold it", "committed"]);
}

#[test]
fn output_that_waits_for_nobody() {
    caught(Mutation::NoCommit, Profile::Lossy, &["hold it"]);
}

#[test]
fn a_lease_longer_than_the_detection() {
    caught(Mutation::LongLease, Profile::Partitions, &["released output in epoch"]);
}

#[test]
fn a_clock_that_stands_still() {
    caught(Mutation::SlowClock, Profile::Partitions, &["released output in epoch"]);
}

#[test]
fn a_vote_forgotten() {
    caught(
        Mutation::LostVote,
        Profile::Chaos,
        &["is led by", "without all of", "hold it", "not the history", "released output"],
    );
}

#[test]
fn a_clone_that_answers_otherwise() {
    caught(Mutation::PoisonedClone, Profile::Crashes, &["expected"]);
}

#[test]
fn a_takeover_that_nobody_announces() {
    caught(Mutation::NoAnnouncement, Profile::Crashes, &["liveness", "settled"]);
}

#[test]
fn a_clone_fed_before_commit() {
    caught(Mutation::EarlyCommit, Profile::Lossy, &["fed its clone", "not the history"]);
}
