//! Three ports in memory: frames come from a prefilled ring and go back to a pool.
//!
//! The replica network answers by itself: whatever the data path sends, every replica acknowledges
//! at the next poll, so the log never fills and the commit point follows.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use understudy_fastpath::adoption::AdoptAttrs;
use understudy_fastpath::ports::{Burst, Frame, PortRole, Ports};
use understudy_seal::Channel;
use understudy_wire::Position;
use understudy_wire::frame::{ETH_LEN, Ethernet, Mac};
use understudy_wire::pdu::{
    Ack, DATA_HEADER_LEN, ETHERTYPE_REPLICA, PDU_HEADER_LEN, PDU_OVERHEAD_LEN, PduHeader, PduKind,
};
use understudy_wire::tcp::FlowKey;

/// Bytes of a buffer, as in DPDK's default pool.
const BUFFER_LEN: usize = 2048;

type Buffer = Box<[u8; BUFFER_LEN]>;
type Pool = Rc<RefCell<Vec<Buffer>>>;

/// A frame in a buffer that goes back to its pool, as an mbuf does.
pub struct PooledFrame {
    buffer: Option<Buffer>,
    len: usize,
    pool: Pool,
}

impl Frame for PooledFrame {
    fn bytes(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer[..self.len])
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        self.buffer.as_mut().map_or(&mut [], |buffer| &mut buffer[..len])
    }
}

impl Drop for PooledFrame {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.pool.borrow_mut().push(buffer);
        }
    }
}

/// The world of one data path.
pub struct MemoryPorts {
    /// The clock; it moves when the benchmark moves it.
    pub now_ns: u64,
    /// Frames that reached the capsule's side.
    pub delivered: u64,
    /// DATA PDUs that reached the replica network.
    pub replicated: u64,
    pool: Pool,
    client: VecDeque<PooledFrame>,
    cluster: u64,
    epoch: u64,
    replicas: Vec<(Mac, Channel)>,
    sent_to: Position,
    unanswered: bool,
}

impl MemoryPorts {
    /// A world with `buffers` frames in its pool, in reign `epoch` of `cluster`, and with replicas
    /// at these ends of the replica port.
    pub fn new(buffers: usize, cluster: u64, epoch: u64, replicas: Vec<Channel>) -> MemoryPorts {
        let buffer = || Box::new([0; BUFFER_LEN]);
        MemoryPorts {
            now_ns: 1_000_000,
            delivered: 0,
            replicated: 0,
            pool: Rc::new(RefCell::new((0..buffers).map(|_| buffer()).collect())),
            client: VecDeque::with_capacity(buffers),
            cluster,
            epoch,
            replicas: (2..).map(|n| [2, 0, 0, 0, 0, n]).zip(replicas).collect(),
            sent_to: 0,
            unanswered: false,
        }
    }

    /// Puts `count` copies of a frame on the client's ring.
    pub fn prefill(&mut self, frame: &[u8], count: usize) {
        for _ in 0..count {
            let frame = self.alloc(&[frame]).expect("the pool is larger than a slice");
            self.client.push_back(frame);
        }
    }

    /// Whether every client frame was taken.
    pub fn is_drained(&self) -> bool {
        self.client.is_empty()
    }

    /// Where the log ends that the replicas hold.
    pub fn sent_to(&self) -> Position {
        self.sent_to
    }

    /// Adds up the log bytes of DATA PDUs, which is all a replica's answer needs: they are sent
    /// once and in order. Opening them is a replica's cost and not measured here.
    fn on_replica_frame(&mut self, frame: &[u8]) {
        let pdu = &frame[ETH_LEN..];
        match PduHeader::decode(pdu, self.cluster) {
            Ok((PduHeader { kind: PduKind::Data, .. }, _, body_len)) => {
                debug_assert_eq!(PDU_OVERHEAD_LEN + body_len, pdu.len());
                self.sent_to += (body_len - DATA_HEADER_LEN) as u64;
                self.replicated += 1;
                self.unanswered = true;
            }
            Ok((PduHeader { kind: PduKind::Challenge, target, .. }, ..)) => {
                let replica = self.replicas.get_mut(usize::from(target).wrapping_sub(2));
                let mut pdu = pdu.to_vec();
                if let Some((_, channel)) = replica {
                    let _ = channel.open_in_place(self.now_ns, &mut pdu);
                }
                self.unanswered = true;
            }
            _ => {}
        }
    }

    /// What a replica has to say: the answer to a challenge, else an acknowledgement.
    fn answer(&mut self, index: usize) -> Option<PooledFrame> {
        let (mac, channel) = &mut self.replicas[index];
        let eth = Ethernet { dst: [2, 0, 0, 0, 0, 1], src: *mac, ethertype: ETHERTYPE_REPLICA };
        if let Some(proof) = channel.poll_handshake(self.now_ns) {
            // The acknowledgement comes next.
            self.unanswered = true;
            return self.alloc(&[&eth.bytes(), &proof.pdu]);
        }
        let ack = Ack {
            position: self.sent_to,
            applied: self.sent_to,
            covered: self.sent_to,
            echo_ns: self.now_ns,
        };
        let mut pdu = [0; PDU_OVERHEAD_LEN + 32];
        pdu[PDU_HEADER_LEN..PDU_HEADER_LEN + 32].copy_from_slice(&ack.encode());
        channel.seal_in_place(PduKind::Ack, 1, self.epoch, &mut pdu).ok()?;
        self.alloc(&[&eth.bytes(), &pdu])
    }
}

impl Ports for MemoryPorts {
    type Frame = PooledFrame;

    fn rx(&mut self, port: PortRole, out: &mut Burst<PooledFrame>) {
        match port {
            PortRole::Client => {
                let room = out.remaining_capacity().min(self.client.len());
                out.extend(self.client.drain(..room));
            }
            PortRole::Replica if self.unanswered => {
                self.unanswered = false;
                for i in 0..self.replicas.len() {
                    out.extend(self.answer(i));
                }
            }
            PortRole::Replica | PortRole::Host => {}
        }
    }

    fn tx(&mut self, port: PortRole, frames: &mut Burst<PooledFrame>) {
        match port {
            PortRole::Host => self.delivered += frames.len() as u64,
            PortRole::Replica => frames.iter().for_each(|f| self.on_replica_frame(f.bytes())),
            PortRole::Client => {}
        }
        frames.clear();
    }

    fn clock_ns(&self) -> u64 {
        self.now_ns
    }

    fn service_is_dying(&self) -> bool {
        false
    }

    fn alloc(&mut self, parts: &[&[u8]]) -> Option<PooledFrame> {
        let len = parts.iter().map(|part| part.len()).sum();
        let mut buffer = self.pool.borrow_mut().pop()?;
        let mut rest = buffer.get_mut(..len)?;
        for part in parts {
            let (here, after) = rest.split_at_mut(part.len());
            here.copy_from_slice(part);
            rest = after;
        }
        Some(PooledFrame { buffer: Some(buffer), len, pool: Rc::clone(&self.pool) })
    }

    fn adopt(&mut self, _: &FlowKey, _: &AdoptAttrs) -> bool {
        false
    }
}
