//! What is in a frame, as far as a line for people and an index of addresses need it. Looks through
//! VLAN tags and IPv6 extension headers, never past the end, whatever the bytes.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const VLAN_TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
/// Tags, or extension headers, that are looked through; a frame with more is not looked into.
const DEPTH_MAX: usize = 8;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

/// What is in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dissected {
    /// VLAN identifiers, the outermost first.
    pub vlans: Vec<u16>,
    /// EtherType behind the tags; below 1536 it is a length.
    pub ethertype: u16,
    /// IP, if that is what it is.
    pub network: Option<Network>,
    /// Source and destination of IP, sender and target of ARP.
    pub addresses: Option<(IpAddr, IpAddr)>,
}

/// An IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// What it carries, behind extension headers.
    pub protocol: u8,
    /// Offset in bytes and whether more follow, if it is a fragment.
    pub fragment: Option<(u16, bool)>,
    /// TCP or UDP, where the whole header is here.
    pub transport: Option<Transport>,
    /// Bytes that the packet says follow the header that `protocol` names.
    pub payload_len: usize,
    /// Where that header begins in the frame.
    payload_at: usize,
}

/// A TCP or UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Source port.
    pub src: u16,
    /// Destination port.
    pub dst: u16,
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn v4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    be32(bytes, at).map(|bits| Ipv4Addr::from(bits).into())
}

fn v6(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(octets).into())
}

/// Looks into a frame; `None` when it is shorter than an Ethernet header.
pub fn dissect(frame: &[u8]) -> Option<Dissected> {
    let mut at = 12;
    let mut ethertype = be16(frame, at)?;
    let mut vlans = Vec::new();
    while VLAN_TAGS.contains(&ethertype) && vlans.len() < DEPTH_MAX {
        let Some(inner) = be16(frame, at + 4) else { break };
        vlans.push(be16(frame, at + 2)? & 0x0fff);
        (ethertype, at) = (inner, at + 4);
    }
    let at = at + 2;
    let (addresses, network) = match ethertype {
        0x0800 => network_v4(frame, at).unzip(),
        0x86dd => network_v6(frame, at).unzip(),
        // Of IPv4 over Ethernet.
        0x0806 if frame.get(at..at + 6) == Some(&[0, 1, 8, 0, 6, 4]) => {
            (v4(frame, at + 14).zip(v4(frame, at + 24)), None)
        }
        _ => (None, None),
    };
    Some(Dissected { vlans, ethertype, network, addresses })
}

fn network_v4(frame: &[u8], at: usize) -> Option<((IpAddr, IpAddr), Network)> {
    let first = *frame.get(at)?;
    let header_len = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header_len < 20 {
        return None;
    }
    let addresses = (v4(frame, at + 12)?, v4(frame, at + 16)?);
    let total_len = usize::from(be16(frame, at + 2)?);
    let fragment = be16(frame, at + 6)?;
    let (offset, more) = ((fragment & 0x1fff) * 8, fragment & 0x2000 != 0);
    let payload_at = at + header_len;
    let protocol = *frame.get(at + 9)?;
    let network = Network {
        protocol,
        fragment: (offset > 0 || more).then_some((offset, more)),
        transport: transport(frame, protocol, payload_at).filter(|_| offset == 0),
        payload_len: total_len.saturating_sub(header_len),
        payload_at,
    };
    Some((addresses, network))
}

fn network_v6(frame: &[u8], at: usize) -> Option<((IpAddr, IpAddr), Network)> {
    if frame.get(at)? >> 4 != 6 {
        return None;
    }
    let addresses = (v6(frame, at + 8)?, v6(frame, at + 24)?);
    let end = at + 40 + usize::from(be16(frame, at + 4)?);
    let (mut protocol, mut payload_at, mut fragment) = (*frame.get(at + 6)?, at + 40, None);
    for _ in 0..DEPTH_MAX {
        let header_len = match protocol {
            // Hop-by-hop, routing, destination options, mobility.
            0 | 43 | 60 | 135 => frame.get(payload_at + 1).map(|len| 8 + usize::from(*len) * 8),
            44 => be16(frame, payload_at + 2).map(|field| {
                fragment = Some((field & 0xfff8, field & 1 != 0));
                8
            }),
            // Authentication.
            51 => frame.get(payload_at + 1).map(|len| 8 + usize::from(*len) * 4),
            _ => None,
        };
        let (Some(header_len), Some(next)) = (header_len, frame.get(payload_at)) else { break };
        (protocol, payload_at) = (*next, payload_at + header_len);
        if fragment.is_some_and(|(offset, _)| offset > 0) {
            break;
        }
    }
    let is_first = fragment.is_none_or(|(offset, _)| offset == 0);
    let network = Network {
        protocol,
        fragment,
        transport: transport(frame, protocol, payload_at).filter(|_| is_first),
        payload_len: end.saturating_sub(payload_at),
        payload_at,
    };
    Some((addresses, network))
}

