//! The rules that types cannot hold.

mod arbiter;
pub(crate) mod capture;
mod checkpoint;
mod supervise;

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use crate::locate::Source;
use crate::types::{
    CheckpointMethod, CloneMode, CommitPolicy, Config, DpdkConfig, IdleConfig, LogConfig,
    MetricsConfig, NodeRole, Prefix, decimal,
};
use crate::{ConfigError, NAME_CHARS_MAX, NODES_MAX, SOCKET_PATH_BYTES_MAX, interface};

const HOUR_MS: u64 = 3_600_000;
const DAY_S: u64 = 86_400;
const STATE_DIRS_MAX: usize = 16;
/// Generations that a node may keep when commit is by checkpoint.
const STORED_MAX: usize = 16;
const MINUTE_MS: u64 = 60_000;
const SECOND_US: u64 = 1_000_000;
const MTU: RangeInclusive<u64> = 1280..=1500;
const LCORE_MAX: u32 = 127;
const CPU_MAX: u32 = 1023;
const INTERFACE_BYTES_MAX: usize = 15;
const RX_QUEUES_MAX: u64 = 16;
const PORTS_MAX: usize = 64;

pub(crate) fn validate(config: &Config, source: &Source<'_>) -> Result<(), ConfigError> {
    cluster(config, source)?;
    arbiter::arbiter(config, source)?;
    service(config, source)?;
    ports(config, source)?;
    machine(&config.dpdk, &config.idle, &config.log, source)?;
    commit(config, source)?;
    detect(config, source)?;
    checkpoint::checkpoint(config, source)?;
    supervise::supervise(config, source)?;
    metrics(config.metrics.as_ref(), config.service.vip.iter().map(|vip| vip.address), source)?;
    control(config, source)
}

/// Who reaches the page learns who the nodes are and how they are doing.
fn metrics(
    metrics: Option<&MetricsConfig>,
    mut vips: impl Iterator<Item = IpAddr>,
    source: &Source<'_>,
) -> Result<(), ConfigError> {
    let Some(metrics) = metrics else { return Ok(()) };
    let at = &["metrics", "listen"];
    let (ip, port) = (metrics.listen.ip(), metrics.listen.port());
    if port == 0 {
        return Err(source.invalid(at, "port 0 is given, 1..=65535 is allowed".into()));
    }
    if vips.any(|vip| vip == ip) {
        return Err(source.invalid(
            at,
            format!("{ip} is the service's, an address of this node's own is allowed"),
        ));
    }
    if !ip.is_loopback() && !metrics.allow_remote {
        return Err(source.refused(
            at,
            format!(
                "{ip} can be reached from other machines, and neither passwords nor encryption \
                 protect it; use a loopback address, or set metrics.allow_remote = true"
            ),
        ));
    }
    Ok(())
}

fn cluster(config: &Config, source: &Source<'_>) -> Result<(), ConfigError> {
    name(source, &["cluster", "name"], &config.cluster.name)?;
    let nodes = &config.nodes;
    match nodes.len() {
        2 if config.arbiter.is_none() => {
            return Err(source.refused(
                &["nodes", "1"],
                "two nodes have no majority without each other: neither could take over, or both \
                 would; add an arbiter (section [arbiter]), a third node, or a node with role \
                 \"witness\""
                    .into(),
            ));
        }
        1..=NODES_MAX => {}
        n => {
            return Err(source.invalid(
                &["nodes", &NODES_MAX.to_string()],
                format!("the group has {n} nodes, 1..={NODES_MAX} are allowed"),
            ));
        }
    }
    for (i, node) in nodes.iter().enumerate() {
        let i = i.to_string();
        name(source, &["nodes", &i, "name"], &node.name)?;
        range(source, &["nodes", &i, "id"], node.id.into(), 1..=65_534)?;
        let address = &["nodes", &i, "address"];
        let ip = node.address.ip();
        if node.address.port() == 0 {
            return Err(source.invalid(address, "port 0 is given, 1..=65535 is allowed".into()));
        }
        if ip.is_unspecified() || ip.is_multicast() || is_broadcast(ip) {
            return Err(source.invalid(
                address,
                format!("{ip} does not name one node, a unicast address is allowed"),
            ));
        }
        if config.service.vip.iter().any(|vip| vip.address == ip) {
            return Err(source.invalid(
                address,
                format!("{ip} is the service's, an address of this node's own is allowed"),
            ));
        }
    }
    witness(config, source)?;
    unique(source, nodes.iter().map(|n| n.name.as_str()), "name", "nodes", Some("name"))?;
    unique(source, nodes.iter().map(|n| n.id), "id", "nodes", Some("id"))?;
    unique(source, nodes.iter().map(|n| n.address), "address", "nodes", Some("address"))?;
    if config.node(&config.cluster.node).is_none() {
        let names: Vec<_> = nodes.iter().map(|n| format!("{:?}", n.name)).collect();
        return Err(source.invalid(
            &["cluster", "node"],
            format!("{:?} is not in [[nodes]], allowed: {}", config.cluster.node, names.join(", ")),
        ));
    }
    match &config.cluster.key_file {
        Some(path) => absolute(source, &["cluster", "key_file"], path)?,
        None if nodes.len() > 1 => {
            return Err(source.invalid(
                &["cluster", "key_file"],
                "a group of several nodes needs a key file; make one with \"understudy key \
                 generate /etc/understudy/cluster.key\", give every node the same, and name it \
                 here"
                    .into(),
            ));
        }
        None => {}
    }
    Ok(())
}

