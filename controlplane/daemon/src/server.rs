//! The unix socket of the CLI: one short-lived thread a client, bounded in number.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use crossbeam::channel::{Sender, bounded};
use tracing::warn;
use understudy_api::{ApiError, Conn, Conns, ErrorCode, Request, Response, Role, server};
use understudy_config::Config;
use understudy_linux::adopt::FlowKey;
use understudy_linux::netns::NetNs;
use understudy_linux::socks::{self, SockInfo, TcpState};
use understudy_seal::Keyring;

use crate::capture::{Captures, Range};
use crate::events::EventLog;
use crate::running::{Reload, Running};
use crate::{drain, images, keys};

const CLIENTS_MAX: usize = 16;
const IO_TIMEOUT: Duration = Duration::from_secs(5);
/// A switchover takes longest, but for a checkpoint.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(25);
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(170);
const CONNS_MAX: usize = 100_000;

/// A request for the control plane and where its answer goes.
pub struct Call {
    pub request: Request,
    /// What the key file holds, for [`Request::KeyReload`]: it was read on this side, since disks
    /// may be slow.
    pub keys: Option<Keyring>,
    /// What the daemon's file says, for [`Request::Reload`].
    pub reload: Option<Box<Reload>>,
    pub answer: Sender<Response>,
}

impl Call {
    pub fn new(request: Request, answer: Sender<Response>) -> Call {
        Call { request, keys: None, reload: None, answer }
    }
}

/// What `conns` needs beside the kernel's own list.
#[derive(Clone, Default)]
pub struct ConnsView {
    pub role: Role,
    /// The application, while it runs.
    pub app_pid: Option<i32>,
    pub adopted: HashSet<FlowKey>,
}

/// The listening socket; its file goes when this is dropped.
pub struct Server {
    path: PathBuf,
}

impl Server {
    /// Listens and serves on threads of its own.
    pub fn start(
        path: &Path,
        calls: Sender<Call>,
        ns: Option<Arc<NetNs>>,
        view: Arc<Mutex<ConnsView>>,
        running: Arc<Running>,
        captures: Captures,
        events: EventLog,
    ) -> anyhow::Result<Server> {
        Server::serve(path, captures, move |request| {
            answer(request, &calls, ns.as_deref(), &view, &running, &events)
        })
    }

