//! What the service needs is looked at, and what follows is done: see `understudy_proto::supervise`.
//!
//! Looks are cheap here, or made by threads of their own. While the application stands still for a
//! checkpoint it is not looked at, and a checkpoint waits for a health check that is under way: its
//! connection must not be saved with the others.

use understudy_api::Fault as ApiFault;
use understudy_config::{DiskWatch, HealthWatch, Policy as ConfigPolicy, SuperviseConfig, Watch};
use understudy_linux::health::process_state;
use understudy_linux::space;
use understudy_proto::supervise::{
    BadView, Cause, Fault, Hold, Key, Output as Told, Policy, Resource, Rule, Rules, Situation,
    Supervisor,
};
use understudy_proto::{PeerView, View};

use super::links::Links;
use super::*;
use crate::clocks::Clocks;
use crate::probes::{DiskProbe, HealthProbe};

/// How often it is looked what this node is.
const ACT_NS: u64 = 20 * MS;
/// Until what others have found is known here.
const HEARD_NS: u64 = 50 * MS;
const HUGE_PAGE_BYTES: u64 = 2 << 20;
const MIB: u64 = 1 << 20;

/// When something is to be looked at again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Due(u64);

impl Due {
    pub(super) fn is_now(&mut self, now_ns: u64, interval_ms: u64) -> bool {
        let is_now = now_ns >= self.0;
        if is_now {
            self.0 = now_ns + interval_ms * MS;
        }
        is_now
    }
}

#[derive(Default)]
struct Dues {
    act: Due,
    application: Due,
    health: Due,
    paths: Due,
    lag: Due,
    memory: Due,
    core: Due,
    clock: Due,
    cpu: Due,
}

/// The control thread's view of it.
pub(super) struct Supervision {
    supervisor: Supervisor,
    health: Option<HealthProbe>,
    /// The one before a reload, whose last check is still under way.
    retired: Option<HealthProbe>,
    /// Health checks, and those that did not end well.
    checks: (u64, u64),
    disk: DiskProbe,
    disk_looks: u64,
    clocks: Clocks,
    pub(super) links: Links,
    dues: Dues,
    /// The reign that this node serves in, since when, and whether it took over.
    reign: Option<(Epoch, u64, bool)>,
    /// For what a handover is under way.
    handing_over: Option<Key>,
    turn_ns: Option<u64>,
    gap_ns: u64,
    ticks: Option<(u64, u64)>,
}

impl Supervision {
    pub(super) fn start(
        config: &Config,
        capsule: Option<&NodeCapsule>,
    ) -> anyhow::Result<Supervision> {
        let s = &config.supervise;
        let health = capsule.map(|c| HealthProbe::start(config, &c.ns)).transpose()?.flatten();
        Ok(Supervision {
            supervisor: Supervisor::new(rules(s), failover_interval_ns(s)),
            health,
            retired: None,
            checks: (0, 0),
            disk: DiskProbe::start(&config.control.state_dir, &s.disk)?,
            disk_looks: 0,
            clocks: Clocks::new(s.clock.step_ms, s.clock.drift_ppm),
            links: Links::default(),
            dues: Dues::default(),
            reign: None,
            handing_over: None,
            turn_ns: None,
            gap_ns: 0,
            ticks: space::cpu_ticks().ok(),
        })
    }

