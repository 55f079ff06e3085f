//! Clients of a redis that ask on a schedule, whether answers come or not (open loop).
//!
//! Times count from when a request was to be sent: what a stall held back is part of it. Each
//! connection counts with INCR, so every reply is known beforehand.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use understudy_lab::clients::resp;
use understudy_lab::sys::{self, unix_ns};

/// Requests without a reply on one connection; one more is not sent, and counted.
const PENDING_MAX: usize = 20_000;
/// Replies kept of one connection.
const KEPT_MAX: usize = 1 << 21;
/// Silence that a moment caused begins no later than this after it: what is on its way is answered,
/// and a command needs a while to be carried out. Later silences have other causes.
pub const AFTERMATH_NS: u64 = 100_000_000;
/// A stopped client waits this long for what it asked.
const DRAIN: Duration = Duration::from_secs(5);
/// An attempt to connect again.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(50);

/// What each connection does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The service.
    pub target: SocketAddr,
    /// Between two requests.
    pub interval: Duration,
    /// A client connects again when its connection is dead: reset, closed, or silent for so long.
    /// `None`: the first death is the end.
    pub patience: Option<Duration>,
}

/// A reply: when its request was to be sent, when it came; ns since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// When its request was to be sent.
    pub intended_ns: u64,
    /// When it came.
    pub came_ns: u64,
}

/// What one client saw.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Every reply.
    pub replies: Vec<Reply>,
    /// Connections that died, when and how.
    pub deaths: Vec<(u64, String)>,
    /// Requests that were never answered, since their connection died or the client was behind.
    pub unanswered: u64,
}

impl Record {
    /// The longest silence that ends after a moment and begins before or soon after it, and when
    /// it ended.
    pub fn stall(&self, moment_ns: u64) -> Option<(u64, u64)> {
        longest_gap(self.replies.iter().map(|reply| reply.came_ns), moment_ns)
    }

    /// Connections that died in a span of time.
    pub fn deaths_between(&self, from_ns: u64, to_ns: u64) -> usize {
        self.deaths.iter().filter(|(at, _)| (from_ns..to_ns).contains(at)).count()
    }
}

/// The longest time between two of these that ends after a moment and begins before or soon after
/// it, and its end. They are in order.
pub fn longest_gap(times_ns: impl Iterator<Item = u64>, moment_ns: u64) -> Option<(u64, u64)> {
    let mut longest = None;
    let mut before = None;
    for at in times_ns {
        if let Some(begin) =
            before.filter(|&begin| begin < moment_ns + AFTERMATH_NS && at > moment_ns)
        {
            longest = longest.max(Some((at - begin, at)));
        }
        before = Some(at);
        if at > moment_ns + AFTERMATH_NS {
            break;
        }
    }
    longest
}

struct Shared {
    stop: AtomicBool,
    /// Per client: when its newest reply came.
    newest_ns: Vec<AtomicU64>,
    /// Why the first client ended that was not told to.
    failure: Mutex<Option<String>>,
}