/// Whoever dies, somebody with a clone must be left: one witness among two nodes that serve, or more.
fn witness(config: &Config, source: &Source<'_>) -> Result<(), ConfigError> {
    let is_witness = |i: &usize| config.nodes[*i].role == NodeRole::Witness;
    let witnesses: Vec<usize> = (0..config.nodes.len()).filter(is_witness).collect();
    let Some(&last) = witnesses.last() else { return Ok(()) };
    let at = last.to_string();
    let at = &["nodes", &at, "role"];
    if witnesses.len() > 1 {
        return Err(source.invalid(
            at,
            format!("nodes[{}] is a witness already, one witness is allowed", witnesses[0]),
        ));
    }
    if config.nodes.len() < 3 {
        return Err(source.invalid(
            at,
            "a witness serves nobody, at least two nodes with role \"data\" are needed beside it"
                .into(),
        ));
    }
    Ok(())
}

fn service(config: &Config, source: &Source<'_>) -> Result<(), ConfigError> {
    let service = &config.service;
    name(source, &["service", "name"], &service.name)?;
    range(source, &["service", "vrid"], service.vrid.into(), 1..=255)?;
    if service.vip.is_empty() {
        return Err(source.invalid(
            &["service", "vip"],
            "no virtual address is given, one IPv4, one IPv6, or both are needed".into(),
        ));
    }
    for (i, vip) in service.vip.iter().enumerate() {
        let at = &["service", "vip", &i.to_string()];
        if let Some(what) = not_a_host(*vip) {
            return Err(source.invalid(
                at,
                format!("{vip} is {what}, the unicast address of a host is allowed"),
            ));
        }
        if service.vip[..i].iter().any(|v| v.address.is_ipv4() == vip.address.is_ipv4()) {
            return Err(source.invalid(
                at,
                format!("{vip} is the second {} address, one is allowed", family(vip.address)),
            ));
        }
    }
    for (i, gateway) in service.gateway.iter().enumerate() {
        let at = &["service", "gateway", &i.to_string()];
        if service.gateway[..i].iter().any(|g| g.is_ipv4() == gateway.is_ipv4()) {
            return Err(source.invalid(
                at,
                format!("{gateway} is the second {} gateway, one is allowed", family(*gateway)),
            ));
        }
        let Some(vip) = service.vip.iter().find(|vip| vip.contains(*gateway)) else {
            let vips: Vec<_> = service.vip.iter().map(ToString::to_string).collect();
            return Err(source.invalid(
                at,
                format!("{gateway} is outside of service.vip, allowed: {}", vips.join(", ")),
            ));
        };
        let gateway_host = Prefix { address: *gateway, length: vip.length };
        if vip.address == *gateway || not_a_host(gateway_host).is_some() {
            return Err(source.invalid(
                at,
                format!("{gateway} is not a router's address, another host of {vip} is allowed"),
            ));
        }
    }
    if service.ports.is_empty() || service.ports.len() > PORTS_MAX {
        return Err(source.invalid(
            &["service", "ports"],
            format!("{} ports are given, 1..={PORTS_MAX} are allowed", service.ports.len()),
        ));
    }
    unique(source, service.ports.iter(), "port", "service.ports", None)?;
    match service.command.first() {
        None => {
            return Err(source.invalid(
                &["service", "command"],
                "the command is empty, the absolute path of a program and its arguments are needed"
                    .into(),
            ));
        }
        Some(program) => {
            absolute(source, &["service", "command", "0"], Path::new(program))?;
        }
    }
    for (i, argument) in service.command.iter().enumerate() {
        no_nul(source, &["service", "command", &i.to_string()], argument)?;
    }
    absolute(source, &["service", "work_dir"], &service.work_dir)?;
    state_dirs(source, &service.state_dirs)?;
    for (key, value) in &service.env {
        let at = &["service", "env", key];
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(source.invalid(
                at,
                format!("{key:?} is not the name of a variable, one without \"=\" is allowed"),
            ));
        }
        no_nul(source, at, value)?;
    }
    range(source, &["service", "ready_timeout_ms"], service.ready_timeout_ms, 1..=HOUR_MS)?;
    range(source, &["service", "clone_wait_ms"], service.clone_wait_ms, 1..=HOUR_MS)
}

