//! What the machine must offer before the daemon starts.

use crate::{Error, Result};
use std::fs;

/// Free huge pages of every size, in MB.
pub fn hugepages_free_mb() -> Result<u64> {
    let root = "/sys/kernel/mm/hugepages";
    let advice = "build the kernel with CONFIG_HUGETLBFS and mount /sys";
    let list = fs::read_dir(root).map_err(|e| Error::os(format!("read {root}"), advice, e))?;
    let mut free_kb = 0u64;
    for entry in list.flatten() {
        let name = entry.file_name();
        let Some(size_kb) = name
            .to_str()
            .and_then(|n| n.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok())
        else {
            continue;
        };
        let path = entry.path().join("free_hugepages");
        let text = fs::read_to_string(&path)
            .map_err(|e| Error::os(format!("read {}", path.display()), advice, e))?;
        free_kb += size_kb * text.trim().parse::<u64>().unwrap_or(0);
    }
    Ok(free_kb / 1024)
}

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// Whether the calling thread may do what the daemon does: CAP_NET_ADMIN, CAP_NET_RAW,
/// CAP_SYS_ADMIN (namespaces) and CAP_BPF, which CAP_SYS_ADMIN includes.
pub fn is_root_or_caps() -> Result<()> {
    let path = "/proc/thread-self/status";
    let text = fs::read_to_string(path)
        .map_err(|e| Error::os(format!("read {path}"), "mount /proc", e))?;
    let missing = missing_caps(effective_caps(&text));
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::MissingCapabilities { missing: missing.join(", ") })
}

fn effective_caps(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

fn missing_caps(effective: u64) -> Vec<&'static str> {
    let has = |cap: u32| effective & (1 << cap) != 0;
    let mut missing = Vec::new();
    for (cap, name) in [
        (CAP_NET_ADMIN, "CAP_NET_ADMIN"),
        (CAP_NET_RAW, "CAP_NET_RAW"),
        (CAP_SYS_ADMIN, "CAP_SYS_ADMIN"),
    ] {
        if !has(cap) {
            missing.push(name);
        }
    }
    if !has(CAP_BPF) && !has(CAP_SYS_ADMIN) {
        missing.push("CAP_BPF");
    }
    missing
}

/// The running kernel's release, as `uname -r` prints it.
pub fn kernel_release() -> Result<String> {
    let path = "/proc/sys/kernel/osrelease";
    let text = fs::read_to_string(path)
        .map_err(|e| Error::os(format!("read {path}"), "mount /proc", e))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_status() {
        assert_eq!(effective_caps("Name:\tx\nCapEff:\t000001ffffffffff\n"), 0x1ff_ffff_ffff);
        assert!(missing_caps(0x1ff_ffff_ffff).is_empty());
        assert_eq!(missing_caps(0), ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_BPF"]);
        assert_eq!(missing_caps(1 << CAP_NET_ADMIN | 1 << CAP_SYS_ADMIN), ["CAP_NET_RAW"]);
    }

    #[test]
    fn this_machine_answers() {
        assert!(!kernel_release().unwrap().is_empty());
        hugepages_free_mb().unwrap();
    }
}