fn transport(frame: &[u8], protocol: u8, at: usize) -> Option<Transport> {
    matches!(protocol, TCP | UDP).then_some(())?;
    Some(Transport { src: be16(frame, at)?, dst: be16(frame, at + 2)? })
}

/// A frame in one line, much as tcpdump says it; sequence numbers are absolute. Nothing of the frame
/// is printed but numbers.
pub fn line(frame: &[u8], wire_len: usize) -> String {
    let mut out = String::new();
    let Some(seen) = dissect(frame) else { return format!("[short frame], length {wire_len}") };
    for vlan in &seen.vlans {
        let _ = write!(out, "vlan {vlan}, ");
    }
    let written = match (&seen.network, seen.addresses) {
        (Some(network), Some(addresses)) => ip(&mut out, frame, network, addresses),
        (None, Some((sender, target))) => arp(&mut out, frame, sender, target, seen.vlans.len()),
        _ => {
            let mac = |at: usize| {
                let bytes = frame[at..at + 6].iter().map(|b| format!("{b:02x}"));
                bytes.collect::<Vec<_>>().join(":")
            };
            let (src, dst) = (mac(6), mac(0));
            write!(out, "{src} > {dst}, ethertype 0x{:04x}, length {wire_len}", seen.ethertype)
        }
    };
    // Writing to a string does not fail.
    let _ = written;
    out
}

fn arp(
    out: &mut String,
    frame: &[u8],
    sender: IpAddr,
    target: IpAddr,
    tags: usize,
) -> std::fmt::Result {
    match be16(frame, 14 + 4 * tags + 6) {
        Some(1) => write!(out, "ARP, Request who-has {target} tell {sender}"),
        Some(2) => write!(out, "ARP, Reply {sender} is at its MAC, to {target}"),
        other => write!(out, "ARP, operation {}, {sender} to {target}", other.unwrap_or(0)),
    }
}

fn ip(
    out: &mut String,
    frame: &[u8],
    network: &Network,
    (src, dst): (IpAddr, IpAddr),
) -> std::fmt::Result {
    out.push_str(if src.is_ipv4() { "IP " } else { "IP6 " });
    match network.transport {
        Some(ports) => write!(out, "{src}.{} > {dst}.{}: ", ports.src, ports.dst)?,
        None => write!(out, "{src} > {dst}: ")?,
    }
    if let Some((offset, more)) = network.fragment {
        write!(out, "frag ({offset}:{}{}) ", network.payload_len, if more { "+" } else { "" })?;
    }
    match (network.protocol, network.transport) {
        (TCP, Some(_)) => tcp(out, frame, network),
        (UDP, Some(_)) => write!(out, "UDP, length {}", network.payload_len.saturating_sub(8)),
        (ICMP, _) => write!(out, "ICMP, length {}", network.payload_len),
        (ICMP6, _) => write!(out, "ICMP6, length {}", network.payload_len),
        (TCP, None) => write!(out, "TCP, length {}", network.payload_len),
        (UDP, None) => write!(out, "UDP, length {}", network.payload_len),
        (other, _) => write!(out, "ip-proto-{other}, length {}", network.payload_len),
    }
}

