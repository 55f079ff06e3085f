//! The order between connections: whatever a clone's application takes how long, whatever waits for
//! its window, and however far it is behind, it gets no client's data before it has done what that
//! client can have known of.

use std::collections::BTreeMap;

use super::*;

const CONNECTIONS: u16 = 6;
/// Bytes of a request, and of an answer.
const LEN: usize = 200;
/// Two requests and a bit.
const WINDOW: usize = 2 * LEN + 60;
const REQUESTS: usize = 60;
const SEEDS: u64 = 60;
/// A client's kernel acknowledges no later.
const DELAYED_ACK_NS: u64 = 40 * MS;

fn of_client(port: u16, fields: (u32, u32, u8), payload: &[u8]) -> Vec<u8> {
    let eth = Ethernet { dst: VMAC, src: CLIENT_MAC, ethertype: 0x0800 };
    let syn = fields.2 & SYN != 0;
    let options = if syn { SYN_OPTIONS.to_vec() } else { ts(60, 1000) };
    let (seq, ack, flags) = fields;
    build_segment(&eth, (client().0, port), server(), (seq, ack, flags, 500), &options, payload)
}

fn of_server(port: u16, fields: (u32, u32, u8, u16), payload: &[u8]) -> Vec<u8> {
    let eth = Ethernet { dst: CLIENT_MAC, src: VMAC, ethertype: 0x0800 };
    let syn = fields.2 & SYN != 0;
    let options = if syn { SYNACK_OPTIONS.to_vec() } else { ts(1005, 60) };
    build_segment(&eth, server(), (client().0, port), fields, &options, payload)
}

fn dice(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % below
}

/// One connection of a capsule: its kernel's end, and the process of the application that has it.
#[derive(Default)]
struct Socket {
    received: Vec<u8>,
    read: usize,
    window_told: usize,
    sent: usize,
    done_at_ns: Option<u64>,
}

/// A kernel that delivers and acknowledges at once, and an application with a process for each
/// connection. Each takes its time for a request, and then notes its name and answers.
struct Capsule {
    sockets: BTreeMap<u16, Socket>,
    rcv_buf: usize,
    slowest_ns: u64,
    dice: u64,
    /// Names of requests, in the order in which they were done.
    done: Vec<u64>,
}

impl Capsule {
    fn new(rcv_buf: usize, slowest_ns: u64, seed: u64) -> Capsule {
        Capsule { sockets: BTreeMap::new(), rcv_buf, slowest_ns, dice: seed, done: Vec::new() }
    }

    fn say(&mut self, rig: &mut Rig, port: u16, payload: &[u8]) {
        let Some(socket) = self.sockets.get_mut(&port) else { return };
        let free = self.rcv_buf - (socket.received.len() - socket.read);
        socket.window_told = socket.received.len() + free;
        let (seq, ack) = (srv(socket.sent as u32), cli(socket.received.len() as u32));
        socket.sent += payload.len();
        // Scale 7.
        let frame = of_server(port, (seq, ack, ACK, (free >> 7) as u16), payload);
        rig.give(PortRole::Host, frame);
    }

    fn take(&mut self, rig: &mut Rig, frame: &[u8]) {
        let Some(segment) = Segment::parse(frame) else { return };
        let port = segment.src_port;
        if segment.has(SYN) {
            // What a clone's kernel offers at least, as the SYN-ACK tells.
            let window = WINDOW as u16;
            let synack = of_server(port, (SERVER_ISN, cli(0), SYN | ACK, window), b"");
            rig.give(PortRole::Host, synack);
            return;
        }
        let socket = self.sockets.entry(port).or_default();
        let payload = segment.payload(frame);
        let at = segment.seq.wrapping_sub(cli(0)) as usize;
        let room = self.rcv_buf - (socket.received.len() - socket.read);
        if payload.is_empty() {
            return;
        }
        if at == socket.received.len() && payload.len() <= room {
            socket.received.extend(payload);
        }
        self.say(rig, port, b"");
    }