fn ports(config: &Config, source: &Source<'_>) -> Result<(), ConfigError> {
    let client = &config.ports.client.device;
    let replica = &config.ports.replica.device;
    device(source, &["ports", "client", "device"], client)?;
    rx_queues(source, client, config.ports.client.rx_queues)?;
    let at = &["ports", "replica", "device"];
    device(source, at, replica)?;
    if device_name(client) == device_name(replica) {
        return Err(source.invalid(
            at,
            format!(
                "the replica port has the client port's device {:?}, another one is allowed",
                device_name(replica)
            ),
        ));
    }
    if let (Some(c), Some(r)) = (interface(client), interface(replica))
        && c == r
    {
        return Err(source.invalid(
            at,
            format!(
                "the replica port has the client port's interface {r:?}, another one is allowed"
            ),
        ));
    }
    range(source, &["ports", "replica", "mtu"], config.ports.replica.mtu.into(), MTU)?;
    range(source, &["ports", "host", "mtu"], config.ports.host.mtu.into(), MTU)
}

/// How the machine is used.
fn machine(
    dpdk: &DpdkConfig,
    idle: &IdleConfig,
    log: &LogConfig,
    source: &Source<'_>,
) -> Result<(), ConfigError> {
    if let Err(what) = lcores(&dpdk.lcores) {
        return Err(source.invalid(
            &["dpdk", "lcores"],
            format!(
                "{:?} {what}, allowed is EAL's form, such as \"0@2\", \"0@0-1\" or \"(0-1)@(2,3)\"",
                dpdk.lcores
            ),
        ));
    }
    range(source, &["dpdk", "memory_mb"], dpdk.memory_mb.into(), 0..=1_048_576)?;
    range(source, &["dpdk", "mbufs"], dpdk.mbufs.into(), 256..=8_388_608)?;
    range(source, &["idle", "spin_us"], idle.spin_us, 0..=SECOND_US)?;
    range(source, &["idle", "pause_us"], idle.pause_us, 0..=SECOND_US)?;
    range(source, &["idle", "sleep_us"], idle.sleep_us, 0..=SECOND_US)?;
    let size_mb = log.size_mb;
    if !size_mb.is_power_of_two() || size_mb > 65_536 {
        return Err(source.invalid(
            &["log", "size_mb"],
            format!("{size_mb} is given, a power of two of 1..=65536 is allowed"),
        ));
    }
    Ok(())
}

fn commit(config: &Config, source: &Source<'_>) -> Result<(), ConfigError> {
    let at = &["commit", "policy"];
    match (config.commit.policy, config.nodes.len()) {
        (CommitPolicy::Any, 1) => {
            return Err(source.invalid(
                at,
                "policy \"any\" waits for a replica and the group has none, allowed: \"none\", \
                 \"quorum\", \"all\""
                    .into(),
            ));
        }
        (CommitPolicy::Any, n @ 4..) => {
            return Err(source.refused(
                at,
                format!(
                    "policy \"any\" with {n} nodes may elect a primary that does not hold what \
                     clients were told, allowed: \"none\", \"quorum\", \"all\", or at most 3 nodes"
                ),
            ));
        }
        (CommitPolicy::Checkpoint, _) => commit_checkpoint(config, source)?,
        _ => {}
    }
    commit_min(config, source)?;
    let interval_ms = config.commit.checkpoint_interval_ms;
    range(source, &["commit", "checkpoint_interval_ms"], interval_ms, 0..=HOUR_MS)?;
    range(source, &["commit", "evict_after_ms"], config.commit.evict_after_ms, 1..=HOUR_MS)
}

