//! What the switch's client ports see, frame by frame, and who answered the clients when.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::frame::{self, Body, Frame, flag};
use crate::sys::{self, PacketSocket};
use crate::topology::{Lab, Member, Net, VIP4, VIP6, VMAC4, VMAC6};

/// Bytes kept of one frame when only its headers matter.
pub const HEADERS_ONLY: usize = 128;
/// Bytes kept of one frame when all of it matters.
pub const WHOLE: usize = sys::SNAP_BYTES;
/// Frames kept; more are an error, not a surprise.
const FRAMES_MAX: usize = 4 << 20;

/// Where a frame entered the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Port {
    /// From the clients.
    Clients,
    /// From a node's client port.
    Node(Member),
    /// From a node's application, whether anybody else hears it or not.
    Host(Member),
}

/// The data plane's end of a node's host port.
const HOST_PORT: &str = "us-host";

impl Port {
    /// The switch's four, with the names of the switch's ports.
    fn all() -> Vec<(Port, String)> {
        let nodes = Member::ALL.map(|m| (Port::Node(m), Net::Client.switch_port(m)));
        nodes.into_iter().chain([(Port::Clients, "cl-x".to_string())]).collect()
    }
}

/// One frame, seen where it entered the switch, so exactly once.
#[derive(Clone, Debug)]
pub struct Captured {
    /// When, in ns since 1970.
    pub unix_ns: u64,
    /// Where.
    pub port: Port,
    /// Its length on the wire.
    pub wire_bytes: usize,
    /// The start of it.
    pub bytes: Vec<u8>,
}

/// A running capture.
pub struct Capture {
    stop: Arc<AtomicBool>,
    handle: thread::JoinHandle<std::io::Result<Result<Recording>>>,
}

impl Capture {
    /// Starts on the switch's four client ports and returns when all of them are heard.
    pub fn start(lab: &Lab, keep_bytes: usize) -> Result<Capture> {
        let mut sockets = Vec::new();
        for (port, name) in Port::all() {
            let socket = sys::in_netns(&lab.switch_netns(), || PacketSocket::open(&name, true))?;
            sockets.push((port, socket.with_context(|| format!("capture on {name}"))?));
        }
        Self::listen(lab, sockets, keep_bytes)
    }

    /// Starts on the host ports of these nodes: what each application says, a clone's too.
    pub fn of_applications(lab: &Lab, members: &[Member], keep_bytes: usize) -> Result<Capture> {
        let mut sockets = Vec::new();
        for &member in members {
            let netns = lab.node_netns(member);
            let socket = sys::in_netns(&netns, || PacketSocket::open(HOST_PORT, true))?;
            sockets.push((Port::Host(member), socket.context("capture on a host port")?));
        }
        Self::listen(lab, sockets, keep_bytes)
    }

    fn listen(
        lab: &Lab,
        mut sockets: Vec<(Port, PacketSocket)>,
        keep_bytes: usize,
    ) -> Result<Capture> {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let handle = sys::spawn_in_netns(&lab.switch_netns(), "lab-capture", move || {
            record(&mut sockets, keep_bytes, &ended)
        })?;
        Ok(Capture { stop, handle })
    }

    /// Ends the capture and takes what it saw.
    pub fn finish(self) -> Result<Recording> {
        // What is on its way through the switch is still to be seen.
        thread::sleep(Duration::from_millis(20));
        self.stop.store(true, Ordering::Relaxed);
        self.handle.join().map_err(|_| anyhow!("the capture panicked"))??
    }
}

