//! The capsule's kernel and the application in it: connections it accepts itself, and ones it adopts.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use understudy_fastpath::adoption::AdoptAttrs;
use understudy_wire::Position;
use understudy_wire::frame::Mac;
use understudy_wire::neighbor::learn;
use understudy_wire::tcp::{ACK, RST, SYN, Segment};

use crate::frames::{
    Offer, SERVICE_PORT, SimFrame, VIP4, VIP6, VMAC, is_neighbor, neighbor_answer,
    neighbor_request, offer_options, payload, raw_frame, tcp_frame, vip_for,
};
use crate::machine::NodeClock;
use crate::rng::Rng;
use crate::session::{REPLY_LEN_MAX, Session, reply_len, request_len};
use crate::tcb::{Settings, Tcb, ticks};
use crate::udp;

const MS: u64 = 1_000_000;
/// The service's own MSS and window scale: the same on every node, as one configuration gives them.
const MSS4: u16 = 1460;
const MSS6: u16 = 1440;
const WSCALE: u8 = 4;
const ARP_QUEUE_MAX: usize = 100;
const ARP_RETRY_NS: u64 = 1_000 * MS;
const SYNACK_RETRY_NS: u64 = 1_000 * MS;
const SYNACK_RETRIES_MAX: u32 = 6;

/// The client's address: there is one service port.
pub type Peer = (IpAddr, u16);

/// What the adoption program has been told, by client: the BPF map.
pub type Prepared = BTreeMap<Peer, AdoptAttrs>;

/// When to ask again, and what waits for the answer.
type Unresolved = (u64, VecDeque<(Peer, Vec<u8>)>);

struct HalfOpen {
    isn: u32,
    client_isn: u32,
    offer: Offer,
    settings: Settings,
    retry_at: u64,
    retries: u32,
}

struct Socket {
    tcb: Tcb,
    session: Session,
    parsed: Vec<u8>,
    working: Option<(u64, Vec<u8>)>,
}

/// What is different from node to node.
#[derive(Clone, Copy, Debug)]
pub struct KernelConfig {
    /// Receive buffer of every socket.
    pub rcv_buf: u32,
    /// Longest that one request takes.
    pub service_ns_max: u64,
    /// Longest that one in a hundred takes.
    pub slow_service_ns_max: u64,
    /// Adoptions lost to a full accept queue, of a million.
    pub adoption_loss_ppm: u64,
    /// The machine's clock, which TCP timestamps show.
    pub clock: NodeClock,
    /// A planted bug: replies depend on the node.
    pub poisoned: bool,
}

/// The kernel.
pub struct Kernel {
    config: KernelConfig,
    rng: Rng,
    neighbors: BTreeMap<IpAddr, Mac>,
    unresolved: BTreeMap<IpAddr, Unresolved>,
    half_open: BTreeMap<Peer, HalfOpen>,
    sockets: BTreeMap<Peer, Socket>,
    datagrams: udp::Service,
    sent: u64,
    fed: Position,
    out: VecDeque<SimFrame>,
    running: bool,
    /// The application was given bytes that no client sent in this order.
    pub garbled: Option<Peer>,
    /// Adoptions that came to a socket, for the statistics.
    pub adopted: u64,
}

impl Kernel {
    /// A kernel with nothing running.
    pub fn new(config: KernelConfig, rng: Rng) -> Kernel {
        Kernel {
            config,
            rng,
            neighbors: BTreeMap::new(),
            unresolved: BTreeMap::new(),
            half_open: BTreeMap::new(),
            sockets: BTreeMap::new(),
            datagrams: udp::Service::default(),
            sent: 0,
            fed: 0,
            out: VecDeque::new(),
            running: false,
            garbled: None,
            adopted: 0,
        }
    }

    /// The application listens.
    pub fn listen(&mut self) {
        self.running = true;
    }

    /// The application is killed: its sockets are closed, as Linux does.
    pub fn kill(&mut self, now_ns: u64) {
        self.running = false;
        self.half_open.clear();
        let peers: Vec<Peer> = self.sockets.keys().copied().collect();
        for peer in peers {
            let Some(socket) = self.sockets.get_mut(&peer) else { continue };
            if socket.tcb.unread() > 0 {
                self.sockets.remove(&peer);
                self.send_raw(now_ns, peer, (0, 0, RST, 0), &[]);
            } else {
                // What it was working on dies with it.
                socket.working = None;
                socket.tcb.close();
                self.poll_socket(now_ns, peer);
            }
        }
    }

    /// Connections held.
    pub fn sockets(&self) -> usize {
        self.sockets.len()
    }

