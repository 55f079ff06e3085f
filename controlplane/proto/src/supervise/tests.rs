use proptest::prelude::*;

use super::*;

const HEALTH: Key = Key::own(Resource::Health);
const DISK: Key = Key::own(Resource::Disk);
const INTERVAL: u64 = 60 * S;

fn rules() -> Rules {
    let mut rules = Rules::default();
    rules.set(Resource::Health, Rule { policy: Policy::Failover, fall: 3, rise: 2, settle_ns: 0 });
    rules.set(
        Resource::Application,
        Rule { policy: Policy::Restart, fall: 1, rise: 1, settle_ns: 0 },
    );
    rules.set(Resource::Core, Rule { policy: Policy::Failover, fall: 1, rise: 1, settle_ns: 0 });
    rules.set(
        Resource::ClientLink,
        Rule { policy: Policy::Failover, fall: 1, rise: 5, settle_ns: 0 },
    );
    rules
}

fn supervisor() -> Supervisor {
    Supervisor::new(rules(), INTERVAL)
}

fn bad() -> Result<(), Fault> {
    Err(Fault::new(Cause::Refused, "refused"))
}

fn outputs(s: &mut Supervisor) -> Vec<Output> {
    std::iter::from_fn(|| s.poll_output()).collect()
}

fn primary(since_ns: u64, took_over: bool, has_successor: bool) -> Situation {
    Situation::Primary { since_ns, took_over, has_successor }
}

/// Makes it bad at `now_ns`.
fn turn_bad(s: &mut Supervisor, now_ns: u64, key: Key) {
    for _ in 0..5 {
        s.sample(now_ns, key, bad());
    }
}

#[test]
fn bad_and_good_take_their_samples_in_a_row() {
    let mut s = supervisor();
    for seen in [bad(), bad(), Ok(()), bad(), bad()] {
        s.sample(1, HEALTH, seen);
    }
    assert!(outputs(&mut s).is_empty(), "never three in a row");
    s.sample(7, HEALTH, bad());
    let fault = bad().unwrap_err();
    assert_eq!(outputs(&mut s), [Output::Bad { key: HEALTH, fault }, Output::Impaired(true)]);
    for seen in [Ok(()), bad(), Ok(())] {
        s.sample(8, HEALTH, seen);
    }
    assert!(outputs(&mut s).is_empty() && s.is_bad(HEALTH));
    s.sample(10, HEALTH, Ok(()));
    let good = Output::Good { key: HEALTH, bad_ns: 3 };
    assert_eq!(outputs(&mut s), [good, Output::Impaired(false)]);
}

#[test]
fn an_alert_is_told_and_changes_nothing() {
    let mut s = supervisor();
    turn_bad(&mut s, 1, DISK);
    assert!(matches!(outputs(&mut s)[..], [Output::Bad { key: DISK, .. }]));
    s.act(2, primary(0, false, true));
    s.act(2, Situation::Replica);
    assert!(outputs(&mut s).is_empty() && !s.is_impaired());
}

#[test]
fn a_primary_hands_over_to_a_fit_node_and_tries_again_ever_more_rarely() {
    let mut s = supervisor();
    turn_bad(&mut s, 0, HEALTH);
    outputs(&mut s);
    let mut at = Vec::new();
    for ms in 0..100_000u64 {
        s.act(ms * 1_000_000, primary(0, false, true));
        at.extend(outputs(&mut s).iter().map(|o| {
            assert_eq!(*o, Output::Failover(HEALTH));
            ms
        }));
    }
    assert_eq!(at, [0, 2_000, 6_000, 14_000, 30_000, 62_000]);
}

#[test]
fn without_a_fit_node_it_is_told_once() {
    let mut s = supervisor();
    turn_bad(&mut s, 0, HEALTH);
    outputs(&mut s);
    for ns in 0..100 {
        s.act(ns, primary(0, false, false));
    }
    assert_eq!(outputs(&mut s), [Output::Held { key: HEALTH, why: Hold::NoSuccessor }]);
    s.act(200, primary(0, false, true));
    assert_eq!(outputs(&mut s), [Output::Failover(HEALTH)], "as soon as one is fit");
}

#[test]
fn a_reign_that_began_with_a_takeover_lasts_a_while() {
    let mut s = supervisor();
    turn_bad(&mut s, 10 * S, HEALTH);
    outputs(&mut s);
    s.act(10 * S, primary(5 * S, true, true));
    let why = Hold::Young { left_ns: 55 * S };
    assert_eq!(outputs(&mut s), [Output::Held { key: HEALTH, why }]);
    s.act(64 * S, primary(5 * S, true, true));
    assert!(outputs(&mut s).is_empty());
    s.act(65 * S, primary(5 * S, true, true));
    assert_eq!(outputs(&mut s), [Output::Failover(HEALTH)]);
}

