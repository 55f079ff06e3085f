//! The node: its state, its inputs, and who handles what.
//!
//! What belongs here: the struct, the `handle_*` and `poll_*` border, and what every part needs.
//! The rules are in `detect` (silence), `ballot` (voting), `campaign` (standing), `lead` (reigning and handing
//! over), `follow` (joining and recovery) and `status` (what the node says of itself).

mod ballot;
mod campaign;
mod detect;
mod follow;
mod lead;
mod referee;
mod status;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use understudy_wire::{
    Epoch, NodeId, Position,
    control::{Candidacy, Control, Heartbeat, History, Reign, StepDown, StepDownReason},
};

use crate::{
    config::{Config, ConfigError},
    io::{
        DpCommand, Held, LocalFact, LogState, Output, Path, Paths, ServiceCommand, TimelineEvent,
        TimelineKind, To,
    },
    peers::Peer,
    persisted::Persisted,
    rng::Rng,
    timer::{Timer, Timers},
};

/// Messages and events are dropped when this many outputs wait; a driver that drains never gets here.
const OUTPUTS_SOFT_MAX: usize = 128;
/// Orders are never dropped, but inputs that cause them are refused when this many outputs wait.
const OUTPUTS_HARD_MAX: usize = 192;

/// What the node is doing.
#[derive(Clone, Debug, Hash)]
enum Phase {
    /// Without a primary.
    Idle,
    /// Asking who would vote for it.
    PreVote { epoch: Epoch, granted: Votes },
    /// Promising, then asking for votes while its own is persisted.
    Elect { epoch: Epoch, stage: ElectStage, granted: Votes },
    /// Becoming a replica of `reign`.
    Join { promised: bool },
    /// A replica of `reign`.
    Follow,
    /// The primary.
    Lead(Lead),
    /// Fencing has been ordered and is not confirmed.
    Closing { reason: StepDownReason, to: Option<NodeId> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ElectStage {
    Promising,
    /// Until the old primary's lease is over.
    Waiting,
    Asking,
}

/// Who said yes; a bit per voter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Votes(u32);

impl Votes {
    fn add(&mut self, voter: usize) {
        self.0 |= 1 << voter;
    }

    fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    fn has(self, voter: usize) -> bool {
        self.0 & (1 << voter) != 0
    }
}

/// The state of this node's reign.
#[derive(Clone, Debug, Hash)]
struct Lead {
    since_ns: u64,
    leased_once: bool,
    unleased_since_ns: Option<u64>,
    /// When an end of this reign was last of no use to anybody.
    needed_ns: u64,
    gate_open: bool,
    gate_open_ns: u64,
    announced: usize,
    /// The loop was late: claim nothing until the dataplane says that the lease still runs.
    revalidate: bool,
    /// It serves nobody: it leads until someone who can serve holds its log.
    caretaker: bool,
    /// The arbiter's consent made it primary, not the other node's.
    by_claim: bool,
    alone: referee::Alone,
    /// The arbiter's refusal has been told.
    refused: bool,
}

/// A vote on its way.
#[derive(Clone, Debug, Hash)]
struct PendingVote {
    candidate: NodeId,
    candidacy: Candidacy,
    promised: bool,
}

/// The last sign of a living primary; votes against it wait until its lease must be over.
#[derive(Clone, Copy, Debug, Hash)]
struct Live {
    epoch: Epoch,
    primary: NodeId,
    heard_ns: u64,
}

/// What the primary last said of its log.
#[derive(Clone, Debug, Hash)]
struct Known {
    epoch: Epoch,
    primary: NodeId,
    history: History,
    log_start: Position,
}

#[derive(Clone, Copy, Debug, Hash)]
enum Switchover {
    /// Until the target holds everything.
    Draining { to: NodeId },
    /// Fenced; until someone leads.
    Handing,
}

/// One member of the group. See the crate's documentation for how to drive it.
#[derive(Clone, Debug, Hash)]
pub struct Node {
    cfg: Config,
    rng: Rng,
    timers: Timers,
    outputs: VecDeque<Output>,
    start_ns: u64,
    phase: Phase,

    epoch: Epoch,
    voted_for: Option<NodeId>,
    /// Durable epoch, and the ones still being written.
    durable: Epoch,
    writing: VecDeque<Epoch>,
    /// The highest epoch that the dataplane was told to promise to.
    promise_asked: Epoch,
    /// The highest epoch in any header.
    seen_epoch: Epoch,
    /// The highest epoch whose primary is known to have fenced itself.
    released: Epoch,
    /// Whom it named as its successor.
    heir: Option<NodeId>,
    /// The newest epoch this node led, while its log is intact; 0 for none.
    led: Epoch,

    log: LogState,
    peers: Vec<Peer>,
    live: Option<Live>,
    reign: Option<Known>,
    /// The epoch of the last `Follow` or `Lead`, unless promised beyond it or reset since.
    joined: Epoch,
    ballot: Option<PendingVote>,

    incarnation: u64,
    seq: u64,
    recovering: bool,
    /// What this node held when it emptied its log itself: enough to judge a candidate by.
    floor: Option<Held>,
    /// The highest epoch in which this node may have acknowledged what it lost.
    lost_epoch: Epoch,
    recover_at: Option<Position>,
    all_lost: bool,
    /// The clone must not outlive the joining of another reign.
    needs_restart: bool,
    restarting: bool,
    /// The last heartbeat claimed the reign.
    claimed: bool,

    app_ready: bool,
    client_link: bool,
    replica_link: bool,
    impaired: bool,
    /// An operator wants it to serve nobody.
    withdrawn: bool,

    hold_down_until_ns: u64,
    suspected_ns: u64,
    /// The next stand was arranged when eligible, with the delay of its rank.
    stand_ranked: bool,
    /// The reign is known to be over: no pre-vote is needed.
    direct: bool,
    /// No primary and no campaign since the start.
    booting: bool,
    /// The campaign is for a reign that only hands the log over.
    caretaking: bool,
    /// This node recovers, and the arbiter's register says that nobody else holds anything either.
    start_anew: bool,
    /// Whether the primary to join is known to live.
    echo: follow::Echo,
    referee: referee::Referee,
    /// Until then the other node's vote is waited for, before the arbiter is asked.
    claim_at_ns: u64,
    step_down: Option<(StepDown, u32)>,
    switchover: Option<Switchover>,
}

impl Node {
    /// A node that starts at `now_ns` with what its last life persisted. Links are taken as down and the application
    /// as absent until the driver says otherwise.
    ///
    /// # Errors
    /// If the settings contradict each other.
    pub fn new(
        cfg: Config,
        persisted: Persisted,
        now_ns: u64,
        seed: u64,
    ) -> Result<Self, ConfigError> {
        cfg.validate()?;
        let peers = cfg.voters.iter().filter(|&&id| id != cfg.me).map(|&id| Peer::new(id));
        let mut node = Self {
            rng: Rng::new(seed),
            timers: Timers::default(),
            outputs: VecDeque::with_capacity(OUTPUTS_HARD_MAX * 2),
            start_ns: now_ns,
            phase: Phase::Idle,
            epoch: persisted.epoch,
            voted_for: persisted.voted_for,
            durable: persisted.epoch,
            writing: VecDeque::new(),
            promise_asked: persisted.epoch,
            seen_epoch: persisted.epoch,
            released: 0,
            heir: None,
            led: 0,
            log: LogState::default(),
            peers: peers.collect(),
            live: None,
            reign: None,
            joined: 0,
            ballot: None,
            incarnation: cfg.incarnation,
            seq: 0,
            recovering: persisted.epoch > 0,
            lost_epoch: persisted.epoch,
            floor: cfg.held.filter(|(epoch, _)| *epoch <= persisted.epoch),
            recover_at: None,
            all_lost: false,
            needs_restart: false,
            restarting: false,
            claimed: false,
            app_ready: false,
            client_link: false,
            replica_link: false,
            impaired: false,
            withdrawn: false,
            hold_down_until_ns: 0,
            suspected_ns: now_ns,
            stand_ranked: false,
            direct: false,
            booting: true,
            caretaking: false,
            start_anew: false,
            echo: follow::Echo::default(),
            referee: referee::Referee::default(),
            claim_at_ns: 0,
            step_down: None,
            switchover: None,
            cfg,
        };
        node.timers.set(Timer::Heartbeat, now_ns);
        if node.cfg.arbiter {
            node.timers.set(Timer::Arbiter, now_ns);
        }
        let grace_ns = if node.peers.is_empty() { 0 } else { node.cfg.startup_grace_ns };
        node.timers.set(Timer::Stand, now_ns + grace_ns);
        Ok(node)
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Node::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        self.timers.next_ns()
    }

    /// Whether it is between two states that last: electing, joining, taking over, handing over. What
    /// the dataplane reports then is waited for.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        match &self.phase {
            Phase::Idle | Phase::Follow => false,
            Phase::Lead(lead) => !lead.gate_open || self.switchover.is_some(),
            _ => true,
        }
    }

