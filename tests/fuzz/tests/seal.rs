//! A channel between mutated PDUs of living, former and mad nodes, and the key file.

use std::collections::BTreeSet;
use std::path::Path as FilePath;

use understudy_fuzz::{Rng, fuzz, mutated};
use understudy_seal::keyfile::parse;
use understudy_seal::{Channel, ClusterKey, Keyring, Path, Scope};
use understudy_wire::pdu::{PDU_HEADER_LEN, PDU_TAG_LEN, PduKind, TARGET_ALL};

const CLUSTER: u64 = 7;
const MS: u64 = 1_000_000;

fn channel(me: u16, life: u8, key: u8) -> Channel {
    let scope = Scope { cluster: CLUSTER, path: Path::Replica };
    let keyring = Keyring::single(ClusterKey::new([key; 32]));
    let peers: Vec<u16> = (1..=3).filter(|n| *n != me).collect();
    Channel::new(me, scope, &peers, &keyring, [life * 4 + me as u8; 32])
}

fn sealed(channel: &mut Channel, rng: &mut Rng, number: u64) -> Vec<u8> {
    let body = [&number.to_le_bytes()[..], &vec![1; rng.below(80)]].concat();
    let mut pdu = [&[0; PDU_HEADER_LEN][..], &body, &[0; PDU_TAG_LEN]].concat();
    let target = *rng.pick(&[TARGET_ALL, 1]);
    channel.seal_in_place(PduKind::Ack, target, rng.word(), &mut pdu).expect("a short PDU");
    pdu
}

fn number(body: &[u8]) -> u64 {
    u64::from_le_bytes(body[..8].try_into().expect("8 bytes"))
}

/// Whatever is repeated, mixed and changed: only what the living node sealed opens, and once.
#[test]
fn channels() {
    let (mut opened, mut refused) = (0, 0);
    fuzz("seal", 200, |rng| {
        let mut me = channel(1, 0, 1);
        let (mut living, mut former, mut stranger) =
            (channel(2, 0, 1), channel(2, 1, 1), channel(2, 2, 9));
        let (mut heard, mut seen) = (Vec::new(), BTreeSet::new());
        for step in 0..200u64 {
            let now_ns = step * MS;
            heard.push(sealed(&mut living, rng, step));
            if rng.one_in(4) {
                heard.push(sealed(&mut former, rng, 1 << 40));
                heard.push(sealed(&mut stranger, rng, 1 << 40));
            }
            while let Some(handshake) = me.poll_handshake(now_ns) {
                let mut pdu = handshake.pdu.to_vec();
                let _ = living.open_in_place(now_ns, &mut pdu);
                heard.push(handshake.pdu.to_vec());
            }
            while let Some(handshake) = living.poll_handshake(now_ns) {
                heard.push(handshake.pdu.to_vec());
            }
            for _ in 0..4 {
                let mut pdu = match rng.one_in(2) {
                    true => mutated(rng, &heard),
                    false => rng.pick(&heard).clone(),
                };
                let newest = heard.last().expect("something was said").clone();
                pdu = if rng.one_in(3) { newest } else { pdu };
                if let Ok(Some((_, body))) = me.open_in_place(now_ns, &mut pdu.clone()) {
                    assert!(number(body) < 1 << 40, "of the living node, as it was sealed");
                    opened += 1;
                }
                if let Ok(Some((header, body))) = me.open_in_place(now_ns, &mut pdu) {
                    panic!("opened again: {header:?} {body:?}");
                }
                refused += 1;
            }
            let mut fresh = sealed(&mut living, rng, step);
            if let Ok(Some((_, body))) = me.open_in_place(now_ns, &mut fresh) {
                assert!(number(body) == step && seen.insert(step));
                opened += 1;
            }
        }
        assert!(me.counters().sessions <= 1, "the living session and no other");
    });
    println!("{opened} PDUs opened, {refused} were offered by others");
    assert!(opened > 0);
}

#[test]
fn key_files() {
    let good = format!("# a\n{}\n{} # b\n", "0a".repeat(32), "0B".repeat(32)).into_bytes();
    let mut read = 0;
    fuzz("key file", 1, |rng| {
        let bytes = mutated(rng, std::slice::from_ref(&good));
        let text = String::from_utf8_lossy(&bytes);
        match parse(&text, FilePath::new("k")) {
            Ok(keyring) => read += keyring.keys().len(),
            Err(e) => assert!(!e.to_string().contains(&"0a".repeat(8)), "{e} shows a key"),
        }
    });
    println!("{read} keys were read");
}
