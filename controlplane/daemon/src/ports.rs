//! The data path's world in production: DPDK ports, mbufs, and the adoption program.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;
use understudy_config::{Config, interface};
use understudy_dpdk::clock::Clock;
use understudy_dpdk::{
    Mbuf, Mempool, Port, PortConfig, RX_QUEUES_MAX, RxQueues, TxQueue, vdev_attach,
};
use understudy_fastpath::adoption::AdoptAttrs;
use understudy_fastpath::ports::{Burst, PortRole, Ports};
use understudy_linux::adopt::{self, Adopter};
use understudy_linux::arrivals::Arrivals;
use understudy_linux::capsule::DeathProbe;
use understudy_linux::wake::Waker;
use understudy_wire::tcp::FlowKey;

use crate::idle;
use crate::node_capsule::HOST_INTERFACE;

struct Device {
    port: Port,
    rx: RxQueues,
    tx: TxQueue,
    /// The interface of the kernel's below it, if there is one: its carrier tells of the link.
    interface: Option<String>,
}

/// What the data path asks of the capsule.
pub struct CapsuleLink {
    /// Prepares adoptions.
    pub adopter: Adopter,
    /// Tells the control plane which connections were adopted.
    pub adopted: Arc<ArrayQueue<adopt::FlowKey>>,
    /// One for each application that was started: a restored one takes the place of a fresh one.
    pub probes: Arc<ArrayQueue<DeathProbe>>,
    /// The newest of them.
    pub probe: RefCell<Option<DeathProbe>>,
}

impl CapsuleLink {
    /// Of an adopter alone, for whoever needs no news of it.
    pub fn unwatched(adopter: Adopter) -> CapsuleLink {
        CapsuleLink {
            adopter,
            adopted: Arc::new(ArrayQueue::new(1)),
            probes: Arc::new(ArrayQueue::new(1)),
            probe: RefCell::new(None),
        }
    }

    fn is_dying(&self) -> bool {
        let mut probe = self.probe.borrow_mut();
        while let Some(newer) = self.probes.pop() {
            *probe = Some(newer);
        }
        probe.as_ref().is_some_and(DeathProbe::is_dying)
    }
}

/// The three ports of a node; a witness has the replica port alone, a replay the host port.
pub struct DpdkPorts {
    client: Option<Device>,
    replica: Option<Device>,
    host: Option<Device>,
    pool: Mempool,
    buffers: u32,
    clock: NodeClock,
    capsule: Option<CapsuleLink>,
    chains_dropped: u64,
}

/// Whether there is a link, as the drivers know it: of ports with no interface of the kernel's, whose
/// carrier it would tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortLinks {
    /// The client port's, if it is such a port.
    pub client: Option<bool>,
    /// The replica port's.
    pub replica: Option<bool>,
}

/// What the devices count beside the data path.
#[derive(Clone, Debug, Default)]
pub struct DeviceCounts {
    /// Frames received on the client port, by queue.
    client_rx: ArrayVec<u64, RX_QUEUES_MAX>,
    /// Frames of several buffers that could not be brought into one: no buffer is as long.
    chains_dropped: u64,
}

impl DeviceCounts {
    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (String, u64)> {
        let queues = self.client_rx.iter().enumerate();
        queues
            .map(|(queue, frames)| (format!("client_rx_queue_{queue}"), *frames))
            .chain([("rx_chains_dropped".to_string(), self.chains_dropped)])
    }
}

/// One time for everything on this node: ns since 1970 at start, then the TSC. Never steps.
#[derive(Clone)]
pub struct NodeClock {
    clock: Clock,
    base_ns: u64,
}

impl NodeClock {
    /// Reads the wall clock once.
    pub fn new() -> NodeClock {
        let clock = Clock::calibrate();
        let base_ns = clock.unix_ns() - clock.now_ns();
        NodeClock { clock, base_ns }
    }

    /// Now.
    pub fn now_ns(&self) -> u64 {
        self.base_ns + self.clock.now_ns()
    }
}

impl DpdkPorts {
    /// Attaches the configured devices, without a capsule only the replica port's. EAL is up.
    pub fn open(
        config: &Config,
        clock: NodeClock,
        capsule: Option<CapsuleLink>,
    ) -> anyhow::Result<DpdkPorts> {
        let pool = packet_buffers(config)?;
        let host = host_device();
        let client = config.ports.client.rx_queues;
        let with_capsule = |what, device: &str, rx_queues| {
            capsule.as_ref().map(|_| open_device(what, device, rx_queues, &pool)).transpose()
        };
        Ok(DpdkPorts {
            client: with_capsule("ports.client", &config.ports.client.device, client)?,
            replica: Some(open_device("ports.replica", &config.ports.replica.device, 1, &pool)?),
            host: with_capsule("the host port", &host, 1)?,
            pool,
            buffers: config.dpdk.mbufs - 1,
            clock,
            capsule,
            chains_dropped: 0,
        })
    }

