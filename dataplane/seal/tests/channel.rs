//! Two nodes and what somebody between them may do.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use understudy_seal::{
    Channel, ClusterKey, Keyring, OpenError, Path, Scope, SealError, WINDOW_COUNTERS,
};
use understudy_wire::NodeId;
use understudy_wire::pdu::{
    Ack, PDU_HEADER_LEN, PDU_OVERHEAD_LEN, PDU_TAG_LEN, PduHeader, PduKind, TARGET_ALL,
};

const MS: u64 = 1_000_000;
const REPLICA: Scope = Scope { cluster: 42, path: Path::Replica };

fn key(n: u8) -> ClusterKey {
    ClusterKey::new([n; 32])
}

fn ring(keys: &[u8]) -> Keyring {
    Keyring::new(keys.iter().map(|&n| key(n))).unwrap()
}

fn channel(me: NodeId, life: u8, keys: &[u8]) -> Channel {
    let peers: Vec<NodeId> = (1..=3).filter(|&n| n != me).collect();
    Channel::new(me, REPLICA, &peers, &ring(keys), [me as u8 ^ (life << 4); 32])
}

fn seal(c: &mut Channel, body: &[u8]) -> Vec<u8> {
    let mut pdu = vec![0; body.len() + PDU_OVERHEAD_LEN];
    pdu[PDU_HEADER_LEN..PDU_HEADER_LEN + body.len()].copy_from_slice(body);
    c.seal_in_place(PduKind::Ack, TARGET_ALL, 5, &mut pdu).unwrap();
    pdu
}

fn open(c: &mut Channel, now_ns: u64, pdu: &[u8]) -> Result<Option<Vec<u8>>, OpenError> {
    let mut bytes = pdu.to_vec();
    c.open_in_place(now_ns, &mut bytes).map(|opened| opened.map(|(_, body)| body.to_vec()))
}

/// Carries handshakes between two until they are quiet.
fn settle(now_ns: u64, a: &mut Channel, b: &mut Channel) -> Vec<Vec<u8>> {
    let mut seen = Vec::new();
    for _ in 0..8 {
        while let Some(h) = a.poll_handshake(now_ns) {
            let _ = open(b, now_ns, &h.pdu);
            seen.push(h.pdu.to_vec());
        }
        while let Some(h) = b.poll_handshake(now_ns) {
            let _ = open(a, now_ns, &h.pdu);
            seen.push(h.pdu.to_vec());
        }
    }
    seen
}

/// Two who have accepted each other's sessions.
fn pair(keys: &[u8]) -> (Channel, Channel) {
    let (mut a, mut b) = (channel(1, 0, keys), channel(2, 0, keys));
    let first = seal(&mut a, b"first");
    assert_eq!(open(&mut b, 0, &first), Err(OpenError::UnknownSession));
    settle(0, &mut a, &mut b);
    assert_eq!((a.counters().sessions, b.counters().sessions), (1, 1));
    (a, b)
}

#[test]
fn one_unknown_pdu_makes_both_known_to_each_other() {
    let (mut a, mut b) = pair(&[1]);
    let pdu = seal(&mut a, b"hello");
    assert!(!pdu.windows(5).any(|w| w == b"hello"), "the body is not in clear");
    assert_eq!(open(&mut b, 1, &pdu), Ok(Some(b"hello".to_vec())));
    let pdu = seal(&mut b, b"");
    assert_eq!(open(&mut a, 1, &pdu), Ok(Some(Vec::new())));
    assert!(a.poll_handshake(MS * 10).is_none() && b.poll_handshake(MS * 10).is_none());
}

#[test]
fn no_bit_may_change() {
    let (mut a, mut b) = pair(&[1, 2]);
    let ack = Ack { position: 1 << 40, covered: 1 << 40, ..Ack::default() }.encode();
    let pdu = seal(&mut a, &ack);
    for bit in 0..pdu.len() * 8 {
        let mut changed = pdu.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        // Another target: not for us, which is silence as well.
        assert!(!matches!(open(&mut b, 1, &changed), Ok(Some(_))), "bit {bit}");
    }
    for len in 0..pdu.len() {
        assert!(open(&mut b, 1, &pdu[..len]).is_err(), "{len} bytes");
    }
    assert_eq!(b.counters().opened, 0);
    assert_eq!(open(&mut b, 1, &pdu), Ok(Some(ack.to_vec())), "and none of that did harm");
}

