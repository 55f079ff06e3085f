//! The course of a run: settle, load, break something, mend it, settle again, and let the load end.

use std::collections::BTreeMap;

use understudy_fastpath::MS;
use understudy_proto::{LocalFact, TimelineKind};
use understudy_wire::NodeId;

use crate::course::{Act, Change, Course, Who};
use crate::machine::Slowness;
use crate::net::{Plug, Way};
use crate::scenario::{Fault, Mutation, Profile, SECOND_FAULTS, Scenario};
use crate::world::{Event, World};

/// A group with nothing broken is whole again within this time.
const SETTLE_NS_MAX: u64 = 20_000 * MS;
/// Connections come to their end within this time.
const DRAIN_NS_MAX: u64 = 20_000 * MS;
/// So long the others run without a node before the operator believes it.
const MISSED_NS: u64 = 1_000 * MS;
/// A majority that can talk has a primary within this time.
const TAKEOVER_NS_MAX: u64 = 4_000 * MS;
/// So long a reign is waited for that the next fault may end.
const REIGN_NS_MAX: u64 = 1_500 * MS;

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
        until: u64,
    },
    Draining {
        since: u64,
    },
    Done,
}

/// A node that something is wrong with.
#[derive(Clone, Copy, Debug)]
struct Victim {
    id: NodeId,
    fault: Fault,
    until: u64,
}

