//! The instruments proved without Understudy: links break as told, clients of a
//! plain service pass, and every planted lie is found.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use understudy_lab::capture::{Capture, HEADERS_ONLY};
use understudy_lab::clients::bulk::{Bulk, Load};
use understudy_lab::clients::counter::Counter;
use understudy_lab::clients::handshake::RawClient;
use understudy_lab::clients::idle::Idle;
use understudy_lab::clients::inflight::InFlight;
use understudy_lab::clients::pipelined::Pipelined;
use understudy_lab::clients::rediscli::RedisCli;
use understudy_lab::clients::short::Short;
use understudy_lab::clients::udp::UdpEcho;
use understudy_lab::clients::{Task, resp};
use understudy_lab::liar::{self, Lie};
use understudy_lab::node::{ACKNOWLEDGEMENTS, vip4, vip6};
use understudy_lab::proc::Proc;
use understudy_lab::sys::{PacketSocket, in_netns};
use understudy_lab::topology::{Direction, Match, VIP4, VMAC4, netns_names};
use understudy_lab::{Impairment, Lab, Member, Net, Verdict, cmd, frame, plain, scenario, sys};

const SOON: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(2);

/// A raw socket of a node, for frames of the replica network's ethertype.
struct Speaker(PacketSocket);

impl Speaker {
    fn open(netns: &Path, interface: &str) -> Speaker {
        Speaker(in_netns(netns, || PacketSocket::open(interface, true)).unwrap().unwrap())
    }

    /// Sends a PDU of a kind; says whether `to` hears it.
    fn reaches(&mut self, to: &mut Speaker, kind: u8) -> bool {
        let heard = |to: &mut Speaker| {
            let mut count = 0;
            to.0.receive(|_, _, bytes| {
                count += usize::from(bytes.get(12..14) == Some(&[0x88, 0xb5]));
            })
            .unwrap();
            count
        };
        while heard(to) > 0 {}
        let body = [b'U', b'S', b'D', b'Y', 1, kind, 0, 0];
        self.0.send(&frame::ethernet([0xff; 6], [2, 0, 0, 0, 0, 7], 0x88b5, &body)).unwrap();
        (0..20).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            heard(to) > 0
        })
    }
}

fn speakers(lab: &Lab, interface: &str) -> [Speaker; 3] {
    Member::ALL.map(|member| Speaker::open(&lab.node_netns(member), interface))
}

#[test]
fn links_break_as_told() {
    if !scenario::can_run(&[]) {
        return;
    }
    let lab = Lab::new().unwrap();
    for (net, interface) in [(Net::Client, "us-cl"), (Net::Replica, "us-rp"), (Net::Mgmt, "us-mg")]
    {
        let [mut a, mut b, mut c] = speakers(&lab, interface);
        assert!(a.reaches(&mut b, 1) && b.reaches(&mut a, 1), "{net:?} whole");
        lab.isolate(Member::B, net).unwrap();
        assert!(!a.reaches(&mut b, 1) && !b.reaches(&mut a, 1), "{net:?} isolated");
        assert!(a.reaches(&mut c, 1) && c.reaches(&mut a, 1), "{net:?} the others");
        assert!(has_carrier(&lab, Member::B, interface), "{net:?} isolation keeps the carrier");
        lab.restore(Member::B, net).unwrap();
        assert!(a.reaches(&mut b, 1) && b.reaches(&mut a, 1), "{net:?} restored");
        lab.cut_link(Member::B, net).unwrap();
        assert!(!has_carrier(&lab, Member::B, interface), "{net:?} a cut takes the carrier");
        assert!(!a.reaches(&mut b, 1), "{net:?} cut");
        lab.restore_link(Member::B, net).unwrap();
        assert!(has_carrier(&lab, Member::B, interface));
        assert!(a.reaches(&mut b, 1) && b.reaches(&mut a, 1), "{net:?} plugged in");
    }
}

