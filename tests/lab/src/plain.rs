//! A service without Understudy: a program in a node's namespace, the VIP on its interface.
//!
//! It proves the instruments: what they say of a plain service is known beforehand.

use std::path::Path;

use anyhow::Result;

use crate::proc::Proc;
use crate::topology::{Lab, Member, VIP4, VIP6, VMAC4};
use crate::{cmd, sys};

/// Gives a node's client interface the VMAC and both VIPs, handled by its kernel.
pub fn take_vip(lab: &Lab, member: Member) -> Result<()> {
    let netns = lab.node_netns(member);
    sys::in_netns(&netns, || std::fs::write("/proc/sys/net/ipv6/conf/us-cl/disable_ipv6", "0"))??;
    let mac = VMAC4.map(|byte| format!("{byte:02x}")).join(":");
    let name = format!("{}-{member}", lab.prefix());
    let script = format!(
        "link set us-cl address {mac}\naddr add {VIP4}/24 dev us-cl\n\
         addr add {VIP6}/64 dev us-cl nodad\n"
    );
    cmd::run_with_input(&["ip", "-n", &name, "-batch", "-"], &script).map(drop)
}

/// Takes the VIPs away from a node again.
pub fn drop_vip(lab: &Lab, member: Member) -> Result<()> {
    let words = ["ip", "addr", "flush", "dev", "us-cl"];
    cmd::run_inside(&lab.node_netns(member), &words).map(drop)
}

/// Starts a program in a node's namespace.
pub fn start(lab: &Lab, member: Member, name: &str, words: &[&str]) -> Result<Proc> {
    let mut command = cmd::inside(&lab.node_netns(member), words[0]);
    command.args(&words[1..]).current_dir(lab.dir());
    Proc::start(command, &lab.dir().join(format!("{name}-{member}.log")), lab.prefix())
}

/// Starts a Redis that keeps nothing on disk.
pub fn start_redis(lab: &Lab, member: Member, port: u16) -> Result<Proc> {
    let port = port.to_string();
    let mut words = vec!["redis-server", "--port", &port, "--bind", "*", "-::*"];
    words.extend(["--protected-mode", "no", "--save", "", "--appendonly", "no"]);
    start(lab, member, "redis", &words)
}

/// Starts the lab's own server; `kind` is `tcp` or `udp`.
pub fn start_server(lab: &Lab, member: Member, kind: &str, port: u16) -> Result<Proc> {
    let program = crate::node::binary("lab-server")?;
    let (program, listen) = (program.to_string_lossy().into_owned(), format!("[::]:{port}"));
    start(lab, member, "lab-server", &[&program, kind, "--listen", &listen])
}

/// Waits until a TCP port of the VIP accepts connections from the client.
pub fn wait_port(netns: &Path, target: std::net::SocketAddr) -> Result<()> {
    let timeout = std::time::Duration::from_secs(10);
    cmd::wait_until(&format!("{target} accepts"), timeout, || {
        let step = std::time::Duration::from_millis(200);
        Ok(sys::in_netns(netns, || std::net::TcpStream::connect_timeout(&target, step))?.is_ok())
    })
}