fn tcp(out: &mut String, frame: &[u8], network: &Network) -> std::fmt::Result {
    let at = network.payload_at;
    let (Some(seq), Some(ack)) = (be32(frame, at + 4), be32(frame, at + 8)) else {
        return write!(out, "TCP, length {}", network.payload_len);
    };
    let (Some(field), Some(window)) = (be16(frame, at + 12), be16(frame, at + 14)) else {
        return write!(out, "TCP, length {}", network.payload_len);
    };
    let names =
        [(2, 'S'), (1, 'F'), (4, 'R'), (8, 'P'), (32, 'U'), (64, 'E'), (128, 'W'), (16, '.')];
    let flags: String =
        names.iter().filter(|(bit, _)| field & bit != 0).map(|(_, name)| *name).collect();
    let length = network.payload_len.saturating_sub(usize::from(field >> 12) * 4);
    write!(out, "Flags [{}], seq {seq}", if flags.is_empty() { "none" } else { &flags })?;
    if length > 0 {
        write!(out, ":{}", seq.wrapping_add(length as u32))?;
    }
    if field & 16 != 0 {
        write!(out, ", ack {ack}")?;
    }
    write!(out, ", win {window}, length {length}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
        [&[2; 6][..], &[4; 6], &ethertype.to_be_bytes(), payload].concat()
    }

    fn v4_packet(fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = vec![0x45, 0];
        header.extend((20 + payload.len() as u16).to_be_bytes());
        header.extend([0, 1]);
        header.extend(fragment.to_be_bytes());
        header.extend([64, protocol, 0, 0, 10, 0, 0, 7, 10, 0, 0, 100]);
        [header, payload.to_vec()].concat()
    }

    fn segment(payload: &[u8]) -> Vec<u8> {
        let mut header = vec![0x12, 0x67, 0x18, 0xeb];
        header.extend(100u32.to_be_bytes());
        header.extend(7u32.to_be_bytes());
        header.extend([0x50, 0x18, 0x01, 0xf6, 0, 0, 0, 0]);
        [header, payload.to_vec()].concat()
    }

    #[test]
    fn lines_are_what_tcpdump_users_know() {
        let frame = ethernet(0x0800, &v4_packet(0, TCP, &segment(b"PING\r\n")));
        let expected =
            "IP 10.0.0.7.4711 > 10.0.0.100.6379: Flags [P.], seq 100:106, ack 7, win 502, length 6";
        assert_eq!(line(&frame, frame.len()), expected);
        let tagged = ethernet(0x8100, &[&[0, 5, 8, 0][..], &frame[14..]].concat());
        assert_eq!(line(&tagged, tagged.len()), format!("vlan 5, {expected}"));
        let later = ethernet(0x0800, &v4_packet(0x00b9, UDP, &[0; 40]));
        assert_eq!(
            line(&later, later.len()),
            "IP 10.0.0.7 > 10.0.0.100: frag (1480:40) UDP, length 40"
        );
        assert_eq!(line(&[1; 9], 9), "[short frame], length 9");
        assert!(line(&ethernet(0x88b5, &[0; 50]), 64).ends_with("ethertype 0x88b5, length 64"));
    }

    #[test]
    fn extension_headers_are_looked_through() {
        // Hop-by-hop, destination options of 16 bytes, a first fragment, UDP.
        let headers = [
            &[60u8, 0, 1, 4, 0, 0, 0, 0][..],
            &[44, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[17, 0, 0, 1, 0, 0, 0, 9],
            &[0x10, 0, 0, 53, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        ]
        .concat();
        let mut packet = vec![0x60, 0, 0, 0, 0, headers.len() as u8, 0, 64];
        packet.extend([0xfd; 16]);
        packet.extend([0xfe; 16]);
        packet.extend(&headers);
        let seen = dissect(&ethernet(0x86dd, &packet)).unwrap();
        let network = seen.network.unwrap();
        assert_eq!((network.protocol, network.fragment), (UDP, Some((0, true))));
        assert_eq!(network.transport, Some(Transport { src: 0x1000, dst: 53 }));
        assert_eq!(network.payload_len, 16);
        assert_eq!(seen.addresses.unwrap().0, IpAddr::from([0xfd; 16]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_into_or_not(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..160),
            kind in proptest::sample::select(vec![0x0800u16, 0x86dd, 0x0806, 0x8100, 0x88a8]),
            first in proptest::sample::select(vec![0x45u8, 0x4f, 0x60]),
        ) {
            if bytes.len() > 14 {
                bytes[12..14].copy_from_slice(&kind.to_be_bytes());
                bytes[14] = first;
            }
            let text = line(&bytes, bytes.len());
            prop_assert!(text.bytes().all(|b| (0x20..0x7f).contains(&b)));
            prop_assert_eq!(dissect(&bytes).is_none(), bytes.len() < 14);
        }
    }
}
