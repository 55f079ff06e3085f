//! Frames of every kind that links carry: tags, fragments, extension headers, jumbo and runt ones.

/// How an IP packet's transport begins.
const UDP: u8 = 17;
const TCP: u8 = 6;

fn ethernet(tags: &[(u16, u16)], ethertype: u16, rest: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for (tpid, tci) in tags {
        frame.extend(tpid.to_be_bytes());
        frame.extend(tci.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(rest);
    frame
}

/// An address of its own for each host number.
pub fn host(number: usize) -> [u8; 4] {
    [10, 9, (number >> 8) as u8, number as u8]
}

fn ipv4(protocol: u8, fragment: u16, source: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 9]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(source);
    packet.extend([10, 8, 0, 1]);
    packet.extend(payload);
    packet
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64, 0xfd, 9]);
    packet.extend([0; 13]);
    packet.extend([7, 0xfd, 8]);
    packet.extend([0; 13]);
    packet.extend([1]);
    packet.extend(payload);
    packet
}

fn udp(number: usize, len: usize) -> Vec<u8> {
    let mut datagram = vec![0x10, 0, 0, 53];
    datagram.extend((8 + len as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(filling(number, len));
    datagram
}

fn tcp(number: usize, len: usize) -> Vec<u8> {
    let mut segment = vec![0x20, 0, 0, 80];
    segment.extend((number as u32).to_be_bytes());
    segment.extend([0, 0, 0, 0, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    segment.extend(filling(number, len));
    segment
}

/// Bytes that no other frame has.
fn filling(number: usize, len: usize) -> Vec<u8> {
    let word = (number as u32).wrapping_mul(0x9e37_79b1).to_be_bytes();
    (0..len)
        .map(|i| if i < 4 { (number as u32).to_be_bytes()[i] } else { word[i % 4] ^ i as u8 })
        .collect()
}

/// UDP of a host, which is all that a query can be for.
pub fn of_host(number: usize, len: usize) -> Vec<u8> {
    ethernet(&[], 0x0800, &ipv4(UDP, 0, host(number), &udp(number, len)))
}

/// Of each kind, one after the other.
pub fn mix(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| kind(number % 16, number)).collect()
}

fn kind(kind: usize, n: usize) -> Vec<u8> {
    let v4 = |protocol, payload: Vec<u8>| ipv4(protocol, 0, host(n), &payload);
    match kind {
        0 => ethernet(&[], 0x0800, &v4(TCP, tcp(n, 200))),
        1 => ethernet(&[], 0x0800, &v4(UDP, udp(n, 1000))),
        2 => ethernet(&[(0x8100, 7)], 0x0800, &v4(UDP, udp(n, 100))),
        // Another priority, and a tag within a tag.
        3 => ethernet(&[(0x8100, 0x6005), (0x8100, 6)], 0x0800, &v4(TCP, tcp(n, 64))),
        // The first fragment, one in the middle, the last.
        4 => ethernet(&[], 0x0800, &ipv4(UDP, 0x2000, host(n), &udp(n, 1472))),
        5 => ethernet(&[], 0x0800, &ipv4(UDP, 0x2000 | 185, host(n), &filling(n, 1480))),
        6 => ethernet(&[], 0x0800, &ipv4(UDP, 370, host(n), &filling(n, 33))),
        7 => ethernet(&[], 0x86dd, &ipv6(UDP, &udp(n, 300))),
        // Hop-by-hop, destination options, fragment, then UDP.
        8 => {
            let mut payload = vec![60, 0, 1, 4, 0, 0, 0, 0, 44, 0, 1, 4, 0, 0, 0, 0];
            payload.extend([UDP, 0, 0, 1, 0, 0, 0, 5]);
            payload.extend(udp(n, 200));
            ethernet(&[], 0x86dd, &ipv6(0, &payload))
        }
        9 => ethernet(&[(0x8100, 9)], 0x86dd, &ipv6(TCP, &tcp(n, 60))),
        10 => ethernet(&[], 0x0800, &v4(TCP, tcp(n, 8900))),
        11 => ethernet(&[(0x8100, 3)], 0x0800, &v4(UDP, udp(n, 9000))),
        // Less than any Ethernet frame has on a wire.
        12 => ethernet(&[], 0x0800, &filling(n, 6)),
        13 => ethernet(&[], 0x88b5, &filling(n, 4)),
        // ARP, and a length instead of a type.
        14 => {
            let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2];
            arp.extend(host(n));
            arp.extend([0, 0, 0, 0, 0, 0, 10, 8, 0, 1]);
            ethernet(&[], 0x0806, &arp)
        }
        _ => ethernet(&[], 60, &[&[0x42, 0x42, 3][..], &filling(n, 57)].concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_frame_is_like_another() {
        let frames = mix(320);
        assert_eq!(frames.iter().collect::<HashSet<_>>().len(), 320);
        let lens: HashSet<usize> = frames.iter().map(Vec::len).collect();
        assert!(lens.iter().any(|l| *l > 9000) && lens.iter().any(|l| *l < 20));
    }
}
