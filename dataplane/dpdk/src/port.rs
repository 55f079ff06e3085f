//! Ports with receive queues that are polled in turn, and one transmit queue.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::eal::{self, PortId};
use crate::error::Error;
use crate::{Burst, Mbuf, Mempool};

/// How a port is to be set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConfig {
    /// Receive queues, 1..=[`RX_QUEUES_MAX`]; more than the device has is an error. The device
    /// decides what comes to which: by a hash of addresses and ports where it can be told so,
    /// else in its own way (`net_af_packet`: by flow, among its `qpairs`).
    pub rx_queues: u16,
    /// Receive descriptors; adjusted to what the device allows.
    pub rx_desc: u16,
    /// Transmit descriptors; adjusted to what the device allows.
    pub tx_desc: u16,
    /// Receive frames for all destinations. A device that cannot choose is accepted.
    pub promiscuous: bool,
    /// The MTU to set; `None` leaves the device's. A device that cannot change it is accepted.
    /// Drivers over a kernel interface change that interface's MTU.
    pub mtu: Option<u16>,
    /// Let the device stamp frames, where it can: see [`Port::device_time`].
    pub device_time: bool,
}

impl Default for PortConfig {
    fn default() -> PortConfig {
        PortConfig {
            rx_queues: 1,
            rx_desc: 1024,
            tx_desc: 1024,
            promiscuous: true,
            mtu: None,
            device_time: false,
        }
    }
}

/// Receive queues that a port can be given.
pub const RX_QUEUES_MAX: usize = 16;

/// Counters of a port since it was started, as the driver keeps them (some keep few).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Frames received.
    pub rx_packets: u64,
    /// Frames transmitted.
    pub tx_packets: u64,
    /// Frames lost by the device because the receive queue was full.
    pub rx_missed: u64,
    /// Frames received with an error.
    pub rx_errors: u64,
    /// Frames that could not be transmitted.
    pub tx_errors: u64,
    /// Times that the receive side found the mbuf pool empty.
    pub rx_nombuf: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes transmitted.
    pub tx_bytes: u64,
}

/// What the port and its queues share. A started port; stopped and closed on drop.
#[derive(Debug)]
struct Inner {
    id: PortId,
    /// The receive queue allocates from it.
    _pool: Mempool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut state = eal::state();
        let PortId(id) = self.id;
        let mut info = dpdk_sys::shim_eth_info {
            device: ptr::null_mut(),
            rss_types: 0,
            min_rx_bufsize_bytes: 0,
            rx_queues_max: 0,
            tx_queues_max: 0,
            tx_multi_segs: 0,
            rx_timestamp: 0,
        };
        // SAFETY: EAL runs, because `state.ports` holds this port; the lock serialises control
        // calls. The port is ours and its queues are no longer in use: this is the last reference.
        // The device is detached only when none of its ports is left, and its pointer was taken
        // from the port while that was open. Errors have no remedy here.
        unsafe {
            let found = dpdk_sys::shim_eth_info_get(id, &mut info) == 0;
            dpdk_sys::rte_eth_dev_stop(id);
            dpdk_sys::rte_eth_dev_close(id);
            let device = info.device;
            if found && !device.is_null() && dpdk_sys::shim_eth_device_has_port(device) == 0 {
                dpdk_sys::rte_dev_remove(device);
            }
        }
        state.ports.retain(|other| *other != self.id);
    }
}

/// Not `Sync`: DPDK's functions for one port (or queue) are for one thread at a time.
type NotSync = PhantomData<Cell<()>>;

/// A started port: the slow-path half (statistics, link state).
#[derive(Debug)]
pub struct Port {
    inner: Arc<Inner>,
    mac: [u8; 6],
    device_time: Option<DeviceTime>,
    not_sync: NotSync,
}

/// Where received frames have the device's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceTime {
    /// Invariant: what DPDK gave for its timestamp field, which is 8 bytes inside every mbuf.
    pub(crate) offset: i32,
    pub(crate) flag: u64,
}

