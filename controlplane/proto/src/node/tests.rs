//! One test per rule, on a single node with scripted neighbours.

use understudy_wire::control::{Ballot, EpochStart, Flags, Heard, Role};

mod reign;

use super::*;

const MS: u64 = 1_000_000;
const SUSPECT: u64 = 50 * MS;

/// Node 1 of three, and what it has put out.
#[derive(Clone)]
struct Bench {
    node: Node,
    now: u64,
    seq: u64,
    log: LogState,
    out: Vec<Output>,
}

impl Bench {
    fn new(voters: &[NodeId], persisted: Persisted) -> Self {
        Bench::of(Config::new(1, voters.to_vec(), 10 * MS, SUSPECT, 40 * MS), persisted)
    }

    fn of(cfg: Config, persisted: Persisted) -> Self {
        let now = 1000 * MS;
        let node = Node::new(cfg, persisted, now, 7).expect("valid");
        let log = LogState { clone_level: true, fit: true, ..LogState::default() };
        let mut bench = Self { node, now, seq: 0, log, out: Vec::new() };
        for fact in [LocalFact::ClientLink(true), LocalFact::ReplicaLink(true), LocalFact::AppReady]
        {
            bench.fact(fact);
        }
        bench.report();
        bench
    }

    fn drain(&mut self) {
        while let Some(output) = self.node.poll_output() {
            self.out.push(output);
        }
    }

    fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.out)
    }

    fn fact(&mut self, fact: LocalFact) {
        self.node.handle_local(self.now, fact);
        self.drain();
    }

    fn report(&mut self) {
        self.node.handle_log(self.now, &self.log);
        self.drain();
    }

    fn persisted(&mut self, epoch: Epoch) {
        self.node.handle_persisted(self.now, epoch);
        self.drain();
    }

    fn promised(&mut self, epoch: Epoch) {
        self.node.handle_promised(self.now, epoch, &self.log);
        self.drain();
    }

    fn get(&mut self, from: NodeId, epoch: Epoch, msg: Control) {
        self.node.handle_message(self.now, Path::Replica, from, epoch, &msg);
        self.drain();
    }

    fn beat(&mut self, from: NodeId, epoch: Epoch, change: impl FnOnce(&mut Heartbeat)) {
        self.seq += 1;
        let mut m = Heartbeat { incarnation: 1, seq: self.seq, priority: 50, ..Default::default() };
        m.flags = Flags {
            clone_ready: true,
            client_link_up: true,
            replica_link_up: true,
            electable: true,
            ..Flags::default()
        };
        m.heard.push(Heard { node: 1, incarnation: 1, on_replica: true });
        m.position = self.log.position;
        m.log_epoch = self.log.log_epoch;
        change(&mut m);
        self.get(from, epoch, Control::Heartbeat(m));
    }

    fn reign(&mut self, from: NodeId, epoch: Epoch, history: &[(Epoch, Position)]) {
        let history = entries(history);
        self.beat(from, epoch, |m| {
            m.role = Role::Primary;
            m.reign = Some(Reign { epoch, primary: from, history });
        });
    }

    /// A heartbeat of a primary that has heard of this node's second life.
    fn echo(&mut self, from: NodeId, epoch: Epoch, history: &[(Epoch, Position)]) {
        let history = entries(history);
        self.beat(from, epoch, |m| {
            m.role = Role::Primary;
            m.heard[0].incarnation = 2;
            m.reign = Some(Reign { epoch, primary: from, history });
        });
    }

    /// Lets time pass with node 3 alive.
    fn pass(&mut self, for_ns: u64) {
        self.pass_with(for_ns, |_| {});
    }

    fn pass_with(&mut self, for_ns: u64, change: impl Fn(&mut Heartbeat)) {
        let until = self.now + for_ns;
        while self.now < until {
            self.now += 5 * MS;
            self.beat(3, 0, &change);
            self.node.handle_timeout(self.now);
            self.drain();
        }
    }

    /// Follows node 2 in epoch 1 with an empty log.
    fn following(voters: &[NodeId]) -> Self {
        let mut bench = Self::new(voters, Persisted::default());
        bench.reign(2, 1, &[(1, 0)]);
        bench.promised(1);
        bench.persisted(1);
        bench.log.epoch = 1;
        bench.log.log_epoch = 1;
        bench.log.position = 100;
        bench.log.history = entries(&[(1, 0)]);
        bench.report();
        bench
    }

    /// Leads epoch 1 of three with an open gate.
    fn leading() -> Self {
        let mut bench = Self::new(&[1, 2, 3], Persisted::default());
        bench.beat(2, 0, |_| {});
        bench.beat(3, 0, |_| {});
        bench.pass(5 * MS);
        bench.win(1);
        bench
    }

    fn win(&mut self, epoch: Epoch) {
        self.get(3, 0, Control::PreVoteReply(Ballot { epoch, granted: true }));
        self.promised(epoch);
        self.persisted(epoch);
        self.get(3, epoch, Control::VoteReply(Ballot { epoch, granted: true }));
        let start = self.log.position;
        self.log.history.push(EpochStart { epoch, start });
        self.log.position += 8;
        (self.log.epoch, self.log.log_epoch, self.log.leading) = (epoch, epoch, true);
        (self.log.gate_open, self.log.lease_valid) = (true, true);
        self.log.committed = self.log.position;
        self.report();
    }

    fn kinds(&self) -> Vec<TimelineKind> {
        let kind = |output: &Output| match output {
            Output::Event(event) => Some(event.kind),
            _ => None,
        };
        self.out.iter().filter_map(kind).collect()
    }

    fn orders(&self) -> Vec<DpCommand> {
        let order = |output: &Output| match output {
            Output::Dataplane(command) => Some(*command),
            _ => None,
        };
        self.out.iter().filter_map(order).collect()
    }

    /// That the service is to be restarted, and what is handed down.
    fn restarts(&self) -> Option<Option<Held>> {
        self.out.iter().find_map(|output| match output {
            Output::Service(ServiceCommand::Restart { held }) => Some(*held),
            _ => None,
        })
    }

    fn sent(&self, is: impl Fn(&Control) -> bool) -> usize {
        let hit = |output: &&Output| matches!(output, Output::Send { msg, .. } if is(msg));
        self.out.iter().filter(hit).count()
    }
}

