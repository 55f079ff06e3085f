//! Datagrams: the service's replies over UDP, and a client that repeats itself until it has them.
//!
//! A request is a number, one above the last one answered, and a wish. A client without a reply asks
//! again, and may wish something else by then. The service folds the first wish it gets for a number
//! into the client's digest, and answers with number and digest: a request forgotten, applied twice or
//! out of order, or a wish that never was history, shows in every reply after it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use understudy_wire::checksum::Sum;
use understudy_wire::frame::{ETH_LEN, Ethernet, Ip, PROTO_UDP};

use crate::frames::{End, SERVICE_PORT, ethertype};
use crate::rng::{Rng, mix};

const MS: u64 = 1_000_000;
const HEADER_LEN: usize = 8;
const RETRY_NS: u64 = 150 * MS;
const THINK_NS_MAX: u64 = 80 * MS;

/// A datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Sender.
    pub from: (IpAddr, u16),
    /// Addressee.
    pub to: (IpAddr, u16),
    /// Content.
    pub body: Vec<u8>,
}

/// The datagram in a frame, if its checksum is right.
pub fn parse(frame: &[u8]) -> Option<Datagram> {
    let ip = Ip::parse(frame).filter(|ip| ip.protocol == PROTO_UDP)?;
    let udp = frame.get(ip.payload_at..ip.end)?;
    let header: &[u8; HEADER_LEN] = udp.first_chunk()?;
    let sum = Sum::default().add_pseudo(ip.src, ip.dst, PROTO_UDP, udp.len()).plus(udp);
    let port = |at| u16::from_be_bytes([header[at], header[at + 1]]);
    (sum.finish() == 0).then(|| Datagram {
        from: (ip.src, port(0)),
        to: (ip.dst, port(2)),
        body: udp[HEADER_LEN..].to_vec(),
    })
}

/// A datagram as a frame.
pub fn frame(from: End, to: End, body: &[u8]) -> Vec<u8> {
    let len = HEADER_LEN + body.len();
    let mut udp = Vec::with_capacity(len);
    udp.extend(from.0.1.to_be_bytes());
    udp.extend(to.0.1.to_be_bytes());
    udp.extend((len as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(body);
    let sum = Sum::default().add_pseudo(from.0.0, to.0.0, PROTO_UDP, len).plus(&udp);
    udp[6..8].copy_from_slice(&sum.finish().to_be_bytes());
    let eth = Ethernet { dst: to.1, src: from.1, ethertype: ethertype(from.0.0) };
    [&eth.bytes()[..], &ip_header(from.0.0, to.0.0, len), &udp].concat()
}

fn ip_header(src: IpAddr, dst: IpAddr, len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            out.extend([0x45, 0]);
            out.extend((20 + len as u16).to_be_bytes());
            out.extend([0, 0, 0x40, 0, 64, PROTO_UDP, 0, 0]);
            out.extend(s.octets());
            out.extend(d.octets());
            let check = Sum::default().plus(&out).finish();
            out[10..12].copy_from_slice(&check.to_be_bytes());
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            out.extend([0x60, 0, 0, 0]);
            out.extend((len as u16).to_be_bytes());
            out.extend([PROTO_UDP, 64]);
            out.extend(s.octets());
            out.extend(d.octets());
        }
        _ => debug_assert!(false, "one family"),
    }
    debug_assert!(out.len() + ETH_LEN < 100);
    out
}

/// The application's state: for each client, the last number and its digest.
#[derive(Clone, Debug, Default)]
pub struct Service(BTreeMap<(IpAddr, u16), (u64, u64)>);

impl Service {
    /// What the service answers.
    pub fn reply(&mut self, datagram: &Datagram) -> Option<Vec<u8>> {
        let (number, wish) = words(&datagram.body)?;
        let (last, digest) = self.0.entry(datagram.from).or_default();
        if number > *last {
            (*last, *digest) = (number, fold(*digest, number, wish));
        }
        (number == *last).then(|| [number.to_be_bytes(), digest.to_be_bytes()].concat())
    }
}

fn fold(digest: u64, number: u64, wish: u64) -> u64 {
    mix(digest.rotate_left(7) ^ mix(number) ^ wish)
}

/// The two words of a request, and of a reply.
fn words(body: &[u8]) -> Option<(u64, u64)> {
    let (first, rest) = body.split_first_chunk()?;
    Some((u64::from_be_bytes(*first), u64::from_be_bytes(*rest.first_chunk()?)))
}

/// One client's conversation.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its port.
    pub port: u16,
    number: u64,
    /// Wished for this number, the newest last.
    wishes: Vec<u64>,
    digest: u64,
    due_ns: u64,
    waiting: bool,
    /// Replies that came.
    pub replies: u64,
}

impl Client {
    /// Begins at a moment.
    pub fn new(port: u16, at_ns: u64) -> Client {
        Client {
            port,
            number: 0,
            wishes: Vec::new(),
            digest: 0,
            due_ns: at_ns,
            waiting: false,
            replies: 0,
        }
    }

    /// When it has something to send, unless a reply comes first.
    pub fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// Nothing is outstanding.
    pub fn is_done(&self) -> bool {
        !self.waiting
    }

    /// What it sends now: the next request, or the last one again.
    pub fn send(&mut self, now_ns: u64, loading: bool, rng: &mut Rng) -> Option<Vec<u8>> {
        if !self.waiting && !loading {
            self.due_ns = u64::MAX;
            return None;
        }
        if !self.waiting {
            self.number += 1;
            self.wishes.clear();
        }
        if !self.waiting || rng.percent(50) {
            self.wishes.push(rng.bits());
        }
        self.waiting = true;
        self.due_ns = now_ns + RETRY_NS;
        let wish = self.wishes.last().copied().unwrap_or_default();
        Some([self.number.to_be_bytes(), wish.to_be_bytes()].concat())
    }

    /// Takes a reply. An error: it is not what the service owes.
    pub fn take(&mut self, now_ns: u64, body: &[u8], rng: &mut Rng) -> Result<(), String> {
        let Some((number, digest)) = words(body) else {
            return Err(format!("port {}: a reply of {} bytes", self.port, body.len()));
        };
        if number != self.number {
            // A late copy.
            return Ok(());
        }
        let owed = match self.waiting {
            true => self.wishes.iter().any(|wish| digest == fold(self.digest, number, *wish)),
            false => digest == self.digest,
        };
        if !owed {
            return Err(format!(
                "port {}: datagram {number} is answered from another past",
                self.port
            ));
        }
        if self.waiting {
            (self.waiting, self.digest) = (false, digest);
            self.replies += 1;
            self.due_ns = now_ns + rng.below(THINK_NS_MAX);
        }
        Ok(())
    }
}

/// The service's own end for a client's address.
pub fn service_end(vip: IpAddr) -> (IpAddr, u16) {
    (vip, SERVICE_PORT)
}
