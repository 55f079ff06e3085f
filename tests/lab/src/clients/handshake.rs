//! A hand-made TCP client on a raw socket, with an address and a MAC of its own.
//!
//! The kernel of the client's namespace knows nothing of it, so it can stop in
//! the middle of a handshake for as long as it likes.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::wire::show;
use super::{QUIET, REPLY_TIMEOUT};
use crate::frame::{self, Body, ETHERTYPE_ARP, ETHERTYPE_IPV4, Tcp, flag};
use crate::ledger::{Ledger, Verdict, Way};
use crate::sys::{self, PacketSocket};
use crate::{pattern, topology};

const MAC: [u8; 6] = [2, 0x77, 0, 0, 0, 9];
const BROADCAST: [u8; 6] = [0xff; 6];
/// Time until something unanswered is sent again.
const RETRY: Duration = Duration::from_millis(300);
const WINDOW: u16 = 4096;

/// The client.
pub struct RawClient {
    socket: PacketSocket,
    ip: Ipv4Addr,
    vip: Ipv4Addr,
    ports: (u16, u16),
    vmac: Option<[u8; 6]>,
    started: Instant,
    isn: u32,
    peer_isn: Option<u32>,
    peer_time: u32,
    sent: Vec<u8>,
    acknowledged: usize,
    received: Vec<u8>,
    is_finished_by_peer: bool,
    ledger: Ledger,
    verdict: Verdict,
}

impl RawClient {
    /// Sends SYN, takes SYN-ACK, and answers nothing: the handshake is half done.
    pub fn connect_half(netns: &Path, vip: Ipv4Addr, port: u16) -> Result<RawClient> {
        let socket = sys::in_netns(netns, || PacketSocket::open("eth0", true))??;
        let random = pattern::mix(sys::unix_ns());
        let mut client = RawClient {
            socket,
            ip: topology::RAW_CLIENT4.parse()?,
            vip,
            ports: (20_000 + (random % 20_000) as u16, port),
            vmac: None,
            started: Instant::now(),
            isn: (random >> 32) as u32,
            peer_isn: None,
            peer_time: 0,
            sent: Vec::new(),
            acknowledged: 0,
            received: Vec::new(),
            is_finished_by_peer: false,
            ledger: Ledger::default(),
            verdict: Verdict::new("handshake held over the moment"),
        };
        client.repeat("ARP answer", Self::ask_arp, |client| client.vmac.is_some())?;
        client.repeat("SYN-ACK", Self::send_syn, |client| client.peer_isn.is_some())?;
        Ok(client)
    }

    /// Lets time pass; answers ARP, and no TCP at all.
    pub fn hold(&mut self, time: Duration) -> Result<()> {
        self.pump(Instant::now() + time, |_| false).map(drop)
    }

    /// Completes the handshake with ACK, sends `request` and takes `reply`, exactly.
    pub fn complete(&mut self, request: &[u8], reply: &[u8]) -> Result<()> {
        self.send_tcp(flag::ACK, &[])?;
        self.converse(request, reply)
    }

    /// Sends `request` and takes `reply`, exactly.
    pub fn converse(&mut self, request: &[u8], reply: &[u8]) -> Result<()> {
        self.ledger.enter(Way::Sent, request);
        self.sent.extend(request);
        let goal = self.received.len() + reply.len();
        self.repeat("acknowledgement", Self::send_unacknowledged, |client| {
            client.acknowledged == client.sent.len()
        })?;
        let deadline = Instant::now() + REPLY_TIMEOUT;
        if !self.pump(deadline, |client| client.received.len() >= goal)? {
            bail!("no whole reply within {REPLY_TIMEOUT:?}");
        }
        let got = &self.received[goal - reply.len()..];
        if got != reply {
            bail!("expected {}, got {}", show(reply), show(got));
        }
        self.verdict.reply();
        Ok(())
    }

    /// Silence, then the verdict. The connection is left to die.
    pub fn finish(mut self) -> Verdict {
        let before = self.received.len();
        if let Err(error) = self.hold(QUIET) {
            self.verdict.fault(format!("{error:#}"));
        }
        if self.received.len() > before {
            self.verdict.fault("bytes nobody asked for");
        }
        if self.is_finished_by_peer {
            self.verdict.fault("the server ended the connection");
        }
        self.verdict.ledgers.push(self.ledger);
        self.verdict
    }

    /// Does `send` again and again until `done`.
    fn repeat(
        &mut self,
        what: &str,
        send: fn(&mut Self) -> Result<()>,
        done: impl Fn(&Self) -> bool + Copy,
    ) -> Result<()> {
        let deadline = Instant::now() + REPLY_TIMEOUT;
        while Instant::now() < deadline {
            send(self)?;
            if self.pump(Instant::now() + RETRY, done)? {
                return Ok(());
            }
            self.verdict.count("retries", 1);
        }
        bail!("no {what} within {REPLY_TIMEOUT:?}")
    }

