//! Namespaces, links, addresses, the link monitor and socket inspection.

mod common;

use common::{VMAC, eventually, root, unique};
use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};
use understudy_linux::{
    Error,
    netns::NetNs,
    poll_fds,
    rtnl::{self, LinkMonitor, VethSpec},
    socks::{Proto, TcpState, destroy_connections, is_bound, tcp_sockets},
};

#[test]
fn a_namespace_is_made_entered_and_left() {
    if !root() {
        return;
    }
    let here = NetNs::current().unwrap();
    let ns = NetNs::create().unwrap();
    assert_ne!(here.id().unwrap(), ns.id().unwrap());
    assert_eq!(here.id().unwrap(), NetNs::current().unwrap().id().unwrap());
    assert_eq!(ns.run(|| NetNs::current().unwrap().id().unwrap()).unwrap(), ns.id().unwrap());
    assert!(ns.run(|| rtnl::carrier("lo").unwrap()).unwrap(), "lo is up");
    let me = std::process::id() as i32;
    assert_eq!(NetNs::from_pid(me).unwrap().id().unwrap(), here.id().unwrap());
    assert!(NetNs::from_pid(i32::MAX).is_err());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = ns.run(|| panic!("passed on"));
    }));
    assert!(panicked.is_err());
}

#[test]
fn a_host_port_is_made_configured_and_replaced() {
    if !root() {
        return;
    }
    let (outside, capsule) = (NetNs::create().unwrap(), NetNs::create().unwrap());
    let name = unique("u");
    let spec = VethSpec { outer: &name, inner: "app0", inner_mac: VMAC, mtu: 1400 };
    for _ in 0..2 {
        // The second time replaces the pair that the first left.
        outside.run(|| rtnl::create_veth(&capsule, &spec)).unwrap().unwrap();
    }
    let addrs: [(IpAddr, u8); 3] = [
        ("10.1.2.3".parse().unwrap(), 24),
        ("fd00::3".parse().unwrap(), 64),
        ("10.9.9.9".parse().unwrap(), 32),
    ];
    // The second gateway is in no prefix of ours.
    let gateways: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "fd00::fe".parse().unwrap()];
    for _ in 0..2 {
        rtnl::configure_capsule(&capsule, "app0", &addrs, &gateways).unwrap();
    }
    capsule
        .run(|| {
            let got = rtnl::link_addresses("app0").unwrap();
            for (addr, _) in addrs {
                assert!(got.contains(&addr), "{got:?}");
            }
            let read = |p: &str| fs::read_to_string(p).unwrap().trim().to_owned();
            assert_eq!(read("/proc/sys/net/ipv4/tcp_syncookies"), "1");
            assert_eq!(read("/proc/sys/net/ipv6/conf/app0/accept_dad"), "0");
            assert_eq!(read("/proc/sys/net/ipv6/conf/app0/accept_ra"), "0");
            // Usable at once: no duplicate address detection is pending.
            UdpSocket::bind("[fd00::3]:0").unwrap();
            let routes = Command::new("ip").args(["route"]).output().unwrap();
            let routes = String::from_utf8_lossy(&routes.stdout).into_owned();
            assert!(routes.contains("default via 192.0.2.1"), "{routes}");
            let show = Command::new("ip").args(["-d", "link", "show", "app0"]).output().unwrap();
            let show = String::from_utf8_lossy(&show.stdout).into_owned();
            assert!(show.contains("00:00:5e:00:01:07") && show.contains("mtu 1400"), "{show}");
        })
        .unwrap();
    outside
        .run(|| {
            assert!(rtnl::link_exists(&name));
            assert!(rtnl::link_addresses(&name).unwrap().is_empty());
            eventually("carrier", || rtnl::carrier(&name).unwrap());
            rtnl::delete_link(&name).unwrap();
            rtnl::delete_link(&name).unwrap();
            assert!(!rtnl::link_exists(&name));
            assert!(matches!(rtnl::carrier(&name), Err(Error::NoSuchLink(_))));
        })
        .unwrap();
    let lo = VethSpec { outer: "lo", ..spec };
    let error = outside.run(|| rtnl::create_veth(&capsule, &lo)).unwrap().unwrap_err();
    assert!(matches!(error, Error::LinkInTheWay { .. }), "{error}");
    let bad = [("10.1.2.3".parse().unwrap(), 99)];
    let error = rtnl::configure_capsule(&capsule, "lo", &bad, &[]).unwrap_err().to_string();
    assert!(error.contains("10.1.2.3/99"), "{error}");
}

#[test]
fn standby_keeps_no_time_wait_and_gives_the_limit_back() {
    if !root() {
        return;
    }
    let ns = NetNs::create().unwrap();
    let read =
        || ns.run(|| fs::read_to_string("/proc/sys/net/ipv4/tcp_max_tw_buckets").unwrap()).unwrap();
    let old = read();
    for _ in 0..2 {
        rtnl::set_standby(&ns, true).unwrap();
        assert_eq!(read().trim(), "0");
    }
    rtnl::set_standby(&ns, false).unwrap();
    assert_eq!(read(), old);
    // Without a saved value the limit is still not zero.
    ns.run(|| fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "0")).unwrap().unwrap();
    rtnl::set_standby(&ns, false).unwrap();
    assert_ne!(read().trim(), "0");
}

