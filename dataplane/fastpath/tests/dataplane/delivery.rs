//! What reaches the capsule when its device or the log has no room.

use super::*;
use understudy_fastpath::command::Tuning;

/// What others wait for is on its way while the application works.
#[test]
fn replicas_and_the_primary_are_told_before_an_application() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    handshake(&mut a, &mut b);
    a.give(PortRole::Client, from_client(cli(0), srv(0), ACK, b"request"));
    a.q.borrow_mut().left_by.clear();
    a.poll();
    assert_eq!(a.q.borrow().left_by, [PortRole::Replica, PortRole::Host]);
    b.q.borrow_mut().left_by.clear();
    exchange(&mut a, &mut b, 5);
    let left_by = &b.q.borrow().left_by;
    let first = left_by.iter().position(|port| *port == PortRole::Host).unwrap();
    assert!(first > 0, "an acknowledgement before: {left_by:?}");
}

/// A reply is not caused by a request that comes in the same moment.
#[test]
fn output_does_not_wait_for_what_the_application_has_not_got() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    handshake(&mut a, &mut b);
    a.give(PortRole::Client, from_client(cli(0), srv(0), ACK, b"request"));
    exchange(&mut a, &mut b, 5);
    a.give(PortRole::Host, from_server(srv(0), cli(7), ACK, 500, b"reply"));
    a.give(PortRole::Client, from_client(cli(7), srv(0), ACK, b"another"));
    a.poll();
    assert_eq!(a.sent(PortRole::Client).len(), 1);
    a.give(PortRole::Host, from_server(srv(5), cli(14), ACK, 500, b"its reply"));
    a.poll();
    assert!(a.sent(PortRole::Client).is_empty(), "nobody else holds the other request");
}

/// No client sends a datagram to a clone again, nor to the primary if a clone answers for it later.
#[test]
fn what_the_capsules_device_does_not_take_is_delivered_later_in_order() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    for rig in [&a, &b] {
        rig.q.borrow_mut().host_stuck = true;
    }
    // No segment: as a datagram is to the data path.
    let frames: Vec<_> = (0..100).map(|n| from_client(n, 0, ACK, b"x")[..50].to_vec()).collect();
    for frame in &frames {
        a.give(PortRole::Client, frame.clone());
        exchange(&mut a, &mut b, 2);
    }
    assert!(a.counter("host_tx_dropped") > 0 && b.counter("host_tx_dropped") > 0);
    for rig in [&a, &b] {
        rig.q.borrow_mut().host_stuck = false;
    }
    exchange(&mut a, &mut b, 20);
    assert_eq!(a.sent(PortRole::Host), frames);
    assert_eq!(b.sent(PortRole::Host), frames);
}

/// What fills the hole before an unconfirmed frame may be what finds no room.
#[test]
fn a_frame_that_a_clone_does_not_confirm_does_not_fill_the_log_for_ever() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    handshake(&mut a, &mut b);
    request(&mut a, &mut b, b"never confirmed");
    let junk = [&from_client(0, 0, ACK, b"")[..14], &[0; 1386]].concat();
    for _ in 0..1000 {
        a.give(PortRole::Client, junk.clone());
        exchange(&mut a, &mut b, 3);
    }
    exchange(&mut a, &mut b, 50);
    assert!(b.counter("redelivery_given_up") > 0);
    assert_eq!(a.counter("log_full"), 0);
    assert_eq!(a.dp.log().end(), b.dp.log().end());
    assert!(b.dp.log().start() > 0);
}

#[test]
fn a_clone_that_owes_output_longer_than_configured_has_diverged() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    let late = b.config.clone_wait_ns / MS;
    handshake(&mut a, &mut b);
    request(&mut a, &mut b, b"get");
    a.give(PortRole::Client, from_client(cli(3), srv(20), ACK, b"more"));
    exchange(&mut a, &mut b, 20);
    assert_eq!(b.counter("ack_waits"), 1);
    b.stand_still(late - 10);
    b.poll();
    assert!(b.dp.snapshot(b.now_ns).fit, "there is time left");
    b.stand_still(10);
    b.poll();
    assert!(!b.dp.snapshot(b.now_ns).fit);
    assert_eq!(b.counter("ack_waits_expired"), 1);
}

fn tuned(evict_after_ms: u64, clone_wait_ms: u64) -> Command {
    let (evict_after_ns, clone_wait_ns) = (evict_after_ms * MS, clone_wait_ms * MS);
    Command::Tune(Tuning { evict_after_ns, clone_wait_ns, heal: true })
}

#[test]
fn other_patience_counts_at_once_and_in_reigns_to_come() {
    let (mut a, mut b) = trio_pair(CommitPolicy::All);
    a.members();
    a.order(tuned(2000, 700));
    (0..15_000).for_each(|_| a.poll());
    assert_eq!(a.members(), [], "1.5 s are less than 2");
    a.order(tuned(50, 700));
    (0..10).for_each(|_| a.poll());
    let changes = a.members();
    let (2, MemberChange::Evicted(e)) = changes[0] else { panic!("{changes:?}") };
    assert_eq!(e.cause, EvictCause::Silent);
    b.now_ns = a.now_ns;
    exchange(&mut a, &mut b, 150);
    assert_eq!(a.members(), [(2, MemberChange::Admitted)], "nothing else has changed");
}

#[test]
fn a_clone_is_given_the_time_that_is_set_while_it_is_late() {
    for (clone_wait_ms, fit) in [(20, false), (5000, true)] {
        let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
        handshake(&mut a, &mut b);
        request(&mut a, &mut b, b"get");
        // The client acknowledges what the clone has not said.
        a.give(PortRole::Client, from_client(cli(3), srv(20), ACK, b"more"));
        exchange(&mut a, &mut b, 100);
        assert!(b.dp.snapshot(b.now_ns).fit);
        b.order(tuned(1000, clone_wait_ms));
        exchange(&mut a, &mut b, 8000);
        assert_eq!(b.dp.snapshot(b.now_ns).fit, fit, "{clone_wait_ms} ms");
    }
}