    fn work(&mut self, rig: &mut Rig) {
        let now_ns = rig.now_ns;
        let ports: Vec<u16> = self.sockets.keys().copied().collect();
        for port in ports {
            let took_ns = dice(&mut self.dice, self.slowest_ns);
            let Some(socket) = self.sockets.get_mut(&port) else { continue };
            if socket.done_at_ns.is_none() && socket.received.len() >= socket.read + LEN {
                socket.done_at_ns = Some(now_ns + took_ns);
            }
            if socket.done_at_ns.is_some_and(|at| now_ns >= at) {
                socket.done_at_ns = None;
                let request = &socket.received[socket.read..socket.read + LEN];
                let name = u64::from_be_bytes(request[..8].try_into().unwrap());
                socket.read += LEN;
                self.done.push(name);
                let mut answer = vec![0; LEN];
                answer[..8].copy_from_slice(&name.to_be_bytes());
                self.say(rig, port, &answer);
            }
        }
    }

    fn run(&mut self, rig: &mut Rig) {
        for frame in rig.sent(PortRole::Host) {
            self.take(rig, &frame);
        }
        self.work(rig);
    }
}

/// A client's end of a connection.
#[derive(Default)]
struct End {
    asked: usize,
    heard: usize,
    acked: usize,
    ack_due_ns: Option<u64>,
    greeted: bool,
}

/// One client that has all the connections, and remembers what it had heard when it asked.
struct World {
    a: Rig,
    b: Rig,
    primary: Capsule,
    clone: Capsule,
    ends: Vec<End>,
    heard: Vec<u64>,
    /// What had been heard before each request.
    causes: Vec<Vec<u64>>,
    dice: u64,
}

fn port(connection: usize) -> u16 {
    40_000 + connection as u16
}

impl World {
    fn new(seed: u64) -> World {
        let (mut a, b) = trio_pair(CommitPolicy::Quorum);
        for n in 0..usize::from(CONNECTIONS) {
            a.give(PortRole::Client, of_client(port(n), (CLIENT_ISN, 0, SYN), b""));
        }
        World {
            a,
            b,
            primary: Capsule::new(32 << 10, 3 * MS, seed),
            // A smaller window, and slower.
            clone: Capsule::new(WINDOW, 12 * MS, seed + 1),
            ends: (0..CONNECTIONS).map(|_| End::default()).collect(),
            heard: Vec::new(),
            causes: Vec::new(),
            dice: seed + 2,
        }
    }

    fn send(&mut self, n: usize, payload: &[u8]) {
        let end = &mut self.ends[n];
        (end.acked, end.ack_due_ns) = (end.heard, None);
        let fields = (cli(end.asked as u32), srv(end.heard as u32), ACK);
        end.asked += payload.len();
        self.a.give(PortRole::Client, of_client(port(n), fields, payload));
    }

    fn hear(&mut self) {
        for frame in self.a.sent(PortRole::Client) {
            let Some(segment) = Segment::parse(&frame) else { continue };
            let n = usize::from(segment.dst_port - port(0));
            if segment.has(SYN) {
                self.ends[n].greeted = true;
                self.send(n, b"");
            }
            let (now_ns, payload) = (self.a.now_ns, segment.payload(&frame));
            if payload.is_empty() {
                continue;
            }
            self.ends[n].heard += payload.len();
            self.heard.push(u64::from_be_bytes(payload[..8].try_into().unwrap()));
            // Every second segment is acknowledged at once.
            let due_ns = match self.ends[n].ack_due_ns {
                None => now_ns + DELAYED_ACK_NS,
                Some(_) => now_ns,
            };
            self.ends[n].ack_due_ns = Some(due_ns);
        }
        for n in 0..self.ends.len() {
            if self.ends[n].ack_due_ns.is_some_and(|at| self.a.now_ns >= at) {
                self.send(n, b"");
            }
        }
    }

    /// Asks once, on some connection that has answered all, or pipelines.
    fn ask(&mut self) {
        let n = dice(&mut self.dice, u64::from(CONNECTIONS)) as usize;
        let pipelined = dice(&mut self.dice, 4) == 0;
        let end = &self.ends[n];
        let idle = end.asked == end.heard;
        if !end.greeted || !idle && !pipelined || self.causes.len() >= REQUESTS {
            return;
        }
        let name = self.causes.len() as u64;
        let mut request = vec![0; LEN];
        request[..8].copy_from_slice(&name.to_be_bytes());
        self.causes.push(self.heard.clone());
        self.send(n, &request);
    }

    fn step(&mut self) {
        exchange(&mut self.a, &mut self.b, 1);
        self.primary.run(&mut self.a);
        self.clone.run(&mut self.b);
        self.hear();
        if dice(&mut self.dice, 6) == 0 {
            self.ask();
        }
    }

