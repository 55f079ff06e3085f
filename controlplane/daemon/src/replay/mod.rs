//! `understudyd --replay`: a recorded log is fed to an application in a capsule of its own, as a clone is
//! fed, and what it says is compared with the primary's notes in the log. It is a fresh one, or comes from
//! a checkpoint. No node is touched: a network namespace of its own, no client and no replica port, a state
//! directory that is gone afterwards.

mod heard;
mod origin;
mod recording;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tracing::info;
use understudy_api::replay::{
    CONNECTIONS_TOLD_MAX, Replay, ReplayDifference, ReplayVerdict, ReplayedCheckpoint,
    ReplayedConnection,
};
use understudy_config::Config;
use understudy_dpdk::Eal;
use understudy_fastpath::audit::compare::{Comparison, Connection, Manner};
use understudy_fastpath::command::{Command, Event, Tuning};
use understudy_fastpath::dataplane::Dataplane;
use understudy_linux::mounts;
use understudy_linux::netns::NetNs;
use understudy_log::{CaptureLog, LogError};
use understudy_seal::{Channel, ClusterKey, Keyring, Scope, entropy};
use understudy_wire::record::RecordHeader;

use crate::lcore;
use crate::node_capsule::NodeCapsule;
use crate::ports::{CapsuleLink, DpdkPorts, NodeClock};
use heard::{Heard, Unplugged};
use origin::{Begun, Origin};
use recording::Recording;

/// Ordinary memory, so that a node that runs here keeps its huge pages.
const MBUFS: u32 = 32_768;
const LOG_BYTES_MAX: u64 = 64 << 20;
/// What may be in the log and not yet applied.
const AHEAD_BYTES_MAX: u64 = 1 << 20;
/// All has been said, and no more comes for so long.
const QUIET: Duration = Duration::from_millis(200);
/// Once the application has left the primary's way, or kept the log waiting for as long as a clone may,
/// each connection keeps the others waiting no longer than that.
const IMPATIENT_NS: u64 = 100_000_000;
/// Nothing moves for so long, beside what `service.clone_wait_ms` allows.
const STUCK: Duration = Duration::from_secs(5);
const LAST_WORDS_BYTES: usize = 500;

/// What an operator asks for.
pub struct Wanted<'a> {
    /// The recording.
    pub file: &'a Path,
    /// Where the application comes from: the number of one of the node's checkpoints, or a directory.
    pub checkpoint: Option<&'a str>,
    /// What the application says goes here, as pcapng.
    pub write: Option<&'a Path>,
    /// Where the application runs, or what it finds there; without it, an empty directory.
    pub work_dir: Option<&'a Path>,
    /// Records are given no earlier than so many times faster than they came; without it, as fast as
    /// the application follows.
    pub speed: Option<f64>,
    /// Another command than the configured one.
    pub command: &'a [String],
}

/// Does it all, and cleans up.
pub fn replay(config: &Config, wanted: &Wanted<'_>) -> anyhow::Result<Replay> {
    if config.is_witness() {
        bail!("a witness has no application: use the configuration of a node that serves");
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot watch signals")?;
    }
    let begun = Instant::now();
    let origin = wanted.checkpoint.map(|name| Origin::find(config, name)).transpose()?;
    let mut recording = Recording::open(wanted.file, origin.as_ref().map_or(0, Origin::floor))?;
    if let Some(origin) = &origin {
        origin.judge(&mut recording)?;
    }
    let directory = Scratch::make()?;
    let config = Arc::new(own_config(config, wanted, &directory.0)?);
    let own_files = match &origin {
        Some(origin) => origin.own_files(&config, wanted.work_dir, &directory.0)?,
        None => Vec::new(),
    };
    let heard = Unplugged::new(wanted.write, &recording.summary.node)?;
    // A thread of its own, in a namespace of its own: the host port's name is every node's.
    let here = NetNs::create().context("cannot make a network namespace")?;
    let run = || {
        if origin.is_some() {
            mounts::put_over(&own_files)?;
        }
        Run::start(&config, &mut recording, origin, heard, wanted.speed, &stop)?.play()
    };
    let mut found = here.run(run)??;
    found.took_ms = begun.elapsed().as_millis() as u64;
    Ok(found)
}

