//! The course of a run: settle, load, break something, mend it, settle again, and let the load end.

use understudy_fastpath::MS;
use understudy_proto::LocalFact;
use understudy_wire::NodeId;

use crate::net::{Plug, Way};
use crate::scenario::{Fault, Mutation, Profile, Scenario};
use crate::world::{Event, World};

/// A group with nothing broken is whole again within this time.
const SETTLE_NS_MAX: u64 = 20_000 * MS;
/// Connections come to their end within this time.
const DRAIN_NS_MAX: u64 = 20_000 * MS;
/// A majority that can talk has a primary within this time.
const TAKEOVER_NS_MAX: u64 = 4_000 * MS;

#[derive(Clone, Copy, Debug, Default)]
enum Phase {
    #[default]
    Start,
    Settling {
        since: u64,
    },
    Peace {
        until: u64,
    },
    Episode {
        since: u64,
        until: u64,
    },
    Draining {
        since: u64,
    },
    Done,
}

/// The director.
#[derive(Debug, Default)]
pub struct Director {
    phase: Phase,
    left: u64,
    /// Afflicted at the moment, and by what.
    victims: Vec<(NodeId, Fault)>,
}

impl Director {
    /// Before the first turn.
    pub fn new(scenario: &Scenario) -> Director {
        Director { left: scenario.episodes, ..Director::default() }
    }

    /// Whether the run is over.
    pub fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done)
    }

    /// One turn.
    pub fn turn(&mut self, w: &mut World) {
        let now = w.now_ns;
        match self.phase {
            Phase::Start => self.phase = Phase::Settling { since: now },
            Phase::Settling { since } => self.settle(w, since),
            Phase::Peace { until } if now >= until => self.strike(w),
            Phase::Episode { since, until } if now >= until => self.mend(w, since),
            Phase::Draining { since } => self.drain(w, since),
            _ => {}
        }
    }

    fn settle(&mut self, w: &mut World, since: u64) {
        let chaos = w.scenario.profile == Profile::Chaos;
        if w.is_settled() || chaos {
            w.note("settled");
            let until = w.now_ns + w.rng.range(100 * MS, 700 * MS);
            self.phase = Phase::Peace { until };
        } else if w.now_ns > since + SETTLE_NS_MAX {
            w.describe();
            w.violate("liveness: the group is not whole again although nothing is broken".into());
        }
    }

    fn strike(&mut self, w: &mut World) {
        let chaos = w.scenario.profile == Profile::Chaos;
        if self.left == 0 {
            return self.begin_drain(w);
        }
        if !chaos && !w.is_settled() {
            self.phase = Phase::Settling { since: w.now_ns };
            return;
        }
        self.left -= 1;
        let tolerated = usize::from(w.scenario.nodes) - w.scenario.majority();
        let count = w.rng.range(1, if chaos { 3 } else { tolerated as u64 }) as usize;
        let faults = w.scenario.profile.faults();
        for _ in 0..count {
            let id = self.victim(w);
            let fault = w.rng.pick(faults);
            if self.victims.iter().all(|(v, _)| *v != id) {
                w.note(format!("FAULT {fault:?} at node {id}"));
                self.victims.push((id, fault));
                afflict(w, id, fault);
            }
        }
        let long = w.rng.percent(30);
        let s = w.scenario.suspect_ns;
        let length = if long { TAKEOVER_NS_MAX + s } else { w.rng.range(s / 8, 6 * s) };
        self.phase = Phase::Episode { since: w.now_ns, until: w.now_ns + length };
    }

    /// The primary more often than not.
    fn victim(&self, w: &mut World) -> NodeId {
        let any = 1 + w.rng.below(u64::from(w.scenario.nodes)) as NodeId;
        match w.server() {
            Some((id, _)) if w.rng.percent(60) => id,
            _ => any,
        }
    }

    fn mend(&mut self, w: &mut World, since: u64) {
        let chaos = w.scenario.profile == Profile::Chaos;
        // A node that only the second path hears may be elected, and then waits for its lease for
        // as long as `takeover_limit_ns`: with another primary dead, that is the outage.
        let mute = self.victims.len() > 1 && self.victims.iter().any(|v| v.1 == Fault::MuteReplica);
        let judged = !chaos && !mute && w.now_ns >= since + TAKEOVER_NS_MAX;
        if judged && w.server().is_none() {
            w.describe();
            w.violate("liveness: a connected majority is without a primary".into());
            return;
        }
        let victims = std::mem::take(&mut self.victims);
        w.note(format!("mended: {victims:?}"));
        w.cuts.heal();
        for (id, fault) in victims {
            relieve(w, id, fault);
        }
        self.phase = Phase::Settling { since: w.now_ns };
    }

    fn begin_drain(&mut self, w: &mut World) {
        w.note("the load ends");
        self.phase = match w.scenario.profile {
            Profile::Chaos => Phase::Done,
            _ => Phase::Draining { since: w.now_ns },
        };
        for i in 0..w.hosts.len() {
            w.hosts[i].finish();
            w.hosts[i].tick(w.now_ns);
            let now_ns = w.now_ns;
            w.push(now_ns, Event::Host(i));
            w.schedule_host(i);
        }
    }

    fn drain(&mut self, w: &mut World, since: u64) {
        if w.hosts.iter().all(|h| h.is_done()) {
            w.note("every connection has come to its end");
            self.phase = Phase::Done;
        } else if w.now_ns > since + DRAIN_NS_MAX {
            w.describe();
            for i in 0..w.hosts.len() {
                self.describe_stuck(w, i);
            }
            w.violate("liveness: connections make no progress although nothing is broken".into());
        }
    }

    fn describe_stuck(&self, w: &mut World, host: usize) {
        let ip = w.hosts[host].ip();
        for (port, progress_ns, text) in w.hosts[host].under_way() {
            w.note(format!("stuck: {ip}:{port} since {} us: {text}", progress_ns / 1000));
            for i in 0..w.machines.len() {
                let m = &w.machines[i];
                let socket = m.life.as_ref().and_then(|l| l.kernel.summary((ip, port)));
                let id = m.id;
                w.note(format!("  node {id}: {socket:?}"));
            }
        }
    }
}

