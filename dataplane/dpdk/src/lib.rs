//! Safe wrapper over the part of DPDK that Understudy uses: the environment abstraction layer
//! (EAL), mbuf pools, mbufs, ports, and a TSC clock.
//!
//! # Ownership
//! - [`Eal`] is the process-wide initialisation. Everything else refuses to work without it.
//! - A [`Mempool`] is a counted handle; the pool's memory itself lives until EAL is cleaned up.
//! - An [`Mbuf`] is owned by exactly one place. Dropping it frees it, transmitting it moves it away.
//! - [`Port`], [`RxQueues`] and [`TxQueue`] share one port: it is stopped and closed when the last of
//!   the three is dropped. The queues can be moved to the one thread that uses them.
//! - Dropping [`Eal`] calls `rte_eal_cleanup()` only when nothing that points into DPDK's memory is
//!   left; otherwise the memory stays mapped, and the end of the process frees it.
//!
//! # Threads
//! EAL pins the thread that calls [`Eal::init`] to its main lcore, and threads created afterwards
//! inherit that. A polling thread should take a [`ThreadRegistration`], which gives it the
//! per-core mbuf cache.
//!
//! # Example
//! ```no_run
//! use understudy_dpdk::{Burst, Eal, Mempool, Port, PortConfig, vdev_attach};
//!
//! # fn main() -> Result<(), understudy_dpdk::Error> {
//! let args = ["-l", "0", "--in-memory", "--no-telemetry", "--no-pci"].map(String::from);
//! let _eal = Eal::init(&args)?;
//! let pool = Mempool::new("frames", 4095, 256, 2048)?;
//! let id = vdev_attach("net_af_packet_client,iface=veth0")?;
//! let (_port, mut rx, mut tx) = Port::configure(id, &PortConfig::default(), &pool)?;
//! let mut burst = Burst::new();
//! loop {
//!     rx.rx_burst(&mut burst);
//!     tx.tx_burst(&mut burst);
//!     burst.clear(); // what the device did not take is freed
//! }
//! # }
//! ```

mod bpf;
pub mod clock;
mod eal;
mod error;
mod mbuf;
mod mempool;
mod port;

pub use bpf::{Instruction, PacketFilter};
pub use eal::{Eal, PortId, ThreadRegistration, port_by_name, vdev_attach};
pub use error::Error;
pub use mbuf::{BURST, Burst, Mbuf};
pub use mempool::{DEFAULT_DATA_ROOM_BYTES, Mempool};
pub use port::{DeviceTime, Port, PortConfig, PortStats, RX_QUEUES_MAX, RxQueues, TxQueue};
