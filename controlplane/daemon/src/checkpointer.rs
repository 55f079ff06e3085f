//! The helper thread for checkpoints: CRIU, disks and other nodes take their time. It takes them,
//! gets them from elsewhere, and restores them.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use crossbeam::channel::{Receiver, Sender, bounded};
use tracing::{info, warn};
use understudy_checkpoint::transfer::{Fetched, Progress, Wanted, fetch};
use understudy_checkpoint::{Criu, Draft, Dumped, Generation, Manifest, Store};
use understudy_config::Config;
use understudy_image::SocketImage;
use understudy_linux::capsule::App;
use understudy_linux::netns::NetNs;
use understudy_linux::socks;

use crate::keys::Keys;

/// One checkpoint is under way at a time, and one order of it.
const QUEUE_MAX: usize = 4;

/// What the thread is to do next.
pub enum Job {
    /// Get ready: nothing stands still yet.
    Prepare,
    /// The application is given nothing any more: save it.
    Dump { pid: i32, ns: Arc<NetNs> },
    /// It may be relied on: make it a generation.
    Keep(Box<Manifest>),
    /// It may not.
    Discard,
    /// Find one that fits, here or elsewhere.
    Obtain(Box<Search>),
    /// Bring the application back as it was; what was there of it is gone.
    Restore { generation: Box<Generation>, ns: Arc<NetNs>, output: PathBuf },
    /// The application that was restored goes on well.
    Settled,
    /// This one did not come back to life.
    Reject(u64),
}

/// Which checkpoint, and where to look for it.
pub struct Search {
    pub wanted: Wanted,
    /// One of this node's own would do.
    pub own: bool,
    /// Who may have one, the one to ask first at the front.
    pub sources: Vec<(String, SocketAddr)>,
}

/// An application as it was, standing still.
pub struct Restored {
    pub app: App,
    pub connections: Vec<SocketImage>,
}

/// What it has done.
pub enum Done {
    Prepared(Result<(), String>),
    Dumped(Result<Dumped, String>),
    Kept(Result<Generation, String>),
    /// And where it came from.
    Obtained(Result<(Box<Generation>, String), String>),
    Restored(Result<Box<Restored>, String>),
}

/// The control thread's end.
pub struct Checkpointer {
    pub submit: Sender<Job>,
    pub done: Receiver<Done>,
    /// Of what is being fetched.
    pub progress: Arc<Progress>,
}

struct Worker {
    config: Arc<Config>,
    keys: Keys,
    store: Store,
    draft: Option<(Criu, Draft)>,
    progress: Arc<Progress>,
}

impl Checkpointer {
    /// Starts the thread.
    pub fn start(config: &Arc<Config>, store: Store, keys: Keys) -> anyhow::Result<Checkpointer> {
        let (submit, jobs) = bounded::<Job>(QUEUE_MAX);
        let (report, done) = bounded(QUEUE_MAX);
        let progress = Arc::new(Progress::default());
        let mut worker = Worker {
            config: Arc::clone(config),
            keys,
            store,
            draft: None,
            progress: Arc::clone(&progress),
        };
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
            Job::Dump { pid, ns } => return Some(Done::Dumped(said(self.dump(pid, &ns)))),
            Job::Keep(manifest) => return Some(Done::Kept(said(self.keep(*manifest)))),
            Job::Obtain(search) => return Some(Done::Obtained(said(self.obtain(&search)))),
            Job::Restore { generation, ns, output } => {
                let restored = self.restore(&generation, &ns, output);
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

    fn work_dir(&self) -> PathBuf {
        self.config.control.state_dir.join("criu")
    }

    fn prepare(&mut self) -> anyhow::Result<()> {
        self.draft = None;
        self.draft = Some((Criu::find()?, self.store.begin()?));
        Ok(())
    }

    fn dump(&mut self, pid: i32, ns: &NetNs) -> anyhow::Result<Dumped> {
        let (criu, draft) = self.draft.as_ref().context("nothing was prepared")?;
        let state_dirs = &self.config.service.state_dirs;
        let dumped = criu.dump(ns, pid, state_dirs, draft.dir(), &self.work_dir());
        if dumped.is_err() {
            self.draft = None;
        }
        Ok(dumped?)
    }

    fn keep(&mut self, manifest: Manifest) -> anyhow::Result<Generation> {
        let (_, draft) = self.draft.take().context("nothing was dumped")?;
        Ok(self.store.commit(draft, manifest)?)
    }

    fn obtain(&mut self, search: &Search) -> anyhow::Result<(Box<Generation>, String)> {
        Criu::find()?;
        let wanted = &search.wanted;
        if search.own
            && let Ok(generation) = self.store.newest_that(|m| wanted.fits(m))
        {
            return Ok((Box::new(generation), "this node's own".into()));
        }
        let mut errors = Vec::new();
        for (name, address) in &search.sources {
            let identity = self.keys.identity();
            match fetch(*address, &identity, wanted, &self.store, &self.progress) {
                Ok(Fetched { generation, bytes, took }) => {
                    let text = format!("from {name}: {bytes} bytes in {} ms", took.as_millis());
                    return Ok((Box::new(generation), text));
                }
                Err(e) => errors.push(format!("{name}: {e}")),
            }
        }
        if errors.is_empty() {
            bail!("no node that could have one is there");
        }
        bail!(errors.join("; "))
    }

    fn restore(
        &mut self,
        generation: &Generation,
        ns: &NetNs,
        output: PathBuf,
    ) -> anyhow::Result<Restored> {
        let ended = socks::destroy_connections(ns)?;
        if ended > 0 {
            info!("{ended} connections of the application that was here are ended");
        }
        let manifest = &generation.manifest;
        self.store.set_trying(Some(generation.number));
        let file = OpenOptions::new().append(true).create(true).open(&output)?;
        let state_dirs = &self.config.service.state_dirs;
        let output = (manifest.output_file.as_str(), file);
        let criu = Criu::find()?;
        let app = criu.restore(ns, state_dirs, &generation.dir, &self.work_dir(), output)?;
        let connections = Criu::renew(&app, manifest)?;
        Ok(Restored { app, connections })
    }
}