    /// Every effect is after its causes, and nothing is lost.
    fn check(&self, who: &str, done: &[u64]) {
        assert_eq!(done.len(), REQUESTS, "{who} has done {done:?}");
        let place: BTreeMap<u64, usize> = done.iter().enumerate().map(|(i, n)| (*n, i)).collect();
        for (effect, causes) in self.causes.iter().enumerate() {
            for cause in causes {
                let in_order = place[cause] < place[&(effect as u64)];
                assert!(in_order, "{who}: {effect} before {cause}: {done:?}");
            }
        }
    }
}

#[test]
fn no_effect_overtakes_its_cause_on_a_clone() {
    let (mut waits, mut parked) = (0, 0);
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        // Some clones come late, and are fed as fast as they can take it.
        let late = seed % 2 == 0;
        world.b.order(Command::Service { up: !late });
        for step in 0..60_000 {
            if late && step == 3000 {
                world.b.order(Command::Service { up: true });
            }
            world.step();
            if world.clone.done.len() == REQUESTS && world.heard.len() == REQUESTS {
                break;
            }
        }
        println!("seed {seed}");
        let names = ["said_notes", "order_waits", "order_waits_expired", "ack_waits", "parked"];
        println!("{:?}", names.map(|name| (name, world.b.counter(name) + world.a.counter(name))));
        world.check("the primary", &world.primary.done);
        world.check("the clone", &world.clone.done);
        assert!(world.b.dp.snapshot(world.b.now_ns).fit);
        assert_eq!(world.b.counter("order_waits_expired"), 0);
        waits += world.b.counter("order_waits");
        parked += world.b.counter("parked");
    }
    println!("{waits} waits, {parked} parked");
    assert!(waits > SEEDS && parked > SEEDS, "nothing was tested: {waits}, {parked}");
}

/// Two connections, adopted by the clone.
fn two() -> (Rig, Rig) {
    let (mut a, mut b) = trio_pair(CommitPolicy::Quorum);
    for n in [0, 1] {
        a.give(PortRole::Client, of_client(port(n), (CLIENT_ISN, 0, SYN), b""));
        a.poll();
        let window = WINDOW as u16;
        a.give(PortRole::Host, of_server(port(n), (SERVER_ISN, cli(0), SYN | ACK, window), b""));
        exchange(&mut a, &mut b, 10);
        a.give(PortRole::Client, of_client(port(n), (cli(0), srv(0), ACK), b""));
    }
    exchange(&mut a, &mut b, 10);
    assert_eq!(b.counter("adoptions"), 2);
    b.sent(PortRole::Host);
    (a, b)
}

/// Client's data that was given to the clone since: connection and length.
fn given(rig: &mut Rig) -> Vec<(u16, u32)> {
    let all = segments(&rig.sent(PortRole::Host));
    let data = all.iter().filter(|s| s.payload_len > 0);
    data.map(|s| (s.src_port - port(0), s.payload_len)).collect()
}

/// A datagram to the service, in a frame.
fn datagram() -> Vec<u8> {
    let mut frame = of_client(port(1), (0, 0, ACK), b"");
    frame[14 + 9] = 17;
    frame
}

/// The primary has answered on the first connection; then comes data on the second.
fn answered_and_relied_on() -> (Rig, Rig) {
    let (mut a, mut b) = two();
    a.give(PortRole::Client, of_client(port(0), (cli(0), srv(0), ACK), b"make"));
    exchange(&mut a, &mut b, 10);
    assert_eq!(given(&mut b), [(0, 4)]);
    b.give(PortRole::Host, of_server(port(0), (srv(0), cli(4), ACK, 500), b""));
    a.give(PortRole::Host, of_server(port(0), (srv(0), cli(4), ACK, 500), b"made"));
    exchange(&mut a, &mut b, 10);
    a.give(PortRole::Client, of_client(port(1), (cli(0), srv(0), ACK), b"use it"));
    exchange(&mut a, &mut b, 100);
    assert_eq!((given(&mut b), b.counter("order_waits")), (vec![], 1));
    (a, b)
}

