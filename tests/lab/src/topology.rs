//! One lab: namespaces for a client, a switch and nodes a, b, c; links that can be broken.
//!
//! ```text
//!  client eth0 ── cl-x ┐
//!  a us-cl ────── cl-a ┤ br-client      a us-rp ── rp-a ┐ br-replica   a us-mg ── mg-a ┐ br-mgmt
//!  b us-cl ────── cl-b ┤                b us-rp ── rp-b ┤              b us-mg ── mg-b ┤
//!  c us-cl ────── cl-c ┘                c us-rp ── rp-c ┘              c us-mg ── mg-c ┘
//! ```
//! The bridges and all `cl-`, `rp-`, `mg-` ends are in the switch's namespace. A `Forwarder` may
//! stand in for `br-replica` and `br-mgmt`, to impair what goes over them.

use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{Forwarder, cmd, proc, sys};

/// Virtual router id of the lab's service.
pub const VRID: u8 = 51;
/// Virtual MAC of the IPv4 service.
pub const VMAC4: [u8; 6] = [0, 0, 0x5e, 0, 1, VRID];
/// Virtual MAC of the IPv6 service.
pub const VMAC6: [u8; 6] = [0, 0, 0x5e, 0, 2, VRID];
/// Virtual IPv4 address.
pub const VIP4: &str = "10.77.0.100";
/// Virtual IPv6 address.
pub const VIP6: &str = "fd77::100";
/// Address of the client.
pub const CLIENT4: &str = "10.77.0.1";
/// Address of the hand-made client that lives on a raw socket.
pub const RAW_CLIENT4: &str = "10.77.0.9";

/// What every namespace of every lab starts with; the pid of its owner follows.
const PREFIX: &str = "usl";
const NETNS_DIR: &str = "/run/netns";
/// An empty bridge: what tc redirects to it is gone. This kernel has no drop action.
const HOLE: &str = "br-hole";
/// Longest wait for another lab to end.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3600);

/// A node of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// Preferred primary.
    A,
    /// Second choice.
    B,
    /// Third choice.
    C,
}

impl Member {
    /// All three, in order of priority.
    pub const ALL: [Member; 3] = [Member::A, Member::B, Member::C];

    /// Name in the configuration.
    pub fn name(self) -> &'static str {
        ["a", "b", "c"][self as usize]
    }

    /// Number in addresses: 1, 2, 3.
    pub fn number(self) -> usize {
        self as usize + 1
    }

    /// The member of that name.
    pub fn by_name(name: &str) -> Option<Member> {
        Self::ALL.into_iter().find(|member| member.name() == name)
    }

    /// The other two.
    pub fn others(self) -> impl Iterator<Item = Member> {
        Self::ALL.into_iter().filter(move |&member| member != self)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// One of a node's three networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Net {
    /// Towards the clients.
    Client,
    /// Between the nodes: log and heartbeats.
    Replica,
    /// The second heartbeat path.
    Mgmt,
}

impl Net {
    /// All of them.
    pub const ALL: [Net; 3] = [Net::Client, Net::Replica, Net::Mgmt];

    fn short(self) -> &'static str {
        ["cl", "rp", "mg"][self as usize]
    }

    /// The switch's bridge.
    pub fn bridge(self) -> &'static str {
        ["br-client", "br-replica", "br-mgmt"][self as usize]
    }

    /// The switch's port to a node.
    pub fn switch_port(self, member: Member) -> String {
        format!("{}-{member}", self.short())
    }
}

/// Which way frames are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What the node sends is lost at the switch; a capture at the switch still sees it.
    FromNode,
    /// What would reach the node is lost at the switch.
    ToNode,
}

/// Which frames a one-way block drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// All of them.
    Everything,
    /// Frames of an ethertype with this byte at this offset behind the Ethernet header.
    Byte {
        /// The ethertype.
        ethertype: u16,
        /// Offset behind the 14 bytes of Ethernet header.
        offset: u8,
        /// The value at that offset.
        value: u8,
    },
}

