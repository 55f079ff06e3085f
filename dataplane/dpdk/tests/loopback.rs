//! The whole life of the wrapper, in order, over `net_ring` (a loopback) and `net_null`, without
//! huge pages or root.

mod common;

use common::{frame, receive, transmit};
use understudy_dpdk::clock::Clock;
use understudy_dpdk::{
    BURST, Burst, Eal, Error, Instruction, Mbuf, Mempool, PacketFilter, Port, PortConfig,
    ThreadRegistration, port_by_name, vdev_attach,
};

const MBUFS: u32 = 1023;
const DATA_ROOM_BYTES: u16 = 2048;

#[test]
fn loopback() {
    nothing_works_before_init();
    let eal = Eal::init(&common::eal_args_without_huge_pages()).expect("EAL starts");
    second_init_is_refused();
    unknown_devices_are_refused();

    let pool = Mempool::new("loopback", MBUFS, 32, DATA_ROOM_BYTES).expect("the pool fits");
    assert_eq!((pool.available(), pool.in_use()), (MBUFS, 0));
    pools_are_checked(&pool);
    mbufs_keep_within_their_room(&pool);
    dropping_frees(&pool);
    filters_run_on_frames(&pool);
    ring_round_trip(&pool);
    queues_move_to_a_thread_and_keep_the_port(&pool);
    null_device(&pool);
    assert_eq!(Clock::calibrate().now_ns() / 1_000_000_000, 0);

    let kept = pool.alloc_copy(b"kept").expect("an mbuf");
    drop(pool);
    drop(eal);
    // The cleanup was left out because an mbuf is still out: it must stay readable.
    assert_eq!(kept.bytes(), b"kept");
    drop(kept);
    assert_eq!(Mempool::new("late", 63, 0, 128).unwrap_err(), Error::NotInitialised);
    second_init_is_refused();
}

fn nothing_works_before_init() {
    assert_eq!(Mempool::new("early", 63, 0, 128).unwrap_err(), Error::NotInitialised);
    assert_eq!(vdev_attach("net_null_early").unwrap_err(), Error::NotInitialised);
    assert_eq!(ThreadRegistration::new().unwrap_err(), Error::NotInitialised);
    assert_eq!(port_by_name("net_null_early"), None);
    let refused = Eal::init(&["--help".to_owned()]).unwrap_err();
    assert!(matches!(refused, Error::BadArgument { .. }), "{refused}");
}

fn second_init_is_refused() {
    let error = Eal::init(&common::eal_args_without_huge_pages()).unwrap_err();
    assert_eq!(error, Error::AlreadyInitialised);
    assert!(error.to_string().contains("only once"), "{error}");
}

fn unknown_devices_are_refused() {
    for device in
        ["net_bogus0", "net_af_packet_x,iface=no-such-interface", "0000:ff:1f.7", "", "a\0b"]
    {
        let error = vdev_attach(device).unwrap_err();
        println!("{error}");
        if device.starts_with("net_bogus") {
            let text = error.to_string();
            assert!(text.contains("`net_bogus0`") && text.contains("driver"), "{text}");
        }
    }
}

fn pools_are_checked(pool: &Mempool) {
    let twice = Mempool::new("loopback", 63, 0, 128).unwrap_err();
    assert_eq!(twice.errno(), Some(libc::EEXIST), "{twice}");
    let too_large = Mempool::new("too-large", 100_000_000, 0, DATA_ROOM_BYTES).unwrap_err();
    assert_eq!(too_large.errno(), Some(libc::ENOMEM), "{too_large}");
    println!("{too_large}");
    for (name, mbufs, cache, room) in [
        ("", 63, 0, 128),
        ("a-name-that-is-too-long-for-dpdk", 63, 0, 128),
        ("cache", 63, 43, 128),
        ("cache", 4095, 513, 128),
        ("room", 63, 0, u16::MAX),
    ] {
        let error = Mempool::new(name, mbufs, cache, room).unwrap_err();
        assert!(matches!(error, Error::BadArgument { .. }), "{error}");
    }
    assert_eq!(pool.clone().available(), MBUFS);
}

