//! A client machine: connections that load the service, each with a ledger of every byte it must get.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use understudy_wire::frame::{Ethernet, Mac};
use understudy_wire::neighbor::learn;
use understudy_wire::tcp::{ACK, RST, SYN, Segment};

use crate::frames::{
    Offer, SERVICE_PORT, client_ip, client_mac, is_neighbor, neighbor_answer, neighbor_request,
    offer_options, payload, raw_frame, tcp_frame, vip_for,
};
use crate::rng::Rng;
use crate::session::{Session, request};
use crate::tcb::{Settings, Tcb};
use crate::udp;

const MS: u64 = 1_000_000;
const SYN_RETRY_NS: u64 = 400 * MS;
const SYN_RETRY_NS_MAX: u64 = 1_600 * MS;
const ARP_RETRY_NS: u64 = 300 * MS;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// FIN, once every reply is there.
    Close,
    /// RST, with a reply outstanding.
    Reset,
    /// Never completes its handshake.
    HalfOpen,
}

/// How a connection behaves.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The MSS it offers.
    pub mss: u16,
    /// The window scale it offers.
    pub wscale: Option<u8>,
    /// Whether it offers timestamps.
    pub timestamps: bool,
    /// Its receive buffer.
    pub rcv_buf: u32,
    /// Requests under way at once.
    pub depth: usize,
    /// Longest request body.
    pub body_max: u64,
    /// Longest reply.
    pub reply_max: u64,
    /// Longest pause before a request.
    pub think_ns_max: u64,
    /// Requests until it ends.
    pub requests: u64,
    /// How it ends.
    pub manner: Manner,
}

enum State {
    Waiting {
        at: u64,
    },
    SynSent {
        isn: u32,
        retry_at: u64,
        rto_ns: u64,
    },
    Open(Box<Tcb>),
    Closed,
    /// Not there any more: what still comes is reset, or ignored as by a machine that is off.
    Gone {
        resets: bool,
    },
}

struct Connection {
    port: u16,
    plan: Plan,
    state: State,
    session: Session,
    expected: VecDeque<u8>,
    /// Where each reply under way ends, counted from the first byte ever expected.
    ends: VecDeque<u64>,
    expected_total: u64,
    received_total: u64,
    issued: u64,
    think_until: u64,
    ts_offset: u32,
    progress_ns: u64,
    opened_ns: u64,
}

impl Connection {
    fn is_over(&self) -> bool {
        matches!(self.state, State::Closed | State::Gone { .. })
    }

    /// When there is something to do without a frame from the network.
    fn due_ns(&self) -> Option<u64> {
        match &self.state {
            State::Waiting { at } => Some(*at),
            State::SynSent { retry_at, .. } => Some(*retry_at),
            State::Open(tcb) => {
                let more = self.ends.len() < self.plan.depth && self.issued < self.plan.requests;
                let think = more.then_some(self.think_until);
                [tcb.due_ns(), think].into_iter().flatten().min()
            }
            State::Closed | State::Gone { .. } => None,
        }
    }
}

/// What a client machine has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Connections that ran from SYN to both FINs.
    pub connections: u64,
    /// Connections given up, or never completed.
    pub broken_off: u64,
    /// Replies received whole.
    pub replies: u64,
    /// Replies by datagram.
    pub datagrams: u64,
    /// Bytes received and compared.
    pub bytes: u64,
    /// Longest time without progress of a connection that had something under way.
    pub stall_ns_max: u64,
}

impl Ledger {
    /// Both together.
    pub fn add(&mut self, other: &Ledger) {
        self.connections += other.connections;
        self.broken_off += other.broken_off;
        self.datagrams += other.datagrams;
        self.replies += other.replies;
        self.bytes += other.bytes;
        self.stall_ns_max = self.stall_ns_max.max(other.stall_ns_max);
    }
}

/// The machine.
pub struct Host {
    index: usize,
    rng: Rng,
    vip_mac: Option<Mac>,
    arp_at: u64,
    connections: BTreeMap<u16, Box<Connection>>,
    datagrams: Vec<udp::Client>,
    ip: IpAddr,
    next_port: u16,
    out: VecDeque<Vec<u8>>,
    loading: bool,
    /// What it has come to.
    pub ledger: Ledger,
    /// The first broken promise.
    pub violation: Option<String>,
}

