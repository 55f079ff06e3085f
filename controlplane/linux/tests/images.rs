//! Socket images end to end: a connection is read on one node, made anew on another one with the
//! same address, and its peer sees one continuous stream.

mod common;

use common::{CLIENT_MAC, LIMIT, VMAC, accept, eventually, root};
use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use understudy_image::{Fin, SocketImage, State, Unsavable};
use understudy_linux::{
    Error,
    image::{
        handover::{Giver, Taker},
        hold, pidfd_open, restore, savable, socket_of, sockets_of,
    },
    netns::NetNs,
    rtnl::{self, VethSpec},
    socks::{SockInfo, TcpState, tcp_sockets},
};

const PORT: u16 = 7000;
const NOBODY: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];

/// A peer joined to two nodes that have one address; its route says which of them is served.
struct Pair {
    peer: NetNs,
    nodes: [NetNs; 2],
    server: IpAddr,
    client: IpAddr,
}

fn ip(ns: &NetNs, lines: &str) {
    let said = ns.run(|| {
        let mut command = Command::new("ip");
        let piped = command.args(["-batch", "-"]).stdin(Stdio::piped());
        let mut child = piped.spawn().expect("the tests need ip (Debian package iproute2)");
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        child.wait().unwrap()
    });
    assert!(said.unwrap().success(), "ip refused:\n{lines}");
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|b| format!("{b:02x}")).join(":")
}

impl Pair {
    fn new(v6: bool) -> Pair {
        let (server, client) = if v6 { ("fd77::1", "fd77::2") } else { ("10.77.0.1", "10.77.0.2") };
        let create = || NetNs::create().unwrap();
        let pair = Pair {
            peer: create(),
            nodes: [create(), create()],
            server: server.parse().unwrap(),
            client: client.parse().unwrap(),
        };
        let len = if v6 { 128 } else { 32 };
        let nodad = if v6 { "nodad" } else { "" };
        ip(&pair.peer, &format!("addr add {client}/{len} dev lo {nodad}\n"));
        for (at, node) in pair.nodes.iter().enumerate() {
            let dev = format!("p{at}");
            let spec = VethSpec { outer: &dev, inner: "app0", inner_mac: VMAC, mtu: 1500 };
            pair.peer
                .run(|| {
                    rtnl::create_veth(node, &spec).unwrap();
                    if v6 {
                        let conf = format!("/proc/sys/net/ipv6/conf/{dev}/disable_ipv6");
                        fs::write(conf, "0").unwrap();
                    }
                    for name in ["all", &dev] {
                        fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0")
                            .unwrap();
                    }
                })
                .unwrap();
            ip(&pair.peer, &format!("link set {dev} address {}\n", mac(CLIENT_MAC)));
            rtnl::configure_capsule(node, "app0", &[(pair.server, len)], &[]).unwrap();
            ip(node, &format!("route replace {client}/{len} dev app0\n"));
            pair.open(at, true, true);
        }
        pair.serve(0);
        pair
    }

    /// Which node the peer reaches. Its timers are slow, its acknowledgements immediate: what came
    /// while neither node has the socket would be answered with a RST, as it should.
    fn serve(&self, at: usize) {
        let len = if self.server.is_ipv6() { 128 } else { 32 };
        let (server, client) = (self.server, self.client);
        ip(
            &self.peer,
            &format!("route replace {server}/{len} dev p{at} src {client} rto_min 2s quickack 1\n"),
        );
    }

    /// Whether frames arrive, from the node and at the node.
    fn open(&self, at: usize, from: bool, to: bool) {
        let line = |of: IpAddr, addr: [u8; 6], dev: &str| {
            format!("neigh replace {of} lladdr {} dev {dev} nud permanent\n", mac(addr))
        };
        let (there, back) =
            (if from { CLIENT_MAC } else { NOBODY }, if to { VMAC } else { NOBODY });
        ip(&self.nodes[at], &line(self.client, there, "app0"));
        ip(&self.peer, &line(self.server, back, &format!("p{at}")));
    }

    fn sysctl(&self, name: &str, value: &str, on: &[&NetNs]) {
        for ns in on {
            let path = format!("/proc/sys/net/ipv4/{name}");
            ns.run(|| fs::write(&path, value).unwrap()).unwrap();
        }
    }

