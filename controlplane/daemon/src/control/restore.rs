//! Becoming whole by a checkpoint: get one, take the application away, bring it back as it was,
//! tell the data path where it stands, let it go on. What goes wrong is tried again, with another
//! checkpoint; nothing is given up while the node needs one.

use understudy_api::Restoring;
use understudy_checkpoint::transfer::Wanted;
use understudy_checkpoint::{Generation, Manifest, Reign, Restored};
use understudy_proto::{NeedsCheckpoint, PrimaryLog};
use understudy_wire::control::{History, Role};

use super::*;
use crate::checkpointer::{Found, Job, Obtained, Search};
use crate::resume::resume;

/// Between two attempts; doubled with each, up to the last.
const RETRY_FIRST_NS: u64 = 500 * MS;
const RETRY_LAST_NS: u64 = 30_000 * MS;
/// When output waits for this node to store one.
const RETRY_WAITED_FOR_NS: u64 = 50 * MS;
/// How often it is looked whether one is needed: the answer takes a view of the whole node.
const LOOK_NS: u64 = 20 * MS;
/// How long the data path may take to answer.
const RESUME_LIMIT_NS: u64 = 2_000 * MS;

/// How far it has come.
pub(super) enum Stage {
    /// Nothing is to be done, or not before this moment.
    Rest { until_ns: u64 },
    /// A checkpoint is looked for; what is found by an older ticket is not waited for any more.
    Obtain { ticket: u64, epoch: Epoch },
    /// CRIU is at work, or the operator's commands.
    Restore { generation: Box<Generation> },
    /// The application stands still until the data path knows of it.
    Resume { generation: Box<Generation>, restored: Box<Restored>, since_ns: u64 },
    /// A warm node's data path is told from where on it must keep the log.
    Park { generation: Box<Generation>, stored: Vec<Manifest>, since_ns: u64 },
    /// It runs, and has yet to show that it follows.
    Settle { generation: u64 },
}

/// The control thread's view of it.
pub(super) struct Restoration {
    pub(super) stage: Stage,
    begun_ns: u64,
    attempts: u32,
    tickets: u64,
    /// How often it succeeded.
    pub(super) restored: u64,
    pub(super) failed: Option<String>,
}

impl Restoration {
    pub(super) fn new() -> Restoration {
        let stage = Stage::Rest { until_ns: 0 };
        Restoration { stage, begun_ns: 0, attempts: 0, tickets: 0, restored: 0, failed: None }
    }

    /// What an operator sees of it.
    pub(super) fn view(&self, progress: (u64, u64), now_ns: u64) -> Option<Restoring> {
        let stage = match &self.stage {
            Stage::Rest { .. } if self.failed.is_none() => return None,
            Stage::Rest { .. } => "waits before it tries again",
            Stage::Obtain { .. } => "gets a checkpoint",
            Stage::Restore { .. } => "restores the application",
            Stage::Resume { .. } => "tells the data path",
            Stage::Park { .. } => "keeps the log from there on",
            Stage::Settle { .. } => "catches up",
        };
        Some(Restoring {
            stage: stage.into(),
            since_ms: now_ns.saturating_sub(self.begun_ns) / MS,
            bytes_done: progress.0,
            bytes_total: progress.1,
            attempts: self.attempts,
            failed_because: self.failed.clone(),
        })
    }

    /// Nothing is under way, and something may begin.
    pub(super) fn is_resting(&self, now_ns: u64) -> bool {
        matches!(self.stage, Stage::Rest { until_ns } if now_ns >= until_ns)
    }

    /// A checkpoint is being looked for from now on, by this ticket, in this reign.
    pub(super) fn obtain(&mut self, now_ns: u64, epoch: Epoch) -> u64 {
        if self.attempts == 0 {
            self.begun_ns = now_ns;
        }
        self.attempts += 1;
        self.tickets += 1;
        self.stage = Stage::Obtain { ticket: self.tickets, epoch };
        self.tickets
    }

    /// This one is being restored from now on, for a takeover.
    pub(super) fn raise(&mut self, now_ns: u64, generation: Box<Generation>) {
        self.begun_ns = now_ns;
        self.stage = Stage::Restore { generation };
    }

    /// It is over, and went well.
    pub(super) fn succeeded(&mut self) {
        let (restored, tickets) = (self.restored, self.tickets);
        *self = Restoration { restored, tickets, ..Restoration::new() };
    }

    /// What was looked for in an earlier reign is not waited for any more: who has it may be gone.
    pub(super) fn give_up_before(&mut self, now_ns: u64, epoch: Epoch) {
        if matches!(self.stage, Stage::Obtain { epoch: e, .. } if e < epoch) {
            self.stage = Stage::Rest { until_ns: now_ns };
            self.attempts = 0;
        }
    }

    /// Processes are being brought to life.
    pub(super) fn is_restoring(&self) -> bool {
        matches!(self.stage, Stage::Restore { .. })
    }
}