impl Host {
    /// A machine with a few connections to come, and conversations by datagram.
    pub fn new(
        index: usize,
        v6: bool,
        (connections, datagrams): (usize, usize),
        mut rng: Rng,
    ) -> Host {
        let mut host = Host {
            index,
            ip: client_ip(index, v6),
            vip_mac: None,
            arp_at: 0,
            connections: BTreeMap::new(),
            datagrams: (0..datagrams)
                .map(|i| udp::Client::new(30_000 + i as u16, rng.below(1_500 * MS)))
                .collect(),
            next_port: 40_000 + rng.below(1000) as u16,
            rng,
            out: VecDeque::new(),
            loading: true,
            ledger: Ledger::default(),
            violation: None,
        };
        for _ in 0..connections {
            let at = host.rng.below(1_500 * MS);
            host.add(at);
        }
        host
    }

    fn add(&mut self, at: u64) {
        let port = self.next_port;
        self.next_port += 1;
        let plan = plan(&mut self.rng);
        self.connections.insert(
            port,
            Box::new(Connection {
                port,
                plan,
                state: State::Waiting { at },
                session: Session::default(),
                expected: VecDeque::new(),
                ends: VecDeque::new(),
                expected_total: 0,
                received_total: 0,
                issued: 0,
                think_until: 0,
                ts_offset: self.rng.bits() as u32,
                progress_ns: at,
                opened_ns: at,
            }),
        );
    }

    /// Ends the load: what runs is finished, nothing new begins.
    pub fn finish(&mut self) {
        self.loading = false;
        self.connections.retain(|_, c| !matches!(c.state, State::Waiting { .. }));
    }

    /// Whether every connection has come to its end.
    pub fn is_done(&self) -> bool {
        !self.loading
            && self.connections.values().all(|c| c.is_over())
            && self.datagrams.iter().all(udp::Client::is_done)
    }

    /// The connections under way: port, when they last got on, what they are about.
    pub fn under_way(&self) -> Vec<(u16, u64, String)> {
        let open = self.connections.values().filter(|c| !c.is_over());
        open.map(|c| {
            let text = match &c.state {
                State::Open(tcb) => tcb.summary(),
                State::SynSent { .. } => "SYN sent".into(),
                _ => "to come".into(),
            };
            let text = format!(
                "{text}; issued {} outstanding {} lacks {} bytes; opened {} us",
                c.issued,
                c.ends.len(),
                c.expected.len(),
                c.opened_ns / 1000
            );
            (c.port, c.progress_ns, text)
        })
        .collect()
    }

    /// The address of this machine.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The next frame to the network.
    pub fn poll_out(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }

    /// When to call `tick` at the latest.
    pub fn due_ns(&self) -> Option<u64> {
        let datagrams = self.datagrams.iter().map(|d| d.due_ns());
        self.connections.values().filter_map(|c| c.due_ns()).chain(datagrams).min()
    }

    /// Takes a frame from the network.
    pub fn on_frame(&mut self, now_ns: u64, frame: &[u8]) {
        let Some(eth) = Ethernet::parse(frame) else { return };
        if eth.dst != client_mac(self.index) && eth.dst[0] & 1 == 0 {
            return;
        }
        let vip = vip_for(self.ip);
        if is_neighbor(frame) {
            if let Some((ip, mac)) = learn(frame)
                && ip == vip
            {
                self.vip_mac = Some(mac);
            }
            let answer = neighbor_answer(frame, (self.ip, client_mac(self.index)));
            self.out.extend(answer);
            return self.tick(now_ns);
        }
        if let Some(datagram) = udp::parse(frame) {
            return self.on_datagram(now_ns, &datagram);
        }
        let Some(segment) = Segment::parse(frame).filter(|s| s.checksum_ok(frame)) else { return };
        if segment.ip.dst == self.ip && segment.ip.src == vip {
            self.on_segment(now_ns, &segment, payload(frame, &segment));
        }
    }