    /// For people.
    pub fn summary(&self, peer: Peer) -> Option<String> {
        self.sockets.get(&peer).map(|s| s.tcb.summary())
    }

    /// The next frame to the host port.
    pub fn poll_out(&mut self) -> Option<SimFrame> {
        self.out.pop_front()
    }

    /// When to call `tick` at the latest.
    pub fn due_ns(&self) -> Option<u64> {
        let sockets = self.sockets.values().flat_map(|s| {
            [s.tcb.due_ns(), s.working.as_ref().map(|(at, _)| *at)].into_iter().flatten()
        });
        let half_open = self.half_open.values().map(|h| h.retry_at);
        let unresolved = self.unresolved.values().map(|(at, _)| *at);
        sockets.chain(half_open).chain(unresolved).min()
    }

    /// Takes a frame from the host port. `fed`: the log position that the data path has reached with it.
    pub fn on_frame(&mut self, now_ns: u64, frame: &[u8], fed: Position, prepared: &mut Prepared) {
        self.fed = self.fed.max(fed);
        if is_neighbor(frame) {
            return self.on_neighbor(now_ns, frame);
        }
        if let Some(datagram) = udp::parse(frame) {
            return self.on_datagram(now_ns, &datagram);
        }
        let Some(segment) = Segment::parse(frame).filter(|s| s.checksum_ok(frame)) else { return };
        if segment.ip.dst != vip_for(segment.ip.src) {
            return;
        }
        let peer = (segment.ip.src, segment.src_port);
        if self.sockets.contains_key(&peer) {
            prepared.remove(&peer);
            return self.on_socket(now_ns, peer, &segment, payload(frame, &segment));
        }
        if segment.has(RST) {
            self.half_open.remove(&peer);
        } else if segment.has(SYN) && !segment.has(ACK) && self.running {
            self.on_syn(now_ns, peer, &segment);
        } else if !self.on_handshake_ack(now_ns, peer, &segment, payload(frame, &segment)) {
            self.on_stray(now_ns, peer, &segment, prepared);
        }
    }

    /// The application's answer to a datagram, at once.
    fn on_datagram(&mut self, now_ns: u64, datagram: &udp::Datagram) {
        if datagram.to != udp::service_end(vip_for(datagram.from.0)) || !self.running {
            return;
        }
        if let Some(mut body) = self.datagrams.reply(datagram) {
            body[15] ^= u8::from(self.config.poisoned);
            let frame = udp::frame((datagram.to, VMAC), (datagram.from, [0; 6]), &body);
            self.transmit(now_ns, datagram.from, frame);
        }
    }

    fn mss(peer: Peer) -> u16 {
        if peer.0.is_ipv6() { MSS6 } else { MSS4 }
    }

    fn ticks(&self, now_ns: u64) -> u32 {
        ticks(now_ns, self.config.clock.rate())
    }

    fn on_neighbor(&mut self, now_ns: u64, frame: &[u8]) {
        if let Some((ip, mac)) = learn(frame).filter(|(ip, _)| ![VIP4, VIP6].contains(ip)) {
            self.neighbors.insert(ip, mac);
            if let Some((_, waiting)) = self.unresolved.remove(&ip) {
                for (to, bytes) in waiting {
                    self.transmit(now_ns, to, bytes);
                }
            }
        }
        for vip in [VIP4, VIP6] {
            if let Some(answer) = neighbor_answer(frame, (vip, VMAC)) {
                self.push(answer);
            }
        }
    }

    fn on_syn(&mut self, now_ns: u64, peer: Peer, segment: &Segment) {
        let isn = self.rng.bits() as u32;
        let ts_offset = self.rng.bits() as u32;
        let options = segment.options;
        let scaled = options.wscale.is_some();
        let settings = Settings {
            mss: usize::from(options.mss.unwrap_or(536).min(Kernel::mss(peer)))
                - if options.timestamps.is_some() { 12 } else { 0 },
            snd_wscale: options.wscale.unwrap_or(0),
            rcv_wscale: if scaled { WSCALE } else { 0 },
            timestamps: options.timestamps.is_some(),
            rcv_buf: self.config.rcv_buf,
            ts_offset,
            ts_rate: self.config.clock.rate(),
        };
        let ts_now = settings.ts_now(now_ns);
        let offer = Offer {
            mss: Kernel::mss(peer),
            wscale: scaled.then_some(WSCALE),
            timestamps: options.timestamps.map(|(tsval, _)| (ts_now, tsval)),
        };
        let half = self.half_open.entry(peer).or_insert(HalfOpen {
            isn,
            client_isn: segment.seq,
            offer,
            settings,
            retry_at: 0,
            retries: 0,
        });
        if half.client_isn != segment.seq {
            return;
        }
        half.retry_at = now_ns + SYNACK_RETRY_NS;
        self.send_synack(now_ns, peer);
    }

