//! What `understudy status` shows, from the views of control plane and data path.

use std::collections::BTreeMap;

use understudy_api as api;
use understudy_config::Config;
use understudy_fastpath::command::{DataRole, Snapshot};
use understudy_fastpath::sender::{EvictCause, Eviction, MemberChange};
use understudy_fastpath::waits::{WAIT_BUCKETS, Waits};
use understudy_proto::{ArbiterView, PeerView, TimelineKind, View};
use understudy_seal::ChannelView;
use understudy_wire::NodeId;
use understudy_wire::control::Role as WireRole;

/// Everything beside the two views.
pub struct Facts<'a> {
    pub config: &'a Config,
    pub uptime_ms: u64,
    pub drained: bool,
    pub app_pid: Option<i32>,
    pub timeline: Vec<api::TimelineEvent>,
    pub checkpoints: Option<api::Checkpoints>,
    pub faults: Vec<api::Fault>,
    /// Counters of the control plane's own.
    pub counters: BTreeMap<String, u64>,
    /// Reasons the views do not know.
    pub not_ready: Vec<String>,
}

/// Builds the status.
pub fn status(view: &View, snapshot: Option<&Snapshot>, facts: Facts<'_>) -> api::Status {
    let config = facts.config;
    let role = role(view);
    let mut not_ready_because = facts.not_ready;
    not_ready_because.extend(view.not_ready_because.iter().cloned());
    if role == api::Role::Primary && !view.gate_open {
        not_ready_because.push("the gate is not open".into());
    }
    not_ready_because.extend(snapshot.and_then(held));
    if role == api::Role::Witness && view.primary.is_none() {
        not_ready_because.push("it follows no primary".into());
    }
    let service = &config.service;
    let mut status = api::Status {
        cluster: config.cluster.name.clone(),
        node: config.me().name.clone(),
        node_id: config.me().id,
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        uptime_ms: facts.uptime_ms,
        role,
        epoch: view.epoch,
        primary: view.primary.and_then(|id| name(config, id)),
        ready: not_ready_because.is_empty(),
        drained: facts.drained,
        not_ready_because,
        service: api::Service {
            name: service.name.clone(),
            vip: service.vip.iter().map(ToString::to_string).collect(),
            vmac: config.vmac().map(|b| format!("{b:02x}")).join(":"),
            app_pid: facts.app_pid.and_then(|p| u32::try_from(p).ok()),
            app_running: facts.app_pid.is_some(),
        },
        log: snapshot.map(log).unwrap_or_default(),
        gate: gate(config, view, snapshot),
        arbiter: view.arbiter.as_ref().map(|a| arbiter(config, a)),
        checkpoints: facts.checkpoints,
        faults: facts.faults,
        peers: view.peers.iter().map(|p| peer(config, view, p, snapshot)).collect(),
        counters: counters(snapshot, facts.counters),
        timeline: facts.timeline,
        ..api::Status::default()
    };
    status.conclude();
    status
}

/// The role in the words of the CLI.
pub fn role(view: &View) -> api::Role {
    match view.role {
        WireRole::Replica if view.recovering => api::Role::Recovering,
        WireRole::Replica if view.primary.is_none() => api::Role::Starting,
        other => wire_role(other),
    }
}

fn wire_role(role: WireRole) -> api::Role {
    match role {
        WireRole::Replica => api::Role::Replica,
        WireRole::Witness => api::Role::Witness,
        WireRole::Candidate => api::Role::Candidate,
        WireRole::Primary => api::Role::Primary,
        WireRole::Closing | WireRole::Fenced => api::Role::Fenced,
    }
}

fn name(config: &Config, id: NodeId) -> Option<String> {
    config.nodes.iter().find(|n| n.id == id).map(|n| n.name.clone())
}

fn log(s: &Snapshot) -> api::LogPositions {
    api::LogPositions {
        start: s.log_start,
        end: s.log_end,
        committed: s.committed,
        applied: s.applied,
        capacity_bytes: s.log_capacity,
    }
}

fn gate(config: &Config, view: &View, snapshot: Option<&Snapshot>) -> api::Gate {
    let c = snapshot.map(|s| s.counters).unwrap_or_default();
    api::Gate {
        open: view.gate_open,
        policy: config.commit.policy.to_string(),
        replicas_required: snapshot.map_or(0, |s| s.replicas_required as u64),
        replicas_in_set: snapshot.map_or(0, |s| in_set(s) as u64),
        alone: snapshot.is_some_and(|s| s.alone),
        waiting_frames: snapshot.map_or(0, |s| s.gate_waiting as u64),
        uncovered_frames: snapshot.map_or(0, |s| s.gate_uncovered as u64),
        released: c.gate_released,
        released_zero_wait: c.gate_zero_wait,
        dropped: c.gate_fenced,
        waits: snapshot.map(|s| waits(&s.gate_waits)).unwrap_or_default(),
    }
}

fn waits(w: &Waits) -> api::Waits {
    api::Waits {
        bounds_ns: (0..WAIT_BUCKETS).filter_map(Waits::bound_ns).collect(),
        counts: w.counts.to_vec(),
        sum_ns: w.sum_ns,
    }
}

fn arbiter(config: &Config, a: &ArbiterView) -> api::Arbiter {
    let named = |id: NodeId| name(config, id).unwrap_or_else(|| id.to_string());
    api::Arbiter {
        reachable: a.reachable,
        register: a.register.as_ref().map(|r| api::Register {
            epoch: r.epoch,
            primary: named(r.primary),
            members: r.members.iter().map(|&id| named(id)).collect(),
            since: r.since,
        }),
        alone: a.alone,
    }
}

