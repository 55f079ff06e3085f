use super::*;
use crate::MS;
use proptest::prelude::*;
use understudy_wire::record::RecordKind;

const LEASE_NS: u64 = 100 * MS;
const EVICT_NS: u64 = 1000 * MS;
const T0: u64 = 10_000 * MS;

struct Rig {
    s: Sender,
    log: CaptureLog,
    c: Counters,
}

fn config(policy: CommitPolicy, voters: usize) -> SenderConfig {
    SenderConfig {
        policy,
        voters,
        min_replicas: voters / 2,
        lease_ns: LEASE_NS,
        evict_after_ns: EVICT_NS,
        heartbeat_interval_ns: 10 * MS,
        chunk_len: 64,
    }
}

/// A reign over a log of 1040 bytes whose other nodes were all heard a moment ago.
fn rig(policy: CommitPolicy, voters: usize) -> Rig {
    rig_with(config(policy, voters), &vec![T0; voters - 1])
}

fn rig_with(config: SenderConfig, heard_at_ns: &[u64]) -> Rig {
    let mut rig = Rig {
        s: Sender::new(config, [], 0, T0, &mut Counters::default()),
        log: CaptureLog::new(1 << 16).unwrap(),
        c: Counters::default(),
    };
    rig.s = Sender::new(config, (2..).zip(heard_at_ns.iter().copied()), 0, T0, &mut rig.c);
    rig.append(10);
    rig
}

impl Rig {
    fn append(&mut self, records: usize) {
        for _ in 0..records {
            let floor = self.s.floor(T0);
            self.log.append(RecordKind::ClientFrame, 0, &[1; 84], floor).unwrap();
        }
    }

    fn send(&mut self, at_ns: u64) -> Vec<Outgoing> {
        let out: Vec<_> =
            std::iter::from_fn(|| self.s.next(at_ns, &self.log, &mut self.c)).take(5000).collect();
        assert!(out.len() < 5000, "it never ends");
        out
    }

    fn ack(&mut self, at_ns: u64, from: NodeId, position: Position, echo_ns: u64) {
        assert!(self.s.on_ack(
            at_ns,
            from,
            &Ack { position, covered: position, echo_ns, ..Ack::default() }
        ));
    }

    fn update(&mut self, at_ns: u64) -> Position {
        self.s.update(at_ns, self.log.end(), &mut self.c);
        self.s.committed()
    }

    fn nak(&mut self, at_ns: u64, from: NodeId, position: Position, length: u64) {
        assert!(self.s.on_nak(at_ns, from, &Nak { position, length }, &self.log, &mut self.c));
    }

    fn in_set(&self) -> Vec<NodeId> {
        self.s.peers().iter().filter(|p| p.in_set()).map(|p| p.id).collect()
    }
}

#[test]
fn policies_count_replicas() {
    for (policy, voters, min, want) in [
        (CommitPolicy::None, 5, 2, 1040),
        (CommitPolicy::Any, 3, 1, 300),
        (CommitPolicy::Any, 3, 2, 200),
        (CommitPolicy::Quorum, 3, 1, 300),
        (CommitPolicy::Quorum, 3, 2, 200),
        (CommitPolicy::Quorum, 5, 2, 200),
        (CommitPolicy::Quorum, 5, 0, 200),
        (CommitPolicy::Quorum, 5, 3, 0),
        (CommitPolicy::All, 3, 1, 200),
        (CommitPolicy::All, 5, 2, 0),
        (CommitPolicy::Quorum, 2, 0, 300),
    ] {
        let config = SenderConfig { min_replicas: min, ..config(policy, voters) };
        let mut r = rig_with(config, &vec![T0; voters - 1]);
        r.send(T0);
        r.ack(T0 + 1, 2, 300, T0);
        if voters > 2 {
            r.ack(T0 + 1, 3, 200, T0);
        }
        assert_eq!(r.update(T0 + 1), want, "{policy:?} of {voters}, at least {min}");
    }
}