    pub(super) fn counters(&self) -> [(&'static str, u64); 3] {
        [
            ("health_checks", self.checks.0),
            ("health_checks_failed", self.checks.1),
            ("supervision_lost", self.supervisor.lost()),
        ]
    }

    /// A health check is under way.
    pub(super) fn is_asking(&self) -> bool {
        [&self.health, &self.retired].into_iter().flatten().any(HealthProbe::is_asking)
    }

    /// What a changed configuration needs new threads for: what can fail of [`Control::supervise_by`].
    pub(super) fn retune(
        old: &Config,
        new: &Config,
        capsule: Option<&NodeCapsule>,
    ) -> anyhow::Result<Retuned> {
        let (was, is) = (&old.supervise, &new.supervise);
        let asks = |h: &HealthWatch| (h.check.clone(), h.command.clone(), h.timeout_ms);
        let health = match asks(&was.health) == asks(&is.health) {
            true => None,
            false => Some(capsule.map(|c| HealthProbe::start(new, &c.ns)).transpose()?.flatten()),
        };
        let looks = |d: &DiskWatch| (d.free_mb, d.timeout_ms, d.interval_ms);
        let disk = match looks(&was.disk) == looks(&is.disk) {
            true => None,
            false => Some(DiskProbe::start(&new.control.state_dir, &is.disk)?),
        };
        Ok(Retuned { health, disk })
    }

    pub(super) fn sample(&mut self, now_ns: u64, resource: Resource, seen: Result<(), Fault>) {
        self.supervisor.sample(now_ns, Key::own(resource), seen);
    }
}

/// New threads, where other ones are needed.
pub(super) struct Retuned {
    health: Option<Option<HealthProbe>>,
    disk: Option<DiskProbe>,
}

fn failover_interval_ns(s: &SuperviseConfig) -> u64 {
    s.failover_interval_s * 1_000 * MS
}

fn rules(s: &SuperviseConfig) -> Rules {
    let mut rules = Rules::default();
    let rule = |watch: Watch| Rule {
        policy: match watch.policy {
            ConfigPolicy::Failover => Policy::Failover,
            ConfigPolicy::Restart => Policy::Restart,
            ConfigPolicy::Alert => Policy::Alert,
        },
        fall: watch.fall,
        rise: watch.rise,
        settle_ns: 0,
    };
    for (resource, watch) in [
        (Resource::Core, s.core.watch()),
        (Resource::Application, s.application.watch()),
        (Resource::Health, s.health.watch()),
        (Resource::ClientLink, s.links.watch()),
        (Resource::HostLink, s.links.watch()),
        (Resource::ReplicaLink, s.links.watch()),
        (Resource::ReplicaPath, s.paths.watch()),
        (Resource::SecondPath, s.paths.watch()),
        (Resource::Lag, s.lag.watch()),
        (Resource::Disk, s.disk.watch()),
        (Resource::Buffers, s.memory.watch()),
        (Resource::HugePages, s.memory.watch()),
        (Resource::Clock, s.clock.watch()),
        (Resource::Cpu, s.cpu.watch()),
    ] {
        rules.set(resource, rule(watch));
    }
    // What fails everywhere at once fails everywhere within an interval, and a heartbeat later it is known here.
    let settle_ns = s.health.interval_ms * MS + HEARD_NS;
    rules.set(Resource::Health, Rule { settle_ns, ..rule(s.health.watch()) });
    rules
}

impl Control {
    /// Looks at what is due, and does what follows.
    pub(super) fn advance_supervision(&mut self, now_ns: u64) {
        self.note_turn(now_ns);
        if self.restart_at_ns.is_some() || self.stopping_since_ns.is_some() {
            return;
        }
        self.look_at_core(now_ns);
        self.look_at_application(now_ns);
        self.look_at_health(now_ns);
        self.look_at_links(now_ns);
        self.look_at_machine(now_ns);
        let config = Arc::clone(&self.config);
        let s = &config.supervise;
        let act = self.supervision.dues.act.is_now(now_ns, ACT_NS / MS);
        let paths = self.supervision.dues.paths.is_now(now_ns, s.paths.interval_ms);
        let lag = self.supervision.dues.lag.is_now(now_ns, s.lag.interval_ms);
        if act || paths || lag {
            let view = self.node.view(now_ns);
            if paths {
                self.look_at_paths(now_ns, &view.peers);
            }
            if lag {
                self.look_at_lag(now_ns, &view);
            }
            let situation = self.situation(now_ns, &view);
            self.supervision.supervisor.act(now_ns, situation);
        }
        while let Some(told) = self.supervision.supervisor.poll_output() {
            self.carry_out_policy(now_ns, told);
        }
    }

