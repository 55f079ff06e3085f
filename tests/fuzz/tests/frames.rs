//! Ethernet frames: what clients and the application's kernel send.

use std::net::IpAddr;

use understudy_fuzz::{corpus, fuzz, mutated};
use understudy_wire::frame::{ETH_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ip, Mac};
use understudy_wire::neighbor::{build_announcement, build_answer, learn, parse_solicitation};
use understudy_wire::tcp::{
    ACK, BareAck, FIN, SYN, Segment, build_bare_ack, build_segment, later, set_tsval,
};

const VMAC: Mac = [0, 0, 0x5e, 0, 1, 51];
const CLIENT: Mac = [2, 0, 0, 0, 0, 1];

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A neighbour solicitation: 86 bytes, laid out as RFC 4861 4.3 has it.
fn solicitation() -> Vec<u8> {
    let answer = build_announcement(address("fd77::100"), CLIENT).expect("IPv6");
    let mut frame = answer.to_vec();
    frame[ETH_LEN + 40] = 135;
    frame
}

fn seeds() -> Vec<Vec<u8>> {
    let mut out = vec![solicitation()];
    let syn = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 1, 3, 3, 7];
    let stamp = [1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9];
    let odd = [1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9];
    for (client, vip, ethertype) in
        [("10.77.0.1", "10.77.0.100", ETHERTYPE_IPV4), ("fd77::1", "fd77::100", ETHERTYPE_IPV6)]
    {
        let eth = Ethernet { dst: VMAC, src: CLIENT, ethertype };
        let (from, to) = ((address(client), 40000), (address(vip), 6379));
        let mut add = |flags, options: &[u8], payload: &[u8]| {
            out.push(build_segment(&eth, from, to, (1000, 2000, flags, 512), options, payload));
        };
        add(SYN, &syn, b"");
        add(SYN | ACK, &syn, b"");
        add(ACK, &stamp, b"*1\r\n$4\r\nPING\r\n");
        add(ACK, &odd, &[0x5a; 300]);
        add(ACK | FIN, &[], b"");
        out.extend(build_announcement(address(vip), CLIENT).map(|frame| frame.to_vec()));
    }
    // UDP, and padding that is no part of the packet.
    let mut udp = out[1].clone();
    udp[ETH_LEN + 9] = 17;
    udp.extend([0; 6]);
    out.push(udp);
    // Real ones, whole.
    for frame in [corpus("client.frames"), corpus("host.frames")].concat() {
        let known = Segment::parse(&frame).is_some_and(|s| s.checksum_ok(&frame))
            || learn(&frame).is_some()
            || Ip::parse(&frame).is_some();
        assert!(known, "a recorded frame that nothing reads: {frame:x?}");
        out.push(frame);
    }
    out
}

#[test]
fn segments() {
    let seeds = seeds();
    let mut understood = 0;
    fuzz("segment", 1, |rng| {
        let mut frame = mutated(rng, &seeds);
        if let Some(eth) = Ethernet::parse(&frame) {
            assert_eq!(eth.bytes(), frame[..ETH_LEN]);
        }
        let Some(ip) = Ip::parse(&frame) else {
            assert!(Segment::parse(&frame).is_none());
            return;
        };
        assert!(ETH_LEN < ip.payload_at && ip.payload_at <= ip.end && ip.end <= frame.len());
        let Some(segment) = Segment::parse(&frame) else { return };
        understood += 1;
        let header_end = ip.end - segment.payload_len as usize;
        assert!(ip.payload_at + 20 <= header_end && header_end <= ip.end);
        assert!(segment.options.wscale.is_none_or(|shift| shift <= 14));
        check_bare_ack(&frame, &segment, rng.word());
        if segment.options.timestamps.is_some() {
            assert!(segment.options.tsval_at + 8 <= header_end, "timestamps outside the header");
        }
        check_tsval(&mut frame, &segment, rng.word() as u32);
        let _ = later(segment.seq_end(), segment.ack);
    });
    println!("{understood} segments were understood");
}

fn check_bare_ack(frame: &[u8], segment: &Segment, word: u64) {
    let (seq, ack) = (word as u32, (word >> 32) as u32);
    let what = BareAck { seq, ack, window: 7, timestamps: segment.options.timestamps };
    let built = build_bare_ack(frame, segment, &what).expect("any segment can be answered for");
    let again = Segment::parse(&built).expect("what is built parses");
    assert!(again.checksum_ok(&built) && again.ip.end == built.len());
    assert_eq!((again.seq, again.ack, again.window, again.flags), (seq, ack, 7, ACK));
    assert_eq!(again.options.timestamps, segment.options.timestamps);
    assert_eq!(again.key_from_client(), segment.key_from_client());
}

/// Changes the timestamp and nothing else; a checksum that was right stays right.
fn check_tsval(frame: &mut [u8], segment: &Segment, tsval: u32) {
    let was_ok = segment.checksum_ok(frame);
    set_tsval(frame, segment, tsval);
    let after = Segment::parse(frame).expect("its shape has not changed");
    assert_eq!(after.checksum_ok(frame), was_ok);
    let expected = segment.options.timestamps.map(|(_, echo)| (tsval, echo));
    assert_eq!(after.options.timestamps, expected);
    assert_eq!((after.seq, after.flags, after.ip), (segment.seq, segment.flags, segment.ip));
}

#[test]
fn neighbors() {
    let seeds = seeds();
    let mut understood = 0;
    fuzz("neighbor", 1, |rng| {
        let frame = mutated(rng, &seeds);
        if let Some((ip, mac)) = learn(&frame) {
            assert!(!ip.is_unspecified() && mac[0] & 1 == 0);
        }
        let Some(question) = parse_solicitation(&frame) else { return };
        understood += 1;
        let answer = build_answer(&question, VMAC).expect("any question has an answer");
        assert!(parse_solicitation(&answer).is_none() || is_announcement(&answer));
        if !question.target.is_unspecified() {
            assert_eq!(learn(&answer), Some((question.target, VMAC)));
        }
    });
    println!("{understood} questions were understood");
}

/// A gratuitous ARP is a question for its own sender.
fn is_announcement(frame: &[u8]) -> bool {
    parse_solicitation(frame).is_some_and(|own| own.sender.0 == own.target)
}
