//! Adoption end to end: hand-made frames on the outer veth, an ordinary listener in the capsule.

mod common;

use common::{ACK, FIN, Lab, PSH, RST, Tcp, accept, eventually, root};
use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};
use understudy_linux::{
    Error,
    adopt::{AdoptAttrs, AdoptStats, Adoption, FlowKey},
    rtnl::set_standby,
    socks::{TcpState, tcp_sockets},
};

const ATTRS: AdoptAttrs = AdoptAttrs {
    mss: 1460,
    snd_wscale: Some(7),
    rcv_wscale: 5,
    sack: true,
    ecn: false,
    timestamps: Some((TSVAL, TSECR)),
    first: None,
};
const TSVAL: u32 = 0x2000_0000;
/// Where the adopted socket's clock starts.
const TSECR: u32 = 0x7654_3210;
/// What the client's frames echo: far from it, to show that it plays no part.
const ECHOED: u32 = 0x1111_1111;
const CLIENT_SEQ: u32 = 0xffff_fff0;
const SERVER_SEQ: u32 = 0x7fff_fffe;

struct Flow {
    key: FlowKey,
}

impl Flow {
    fn new(lab: &Lab, client_port: u16, server_port: u16) -> Flow {
        Flow {
            key: FlowKey {
                client: SocketAddr::new(lab.client, client_port),
                server: SocketAddr::new(lab.server, server_port),
            },
        }
    }

    fn segment(&self, flags: u8, seq: u32, ack: u32, tick: u32) -> Tcp {
        Tcp::new(self.key.client, self.key.server, flags, seq, ack).times(TSVAL + tick, ECHOED)
    }

    fn mine(&self) -> impl Fn(&Tcp) -> bool {
        let key = self.key;
        move |tcp| tcp.from == key.server && tcp.to == key.client
    }
}

/// The whole story of one connection whose handshake completes by adoption.
fn conversation(v6: bool, listen_on: impl Fn(&Lab) -> SocketAddr) {
    if !root() {
        return;
    }
    let lab = Lab::new(v6);
    let listener = lab.listen(listen_on(&lab));
    let adoption = Adoption::load(&lab.capsule, "app0", 16).unwrap();
    let flow = Flow::new(&lab, 40_000, 7000);
    let from_server = flow.mine();

    adoption.handle().prepare(&flow.key, &ATTRS).unwrap();
    let start = Instant::now();
    lab.wire.send(&flow.segment(ACK, CLIENT_SEQ, SERVER_SEQ, 0).frame());
    let (mut stream, peer) = accept(&listener);
    assert_eq!(SocketAddr::new(peer.ip().to_canonical(), peer.port()), flow.key.client);
    assert_eq!(adoption.stats(), AdoptStats { adopted: 1, ..AdoptStats::default() });

    let hello = b"hello across the wrap";
    let after_hello = CLIENT_SEQ.wrapping_add(hello.len() as u32);
    lab.wire.send(&flow.segment(ACK | PSH, CLIENT_SEQ, SERVER_SEQ, 1).data(hello).frame());
    let mut got = vec![0; hello.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got, hello);

    let answer = b"answer";
    stream.write_all(answer).unwrap();
    let reply = lab.wire.expect("the reply", |t| from_server(t) && t.payload == answer);
    assert_eq!(reply.seq, SERVER_SEQ, "the reply continues at the client's ack");
    assert_eq!(reply.ack, after_hello);
    let (tsval, tsecr) = reply.timestamps.expect("timestamps were agreed on");
    let ticks = tsval.wrapping_sub(TSECR);
    let passed = start.elapsed().as_millis() as u32;
    assert!(ticks <= passed + 1, "TSval ran {ticks} ticks in {passed} ms from rcv_tsecr");
    assert_eq!(tsecr, TSVAL + 1);

    let end = SERVER_SEQ.wrapping_add(answer.len() as u32);
    lab.wire.send(&flow.segment(ACK, after_hello, end, 2).frame());
    eventually("the reply is acknowledged", || {
        let all = tcp_sockets(&lab.capsule, 100).unwrap();
        let info = all.iter().find(|s| s.remote == flow.key.client).expect("the adopted socket");
        assert_eq!(info.state, TcpState::Established);
        assert_eq!(info.local, flow.key.server);
        assert_eq!((info.snd_wscale, info.rcv_wscale), (7, 5));
        assert_eq!(info.bytes_received, hello.len() as u64);
        assert_eq!(info.retrans, 0);
        info.unacked == 0
    });

    // The kernel's own clock goes on from there.
    std::thread::sleep(Duration::from_millis(50));
    stream.write_all(b"later").unwrap();
    let later = lab.wire.expect("a later reply", |t| from_server(t) && t.payload == b"later");
    assert_eq!(later.seq, end);
    let ticks = later.timestamps.unwrap().0.wrapping_sub(tsval);
    assert!((50..1000).contains(&ticks), "{ticks} ticks in 50 ms");
    assert_eq!(adoption.stats(), AdoptStats { adopted: 1, ..AdoptStats::default() });
}

