//! An application held at a barrier, and one restored from there on a node that joins late.

use super::*;
use understudy_fastpath::command::{Barrier, Handshake, Resume};
use understudy_fastpath::flows::FlowSeed;

impl Rig {
    /// Holds the application, and says where.
    pub(super) fn held(&mut self) -> Barrier {
        self.order(Command::Hold);
        self.poll();
        let events: Vec<Event> = std::iter::from_fn(|| self.dp.poll_event()).collect();
        let held = events.into_iter().find_map(|e| match e {
            Event::Held(barrier) => Some(barrier),
            _ => None,
        });
        held.expect("an application that is held")
    }

    fn resumed(&mut self, resume: Resume) -> bool {
        self.order(Command::Resume(Box::new(resume)));
        let events: Vec<Event> = std::iter::from_fn(|| self.dp.poll_event()).collect();
        let resumed = events.into_iter().find_map(|e| match e {
            Event::Resumed(resumed) => Some(resumed),
            _ => None,
        });
        resumed.expect("an answer")
    }
}

fn key() -> FlowKey {
    Segment::parse(&from_client(0, 0, ACK, b"")).unwrap().key_from_client()
}

/// The connection after a request of 7 bytes and a reply of 5, which the client has not acknowledged.
fn seed() -> FlowSeed {
    FlowSeed {
        key: key(),
        rcv_nxt: cli(7),
        rcv_edge: cli(7).wrapping_add(60_000),
        snd_nxt: srv(5),
        client_acked: srv(0),
        client_edge: srv(0).wrapping_add(64_000),
        scales: Some((7, 7)),
        tsval: None,
        client_closed: false,
        server_closed: false,
    }
}

/// A primary with one request served, and a node that knows it and follows, but holds nothing.
fn joiner() -> (Rig, Rig, Rig) {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    handshake(&mut a, &mut b);
    request(&mut a, &mut b, b"request");
    a.give(PortRole::Host, from_server(srv(0), cli(7), ACK, 500, b"reply"));
    exchange(&mut a, &mut b, 10);
    a.sent(PortRole::Host);
    a.sent(PortRole::Client);
    let mut c = Rig::new(3, CommitPolicy::Quorum);
    c.now_ns = a.now_ns;
    acquaint(&mut a, &mut c);
    (a, b, c)
}

fn follow(c: &mut Rig) {
    c.order(Command::Follow { epoch: 1, primary: 1, cut: u64::MAX });
}

fn payloads(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let segments = segments(frames);
    let payload = |(f, s): (&Vec<u8>, &Segment)| f[f.len() - s.payload_len as usize..].to_vec();
    frames.iter().zip(&segments).map(payload).filter(|p| !p.is_empty()).collect()
}

#[test]
fn a_held_application_is_given_nothing_and_then_everything() {
    let (mut a, mut b, _) = joiner();
    for primary in [true, false] {
        b.sent(PortRole::Host);
        let at = if primary { a.held() } else { b.held() };
        assert_eq!(at.position, a.dp.log().end());
        assert_eq!((at.floor <= at.position, at.history.len()), (true, 1));
        let (seq, ack) = if primary { (7, 5) } else { (13, 5) };
        a.give(PortRole::Client, from_client(cli(seq), srv(ack), ACK, b"second"));
        exchange(&mut a, &mut b, 20);
        let held = if primary { &mut a } else { &mut b };
        assert!(payloads(&held.sent(PortRole::Host)).is_empty());
        assert!(a.dp.log().end() > at.position && a.dp.log().end() == b.dp.log().end());
        // The clone has to answer before it is given more.
        b.give(PortRole::Host, from_server(srv(0), cli(seq), ACK, 500, b"reply"));
        let held = if primary { &mut a } else { &mut b };
        held.order(Command::Release);
        exchange(&mut a, &mut b, 20);
        let held = if primary { &mut a } else { &mut b };
        assert_eq!(payloads(&held.sent(PortRole::Host)), [b"second"]);
    }
}

#[test]
fn a_restored_clone_goes_on_at_its_barrier() {
    let (mut a, mut b, mut c) = joiner();
    let barrier = a.held();
    a.order(Command::Release);
    follow(&mut c);
    let (floor, position, flows) = (barrier.floor, barrier.position, vec![seed()]);
    // The frames before the barrier are there for what the kernel had not finished with.
    let barrier = Barrier { floor: 0, ..barrier };
    assert!(c.resumed(Resume {
        barrier: barrier.clone(),
        flows: flows.clone(),
        pending: vec![],
        owed: vec![]
    }));
    let s = c.dp.snapshot(c.now_ns);
    assert_eq!((s.applied, s.level, s.log_end), (position, false, 0), "what it holds may be cut");
    let barrier = Barrier { floor, ..barrier };
    assert!(c.resumed(Resume { barrier, flows, pending: vec![], owed: vec![] }));
    a.give(PortRole::Client, from_client(cli(7), srv(5), ACK, b"second"));
    exchange(&mut a, &mut c, 40);
    assert_eq!(c.dp.log().start(), floor);
    assert_eq!(c.dp.log().end(), a.dp.log().end());
    assert!(c.dp.snapshot(c.now_ns).level);
    assert_eq!(payloads(&c.sent(PortRole::Host)), [b"second"]);
    // It takes over, and the connection is its own.
    exchange(&mut b, &mut c, 2);
    c.give(PortRole::Host, from_server(srv(5), cli(13), ACK, 500, b"more"));
    c.poll();
    acquaint(&mut b, &mut c);
    c.order(Command::Lead { epoch: 2, serve: true });
    b.order(Command::Follow { epoch: 2, primary: 3, cut: c.dp.log().end() });
    exchange(&mut b, &mut c, 40);
    assert_eq!(payloads(&c.sent(PortRole::Client)), [b"more"], "retained, and sent at takeover");
}