/// A lab. Everything of it is gone when it is dropped.
pub struct Lab {
    prefix: String,
    dir: PathBuf,
    forwarders: Vec<(Net, Forwarder)>,
    // Held, never read: one measured lab at a time on a machine.
    _lock: Option<File>,
}

/// Prefixes of the living labs of this process, for the interrupt handler.
static LIVING: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Lab {
    /// Waits for its turn, removes what dead labs left, and builds the topology.
    pub fn new() -> Result<Lab> {
        Self::build_new(true, &[], 0)
    }

    /// The same, with forwarders between the nodes on these networks; `seed` is that of their
    /// chances.
    pub fn impaired(nets: &[Net], seed: u64) -> Result<Lab> {
        Self::build_new(true, nets, seed)
    }

    /// Builds a lab without waiting for its turn: for people, not for tests.
    pub fn beside_others(impaired: &[Net], seed: u64) -> Result<Lab> {
        Self::build_new(false, impaired, seed)
    }

    fn build_new(is_alone: bool, impaired: &[Net], seed: u64) -> Result<Lab> {
        if impaired.contains(&Net::Client) {
            bail!("no forwarder for the client network: it would mistreat the clients themselves");
        }
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        if !sys::is_root() {
            bail!("a lab needs root");
        }
        let lock = is_alone.then(lock_machine).transpose()?;
        remove_stale();
        sys::on_interrupt(remove_living)?;
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{PREFIX}{}-{number}", std::process::id());
        let dir = dir_of(&prefix);
        fs::create_dir_all(&dir)?;
        living().push(prefix.clone());
        let mut lab = Lab { prefix, dir, forwarders: Vec::new(), _lock: lock };
        lab.build(impaired).context("cannot build the lab")?;
        for &net in impaired {
            let forwarder = Forwarder::start(&lab.switch_netns(), net, seed ^ net as u64)?;
            lab.forwarders.push((net, forwarder));
        }
        Ok(lab)
    }

    /// What forwards on an impaired network.
    pub fn forwarder(&self, net: Net) -> Result<&Forwarder> {
        let found = self.forwarders.iter().find(|(of, _)| *of == net);
        found.map(|(_, f)| f).with_context(|| format!("no forwarder is on {}", net.bridge()))
    }

    /// The unique start of all names of this lab; also the mark of its processes.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Logs, state and sockets of this lab.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn netns_name(&self, place: &str) -> String {
        format!("{}-{place}", self.prefix)
    }

    fn netns(&self, place: &str) -> PathBuf {
        Path::new(NETNS_DIR).join(self.netns_name(place))
    }

    /// Where the clients are.
    pub fn client_netns(&self) -> PathBuf {
        self.netns("client")
    }

    /// Where the bridges are.
    pub fn switch_netns(&self) -> PathBuf {
        self.netns("switch")
    }

    /// Where a node is.
    pub fn node_netns(&self, member: Member) -> PathBuf {
        self.netns(member.name())
    }

    fn build(&self, impaired: &[Net]) -> Result<()> {
        for place in ["client", "switch", "a", "b", "c"] {
            cmd::run(&["ip", "netns", "add", &self.netns_name(place)])?;
        }
        self.build_bridges()?;
        self.build_client()?;
        Member::ALL.into_iter().try_for_each(|member| self.build_node(member, impaired))
    }

    /// Runs many `ip` commands of one namespace at once.
    fn ip(&self, place: &str, script: &str) -> Result<()> {
        let name = self.netns_name(place);
        cmd::run_with_input(&["ip", "-n", &name, "-batch", "-"], script)
            .map(drop)
            .with_context(|| script.to_string())
    }

    fn build_bridges(&self) -> Result<()> {
        let mut script = String::from("link set lo up\n");
        for bridge in Net::ALL.map(Net::bridge).into_iter().chain([HOLE]) {
            writeln!(
                script,
                "link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
            )?;
        }
        self.ip("switch", &script)?;
        set_sysctl(&self.switch_netns(), "ipv6/conf/all/disable_ipv6", "1")?;
        set_sysctl(&self.switch_netns(), "ipv6/conf/default/disable_ipv6", "1")?;
        for bridge in Net::ALL.map(Net::bridge).into_iter().chain([HOLE]) {
            self.ip("switch", &format!("link set {bridge} up\n"))?;
        }
        Ok(())
    }

    fn build_client(&self) -> Result<()> {
        self.plug("cl-x", "eth0", "client", Some(Net::Client))?;
        // Each run stands for itself: no path metrics of earlier connections.
        set_sysctl(&self.client_netns(), "ipv4/tcp_no_metrics_save", "1")?;
        self.ip(
            "client",
            &format!(
                "link set lo up\naddr add {CLIENT4}/24 dev eth0\n\
                 addr add fd77::1/64 dev eth0 nodad\nlink set eth0 up\n"
            ),
        )
    }

    fn build_node(&self, member: Member, impaired: &[Net]) -> Result<()> {
        let netns = self.node_netns(member);
        for net in Net::ALL {
            let port = net.switch_port(member);
            let interface = format!("us-{}", net.short());
            let bridged = (!impaired.contains(&net)).then_some(net);
            self.plug(&port, &interface, member.name(), bridged)?;
        }
        // The dataplane owns these two: the kernel must neither speak nor answer there.
        for port in ["us-cl", "us-rp"] {
            set_sysctl(&netns, &format!("ipv6/conf/{port}/disable_ipv6"), "1")?;
            set_sysctl(&netns, &format!("ipv4/conf/{port}/arp_ignore"), "1")?;
        }
        self.ip(
            member.name(),
            &format!(
                "link set lo up\naddr add 10.77.2.{}/24 dev us-mg\n\
                 link set us-cl up\nlink set us-rp up\nlink set us-mg up\n",
                member.number()
            ),
        )
    }

    /// A cable from a port of the switch, perhaps of a bridge, to an interface of another
    /// namespace.
    fn plug(&self, port: &str, interface: &str, place: &str, bridged: Option<Net>) -> Result<()> {
        let peer = self.netns_name(place);
        let master = bridged.map_or(String::new(), |net| format!("master {}", net.bridge()));
        self.ip(
            "switch",
            &format!(
                "link add {port} type veth peer name {interface} netns {peer}\n\
                 link set {port} {master} up\n",
            ),
        )?;
        offloads_off(&self.switch_netns(), port)?;
        offloads_off(&self.netns(place), interface)
    }

    /// Cuts a cable: both ends see the carrier go.
    pub fn cut_link(&self, member: Member, net: Net) -> Result<()> {
        self.set_links(member, &[net], false)
    }

    /// Plugs a cut cable in again.
    pub fn restore_link(&self, member: Member, net: Net) -> Result<()> {
        self.set_links(member, &[net], true)
    }

    /// Cuts every cable of a node, as the loss of its machine does.
    pub fn cut_all_links(&self, member: Member) -> Result<()> {
        self.set_links(member, &Net::ALL, false)
    }

    /// Plugs every cable of a node in again.
    pub fn restore_all_links(&self, member: Member) -> Result<()> {
        self.set_links(member, &Net::ALL, true)
    }

    fn set_links(&self, member: Member, nets: &[Net], up: bool) -> Result<()> {
        let set = |net: &Net| sys::set_link_up(&net.switch_port(member), up);
        sys::in_netns(&self.switch_netns(), || nets.iter().try_for_each(set))
            .flatten()
            .with_context(|| format!("links {nets:?} of {member}"))
    }

    /// Parts a node from a bridged network, both ways; its carrier stays.
    pub fn isolate(&self, member: Member, net: Net) -> Result<()> {
        self.set_port_state(member, net, "0")
    }

    /// Ends `isolate`.
    pub fn restore(&self, member: Member, net: Net) -> Result<()> {
        self.set_port_state(member, net, "3")
    }

    fn set_port_state(&self, member: Member, net: Net, state: &str) -> Result<()> {
        let port = net.switch_port(member);
        let words = ["bridge", "link", "set", "dev", &port, "state", state];
        cmd::run_inside(&self.switch_netns(), &words).map(drop)
    }

    /// Drops matching frames one way between a node and a bridged network until `unblock`.
    pub fn block(
        &self,
        member: Member,
        net: Net,
        direction: Direction,
        frames: Match,
    ) -> Result<()> {
        if self.forwarder(net).is_ok() {
            // A raw socket hears a frame before any filter does.
            bail!("{} has a forwarder, which blocks", net.bridge());
        }
        let port = net.switch_port(member);
        let side = if direction == Direction::FromNode { "ingress" } else { "egress" };
        let (protocol, key) = match frames {
            Match::Everything => ("all".to_string(), "u8 0 0 at 0".to_string()),
            Match::Byte { ethertype, offset, value } => {
                (format!("{ethertype:#06x}"), format!("u8 {value:#04x} 0xff at {offset}"))
            }
        };
        // There already when another block is in force on this port.
        let _ = self.tc(&["qdisc", "add", "dev", &port, "clsact"]);
        let mut words = vec!["filter", "add", "dev", &port, side, "protocol", &protocol];
        words.extend(["u32", "match"]);
        words.extend(key.split(' '));
        words.extend(["action", "mirred", "egress", "redirect", "dev", HOLE]);
        self.tc(&words)
    }

    /// Ends every block between a node and a network.
    pub fn unblock(&self, member: Member, net: Net) -> Result<()> {
        self.tc(&["qdisc", "del", "dev", &net.switch_port(member), "clsact"])
    }

    fn tc(&self, words: &[&str]) -> Result<()> {
        let mut all = vec!["tc"];
        all.extend(words);
        cmd::run_inside(&self.switch_netns(), &all).map(drop)
    }

    /// Living processes of this lab.
    pub fn processes(&self) -> Vec<u32> {
        processes_of(&self.prefix)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let keep = std::thread::panicking() || std::env::var_os("UNDERSTUDY_KEEP_LOGS").is_some();
        if keep {
            keep_logs(&self.dir, &self.prefix);
        }
        remove(&self.prefix);
        living().retain(|prefix| *prefix != self.prefix);
    }
}

