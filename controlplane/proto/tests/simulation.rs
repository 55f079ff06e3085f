//! Whole clusters under seeded faults. A failure prints its seed; `SEED=n` replays that one with a trace, `SEEDS=n`
//! runs more of them.
//!
//! What belongs here: scenarios and what must have come of them.

mod cluster;

use std::panic::{AssertUnwindSafe, catch_unwind};

use cluster::{Cluster, MS, Mutation};
use understudy_proto::LocalFact;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a scenario for every seed; names the seed of a failure.
fn for_seeds(name: &str, default_count: u64, scenario: impl Fn(u64)) {
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(default_count),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| scenario(seed))) {
            eprintln!("{name} failed with SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Faults for two seconds, then peace: somebody must lead all, and commit.
fn torment(seed: u64, size: u16, mutation: Mutation) -> Cluster {
    let mut cluster = Cluster::new(seed, size, mutation);
    cluster.run(400 * MS);
    cluster.torment(2000 * MS);
    for id in 1..=size {
        cluster.fact(id, LocalFact::ClientLink(true));
    }
    cluster.run(4000 * MS);
    let before = cluster.committed_total;
    cluster.run(200 * MS);
    let views = cluster.views();
    assert!(cluster.settled().is_some(), "no primary that all follow: {views:#?}");
    assert!(cluster.committed_total > before, "nothing is committed any more");
    cluster
}

#[test]
fn three_nodes_survive_torment() {
    for_seeds("three_nodes_survive_torment", 200, |seed| {
        torment(seed, 3, Mutation::None);
    });
}

#[test]
fn five_nodes_survive_torment() {
    for_seeds("five_nodes_survive_torment", 100, |seed| {
        torment(seed, 5, Mutation::None);
    });
}

#[test]
fn the_torment_reaches_what_it_is_to_test() {
    if number("SEED").is_some() {
        return;
    }
    let mut seen = std::collections::BTreeMap::new();
    let mut handed_over = 0;
    for seed in 1000..1040 {
        let cluster = torment(seed, 3, Mutation::None);
        handed_over += cluster.switchovers.iter().filter(|result| result.is_ok()).count();
        for (kind, count) in cluster.events {
            *seen.entry(kind).or_insert(0) += count;
        }
    }
    for kind in [
        "Suspicion",
        "ElectionWon",
        "ElectionLost",
        "GateOpen",
        "SteppedDown",
        "Fenced",
        "PeerSteppedDown",
        "FollowNew",
        "ServiceRestart",
        "Recovered",
        "LoopOverran",
    ] {
        assert!(seen.get(kind).is_some_and(|&count| count > 0), "never saw {kind}: {seen:?}");
    }
    assert!(handed_over > 0, "no switchover succeeded");
}

#[test]
fn the_highest_priority_wins_the_first_election() {
    for_seeds("the_highest_priority_wins_the_first_election", 100, |seed| {
        let mut cluster = Cluster::new(seed, 3, Mutation::None);
        cluster.run(400 * MS);
        assert_eq!(cluster.settled(), Some(1));
    });
}

#[test]
fn a_crash_is_taken_over_within_a_few_suspicion_times() {
    for_seeds("a_crash_is_taken_over_within_a_few_suspicion_times", 100, |seed| {
        let mut cluster = Cluster::new(seed, 3, Mutation::None);
        cluster.run(400 * MS);
        cluster.crash(1, 5000 * MS);
        cluster.run(250 * MS);
        assert_eq!(cluster.primary(), Some(2));
    });
}

#[test]
fn a_switchover_hands_over_without_detection() {
    for_seeds("a_switchover_hands_over_without_detection", 100, |seed| {
        let mut cluster = Cluster::new(seed, 3, Mutation::None);
        cluster.run(400 * MS);
        cluster.switchover(Some(3));
        cluster.run(600 * MS);
        assert_eq!(cluster.switchovers, [Ok(3)]);
        assert_eq!(cluster.settled(), Some(3));
        assert_eq!(cluster.events.get("Suspicion"), None);
    });
}

#[test]
fn a_dead_application_is_taken_over_even_by_the_last_pair() {
    for_seeds("a_dead_application_is_taken_over_even_by_the_last_pair", 100, |seed| {
        let mut cluster = Cluster::new(seed, 3, Mutation::None);
        cluster.run(400 * MS);
        cluster.crash(3, 100_000 * MS);
        cluster.run(50 * MS);
        cluster.fact(1, LocalFact::AppExited);
        cluster.run(100 * MS);
        assert_eq!(cluster.primary(), Some(2));
        assert_eq!(cluster.events.get("Suspicion"), None);
    });
}

#[test]
fn an_isolated_primary_is_replaced_and_comes_back_as_a_replica() {
    for_seeds("an_isolated_primary_is_replaced_and_comes_back_as_a_replica", 100, |seed| {
        let mut cluster = Cluster::new(seed, 3, Mutation::None);
        cluster.run(400 * MS);
        cluster.isolate(1);
        cluster.run(400 * MS);
        cluster.heal();
        cluster.run(600 * MS);
        assert_eq!(cluster.settled(), Some(2));
    });
}

#[test]
fn a_group_that_lost_every_log_starts_anew() {
    for_seeds("a_group_that_lost_every_log_starts_anew", 100, |seed| {
        let mut cluster = Cluster::new(seed, 3, Mutation::None);
        cluster.run(400 * MS);
        cluster.may_lose = true;
        for id in 1..=3 {
            let down_ns = cluster.rng.below(100 * MS);
            cluster.crash(id, down_ns);
        }
        cluster.run(1500 * MS);
        assert!(cluster.settled().is_some(), "{:#?}", cluster.views());
        assert!(cluster.events.contains_key("AllLost"));
    });
}

#[test]
fn a_group_whose_clones_all_died_starts_anew() {
    for_seeds("a_group_whose_clones_all_died_starts_anew", 100, |seed| {
        let mut cluster = Cluster::new(seed, 3, Mutation::None);
        cluster.run(400 * MS);
        cluster.may_lose = true;
        for id in 1..=3 {
            cluster.fact(id, LocalFact::AppExited);
            let wait_ns = cluster.rng.below(MS);
            cluster.run(wait_ns);
        }
        cluster.run(2500 * MS);
        assert!(cluster.settled().is_some(), "{:#?}", cluster.views());
    });
}

#[test]
fn a_primary_whose_replicas_lost_their_logs_leads_again() {
    for_seeds("a_primary_whose_replicas_lost_their_logs_leads_again", 100, |seed| {
        let mut cluster = Cluster::new(seed, 3, Mutation::None);
        cluster.run(400 * MS);
        let down_ns = 20 * MS + cluster.rng.below(400 * MS);
        cluster.crash(2, down_ns);
        cluster.crash(3, down_ns);
        cluster.run(2500 * MS);
        assert_eq!(cluster.settled(), Some(1), "{:#?}", cluster.views());
        assert!(!cluster.events.contains_key("AllLost"));
    });
}

/// The invariants must notice a broken contract in some of the seeds.
fn notices(mutation: Mutation) {
    if number("SEED").is_some() {
        return;
    }
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let caught = (0..300).any(|seed| {
        let size = if seed % 2 == 0 { 3 } else { 5 };
        catch_unwind(|| torment(seed, size, mutation)).is_err()
    });
    std::panic::set_hook(hook);
    assert!(caught, "{mutation:?} goes unnoticed");
}

#[test]
fn broken_contracts_are_noticed() {
    notices(Mutation::BrokenPromises);
    notices(Mutation::ForgottenState);
    notices(Mutation::LongLease);
    notices(Mutation::BoastingCandidates);
}

/// Two nodes and an arbiter.
fn torment_pair(seed: u64, gullible: bool) -> Cluster {
    let mut cluster = Cluster::pair(seed);
    if let Some(arbiter) = &mut cluster.arbiter {
        arbiter.gullible = gullible;
    }
    cluster.run(600 * MS);
    assert!(cluster.settled().is_some(), "{:#?}", cluster.views());
    cluster.torment(3000 * MS);
    for id in 1..=2 {
        cluster.fact(id, LocalFact::ClientLink(true));
    }
    cluster.run(6000 * MS);
    let before = cluster.committed_total;
    cluster.run(200 * MS);
    let views = cluster.views();
    assert!(cluster.settled().is_some(), "no primary that both follow: {views:#?}");
    assert!(cluster.committed_total > before, "nothing is committed any more");
    let register = cluster.arbiter.as_ref().and_then(|arbiter| arbiter.register.clone());
    let shared = register.is_some_and(|register| register.members == [1, 2]);
    assert!(shared, "the arbiter does not name both");
    cluster
}

#[test]
fn two_nodes_and_an_arbiter_survive_torment() {
    for_seeds("two_nodes_and_an_arbiter_survive_torment", 1000, |seed| {
        torment_pair(seed, false);
    });
}

#[test]
fn an_arbiter_that_consents_twice_is_noticed() {
    if number("SEED").is_some() {
        return;
    }
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let caught = (0..100).any(|seed| catch_unwind(|| torment_pair(seed, true)).is_err());
    std::panic::set_hook(hook);
    assert!(caught);
}

#[test]
fn the_survivor_of_two_is_named_and_serves() {
    for_seeds("the_survivor_of_two_is_named_and_serves", 100, |seed| {
        let mut cluster = Cluster::pair(seed);
        cluster.run(600 * MS);
        assert_eq!(cluster.settled(), Some(1));
        cluster.crash(1, 3000 * MS);
        cluster.run(250 * MS);
        assert_eq!(cluster.primary(), Some(2));
        let before = cluster.committed_total;
        cluster.run(200 * MS);
        assert!(cluster.committed_total > before, "it serves alone");
        cluster.run(6000 * MS);
        assert_eq!(cluster.settled(), Some(2), "{:#?}", cluster.views());
        cluster.crash(2, 3000 * MS);
        cluster.run(300 * MS);
        assert_eq!(cluster.primary(), Some(1), "the one that came back holds everything");
    });
}

#[test]
fn a_primary_whose_replica_died_goes_on_alone_and_shares_again() {
    for_seeds("a_primary_whose_replica_died_goes_on_alone_and_shares_again", 100, |seed| {
        let mut cluster = Cluster::pair(seed);
        cluster.run(600 * MS);
        cluster.crash(2, 2000 * MS);
        cluster.run(300 * MS);
        let before = cluster.committed_total;
        cluster.run(200 * MS);
        assert!(cluster.committed_total > before);
        assert_eq!(cluster.primary(), Some(1));
        assert!(cluster.events.contains_key("Alone"));
        assert!(!cluster.events.contains_key("SteppedDown"));
        cluster.run(5000 * MS);
        assert_eq!(cluster.settled(), Some(1), "{:#?}", cluster.views());
        assert!(cluster.views().iter().all(|view| !view.arbiter.as_ref().unwrap().alone));
    });
}

#[test]
fn without_its_arbiter_a_pair_goes_on_but_nobody_takes_over() {
    for_seeds("without_its_arbiter_a_pair_goes_on_but_nobody_takes_over", 100, |seed| {
        let mut cluster = Cluster::pair(seed);
        cluster.run(600 * MS);
        cluster.cut_arbiter(1);
        cluster.cut_arbiter(2);
        let before = cluster.committed_total;
        cluster.run(1000 * MS);
        assert!(cluster.committed_total > before);
        assert_eq!(cluster.settled(), Some(1));
        cluster.crash(1, 60_000 * MS);
        cluster.run(3000 * MS);
        assert_eq!(cluster.primary(), None);
        cluster.heal();
        cluster.run(1500 * MS);
        assert_eq!(cluster.primary(), Some(2));
    });
}

#[test]
fn only_the_side_that_reaches_the_arbiter_serves() {
    for_seeds("only_the_side_that_reaches_the_arbiter_serves", 100, |seed| {
        for reaches in [1, 2] {
            let mut cluster = Cluster::pair(seed);
            cluster.run(600 * MS);
            cluster.cut_arbiter(3 - reaches);
            cluster.isolate(1);
            cluster.run(1500 * MS);
            let before = cluster.committed_total;
            cluster.run(1500 * MS);
            assert!(cluster.committed_total > before);
            assert_eq!(cluster.open(), [reaches]);
            cluster.heal();
            cluster.run(4000 * MS);
            assert_eq!(cluster.settled(), Some(reaches), "{:#?}", cluster.views());
        }
    });
}

#[test]
fn a_node_alone_that_crashes_starts_anew_alone() {
    for_seeds("a_node_alone_that_crashes_starts_anew_alone", 100, |seed| {
        let mut cluster = Cluster::pair(seed);
        cluster.run(600 * MS);
        cluster.crash(2, 20_000 * MS);
        cluster.run(1000 * MS);
        cluster.may_lose = true;
        cluster.crash(1, 100 * MS);
        cluster.run(3000 * MS);
        assert_eq!(cluster.primary(), Some(1), "{:#?}", cluster.views());
    });
}