impl Control {
    /// Looks whether one is needed, and takes steps that are due.
    pub(super) fn advance_restoration(&mut self, now_ns: u64) {
        if self.taking.is_none() || self.restart_at_ns.is_some() {
            return;
        }
        self.advance_warm(now_ns);
        match &self.restoration.stage {
            Stage::Rest { until_ns } if now_ns >= *until_ns => self.begin_restoration(now_ns),
            Stage::Resume { since_ns, .. } | Stage::Park { since_ns, .. }
                if now_ns > *since_ns + RESUME_LIMIT_NS =>
            {
                self.restoration_failed(now_ns, "the data path does not answer".into());
            }
            Stage::Settle { generation } => {
                let generation = *generation;
                self.settle(now_ns, generation);
            }
            _ => {}
        }
    }

    fn begin_restoration(&mut self, now_ns: u64) {
        let view = self.node.view(now_ns);
        let Some((need, log)) = view.needs_checkpoint.zip(view.primary_log.as_ref()) else {
            self.divergences.over();
            self.restoration.attempts = 0;
            self.restoration.failed = None;
            self.restoration.stage = Stage::Rest { until_ns: now_ns + LOOK_NS };
            return;
        };
        if need.diverged && self.restoration.attempts == 0 && !self.may_heal(now_ns, view.epoch) {
            self.restoration.stage = Stage::Rest { until_ns: now_ns + LOOK_NS };
            return;
        }
        if self.taking.as_ref().is_some_and(Taking::is_busy) {
            return;
        }
        if self.restoration.attempts == 0 {
            self.restoration.begun_ns = now_ns;
            let text = match need.diverged {
                true => "the clone has left the primary's way".to_string(),
                false => format!("the primary's log begins at {}", log.start),
            };
            self.note(now_ns, view.epoch, "checkpoint_needed", text);
        }
        let sources = self.sources(&view.peers, view.primary);
        self.look_for(now_ns, view.epoch, wanted(need, log), !need.diverged, sources);
    }

    /// Has a checkpoint looked for. `own`: one of this node's own would do.
    pub(super) fn look_for(
        &mut self,
        now_ns: u64,
        epoch: Epoch,
        wanted: Wanted,
        own: bool,
        sources: Vec<(String, std::net::SocketAddr)>,
    ) {
        let ticket = self.restoration.obtain(now_ns, epoch);
        let search = Box::new(Search { ticket, wanted, own, sources });
        if let Err(text) = self.submit_checkpoint_job(Job::Obtain(search)) {
            self.restoration_failed(now_ns, text);
        }
    }

    /// A clone that follows is asked before the primary: nobody notices when that stands still.
    pub(super) fn sources(
        &self,
        peers: &[understudy_proto::PeerView],
        primary: Option<NodeId>,
    ) -> Vec<(String, std::net::SocketAddr)> {
        let useful = peers.iter().filter(|p| p.alive && p.role != Role::Witness);
        let mut useful: Vec<_> =
            useful.filter(|p| Some(p.id) == primary || p.clone_ready && !p.recovering).collect();
        useful.sort_by_key(|p| Some(p.id) == primary);
        useful
            .iter()
            .filter_map(|p| self.config.nodes.iter().find(|n| n.id == p.id))
            .map(|n| (n.name.clone(), n.address))
            .collect()
    }

    /// A checkpoint is here, or none is to be had.
    pub(super) fn obtained(&mut self, now_ns: u64, ticket: u64, result: Obtained) {
        if !matches!(self.restoration.stage, Stage::Obtain { ticket: t, .. } if t == ticket) {
            return;
        }
        if self.is_raising() {
            return self.raise_again(now_ns, result);
        }
        let Found { generation, origin, stored } = match result {
            Ok(found) => found,
            Err(text) => return self.restoration_failed(now_ns, text),
        };
        if self.is_parked() {
            return self.park(now_ns, generation, stored);
        }
        let view = self.node.view(now_ns);
        let fits =
            view.needs_checkpoint.zip(view.primary_log.as_ref()).is_some_and(|(need, log)| {
                // Of which method it is, was looked at where it was found.
                let method = generation.manifest.method;
                let wanted = Wanted { floor_min: log.start, method, ..wanted(need, log) };
                wanted.fits(&generation.manifest)
            });
        if !fits {
            // Not needed any more, or the log has gone on too far: it is looked at again at once.
            self.restoration.stage = Stage::Rest { until_ns: now_ns };
            return;
        }
        let text = format!("generation {} {origin}", generation.number);
        self.note(now_ns, view.epoch, "checkpoint_here", text);
        self.take_application_away(now_ns);
        let Some(capsule) = &self.capsule else { return };
        let ns = Arc::clone(&capsule.ns);
        self.restoration.stage = Stage::Restore { generation: generation.clone() };
        if let Err(text) = self.submit_checkpoint_job(Job::Restore { generation, ns }) {
            self.restoration_failed(now_ns, text);
        }
    }

    fn take_application_away(&mut self, now_ns: u64) {
        self.app = App::Gone;
        self.dataplane.order(Command::Service { up: false });
        self.stop_app();
        self.node.handle_local(now_ns, LocalFact::AppReplaced);
        self.done(now_ns);
    }