fn entries(list: &[(Epoch, Position)]) -> History {
    list.iter().map(|&(epoch, start)| EpochStart { epoch, start }).collect()
}

fn vote(epoch: Epoch, log_epoch: Epoch, position: Position) -> Candidacy {
    Candidacy { epoch, log_epoch, position, ..Candidacy::default() }
}

fn granted(msg: &Control) -> bool {
    matches!(msg, Control::VoteReply(b) | Control::PreVoteReply(b) if b.granted)
}

#[test]
fn a_single_voter_leads_itself() {
    let mut bench = Bench::new(&[1], Persisted::default());
    bench.promised(1);
    assert!(
        !bench.orders().contains(&DpCommand::Lead { epoch: 1, serve: true }),
        "not before it is durable"
    );
    bench.persisted(1);
    assert!(bench.orders().contains(&DpCommand::Lead { epoch: 1, serve: true }));
}

#[test]
fn silence_on_all_paths_is_a_suspicion_and_data_is_not_silence() {
    let mut bench = Bench::following(&[1, 2, 3]);
    bench.pass(40 * MS);
    bench.log.last_data_rx_ns = bench.now;
    bench.report();
    bench.pass(40 * MS);
    assert!(!bench.kinds().contains(&TimelineKind::Suspicion));
    bench.pass(20 * MS);
    assert!(bench.kinds().contains(&TimelineKind::Suspicion));
}

/// Lets time pass with node 3 alive, as `flags` say, while the primary is silent; whether this node stood.
fn stands_beside(flags: impl Fn(&mut Flags)) -> bool {
    let mut bench = Bench::following(&[1, 2, 3]);
    bench.fact(LocalFact::Impaired(true));
    assert!(!bench.node.view(bench.now).not_ready_because.is_empty());
    for _ in 0..100 {
        bench.now += 5 * MS;
        bench.beat(3, 1, |m| flags(&mut m.flags));
        bench.node.handle_timeout(bench.now);
        bench.drain();
    }
    bench.sent(|m| matches!(m, Control::PreVote(_))) > 0
}