fn both_ways(w: &mut World, id: NodeId, way: fn(NodeId, NodeId) -> Way, dirs: (bool, bool)) {
    for other in (1..=w.scenario.nodes).filter(|o| *o != id) {
        if dirs.0 {
            w.cuts.cut(way(id, other));
        }
        if dirs.1 {
            w.cuts.cut(way(other, id));
        }
    }
}

fn afflict(w: &mut World, id: NodeId, fault: Fault) {
    let now = w.now_ns;
    match fault {
        Fault::Switchover => {
            let to = w.rng.percent(50).then(|| 1 + w.rng.below(u64::from(w.scenario.nodes)) as u16);
            if let Some((leader, _)) = w.server()
                && let Some(life) = &mut w.machine(leader).life
            {
                life.control.switchovers.push_back(to.filter(|to| *to != leader));
            }
        }
        Fault::Crash => w.crash(id),
        Fault::PauseBoth => {
            w.machine(id).poll_stall = (now, u64::MAX);
            w.machine(id).wake_stall = u64::MAX;
        }
        Fault::PauseData => w.machine(id).poll_stall = (now, u64::MAX),
        Fault::PauseControl => w.machine(id).wake_stall = u64::MAX,
        Fault::AppExit => w.exit_app(id),
        Fault::Isolate => {
            both_ways(w, id, Way::Replica, (true, true));
            both_ways(w, id, Way::Second, (true, true));
        }
        Fault::CutReplica => both_ways(w, id, Way::Replica, (true, true)),
        Fault::CutSecond => both_ways(w, id, Way::Second, (true, true)),
        Fault::DeafReplica => both_ways(w, id, Way::Replica, (false, true)),
        Fault::MuteReplica => both_ways(w, id, Way::Replica, (true, false)),
        Fault::ClientCarrier => set_client_carrier(w, id, false),
        Fault::ReplicaCarrier => set_replica_carrier(w, id, false),
        Fault::ClientMute => w.cuts.cut(Way::FromNode(id)),
        Fault::ClientDeaf => w.cuts.cut(Way::ToNode(id)),
    }
    if w.has(Mutation::SlowClock) && fault == Fault::Isolate {
        w.machine(id).data_clock.set_slow(now, true);
    }
}

fn relieve(w: &mut World, id: NodeId, fault: Fault) {
    let now = w.now_ns;
    match fault {
        Fault::Crash => w.push(now, Event::Boot(id)),
        Fault::PauseBoth | Fault::PauseData | Fault::PauseControl => {
            let (poll, wake) = (w.rng.below(MS), w.rng.below(MS));
            let machine = w.machine(id);
            if machine.poll_stall.1 == u64::MAX {
                machine.poll_stall.1 = now + poll;
            }
            if machine.wake_stall == u64::MAX {
                machine.wake_stall = now + wake;
            }
            w.resume(id);
        }
        Fault::ClientCarrier => set_client_carrier(w, id, true),
        Fault::ReplicaCarrier => set_replica_carrier(w, id, true),
        _ => {}
    }
    w.machine(id).data_clock.set_slow(now, false);
}

fn set_client_carrier(w: &mut World, id: NodeId, up: bool) {
    w.machine(id).client_carrier = up;
    if !up {
        w.switch.unplug(Plug::Node(id));
    }
    tell(w, id, LocalFact::ClientLink(up));
}

fn set_replica_carrier(w: &mut World, id: NodeId, up: bool) {
    w.machine(id).replica_carrier = up;
    tell(w, id, LocalFact::ReplicaLink(up));
}

fn tell(w: &mut World, id: NodeId, fact: LocalFact) {
    if let Some(life) = &mut w.machine(id).life {
        life.control.links.push_back(fact);
    }
}