    /// Looks and acts as the configuration says by now.
    pub(super) fn supervise_by(&mut self, now_ns: u64, retuned: Retuned) {
        let config = Arc::clone(&self.config);
        let s = &config.supervise;
        let supervision = &mut self.supervision;
        if let Some(health) = retuned.health {
            supervision.retired = supervision.health.take().filter(HealthProbe::is_asking);
            supervision.health = health;
            // Another question: what the answers to the last one said is nothing to it.
            supervision.supervisor.forget(Key::own(Resource::Health));
        }
        if let Some(disk) = retuned.disk {
            (supervision.disk, supervision.disk_looks) = (disk, 0);
        }
        supervision.clocks.set_limits(s.clock.step_ms, s.clock.drift_ppm);
        supervision.supervisor.set_rules(rules(s), failover_interval_ns(s));
        supervision.dues = Dues::default();
        self.follow_links_anew(now_ns);
    }

    fn situation(&mut self, now_ns: u64, view: &View) -> Situation {
        let serves = view.role == understudy_wire::control::Role::Primary && view.gate_open;
        if !serves {
            self.supervision.reign = None;
            let follows = view.role == understudy_wire::control::Role::Replica
                && view.primary.is_some_and(|id| id != self.config.me().id);
            return if follows { Situation::Replica } else { Situation::Other };
        }
        let took_over = self.snapshot.as_ref().is_some_and(|s| s.history.len() > 1);
        let reign = self.supervision.reign.filter(|(epoch, ..)| *epoch == view.epoch);
        let reign = reign.unwrap_or((view.epoch, now_ns, took_over));
        self.supervision.reign = Some(reign);
        let has_successor = view.peers.iter().any(|p| p.alive && p.electable);
        Situation::Primary { since_ns: reign.1, took_over: reign.2, has_successor }
    }

    // ---- looks --------------------------------------------------------------

    /// The time between two turns of this loop, which never waits long by itself.
    fn note_turn(&mut self, now_ns: u64) {
        let s = &mut self.supervision;
        let gap_ns = now_ns.saturating_sub(s.turn_ns.unwrap_or(now_ns));
        s.turn_ns = Some(now_ns);
        s.gap_ns = s.gap_ns.max(gap_ns);
    }

    fn look_at_core(&mut self, now_ns: u64) {
        let config = &self.config.supervise.core;
        if !self.supervision.dues.core.is_now(now_ns, config.interval_ms) {
            return;
        }
        let Some(at_ns) = self.snapshot.as_ref().map(|s| s.at_ns) else { return };
        let age_ns = now_ns.saturating_sub(at_ns);
        let seen = match age_ns > config.stuck_ms * MS {
            true => {
                let text =
                    format!("the poll-mode thread has made no progress for {} ms", age_ns / MS);
                Err(Fault::new(Cause::NoProgress, text))
            }
            false => Ok(()),
        };
        self.supervision.sample(now_ns, Resource::Core, seen);
    }

    fn look_at_application(&mut self, now_ns: u64) {
        let interval_ms = self.config.supervise.application.interval_ms;
        if !self.supervision.dues.application.is_now(now_ns, interval_ms) || self.stands_still() {
            return;
        }
        let Some(pid) = self.app_pid().filter(|_| self.app == App::Ready) else {
            return self.supervision.supervisor.forget(Key::own(Resource::Application));
        };
        let seen = match process_state(pid) {
            Some('T') => Err(Fault::new(
                Cause::Stopped,
                format!("process {pid} was stopped by a signal (SIGSTOP, or as SIGTSTP)"),
            )),
            // Its end is seen otherwise, and at once.
            _ => Ok(()),
        };
        self.supervision.sample(now_ns, Resource::Application, seen);
    }

