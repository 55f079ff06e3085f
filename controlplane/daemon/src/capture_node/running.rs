//! What a capture-only node runs with, and its file read again.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::queue::ArrayQueue;
use signal_hook::iterator::Signals;
use tracing::{info, warn};
use understudy_api::Response;
use understudy_config::{CaptureNode, IdleConfig, Plan};
use understudy_segments::Limits;

use super::limits;
use crate::running::{asked_for, describe, read_plan, refuse};

/// The configuration of now, and what the threads have not taken of it yet.
pub struct Running {
    file: PathBuf,
    node: Mutex<CaptureNode>,
    limits: ArrayQueue<Limits>,
    idle: ArrayQueue<IdleConfig>,
    reloads: AtomicU64,
}

impl Running {
    pub fn new(file: &Path, node: CaptureNode) -> Running {
        Running {
            file: std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf()),
            node: Mutex::new(node),
            limits: ArrayQueue::new(1),
            idle: ArrayQueue::new(1),
            reloads: AtomicU64::new(0),
        }
    }

    /// Other limits, once: for the thread that writes.
    pub fn newer_limits(&self) -> Option<Limits> {
        self.limits.pop()
    }

    /// Another way to rest, once: for the poll-mode thread.
    pub fn newer_idle(&self) -> Option<IdleConfig> {
        self.idle.pop()
    }

    /// How often the file was read again and applied.
    pub fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Relaxed)
    }

    /// Bytes of segments that are kept.
    pub fn keep_bytes(&self) -> u64 {
        limits(&self.node.lock().unwrap_or_else(PoisonError::into_inner)).keep_bytes
    }

    /// What a file would change; the daemon's own, if none is given.
    pub fn plan(&self, file: Option<&str>) -> Response {
        let node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        let planned = asked_for(file, &self.file).and_then(|file| {
            let plan = read_plan(file, || Plan::load_capture(&node, file))?;
            Ok(describe(file, &plan, false))
        });
        planned.map_or_else(Response::from, Response::from)
    }

    /// All of the file, or nothing of it.
    pub fn reload(&self) -> Response {
        let mut node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        let read = read_plan(&self.file, || Plan::load_capture(&node, &self.file))
            .and_then(|plan| refuse(&self.file, &plan).map(|()| plan));
        let plan = match read {
            Ok(plan) => plan,
            Err(mut error) => {
                error.message.push_str("; nothing was changed");
                return error.into();
            }
        };
        let told = describe(&self.file, &plan, true);
        let _ = self.limits.force_push(limits(&plan.config));
        let _ = self.idle.force_push(plan.config.idle.clone());
        *node = plan.config;
        self.reloads.fetch_add(1, Ordering::Relaxed);
        told.into()
    }

    /// Whoever sends SIGHUP gets no answer, but for the log.
    pub fn on_hangup(self: &Arc<Self>, mut hangups: Signals) -> std::io::Result<()> {
        let running = Arc::clone(self);
        let read_again = move || {
            for _ in hangups.forever() {
                match running.reload() {
                    Response::Error(e) => warn!("SIGHUP: {e}"),
                    Response::Plan(plan) => info!("SIGHUP: {} fields changed", plan.changes.len()),
                    _ => {}
                }
            }
        };
        std::thread::Builder::new().name("reload".into()).spawn(read_again).map(drop)
    }
}