fn living() -> std::sync::MutexGuard<'static, Vec<String>> {
    LIVING.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn dir_of(prefix: &str) -> PathBuf {
    std::env::temp_dir().join(prefix)
}

/// The lock of all labs of the machine; `UNDERSTUDY_LAB_LOCK` names another file.
fn lock_machine() -> Result<File> {
    let path = std::env::var_os("UNDERSTUDY_LAB_LOCK")
        .map_or_else(|| std::env::temp_dir().join("understudy-lab.lock"), PathBuf::from);
    let file = File::options().create(true).append(true).open(&path)?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    for turn in 0u64.. {
        if sys::try_lock(&file)? {
            break;
        }
        if Instant::now() >= deadline {
            bail!("another lab holds {} for {LOCK_TIMEOUT:?}", path.display());
        }
        if turn == 500 {
            eprintln!("waiting for the lab that holds {}", path.display());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(file)
}

fn set_sysctl(netns: &Path, name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{name}");
    sys::in_netns(netns, || fs::write(&path, value))?.with_context(|| format!("set {name}"))
}

/// Frames of an interface leave whole: no checksum and no segmentation is left to a device.
pub fn offloads_off(netns: &Path, interface: &str) -> Result<()> {
    let mut words = vec!["ethtool", "-K", interface];
    for feature in ["tx", "rx", "tso", "gso", "gro"] {
        words.extend([feature, "off"]);
    }
    cmd::run_inside(netns, &words).map(drop)
}

/// Copies what helps to understand a failure to the output directory (`UNDERSTUDY_LAB_OUT`).
fn keep_logs(dir: &Path, prefix: &str) {
    let out = std::env::var_os("UNDERSTUDY_LAB_OUT")
        .map_or_else(|| std::env::temp_dir().join("understudy-lab-out"), PathBuf::from)
        .join(prefix);
    let _ = fs::create_dir_all(&out);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|e| ["log", "toml", "pcap"].iter().any(|k| e == *k))
        {
            let _ = fs::copy(entry.path(), out.join(entry.file_name()));
        }
    }
    eprintln!("the lab's logs are in {}", out.display());
}

