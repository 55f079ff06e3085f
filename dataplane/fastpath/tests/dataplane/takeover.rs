//! What bridges a takeover: output that was retained, and client frames that came while nobody served.

use super::*;

#[test]
fn a_takeover_sends_what_was_retained_and_takes_what_was_flooded() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    let mut c = Rig::new(3, CommitPolicy::Quorum);
    acquaint(&mut b, &mut c);
    handshake(&mut a, &mut b);
    request(&mut a, &mut b, b"request");
    b.give(PortRole::Host, from_server(srv(0), cli(7), ACK, 500, b"reply"));
    exchange(&mut a, &mut b, 10);
    b.sent(PortRole::Host);
    // The primary is dead; the client's next frame is flooded to the replica.
    b.now_ns += 300 * MS;
    b.give(PortRole::Client, from_client(cli(7), srv(0), ACK, b"again"));
    b.poll();
    assert!(b.sent(PortRole::Host).is_empty());
    b.order(Command::Lead { epoch: 2, serve: true });
    c.now_ns = b.now_ns;
    c.order(Command::Follow { epoch: 2, primary: 2, cut: 0 });
    exchange(&mut b, &mut c, 60);
    let out = b.sent(PortRole::Client);
    let got = segments(&out);
    assert_eq!(got.len(), 1);
    assert_eq!((got[0].seq, got[0].payload_len), (srv(0), 5));
    assert!(got[0].checksum_ok(&out[0]));
    let (tsval, _) = got[0].options.timestamps.unwrap();
    assert!(tsval >= 1005 + 290, "TSval brought up to date: {tsval}");
    let host = segments(&b.sent(PortRole::Host));
    assert_eq!(host.iter().map(|s| s.payload_len).collect::<Vec<_>>(), vec![5], "the kept frame");
    let (from_b, from_c) = (b.dp.log(), c.dp.log());
    assert_eq!(from_b.bytes(0, from_b.end()), from_c.bytes(0, from_c.end()));
}

#[test]
fn what_came_while_nobody_served_is_captured_in_its_order_before_what_comes_then() {
    let mut b = Rig::new(2, CommitPolicy::None);
    let numbered = |n: u32| from_client(cli(n * 4), srv(0), ACK, &n.to_be_bytes());
    (0..800).for_each(|n| b.give(PortRole::Client, numbered(n)));
    for _ in 0..10 {
        b.poll();
    }
    b.order(Command::Lead { epoch: 1, serve: true });
    (800..900).for_each(|n| b.give(PortRole::Client, numbered(n)));
    for _ in 0..40 {
        b.poll();
    }
    let got = b.sent(PortRole::Host);
    let seqs: Vec<u32> = segments(&got).iter().map(|s| s.seq).collect();
    assert_eq!(seqs, (0..900).map(|n| cli(n * 4)).collect::<Vec<_>>());
    assert_eq!((b.counter("kept_dropped"), b.counter("captured_frames")), (0, 900));
}

#[test]
fn a_deposed_primary_passes_on_what_still_reaches_it() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    handshake(&mut a, &mut b);
    request(&mut a, &mut b, b"request");
    b.give(PortRole::Host, from_server(srv(0), cli(7), ACK, 500, b""));
    exchange(&mut a, &mut b, 10);
    b.sent(PortRole::Host);
    a.order(Command::Fence { epoch: 1 });
    a.give(PortRole::Client, from_client(cli(7), srv(0), ACK, b"before"));
    exchange(&mut a, &mut b, 5);
    assert!(b.sent(PortRole::Host).is_empty());
    b.order(Command::Lead { epoch: 2, serve: true });
    exchange(&mut a, &mut b, 5);
    a.give(PortRole::Client, from_client(cli(13), srv(0), ACK, b"after!!"));
    exchange(&mut a, &mut b, 5);
    let host = segments(&b.sent(PortRole::Host));
    assert_eq!(host.iter().map(|s| s.payload_len).collect::<Vec<_>>(), vec![6, 7]);
    assert_eq!((a.counter("forwarded"), b.counter("forwarded_in")), (2, 2));
    a.give(PortRole::Client, from_client(cli(20), srv(0), ACK, &[0; 1440]));
    exchange(&mut a, &mut b, 5);
    assert_eq!(a.counter("forward_too_long"), 1);
}
