//! Taking a checkpoint, step by step: get ready, hold, dump, release, keep. A step that fails or
//! takes too long ends it; the application goes on whatever happens. An application that cannot be
//! saved at this moment is released, and held again a moment later, so often.
//!
//! A primary's may hold what is not committed: a node may need it to become the replica that
//! commits it. Whoever uses a checkpoint judges whether all of it is history.

use std::sync::atomic::Ordering as Atomic;

use std::time::UNIX_EPOCH;

use understudy_api::{Checkpoint, Checkpoints};
use understudy_checkpoint::transfer::Server as TransferServer;
use understudy_checkpoint::{Dumped, Generation, Manifest, Reign, Store as CheckpointStore};
use understudy_config::{CheckpointConfig, CommitPolicy};
use understudy_fastpath::command::Barrier;
use understudy_log::LogView;

use super::*;
use crate::checkpointer::{Checkpointer, Done, Job};
use crate::{keys::Keys, method, offers, server::Call};

/// How long the data path may take to hold.
const HOLD_LIMIT_NS: u64 = 1_000 * MS;
/// What failed is tried again after this.
const RETRY_NS: u64 = 1_000 * MS;

/// An application that could not be saved goes on for so long, and longer each time.
const MOMENT_NS: u64 = 20 * MS;
const MOMENTS_MAX: u32 = 40;

/// Refusals that another moment may change.
const UNDER_WAY: &str = "a checkpoint is under way";
const TAKEOVER: &str = "a takeover is under way";
pub const NOT_NOW: [&str; 2] = [UNDER_WAY, TAKEOVER];

/// How far a checkpoint has come.
enum Stage {
    /// The application goes on until then.
    Wait {
        until_ns: u64,
    },
    Prepare,
    /// It waits for a health check, whose connection is none of the application's.
    Quiet {
        since_ns: u64,
    },
    Hold {
        since_ns: u64,
    },
    Dump {
        barrier: Box<Barrier>,
        held_ns: u64,
    },
    Keep,
}

struct UnderWay {
    stage: Stage,
    begun_ns: u64,
    /// So many moments were not the right ones.
    moments: u32,
    /// Who asked for it, if anybody did.
    answer: Option<Sender<Response>>,
}

/// The control thread's view of checkpoints.
pub(super) struct Taking {
    pub(super) store: CheckpointStore,
    worker: Checkpointer,
    offers: TransferServer,
    under_way: Option<UnderWay>,
    taken: u64,
    newest: Option<(Checkpoint, u64)>,
    failed: Option<String>,
    /// When the last one began, and how many connections there had been by then.
    last_ns: u64,
    last_handshakes: u64,
    /// When the last one ended.
    ended_ns: u64,
    /// One that was due could not be begun, or failed; it is tried again then.
    not_before_ns: u64,
}

impl Taking {
    pub(super) fn start(
        config: &Arc<Config>,
        calls: Sender<Call>,
        keys: &Keys,
        log: LogView,
        now_ns: u64,
    ) -> anyhow::Result<Taking> {
        let mut store =
            CheckpointStore::open(&method::checkpoints(config), config.checkpoint.keep)?;
        if config.commit.policy == CommitPolicy::Checkpoint {
            // As safe as the log, which is in memory: a majority holds it, and clients wait.
            store = store.without_sync();
        }
        let worker = Checkpointer::start(config, store.clone(), keys.clone(), log)?;
        let offers = offers::serve(config, store.clone(), calls, keys.clone())?;
        let (under_way, newest, failed) = (None, None, None);
        Ok(Taking {
            store,
            worker,
            offers,
            under_way,
            taken: 0,
            newest,
            failed,
            last_ns: now_ns,
            last_handshakes: 0,
            ended_ns: now_ns,
            not_before_ns: 0,
        })
    }

    pub(super) fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    pub(super) fn counters(&self) -> [(&'static str, u64); 4] {
        self.offers.counters()
    }

    /// Other limits from now on.
    pub(super) fn tune(&self, config: &CheckpointConfig) {
        self.store.set_keep(config.keep);
        self.offers.set_rate(offers::rate_bytes_s(config));
    }

    fn submit(&self, job: Job) -> Result<(), String> {
        let failed = |_| "the thread that takes checkpoints is gone".to_string();
        self.worker.submit.try_send(job).map_err(failed)
    }
}

impl Control {
    /// Somebody asks for a checkpoint.
    pub(super) fn ask_checkpoint(&mut self, now_ns: u64, answer: Sender<Response>) {
        if let Err(text) = self.begin_checkpoint(now_ns, Some(answer.clone())) {
            let _ = answer.send(ApiError::new(ErrorCode::RefusedUnsafe, text).into());
        }
    }