fn record(
    sockets: &mut [(Port, PacketSocket)],
    keep_bytes: usize,
    ended: &AtomicBool,
) -> Result<Recording> {
    let (mut frames, mut quiet) = (Vec::new(), 0);
    let wants: Vec<_> = sockets.iter().map(|(_, s)| (s.as_raw_fd(), true, false)).collect();
    // When the end was asked for; what comes later is not waited for.
    let mut end_ns = u64::MAX;
    loop {
        if end_ns == u64::MAX && ended.load(Ordering::Relaxed) {
            end_ns = sys::unix_ns();
        }
        let is_last = end_ns != u64::MAX;
        sys::poll_fds(&wants, Duration::from_millis(20))?;
        let (mut count, mut newest_ns) = (0, u64::MAX);
        for (port, socket) in sockets.iter_mut() {
            let mut newest_here_ns = u64::MAX;
            count += socket.receive(|unix_ns, wire_bytes, bytes| {
                newest_here_ns = unix_ns;
                let bytes = bytes[..bytes.len().min(keep_bytes)].to_vec();
                frames.push(Captured { unix_ns, port: *port, wire_bytes, bytes });
            })?;
            newest_ns = newest_ns.min(newest_here_ns);
        }
        if frames.len() > FRAMES_MAX {
            bail!("more than {FRAMES_MAX} frames");
        }
        // Twice nothing: the first may have been the news of a cut cable.
        quiet = if count == 0 { quiet + 1 } else { 0 };
        // Or clients that go on: every port is empty, or heard beyond the end.
        if is_last && (quiet >= 2 || count > 0 && newest_ns >= end_ns) {
            break;
        }
    }
    let mut drops = 0;
    for (_, socket) in sockets.iter() {
        drops += socket.drops()?;
    }
    frames.sort_by_key(|frame| frame.unix_ns);
    Ok(Recording { frames, drops })
}

/// What a frame from a node claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// TCP or UDP from the VIP.
    Service,
    /// ARP or neighbour advertisement for the VIP.
    Claim,
    /// Anything else from the VMAC.
    Other,
}

/// A frame with which a node acts as the service.
#[derive(Clone, Debug)]
pub struct Answer {
    /// When, in ns since 1970.
    pub unix_ns: u64,
    /// Who.
    pub member: Member,
    /// As what.
    pub kind: Kind,
    /// The frame.
    pub frame: Frame,
}

/// A time in which one node, and no other, answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reign {
    /// Who.
    pub member: Member,
    /// First frame, ns since 1970.
    pub first_ns: u64,
    /// Last frame, ns since 1970.
    pub last_ns: u64,
    /// How many.
    pub frames: u64,
}

/// A finished capture, in order of time.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// The frames.
    pub frames: Vec<Captured>,
    /// Frames that were missed: then no verdict is possible.
    pub drops: u64,
}

impl Recording {
    /// Everything with which nodes acted as the service.
    pub fn answers(&self) -> Vec<Answer> {
        self.frames
            .iter()
            .filter_map(|captured| {
                let Port::Node(member) = captured.port else { return None };
                let frame = frame::parse(&captured.bytes)?;
                let kind = kind_of(&frame)?;
                Some(Answer { unix_ns: captured.unix_ns, member, kind, frame })
            })
            .collect()
    }

    /// Who answered when: every change of the node makes a new reign.
    pub fn reigns(&self) -> Vec<Reign> {
        let mut reigns: Vec<Reign> = Vec::new();
        for answer in self.answers() {
            match reigns.last_mut().filter(|reign| reign.member == answer.member) {
                Some(reign) => {
                    reign.last_ns = answer.unix_ns;
                    reign.frames += 1;
                }
                None => reigns.push(Reign {
                    member: answer.member,
                    first_ns: answer.unix_ns,
                    last_ns: answer.unix_ns,
                    frames: 1,
                }),
            }
        }
        reigns
    }

    /// Never two nodes answer: there are no more changes than `handovers_max`, all from the VMAC.
    pub fn check_one_answers(&self, handovers_max: usize) -> Result<Vec<Reign>> {
        if self.drops > 0 {
            bail!("the capture missed {} frames: no verdict", self.drops);
        }
        let reigns = self.reigns();
        if reigns.len() > handovers_max + 1 {
            let start = reigns.first().map_or(0, |reign| reign.first_ns);
            let list = reigns.iter().take(12).map(|r| describe(r, start)).collect::<String>();
            bail!(
                "{} changes of the answering node, {handovers_max} at most:{list}",
                reigns.len() - 1
            );
        }
        let vmac = |mac: [u8; 6]| mac == VMAC4 || mac == VMAC6;
        if let Some(answer) = self.answers().iter().find(|a| !vmac(a.frame.source_mac)) {
            bail!("node {} answers from {:02x?}", answer.member, answer.frame.source_mac);
        }
        Ok(reigns)
    }

