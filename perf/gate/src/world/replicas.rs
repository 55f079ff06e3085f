//! The other nodes: whatever the primary sends, each acknowledges at the next poll, so the log
//! never fills and the commit point follows.

use understudy_seal::Channel;
use understudy_wire::Position;
use understudy_wire::frame::{ETH_LEN, Ethernet, Mac};
use understudy_wire::pdu::{
    Ack, DATA_HEADER_LEN, ETHERTYPE_REPLICA, PDU_HEADER_LEN, PDU_OVERHEAD_LEN, PduHeader, PduKind,
};

use super::{CLUSTER, EPOCH, REPLICA_MAC, REPLICAS, channel};

/// Longest frame that they send.
const ANSWER_BYTES_MAX: usize = 256;

/// Replicas without logs: acknowledging needs only the lengths of what is sent.
pub struct Replicas {
    nodes: Vec<(Mac, Channel)>,
    sent_to: Position,
    unanswered: bool,
    pdus: u64,
}

impl Default for Replicas {
    fn default() -> Replicas {
        let node = |id: u16| ([2, 0, 0, 0, 0, id as u8], channel(id));
        Replicas { nodes: REPLICAS.map(node).into(), sent_to: 0, unanswered: false, pdus: 0 }
    }
}

impl Replicas {
    /// Where the log ends that they hold.
    pub fn sent_to(&self) -> Position {
        self.sent_to
    }

    /// They have got the log up to here from an earlier primary.
    pub fn hold(&mut self, position: Position) {
        self.sent_to = position;
    }

    /// DATA PDUs so far.
    pub fn pdus(&self) -> u64 {
        self.pdus
    }

    /// Whether they have something to say.
    pub fn has_answers(&self) -> bool {
        self.unanswered
    }

    /// Takes a frame from the primary. Adds up the log bytes of DATA PDUs: they are sent once and
    /// in order. Opening them is a replica's cost and not measured here.
    pub fn take(&mut self, now_ns: u64, frame: &[u8]) {
        let pdu = &frame[ETH_LEN..];
        match PduHeader::decode(pdu, CLUSTER) {
            Ok((PduHeader { kind: PduKind::Data, .. }, _, body_len)) => {
                debug_assert_eq!(PDU_OVERHEAD_LEN + body_len, pdu.len());
                self.sent_to += (body_len - DATA_HEADER_LEN) as u64;
                self.pdus += 1;
                self.unanswered = true;
            }
            Ok((PduHeader { kind: PduKind::Challenge, target, .. }, ..)) => {
                let node = self.nodes.get_mut(usize::from(target).wrapping_sub(2));
                let mut pdu = pdu.to_vec();
                if let Some((_, channel)) = node {
                    let _ = channel.open_in_place(now_ns, &mut pdu);
                }
                self.unanswered = true;
            }
            _ => {}
        }
    }

    /// Gives what each has to say: the answer to a challenge, else an acknowledgement.
    pub fn answer(&mut self, now_ns: u64, mut send: impl FnMut(&[u8])) {
        self.unanswered = false;
        let mut frame = [0; ANSWER_BYTES_MAX];
        for (mac, channel) in &mut self.nodes {
            let eth = Ethernet { dst: REPLICA_MAC, src: *mac, ethertype: ETHERTYPE_REPLICA };
            frame[..ETH_LEN].copy_from_slice(&eth.bytes());
            if let Some(proof) = channel.poll_handshake(now_ns) {
                // The acknowledgement comes next.
                self.unanswered = true;
                let end = ETH_LEN + proof.pdu.len();
                frame[ETH_LEN..end].copy_from_slice(&proof.pdu);
                send(&frame[..end]);
                continue;
            }
            let position = self.sent_to;
            let ack =
                Ack { position, applied: position, covered: position, echo_ns: now_ns }.encode();
            let pdu = &mut frame[ETH_LEN..][..PDU_OVERHEAD_LEN + ack.len()];
            pdu[PDU_HEADER_LEN..][..ack.len()].copy_from_slice(&ack);
            if channel.seal_in_place(PduKind::Ack, 1, EPOCH, pdu).is_ok() {
                send(&frame[..ETH_LEN + PDU_OVERHEAD_LEN + ack.len()]);
            }
        }
    }
}