/// The receive queues of a port, polled in turn; for one thread, to which they can be moved.
///
/// Frames of one queue stay in their order. Between queues there is none but that of the polls.
#[derive(Debug)]
pub struct RxQueues {
    inner: Arc<Inner>,
    /// Frames received, by queue.
    received: ArrayVec<u64, RX_QUEUES_MAX>,
    /// Whose turn it is.
    next: usize,
    not_sync: NotSync,
}

/// The transmit queue of a port; for one thread, to which it can be moved.
#[derive(Debug)]
pub struct TxQueue {
    inner: Arc<Inner>,
    /// The device sends frames of several segments.
    multi_segs: bool,
    dropped_frames: u64,
    not_sync: NotSync,
}

impl Port {
    /// Configures and starts a port that nobody uses yet; `pool` is where received frames go.
    ///
    /// Multicast reception is turned on, where the device can choose.
    pub fn configure(
        id: PortId,
        cfg: &PortConfig,
        pool: &Mempool,
    ) -> Result<(Port, RxQueues, TxQueue), Error> {
        let mut state = eal::running()?;
        let port = id.get();
        let check = |code: i32, action: &str| {
            if code < 0 { Err(Error::call(format!("{action} of {id}"), code)) } else { Ok(()) }
        };
        let optional = |code: i32, action: &str| match -code {
            libc::ENOTSUP | libc::ENOSYS => Ok(()),
            _ => check(code, action),
        };
        // SAFETY: takes any number.
        if unsafe { dpdk_sys::rte_eth_dev_is_valid_port(port) } == 0 {
            return Err(Error::NoSuchPort(id));
        }
        if state.ports.contains(&id) {
            return Err(Error::PortInUse(id));
        }

        let mut info = dpdk_sys::shim_eth_info {
            device: ptr::null_mut(),
            rss_types: 0,
            min_rx_bufsize_bytes: 0,
            rx_queues_max: 0,
            tx_queues_max: 0,
            tx_multi_segs: 0,
            rx_timestamp: 0,
        };
        let mut mac = [0; 6];
        let (mut rx_desc, mut tx_desc) = (cfg.rx_desc, cfg.tx_desc);
        let mut time = DeviceTime { offset: 0, flag: 0 };
        // SAFETY: EAL runs and the port is valid and in no use (checked above); the lock serialises
        // control calls. Every out-pointer is a local of the type that the function writes. The pool
        // is alive, and `Inner` keeps it so while the queue can allocate from it.
        unsafe {
            check(dpdk_sys::shim_eth_info_get(port, &mut info), "reading the capabilities")?;
            let queues_max = info.rx_queues_max.min(RX_QUEUES_MAX as u16);
            if !(1..=queues_max).contains(&cfg.rx_queues) {
                return Err(Error::RxQueues { id, wanted: cfg.rx_queues, max: queues_max });
            }
            let multi_segs = i32::from(info.tx_multi_segs);
            let wants_time = cfg.device_time && info.rx_timestamp != 0;
            if wants_time {
                let code = dpdk_sys::shim_rx_timestamp_register(&mut time.offset, &mut time.flag);
                check(code, "asking for a timestamp field")?;
            }
            let code = dpdk_sys::shim_eth_configure(
                port,
                cfg.rx_queues,
                multi_segs,
                info.rss_types,
                wants_time.into(),
            );
            check(code, "configuration")?;
            if let Some(mtu) = cfg.mtu {
                let action = format!("setting the MTU to {mtu} bytes");
                optional(dpdk_sys::rte_eth_dev_set_mtu(port, mtu), &action)?;
            }
            let code = dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(port, &mut rx_desc, &mut tx_desc);
            optional(code, "adjusting the number of descriptors")?;
            // -1 (SOCKET_ID_ANY) for a virtual device.
            let socket = dpdk_sys::rte_eth_dev_socket_id(port) as u32;
            let code = dpdk_sys::shim_eth_queues_setup(
                port,
                cfg.rx_queues,
                rx_desc,
                tx_desc,
                socket,
                pool.as_ptr(),
            );
            check(code, "setting up the queues")?;
            check(dpdk_sys::rte_eth_dev_start(port), "starting")?;
        }
        // From here on a failure stops and closes the port by dropping `inner`, which locks.
        state.ports.push(id);
        let inner = Arc::new(Inner { id, _pool: pool.clone() });
        // SAFETY: as above: the port is started and ours, and the lock is still held.
        let outcome = unsafe {
            let promiscuous =
                if cfg.promiscuous { dpdk_sys::rte_eth_promiscuous_enable(port) } else { 0 };
            // Best effort: many virtual devices have no filter to turn off.
            dpdk_sys::rte_eth_allmulticast_enable(port);
            optional(promiscuous, "entering promiscuous mode").and_then(|()| {
                check(dpdk_sys::shim_eth_mac_get(port, mac.as_mut_ptr()), "reading the MAC address")
            })
        };
        drop(state);
        outcome?;

        let rx = RxQueues {
            inner: Arc::clone(&inner),
            received: std::iter::repeat_n(0, usize::from(cfg.rx_queues)).collect(),
            next: 0,
            not_sync: PhantomData,
        };
        let tx = TxQueue {
            inner: Arc::clone(&inner),
            multi_segs: info.tx_multi_segs != 0,
            dropped_frames: 0,
            not_sync: PhantomData,
        };
        let device_time = (time.flag != 0).then_some(time);
        Ok((Port { inner, mac, device_time, not_sync: PhantomData }, rx, tx))
    }