    /// What a client's TCP must never see of the service: a reset, or a timestamp that goes back. By
    /// one tick it may within one node, whose kernel may send from two CPUs at once: no TCP minds
    /// (`TCP_PAWS_WINDOW`). A bare reset just behind the service's FIN is none: it answers an
    /// acknowledgement of that FIN (RFC 9293, 3.10.7.1), so the client had everything; also when an old
    /// duplicate of the client's SYN was answered between the two.
    ///
    /// Gives the number of flows.
    pub fn check_tcp(&self) -> Result<usize> {
        let mut newest: BTreeMap<(IpAddr, u16, u16), Option<(Member, u32)>> = BTreeMap::new();
        let mut fin_ends: BTreeMap<(IpAddr, u16, u16), u32> = BTreeMap::new();
        for answer in self.answers() {
            let (Body::Tcp(tcp), Some((_, client))) = (&answer.frame.body, answer.frame.addresses)
            else {
                continue;
            };
            let flow = (client, tcp.destination, tcp.source);
            if tcp.flags & flag::FIN != 0 {
                fin_ends.insert(flow, tcp.seq.wrapping_add(tcp.payload_bytes as u32 + 1));
            }
            if tcp.flags == flag::RST && fin_ends.get(&flow) == Some(&tcp.seq) {
                continue;
            }
            if tcp.flags & flag::RST != 0 {
                bail!("node {} resets {client} port {}", answer.member, tcp.destination);
            }
            let before = newest.entry(flow).or_default();
            if tcp.flags & flag::SYN != 0 {
                *before = None;
            }
            let Some((now, _)) = tcp.timestamp else { continue };
            let back = before.map_or(0, |(_, value)| value.wrapping_sub(now) as i32);
            let allowed = i32::from(before.is_some_and(|(member, _)| member == answer.member));
            if back > allowed {
                bail!("node {}: timestamp {back} back to port {}", answer.member, flow.1);
            }
            if back <= 0 {
                *before = Some((answer.member, now));
            }
        }
        Ok(newest.len())
    }

    /// What left a node as the service after a moment.
    pub fn after(&self, member: Member, moment_ns: u64) -> Vec<Answer> {
        let mut answers = self.answers();
        answers.retain(|answer| answer.member == member && answer.unix_ns > moment_ns);
        answers
    }

    /// Frames by port, for a report.
    pub fn count_by_port(&self) -> BTreeMap<Port, usize> {
        let mut counts = BTreeMap::new();
        self.frames.iter().for_each(|frame| *counts.entry(frame.port).or_default() += 1);
        counts
    }

    /// Writes one pcap file (ns resolution) for each port.
    pub fn write_pcap(&self, dir: &Path) -> Result<()> {
        for (port, name) in Port::all() {
            let mut out = Vec::new();
            // Magic of ns resolution, version 2.4, zone, accuracy, longest frame, Ethernet.
            for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 65535, 1] {
                out.extend(word.to_le_bytes());
            }
            for frame in self.frames.iter().filter(|frame| frame.port == port) {
                let (seconds, ns) = (frame.unix_ns / 1_000_000_000, frame.unix_ns % 1_000_000_000);
                let words = [seconds, ns, frame.bytes.len() as u64, frame.wire_bytes as u64];
                words.iter().for_each(|&word| out.extend((word as u32).to_le_bytes()));
                out.extend(&frame.bytes);
            }
            fs::write(dir.join(format!("{name}.pcap")), out)?;
        }
        Ok(())
    }
}

fn describe(reign: &Reign, start_ns: u64) -> String {
    let mut text = String::new();
    let ms = |ns: u64| ns.saturating_sub(start_ns) as f64 / 1e6;
    let (first, last) = (ms(reign.first_ns), ms(reign.last_ns));
    let _ = write!(text, "\n  {} {first:.3}..{last:.3} ms, {} frames", reign.member, reign.frames);
    text
}