#[test]
fn an_impaired_node_stands_only_where_no_fit_one_lives() {
    assert!(!stands_beside(|_| {}), "node 3 is fit");
    let impaired = |flags: &mut Flags| (flags.electable, flags.last_resort) = (false, true);
    assert!(stands_beside(impaired), "neither is fit, and this one is as good");
    assert!(stands_beside(|flags| (flags.electable, flags.clone_ready) = (false, false)));
}

#[test]
fn an_impaired_node_says_that_it_would_not_stand_and_stays_primary() {
    let mut bench = Bench::following(&[1, 2, 3]);
    bench.fact(LocalFact::Impaired(true));
    bench.take();
    bench.pass(15 * MS);
    let unfit = |m: &Control| matches!(m, Control::Heartbeat(m) if !m.flags.electable && m.flags.last_resort);
    assert!(bench.sent(unfit) > 0);
    let mut bench = Bench::leading();
    bench.fact(LocalFact::Impaired(true));
    bench.take();
    bench.pass(20 * MS);
    assert!(!bench.kinds().contains(&TimelineKind::SteppedDown));
}

#[test]
fn a_clone_that_is_gone_comes_back_by_a_checkpoint_where_the_log_does_not_reach_back() {
    let mut bench = Bench::following(&[1, 2, 3]);
    bench.beat(2, 1, |m| {
        (m.role, m.log_start) = (Role::Primary, 64);
        m.reign = Some(Reign { epoch: 1, primary: 2, history: entries(&[(1, 0)]) });
    });
    bench.log.applied = 90;
    bench.report();
    assert_eq!(bench.node.view(bench.now).needs_checkpoint, None);
    bench.fact(LocalFact::AppExited);
    let needed = bench.node.view(bench.now).needs_checkpoint.expect("nothing else helps");
    assert_eq!((needed.diverged, needed.applied), (false, 90));
    bench.fact(LocalFact::AppReplaced);
    assert!(bench.node.view(bench.now).needs_checkpoint.is_some(), "one may fail");
    bench.fact(LocalFact::AppReady);
    assert_eq!(bench.node.view(bench.now).needs_checkpoint, None);
}

#[test]
fn nobody_votes_against_a_primary_just_heard() {
    let mut bench = Bench::following(&[1, 2, 3]);
    bench.take();
    bench.get(3, 1, Control::PreVote(vote(2, 1, 100)));
    bench.get(3, 2, Control::Vote(vote(2, 1, 100)));
    assert_eq!(bench.sent(granted), 0);
    assert!(bench.orders().is_empty(), "a refusal binds nothing");
    let transfer = Candidacy { released: 1, ..vote(2, 1, 100) };
    bench.get(3, 2, Control::Vote(transfer));
    assert!(bench.orders().contains(&DpCommand::Promise { epoch: 2 }));
}

#[test]
fn a_vote_is_promised_then_persisted_then_sent_and_only_once() {
    let mut bench = Bench::following(&[1, 2, 3]);
    bench.get(2, 1, Control::StepDown(StepDown { epoch: 1, to: Some(3), ..Default::default() }));
    bench.take();
    bench.get(3, 2, Control::Vote(vote(2, 1, 100)));
    assert_eq!(bench.orders(), [DpCommand::Promise { epoch: 2 }]);
    bench.promised(2);
    assert!(bench.out.contains(&Output::Persist { epoch: 2, voted_for: Some(3) }));
    assert_eq!(bench.sent(granted), 0);
    bench.persisted(2);
    assert_eq!(bench.sent(granted), 1);
    bench.get(2, 2, Control::Vote(vote(2, 1, 900)));
    assert_eq!(bench.sent(granted), 1, "one vote per epoch");
    bench.get(3, 2, Control::Vote(vote(2, 1, 100)));
    assert_eq!(bench.sent(granted), 2, "repeated for the same candidate");
}

