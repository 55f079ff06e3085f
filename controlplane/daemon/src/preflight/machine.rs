//! What a machine has whatever the configuration says.

use std::fs;
use std::path::Path;

use understudy_api::doctor::{Diagnosis, Health};
use understudy_checkpoint::Criu;
use understudy_linux::{adopt, preflight};

/// The first kernel with the function that adoption rests on.
const KERNEL_MIN: (u32, u32) = (6, 9);
const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
const SYN_COOKIES: &str = "/proc/sys/net/ipv4/tcp_syncookies";
const PANIC: &str = "/proc/sys/kernel/panic";
const PCI_DEVICES: &str = "/sys/bus/pci/devices";
/// Drivers that leave a device to DPDK, or share it.
const DPDK_DRIVERS: [&str; 6] =
    ["vfio-pci", "uio_pci_generic", "igb_uio", "mlx5_core", "mlx4_core", "mana"];

/// The kernel's version alone; whether it can adopt is looked at by itself.
pub fn kernel() -> Diagnosis {
    let means = "clones hold the clients' connections by functions of Linux 6.9 and later";
    match preflight::kernel_release() {
        Ok(release) if version(&release).is_none_or(|v| v >= KERNEL_MIN) => {
            Diagnosis::ok("kernel", means, format!("Linux {release}"))
        }
        Ok(release) => Diagnosis::bad(
            "kernel",
            means,
            Health::Fail,
            format!("Linux {release} is older than 6.9"),
            "boot Linux 6.9 or later",
        ),
        Err(e) => Diagnosis::bad("kernel", means, Health::Warn, e.to_string(), "mount /proc"),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// `needed`: the node holds a clone.
pub fn adoption(needed: bool) -> Diagnosis {
    let means = "a clone's kernel takes over connections at their exact sequence numbers (BTF and the \
                 kfunc bpf_sk_assign_tcp_reqsk)";
    match adopt::probe() {
        Ok(()) => Diagnosis::ok("adoption", means, "the kernel can adopt connections"),
        Err(e) => Diagnosis::bad(
            "adoption",
            means,
            if needed { Health::Fail } else { Health::Note },
            e.to_string(),
            "boot Linux 6.9 or later, built with CONFIG_DEBUG_INFO_BTF=y",
        ),
    }
}

pub fn syn_cookies(needed: bool) -> Diagnosis {
    let means = "the kernel adopts connections by the way of SYN cookies";
    match Path::new(SYN_COOKIES).exists() {
        true => Diagnosis::ok("syncookies", means, "the kernel has SYN cookies"),
        false => Diagnosis::bad(
            "syncookies",
            means,
            if needed { Health::Fail } else { Health::Note },
            format!("there is no {SYN_COOKIES}"),
            "use a kernel built with CONFIG_SYN_COOKIES=y, and mount /proc",
        ),
    }
}

pub fn permissions() -> Diagnosis {
    let means = "namespaces, raw frames, BPF and other processes' sockets";
    match preflight::is_root_or_caps() {
        Ok(()) => Diagnosis::ok("permissions", means, "all capabilities that are needed"),
        Err(e) => Diagnosis::bad(
            "permissions",
            means,
            Health::Fail,
            e.to_string(),
            "run this as root, as the daemon will be",
        ),
    }
}

/// `needed_mb`: of packet buffers, which must be there; `log_mb`: of the log, which should.
pub fn huge_pages(needed_mb: Option<u64>, log_mb: u64) -> Diagnosis {
    let means = "packet buffers, and the capture log if there are enough";
    let free = match preflight::hugepages_free_mb() {
        Ok(free) => free,
        Err(e) => {
            let health = if needed_mb == Some(0) { Health::Note } else { Health::Fail };
            let mend = "use a kernel with CONFIG_HUGETLBFS, and mount /sys";
            return Diagnosis::bad("hugepages", means, health, e.to_string(), mend);
        }
    };
    let bad = |health, found: String, lacking_mb: u64| {
        let more = lacking_mb.div_ceil(2);
        let mend = format!(
            "reserve at least {more} more of 2 MB: sysctl vm.nr_hugepages (and a file in /etc/sysctl.d to \
             keep them)"
        );
        Diagnosis::bad("hugepages", means, health, found, mend)
    };
    match needed_mb {
        Some(needed) if free < needed => bad(
            Health::Fail,
            format!("{free} MB of huge pages are free and {needed} MB are needed"),
            needed - free,
        ),
        Some(needed) if free < needed + log_mb => bad(
            Health::Note,
            format!(
                "fewer than {} MB of huge pages are free, so the capture log will be in ordinary pages",
                needed + log_mb
            ),
            needed + log_mb - free,
        ),
        None if free == 0 => bad(Health::Fail, "no huge pages are free".into(), 256),
        _ => Diagnosis::ok("hugepages", means, format!("{free} MB are free")),
    }
}

/// `health`: of a machine without a CRIU that works.
pub fn criu(health: Health) -> Diagnosis {
    let means = "checkpoints: nodes that come late, clones that diverged, warm clones";
    match Criu::find() {
        Ok(criu) => Diagnosis::ok("criu", means, format!("CRIU {}", criu.version())),
        Err(e) => Diagnosis::bad(
            "criu",
            means,
            health,
            e.to_string(),
            "where the distribution's is older, dpdk-build/criu.sh builds one",
        ),
    }
}

pub fn cpus() -> Diagnosis {
    let means = "one CPU polls the ports; the kernel and the application need others";
    match std::thread::available_parallelism().map(usize::from) {
        Ok(1) => Diagnosis::bad(
            "cpus",
            means,
            Health::Warn,
            "there is one CPU, which polling and application share",
            "use two or more, or let the polling sleep (idle.sleep_us)",
        ),
        Ok(n) => Diagnosis::ok("cpus", means, format!("{n} CPUs")),
        Err(e) => {
            Diagnosis::bad("cpus", means, Health::Warn, e.to_string(), "mount /proc and /sys")
        }
    }
}

pub fn clock() -> Diagnosis {
    let means = "every frame is stamped, and leases are measured, by the CPU's own counter";
    let source = fs::read_to_string(CLOCK_SOURCE).unwrap_or_default();
    match source.trim() {
        "tsc" => Diagnosis::ok("clock", means, "the kernel's clock is the TSC"),
        "" => Diagnosis::ok("clock", means, "the kernel does not tell its clock source"),
        other => Diagnosis::bad(
            "clock",
            means,
            Health::Warn,
            format!("the kernel does not trust the TSC, its clock is {other}"),
            "see dmesg for why (unstable TSC); in a virtual machine give it an invariant TSC",
        ),
    }
}

/// Whether the links go when the kernel stops: a negative value of `kernel.panic` reboots at once.
pub fn panic() -> Diagnosis {
    let after = fs::read_to_string(PANIC).unwrap_or_default();
    panic_reboots(after.trim().parse().unwrap_or(0))
}

fn panic_reboots(after_s: i64) -> Diagnosis {
    let means = "links that go tell the switch at once that this machine is gone, which then floods what clients \
                 send during a takeover; while they stay up it is lost";
    let found = match after_s {
        ..0 => return Diagnosis::ok("panic", means, "a kernel that panics reboots at once"),
        0 => "a kernel that panics stays as it is, its links up".into(),
        1.. => format!("a kernel that panics reboots after {after_s} s, its links up until then"),
    };
    let mend = "sysctl kernel.panic=-1 (and a file in /etc/sysctl.d to keep it)";
    Diagnosis::bad("panic", means, Health::Note, found, mend)
}

/// The PCI network devices and who drives them.
pub fn nics() -> Diagnosis {
    let means = "a port is a device bound to vfio-pci, or an interface of the kernel by net_af_packet or \
                 net_af_xdp, which is slower";
    let mut devices: Vec<(String, String)> = Vec::new();
    for entry in fs::read_dir(PCI_DEVICES).into_iter().flatten().flatten() {
        let class = fs::read_to_string(entry.path().join("class")).unwrap_or_default();
        if class.starts_with("0x02") {
            let address = entry.file_name().to_string_lossy().into_owned();
            devices.push((address, driver(&entry.path())));
        }
    }
    devices.sort();
    let list: Vec<String> = devices.iter().map(|(at, driver)| format!("{at} ({driver})")).collect();
    let ours = devices.iter().any(|(_, driver)| DPDK_DRIVERS.contains(&driver.as_str()));
    match (list.is_empty(), ours) {
        (true, _) => Diagnosis::bad(
            "nics",
            means,
            Health::Note,
            "there is no PCI network device here",
            "name interfaces of the kernel in the configuration, as configs/trio does",
        ),
        (false, true) => Diagnosis::ok("nics", means, list.join(", ")),
        (false, false) => Diagnosis::bad(
            "nics",
            means,
            Health::Note,
            format!("{}: none is left to DPDK", list.join(", ")),
            "for full speed: dpdk-devbind.py --bind=vfio-pci ADDRESS",
        ),
    }
}

fn driver(device: &Path) -> String {
    let link = fs::read_link(device.join("driver")).ok();
    let name = link.as_deref().and_then(Path::file_name);
    name.map_or_else(|| "no driver".into(), |name| name.to_string_lossy().into_owned())
}

/// A port of the configuration that is a PCI device; others are looked at as interfaces.
pub fn pci_port(field: &str, device: &str) -> Option<Diagnosis> {
    let means = "the device of this port";
    let address = device.split(',').next().unwrap_or_default();
    let full = match address.matches(':').count() {
        1 => format!("0000:{address}"),
        _ => address.to_owned(),
    };
    let is_pci = full.len() == 12 && full.is_ascii() && &full[10..11] == ".";
    if !is_pci {
        return None;
    }
    let path = Path::new(PCI_DEVICES).join(&full);
    if !path.exists() {
        let found = format!("{field}: there is no PCI device {full} here");
        let mend = "correct the address; dpdk-devbind.py --status lists them";
        return Some(Diagnosis::bad(field, means, Health::Fail, found, mend));
    }
    let driver = driver(&path);
    Some(match DPDK_DRIVERS.contains(&driver.as_str()) {
        true => Diagnosis::ok(field, means, format!("{full} is driven by {driver}")),
        false => Diagnosis::bad(
            field,
            means,
            Health::Fail,
            format!("{field}: {full} is held by the kernel ({driver})"),
            format!("dpdk-devbind.py --bind=vfio-pci {full}"),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(version("6.12.9-amd64"), Some((6, 12)));
        assert_eq!(version("6.9-rc1"), Some((6, 9)));
        assert!(version("5.10.0").unwrap() < KERNEL_MIN && version("6.10").unwrap() > KERNEL_MIN);
        assert_eq!(version("x"), None);
    }

    #[test]
    fn links_go_at_once_when_the_kernel_reboots_at_once() {
        for (after_s, health) in [(-1, Health::Ok), (0, Health::Note), (30, Health::Note)] {
            let diagnosis = panic_reboots(after_s);
            assert_eq!(diagnosis.health, health, "{diagnosis:?}");
            assert_eq!(diagnosis.found.contains("30 s"), after_s == 30);
        }
    }

    #[test]
    fn only_pci_addresses_are_pci_ports() {
        for device in
            ["net_af_packet_cl,iface=us-cl", "net_tap0", "", "x:y", "\u{e4}\u{e4}\u{e4}\u{e4}:x"]
        {
            assert_eq!(pci_port("ports.client", device), None, "{device}");
        }
        for device in ["ffff:ff:1f.7", "ff:1f.7", "ffff:ff:1f.7,arg=1"] {
            let bad = pci_port("ports.client", device).unwrap();
            assert_eq!(bad.health, Health::Fail);
            assert!(bad.found.contains("no PCI device"), "{bad:?}");
        }
    }
}