    /// What there is of checkpoints, and of a restoration.
    pub(super) fn checkpoints(&self, now_ns: u64) -> Option<Checkpoints> {
        let taking = self.taking.as_ref()?;
        let progress = &taking.worker.progress;
        let progress = (progress.done.load(Atomic::Relaxed), progress.total.load(Atomic::Relaxed));
        Some(Checkpoints {
            taken: taking.taken,
            under_way: taking.under_way.is_some(),
            newest: taking.newest.as_ref().map(|(checkpoint, _)| checkpoint.clone()),
            age_ms: taking.newest.as_ref().map(|(_, at_ns)| now_ns.saturating_sub(*at_ns) / MS),
            failed_because: taking.failed.clone(),
            restored: self.restoration.restored,
            restoring: self.restoration.view(progress, now_ns),
        })
    }

    pub(super) fn submit_checkpoint_job(&self, job: Job) -> Result<(), String> {
        self.taking.as_ref().map_or(Ok(()), |taking| taking.submit(job))
    }

    /// One is due, or what is under way has taken its next step.
    pub(super) fn advance_checkpoint(&mut self, now_ns: u64) {
        if self.is_checkpoint_due(now_ns) && self.begin_checkpoint(now_ns, None).is_err() {
            // Not now; a moment later, perhaps.
            if let Some(taking) = &mut self.taking {
                taking.not_before_ns = now_ns + RETRY_NS;
            }
        }
        while let Some(done) = self.taking.as_ref().and_then(|t| t.worker.done.try_recv().ok()) {
            match done {
                Done::Obtained(ticket, result) => self.obtained(now_ns, ticket, result),
                Done::Restored(result) => self.restored(now_ns, result),
                done => self.checkpoint_step(now_ns, done),
            }
        }
        self.hold_if_quiet(now_ns);
        self.watch_stage(now_ns);
        self.protect_committed();
    }

    /// By output that waits for one, by time, by what was written to the log, or by connections.
    fn is_checkpoint_due(&self, now_ns: u64) -> bool {
        let (Some(taking), Some(s)) = (&self.taking, &self.snapshot) else { return false };
        let config = &self.config.checkpoint;
        if taking.under_way.is_some() || now_ns < taking.not_before_ns {
            return false;
        }
        if s.at_ns > taking.ended_ns && self.is_cover_due(s, taking.last_ns, now_ns) {
            return true;
        }
        let interval_ns = config.interval_s * 1_000 * MS;
        let by_time = interval_ns > 0 && now_ns >= taking.last_ns + interval_ns;
        let since = taking.newest.as_ref().map_or(0, |(newest, _)| newest.position);
        let fill = s.log_capacity / 100 * config.log_fill_percent;
        let by_log = fill > 0 && s.applied.saturating_sub(since) >= fill;
        let new = s.counters.handshakes.saturating_sub(taking.last_handshakes);
        let by_connections = config.connections > 0 && new >= config.connections;
        (by_time || by_log || by_connections) && !self.clone_does_it(s, now_ns)
    }

    /// A primary leaves it to a clone, whose standing still nobody notices.
    fn clone_does_it(&self, s: &Snapshot, now_ns: u64) -> bool {
        let leads = matches!(s.role, DataRole::Lead(_));
        leads && self.node.view(now_ns).peers.iter().any(|p| p.alive && p.electable)
    }

    fn begin_checkpoint(
        &mut self,
        now_ns: u64,
        answer: Option<Sender<Response>>,
    ) -> Result<(), String> {
        let why_not = self.no_checkpoint_because();
        let handshakes = self.snapshot.as_ref().map_or(0, |s| s.counters.handshakes);
        let Some(taking) = &mut self.taking else {
            return Err("a witness has no application".into());
        };
        if taking.under_way.is_some() {
            return Err(UNDER_WAY.into());
        }
        if let Some(text) = why_not {
            return Err(text.into());
        }
        taking.submit(Job::Prepare)?;
        taking.last_ns = now_ns;
        taking.last_handshakes = handshakes;
        let stage = Stage::Prepare;
        taking.under_way = Some(UnderWay { stage, begun_ns: now_ns, moments: 0, answer });
        Ok(())
    }

