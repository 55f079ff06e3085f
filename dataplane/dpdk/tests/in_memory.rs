//! Huge pages without files (`--in-memory`), and a cleanup with nothing left: the way a node runs.

mod common;

use understudy_dpdk::{Burst, Eal, Error, Mempool, Port, PortConfig, vdev_attach};

/// 64 MiB of 2 MiB pages, and some for what EAL keeps to itself.
const PAGES_NEEDED: u64 = 40;

#[test]
fn in_memory() {
    let free = common::huge_pages_free();
    if !common::is_root() || free < PAGES_NEEDED {
        println!(
            "skipped: needs root and {PAGES_NEEDED} free huge pages of 2 MiB, {free} are free"
        );
        return;
    }
    let eal = Eal::init(&common::eal_args_in_memory()).expect("EAL starts");
    let pool = Mempool::new("huge", 4095, 256, 2048).expect("the pool fits");
    let id = vdev_attach("net_ring_huge").expect("net_ring attaches");
    let (port, mut rx, mut tx) =
        Port::configure(id, &PortConfig::default(), &pool).expect("it starts");
    let mut burst = Burst::new();
    burst.push(pool.alloc_copy(b"huge").expect("an mbuf"));
    assert_eq!(tx.tx_burst(&mut burst), 1);
    assert_eq!(rx.rx_burst(&mut burst), 1);
    assert_eq!(burst[0].bytes(), b"huge");
    burst.clear();
    assert_eq!(pool.in_use(), 0);
    drop((port, rx, tx));
    drop(pool);
    drop(eal); // nothing is left: rte_eal_cleanup() runs
    assert_eq!(Mempool::new("late", 63, 0, 128).unwrap_err(), Error::NotInitialised);
}
