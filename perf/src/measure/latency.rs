//! What the gate adds to a reply, beside a raw ping-pong on the replica port; and how often it adds
//! nothing.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use understudy_lab::node::vip4;
use understudy_lab::sys::{self, PacketSocket};
use understudy_lab::{Lab, Member, NodeOptions, scenario};

use super::Plan;
use super::group::Service;
use crate::findings::{Findings, Sides};
use crate::noise::Discarded;
use crate::paired::{Pair, Pairs};
use crate::stats::{Distribution, Spread, histogram};

/// What it is.
pub const ABOUT: &str = "Reply latency of a service that works 20 us for each request, one connection, a \
    request each 2 ms, counted from when it was to be sent: of a group of three with the gate on less \
    that of the same daemon as a group of one is what protection adds. It is compared with the round \
    trip of a raw frame between two nodes on the replica network (AF_PACKET on both ends, on the \
    interfaces that the data path uses, in the same lab). Zero wait: frames that the gate released in \
    the poll in which it read them, of all that it released meanwhile, by the primary's counters.";

const PAIRS: usize = 7;
const PAIRS_QUICK: usize = 3;
const REQUESTS: usize = 3_000;
const REQUESTS_QUICK: usize = 500;
const SERVICE_TIME_US: u64 = 20;
const INTERVAL: Duration = Duration::from_millis(2);
const TIMEOUT: Duration = Duration::from_secs(10);
const PORT: u16 = 7000;
/// IEEE's second ethertype for local experiments; the data path's is the first.
const ETHERTYPE: [u8; 2] = [0x88, 0xb6];

/// What one pair of groups gave.
struct Round {
    protected: Histogram<u64>,
    alone: Histogram<u64>,
    raw: Histogram<u64>,
    zero_wait_percent: f64,
}

/// Runs it.
///
/// # Errors
/// If a group does not come up, or a reply does not come.
pub fn run(plan: &Plan, findings: &mut Findings) -> Result<()> {
    scenario::prepare_machine()?;
    let requests = plan.count(REQUESTS, REQUESTS_QUICK);
    let mut rounds = Vec::new();
    for _ in 0..plan.count(PAIRS, PAIRS_QUICK) {
        rounds.push(round(requests)?);
    }
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let us = |h: &Histogram<u64>| h.value_at_quantile(share) as f64 / 1e3;
        let pair = |r: &Round| Pair {
            baseline: us(&r.raw),
            // Less than nothing when chance disturbed the group of one more: then it says nothing.
            subject: us(&r.protected) - us(&r.alone),
        };
        let kept = rounds.iter().map(pair).collect();
        let sides = Sides {
            id: &format!("latency/{name}"),
            what: &format!("reply latency, {name}"),
            unit: "us",
            ours: "added by protection",
            theirs: "raw ping-pong",
        };
        findings.compare(sides, &Pairs { kept, discarded: Discarded::default() });
    }
    let shares = rounds.iter().map(|r| r.zero_wait_percent);
    let what = format!("frames released with zero wait, {SERVICE_TIME_US} us of service time");
    findings.figure("latency/zero-wait", &what, "%", Spread::of(shares), rounds.len());
    type Pick = fn(&Round) -> &Histogram<u64>;
    let series: [(&str, &str, Pick); 3] = [
        ("protected", "reply, three nodes", |r| &r.protected),
        ("alone", "reply, one node", |r| &r.alone),
        ("raw", "raw ping-pong, replica network", |r| &r.raw),
    ];
    for (id, what, pick) in series {
        let mut all = histogram();
        for round in &rounds {
            all.add(pick(round))?;
        }
        findings.times("latency", &format!("latency/{id}"), what, Distribution::of(&all));
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let why = format!(
        "three polling nodes, their applications and the client take turns on {cpus} CPUs: an \
         acknowledgement waits until its replica is scheduled, as the raw frame's echo does not"
    );
    findings.explain("latency", why.clone());
    findings.explain("zero-wait", why);
    Ok(())
}

