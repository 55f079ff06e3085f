//! Segments of the capture log on disk, and the promise of their index: whatever libpcap lets pass is in
//! a block that is read.

use understudy_fuzz::{Rng, corpus, fuzz, mutated};
use understudy_pcap::Filter;
use understudy_segments::{
    BLOCK_HEADER_BYTES, BlockBuilder, BlockHeader, Bloom, Footer, Needs, SegmentInfo,
    TRAILER_BYTES, Trailer, frame_keys,
};
use understudy_wire::record::{RecordHeader, RecordKind};

fn block(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut builder = BlockBuilder::new();
    for (i, frame) in frames.iter().enumerate() {
        let header = RecordHeader {
            len: frame.len() as u32,
            kind: RecordKind::ClientFrame,
            timestamp_ns: i as u64,
        };
        let mut stored = [&header.encode()[..], frame].concat();
        stored.resize(header.stored_len(), 0);
        builder.push(i as u64, &header, &stored);
    }
    let mut out = Vec::new();
    builder.write_to(1, 8, &mut Bloom::with_bytes(64), &mut out);
    out
}

#[test]
fn headers_and_footers() {
    let info = SegmentInfo {
        id: 1,
        node: "tap".into(),
        links: vec!["x".into()],
        ..SegmentInfo::default()
    };
    let blocks = [vec![vec![1; 60]], vec![vec![2; 100], vec![3; 14]]].map(|frames| block(&frames));
    let entry =
        understudy_segments::BlockEntry::of(&BlockHeader::decode(&blocks[0]).unwrap(), 8192);
    let footer = Footer { blocks: vec![entry; 3], keys: Bloom::for_keys(20) };
    let end = footer.encode(1, 9000, 1);
    let trailer = Trailer::decode(&end[end.len() - TRAILER_BYTES..]).unwrap();
    assert_eq!(Footer::decode(&end, &trailer), Ok(footer));
    let seeds = [info.encode(), blocks[0].clone(), blocks[1].clone(), end];
    let (mut sound, mut refused) = (0u64, 0u64);
    fuzz("segments", 20, |rng| {
        let bytes = mutated(rng, &seeds);
        let tail = bytes.len().saturating_sub(TRAILER_BYTES);
        let outcomes = [
            SegmentInfo::decode(&bytes).is_ok(),
            BlockHeader::decode(&bytes).is_ok(),
            Trailer::decode(&bytes[tail..]).is_ok(),
            Footer::decode(&bytes, &trailer).is_ok(),
        ];
        if outcomes.contains(&true) { sound += 1 } else { refused += 1 }
    });
    println!("{sound} inputs were sound, {refused} were refused");
    assert!(refused > 0);
}

/// Filters with holes for what frames have.
fn filter(rng: &mut Rng, frame: &[u8]) -> String {
    let address = |at: usize| {
        let b = frame.get(at..at + 4).map_or([10, 0, 0, 7], |b| [b[0], b[1], b[2], b[3]]);
        std::net::Ipv4Addr::from(b).to_string()
    };
    let address6 = |at: usize| {
        let b: Option<[u8; 16]> = frame.get(at..at + 16).and_then(|b| b.try_into().ok());
        std::net::Ipv6Addr::from(b.unwrap_or([1; 16])).to_string()
    };
    let port = |at: usize| frame.get(at..at + 2).map_or(80, |b| u16::from_be_bytes([b[0], b[1]]));
    let primitive = |rng: &mut Rng| match rng.below(16) {
        0 => format!("host {}", address(26)),
        1 => format!("dst {}", address(30)),
        2 => format!("src host {}", address(30)),
        3 => format!("host {}", address6(22)),
        4 => format!("ip6 host {}", address6(38)),
        5 => format!("port {}", port(34)),
        6 => format!("tcp port {}", port(36)),
        7 => format!("udp src port {}", port(54)),
        8 => ["tcp", "udp", "icmp", "icmp6", "sctp"][rng.below(5)].into(),
        9 => ["ip", "ip6", "arp", "rarp"][rng.below(4)].into(),
        10 => format!("arp host {}", address(28)),
        11 => format!("not port {}", port(34)),
        12 => "tcp[13] & 2 != 0".into(),
        13 => format!("len > {}", rng.below(200)),
        14 => format!("(host {} or {})", address(26), address(30)),
        _ => format!("host {}", address(28)),
    };
    let mut text = match rng.below(6) {
        0 => "vlan and ".to_owned(),
        1 => "not ".to_owned(),
        2 => "vlan or ".to_owned(),
        _ => String::new(),
    };
    text += &primitive(rng);
    for _ in 0..rng.below(3) {
        text += [" and ", " or ", " and not "][rng.below(3)];
        text += &primitive(rng);
    }
    text
}

#[test]
fn nothing_that_matches_is_left_unread() {
    let mut seeds = corpus("client.frames");
    seeds.extend(corpus("host.frames"));
    // The same behind a tag.
    let tagged: Vec<Vec<u8>> = seeds
        .iter()
        .filter(|f| f.len() > 14)
        .map(|f| [&f[..12], &[0x81, 0, 0, 7], &f[12..]].concat())
        .collect();
    seeds.extend(tagged);
    let (mut matched, mut excluded) = (0u64, 0u64);
    fuzz("needs", 20, |rng| {
        let frame = if rng.one_in(2) { rng.pick(&seeds).clone() } else { mutated(rng, &seeds) };
        let text = filter(rng, &frame);
        let other = rng.pick(&seeds).clone();
        let Ok(compiled) = Filter::compile(&text) else { return };
        // Both in one block, the first twice: flows that are known are not looked at again.
        let stored = block(&[frame.clone(), other.clone(), frame.clone()]);
        let head = BlockHeader::decode(&stored).expect("a block's header");
        let keys = &stored[BLOCK_HEADER_BYTES..][..head.keys_bytes as usize];
        let keys = Bloom::from_bytes(keys.to_vec());
        let needs = Needs::of_filter(&text);
        let block_matches = [&frame, &other].iter().any(|frame| compiled.matches(frame));
        assert!(
            needs.may_be_in(&keys) || !block_matches,
            "{text}: {needs:?}: {frame:02x?} {other:02x?}"
        );
        for frame in [&frame, &other] {
            let mut keys = Bloom::for_keys(16);
            frame_keys(frame, |key| keys.insert(key));
            let may_match = needs.may_be_in(&keys);
            let does_match = compiled.matches(frame);
            assert!(may_match || !does_match, "{text}: {needs:?}: {frame:02x?}");
            matched += u64::from(does_match);
            excluded += u64::from(!may_match);
        }
    });
    println!("{matched} matched, {excluded} were excluded");
    assert!(matched > 100 && excluded > 100);
}

#[test]
fn filters_of_any_kind_are_read_without_a_panic() {
    let seeds: Vec<Vec<u8>> = [
        "host 10.0.0.7 and (port 80 or 443) and not tcp[13] & 2 != 0",
        "vlan 7 and ((ip6 host fd00::7) || src or dst port 53)",
        "ether proto 0x88cc or len > 100 and !arp",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    fuzz("filters", 4, |rng| {
        let bytes = mutated(rng, &seeds);
        let text = String::from_utf8_lossy(&bytes);
        let needs = Needs::of_filter(&text);
        assert!(needs.may_be_in(&Bloom::default()));
    });
}