#[test]
fn a_forwarder_stands_in_for_the_bridge() {
    if !scenario::can_run(&[]) {
        return;
    }
    let lab = Lab::impaired(&[Net::Replica, Net::Mgmt], 1).unwrap();
    let forwarder = lab.forwarder(Net::Replica).unwrap();
    assert!(lab.block(Member::A, Net::Replica, Direction::ToNode, Match::Everything).is_err());
    let [mut a, mut b, mut c] = speakers(&lab, "us-rp");
    assert!(a.reaches(&mut b, 1) && a.reaches(&mut c, 1) && c.reaches(&mut a, 1));
    forwarder.set(Member::A, Member::B, &Impairment::blocked());
    assert!(!a.reaches(&mut b, 1) && a.reaches(&mut c, 1) && b.reaches(&mut a, 1));
    assert!(forwarder.command("*>b none").unwrap().is_empty() && a.reaches(&mut b, 1));
    assert!(forwarder.command("a>d none").is_err() && forwarder.command("a>b los=1%").is_err());
    lab.cut_link(Member::B, Net::Replica).unwrap();
    assert!(!a.reaches(&mut b, 1) && a.reaches(&mut c, 1) && forwarder.refused(Member::B) > 0);
    lab.restore_link(Member::B, Net::Replica).unwrap();
    assert!(a.reaches(&mut b, 1) && b.reaches(&mut a, 1), "a cable that is whole again");
    let udp = |member, address| in_netns(&lab.node_netns(member), || UdpSocket::bind(address));
    let (from, to) = (udp(Member::A, "10.77.2.1:0"), udp(Member::B, "10.77.2.2:7"));
    let (from, to) = (from.unwrap().unwrap(), to.unwrap().unwrap());
    to.set_read_timeout(Some(SOON)).unwrap();
    from.send_to(b"over the second path", "10.77.2.2:7").unwrap();
    assert_eq!(to.recv(&mut [0; 64]).unwrap(), 20);
    assert!(forwarder.is_running());
}

#[test]
fn a_forwarder_keeps_up() {
    if !scenario::can_run(&[]) {
        return;
    }
    const FRAMES: u64 = 30_000;
    let lab = Lab::impaired(&[Net::Replica], 1).unwrap();
    let [a, mut b, mut c] = speakers(&lab, "us-rp");
    let frame = frame::ethernet([0xff; 6], [2, 0, 0, 0, 0, 7], 0x88b5, &[7; 1486]);
    let (mut heard, begun) = ([0, 0], Instant::now());
    for _ in 0..FRAMES / 30 {
        assert_eq!(a.0.send_all(&vec![&frame; 30]).unwrap(), 0);
    }
    while heard != [FRAMES; 2] && begun.elapsed() < SOON {
        for (count, speaker) in heard.iter_mut().zip([&mut b, &mut c]) {
            speaker.0.receive(|_, _, bytes| *count += u64::from(bytes.len() == 1500)).unwrap();
        }
    }
    let rate = |count: u64| count as f64 / begun.elapsed().as_secs_f64();
    println!("{:.0} frames/s of 1500 bytes in, twice as many out", rate(FRAMES));
    assert_eq!(heard, [FRAMES; 2], "nothing is lost");
}

fn has_carrier(lab: &Lab, member: Member, interface: &str) -> bool {
    let words = ["ip", "link", "show", "dev", interface];
    cmd::run_inside(&lab.node_netns(member), &words).unwrap().contains("LOWER_UP")
}

#[test]
fn one_way_blocks_drop_what_they_name() {
    if !scenario::can_run(&[]) {
        return;
    }
    let lab = Lab::new().unwrap();
    let [mut a, mut b, _] = speakers(&lab, "us-rp");
    lab.block(Member::B, Net::Replica, Direction::FromNode, ACKNOWLEDGEMENTS).unwrap();
    assert!(!b.reaches(&mut a, 2), "acknowledgements are dropped");
    assert!(b.reaches(&mut a, 1) && b.reaches(&mut a, 3), "other kinds are not");
    assert!(a.reaches(&mut b, 2), "the other direction is not");
    lab.unblock(Member::B, Net::Replica).unwrap();
    assert!(b.reaches(&mut a, 2));
    lab.block(Member::B, Net::Replica, Direction::ToNode, Match::Everything).unwrap();
    assert!(!a.reaches(&mut b, 1) && b.reaches(&mut a, 1), "deaf, not mute");
    lab.unblock(Member::B, Net::Replica).unwrap();
    assert!(a.reaches(&mut b, 1));
}

