//! Every virtual driver that a node may use is found without `-d`, and carries a frame each way.
//! Needs root, huge pages (`net_af_xdp` maps the pool) and `ip`.

mod common;

use common::net::{self, Peer};
use common::transmit;
use understudy_dpdk::{Burst, Eal, Mempool, Port, PortConfig, vdev_attach};

/// 64 MiB of 2 MiB pages, and some for what EAL keeps to itself.
const PAGES_NEEDED: u64 = 40;

#[test]
fn drivers() {
    let free = common::huge_pages_free();
    if !common::is_root() || free < PAGES_NEEDED {
        println!(
            "skipped: needs root and {PAGES_NEEDED} free huge pages of 2 MiB, {free} are free"
        );
        return;
    }
    if let Err(error) = net::enter_new_namespace() {
        println!("skipped: no network namespace: {error}");
        return;
    }
    let (near, far) = net::veth_pair();
    let tap = format!("us{}t", std::process::id());
    let _eal = Eal::init(&common::eal_args_in_memory()).expect("EAL starts");
    for (device, peer_interface) in [
        (format!("net_af_packet_a,iface={near}"), &far),
        (format!("net_af_xdp_x,iface={near},force_copy=1"), &far),
        (format!("net_tap_t,iface={tap}"), &tap),
    ] {
        let pool_name = &device[..device.find(',').expect("it has arguments")];
        let pool = Mempool::new(pool_name, 8191, 256, 2048).expect("the pool fits");
        let id = match vdev_attach(&device) {
            Ok(id) => id,
            Err(error) if device.starts_with("net_tap") && !tun_exists() => {
                println!("skipped: {error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let (port, mut rx, mut tx) =
            Port::configure(id, &PortConfig::default(), &pool).expect("it starts");
        net::ip(&["link", "set", peer_interface, "up"]);
        let peer = Peer::open(peer_interface);

        let mut burst = Burst::new();
        burst.push(pool.alloc_copy(&net::test_frame(1, 100)).expect("an mbuf"));
        transmit(&mut tx, &mut burst);
        assert_eq!(peer.receive(), net::test_frame(1, 100), "{device}: outwards");
        peer.send(&net::test_frame(2, 200));
        let received = net::receive_ours(&mut rx, 1, 2000);
        assert_eq!(received, [net::test_frame(2, 200)], "{device}: inwards");
        println!(
            "{device}: link up {}, MAC {:02x?}, {:?}",
            port.link_up(),
            port.mac(),
            port.stats()
        );
        drop((port, rx, tx));
        println!("{device}: {} mbufs are out after closing", pool.in_use());
    }
}

fn tun_exists() -> bool {
    std::path::Path::new("/dev/net/tun").exists()
}