#[test]
fn handshake_completes_by_adoption_v4() {
    conversation(false, |lab| SocketAddr::new(lab.server, 7000));
}

#[test]
fn handshake_completes_by_adoption_v6() {
    conversation(true, |lab| SocketAddr::new(lab.server, 7000));
}

#[test]
fn a_dual_stack_listener_adopts_v4() {
    conversation(false, |_| SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 7000));
}

#[test]
fn a_flow_is_adopted_in_the_middle_of_its_stream() {
    for v6 in [false, true] {
        if !root() {
            return;
        }
        let lab = Lab::new(v6);
        let listener = lab.listen(SocketAddr::new(lab.server, 7000));
        let adoption = Adoption::load(&lab.capsule, "app0", 16).unwrap();

        // Data first, no handshake at all; no options agreed on either.
        let flow = Flow::new(&lab, 40_001, 7000);
        let bare = AdoptAttrs {
            mss: 536,
            snd_wscale: None,
            rcv_wscale: 0,
            sack: false,
            ecn: false,
            timestamps: None,
            first: None,
        };
        adoption.handle().prepare(&flow.key, &bare).unwrap();
        let middle = Tcp::new(flow.key.client, flow.key.server, ACK | PSH, 1_000_000, 2_000_000);
        lab.wire.send(&middle.data(b"middle").frame());
        let (mut stream, _) = accept(&listener);
        let mut got = [0; 6];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"middle");
        let ack = lab.wire.expect("an acknowledgement", flow.mine());
        assert_eq!((ack.seq, ack.ack, ack.flags), (2_000_000, 1_000_006, ACK));
        assert_eq!(ack.timestamps, None);

        // Data and FIN in the adopting frame.
        let flow = Flow::new(&lab, 40_002, 7000);
        adoption.handle().prepare(&flow.key, &ATTRS).unwrap();
        lab.wire.send(&flow.segment(ACK | PSH | FIN, 5, 9, 0).data(b"bye").frame());
        let (mut stream, _) = accept(&listener);
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"bye");
        let ack = lab.wire.expect("an acknowledgement of the FIN", flow.mine());
        assert_eq!((ack.seq, ack.ack), (9, 5 + 3 + 1));
        assert_eq!(adoption.stats().adopted, 2);
    }
}

#[test]
fn only_the_named_frame_makes_the_connection() {
    for v6 in [false, true] {
        if !root() {
            return;
        }
        let lab = Lab::new(v6);
        let listener = lab.listen(SocketAddr::new(lab.server, 7000));
        let adoption = Adoption::load(&lab.capsule, "app0", 16).unwrap();
        let flow = Flow::new(&lab, 40_003, 7000);
        let attrs = AdoptAttrs { first: Some((1000, 2000)), ..ATTRS };
        adoption.handle().prepare(&flow.key, &attrs).unwrap();
        // A later frame of the flow was on its way already: no connection, and the entry stays.
        lab.wire.send(&flow.segment(ACK | PSH, 1004, 2000, 1).data(b"later").frame());
        lab.wire.expect("a RST", |t| flow.mine()(t) && t.flags & RST != 0);
        lab.wire.send(&flow.segment(ACK, 1000, 2000, 0).frame());
        lab.wire.send(&flow.segment(ACK | PSH, 1000, 2000, 1).data(b"from").frame());
        let (mut stream, _) = accept(&listener);
        let mut got = [0; 4];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"from");
        assert_eq!(adoption.stats(), AdoptStats { adopted: 1, ..AdoptStats::default() });
    }
}