fn round(requests: usize) -> Result<Round> {
    let options = NodeOptions::lab_server("tcp", PORT)?;
    let alone = converse(&Service::alone(&options)?.lab, requests)?;
    let mut service = Service::protected(&options)?;
    let primary = service.trio.primary().context("no primary")?;
    let before = service.trio.node(primary).status()?.gate;
    let protected = converse(&service.lab, requests)?;
    let after = service.trio.node(primary).status()?.gate;
    let raw = ping_pong(&service.lab, requests)?;
    let released = after.released - before.released;
    ensure!(released > 0, "the gate released nothing");
    let zero_wait = after.released_zero_wait - before.released_zero_wait;
    let zero_wait_percent = zero_wait as f64 * 100.0 / released as f64;
    Ok(Round { protected, alone, raw, zero_wait_percent })
}

/// Asks on a schedule. A request that the last reply held up counts from when it was to be sent.
fn converse(lab: &Lab, requests: usize) -> Result<Histogram<u64>> {
    let work = || -> Result<Histogram<u64>> {
        let stream = TcpStream::connect_timeout(&vip4(PORT), TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut reader = BufReader::new(stream);
        let (mut times, begun) = (histogram(), Instant::now());
        for number in 0..requests {
            let due = begun + INTERVAL * number as u32;
            let late = Instant::now() > due;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            // The lateness of a timer is the client's own.
            let intended = if late { due } else { Instant::now() };
            // One segment: pieces would be answered by acknowledgements of their own, for which nobody works.
            reader.get_mut().write_all(format!("SPIN {SERVICE_TIME_US} {number}\n").as_bytes())?;
            let mut line = String::new();
            reader.read_line(&mut line)?;
            ensure!(line == format!("PONG {number}\n"), "request {number}: {line:?}");
            times.saturating_record(intended.elapsed().as_nanos() as u64);
        }
        Ok(times)
    };
    sys::in_netns(&lab.client_netns(), work)?
}

/// Raw frames between two nodes, there and back.
fn ping_pong(lab: &Lab, count: usize) -> Result<Histogram<u64>> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let echo =
        sys::spawn_in_netns(&lab.node_netns(Member::B), "perf-echo", move || echo(&stopped))?;
    let times = sys::in_netns(&lab.node_netns(Member::A), || ping(count));
    stop.store(true, Ordering::Relaxed);
    match echo.join() {
        Ok(ended) => ended??,
        Err(_) => bail!("the echo panicked"),
    }
    times?
}

fn frame(direction: u8, number: u32) -> [u8; 64] {
    let mut frame = [0; 64];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0x99, direction]);
    frame[12..14].copy_from_slice(&ETHERTYPE);
    frame[14] = direction;
    frame[15..19].copy_from_slice(&number.to_be_bytes());
    frame
}

/// Whether it is a frame of ours in that direction, and which.
fn number_of(bytes: &[u8], direction: u8) -> Option<u32> {
    let ours = bytes.len() >= 19 && bytes[12..14] == ETHERTYPE && bytes[14] == direction;
    ours.then(|| u32::from_be_bytes([bytes[15], bytes[16], bytes[17], bytes[18]]))
}

fn echo(stop: &AtomicBool) -> std::io::Result<()> {
    let mut socket = PacketSocket::open("us-rp", true)?;
    while !stop.load(Ordering::Relaxed) {
        let mut heard = None;
        socket.receive(|_, _, bytes| heard = number_of(bytes, 0).or(heard))?;
        match heard {
            Some(number) => socket.send(&frame(1, number))?,
            None => sys::wait_readable(&[socket.as_raw_fd()], Duration::from_millis(20))?,
        }
    }
    Ok(())
}

fn ping(count: usize) -> Result<Histogram<u64>> {
    let mut socket = PacketSocket::open("us-rp", true)?;
    let mut times = histogram();
    for number in 0..count as u32 {
        std::thread::sleep(INTERVAL / 2);
        let begun = Instant::now();
        socket.send(&frame(0, number))?;
        loop {
            let mut answer = None;
            socket.receive(|_, _, bytes| answer = number_of(bytes, 1).or(answer))?;
            if answer == Some(number) {
                break;
            }
            ensure!(begun.elapsed() < TIMEOUT, "no echo of frame {number}");
            sys::wait_readable(&[socket.as_raw_fd()], Duration::from_millis(20))?;
        }
        times.saturating_record(begun.elapsed().as_nanos() as u64);
    }
    Ok(times)
}
