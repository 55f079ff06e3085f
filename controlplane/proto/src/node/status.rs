//! What the node says of itself.
//!
//! What belongs here: the heartbeat, the view, and the reasons for not being ready. Nothing changes state but the
//! heartbeat's sequence number.

use understudy_wire::{
    NodeId,
    control::{Control, Flags, Heard, Heartbeat, Role},
};

use super::{Node, Phase, Timer, claim};
use crate::{
    io::{Path, To},
    view::{NeedsCheckpoint, PeerView, PrimaryLog, View},
};

/// Why a node may not stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    Witness,
    AppAbsent,
    CloneBehind,
    CloneUnfit,
    ClientLink,
    ReplicaLink,
    Impaired,
    Recovering,
    Restarting,
    HoldDown,
    Withdrawn,
    Minority,
    Unheard,
}

impl Obstacle {
    fn text(self) -> &'static str {
        match self {
            Self::Witness => "a witness holds no clone",
            Self::AppAbsent => "the application is not ready",
            Self::CloneBehind => "the clone is behind the log",
            Self::CloneUnfit => "the clone has diverged",
            Self::ClientLink => "the client port has no link",
            Self::ReplicaLink => "the replica port has no link",
            Self::Impaired => "a supervised resource is bad: it stands only if no fit node lives",
            Self::Recovering => "recovering: it may have acknowledged what it no longer holds",
            Self::Restarting => "the service is being restarted",
            Self::HoldDown => "it stepped down a moment ago",
            Self::Withdrawn => "drained by an operator, until undrain",
            Self::Minority => "it hears no majority on the replica port",
            Self::Unheard => "no majority hears it on the replica port",
        }
    }

    /// It keeps the node from serving, not from leading.
    pub(super) fn is_of_service(self) -> bool {
        matches!(
            self,
            Self::Witness
                | Self::AppAbsent
                | Self::CloneBehind
                | Self::CloneUnfit
                | Self::ClientLink
                | Self::Impaired
                | Self::HoldDown
                | Self::Withdrawn
        )
    }
}

impl Node {
    pub(super) fn obstacles(&self, now_ns: u64) -> arrayvec::ArrayVec<Obstacle, 16> {
        let alone = self.peers.is_empty();
        let checks = [
            (self.cfg.witness, Obstacle::Witness),
            (!self.app_ready, Obstacle::AppAbsent),
            (!self.log.clone_level, Obstacle::CloneBehind),
            (!self.log.fit, Obstacle::CloneUnfit),
            (!alone && !self.client_link, Obstacle::ClientLink),
            (!alone && !self.replica_link, Obstacle::ReplicaLink),
            (self.impaired, Obstacle::Impaired),
            (self.recovering && !self.start_anew, Obstacle::Recovering),
            (self.restarting, Obstacle::Restarting),
            (now_ns < self.hold_down_until_ns, Obstacle::HoldDown),
            (self.withdrawn, Obstacle::Withdrawn),
            (!self.hears_majority(now_ns), Obstacle::Minority),
            (!self.heard_by_majority(now_ns), Obstacle::Unheard),
        ];
        checks.into_iter().filter(|(is, _)| *is).map(|(_, obstacle)| obstacle).collect()
    }

    fn role(&self) -> Role {
        match &self.phase {
            Phase::Lead(_) if claim(self).is_some() => Role::Primary,
            Phase::Lead(_) | Phase::Elect { .. } => Role::Candidate,
            Phase::Closing { .. } => Role::Closing,
            _ if self.led > 0 => Role::Fenced,
            _ if self.cfg.witness => Role::Witness,
            _ => Role::Replica,
        }
    }

    pub(super) fn on_heartbeat_timer(&mut self, now_ns: u64) {
        self.check_duty(now_ns);
        self.send_heartbeat(now_ns);
        self.timers.set(Timer::Heartbeat, now_ns + self.cfg.heartbeat_interval_ns);
    }