/// The director.
#[derive(Debug, Default)]
pub struct Director {
    phase: Phase,
    left: u64,
    /// Afflicted at the moment.
    victims: Vec<Victim>,
    /// When another one follows.
    second_at: Option<u64>,
    /// Since when no more is broken than a group bears, and nothing has changed.
    bearable_since: u64,
    /// Since when a node that refuses to start has been missed while the others serve.
    missed: BTreeMap<NodeId, u64>,
    /// What is to follow on events.
    course: Course,
    /// What follows, and when.
    acts: Vec<(u64, Act)>,
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
        self.repair(w);
        match self.phase {
            Phase::Start => self.begin(w),
            Phase::Settling { since } => self.settle(w, since),
            Phase::Peace { until } if now >= until => self.strike(w),
            Phase::Episode { until } => self.go_on(w, until),
            Phase::Draining { since } => self.drain(w, since),
            _ => {}
        }
    }

    fn begin(&mut self, w: &mut World) {
        self.phase = Phase::Settling { since: w.now_ns };
        if w.scenario.profile == Profile::Elections && w.rng.percent(50) {
            let course = Course::first(w);
            self.play(w, course);
        }
    }

    /// The operator, as the daemon's message has it: a damaged file is removed once the others
    /// have been running without this node.
    fn repair(&mut self, w: &mut World) {
        let runs = w.runs();
        for i in 0..w.machines.len() {
            let m = &w.machines[i];
            let (id, refuses) = (m.id, m.life.is_none() && m.disk.load().is_none());
            let afflicted = self.victims.iter().any(|v| v.id == id);
            if !refuses || afflicted || !runs {
                self.missed.remove(&id);
                continue;
            }
            let since = *self.missed.entry(id).or_insert(w.now_ns);
            if w.now_ns >= since + MISSED_NS {
                self.missed.remove(&id);
                w.note(format!("the operator removes the damaged file of node {id}"));
                w.machine(id).disk.wipe();
                let now_ns = w.now_ns;
                w.push(now_ns, Event::Boot(id));
            }
        }
    }

    fn settle(&mut self, w: &mut World, since: u64) {
        let profile = w.scenario.profile;
        let enough = match profile {
            // A reign to end, mostly.
            Profile::Elections => {
                w.whole() >= w.scenario.group.majority() || w.now_ns > since + REIGN_NS_MAX
            }
            _ => w.scenario.is_beyond || w.is_settled(),
        };
        if enough {
            w.note("settled");
            let longest = match profile {
                Profile::Elections => 100 * MS,
                _ if w.scenario.is_beyond => 200 * MS,
                _ => 700 * MS,
            };
            let until = w.now_ns + w.rng.range(20 * MS, longest);
            self.phase = Phase::Peace { until };
        } else if w.now_ns > since + SETTLE_NS_MAX {
            w.describe();
            w.violate("liveness: the group is not whole again although nothing is broken".into());
        }
    }

    fn strike(&mut self, w: &mut World) {
        let chaos = w.scenario.is_beyond;
        let spare = w.whole().saturating_sub(w.scenario.group.quorum());
        if self.left == 0 {
            return self.begin_drain(w);
        }
        if !chaos && !w.is_settled() {
            self.phase = Phase::Settling { since: w.now_ns };
            return;
        }
        if !chaos && spare == 0 {
            return self.begin_drain(w);
        }
        self.left -= 1;
        if w.scenario.profile == Profile::Elections {
            let course = Course::draw(w);
            return self.play(w, course);
        }
        if w.scenario.group.alone_allowed() && w.rng.percent(30) {
            let course = Course::late_write(w);
            return self.play(w, course);
        }
        let count = w.rng.range(1, if chaos { 3 } else { spare as u64 }) as usize;
        let long = w.rng.percent(30);
        let s = w.scenario.suspect_ns;
        let length = if long { TAKEOVER_NS_MAX + s } else { w.rng.range(s / 8, 6 * s) };
        let mut until = w.now_ns + length;
        for _ in 0..count {
            let (id, fault) = (self.victim(w), w.rng.pick(w.scenario.profile.faults()));
            let until = if chaos { w.now_ns + w.rng.range(s / 8, length) } else { until };
            self.hit(w, id, fault, until);
        }
        self.bearable_since = w.now_ns;
        if w.rng.percent(w.scenario.second_percent) {
            let at = w.now_ns + w.rng.range(s / 4, 3 * s);
            self.second_at = Some(at);
            until = until.max(at + 4 * s) + if long { 4 * s } else { 0 };
        }
        self.phase = Phase::Episode { until };
    }

    /// A course of events begins.
    fn play(&mut self, w: &mut World, mut course: Course) {
        let now = w.now_ns;
        *w.notes.entry(format!("Course::{}", course.name)).or_default() += 1;
        for (change, way) in std::mem::take(&mut course.ways) {
            change_way(w, change, way);
        }
        for (id, fault, length) in std::mem::take(&mut course.opening) {
            self.worsen(w, id, fault, now + length);
        }
        self.phase = Phase::Episode { until: now + course.length_ns };
        self.bearable_since = now;
        self.course = course;
        self.follow(w, None);
    }

    /// A node's time line goes on, which may be a cue.
    pub fn hear(&mut self, w: &mut World, id: NodeId, kind: TimelineKind) {
        self.follow(w, Some((id, kind)));
    }

    fn follow(&mut self, w: &mut World, heard: Option<(NodeId, TimelineKind)>) {
        let speaker = heard.map_or(0, |(id, _)| id);
        let mut at = w.now_ns;
        for cue in self.course.take_due(heard) {
            at += w.rng.range(cue.after_ns.0, cue.after_ns.1);
            self.acts.extend(cue.acts.iter().map(|act| (at, act.said_by(speaker))));
            w.push(at, Event::Act);
        }
    }

    /// Does what is due.
    pub fn act(&mut self, w: &mut World) {
        let (now, nodes) = (w.now_ns, w.scenario.nodes);
        let later = |(at, _): &(u64, Act)| *at > now;
        let (later, due): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.acts).into_iter().partition(later);
        self.acts = later;
        for (_, act) in due {
            let name = |who: Who, w: &mut World| match who {
                Who::Node(id) => id,
                Who::Any | Who::Speaker => 1 + w.rng.below(u64::from(nodes)) as NodeId,
            };
            match act {
                Act::Hit(who, fault, length) => {
                    let id = name(who, w);
                    self.hit(w, id, fault, now + length);
                }
                Act::Worsen(who, fault, length) => {
                    let id = name(who, w);
                    self.worsen(w, id, fault, now + length);
                }
                Act::Mend(who) => {
                    let id = name(who, w);
                    self.relieve(w, |v| v.id == id);
                }
                Act::Way(change, way) => change_way(w, change, way),
                Act::Flush => {
                    w.note(format!("FLUSH of {} PDUs that waited", w.held.len()));
                    w.flush();
                }
            }
        }
    }

    fn hit(&mut self, w: &mut World, id: NodeId, fault: Fault, until: u64) {
        if self.victims.iter().all(|v| v.id != id) {
            self.worsen(w, id, fault, until);
        }
    }

    /// Also to a node that something is wrong with.
    fn worsen(&mut self, w: &mut World, id: NodeId, fault: Fault, until: u64) {
        let new = self.victims.iter().all(|v| (v.id, v.fault) != (id, fault));
        if new && w.scenario.group.can_suffer(id, fault) {
            w.note(format!("FAULT {fault:?} at node {id}"));
            *w.notes.entry(format!("{fault:?}")).or_default() += 1;
            self.victims.push(Victim { id, fault, until });
            afflict(w, id, fault);
        }
    }

    /// The primary more often than not.
    fn victim(&self, w: &mut World) -> NodeId {
        let any = 1 + w.rng.below(u64::from(w.scenario.nodes)) as NodeId;
        match w.server() {
            Some(by) if w.rng.percent(60) => by.id,
            _ => any,
        }
    }

    /// While something is broken: another failure, and what mends by itself.
    fn go_on(&mut self, w: &mut World, until: u64) {
        let (now, s) = (w.now_ns, w.scenario.suspect_ns);
        if self.second_at.is_some_and(|at| now >= at) {
            self.second_at = None;
            *w.notes.entry("SecondFailure".into()).or_default() += 1;
            let id = 1 + w.rng.below(u64::from(w.scenario.nodes)) as NodeId;
            let fault = w.rng.pick(&SECOND_FAULTS);
            let until = now + w.rng.range(s / 4, 3 * s);
            self.hit(w, id, fault, until);
        }
        if now >= until {
            return self.mend(w);
        }
        if self.victims.iter().any(|v| v.until <= now) {
            self.relieve(w, |v| v.until <= now);
        }
        if self.victims.len() > usize::from(w.scenario.nodes) - w.scenario.group.quorum() {
            self.bearable_since = now;
        }
    }

    fn mend(&mut self, w: &mut World) {
        let judged = !w.scenario.is_beyond
            && w.scenario.group.serves_with_quorum()
            && w.now_ns >= self.bearable_since + TAKEOVER_NS_MAX;
        if judged && w.server().is_none() {
            w.describe();
            w.violate("liveness: a connected majority is without a primary".into());
            return;
        }
        self.course = Course::default();
        self.acts.clear();
        w.cuts.open_all();
        w.flush();
        self.relieve(w, |_| true);
        self.phase = Phase::Settling { since: w.now_ns };
    }

    fn relieve(&mut self, w: &mut World, over: impl Fn(&Victim) -> bool) {
        let (mended, still) = std::mem::take(&mut self.victims).into_iter().partition(over);
        self.victims = still;
        w.note(format!("mended: {mended:?}"));
        w.cuts.heal();
        for v in &self.victims {
            sever(w, v.id, v.fault);
        }
        for v in &mended {
            relieve(w, v.id, v.fault);
        }
        self.bearable_since = w.now_ns;
    }

    fn begin_drain(&mut self, w: &mut World) {
        w.note("the load ends");
        self.phase = match w.scenario.is_beyond {
            true => Phase::Done,
            false => Phase::Draining { since: w.now_ns },
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

fn change_way(w: &mut World, change: Change, way: Way) {
    w.note(format!("{change:?} {way:?}"));
    match change {
        Change::Sever => w.cuts.sever(way),
        Change::Hold => w.cuts.hold(way),
        Change::Open => w.cuts.open(way),
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

/// The part of a fault that is in the networks.
fn sever(w: &mut World, id: NodeId, fault: Fault) {
    match fault {
        Fault::Isolate => {
            both_ways(w, id, Way::Replica, (true, true));
            both_ways(w, id, Way::Second, (true, true));
        }
        Fault::Estrange => {
            let other = id % w.scenario.nodes + 1;
            for (a, b) in [(id, other), (other, id)] {
                w.cuts.cut(Way::Replica(a, b));
                w.cuts.cut(Way::Second(a, b));
            }
        }
        Fault::CutReplica => both_ways(w, id, Way::Replica, (true, true)),
        Fault::CutSecond => both_ways(w, id, Way::Second, (true, true)),
        Fault::DeafReplica => both_ways(w, id, Way::Replica, (false, true)),
        Fault::MuteReplica => both_ways(w, id, Way::Replica, (true, false)),
        Fault::CutArbiter => w.cuts.cut(Way::Arbiter(id)),
        Fault::ClientMute => w.cuts.cut(Way::FromNode(id)),
        Fault::ClientDeaf => w.cuts.cut(Way::ToNode(id)),
        _ => {}
    }
}

fn afflict(w: &mut World, id: NodeId, fault: Fault) {
    let now = w.now_ns;
    sever(w, id, fault);
    match fault {
        Fault::Switchover => {
            let to = w.rng.percent(50).then(|| 1 + w.rng.below(u64::from(w.scenario.nodes)) as u16);
            if let Some(by) = w.server()
                && let Some(life) = &mut w.machine(by.id).life
            {
                life.control.switchovers.push_back(to.filter(|to| *to != by.id));
            }
        }
        Fault::Crash => w.crash(id),
        Fault::TornDisk => w.tear(id),
        Fault::SlowDisk => w.machine(id).slow.disk_ns = w.rng.range(50 * MS, 400 * MS),
        Fault::DiskStall => w.machine(id).slow.disk_ns = u64::MAX,
        Fault::SlowLoop => w.machine(id).slow.loop_ns = w.rng.range(MS, 12 * MS),
        Fault::SlowClone => w.machine(id).slow.capsule_ns = w.rng.range(MS, 40 * MS),
        Fault::PauseBoth => {
            w.machine(id).poll_stall = (now, u64::MAX);
            w.machine(id).wake_stall = u64::MAX;
        }
        Fault::PauseData => w.machine(id).poll_stall = (now, u64::MAX),
        Fault::PauseControl => w.machine(id).wake_stall = u64::MAX,
        Fault::AppExit => w.exit_app(id),
        Fault::ClientCarrier => set_client_carrier(w, id, false),
        Fault::ReplicaCarrier => set_replica_carrier(w, id, false),
        _ => {}
    }
    if w.has(Mutation::SlowClock) && fault == Fault::Isolate {
        w.machine(id).data_clock.set_slow(now, true);
    }
}

fn relieve(w: &mut World, id: NodeId, fault: Fault) {
    let now = w.now_ns;
    match fault {
        Fault::Crash | Fault::TornDisk => w.push(now, Event::Boot(id)),
        Fault::DiskStall => w.unstall_disk(id),
        Fault::SlowDisk | Fault::SlowLoop | Fault::SlowClone => {
            w.machine(id).slow = Slowness::default();
        }
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
