//! Neighbour discovery: ARP (RFC 826) and NDP (RFC 4861), parsed and built.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::Sum;
use crate::frame::{ETH_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ip, Mac};
use crate::frame::{PROTO_ICMPV6, be16, be32};
use crate::tcp::{SmallFrame, push_ip_header};

const BROADCAST: Mac = [0xff; 6];
const NDP_SOLICITATION: u8 = 135;
const NDP_ADVERTISEMENT: u8 = 136;
const NDP_OPTION_TARGET_MAC: u8 = 2;
/// Override, and (when it answers someone) Solicited.
const NA_OVERRIDE: u8 = 0x20;
const NA_SOLICITED: u8 = 0x40;

/// A question for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// Who asks.
    pub sender: (IpAddr, Mac),
    /// Whose MAC is wanted.
    pub target: IpAddr,
}

/// The ARP request or neighbour solicitation in a frame.
pub fn parse_solicitation(frame: &[u8]) -> Option<Solicitation> {
    let eth = Ethernet::parse(frame)?;
    match eth.ethertype {
        ETHERTYPE_ARP => {
            let (op, sender, target) = parse_arp(frame)?;
            (op == 1).then_some(Solicitation { sender, target })
        }
        ETHERTYPE_IPV6 => {
            let ip = Ip::parse(frame)?;
            let icmp = frame.get(ip.payload_at..ip.end)?;
            if ip.protocol != PROTO_ICMPV6 || *icmp.first()? != NDP_SOLICITATION {
                return None;
            }
            let target: [u8; 16] = icmp.get(8..24)?.try_into().ok()?;
            let target = Ipv6Addr::from(target).into();
            Some(Solicitation { sender: (ip.src, eth.src), target })
        }
        _ => None,
    }
}

/// Operation, sender and target address of an ARP packet for IPv4 over Ethernet.
fn parse_arp(frame: &[u8]) -> Option<(u16, (IpAddr, Mac), IpAddr)> {
    let arp = frame.get(ETH_LEN..ETH_LEN + 28)?;
    let right = be16(arp, 0)? == 1 && be16(arp, 2)? == ETHERTYPE_IPV4 && arp[4..6] == [6, 4];
    right.then_some(())?;
    let sender_mac: Mac = arp[8..14].try_into().ok()?;
    let ip = |at| Some(IpAddr::from(Ipv4Addr::from(be32(arp, at)?)));
    Some((be16(arp, 6)?, (ip(14)?, sender_mac), ip(24)?))
}

/// Whether a frame is ARP, or an NDP solicitation or advertisement.
pub fn is_neighbor_discovery(frame: &[u8]) -> bool {
    let Some(eth) = Ethernet::parse(frame) else { return false };
    let icmp = || {
        let ip = Ip::parse(frame).filter(|ip| ip.protocol == PROTO_ICMPV6)?;
        frame.get(ip.payload_at..ip.end)?.first().copied()
    };
    eth.ethertype == ETHERTYPE_ARP
        || eth.ethertype == ETHERTYPE_IPV6
            && matches!(icmp(), Some(NDP_SOLICITATION | NDP_ADVERTISEMENT))
}

/// The neighbour a frame from the client side reveals: who has which MAC.
pub fn learn(frame: &[u8]) -> Option<(IpAddr, Mac)> {
    let eth = Ethernet::parse(frame)?;
    let found = match eth.ethertype {
        ETHERTYPE_ARP => parse_arp(frame)?.1,
        _ => (Ip::parse(frame)?.src, eth.src),
    };
    let multicast = found.1[0] & 1 != 0;
    (!multicast && !found.0.is_unspecified()).then_some(found)
}

/// The answer to `question`: `mac` is what the target has.
pub fn build_answer(question: &Solicitation, mac: Mac) -> Option<SmallFrame> {
    let (to_ip, to_mac) = question.sender;
    match (question.target, to_ip) {
        (IpAddr::V4(target), IpAddr::V4(to)) => Some(arp(2, (target, mac), (to, to_mac), to_mac)),
        (IpAddr::V6(target), to) => {
            // A probe from :: is answered to all nodes, unsolicited (RFC 4861 7.2.4).
            if to.is_unspecified() {
                return build_announcement(target.into(), mac);
            }
            advertisement(target, mac, to, to_mac, NA_OVERRIDE | NA_SOLICITED)
        }
        _ => None,
    }
}