    fn on_datagram(&mut self, now_ns: u64, datagram: &udp::Datagram) {
        if datagram.from != udp::service_end(vip_for(self.ip)) || datagram.to.0 != self.ip {
            return;
        }
        let Some(client) = self.datagrams.iter_mut().find(|d| d.port == datagram.to.1) else {
            return;
        };
        let before = client.replies;
        let fault = client.take(now_ns, &datagram.body, &mut self.rng).err();
        self.ledger.datagrams += client.replies - before;
        if let Some(text) = fault {
            self.violate(text);
        }
    }

    fn on_segment(&mut self, now_ns: u64, segment: &Segment, data: &[u8]) {
        let Some(mut c) = self.connections.remove(&segment.dst_port) else { return };
        match &mut c.state {
            State::SynSent { isn, .. }
                if segment.has(ACK) && segment.ack == isn.wrapping_add(1) =>
            {
                if segment.has(RST) {
                    self.violate(format!("port {}: connection refused", c.port));
                } else if c.plan.manner == Manner::HalfOpen {
                    self.leave(now_ns, &mut c, false);
                } else if segment.has(SYN) {
                    let tcb = established(&c.plan, *isn, segment, c.ts_offset);
                    c.state = State::Open(Box::new(tcb));
                    c.progress_ns = now_ns;
                    self.drive(now_ns, &mut c, true);
                }
            }
            State::Open(tcb) => {
                let before = tcb.acked_total;
                let again = segment.has(SYN);
                let reset = if again {
                    // Our ACK of it was lost.
                    false
                } else {
                    tcb.on_segment(now_ns, segment, data)
                };
                if tcb.acked_total > before {
                    c.progress_ns = now_ns;
                }
                if reset && !tcb.is_closed() {
                    self.violate(format!("port {}: connection reset", c.port));
                }
                self.drive(now_ns, &mut c, again);
            }
            // TIME_WAIT: the last ACK may have been lost. No more than that matters here.
            State::Closed if segment.seq_len() > 0 && !segment.has(RST) => {
                self.bare_ack(&c, now_ns, segment);
            }
            State::Gone { resets: true } if !segment.has(RST) => {
                let reset = crate::tcb::Out {
                    seq: segment.ack,
                    ack: segment.seq_end(),
                    flags: RST | ACK,
                    window: 0,
                    timestamps: None,
                    payload: Vec::new(),
                };
                self.send(c.port, &reset);
            }
            _ => {}
        }
        self.connections.insert(c.port, c);
    }

    /// The connection is given up; another one takes its place.
    fn leave(&mut self, now_ns: u64, c: &mut Connection, resets: bool) {
        c.state = State::Gone { resets };
        self.ledger.broken_off += 1;
        if self.loading {
            let at = now_ns + self.rng.below(300 * MS);
            self.add(at);
        }
    }

    fn bare_ack(&mut self, c: &Connection, now_ns: u64, segment: &Segment) {
        let ts_now = c.ts_offset.wrapping_add((now_ns / MS) as u32);
        let out = crate::tcb::Out {
            seq: segment.ack,
            ack: segment.seq_end(),
            flags: ACK,
            window: 1000,
            timestamps: segment.options.timestamps.map(|(tsval, _)| (ts_now, tsval)),
            payload: Vec::new(),
        };
        self.send(c.port, &out);
    }

    fn violate(&mut self, text: String) {
        self.violation.get_or_insert(format!("client {}: {text}", self.ip));
    }