#[test]
fn all_goes_on_without_an_evicted_replica_but_not_without_the_minimum() {
    for (min, after) in [(1, 500), (2, 0)] {
        let mut r =
            rig_with(SenderConfig { min_replicas: min, ..config(CommitPolicy::All, 3) }, &[T0, T0]);
        r.send(T0);
        r.ack(T0 + 1, 2, 500, T0);
        assert_eq!(r.update(T0 + 2), 0, "3 was heard before the reign: it is waited for");
        assert_eq!(r.update(T0 + LEASE_NS + 1), after, "at least {min}");
        assert_eq!(r.in_set(), [2]);
        let evicted = r.s.take_changes();
        let (node, MemberChange::Evicted(e)) = evicted[0] else { panic!("{evicted:?}") };
        assert_eq!((node, e.cause, e.lag_bytes), (3, EvictCause::Silent, 1040));
        assert_eq!(r.c.commit_set_evicted_silent, 1);
    }
}

#[test]
fn nobody_waits_for_who_was_dead_when_the_reign_began() {
    let mut r = rig_with(config(CommitPolicy::All, 3), &[T0, T0 - 2 * LEASE_NS]);
    r.send(T0);
    r.ack(T0 + 1, 2, 1040, T0);
    assert_eq!(r.update(T0 + 2), 1040, "at once");
    let changes = r.s.take_changes();
    let absent = Eviction { cause: EvictCause::Absent, lag_bytes: 0, lag_ns: 2 * LEASE_NS };
    assert_eq!(changes[..], [(3, MemberChange::Evicted(absent))]);
    // It lives after all: its first acknowledgement in this reign makes it count.
    r.ack(T0 + 5 * MS, 3, 1040, T0);
    r.update(T0 + 5 * MS);
    assert_eq!(r.in_set(), [2, 3]);
    assert_eq!(r.s.take_changes()[..], [(3, MemberChange::Admitted)]);
}

#[test]
fn a_replica_that_lives_but_lags_leaves_and_comes_back_only_when_it_has_caught_up() {
    let mut r = rig(CommitPolicy::All, 3);
    r.log = CaptureLog::new(1 << 21).unwrap();
    r.append(3000);
    let (end, mut now) = (r.log.end(), T0);
    r.send(now);
    for _ in 0..130 {
        now += 10 * MS;
        r.ack(now, 2, end, now);
        r.ack(now, 3, 100, now);
        r.update(now);
        r.send(now);
    }
    assert_eq!((r.in_set(), r.s.committed()), (vec![2], end));
    let changes = r.s.take_changes();
    let (3, MemberChange::Evicted(e)) = changes[0] else { panic!("{changes:?}") };
    assert_eq!((e.cause, e.lag_bytes), (EvictCause::Lagging, end - 100));
    assert!((EVICT_NS..EVICT_NS * 5 / 4).contains(&e.lag_ns), "{e:?}");
    assert_eq!((changes.len(), r.c.commit_set_evicted_lagging), (1, 1));
    // Alive and still behind: out it stays.
    r.ack(now, 3, end / 4, now);
    r.update(now);
    assert_eq!(r.in_set(), [2]);
    r.ack(now, 3, end, now);
    r.update(now);
    assert_eq!((r.in_set(), r.c.commit_set_admitted), (vec![2, 3], 1));
}

#[test]
fn a_pause_of_the_primary_itself_evicts_nobody() {
    let mut r = rig(CommitPolicy::All, 3);
    r.send(T0);
    for (at, node) in [(T0 + 1, 2), (T0 + 1, 3)] {
        r.ack(at, node, 1040, T0);
    }
    r.update(T0 + 1);
    r.append(10);
    r.send(T0 + 2);
    // Its thread stood still for ten times the limit.
    let later = T0 + 10 * EVICT_NS;
    r.update(later);
    assert_eq!(r.in_set(), [2, 3]);
    for k in 1..=101 {
        r.update(later + k * 10 * MS);
    }
    assert!(r.in_set().is_empty(), "and then they are silent");
}

#[test]
fn an_ack_beyond_what_was_sent_commits_nothing_unsent() {
    let mut r = rig(CommitPolicy::Any, 3);
    r.s.next(T0, &r.log, &mut r.c);
    r.ack(T0 + 1, 2, u64::MAX >> 3, T0);
    assert_eq!(r.update(T0 + 1), 64);
    assert!(!r.s.on_ack(T0 + 1, 99, &Ack { position: 1000, covered: 1000, ..Ack::default() }));
}

#[test]
fn the_lease_counts_from_what_a_majority_acknowledged() {
    let mut r = rig(CommitPolicy::None, 5);
    r.send(T0);
    assert!(!r.s.lease_valid(T0));
    r.ack(T0 + 60, 2, 0, T0 + 50);
    assert!(!r.s.lease_valid(T0 + 60));
    r.ack(T0 + 60, 3, 0, T0 + 40);
    let until = T0 + 40 + LEASE_NS;
    assert!(r.s.lease_valid(until - 1) && !r.s.lease_valid(until));
}