    /// Listens, and answers what is not for the log by `answer`.
    pub fn serve(
        path: &Path,
        captures: Captures,
        answer: impl Fn(Request) -> Response + Send + Sync + 'static,
    ) -> anyhow::Result<Server> {
        let listener = listen(path)?;
        let captures = Arc::new(captures);
        let answer = Arc::new(answer);
        let clients = Arc::new(AtomicUsize::new(0));
        std::thread::Builder::new().name("api".into()).spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                if clients.fetch_add(1, Ordering::AcqRel) >= CLIENTS_MAX {
                    clients.fetch_sub(1, Ordering::AcqRel);
                    continue;
                }
                let (answer, captures) = (Arc::clone(&answer), Arc::clone(&captures));
                let done = Arc::clone(&clients);
                let spawned =
                    std::thread::Builder::new().name("api-client".into()).spawn(move || {
                        if let Err(e) = serve(stream, &captures, |request| answer(request)) {
                            warn!("a client of the socket: {e}");
                        }
                        done.fetch_sub(1, Ordering::AcqRel);
                    });
                if spawned.is_err() {
                    clients.fetch_sub(1, Ordering::AcqRel);
                }
            }
        })?;
        Ok(Server { path: path.to_path_buf() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One request: answered by a line, unless it is for the log itself.
fn serve(
    mut stream: UnixStream,
    captures: &Captures,
    answer: impl FnOnce(Request) -> Response,
) -> std::io::Result<()> {
    let response = match server::read_request(&mut stream, IO_TIMEOUT)? {
        Ok(Request::Capture { from_ns, to_ns, follow, filter }) => {
            return captures.serve(stream, Range { from_ns, to_ns, follow, filter });
        }
        Ok(request) => answer(request),
        Err(error) => error.into(),
    };
    server::write_response(&mut stream, &response, IO_TIMEOUT)
}

/// Binds the socket for root only; a file left by a dead daemon is replaced, a living one's is not.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    if UnixStream::connect(path).is_ok() {
        bail!("another daemon answers on control.socket {}", path.display());
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot replace {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path)
        .with_context(|| format!("cannot listen on control.socket {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn answer(
    request: Request,
    calls: &Sender<Call>,
    ns: Option<&NetNs>,
    view: &Mutex<ConnsView>,
    running: &Running,
    events: &EventLog,
) -> Response {
    match request {
        Request::Events { since_seq, since_ns, wait_ms } => {
            return events.since(since_seq, since_ns, wait_ms).into();
        }
        Request::Conns => return conns(ns, view),
        Request::ConnImages { client } => {
            let Ok(view) = view.lock() else {
                return ApiError::new(ErrorCode::Runtime, "the daemon's view is damaged").into();
            };
            let known = view.clone();
            drop(view);
            return images::answer(ns, &known, client);
        }
        Request::Plan { file } => return running.plan(file.as_deref()),
        Request::Reload => return reload(running, calls),
        _ => {}
    }
    let config = running.config();
    let state_dir = &config.control.state_dir;
    match request {
        Request::Drain if config.is_witness() => {
            let text = "a witness serves nobody anyway";
            ApiError::new(ErrorCode::Usage, text).into()
        }
        Request::Drain => drain::drain(state_dir, |request| ask(request, calls, &config)),
        Request::Undrain => drain::undrain(state_dir, |request| ask(request, calls, &config)),
        request => ask(request, calls, &config),
    }
}

/// The control plane's answer.
fn ask(request: Request, calls: &Sender<Call>, config: &Config) -> Response {
    let keys = match request {
        Request::KeyReload => match keys::load(config) {
            Ok(Some(keys)) => Some(keys),
            Ok(None) => {
                let text = "there is no cluster.key_file in the configuration";
                return ApiError::new(ErrorCode::Usage, text).into();
            }
            Err(e) => {
                let text = format!("{e}; nothing was changed");
                return ApiError::new(ErrorCode::InvalidConfig, text).into();
            }
        },
        _ => None,
    };
    let timeout = match request {
        Request::Checkpoint => CHECKPOINT_TIMEOUT,
        _ => ANSWER_TIMEOUT,
    };
    call(calls, timeout, |answer| Call { keys, ..Call::new(request, answer) })
}

/// Reads the daemon's file again, and has it applied.
pub fn reload(running: &Running, calls: &Sender<Call>) -> Response {
    running.reload(|read| {
        call(calls, ANSWER_TIMEOUT, |answer| Call {
            reload: Some(Box::new(read)),
            ..Call::new(Request::Reload, answer)
        })
    })
}

/// Hands a call over and waits for its answer.
fn call(
    calls: &Sender<Call>,
    timeout: Duration,
    make: impl FnOnce(Sender<Response>) -> Call,
) -> Response {
    let (answer, answered) = bounded(1);
    if calls.send_timeout(make(answer), IO_TIMEOUT).is_err() {
        return ApiError::new(ErrorCode::Runtime, "the control plane does not answer").into();
    }
    answered.recv_timeout(timeout).unwrap_or_else(|_| {
        ApiError::new(ErrorCode::Runtime, "the control plane gave no answer in time").into()
    })
}

/// The capsule's sockets; without a capsule (a witness) there are none.
fn conns(ns: Option<&NetNs>, view: &Mutex<ConnsView>) -> Response {
    let socks = match ns.map_or(Ok(Vec::new()), |ns| socks::tcp_sockets(ns, CONNS_MAX + 1)) {
        Ok(socks) => socks,
        Err(e) => return ApiError::new(ErrorCode::Runtime, e.to_string()).into(),
    };
    let truncated = socks.len() > CONNS_MAX;
    let Ok(mut view) = view.lock() else {
        return ApiError::new(ErrorCode::Runtime, "the daemon's view is damaged").into();
    };
    let live: HashSet<(SocketAddr, SocketAddr)> =
        socks.iter().map(|s| (s.remote, s.local)).collect();
    view.adopted.retain(|key| live.contains(&(key.client, key.server)));
    let conns = socks
        .iter()
        .filter(|s| s.state != TcpState::Listen)
        .take(CONNS_MAX)
        .map(|s| conn(s, view.adopted.contains(&FlowKey { client: s.remote, server: s.local })))
        .collect();
    Conns { role: view.role, conns, truncated }.into()
}

fn conn(s: &SockInfo, adopted: bool) -> Conn {
    Conn {
        client: s.remote.to_string(),
        server: s.local.to_string(),
        proto: "tcp".into(),
        state: format!("{:?}", s.state).to_lowercase(),
        adopted,
        rqueue: s.rqueue.into(),
        wqueue: s.wqueue.into(),
        rtt_us: s.rtt_us.map(u64::from),
        bytes_received: s.bytes_received,
        bytes_acked: s.bytes_acked,
        retrans: s.retrans.into(),
    }
}