    fn look_at_health(&mut self, now_ns: u64) {
        let config = &self.config.supervise.health;
        let (is_ready, stands_still) = (self.app == App::Ready, self.stands_still());
        let retired = &mut self.supervision.retired;
        if retired.as_mut().is_some_and(|probe| probe.answer().is_some() || probe.is_overdue()) {
            *retired = None;
        }
        let Some(probe) = &mut self.supervision.health else { return };
        let mut answer = probe.answer();
        if is_ready
            && !stands_still
            && (!probe.is_asking() || probe.is_overdue())
            && self.supervision.dues.health.is_now(now_ns, config.interval_ms)
        {
            if probe.is_asking() {
                answer = Some(Err(Fault::new(Cause::TimedOut, "the check itself does not end")));
            }
            probe.ask();
        }
        match answer {
            _ if !is_ready => self.supervision.supervisor.forget(Key::own(Resource::Health)),
            Some(seen) => {
                self.supervision.checks.0 += 1;
                self.supervision.checks.1 += u64::from(seen.is_err());
                self.supervision.sample(now_ns, Resource::Health, seen);
            }
            None => {}
        }
    }

    fn look_at_paths(&mut self, now_ns: u64, peers: &[PeerView]) {
        let silent_ns = self.config.supervise.paths.silent_ms * MS;
        if now_ns < self.started_ns + silent_ns {
            return;
        }
        // Who is silent on both is not there: that is told otherwise.
        for peer in peers.iter().filter(|peer| peer.alive) {
            let name = self.node_name(peer.id);
            for (resource, what, age_ns) in [
                (Resource::ReplicaPath, "the replica port", peer.replica_age_ns),
                (Resource::SecondPath, "the second path", peer.second_age_ns),
            ] {
                let seen = match age_ns {
                    Some(age_ns) if age_ns <= silent_ns => Ok(()),
                    Some(age_ns) => Err(format!("for {} ms", age_ns / MS)),
                    None => Err("so far".into()),
                };
                let seen = seen.map_err(|since| {
                    Fault::new(Cause::Silent, format!("{name} is not heard on {what} {since}"))
                });
                self.supervision.supervisor.sample(now_ns, Key::of_peer(resource, peer.id), seen);
            }
        }
    }

    fn look_at_lag(&mut self, now_ns: u64, view: &View) {
        let Some(s) = &self.snapshot else { return };
        let limit = s.log_capacity / 100 * self.config.supervise.lag.log_percent;
        let behind = |who: String, bytes: u64| {
            let text = format!("{who} is {} MiB behind, {} allowed", bytes / MIB, limit / MIB);
            if bytes > limit { Err(Fault::new(Cause::Behind, text)) } else { Ok(()) }
        };
        let mut seen = Vec::with_capacity(s.peers.len() + 1);
        if matches!(s.role, DataRole::Lead(_)) {
            for peer in &s.peers {
                let name = self.node_name(peer.id);
                let lag = s.log_end.saturating_sub(peer.acked);
                let result = match status::evicted_because(peer) {
                    Some(why) => {
                        let text = format!("{name} is out of the commit set: {why}");
                        Err(Fault::new(Cause::Behind, text))
                    }
                    None => behind(name, lag),
                };
                seen.push((Key::of_peer(Resource::Lag, peer.id), Some(result)));
            }
            seen.push((Key::own(Resource::Lag), None));
        } else if let Some(primary) = &view.primary_log {
            // A warm clone applies nothing: it holds the log.
            let mine = if self.is_parked() { view.position } else { view.applied };
            let lag = primary.position.saturating_sub(mine);
            seen.push((Key::own(Resource::Lag), Some(behind("this node".into(), lag))));
            let peers = view.peers.iter().map(|p| (Key::of_peer(Resource::Lag, p.id), None));
            seen.extend(peers);
        }
        for (key, result) in seen {
            match result {
                Some(result) => self.supervision.supervisor.sample(now_ns, key, result),
                None => self.supervision.supervisor.forget(key),
            }
        }
    }

