//! What a frame can be looked for by: its addresses, ports, protocols, and pairs of them, as hashes.
//!
//! The rule is libpcap's: a key is there whenever one of its primitives (`host`, `port`, `tcp`, `arp`)
//! could match the frame, below VLAN tags too. A key too many costs reading; one too few would lose
//! packets.

use std::net::IpAddr;

const VLAN_TAGS_MAX: usize = 8;
const EXTENSION_HEADERS_MAX: usize = 16;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_RARP: u16 = 0x8035;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPES_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const PROTOCOLS_WITH_PORTS: [u8; 3] = [6, 17, 132];
const IPV6_FRAGMENT: u8 = 44;

/// A property of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The ethertype behind Ethernet header or VLAN tags.
    Ethertype(u16),
    /// The protocol in an IP header, or a next header of IPv6.
    Protocol(u8),
    /// An address at either end.
    Host(IpAddr),
    /// A port of TCP, UDP or SCTP at either end.
    Port(u16),
    /// Both addresses, the smaller one first.
    Pair(IpAddr, IpAddr),
    /// An address and a port, not always of the same end.
    HostPort(IpAddr, u16),
}

impl Key {
    /// Both addresses, in either order.
    #[must_use]
    pub fn pair(a: IpAddr, b: IpAddr) -> Key {
        Key::Pair(a.min(b), a.max(b))
    }

    /// The hash that is stored. Part of the format: it never changes.
    #[must_use]
    pub fn hash(&self) -> u64 {
        match *self {
            Key::Ethertype(t) => mix(1, t.into(), 0),
            Key::Protocol(p) => mix(2, p.into(), 0),
            Key::Host(a) => host_hash(a),
            Key::Port(p) => mix(4, p.into(), 0),
            Key::Pair(a, b) => mix(5, host_hash(a), host_hash(b)),
            Key::HostPort(a, p) => mix(6, host_hash(a), p.into()),
        }
    }
}

fn host_hash(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(a) => mix(3, u32::from(a).into(), 0),
        IpAddr::V6(a) => {
            let bits = u128::from(a);
            mix(7, (bits >> 64) as u64, bits as u64)
        }
    }
}

/// Two words and what they mean, well mixed.
pub(crate) fn mix(kind: u64, a: u64, b: u64) -> u64 {
    let step = |h: u64, w: u64| {
        let x = (h ^ w).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
    };
    let h = step(step(step(0x5047_4553, kind), a), b);
    h ^ (h >> 29)
}

/// What a frame is made of, as far as keys go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Parsed {
    hosts: Option<(IpAddr, IpAddr)>,
    ports: Option<(u16, u16)>,
}

/// Gives the hash of every key of a frame, from its Ethernet header on.
pub fn frame_keys(frame: &[u8], mut each: impl FnMut(u64)) {
    let Some((mut ethertype, mut rest)) = ethernet(frame) else { return };
    each(Key::Ethertype(ethertype).hash());
    for _ in 0..VLAN_TAGS_MAX {
        if !ETHERTYPES_VLAN.contains(&ethertype) {
            break;
        }
        let Some(inner) = word(rest, 2) else { return };
        (ethertype, rest) = (inner, rest.get(4..).unwrap_or_default());
        each(Key::Ethertype(ethertype).hash());
    }
    let parsed = match ethertype {
        ETHERTYPE_IPV4 => ipv4(rest, &mut each),
        ETHERTYPE_IPV6 => ipv6(rest, &mut each),
        ETHERTYPE_ARP | ETHERTYPE_RARP => {
            Parsed { hosts: v4_at(rest, 14).zip(v4_at(rest, 24)), ports: None }
        }
        _ => return,
    };
    // A frame cut between its addresses is matched by neither: libpcap rejects what it cannot read,
    // but may have found the first one before.
    let first = match ethertype {
        ETHERTYPE_IPV4 => v4_at(rest, 12),
        ETHERTYPE_IPV6 => v6_at(rest, 8),
        _ => v4_at(rest, 14),
    };
    let Some((a, b)) = parsed.hosts else {
        first.iter().for_each(|a| each(Key::Host(*a).hash()));
        return;
    };
    each(Key::Host(a).hash());
    each(Key::Host(b).hash());
    each(Key::pair(a, b).hash());
    let Some((p, q)) = parsed.ports else { return };
    for port in [p, q] {
        each(Key::Port(port).hash());
        each(Key::HostPort(a, port).hash());
        each(Key::HostPort(b, port).hash());
    }
}

fn ethernet(frame: &[u8]) -> Option<(u16, &[u8])> {
    Some((word(frame, 12)?, &frame[14..]))
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]))
}