fn peer(config: &Config, view: &View, p: &PeerView, snapshot: Option<&Snapshot>) -> api::Peer {
    let sender = snapshot.and_then(|s| s.peers.iter().find(|x| x.id == p.id));
    let position = sender.map_or(p.position, |s| s.acked.max(p.position));
    let heard = p.replica_age_ns.is_some() || p.second_age_ns.is_some();
    let ms = |ns: Option<u64>| ns.map(|ns| ns / 1_000_000);
    api::Peer {
        name: name(config, p.id).unwrap_or_default(),
        id: p.id,
        role: heard.then(|| if p.recovering { api::Role::Recovering } else { wire_role(p.role) }),
        alive: p.alive,
        replica_path_ms: ms(p.replica_age_ns),
        second_path_ms: ms(p.second_age_ns),
        epoch: p.epoch,
        position,
        applied: p.applied,
        lag_bytes: view.position.saturating_sub(position),
        in_commit_set: sender.is_some_and(|s| s.in_set()),
        evicted_because: sender.and_then(|s| s.eviction).map(|e| evicted(&e)),
        clone_ready: p.clone_ready,
        electable: p.electable,
    }
}

/// Replicas in the commit set of this node's reign.
fn in_set(s: &Snapshot) -> usize {
    s.peers.iter().filter(|p| p.in_set()).count()
}

/// What the configured policy does now that too few replicas are left.
fn held(s: &Snapshot) -> Option<String> {
    let (set, required) = (in_set(s), s.replicas_required);
    let stops = matches!(s.role, DataRole::Lead(_)) && !s.alone && set < required;
    stops.then(|| format!("output held: {set} of {required} replicas required by commit.min"))
}

/// Why a replica is out of the commit set.
fn evicted(e: &Eviction) -> String {
    let (bytes, ms) = (e.lag_bytes, e.lag_ns / 1_000_000);
    match e.cause {
        EvictCause::Absent if ms == 0 => "never heard on the replica port".into(),
        EvictCause::Absent => format!("not heard for {ms} ms when the reign began"),
        EvictCause::Silent => format!("silent for {ms} ms, {bytes} bytes behind"),
        EvictCause::Lagging => format!("lagging by {bytes} bytes and {ms} ms"),
    }
}

/// The same, of a replica that is out of it.
pub fn evicted_because(peer: &understudy_fastpath::sender::Peer) -> Option<String> {
    peer.eviction.as_ref().map(evicted)
}

/// A replica's coming and going: the event's name and what it says.
pub fn member_change(name: &str, change: &MemberChange) -> (&'static str, String) {
    match change {
        MemberChange::Evicted(e) => ("evicted", format!("{name}: {}", evicted(e))),
        MemberChange::Admitted => ("admitted", format!("{name} is in the commit set")),
        MemberChange::FellOffLog { position, log_start } => (
            "fell_off_log",
            format!("{name} asks for {position}, the log begins at {log_start}: it must join anew"),
        ),
    }
}

fn counters(snapshot: Option<&Snapshot>, mut out: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    if let Some(s) = snapshot {
        let sealed = s.channel.counters;
        let all = s.counters.iter().chain(sealed.iter());
        out.extend(all.map(|(name, value)| (name.to_string(), value)));
        out.insert("flows".into(), s.flows as u64);
        out.insert("retained_now".into(), s.retained as u64);
    }
    out
}

/// The keys, as both paths have them. What counts is what the control plane has told them.
pub fn keys(config: &Config, replica: Option<&ChannelView>, second: &ChannelView) -> api::Keys {
    let id = |key: &u16| format!("{key:04x}");
    let peer = |p: &understudy_seal::PeerView| api::KeyPeer {
        name: name(config, p.id).unwrap_or_default(),
        known: p.is_accepted,
        key: p.key_seen.as_ref().map(id),
    };
    let path = |(path, view): (&str, &ChannelView)| api::KeyPath {
        path: path.into(),
        peers: view.peers.iter().map(peer).collect(),
        counters: view.counters.iter().map(|(name, value)| (name.into(), value)).collect(),
    };
    let paths = replica.map(|view| ("replica", view)).into_iter().chain([("second", second)]);
    api::Keys {
        seals: second.keys.first().map(id).unwrap_or_default(),
        opens: second.keys.iter().map(id).collect(),
        paths: paths.map(path).collect(),
    }
}

/// The event's name in the time line of the CLI.
pub fn event_name(kind: TimelineKind) -> &'static str {
    match kind {
        TimelineKind::Suspicion => "suspected",
        TimelineKind::PreVoteStarted => "pre_vote",
        TimelineKind::VoteStarted => "vote",
        TimelineKind::Voted => "voted",
        TimelineKind::ElectionWon => "election_won",
        TimelineKind::ElectionLost => "election_lost",
        TimelineKind::GateOpen => "gate_open",
        TimelineKind::Announce => "announce",
        TimelineKind::SteppedDown => "stepped_down",
        TimelineKind::Fenced => "fenced",
        TimelineKind::PeerSteppedDown => "peer_stepped_down",
        TimelineKind::FollowNew => "follow",
        TimelineKind::CannotJoin => "cannot_join",
        TimelineKind::ServiceRestart => "service_restart",
        TimelineKind::Recovered => "recovered",
        TimelineKind::AllLost => "all_lost",
        TimelineKind::LoopOverran => "loop_overran",
        TimelineKind::SwitchoverStarted => "switchover_started",
        TimelineKind::Alone => "alone",
        TimelineKind::Shared => "shared",
        TimelineKind::ArbiterRefused => "arbiter_refused",
        TimelineKind::Arbiter => "arbiter",
        TimelineKind::Caretaker => "caretaker",
    }
}