#[test]
fn a_lab_leaves_nothing_behind() {
    if !scenario::can_run(&[]) {
        return;
    }
    for _ in 0..2 {
        let lab = Lab::new().unwrap();
        let (prefix, dir) = (lab.prefix().to_string(), lab.dir().to_path_buf());
        let sleeper = plain::start(&lab, Member::A, "sleep", &["sleep", "1000"]).unwrap();
        // Redis writes its title over the mark in its environment.
        let redis = plain::start_redis(&lab, Member::A, 6379).unwrap();
        plain::take_vip(&lab, Member::A).unwrap();
        plain::wait_port(&lab.client_netns(), vip4(6379)).unwrap();
        let pids = [sleeper.pid(), redis.pid()];
        assert!(pids.iter().all(|pid| lab.processes().contains(pid)));
        // As if their owner had forgotten them: the lab itself must find them.
        std::mem::forget((sleeper, redis));
        drop(lab);
        assert!(!netns_names().iter().any(|name| name.starts_with(&prefix)));
        let is_alive = |pid| understudy_lab::proc::name_of(pid).is_some();
        assert!(!pids.into_iter().any(is_alive));
        assert!(!dir.exists());
    }
}

#[test]
fn an_interrupted_lab_leaves_nothing_behind() {
    if !scenario::can_run(&["lab-topology"]) {
        return;
    }
    for signal in [libc::SIGINT, libc::SIGKILL] {
        let program = understudy_lab::node::binary("lab-topology").unwrap();
        let log = std::env::temp_dir().join("understudy-lab-interrupt.log");
        let _ = fs::remove_file(&log);
        let mut holder = Proc::start(std::process::Command::new(program), &log, "held").unwrap();
        let prefix = format!("usl{}-", holder.pid());
        let has_names = || netns_names().iter().any(|name| name.starts_with(&prefix));
        cmd::wait_until("a lab", SOON * 60, || {
            Ok(fs::read_to_string(&log)?.contains("ready") && has_names())
        })
        .unwrap();
        sys::kill(holder.pid(), signal).unwrap();
        cmd::wait_until("its end", SOON, || Ok(!holder.is_running())).unwrap();
        if signal == libc::SIGKILL {
            // Nobody could clean up: the next lab does.
            assert!(has_names());
            drop(Lab::new().unwrap());
        }
        assert!(!has_names(), "signal {signal}");
        let _ = fs::remove_file(&log);
    }
}

/// A lab with a plain Redis on node a at port 6379 and its own port 6380.
fn plain_redis() -> (Vec<Proc>, Lab) {
    let lab = Lab::new().unwrap();
    plain::take_vip(&lab, Member::A).unwrap();
    let redis = [6379, 6380].map(|port| plain::start_redis(&lab, Member::A, port).unwrap());
    for port in [6379, 6380] {
        plain::wait_port(&lab.client_netns(), vip4(port)).unwrap();
    }
    (Vec::from(redis), lab)
}

fn counter(lab: &Lab, target: SocketAddr, key: &str) -> Task {
    Counter { target, key: key.into(), pause: PAUSE }.start(&lab.client_netns()).unwrap()
}

fn pipelined(lab: &Lab, target: SocketAddr, connections: usize, key: &str) -> Task {
    let pause = Duration::from_millis(50);
    let plan = Pipelined { target, prefix: key.into(), connections, depth: 8, pause, seed: 7 };
    plan.start(&lab.client_netns()).unwrap()
}

fn redis_cli(lab: &Lab, target: SocketAddr, key: &str) -> RedisCli {
    RedisCli::start(&lab.client_netns(), lab.dir(), lab.prefix(), target, key, PAUSE).unwrap()
}

fn finish(task: Task, more: u64) -> Verdict {
    task.wait_progress(more, SOON).unwrap();
    let verdict = task.finish().unwrap();
    println!("{verdict}");
    verdict
}

