//! A node whose clone is warm: it keeps a checkpoint and the log from there on, and brings the
//! application to life when it takes over. It costs no CPU until then, and the takeover takes as long
//! as the restore and what of the log is to be applied.
//!
//! Until there is a checkpoint, a fresh start and the log from its beginning do the same.

use understudy_checkpoint::transfer::Wanted;
use understudy_checkpoint::{Generation, Manifest};

use super::restore::{Stage, reigns};
use super::*;
use crate::checkpointer::{Found, Job, Obtained, Search};
use crate::resume::resume;

/// Of the log, in hundredths: with so much since the last checkpoint a newer one is fetched.
const FILL_PERCENT: u64 = 50;

/// What a warm node has ready.
#[derive(Default)]
pub(super) struct Warm {
    /// The checkpoint from which it will go on, once the data path knows.
    parked: Option<Box<Generation>>,
    /// The control plane has been told that this node could take over.
    ready: bool,
    /// The application was brought to life, or is being.
    raised: bool,
    /// When the data path was last told what is stored here.
    pub(super) told_ns: u64,
    /// When a newer checkpoint was last asked for.
    asked_ns: u64,
}

impl Control {
    /// Nothing runs in the capsule, and nothing should yet.
    pub(super) fn is_parked(&self) -> bool {
        self.app == App::Parked
    }

    /// Says when this node could take over, and keeps its checkpoint recent.
    pub(super) fn advance_warm(&mut self, now_ns: u64) {
        if !self.is_parked() || self.restart_at_ns.is_some() {
            return;
        }
        let Some(s) = &self.snapshot else { return };
        let from_start = self.warm.parked.is_none() && s.log_start == 0 && s.applied == 0;
        let ready = from_start || self.warm.parked.is_some();
        if ready != self.warm.ready {
            self.warm.ready = ready;
            let fact = if ready { LocalFact::AppReady } else { LocalFact::AppReplaced };
            self.node.handle_local(now_ns, fact);
            self.done(now_ns);
        }
        if !self.get_lacking(now_ns) {
            self.renew_parked(now_ns);
        }
    }

    fn renew_parked(&mut self, now_ns: u64) {
        let config = &self.config.checkpoint;
        let Some(s) = self.snapshot.as_ref().filter(|s| matches!(s.role, DataRole::Follow(_)))
        else {
            return;
        };
        let percent =
            if config.log_fill_percent > 0 { config.log_fill_percent } else { FILL_PERCENT };
        let by_log = s.log_end.saturating_sub(s.applied) > s.log_capacity / 100 * percent;
        let interval_ns = config.interval_s * 1_000 * MS;
        let by_time = interval_ns > 0 && now_ns >= self.warm.asked_ns + interval_ns;
        if !self.restoration.is_resting(now_ns) || !by_log && !by_time {
            return;
        }
        let view = self.node.view(now_ns);
        let Some(log) = view.primary_log.as_ref().filter(|_| view.needs_checkpoint.is_none())
        else {
            return;
        };
        let floor_min = log.start.max(s.applied + s.log_capacity / 4);
        let wanted = Wanted::new(floor_min, reigns(&log.history));
        let sources = self.sources(&view.peers, view.primary);
        self.warm.asked_ns = now_ns;
        self.look_for(now_ns, view.epoch, wanted, true, sources);
    }

    /// A checkpoint has come: the log before it is not needed any more.
    pub(super) fn park(&mut self, now_ns: u64, generation: Box<Generation>, stored: Vec<Manifest>) {
        let resume = resume(&generation, &[], self.config.vmac());
        if !self.dataplane.order(Command::Resume(Box::new(resume))) {
            return self.restoration_failed(now_ns, "the poll-mode thread takes no orders".into());
        }
        self.restoration.stage = Stage::Park { generation, stored, since_ns: now_ns };
    }

    /// The data path keeps the log from there on, or cannot.
    pub(super) fn is_there(
        &mut self,
        now_ns: u64,
        generation: Box<Generation>,
        stored: &[Manifest],
        resumed: bool,
    ) {
        if !resumed {
            let text = "the log here does not go with the checkpoint";
            return self.restoration_failed(now_ns, text.into());
        }
        let text = format!("generation {} at {}", generation.number, generation.manifest.position);
        let epoch = self.node.view(now_ns).epoch;
        if self.warm.parked.is_none() || !self.commits_by_checkpoint() {
            self.note(now_ns, epoch, "parked", text);
        } else {
            // Several a second: they would fill the timeline.
            debug!("parked: {text}");
        }
        self.warm.parked = Some(generation);
        self.restoration.succeeded();
        self.warm.told_ns = now_ns;
        self.tell_stored(stored);
    }

