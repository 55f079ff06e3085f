//! TCP segments (RFC 9293, 7323): a parsed view, sequence arithmetic, bare-ACK builder.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use arrayvec::ArrayVec;

use crate::checksum::{Sum, update_u32};
use crate::frame::{ETH_LEN, Ethernet, Ip, PROTO_TCP, be16, be32};

/// FIN flag.
pub const FIN: u8 = 0x01;
/// SYN flag.
pub const SYN: u8 = 0x02;
/// RST flag.
pub const RST: u8 = 0x04;
/// ACK flag.
pub const ACK: u8 = 0x10;
/// ECE flag.
pub const ECE: u8 = 0x40;

/// `a` is before `b` in sequence space.
pub fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// The later of two sequence numbers.
pub fn later(a: u32, b: u32) -> u32 {
    if before(a, b) { b } else { a }
}

/// Both ends of a connection, seen from the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    /// The client's address and port.
    pub client: (IpAddr, u16),
    /// The service's address and port.
    pub server: (IpAddr, u16),
}

impl Hash for FlowKey {
    /// In few and large pieces: each has its price, and every frame's connection is looked up.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        match (self.client.0, self.server.0) {
            (IpAddr::V4(client), IpAddr::V4(server)) => {
                state.write_u64(u64::from(client.to_bits()) << 32 | u64::from(server.to_bits()));
            }
            (client, server) => [client, server].iter().for_each(|ip| match ip {
                IpAddr::V4(ip) => state.write_u32(ip.to_bits()),
                IpAddr::V6(ip) => state.write_u128(ip.to_bits()),
            }),
        }
        state.write_u32(u32::from(self.client.1) << 16 | u32::from(self.server.1));
    }
}

/// The options a connection's life depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// Maximum segment size (SYN only).
    pub mss: Option<u16>,
    /// Window scale shift (SYN only).
    pub wscale: Option<u8>,
    /// SACK permitted (SYN only).
    pub sack_permitted: bool,
    /// TSval and TSecr.
    pub timestamps: Option<(u32, u32)>,
    /// Offset of TSval in the frame, when `timestamps` is there.
    pub tsval_at: usize,
}

/// A TCP segment in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The packet it came in.
    pub ip: Ip,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number of the first byte (or of SYN).
    pub seq: u32,
    /// Acknowledgement number; meaningful with the ACK flag.
    pub ack: u32,
    /// Flag bits.
    pub flags: u8,
    /// Window field, unscaled.
    pub window: u16,
    /// Parsed options.
    pub options: TcpOptions,
    /// Bytes of payload.
    pub payload_len: u32,
}

impl Segment {
    /// `None` for what is not an intact TCP segment; its checksum is not looked at.
    pub fn parse(frame: &[u8]) -> Option<Segment> {
        let ip = Ip::parse(frame)?;
        if ip.protocol != PROTO_TCP {
            return None;
        }
        let tcp = frame.get(ip.payload_at..ip.end)?;
        let b: &[u8; 20] = tcp.first_chunk()?;
        let header_len = usize::from(b[12] >> 4) * 4;
        if header_len < 20 || tcp.len() < header_len {
            return None;
        }
        Some(Segment {
            ip,
            src_port: u16::from_be_bytes([b[0], b[1]]),
            dst_port: u16::from_be_bytes([b[2], b[3]]),
            seq: u32::from_be_bytes([b[4], b[5], b[6], b[7]]),
            ack: u32::from_be_bytes([b[8], b[9], b[10], b[11]]),
            flags: b[13],
            window: u16::from_be_bytes([b[14], b[15]]),
            options: match &tcp[20..header_len] {
                [] => TcpOptions::default(),
                options => parse_options(options, ip.payload_at + 20),
            },
            payload_len: (tcp.len() - header_len) as u32,
        })
    }

    /// Whether all of the given flags are set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Sequence space it takes: payload, SYN and FIN.
    pub fn seq_len(&self) -> u32 {
        self.payload_len + u32::from(self.has(SYN)) + u32::from(self.has(FIN))
    }

    /// The sequence number after it.
    pub fn seq_end(&self) -> u32 {
        self.seq.wrapping_add(self.seq_len())
    }

    /// Its payload, in the frame it was parsed from.
    pub fn payload<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        let from = self.ip.end.saturating_sub(self.payload_len as usize);
        frame.get(from..self.ip.end).unwrap_or_default()
    }

    /// The flow, for a segment from the client.
    pub fn key_from_client(&self) -> FlowKey {
        FlowKey { client: (self.ip.src, self.src_port), server: (self.ip.dst, self.dst_port) }
    }

    /// The flow, for a segment from the service.
    pub fn key_from_server(&self) -> FlowKey {
        FlowKey { client: (self.ip.dst, self.dst_port), server: (self.ip.src, self.src_port) }
    }

    /// Verifies the TCP checksum over the frame it was parsed from.
    pub fn checksum_ok(&self, frame: &[u8]) -> bool {
        let Some(tcp) = frame.get(self.ip.payload_at..self.ip.end) else { return false };
        let sum = Sum::default().add_pseudo(self.ip.src, self.ip.dst, PROTO_TCP, tcp.len());
        sum.plus(tcp).finish() == 0
    }
}