/// Nothing may run on a replica that could answer otherwise, and every voter must be able to store.
fn commit_checkpoint(config: &Config, source: &Source<'_>) -> Result<(), ConfigError> {
    let at = &["commit", "policy"];
    let refused = |text: &str| Err(source.refused(at, format!("policy \"checkpoint\" {text}")));
    if config.nodes.len() == 1 {
        return refused("waits for a replica and the group has none, allowed: \"none\"");
    }
    if config.service.clone != CloneMode::Warm {
        return refused("needs service.clone = \"warm\": a hot clone would go its own way");
    }
    if config.nodes.iter().any(|node| node.role == NodeRole::Witness) {
        return refused("needs data nodes only: a witness stores no checkpoints");
    }
    if config.checkpoint.method == CheckpointMethod::Hooks {
        return refused(
            "needs checkpoint.method = \"criu\": what an application keeps of a connection beside its \
             bytes is not in what its own commands save",
        );
    }
    if !(3..=STORED_MAX).contains(&config.checkpoint.keep) {
        return refused(&format!("needs checkpoint.keep of 3..={STORED_MAX}"));
    }
    Ok(())
}

fn state_dirs(source: &Source<'_>, dirs: &[PathBuf]) -> Result<(), ConfigError> {
    let at = &["service", "state_dirs"];
    if dirs.len() > STATE_DIRS_MAX {
        return Err(source
            .invalid(at, format!("{} directories, 0..={STATE_DIRS_MAX} are allowed", dirs.len())));
    }
    for (i, dir) in dirs.iter().enumerate() {
        absolute(source, at, dir)?;
        let nested = |other: &PathBuf| dir.starts_with(other) || other.starts_with(dir);
        if let Some(other) = dirs[..i].iter().find(|other| nested(other)) {
            let text = format!("{} and {} hold each other", other.display(), dir.display());
            return Err(source.invalid(at, text));
        }
    }
    Ok(())
}

fn commit_min(config: &Config, source: &Source<'_>) -> Result<(), ConfigError> {
    let Some(min) = config.commit.min else { return Ok(()) };
    let at = &["commit", "min"];
    let (least, most) = (config.commit_min_least(), config.nodes.len() - 1);
    if config.commit.policy == CommitPolicy::None {
        return Err(source.invalid(
            at,
            format!("{min} is given, and policy \"none\" waits for no replica; leave it out"),
        ));
    }
    if usize::from(min) < least {
        return Err(source.refused(
            at,
            format!(
                "{min} of {most} replicas make no majority with the primary, so what clients were \
                 told could be lost; {least}..={most} is allowed"
            ),
        ));
    }
    range(source, at, min.into(), least as u64..=most as u64)
}

fn detect(config: &Config, source: &Source<'_>) -> Result<(), ConfigError> {
    let detect = &config.detect;
    let (heartbeat, suspect, lease) =
        (detect.heartbeat_interval_ms, detect.suspect_after_ms, detect.lease_ms);
    range(source, &["detect", "heartbeat_interval_ms"], heartbeat, 1..=MINUTE_MS)?;
    range(source, &["detect", "suspect_after_ms"], suspect, 1..=HOUR_MS)?;
    range(source, &["detect", "lease_ms"], lease, 1..=HOUR_MS)?;
    if heartbeat * 3 > suspect {
        return Err(source.invalid(
            &["detect", "heartbeat_interval_ms"],
            format!(
                "{heartbeat} leaves fewer than three heartbeats in suspect_after_ms = {suspect}, \
                 at most {} is allowed",
                suspect / 3
            ),
        ));
    }
    if lease >= suspect {
        return Err(source.invalid(
            &["detect", "lease_ms"],
            format!(
                "{lease} would let a deposed primary send, less than suspect_after_ms = {suspect} \
                 is allowed"
            ),
        ));
    }
    if lease <= heartbeat {
        return Err(source.invalid(
            &["detect", "lease_ms"],
            format!(
                "{lease} ends before the next heartbeat can renew it, more than \
                 heartbeat_interval_ms = {heartbeat} is allowed"
            ),
        ));
    }
    Ok(())
}

fn control(config: &Config, source: &Source<'_>) -> Result<(), ConfigError> {
    socket(&config.control.socket, source)?;
    absolute(source, &["control", "state_dir"], &config.control.state_dir)
}

