//! Many pipelined Redis connections at once; every byte of every reply is known beforehand.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::wire::show;
use super::{Control, QUIET, REPLY_TIMEOUT, Task, resp};
use crate::ledger::{Ledger, Verdict, Way};
use crate::node::vip4;
use crate::pattern::{self, Rng};
use crate::sys;

/// APPENDs to a key before it is deleted.
const APPENDS_MAX: u64 = 64;
const REDIS: u16 = 6379;

/// `connections` connections, each with batches of `depth` requests on keys of its own.
#[derive(Clone, Debug)]
pub struct Pipelined {
    /// The service.
    pub target: SocketAddr,
    /// Start of the names of all keys.
    pub prefix: String,
    /// How many connections.
    pub connections: usize,
    /// Requests in one batch.
    pub depth: usize,
    /// Time between the last reply of a batch and the next batch.
    pub pause: Duration,
    /// Seed of all requests.
    pub seed: u64,
}

impl Pipelined {
    /// So many as press the service's redis without filling a small machine; each seed has its own keys.
    pub fn pressing(connections: usize, seed: u64) -> Pipelined {
        Pipelined {
            target: vip4(REDIS),
            prefix: format!("lane{seed}"),
            connections,
            depth: 4,
            pause: Duration::from_millis(2),
            seed,
        }
    }

    /// Connects all, then sends batches until stopped.
    pub fn start(self, netns: &Path) -> Result<Task> {
        let name = format!("{} pipelined connections ({})", self.connections, self.prefix);
        Task::start(netns, &name, move |control, verdict| self.run(control, verdict))
    }

    fn run(&self, control: &Control, verdict: &mut Verdict) -> Result<()> {
        let mut lanes = Vec::with_capacity(self.connections);
        for number in 0..self.connections {
            lanes.push(Lane::connect(self, number).with_context(|| format!("lane {number}"))?);
        }
        verdict.count("connections", lanes.len() as u64);
        while !control.is_stopped() && lanes.iter().any(|lane| !lane.is_broken) {
            self.turn(&mut lanes, control, verdict, true)?;
        }
        let deadline = Instant::now() + REPLY_TIMEOUT;
        while Instant::now() < deadline && lanes.iter().any(Lane::is_waiting) {
            self.turn(&mut lanes, control, verdict, false)?;
        }
        for lane in lanes.iter().filter(|lane| lane.is_waiting()) {
            verdict.fault(format!(
                "lane {}: {} reply bytes missing, next {}",
                lane.number,
                lane.expected.len(),
                show(&lane.expected.iter().copied().take(40).collect::<Vec<u8>>())
            ));
        }
        let deadline = Instant::now() + QUIET;
        while Instant::now() < deadline {
            self.turn(&mut lanes, control, verdict, false)?;
        }
        verdict.ledgers.extend(lanes.into_iter().map(|lane| lane.ledger));
        Ok(())
    }

    fn turn(
        &self,
        lanes: &mut [Lane],
        control: &Control,
        verdict: &mut Verdict,
        is_open: bool,
    ) -> Result<()> {
        let now = Instant::now();
        for lane in lanes.iter_mut().filter(|lane| is_open && lane.is_ready(now)) {
            lane.make_batch(self.depth);
        }
        // A negative descriptor is one that poll passes over.
        let wants: Vec<_> = lanes
            .iter()
            .map(|lane| match lane.is_broken {
                true => (-1, false, false),
                false => (lane.stream.as_raw_fd(), true, !lane.unsent.is_empty()),
            })
            .collect();
        let ready = sys::poll_fds(&wants, Duration::from_millis(5))?;
        for (lane, ready) in lanes.iter_mut().zip(ready).filter(|(lane, _)| !lane.is_broken) {
            let mut outcome = Ok(());
            if ready.writable {
                outcome = lane.send();
            }
            if outcome.is_ok() && ready.readable {
                outcome = lane.receive(self.pause, control, verdict);
            }
            if let Err(error) = outcome {
                lane.is_broken = true;
                verdict.fault(format!("lane {}: {error:#}", lane.number));
            }
        }
        Ok(())
    }
}

