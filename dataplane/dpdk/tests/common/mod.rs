//! What the tests share. Each test file is its own process, because EAL can be initialised once in
//! the life of one; so each file holds one test.
#![allow(dead_code)] // every test file uses a part

pub mod net;

use std::time::{Duration, Instant};

use understudy_dpdk::{Burst, RxQueues, TxQueue};

/// EAL arguments that need no root, huge pages or devices, and share nothing with other processes.
pub fn eal_args_without_huge_pages() -> Vec<String> {
    let mut args = common_args();
    // The prefix names an empty run-time directory; with --no-shconf nothing in it is shared.
    args.extend(
        ["--no-huge", "-m", "64", "--no-shconf", "--file-prefix=understudy-test"].map(String::from),
    );
    args
}

/// EAL arguments for anonymous huge pages: any number of processes, no files left behind.
pub fn eal_args_in_memory() -> Vec<String> {
    let mut args = common_args();
    args.extend(["--in-memory", "-m", "64"].map(String::from));
    args
}

fn common_args() -> Vec<String> {
    let cpu = first_cpu().to_string();
    ["-l", &cpu, "--no-pci", "--no-telemetry", "--log-level=error"].map(String::from).to_vec()
}

/// The first CPU that this process may run on.
fn first_cpu() -> usize {
    // SAFETY: an all-zero cpu_set_t is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is writable and its size is given.
    let code = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
    assert_eq!(code, 0, "sched_getaffinity");
    (0..libc::CPU_SETSIZE as usize)
        // SAFETY: the index is below CPU_SETSIZE.
        .find(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .expect("the process may run somewhere")
}

/// Free huge pages of the default size.
pub fn huge_pages_free() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("HugePages_Free:")?.trim().parse().ok())
        .unwrap_or(0)
}

/// Tests that change the network or use huge pages are skipped otherwise.
pub fn is_root() -> bool {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// A frame of `len` bytes that is recognisable by `seed`.
pub fn frame(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|index| seed.wrapping_mul(31).wrapping_add(index as u8)).collect()
}

/// Polls until `count` frames came or a second has passed.
pub fn receive(rx: &mut RxQueues, count: usize) -> Burst {
    let mut burst = Burst::new();
    let deadline = Instant::now() + Duration::from_secs(1);
    while burst.len() < count && Instant::now() < deadline {
        rx.rx_burst(&mut burst);
    }
    burst
}

/// Transmits everything, or panics after a second.
pub fn transmit(tx: &mut TxQueue, burst: &mut Burst) {
    let deadline = Instant::now() + Duration::from_secs(1);
    while !burst.is_empty() {
        tx.tx_burst(burst);
        assert!(Instant::now() < deadline, "{} frames were not taken", burst.len());
    }
}
