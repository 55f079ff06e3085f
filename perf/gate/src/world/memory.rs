//! Three ports in memory: frames come from a prefilled ring and go back to a pool.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use anyhow::{Context, Result};
use understudy_fastpath::adoption::AdoptAttrs;
use understudy_fastpath::ports::{Burst, Frame, PortRole, Ports};
use understudy_wire::Position;
use understudy_wire::tcp::FlowKey;

use super::kernel::Kernel;
use super::{Replicas, World};

/// Bytes of a buffer, as in DPDK's default pool.
const BUFFER_LEN: usize = 2048;
/// The clock moves this much with each poll.
const POLL_NS: u64 = 10_000;

type Buffer = Box<[u8; BUFFER_LEN]>;
type Pool = Rc<RefCell<Vec<Buffer>>>;

/// A frame in a buffer that goes back to its pool, as an mbuf does.
pub struct PooledFrame {
    buffer: Option<Buffer>,
    len: usize,
    pool: Pool,
}

impl AsRef<[u8]> for PooledFrame {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer[..self.len])
    }
}

impl AsMut<[u8]> for PooledFrame {
    fn as_mut(&mut self) -> &mut [u8] {
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
    /// Frames that reached the capsule's side.
    pub delivered: u64,
    /// Frames that reached the clients' side.
    pub replied: u64,
    now_ns: u64,
    pool: Pool,
    client: VecDeque<PooledFrame>,
    host: VecDeque<PooledFrame>,
    replicas: Replicas,
    kernel: Option<Kernel>,
}

impl MemoryPorts {
    /// A world with `buffers` frames in its pool.
    pub fn new(buffers: usize) -> MemoryPorts {
        let buffer = || Box::new([0; BUFFER_LEN]);
        MemoryPorts {
            delivered: 0,
            replied: 0,
            now_ns: 1_000_000,
            pool: Rc::new(RefCell::new((0..buffers).map(|_| buffer()).collect())),
            client: VecDeque::with_capacity(buffers),
            host: VecDeque::with_capacity(buffers),
            replicas: Replicas::default(),
            kernel: None,
        }
    }

    /// One with an application that answers.
    pub fn with_kernel(buffers: usize) -> MemoryPorts {
        MemoryPorts { kernel: Some(Kernel::default()), ..MemoryPorts::new(buffers) }
    }

    /// The replicas hold the log up to here.
    pub fn replicas_hold(&mut self, position: Position) {
        self.replicas.hold(position);
    }

    /// Puts `count` copies of a frame on a ring: the client's, or else the capsule's.
    pub fn prefill(&mut self, port: PortRole, frame: &[u8], count: usize) {
        for _ in 0..count {
            self.give(port, frame).expect("the pool is larger than a slice");
        }
    }

    /// Puts a frame on a ring, likewise.
    ///
    /// # Errors
    /// If no buffer is free.
    pub fn give(&mut self, port: PortRole, frame: &[u8]) -> Result<()> {
        let frame = take(&self.pool, &[frame]).context("no buffer is free")?;
        match port {
            PortRole::Client => self.client.push_back(frame),
            PortRole::Host | PortRole::Replica => self.host.push_back(frame),
        }
        Ok(())
    }

    /// Whether every prefilled frame was taken.
    pub fn is_drained(&self) -> bool {
        self.client.is_empty() && self.host.is_empty()
    }
}

fn take(pool: &Pool, parts: &[&[u8]]) -> Option<PooledFrame> {
    let len = parts.iter().map(|part| part.len()).sum();
    let mut buffer = pool.borrow_mut().pop()?;
    let mut rest = buffer.get_mut(..len)?;
    for part in parts {
        let (here, after) = rest.split_at_mut(part.len());
        here.copy_from_slice(part);
        rest = after;
    }
    Some(PooledFrame { buffer: Some(buffer), len, pool: Rc::clone(pool) })
}

impl World for MemoryPorts {
    fn tick(&mut self) -> u64 {
        self.now_ns += POLL_NS;
        self.now_ns
    }

    fn replicas(&self) -> &Replicas {
        &self.replicas
    }
}

impl Ports for MemoryPorts {
    type Frame = PooledFrame;

    fn rx(&mut self, port: PortRole, out: &mut Burst<PooledFrame>) {
        let ring = match port {
            PortRole::Client => &mut self.client,
            PortRole::Host => &mut self.host,
            PortRole::Replica => {
                let pool = &self.pool;
                if self.replicas.has_answers() {
                    self.replicas.answer(self.now_ns, |frame| out.extend(take(pool, &[frame])));
                }
                return;
            }
        };
        let room = out.remaining_capacity().min(ring.len());
        out.extend(ring.drain(..room));
    }

    fn tx(&mut self, port: PortRole, frames: &mut Burst<PooledFrame>) {
        match port {
            PortRole::Host => {
                self.delivered += frames.len() as u64;
                if let Some(kernel) = &mut self.kernel {
                    let answers = frames.iter().filter_map(|frame| kernel.take(frame.bytes()));
                    let answers = answers.filter_map(|answer| take(&self.pool, &[&answer]));
                    self.host.extend(answers);
                }
            }
            PortRole::Replica => {
                frames.iter().for_each(|f| self.replicas.take(self.now_ns, f.bytes()));
            }
            PortRole::Client => self.replied += frames.len() as u64,
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
        take(&self.pool, parts)
    }

    fn adopt(&mut self, key: &FlowKey, attrs: &AdoptAttrs) -> bool {
        self.kernel.as_mut().map(|kernel| kernel.adopt(key, attrs)).is_some()
    }
}