    /// What would be saved must be worth it.
    fn no_checkpoint_because(&self) -> Option<&'static str> {
        let Some(s) = self.snapshot.as_ref().filter(|_| self.app == App::Ready) else {
            return Some(match (self.is_parked(), self.is_raising()) {
                (true, _) => "a warm clone takes none",
                (_, true) => TAKEOVER,
                _ => "the application is not ready",
            });
        };
        match s.role {
            DataRole::Lead(_) if s.drained => Some("a switchover is under way"),
            DataRole::Lead(_) if !s.level => Some(TAKEOVER),
            DataRole::Follow(_) if !s.fit => Some("the clone has left the primary's way"),
            DataRole::Lead(_) | DataRole::Follow(_) => None,
            DataRole::Idle | DataRole::Fenced => Some("this node is in no reign"),
        }
    }

    /// The data path gives the application nothing any more.
    pub(super) fn checkpoint_held(&mut self, now_ns: u64, barrier: Barrier) {
        let process = self.capsule.as_ref().and_then(|c| Some((c.app_pid()?, Arc::clone(&c.ns))));
        let Some(taking) = &mut self.taking else { return };
        let Some(under_way) = &mut taking.under_way else { return self.release() };
        if !matches!(under_way.stage, Stage::Hold { .. }) {
            return;
        }
        under_way.stage = Stage::Dump { barrier: Box::new(barrier), held_ns: now_ns };
        let submitted = match process {
            Some((pid, ns)) => taking.submit(Job::Dump { pid, ns }),
            None => Err("the application is gone".into()),
        };
        if let Err(text) = submitted {
            self.release();
            self.end_checkpoint(now_ns, Err(text));
        }
    }

    fn release(&mut self) {
        self.tell(Command::Release);
    }

    fn checkpoint_step(&mut self, now_ns: u64, done: Done) {
        let under_way = self.taking.as_mut().and_then(|t| t.under_way.as_mut());
        let Some(under_way) = under_way else { return };
        match (done, &mut under_way.stage) {
            (Done::Prepared(Ok(())), Stage::Prepare) => {
                under_way.stage = Stage::Quiet { since_ns: now_ns };
                self.hold_if_quiet(now_ns);
            }
            (Done::Dumped(result), Stage::Dump { barrier, held_ns }) => {
                let (barrier, held_us) = (barrier.clone(), (now_ns - *held_ns) / 1000);
                self.release();
                match result {
                    Ok(dumped) => self.dumped(now_ns, &barrier, held_us, dumped),
                    Err(text) => self.end_checkpoint(now_ns, Err(text)),
                }
            }
            (Done::NotNow(text), Stage::Dump { .. }) => {
                self.release();
                self.wait_a_moment(now_ns, text);
            }
            (Done::Kept(result), Stage::Keep) => self.end_checkpoint(now_ns, result),
            (Done::Prepared(Err(text)) | Done::Dumped(Err(text)), _) => {
                self.end_checkpoint(now_ns, Err(text));
            }
            // Of one that was given up meanwhile.
            _ => {}
        }
    }

    fn hold_if_quiet(&mut self, now_ns: u64) {
        let asking = self.supervision.is_asking();
        let under_way = self.taking.as_mut().and_then(|t| t.under_way.as_mut());
        let Some(under_way) = under_way else { return };
        let Stage::Quiet { since_ns } = under_way.stage else { return };
        if asking {
            let limit_ns = self.config.supervise.health.timeout_ms * MS + HOLD_LIMIT_NS;
            if now_ns > since_ns + limit_ns {
                self.end_checkpoint(now_ns, Err("a health check does not end".into()));
            }
            return;
        }
        under_way.stage = Stage::Hold { since_ns: now_ns };
        if !self.dataplane.order(Command::Hold) {
            self.end_checkpoint(now_ns, Err("the poll-mode thread takes no orders".into()));
        }
    }

    /// The application is about to stand still for a checkpoint, or does.
    pub(super) fn stands_still(&self) -> bool {
        let under_way = self.taking.as_ref().and_then(|t| t.under_way.as_ref());
        under_way
            .is_some_and(|u| !matches!(u.stage, Stage::Wait { .. } | Stage::Prepare | Stage::Keep))
    }

    /// A checkpoint would be of use; a primary leaves it to a clone, as always.
    pub(super) fn checkpoint_on_event(&mut self, now_ns: u64) -> Result<(), String> {
        let left = self.snapshot.as_ref().is_some_and(|s| self.clone_does_it(s, now_ns));
        if left {
            return Err("another node's clone follows, and takes its own".into());
        }
        self.begin_checkpoint(now_ns, None)
    }

    /// It is tried again, but not for ever.
    fn wait_a_moment(&mut self, now_ns: u64, text: String) {
        let under_way = self.taking.as_mut().and_then(|t| t.under_way.as_mut());
        let Some(under_way) = under_way else { return };
        under_way.moments += 1;
        let moments = under_way.moments;
        if moments >= MOMENTS_MAX {
            let text = format!("{text} ({moments} moments were tried)");
            return self.end_checkpoint(now_ns, Err(text));
        }
        debug!("checkpoint: {text}");
        under_way.stage = Stage::Wait { until_ns: now_ns + MOMENT_NS * u64::from(moments) };
        self.count("checkpoint_moments_missed");
    }

