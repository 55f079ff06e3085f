//! The socket: a thread that accepts, and a short-lived one a connection, bounded in number and time.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::warn;
use understudy_api::{CaptureStatus, Status};

use crate::http::{self, HEAD_BYTES_MAX, Refusal, Request, Resource};
use crate::{metrics, page};

/// Connections at once; more are closed without an answer.
pub const CONNECTIONS_MAX: usize = 8;
/// For a request to be here, and for its answer to be taken, each.
const IO_TIMEOUT: Duration = Duration::from_secs(2);
/// A status is not asked for again within this time.
const STATUS_AGE_MAX: Duration = Duration::from_millis(200);
/// The address may be taken by the life before, or not be there yet.
const BIND_RETRY: Duration = Duration::from_secs(2);
/// After accept has failed (no file descriptors left).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What a node says of itself.
#[derive(Clone, Debug)]
pub enum Seen {
    /// With a service, or a witness.
    Node(Box<Status>),
    /// That only captures: it has metrics and JSON, and no page.
    Capture(Box<CaptureStatus>),
}

/// Where a status comes from; it may wait, bounded, and have none.
pub type Source = Box<dyn Fn() -> Option<Seen> + Send + Sync>;

/// What all connections share.
struct Shared {
    source: Source,
    any_host: bool,
    newest: Mutex<Option<(Instant, Arc<Seen>)>>,
    connections: AtomicUsize,
    turned_away: AtomicU64,
}

/// A server that was started; it ends with the process.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

impl Server {
    /// Listens and serves on threads of its own. An address that cannot be had is tried again: what
    /// watches a node must not keep it from starting. `any_host`: it may be asked by any name.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn start(address: SocketAddr, any_host: bool, source: Source) -> io::Result<Server> {
        let server = Server::new(any_host, source);
        let shared = Arc::clone(&server.0);
        std::thread::Builder::new()
            .name("http".into())
            .spawn(move || accept(&listen(address), &shared))?;
        Ok(server)
    }

    /// As [`Server::start`], on a socket that listens already.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn serve(listener: TcpListener, any_host: bool, source: Source) -> io::Result<Server> {
        let server = Server::new(any_host, source);
        let shared = Arc::clone(&server.0);
        std::thread::Builder::new()
            .name("http".into())
            .spawn(move || accept(&listener, &shared))?;
        Ok(server)
    }

    fn new(any_host: bool, source: Source) -> Server {
        Server(Arc::new(Shared {
            source,
            any_host,
            newest: Mutex::new(None),
            connections: AtomicUsize::new(0),
            turned_away: AtomicU64::new(0),
        }))
    }

    /// Connections that were closed because there were too many.
    #[must_use]
    pub fn turned_away(&self) -> u64 {
        self.0.turned_away.load(Ordering::Relaxed)
    }
}

fn listen(address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => return listener,
            Err(e) if !told => {
                warn!("metrics.listen {address}: {e}; it is tried again");
                told = true;
            }
            Err(_) => {}
        }
        std::thread::sleep(BIND_RETRY);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(ACCEPT_RETRY);
            continue;
        };
        if shared.connections.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
            shared.connections.fetch_sub(1, Ordering::AcqRel);
            shared.turned_away.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let mine = Arc::clone(shared);
        let spawned = std::thread::Builder::new().name("http-client".into()).spawn(move || {
            // Who does not ask or listen in time is left.
            let _ = converse(stream, &mine);
            mine.connections.fetch_sub(1, Ordering::AcqRel);
        });
        if spawned.is_err() {
            shared.connections.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// One request and its answer.
fn converse(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let request = read_request(&mut stream, shared.any_host)?;
    let answer = match request {
        Ok(request) => respond(request, shared),
        Err(refusal) => http::refusal(refusal),
    };
    write_all(&mut stream, &answer)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    // Unread bytes would turn the close into a reset, and the answer might be lost.
    let deadline = Instant::now() + IO_TIMEOUT;
    let mut rest = [0; 4096];
    for _ in 0..64 {
        stream.set_read_timeout(Some(left(deadline)?))?;
        if stream.read(&mut rest)? == 0 {
            break;
        }
    }
    Ok(())
}

fn read_request(stream: &mut TcpStream, any_host: bool) -> io::Result<Result<Request, Refusal>> {
    let deadline = Instant::now() + IO_TIMEOUT;
    let mut head = Vec::with_capacity(1024);
    let mut piece = [0; 1024];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut piece) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => head.extend_from_slice(&piece[..n.min(HEAD_BYTES_MAX - head.len())]),
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        }
        if let Some(request) = http::parse(&head, any_host) {
            return Ok(request);
        }
    }
}

fn write_all(stream: &mut TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + IO_TIMEOUT;
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn left(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

fn respond(request: Request, shared: &Shared) -> Vec<u8> {
    let answer = |kind: &str, body: &str| http::answer(kind, body, request.head_only);
    let is_of_page =
        matches!(request.resource, Resource::Page | Resource::Script | Resource::Style);
    if is_of_page && newest(shared).is_some_and(|seen| matches!(*seen, Seen::Capture(_))) {
        return http::refusal(Refusal::NotFound);
    }
    match request.resource {
        Resource::Page => return answer(page::HTML_TYPE, page::HTML),
        Resource::Script => return answer(page::SCRIPT_TYPE, page::SCRIPT),
        Resource::Style => return answer(page::STYLE_TYPE, page::STYLE),
        Resource::Metrics | Resource::StatusJson => {}
    }
    let Some(seen) = newest(shared) else { return http::refusal(Refusal::Unavailable) };
    match (request.resource, &*seen) {
        (Resource::StatusJson, Seen::Node(status)) => answer(page::JSON_TYPE, &page::json(status)),
        (_, Seen::Node(status)) => answer(metrics::CONTENT_TYPE, &metrics::exposition(status)),
        (Resource::StatusJson, Seen::Capture(status)) => {
            answer(page::JSON_TYPE, &page::capture_json(status))
        }
        (_, Seen::Capture(status)) => {
            answer(metrics::CONTENT_TYPE, &metrics::capture::exposition(status))
        }
    }
}

/// The newest status; who asks while another one does waits for the same.
fn newest(shared: &Shared) -> Option<Arc<Seen>> {
    let mut newest = shared.newest.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((at, seen)) = &*newest
        && at.elapsed() < STATUS_AGE_MAX
    {
        return Some(Arc::clone(seen));
    }
    let mut seen = (shared.source)()?;
    if let Seen::Node(status) = &mut seen {
        let turned_away = shared.turned_away.load(Ordering::Relaxed);
        status.counters.insert("http_turned_away".into(), turned_away);
    }
    let seen = Arc::new(seen);
    *newest = Some((Instant::now(), Arc::clone(&seen)));
    Some(seen)
}