#[test]
fn the_monitor_sees_the_carrier_go_and_come() {
    if !root() {
        return;
    }
    let (outside, capsule) = (NetNs::create().unwrap(), NetNs::create().unwrap());
    let name = unique("u");
    let spec = VethSpec { outer: &name, inner: "app0", inner_mac: VMAC, mtu: 1500 };
    outside.run(|| rtnl::create_veth(&capsule, &spec)).unwrap().unwrap();
    let mut monitor = outside
        .run(|| {
            eventually("carrier", || rtnl::carrier(&name).unwrap());
            LinkMonitor::new().unwrap()
        })
        .unwrap();
    let mut wait = |what: &str, wanted: bool| {
        let start = Instant::now();
        let mut last = None;
        eventually(what, || {
            poll_fds(&[monitor.as_fd()], Duration::from_millis(100)).unwrap();
            monitor.drain(|link, up| {
                if link == name {
                    last = Some(up);
                }
            });
            last == Some(wanted)
        });
        start.elapsed()
    };
    capsule.run(|| rtnl::set_link_down("app0")).unwrap().unwrap();
    let took = wait("carrier loss", false);
    eprintln!("carrier loss seen in {took:?}");
    capsule.run(|| rtnl::set_link_up("app0")).unwrap().unwrap();
    wait("carrier return", true);
    outside.run(|| rtnl::delete_link(&name)).unwrap().unwrap();
    wait("the link's end", false);
    // Far more changes than the socket holds: the state is read again and the last word is right.
    outside
        .run(|| {
            for _ in 0..1500 {
                rtnl::set_link_down("lo").unwrap();
                rtnl::set_link_up("lo").unwrap();
            }
            rtnl::set_link_down("lo").unwrap();
        })
        .unwrap();
    let mut last = None;
    eventually("lo is down", || {
        monitor.drain(|link, up| {
            if link == "lo" {
                last = Some(up);
            }
        });
        last == Some(false)
    });
}

#[test]
fn sockets_are_listed_with_their_state() {
    if !root() {
        return;
    }
    let ns = NetNs::create().unwrap();
    let bound = |proto, port| is_bound(&ns, proto, port).unwrap();
    assert!(!bound(Proto::Tcp, 7001) && !bound(Proto::Udp, 7001));
    let (v4, v6) = ns
        .run(|| {
            (TcpListener::bind("127.0.0.1:7001").unwrap(), TcpListener::bind("[::]:7002").unwrap())
        })
        .unwrap();
    let udp = ns.run(|| UdpSocket::bind("0.0.0.0:7003").unwrap()).unwrap();
    let udp6 = ns.run(|| UdpSocket::bind("[::1]:7004").unwrap()).unwrap();
    assert!(bound(Proto::Tcp, 7001) && bound(Proto::Tcp, 7002));
    assert!(bound(Proto::Udp, 7003) && bound(Proto::Udp, 7004));
    assert!(!bound(Proto::Udp, 7001) && !bound(Proto::Tcp, 7003) && !bound(Proto::Tcp, 0));

    let client = ns.run(|| TcpStream::connect("127.0.0.1:7002").unwrap()).unwrap();
    let (server, _) = v6.accept().unwrap();
    let all = tcp_sockets(&ns, 100).unwrap();
    assert_eq!(all.iter().filter(|s| s.state == TcpState::Listen).count(), 2);
    let remote = client.local_addr().unwrap();
    let info = all.iter().find(|s| s.remote == remote).expect("the accepted socket");
    assert_eq!(info.state, TcpState::Established);
    let local: SocketAddr = "127.0.0.1:7002".parse().unwrap();
    assert_eq!(info.local, local, "mapped addresses are shown as IPv4");
    assert!(info.snd_cwnd > 0 && info.rtt_us.is_some());
    assert_ne!(info.inode, 0);
    assert_eq!(tcp_sockets(&ns, 1).unwrap().len(), 1);
    // A connected port is not a listener.
    drop(v6);
    assert!(!bound(Proto::Tcp, 7002));
    drop((v4, udp, udp6, client, server));
}

#[test]
fn connections_are_ended_those_that_nobody_holds_included() {
    if !root() {
        return;
    }
    let ns = NetNs::create().unwrap();
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (listener, held, orphan) = ns
            .run(|| {
                let listener = TcpListener::bind(address).unwrap();
                let connect = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (held, orphan) = (connect(), connect());
                (listener, held, orphan)
            })
            .unwrap();
        drop(orphan);
        assert_eq!(destroy_connections(&ns).unwrap(), 4);
        assert_eq!(destroy_connections(&ns).unwrap(), 0);
        let left = tcp_sockets(&ns, 100).unwrap();
        assert!(left.iter().all(|s| s.state == TcpState::Listen), "{left:?}");
        assert!(held.take_error().unwrap().is_some());
        drop(listener);
    }
}