fn kind_of(frame: &Frame) -> Option<Kind> {
    let is_vip = |address: IpAddr| [VIP4, VIP6].iter().any(|vip| vip.parse() == Ok(address));
    let from_vip = frame.addresses.is_some_and(|(source, _)| is_vip(source));
    match frame.body {
        Body::Tcp(_) | Body::Udp { .. } if from_vip => Some(Kind::Service),
        Body::Arp { sender, .. } if is_vip(sender.into()) => Some(Kind::Claim),
        Body::NeighborAdvertisement(target) if is_vip(target.into()) => Some(Kind::Claim),
        _ if from_vip || [VMAC4, VMAC6].contains(&frame.source_mac) => Some(Kind::Other),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(member: Member, unix_ns: u64) -> Captured {
        let vip = VIP4.parse().unwrap();
        let body = frame::arp(2, (VMAC4, vip), (VMAC4, vip));
        let bytes = frame::ethernet([0xff; 6], VMAC4, frame::ETHERTYPE_ARP, &body);
        Captured { unix_ns, port: Port::Node(member), wire_bytes: bytes.len(), bytes }
    }

    fn recording(frames: Vec<Captured>) -> Recording {
        Recording { frames, drops: 0 }
    }

    #[test]
    fn one_frame_of_the_old_after_the_new_is_found() {
        use Member::{A, B};
        let clean = recording(vec![answer(A, 1), answer(A, 2), answer(B, 3), answer(B, 4)]);
        assert_eq!(clean.check_one_answers(1).unwrap().len(), 2);
        assert!(clean.check_one_answers(0).is_err());
        let mixed = recording(vec![answer(A, 1), answer(B, 2), answer(A, 3), answer(B, 4)]);
        assert!(mixed.check_one_answers(1).is_err());
        assert_eq!(mixed.after(A, 2).len(), 1);
    }

    fn segment(time: u32, flags: u8) -> Captured {
        segment_at(0, time, flags)
    }

    fn segment_at(seq: u32, time: u32, flags: u8) -> Captured {
        let tcp = frame::Tcp {
            source: 1,
            destination: 2,
            seq,
            ack: 0,
            flags,
            window: 0,
            timestamp: None,
            payload_bytes: 0,
            payload: Vec::new(),
        };
        let mut options = vec![1, 1, 8, 10];
        options.extend(time.to_be_bytes());
        options.extend([0; 4]);
        let (vip, client) = (VIP4.parse().unwrap(), "10.77.0.1".parse().unwrap());
        let packet = frame::ipv4_tcp(vip, client, &tcp, &options);
        let bytes = frame::ethernet([2; 6], VMAC4, frame::ETHERTYPE_IPV4, &packet);
        Captured { unix_ns: 1, port: Port::Node(Member::A), wire_bytes: bytes.len(), bytes }
    }

    #[test]
    fn resets_and_timestamps_that_go_back_are_found() {
        let check = |segments: &[(u32, u8)]| {
            let frames = segments.iter().map(|&(time, flags)| segment(time, flags));
            recording(frames.collect()).check_tcp()
        };
        assert_eq!(check(&[(5, flag::ACK), (5, flag::ACK), (6, flag::ACK)]).unwrap(), 1);
        assert_eq!(check(&[(u32::MAX, flag::ACK), (1, flag::ACK)]).unwrap(), 1, "they wrap");
        assert_eq!(check(&[(9, flag::ACK), (1, flag::SYN)]).unwrap(), 1, "a new connection");
        assert!(check(&[(5, flag::ACK), (3, flag::ACK)]).is_err());
        // One tick is a node's own kernel, but nothing that another node may do.
        assert!(check(&[(5, flag::ACK), (4, flag::ACK)]).is_ok());
        let mut frames = vec![segment(5, flag::ACK), segment(4, flag::ACK)];
        frames[1].port = Port::Node(Member::B);
        assert!(recording(frames).check_tcp().is_err());
        assert!(check(&[(5, flag::RST)]).is_err());
        assert!(check(&[(5, flag::FIN), (5, flag::RST)]).is_err(), "the FIN is not acknowledged");
        let after_fin = |seq, flags| {
            recording(vec![segment(5, flag::FIN), segment_at(seq, 5, flags)]).check_tcp()
        };
        assert!(after_fin(1, flag::RST).is_ok(), "it answers the FIN's acknowledgement");
        assert!(after_fin(1, flag::RST | flag::ACK).is_err());
        assert!(after_fin(2, flag::RST).is_err());
    }

    #[test]
    fn a_capture_with_holes_gives_no_verdict() {
        let holes = Recording { frames: vec![answer(Member::A, 1)], drops: 1 };
        assert!(holes.check_one_answers(0).is_err());
    }
}