    /// Only the host port, of a capsule that no clients and no other nodes reach. EAL is up.
    pub fn of_capsule(
        config: &Config,
        clock: NodeClock,
        capsule: CapsuleLink,
    ) -> anyhow::Result<DpdkPorts> {
        let pool = packet_buffers(config)?;
        Ok(DpdkPorts {
            client: None,
            replica: None,
            host: Some(open_device("the host port", &host_device(), 1, &pool)?),
            pool,
            buffers: config.dpdk.mbufs - 1,
            clock,
            capsule: Some(capsule),
            chains_dropped: 0,
        })
    }

    /// Packet buffers that are free, and all of them.
    pub fn buffers(&self) -> (u32, u32) {
        (self.pool.available(), self.buffers)
    }

    /// What the thread that polls these ports may wait for when nothing has come.
    pub fn arrivals(&self, waker: Waker) -> Arrivals {
        let mut arrivals = Arrivals::new(waker);
        for device in [&self.client, &self.replica, &self.host].into_iter().flatten() {
            if let Some(interface) = &device.interface {
                idle::watch(&mut arrivals, interface);
            }
        }
        arrivals
    }

    /// The links that only the drivers know of. Seldom, not in every poll: some ask the kernel.
    pub fn links(&self) -> PortLinks {
        let up = |device: &Device| device.interface.is_none().then(|| device.port.link_up());
        PortLinks {
            client: self.client.as_ref().and_then(up),
            replica: self.replica.as_ref().and_then(up),
        }
    }

    /// What the devices have counted so far.
    pub fn counts(&self) -> DeviceCounts {
        let client = self.client.as_ref().map(|device| device.rx.received());
        DeviceCounts {
            client_rx: client.unwrap_or_default().iter().copied().collect(),
            chains_dropped: self.chains_dropped,
        }
    }

    /// The replica port's own MAC.
    pub fn replica_mac(&self) -> [u8; 6] {
        self.replica.as_ref().map_or([0; 6], |device| device.port.mac())
    }

    fn device(&mut self, role: PortRole) -> Option<&mut Device> {
        match role {
            PortRole::Client => self.client.as_mut(),
            PortRole::Replica => self.replica.as_mut(),
            PortRole::Host => self.host.as_mut(),
        }
    }
}

fn packet_buffers(config: &Config) -> anyhow::Result<Mempool> {
    let room = understudy_dpdk::DEFAULT_DATA_ROOM_BYTES;
    Mempool::new("understudy", config.dpdk.mbufs - 1, 256, room)
        .context("cannot make the packet buffer pool; raise dpdk.memory_mb or lower dpdk.mbufs")
}

fn host_device() -> String {
    format!(
        "net_af_packet_host,iface={HOST_INTERFACE},blocksz=65536,framesz=2048,framecnt=4096,qdisc_bypass=1"
    )
}

fn open_device(what: &str, device: &str, rx_queues: u16, pool: &Mempool) -> anyhow::Result<Device> {
    let plan = PortConfig { rx_queues, ..PortConfig::default() };
    let id = vdev_attach(device).with_context(|| format!("cannot open {what}"))?;
    let (port, rx, tx) = Port::configure(id, &plan, pool)
        .with_context(|| format!("cannot configure {what} ({device})"))?;
    Ok(Device { port, rx, tx, interface: interface(device).map(String::from) })
}

impl Ports for DpdkPorts {
    type Frame = Mbuf;

    fn rx(&mut self, port: PortRole, out: &mut Burst<Mbuf>) {
        // A device gives bursts of this length.
        debug_assert!(out.is_empty());
        if let Some(device) = self.device(port) {
            device.rx.rx_burst(out);
        }
        // A chain is one frame to everybody above; a device that makes one is made to copy.
        if !out.iter().all(|frame| frame.is_linear()) {
            let came = out.len();
            out.retain(|frame| frame.linearize());
            self.chains_dropped += (came - out.len()) as u64;
        }
    }

    fn tx(&mut self, port: PortRole, frames: &mut Burst<Mbuf>) {
        if let Some(device) = self.device(port) {
            device.tx.tx_burst(frames);
        }
    }

    fn clock_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn service_is_dying(&self) -> bool {
        self.capsule.as_ref().is_some_and(CapsuleLink::is_dying)
    }

    fn alloc(&mut self, parts: &[&[u8]]) -> Option<Mbuf> {
        self.pool.alloc_parts(parts)
    }

    fn adopt(&mut self, key: &FlowKey, attrs: &AdoptAttrs) -> bool {
        let Some(capsule) = &mut self.capsule else { return false };
        let key = adopt::FlowKey {
            client: SocketAddr::new(key.client.0, key.client.1),
            server: SocketAddr::new(key.server.0, key.server.1),
        };
        let attrs = adopt::AdoptAttrs {
            mss: attrs.mss,
            snd_wscale: attrs.snd_wscale,
            rcv_wscale: attrs.rcv_wscale,
            sack: attrs.sack,
            ecn: attrs.ecn,
            timestamps: attrs.timestamps,
            first: Some(attrs.first),
        };
        let prepared = capsule.adopter.prepare(&key, &attrs).is_ok();
        if prepared {
            capsule.adopted.force_push(key);
        }
        prepared
    }
}