/// Gratuitous ARP (RFC 5227 announcement) or unsolicited NA (RFC 4861 7.2.6), from the MAC itself.
pub fn build_announcement(ip: IpAddr, mac: Mac) -> Option<SmallFrame> {
    match ip {
        IpAddr::V4(ip) => Some(arp(1, (ip, mac), (ip, [0; 6]), BROADCAST)),
        IpAddr::V6(ip) => {
            let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            let group_mac = [0x33, 0x33, 0, 0, 0, 1];
            advertisement(ip, mac, all_nodes.into(), group_mac, NA_OVERRIDE)
        }
    }
}

fn arp(op: u16, sender: (Ipv4Addr, Mac), target: (Ipv4Addr, Mac), eth_dst: Mac) -> SmallFrame {
    let mut out = SmallFrame::new();
    out.extend(Ethernet { dst: eth_dst, src: sender.1, ethertype: ETHERTYPE_ARP }.bytes());
    out.extend([0, 1, 8, 0, 6, 4]);
    out.extend(op.to_be_bytes());
    for (ip, mac) in [sender, target] {
        out.extend(mac);
        out.extend(ip.octets());
    }
    out
}

fn advertisement(
    target: Ipv6Addr,
    mac: Mac,
    to: IpAddr,
    eth_dst: Mac,
    flags: u8,
) -> Option<SmallFrame> {
    let mut icmp = [0u8; 32];
    icmp[0] = NDP_ADVERTISEMENT;
    icmp[4] = flags;
    icmp[8..24].copy_from_slice(&target.octets());
    icmp[24..26].copy_from_slice(&[NDP_OPTION_TARGET_MAC, 1]);
    icmp[26..32].copy_from_slice(&mac);
    let sum = Sum::default().add_pseudo(target.into(), to, PROTO_ICMPV6, icmp.len());
    let check = sum.plus(&icmp).finish();
    icmp[2..4].copy_from_slice(&check.to_be_bytes());
    let mut out = SmallFrame::new();
    out.extend(Ethernet { dst: eth_dst, src: mac, ethertype: ETHERTYPE_IPV6 }.bytes());
    push_ip_header(&mut out, target.into(), to, PROTO_ICMPV6, icmp.len())?;
    out.try_extend_from_slice(&icmp).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VMAC: Mac = [0, 0, 0x5e, 0, 1, 51];
    const CLIENT: Mac = [2, 0, 0, 0, 0, 1];

    #[test]
    fn arp_question_and_answer() {
        let (me, vip) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 100));
        let ask = arp(1, (me, CLIENT), (vip, [0; 6]), BROADCAST);
        let q = parse_solicitation(&ask).unwrap();
        assert_eq!(q, Solicitation { sender: (me.into(), CLIENT), target: vip.into() });
        assert_eq!(learn(&ask), Some((me.into(), CLIENT)));
        let answer = build_answer(&q, VMAC).unwrap();
        assert!(parse_solicitation(&answer).is_none());
        assert_eq!(learn(&answer), Some((vip.into(), VMAC)));
        assert_eq!(Ethernet::parse(&answer).unwrap().dst, CLIENT);
    }

    #[test]
    fn announcements_come_from_the_mac_itself() {
        for ip in ["10.0.0.100", "fd77::100"] {
            let frame = build_announcement(ip.parse().unwrap(), VMAC).unwrap();
            let eth = Ethernet::parse(&frame).unwrap();
            assert_eq!(eth.src, VMAC);
            assert!(eth.dst[0] & 1 == 1);
            assert_eq!(learn(&frame), Some((ip.parse().unwrap(), VMAC)));
        }
    }

    #[test]
    fn advertisement_checksum_is_right() {
        let frame = build_announcement("fd77::100".parse().unwrap(), VMAC).unwrap();
        let ip = Ip::parse(&frame).unwrap();
        let icmp = &frame[ip.payload_at..ip.end];
        let sum = Sum::default().add_pseudo(ip.src, ip.dst, PROTO_ICMPV6, icmp.len()).plus(icmp);
        assert_eq!(sum.finish(), 0);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100), arp: bool) {
            let mut bytes = bytes;
            if bytes.len() > 14 {
                let kind = if arp { ETHERTYPE_ARP } else { ETHERTYPE_IPV6 };
                bytes[12..14].copy_from_slice(&kind.to_be_bytes());
            }
            let _ = learn(&bytes);
            if let Some(q) = parse_solicitation(&bytes) { let _ = build_answer(&q, VMAC); }
        }
    }
}