    /// The port's number.
    pub fn id(&self) -> PortId {
        self.inner.id
    }

    /// The MAC address that the device had when it was configured.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Where frames received here have the device's time; `None` if the device has none, or it was
    /// not asked for.
    pub fn device_time(&self) -> Option<DeviceTime> {
        self.device_time
    }

    /// The device's clock now, in ticks of its own; `None` if it cannot be read.
    pub fn device_clock(&self) -> Option<u64> {
        let mut ticks = 0;
        // SAFETY: the port is open while `inner` lives; one thread at a time, as in `stats`.
        let code = unsafe { dpdk_sys::shim_eth_read_clock(self.inner.id.get(), &mut ticks) };
        (code == 0).then_some(ticks)
    }

    /// The driver's counters; zeros if it keeps none. Not for every burst: some drivers go to the
    /// hardware or to the kernel.
    pub fn stats(&self) -> PortStats {
        let mut stats = dpdk_sys::shim_eth_stats {
            rx_packets: 0,
            tx_packets: 0,
            rx_bytes: 0,
            tx_bytes: 0,
            rx_missed: 0,
            rx_errors: 0,
            tx_errors: 0,
            rx_nombuf: 0,
        };
        // SAFETY: the port is open while `inner` lives; only one thread at a time has the `Port`
        // (it is !Sync); `stats` is of the type that is written.
        unsafe { dpdk_sys::shim_eth_stats_get(self.inner.id.get(), &mut stats) };
        PortStats {
            rx_packets: stats.rx_packets,
            tx_packets: stats.tx_packets,
            rx_missed: stats.rx_missed,
            rx_errors: stats.rx_errors,
            tx_errors: stats.tx_errors,
            rx_nombuf: stats.rx_nombuf,
            rx_bytes: stats.rx_bytes,
            tx_bytes: stats.tx_bytes,
        }
    }

    /// The link is up, as far as the driver knows: `net_af_packet` of DPDK 22.11 says so whatever
    /// happens to its interface. A system call with drivers over kernel interfaces.
    pub fn link_up(&self) -> bool {
        // SAFETY: the port is open while `inner` lives; one thread at a time, as in `stats`.
        unsafe { dpdk_sys::shim_eth_link_up(self.inner.id.get()) == 1 }
    }
}

