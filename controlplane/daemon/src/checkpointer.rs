//! The helper thread for checkpoints: CRIU, the operator's commands, disks and other nodes take their
//! time. It takes them, gets them from elsewhere, and restores them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use crossbeam::channel::{Receiver, Sender, bounded};
use tracing::{info, warn};
use understudy_checkpoint::transfer::{Fetched, Progress, Wanted, connect, fetch};
use understudy_checkpoint::{
    Draft, Dumped, Error as CheckpointError, Generation, Manifest, Method, Restored, Running, Store,
};
use understudy_config::Config;
use understudy_fastpath::command::Handshake;
use understudy_linux::netns::NetNs;
use understudy_linux::socks;
use understudy_log::LogView;

use crate::keys::Keys;
use crate::{beginnings, method};

/// One checkpoint is under way at a time, and one order of it.
const QUEUE_MAX: usize = 4;
/// A transfer that is aborted has ended by then.
const ABORT_LIMIT: Duration = Duration::from_secs(1);

/// What the thread is to do next.
pub enum Job {
    /// Get ready: nothing stands still yet.
    Prepare,
    /// The application is given nothing any more: save it.
    Dump { pid: i32, ns: Arc<NetNs> },
    /// It may be relied on: make it a generation.
    Keep {
        manifest: Box<Manifest>,
        /// Connections whose handshake was under way.
        handshakes: Vec<Handshake>,
        /// Those that the application's kernel had, and the application had not: client and service.
        pending: Vec<(SocketAddr, SocketAddr)>,
    },
    /// It may not.
    Discard,
    /// Find one that fits, here or elsewhere, without keeping other jobs waiting.
    Obtain(Box<Search>),
    /// Bring the application back as it was; what was there of it is gone.
    Restore { generation: Box<Generation>, ns: Arc<NetNs> },
    /// The application that was restored goes on well.
    Settled,
    /// This one did not come back to life.
    Reject(u64),
}

/// Which checkpoint, and where to look for it.
pub struct Search {
    /// Given back with what was found.
    pub ticket: u64,
    pub wanted: Wanted,
    /// One of this node's own would do.
    pub own: bool,
    /// Who may have one, the one to ask first at the front.
    pub sources: Vec<(String, SocketAddr)>,
}

/// What it has done.
pub enum Done {
    Prepared(Result<(), String>),
    Dumped(Result<Dumped, String>),
    /// Nothing was saved; another moment may do.
    NotNow(String),
    Kept(Result<Generation, String>),
    /// By ticket, and where it came from.
    Obtained(u64, Obtained),
    Restored(Result<Box<Restored>, String>),
}

/// A checkpoint that was looked for.
pub struct Found {
    pub generation: Box<Generation>,
    /// Where it came from.
    pub origin: String,
    /// All that this node stores by now.
    pub stored: Vec<Manifest>,
}

/// A checkpoint, or why there is none.
pub type Obtained = Result<Found, String>;

/// The control thread's end.
pub struct Checkpointer {
    pub submit: Sender<Job>,
    pub done: Receiver<Done>,
    /// Of what is being fetched.
    pub progress: Arc<Progress>,
}

struct Worker {
    config: Arc<Config>,
    finder: Finder,
    store: Store,
    log: LogView,
    draft: Option<(Box<dyn Method>, Draft)>,
    report: Sender<Done>,
}

/// Looks for checkpoints, on a thread for each search.
#[derive(Clone)]
struct Finder {
    config: Arc<Config>,
    keys: Keys,
    store: Store,
    progress: Arc<Progress>,
    /// The search that is waited for, by ticket.
    newest: Arc<AtomicU64>,
    /// Something is being fetched: by a search that nobody waits for any more, perhaps.
    fetching: Arc<AtomicBool>,
}

impl Checkpointer {
    /// Starts the thread.
    pub fn start(
        config: &Arc<Config>,
        store: Store,
        keys: Keys,
        log: LogView,
    ) -> anyhow::Result<Checkpointer> {
        let (submit, jobs) = bounded::<Job>(QUEUE_MAX);
        let (report, done) = bounded(QUEUE_MAX);
        let progress = Arc::new(Progress::default());
        let finder = Finder {
            config: Arc::clone(config),
            keys,
            store: store.clone(),
            progress: Arc::clone(&progress),
            newest: Arc::default(),
            fetching: Arc::default(),
        };
        let config = Arc::clone(config);
        let report_to = report.clone();
        let mut worker = Worker { config, finder, store, log, draft: None, report: report_to };
        std::thread::Builder::new().name("checkpointer".into()).spawn(move || {
            for job in jobs {
                let done = worker.carry_out(job);
                if done.is_some_and(|done| report.send(done).is_err()) {
                    break;
                }
            }
        })?;
        Ok(Checkpointer { submit, done, progress })
    }
}

fn said<T>(result: anyhow::Result<T>) -> Result<T, String> {
    result.map_err(|e| format!("{e:#}"))
}

