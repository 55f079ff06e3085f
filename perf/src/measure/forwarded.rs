//! A server behind dpdk-testpmd, which passes frames between a client port and a host port and keeps
//! nothing: what the devices and the kernel alone allow.

use anyhow::{Context, Result};
use understudy_lab::node::vip4;
use understudy_lab::proc::Proc;
use understudy_lab::topology::{VIP4, offloads_off};
use understudy_lab::{Lab, Member, cmd, plain};

use super::first_and_last_cpu;
use crate::peers::testpmd::Testpmd;

/// The forwarder's host port, and the application's end of it.
const HOST_PORT: (&str, &str) = ("us-host", "app0");
/// The daemon's rings.
const RINGS: &str = "blocksz=65536,framesz=2048,framecnt=4096,qdisc_bypass=1";

/// A driver for one end of a veth pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// net_af_packet with the daemon's rings.
    AfPacket,
    /// net_af_xdp, which copies: a veth has no other way.
    AfXdp,
}

impl Driver {
    fn device(self, number: usize, interface: &str) -> String {
        match self {
            Driver::AfPacket => format!("net_af_packet{number},iface={interface},{RINGS}"),
            Driver::AfXdp => format!("net_af_xdp{number},iface={interface},force_copy=1"),
        }
    }
}

/// Node a forwards between its client port and a server in node b's namespace. The order is that
/// in which they must go.
pub struct Forwarded {
    _testpmd: Testpmd,
    _server: Proc,
    /// The client is in it.
    pub lab: Lab,
}

impl Forwarded {
    /// Starts a server that binds a port, with this driver at the host port, and waits until a client
    /// reaches it.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(host: Driver, server: &[&str], port: u16) -> Result<Forwarded> {
        let lab = Lab::new()?;
        let (node, app) = (lab.node_netns(Member::A), lab.node_netns(Member::B));
        let (outer, inner) = HOST_PORT;
        let peer = app.file_name().and_then(|name| name.to_str()).context("a namespace's name")?;
        let words = ["ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns"];
        cmd::run_inside(&node, &[&words[..], &[peer]].concat())?;
        for (netns, name) in [(&node, outer), (&app, inner)] {
            offloads_off(netns, name)?;
            cmd::run_inside(netns, &["ip", "link", "set", name, "up"])?;
        }
        let address = format!("{VIP4}/24");
        cmd::run_inside(&app, &["ip", "addr", "add", &address, "dev", inner])?;
        let server = plain::start(&lab, Member::B, "server", server)?;
        let devices = [Driver::AfPacket.device(0, "us-cl"), host.device(1, outer)];
        let testpmd = Testpmd::bridge(&node, [&devices[0], &devices[1]], first_and_last_cpu()?)?;
        plain::wait_port(&lab.client_netns(), vip4(port))?;
        Ok(Forwarded { _testpmd: testpmd, _server: server, lab })
    }
}