#[test]
fn alone_it_commits_by_itself_and_afterwards_nothing_goes_back() {
    let config = SenderConfig { min_replicas: 0, ..config(CommitPolicy::Quorum, 2) };
    let mut r = rig_with(config, &[T0 - EVICT_NS]);
    r.send(T0);
    assert_eq!(r.update(T0), 0);
    assert!(!r.s.lease_valid(T0));
    r.s.set_alone(true);
    assert_eq!(r.update(T0 + 1), 1040);
    assert!(r.s.is_alone() && r.s.lease_valid(u64::MAX - 1));
    assert_eq!(r.s.floor(T0 + 1), u64::MAX, "nobody else needs the log");
    r.append(3000);
    assert_eq!(r.update(T0 + 2), r.log.end());
    r.send(T0 + 2);
    let end = r.log.end();
    r.s.set_alone(false);
    assert!(!r.s.lease_valid(T0 + 3));
    assert_eq!(r.update(T0 + 3), end);
    assert_eq!(r.s.floor(T0 + 3), end, "what it committed alone is nobody's to hold");
    r.append(1);
    r.send(T0 + 4);
    assert_eq!(r.update(T0 + 4), end, "from here on the other must hold it");
    r.ack(T0 + 5, 2, r.log.end(), T0 + 4);
    assert_eq!(r.update(T0 + 5), r.log.end());
    assert!(r.s.lease_valid(T0 + 5));
}

#[test]
fn where_a_replica_is_required_it_never_goes_on_alone() {
    let mut r = rig_with(config(CommitPolicy::Quorum, 2), &[T0]);
    r.send(T0);
    r.s.set_alone(true);
    assert_eq!(r.update(T0 + 1), 0);
    assert!(!r.s.is_alone() && !r.s.lease_valid(T0 + 1));
}

#[test]
fn silent_and_evicted_replicas_do_not_pin_the_log_but_a_majority_does() {
    let mut r = rig(CommitPolicy::Quorum, 3);
    r.send(T0);
    assert_eq!(r.s.floor(T0), 0, "nobody has been heard: everything since the start");
    r.ack(T0 + 1, 2, 500, T0);
    r.ack(T0 + 1, 3, 300, T0);
    assert_eq!(r.s.floor(T0 + 2), 300);
    r.ack(T0 + LEASE_NS, 2, 600, T0);
    assert_eq!(r.s.floor(T0 + LEASE_NS + 1), 600, "3 is silent for a lease");
    assert_eq!(r.s.floor(T0 + 900 * MS), 600, "so are both: what is not held by a majority stays");
    let mut now = T0 + LEASE_NS;
    for _ in 0..140 {
        now += 10 * MS;
        r.ack(now, 2, 1040, now);
        r.ack(now, 3, 300, now);
        r.update(now);
    }
    assert_eq!((r.in_set(), r.s.floor(now)), (vec![2], 1040), "3 lives, and lags");
}

#[test]
fn a_nak_is_served_once_from_the_log() {
    let mut r = rig(CommitPolicy::Any, 3);
    r.send(T0);
    r.nak(T0 + 5, 3, 100, 100);
    r.nak(T0 + 6, 3, 100, 100);
    let out = r.send(T0 + 6);
    let again: Vec<_> = out.iter().filter(|o| o.target == 3).collect();
    assert_eq!(again.len(), 2);
    assert_eq!((again[0].header.position, again[1].to), (100, 200));
    assert_eq!(r.c.naks_repeated, 1);
}

#[test]
fn who_asks_for_what_is_gone_is_told_once_and_by_every_sign_of_life() {
    let mut r = rig(CommitPolicy::Any, 3);
    r.send(T0);
    r.ack(T0, 2, 1040, T0);
    for _ in 0..900 {
        r.log.append(RecordKind::ClientFrame, 0, &[1; 84], u64::MAX).unwrap();
    }
    let log_start = r.log.start();
    assert!(log_start > 1040);
    r.send(T0 + 1);
    for k in 2..5 {
        r.nak(T0 + k, 3, 500, 100);
    }
    let fell = MemberChange::FellOffLog { position: 500, log_start };
    assert_eq!(r.s.take_changes()[..], [(3, fell)]);
    let out = r.send(T0 + 5);
    assert_eq!(out.len(), 1);
    assert_eq!((out[0].target, out[0].header.log_start), (TARGET_ALL, log_start));
    assert_eq!(r.c.naks_beyond_log, 3);
}