/// `ip`, as libpcap compiles it: a frame too short to say passes no filter.
fn filters_run_on_frames(pool: &Mempool) {
    let instruction =
        |code, jump_true, jump_false, operand| Instruction { code, jump_true, jump_false, operand };
    let ip = [
        instruction(0x28, 0, 0, 12),
        instruction(0x15, 0, 1, 0x800),
        instruction(0x06, 0, 0, 262_144),
        instruction(0x06, 0, 0, 0),
    ];
    let filter = PacketFilter::new(&ip).expect("DPDK has libpcap");
    println!("rte_bpf runs machine code: {}", filter.is_native());
    let mut frames = Burst::new();
    for (ethertype, len) in [(0x800u16, 60), (0x806, 60), (0x800, 14), (0x800, 13)] {
        let mut bytes = vec![1; len];
        let field = &mut bytes[12..len.min(14)];
        field.copy_from_slice(&ethertype.to_be_bytes()[..field.len()]);
        frames.push(pool.alloc_copy(&bytes).expect("an mbuf"));
    }
    assert_eq!(filter.run(&mut frames)[..4], [true, false, true, false]);
    let mut copied = [0; 20];
    assert_eq!(frames[1].copy_to(&mut copied), 20);
    assert_eq!(copied[..14], [&[1; 12][..], &[8, 6]].concat());
    for bad in [&ip[..0], &ip[..2], &ip[..1]] {
        let error = PacketFilter::new(bad).unwrap_err();
        assert!(matches!(error, Error::BadArgument { .. }), "{error}");
    }
    let far = [instruction(0x05, 0, 0, 7), instruction(0x06, 0, 0, 0)];
    assert!(PacketFilter::new(&far).is_err());
}

fn mbufs_keep_within_their_room(pool: &Mempool) {
    let room = usize::from(DATA_ROOM_BYTES);
    let mut mbuf = pool.alloc().expect("an mbuf");
    assert!(mbuf.is_empty() && mbuf.is_linear() && mbuf.linearize());
    assert_eq!(mbuf.capacity(), room);

    assert!(mbuf.extend_from_slice(&frame(1, room)));
    assert!(!mbuf.extend_from_slice(b"x"));
    assert!(!mbuf.resize(room + 1) && !mbuf.resize(usize::MAX));
    assert_eq!((mbuf.len(), mbuf.frame_len()), (room, room));
    assert_eq!(mbuf.bytes(), frame(1, room));

    assert!(mbuf.resize(10));
    assert_eq!(mbuf.bytes(), &frame(1, room)[..10]);
    assert!(mbuf.resize(20));
    assert_eq!(mbuf.bytes()[10..], [0; 10], "bytes of the old frame come back");
    mbuf.bytes_mut()[19] = 7;
    assert_eq!(mbuf.bytes()[19], 7);
    assert!(mbuf.resize(0) && mbuf.bytes().is_empty());

    assert!(pool.alloc_copy(&frame(2, room)).is_some());
    assert!(pool.alloc_copy(&frame(2, room + 1)).is_none());
    assert!(pool.alloc_copy(&[]).is_some_and(|mbuf| mbuf.is_empty()));
    drop(mbuf);
    assert_eq!(pool.in_use(), 0);
}

fn dropping_frees(pool: &Mempool) {
    let mut held: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!((held.len(), pool.available()), (MBUFS as usize, 0));
    assert!(pool.alloc().is_none() && pool.alloc_copy(b"x").is_none());
    held.truncate(100);
    assert_eq!(pool.in_use(), 100);
    // From another thread, with and without an lcore number.
    let half = held.split_off(50);
    let thread = std::thread::spawn(move || drop(half));
    thread.join().expect("the thread ends");
    let thread = std::thread::spawn(move || {
        let _registration = ThreadRegistration::new().expect("an lcore is free");
        drop(held);
    });
    thread.join().expect("the thread ends");
    assert_eq!((pool.available(), pool.in_use()), (MBUFS, 0));
}

/// The number that a frame carries.
fn number(frame: &Mbuf) -> u32 {
    u32::from_le_bytes(frame.bytes().try_into().expect("four bytes"))
}