#[test]
fn a_standby_adopts_a_reused_port_at_once() {
    for v6 in [false, true] {
        if !root() {
            return;
        }
        let lab = Lab::new(v6);
        set_standby(&lab.capsule, true).unwrap();
        let listener = lab.listen(SocketAddr::new(lab.server, 7000));
        let adoption = Adoption::load(&lab.capsule, "app0", 16).unwrap();
        let flow = Flow::new(&lab, 40_000, 7000);
        for round in 0..3u32 {
            let (seq, ack) = (1000 * (round + 1), 500_000 * (round + 1));
            adoption.handle().prepare(&flow.key, &ATTRS).unwrap();
            lab.wire.send(&flow.segment(ACK, seq, ack, round * 10).frame());
            let (mut stream, _) = accept(&listener);
            stream.write_all(b"x").unwrap();
            lab.wire.expect("the byte", |t| flow.mine()(t) && t.payload == b"x" && t.seq == ack);
            // The server closes first, which leaves it in TIME_WAIT anywhere else.
            drop(stream);
            let fin = lab.wire.expect("a FIN", |t| flow.mine()(t) && t.flags & FIN != 0);
            assert_eq!(fin.seq, ack + 1);
            lab.wire.send(&flow.segment(ACK | FIN, seq, ack + 2, round * 10 + 1).frame());
            eventually("the old socket is gone", || {
                let all = tcp_sockets(&lab.capsule, 100).unwrap();
                all.iter().all(|s| s.remote != flow.key.client)
            });
        }
        assert_eq!(adoption.stats(), AdoptStats { adopted: 3, ..AdoptStats::default() });
    }
}

#[test]
fn time_wait_stands_in_the_way_and_is_counted() {
    for v6 in [false, true] {
        if !root() {
            return;
        }
        let lab = Lab::new(v6);
        let listener = lab.listen(SocketAddr::new(lab.server, 7000));
        let adoption = Adoption::load(&lab.capsule, "app0", 16).unwrap();
        let flow = Flow::new(&lab, 40_000, 7000);
        adoption.handle().prepare(&flow.key, &ATTRS).unwrap();
        lab.wire.send(&flow.segment(ACK, 1000, 2000, 0).frame());
        drop(accept(&listener));
        lab.wire.expect("a FIN", |t| flow.mine()(t) && t.flags & FIN != 0);
        lab.wire.send(&flow.segment(ACK | FIN, 1000, 2001, 1).frame());
        eventually("TIME_WAIT", || {
            let all = tcp_sockets(&lab.capsule, 100).unwrap();
            all.iter().any(|s| s.remote == flow.key.client && s.state == TcpState::TimeWait)
        });
        adoption.handle().prepare(&flow.key, &ATTRS).unwrap();
        lab.wire.send(&flow.segment(ACK, 7_000_000, 9_000_000, 10).frame());
        eventually("the frame is counted", || adoption.stats().time_wait == 1);
        assert!(listener.accept().is_err());
        assert_eq!(adoption.stats().adopted, 1);
    }
}

#[test]
fn without_an_entry_nothing_is_adopted() {
    for v6 in [false, true] {
        if !root() {
            return;
        }
        let lab = Lab::new(v6);
        let listener = lab.listen(SocketAddr::new(lab.server, 7000));
        let adoption = Adoption::load(&lab.capsule, "app0", 16).unwrap();
        let other = Flow::new(&lab, 40_009, 7000);
        adoption.handle().prepare(&other.key, &ATTRS).unwrap();
        let flow = Flow::new(&lab, 40_000, 7000);
        adoption.handle().prepare(&flow.key, &ATTRS).unwrap();
        adoption.handle().forget(&flow.key);
        lab.wire.send(&flow.segment(ACK, 1000, 2000, 0).frame());
        let reset = lab.wire.expect("a RST", |t| flow.mine()(t) && t.flags & RST != 0);
        assert_eq!(reset.seq, 2000);
        assert!(listener.accept().is_err());
        assert_eq!(adoption.stats(), AdoptStats::default());
        // A detached program adopts nothing, not even what was prepared.
        drop(adoption);
        lab.wire.send(&other.segment(ACK, 1000, 2000, 0).frame());
        lab.wire.expect("a RST", |t| other.mine()(t) && t.flags & RST != 0);
    }
}