#[test]
fn retransmissions_take_turns_with_new_data_and_with_each_other() {
    let mut r = rig(CommitPolicy::Any, 5);
    r.send(T0);
    r.append(10);
    r.nak(T0 + 1, 4, 0, 1040);
    r.nak(T0 + 1, 5, 0, 1040);
    let to: Vec<_> = r.send(T0 + 1).iter().map(|o| o.target).collect();
    assert_eq!(to[..8], [4, TARGET_ALL, 5, TARGET_ALL, 4, TARGET_ALL, 5, TARGET_ALL]);
    // A sign of life that is due waits for no retransmission.
    r.nak(T0 + 20 * MS, 4, 0, 1040);
    let next = r.s.next(T0 + 20 * MS, &r.log, &mut r.c).unwrap();
    assert_eq!((next.target, next.header.position), (TARGET_ALL, r.log.end()));
}

#[test]
fn the_window_follows_the_slowest_that_the_policy_counts() {
    for (policy, paces) in [(CommitPolicy::Quorum, 2), (CommitPolicy::All, 3)] {
        let mut r = rig(policy, 3);
        r.log = CaptureLog::new(1 << 23).unwrap();
        let record = vec![1; 60_000];
        while r.log.end() < 3 * WINDOW_BYTES {
            r.log.append(RecordKind::ClientFrame, 0, &record[..8000], 0).unwrap();
        }
        r.s.config.chunk_len = 60_000;
        r.send(T0);
        let sent = |r: &Rig| r.s.sent;
        assert!((WINDOW_BYTES..WINDOW_BYTES + 60_000).contains(&sent(&r)));
        let other = 5 - paces;
        r.ack(T0 + 1, if policy == CommitPolicy::All { other } else { 3 }, 0, T0);
        let before = sent(&r);
        let fast = if policy == CommitPolicy::All { other } else { 2 };
        r.ack(T0 + 1, fast, before, T0);
        r.send(T0 + 2);
        assert_eq!(sent(&r) > before, policy == CommitPolicy::Quorum, "{policy:?}");
        assert!(r.c.window_stalls > 0);
        r.ack(T0 + 3, paces, before, T0);
        r.send(T0 + 3);
        assert!(sent(&r) > before + WINDOW_BYTES - 60_000);
    }
}

#[test]
fn idle_sends_a_sign_of_life_and_tells_commits_at_once() {
    let mut r = rig(CommitPolicy::Any, 3);
    r.send(T0);
    assert!(r.send(T0 + 9 * MS).is_empty());
    let out = r.send(T0 + 10 * MS);
    assert_eq!(out.len(), 1);
    assert_eq!((out[0].header.position, out[0].header.end), (out[0].to, r.log.end()));
    r.ack(T0 + 11 * MS, 2, 500, T0 + 10 * MS);
    r.update(T0 + 11 * MS);
    let out = r.send(T0 + 11 * MS);
    assert_eq!(out.iter().map(|o| o.header.committed).collect::<Vec<_>>(), [500]);
}

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Send(usize),
    Ack { node: NodeId, back: u64, lie: bool },
    Nak { node: NodeId, back: u64, length: u64 },
    Wait(u64),
    Alone(bool),
}

fn step(voters: u16) -> impl Strategy<Value = Step> {
    let node = 2..=voters;
    prop_oneof![
        3 => (1usize..20).prop_map(Step::Append),
        3 => (1usize..60).prop_map(Step::Send),
        6 => (node.clone(), 0u64..3000, proptest::bool::weighted(0.1))
            .prop_map(|(node, back, lie)| Step::Ack { node, back, lie }),
        2 => (node, 0u64..40_000, 0u64..1 << 20)
            .prop_map(|(node, back, length)| Step::Nak { node, back, length }),
        3 => prop_oneof![1u64..5, 1u64..40, Just(1500)].prop_map(Step::Wait),
        1 => any::<bool>().prop_map(Step::Alone),
    ]
}