    fn dumped(&mut self, now_ns: u64, barrier: &Barrier, held_us: u64, dumped: Dumped) {
        let unix_ns = dumped.taken.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let manifest = Manifest {
            method: method::kind(&self.config),
            cluster: self.config.cluster.name.clone(),
            node: self.config.me().name.clone(),
            taken_unix_ns: u64::try_from(unix_ns).unwrap_or(u64::MAX),
            position: barrier.position,
            floor: barrier.floor,
            at_ns: barrier.at_ns,
            reigns: barrier
                .history
                .iter()
                .map(|e| Reign { epoch: e.epoch, start: e.start })
                .collect(),
            clocks: dumped.clocks,
            output_file: self.app_log(),
            frozen_us: dumped.frozen_us,
            held_us,
            pages: dumped.pages,
            ..Manifest::default()
        };
        let Some(taking) = &mut self.taking else { return };
        if let Some(under_way) = &mut taking.under_way {
            under_way.stage = Stage::Keep;
        }
        let handshakes = barrier.handshakes.clone();
        let kept = Job::Keep { manifest: Box::new(manifest), handshakes, pending: dumped.pending };
        if let Err(text) = taking.submit(kept) {
            self.end_checkpoint(now_ns, Err(text));
        }
    }

    fn watch_stage(&mut self, now_ns: u64) {
        let under_way = self.taking.as_mut().and_then(|t| t.under_way.as_mut());
        let Some(under_way) = under_way else { return };
        match under_way.stage {
            Stage::Hold { since_ns } if now_ns > since_ns + HOLD_LIMIT_NS => {
                self.release();
                let text = "the data path did not come to a barrier";
                self.end_checkpoint(now_ns, Err(text.into()));
            }
            Stage::Wait { until_ns } if now_ns >= until_ns => {
                under_way.stage = Stage::Prepare;
                let ready = match self.no_checkpoint_because() {
                    Some(why) => Err(why.into()),
                    None => self.submit_checkpoint_job(Job::Prepare),
                };
                if let Err(text) = ready {
                    self.end_checkpoint(now_ns, Err(text));
                }
            }
            _ => {}
        }
    }

    fn end_checkpoint(&mut self, now_ns: u64, result: Result<Generation, String>) {
        let Some(taking) = &mut self.taking else { return };
        let Some(under_way) = taking.under_way.take() else { return };
        taking.ended_ns = now_ns;
        let epoch = self.node.view(now_ns).epoch;
        let response: Response = match result {
            Ok(generation) => {
                let took_ms = (now_ns - under_way.begun_ns) / MS;
                let checkpoint = describe(&generation, took_ms);
                let text = format!(
                    "generation {} at {}: {} bytes, frozen {} us, held {} us, {took_ms} ms",
                    checkpoint.generation,
                    checkpoint.position,
                    checkpoint.bytes,
                    checkpoint.frozen_us,
                    checkpoint.held_us,
                );
                let mark = format!("checkpoint {} of the application", checkpoint.generation);
                self.told.mark(checkpoint.position, mark);
                taking.taken += 1;
                taking.failed = None;
                taking.newest = Some((checkpoint.clone(), now_ns));
                self.cover_output(&generation.manifest);
                if under_way.answer.is_some() || !self.commits_by_checkpoint() {
                    self.note(now_ns, epoch, "checkpoint", text);
                } else {
                    // Several a second: they would fill the timeline.
                    debug!("checkpoint: {text}");
                }
                checkpoint.into()
            }
            Err(text) => {
                let _ = taking.submit(Job::Discard);
                taking.failed = Some(text.clone());
                taking.not_before_ns = now_ns + RETRY_NS;
                self.note(now_ns, epoch, "checkpoint_failed", text.clone());
                ApiError::new(ErrorCode::Runtime, text).into()
            }
        };
        if let Some(answer) = under_way.answer {
            let _ = answer.send(response);
        }
    }
}

fn describe(generation: &Generation, took_ms: u64) -> Checkpoint {
    let m = &generation.manifest;
    Checkpoint {
        generation: generation.number,
        unix_ns: m.taken_unix_ns,
        position: m.position,
        floor: m.floor,
        bytes: m.bytes(),
        frozen_us: m.frozen_us,
        held_us: m.held_us,
        took_ms,
        pending: m.pending.len() as u64,
    }
}
