//! A public mix of captures, replayed to a node that only captures: tshark reads there what was sent.

use std::path::Path;

use understudy_lab::captures::{as_tshark_reads, difference, public_mix};
use understudy_lab::tap::{FRAME_LEN_MAX, Tap, pcap};
use understudy_lab::{cmd, scenario};

/// How many of a mix show something of links.
struct Kinds {
    ipv4_fragments: usize,
    vlan_tagged: usize,
    ipv6_extended: usize,
    jumbo: usize,
    runt: usize,
}

impl Kinds {
    fn of(frames: &[Vec<u8>]) -> Kinds {
        let count =
            |is: &dyn Fn(&[u8]) -> bool| frames.iter().filter(|frame| is(&frame[..])).count();
        let has = |frame: &[u8], ethertype: u16| frame[12..14] == ethertype.to_be_bytes();
        Kinds {
            ipv4_fragments: count(&|f| {
                let field = f.get(20..22).map(|b| u16::from_be_bytes([b[0], b[1]]) & 0x3fff);
                has(f, 0x0800) && field.is_some_and(|field| field != 0)
            }),
            vlan_tagged: count(&|f| has(f, 0x8100) || has(f, 0x88a8)),
            // Hop-by-hop, routing, fragment, destination, mobility.
            ipv6_extended: count(&|f| {
                has(f, 0x86dd) && f.get(20).is_some_and(|next| [0, 43, 44, 60, 135].contains(next))
            }),
            jumbo: count(&|f| f.len() > 1514),
            runt: count(&|f| f.len() < 60),
        }
    }
}

/// A line a frame: what tshark makes of it.
fn dissected(path: &Path) -> String {
    let fields = ["frame.len", "frame.protocols", "vlan.id", "ip.frag_offset", "ipv6.nxt"];
    let mut words = vec!["tshark", "-n", "-r", path.to_str().unwrap(), "-T", "fields"];
    fields.iter().for_each(|field| words.extend(["-e", field]));
    // Nothing that depends on the frames before, or on when they came.
    for off in ["ip.defragment:FALSE", "ipv6.defragment:FALSE", "tcp.desegment_tcp_streams:FALSE"] {
        words.extend(["-o", off]);
    }
    cmd::run(&words).unwrap()
}

#[test]
fn tshark_reads_what_a_public_mix_has() {
    if !scenario::can_run(&["understudyd", "understudy"]) {
        return;
    }
    let frames = public_mix(FRAME_LEN_MAX).unwrap();
    let kinds = Kinds::of(&frames);
    println!(
        "{} frames: {} IPv4 fragments, {} with VLAN tags, {} with IPv6 extension headers, {} jumbo, {} runt",
        frames.len(),
        kinds.ipv4_fragments,
        kinds.vlan_tagged,
        kinds.ipv6_extended,
        kinds.jumbo,
        kinds.runt
    );
    let Kinds { ipv4_fragments, vlan_tagged, ipv6_extended, jumbo, runt } = kinds;
    assert!([ipv4_fragments, vlan_tagged, ipv6_extended, jumbo, runt].iter().all(|&n| n >= 10));

    // net_af_packet has the kernel put IPv4 fragments together, so it is no device to record them with.
    let mut tap = Tap::on(&["net_pcap_tap,rx_iface_in=rx0"], "flush_ms = 50").unwrap();
    tap.start().unwrap();
    // So few at once that libpcap's ring has room for them, however late anybody is.
    let mut sent = 0;
    let mut status = tap.status().unwrap();
    for some in frames.chunks(250) {
        tap.replay_all(some, 0, &["--topspeed"]).unwrap();
        sent += some.len() as u64;
        status = tap.wait_received(sent).unwrap();
    }
    assert_eq!((status.links[0].cut, status.links[0].not_logged), (0, 0));
    let (path, query) = tap.query("mix.pcapng", &["--from", "@0", "--to", "-0s"]).unwrap();
    assert_eq!((query.captured, query.dropped), (frames.len() as u64, 0), "{query:?}");

    let found = as_tshark_reads(&path).unwrap();
    let bytes: Vec<&[u8]> = found.iter().map(|(_, bytes)| &bytes[..]).collect();
    let sent: Vec<&[u8]> = frames.iter().map(|frame| &frame[..]).collect();
    assert!(bytes == sent, "{}", difference(&bytes, &sent));
    assert!(found.is_sorted_by_key(|(ns, _)| *ns), "times go back");

    let sent_path = tap.dir().join("sent.pcap");
    std::fs::write(&sent_path, pcap(&frames, 0)).unwrap();
    let (ours, theirs) = (dissected(&path), dissected(&sent_path));
    let differs = ours.lines().zip(theirs.lines()).find(|(a, b)| a != b);
    assert!(ours == theirs, "tshark sees {differs:?}");
    assert_eq!(ours.lines().count(), frames.len());
    assert_eq!(tap.stop().unwrap(), 0);
}