    /// The durable epoch, as headers carry it.
    #[must_use]
    pub fn durable_epoch(&self) -> Epoch {
        self.durable
    }

    /// Draws from another seed from here on. For whoever explores all that can happen: randomness is an input.
    pub fn reseed(&mut self, seed: u64) {
        self.rng = Rng::new(seed);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now_ns: u64) {
        if !self.enter(now_ns) {
            return;
        }
        // Each timer at most twice: a handler may arm another one for this instant.
        for _ in 0..20 {
            let Some(timer) = self.timers.pop_due(now_ns) else { break };
            match timer {
                Timer::Heartbeat => self.on_heartbeat_timer(now_ns),
                Timer::Detector => self.on_detector(now_ns),
                Timer::Stand => self.on_stand(now_ns),
                Timer::Campaign => self.on_campaign_over(now_ns),
                Timer::Repeat => self.on_repeat(now_ns),
                Timer::VoteHold => self.advance(now_ns),
                Timer::StepDown => self.on_step_down_timer(now_ns),
                Timer::Announce => self.on_announce(now_ns),
                Timer::Switchover => self.on_switchover_over(now_ns),
                Timer::Arbiter => self.advance_arbiter(now_ns),
            }
        }
    }

    /// A control message came from voter `from`, whose header says `epoch`.
    pub fn handle_message(
        &mut self,
        now_ns: u64,
        path: Path,
        from: NodeId,
        epoch: Epoch,
        msg: &Control,
    ) {
        let Some(index) = self.peers.iter().position(|peer| peer.id == from) else { return };
        if !self.enter(now_ns) {
            return;
        }
        self.seen_epoch = self.seen_epoch.max(epoch);
        if epoch > self.epoch && matches!(self.phase, Phase::Lead(_)) {
            self.abdicate(now_ns, StepDownReason::HigherEpoch, None);
        }
        match msg {
            Control::Heartbeat(m) => self.on_heartbeat(now_ns, path, index, epoch, m),
            Control::PreVote(m) => self.on_pre_vote(now_ns, from, m),
            Control::PreVoteReply(m) => self.on_pre_vote_reply(now_ns, from, m),
            Control::Vote(m) => self.on_vote(now_ns, from, m),
            Control::VoteReply(m) => self.on_vote_reply(now_ns, from, m),
            Control::StepDown(m) => self.on_step_down(now_ns, m),
        }
    }