fn socket(path: &Path, source: &Source<'_>) -> Result<(), ConfigError> {
    let at = &["control", "socket"];
    absolute(source, at, path)?;
    let bytes = path.as_os_str().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        return Err(source.invalid(
            at,
            format!("the path has {bytes} bytes, at most {SOCKET_PATH_BYTES_MAX} are allowed"),
        ));
    }
    Ok(())
}

// ---- single values ----

fn range(
    source: &Source<'_>,
    keys: &[&str],
    value: u64,
    allowed: RangeInclusive<u64>,
) -> Result<(), ConfigError> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let (low, high) = allowed.into_inner();
    Err(source.invalid(keys, format!("{value} is given, {low}..={high} is allowed")))
}

fn name(source: &Source<'_>, keys: &[&str], name: &str) -> Result<(), ConfigError> {
    let plain = !name.chars().any(|c| c.is_whitespace() || c.is_control());
    if plain && (1..=NAME_CHARS_MAX).contains(&name.chars().count()) {
        return Ok(());
    }
    Err(source.invalid(
        keys,
        format!(
            "this is not a name, 1..={NAME_CHARS_MAX} characters without blanks and control \
             characters are allowed"
        ),
    ))
}

fn absolute(source: &Source<'_>, keys: &[&str], path: &Path) -> Result<(), ConfigError> {
    if !path.is_absolute() {
        return Err(
            source.invalid(keys, format!("{path:?} is relative, an absolute path is allowed"))
        );
    }
    no_nul(source, keys, &path.to_string_lossy())
}

fn no_nul(source: &Source<'_>, keys: &[&str], text: &str) -> Result<(), ConfigError> {
    if text.contains('\0') {
        return Err(
            source.invalid(keys, "this has a zero character, all but U+0000 are allowed".into())
        );
    }
    Ok(())
}

fn unique<T: Eq + Hash + Display>(
    source: &Source<'_>,
    values: impl Iterator<Item = T>,
    what: &str,
    list: &str,
    field: Option<&str>,
) -> Result<(), ConfigError> {
    let mut seen = HashMap::new();
    for (i, value) in values.enumerate() {
        if let Some(first) = seen.get(&value) {
            let index = i.to_string();
            let keys: Vec<&str> = list.split('.').chain([index.as_str()]).chain(field).collect();
            return Err(source.invalid(
                &keys,
                format!(
                    "{what} {value} is that of {list}[{first}] as well, a unique {what} is allowed"
                ),
            ));
        }
        seen.insert(value, i);
    }
    Ok(())
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn is_broadcast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(a) if a.is_broadcast())
}

/// Why `prefix` is not the address of one host.
fn not_a_host(prefix: Prefix) -> Option<&'static str> {
    let address = prefix.address;
    if address.is_unspecified() {
        return Some("the unspecified address");
    }
    if address.is_loopback() {
        return Some("a loopback address");
    }
    if address.is_multicast() {
        return Some("a multicast address");
    }
    if is_broadcast(address) {
        return Some("the broadcast address");
    }
    if matches!(address, IpAddr::V6(a) if a.to_ipv4_mapped().is_some()) {
        return Some("an IPv4-mapped address");
    }
    let (bits, host) = prefix.bits()?;
    if host > 1 && bits & host == 0 {
        return Some("the address of the network");
    }
    if host > 1 && address.is_ipv4() && bits & host == host {
        return Some("the network's broadcast address");
    }
    None
}

fn device(source: &Source<'_>, keys: &[&str], device: &str) -> Result<(), ConfigError> {
    let named = !device_name(device).is_empty();
    if !named || device.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(source.invalid(
            keys,
            format!(
                "{device:?} is not a device, a PCI address (\"0000:01:00.0\") or DPDK devargs \
                 (\"net_af_packet0,iface=eth1\") without blanks are allowed"
            ),
        ));
    }
    if let Some(name) = interface(device)
        && (!(1..=INTERFACE_BYTES_MAX).contains(&name.len())
            || name.contains('/')
            || name == "."
            || name == "..")
    {
        return Err(source.invalid(
            keys,
            format!(
                "iface={name} is not an interface, a name of 1..={INTERFACE_BYTES_MAX} bytes \
                 without \"/\" is allowed"
            ),
        ));
    }
    Ok(())
}