    fn connect(&self) -> (TcpStream, TcpStream) {
        let to = SocketAddr::new(self.server, PORT);
        let listener = self.nodes[0].run(|| TcpListener::bind(to).unwrap()).unwrap();
        listener.set_nonblocking(true).unwrap();
        let client = self.peer.run(|| TcpStream::connect(to).unwrap()).unwrap();
        let (server, _) = accept(&listener);
        for end in [&client, &server] {
            end.set_read_timeout(Some(LIMIT * 2)).unwrap();
            end.set_write_timeout(Some(LIMIT * 2)).unwrap();
        }
        (client, server)
    }

    fn find(&self, at: usize, client: SocketAddr) -> Option<SockInfo> {
        let all = tcp_sockets(&self.nodes[at], 1000).unwrap();
        all.into_iter().find(|s| s.remote == client)
    }

    fn reach(&self, client: SocketAddr, state: TcpState) {
        eventually(&format!("{state:?}"), || {
            self.find(0, client).is_some_and(|s| s.state == state)
        });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closed {
    /// Both windows are open.
    None,
    /// The peer takes no more.
    Peers,
    /// The saved socket takes no more.
    Own,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    state: State,
    window: Closed,
    sack: bool,
    timestamps: bool,
    /// What is in flight has reached the peer, and its acknowledgement is lost.
    arrived: bool,
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for state in State::ALL {
        for window in [Closed::None, Closed::Peers, Closed::Own] {
            // A FIN does not pass a closed window.
            if window == Closed::Own && state.peer_has_closed() {
                continue;
            }
            for bits in 0..8 {
                let [sack, timestamps, arrived] = [1, 2, 4].map(|bit| bits & bit != 0);
                // Nothing is in flight, or the peer's FIN needs the way that is cut.
                let one_way =
                    window == Closed::Peers || matches!(state, State::FinWait2 | State::Closing);
                if !(arrived && one_way) {
                    all.push(Case { state, window, sack, timestamps, arrived });
                }
            }
        }
    }
    all
}

fn bytes(salt: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 31 + salt) ^ (i >> 8)) as u8).collect()
}

/// Writes what fits without waiting, for as long as anything does.
fn stuff(mut stream: &TcpStream, what: &[u8]) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut done = 0;
    let mut last = Instant::now();
    while done < what.len() && last.elapsed() < Duration::from_millis(40) {
        match stream.write(&what[done..]) {
            Ok(n) => {
                done += n;
                last = Instant::now();
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(2));
            }
            Err(e) => panic!("write: {e}"),
        }
    }
    stream.set_nonblocking(false).unwrap();
    done
}

/// Brings the server's socket into the case. The answer is what was written at each end.
fn arrange(pair: &Pair, case: &Case, client: &TcpStream, server: &TcpStream) -> [Vec<u8>; 2] {
    let from = client.local_addr().unwrap();
    if case.state == State::FinWait2 {
        server.shutdown(Shutdown::Write).unwrap();
        pair.reach(from, TcpState::FinWait2);
    }
    let upward = bytes(1, if case.window == Closed::Own { 400_000 } else { 5000 });
    let up = stuff(client, &upward);
    eventually("unread bytes", || pair.find(0, from).is_some_and(|s| s.rqueue >= 4000));
    if matches!(case.state, State::CloseWait | State::LastAck) {
        client.shutdown(Shutdown::Write).unwrap();
        pair.reach(from, TcpState::CloseWait);
    }
    let downward = bytes(2, 60_000);
    let mut down = 0;
    if case.state != State::FinWait2 {
        if case.window != Closed::Peers {
            pair.open(0, case.arrived, !case.arrived && case.state == State::Closing);
        }
        down = stuff(server, &downward);
        if case.window == Closed::Peers {
            thread::sleep(Duration::from_millis(250));
            pair.open(0, false, case.state == State::Closing);
        }
        if !matches!(case.state, State::Established | State::CloseWait) {
            server.shutdown(Shutdown::Write).unwrap();
        }
        if case.state == State::Closing {
            client.shutdown(Shutdown::Write).unwrap();
            pair.reach(from, TcpState::Closing);
        }
        thread::sleep(Duration::from_millis(5));
    }
    pair.open(0, false, false);
    [upward[..up].to_vec(), downward[..down].to_vec()]
}

fn check_image(case: &Case, image: &SocketImage) {
    assert_eq!(image.state, case.state, "{case:?}");
    assert_eq!(image.agreed.sack, case.sack, "{case:?}");
    assert_eq!(image.agreed.timestamps.is_some(), case.timestamps, "{case:?}");
    assert!(!image.unread.is_empty(), "{case:?}: nothing unread");
    let sends = case.state != State::FinWait2;
    assert_eq!(!image.pending.is_empty(), sends, "{case:?}: pending");
    let flies = sends && case.window != Closed::Peers;
    assert_eq!(!image.in_flight.is_empty(), flies, "{case:?}: in flight");
    if case.window == Closed::Peers && sends {
        assert_eq!(image.window.snd_wnd, 0, "{case:?}");
    }
}