    /// One `Output::Persist` is durable; to be called once for each, in their order.
    pub fn handle_persisted(&mut self, now_ns: u64, epoch: Epoch) {
        self.enter(now_ns);
        if self.writing.front() != Some(&epoch) {
            return;
        }
        self.writing.pop_front();
        self.durable = self.durable.max(epoch);
        self.advance(now_ns);
    }

    /// The dataplane has carried out `DpCommand::Promise`; `log` is its exact state at that moment.
    pub fn handle_promised(&mut self, now_ns: u64, epoch: Epoch, log: &LogState) {
        self.enter(now_ns);
        if epoch != self.promise_asked {
            return;
        }
        self.take_log(now_ns, log);
        let closing = matches!(self.phase, Phase::Closing { .. }) && epoch > self.epoch;
        if closing {
            self.on_fenced(now_ns);
        }
        if let Phase::Join { promised } = &mut self.phase {
            *promised |= self.reign.as_ref().is_some_and(|reign| reign.epoch == epoch);
        }
        self.vote_promised(now_ns, epoch);
        self.candidacy_promised(now_ns, epoch);
        if !closing && epoch > self.epoch && !matches!(self.phase, Phase::Lead(_)) {
            // What the promise was for has been given up meanwhile. It cannot be taken back, so a living primary
            // must learn of the epoch that this node is lost to.
            self.adopt(epoch, None);
        }
        self.advance(now_ns);
    }

