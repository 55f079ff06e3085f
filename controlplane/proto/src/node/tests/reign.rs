//! A reign, its end, and the planned switchover.

use super::*;

#[test]
fn the_winner_announces_when_the_gate_opens() {
    let mut bench = Bench::leading();
    let kinds = bench.kinds();
    for kind in [TimelineKind::ElectionWon, TimelineKind::GateOpen, TimelineKind::Announce] {
        assert!(kinds.contains(&kind), "{kind:?}");
    }
    for _ in 0..700 {
        bench.pass(5 * MS);
        bench.report();
    }
    let announced = bench.orders().iter().filter(|&&o| o == DpCommand::Announce).count();
    assert_eq!(announced, 6);
}

#[test]
fn an_abdication_is_fenced_before_anybody_hears_of_it() {
    let facts = [LocalFact::AppExited, LocalFact::DataplaneStuck, LocalFact::ReplicaLink(false)];
    for fact in facts.into_iter().chain([LocalFact::ClientLink(false)]) {
        let mut bench = Bench::leading();
        bench.take();
        bench.fact(fact);
        let orders = [DpCommand::Fence { epoch: 1 }, DpCommand::Promise { epoch: 2 }];
        assert_eq!(bench.orders(), orders, "{fact:?}");
        assert_eq!(bench.sent(|m| matches!(m, Control::StepDown(_))), 0);
        bench.promised(2);
        bench.pass(50 * MS);
        assert_eq!(bench.sent(|m| matches!(m, Control::StepDown(_))), 4);
        assert_eq!(bench.node.view(bench.now).role, Role::Fenced);
        assert_eq!(bench.sent(|m| matches!(m, Control::Vote(_) | Control::PreVote(_))), 0);
    }
}

#[test]
fn a_primary_without_client_link_stays_if_nobody_could_do_better() {
    let mut bench = Bench::leading();
    bench.beat(2, 1, |m| m.flags.electable = false);
    bench.beat(3, 1, |m| m.flags.electable = false);
    bench.take();
    bench.fact(LocalFact::ClientLink(false));
    assert!(bench.orders().is_empty());
    let mut other = bench.clone();
    other.beat(3, 1, |m| (m.flags.electable, m.flags.last_resort) = (false, true));
    assert_eq!(other.orders().first(), Some(&DpCommand::Fence { epoch: 1 }), "better than nobody");
    bench.beat(3, 1, |_| {});
    assert_eq!(bench.orders().first(), Some(&DpCommand::Fence { epoch: 1 }));
}

#[test]
fn a_lost_lease_ends_a_reign_when_followers_had_time_to_run_again() {
    let mut bench = Bench::leading();
    bench.log.lease_valid = false;
    bench.report();
    bench.pass(SUSPECT + 80 * MS);
    assert!(!bench.kinds().contains(&TimelineKind::SteppedDown));
    bench.pass(40 * MS);
    assert!(bench.kinds().contains(&TimelineKind::SteppedDown));
}

#[test]
fn a_lost_lease_ends_no_reign_that_nobody_could_succeed() {
    let mut bench = Bench::leading();
    bench.log.lease_valid = false;
    bench.report();
    bench.pass_with(2000 * MS, |m| (m.flags.electable, m.flags.recovering) = (false, true));
    assert!(!bench.kinds().contains(&TimelineKind::SteppedDown));
    bench.pass(SUSPECT + 80 * MS);
    assert!(!bench.kinds().contains(&TimelineKind::SteppedDown), "the heir grants a lease first");
    bench.pass(40 * MS);
    assert!(bench.kinds().contains(&TimelineKind::SteppedDown), "it had its time");
}

#[test]
fn a_higher_epoch_in_a_header_ends_a_reign() {
    let mut bench = Bench::leading();
    bench.take();
    bench.beat(3, 7, |_| {});
    assert_eq!(bench.orders().first(), Some(&DpCommand::Fence { epoch: 1 }));
}

#[test]
fn a_switchover_drains_waits_and_names_its_successor() {
    let mut bench = Bench::leading();
    bench.take();
    bench.node.handle_switchover(bench.now, Some(3));
    bench.drain();
    assert_eq!(bench.orders(), [DpCommand::Drain]);
    bench.log.drained = true;
    bench.log.peer_acked.push((3, bench.log.position - 1));
    bench.report();
    assert_eq!(bench.orders(), [DpCommand::Drain]);
    bench.log.peer_acked[0].1 = bench.log.position;
    bench.report();
    bench.promised(2);
    let named = |m: &Control| matches!(m, Control::StepDown(s) if s.to == Some(3));
    assert_eq!(bench.sent(named), 1);
}

#[test]
fn a_switchover_that_cannot_drain_is_taken_back() {
    let mut bench = Bench::leading();
    bench.node.handle_switchover(bench.now, Some(3));
    for _ in 0..110 {
        bench.pass(5 * MS);
        bench.report();
    }
    assert!(bench.orders().contains(&DpCommand::Undrain));
    assert!(bench.out.iter().any(|o| matches!(o, Output::SwitchoverDone(Err(_)))));
    assert_eq!(bench.node.view(bench.now).role, Role::Primary);
}

#[test]
fn a_switchover_to_one_that_could_not_lead_is_refused() {
    let mut bench = Bench::leading();
    bench.beat(3, 1, |m| m.flags.client_link_up = false);
    bench.take();
    for to in [3, 9] {
        bench.node.handle_switchover(bench.now, Some(to));
    }
    bench.drain();
    let refused = |o: &&Output| matches!(o, Output::SwitchoverDone(Err(_)));
    assert_eq!(bench.out.iter().filter(refused).count(), 2);
    assert!(bench.orders().is_empty());
}

#[test]
fn a_late_loop_claims_nothing_and_suspects_nobody_at_once() {
    let mut leader = Bench::leading();
    leader.take();
    leader.now += 300 * MS;
    leader.node.handle_timeout(leader.now);
    leader.drain();
    let claims = |m: &Control| matches!(m, Control::Heartbeat(h) if h.reign.is_some());
    assert_eq!(leader.sent(claims), 0);
    leader.report();
    assert_eq!(leader.sent(claims), 1);

    let mut follower = Bench::following(&[1, 2, 3]);
    follower.now += 300 * MS;
    follower.node.handle_timeout(follower.now);
    follower.drain();
    assert!(follower.kinds().contains(&TimelineKind::LoopOverran));
    assert!(!follower.kinds().contains(&TimelineKind::Suspicion));
}