    /// This node is to serve: the application comes to life.
    pub(super) fn raise(&mut self, now_ns: u64) {
        self.warm.raised = true;
        let least = self.least();
        let parked =
            self.warm.parked.take().filter(|g| least.is_none_or(|it| g.manifest.mark() >= it));
        let raised = match parked {
            Some(generation) => self.raise_from(now_ns, generation),
            None if least.is_none() => self.raise_fresh(now_ns),
            None => Err("the checkpoint at hand is older than what clients heard".into()),
        };
        if let Err(text) = raised {
            self.raise_failed(now_ns, text);
        }
    }

    fn raise_from(&mut self, now_ns: u64, generation: Box<Generation>) -> Result<(), String> {
        let Some(capsule) = &self.capsule else { return Ok(()) };
        let ns = Arc::clone(&capsule.ns);
        let text = format!("generation {} is restored", generation.number);
        self.app = App::Gone;
        self.restoration.raise(now_ns, generation.clone());
        let epoch = self.node.view(now_ns).epoch;
        self.note(now_ns, epoch, "raised", text);
        self.submit_checkpoint_job(Job::Restore { generation, ns })
    }

    fn raise_fresh(&mut self, now_ns: u64) -> Result<(), String> {
        let Some(capsule) = &mut self.capsule else { return Ok(()) };
        let started = start_app(capsule, &self.dataplane, now_ns);
        self.app = started.map_err(|e| format!("{e:#}"))?;
        let epoch = self.node.view(now_ns).epoch;
        self.note(
            now_ns,
            epoch,
            "raised",
            "the application is started, its log begins at 0".into(),
        );
        Ok(())
    }

    /// The newest checkpoint did not come to life: the one before it may, if the log is long enough.
    pub(super) fn raise_failed(&mut self, now_ns: u64, text: String) {
        let epoch = self.node.view(now_ns).epoch;
        self.note(now_ns, epoch, "restore_failed", text);
        let log_start = self.snapshot.as_ref().map_or(u64::MAX, |s| s.log_start);
        let history = self.snapshot.as_ref().map(|s| reigns(&s.history)).unwrap_or_default();
        let least = self.least();
        let wanted = Wanted { least, ..Wanted::new(log_start, history) };
        let ticket = self.restoration.obtain(now_ns, epoch);
        let search = Box::new(Search { ticket, wanted, own: true, sources: Vec::new() });
        if self.submit_checkpoint_job(Job::Obtain(search)).is_err() {
            self.raise_impossible(now_ns);
        }
    }

    /// An older checkpoint for a takeover that is under way, or none.
    pub(super) fn raise_again(&mut self, now_ns: u64, result: Obtained) {
        let from_start = self.snapshot.as_ref().is_some_and(|s| s.log_start == 0);
        let from_start = from_start && self.least().is_none();
        let raised = match result {
            Ok(Found { generation, .. }) => self.raise_from(now_ns, generation),
            Err(_) if from_start => {
                self.restoration.succeeded();
                self.raise_fresh(now_ns)
            }
            Err(text) => Err(text),
        };
        if raised.is_err() {
            self.raise_impossible(now_ns);
        }
    }

    fn raise_impossible(&mut self, now_ns: u64) {
        warn!("nothing here comes to life: another node must serve");
        self.restoration.succeeded();
        self.app = App::Gone;
        self.node.handle_local(now_ns, LocalFact::AppExited);
        self.done(now_ns);
    }

    /// A takeover waits for the application to come to life.
    pub(super) fn is_raising(&self) -> bool {
        self.warm.raised && self.app != App::Ready
    }

    /// What the control plane is told of a clone that does not run: it waits for nothing.
    pub(super) fn log_state(&self, s: &Snapshot) -> LogState {
        let state = log_state(s);
        let clone_level = state.clone_level || self.is_parked() && self.warm.ready;
        LogState { clone_level, ..state }
    }
}