/// Moves the connection; the answer is the restored socket and when it was there.
fn relocate(pair: &Pair, case: &Case, server: TcpStream) -> (TcpStream, SocketImage, Instant) {
    let read = hold(server.try_clone().unwrap().into()).unwrap();
    let first = read.image.clone();
    drop(read);
    // It lived on in between, and nothing about it has changed.
    let held = hold(server.try_clone().unwrap().into()).unwrap();
    let since = Instant::now();
    let edge = |i: &SocketImage| i.window.rcv_wup.wrapping_add(i.window.rcv_wnd);
    assert_eq!(edge(&held.image), edge(&first), "{case:?}: the window's right edge");
    let mut again = held.image.clone();
    again.timing = first.timing;
    again.agreed.timestamps = first.agreed.timestamps;
    // A delayed acknowledgement may have left in between, which tells the same edge.
    again.window = first.window;
    // And a tail loss probe may have sent one more segment.
    let written = |i: &SocketImage| [&i.in_flight[..], &i.pending].concat();
    assert!(written(&again) == written(&first), "{case:?}: other bytes are unacknowledged");
    (again.in_flight, again.pending) = (first.in_flight.clone(), first.pending.clone());
    if matches!((first.fin, again.fin), (Fin::Unsent, Fin::InFlight)) {
        again.fin = first.fin;
    }
    assert_eq!(again, first, "{case:?}");
    check_image(case, &held.image);
    let encoded = held.end_silently().unwrap().encode().unwrap();
    // A FIN or RST would reach the peer now. The peer must not reach a node without the socket:
    // that would answer with a RST, as it should.
    pair.open(0, true, false);
    drop(server);
    pair.serve(1);
    let image = SocketImage::decode(&encoded).unwrap();
    let begun = Instant::now();
    let socket = pair.nodes[1].run(|| restore(&image, since.elapsed())).unwrap();
    (socket.unwrap_or_else(|e| panic!("{case:?}: {e}")), image, begun)
}

/// Reads to the end; the answer is all of it and when the first of it came.
fn drain(mut stream: &TcpStream) -> io::Result<(Vec<u8>, Instant)> {
    let mut all = vec![0; 1];
    let got = stream.read(&mut all)?;
    let first = Instant::now();
    all.truncate(got);
    stream.read_to_end(&mut all)?;
    Ok((all, first))
}

fn run(pair: &Pair, case: &Case) -> Duration {
    let nodes = [&pair.nodes[0], &pair.nodes[1]];
    let flag = |on| if on { "1" } else { "0" };
    pair.sysctl("tcp_sack", flag(case.sack), &[&pair.peer, nodes[0], nodes[1]]);
    pair.sysctl("tcp_timestamps", flag(case.timestamps), &[&pair.peer, nodes[0], nodes[1]]);
    let memory = |small| if small { "4096 8192 8192" } else { "4096 131072 6291456" };
    pair.sysctl("tcp_rmem", memory(case.window == Closed::Peers), &[&pair.peer]);
    pair.sysctl("tcp_rmem", memory(case.window == Closed::Own), &nodes);
    pair.serve(0);
    pair.open(0, true, true);
    let (client, server) = pair.connect();
    let mut greeting = [0; 5];
    (&client).write_all(b"hello").unwrap();
    (&server).read_exact(&mut greeting).unwrap();
    (&server).write_all(b"hello").unwrap();
    (&client).read_exact(&mut greeting).unwrap();
    let [mut up, mut down] = arrange(pair, case, &client, &server);
    let (server, image, begun) = relocate(pair, case, server);
    let later = bytes(3, 3000);
    let client_writes = !case.state.peer_has_closed();
    let server_writes = matches!(case.state, State::Established | State::CloseWait);
    let finish = |mut end: &TcpStream| {
        end.write_all(&later).unwrap();
        end.shutdown(Shutdown::Write).unwrap();
    };
    server.set_nonblocking(false).unwrap();
    let (at_client, at_server) = thread::scope(|s| {
        let reads = [s.spawn(|| drain(&client)), s.spawn(|| drain(&server))];
        let writes = [(client_writes, &client), (server_writes, &server)];
        for (_, end) in writes.into_iter().filter(|(writes, _)| *writes) {
            s.spawn(move || finish(end));
        }
        let [a, b] = reads.map(|r| r.join().unwrap());
        (a, b)
    });
    let why = |end: &str, e: io::Error| -> ! {
        let now = pair.find(1, client.local_addr().unwrap());
        panic!("{case:?}: {end}: {e}; {:?} {:?} now {now:#?}", image.window, image.timing)
    };
    let (at_client, first) = at_client.unwrap_or_else(|e| why("the client", e));
    let (at_server, _) = at_server.unwrap_or_else(|e| why("the server", e));
    up.extend(later.iter().filter(|_| client_writes));
    down.extend(later.iter().filter(|_| server_writes));
    assert!(at_server == up, "{case:?}: the server's stream is another one");
    assert!(at_client == down, "{case:?}: the client's stream is another one");
    first.saturating_duration_since(begun)
}