#[test]
fn no_bit_of_a_handshake_may_change() {
    let mut c = channel(1, 0, &[1]);
    let stranger = seal(&mut channel(2, 0, &[1]), b"");
    let _ = open(&mut c, 0, &stranger);
    let challenge = c.poll_handshake(0).unwrap().pdu;
    let mut other = channel(2, 0, &[1]);
    assert_eq!(open(&mut other, 0, &challenge), Ok(None));
    let proof = other.poll_handshake(0).unwrap().pdu;
    for pdu in [challenge, proof] {
        for bit in 0..pdu.len() * 8 {
            let mut changed = pdu;
            changed[bit / 8] ^= 1 << (bit % 8);
            let mut to = if pdu == proof { channel(1, 0, &[1]) } else { channel(2, 1, &[1]) };
            let _ = open(&mut to, 0, &stranger);
            let _ = open(&mut to, 0, &changed);
            assert_eq!(to.counters().sessions + to.counters().challenges_received, 0, "bit {bit}");
            assert!(to.poll_handshake(0).is_none_or(|h| h.pdu[5] == PduKind::Challenge as u8));
        }
    }
    let mut fresh = channel(1, 0, &[1]);
    assert_eq!(open(&mut fresh, 0, &proof), Err(OpenError::Unasked), "it answers one challenge");
    assert_eq!(open(&mut c, 0, &proof), Ok(None));
    assert_eq!(open(&mut c, 0, &proof), Err(OpenError::Replayed), "once");
    assert_eq!(c.counters().sessions, 1);
}

#[test]
fn a_proof_counts_for_one_node_on_one_path_and_not_for_ever() {
    let (mut a, mut b) = (channel(1, 0, &[1]), channel(2, 0, &[1]));
    let stranger = seal(&mut b, b"");
    let _ = open(&mut a, 0, &stranger);
    let challenge = a.poll_handshake(0).unwrap();
    assert_eq!(challenge.target, 2);
    // Another node that holds the same key is not asked, and does not answer in 2's name.
    let mut c = channel(3, 0, &[1]);
    assert_eq!(open(&mut c, 0, &challenge.pdu), Ok(None));
    assert!(c.poll_handshake(0).is_none());
    // On another path it is nothing.
    let mut second =
        Channel::new(2, Scope { path: Path::Second, ..REPLICA }, &[1, 3], &ring(&[1]), [8; 32]);
    assert_eq!(open(&mut second, 0, &challenge.pdu), Err(OpenError::Forged));
    // Reflected it is from ourselves.
    assert_eq!(open(&mut a, 0, &challenge.pdu), Err(OpenError::UnknownNode));
    // The answer comes too late.
    assert_eq!(open(&mut b, 0, &challenge.pdu), Ok(None));
    let proof = b.poll_handshake(0).unwrap().pdu;
    assert_eq!(open(&mut a, 1_000 * MS, &proof), Err(OpenError::Unasked));
    assert_eq!(a.counters().sessions, 0);
}

#[test]
fn what_was_opened_does_not_open_again() {
    let (mut a, mut b) = pair(&[1]);
    let pdus: Vec<_> = (0..5000u32).map(|i| seal(&mut a, &i.to_le_bytes())).collect();
    for pdu in &pdus {
        assert!(open(&mut b, 1, pdu).is_ok());
    }
    for pdu in &pdus {
        assert!(open(&mut b, 1, pdu).is_err());
    }
    let c = b.counters();
    assert_eq!((c.replayed, c.stale), (WINDOW_COUNTERS, 5000 - WINDOW_COUNTERS));
}

proptest! {
    #[test]
    fn any_order_within_the_window_opens_once(order in Just((0usize..1000).collect::<Vec<_>>()).prop_shuffle()) {
        let (mut a, mut b) = pair(&[1]);
        let pdus: Vec<_> = (0..1000u32).map(|i| seal(&mut a, &i.to_le_bytes())).collect();
        for i in order {
            prop_assert_eq!(open(&mut b, 1, &pdus[i]), Ok(Some((i as u32).to_le_bytes().to_vec())));
            prop_assert_eq!(open(&mut b, 1, &pdus[i]), Err(OpenError::Replayed));
        }
    }

    #[test]
    fn garbage_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind: u8) {
        let (mut a, mut b) = pair(&[1]);
        let mut near = seal(&mut a, &bytes);
        near[5] = kind;
        prop_assert!(open(&mut b, 1, &near).is_err() || kind == PduKind::Ack as u8);
        let _ = b.open_in_place(1, &mut bytes);
        prop_assert_eq!(b.counters().sessions, 1);
    }
}

