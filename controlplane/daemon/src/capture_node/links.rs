//! The poll-mode thread of a capture-only node: its links, the filter, and the log.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use tracing::info;
use understudy_config::CaptureNode;
use understudy_dpdk::clock::Clock;
use understudy_dpdk::{
    BURST, Burst, DEFAULT_DATA_ROOM_BYTES, DeviceTime, Instruction, Mbuf, Mempool, PacketFilter,
    Port, PortConfig, RxQueues, vdev_attach,
};
use understudy_fastpath::device_clock::{DeviceClock, SAMPLE_INTERVAL_NS};
use understudy_log::CaptureLog;
use understudy_pcap::Filter;
use understudy_wire::record::{LINK_FRAME_HEADER_LEN, LinkFrame, RecordKind};

use super::SOFTWARE_CLOCK;
use super::counters::{Counters, LinkCounters, add};
use super::running::Running;
use crate::capture::Told;
use crate::idle::Rest;

/// Packet buffers that a link can have use for: its ring, and what is on its way.
const MBUFS_PER_LINK: u32 = 4096;
const CACHE_MBUFS: u32 = 256;
/// How often drivers' counters and links are looked at: some make a system call of it. Their clocks are
/// read every [`SAMPLE_INTERVAL_NS`].
const LOOK_INTERVAL_NS: u64 = 1_000_000_000;
/// Bytes of an Ethernet header: what a frame has beyond the MTU.
const ETHERNET_BYTES: u16 = 14;

struct Link {
    port: Port,
    rx: RxQueues,
    /// Where frames have the device's time, and how to read it.
    time: Option<(DeviceTime, DeviceClock)>,
}

/// All links of a node.
pub struct Links {
    links: Vec<Link>,
    filter: Option<PacketFilter>,
    /// Bytes kept of a frame.
    kept_max: usize,
    clock: Clock,
    _pool: Mempool,
}

impl Links {
    /// Attaches the devices. EAL is up.
    pub fn open(node: &CaptureNode, filter: &Filter, clock: Clock) -> anyhow::Result<Links> {
        let config = &node.capture;
        let room = config.frame_bytes_max.max(DEFAULT_DATA_ROOM_BYTES);
        let wanted = MBUFS_PER_LINK * config.devices.len() as u32;
        let mbufs = wanted.min(node.dpdk.mbufs) - 1;
        let pool = Mempool::new("understudy", mbufs, CACHE_MBUFS.min(mbufs / 2), room).context(
            "cannot make the packet buffer pool; raise dpdk.memory_mb, or lower dpdk.mbufs or capture.frame_bytes_max",
        )?;
        let open = |device: &String| open_link(device, node, &pool);
        let links = config.devices.iter().map(open).collect::<anyhow::Result<_>>()?;
        let filter = load(filter).context("capture.filter")?;
        let kept_max = match config.snap_len {
            0 => usize::from(config.frame_bytes_max),
            snap_len => (snap_len as usize).min(config.frame_bytes_max.into()),
        };
        Ok(Links { links, filter, kept_max, clock, _pool: pool })
    }

    /// What stamps each link's frames.
    pub fn described(&self) -> Vec<String> {
        let of = |link: &Link| match (&link.time, link.port.device_clock()) {
            (Some(_), Some(_)) => {
                "device: its own clock, whose rate is tracked against the system's"
            }
            (Some(_), None) => {
                "software: the device stamps frames, but its clock cannot be read to make a time of that"
            }
            (None, _) => SOFTWARE_CLOCK,
        };
        self.links.iter().map(|link| of(link).to_owned()).collect()
    }