    fn look_at_machine(&mut self, now_ns: u64) {
        let config = Arc::clone(&self.config);
        let config = &config.supervise;
        let s = &mut self.supervision;
        if let Some(seen) = s.disk.seen(&mut s.disk_looks) {
            s.sample(now_ns, Resource::Disk, seen);
        }
        if s.dues.clock.is_now(now_ns, config.clock.interval_ms)
            && let Some(seen) = s.clocks.look(&self.clock)
        {
            s.sample(now_ns, Resource::Clock, seen);
        }
        if s.dues.cpu.is_now(now_ns, config.cpu.interval_ms) {
            let gap_ns = std::mem::take(&mut s.gap_ns).max(self.dataplane.take_gap_ns());
            let stolen = s.stolen();
            let seen = match gap_ns > config.cpu.gap_ms * MS {
                true => Err(Fault::new(
                    Cause::Stalled,
                    format!("a thread did not run for {} ms{stolen}", gap_ns / MS),
                )),
                false => Ok(()),
            };
            s.sample(now_ns, Resource::Cpu, seen);
        }
        if s.dues.memory.is_now(now_ns, config.memory.interval_ms) {
            self.look_at_memory(now_ns);
        }
    }

    fn look_at_memory(&mut self, now_ns: u64) {
        let percent = self.config.supervise.memory.buffers_percent;
        if let Some((free, all)) = self.dataplane.buffers() {
            let least = all / 100 * percent;
            let text = format!("{free} of {all} packet buffers are free, {least} should be");
            let fault = || Fault::new(Cause::Exhausted, text);
            let seen = (free >= least).then_some(()).ok_or_else(fault);
            self.supervision.sample(now_ns, Resource::Buffers, seen);
        }
        let needed = u64::from(self.config.dpdk.memory_mb) * MIB / HUGE_PAGE_BYTES;
        let seen = match space::huge_pages() {
            _ if needed == 0 => return,
            Ok(pages) if pages >= needed => Ok(()),
            Ok(pages) => Err(Fault::new(
                Cause::Exhausted,
                format!(
                    "the machine has {pages} huge pages, this node needs {needed} to start again"
                ),
            )),
            Err(e) => Err(Fault::new(Cause::Unknown, format!("huge pages cannot be counted: {e}"))),
        };
        self.supervision.sample(now_ns, Resource::HugePages, seen);
    }

    // ---- what follows -------------------------------------------------------

    fn carry_out_policy(&mut self, now_ns: u64, told: Told) {
        match told {
            Told::Bad { key, fault } => {
                let policy = self.supervision.supervisor.bad().find(|bad| bad.key == key);
                let policy = policy.map_or(Policy::Alert, |bad| bad.policy);
                let text = format!("{}; policy {policy}", fault.text);
                self.note_resource(now_ns, "resource_bad", key, Some(fault.cause), text);
            }
            Told::Good { key, bad_ns } => {
                let text = format!("well again after {} ms", bad_ns / MS);
                self.note_resource(now_ns, "resource_good", key, None, text);
            }
            Told::Impaired(impaired) => {
                self.node.handle_local(now_ns, LocalFact::Impaired(impaired));
                self.done(now_ns);
            }
            Told::Failover(key) => self.fail_over(now_ns, key),
            Told::Restart(key) => {
                let text = "the application is ended, to be started anew".to_string();
                self.note_resource(now_ns, "application_restart", key, None, text);
                self.stop_app();
                self.application_gone(now_ns);
            }
            Told::Held { key, why } => {
                let text = match why {
                    Hold::NoSuccessor => "not handed over: no other node is fit".to_string(),
                    Hold::Young { left_ns } => format!(
                        "not handed over for {} s yet: this reign began with a takeover, see \
                         supervise.failover_interval_s",
                        left_ns.div_ceil(1_000 * MS)
                    ),
                };
                self.note_resource(now_ns, "failover_held", key, None, text);
            }
            Told::Checkpoint(key) => self.checkpoint_for(now_ns, key),
        }
    }