/// A queue that the device feeds and nobody polls would swallow what comes to it.
fn rx_queues(source: &Source<'_>, device: &str, queues: u16) -> Result<(), ConfigError> {
    let keys = &["ports", "client", "rx_queues"];
    range(source, keys, u64::from(queues), 1..=RX_QUEUES_MAX)?;
    let fed = device.split(',').skip(1).find_map(|argument| {
        let (name, value) = argument.split_once('=')?;
        ["qpairs", "queue_count"].contains(&name).then_some((name, value))
    });
    match fed {
        Some((name, value)) if value.parse() != Ok(queues) => Err(source.invalid(
            keys,
            format!("{queues} queues would be polled of a device with {name}={value}; as many are allowed"),
        )),
        _ => Ok(()),
    }
}

/// The device without its arguments; a PCI address in its full, lower-case form.
fn device_name(device: &str) -> String {
    let name = device.split(',').next().unwrap_or_default();
    let pci = name.strip_prefix("pci:").unwrap_or(name);
    let hex = |s: &str, len: usize| s.len() == len && s.bytes().all(|b| b.is_ascii_hexdigit());
    let tail = |s: &str| {
        s.split_once('.').is_some_and(|(slot, function)| hex(slot, 2) && hex(function, 1))
    };
    match pci.split(':').collect::<Vec<_>>()[..] {
        [bus, rest] if hex(bus, 2) && tail(rest) => {
            format!("0000:{bus}:{rest}").to_ascii_lowercase()
        }
        [domain, bus, rest] if hex(domain, 4) && hex(bus, 2) && tail(rest) => {
            pci.to_ascii_lowercase()
        }
        _ => name.to_owned(),
    }
}

/// EAL's `--lcores`: `SET[@SET],...` where SET is `N`, `N-M` or `(N,N-M,...)`.
fn lcores(text: &str) -> Result<(), String> {
    let mut items = Vec::new();
    let (mut start, mut depth) = (0, 0_u32);
    for (i, b) in text.bytes().enumerate() {
        match b {
            b'(' if depth == 0 => depth = 1,
            b')' if depth == 1 => depth = 0,
            b'(' | b')' => return Err("has a misplaced parenthesis".into()),
            b',' if depth == 0 => {
                items.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    if depth != 0 {
        return Err("has an open parenthesis".into());
    }
    items.push(&text[start..]);
    let mut seen = [false; LCORE_MAX as usize + 1];
    for item in items {
        let (lcore_set, cpu_set) = match item.split_once('@') {
            Some((l, c)) => (l, Some(c)),
            None => (item, None),
        };
        for (low, high) in cores(lcore_set, LCORE_MAX)? {
            for lcore in low..=high {
                if std::mem::replace(&mut seen[lcore as usize], true) {
                    return Err(format!("names lcore {lcore} twice"));
                }
            }
        }
        if let Some(cpu_set) = cpu_set {
            cores(cpu_set, CPU_MAX)?;
        }
    }
    Ok(())
}

fn cores(set: &str, most: u32) -> Result<Vec<(u32, u32)>, String> {
    let inner = match set.strip_prefix('(') {
        Some(rest) => rest.strip_suffix(')').ok_or("has a misplaced parenthesis")?,
        None => set,
    };
    inner
        .split(',')
        .map(|part| {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            match (decimal(low), decimal(high)) {
                (Some(low), Some(high)) if low > high => {
                    Err(format!("has the range {part} the wrong way round"))
                }
                (Some(_), Some(high)) if high > most => {
                    Err(format!("has {high} where 0..={most} is allowed"))
                }
                (Some(low), Some(high)) => Ok((low, high)),
                _ => Err("is not a list of cores".into()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{device_name, lcores};

    #[test]
    fn lcores_syntax() {
        for good in ["0", "0@2", "0@0-1", "0-3", "0,1", "(0-1)@(2,3)", "0@(4,6-7),1@2", "1@1023"] {
            assert_eq!(lcores(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "@",
            "0@",
            "@1",
            "a",
            "0-",
            "-1",
            "3-1",
            "0@@1",
            "0@1@2",
            "(0",
            "0)",
            "()",
            "((0))",
            "0,",
            ",0",
            "0 @1",
            "+1",
            "128",
            "0@1024",
            "0,0",
            "0-2,1",
            "99999999999999",
            "(0)1",
            "é",
        ] {
            assert!(lcores(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn device_names() {
        assert_eq!(device_name("01:00.0"), "0000:01:00.0");
        assert_eq!(device_name("pci:0000:AF:00.1,x=1"), "0000:af:00.1");
        assert_eq!(device_name("net_Tap0,iface=x"), "net_Tap0");
    }
}