#[test]
fn what_may_be_wrong_everywhere_is_waited_for_a_little() {
    let mut rules = Rules::default();
    let rule = Rule { policy: Policy::Failover, fall: 1, rise: 1, settle_ns: 100 };
    rules.set(Resource::Health, rule);
    let mut s = Supervisor::new(rules, INTERVAL);
    s.sample(1000, HEALTH, bad());
    assert_eq!(outputs(&mut s).len(), 2, "told, and unfit, at once");
    s.act(1099, primary(0, false, true));
    assert!(outputs(&mut s).is_empty());
    s.act(1100, primary(0, false, false));
    assert_eq!(outputs(&mut s), [Output::Held { key: HEALTH, why: Hold::NoSuccessor }]);
}

#[test]
fn a_core_that_stands_still_is_not_waited_for() {
    let mut s = supervisor();
    let core = Key::own(Resource::Core);
    s.sample(S, core, bad());
    outputs(&mut s);
    s.act(S, primary(S, true, false));
    assert_eq!(outputs(&mut s), [Output::Failover(core)]);
}

#[test]
fn links_are_the_nodes_own_affair_but_for_its_fitness() {
    let mut s = supervisor();
    let link = Key::own(Resource::ClientLink);
    s.sample(1, link, Err(Fault::new(Cause::NoCarrier, "")));
    s.act(1, primary(0, false, true));
    let seen = outputs(&mut s);
    assert!(matches!(seen[..], [Output::Bad { .. }, Output::Impaired(true)]), "{seen:?}");
    for _ in 0..4 {
        s.sample(2, link, Ok(()));
    }
    assert!(s.is_impaired(), "a link that flaps is not trusted at once");
    s.sample(3, link, Ok(()));
    assert!(!s.is_impaired());
}

#[test]
fn restart_hands_over_first_and_starts_anew_without_a_fit_node() {
    let app = Key::own(Resource::Application);
    let mut s = supervisor();
    s.sample(0, app, bad());
    outputs(&mut s);
    s.act(0, primary(0, false, true));
    assert_eq!(outputs(&mut s), [Output::Failover(app)]);
    s.act(1, primary(0, false, false));
    s.act(2, primary(0, false, false));
    assert_eq!(outputs(&mut s), [Output::Restart(app)], "once");
    let mut s = supervisor();
    s.sample(0, app, bad());
    outputs(&mut s);
    for second in 0..1000 {
        s.act(second * S, Situation::Replica);
    }
    assert_eq!(outputs(&mut s).len(), 6, "ever more rarely");
}

#[test]
fn what_is_seen_of_others_does_not_make_this_node_unfit() {
    let mut rules = rules();
    rules.set(Resource::Lag, Rule { policy: Policy::Failover, fall: 1, rise: 1, settle_ns: 0 });
    let mut s = Supervisor::new(rules, INTERVAL);
    s.sample(0, Key::of_peer(Resource::Lag, 2), bad());
    s.act(0, primary(0, false, true));
    assert!(matches!(outputs(&mut s)[..], [Output::Bad { .. }]));
    s.sample(0, Key::own(Resource::Lag), bad());
    assert!(s.is_impaired());
    s.forget(Key::own(Resource::Lag));
    assert!(!s.is_impaired(), "what is not looked at any more is no reason");
}

#[test]
fn checkpoints_are_asked_for_rarely_and_only_where_they_help() {
    let mut s = supervisor();
    for peer in 1..4 {
        turn_bad(&mut s, S, Key::of_peer(Resource::SecondPath, peer));
    }
    turn_bad(&mut s, S, DISK);
    let asked = outputs(&mut s).into_iter().filter(|o| matches!(o, Output::Checkpoint(_)));
    assert_eq!(asked.count(), 1);
}

#[test]
fn all_is_bounded() {
    let mut s = supervisor();
    for peer in 0..1000 {
        turn_bad(&mut s, 0, Key::of_peer(Resource::Lag, peer));
    }
    assert_eq!(s.watched(), KEYS_MAX);
    assert!(s.lost() > 0 && outputs(&mut s).len() <= OUTPUTS_MAX);
}

proptest! {
    /// Whatever is seen, states alternate, and between two changes of one resource lie enough samples.
    #[test]
    fn no_flapping(seen in proptest::collection::vec(any::<bool>(), 0..400)) {
        let mut s = supervisor();
        let (mut last, mut was_bad) = (None, false);
        for (n, is_bad) in seen.into_iter().enumerate() {
            s.sample(n as u64, HEALTH, if is_bad { bad() } else { Ok(()) });
            for output in outputs(&mut s) {
                let (is_bad, needed) = match output {
                    Output::Bad { .. } => (true, 3),
                    Output::Good { .. } => (false, 2),
                    _ => continue,
                };
                prop_assert_ne!(is_bad, was_bad);
                prop_assert!(n + 1 - last.map_or(0, |at: usize| at + 1) >= needed);
                (last, was_bad) = (Some(n), is_bad);
            }
        }
    }
}
