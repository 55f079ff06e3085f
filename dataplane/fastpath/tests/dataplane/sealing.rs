//! What the replica port does not believe.

use understudy_wire::frame::ETH_LEN;
use understudy_wire::pdu::{ETHERTYPE_REPLICA, PDU_HEADER_LEN, PDU_TAG_LEN, group_mac};

use super::*;

/// Says what a test wants on the replica network, sealed as a node would.
struct Speaker(Channel);

impl Speaker {
    fn pdu(&mut self, kind: PduKind, epoch: u64, body: &[u8]) -> Vec<u8> {
        let eth = Ethernet { dst: group_mac(CLUSTER), src: [2; 6], ethertype: ETHERTYPE_REPLICA };
        let room = [0; PDU_HEADER_LEN];
        let mut frame = [&eth.bytes()[..], &room, body, &[0; PDU_TAG_LEN]].concat();
        self.0.seal_in_place(kind, TARGET_ALL, epoch, &mut frame[ETH_LEN..]).unwrap();
        frame
    }

    fn ack(&mut self, epoch: u64, position: u64, echo_ns: u64) -> Vec<u8> {
        let ack = Ack { position, covered: position, echo_ns, ..Ack::default() };
        self.pdu(PduKind::Ack, epoch, &ack.encode())
    }

    /// Node 3, whose session `a` has accepted.
    fn known_to(a: &mut Rig) -> Speaker {
        let mut speaker = Speaker(channel(3, CLUSTER, 0));
        a.give(PortRole::Replica, speaker.pdu(PduKind::Control, 0, b""));
        a.poll();
        for mut frame in a.sent(PortRole::Replica) {
            let _ = speaker.0.open_in_place(a.now_ns, &mut frame[ETH_LEN..]);
        }
        while let Some(handshake) = speaker.0.poll_handshake(a.now_ns) {
            let eth = Ethernet { dst: [2; 6], src: [2; 6], ethertype: ETHERTYPE_REPLICA };
            a.give(PortRole::Replica, [&eth.bytes()[..], &handshake.pdu].concat());
        }
        a.poll();
        speaker
    }
}

#[test]
fn bad_pdus_are_counted_drops() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    let end = a.dp.log().end();
    let ack = Ack { position: end + 1000, covered: end + 1000, ..Ack::default() }.encode();
    let mut three = Speaker::known_to(&mut a);
    let mut pdu = |node, cluster, epoch, kind, body: &[u8]| match (node, cluster) {
        (3, CLUSTER) => three.pdu(kind, epoch, body),
        _ => Speaker(channel(node, cluster, 0)).pdu(kind, epoch, body),
    };
    let mut wrong_version = pdu(3, CLUSTER, 1, PduKind::Ack, &ack);
    wrong_version[14 + 4] = 9;
    let mut cut_short = pdu(3, CLUSTER, 1, PduKind::Ack, &ack);
    cut_short.pop();
    for (frame, counter) in [
        (pdu(3, CLUSTER + 1, 1, PduKind::Ack, &ack), "pdu_foreign_cluster"),
        (pdu(9, CLUSTER, 1, PduKind::Ack, &ack), "pdu_unknown_node"),
        (pdu(1, CLUSTER, 1, PduKind::Ack, &ack), "pdu_unknown_node"),
        (pdu(3, CLUSTER, 0, PduKind::Ack, &ack), "pdu_old_epoch"),
        (pdu(3, CLUSTER, 7, PduKind::Ack, &ack), "pdu_future_epoch"),
        (pdu(3, CLUSTER, 1, PduKind::Ack, &[&ack[..], &[0]].concat()), "pdu_malformed"),
        (pdu(3, CLUSTER, 1, PduKind::Nak, &ack), "pdu_malformed"),
        (cut_short, "pdu_malformed"),
        (wrong_version, "pdu_version"),
        (vec![0; 60], "pdu_not_ours"),
    ] {
        let before = a.counter(counter);
        a.give(PortRole::Replica, frame);
        a.poll();
        assert_eq!(a.counter(counter), before + 1, "{counter}");
    }
    // A true one that claims more than was sent commits nothing beyond it.
    a.give(PortRole::Replica, pdu(3, CLUSTER, 1, PduKind::Ack, &ack));
    a.poll();
    assert!(a.dp.snapshot(a.now_ns).committed <= end);
    // The same DATA twice: once written, once counted.
    a.give(PortRole::Client, from_client(CLIENT_ISN, 0, SYN, b""));
    a.poll();
    for frame in a.sent(PortRole::Replica) {
        b.give(PortRole::Replica, frame.clone());
        b.give(PortRole::Replica, frame);
    }
    b.poll();
    assert_eq!(b.counter("seal_replayed"), 1);
    assert_eq!(b.dp.log().end(), a.dp.log().end());
}

#[test]
fn an_acknowledgement_that_is_not_true_releases_nothing() {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    handshake(&mut a, &mut b);
    let mut three = Speaker::known_to(&mut a);
    let ahead = a.dp.log().end() + 100_000;
    // True when it came, since nothing beyond was sent yet; recorded by somebody.
    let recorded = three.ack(1, ahead, a.now_ns);
    a.give(PortRole::Replica, recorded.clone());
    a.poll();
    a.give(PortRole::Client, from_client(cli(0), srv(0), ACK, b"request"));
    a.poll();
    a.give(PortRole::Host, from_server(srv(0), cli(7), ACK, 500, b"reply"));
    a.poll();
    a.sent(PortRole::Replica);
    let genuine = three.ack(1, ahead, a.now_ns);
    let mut cases = vec![
        (recorded, "seal_replayed"),
        (three.ack(0, ahead, a.now_ns), "pdu_old_epoch"),
        (Speaker(channel(3, CLUSTER, 1)).ack(1, ahead, a.now_ns), "seal_unknown_session"),
        (genuine[..genuine.len() - 1].to_vec(), "pdu_malformed"),
    ];
    // Any byte of epoch, stream, session, counter, body or tag changed.
    for at in (ETH_LEN + 16..ETH_LEN + 26).chain(ETH_LEN + 40..genuine.len()) {
        let mut changed = genuine.clone();
        changed[at] ^= 0x40;
        cases.push((changed, "seal_forged"));
    }
    let mut guessed = genuine.clone();
    guessed[ETH_LEN + PDU_HEADER_LEN..].fill(0x5a);
    cases.push((guessed, "seal_forged"));
    for (frame, counter) in cases {
        let before = a.counter(counter);
        a.give(PortRole::Replica, frame);
        a.poll();
        assert_eq!(a.counter(counter), before + 1, "{counter}");
        assert!(a.sent(PortRole::Client).is_empty(), "{counter}: released");
    }
    // The key is changed; what was sealed under the old one is worth nothing, also if it is true.
    let other = Keyring::single(ClusterKey::new([8; 32]));
    a.order(Command::Keys(other.clone()));
    a.give(PortRole::Replica, genuine);
    a.poll();
    assert_eq!(a.counter("seal_unknown_key"), 1);
    assert!(a.sent(PortRole::Client).is_empty());
    three.0.set_keys(&other);
    a.give(PortRole::Replica, three.ack(1, ahead, a.now_ns));
    a.poll();
    assert_eq!(a.sent(PortRole::Client).len(), 1, "the same session under the new key");
}