#[test]
fn data_waits_for_what_the_primary_had_said_on_another_connection() {
    let (mut a, mut b) = answered_and_relied_on();
    b.give(PortRole::Host, of_server(port(0), (srv(0), cli(4), ACK, 500), b"ma"));
    exchange(&mut a, &mut b, 10);
    assert_eq!(given(&mut b), [], "half of it");
    b.give(PortRole::Host, of_server(port(0), (srv(2), cli(4), ACK, 500), b"de"));
    exchange(&mut a, &mut b, 10);
    assert_eq!(given(&mut b), [(1, 6)]);
    a.give(PortRole::Host, of_server(port(0), (srv(4), cli(4), ACK, 500), b"more"));
    exchange(&mut a, &mut b, 10);
    a.give(PortRole::Client, of_client(port(1), (cli(6), srv(0), ACK), b""));
    a.give(PortRole::Client, datagram());
    exchange(&mut a, &mut b, 10);
    assert_eq!(b.sent(PortRole::Host).len(), 1, "the ACK: what is waited for may need one");
    b.give(PortRole::Host, of_server(port(0), (srv(4), cli(4), ACK, 500), b"more"));
    exchange(&mut a, &mut b, 10);
    assert_eq!(b.sent(PortRole::Host), [datagram()]);
    assert_eq!(b.counter("order_waits_expired"), 0);
}

#[test]
fn what_one_connection_says_is_not_noted_for_itself() {
    let (mut a, mut b) = two();
    for n in 0..5 {
        a.give(PortRole::Client, of_client(port(0), (cli(4 * n), srv(4 * n), ACK), b"make"));
        exchange(&mut a, &mut b, 10);
        let answer = of_server(port(0), (srv(4 * n), cli(4 * n + 4), ACK, 500), b"made");
        a.give(PortRole::Host, answer);
        exchange(&mut a, &mut b, 10);
    }
    assert_eq!(a.counter("said_notes"), 0);
}

#[test]
fn a_wait_in_vain_ends_and_is_not_repeated_for_a_while() {
    let (mut a, mut b) = answered_and_relied_on();
    exchange(&mut a, &mut b, 7000);
    assert_eq!((given(&mut b), b.counter("order_waits_expired")), (vec![(1, 6)], 1));
    a.give(PortRole::Host, of_server(port(0), (srv(4), cli(4), ACK, 500), b"more"));
    exchange(&mut a, &mut b, 10);
    a.give(PortRole::Client, of_client(port(1), (cli(6), srv(0), ACK), b"again"));
    exchange(&mut a, &mut b, 10);
    assert_eq!(given(&mut b), [(1, 5)], "at once");
    assert!(b.dp.snapshot(b.now_ns).fit, "its client has acknowledged nothing");
}

#[test]
fn data_waits_for_what_is_parked_of_another_connection_but_not_for_ever() {
    let (mut a, mut b) = two();
    let beyond = [7; WINDOW + 1];
    for ends in [true, false] {
        let sent = given(&mut b).len() as u32;
        assert_eq!(sent, 0);
        let at = if ends { 0 } else { beyond.len() as u32 };
        a.give(PortRole::Client, of_client(port(0), (cli(at), srv(0), ACK), &beyond));
        let at = if ends { 0 } else { 4 };
        a.give(PortRole::Client, of_client(port(1), (cli(at), srv(0), ACK), b"then"));
        exchange(&mut a, &mut b, 20);
        assert_eq!(given(&mut b), []);
        if ends {
            b.give(PortRole::Host, of_server(port(0), (srv(0), cli(0), ACK, 4), b""));
            exchange(&mut a, &mut b, 20);
            assert_eq!(given(&mut b), [(0, WINDOW as u32 + 1), (1, 4)]);
        } else {
            exchange(&mut a, &mut b, 500);
            assert_eq!(given(&mut b), [(1, 4)]);
            assert_eq!(b.counter("order_waits_expired"), 1);
        }
    }
}

#[test]
fn a_successor_serves_when_it_has_said_what_its_predecessor_had() {
    let (mut a, mut b) = answered_and_relied_on();
    let mut c = Rig::new(3, CommitPolicy::Quorum);
    acquaint(&mut b, &mut c);
    a.sent(PortRole::Replica);
    c.now_ns = b.now_ns;
    b.order(Command::Lead { epoch: 2, serve: true });
    c.order(Command::Follow { epoch: 2, primary: 2, cut: 0 });
    exchange(&mut b, &mut c, 400);
    assert!(!b.dp.snapshot(b.now_ns).gate_open);
    b.give(PortRole::Host, of_server(port(0), (srv(0), cli(4), ACK, 500), b"made"));
    exchange(&mut b, &mut c, 30);
    assert_eq!(given(&mut b), [(1, 6)]);
    assert!(b.dp.snapshot(b.now_ns).gate_open);
}
