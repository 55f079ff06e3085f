//! Ethernet and IP: where things are in a frame, never past its end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A 48-bit Ethernet address.
pub type Mac = [u8; 6];

/// Bytes of an Ethernet header without tags.
pub const ETH_LEN: usize = 14;
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IP protocol number of TCP.
pub const PROTO_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTO_UDP: u8 = 17;
/// IP protocol number of ICMPv6.
pub const PROTO_ICMPV6: u8 = 58;

/// Reads a big-endian u16, `None` past the end.
#[inline]
pub fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Reads a big-endian u32, `None` past the end.
#[inline]
pub fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A MAC as a number: the low 48 bits.
#[inline]
pub fn mac_word(mac: Mac) -> u64 {
    mac.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// A frame's Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Destination address.
    pub dst: Mac,
    /// Source address.
    pub src: Mac,
    /// EtherType; a VLAN tag is not looked through.
    pub ethertype: u16,
}

impl Ethernet {
    /// The header of a frame, `None` when it is shorter than one.
    #[inline]
    pub fn parse(frame: &[u8]) -> Option<Ethernet> {
        let b: &[u8; ETH_LEN] = frame.first_chunk()?;
        Some(Ethernet {
            dst: [b[0], b[1], b[2], b[3], b[4], b[5]],
            src: [b[6], b[7], b[8], b[9], b[10], b[11]],
            ethertype: u16::from_be_bytes([b[12], b[13]]),
        })
    }

    /// Destination and source of a frame as numbers to be compared: each a [`mac_word`] below 16 bits
    /// of what comes after it; after the source, that is the EtherType, its bytes swapped.
    #[inline]
    pub fn words(frame: &[u8]) -> Option<[u64; 2]> {
        let b: &[u8; ETH_LEN] = frame.first_chunk()?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&b[at..at + 8]);
            u64::from_le_bytes(word)
        };
        Some([word(0), word(6)])
    }

    /// The header's bytes.
    #[inline]
    pub fn bytes(&self) -> [u8; ETH_LEN] {
        let mut out = [0; ETH_LEN];
        out[0..6].copy_from_slice(&self.dst);
        out[6..12].copy_from_slice(&self.src);
        out[12..14].copy_from_slice(&self.ethertype.to_be_bytes());
        out
    }
}

/// Where an unfragmented IP packet and its payload lie in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Upper-layer protocol; IPv6 extension headers are not looked through.
    pub protocol: u8,
    /// Offset of the upper-layer header in the frame.
    pub payload_at: usize,
    /// Offset just past the packet (Ethernet padding excluded).
    pub end: usize,
}

impl Ip {
    /// `None` for what is not an intact, unfragmented IPv4 or IPv6 packet.
    #[inline]
    pub fn parse(frame: &[u8]) -> Option<Ip> {
        match be16(frame, 12)? {
            ETHERTYPE_IPV4 => Ip::parse_v4(frame),
            ETHERTYPE_IPV6 => Ip::parse_v6(frame),
            _ => None,
        }
    }

    #[inline]
    fn parse_v4(frame: &[u8]) -> Option<Ip> {
        let ip = frame.get(ETH_LEN..)?;
        let b: &[u8; 20] = ip.first_chunk()?;
        let header_len = usize::from(b[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([b[2], b[3]]));
        let fragment = u16::from_be_bytes([b[6], b[7]]) & 0x3fff != 0;
        let intact = b[0] >> 4 == 4
            && header_len >= 20
            && total_len >= header_len
            && ip.len() >= total_len
            && !fragment;
        intact.then_some(Ip {
            src: Ipv4Addr::new(b[12], b[13], b[14], b[15]).into(),
            dst: Ipv4Addr::new(b[16], b[17], b[18], b[19]).into(),
            protocol: b[9],
            payload_at: ETH_LEN + header_len,
            end: ETH_LEN + total_len,
        })
    }

    fn parse_v6(frame: &[u8]) -> Option<Ip> {
        let ip = frame.get(ETH_LEN..)?;
        let payload_len = usize::from(be16(ip, 4)?);
        (ip[0] >> 4 == 6 && ip.len() >= 40 + payload_len).then_some(())?;
        let addr = |at: usize| -> Option<IpAddr> {
            let octets: [u8; 16] = ip.get(at..at + 16)?.try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        };
        Some(Ip {
            src: addr(8)?,
            dst: addr(24)?,
            protocol: ip[6],
            payload_at: ETH_LEN + 40,
            end: ETH_LEN + 40 + payload_len,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_are_the_header(frame in proptest::collection::vec(any::<u8>(), 0..20)) {
            let words = Ethernet::parse(&frame).map(|eth| {
                let after_dst = u64::from(u16::from_le_bytes([eth.src[0], eth.src[1]]));
                let after_src = u64::from(eth.ethertype.swap_bytes());
                [mac_word(eth.dst) | after_dst << 48, mac_word(eth.src) | after_src << 48]
            });
            prop_assert_eq!(Ethernet::words(&frame), words);
        }

        #[test]
        fn any_bytes_parse_within_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..120), v6: bool) {
            let mut bytes = bytes;
            if bytes.len() > 14 {
                let (kind, first) = if v6 { (ETHERTYPE_IPV6, 0x60) } else { (ETHERTYPE_IPV4, 0x45) };
                bytes[12..14].copy_from_slice(&kind.to_be_bytes());
                bytes[14] = first;
            }
            if let Some(ip) = Ip::parse(&bytes) {
                prop_assert!(ip.payload_at <= ip.end && ip.end <= bytes.len());
            }
        }
    }
}