impl RxQueues {
    /// Receives into the free places of `out`, after what it holds, and returns how many came.
    ///
    /// Begins with another queue each time, and takes from the others what room is left: `out` is
    /// not full only when every queue was empty at some moment of this call. Never blocks. Give it
    /// an empty burst: some drivers receive only in multiples of 4 or 8.
    #[inline]
    pub fn rx_burst(&mut self, out: &mut Burst) -> usize {
        let held = out.len();
        if let [_] = self.received.as_slice() {
            self.rx_burst_of(0, out);
            return out.len() - held;
        }
        let queues = self.received.len();
        let first = self.next;
        self.next = (first + 1) % queues;
        for queue in (first..queues).chain(0..first) {
            self.rx_burst_of(queue, out);
        }
        out.len() - held
    }

    /// Receives from one queue into the free places of `out`.
    #[inline]
    fn rx_burst_of(&mut self, queue: usize, out: &mut Burst) {
        let (held, free) = (out.len(), out.remaining_capacity());
        if free == 0 {
            return;
        }
        // SAFETY: the port is started while `inner` lives and has this queue, as `received` has one
        // element for each; `&mut self` of a !Sync type makes this its only user. Mbuf is a
        // transparent non-null pointer, and `out` has room for `free` of them after what it holds:
        // the driver fills the first of these places, at most `free`, with mbufs that are the
        // caller's alone and satisfy Mbuf's invariant.
        let received = usize::from(unsafe {
            let first = out.as_mut_ptr().add(held).cast::<*mut dpdk_sys::rte_mbuf>();
            let received =
                dpdk_sys::shim_rx_burst(self.inner.id.get(), queue as u16, first, free as u16);
            debug_assert!(usize::from(received) <= free);
            out.set_len(held + usize::from(received));
            received
        });
        self.received[queue] += received as u64;
        out[held..].iter().for_each(Mbuf::prefetch);
    }

    /// Frames received so far, by queue.
    pub fn received(&self) -> &[u64] {
        &self.received
    }

    /// The port that these queues belong to.
    pub fn port_id(&self) -> PortId {
        self.inner.id
    }
}

impl TxQueue {
    /// Hands frames to the device, from the front of `frames`, and returns how many left. Those are
    /// gone; the rest keep their order, to be tried again or dropped.
    ///
    /// A frame of several segments is gathered first if the device cannot send it as it is; if it
    /// has no room for that it counts as left, and in [`TxQueue::dropped_frames`].
    ///
    /// "Left" means that the driver took it: a driver may still lose it, and counts it then
    /// ([`PortStats::tx_errors`]), or keep it for as long as the link is down and send it
    /// afterwards (`net_af_packet` does, up to its `framecnt`).
    #[inline]
    pub fn tx_burst(&mut self, frames: &mut Burst) -> usize {
        let before = frames.len();
        if !self.multi_segs && frames.iter().any(|frame| !frame.is_linear()) {
            frames.retain(|frame| frame.linearize());
        }
        let count = frames.len();
        let refused = before - count;
        self.dropped_frames += refused as u64;
        if count == 0 {
            return refused;
        }
        // SAFETY: the port is started while `inner` lives, and `&mut self` of a !Sync type makes
        // this the queue's only user. Mbuf is a transparent non-null pointer to a live mbuf that is
        // ours; the driver takes over the first `sent` of them, at most `count`. Those leave the
        // vector without being dropped, by moving the rest over them; the length is 0 meanwhile.
        unsafe {
            let first = frames.as_mut_ptr();
            let pointers = first.cast::<*mut dpdk_sys::rte_mbuf>();
            let id = self.inner.id.get();
            let sent = usize::from(dpdk_sys::shim_tx_burst(id, 0, pointers, count as u16));
            debug_assert!(sent <= count);
            frames.set_len(0);
            ptr::copy::<Mbuf>(first.add(sent), first, count - sent);
            frames.set_len(count - sent);
            refused + sent
        }
    }

    /// Frames that [`TxQueue::tx_burst`] dropped because they could not be gathered.
    pub fn dropped_frames(&self) -> u64 {
        self.dropped_frames
    }

    /// The port that this queue belongs to.
    pub fn port_id(&self) -> PortId {
        self.inner.id
    }
}
