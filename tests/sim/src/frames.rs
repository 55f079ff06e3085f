//! Addresses of the simulated networks, and frames as their ends build them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use understudy_seal::{Channel, ClusterKey, Keyring, Path, Scope};
use understudy_wire::frame::{
    ETH_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ip, Mac, PROTO_ICMPV6,
};
use understudy_wire::neighbor::{build_announcement, build_answer, parse_solicitation};
use understudy_wire::tcp::{Segment, build_segment};
use understudy_wire::{NodeId, Position};

use crate::rng::Rng;
use crate::tcb::Out;

/// The service's virtual MAC.
pub const VMAC: Mac = [0, 0, 0x5e, 0, 1, 51];
/// The service's virtual addresses.
pub const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 100));
/// See [`VIP4`].
pub const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100));
const NDP_SOLICITATION: u8 = 135;
/// The service's port.
pub const SERVICE_PORT: u16 = 7000;
/// The group.
pub const CLUSTER: u64 = 0x5eed;

/// The key of the group.
pub fn cluster_key() -> ClusterKey {
    ClusterKey::new([0x5e; 32])
}

/// A node's end of a path.
pub fn channel(me: NodeId, nodes: u16, path: Path, rng: &mut Rng) -> Channel {
    let peers: Vec<NodeId> = (1..=nodes).filter(|&n| n != me).collect();
    let mut entropy = [0; 32];
    for word in entropy.chunks_exact_mut(8) {
        word.copy_from_slice(&rng.bits().to_le_bytes());
    }
    let scope = Scope { cluster: CLUSTER, path };
    Channel::new(me, scope, &peers, &Keyring::single(cluster_key()), entropy)
}

/// The address of a client machine.
pub fn client_ip(host: usize, v6: bool) -> IpAddr {
    let last = 1 + host as u8;
    if v6 {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(last)).into()
    } else {
        Ipv4Addr::new(10, 0, 0, last).into()
    }
}

/// The service's address in the family of `ip`.
pub fn vip_for(ip: IpAddr) -> IpAddr {
    if ip.is_ipv6() { VIP6 } else { VIP4 }
}

/// The MAC of a client machine.
pub fn client_mac(host: usize) -> Mac {
    [2, 0, 0, 0, 0, 1 + host as u8]
}

/// The MAC of a node's replica port.
pub fn replica_mac(id: NodeId) -> Mac {
    [2, 0, 0, 0, 1, id as u8]
}

/// A frame, and what caused it.
#[derive(Clone, Debug)]
pub struct SimFrame {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The position of the log up to which the capsule had been fed when its kernel made this frame.
    pub cause: Option<Position>,
    /// The how manieth of this kernel it is.
    pub nth: u64,
}

impl AsRef<[u8]> for SimFrame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for SimFrame {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl SimFrame {
    /// A frame that nothing of the log caused.
    pub fn new(bytes: Vec<u8>) -> SimFrame {
        SimFrame { bytes, cause: None, nth: 0 }
    }
}

/// An address and MAC of one end.
pub type End = ((IpAddr, u16), Mac);

/// A segment on the wire.
pub fn tcp_frame(from: End, to: End, out: &Out) -> Vec<u8> {
    let mut options = Vec::new();
    if let Some((tsval, tsecr)) = out.timestamps {
        options.extend([1, 1, 8, 10]);
        options.extend(tsval.to_be_bytes());
        options.extend(tsecr.to_be_bytes());
    }
    let fields = (out.seq, out.ack, out.flags, out.window);
    raw_frame(from, to, fields, &options, &out.payload)
}

/// A segment with options of the caller's.
pub fn raw_frame(
    from: End,
    to: End,
    fields: (u32, u32, u8, u16),
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let eth = Ethernet { dst: to.1, src: from.1, ethertype: ethertype(from.0.0) };
    build_segment(&eth, from.0, to.0, fields, options, payload)
}

/// What a SYN or SYN-ACK offers.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Maximum segment size.
    pub mss: u16,
    /// Window scale.
    pub wscale: Option<u8>,
    /// TSval and TSecr.
    pub timestamps: Option<(u32, u32)>,
}

/// The offer as TCP options.
pub fn offer_options(offer: &Offer) -> Vec<u8> {
    let mut out = vec![2, 4];
    out.extend(offer.mss.to_be_bytes());
    if let Some(scale) = offer.wscale {
        out.extend([1, 3, 3, scale]);
    }
    if let Some((tsval, tsecr)) = offer.timestamps {
        out.extend([1, 1, 8, 10]);
        out.extend(tsval.to_be_bytes());
        out.extend(tsecr.to_be_bytes());
    }
    out
}

/// The data of a segment.
pub fn payload<'a>(frame: &'a [u8], segment: &Segment) -> &'a [u8] {
    &frame[segment.ip.end - segment.payload_len as usize..segment.ip.end]
}

/// The EtherType of an address's family.
pub fn ethertype(ip: IpAddr) -> u16 {
    if ip.is_ipv6() { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 }
}

/// An ARP request or neighbour solicitation by `asker` for `target`.
pub fn neighbor_request(asker: (IpAddr, Mac), target: IpAddr) -> Vec<u8> {
    let mut out = build_announcement(asker.0, asker.1).map(|f| f.to_vec()).unwrap_or_default();
    match target {
        IpAddr::V4(ip) => out[38..42].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => {
            // The advertisement that it announces itself with, as a question.
            let icmp = ETH_LEN + 40;
            (out[icmp], out[icmp + 4], out[icmp + 24]) = (NDP_SOLICITATION, 0, 1);
            out[icmp + 8..icmp + 24].copy_from_slice(&ip.octets());
        }
    }
    out
}

/// The answer of whoever has the asked address, if this frame asks for it.
pub fn neighbor_answer(frame: &[u8], me: (IpAddr, Mac)) -> Option<Vec<u8>> {
    let question = parse_solicitation(frame)?;
    let mine = question.target == me.0 && question.sender.0 != me.0;
    mine.then(|| build_answer(&question, me.1).map(|f| f.to_vec()))?
}

/// Whether this is ARP or neighbour discovery.
pub fn is_neighbor(frame: &[u8]) -> bool {
    let arp = Ethernet::parse(frame).is_some_and(|eth| eth.ethertype == ETHERTYPE_ARP);
    arp || Ip::parse(frame).is_some_and(|ip| ip.protocol == PROTO_ICMPV6)
}