#[test]
fn a_recording_of_an_earlier_life_is_worth_nothing() {
    // Everything of the first lives is recorded.
    let (mut a, mut b) = pair(&[1]);
    let mut recorded: Vec<_> = (0..50).map(|_| seal(&mut a, b"ack")).collect();
    recorded.extend(settle(5 * MS, &mut a, &mut b));
    let first = seal(&mut channel(1, 0, &[1]), b"");
    recorded.push(first.clone());
    let mut asker = channel(2, 0, &[1]);
    let _ = open(&mut asker, 0, &first);
    let challenge = asker.poll_handshake(0).unwrap().pdu;
    let _ = open(&mut a, 0, &challenge);
    recorded.extend([challenge.to_vec()]);
    recorded.extend(a.poll_handshake(2 * MS).map(|h| h.pdu.to_vec()));
    // 2 starts anew, and hears only the recording.
    let mut b = channel(2, 1, &[1]);
    for round in 0..500 {
        for pdu in &recorded {
            assert!(!matches!(open(&mut b, round * MS, pdu), Ok(Some(_))));
        }
        while b.poll_handshake(round * MS).is_some() {}
    }
    assert_eq!((b.counters().sessions, b.counters().opened), (0, 0));
    // The living 1 is heard, and then the recording still is not: not even what 2 never opened.
    let unheard = seal(&mut a, b"sent before the proof");
    let live = seal(&mut a, b"");
    let _ = open(&mut b, 600 * MS, &live);
    settle(600 * MS, &mut a, &mut b);
    assert_eq!(b.counters().sessions, 1);
    for pdu in recorded.iter().chain([&unheard]) {
        assert!(!matches!(open(&mut b, 601 * MS, pdu), Ok(Some(_))));
    }
    let live = seal(&mut a, b"live");
    assert!(matches!(open(&mut b, 601 * MS, &live), Ok(Some(_))));
}

#[test]
fn nobody_is_talked_out_of_a_living_session() {
    let (mut a, mut b) = pair(&[1]);
    // The recording of a former life of 1, and inventions.
    let old_life = seal(&mut channel(1, 7, &[1]), b"old");
    let mut invented = old_life.clone();
    let mut sent = 0;
    for i in 0..100_000u64 {
        let now_ns = i * 10_000;
        invented[32..40].copy_from_slice(&i.to_le_bytes());
        assert_eq!(open(&mut b, now_ns, &invented), Err(OpenError::UnknownSession));
        assert_eq!(open(&mut b, now_ns, &old_life), Err(OpenError::UnknownSession));
        while let Some(h) = b.poll_handshake(now_ns) {
            sent += 1;
            let _ = open(&mut a, now_ns, &h.pdu);
            while let Some(h) = a.poll_handshake(now_ns) {
                let _ = open(&mut b, now_ns, &h.pdu);
            }
        }
        if i % 1000 == 0 {
            let live = seal(&mut a, b"live");
            assert!(matches!(open(&mut b, now_ns, &live), Ok(Some(_))), "at {i}");
        }
    }
    assert!(sent <= 201, "{sent} challenges in a second");
    assert_eq!(b.counters().sessions, 1, "always the same one");
}

#[test]
fn a_restarted_sender_is_accepted_and_its_former_life_is_over() {
    let (mut old, mut b) = pair(&[1]);
    let late = seal(&mut old, b"late");
    let mut new = channel(1, 1, &[1]);
    let first = seal(&mut new, b"");
    assert_eq!(open(&mut b, MS, &first), Err(OpenError::UnknownSession));
    settle(20 * MS, &mut new, &mut b);
    let pdu = seal(&mut new, b"new");
    assert!(matches!(open(&mut b, 21 * MS, &pdu), Ok(Some(_))));
    assert_eq!(open(&mut b, 21 * MS, &late), Err(OpenError::UnknownSession));
}

#[test]
fn lost_handshakes_are_repeated_and_slow_ones_count() {
    let (mut a, mut b) = (channel(1, 0, &[1]), channel(2, 0, &[1]));
    let mut on_the_way = Vec::new();
    let mut opened = 0;
    // 30 ms each way, a PDU every millisecond, half of the handshakes lost.
    for now in 0..400u64 {
        on_the_way.push((now + 30, true, seal(&mut a, b"")));
        let mut arrived = Vec::new();
        on_the_way.retain(|p| p.0 != now || (arrived.push(p.clone()), false).1);
        for (_, to_b, pdu) in arrived {
            let to = if to_b { &mut b } else { &mut a };
            opened += u32::from(matches!(open(to, now * MS, &pdu), Ok(Some(_))));
        }
        let handshakes = [(true, &mut a), (false, &mut b)];
        for (to_b, from) in handshakes {
            while let Some(h) = from.poll_handshake(now * MS) {
                if h.pdu[40] % 2 == 0 {
                    on_the_way.push((now + 30, to_b, h.pdu.to_vec()));
                }
            }
        }
    }
    assert!(opened > 200, "{opened} of 400 came through");
}