    /// The application is back, standing still, or could not be brought back.
    pub(super) fn restored(&mut self, now_ns: u64, result: Result<Box<Restored>, String>) {
        let rest = Stage::Rest { until_ns: now_ns };
        let stage = std::mem::replace(&mut self.restoration.stage, rest);
        let Stage::Restore { generation } = stage else {
            self.restoration.stage = stage;
            return;
        };
        if self.restart_at_ns.is_some() {
            // Everything starts anew: what came to life ends here.
            return;
        }
        let restored = match result {
            Ok(restored) => restored,
            Err(text) => {
                let _ = self.submit_checkpoint_job(Job::Reject(generation.number));
                return match self.is_raising() {
                    true => self.raise_failed(now_ns, text),
                    false => self.restoration_failed(now_ns, text),
                };
            }
        };
        let resume = resume(&generation, &restored.connections, self.config.vmac());
        if !self.dataplane.order(Command::Resume(Box::new(resume))) {
            return self.restoration_failed(now_ns, "the poll-mode thread takes no orders".into());
        }
        self.restoration.stage = Stage::Resume { generation, restored, since_ns: now_ns };
    }

    /// The data path feeds it from now on, or cannot.
    pub(super) fn resumed(&mut self, now_ns: u64, resumed: bool) {
        let rest = Stage::Rest { until_ns: now_ns };
        let stage = std::mem::replace(&mut self.restoration.stage, rest);
        let (generation, restored) = match stage {
            Stage::Resume { generation, restored, .. } => (generation, restored),
            Stage::Park { generation, stored, .. } => {
                return self.is_there(now_ns, generation, &stored, resumed);
            }
            stage => {
                self.restoration.stage = stage;
                return;
            }
        };
        if !resumed {
            let text = "the log here does not go with the checkpoint".to_string();
            return match self.is_raising() {
                true => self.raise_failed(now_ns, text),
                false => self.restoration_failed(now_ns, text),
            };
        }
        let connections = restored.connections.len();
        let Some(capsule) = &mut self.capsule else { return };
        match capsule.install(restored.app) {
            Ok((pid, probe)) => {
                self.dataplane.watch_application(probe);
                self.app = App::Starting { since_ns: now_ns, checked_ns: 0 };
                let text = format!(
                    "generation {} at {}: {connections} connections, process {pid}",
                    generation.number, generation.manifest.position
                );
                let epoch = self.node.view(now_ns).epoch;
                self.note(now_ns, epoch, "restored", text);
                self.restoration.stage = Stage::Settle { generation: generation.number };
            }
            Err(e) => {
                let _ = self.submit_checkpoint_job(Job::Reject(generation.number));
                self.restoration_failed(now_ns, format!("{e:#}"));
            }
        }
    }

    /// It follows, and nothing speaks against it.
    fn settle(&mut self, now_ns: u64, generation: u64) {
        if self.app == App::Gone {
            // Its end has been told: it was not the right one, or was killed.
            let _ = self.submit_checkpoint_job(Job::Reject(generation));
            return self.restoration_failed(now_ns, "the restored application ended".into());
        }
        let follows = self.snapshot.as_ref().is_some_and(|s| {
            matches!(s.role, DataRole::Follow(_) | DataRole::Lead(_)) && s.level && s.fit
        });
        if self.app != App::Ready || !follows {
            return;
        }
        let _ = self.submit_checkpoint_job(Job::Settled);
        let took_ms = now_ns.saturating_sub(self.restoration.begun_ns) / MS;
        let epoch = self.node.view(now_ns).epoch;
        self.note(now_ns, epoch, "whole_again", format!("by checkpoint, in {took_ms} ms"));
        self.restoration.restored += 1;
        self.restoration.succeeded();
    }

    pub(super) fn restoration_failed(&mut self, now_ns: u64, text: String) {
        let attempts = self.restoration.attempts.clamp(1, 16);
        let waited_for = self.commits_by_checkpoint() && self.is_parked();
        let first_ns = if waited_for { RETRY_WAITED_FOR_NS } else { RETRY_FIRST_NS };
        let wait_ns = (first_ns << (attempts - 1)).min(RETRY_LAST_NS);
        let epoch = self.node.view(now_ns).epoch;
        self.note(now_ns, epoch, "restore_failed", text.clone());
        self.restoration.failed = Some(text);
        self.restoration.stage = Stage::Rest { until_ns: now_ns + wait_ns };
    }
}

/// One from the newer half of the log, or that will be overwritten before it is here.
fn wanted(need: NeedsCheckpoint, log: &PrimaryLog) -> Wanted {
    let held = log.position.saturating_sub(log.start);
    let floor_min = (log.start + held / 2).max(need.applied);
    Wanted::new(floor_min, reigns(&log.history))
}

pub(super) fn reigns(history: &History) -> Vec<Reign> {
    history.iter().map(|e| Reign { epoch: e.epoch, start: e.start }).collect()
}