fn matrix(v6: bool) {
    if !root() {
        return;
    }
    let pair = Pair::new(v6);
    // No tail loss probe either: with two segments out it comes within milliseconds, whatever `rto_min`.
    pair.sysctl("tcp_early_retrans", "0", &[&pair.peer]);
    for node in &pair.nodes {
        // No TIME_WAIT from an earlier case on the same client port.
        rtnl::set_standby(node, true).unwrap();
    }
    let mut waits = Vec::new();
    let begun = Instant::now();
    for case in cases() {
        let wait = run(&pair, &case);
        // What had arrived is no measure of what was sent anew.
        if !case.arrived && case.window == Closed::None && case.state != State::FinWait2 {
            waits.push(wait);
        }
    }
    waits.sort_unstable();
    println!(
        "{} connections moved in {:.1} s; of {} with lost bytes in flight the first new byte came \
         after {:?} (median), {:?} (last)",
        cases().len(),
        begun.elapsed().as_secs_f64(),
        waits.len(),
        waits[waits.len() / 2],
        waits[waits.len() - 1]
    );
}

#[test]
fn every_state_moves_v4() {
    matrix(false);
}

#[test]
fn every_state_moves_v6() {
    matrix(true);
}

/// More in flight than a new connection may send at once, all of it there, unacknowledged.
#[test]
fn more_in_flight_than_an_initial_window_moves() {
    if !root() {
        return;
    }
    let pair = Pair::new(false);
    let (client, server) = pair.connect();
    let warm = bytes(4, 300_000);
    thread::scope(|s| {
        s.spawn(|| (&server).write_all(&warm).unwrap());
        (&client).read_exact(&mut vec![0; warm.len()]).unwrap();
    });
    (&client).write_all(b"unread").unwrap();
    let from = client.local_addr().unwrap();
    eventually("unread bytes", || pair.find(0, from).is_some_and(|s| s.rqueue == 6));
    let cwnd = pair.find(0, from).unwrap().snd_cwnd;
    assert!(cwnd > 10, "{cwnd}");
    pair.open(0, true, false);
    let data = bytes(5, 60_000);
    let sent = stuff(&server, &data);
    thread::sleep(Duration::from_millis(5));
    pair.open(0, false, false);
    let image = hold(server.try_clone().unwrap().into()).unwrap().end_silently().unwrap();
    assert!(image.in_flight.len() > 10 * 1460, "{}", image.in_flight.len());
    drop(server);
    pair.serve(1);
    let begun = Instant::now();
    let socket = pair.nodes[1].run(|| restore(&image, Duration::from_millis(50))).unwrap().unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let (got, _) = drain(&client).unwrap();
    println!("{} bytes in flight; all there after {:?}", image.in_flight.len(), begun.elapsed());
    assert!(got == data[..sent], "another stream");
}

#[test]
fn what_cannot_be_saved_is_refused_with_its_reason() {
    if !root() {
        return;
    }
    let pair = Pair::new(false);
    let to = SocketAddr::new(pair.server, PORT);
    let listener = pair.nodes[0].run(|| TcpListener::bind(to).unwrap()).unwrap();
    let waiting = pair.peer.run(|| TcpStream::connect(to).unwrap()).unwrap();
    let refused = hold(listener.try_clone().unwrap().into()).unwrap_err();
    assert!(matches!(refused, Error::Unsavable(Unsavable::Listening { waiting: 1 })), "{refused}");
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let refused = hold(udp.into()).unwrap_err();
    assert!(matches!(refused, Error::Unsavable(Unsavable::NotTcp(_))), "{refused}");

    let (server, _) = listener.accept().unwrap();
    let client = waiting.local_addr().unwrap();
    let keep = server.try_clone().unwrap();
    keep.shutdown(Shutdown::Both).unwrap();
    drop(waiting);
    pair.reach(client, TcpState::TimeWait);
    let refused = hold(keep.into()).unwrap_err();
    assert!(matches!(refused, Error::Unsavable(Unsavable::Closed)), "{refused}");
    let listed = pair.find(0, client).unwrap();
    assert_eq!(savable(&listed), Err(Unsavable::TimeWait));
    let orphan = SockInfo { state: TcpState::LastAck, inode: 0, ..listed };
    assert_eq!(savable(&orphan), Err(Unsavable::Orphan(State::LastAck)));
}

