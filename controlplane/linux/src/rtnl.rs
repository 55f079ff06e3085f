//! Synchronous rtnetlink: the host port's veth pair, the capsule's addresses and sysctls, and a
//! monitor of link state. Every function works in the calling thread's network namespace unless
//! it takes a [`NetNs`].

use crate::{
    Error, Result,
    error::BE_ROOT,
    netns::NetNs,
    nl::{
        self, Client, Messages, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE,
        Request,
    },
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::{
    collections::{HashMap, HashSet},
    fs, io,
    net::IpAddr,
    ops::ControlFlow,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::Mutex,
};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTMGRP_LINK: u32 = 1;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

const IFINFO_BYTES: usize = 16;
const IFF_UP: u32 = 0x1;
const IFF_LOWER_UP: u32 = 0x1_0000;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;

/// The veth pair of a host port.
#[derive(Clone, Copy, Debug)]
pub struct VethSpec<'a> {
    /// Name of the dataplane's end, in the calling thread's namespace.
    pub outer: &'a str,
    /// Name of the application's end, in the capsule.
    pub inner: &'a str,
    /// MAC address of the application's end (the VMAC).
    pub inner_mac: [u8; 6],
    /// MTU of both ends.
    pub mtu: u32,
}

struct Link {
    index: u32,
    kind: Option<String>,
    carrier: bool,
}

fn check_name(name: &str) -> Result<()> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0';
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(bad) {
        return Err(Error::BadIfName(name.into()));
    }
    Ok(())
}

fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; IFINFO_BYTES] {
    let mut bytes = [0; IFINFO_BYTES];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

/// Index, name and carrier of a link message.
fn parse_link(payload: &[u8]) -> Option<(u32, String, bool)> {
    let index = nl::u32_at(payload, 4)?;
    let flags = nl::u32_at(payload, 8)?;
    let (_, name) = nl::attrs(payload.get(IFINFO_BYTES..)?).find(|(k, _)| *k == IFLA_IFNAME)?;
    Some((index, nl::c_str(name), flags & IFF_UP != 0 && flags & IFF_LOWER_UP != 0))
}

fn find_link(client: &mut Client, name: &str) -> Result<Option<Link>> {
    check_name(name)?;
    let mut request = Request::new(RTM_GETLINK, NLM_F_ACK);
    request.bytes(&ifinfo(0, 0, 0)).attr_str(IFLA_IFNAME, name);
    let mut link = None;
    let done = client.request(
        &format!("look up network interface \"{name}\""),
        BE_ROOT,
        request,
        |kind, payload| {
            if kind == RTM_NEWLINK
                && let Some((index, _, carrier)) = parse_link(payload)
            {
                let info = nl::attrs(&payload[IFINFO_BYTES..]).find(|(k, _)| *k == IFLA_LINKINFO);
                let kind = info
                    .and_then(|(_, info)| nl::attrs(info).find(|(k, _)| *k == IFLA_INFO_KIND))
                    .map(|(_, kind)| nl::c_str(kind));
                link = Some(Link { index, kind, carrier });
            }
            ControlFlow::Continue(())
        },
    );
    match done {
        Ok(()) => Ok(link),
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(e) => Err(e),
    }
}

fn need_link(client: &mut Client, name: &str) -> Result<Link> {
    find_link(client, name)?.ok_or_else(|| Error::NoSuchLink(name.into()))
}

/// The interface's index.
pub fn link_index(name: &str) -> Result<u32> {
    Ok(need_link(&mut Client::open(NETLINK_ROUTE)?, name)?.index)
}

fn set_up(client: &mut Client, name: &str) -> Result<()> {
    let link = need_link(client, name)?;
    let mut request = Request::new(RTM_NEWLINK, NLM_F_ACK);
    request.bytes(&ifinfo(link.index, IFF_UP, IFF_UP));
    client.request(&format!("bring up network interface \"{name}\""), BE_ROOT, request, ignore)
}

fn ignore(_: u16, _: &[u8]) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Brings an interface up.
pub fn set_link_up(name: &str) -> Result<()> {
    set_up(&mut Client::open(NETLINK_ROUTE)?, name)
}

/// Takes an interface down.
pub fn set_link_down(name: &str) -> Result<()> {
    let mut client = Client::open(NETLINK_ROUTE)?;
    let link = need_link(&mut client, name)?;
    let mut request = Request::new(RTM_NEWLINK, NLM_F_ACK);
    request.bytes(&ifinfo(link.index, 0, IFF_UP));
    client.request(&format!("take down network interface \"{name}\""), BE_ROOT, request, ignore)
}

/// Makes the host port: `outer` in the calling thread's namespace (no address, IPv6 disabled,
/// `arp_ignore=1`, up) and `inner` in `ns` with the given MAC address (up). Offloads are off on
/// both ends, so that every frame carries a whole checksum. A veth named `outer` that a crash
/// left behind is replaced.
pub fn create_veth(ns: &NetNs, spec: &VethSpec<'_>) -> Result<()> {
    check_name(spec.outer)?;
    check_name(spec.inner)?;
    let mut client = Client::open(NETLINK_ROUTE)?;
    if let Some(old) = find_link(&mut client, spec.outer)? {
        let kind = old.kind.unwrap_or_else(|| "device".into());
        if kind != "veth" {
            return Err(Error::LinkInTheWay { name: spec.outer.into(), kind });
        }
        tracing::warn!(link = spec.outer, "replacing a veth that an earlier run left behind");
        remove(&mut client, spec.outer, old.index)?;
    }
    // Before the device exists, so that its link-local address already follows these.
    ns.run(|| quiet_ipv6(&["default", "all"]))??;

    let mut request = Request::new(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
    request
        .bytes(&ifinfo(0, 0, 0))
        .attr_str(IFLA_IFNAME, spec.outer)
        .attr_u32(IFLA_MTU, spec.mtu)
        .nest(IFLA_LINKINFO, |r| {
            r.attr(IFLA_INFO_KIND, b"veth").nest(IFLA_INFO_DATA, |r| {
                r.nest(VETH_INFO_PEER, |r| {
                    r.bytes(&ifinfo(0, 0, 0))
                        .attr_str(IFLA_IFNAME, spec.inner)
                        .attr(IFLA_ADDRESS, &spec.inner_mac)
                        .attr_u32(IFLA_MTU, spec.mtu)
                        .attr_u32(IFLA_NET_NS_FD, ns.as_fd().as_raw_fd() as u32);
                });
            });
        });
    client.request(
        &format!("create the veth pair \"{}\" and \"{}\"", spec.outer, spec.inner),
        "check the MTU and the MAC address, that the kernel has CONFIG_VETH, and that the daemon runs as root",
        request,
        ignore,
    )?;
    let mut finish = || {
        let conf = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", spec.outer);
        if fs::exists(&conf).unwrap_or(false) {
            sysctl(&conf, "1")?;
        }
        sysctl(&format!("/proc/sys/net/ipv4/conf/{}/arp_ignore", spec.outer), "1")?;
        disable_offloads(spec.outer)?;
        set_up(&mut client, spec.outer)?;
        ns.run(|| {
            disable_offloads(spec.inner)?;
            set_link_up(spec.inner)
        })?
    };
    finish().inspect_err(|_| {
        let _ = delete_link(spec.outer);
    })
}

fn remove(client: &mut Client, name: &str, index: u32) -> Result<()> {
    let mut request = Request::new(RTM_DELLINK, NLM_F_ACK);
    request.bytes(&ifinfo(index, 0, 0));
    client.request(&format!("delete network interface \"{name}\""), BE_ROOT, request, ignore)
}

/// Deletes an interface (and the other end of a veth pair). One that is not there is no error.
pub fn delete_link(name: &str) -> Result<()> {
    let mut client = Client::open(NETLINK_ROUTE)?;
    match find_link(&mut client, name)? {
        None => Ok(()),
        Some(link) => match remove(&mut client, name, link.index) {
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            done => done,
        },
    }
}

/// Whether an interface of that name exists.
pub fn link_exists(name: &str) -> bool {
    Client::open(NETLINK_ROUTE)
        .and_then(|mut client| find_link(&mut client, name))
        .is_ok_and(|link| link.is_some())
}

/// Whether the interface is up and has a carrier.
pub fn carrier(name: &str) -> Result<bool> {
    Ok(need_link(&mut Client::open(NETLINK_ROUTE)?, name)?.carrier)
}

/// The interface's addresses, of both families, link-local ones included.
pub fn link_addresses(name: &str) -> Result<Vec<IpAddr>> {
    let mut client = Client::open(NETLINK_ROUTE)?;
    let link = need_link(&mut client, name)?;
    let mut request = Request::new(RTM_GETADDR, NLM_F_DUMP);
    request.bytes(&[0; 8]);
    let mut found = Vec::new();
    client.request("list addresses", BE_ROOT, request, |kind, payload| {
        if kind == RTM_NEWADDR && nl::u32_at(payload, 4) == Some(link.index) {
            let attrs = || nl::attrs(&payload[8..]);
            let value = attrs()
                .find(|(k, _)| *k == IFA_LOCAL)
                .or_else(|| attrs().find(|(k, _)| *k == IFA_ADDRESS));
            if let Some((_, bytes)) = value {
                if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
                    found.push(IpAddr::from(v4));
                } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
                    found.push(IpAddr::from(v6));
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

fn family_and_octets(addr: IpAddr) -> (u8, Vec<u8>) {
    match addr {
        IpAddr::V4(a) => (libc::AF_INET as u8, a.octets().to_vec()),
        IpAddr::V6(a) => (libc::AF_INET6 as u8, a.octets().to_vec()),
    }
}

/// Gives the capsule its addresses and default gateways, and makes its kernel fit for adoption
/// (SYN cookies available) and silent (no duplicate address detection, no router discovery).
/// May be repeated.
pub fn configure_capsule(
    ns: &NetNs,
    dev: &str,
    addrs: &[(IpAddr, u8)],
    gateways: &[IpAddr],
) -> Result<()> {
    ns.run(|| {
        sysctl("/proc/sys/net/ipv4/tcp_syncookies", "1")?;
        if addrs.iter().any(|(a, _)| a.is_ipv6()) {
            quiet_ipv6(&["default", "all", dev])?;
            sysctl(&format!("/proc/sys/net/ipv6/conf/{dev}/disable_ipv6"), "0")?;
        }
        let mut client = Client::open(NETLINK_ROUTE)?;
        let index = need_link(&mut client, dev)?.index;
        for (addr, prefix) in addrs {
            let (family, octets) = family_and_octets(*addr);
            let mut request = Request::new(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE);
            request.bytes(&[family, *prefix, 0, 0]).bytes(&index.to_ne_bytes());
            request.attr(IFA_LOCAL, &octets).attr(IFA_ADDRESS, &octets);
            if addr.is_ipv6() {
                request.attr_u32(IFA_FLAGS, libc::IFA_F_NODAD);
            }
            client.request(
                &format!("add address {addr}/{prefix} to \"{dev}\""),
                "check the address and its prefix length",
                request,
                ignore,
            )?;
        }
        for gateway in gateways {
            let (family, octets) = family_and_octets(*gateway);
            let mut request = Request::new(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE);
            request
                .bytes(&[family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, RTN_UNICAST])
                .bytes(&RTNH_F_ONLINK.to_ne_bytes())
                .attr(RTA_GATEWAY, &octets)
                .attr_u32(RTA_OIF, index);
            client.request(
                &format!("add the default route through {gateway} on \"{dev}\""),
                "give an address of the same family as the gateway",
                request,
                ignore,
            )?;
        }
        Ok(())
    })?
}

/// Nothing that a kernel does on its own when an IPv6 interface comes up. A kernel without IPv6
/// has none of these files, and nothing to silence.
fn quiet_ipv6(devs: &[&str]) -> Result<()> {
    for dev in devs {
        let base = format!("/proc/sys/net/ipv6/conf/{dev}");
        if !fs::exists(&base).unwrap_or(false) {
            continue;
        }
        for name in ["accept_dad", "dad_transmits", "accept_ra", "router_solicitations"] {
            sysctl(&format!("{base}/{name}"), "0")?;
        }
    }
    Ok(())
}

fn sysctl(path: &str, value: &str) -> Result<()> {
    fs::write(path, value).map_err(|e| {
        Error::os(
            format!("write {value} to {path}"),
            "run the daemon as root with a writable /proc/sys",
            e,
        )
    })
}

const MAX_TW_BUCKETS: &str = "/proc/sys/net/ipv4/tcp_max_tw_buckets";

/// What `tcp_max_tw_buckets` was before [`set_standby`] cleared it, by namespace.
static SAVED_TW_BUCKETS: Mutex<Option<HashMap<(u64, u64), String>>> = Mutex::new(None);

/// Sets whether the capsule is a standby clone. A clone keeps no TIME_WAIT, which would stand in
/// the way of adopting a new connection from the same client port; a primary keeps as many as
/// the kernel set for it.
pub fn set_standby(ns: &NetNs, standby: bool) -> Result<()> {
    let id = ns.id()?;
    let mut saved = SAVED_TW_BUCKETS.lock().unwrap_or_else(|e| e.into_inner());
    let saved = saved.get_or_insert_default();
    if standby {
        let old = ns.run(|| {
            let old = fs::read_to_string(MAX_TW_BUCKETS).unwrap_or_default().trim().to_owned();
            sysctl(MAX_TW_BUCKETS, "0").map(|()| old)
        })??;
        if !old.is_empty() && old != "0" {
            saved.insert(id, old);
        }
        return Ok(());
    }
    // Without a saved value (another process set standby) take what this machine's kernel chose
    // for the namespace we are in.
    let value = match saved.get(&id) {
        Some(value) => value.clone(),
        None => match fs::read_to_string(MAX_TW_BUCKETS).unwrap_or_default().trim() {
            "" | "0" => "65536".to_owned(),
            value => value.to_owned(),
        },
    };
    ns.run(|| sysctl(MAX_TW_BUCKETS, &value))??;
    saved.remove(&id);
    Ok(())
}

const SIOCETHTOOL: u64 = 0x8946;
const ETHTOOL_SRXCSUM: u32 = 0x15;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SUFO: u32 = 0x22;
const ETHTOOL_SGSO: u32 = 0x24;
const ETHTOOL_SGRO: u32 = 0x2c;

#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// Turns checksum and segmentation offloads off, so that frames on the wire are whole. What the
/// device does not support is skipped.
pub fn disable_offloads(dev: &str) -> Result<()> {
    check_name(dev)?;
    // SAFETY: socket takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(Error::last_os("open a control socket", "raise the limit of open files"));
    }
    // SAFETY: `fd` was just opened by us and is owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    for cmd in
        [ETHTOOL_STSO, ETHTOOL_SUFO, ETHTOOL_SGSO, ETHTOOL_SGRO, ETHTOOL_STXCSUM, ETHTOOL_SRXCSUM]
    {
        let mut value = EthtoolValue { cmd, data: 0 };
        // SAFETY: all-zero bytes are a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(dev.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
        // SAFETY: `request` is a live ifreq with a NUL-terminated name (check_name allows 15
        // bytes), and its data pointer leads to a live ethtool_value, which is what each of these
        // commands reads and writes.
        let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &mut request) };
        if done != 0 {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::EINVAL) => {}
                Some(libc::ENODEV) => return Err(Error::NoSuchLink(dev.into())),
                _ => {
                    return Err(Error::os(
                        format!("turn off offloads of \"{dev}\""),
                        BE_ROOT,
                        error,
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Follows the carrier of every link of the namespace it was made in.
#[derive(Debug)]
pub struct LinkMonitor {
    socket: Socket,
    // Whole-state reads go over a socket of their own, or they would mix with the changes.
    client: Client,
    buffer: Vec<u8>,
    links: HashMap<u32, (String, bool)>,
    reread: bool,
}

/// Messages handled by one call of [`LinkMonitor::drain`]; more remain for the next one.
const DRAIN_MESSAGES_MAX: usize = 1024;

impl LinkMonitor {
    /// Subscribes to link changes in the calling thread's namespace and reads the present state,
    /// against which changes are reported.
    pub fn new() -> Result<LinkMonitor> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, RTMGRP_LINK))?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|e| Error::os("watch network interfaces", BE_ROOT, e))?;
        let mut monitor = LinkMonitor {
            socket,
            client: Client::open(NETLINK_ROUTE)?,
            buffer: Vec::with_capacity(64 * 1024),
            links: HashMap::new(),
            reread: false,
        };
        monitor.dump(&mut |_, _| {})?;
        Ok(monitor)
    }

    /// The descriptor to poll: readable when [`drain`](Self::drain) has something to report.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reports every change of carrier (interface name, carrier up) since the last call; a link
    /// that vanished has no carrier. Never blocks. When the kernel dropped messages the whole
    /// state is read again, and the differences are reported.
    pub fn drain(&mut self, mut f: impl FnMut(&str, bool)) {
        for _ in 0..DRAIN_MESSAGES_MAX {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {
                    let buffer = std::mem::take(&mut self.buffer);
                    for message in Messages(&buffer) {
                        self.apply(message.kind, message.payload, &mut f);
                    }
                    self.buffer = buffer;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => self.reread = true,
                Err(error) => {
                    tracing::warn!(%error, "cannot read link changes; reading the state instead");
                    self.reread = true;
                    break;
                }
            }
        }
        if self.reread {
            match self.dump(&mut f) {
                Ok(()) => self.reread = false,
                Err(error) => tracing::warn!(%error, "link state is stale until the next change"),
            }
        }
    }

    fn apply(&mut self, kind: u16, payload: &[u8], f: &mut impl FnMut(&str, bool)) {
        // Bridges send messages of their own family about their ports: those are not the link's.
        if payload.first() != Some(&(libc::AF_UNSPEC as u8)) {
            return;
        }
        let Some((index, name, carrier)) = parse_link(payload) else { return };
        let carrier = carrier && kind == RTM_NEWLINK;
        match kind {
            RTM_NEWLINK => self.note(index, name, carrier, f),
            RTM_DELLINK => self.lost(index, f),
            _ => {}
        }
    }

    fn note(&mut self, index: u32, name: String, carrier: bool, f: &mut impl FnMut(&str, bool)) {
        let old = self.links.insert(index, (name.clone(), carrier));
        match old {
            Some((old_name, old)) if old_name == name => {
                if old != carrier {
                    f(&name, carrier);
                }
            }
            Some((old_name, old)) => {
                if old {
                    f(&old_name, false);
                }
                f(&name, carrier);
            }
            None => f(&name, carrier),
        }
    }

    fn lost(&mut self, index: u32, f: &mut impl FnMut(&str, bool)) {
        if let Some((name, true)) = self.links.remove(&index) {
            f(&name, false);
        }
    }

    fn dump(&mut self, f: &mut impl FnMut(&str, bool)) -> Result<()> {
        let mut request = Request::new(RTM_GETLINK, NLM_F_DUMP);
        request.bytes(&ifinfo(0, 0, 0));
        let mut found = Vec::new();
        self.client.request("list network interfaces", BE_ROOT, request, |kind, payload| {
            if kind == RTM_NEWLINK {
                found.extend(parse_link(payload));
            }
            ControlFlow::Continue(())
        })?;
        let seen: HashSet<u32> = found.iter().map(|(index, ..)| *index).collect();
        let gone: Vec<u32> = self.links.keys().filter(|i| !seen.contains(i)).copied().collect();
        for index in gone {
            self.lost(index, f);
        }
        for (index, name, carrier) in found {
            self.note(index, name, carrier, f);
        }
        Ok(())
    }
}

impl AsFd for LinkMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_before_the_kernel_sees_them() {
        for good in ["lo", "us-host0", "a.b", "123456789012345"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "a:b", "1234567890123456", "a\0"] {
            assert!(matches!(check_name(bad), Err(Error::BadIfName(_))), "{bad:?}");
        }
    }
}