fn parse_options(mut bytes: &[u8], mut at: usize) -> TcpOptions {
    let mut out = TcpOptions::default();
    while let Some(&kind) = bytes.first() {
        let len = match kind {
            0 => break,
            1 => 1,
            _ => match bytes.get(1) {
                Some(&len) if len >= 2 && usize::from(len) <= bytes.len() => usize::from(len),
                _ => break,
            },
        };
        match (kind, len) {
            (2, 4) => out.mss = be16(bytes, 2),
            (3, 3) => out.wscale = Some(bytes[2].min(14)),
            (4, 2) => out.sack_permitted = true,
            (8, 10) => {
                out.timestamps = be32(bytes, 2).zip(be32(bytes, 6));
                out.tsval_at = at + 2;
            }
            _ => {}
        }
        bytes = &bytes[len..];
        at += len;
    }
    out
}

/// A frame built here; nothing built here is longer.
pub type SmallFrame = ArrayVec<u8, 128>;

/// What a bare ACK says.
#[derive(Clone, Copy, Debug)]
pub struct BareAck {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Window field, unscaled.
    pub window: u16,
    /// TSval and TSecr, when the connection uses them.
    pub timestamps: Option<(u32, u32)>,
}

/// Builds an ACK without payload from the same client as `like`, a segment in `frame`.
pub fn build_bare_ack(frame: &[u8], like: &Segment, what: &BareAck) -> Option<SmallFrame> {
    let mut tcp: ArrayVec<u8, 32> = ArrayVec::new();
    let options_len = if what.timestamps.is_some() { 12 } else { 0 };
    tcp.extend(like.src_port.to_be_bytes());
    tcp.extend(like.dst_port.to_be_bytes());
    tcp.extend(what.seq.to_be_bytes());
    tcp.extend(what.ack.to_be_bytes());
    tcp.extend([((20 + options_len) as u8 / 4) << 4, ACK]);
    tcp.extend(what.window.to_be_bytes());
    tcp.extend([0; 4]);
    if let Some((tsval, tsecr)) = what.timestamps {
        tcp.extend([1, 1, 8, 10]);
        tcp.extend(tsval.to_be_bytes());
        tcp.extend(tsecr.to_be_bytes());
    }
    let sum = Sum::default().add_pseudo(like.ip.src, like.ip.dst, PROTO_TCP, tcp.len());
    let check = sum.plus(&tcp).finish();
    tcp[16..18].copy_from_slice(&check.to_be_bytes());

    let eth = Ethernet::parse(frame)?;
    let mut out = SmallFrame::new();
    out.extend(eth.bytes());
    push_ip_header(&mut out, like.ip.src, like.ip.dst, PROTO_TCP, tcp.len())?;
    out.try_extend_from_slice(&tcp).ok()?;
    Some(out)
}

/// Appends an IP header without options for a payload of `len` bytes.
pub(crate) fn push_ip_header(
    out: &mut SmallFrame,
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    len: usize,
) -> Option<()> {
    match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            let at = out.len();
            out.extend([0x45, 0]);
            out.extend((20 + len as u16).to_be_bytes());
            out.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            out.extend(s.octets());
            out.extend(d.octets());
            let check = Sum::default().plus(&out[at..]).finish();
            out[at + 10..at + 12].copy_from_slice(&check.to_be_bytes());
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            out.extend([0x60, 0, 0, 0]);
            out.extend((len as u16).to_be_bytes());
            out.extend([protocol, 255]);
            out.extend(s.octets());
            out.extend(d.octets());
        }
        _ => return None,
    }
    Some(())
}

/// Sets TSval in place and mends the checksum. `segment` was parsed from `frame`.
pub fn set_tsval(frame: &mut [u8], segment: &Segment, tsval: u32) {
    let Some((old, _)) = segment.options.timestamps else { return };
    let (ts_at, check_at) = (segment.options.tsval_at, segment.ip.payload_at + 16);
    let Some(check) = be16(frame, check_at) else { return };
    // RFC 1624 works on 16-bit words: at an odd offset the bytes of each word trade places.
    let odd = !(ts_at - segment.ip.payload_at).is_multiple_of(2);
    let new_check = if odd {
        update_u32(check.swap_bytes(), old, tsval).swap_bytes()
    } else {
        update_u32(check, old, tsval)
    };
    if let Some(bytes) = frame.get_mut(ts_at..ts_at + 4) {
        bytes.copy_from_slice(&tsval.to_be_bytes());
        frame[check_at..check_at + 2].copy_from_slice(&new_check.to_be_bytes());
    }
}