#[test]
fn clients_of_a_plain_redis_pass() {
    if !scenario::can_run(&[]) {
        return;
    }
    let (_redis, lab) = plain_redis();
    let netns = lab.client_netns();
    let capture = Capture::start(&lab, HEADERS_ONLY).unwrap();
    let cli = redis_cli(&lab, vip4(6379), "cli");
    let idle = Idle { target: vip4(6379), key: "idle".into(), silence: SOON / 10 };
    let idle = idle.start(&netns).unwrap();
    let short =
        Short { target: vip4(6379), prefix: "short".into(), pause: PAUSE, connections_max: 50 };
    let tasks = [
        counter(&lab, vip4(6379), "four"),
        counter(&lab, vip6(6379), "six"),
        pipelined(&lab, vip4(6379), 200, "many"),
        short.start(&netns).unwrap(),
    ];
    for task in tasks {
        finish(task, 30).assert_pass();
    }
    let mut flight = InFlight::connect(&netns, vip4(6379), "flight").unwrap();
    flight.send_first_half().unwrap();
    flight.send_second_half().unwrap();
    flight.take_reply().unwrap();
    flight.finish().assert_pass();
    idle.join(SOON).unwrap().assert_pass();
    cli.wait_progress(30, SOON).unwrap();
    let verdict = cli.finish().unwrap();
    println!("{verdict}");
    verdict.assert_pass();
    let recording = capture.finish().unwrap();
    println!("{:?}", recording.count_by_port());
    assert_eq!(recording.check_one_answers(0).unwrap().len(), 1);
}

#[test]
fn a_hand_made_handshake_can_be_held() {
    if !scenario::can_run(&[]) {
        return;
    }
    let (_redis, lab) = plain_redis();
    let mut client =
        RawClient::connect_half(&lab.client_netns(), VIP4.parse().unwrap(), 6379).unwrap();
    client.hold(Duration::from_millis(1500)).unwrap();
    client.complete(&resp::command(&["INCR", "raw"]), b":1\r\n").unwrap();
    client.converse(&resp::command(&["INCR", "raw"]), b":2\r\n").unwrap();
    let verdict = client.finish();
    println!("{verdict}");
    verdict.assert_pass();
    assert!(verdict.counted("SYN-ACKs") >= 2, "the kernel's SYN-ACK is sent again after 1 s");
}

#[test]
fn planted_lies_of_a_redis_are_found() {
    if !scenario::can_run(&[]) {
        return;
    }
    let (_redis, lab) = plain_redis();
    let upstream: SocketAddr = "127.0.0.1:6380".parse().unwrap();
    let lies = [Lie::None, Lie::Lose, Lie::Double, Lie::Reorder, Lie::Alter, Lie::Close];
    let (mut running, mut clis) = (Vec::new(), Vec::new());
    for (lie, port) in lies.into_iter().zip(7001..) {
        let listen = vip4(port);
        liar::serve_tcp(&lab.node_netns(Member::A), listen, upstream, lie, 20).unwrap();
        let key = format!("{lie:?}");
        running.push((lie, counter(&lab, listen, &format!("counter-{key}"))));
        running.push((lie, pipelined(&lab, listen, 3, &format!("pipelined-{key}"))));
        clis.push((lie, redis_cli(&lab, listen, &format!("cli-{key}"))));
    }
    // All at once: a client that has found its lie has ended, or waits for what is lost.
    let verdicts: Vec<(Lie, Verdict)> = std::thread::scope(|scope| {
        let clis =
            clis.into_iter().map(|(lie, cli)| scope.spawn(move || (lie, cli.finish().unwrap())));
        let clis: Vec<_> = clis.collect();
        let tasks = running.into_iter().map(|(lie, task)| {
            scope.spawn(move || {
                let _ = task.wait_progress(30, SOON / 5);
                (lie, task.finish().unwrap())
            })
        });
        let tasks: Vec<_> = tasks.collect();
        tasks.into_iter().chain(clis).map(|thread| thread.join().unwrap()).collect()
    });
    for (lie, verdict) in verdicts {
        println!("{lie:?}: {verdict}");
        assert_eq!(verdict.is_pass(), lie == Lie::None, "{lie:?}: {verdict}");
    }
}

#[test]
fn refused_connections_are_counted_with_their_reason() {
    if !scenario::can_run(&[]) {
        return;
    }
    let (_redis, lab) = plain_redis();
    let plan = Short {
        target: vip4(6999),
        prefix: "none".into(),
        pause: Duration::ZERO,
        connections_max: 5,
    };
    let verdict = plan.start(&lab.client_netns()).unwrap().join(SOON).unwrap();
    assert_eq!((verdict.counted("tried"), verdict.faults.len()), (5, 5));
    let reason = verdict.counts.keys().find(|what| what.contains("refused")).unwrap();
    assert_eq!(verdict.counted(reason), 5);
}