fn remove_living() {
    let prefixes = living().clone();
    prefixes.iter().for_each(|prefix| remove(prefix));
}

/// Living processes of a lab: marked, in one of its namespaces, or at work in its directory.
///
/// The mark alone is not enough: Redis writes its title over its environment.
fn processes_of(prefix: &str) -> Vec<u32> {
    let inodes: Vec<u64> = netns_names()
        .iter()
        .filter(|name| lab_of(name) == Some(prefix))
        .filter_map(|name| fs::metadata(Path::new(NETNS_DIR).join(name)).ok())
        .map(|meta| meta.ino())
        .collect();
    let dir = dir_of(prefix);
    let mut pids = proc::marked(|mark| mark == prefix);
    let own = std::process::id();
    pids.extend(proc::all_pids().into_iter().filter(|&pid| {
        pid != own && (proc::is_in_netns(pid, &inodes) || proc::works_in(pid, &dir))
    }));
    let children: Vec<u32> = pids.iter().flat_map(|&pid| proc::descendants(pid)).collect();
    pids.extend(children);
    pids.retain(|&pid| proc::name_of(pid).is_some());
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Kills the processes of a lab, then removes its namespaces and files. Never fails.
fn remove(prefix: &str) {
    for _ in 0..100 {
        let pids = processes_of(prefix);
        if pids.is_empty() {
            break;
        }
        pids.into_iter().for_each(|pid| drop(sys::kill(pid, libc::SIGKILL)));
        std::thread::sleep(Duration::from_millis(10));
    }
    for name in netns_names().into_iter().filter(|name| lab_of(name) == Some(prefix)) {
        let _ = cmd::run(&["ip", "netns", "del", &name]);
    }
    let dir = dir_of(prefix);
    // What a test has mounted there would keep it.
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    for place in places.filter(|place| Path::new(place).starts_with(&dir)) {
        let _ = cmd::run(&["umount", "-l", place]);
    }
    let _ = fs::remove_dir_all(dir);
}

/// Names of all network namespaces of the machine that have one.
pub fn netns_names() -> Vec<String> {
    let entries = fs::read_dir(NETNS_DIR).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// `usl12-0` of `usl12-0-switch`.
fn lab_of(name: &str) -> Option<&str> {
    owner_of(name)?;
    let end = name.match_indices('-').nth(1).map_or(name.len(), |(at, _)| at);
    Some(&name[..end])
}

/// The pid in a lab's prefix.
fn owner_of(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(PREFIX)?;
    rest[..rest.find('-')?].parse().ok()
}

/// Removes labs whose owner is dead; those of living processes are left alone.
fn remove_stale() {
    let dirs = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    let mut names = netns_names();
    names.extend(dirs.filter_map(|entry| entry.file_name().into_string().ok()));
    let mut stale: Vec<&str> = names
        .iter()
        .filter(|name| owner_of(name).is_some_and(|pid| proc::name_of(pid).is_none()))
        .filter_map(|name| lab_of(name))
        .collect();
    stale.sort_unstable();
    stale.dedup();
    stale.into_iter().for_each(remove);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_lab_and_its_owner() {
        assert_eq!(owner_of("usl123-4-switch"), Some(123));
        assert_eq!(lab_of("usl123-4-switch"), Some("usl123-4"));
        assert_eq!(lab_of("usl123-4"), Some("usl123-4"));
        assert_eq!(lab_of("other-1"), None);
        assert_eq!(lab_of("uslx-1"), None);
    }
}