#[test]
fn a_vote_that_is_asked_for_again_is_for_the_log_of_then() {
    let mut bench = Bench::following(&[1, 2, 3]);
    bench.get(2, 1, Control::StepDown(StepDown { epoch: 1, to: Some(3), ..Default::default() }));
    bench.get(3, 1, Control::Vote(vote(2, 1, 100)));
    bench.promised(2);
    bench.persisted(2);
    bench.take();
    // Its candidacy was not on its disk when it died.
    bench.get(3, 1, Control::Vote(vote(2, 1, 99)));
    assert_eq!(bench.sent(granted), 0);
    bench.get(3, 1, Control::Vote(vote(2, 1, 100)));
    assert_eq!(bench.sent(granted), 1);
}

#[test]
fn a_candidate_asks_while_it_writes_and_wins_only_with_its_own_vote() {
    let mut bench = Bench::following(&[1, 2, 3]);
    bench.get(2, 1, Control::StepDown(StepDown { epoch: 1, to: Some(1), ..Default::default() }));
    bench.node.handle_timeout(bench.now);
    bench.drain();
    assert_eq!(bench.sent(|m| matches!(m, Control::Vote(_))), 0, "not before the promise");
    bench.promised(2);
    assert_eq!(bench.sent(|m| matches!(m, Control::Vote(_))), 1);
    for voter in [2, 3] {
        bench.get(voter, 2, Control::VoteReply(Ballot { epoch: 2, granted: true }));
    }
    let lead = DpCommand::Lead { epoch: 2, serve: true };
    assert!(!bench.orders().contains(&lead), "its own is not on its disk");
    bench.persisted(2);
    assert!(bench.orders().contains(&lead));
}

#[test]
fn a_candidate_must_reach_what_the_voter_promised_with() {
    let mut bench = Bench::following(&[1, 2, 3]);
    bench.get(2, 1, Control::StepDown(StepDown { epoch: 1, to: Some(3), ..Default::default() }));
    bench.take();
    bench.get(3, 2, Control::Vote(vote(2, 1, 99)));
    assert!(bench.orders().is_empty());
    bench.get(3, 2, Control::Vote(vote(2, 1, 100)));
    bench.log.position = 101;
    bench.promised(2);
    bench.persisted(2);
    assert_eq!(bench.sent(granted), 0, "it grew before the promise");
}

#[test]
fn a_vote_waits_for_the_lease_it_may_have_helped_to_extend() {
    let mut bench = Bench::following(&[1, 2, 3]);
    bench.pass(60 * MS);
    bench.take();
    bench.get(3, 2, Control::Vote(vote(2, 1, 100)));
    bench.log.last_data_rx_ns = bench.now;
    bench.promised(2);
    bench.persisted(2);
    assert_eq!(bench.sent(granted), 0);
    bench.pass(SUSPECT);
    assert_eq!(bench.sent(granted), 1);
}

#[test]
fn a_pre_vote_raises_no_epoch() {
    let mut bench = Bench::following(&[1, 2, 3]);
    bench.pass(60 * MS);
    bench.get(3, 1, Control::PreVote(vote(9, 1, 100)));
    assert_eq!(bench.node.view(bench.now).epoch, 1);
}

#[test]
fn a_restarted_node_neither_votes_nor_stands_until_it_caught_up() {
    let mut bench = Bench::new(&[1, 2, 3], Persisted { epoch: 1, voted_for: None });
    bench.pass(400 * MS);
    bench.get(3, 2, Control::Vote(vote(2, 1, 100)));
    assert_eq!(bench.sent(granted) + bench.sent(|m| matches!(m, Control::PreVote(_))), 0);
    bench.log.position = 500;
    bench.reign(2, 2, &[(1, 0), (2, 90)]);
    bench.log.position = 0;
    bench.promised(2);
    bench.persisted(2);
    bench.reign(2, 2, &[(1, 0), (2, 90)]);
    (bench.log.epoch, bench.log.log_epoch, bench.log.position) = (2, 2, 499);
    bench.report();
    assert!(bench.node.view(bench.now).recovering);
    bench.log.position = 500;
    bench.report();
    assert!(!bench.node.view(bench.now).recovering);
}