fn ring_round_trip(pool: &Mempool) {
    let id = vdev_attach("net_ring_loop").expect("net_ring attaches");
    assert_eq!(port_by_name("net_ring_loop"), Some(id));
    let again = vdev_attach("net_ring_loop").unwrap_err();
    assert!(again.to_string().contains("exists already"), "{again}");

    let cfg = PortConfig {
        rx_desc: 256,
        tx_desc: 256,
        mtu: Some(1400),
        device_time: true,
        ..PortConfig::default()
    };
    let (port, mut rx, mut tx) = Port::configure(id, &cfg, pool).expect("it starts");
    assert_eq!(Port::configure(id, &cfg, pool).unwrap_err(), Error::PortInUse(id));
    assert!(port.link_up());
    assert_eq!((port.id(), rx.port_id(), tx.port_id()), (id, id, id));
    println!("mac {:02x?}", port.mac());

    let mut burst = Burst::new();
    assert_eq!(tx.tx_burst(&mut burst), 0);
    assert_eq!(rx.rx_burst(&mut burst), 0);

    // Content and order survive, of short, empty and full frames.
    let lens = [60, 0, 1, 14, 1514, usize::from(DATA_ROOM_BYTES)];
    for (seed, len) in lens.iter().enumerate() {
        burst.push(pool.alloc_copy(&frame(seed as u8, *len)).expect("an mbuf"));
    }
    assert_eq!(tx.tx_burst(&mut burst), lens.len());
    assert!(burst.is_empty(), "transmitting consumes");
    assert_eq!(pool.in_use() as usize, lens.len(), "the frames are in the ring");
    // A frame already in the burst stays in front, and a full one receives nothing.
    burst.push(pool.alloc_copy(b"before").expect("an mbuf"));
    assert_eq!(rx.rx_burst(&mut burst), lens.len());
    assert_eq!(burst.remove(0).bytes(), b"before");
    for (seed, (mbuf, len)) in burst.iter().zip(lens).enumerate() {
        assert_eq!(mbuf.bytes(), frame(seed as u8, len));
        assert!(mbuf.is_linear());
    }
    burst.clear();
    assert_eq!(pool.in_use(), 0);

    // A full ring takes a part; the rest stays in order.
    let mut burst = Burst::new();
    let mut sent: u32 = 0;
    let mut short = false;
    while !short {
        while !burst.is_full() {
            let seq = sent + burst.len() as u32;
            burst.push(pool.alloc_copy(&seq.to_le_bytes()).expect("an mbuf"));
        }
        sent += tx.tx_burst(&mut burst) as u32;
        short = !burst.is_empty();
        let numbers: Vec<u32> = burst.iter().map(number).collect();
        assert_eq!(numbers, (sent..sent + numbers.len() as u32).collect::<Vec<_>>());
        if pool.available() < BURST as u32 {
            break; // the ring holds more than the pool
        }
    }
    burst.clear();
    let mut received: u32 = 0;
    while rx.rx_burst(&mut burst) > 0 {
        for frame in burst.drain(..) {
            assert_eq!(number(&frame), received);
            received += 1;
        }
    }
    assert_eq!((received, pool.in_use()), (sent, 0));

    let stats = port.stats();
    assert_eq!(stats.rx_packets, lens.len() as u64 + u64::from(received));
    assert_eq!(stats.tx_packets, stats.rx_packets);

    // Any of the three keeps the port; the last one closes and detaches it.
    drop(port);
    drop(tx);
    assert_eq!(Port::configure(id, &cfg, pool).unwrap_err(), Error::PortInUse(id));
    drop(rx);
    assert_eq!(Port::configure(id, &cfg, pool).unwrap_err(), Error::NoSuchPort(id));
    let id = vdev_attach("net_ring_loop").expect("the name is free again");
    drop(Port::configure(id, &cfg, pool).expect("it starts again"));
}

fn queues_move_to_a_thread_and_keep_the_port(pool: &Mempool) {
    let id = vdev_attach("net_ring_thread").expect("net_ring attaches");
    let (port, mut rx, mut tx) =
        Port::configure(id, &PortConfig::default(), pool).expect("it starts");
    let thread_pool = pool.clone();
    let thread = std::thread::spawn(move || {
        let _registration = ThreadRegistration::new().expect("an lcore is free");
        let mut burst = Burst::new();
        for round in 0..200_u8 {
            for _ in 0..BURST {
                burst.push(thread_pool.alloc_copy(&frame(round, 64)).expect("an mbuf"));
            }
            transmit(&mut tx, &mut burst);
            let mut back = receive(&mut rx, BURST);
            assert_eq!(back.len(), BURST);
            assert!(back.drain(..).all(|mbuf| mbuf.bytes() == frame(round, 64)));
        }
        (rx, tx)
    });
    while !thread.is_finished() {
        let _ = port.stats();
    }
    let queues = thread.join().expect("the thread succeeds");
    assert_eq!(port.stats().rx_packets, 200 * BURST as u64);
    drop(port);
    drop(queues);
    assert_eq!(pool.in_use(), 0);
}

fn null_device(pool: &Mempool) {
    let id = vdev_attach("net_null_source,size=64").expect("net_null attaches");
    let (port, mut rx, mut tx) =
        Port::configure(id, &PortConfig::default(), pool).expect("it starts");
    let mut burst = Burst::new();
    assert_eq!(rx.rx_burst(&mut burst), BURST);
    assert!(burst.iter().all(|mbuf| mbuf.len() == 64 && mbuf.frame_len() == 64));
    assert_eq!(rx.rx_burst(&mut burst), 0, "a full burst receives nothing");
    assert_eq!(tx.tx_burst(&mut burst), BURST);
    // An exhausted pool is no frames, not a failure.
    let held: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!(rx.rx_burst(&mut burst), 0);
    drop(held);
    drop((port, rx, tx));
    assert_eq!(pool.in_use(), 0);
}
