//! Planted bugs are caught: the checks notice what they are there to notice, within the seeds that
//! every run of the tests goes through.

use clap::ValueEnum;
use understudy_sim::scenario::{Mutation, Profile};
use understudy_sim::sweep::{jobs, sweep};
use understudy_sim::{SEEDS_TESTED, profile_of, run};

/// Two nodes in one epoch, or one that lacks what was committed: the many faces of a vote that
/// should not have been.
const LOST_OR_TWICE: &[&str] = &[
    "is led by",
    "was won by",
    "without all of",
    "hold it",
    "not the history",
    "released output",
    "log was lost",
];

/// Each bug, where it shows soonest, and in which words.
const BUGS: &[(Mutation, Profile, &[&str])] = &[
    (Mutation::ForgedAcks, Profile::Lossy, &["hold it", "committed"]),
    (Mutation::NoCommit, Profile::Lossy, &["hold it"]),
    (Mutation::EarlyCommit, Profile::Lossy, &["fed its clone", "not the history"]),
    (Mutation::UnorderedRelease, Profile::Calm, &["of its capsule after frame"]),
    (Mutation::LongLease, Profile::Partitions, &["released output in epoch"]),
    (Mutation::NoLease, Profile::Partitions, &["released output in epoch"]),
    (Mutation::SlowClock, Profile::Partitions, &["released output in epoch"]),
    (Mutation::LostVote, Profile::Elections, LOST_OR_TWICE),
    (Mutation::EveryVoteGranted, Profile::Chaos, LOST_OR_TWICE),
    (Mutation::RecoveringVotes, Profile::Elections, LOST_OR_TWICE),
    (Mutation::StaleCandidate, Profile::Elections, LOST_OR_TWICE),
    (Mutation::DamageIgnored, Profile::Elections, LOST_OR_TWICE),
    (Mutation::UncutLog, Profile::Elections, &["not the history", "hold it"]),
    (Mutation::PoisonedClone, Profile::Calm, &["clone says other bytes"]),
    (Mutation::UnseenPoison, Profile::Crashes, &["expected", "another past"]),
    (Mutation::LeakedEnd, Profile::Crashes, &["closed the connection", "connection reset"]),
    (Mutation::AnyEpoch, Profile::Elections, LOST_OR_TWICE),
    (Mutation::UnwrittenVote, Profile::Elections, LOST_OR_TWICE),
    (Mutation::VoteWithoutPromise, Profile::Elections, LOST_OR_TWICE),
    (Mutation::KeptClone, Profile::Partitions, &["another past", "expected"]),
    (Mutation::IgnoredMin, Profile::Groups, &["hold it"]),
    (Mutation::EarlyAlone, Profile::Groups, &["goes on alone"]),
    (Mutation::BlindWrites, Profile::Groups, &["goes on alone", "is led by", "was won by"]),
    (Mutation::NoAnnouncement, Profile::Crashes, &["liveness", "settled"]),
];

/// The first of the tested seeds of this profile that notices, and says so in these words.
fn caught(mutation: Mutation, profile: Profile, words: &[&str]) -> Option<(u64, String)> {
    let turns = Profile::value_variants().len() as u64;
    let first = (0..turns).find(|seed| profile_of(*seed) == profile).unwrap_or(0);
    let mut hit = None;
    let one = |turn| run(first + turn * turns, profile, mutation, false);
    sweep(0..SEEDS_TESTED / turns, jobs(), one, |turn, outcome| {
        let named = |v: &String| words.iter().any(|w| v.contains(w));
        hit = outcome.violation.filter(named).map(|v| (first + turn * turns, v));
        hit.is_none()
    });
    hit
}

#[test]
fn every_planted_bug_is_caught_within_the_tested_seeds() {
    let mut missed = Vec::new();
    for (mutation, profile, words) in BUGS {
        match caught(*mutation, *profile, words) {
            None => missed.push(format!("{mutation:?} goes unnoticed")),
            Some((seed, violation)) => {
                println!("{mutation:?}: seed {seed} ({}): {violation}", profile.name());
            }
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn every_bug_is_in_the_table() {
    for mutation in Mutation::value_variants() {
        let listed = BUGS.iter().any(|(m, _, _)| m == mutation);
        assert_eq!(listed, *mutation != Mutation::None, "{mutation:?}");
    }
}
