//! A capture-only node: every frame of its links into the log in memory by the poll-mode thread, from
//! there to segments on disk by a thread of its own, for which the first never waits.

mod counters;
mod links;
mod past;
mod running;
mod status;
mod supervised;
mod writer;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use signal_hook::iterator::Signals;
use tracing::{info, warn};
use understudy_api::check::{Finding, Level};
use understudy_api::doctor::Diagnosis;
use understudy_api::{ApiError, Capturing, ErrorCode, Request};
use understudy_config::{CaptureConfig, CaptureNode, interface};
use understudy_dpdk::Eal;
use understudy_dpdk::clock::Clock;
use understudy_linux::arrivals::Arrivals;
use understudy_linux::wake::Waker;
use understudy_log::CaptureLog;
use understudy_pcap::Filter;
use understudy_segments::{Limits, SegmentInfo, Store};

use crate::capture::{Captures, Told};
use crate::idle::{self, Rest};
use crate::lcore;
use crate::preflight;
use crate::server::Server;
use crate::web;
use counters::Counters;
use links::Links;
use running::Running;
use status::Stated;

pub use past::Past;
pub use status::Stated as CaptureStated;

const MB: u64 = 1 << 20;
const MINUTE_NS: u64 = 60_000_000_000;
const MS: u64 = 1_000_000;

/// Runs until told to stop.
pub fn serve(file: &Path, node: &CaptureNode) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot watch signals")?;
    }
    let hangups = Signals::new([signal_hook::consts::SIGHUP]).context("cannot watch signals")?;
    let running = Arc::new(Running::new(file, node.clone()));
    let config = &node.capture;
    let filter = Filter::compile(&config.filter).context("capture.filter")?;
    let args = lcore::eal_args(&node.dpdk, &config.node, config.devices.iter());
    let run_ns = unix_ns();
    let (store, recovered) =
        Store::open(&config.directory, limits(node), segment_info(node, run_ns))
            .with_context(|| format!("capture.directory {}", config.directory.display()))?;
    if recovered != Default::default() {
        warn!(
            segments = recovered.segments,
            records = recovered.records,
            cut_bytes = recovered.cut_bytes,
            damaged_files = recovered.damaged_files,
            "a daemon before this one died: its last segment ends at its last whole block"
        );
    }
    let mut log = CaptureLog::new(node.log.size_bytes() as usize)?;
    let view = log.view()?;
    let catalogue = store.catalogue();
    let counters = Arc::new(Counters::new(config.devices.len()));
    // Before EAL pins this thread, so that none of these inherits the poll-mode core.
    let (shared, kept) = (Arc::clone(&counters), Arc::clone(&running));
    let writer = writer::spawn(store, view.reader(), shared, kept, Arc::clone(&stop))?;
    running.on_hangup(hangups)?;
    let told = Arc::new(Told::default());
    let stated = {
        let (counters, catalogue) = (Arc::clone(&counters), Arc::clone(&catalogue));
        Arc::new(Stated::new(node, counters, catalogue, Arc::clone(&running)))
    };
    let supervised = {
        let (counters, stated) = (Arc::clone(&counters), Arc::clone(&stated));
        supervised::spawn(counters, stated, Arc::clone(&running), Arc::clone(&stop))?
    };
    web::start_capture(node.metrics.as_ref(), Arc::clone(&stated))?;
    let past = Past::new(catalogue, run_ns, segment_info(node, run_ns));
    let captures = Captures::of_links(view, Arc::clone(&told), capturing(node), past);
    let (about, asked) = (Arc::clone(&stated), Arc::clone(&running));
    let server = Server::serve(&node.control.socket, captures, move |request| match request {
        Request::Status => about.status().into(),
        Request::Plan { file } => asked.plan(file.as_deref()),
        Request::Reload => asked.reload(),
        other => {
            let text = format!("{} is nothing for a node that only captures", other.name());
            ApiError::new(ErrorCode::Runtime, text).into()
        }
    })?;
    let polled = (|| {
        let _eal = Eal::init(&args).context("cannot initialise DPDK")?;
        let mut links = Links::open(node, &filter, Clock::calibrate())?;
        let clocks = links.described();
        let mut kinds = clocks.clone();
        kinds.sort_unstable();
        kinds.dedup();
        told.set_clock(kinds.join("; or "));
        stated.opened(clocks, links.filter_runs_as());
        info!(node = config.node, links = config.devices.len(), "capturing");
        let rest = Rest::new(node.idle.clone(), arrivals(config)?);
        links.poll_until(&stop, &mut log, &counters, &told, &running, rest);
        Ok(())
    })();
    drop(server);
    counters.finished.store(true, Ordering::Release);
    writer.join().map_err(|_| anyhow::anyhow!("the thread that writes segments panicked"))?;
    let _ = supervised.join();
    polled
}