    /// Reads, compares, asks for more, closes, sends.
    fn drive(&mut self, now_ns: u64, c: &mut Connection, ack: bool) {
        let State::Open(tcb) = &mut c.state else { return };
        let data = tcb.read();
        let fault = take_bytes(&data, c.port, &mut c.expected);
        if !data.is_empty() {
            let stall = now_ns - c.progress_ns;
            self.ledger.stall_ns_max = self.ledger.stall_ns_max.max(stall);
            c.progress_ns = now_ns;
            c.received_total += data.len() as u64;
            self.ledger.bytes += data.len() as u64;
        }
        while c.ends.front().is_some_and(|end| *end <= c.received_total) {
            c.ends.pop_front();
            self.ledger.replies += 1;
            c.think_until = now_ns + self.rng.below(c.plan.think_ns_max);
        }
        let more = self.loading && c.issued < c.plan.requests;
        for _ in c.ends.len()..c.plan.depth {
            if !more || now_ns < c.think_until || c.issued >= c.plan.requests {
                break;
            }
            if c.ends.is_empty() {
                c.progress_ns = now_ns;
            }
            let ask = next_request(&c.plan, &mut self.rng);
            let reply = c.session.reply(&ask);
            tcb.write(&ask);
            c.issued += 1;
            c.expected_total += reply.len() as u64;
            c.ends.push_back(c.expected_total);
            c.expected.extend(reply);
        }
        if c.plan.manner == Manner::Reset && c.issued >= c.plan.requests && fault.is_none() {
            // The last request may be under way, or cut short.
            let mut out = tcb.poll(now_ns);
            out.truncate(1);
            out.push(tcb.abort(now_ns));
            for o in &out {
                self.send(c.port, o);
            }
            return self.leave(now_ns, c, true);
        }
        let finished = c.ends.is_empty() && (!self.loading || c.issued >= c.plan.requests);
        if finished {
            tcb.close();
        }
        let early = tcb.at_eof() && !finished;
        let mut out = tcb.poll(now_ns);
        if ack && out.is_empty() {
            out.extend(tcb.bare_ack(now_ns));
        }
        let closed = tcb.is_closed();
        for o in &out {
            self.send(c.port, o);
        }
        if let Some(text) = fault {
            self.violate(text);
        }
        if early {
            self.violate(format!("port {}: the service closed the connection", c.port));
        }
        if closed {
            c.state = State::Closed;
            self.ledger.connections += 1;
            if self.loading {
                let at = now_ns + self.rng.below(300 * MS);
                self.add(at);
            }
        }
    }

    fn send(&mut self, port: u16, out: &crate::tcb::Out) {
        let Some(mac) = self.vip_mac else { return };
        let from = ((self.ip, port), client_mac(self.index));
        self.out.push_back(tcp_frame(from, ((vip_for(self.ip), SERVICE_PORT), mac), out));
    }

    /// Timers.
    pub fn tick(&mut self, now_ns: u64) {
        let due = self.connections.values().filter(|c| c.due_ns().is_some_and(|at| at <= now_ns));
        let ports: Vec<u16> = due.map(|c| c.port).collect();
        for port in ports {
            let Some(mut c) = self.connections.remove(&port) else { continue };
            match &c.state {
                State::Waiting { at } if *at <= now_ns => self.start(now_ns, &mut c),
                State::SynSent { retry_at, .. } if *retry_at <= now_ns => {
                    self.start(now_ns, &mut c);
                }
                State::Open(_) => self.drive(now_ns, &mut c, false),
                _ => {}
            }
            self.connections.insert(port, c);
        }
        self.tick_datagrams(now_ns);
    }

    fn tick_datagrams(&mut self, now_ns: u64) {
        for i in 0..self.datagrams.len() {
            let client = &mut self.datagrams[i];
            if client.due_ns() > now_ns {
                continue;
            }
            let (port, body) = (client.port, client.send(now_ns, self.loading, &mut self.rng));
            if let Some((body, mac)) = body.zip(self.vip_mac) {
                let from = ((self.ip, port), client_mac(self.index));
                let to = (udp::service_end(vip_for(self.ip)), mac);
                self.out.push_back(udp::frame(from, to, &body));
            }
        }
    }

