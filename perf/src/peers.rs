//! What we are compared with, and what drives both: programs that take turns.

pub mod capture_node;
pub mod embedded;
pub mod generator;
pub mod keepalived;
mod lines;
pub mod pktgen;
pub mod recorder;
pub mod tcpreplay;
pub mod testpmd;

pub use lines::Lines;

/// Devargs to send to an interface of the kernel, past its queueing discipline.
pub fn veth_device(interface: &str) -> String {
    let rings = "blocksz=65536,framesz=2048,framecnt=4096,qdisc_bypass=1";
    format!("net_af_packet_gen,iface={interface},{rings}")
}
