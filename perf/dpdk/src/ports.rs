//! The data path's ports over virtual devices; receiving and sending as the daemon does.
//!
//! The client port is the host port too: frames that are delivered come again as client frames.

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use understudy_dpdk::clock::Clock;
use understudy_dpdk::{Mbuf, Mempool, Port, PortConfig, RxQueues, TxQueue, vdev_attach};
use understudy_fastpath::adoption::AdoptAttrs;
use understudy_fastpath::ports::{Burst, PortRole, Ports};
use understudy_perf_gate::world::{Replicas, World};
use understudy_wire::tcp::FlowKey;

/// Mbufs of the pool that frames come from, as testpmd is told.
const FRAMES: u32 = 8191;
/// Mbufs for PDUs.
const PDUS: u32 = 4095;
/// Mbufs that a thread keeps for itself: testpmd's default is 250.
const CACHE: u32 = 250;
/// Frames in the ring, as testpmd's eight bursts.
const RING_FRAMES: usize = 256;

/// Where client frames come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// `net_null` over a pool whose mbufs hold the frame: an mbuf is allocated and freed for each
    /// frame, as with a network card.
    Null,
    /// `net_ring`, in which the same frames go round: nothing but pointers moves.
    Ring,
}

struct Queues {
    _port: Port,
    rx: RxQueues,
    tx: TxQueue,
}

/// The world of the measured data path.
pub struct VdevPorts {
    client: Queues,
    replica: Queues,
    pdus: Mempool,
    clock: Clock,
    replicas: Replicas,
    /// Client frames come.
    is_open: bool,
    received: u64,
    /// Spent on the replicas' part, which is not the primary's cost.
    replicas_ns: u64,
}

impl VdevPorts {
    /// Attaches the devices; client frames are copies of `frame`.
    pub fn open(device: Device, frame: &[u8]) -> Result<VdevPorts> {
        let frames =
            Mempool::new("frames", FRAMES, CACHE, understudy_dpdk::DEFAULT_DATA_ROOM_BYTES)?;
        let pdus = Mempool::new("pdus", PDUS, CACHE, understudy_dpdk::DEFAULT_DATA_ROOM_BYTES)?;
        let client = match device {
            Device::Null => open(&format!("net_null_client,size={}", frame.len()), &frames)?,
            Device::Ring => open("net_ring_client", &frames)?,
        };
        let replica = open("net_null_replica", &pdus)?;
        let mut ports = VdevPorts {
            client,
            replica,
            pdus,
            clock: Clock::calibrate(),
            replicas: Replicas::default(),
            is_open: false,
            received: 0,
            replicas_ns: 0,
        };
        match device {
            Device::Null => fill_pool(&frames, frame)?,
            Device::Ring => ports.fill_ring(&frames, frame)?,
        }
        Ok(ports)
    }

    fn fill_ring(&mut self, frames: &Mempool, frame: &[u8]) -> Result<()> {
        let mut burst = understudy_dpdk::Burst::new();
        for _ in 0..RING_FRAMES / understudy_dpdk::BURST {
            while !burst.is_full() {
                burst.push(frames.alloc_copy(frame).context("no mbuf for the ring")?);
            }
            self.client.tx.tx_burst(&mut burst);
            ensure!(burst.is_empty(), "the ring is too short");
        }
        Ok(())
    }

    /// Lets client frames come.
    pub fn open_tap(&mut self) {
        self.is_open = true;
    }

    /// Lets none come.
    pub fn close_tap(&mut self) {
        self.is_open = false;
    }

    /// Client frames so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The clock less what the replicas' part took.
    pub fn timed_ns(&self) -> u64 {
        self.clock.now_ns() - self.replicas_ns
    }

    /// Cycles of the time-stamp counter in a second.
    pub fn tsc_hz(&self) -> u64 {
        self.clock.tsc_hz()
    }

    fn rx_client(&mut self, out: &mut Burst<Mbuf>) {
        self.received += self.client.rx.rx_burst(out) as u64;
        if !out.iter().all(|frame| frame.is_linear()) {
            out.retain(|frame| frame.linearize());
        }
    }

    fn answers(&mut self, out: &mut Burst<Mbuf>) {
        let begun_ns = self.clock.now_ns();
        let pool = &self.pdus;
        self.replicas.answer(begun_ns, |frame| {
            out.extend(pool.alloc_copy(frame));
        });
        self.replicas_ns += self.clock.now_ns() - begun_ns;
    }
}

fn open(device: &str, pool: &Mempool) -> Result<Queues> {
    let id = vdev_attach(device)?;
    let (port, rx, tx) = Port::configure(id, &PortConfig::default(), pool)?;
    Ok(Queues { _port: port, rx, tx })
}

/// Writes the frame into every mbuf: `net_null` gives them out as they are.
fn fill_pool(pool: &Mempool, frame: &[u8]) -> Result<()> {
    let mut all = Vec::with_capacity(FRAMES as usize);
    while let Some(mbuf) = pool.alloc_copy(frame) {
        all.push(mbuf);
    }
    ensure!(all.len() == FRAMES as usize, "{} mbufs of {FRAMES} were filled", all.len());
    Ok(())
}

impl World for VdevPorts {
    fn tick(&mut self) -> u64 {
        self.clock.now_ns()
    }

    fn replicas(&self) -> &Replicas {
        &self.replicas
    }
}

impl Ports for VdevPorts {
    type Frame = Mbuf;

    fn rx(&mut self, port: PortRole, out: &mut Burst<Mbuf>) {
        match port {
            PortRole::Client if self.is_open => self.rx_client(out),
            PortRole::Replica if self.replicas.has_answers() => self.answers(out),
            _ => {}
        }
    }

    fn tx(&mut self, port: PortRole, frames: &mut Burst<Mbuf>) {
        if port == PortRole::Replica {
            let begun_ns = self.clock.now_ns();
            frames.iter().for_each(|frame| self.replicas.take(begun_ns, frame.bytes()));
            self.replicas_ns += self.clock.now_ns() - begun_ns;
        }
        let queues = if port == PortRole::Replica { &mut self.replica } else { &mut self.client };
        queues.tx.tx_burst(frames);
    }

    fn clock_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn service_is_dying(&self) -> bool {
        false
    }

    fn alloc(&mut self, parts: &[&[u8]]) -> Option<Mbuf> {
        self.pdus.alloc_parts(parts)
    }

    fn adopt(&mut self, _: &FlowKey, _: &AdoptAttrs) -> bool {
        false
    }
}
