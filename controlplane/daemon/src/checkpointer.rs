//! The helper thread that takes checkpoints: CRIU and disks take their time.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use crossbeam::channel::{Receiver, Sender, bounded};
use understudy_checkpoint::{Criu, Draft, Dumped, Generation, Manifest, Store};
use understudy_config::Config;
use understudy_linux::netns::NetNs;

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
}

/// What it has done.
pub enum Done {
    Prepared(Result<(), String>),
    Dumped(Result<Dumped, String>),
    Kept(Result<Generation, String>),
}

/// The control thread's end.
pub struct Checkpointer {
    pub submit: Sender<Job>,
    pub done: Receiver<Done>,
}

struct Worker {
    config: Arc<Config>,
    store: Store,
    draft: Option<(Criu, Draft)>,
}

impl Checkpointer {
    /// Starts the thread.
    pub fn start(config: &Arc<Config>) -> anyhow::Result<Checkpointer> {
        let dir = config.control.state_dir.join("checkpoints");
        let store = Store::open(&dir, config.checkpoint.keep)?;
        let (submit, jobs) = bounded::<Job>(QUEUE_MAX);
        let (report, done) = bounded(QUEUE_MAX);
        let mut worker = Worker { config: Arc::clone(config), store, draft: None };
        std::thread::Builder::new().name("checkpointer".into()).spawn(move || {
            for job in jobs {
                let done = match job {
                    Job::Prepare => Some(Done::Prepared(said(worker.prepare()))),
                    Job::Dump { pid, ns } => Some(Done::Dumped(said(worker.dump(pid, &ns)))),
                    Job::Keep(manifest) => Some(Done::Kept(said(worker.keep(*manifest)))),
                    Job::Discard => {
                        worker.draft = None;
                        None
                    }
                };
                if done.is_some_and(|done| report.send(done).is_err()) {
                    break;
                }
            }
        })?;
        Ok(Checkpointer { submit, done })
    }
}

fn said<T>(result: anyhow::Result<T>) -> Result<T, String> {
    result.map_err(|e| format!("{e:#}"))
}

impl Worker {
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
}