/// What ends a sleep of the poll-mode thread; nobody gives it orders.
fn arrivals(config: &CaptureConfig) -> anyhow::Result<Arrivals> {
    let mut arrivals = Arrivals::new(Waker::new()?);
    for interface in config.devices.iter().filter_map(|device| interface(device)) {
        idle::watch(&mut arrivals, interface);
    }
    Ok(arrivals)
}

fn limits(node: &CaptureNode) -> Limits {
    let config = &node.capture;
    Limits {
        segment_bytes: u64::from(config.segment_mb) * MB,
        block_bytes: config.block_kb as usize * 1024,
        keep_bytes: config.keep_mb * MB,
        keep_ns: config.keep_minutes * MINUTE_NS,
        flush_ns: config.flush_ms * MS,
        direct: config.direct,
    }
}

fn segment_info(node: &CaptureNode, run_ns: u64) -> SegmentInfo {
    let config = &node.capture;
    SegmentInfo {
        id: 0,
        run_ns,
        created_ns: run_ns,
        snap_len: config.snap_len,
        node: config.node.clone(),
        clock: format!("{SOFTWARE_CLOCK}; a device's own beside it where a record has one"),
        filter: config.filter.clone(),
        links: config.devices.clone(),
    }
}

/// What stamps where no device does.
pub const SOFTWARE_CLOCK: &str = "software: the TSC, following the system clock, read per burst";

fn capturing(node: &CaptureNode) -> Capturing {
    Capturing {
        node: node.capture.node.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        clock: SOFTWARE_CLOCK.into(),
        links: node.capture.devices.clone(),
        node_filter: node.capture.filter.clone(),
        ..Capturing::default()
    }
}

/// What this machine must offer. Looks, changes nothing.
pub fn check(node: &CaptureNode) -> Vec<Finding> {
    let config = &node.capture;
    let mut out: Vec<Finding> =
        preflight::for_capture(node).iter().filter_map(Diagnosis::finding).collect();
    if config.devices.iter().any(|device| device.starts_with("net_af_packet")) {
        let text = "capture.devices: net_af_packet has the kernel put IPv4 fragments together before it \
                    hands them on; use net_pcap (rx_iface_in=) or a network card to record them as they came";
        out.push(Finding::new(Level::Warn, text));
    }
    if let Err(e) = Filter::compile(&config.filter) {
        out.push(Finding::new(Level::Error, format!("capture.filter: {e}")));
    }
    check_directory(&mut out, &config.directory);
    out
}

fn check_directory(out: &mut Vec<Finding>, directory: &Path) {
    match fs::metadata(directory) {
        Ok(found) if !found.is_dir() => {
            let text = format!("capture.directory: {} is no directory", directory.display());
            out.push(Finding::new(Level::Error, text));
        }
        Ok(found) if found.mode() & 0o007 != 0 => {
            let text = format!(
                "capture.directory: all users may look into {}, which will hold what others \
                 said; chmod 750 it",
                directory.display()
            );
            out.push(Finding::new(Level::Warn, text));
        }
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            let text = format!("capture.directory: {}: {e}", directory.display());
            out.push(Finding::new(Level::Error, text));
        }
        _ => {}
    }
}

fn unix_ns() -> u64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A nap of a thread that has nothing to do.
fn nap() {
    std::thread::sleep(Duration::from_millis(1));
}
