//! The machine that the figures are of.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// What a reader must know about it. What cannot be found out is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the CPU.
    pub cpu: String,
    /// CPUs that may be used.
    pub cpus: usize,
    /// Memory.
    pub memory_mb: u64,
    /// Name and release of the kernel.
    pub kernel: String,
    /// Distribution.
    pub os: String,
    /// The hypervisor's vendor, if the CPU says that there is one.
    pub hypervisor: String,
    /// Version of DPDK.
    pub dpdk: String,
    /// Version of the compiler.
    pub rustc: String,
    /// The commit that was measured, with `+` when the tree had changes.
    pub commit: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        Machine {
            cpu: value(&cpuinfo, "model name", ':'),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mb: memory_mb(),
            kernel: said("uname", &["-sr"]),
            os: value(&release, "PRETTY_NAME", '=').trim_matches('"').into(),
            hypervisor: value(&said("lscpu", &[]), "Hypervisor vendor", ':'),
            dpdk: said("pkg-config", &["--modversion", "libdpdk"]),
            rustc: said("rustc", &["--version"]),
            commit: commit(),
        }
    }

    /// In one line.
    pub fn line(&self) -> String {
        let hypervisor = match self.hypervisor.as_str() {
            "" => String::new(),
            vendor => format!(", under {vendor}"),
        };
        format!(
            "{}, {} CPUs{hypervisor}, {} MB, {}, {}, DPDK {}, {}, commit {}",
            self.cpu,
            self.cpus,
            self.memory_mb,
            self.os,
            self.kernel,
            self.dpdk,
            self.rustc,
            self.commit
        )
    }
}

fn memory_mb() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = value(&meminfo, "MemTotal", ':');
    total.trim_end_matches(" kB").parse().map_or(0, |kb: u64| kb / 1024)
}

fn commit() -> String {
    let head = said("git", &["rev-parse", "--short", "HEAD"]);
    let changed = !said("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
    if head.is_empty() || !changed { head } else { head + "+" }
}

/// The value of the first line that begins with `key`.
fn value(text: &str, key: &str, separator: char) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.split_once(separator));
    line.map_or(String::new(), |(_, value)| value.trim().into())
}

/// The first line that a program prints; empty if it cannot be run. All lines for `lscpu`.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).env("LC_ALL", "C").output();
    let output = output.ok().filter(|output| output.status.success());
    output.map_or(String::new(), |o| String::from_utf8_lossy(&o.stdout).trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found() {
        assert_eq!(value("a\t: x y \nb: z", "a", ':'), "x y");
        assert_eq!(value("a: x", "b", ':'), "");
        assert!(Machine::here().cpus > 0);
    }
}