    /// Handles what arrives until `done` (true) or `deadline` (false).
    fn pump(&mut self, deadline: Instant, done: impl Fn(&Self) -> bool) -> Result<bool> {
        while !done(self) {
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Ok(false);
            }
            let wait = rest.min(Duration::from_millis(10)) + Duration::from_millis(1);
            sys::poll_fds(&[(self.socket.as_raw_fd(), true, false)], wait)?;
            let mut frames = Vec::new();
            self.socket.receive(|_, _, bytes| frames.push(bytes.to_vec())).context("receive")?;
            for parsed in frames.iter().filter_map(|bytes| frame::parse(bytes)) {
                self.handle(parsed)?;
            }
        }
        Ok(true)
    }

    fn handle(&mut self, frame: frame::Frame) -> Result<()> {
        let for_us = Some((IpAddr::V4(self.vip), IpAddr::V4(self.ip)));
        match frame.body {
            Body::Arp { operation: 1, sender, target, sender_mac } if target == self.ip => {
                let body = frame::arp(2, (MAC, self.ip), (sender_mac, sender));
                self.socket.send(&frame::ethernet(sender_mac, MAC, ETHERTYPE_ARP, &body))?;
            }
            Body::Arp { sender, sender_mac, .. } if sender == self.vip => {
                self.vmac = Some(sender_mac);
            }
            Body::Tcp(tcp) if frame.addresses == for_us && self.is_ours(&tcp) => {
                self.handle_tcp(&tcp)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn is_ours(&self, tcp: &Tcp) -> bool {
        (tcp.destination, tcp.source) == self.ports
    }

    fn handle_tcp(&mut self, tcp: &Tcp) -> Result<()> {
        if tcp.flags & flag::RST != 0 {
            bail!("the server reset the connection");
        }
        if tcp.flags & flag::SYN != 0 {
            self.verdict.count("SYN-ACKs", 1);
            if self.peer_isn.replace(tcp.seq).is_some_and(|isn| isn != tcp.seq) {
                bail!("a SYN-ACK with another initial sequence number");
            }
        }
        let Some(peer_isn) = self.peer_isn else { bail!("a segment before the SYN-ACK") };
        if let Some((time, _)) = tcp.timestamp {
            if (time.wrapping_sub(self.peer_time) as i32) < 0 && self.peer_time != 0 {
                self.verdict.fault("a TCP timestamp that went back");
            }
            self.peer_time = time;
        }
        let acknowledged = tcp.ack.wrapping_sub(self.isn.wrapping_add(1)) as usize;
        if acknowledged > self.sent.len() {
            bail!("an acknowledgement of {acknowledged} bytes, {} were sent", self.sent.len());
        }
        self.acknowledged = self.acknowledged.max(acknowledged);
        let offset = tcp.seq.wrapping_sub(peer_isn.wrapping_add(1)) as i32;
        if tcp.flags & flag::FIN != 0 {
            self.is_finished_by_peer = true;
        }
        if tcp.payload_bytes > 0 {
            self.take_payload(offset, &tcp.payload)?;
            self.send_tcp(flag::ACK, &[])?;
        }
        Ok(())
    }

    /// Bytes sent again must be the bytes of the first time.
    fn take_payload(&mut self, offset: i32, payload: &[u8]) -> Result<()> {
        let at = usize::try_from(offset).context("bytes from before the connection")?;
        if at > self.received.len() {
            self.verdict.count("segments out of order", 1);
            return Ok(());
        }
        let known = (self.received.len() - at).min(payload.len());
        if self.received[at..at + known] != payload[..known] {
            bail!("bytes sent again are others than before");
        }
        self.ledger.enter(Way::Received, &payload[known..]);
        self.received.extend(&payload[known..]);
        Ok(())
    }

    fn ask_arp(&mut self) -> Result<()> {
        let body = frame::arp(1, (MAC, self.ip), ([0; 6], self.vip));
        Ok(self.socket.send(&frame::ethernet(BROADCAST, MAC, ETHERTYPE_ARP, &body))?)
    }

    fn send_syn(&mut self) -> Result<()> {
        self.send_tcp(flag::SYN, &[])
    }

    fn send_unacknowledged(&mut self) -> Result<()> {
        let rest = self.sent[self.acknowledged..].to_vec();
        self.send_tcp(flag::ACK | flag::PSH, &rest)
    }

    fn send_tcp(&mut self, flags: u8, payload: &[u8]) -> Result<()> {
        let is_syn = flags & flag::SYN != 0;
        let time = self.started.elapsed().as_millis() as u32 + 1;
        let mut options = Vec::new();
        if is_syn {
            // MSS 1460, SACK permitted, and below a window scale of 7.
            options.extend([2, 4, 0x05, 0xb4, 4, 2]);
        } else {
            options.extend([1, 1]);
        }
        options.extend([8, 10]);
        options.extend(time.to_be_bytes());
        options.extend(self.peer_time.to_be_bytes());
        if is_syn {
            options.extend([1, 3, 3, 7]);
        }
        let next = self.isn.wrapping_add(1);
        let unacknowledged_at = self.sent.len() - payload.len();
        let tcp = Tcp {
            source: self.ports.0,
            destination: self.ports.1,
            seq: if is_syn { self.isn } else { next.wrapping_add(unacknowledged_at as u32) },
            ack: self.peer_isn.map_or(0, |isn| isn.wrapping_add(1 + self.received.len() as u32)),
            flags,
            window: WINDOW,
            timestamp: None,
            payload_bytes: payload.len(),
            payload: payload.to_vec(),
        };
        let vmac = self.vmac.context("no MAC of the service yet")?;
        let packet = frame::ipv4_tcp(self.ip, self.vip, &tcp, &options);
        self.socket.send(&frame::ethernet(vmac, MAC, ETHERTYPE_IPV4, &packet))?;
        Ok(())
    }
}