    fn send_synack(&mut self, now_ns: u64, peer: Peer) {
        let Some(half) = self.half_open.get_mut(&peer) else { return };
        if let Some((tsval, _)) = &mut half.offer.timestamps {
            *tsval = half.settings.ts_now(now_ns);
        }
        let window = half.settings.rcv_buf.min(u32::from(u16::MAX)) as u16;
        let fields = (half.isn, half.client_isn.wrapping_add(1), SYN | ACK, window);
        let options = offer_options(&half.offer);
        self.send_raw(now_ns, peer, fields, &options);
    }

    /// Whether it belongs to a handshake of this kernel.
    fn on_handshake_ack(
        &mut self,
        now_ns: u64,
        peer: Peer,
        segment: &Segment,
        data: &[u8],
    ) -> bool {
        let completes = |h: &HalfOpen| {
            segment.has(ACK)
                && segment.ack == h.isn.wrapping_add(1)
                && segment.seq == h.client_isn.wrapping_add(1)
        };
        let Some(half) = self.half_open.get(&peer) else { return false };
        if !completes(half) {
            // Data that overtook the ACK: the client sends it again.
            return segment.ack == half.isn.wrapping_add(1);
        }
        let (snd, rcv) = (half.isn.wrapping_add(1), half.client_isn.wrapping_add(1));
        let window = half.settings.rcv_buf.min(u32::from(u16::MAX));
        let ts_recent = segment.options.timestamps.map_or(0, |(tsval, _)| tsval);
        let mut tcb = Tcb::new(half.settings, snd, rcv, rcv.wrapping_add(window), ts_recent);
        tcb.set_window(u32::from(segment.window) << half.settings.snd_wscale);
        self.half_open.remove(&peer);
        self.open(peer, tcb);
        self.on_socket(now_ns, peer, segment, data);
        true
    }

    fn open(&mut self, peer: Peer, tcb: Tcb) {
        let session = Session::default();
        self.sockets.insert(peer, Socket { tcb, session, parsed: Vec::new(), working: None });
    }

    /// A segment of no connection: adopted if the program was told to, else reset.
    fn on_stray(&mut self, now_ns: u64, peer: Peer, segment: &Segment, prepared: &mut Prepared) {
        let first = (segment.seq, segment.ack);
        let named = segment.has(ACK) && prepared.get(&peer).is_some_and(|a| a.first == first);
        let attrs = named.then(|| prepared.remove(&peer)).flatten().filter(|_| self.running);
        let Some(attrs) = attrs else {
            let seq = if segment.has(ACK) { segment.ack } else { 0 };
            return self.send_raw(now_ns, peer, (seq, segment.seq_end(), RST | ACK, 0), &[]);
        };
        if self.rng.ppm(self.config.adoption_loss_ppm) {
            return;
        }
        let now_ms = self.ticks(now_ns);
        let settings = Settings {
            mss: usize::from(attrs.mss.min(Kernel::mss(peer)))
                - if attrs.timestamps.is_some() { 12 } else { 0 },
            snd_wscale: attrs.snd_wscale.unwrap_or(0),
            rcv_wscale: attrs.rcv_wscale,
            timestamps: attrs.timestamps.is_some(),
            rcv_buf: self.config.rcv_buf,
            ts_offset: attrs.timestamps.map_or(0, |(_, server)| server.wrapping_sub(now_ms)),
            ts_rate: self.config.clock.rate(),
        };
        let edge = segment.seq.wrapping_add(self.config.rcv_buf.min(u32::from(u16::MAX)));
        let ts_recent = attrs.timestamps.map_or(0, |(client, _)| client);
        let mut tcb = Tcb::new(settings, segment.ack, segment.seq, edge, ts_recent);
        tcb.set_window(u32::from(segment.window) << settings.snd_wscale);
        self.adopted += 1;
        self.open(peer, tcb);
    }

    fn on_socket(&mut self, now_ns: u64, peer: Peer, segment: &Segment, data: &[u8]) {
        let Some(socket) = self.sockets.get_mut(&peer) else { return };
        if segment.has(SYN) {
            return;
        }
        if socket.tcb.on_segment(now_ns, segment, data) {
            self.sockets.remove(&peer);
            return;
        }
        self.work(now_ns, peer);
        self.poll_socket(now_ns, peer);
    }