#[test]
fn a_restarted_node_helps_the_one_that_holds_all_it_lost() {
    let mut bench = Bench::new(&[1, 2, 3], Persisted { epoch: 5, voted_for: None });
    bench.pass(100 * MS);
    bench.get(3, 6, Control::Vote(Candidacy { led: 4, ..vote(6, 5, 100) }));
    assert!(bench.orders().is_empty());
    bench.get(3, 6, Control::Vote(Candidacy { led: 5, ..vote(6, 5, 100) }));
    assert_eq!(bench.orders(), [DpCommand::Promise { epoch: 6 }]);
}

#[test]
fn a_restarted_node_that_knows_what_it_lost_helps_whoever_holds_that() {
    for (log_epoch, position, helps) in [(5, 99, false), (5, 100, true), (6, 1, true)] {
        let times = Config::new(1, vec![1, 2, 3], 10 * MS, SUSPECT, 40 * MS);
        let cfg = Config { held: Some((5, 100)), ..times };
        let mut bench = Bench::of(cfg, Persisted { epoch: 6, voted_for: None });
        bench.pass(100 * MS);
        assert!(bench.node.view(bench.now).recovering);
        bench.get(3, 7, Control::Vote(vote(7, log_epoch, position)));
        assert_eq!(!bench.orders().is_empty(), helps, "reign {log_epoch}, position {position}");
    }
}

#[test]
fn all_is_lost_only_when_every_voter_has_heard_these_lives() {
    let mut bench = Bench::new(&[1, 2, 3], Persisted { epoch: 1, voted_for: None });
    let heard = |node, incarnation| Heard { node, incarnation, on_replica: true };
    let lost = |m: &mut Heartbeat, others: &[Heard]| {
        m.flags.recovering = true;
        m.heard = others.iter().copied().collect();
    };
    bench.beat(2, 1, |m| lost(m, &[heard(1, 1), heard(3, 1)]));
    bench.beat(3, 1, |m| lost(m, &[heard(1, 1), heard(2, 9)]));
    assert!(bench.node.view(bench.now).recovering, "node 3 has heard another life of node 2");
    bench.beat(3, 1, |m| lost(m, &[heard(1, 1), heard(2, 1)]));
    assert!(!bench.node.view(bench.now).recovering);
    assert!(bench.kinds().contains(&TimelineKind::AllLost));
}

#[test]
fn following_waits_for_promise_and_disk_and_cuts_what_is_not_history() {
    let mut bench = Bench::following(&[1, 2, 3]);
    bench.take();
    bench.reign(3, 2, &[(1, 0), (2, 70)]);
    assert_eq!(bench.orders(), [DpCommand::Promise { epoch: 2 }]);
    bench.persisted(2);
    bench.promised(2);
    let follow = DpCommand::Follow { epoch: 2, primary: 3, cut: 70 };
    assert_eq!(bench.orders().last(), Some(&follow));
}

#[test]
fn a_clone_that_consumed_what_is_not_history_starts_anew() {
    let mut bench = Bench::following(&[1, 2, 3]);
    bench.log.applied = 80;
    bench.take();
    bench.reign(3, 2, &[(1, 0), (2, 70)]);
    bench.persisted(2);
    bench.promised(2);
    bench.echo(3, 2, &[(1, 0), (2, 70)]);
    assert!(bench.restarts().is_some());
    assert_eq!(bench.orders(), [DpCommand::Promise { epoch: 2 }]);
    bench.fact(LocalFact::ServiceFresh);
    let follow = DpCommand::Follow { epoch: 2, primary: 3, cut: 0 };
    assert_eq!(bench.orders().last(), Some(&follow));
    assert!(bench.node.view(bench.now).recovering);
}

