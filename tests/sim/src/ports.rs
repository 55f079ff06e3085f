//! A node's three ports as queues.

use std::collections::VecDeque;

use understudy_fastpath::adoption::AdoptAttrs;
use understudy_fastpath::ports::{Burst, PortRole, Ports};
use understudy_wire::tcp::FlowKey;

use crate::frames::SimFrame;
use crate::kernel::Prepared;
use crate::rng::Rng;

/// Frames a device holds for its driver.
const RX_QUEUE_MAX: usize = 1024;

/// The world of a node's poll-mode thread.
pub struct SimPorts {
    rx: [VecDeque<SimFrame>; 3],
    tx: [Vec<SimFrame>; 3],
    rng: Rng,
    /// The clock, as read in the middle of a poll.
    pub clock_ns: u64,
    /// What the adoption program has been told.
    pub prepared: Prepared,
    /// The application is being torn down.
    pub dying: bool,
    /// Faults of devices and buffers, of a million.
    pub trouble_ppm: u64,
    /// A planted bug: bursts to the clients leave in another order.
    pub unordered: bool,
    /// Frames that found a receive queue full.
    pub rx_dropped: u64,
}

fn index(port: PortRole) -> usize {
    match port {
        PortRole::Client => 0,
        PortRole::Replica => 1,
        PortRole::Host => 2,
    }
}

impl SimPorts {
    /// Empty queues.
    pub fn new(rng: Rng, trouble_ppm: u64) -> SimPorts {
        SimPorts {
            rx: Default::default(),
            tx: Default::default(),
            rng,
            clock_ns: 0,
            prepared: Prepared::new(),
            dying: false,
            trouble_ppm,
            unordered: false,
            rx_dropped: 0,
        }
    }

    /// A frame arrives at a port.
    pub fn arrive(&mut self, port: PortRole, frame: SimFrame) {
        let queue = &mut self.rx[index(port)];
        if queue.len() < RX_QUEUE_MAX {
            queue.push_back(frame);
        } else {
            self.rx_dropped += 1;
        }
    }

    /// What left through a port since the last call.
    pub fn take_sent(&mut self, port: PortRole) -> Vec<SimFrame> {
        std::mem::take(&mut self.tx[index(port)])
    }

    /// Whether anything waits to be received.
    pub fn has_input(&self) -> bool {
        self.rx.iter().any(|q| !q.is_empty())
    }
}

impl Ports for SimPorts {
    type Frame = SimFrame;

    fn rx(&mut self, port: PortRole, out: &mut Burst<SimFrame>) {
        let queue = &mut self.rx[index(port)];
        while !out.is_full()
            && let Some(frame) = queue.pop_front()
        {
            out.push(frame);
        }
    }

    fn tx(&mut self, port: PortRole, frames: &mut Burst<SimFrame>) {
        let len = frames.len();
        // Now and then a device takes only some.
        let take = if self.rng.ppm(self.trouble_ppm) {
            self.rng.below(len as u64 + 1) as usize
        } else {
            len
        };
        let out = &mut self.tx[index(port)];
        let before = out.len();
        out.extend(frames.drain(..take));
        if self.unordered && port == PortRole::Client {
            out[before..].reverse();
        }
    }

    fn clock_ns(&self) -> u64 {
        self.clock_ns
    }

    fn service_is_dying(&self) -> bool {
        self.dying
    }

    fn alloc(&mut self, parts: &[&[u8]]) -> Option<SimFrame> {
        (!self.rng.ppm(self.trouble_ppm / 8)).then(|| SimFrame::new(parts.concat()))
    }

    fn adopt(&mut self, key: &FlowKey, attrs: &AdoptAttrs) -> bool {
        self.prepared.insert(key.client, *attrs);
        true
    }
}
