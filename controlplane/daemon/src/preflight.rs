//! What this machine must offer, for a configuration or for any, each lack with what to do about it.
//! Looks, changes nothing.

mod machine;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use understudy_api::check::Finding;
use understudy_api::doctor::{Diagnosis, Health};
use understudy_config::{CaptureNode, CheckpointMethod, CloneMode, Config, NodeFile, interface};
use understudy_linux::rtnl;

/// What keeps a node of this configuration from running, or from running well; worst first.
pub fn check(config: &Config) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        for_config(config).iter().filter_map(Diagnosis::finding).collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    findings
}

/// Everything that can be looked at, good or bad.
pub fn doctor(config: Option<&NodeFile>) -> Vec<Diagnosis> {
    let mut all = vec![machine::kernel(), machine::cpus(), machine::clock(), machine::nics()];
    match config {
        Some(NodeFile::Service(config)) => all.extend(for_config(config)),
        Some(NodeFile::Capture(node)) => all.extend(for_capture(node)),
        None => all.extend([
            machine::permissions(),
            machine::adoption(true),
            machine::syn_cookies(true),
            machine::huge_pages(None, 0),
            machine::criu(Health::Warn),
            machine::panic(),
        ]),
    }
    all
}

fn for_config(config: &Config) -> Vec<Diagnosis> {
    let data = !config.is_witness();
    // What a node has taken is not free any more.
    let runs = UnixStream::connect(&config.control.socket).is_ok();
    let needed_mb = if runs { 0 } else { config.dpdk.memory_mb };
    let log_mb = if runs { 0 } else { config.log.size_mb };
    let mut all = vec![
        machine::permissions(),
        machine::adoption(data),
        machine::syn_cookies(data),
        machine::huge_pages(Some(needed_mb.into()), log_mb.into()),
    ];
    if data {
        all.push(machine::panic());
        all.push(port(
            "ports.client",
            "where clients come in",
            &config.ports.client.device,
            config.client_interface(),
            true,
        ));
    }
    all.push(port(
        "ports.replica",
        "where the other nodes are",
        &config.ports.replica.device,
        config.replica_interface(),
        false,
    ));
    if data {
        all.extend(commands(config));
    }
    if data && config.checkpoint.method == CheckpointMethod::Criu {
        // A hot clone needs one only to join late.
        let warm = config.service.clone == CloneMode::Warm;
        all.push(machine::criu(if warm { Health::Fail } else { Health::Warn }));
    }
    all.extend(arbiter(config));
    all.extend(arbiter_key(config));
    all.push(keys(config));
    all
}

/// The same of a node that only captures.
pub fn for_capture(node: &CaptureNode) -> Vec<Diagnosis> {
    let (memory_mb, log_mb) = (node.dpdk.memory_mb.into(), node.log.size_mb.into());
    let links = node.capture.devices.iter().map(|device| {
        port("capture.devices", "what is captured", device, interface(device), false)
    });
    let machine = [machine::permissions(), machine::huge_pages(Some(memory_mb), log_mb)];
    machine.into_iter().chain(links).collect()
}

fn port(
    field: &str,
    means: &str,
    device: &str,
    interface: Option<&str>,
    client: bool,
) -> Diagnosis {
    // net_tap makes its interface itself.
    let interface = interface.filter(|_| !device.starts_with("net_tap"));
    match (machine::pci_port(field, device), interface) {
        (Some(diagnosis), _) => diagnosis,
        (None, Some(name)) => check_interface(field, means, name, client),
        (None, None) => Diagnosis::ok(field, means, format!("{device}, which DPDK makes itself")),
    }
}

fn check_interface(field: &str, means: &str, name: &str, client: bool) -> Diagnosis {
    if !rtnl::link_exists(name) {
        let found = format!("{field}: there is no interface \"{name}\" here");
        let mend = "create it or name another in the device's iface=";
        return Diagnosis::bad(field, means, Health::Fail, found, mend);
    }
    if client
        && let Ok(addresses) = rtnl::link_addresses(name)
        && !addresses.is_empty()
    {
        let list: Vec<String> = addresses.iter().map(|a| a.to_string()).collect();
        let found = format!(
            "{field}: interface \"{name}\" has an address of its own ({}), so the kernel may answer clients beside \
             the service",
            list.join(", ")
        );
        let mend = format!("remove it (ip addr flush dev {name})");
        return Diagnosis::bad(field, means, Health::Warn, found, mend);
    }
    if rtnl::carrier(name).is_ok_and(|up| !up) {
        let found = format!("{field}: interface \"{name}\" has no carrier");
        let mend = format!("plug it in, or set it up (ip link set {name} up)");
        return Diagnosis::bad(field, means, Health::Warn, found, mend);
    }
    Diagnosis::ok(field, means, format!("interface \"{name}\" is there and has a link"))
}