#[test]
fn a_log_that_begins_too_late_cannot_be_joined() {
    let mut bench = Bench::new(&[1, 2, 3], Persisted::default());
    let history = entries(&[(1, 0)]);
    bench.beat(2, 1, |m| {
        m.role = Role::Primary;
        m.log_start = 4096;
        m.reign = Some(Reign { epoch: 1, primary: 2, history });
    });
    bench.persisted(1);
    bench.promised(1);
    let why = bench.node.view(bench.now).not_ready_because;
    let text = "the primary's log no longer holds position 0; a checkpoint is needed";
    assert!(why.iter().any(|reason| reason == text), "{why:?}");
    assert_eq!(bench.orders(), [DpCommand::Promise { epoch: 1 }]);
}

#[test]
fn who_cannot_serve_leads_for_those_who_lost_what_it_holds() {
    let mut bench = Bench::following(&[1, 2, 3]);
    bench.fact(LocalFact::ClientLink(false));
    let asked = |bench: &Bench| bench.sent(|m| matches!(m, Control::PreVote(_)));
    let mut other = bench.clone();
    other.pass_with(1000 * MS, |m| (m.flags.electable, m.position) = (false, 0));
    assert_eq!(asked(&other), 0, "nobody would be the heir");
    bench.pass_with(1000 * MS, |m| {
        (m.flags.electable, m.flags.recovering, m.position) = (false, true, 0);
    });
    assert!(asked(&bench) > 0);
}

#[test]
fn who_voted_for_another_asks_before_it_stands() {
    let mut bench = Bench::following(&[1, 2, 3]);
    let notice =
        StepDown { epoch: 1, reason: StepDownReason::AppExited, position: 100, to: Some(3) };
    bench.get(2, 1, Control::StepDown(notice));
    bench.get(3, 2, Control::Vote(vote(2, 1, 100)));
    bench.promised(2);
    bench.persisted(2);
    assert_eq!(bench.sent(granted), 1);
    bench.take();
    bench.pass(1000 * MS);
    assert!(bench.sent(|m| matches!(m, Control::PreVote(_))) > 0);
    assert_eq!(bench.sent(|m| matches!(m, Control::Vote(_))), 0, "it may have won");
}

#[test]
fn a_deposed_primary_restarts_its_service_before_it_follows() {
    let mut bench = Bench::leading();
    bench.take();
    bench.reign(3, 2, &[(1, 0), (2, 8)]);
    bench.promised(2);
    bench.persisted(2);
    bench.reign(3, 2, &[(1, 0), (2, 8)]);
    assert_eq!(bench.restarts(), None, "what arrived may be as old as this node's pause");
    bench.echo(3, 2, &[(1, 0), (2, 8)]);
    assert_eq!(bench.restarts(), Some(Some((1, 8))), "what was committed of its reign");
    assert_eq!(bench.orders().first(), Some(&DpCommand::Fence { epoch: 1 }));
}

#[test]
fn the_named_successor_stands_at_once_and_without_a_pre_vote() {
    let mut bench = Bench::following(&[1, 2, 3]);
    bench.beat(3, 1, |_| {});
    bench.take();
    bench.get(2, 1, Control::StepDown(StepDown { epoch: 1, to: Some(1), ..Default::default() }));
    bench.node.handle_timeout(bench.now);
    bench.drain();
    assert_eq!(bench.orders(), [DpCommand::Promise { epoch: 2 }]);
    bench.promised(2);
    bench.persisted(2);
    assert_eq!(bench.sent(|m| matches!(m, Control::Vote(v) if v.released == 1)), 1);
}

#[test]
fn a_lost_step_down_is_made_good_by_a_heartbeat() {
    let mut bench = Bench::following(&[1, 2, 3]);
    bench.beat(2, 1, |m| {
        m.role = Role::Fenced;
        m.released = 1;
    });
    assert!(bench.kinds().contains(&TimelineKind::PeerSteppedDown));
}

#[test]
fn a_promise_given_for_nothing_still_raises_the_epoch() {
    let mut bench = Bench::following(&[1, 2, 3]);
    bench.get(2, 1, Control::StepDown(StepDown { epoch: 1, to: Some(1), ..Default::default() }));
    bench.beat(3, 1, |_| {});
    bench.pass(60 * MS);
    assert!(bench.orders().contains(&DpCommand::Promise { epoch: 2 }));
    bench.pass(300 * MS);
    bench.promised(2);
    assert!(bench.out.iter().any(|o| matches!(o, Output::Persist { epoch: 2, .. })));
}