    /// How the filter runs.
    pub fn filter_runs_as(&self) -> &'static str {
        match &self.filter {
            None => "none",
            Some(filter) if filter.is_native() => "rte_bpf, machine code",
            Some(_) => "rte_bpf, interpreted",
        }
    }

    /// Captures until told to stop.
    pub fn poll_until(
        &mut self,
        stop: &AtomicBool,
        log: &mut CaptureLog,
        counters: &Counters,
        told: &Told,
        running: &Running,
        mut rest: Rest,
    ) {
        let (mut look_at_ns, mut sample_at_ns) = (0, 0);
        let mut burst = Burst::new();
        while !stop.load(Ordering::Acquire) {
            let now_ns = self.clock.now_ns();
            add(&counters.polls, 1);
            let mut busy = false;
            for number in 0..self.links.len() {
                busy |= self.poll(number, &mut burst, log, &counters.links[number]);
            }
            if busy {
                counters.log_end.store(log.end(), Ordering::Relaxed);
            }
            rest.after(now_ns, busy);
            if now_ns >= sample_at_ns {
                sample_at_ns = now_ns + SAMPLE_INTERVAL_NS;
                self.sample_clocks();
                if let Some(idle) = running.newer_idle() {
                    rest.set(idle);
                }
                told.set_not_logged(counters.not_logged());
            }
            if now_ns >= look_at_ns {
                look_at_ns = now_ns + LOOK_INTERVAL_NS;
                self.look(counters);
            }
        }
    }

    fn poll(
        &mut self,
        number: usize,
        burst: &mut Burst,
        log: &mut CaptureLog,
        counted: &LinkCounters,
    ) -> bool {
        let link = &mut self.links[number];
        if link.rx.rx_burst(burst) == 0 {
            return false;
        }
        let now_ns = self.clock.unix_ns();
        let pass = self.filter.as_ref().map_or([true; BURST], |filter| filter.run(burst));
        let (mut bytes, mut filtered, mut captured, mut cut, mut refused, mut stamped) =
            (0, 0, 0, 0, 0, 0);
        for (mbuf, pass) in burst.iter().zip(pass) {
            let len = mbuf.frame_len();
            bytes += len as u64;
            if !pass {
                filtered += 1;
                continue;
            }
            let kept = len.min(self.kept_max);
            let device_ns =
                link.time.as_ref().and_then(|(at, clock)| clock.unix_ns(mbuf.device_time(*at)?));
            stamped += u64::from(device_ns.is_some());
            let head = LinkFrame { wire_len: len as u32, link: number as u8, device_ns };
            let ok = append(log, now_ns, &head, mbuf, kept);
            captured += u64::from(ok);
            cut += u64::from(ok && kept < len);
            refused += u64::from(!ok);
        }
        add(&counted.received, burst.len() as u64);
        burst.clear();
        add(&counted.received_bytes, bytes);
        add(&counted.filtered, filtered);
        add(&counted.captured, captured);
        add(&counted.cut, cut);
        add(&counted.not_logged, refused);
        add(&counted.device_stamped, stamped);
        true
    }

    /// What drivers count.
    fn look(&self, counters: &Counters) {
        for (link, counted) in self.links.iter().zip(&counters.links) {
            let stats = link.port.stats();
            counted.missed.store(stats.rx_missed, Ordering::Relaxed);
            counted.errors.store(stats.rx_errors, Ordering::Relaxed);
            counted.no_buffer.store(stats.rx_nombuf, Ordering::Relaxed);
            counted.up.store(link.port.link_up(), Ordering::Relaxed);
        }
    }

    fn sample_clocks(&mut self) {
        for link in &mut self.links {
            if let Some((_, clock)) = &mut link.time
                && let Some(ticks) = link.port.device_clock()
            {
                clock.sample(ticks, self.clock.unix_ns());
            }
        }
    }
}

/// The only copy: into the log. Nobody holds the log: the oldest records make room.
fn append(log: &mut CaptureLog, now_ns: u64, head: &LinkFrame, mbuf: &Mbuf, kept: usize) -> bool {
    let len = LINK_FRAME_HEADER_LEN + kept;
    let fill = |out: &mut [u8]| {
        let (first, rest) = out.split_at_mut(LINK_FRAME_HEADER_LEN);
        first.copy_from_slice(&head.encode());
        if mbuf.is_linear() {
            rest.copy_from_slice(&mbuf.bytes()[..kept]);
        } else {
            mbuf.copy_to(rest);
        }
    };
    log.append_with(RecordKind::LinkFrame, now_ns, len, u64::MAX, fill).is_ok()
}

fn open_link(device: &str, node: &CaptureNode, pool: &Mempool) -> anyhow::Result<Link> {
    let config = &node.capture;
    let id =
        vdev_attach(device).with_context(|| format!("cannot open capture.devices {device}"))?;
    let mtu = config.frame_bytes_max - ETHERNET_BYTES;
    // What is no longer than usual needs nothing to be set; DPDK refuses to set it for net_af_packet,
    // which takes whatever its interface does.
    let is_nic = !device.starts_with("net_");
    let mtu = (is_nic && config.frame_bytes_max > DEFAULT_FRAME_BYTES_MAX).then_some(mtu);
    let wanted = PortConfig { mtu, device_time: config.device_time, ..PortConfig::default() };
    let (port, rx, _tx) = Port::configure(id, &wanted, pool).with_context(|| {
        format!("cannot configure {device}; capture.frame_bytes_max may be more than it takes")
    })?;
    let time = port.device_time().map(|at| (at, DeviceClock::default()));
    info!(device, device_time = time.is_some(), "link opened");
    Ok(Link { port, rx, time })
}

/// A frame of the usual MTU with a VLAN tag.
const DEFAULT_FRAME_BYTES_MAX: u16 = 1518;

/// The filter as DPDK runs it.
fn load(filter: &Filter) -> anyhow::Result<Option<PacketFilter>> {
    if filter.is_empty() {
        return Ok(None);
    }
    let instruction = |(code, jump_true, jump_false, operand)| Instruction {
        code,
        jump_true,
        jump_false,
        operand,
    };
    let program: Vec<_> = filter.instructions().into_iter().map(instruction).collect();
    Ok(Some(PacketFilter::new(&program)?))
}