    /// Sends the SYN, or the question that must come first.
    fn start(&mut self, now_ns: u64, c: &mut Connection) {
        let Some(mac) = self.vip_mac else {
            if self.arp_at <= now_ns {
                self.arp_at = now_ns + ARP_RETRY_NS;
                self.out.push_back(neighbor_request(
                    (self.ip, client_mac(self.index)),
                    vip_for(self.ip),
                ));
            }
            c.state = State::Waiting { at: self.arp_at };
            return;
        };
        let (isn, rto_ns) = match c.state {
            State::SynSent { isn, rto_ns, .. } => (isn, (rto_ns * 2).min(SYN_RETRY_NS_MAX)),
            _ => {
                c.opened_ns = now_ns;
                c.progress_ns = now_ns;
                (self.rng.bits() as u32, SYN_RETRY_NS)
            }
        };
        c.state = State::SynSent { isn, retry_at: now_ns + rto_ns, rto_ns };
        let ts_now = c.ts_offset.wrapping_add((now_ns / MS) as u32);
        let offer = Offer {
            mss: c.plan.mss,
            wscale: c.plan.wscale,
            timestamps: c.plan.timestamps.then_some((ts_now, 0)),
        };
        let window = c.plan.rcv_buf.min(u32::from(u16::MAX)) as u16;
        let from = ((self.ip, c.port), client_mac(self.index));
        let to = ((vip_for(self.ip), SERVICE_PORT), mac);
        let frame = raw_frame(from, to, (isn, 0, SYN, window), &offer_options(&offer), &[]);
        self.out.push_back(frame);
    }
}

fn established(plan: &Plan, isn: u32, synack: &Segment, ts_offset: u32) -> Tcb {
    let options = synack.options;
    let timestamps = plan.timestamps && options.timestamps.is_some();
    let scales = plan.wscale.zip(options.wscale);
    let settings = Settings {
        mss: usize::from(options.mss.unwrap_or(536).min(plan.mss))
            - if timestamps { 12 } else { 0 },
        snd_wscale: scales.map_or(0, |(_, server)| server),
        rcv_wscale: scales.map_or(0, |(own, _)| own),
        timestamps,
        rcv_buf: plan.rcv_buf,
        ts_offset,
        ts_rate: 1_000_000,
    };
    let rcv = synack.seq.wrapping_add(1);
    let edge = rcv.wrapping_add(plan.rcv_buf.min(u32::from(u16::MAX)));
    let ts_recent = options.timestamps.map_or(0, |(tsval, _)| tsval);
    let mut tcb = Tcb::new(settings, isn.wrapping_add(1), rcv, edge, ts_recent);
    tcb.set_window(u32::from(synack.window));
    tcb
}

/// Compares what came with what must come.
fn take_bytes(data: &[u8], port: u16, expected: &mut VecDeque<u8>) -> Option<String> {
    for byte in data {
        match expected.pop_front() {
            Some(want) if want == *byte => {}
            Some(want) => return Some(format!("port {port}: got byte {byte}, expected {want}")),
            None => return Some(format!("port {port}: got a byte that nothing asked for")),
        }
    }
    None
}

fn next_request(plan: &Plan, rng: &mut Rng) -> Vec<u8> {
    let body: Vec<u8> = (0..rng.below(plan.body_max)).map(|_| rng.bits() as u8).collect();
    request(&body, 1 + rng.below(plan.reply_max) as u32)
}

/// One of the loads that a service sees.
fn plan(rng: &mut Rng) -> Plan {
    let base = Plan {
        mss: rng.pick(&[100, 536, 1200, 1400, 1460]),
        wscale: rng.pick(&[None, Some(0), Some(3), Some(7)]),
        timestamps: rng.percent(60),
        rcv_buf: rng.pick(&[4_000, 16_000, 60_000, 200_000]),
        depth: 1,
        body_max: 200,
        reply_max: 400,
        think_ns_max: 100 * MS,
        requests: u64::MAX,
        manner: Manner::Close,
    };
    match rng.below(9) {
        0 => base,
        1 => Plan { depth: 16, think_ns_max: 150 * MS, ..base },
        2 => Plan { reply_max: 60_000, think_ns_max: 500 * MS, ..base },
        3 => Plan { body_max: 20_000, depth: 2, think_ns_max: 400 * MS, ..base },
        4 => Plan { requests: 0, ..base },
        5 => Plan { requests: 1 + rng.below(6), manner: Manner::Reset, ..base },
        6 => Plan { manner: Manner::HalfOpen, ..base },
        _ => Plan { requests: 1 + rng.below(4), think_ns_max: 10 * MS, ..base },
    }
}