impl Worker {
    fn carry_out(&mut self, job: Job) -> Option<Done> {
        match job {
            Job::Prepare => return Some(Done::Prepared(said(self.prepare()))),
            Job::Dump { pid, ns } => return Some(self.dump(pid, &ns)),
            Job::Keep { manifest, handshakes, pending } => {
                return Some(Done::Kept(said(self.keep(*manifest, handshakes, pending))));
            }
            Job::Obtain(search) => return self.search(search),
            Job::Restore { generation, ns } => {
                let restored = self.restore(&generation, &ns);
                return Some(Done::Restored(said(restored.map(Box::new))));
            }
            Job::Discard => self.draft = None,
            Job::Settled => self.store.set_trying(None),
            Job::Reject(number) => {
                self.store.set_trying(None);
                if let Err(e) = self.store.reject(number) {
                    warn!("{e}");
                }
            }
        }
        None
    }

    fn prepare(&mut self) -> anyhow::Result<()> {
        self.draft = None;
        self.draft = Some((method::find(&self.config)?, self.store.begin()?));
        Ok(())
    }

    fn dump(&mut self, pid: i32, ns: &NetNs) -> Done {
        let Some((method, draft)) = &self.draft else {
            return Done::Dumped(Err("nothing was prepared".into()));
        };
        let dumped = method.save(&Running { ns, pid }, &method::site(&self.config), draft.dir());
        if dumped.is_err() {
            self.draft = None;
        }
        match dumped {
            Err(CheckpointError::NotNow(why)) => Done::NotNow(why),
            dumped => Done::Dumped(said(dumped.map_err(Into::into))),
        }
    }

    fn keep(
        &mut self,
        mut manifest: Manifest,
        handshakes: Vec<Handshake>,
        mut pending: Vec<(SocketAddr, SocketAddr)>,
    ) -> anyhow::Result<Generation> {
        let (_, draft) = self.draft.take().context("nothing was dumped")?;
        // An application may also talk to itself: of that the log knows nothing, and need not.
        let is_vip =
            |end: &SocketAddr| self.config.vips().any(|(vip, _)| vip == end.ip().to_canonical());
        pending.retain(|(client, service)| is_vip(service) && !is_vip(client));
        manifest.pending = beginnings::find(&self.log, &manifest, &handshakes, &pending)?;
        let begins = manifest.pending.iter().map(|p| p.from);
        manifest.floor = begins.chain([manifest.floor]).min().unwrap_or_default();
        Ok(self.store.commit(draft, manifest)?)
    }

    /// On a thread of its own: another node may take its time.
    fn search(&self, mut search: Box<Search>) -> Option<Done> {
        search.wanted.method = method::kind(&self.config);
        let (finder, report, ticket) = (self.finder.clone(), self.report.clone(), search.ticket);
        finder.newest.store(ticket, Ordering::Release);
        let spawned =
            std::thread::Builder::new().name("checkpoint-search".into()).spawn(move || {
                let _ = report.send(Done::Obtained(ticket, said(finder.obtain(&search))));
            });
        spawned.err().map(|e| Done::Obtained(ticket, Err(format!("no thread for it: {e}"))))
    }

    fn restore(&mut self, generation: &Generation, ns: &NetNs) -> anyhow::Result<Restored> {
        let ended = socks::destroy_connections(ns)?;
        if ended > 0 {
            info!("{ended} connections of the application that was here are ended");
        }
        self.store.set_trying(Some(generation.number));
        let method = method::find(&self.config)?;
        Ok(method.restore(ns, &method::site(&self.config), generation)?)
    }
}

impl Finder {
    fn obtain(&self, search: &Search) -> anyhow::Result<Found> {
        let (generation, origin) = self.find(search)?;
        Ok(Found { generation, origin, stored: self.store.manifests() })
    }

    fn find(&self, search: &Search) -> anyhow::Result<(Box<Generation>, String)> {
        method::find(&self.config)?;
        let wanted = &search.wanted;
        if search.own
            && let Ok(generation) = self.store.newest_that(|m| wanted.fits(m))
        {
            return Ok((Box::new(generation), "this node's own".into()));
        }
        if search.sources.is_empty() {
            bail!("no node that could have one is there");
        }
        self.fetch_from(search)
    }

    /// Whoever searched before is not waited for any more.
    fn is_free(&self) -> bool {
        let end = Instant::now() + ABORT_LIMIT;
        while self.fetching.swap(true, Ordering::AcqRel) {
            self.progress.abort();
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    fn fetch_from(&self, search: &Search) -> anyhow::Result<(Box<Generation>, String)> {
        let mut errors = Vec::new();
        for (name, address) in &search.sources {
            match self.fetch_one(*address, search) {
                Ok(Fetched { generation, bytes, took }) => {
                    let text = format!("from {name}: {bytes} bytes in {} ms", took.as_millis());
                    return Ok((Box::new(generation), text));
                }
                Err(e) => errors.push(format!("{name}: {e:#}")),
            }
        }
        bail!(errors.join("; "))
    }

    fn fetch_one(&self, address: SocketAddr, search: &Search) -> anyhow::Result<Fetched> {
        let stream = connect(address)?;
        if self.newest.load(Ordering::Acquire) != search.ticket {
            bail!("nobody waits for it any more");
        }
        if !self.is_free() {
            bail!("another one is still being fetched");
        }
        let identity = self.keys.identity();
        let fetched = fetch(stream, &identity, &search.wanted, &self.store, &self.progress);
        self.fetching.store(false, Ordering::Release);
        Ok(fetched?)
    }
}