#[test]
fn another_cluster_path_node_or_key_does_not_open() {
    let (mut a, mut b) = pair(&[1]);
    let pdu = seal(&mut a, b"x");
    let mut elsewhere = pdu.clone();
    elsewhere[8] ^= 1;
    assert!(matches!(open(&mut b, 1, &elsewhere), Err(OpenError::Pdu(_))));
    let mut other_node = pdu.clone();
    other_node[6] = 3;
    assert_eq!(open(&mut b, 1, &other_node), Err(OpenError::UnknownSession));
    for (scope, node, k) in
        [(Scope { path: Path::Second, ..REPLICA }, 1, 1), (REPLICA, 3, 1), (REPLICA, 1, 9)]
    {
        // The session's number is no secret: with a wrong key it is of no use.
        let (header, sealing, _) = PduHeader::decode(&pdu, 42).unwrap();
        let wrong = understudy_seal::SessionKey::derive(&key(k), &scope, node, sealing.session);
        let mut forged = vec![0; pdu.len()];
        wrong.seal(&header, sealing.session, sealing.counter + 1, &mut forged).unwrap();
        forged[30..32].copy_from_slice(&sealing.key.to_le_bytes());
        assert_eq!(open(&mut b, 1, &forged), Err(OpenError::Forged));
    }
    let unknown = seal(&mut channel(1, 0, &[9]), b"x");
    assert_eq!(open(&mut b, 1, &unknown), Err(OpenError::UnknownKey));
    let mut fresh = channel(2, 0, &[1]);
    assert_eq!(open(&mut fresh, 1, &unknown), Err(OpenError::UnknownKey));
    assert!(fresh.poll_handshake(1).is_none(), "who has no key is asked nothing");
}

#[test]
fn keys_rotate_under_a_session() {
    let (mut a, mut b) = pair(&[1]);
    let old = seal(&mut a, b"old");
    let opens = |a: &mut Channel, b: &mut Channel, id: u16| {
        let pdu = seal(a, b"x");
        assert!(matches!(open(b, 1, &pdu), Ok(Some(_))));
        assert_eq!(b.view().peers.iter().find(|p| p.id == 1).unwrap().key_seen, Some(id));
    };
    let (one, two) = (key(1).id(), key(2).id());
    a.set_keys(&ring(&[1, 2]));
    opens(&mut a, &mut b, one);
    b.set_keys(&ring(&[1, 2]));
    a.set_keys(&ring(&[2, 1]));
    opens(&mut a, &mut b, two);
    b.set_keys(&ring(&[2, 1]));
    let late = seal(&mut channel(1, 0, &[1]), b"");
    a.set_keys(&ring(&[2]));
    b.set_keys(&ring(&[2]));
    opens(&mut a, &mut b, two);
    assert_eq!(open(&mut b, 1, &old), Err(OpenError::UnknownKey), "an old key opens nothing");
    assert_eq!(open(&mut b, 1, &late), Err(OpenError::UnknownKey));
    assert_eq!(b.counters().sessions, 1, "the session went on");
}

#[test]
fn no_nonce_is_used_twice() {
    let (mut a, mut b) = pair(&[1, 2]);
    let mut seen: BTreeMap<(u16, u64), BTreeSet<u64>> = BTreeMap::new();
    for round in 0..200u64 {
        let order: &[u8] = if round % 2 == 0 { &[1, 2] } else { &[2, 1] };
        a.set_keys(&ring(order));
        // Challenges and proofs take counters as well.
        let stranger = seal(&mut channel(2, round as u8, &[1, 2]), b"");
        let _ = open(&mut a, round * 10 * MS, &stranger);
        let mut all = settle(round * 10 * MS, &mut a, &mut b);
        all.retain(|pdu| pdu[6] == 1);
        all.push(seal(&mut a, b"x"));
        let mut pdu = vec![0; PDU_OVERHEAD_LEN];
        for epoch in [round, round << 32, 0] {
            a.seal_in_place(PduKind::Control, 2, epoch, &mut pdu).unwrap();
            all.push(pdu.clone());
        }
        for pdu in all {
            let (_, sealing, _) = PduHeader::decode(&pdu, 42).unwrap();
            let counters = seen.entry((sealing.key, sealing.session)).or_default();
            assert!(counters.insert(sealing.counter));
        }
    }
    assert_eq!(seen.len(), 2);
    let [one, two] = [0, 1].map(|i| seen.values().nth(i).unwrap());
    assert!(one.is_disjoint(two), "not even under another key");
}

#[test]
fn lengths_that_are_no_pdu_are_refused() {
    let mut a = channel(1, 0, &[1]);
    let seal = |a: &mut Channel, len| a.seal_in_place(PduKind::Data, 0, 1, &mut vec![0; len]);
    assert_eq!(seal(&mut a, PDU_OVERHEAD_LEN - 1), Err(SealError::Length));
    assert_eq!(seal(&mut a, PDU_OVERHEAD_LEN + 65_536), Err(SealError::Length));
    assert_eq!(seal(&mut a, PDU_OVERHEAD_LEN + 65_535), Ok(()));
    const { assert!(PDU_TAG_LEN == 16) };
}