    fn fail_over(&mut self, now_ns: u64, key: Key) {
        let text = "the service is handed over".to_string();
        self.note_resource(now_ns, "failover", key, None, text);
        if key.resource == Resource::Core {
            // Without it nothing can be handed over in good order.
            self.node.handle_local(now_ns, LocalFact::DataplaneStuck);
            return self.done(now_ns);
        }
        if self.switchover.is_none() {
            self.supervision.handing_over = Some(key);
            self.node.handle_switchover(now_ns, None);
            self.done(now_ns);
        }
    }

    /// A handover for a bad resource is under way.
    pub(super) fn is_handing_over(&self) -> bool {
        self.supervision.handing_over.is_some()
    }

    /// A handover is over.
    pub(super) fn handed_over(&mut self, now_ns: u64, result: &Result<NodeId, String>) {
        let Some(key) = self.supervision.handing_over.take() else { return };
        match result {
            Ok(to) => {
                let text = format!("{} serves", self.node_name(*to));
                self.note_resource(now_ns, "failover_done", key, None, text);
            }
            Err(why) => {
                self.note_resource(now_ns, "failover_failed", key, None, why.clone());
            }
        }
    }

    fn checkpoint_for(&mut self, now_ns: u64, key: Key) {
        if !self.config.supervise.checkpoint || self.taking.is_none() {
            return;
        }
        let text = match self.checkpoint_on_event(now_ns) {
            Ok(()) => "a checkpoint is taken".to_string(),
            Err(why) => format!("no checkpoint is taken: {why}"),
        };
        self.note_resource(now_ns, "checkpoint_wanted", key, None, text);
    }

    fn note_resource(
        &mut self,
        now_ns: u64,
        event: &'static str,
        key: Key,
        cause: Option<Cause>,
        detail: String,
    ) {
        let epoch = self.node.view(now_ns).epoch;
        let resource = key.resource.name();
        let why = cause.map_or("-", Cause::name);
        warn!(epoch, resource, cause = why, "{event}: {detail}");
        self.events.push(TimelineEvent {
            unix_ns: now_ns,
            epoch,
            event: event.into(),
            resource: Some(resource.into()),
            cause: cause.map(|cause| cause.name().into()),
            detail,
            ..Default::default()
        });
    }

    fn node_name(&self, id: NodeId) -> String {
        let found = self.config.nodes.iter().find(|n| n.id == id);
        found.map_or_else(|| id.to_string(), |n| n.name.clone())
    }

    // ---- views --------------------------------------------------------------

    /// What is bad, for `status`.
    pub(super) fn faults(&self, now_ns: u64) -> Vec<ApiFault> {
        let fault = |bad: BadView| ApiFault {
            resource: bad.key.resource.name().into(),
            peer: (!bad.key.is_own()).then(|| self.node_name(bad.key.peer)),
            cause: bad.fault.cause.name().into(),
            policy: bad.policy.name().into(),
            since_ms: now_ns.saturating_sub(bad.since_ns) / MS,
            detail: bad.fault.text,
        };
        self.supervision.supervisor.bad().map(fault).collect()
    }

    /// Why this node is not fit, as far as supervision knows.
    pub(super) fn unfit_because(&self) -> Vec<String> {
        let bad = self.supervision.supervisor.bad();
        bad.filter(|bad| bad.key.is_own() && bad.policy != Policy::Alert)
            .map(|bad| format!("{}: {}", bad.key.resource, bad.fault.text))
            .collect()
    }
}

impl Supervision {
    /// What a hypervisor withheld since the last time, for a text.
    fn stolen(&mut self) -> String {
        let Ok(now) = space::cpu_ticks() else { return String::new() };
        let last = self.ticks.replace(now).unwrap_or(now);
        let (all, stolen) = (now.0.saturating_sub(last.0), now.1.saturating_sub(last.1));
        match stolen * 100 / all.max(1) {
            0 => String::new(),
            percent => format!("; {percent} % of the CPU time were stolen"),
        }
    }
}