/// A directory that is gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> anyhow::Result<Scratch> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("understudy-replay-{}", std::process::id()));
        let made = fs::DirBuilder::new().mode(0o755).create(&path);
        made.with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn own_config(config: &Config, wanted: &Wanted<'_>, directory: &Path) -> anyhow::Result<Config> {
    let mut own = config.clone();
    own.control.state_dir = directory.join("state");
    let work_dir = match wanted.work_dir {
        Some(given) => std::path::absolute(given)?,
        None => directory.join("work"),
    };
    for made in [&own.control.state_dir, &work_dir] {
        fs::create_dir_all(made).with_context(|| format!("cannot make {}", made.display()))?;
    }
    if wanted.checkpoint.is_none() {
        // What comes from a checkpoint works where it did.
        own.service.work_dir = work_dir;
    }
    if !wanted.command.is_empty() {
        own.service.command = wanted.command.to_vec();
    }
    (own.dpdk.memory_mb, own.dpdk.mbufs) = (0, MBUFS);
    Ok(own)
}

/// A replay under way.
struct Run<'a> {
    config: &'a Config,
    recording: &'a mut Recording,
    speed: Option<f64>,
    stop: &'a AtomicBool,
    clock: NodeClock,
    capsule: NodeCapsule,
    ports: Heard<DpdkPorts>,
    dataplane: Dataplane<Heard<DpdkPorts>>,
    /// The next block, what is fed, and how much of that has been.
    block: (usize, Vec<u8>, usize),
    checkpoint: Option<ReplayedCheckpoint>,
    /// When the first record was fed, on this clock.
    fed_first_ns: Option<u64>,
    observed: u64,
    records: u64,
    moved: Instant,
    is_impatient: bool,
    // Last: what it gave out is gone by then.
    _eal: Eal,
}