/// What this node starts, by configuration.
fn commands(config: &Config) -> impl Iterator<Item = Diagnosis> {
    let checkpoint = &config.checkpoint;
    let all = [
        ("service.command", "the application", &config.service.command),
        (
            "checkpoint.snapshot_command",
            "saves the application's state",
            &checkpoint.snapshot_command,
        ),
        ("checkpoint.restore_command", "brings it back", &checkpoint.restore_command),
        ("checkpoint.ready_command", "says when it is back", &checkpoint.ready_command),
    ];
    all.into_iter().filter_map(|(name, means, words)| Some((name, means, words.first()?))).map(
        |(name, means, program)| {
            let executable = fs::metadata(Path::new(program))
                .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
            if executable {
                return Diagnosis::ok(name, means, format!("\"{program}\" can be run"));
            }
            let found = format!("{name}: \"{program}\" is not an executable file");
            let mend = "install it or correct the path";
            Diagnosis::bad(name, means, Health::Fail, found, mend)
        },
    )
}

fn arbiter(config: &Config) -> Option<Diagnosis> {
    let (name, means) = ("arbiter", "says which of two nodes may lead without the other");
    Some(match crate::arbiter::check(config)? {
        Ok(()) => Diagnosis::ok(name, means, "it answers"),
        Err(e) => Diagnosis::bad(
            name,
            means,
            Health::Warn,
            format!("arbiter: {e}"),
            "as long as it does not answer, nobody takes over and nobody serves alone",
        ),
    })
}

/// The private key that etcd knows this node by: whoever has it can write the group's register.
fn arbiter_key(config: &Config) -> Option<Diagnosis> {
    let file = config.arbiter.as_ref()?.key_file.as_deref()?;
    let (name, means) = ("arbiter.key_file", "shows etcd who this node is");
    Some(match fs::metadata(file).map(|meta| meta.permissions().mode()) {
        Ok(mode) if mode & 0o077 == 0 => Diagnosis::ok(name, means, "only its owner may read it"),
        Ok(mode) => {
            let found = format!(
                "{name}: {} has mode {:04o}, so that others than its owner may use it",
                file.display(),
                mode & 0o7777
            );
            let mend = format!("chmod 600 {}", file.display());
            Diagnosis::bad(name, means, Health::Fail, found, mend)
        }
        Err(e) => {
            let found = format!("{name}: {}: {e}", file.display());
            Diagnosis::bad(
                name,
                means,
                Health::Fail,
                found,
                "name the file that etcd's client needs",
            )
        }
    })
}

fn keys(config: &Config) -> Diagnosis {
    let (name, means) = ("cluster.key_file", "seals what nodes say to each other");
    match crate::keys::load(config) {
        Ok(Some(_)) => Diagnosis::ok(name, means, "the keys can be read, and only by their owner"),
        Ok(None) => Diagnosis::ok(name, means, "a group of one needs none"),
        Err(e) => Diagnosis::bad(
            name,
            means,
            Health::Fail,
            format!("cluster.key_file: {e}"),
            "see understudy key --help",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let file = std::env::temp_dir().join(format!("understudy-key-{}", std::process::id()));
        fs::write(&file, "secret").unwrap();
        let pair = include_str!("../../../configs/pair/a.toml");
        let NodeFile::Service(mut config) = NodeFile::parse(pair, "a.toml").unwrap() else {
            panic!("a pair has a service")
        };
        let of_mode = |config: &Config, mode: u32| {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            arbiter_key(config).map(|d| (d.health, d.found))
        };
        assert_eq!(of_mode(&config, 0o644), None, "there is no key");
        config.arbiter.as_mut().unwrap().key_file = Some(file.clone());
        for mode in [0o640, 0o604, 0o610, 0o666] {
            let (health, found) = of_mode(&config, mode).unwrap();
            assert!(health == Health::Fail && found.contains(&format!("{mode:04o}")), "{found}");
        }
        assert_eq!(of_mode(&config, 0o600).unwrap().0, Health::Ok);
        fs::remove_file(&file).unwrap();
        assert_eq!(arbiter_key(&config).unwrap().health, Health::Fail, "it is gone");
    }
}