/// Not tests by themselves: the applications of the next one.
#[test]
fn helper_first_application() {
    if env::var("UNDERSTUDY_IMAGES_HELPER").as_deref() != Ok("first") {
        return;
    }
    let listener = TcpListener::bind(env::var("UNDERSTUDY_IMAGES_AT").unwrap()).unwrap();
    println!("\nlistens");
    let (mut stream, _) = listener.accept().unwrap();
    let mut name = [0; 4];
    stream.read_exact(&mut name).unwrap();
    stream.write_all(b"first ").unwrap();
    thread::sleep(Duration::from_secs(60));
}

#[test]
fn helper_second_application() {
    if env::var("UNDERSTUDY_IMAGES_HELPER").as_deref() != Ok("second") {
        return;
    }
    let path = env::var("UNDERSTUDY_IMAGES_AT").unwrap();
    let taker = Taker::bind(Path::new(&path)).unwrap();
    println!("\nlistens");
    let taking = taker.accept().unwrap();
    let mut taken = taking.take().unwrap().expect("a connection");
    assert_eq!(taken.local, taken.socket.local_addr().unwrap());
    assert_eq!(taken.remote, taken.socket.peer_addr().unwrap());
    assert!(taking.take().unwrap().is_none());
    taken.socket.set_nonblocking(false).unwrap();
    let mut question = [0; 8];
    taken.socket.read_exact(&mut question).unwrap();
    taken.socket.write_all(b"second ").unwrap();
    taken.socket.write_all(&question).unwrap();
}

/// An application in a process of its own, and its standard output, which it needs until its end.
fn application(ns: &NetNs, helper: &str, at: &str) -> (Child, BufReader<ChildStdout>) {
    let mut child = ns
        .run(|| {
            Command::new(env::current_exe().unwrap())
                .args(["--exact", &format!("helper_{helper}_application"), "--nocapture"])
                .env("UNDERSTUDY_IMAGES_HELPER", helper)
                .env("UNDERSTUDY_IMAGES_AT", at)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let ready = said.by_ref().lines().map_while(Result::ok).any(|line| line == "listens");
    assert!(ready, "the helper does not start");
    (child, said)
}

#[test]
fn a_running_process_is_read_and_another_one_goes_on() {
    if !root() {
        return;
    }
    for v6 in [false, true] {
        let pair = Pair::new(v6);
        let at = SocketAddr::new(pair.server, PORT);
        let (mut first, _said) = application(&pair.nodes[0], "first", &at.to_string());
        let mut client = pair.peer.run(|| TcpStream::connect(at).unwrap()).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client.write_all(b"name").unwrap();
        let mut answer = [0; 6];
        client.read_exact(&mut answer).unwrap();
        client.write_all(b"question").unwrap();
        let from = client.local_addr().unwrap();
        eventually("the question", || pair.find(0, from).is_some_and(|s| s.rqueue == 8));

        let pid = first.id() as i32;
        let pidfd = pidfd_open(pid).unwrap();
        let (mut held, mut listeners) = (Vec::new(), 0);
        for socket in sockets_of(pid).unwrap() {
            match hold(socket_of(pidfd.as_fd(), socket.fd).unwrap()) {
                Ok(one) => held.push(one),
                Err(Error::Unsavable(Unsavable::Listening { .. })) => listeners += 1,
                Err(Error::Unsavable(Unsavable::NotTcp(_))) => {}
                Err(e) => panic!("{e}"),
            }
        }
        assert_eq!((held.len(), listeners), (1, 1));
        let image = held.pop().unwrap().end_silently().unwrap();
        assert_eq!(image.unread, b"question");
        first.kill().unwrap();
        first.wait().unwrap();

        pair.serve(1);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handover");
        let (mut second, _said) = application(&pair.nodes[1], "second", path.to_str().unwrap());
        let restored = pair.nodes[1].run(|| restore(&image, Duration::from_secs(1))).unwrap();
        let giver = Giver::connect(&path, LIMIT).unwrap();
        giver.give(&restored.unwrap()).unwrap();
        drop(giver);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "second question");
        assert!(second.wait().unwrap().success());
    }
}