    /// The application: one request of a connection at a time.
    fn work(&mut self, now_ns: u64, peer: Peer) {
        let Some(socket) = self.sockets.get_mut(&peer).filter(|_| self.running) else { return };
        for _ in 0..64 {
            if let Some((at, _)) = &socket.working {
                if *at > now_ns {
                    return;
                }
                if let Some((_, reply)) = socket.working.take() {
                    socket.tcb.write(&reply);
                }
            }
            socket.parsed.extend(socket.tcb.read());
            let Some(len) = request_len(&socket.parsed).filter(|len| *len <= socket.parsed.len())
            else {
                break;
            };
            let request: Vec<u8> = socket.parsed.drain(..len).collect();
            if reply_len(&request) > REPLY_LEN_MAX {
                self.garbled = Some(peer);
                socket.parsed.clear();
                break;
            }
            let mut reply = socket.session.reply(&request);
            if let Some(byte) = reply.last_mut().filter(|_| self.config.poisoned) {
                *byte ^= 1;
            }
            let longest = match self.rng.percent(1) {
                true => self.config.slow_service_ns_max,
                false => self.config.service_ns_max,
            };
            let at = now_ns + self.rng.below(longest);
            socket.working = Some((at, reply));
        }
        if socket.tcb.at_eof() && socket.working.is_none() {
            socket.tcb.close();
        }
    }

    fn poll_socket(&mut self, now_ns: u64, peer: Peer) {
        let Some(socket) = self.sockets.get_mut(&peer) else { return };
        let segments = socket.tcb.poll(now_ns);
        if socket.tcb.is_closed() {
            self.sockets.remove(&peer);
        }
        for out in segments {
            let frame = tcp_frame(((vip_for(peer.0), SERVICE_PORT), VMAC), (peer, [0; 6]), &out);
            self.transmit(now_ns, peer, frame);
        }
    }

    fn send_raw(&mut self, now_ns: u64, peer: Peer, fields: (u32, u32, u8, u16), options: &[u8]) {
        let from = ((vip_for(peer.0), SERVICE_PORT), VMAC);
        let frame = raw_frame(from, (peer, [0; 6]), fields, options, &[]);
        self.transmit(now_ns, peer, frame);
    }

    /// Fills in the neighbour's MAC, or asks for it first.
    fn transmit(&mut self, now_ns: u64, peer: Peer, mut frame: Vec<u8>) {
        if let Some(mac) = self.neighbors.get(&peer.0) {
            frame[0..6].copy_from_slice(mac);
            return self.push(frame);
        }
        let known = self.unresolved.contains_key(&peer.0);
        let entry = self
            .unresolved
            .entry(peer.0)
            .or_insert_with(|| (now_ns + ARP_RETRY_NS, VecDeque::new()));
        if entry.1.len() < ARP_QUEUE_MAX {
            entry.1.push_back((peer, frame));
        }
        if !known {
            self.push(neighbor_request((vip_for(peer.0), VMAC), peer.0));
        }
    }

    fn push(&mut self, bytes: Vec<u8>) {
        self.sent += 1;
        self.out.push_back(SimFrame { bytes, cause: Some(self.fed), nth: self.sent });
    }

    /// Timers.
    pub fn tick(&mut self, now_ns: u64) {
        let due: Vec<Peer> = self
            .sockets
            .iter()
            .filter(|(_, s)| {
                s.tcb.due_ns().is_some_and(|at| at <= now_ns)
                    || s.working.as_ref().is_some_and(|(at, _)| *at <= now_ns)
            })
            .map(|(peer, _)| *peer)
            .collect();
        for peer in due {
            self.work(now_ns, peer);
            self.poll_socket(now_ns, peer);
        }
        self.tick_half_open(now_ns);
        let mut ask = Vec::new();
        for (ip, (at, _)) in self.unresolved.iter_mut().filter(|(_, (at, _))| *at <= now_ns) {
            *at = now_ns + ARP_RETRY_NS;
            ask.push(*ip);
        }
        for ip in ask {
            self.push(neighbor_request((vip_for(ip), VMAC), ip));
        }
    }

    fn tick_half_open(&mut self, now_ns: u64) {
        let mut again = Vec::new();
        self.half_open.retain(|_, h| h.retries < SYNACK_RETRIES_MAX);
        for (peer, half) in self.half_open.iter_mut().filter(|(_, h)| h.retry_at <= now_ns) {
            half.retries += 1;
            half.retry_at = now_ns + (SYNACK_RETRY_NS << half.retries);
            again.push(*peer);
        }
        for peer in again {
            self.send_synack(now_ns, peer);
        }
    }
}