    pub(super) fn send_heartbeat(&mut self, now_ns: u64) {
        self.seq += 1;
        let silence_ns = self.cfg.suspect_after_ns;
        let heard = self.peers.iter().filter_map(|peer| {
            let on_replica =
                peer.path_age_ns(now_ns, Path::Replica).is_some_and(|age_ns| age_ns <= silence_ns);
            peer.alive(now_ns, silence_ns).map(|last| Heard {
                node: peer.id,
                incarnation: last.incarnation,
                on_replica,
            })
        });
        let reign = claim(self);
        let heartbeat = Heartbeat {
            role: self.role(),
            flags: Flags {
                clone_ready: self.clone_ready(),
                recovering: self.recovering,
                client_link_up: self.client_link,
                replica_link_up: self.replica_link,
                electable: self.eligible(now_ns),
                all_lost: self.all_lost,
                clone_gone: self.needs_restart && !self.app_ready,
                last_resort: self.obstacles(now_ns)[..] == [Obstacle::Impaired],
            },
            priority: self.cfg.priority,
            incarnation: self.incarnation,
            seq: self.seq,
            log_epoch: self.log.log_epoch,
            log_start: self.log.log_start,
            position: self.log.position,
            committed: self.log.committed,
            applied: self.log.applied,
            released: self.released,
            heir: self.heir,
            heard: heard.collect(),
            reign,
        };
        self.claimed = heartbeat.reign.is_some();
        self.send(To::All, Control::Heartbeat(heartbeat));
    }

    /// Why this node could not take over; empty if it could, or leads. Of a witness: why it could not do its part.
    fn not_ready_because(&self, now_ns: u64) -> Vec<String> {
        if matches!(self.phase, Phase::Lead(_)) {
            return Vec::new();
        }
        let obstacles = self.obstacles(now_ns).into_iter();
        let mut reasons: Vec<String> = obstacles
            .filter(|obstacle| !self.cfg.witness || !obstacle.is_of_service())
            .map(|obstacle| obstacle.text().to_owned())
            .collect();
        if let Some(at) = self.cannot_join_at() {
            reasons.push(format!(
                "the primary's log no longer holds position {at}; a checkpoint is needed"
            ));
        }
        reasons
    }

    fn needs_checkpoint(&self) -> Option<NeedsCheckpoint> {
        let diverged = matches!(self.phase, Phase::Follow) && !self.log.fit && !self.restarting;
        let follows = matches!(self.phase, Phase::Follow) && !self.restarting;
        let gone = follows && self.needs_restart && !self.app_ready;
        let needed = !self.cfg.witness && (diverged || gone || self.cannot_join_at().is_some());
        let applied = if diverged || gone { self.log.applied } else { 0 };
        needed.then_some(NeedsCheckpoint { diverged, applied })
    }

    fn primary_log(&self) -> Option<PrimaryLog> {
        let follows = matches!(self.phase, Phase::Follow | Phase::Join { .. });
        let reign = self.reign.as_ref().filter(|_| follows)?;
        let primary = self.peers.iter().find(|peer| peer.id == reign.primary)?;
        let position = primary.last.as_ref().map_or(0, |last| last.position);
        Some(PrimaryLog { start: reign.log_start, position, history: reign.history.clone() })
    }

    fn primary(&self) -> Option<NodeId> {
        match &self.phase {
            Phase::Lead(_) => Some(self.cfg.me),
            Phase::Follow | Phase::Join { .. } => self.reign.as_ref().map(|reign| reign.primary),
            _ => None,
        }
    }

    /// The state at `now_ns`.
    #[must_use]
    pub fn view(&self, now_ns: u64) -> View {
        let peer_view = |peer: &crate::peers::Peer| {
            let last = peer.last.clone().unwrap_or_default();
            PeerView {
                id: peer.id,
                alive: peer.alive(now_ns, self.cfg.suspect_after_ns).is_some(),
                replica_age_ns: peer.path_age_ns(now_ns, Path::Replica),
                second_age_ns: peer.path_age_ns(now_ns, Path::Second),
                epoch: peer.epoch,
                role: last.role,
                position: last.position,
                applied: last.applied,
                clone_ready: last.flags.clone_ready,
                recovering: last.flags.recovering,
                electable: last.flags.electable,
                client_link_up: last.flags.client_link_up,
                replica_link_up: last.flags.replica_link_up,
            }
        };
        View {
            me: self.cfg.me,
            role: self.role(),
            epoch: self.epoch,
            primary: self.primary(),
            recovering: self.recovering,
            gate_open: matches!(&self.phase, Phase::Lead(lead) if lead.gate_open),
            position: self.log.position,
            committed: self.log.committed,
            applied: self.log.applied,
            peers: self.peers.iter().map(peer_view).collect(),
            arbiter: self.arbiter_view(),
            not_ready_because: self.not_ready_because(now_ns),
            primary_log: self.primary_log(),
            needs_checkpoint: self.needs_checkpoint(),
        }
    }
}