impl<'a> Run<'a> {
    fn start(
        config: &'a Arc<Config>,
        recording: &'a mut Recording,
        origin: Option<Origin>,
        heard: Unplugged,
        speed: Option<f64>,
        stop: &'a AtomicBool,
    ) -> anyhow::Result<Run<'a>> {
        let mut capsule = NodeCapsule::create(config)?;
        let link = CapsuleLink::unwatched(capsule.adopter());
        // Before EAL pins this thread, so that the application does not inherit the poll-mode core.
        let (begun, mut comparison) = match origin {
            None => {
                let (pid, _) = capsule.start_app().context("cannot start the service")?;
                info!(pid, "application started");
                (None, Comparison::default())
            }
            Some(origin) => {
                let begun = origin.restore(config, &capsule.ns)?;
                let comparison = Comparison::resumed(&begun.resume);
                (Some(begun), comparison)
            }
        };
        recording.for_each(|at, header, payload| comparison.expect(at, header, payload))?;
        let eal = Eal::init(&lcore::eal_args(&config.dpdk, "replay", std::iter::empty()))
            .context("cannot initialise DPDK")?;
        let clock = NodeClock::new();
        let log = CaptureLog::new(config.log.size_bytes().min(LOG_BYTES_MAX) as usize)?;
        let ports = heard.plug(DpdkPorts::of_capsule(config, clock.clone(), link)?, comparison);
        let dataplane = Dataplane::new(lcore::replay_config(config), log, unheard(config)?);
        let (nth, at) = recording.first();
        let block = if at == 0 { Vec::new() } else { recording.block(nth)? };
        let nth = if at == 0 { nth } else { nth + 1 };
        let mut run = Run {
            config,
            recording,
            speed,
            stop,
            clock,
            capsule,
            ports,
            dataplane,
            block: (nth, block, at),
            checkpoint: None,
            fed_first_ns: None,
            observed: 0,
            records: 0,
            moved: Instant::now(),
            is_impatient: false,
            _eal: eal,
        };
        if let Some(begun) = begun {
            run.resume(begun)?;
        }
        Ok(run)
    }

    /// The application of a checkpoint goes on, and is fed from the floor on.
    fn resume(&mut self, begun: Begun) -> anyhow::Result<()> {
        let floor = begun.resume.barrier.floor;
        let order = Command::Resume(Box::new(begun.resume));
        self.dataplane.command(self.clock.now_ns(), order, &mut self.ports);
        match self.dataplane.poll_event() {
            Some(Event::Resumed(true)) => {}
            _ => bail!("the data path cannot begin at the checkpoint"),
        }
        self.observed = floor;
        let (pid, _) = self.capsule.install(begun.app).context("the application cannot go on")?;
        info!(pid, "application restored");
        self.checkpoint = Some(begun.told);
        Ok(())
    }

    fn play(mut self) -> anyhow::Result<Replay> {
        self.wait_ready()?;
        let now_ns = self.clock.now_ns();
        self.dataplane.command(now_ns, Command::Service { up: true }, &mut self.ports);
        self.moved = Instant::now();
        let ended_early = loop {
            self.turn()?;
            if let Some(why) = self.is_over()? {
                break why;
            }
        };
        let application_ended = self.application_ended();
        let (comparison, written) = self.ports.finish();
        written?;
        Ok(self.report(&comparison, ended_early, application_ended))
    }

    fn wait_ready(&mut self) -> anyhow::Result<()> {
        let limit = Duration::from_millis(self.config.service.ready_timeout_ms);
        let since = Instant::now();
        while !self.capsule.is_ready()? {
            if let Some(how) = self.application_ended() {
                bail!("the application {how}");
            }
            if since.elapsed() > limit || self.stop.load(Ordering::Relaxed) {
                bail!("the application has not bound service.ports after {:?}", since.elapsed());
            }
            self.dataplane.poll(self.clock.now_ns(), &mut self.ports);
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// One poll, what was applied and said in it, and what is to be applied next.
    fn turn(&mut self) -> anyhow::Result<()> {
        let now_ns = self.clock.now_ns();
        let mut moved = self.feed(now_ns)?;
        let busy = self.dataplane.poll(now_ns, &mut self.ports);
        while self.dataplane.poll_event().is_some() {}
        while self.observed < self.dataplane.applied()
            && let Some(record) = self.dataplane.log().record(self.observed)
        {
            self.ports.comparison.applied(self.observed, &record.header, record.payload);
            (self.observed, self.records) = (record.next, self.records + 1);
            moved = true;
        }
        moved |= self.ports.compare(self.clock.now_ns())?;
        let differs =
            self.ports.comparison.differs() || self.dataplane.counters().ack_waits_expired > 0;
        if differs && !std::mem::replace(&mut self.is_impatient, true) {
            let tuning = Tuning { clone_wait_ns: IMPATIENT_NS, ..lcore::tuning(self.config) };
            self.dataplane.command(now_ns, Command::Tune(tuning), &mut self.ports);
        }
        if moved {
            self.moved = Instant::now();
        } else if !busy {
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }

    /// Gives the log the next record, and more, as long as there is room before what is applied. True: it
    /// did, or waits for a record's time.
    fn feed(&mut self, now_ns: u64) -> anyhow::Result<bool> {
        let mut moved = false;
        while self.dataplane.log().end() < self.observed + AHEAD_BYTES_MAX {
            let (nth, records, at) = &mut self.block;
            if *at == records.len() {
                if *nth == self.recording.blocks() {
                    break;
                }
                (*records, *at) = (self.recording.block(*nth)?, 0);
                *nth += 1;
            }
            let header = RecordHeader::decode(&records[*at..])?;
            let first_ns = *self.fed_first_ns.get_or_insert(now_ns);
            if let Some(speed) = self.speed {
                let of_log = header.timestamp_ns.saturating_sub(self.recording.summary.from_ns);
                if (now_ns - first_ns) as f64 * speed < of_log as f64 {
                    return Ok(true);
                }
            }
            let stored = &records[*at..*at + header.stored_len()];
            match self.dataplane.feed(now_ns, stored, header.timestamp_ns) {
                Ok(()) => *at += stored.len(),
                Err(LogError::Full) => break,
                Err(e) => return Err(e).context("the recording"),
            }
            moved = true;
        }
        Ok(moved)
    }

    /// `Some`: it is, and why before its time.
    fn is_over(&mut self) -> anyhow::Result<Option<Option<String>>> {
        if self.stop.load(Ordering::Relaxed) {
            return Ok(Some(Some("it was told to stop".into())));
        }
        let idle = self.moved.elapsed();
        if idle < QUIET {
            return Ok(None);
        }
        if self.capsule.app_exited().is_some() {
            return Ok(Some(None));
        }
        let all = self.observed >= self.recording.summary.end;
        if all && self.ports.comparison.is_settled() {
            return Ok(Some(None));
        }
        if idle < STUCK + Duration::from_millis(self.config.service.clone_wait_ms) {
            return Ok(None);
        }
        let stuck = || format!("nothing more could be applied from position {} on", self.observed);
        Ok(Some((!all).then(stuck)))
    }

    /// How, and what it wrote last.
    fn application_ended(&mut self) -> Option<String> {
        let status = self.capsule.app_exited()?;
        let output = fs::read(self.capsule.log_file()).unwrap_or_default();
        let tail =
            String::from_utf8_lossy(&output[output.len().saturating_sub(LAST_WORDS_BYTES)..])
                .trim()
                .to_owned();
        Some(match tail.is_empty() {
            true => format!("ended: {status}"),
            false => format!("ended: {status}; it wrote last: {tail}"),
        })
    }

    fn report(
        &self,
        comparison: &Comparison,
        ended_early: Option<String>,
        application_ended: Option<String>,
    ) -> Replay {
        let summary = &self.recording.summary;
        let all: Vec<&Connection> = comparison.connections().collect();
        let sum = |of: fn(&Connection) -> u64| all.iter().map(|c| of(c)).sum::<u64>();
        let differing = all.iter().filter(|c| c.difference.is_some()).count();
        let notes_same = sum(|c| c.same);
        let verdict = if differing > 0 || application_ended.is_some() {
            ReplayVerdict::Differs
        } else if notes_same == 0 || ended_early.is_some() {
            ReplayVerdict::NothingToCompare
        } else {
            ReplayVerdict::Same
        };
        let mut told = all.clone();
        told.sort_by_key(|c| c.difference.map_or((1, 0), |d| (0, d.at)));
        told.truncate(CONNECTIONS_TOLD_MAX);
        Replay {
            verdict,
            recorded_on: summary.node.clone(),
            from_unix_ns: summary.from_ns,
            to_unix_ns: summary.to_ns,
            end: summary.end,
            incomplete: summary.incomplete.clone(),
            records: self.records,
            applied: self.observed,
            checkpoint: self.checkpoint.clone(),
            ended_early,
            application_ended,
            applied_bytes: sum(|c| c.heard_bytes),
            said_bytes: sum(|c| c.said_bytes),
            notes_same,
            notes_uncompared: sum(|c| c.uncompared + c.aligned) + comparison.notes_elsewhere(),
            took_ms: 0,
            connections_total: all.len() as u64,
            connections_differing: differing as u64,
            connections: told.into_iter().map(connection).collect(),
        }
    }
}

fn connection(c: &Connection) -> ReplayedConnection {
    let end = |(address, port)| SocketAddr::new(address, port).to_string();
    ReplayedConnection {
        client: end(c.key.client),
        server: end(c.key.server),
        opened_unix_ns: c.opened_ns,
        applied_bytes: c.heard_bytes,
        said_bytes: c.said_bytes,
        notes_same: c.same,
        notes_uncompared: c.uncompared + c.aligned,
        reset: c.reset,
        difference: c.difference.map(|d| ReplayDifference {
            said_less: d.manner == Manner::Less,
            from_seq: d.from,
            to_seq: d.to,
            offset: d.offset,
            position: d.at,
            noted_unix_ns: d.at_ns,
        }),
    }
}

/// The end of a replica network on which nobody is.
fn unheard(config: &Config) -> anyhow::Result<Channel> {
    let keyring = Keyring::single(ClusterKey::new(entropy()?));
    let scope = Scope { cluster: config.cluster_id(), path: understudy_seal::Path::Replica };
    Ok(Channel::new(config.me().id, scope, &[], &keyring, entropy()?))
}