/// What the commit rule says, from nothing but who acknowledged what.
fn oracle(r: &Rig, acked: &[Position]) -> Position {
    let config = &r.s.config;
    if config.policy == CommitPolicy::None || r.s.is_alone() {
        return r.log.end();
    }
    let least = match config.policy {
        CommitPolicy::Any => config.min_replicas.max(1),
        _ => config.min_replicas.max(config.voters / 2),
    };
    let held = |at: Position| acked.iter().filter(|a| **a >= at).count();
    let in_set = |i: usize| r.s.peers()[i].in_set();
    let by_all = |at: Position| (0..acked.len()).all(|i| !in_set(i) || acked[i] >= at);
    let some = (0..acked.len()).any(in_set);
    let enough = |at: &Position| match config.policy {
        CommitPolicy::All => held(*at) >= least && by_all(*at) && some,
        _ => held(*at) >= least,
    };
    acked.iter().copied().filter(enough).max().unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Random lives of a reign: committed is what the rule says, never goes back, and the set
    /// holds exactly those who neither fell silent nor behind.
    #[test]
    fn the_commit_rule(
        policy in prop_oneof![
            Just(CommitPolicy::None), Just(CommitPolicy::Any),
            Just(CommitPolicy::Quorum), Just(CommitPolicy::All)
        ],
        voters in 2usize..6,
        min in 0usize..5,
        steps in proptest::collection::vec(step(5), 1..200),
    ) {
        let config = SenderConfig { min_replicas: min.min(voters - 1), ..config(policy, voters) };
        let mut r = rig_with(config, &vec![T0; voters - 1]);
        let (mut now, mut committed) = (T0, 0);
        let mut acked = vec![0; voters - 1];
        let mut heard = vec![T0; voters - 1];
        // (when, how far was sent, at every step)
        let mut sent_at = vec![(T0, 0)];
        for step in steps {
            let before: Vec<_> = r.s.peers().iter().map(Peer::in_set).collect();
            match step {
                Step::Append(n) => for _ in 0..n {
                    let _ = r.log.append(RecordKind::ClientFrame, 0, &[1; 84], r.s.floor(now));
                },
                Step::Send(n) => for _ in 0..n {
                    let Some(out) = r.s.next(now, &r.log, &mut r.c) else { break };
                    prop_assert!(out.to <= r.log.end() && out.header.position >= r.log.start());
                    prop_assert!(out.header.committed <= out.header.end);
                    prop_assert!(out.to - out.header.position <= 64);
                },
                Step::Ack { node, back, lie } => if usize::from(node) <= voters {
                    let i = usize::from(node) - 2;
                    let claim = if lie { r.s.sent + back } else { r.s.sent.saturating_sub(back) };
                    r.ack(now, node, claim, now);
                    acked[i] = acked[i].max(claim.min(r.s.sent));
                    heard[i] = now;
                },
                Step::Nak { node, back, length } => if usize::from(node) <= voters {
                    r.nak(now, node, r.log.end().saturating_sub(back), length);
                },
                // In polls, not in one pause of our own.
                Step::Wait(ms) => for _ in 0..ms {
                    now += MS;
                    r.update(now);
                    committed = committed.max(oracle(&r, &acked));
                    sent_at.push((now, r.s.sent));
                },
                Step::Alone(on) => r.s.set_alone(on),
            }
            prop_assert_eq!(r.update(now).max(committed), r.s.committed(), "it went back");
            committed = committed.max(oracle(&r, &acked));
            prop_assert_eq!(r.s.committed(), committed);
            sent_at.push((now, r.s.sent));
            for (i, peer) in r.s.peers().iter().enumerate() {
                let silence = now - heard[i];
                prop_assert!(!peer.in_set() || silence <= EVICT_NS);
                // What was sent an eviction's time ago, by the oracle's own book.
                let old = sent_at.iter().rev().find(|(at, _)| at + EVICT_NS <= now);
                let reached = old.is_none_or(|(_, sent)| acked[i] >= *sent);
                if before[i] && !peer.in_set() {
                    prop_assert!(silence > LEASE_NS || !reached, "evicted for nothing");
                }
                if !before[i] && peer.in_set() {
                    prop_assert!(silence < EVICT_NS);
                    let near = acked[i] + CAUGHT_UP_BYTES >= r.s.sent;
                    prop_assert!(near || acked[i] >= r.s.committed(), "in before it caught up");
                }
                prop_assert!(peer.resend.pending() <= RESEND_BYTES_MAX);
            }
            prop_assert!(r.s.take_changes().len() <= 3 * (voters - 1));
        }
    }
}
