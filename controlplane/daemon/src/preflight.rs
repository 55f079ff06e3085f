//! What this machine must offer for a configuration, each lack one sentence that says what to do.
//! Looks, changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use understudy_api::check::{Finding, Level};
use understudy_config::{CloneMode, Config};
use understudy_linux::{preflight, rtnl};

/// All findings, worst first.
pub fn check(config: &Config) -> Vec<Finding> {
    let mut out = Vec::new();
    for problem in preflight::check(u64::from(config.dpdk.memory_mb), !config.is_witness()) {
        out.push(Finding::new(Level::Error, problem.to_string()));
    }
    check_interface(&mut out, "ports.client", config.client_interface(), true);
    check_interface(&mut out, "ports.replica", config.replica_interface(), false);
    if !config.is_witness() {
        check_command(&mut out, config);
    }
    check_log_memory(&mut out, config);
    if let Some(Err(e)) = crate::arbiter::check(config) {
        let text = format!(
            "arbiter: {e}; as long as it does not answer, nobody takes over and nobody serves alone"
        );
        out.push(Finding::new(Level::Warn, text));
    }
    if let Some(path) = config.arbiter.as_ref().and_then(|arbiter| arbiter.key_file.as_deref())
        && fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0)
    {
        let path = path.display();
        let text =
            format!("arbiter.key_file: others than its owner can use {path}; chmod 600 {path}");
        out.push(Finding::new(Level::Warn, text));
    }
    if !config.is_witness()
        && let Err(e) = understudy_checkpoint::Criu::find()
    {
        // A hot clone needs one only to join late.
        let warm = config.service.clone == CloneMode::Warm;
        let level = if warm { Level::Error } else { Level::Warn };
        out.push(Finding::new(level, e.to_string()));
    }
    if let Err(e) = crate::keys::load(config) {
        out.push(Finding::new(Level::Error, format!("cluster.key_file: {e}")));
    }
    out
}

fn check_interface(out: &mut Vec<Finding>, field: &str, name: Option<&str>, client: bool) {
    let Some(name) = name else { return };
    if !rtnl::link_exists(name) {
        let text = format!(
            "{field}: there is no interface \"{name}\" here; create it or name another in the device's iface="
        );
        out.push(Finding::new(Level::Error, text));
        return;
    }
    if client
        && let Ok(addresses) = rtnl::link_addresses(name)
        && !addresses.is_empty()
    {
        let list: Vec<String> = addresses.iter().map(|a| a.to_string()).collect();
        let text = format!(
            "{field}: interface \"{name}\" has an address of its own ({}), so the kernel may answer clients beside the \
             service; remove it (ip addr flush dev {name})",
            list.join(", ")
        );
        out.push(Finding::new(Level::Warn, text));
    }
    if rtnl::carrier(name).is_ok_and(|up| !up) {
        let text = format!("{field}: interface \"{name}\" has no carrier");
        out.push(Finding::new(Level::Warn, text));
    }
}

fn check_command(out: &mut Vec<Finding>, config: &Config) {
    let Some(program) = config.service.command.first() else { return };
    let executable = fs::metadata(Path::new(program))
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if !executable {
        let text = format!(
            "service.command: \"{program}\" is not an executable file; install it or correct the path"
        );
        out.push(Finding::new(Level::Error, text));
    }
}

fn check_log_memory(out: &mut Vec<Finding>, config: &Config) {
    let wanted_mb = u64::from(config.dpdk.memory_mb) + u64::from(config.log.size_mb);
    if preflight::hugepages_free_mb().is_ok_and(|free| free < wanted_mb) {
        let text = format!(
            "fewer than {wanted_mb} MB of huge pages are free, so the capture log will be in ordinary pages; \
             reserve more with sysctl vm.nr_hugepages"
        );
        out.push(Finding::new(Level::Info, text));
    }
}