    /// The dataplane's state.
    pub fn handle_log(&mut self, now_ns: u64, log: &LogState) {
        if !self.enter(now_ns) {
            return;
        }
        self.take_log(now_ns, log);
        self.alone_log(now_ns);
        self.lead_log(now_ns);
        self.follow_log(now_ns);
        self.check_alone(now_ns);
        self.advance(now_ns);
    }

    /// Another preference among equally complete logs, from the next heartbeat on.
    pub fn set_priority(&mut self, priority: u8) {
        self.cfg.priority = priority;
    }

    /// Something became known about this machine.
    pub fn handle_local(&mut self, now_ns: u64, fact: LocalFact) {
        self.enter(now_ns);
        match fact {
            LocalFact::AppReady => {
                self.app_ready = !self.restarting;
                // A checkpoint brought it back, of the reign that this node follows.
                self.needs_restart &= !matches!(self.phase, Phase::Follow);
            }
            LocalFact::AppExited => self.on_app_exited(now_ns),
            LocalFact::AppReplaced => self.app_ready = false,
            LocalFact::ServiceFresh => self.on_service_fresh(now_ns),
            LocalFact::ClientLink(up) => self.client_link = up,
            LocalFact::ReplicaLink(up) => self.replica_link = up,
            LocalFact::Impaired(impaired) => self.impaired = impaired,
            LocalFact::Withdrawn(is) => self.withdrawn = is,
            LocalFact::DataplaneStuck => {
                if matches!(self.phase, Phase::Lead(_)) {
                    self.abdicate(now_ns, StepDownReason::DataplaneStuck, None);
                }
            }
            LocalFact::LoopOverran => self.on_overrun(now_ns),
        }
        self.check_duty(now_ns);
        self.check_alone(now_ns);
    }

    /// The operator wants another primary; the answer is `Output::SwitchoverDone`.
    pub fn handle_switchover(&mut self, now_ns: u64, to: Option<NodeId>) {
        self.enter(now_ns);
        self.start_switchover(now_ns, to);
    }

    /// The operator declares that nothing committed was lost with this node's log, or that it does not matter.
    /// **Unsafe for the data:** a node that recovers knows that it may have acknowledged what it no longer holds.
    pub fn handle_force_recovered(&mut self, now_ns: u64) {
        self.enter(now_ns);
        if self.recovering && !self.restarting {
            self.recovered(now_ns, TimelineKind::Recovered, "declared by the operator");
        }
    }

    /// Before every input: notices a late loop; `false` if the driver does not drain.
    fn enter(&mut self, now_ns: u64) -> bool {
        debug_assert!(self.outputs.len() < OUTPUTS_HARD_MAX, "outputs are not drained");
        let due_ns = self.timers.next_ns().unwrap_or(now_ns);
        if now_ns > due_ns.saturating_add(self.cfg.lease_ns) && now_ns > self.start_ns {
            self.on_overrun(now_ns);
        }
        self.outputs.len() < OUTPUTS_HARD_MAX
    }

    fn take_log(&mut self, now_ns: u64, log: &LogState) {
        if self.restarting {
            return;
        }
        self.log.clone_from(log);
        let followed = self.log.epoch;
        let heard_ns = self.log.last_data_rx_ns.min(now_ns);
        if let Some(live) = &mut self.live
            && live.epoch == followed
            && !self.log.leading
        {
            live.heard_ns = live.heard_ns.max(heard_ns);
        }
    }

    /// Carries on with whatever waits for durability, a promise or a moment.
    fn advance(&mut self, now_ns: u64) {
        self.advance_vote(now_ns);
        self.advance_candidacy(now_ns);
        self.advance_join(now_ns);
        if matches!(self.phase, Phase::PreVote { .. } | Phase::Elect { .. } | Phase::Lead(_)) {
            self.advance_arbiter(now_ns);
        }
    }