fn v4_at(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let four: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(IpAddr::from(four))
}

fn v6_at(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let sixteen: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(IpAddr::from(sixteen))
}

fn ports_at(bytes: &[u8], at: usize) -> Option<(u16, u16)> {
    // The second one may be cut off: the first alone can match.
    let first = word(bytes, at)?;
    Some((first, word(bytes, at + 2).unwrap_or(first)))
}

fn ipv4(packet: &[u8], each: &mut impl FnMut(u64)) -> Parsed {
    let hosts = v4_at(packet, 12).zip(v4_at(packet, 16));
    let Some(&protocol) = packet.get(9) else { return Parsed { hosts, ports: None } };
    each(Key::Protocol(protocol).hash());
    let is_first = word(packet, 6).is_some_and(|flags| flags & 0x1fff == 0);
    let header_len = usize::from(packet[0] & 0xf) * 4;
    let has_ports = PROTOCOLS_WITH_PORTS.contains(&protocol) && is_first;
    Parsed { hosts, ports: has_ports.then(|| ports_at(packet, header_len)).flatten() }
}

fn ipv6(packet: &[u8], each: &mut impl FnMut(u64)) -> Parsed {
    let hosts = v6_at(packet, 8).zip(v6_at(packet, 24));
    let none = Parsed { hosts, ports: None };
    let Some(&first) = packet.get(6) else { return none };
    let (mut next, mut at) = (first, 40);
    for _ in 0..EXTENSION_HEADERS_MAX {
        each(Key::Protocol(next).hash());
        if PROTOCOLS_WITH_PORTS.contains(&next) {
            return Parsed { hosts, ports: ports_at(packet, at) };
        }
        let (Some(&following), Some(&len)) = (packet.get(at), packet.get(at + 1)) else {
            // libpcap looks at a fragment's next header even where no more is there.
            if let (IPV6_FRAGMENT, Some(&following)) = (next, packet.get(at)) {
                each(Key::Protocol(following).hash());
            }
            return none;
        };
        let header_len = match next {
            0 | 43 | 60 | 135 | 139 | 140 => (usize::from(len) + 1) * 8,
            51 => (usize::from(len) + 2) * 4,
            IPV6_FRAGMENT => {
                // Of a later fragment the ports are not there, but what it is part of is said.
                if word(packet, at + 2).is_none_or(|offset| offset & 0xfff8 != 0) {
                    each(Key::Protocol(following).hash());
                    return none;
                }
                8
            }
            _ => return none,
        };
        (next, at) = (following, at + header_len);
    }
    none
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    pub(crate) fn udp4(
        tags: &[u16],
        source: [u8; 4],
        destination: [u8; 4],
        ports: (u16, u16),
    ) -> Vec<u8> {
        let mut frame = vec![2; 12];
        for tag in tags {
            frame.extend([0x81, 0]);
            frame.extend(tag.to_be_bytes());
        }
        frame.extend([8, 0, 0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0]);
        frame.extend(source);
        frame.extend(destination);
        frame.extend(ports.0.to_be_bytes());
        frame.extend(ports.1.to_be_bytes());
        frame.extend([0, 8, 0, 0]);
        frame
    }

    fn keys_of(frame: &[u8]) -> HashSet<u64> {
        let mut keys = HashSet::new();
        frame_keys(frame, |key| {
            keys.insert(key);
        });
        keys
    }

    #[test]
    fn tags_do_not_hide_what_is_behind_them() {
        let (a, b): (IpAddr, IpAddr) = ([10, 0, 0, 7].into(), [10, 0, 0, 8].into());
        for tags in [&[][..], &[5], &[5, 6]] {
            let keys = keys_of(&udp4(tags, [10, 0, 0, 7], [10, 0, 0, 8], (1000, 53)));
            for key in [
                Key::Ethertype(0x800),
                Key::Protocol(17),
                Key::Host(a),
                Key::Host(b),
                Key::pair(b, a),
                Key::Port(53),
                Key::HostPort(a, 53),
                Key::HostPort(b, 1000),
            ] {
                assert!(keys.contains(&key.hash()), "{key:?} behind {tags:?}");
            }
            assert!(!keys.contains(&Key::Port(17).hash()));
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic() {
        let frame = udp4(&[1], [10, 0, 0, 7], [10, 0, 0, 8], (1, 2));
        (0..frame.len()).for_each(|len| drop(keys_of(&frame[..len])));
        let mut v6 = vec![0; 12];
        v6.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 0, 64]);
        v6.extend([1; 32]);
        // A chain of options that goes on for ever.
        v6.extend([0; 400]);
        (0..v6.len()).for_each(|len| drop(keys_of(&v6[..len])));
    }
}