impl Shared {
    fn failure(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Running clients, a thread each.
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<std::io::Result<Result<Record>>>>,
}

impl Clients {
    /// Starts `count` of them inside a namespace; they ask in turn.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(netns: &Path, count: usize, plan: Plan) -> Result<Clients> {
        let newest_ns = (0..count).map(|_| AtomicU64::new(0)).collect();
        let failure = Mutex::new(None);
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), newest_ns, failure });
        let mut threads = Vec::with_capacity(count);
        for number in 0..count {
            let shared = Arc::clone(&shared);
            let offset = plan.interval * number as u32 / count as u32;
            let work = move || {
                let done = Client::connect(plan, number).and_then(|c| c.run(offset, &shared));
                if let Err(error) = &done {
                    shared.failure().get_or_insert(format!("client {number}: {error:#}"));
                }
                done
            };
            threads.push(sys::spawn_in_netns(netns, "perf-client", work)?);
        }
        Ok(Clients { shared, threads })
    }

    /// Waits until every client has had a reply that came after a moment.
    ///
    /// # Errors
    /// If one has not within `timeout`.
    pub fn wait_replies_after(&self, moment_ns: u64, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let has = |newest: &AtomicU64| newest.load(Ordering::Relaxed) > moment_ns;
        while !self.shared.newest_ns.iter().all(has) {
            if let Some(why) = &*self.shared.failure() {
                bail!("{why}");
            }
            if Instant::now() > deadline {
                let missing = self.shared.newest_ns.iter().filter(|n| !has(n)).count();
                bail!("{missing} of {} clients get no replies", self.threads.len());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends them and gives what each saw.
    ///
    /// # Errors
    /// A wrong reply, or that a client could not connect.
    pub fn finish(mut self) -> Result<Vec<Record>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let threads = std::mem::take(&mut self.threads);
        let join = |(number, thread): (usize, JoinHandle<_>)| {
            let outcome: std::io::Result<Result<Record>> =
                thread.join().map_err(|_| anyhow!("client {number} panicked"))?;
            outcome?.with_context(|| format!("client {number}"))
        };
        threads.into_iter().enumerate().map(join).collect()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

struct Client {
    plan: Plan,
    number: usize,
    stream: Option<TcpStream>,
    /// When the requests without a reply were to be sent.
    pending: VecDeque<u64>,
    unsent: Vec<u8>,
    unread: Vec<u8>,
    /// The next reply; unknown on a connection to what may be another redis.
    expected: Option<u64>,
    heard_at: Instant,
    record: Record,
}

impl Client {
    fn connect(plan: Plan, number: usize) -> Result<Client> {
        let stream = connect(plan.target, Duration::from_secs(10))?;
        Ok(Client {
            plan,
            number,
            stream: Some(stream),
            pending: VecDeque::new(),
            unsent: Vec::new(),
            unread: Vec::new(),
            expected: None,
            heard_at: Instant::now(),
            record: Record::default(),
        })
    }

    fn run(mut self, offset: Duration, shared: &Shared) -> Result<Record> {
        let begin = (Instant::now() + offset, unix_ns() + offset.as_nanos() as u64);
        let newest = &shared.newest_ns[self.number];
        let mut turn: u32 = 0;
        let mut stopped_at = None;
        loop {
            let now = Instant::now();
            if stopped_at.is_none() && shared.stop.load(Ordering::Relaxed) {
                stopped_at = Some(now);
            }
            if stopped_at.is_some_and(|at| self.pending.is_empty() || now > at + DRAIN) {
                break;
            }
            let due = |turn: u32| begin.0 + self.plan.interval * turn;
            let mut turns = 0;
            while stopped_at.is_none() && due(turn + turns) <= now {
                turns += 1;
            }
            for turn in turn..turn + turns {
                self.ask(begin.1 + (self.plan.interval * turn).as_nanos() as u64);
            }
            turn += turns;
            let next = if stopped_at.is_none() {
                begin.0 + self.plan.interval * turn
            } else {
                now + DRAIN
            };
            self.exchange(next.saturating_duration_since(now).min(Duration::from_millis(20)))?;
            if let Some(reply) = self.record.replies.last() {
                newest.store(reply.came_ns, Ordering::Relaxed);
            }
        }
        self.record.unanswered += self.pending.len() as u64;
        Ok(self.record)
    }

    /// Queues a request.
    fn ask(&mut self, intended_ns: u64) {
        if self.stream.is_none() || self.pending.len() == PENDING_MAX {
            self.record.unanswered += 1;
            return;
        }
        self.pending.push_back(intended_ns);
        self.unsent.extend(resp::command(&["INCR", &format!("client:{}", self.number)]));
    }

    /// Sends and receives what can be; waits at most so long for a reply.
    fn exchange(&mut self, wait: Duration) -> Result<()> {
        let Some(stream) = &self.stream else { return self.reconnect() };
        let fd = stream.as_raw_fd();
        let mut outcome = self.send();
        if outcome.is_ok() {
            sys::wait_readable(&[fd], wait)?;
            outcome = self.receive();
        }
        let silent = !self.pending.is_empty()
            && self.plan.patience.is_some_and(|p| self.heard_at.elapsed() > p);
        let death = match outcome {
            Err(error) if error.kind() == ErrorKind::InvalidData => return Err(error.into()),
            Err(error) => Some(error.to_string()),
            Ok(()) => silent.then(|| "no reply".to_string()),
        };
        if let Some(why) = death {
            self.record.deaths.push((unix_ns(), why.clone()));
            self.record.unanswered += self.pending.len() as u64;
            self.stream = None;
            self.pending.clear();
            self.unsent.clear();
            self.unread.clear();
            self.expected = None;
            if self.plan.patience.is_none() {
                bail!("the connection died: {why}");
            }
        }
        Ok(())
    }

    fn reconnect(&mut self) -> Result<()> {
        match connect(self.plan.target, CONNECT_TIMEOUT) {
            Ok(stream) => self.stream = Some(stream),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
        self.heard_at = Instant::now();
        Ok(())
    }

    fn send(&mut self) -> std::io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        match stream.write(&self.unsent) {
            Ok(count) => drop(self.unsent.drain(..count)),
            Err(error) if is_later(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn receive(&mut self) -> std::io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let mut buffer = [0; 16 << 10];
        match stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::ConnectionAborted.into()),
            Ok(count) => self.unread.extend(&buffer[..count]),
            Err(error) if is_later(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        let came_ns = unix_ns();
        self.heard_at = Instant::now();
        while let Some(end) = self.unread.windows(2).position(|pair| pair == b"\r\n") {
            let line: Vec<u8> = self.unread.drain(..end + 2).collect();
            self.take(&line[..end], came_ns)?;
        }
        Ok(())
    }

    /// A reply must be the next number and an answer to something.
    fn take(&mut self, line: &[u8], came_ns: u64) -> std::io::Result<()> {
        let text = String::from_utf8_lossy(line).into_owned();
        let wrong = |what: String| std::io::Error::new(ErrorKind::InvalidData, what);
        let value: u64 = text
            .strip_prefix(':')
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| wrong(format!("a reply {text:?}")))?;
        if let Some(expected) = self.expected.filter(|&expected| expected != value) {
            return Err(wrong(format!("expected {expected}, got {value}")));
        }
        let intended_ns =
            self.pending.pop_front().ok_or_else(|| wrong(format!("nobody asked for {value}")))?;
        self.expected = Some(value + 1);
        if self.record.replies.len() < KEPT_MAX {
            self.record.replies.push(Reply { intended_ns, came_ns });
        }
        Ok(())
    }
}

fn connect(target: SocketAddr, timeout: Duration) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, timeout)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn is_later(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_the_silence_that_the_moment_caused() {
        let ms = |ms: u64| ms * 1_000_000;
        let reply = |at| Reply { intended_ns: ms(at), came_ns: ms(at) };
        let replies = [10, 20, 26, 100, 300, 600, 2600].map(reply).to_vec();
        let record = Record { replies, deaths: vec![(ms(30), "reset".into())], unanswered: 0 };
        assert_eq!(record.stall(ms(25)), Some((ms(200), ms(300))));
        assert_eq!(record.stall(ms(4000)), None);
        assert_eq!(
            (record.deaths_between(ms(25), ms(300)), record.deaths_between(0, ms(30))),
            (1, 0)
        );
    }
}