#[test]
fn every_outcome_is_counted() {
    if !root() {
        return;
    }
    let lab = Lab::new(false);
    let adoption = Adoption::load(&lab.capsule, "app0", 2).unwrap();
    let adopter = adoption.handle();
    let flow = Flow::new(&lab, 40_000, 7000);
    adopter.prepare(&flow.key, &ATTRS).unwrap();
    lab.wire.send(&flow.segment(ACK, 1000, 2000, 0).frame());
    lab.wire.expect("a RST", |t| flow.mine()(t) && t.flags & RST != 0);
    assert_eq!(adoption.stats().no_listener, 1);

    // That frame used the entry up, so no later one can make a connection with a hole in it.
    let listener = lab.listen(SocketAddr::new(lab.server, 7000));
    lab.wire.send(&flow.segment(ACK, 1000, 2000, 0).frame());
    lab.wire.expect("a RST", |t| flow.mine()(t) && t.flags & RST != 0);
    adopter.prepare(&flow.key, &ATTRS).unwrap();
    lab.wire.send(&flow.segment(ACK, 1000, 2000, 0).frame());
    let (mut stream, _) = accept(&listener);

    // A flow with a socket is left to that socket.
    adopter.prepare(&flow.key, &ATTRS).unwrap();
    lab.wire.send(&flow.segment(ACK | PSH, 1000, 2000, 1).data(b"on").frame());
    let mut got = [0; 2];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(
        adoption.stats(),
        AdoptStats { adopted: 1, no_listener: 1, existing: 1, ..AdoptStats::default() }
    );

    // Attributes that the capsule's kernel does not allow are refused.
    lab.capsule.run(|| std::fs::write("/proc/sys/net/ipv4/tcp_sack", "0")).unwrap().unwrap();
    let sack = Flow::new(&lab, 40_001, 7000);
    adopter.prepare(&sack.key, &ATTRS).unwrap();
    lab.wire.send(&sack.segment(ACK, 1000, 2000, 0).frame());
    lab.wire.expect("a RST", |t| sack.mine()(t) && t.flags & RST != 0);
    assert_eq!(adoption.stats().refused, 1);

    // The table is bounded, and freed entries can be used again.
    let keys: Vec<FlowKey> = (0..3).map(|i| Flow::new(&lab, 41_000 + i, 7000).key).collect();
    adopter.prepare(&keys[0], &ATTRS).unwrap();
    adopter.prepare(&keys[1], &ATTRS).unwrap();
    let full = adopter.prepare(&keys[2], &ATTRS);
    assert!(matches!(full, Err(Error::FlowTableFull { max_flows: 2 })), "{full:?}");
    adopter.forget(&keys[0]);
    adopter.forget(&keys[0]);
    adopter.prepare(&keys[2], &ATTRS).unwrap();
}

/// The adopting frame's TSecr is the first round-trip sample: one that equals `rcv_tsecr` is the
/// one to send.
#[test]
fn the_adopting_frame_sets_the_retransmission_timer() {
    if !root() {
        return;
    }
    let lab = Lab::new(false);
    let listener = lab.listen(SocketAddr::new(lab.server, 7000));
    let adoption = Adoption::load(&lab.capsule, "app0", 16).unwrap();
    let timeout_us = |port: u16, tsecr: u32| {
        let flow = Flow::new(&lab, port, 7000);
        adoption.handle().prepare(&flow.key, &ATTRS).unwrap();
        let ack = Tcp::new(flow.key.client, flow.key.server, ACK, 1, 1).times(TSVAL, tsecr);
        lab.wire.send(&ack.frame());
        let _held = accept(&listener);
        let all = tcp_sockets(&lab.capsule, 100).unwrap();
        let info = all.into_iter().find(|s| s.remote == flow.key.client).expect("the socket");
        (info.rtt_us.is_some(), info.rto_us)
    };
    let (sampled, timeout) = timeout_us(40_000, TSECR);
    assert!(sampled && timeout < 400_000, "{timeout} us");
    let (sampled, timeout) = timeout_us(40_001, TSECR - 10_000);
    assert!(sampled && timeout >= 10_000_000, "{timeout} us");
    let (sampled, timeout) = timeout_us(40_002, TSECR + 10_000);
    assert!(!sampled && timeout >= 1_000_000, "{timeout} us");
}

#[test]
fn a_missing_device_is_named() {
    if !root() {
        return;
    }
    let lab = Lab::new(false);
    let error = Adoption::load(&lab.capsule, "nosuch0", 2).unwrap_err();
    assert!(matches!(&error, Error::NoSuchLink(name) if name == "nosuch0"), "{error}");
}

#[test]
fn a_burst_of_frames_behind_the_adopting_one_is_read_in_order() {
    if !root() {
        return;
    }
    let lab = Lab::new(false);
    let listener = lab.listen(SocketAddr::new(lab.server, 7000));
    let adoption = Adoption::load(&lab.capsule, "app0", 64).unwrap();
    for port in 0..50u16 {
        let flow = Flow::new(&lab, 42_000 + port, 7000);
        adoption.handle().prepare(&flow.key, &ATTRS).unwrap();
        lab.wire.send(&flow.segment(ACK, 100, 200, 0).frame());
        for part in 0..8u32 {
            let bytes = vec![part as u8; 100];
            lab.wire
                .send(&flow.segment(ACK | PSH, 100 + part * 100, 200, part).data(&bytes).frame());
        }
    }
    for _ in 0..50 {
        let (mut stream, _) = accept(&listener);
        let mut got = vec![0; 800];
        stream.read_exact(&mut got).unwrap();
        assert!(got.iter().enumerate().all(|(i, b)| usize::from(*b) == i / 100));
    }
    assert_eq!(adoption.stats().adopted, 50);
}