    fn is_durable(&self) -> bool {
        self.writing.is_empty() && self.durable == self.epoch
    }

    /// Takes part in an epoch, in memory at once and durably later.
    fn adopt(&mut self, epoch: Epoch, voted_for: Option<NodeId>) {
        if voted_for.is_some_and(|candidate| candidate != self.cfg.me) {
            self.helps_another();
        }
        debug_assert!(epoch >= self.epoch, "epochs never fall");
        self.epoch = epoch;
        self.voted_for = voted_for;
        self.writing.push_back(epoch);
        self.outputs.push_back(Output::Persist { epoch, voted_for });
    }

    fn promise(&mut self, epoch: Epoch) {
        debug_assert!(epoch >= self.promise_asked, "promises never fall");
        self.promise_asked = epoch;
        if self.joined < epoch {
            self.joined = 0;
        }
        self.order(DpCommand::Promise { epoch });
    }

    fn order(&mut self, command: DpCommand) {
        self.outputs.push_back(Output::Dataplane(command));
    }

    fn send(&mut self, to: To, msg: Control) {
        if self.outputs.len() < OUTPUTS_SOFT_MAX && !self.peers.is_empty() {
            let epoch = self.durable;
            self.outputs.push_back(Output::Send { to, paths: Paths::Both, epoch, msg });
        }
    }

    fn event(&mut self, now_ns: u64, kind: TimelineKind, text: impl Into<String>) {
        if self.outputs.len() < OUTPUTS_SOFT_MAX {
            let (epoch, text) = (self.epoch, text.into());
            let event = TimelineEvent { kind, epoch, at_ns: now_ns, text };
            self.outputs.push_back(Output::Event(event));
        }
    }

    /// The index of a voter in `cfg.voters`.
    fn voter(&self, id: NodeId) -> Option<usize> {
        self.cfg.voters.iter().position(|&voter| voter == id)
    }

    fn on_heartbeat(&mut self, now_ns: u64, path: Path, index: usize, epoch: Epoch, m: &Heartbeat) {
        let peer = &mut self.peers[index];
        let from = peer.id;
        if !peer.note(now_ns, path, m, self.cfg.suspect_after_ns) {
            return;
        }
        peer.epoch = epoch;
        peer.last = Some(Heartbeat { reign: None, ..m.clone() });
        self.note_released(now_ns, m.released, m.heir);
        if let Some(reign) = &m.reign {
            let complete = reign.history.last().is_some_and(|newest| newest.epoch == reign.epoch);
            if reign.primary == from && reign.epoch == epoch && complete {
                self.on_reign(now_ns, m, reign);
            }
        }
        self.check_all_lost(now_ns);
        self.check_duty(now_ns);
        self.check_boot(now_ns);
    }

    /// Gives the log up for a fresh clone. `exact`: the dataplane promised and joined nothing since, so `log` is all
    /// that this node can have acknowledged.
    fn restart_service(&mut self, now_ns: u64, exact: bool, why: &str) {
        let known = exact && (!self.recovering || self.floor.is_some());
        self.floor = known.then(|| self.vote_floor());
        self.lost_epoch = self.lost_epoch.max(self.log.epoch).max(self.led);
        self.recovering = true;
        self.recover_at = None;
        self.all_lost = false;
        self.restarting = true;
        self.needs_restart = false;
        self.app_ready = false;
        self.led = 0;
        self.joined = 0;
        self.ballot = None;
        self.log = LogState::default();
        let restart = ServiceCommand::Restart { held: self.floor };
        self.outputs.push_back(Output::Service(restart));
        self.event(now_ns, TimelineKind::ServiceRestart, why);
    }
}

/// The reign that this node's heartbeat may claim.
fn claim(node: &Node) -> Option<Reign> {
    let Phase::Lead(lead) = &node.phase else { return None };
    let log = &node.log;
    let begun = log.leading
        && log.epoch == node.epoch
        && log.history.last().is_some_and(|newest| newest.epoch == node.epoch);
    (begun && !lead.revalidate && node.is_durable()).then(|| Reign {
        epoch: node.epoch,
        primary: node.cfg.me,
        history: log.history.clone(),
    })
}