/// Builds any small TCP frame; for tests and simulators.
pub fn build_segment(
    eth: &Ethernet,
    from: (IpAddr, u16),
    to: (IpAddr, u16),
    fields: (u32, u32, u8, u16),
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let (seq, ack, flags, window) = fields;
    let mut opts = options.to_vec();
    opts.resize(opts.len().next_multiple_of(4), 1);
    let mut tcp = Vec::new();
    tcp.extend(from.1.to_be_bytes());
    tcp.extend(to.1.to_be_bytes());
    tcp.extend(seq.to_be_bytes());
    tcp.extend(ack.to_be_bytes());
    tcp.extend([((20 + opts.len()) as u8 / 4) << 4, flags]);
    tcp.extend(window.to_be_bytes());
    tcp.extend([0; 4]);
    tcp.extend(&opts);
    tcp.extend(payload);
    let sum = Sum::default().add_pseudo(from.0, to.0, PROTO_TCP, tcp.len()).plus(&tcp);
    tcp[16..18].copy_from_slice(&sum.finish().to_be_bytes());
    let mut small = SmallFrame::new();
    small.extend(eth.bytes());
    let _ = push_ip_header(&mut small, from.0, to.0, PROTO_TCP, tcp.len());
    debug_assert!(small.len() > ETH_LEN);
    let mut out = small.to_vec();
    out.extend(tcp);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ETH: Ethernet = Ethernet { dst: [2; 6], src: [4; 6], ethertype: 0x0800 };
    const ETH6: Ethernet = Ethernet { ethertype: 0x86dd, ..ETH };

    fn ends(v6: bool) -> ((IpAddr, u16), (IpAddr, u16)) {
        if v6 {
            (("fd77::1".parse().unwrap(), 40000), ("fd77::100".parse().unwrap(), 6379))
        } else {
            (("10.0.0.1".parse().unwrap(), 40000), ("10.0.0.100".parse().unwrap(), 6379))
        }
    }

    fn sample(v6: bool, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let (c, s) = ends(v6);
        let eth = if v6 { ETH6 } else { ETH };
        build_segment(&eth, c, s, (1000, 2000, flags, 512), options, payload)
    }

    #[test]
    fn syn_options_are_read() {
        let options = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9, 1, 3, 3, 7];
        let seg = Segment::parse(&sample(false, SYN, &options, b"")).unwrap();
        let o = seg.options;
        assert_eq!((o.mss, o.wscale, o.sack_permitted), (Some(1460), Some(7), true));
        assert_eq!(o.timestamps, Some((7, 9)));
        assert_eq!(seg.seq_len(), 1);
    }

    #[test]
    fn bare_ack_is_intact_on_both_families() {
        for v6 in [false, true] {
            let frame = sample(v6, ACK, &[], b"payload");
            let like = Segment::parse(&frame).unwrap();
            assert!(like.checksum_ok(&frame));
            let what = BareAck { seq: 5, ack: 6, window: 7, timestamps: Some((8, 9)) };
            let out = build_bare_ack(&frame, &like, &what).unwrap();
            let seg = Segment::parse(&out).unwrap();
            assert!(seg.checksum_ok(&out));
            assert_eq!((seg.seq, seg.ack, seg.window, seg.flags), (5, 6, 7, ACK));
            assert_eq!(seg.options.timestamps, Some((8, 9)));
            assert_eq!(seg.key_from_client(), like.key_from_client());
        }
    }

    #[test]
    fn tsval_is_patched_at_even_and_odd_offsets() {
        for options in
            [&[1u8, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8][..], &[1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]]
        {
            let mut frame = sample(false, ACK, options, b"xyz");
            let seg = Segment::parse(&frame).unwrap();
            set_tsval(&mut frame, &seg, 0xcafe_0042);
            let after = Segment::parse(&frame).unwrap();
            assert!(after.checksum_ok(&frame));
            assert_eq!(after.options.timestamps, Some((0xcafe_0042, 0x0506_0708)));
        }
    }

    proptest! {
        #[test]
        fn mutated_frames_never_panic(at in 0usize..90, value: u8, cut in 0usize..90, v6: bool) {
            let mut frame = sample(v6, SYN | ACK, &[2, 4, 5, 180, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9], b"hello");
            if at < frame.len() { frame[at] = value; }
            frame.truncate(cut);
            if let Some(seg) = Segment::parse(&frame) {
                let _ = seg.checksum_ok(&frame);
                let what = BareAck { seq: 1, ack: 2, window: 3, timestamps: None };
                let _ = build_bare_ack(&frame, &seg, &what);
                set_tsval(&mut frame, &seg, 1);
            }
        }

        #[test]
        fn sequence_order_wraps(a: u32, d in 1u32..0x7fff_ffff) {
            let b = a.wrapping_add(d);
            prop_assert!(before(a, b) && !before(b, a) && later(a, b) == b);
        }
    }
}
