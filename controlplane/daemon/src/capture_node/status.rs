//! What `understudy status` shows of a capture-only node.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use understudy_api::{CaptureStatus, LinkStatus, StoreStatus};
use understudy_config::CaptureNode;
use understudy_linux::space;
use understudy_segments::{Catalogue, Kept};

use super::counters::{Counters, LinkCounters};
use super::running::Running;

/// Everything that it is made of.
pub struct Stated {
    /// What does not change, once the links are open.
    fixed: Mutex<CaptureStatus>,
    since: Instant,
    counters: Arc<Counters>,
    catalogue: Arc<Catalogue>,
    running: Arc<Running>,
}

impl Stated {
    pub fn new(
        node: &CaptureNode,
        counters: Arc<Counters>,
        catalogue: Arc<Catalogue>,
        running: Arc<Running>,
    ) -> Stated {
        let config = &node.capture;
        let link = |device: &String| LinkStatus { device: device.clone(), ..LinkStatus::default() };
        let fixed = CaptureStatus {
            node: config.node.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            filter: config.filter.clone(),
            snap_len: config.snap_len,
            links: config.devices.iter().map(link).collect(),
            log_bytes: node.log.size_bytes(),
            store: StoreStatus {
                directory: config.directory.display().to_string(),
                ..StoreStatus::default()
            },
            ..CaptureStatus::default()
        };
        let (fixed, since) = (Mutex::new(fixed), Instant::now());
        Stated { fixed, since, counters, catalogue, running }
    }

    /// The links are open: what stamps their frames, and how the filter runs.
    pub fn opened(&self, clocks: Vec<String>, filter_runs_as: &str) {
        let mut fixed = self.fixed.lock().unwrap_or_else(PoisonError::into_inner);
        for (link, clock) in fixed.links.iter_mut().zip(clocks) {
            link.clock = clock;
        }
        fixed.filter_runs_as = filter_runs_as.into();
    }

    /// For systemd, whom news of every frame would not help.
    pub fn sentence(&self) -> String {
        match self.catalogue.kept().failed_because {
            None => format!("captures {} links", self.counters.links.len()),
            Some(why) => format!("captures, but not all is written: {why}"),
        }
    }

    pub fn status(&self) -> CaptureStatus {
        let fixed = self.fixed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let taken = self.counters.taken.load(Ordering::Relaxed);
        let links = fixed.links.iter().zip(&self.counters.links).map(|(l, c)| link(l, c)).collect();
        CaptureStatus {
            uptime_ms: self.since.elapsed().as_millis() as u64,
            links,
            behind_bytes: self.counters.log_end.load(Ordering::Relaxed).saturating_sub(taken),
            store: store(&fixed.store.directory, self.running.keep_bytes(), self.catalogue.kept()),
            ..fixed
        }
    }
}

fn link(fixed: &LinkStatus, counted: &LinkCounters) -> LinkStatus {
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    LinkStatus {
        device: fixed.device.clone(),
        clock: fixed.clock.clone(),
        up: counted.up.load(Ordering::Relaxed),
        received: of(&counted.received),
        received_bytes: of(&counted.received_bytes),
        filtered: of(&counted.filtered),
        captured: of(&counted.captured),
        cut: of(&counted.cut),
        not_logged: of(&counted.not_logged),
        missed: of(&counted.missed),
        errors: of(&counted.errors),
        no_buffer: of(&counted.no_buffer),
        device_stamped: of(&counted.device_stamped),
    }
}

fn store(directory: &str, keep_bytes: u64, kept: Kept) -> StoreStatus {
    StoreStatus {
        directory: directory.into(),
        segments: kept.segments,
        bytes: kept.bytes,
        keep_bytes,
        free_bytes: space::free_bytes(Path::new(directory)).ok(),
        oldest_unix_ns: kept.oldest_ns,
        written_records: kept.written_records,
        written_bytes: kept.written_bytes,
        blocks: kept.blocks,
        lost_records: kept.lost_records,
        unwritten_records: kept.unwritten_records,
        removed_segments: kept.removed_segments,
        removed_for_space: kept.removed_for_space,
        recovered_segments: kept.recovered_segments,
        cut_bytes: kept.cut_bytes,
        damaged_files: kept.damaged_files,
        unsynced_segments: kept.unsynced_segments,
        failures: kept.failures,
        failed_because: kept.failed_because,
    }
}
