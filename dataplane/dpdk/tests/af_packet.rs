//! Frames through `net_af_packet` on a veth pair, seen from its other end by a plain AF_PACKET
//! socket. The pair is in a network namespace without a name that belongs to this process, so
//! nothing is left behind however the test ends. Needs root and `ip`.

mod common;

use common::net::{self, Peer};
use common::transmit;
use understudy_dpdk::{Burst, Eal, Error, Mempool, Port, PortConfig, vdev_attach};

#[test]
fn af_packet() {
    if !common::is_root() {
        println!("skipped: a network namespace needs root");
        return;
    }
    if let Err(error) = net::enter_new_namespace() {
        println!("skipped: no network namespace: {error}");
        return;
    }
    let (near, far) = net::veth_pair();
    let peer = Peer::open(&far);

    let eal = Eal::init(&common::eal_args_without_huge_pages()).expect("EAL starts");
    let pool = Mempool::new("veth", 2047, 64, 2048).expect("the pool fits");
    // The driver opens its sockets in the namespace of this thread.
    let id = vdev_attach(&format!("net_af_packet_{near},iface={near}")).expect("it attaches");
    let cfg = PortConfig { mtu: Some(1500), ..PortConfig::default() };
    let (port, mut rx, mut tx) = Port::configure(id, &cfg, &pool).expect("it starts");
    assert_eq!(port.mac(), [2, 0, 0, 0, 0, 1]);
    assert!(port.link_up());

    // Outwards: the peer sees what was sent, in order, and the port does not hear itself.
    let mut burst = Burst::new();
    let lens = [60, 14, 1514, 61];
    for (seed, len) in lens.iter().enumerate() {
        burst.push(pool.alloc_copy(&net::test_frame(seed as u8, *len)).expect("an mbuf"));
    }
    transmit(&mut tx, &mut burst);
    for (seed, len) in lens.iter().enumerate() {
        assert_eq!(
            peer.receive(),
            net::test_frame(seed as u8, *len),
            "frame {seed} of {len} bytes"
        );
    }
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(net::receive_ours(&mut rx, 1, 0).is_empty(), "the port received its own frames");

    // Inwards, also for a MAC address that is not the port's.
    for (seed, len) in lens.iter().enumerate() {
        peer.send(&net::test_frame(seed as u8, *len));
    }
    let received = net::receive_ours(&mut rx, lens.len(), 1000);
    assert_eq!(received.len(), lens.len());
    for (seed, (bytes, len)) in received.iter().zip(lens).enumerate() {
        assert_eq!(*bytes, net::test_frame(seed as u8, len));
    }
    assert_eq!(pool.in_use(), 0, "the driver copies: it holds no mbuf");

    let stats = port.stats();
    assert_eq!(stats.tx_packets, lens.len() as u64);
    assert!(stats.rx_packets >= lens.len() as u64);

    // Whether the link follows the interface depends on the driver's version: 22.11 does not.
    net::ip(&["link", "set", &far, "down"]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    println!("link is up after the peer went down: {}", port.link_up());

    drop((port, rx, tx));
    // Closed and detached: the same device can be attached again.
    let id = vdev_attach(&format!("net_af_packet_{near},iface={near}")).expect("it attaches again");
    drop(Port::configure(id, &cfg, &pool).expect("it starts again"));
    net::ip(&["link", "set", &far, "up"]);
    several_queues(&near, &Peer::open(&far), &pool);
    drop(pool);
    drop(eal);
}

/// Flows spread over the queues; each flow keeps its order, and nothing is lost or doubled.
fn several_queues(near: &str, peer: &Peer, pool: &Mempool) {
    const QUEUES: u16 = 4;
    const FLOWS: u8 = 64;
    const ROUNDS: u8 = 8;
    let id = vdev_attach(&format!("net_af_packet_q,iface={near},qpairs={QUEUES}")).unwrap();
    let too_many = PortConfig { rx_queues: QUEUES + 1, ..PortConfig::default() };
    let error = Port::configure(id, &too_many, pool).unwrap_err();
    assert_eq!(error, Error::RxQueues { id, wanted: QUEUES + 1, max: QUEUES });
    let cfg = PortConfig { rx_queues: QUEUES, ..PortConfig::default() };
    let (_port, mut rx, _tx) = Port::configure(id, &cfg, pool).expect("it starts");

    let mut order = vec![Vec::new(); usize::from(FLOWS)];
    for round in 0..ROUNDS {
        for flow in 0..FLOWS {
            peer.send(&net::flow_frame(flow, round));
        }
        let count = usize::from(FLOWS);
        let frames = net::receive_flows(&mut rx, count, 1000);
        frames.into_iter().for_each(|(flow, round)| order[usize::from(flow)].push(round));
    }
    let all: Vec<u8> = (0..ROUNDS).collect();
    order.iter().for_each(|rounds| assert_eq!(*rounds, all));
    println!("frames by queue: {:?}", rx.received());
    let used = rx.received().iter().filter(|frames| **frames > 0).count();
    assert!(used > 1, "all flows came to one queue");
}
