//! Three ports in memory: frames come from a prefilled ring and go back to a pool.
//!
//! The replica network answers by itself: whatever the data path sends, every replica acknowledges
//! at the next poll, so the log never fills and the commit point follows.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use understudy_fastpath::adoption::AdoptAttrs;
use understudy_fastpath::ports::{Burst, Frame, PortRole, Ports};
use understudy_wire::frame::{ETH_LEN, Ethernet, Mac};
use understudy_wire::pdu::{
    Ack, DATA_HEADER_LEN, DataHeader, ETHERTYPE_REPLICA, PDU_HEADER_LEN, PduHeader, PduKind,
};
use understudy_wire::tcp::FlowKey;
use understudy_wire::{NodeId, Position};

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
    replicas: Vec<(NodeId, Mac)>,
    sent_to: Position,
    sent_at_ns: u64,
    unanswered: bool,
}

impl MemoryPorts {
    /// A world with `buffers` frames in its pool and these replicas, in reign `epoch` of `cluster`.
    pub fn new(buffers: usize, cluster: u64, epoch: u64, replicas: &[NodeId]) -> MemoryPorts {
        let buffer = || Box::new([0; BUFFER_LEN]);
        MemoryPorts {
            now_ns: 1_000_000,
            delivered: 0,
            replicated: 0,
            pool: Rc::new(RefCell::new((0..buffers).map(|_| buffer()).collect())),
            client: VecDeque::with_capacity(buffers),
            cluster,
            epoch,
            replicas: replicas.iter().map(|&id| (id, [2, 0, 0, 0, 0, id as u8])).collect(),
            sent_to: 0,
            sent_at_ns: 0,
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

    /// Notes the end and the time of a DATA PDU, which is all a replica's answer needs.
    fn on_replica_frame(&mut self, frame: &[u8]) {
        let Ok((_, body)) = PduHeader::decode(&frame[ETH_LEN..], self.cluster) else { return };
        let Ok((header, bytes)) = DataHeader::decode(body) else { return };
        debug_assert_eq!(ETH_LEN + PDU_HEADER_LEN + DATA_HEADER_LEN + bytes.len(), frame.len());
        self.sent_to = self.sent_to.max(header.position + bytes.len() as u64);
        self.sent_at_ns = self.sent_at_ns.max(header.sent_at_ns);
        self.replicated += 1;
        self.unanswered = true;
    }

    fn acknowledgement(&mut self, index: usize) -> Option<PooledFrame> {
        let (node, mac) = self.replicas[index];
        let ack = Ack {
            position: self.sent_to,
            applied: self.sent_to,
            durable: 0,
            echo_ns: self.sent_at_ns,
        };
        let kind = PduKind::Ack;
        let header = PduHeader {
            kind,
            node,
            target: 1,
            cluster: self.cluster,
            epoch: self.epoch,
            stream: 0,
        };
        let eth = Ethernet { dst: [2, 0, 0, 0, 0, 1], src: mac, ethertype: ETHERTYPE_REPLICA };
        let body = ack.encode();
        self.alloc(&[&eth.bytes(), &header.encode(body.len()), &body])
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
                let acks = (0..self.replicas.len()).filter_map(|i| self.acknowledgement(i));
                out.extend(acks);
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
