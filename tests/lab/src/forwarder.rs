//! Takes a bridge's place on a network of the lab: a thread in the switch's namespace with a raw
//! socket on each node's port, and an `impair::Switch` between them. It ends with its owner.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::impair::{Counters, FrameBytes, Impairment, Switch};
use crate::sys::{self, PacketSocket};
use crate::topology::{Member, Net};

/// Longest wait for frames: what the owner changes or injects takes effect by then.
const TURN: Duration = Duration::from_millis(5);
/// Frames sent with one system call.
const SEND_FRAMES_MAX: usize = 64;

struct Shared {
    stop: AtomicBool,
    switch: Mutex<Switch>,
    /// Frames a port did not take: its cable is cut, or the kernel has no memory.
    refused: Mutex<BTreeMap<Member, u64>>,
}

/// A running forwarder.
pub struct Forwarder {
    shared: Arc<Shared>,
    handle: Option<thread::JoinHandle<std::io::Result<Result<()>>>>,
}

impl Forwarder {
    /// Starts between a network's three node ports, which belong to no bridge.
    pub fn start(switch_netns: &Path, net: Net, seed: u64) -> Result<Forwarder> {
        let open = |member: Member| {
            let port = net.switch_port(member);
            let socket = sys::in_netns(switch_netns, || PacketSocket::open(&port, true))?;
            let socket = socket.with_context(|| format!("forward on {port}"))?;
            anyhow::Ok((member, socket))
        };
        let mut ports = Vec::new();
        for member in Member::ALL {
            ports.push(open(member)?);
        }
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            switch: Mutex::new(Switch::new(seed)),
            refused: Mutex::default(),
        });
        let inside = Arc::clone(&shared);
        let handle = sys::spawn_in_netns(switch_netns, "lab-forwarder", move || {
            let outcome = forward(&mut ports, &inside);
            if let Err(error) = &outcome {
                eprintln!("lab-forwarder: {error:#}");
            }
            outcome
        })?;
        Ok(Forwarder { shared, handle: Some(handle) })
    }

    fn switch(&self) -> MutexGuard<'_, Switch> {
        self.shared.switch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the fate of what goes from one node to another.
    pub fn set(&self, from: Member, to: Member, impairment: &Impairment) {
        self.switch().set(from, to, impairment.clone());
    }

    /// Sets the fate of everything a node sends.
    pub fn set_from(&self, from: Member, impairment: &Impairment) {
        let mut switch = self.switch();
        from.others().for_each(|to| switch.set(from, to, impairment.clone()));
    }

    /// Sets the fate of everything meant for a node.
    pub fn set_to(&self, to: Member, impairment: &Impairment) {
        let mut switch = self.switch();
        to.others().for_each(|from| switch.set(from, to, impairment.clone()));
    }

    /// Sets the fate of everything.
    pub fn set_all(&self, impairment: &Impairment) {
        Member::ALL.into_iter().for_each(|from| self.set_from(from, impairment));
    }

    /// What a pair has seen.
    pub fn counters(&self, from: Member, to: Member) -> Counters {
        self.switch().counters(from, to)
    }

    /// Frames that a port did not take since the start.
    pub fn refused(&self, to: Member) -> u64 {
        let refused = self.shared.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(&to).copied().unwrap_or(0)
    }

    /// All pairs' counters, one a line.
    pub fn report(&self) -> String {
        let pairs =
            Member::ALL.into_iter().flat_map(|from| from.others().map(move |to| (from, to)));
        let lines = pairs.map(|(from, to)| {
            let c = self.counters(from, to);
            format!(
                "{from}>{to} offered {} forwarded {} ({} bytes) blocked {} lost {} duplicated {} \
                 held back {} overtaken {} corrupted {} queue drops {}\n",
                c.offered,
                c.forwarded,
                c.forwarded_bytes,
                c.blocked,
                c.lost,
                c.duplicated,
                c.held_back,
                c.overtaken,
                c.corrupted,
                c.queue_drops
            )
        });
        lines.collect()
    }

    /// Keeps copies of what arrives from now on.
    pub fn start_recording(&self) {
        self.switch().start_recording();
    }

    /// Ends a recording: frames with their senders, as they arrived.
    pub fn take_recording(&self) -> Vec<(Member, FrameBytes)> {
        self.switch().take_recording()
    }

    /// Sends a frame to one node's port, as it is.
    pub fn inject(&self, to: Member, frame: &[u8]) {
        self.switch().inject(to, frame);
    }

    /// Whether it still forwards: a failure ends it, and was said on stderr.
    pub fn is_running(&self) -> bool {
        self.handle.as_ref().is_some_and(|handle| !handle.is_finished())
    }

    /// A command in words: `A>B IMPAIRMENT` with names of nodes or `*`, or `counters`.
    pub fn command(&self, line: &str) -> Result<String> {
        if line.trim() == "counters" {
            return Ok(self.report());
        }
        let (pair, words) =
            line.trim().split_once(' ').context("a pair and an impairment wanted")?;
        let (from, to) = pair.split_once('>').context("a pair is written a>b")?;
        let (from, to) = (members(from)?, members(to)?);
        let impairment: Impairment = words.parse()?;
        for &from in &from {
            to.iter().filter(|&&to| to != from).for_each(|&to| self.set(from, to, &impairment));
        }
        Ok(String::new())
    }
}

fn members(name: &str) -> Result<Vec<Member>> {
    match Member::by_name(name) {
        Some(member) => Ok(vec![member]),
        None if name == "*" => Ok(Member::ALL.to_vec()),
        None => bail!("no node {name:?}"),
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(handle) = self.handle.take() {
            // What ended it early was said on stderr.
            let _ = handle.join();
        }
    }
}

fn forward(ports: &mut [(Member, PacketSocket)], shared: &Shared) -> Result<()> {
    let started = Instant::now();
    let now_ns = || started.elapsed().as_nanos() as u64;
    let fds: Vec<_> = ports.iter().map(|(_, socket)| socket.as_raw_fd()).collect();
    let mut out: BTreeMap<Member, Vec<FrameBytes>> = BTreeMap::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let mut switch = shared.switch.lock().unwrap_or_else(PoisonError::into_inner);
        for (from, socket) in ports.iter_mut() {
            let now_ns = now_ns();
            // The lab's MTU keeps every frame shorter than what the socket takes.
            socket.receive(|_, _, bytes| switch.arrive(now_ns, *from, bytes))?;
        }
        while out.values().map(Vec::len).sum::<usize>() < SEND_FRAMES_MAX
            && let Some((to, frame)) = switch.due(now_ns())
        {
            out.entry(to).or_default().push(frame);
        }
        let wait = switch.next_due_ns().map(|due_ns| due_ns.saturating_sub(now_ns()));
        drop(switch);
        for (to, socket) in ports.iter_mut() {
            if let Some(frames) = out.get_mut(to).filter(|frames| !frames.is_empty()) {
                let refused = socket.send_all(frames)?;
                let mut count = shared.refused.lock().unwrap_or_else(PoisonError::into_inner);
                *count.entry(*to).or_default() += refused;
                frames.clear();
            }
        }
        let wait = wait.map_or(TURN, |ns| Duration::from_nanos(ns).min(TURN));
        sys::wait_readable(&fds, wait)?;
    }
    Ok(())
}
