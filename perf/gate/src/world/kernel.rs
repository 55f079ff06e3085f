//! The capsule's kernel and application in miniature: whatever request a connection brings, its answer is as long.

use understudy_fastpath::adoption::AdoptAttrs;
use understudy_wire::frame::{ETHERTYPE_IPV4, Ethernet};
use understudy_wire::tcp::{ACK, FlowKey, SYN, Segment, build_segment};

use super::crowd::SERVER_ISN;
use super::{CLIENT_MAC, VMAC, WINDOW};

/// Where a connection stands, as RFC 9293 names it.
#[derive(Clone, Copy, Default)]
struct Connection {
    snd_nxt: u32,
    rcv_nxt: u32,
}

/// Connections by client port.
pub struct Kernel {
    connections: Vec<Option<Connection>>,
    payload: Vec<u8>,
}

impl Default for Kernel {
    fn default() -> Kernel {
        Kernel { connections: vec![None; usize::from(u16::MAX) + 1], payload: Vec::new() }
    }
}

impl Kernel {
    /// A connection that was begun elsewhere.
    pub fn adopt(&mut self, key: &FlowKey, attrs: &AdoptAttrs) {
        let (rcv_nxt, snd_nxt) = attrs.first;
        self.connections[usize::from(key.client.1)] = Some(Connection { snd_nxt, rcv_nxt });
    }

    /// A frame for the application; what it answers.
    pub fn take(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let segment = Segment::parse(frame)?;
        let key = segment.key_from_client();
        let place = &mut self.connections[usize::from(key.client.1)];
        if segment.has(SYN) {
            let rcv_nxt = segment.seq_end();
            *place = Some(Connection { snd_nxt: SERVER_ISN.wrapping_add(1), rcv_nxt });
            return Some(say(&key, (SERVER_ISN, rcv_nxt, SYN | ACK), &[]));
        }
        let connection = place.as_mut()?;
        if segment.payload_len == 0 || segment.seq != connection.rcv_nxt {
            return None;
        }
        connection.rcv_nxt = segment.seq_end();
        let numbers = (connection.snd_nxt, connection.rcv_nxt, ACK);
        self.payload.resize(segment.payload_len as usize, 0x5a);
        connection.snd_nxt = connection.snd_nxt.wrapping_add(segment.payload_len);
        Some(say(&key, numbers, &self.payload))
    }
}

fn say(key: &FlowKey, (seq, ack, flags): (u32, u32, u8), payload: &[u8]) -> Vec<u8> {
    let eth = Ethernet { dst: CLIENT_MAC, src: VMAC, ethertype: ETHERTYPE_IPV4 };
    build_segment(&eth, key.server, key.client, (seq, ack, flags, WINDOW), &[], payload)
}