/// One connection and the model of what Redis must answer on it.
struct Lane {
    number: usize,
    stream: TcpStream,
    ledger: Ledger,
    unsent: VecDeque<u8>,
    expected: VecDeque<u8>,
    batch_at: Instant,
    is_broken: bool,
    key: String,
    rng: Rng,
    counter: u64,
    appends: u64,
    appended_bytes: u64,
}

impl Lane {
    fn connect(plan: &Pipelined, number: usize) -> Result<Lane> {
        let stream = TcpStream::connect_timeout(&plan.target, REPLY_TIMEOUT)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let mut rng = Rng::new(pattern::mix(plan.seed) ^ number as u64);
        let jitter = Duration::from_micros(rng.below(plan.pause.as_micros() as u64));
        Ok(Lane {
            number,
            stream,
            ledger: Ledger::default(),
            unsent: VecDeque::new(),
            expected: VecDeque::new(),
            batch_at: Instant::now() + jitter,
            is_broken: false,
            key: format!("{}:{number}", plan.prefix),
            rng,
            counter: 0,
            appends: 0,
            appended_bytes: 0,
        })
    }

    fn is_waiting(&self) -> bool {
        !self.is_broken && (!self.expected.is_empty() || !self.unsent.is_empty())
    }

    fn is_ready(&self, now: Instant) -> bool {
        !self.is_broken && !self.is_waiting() && now >= self.batch_at
    }

    fn make_batch(&mut self, depth: usize) {
        for _ in 0..depth {
            self.make_request();
        }
    }

    /// One request and, from the model, the bytes of its reply.
    fn make_request(&mut self) {
        let text = self.key.clone() + ":text";
        let length = 1 + self.rng.below(120) as usize;
        let payload = pattern::letters(self.rng.word(), length);
        let (request, reply) = match self.rng.below(4) {
            0 => (resp::command(&["ECHO", &payload]), resp::bulk(&payload)),
            1 if self.appends >= APPENDS_MAX => {
                (self.appends, self.appended_bytes) = (0, 0);
                (resp::command(&["DEL", &text]), resp::integer(1))
            }
            1 => {
                self.appends += 1;
                self.appended_bytes += payload.len() as u64;
                let reply = resp::integer(self.appended_bytes);
                (resp::command(&["APPEND", &text, &payload]), reply)
            }
            2 => (resp::command(&["STRLEN", &text]), resp::integer(self.appended_bytes)),
            _ => {
                self.counter += 1;
                (resp::command(&["INCR", &self.key]), resp::integer(self.counter))
            }
        };
        self.unsent.extend(request);
        self.expected.extend(reply);
    }

    fn send(&mut self) -> Result<()> {
        let (front, _) = self.unsent.as_slices();
        match self.stream.write(front) {
            Ok(count) => {
                let sent: Vec<u8> = self.unsent.drain(..count).collect();
                self.ledger.enter(Way::Sent, &sent);
                Ok(())
            }
            Err(error) if is_later(&error) => Ok(()),
            Err(error) => Err(error).context("send"),
        }
    }

    fn receive(&mut self, pause: Duration, control: &Control, verdict: &mut Verdict) -> Result<()> {
        let mut buffer = [0; 16 << 10];
        let count = match self.stream.read(&mut buffer) {
            Ok(0) => anyhow::bail!("the server closed the connection"),
            Ok(count) => count,
            Err(error) if is_later(&error) => return Ok(()),
            Err(error) => return Err(error).context("receive"),
        };
        let bytes = &buffer[..count];
        let offset = self.ledger.received.hash.length();
        self.ledger.enter(Way::Received, bytes);
        for (at, &byte) in bytes.iter().enumerate() {
            let expected = self.expected.pop_front();
            if expected == Some(byte) {
                continue;
            }
            let rest = show(&bytes[at..]);
            let byte_number = offset + at as u64;
            match expected {
                None => anyhow::bail!("reply byte {byte_number}: nobody asked for {rest}"),
                Some(wanted) => anyhow::bail!(
                    "reply byte {byte_number}: expected {:?}, got {rest}",
                    char::from(wanted)
                ),
            }
        }
        if self.expected.is_empty() {
            verdict.reply();
            control.advance(1);
            self.batch_at = Instant::now() + pause;
        }
        Ok(())
    }
}

fn is_later(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