#[test]
fn a_message_from_outside_the_group_is_nothing() {
    let mut bench = Bench::leading();
    bench.take();
    bench.get(9, 99, Control::Vote(vote(99, 99, 99)));
    assert!(bench.take().is_empty());
}

/// Node 1 cannot serve, node 2 has died, and node 3 could serve but lacks what node 1 holds.
fn holding_more_than_the_heir() -> Bench {
    let mut bench = Bench::following(&[1, 2, 3]);
    bench.fact(LocalFact::ClientLink(false));
    bench.take();
    for _ in 0..40 {
        bench.now += 5 * MS;
        bench.beat(3, 1, |m| m.position = 90);
        bench.node.handle_timeout(bench.now);
        bench.drain();
        if bench.sent(|m| matches!(m, Control::PreVote(_))) > 0 {
            break;
        }
    }
    bench
}

#[test]
fn who_cannot_serve_leads_to_hand_over_what_the_others_lack() {
    let mut bench = holding_more_than_the_heir();
    assert!(bench.sent(|m| matches!(m, Control::PreVote(_))) > 0);
    bench.get(3, 1, Control::PreVoteReply(Ballot { epoch: 2, granted: true }));
    bench.promised(2);
    bench.persisted(2);
    bench.get(3, 2, Control::VoteReply(Ballot { epoch: 2, granted: true }));
    assert!(bench.orders().contains(&DpCommand::Lead { epoch: 2, serve: false }));
    bench.log.history.push(EpochStart { epoch: 2, start: 100 });
    bench.log.position = 108;
    (bench.log.epoch, bench.log.log_epoch, bench.log.leading) = (2, 2, true);
    bench.log.peer_acked.push((3, 107));
    bench.report();
    bench.beat(3, 2, |_| {});
    bench.report();
    assert!(!bench.orders().contains(&DpCommand::Fence { epoch: 2 }), "the heir lacks a byte");
    bench.log.peer_acked[0].1 = 108;
    bench.report();
    assert!(bench.orders().contains(&DpCommand::Fence { epoch: 2 }));
    bench.promised(3);
    assert!(bench.sent(|m| matches!(m, Control::StepDown(s) if s.to == Some(3))) > 0);
    bench.reign(3, 3, &[(1, 0), (2, 100), (3, 108)]);
    bench.promised(3);
    bench.persisted(3);
    assert_eq!(bench.restarts(), None, "it was fed nothing");
    let follow = DpCommand::Follow { epoch: 3, primary: 3, cut: 108 };
    assert_eq!(bench.orders().last(), Some(&follow));
}

#[test]
fn whom_no_majority_hears_on_the_replica_port_does_not_stand() {
    let mut bench = Bench::following(&[1, 2, 3]);
    bench.take();
    for _ in 0..40 {
        bench.now += 5 * MS;
        bench.beat(3, 1, |m| m.heard[0].on_replica = false);
        bench.node.handle_timeout(bench.now);
        bench.drain();
    }
    assert_eq!(bench.sent(|m| matches!(m, Control::PreVote(_))), 0);
    bench.pass(SUSPECT);
    assert!(bench.sent(|m| matches!(m, Control::PreVote(_))) > 0);
}

#[test]
fn who_is_drained_does_not_stand_until_it_is_allowed_again() {
    let mut bench = Bench::following(&[1, 2, 3]);
    bench.fact(LocalFact::Withdrawn(true));
    bench.take();
    let silent = |bench: &mut Bench| {
        for _ in 0..40 {
            bench.now += 5 * MS;
            bench.beat(3, 1, |_| {});
            bench.node.handle_timeout(bench.now);
            bench.drain();
        }
        bench.sent(|m| matches!(m, Control::PreVote(_)))
    };
    assert_eq!(silent(&mut bench), 0);
    assert!(!bench.node.view(bench.now).not_ready_because.is_empty());
    bench.fact(LocalFact::Withdrawn(false));
    assert!(silent(&mut bench) > 0);
}
