//! One direction of a TCP connection, put together again from captured frames.

use std::collections::{BTreeMap, BTreeSet};

use crate::capture::{Captured, Port, Recording};
use crate::frame::{Body, Tcp, flag, parse};

/// What one end said.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// Its bytes, from the first one on, without a gap.
    pub bytes: Vec<u8>,
    /// When how many of them had been said: (ns since 1970, bytes).
    pub growth: Vec<(u64, usize)>,
    /// The first byte that was said again and was another one.
    pub contradiction: Option<usize>,
    /// Whether it closed or reset the connection.
    pub is_closed: bool,
    later: BTreeMap<usize, Vec<u8>>,
}

impl Said {
    /// Takes a segment of a stream whose first byte has the number `first`.
    fn take(&mut self, first: u32, unix_ns: u64, tcp: &Tcp) {
        self.is_closed |= tcp.flags & (flag::FIN | flag::RST) != 0;
        let at = tcp.seq.wrapping_sub(first) as i32;
        // A probe of an idle connection repeats a byte that may be the SYN.
        let Ok(at) = usize::try_from(at) else { return };
        if tcp.payload.is_empty() || tcp.payload.len() != tcp.payload_bytes {
            return;
        }
        self.later.insert(at, tcp.payload.clone());
        let before = self.bytes.len();
        while let Some(entry) = self.later.first_entry().filter(|e| *e.key() <= self.bytes.len()) {
            let (at, bytes) = entry.remove_entry();
            self.join(at, &bytes);
        }
        if self.bytes.len() > before {
            self.growth.push((unix_ns, self.bytes.len()));
        }
    }

    fn join(&mut self, at: usize, bytes: &[u8]) {
        let known = (self.bytes.len() - at).min(bytes.len());
        let differs = self.bytes[at..at + known].iter().zip(bytes).position(|(a, b)| a != b);
        self.contradiction = self.contradiction.or(differs.map(|offset| at + offset));
        self.bytes.extend(&bytes[known..]);
    }

    /// When the byte before `end` was said first.
    pub fn said_at(&self, end: usize) -> Option<u64> {
        self.growth.iter().find(|(_, length)| *length >= end).map(|(at, _)| *at)
    }
}

/// A connection to a port of the service.
pub struct Connection {
    /// The client's port.
    pub client_port: u16,
    service_port: u16,
    client_first: u32,
    service_first: u32,
}

/// Segments in a recording, in order of time.
fn segments(recording: &Recording) -> impl Iterator<Item = (&Captured, Tcp)> {
    recording.frames.iter().filter_map(|captured| match parse(&captured.bytes)?.body {
        Body::Tcp(tcp) => Some((captured, tcp)),
        _ => None,
    })
}

/// Every connection that clients began with a service's port and that was answered.
pub fn connections(recording: &Recording, service_port: u16) -> Vec<Connection> {
    let (mut begun, mut seen) = (Vec::new(), BTreeSet::new());
    for (captured, tcp) in segments(recording) {
        let answers = tcp.flags & (flag::SYN | flag::ACK) == flag::SYN | flag::ACK;
        if matches!(captured.port, Port::Node(_))
            && answers
            && tcp.source == service_port
            && seen.insert((tcp.destination, tcp.ack))
        {
            begun.push(Connection {
                client_port: tcp.destination,
                service_port,
                client_first: tcp.ack,
                service_first: tcp.seq.wrapping_add(1),
            });
        }
    }
    begun
}

impl Connection {
    /// What the service said, as seen at these ports.
    pub fn service_said(&self, recording: &Recording, ports: impl Fn(Port) -> bool) -> Said {
        let mut said = Said::default();
        for (captured, tcp) in segments(recording) {
            let ours = (tcp.source, tcp.destination) == (self.service_port, self.client_port);
            if ours && ports(captured.port) {
                said.take(self.service_first, captured.unix_ns, &tcp);
            }
        }
        said
    }

    /// What the client said.
    pub fn client_said(&self, recording: &Recording) -> Said {
        let mut said = Said::default();
        for (captured, tcp) in segments(recording) {
            let ours = (tcp.source, tcp.destination) == (self.client_port, self.service_port);
            if ours && captured.port == Port::Clients {
                said.take(self.client_first, captured.unix_ns, &tcp);
            }
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(seq: u32, payload: &[u8]) -> Tcp {
        Tcp {
            source: 1,
            destination: 2,
            seq,
            ack: 0,
            flags: flag::ACK,
            window: 0,
            timestamp: None,
            payload_bytes: payload.len(),
            payload: payload.to_vec(),
        }
    }

    #[test]
    fn segments_come_together_in_any_order_and_lies_are_seen() {
        let first = u32::MAX - 1;
        let mut said = Said::default();
        for (at, payload) in [(3, &b"def"[..]), (0, b"abc"), (2, b"cde"), (6, b"g")] {
            said.take(first, 5, &segment(first.wrapping_add(at), payload));
        }
        assert_eq!((said.bytes.as_slice(), said.contradiction), (&b"abcdefg"[..], None));
        said.take(first, 6, &segment(first.wrapping_add(4), b"eX"));
        assert_eq!((said.contradiction, said.growth.last()), (Some(5), Some(&(5, 7))));
        assert_eq!(said.said_at(3), Some(5));
    }
}