#[test]
fn udp_echo_and_its_liars() {
    if !scenario::can_run(&["lab-server"]) {
        return;
    }
    let lab = Lab::new().unwrap();
    plain::take_vip(&lab, Member::A).unwrap();
    let _server = plain::start_server(&lab, Member::A, "udp", 7000).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let lies =
        [Lie::None, Lie::Lose, Lie::Double, Lie::Alter, Lie::Elsewhere, Lie::Invent].into_iter();
    let mut targets = vec![(Lie::None, vip4(7000))];
    for (lie, port) in lies.zip(7001..) {
        liar::serve_udp(&lab.node_netns(Member::A), vip4(port), lie, 10).unwrap();
        targets.push((lie, vip4(port)));
    }
    let start = |target| UdpEcho { target, seed: 3, pause: PAUSE }.start(&lab.client_netns());
    let tasks: Vec<_> = targets.into_iter().map(|(l, t)| (l, start(t).unwrap())).collect();
    for (lie, task) in tasks {
        let verdict = finish(task, 20);
        // A lost datagram is the network's right: the retry covers it.
        let is_honest = matches!(lie, Lie::None | Lie::Lose);
        assert_eq!(verdict.is_pass(), is_honest, "{lie:?}: {verdict}");
    }
}

#[test]
fn bulk_both_ways() {
    if !scenario::can_run(&["lab-server"]) {
        return;
    }
    let lab = Lab::new().unwrap();
    plain::take_vip(&lab, Member::A).unwrap();
    let _server = plain::start_server(&lab, Member::A, "tcp", 7000).unwrap();
    plain::wait_port(&lab.client_netns(), vip4(7000)).unwrap();
    for load in [Load::Up, Load::Down] {
        let (target, bytes, pause) = (vip4(7000), 100 << 20, Duration::ZERO);
        let plan = Bulk { target, load, bytes, seed: 5, pause };
        let verdict = plan.start(&lab.client_netns()).unwrap().join(SOON * 6).unwrap();
        println!("{verdict}");
        verdict.assert_pass();
        assert_eq!(verdict.counted("bytes"), bytes);
    }
}

#[test]
fn two_that_answer_are_found() {
    if !scenario::can_run(&[]) {
        return;
    }
    let (_redis, lab) = plain_redis();
    let ask = |lab: &Lab| {
        let client = in_netns(&lab.client_netns(), || {
            std::net::TcpStream::connect_timeout(&vip4(6379), SOON / 2).map(drop)
        });
        client.unwrap()
    };
    let claim = |member: Member| {
        let vip = VIP4.parse().unwrap();
        let body = frame::arp(2, (VMAC4, vip), (VMAC4, vip));
        let bytes = frame::ethernet([0xff; 6], VMAC4, frame::ETHERTYPE_ARP, &body);
        Speaker::open(&lab.node_netns(member), "us-cl").0.send(&bytes).unwrap();
    };
    let capture = Capture::start(&lab, HEADERS_ONLY).unwrap();
    ask(&lab).unwrap();
    // A capture outlives the cut of a cable it listens to.
    lab.cut_link(Member::A, Net::Client).unwrap();
    claim(Member::B);
    let recording = capture.finish().unwrap();
    lab.restore_link(Member::A, Net::Client).unwrap();
    assert_eq!(recording.check_one_answers(1).unwrap().len(), 2, "a clean handover");
    let capture = Capture::start(&lab, HEADERS_ONLY).unwrap();
    ask(&lab).unwrap();
    claim(Member::B);
    claim(Member::A);
    let recording = capture.finish().unwrap();
    let error = recording.check_one_answers(1).unwrap_err();
    println!("{error}");
    recording.write_pcap(lab.dir()).unwrap();
    let file = lab.dir().join("cl-b.pcap").to_string_lossy().into_owned();
    let said = cmd::run(&["tcpdump", "-nn", "-r", &file]).unwrap();
    assert!(said.contains(VIP4), "{said}");
}