/// The kernel of an application that was restored knows no neighbours, and asks again only after a second.
#[test]
fn a_question_of_the_clone_is_answered_as_soon_as_anything_is_known() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    let [ask, known] = [[0; 6], CLIENT_MAC];
    let arp = |operation: u8, to: Mac, from: (Mac, [u8; 4]), of: (Mac, [u8; 4])| {
        let head = [&to[..], &from.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]].concat();
        [&head[..], &from.0, &from.1, &of.0, &of.1].concat()
    };
    let (service, client) = ([10, 0, 0, 100], [10, 0, 0, 1]);
    b.give(PortRole::Host, arp(1, [255; 6], (VMAC, service), (ask, client)));
    exchange(&mut a, &mut b, 10);
    assert!(b.sent(PortRole::Host).is_empty());
    a.give(PortRole::Client, from_client(CLIENT_ISN, 0, SYN, b""));
    exchange(&mut a, &mut b, 10);
    let answer = arp(2, VMAC, (known, client), (VMAC, service));
    assert_eq!(b.sent(PortRole::Host), [answer]);
    assert_eq!(b.counter("neighbor_answers"), 1);
}

/// A clone's kernel knows nothing of a connection before the client's ACK: whoever restores it begins with the SYN.
#[test]
fn a_handshake_under_way_is_gone_on_with() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    let syn_at = a.dp.log().end();
    handshake(&mut a, &mut b);
    let barrier = b.held();
    assert_eq!(barrier.handshakes, [Handshake { key: key(), from: syn_at }]);
    assert_eq!((barrier.floor, barrier.position), (syn_at, b.dp.log().end()));
    b.order(Command::Release);
    request(&mut a, &mut b, b"request");
    let mut c = Rig::new(3, CommitPolicy::Quorum);
    c.now_ns = a.now_ns;
    acquaint(&mut a, &mut c);
    follow(&mut c);
    let pending = barrier.handshakes.clone();
    assert!(c.resumed(Resume { barrier, flows: vec![], pending, owed: vec![] }));
    exchange(&mut a, &mut c, 300);
    assert_eq!(c.q.borrow().adopted.len(), 1);
    assert_eq!(payloads(&c.sent(PortRole::Host)), [b"request"]);
}

/// Whoever never goes on with it must not make a checkpoint need an old log.
#[test]
fn a_handshake_that_was_given_up_is_not_waited_for() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    handshake(&mut a, &mut b);
    a.now_ns += 11_000 * MS;
    b.now_ns += 11_000 * MS;
    let barrier = b.held();
    assert_eq!((barrier.handshakes.len(), barrier.floor), (0, barrier.position));
}

/// Between floor and barrier lies what the kernel had not finished with.
#[test]
fn a_handshake_that_was_not_accepted_is_adopted_and_all_else_is_not_repeated() {
    for pending in [vec![Handshake { key: key(), from: 0 }], vec![]] {
        let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
        let early = a.held();
        a.order(Command::Release);
        handshake(&mut a, &mut b);
        request(&mut a, &mut b, b"unread");
        let mut barrier = a.held();
        a.order(Command::Release);
        barrier.floor = early.floor;
        let mut c = Rig::new(3, CommitPolicy::Quorum);
        c.now_ns = a.now_ns;
        acquaint(&mut a, &mut c);
        follow(&mut c);
        let wanted = pending.len();
        assert!(c.resumed(Resume { barrier, flows: vec![], pending, owed: vec![] }));
        exchange(&mut a, &mut c, 300);
        assert_eq!(c.dp.log().end(), a.dp.log().end());
        assert_eq!(c.q.borrow().adopted.len(), wanted);
        assert_eq!(payloads(&c.sent(PortRole::Host)).len(), wanted);
        assert_eq!(c.counter("seen_before") > 0, wanted == 0);
    }
}

#[test]
fn a_checkpoint_that_does_not_fit_is_refused() {
    let (mut a, mut b, _) = joiner();
    let barrier = a.held();
    a.order(Command::Release);
    let resume = |barrier| Resume { barrier, flows: vec![], pending: vec![], owed: vec![] };
    assert!(!a.resumed(resume(barrier.clone())), "a primary is no clone");
    let end = b.dp.log().end();
    assert!(b.resumed(resume(barrier.clone())), "what the log holds stays");
    assert_eq!((b.dp.log().start(), b.dp.log().end()), (0, end));
    let mut c = Rig::new(3, CommitPolicy::Quorum);
    let older = Barrier { floor: barrier.floor - 8, ..barrier.clone() };
    assert!(c.resumed(resume(barrier)));
    assert!(!c.resumed(resume(older)), "the log here begins later");
}
