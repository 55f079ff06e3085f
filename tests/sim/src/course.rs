//! Courses of events around elections: what is broken at first, and what follows on which event.
//!
//! Time alone seldom hits the moment between a vote and its writing, or between a promise and the reign that it
//! is for. So what happens there is arranged: it follows on what the nodes say on their time lines.

use std::collections::VecDeque;

use understudy_fastpath::MS;
use understudy_proto::TimelineKind::{self, *};
use understudy_wire::NodeId;

use crate::net::Way;
use crate::rng::Rng;
use crate::scenario::Fault::{self, *};
use crate::scenario::Profile;
use crate::world::World;

/// Whom something happens to.
#[derive(Clone, Copy, Debug)]
pub enum Who {
    /// This one.
    Node(NodeId),
    /// The one whose event it follows on.
    Speaker,
    /// Anyone.
    Any,
}

/// What happens.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// A fault, and how long it lasts if nothing ends it before; not to a node that has one already.
    Hit(Who, Fault, u64),
    /// The same, whatever else is wrong with the node.
    Worsen(Who, Fault, u64),
    /// What is wrong with a node ends.
    Mend(Who),
    /// One way between two nodes changes.
    Way(Change, Way),
    /// What waits in queues arrives.
    Flush,
}

/// What happens to a way.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// It loses what is sent.
    Sever,
    /// It keeps what is sent in a queue.
    Hold,
    /// It is open again; what waits in its queue goes on waiting.
    Open,
}

impl Act {
    /// With the speaker's name in it.
    pub fn said_by(self, speaker: NodeId) -> Act {
        let name = |who| match who {
            Who::Speaker if speaker > 0 => Who::Node(speaker),
            who => who,
        };
        match self {
            Act::Hit(who, fault, ns) => Act::Hit(name(who), fault, ns),
            Act::Worsen(who, fault, ns) => Act::Worsen(name(who), fault, ns),
            Act::Mend(who) => Act::Mend(name(who)),
            Act::Way(..) | Act::Flush => self,
        }
    }
}

/// Something that follows.
#[derive(Clone, Debug)]
pub struct Cue {
    /// On any of these; on what went before, if empty.
    pub on: &'static [TimelineKind],
    /// Said by this node, or by anyone.
    pub by: Option<NodeId>,
    /// After at least and at most so long.
    pub after_ns: (u64, u64),
    /// What, all at once.
    pub acts: Vec<Act>,
}

impl Cue {
    /// On what anyone says.
    fn on(on: &'static [TimelineKind], after_ns: (u64, u64), act: Act) -> Cue {
        Cue { on, by: None, after_ns, acts: vec![act] }
    }

    /// On what one node says.
    fn when(id: NodeId, on: &'static [TimelineKind], after_ns: (u64, u64), acts: &[Act]) -> Cue {
        Cue { on, by: Some(id), after_ns, acts: acts.to_vec() }
    }

    /// On what went before.
    fn then(after_ns: (u64, u64), act: Act) -> Cue {
        Cue::on(&[], after_ns, act)
    }

    fn is_due(&self, (id, kind): (NodeId, TimelineKind)) -> bool {
        self.on.contains(&kind) && self.by.is_none_or(|by| by == id)
    }
}

/// A course of events.
#[derive(Clone, Debug, Default)]
pub struct Course {
    /// Its name, for the statistics.
    pub name: &'static str,
    /// What happens to ways first.
    pub ways: Vec<(Change, Way)>,
    /// What is broken first, and for how long if nothing ends it before.
    pub opening: Vec<(NodeId, Fault, u64)>,
    /// What follows, one on the other.
    pub cues: VecDeque<Cue>,
    /// After this, all is mended.
    pub length_ns: u64,
}

/// A group as a course sees it.
struct Cast {
    primary: NodeId,
    /// The others, in any order.
    others: Vec<NodeId>,
    nodes: u16,
    suspect_ns: u64,
}

impl Cast {
    fn new(w: &mut World) -> Cast {
        let nodes = w.scenario.nodes;
        let any = 1 + w.rng.below(u64::from(nodes)) as NodeId;
        let primary = w.server().map_or(any, |by| by.id);
        let mut others: Vec<NodeId> = (1..=nodes).filter(|id| *id != primary).collect();
        for i in (1..others.len()).rev() {
            others.swap(i, w.rng.below(i as u64 + 1) as usize);
        }
        Cast { primary, others, nodes, suspect_ns: w.scenario.suspect_ns }
    }

    /// Whoever is estranged from `id` by a fault of its own.
    fn before(&self, id: NodeId) -> NodeId {
        (id + self.nodes - 2) % self.nodes + 1
    }
}

/// A process that is started anew at once.
fn soon(rng: &mut Rng) -> u64 {
    rng.below(30 * MS)
}

/// Both directions between two nodes, on one network.
fn between(a: NodeId, b: NodeId, way: fn(NodeId, NodeId) -> Way) -> [Way; 2] {
    [way(a, b), way(b, a)]
}

/// Everything between two nodes.
fn all_between(a: NodeId, b: NodeId) -> impl Iterator<Item = Way> {
    between(a, b, Way::Replica).into_iter().chain(between(a, b, Way::Second))
}

impl Course {
    /// Around the first election, in which nobody has anything to lose and everybody may vote.
    pub fn first(w: &mut World) -> Course {
        let cast = Cast::new(w);
        match w.rng.below(3) {
            0 => Course::behind(&cast, &mut w.rng),
            _ if cast.nodes == 3 => Course::twice(&cast, &mut w.rng),
            _ => Course::strangers(&cast, &mut w.rng),
        }
    }

    /// Around any election.
    pub fn draw(w: &mut World) -> Course {
        let cast = Cast::new(w);
        let rng = &mut w.rng;
        match rng.below(if cast.nodes == 3 { 9 } else { 6 }) {
            0 | 1 => Course::behind(&cast, rng),
            2 | 3 => Course::late_return(&cast, rng),
            4 => Course::handover(&cast, rng),
            5 => Course::anything(&cast, rng),
            6 => Course::old_ack(&cast, rng),
            7 => Course::given_up(&cast, rng),
            _ => Course::old_reign(&cast, rng),
        }
    }

    /// Of two nodes, the primary's writes to the arbiter wait in a queue until it has lost the other one and is named
    /// alone.
    pub fn late_write(w: &mut World) -> Course {
        let cast = Cast::new(w);
        let (primary, other) = (cast.primary, cast.others[0]);
        let (rng, s) = (&mut w.rng, cast.suspect_ns);
        let way = Way::Arbiter(primary);
        // Longer than the arbiter goes unasked.
        let wait_ns = rng.range(1_000 * MS, 1_300 * MS);
        let length_ns = wait_ns + 4 * s + rng.below(1_000 * MS);
        let fault = rng.pick(&[Crash, Crash, Isolate, CutReplica, PauseBoth]);
        let gone = vec![Act::Way(Change::Open, way), Act::Hit(Who::Node(other), fault, length_ns)];
        let cues = [
            Cue { on: &[], by: None, after_ns: (wait_ns, wait_ns), acts: gone },
            Cue::when(primary, &[Alone], (0, 100 * MS), &[Act::Flush]),
        ];
        let ways = vec![(Change::Hold, way)];
        Course { name: "late_write", ways, cues: cues.into(), length_ns, ..Course::default() }
    }

    /// Whoever has voted starts anew while another one, a stranger to the first, still asks.
    fn strangers(cast: &Cast, rng: &mut Rng) -> Course {
        let fault = rng.pick(&[Crash, Crash, TornDisk]);
        let hit = Act::Hit(Who::Speaker, fault, soon(rng));
        let length_ns = cast.suspect_ns * rng.range(6, 10);
        Course {
            name: "strangers",
            opening: vec![(rng.pick(&cast.others), Estrange, length_ns)],
            cues: [Cue::on(&[Voted], (0, 2 * MS), hit)].into(),
            length_ns,
            ..Course::default()
        }
    }

    /// Two strangers ask the third, who cannot stand itself; it starts anew as soon as it has voted, and who has won
    /// is cut off, so that nobody but the other one speaks to it.
    fn twice(cast: &Cast, rng: &mut Rng) -> Course {
        let (voter, a, b) = (cast.primary, cast.others[0], cast.others[1]);
        let length_ns = cast.suspect_ns * rng.range(6, 10);
        let fault = rng.pick(&[Crash, Crash, TornDisk]);
        let again = Act::Worsen(Who::Node(voter), fault, soon(rng));
        let gone = Act::Hit(Who::Speaker, rng.pick(&[Isolate, Isolate, Crash]), length_ns);
        let mut opening = vec![(voter, ClientCarrier, length_ns)];
        if rng.percent(50) {
            opening.push((voter, SlowDisk, length_ns));
        }
        Course {
            name: "twice",
            ways: all_between(a, b).map(|way| (Change::Sever, way)).collect(),
            opening,
            cues: [
                Cue::when(voter, &[Voted], (0, MS), &[again]),
                Cue::on(&[ElectionWon], (0, 0), gone),
            ]
            .into(),
            length_ns,
        }
    }

    /// Only one replica gets the primary's newest data, its acknowledgements wait in a queue, and it may not stand: so
    /// the other one wins, with the vote of the primary, and that data is given up.
    fn given_up(cast: &Cast, rng: &mut Rng) -> Course {
        let (first, second, third) = (cast.primary, cast.others[0], cast.others[1]);
        let length_ns = cast.suspect_ns * rng.range(6, 12);
        let held = Way::Replica(third, first);
        let apart = between(first, second, Way::Replica).map(|way| (Change::Sever, way));
        let open = Act::Way(Change::Open, held);
        Course {
            name: "given_up",
            ways: apart.into_iter().chain([(Change::Hold, held)]).collect(),
            opening: vec![(third, ClientCarrier, length_ns)],
            cues: [
                Cue::when(second, &[ElectionWon], (0, 0), &[open]),
                Cue::when(third, &[FollowNew], (0, 3 * MS), &[Act::Flush]),
            ]
            .into(),
            length_ns,
        }
    }

    /// The same, but nothing is left of the reign in which it was given up, and the primary leads again: only now
    /// does it get the acknowledgements of what it alone holds.
    fn old_ack(cast: &Cast, rng: &mut Rng) -> Course {
        let (first, second, third) = (cast.primary, cast.others[0], cast.others[1]);
        let length_ns = cast.suspect_ns * rng.range(18, 22);
        let mut won = vec![
            Act::Hit(Who::Node(second), MuteReplica, length_ns),
            Act::Way(Change::Open, Way::Replica(third, first)),
        ];
        let apart = between(first, second, Way::Second);
        won.extend(apart.map(|way| Act::Way(Change::Sever, way)));
        let gone = Act::Worsen(Who::Node(second), Crash, length_ns);
        let cues = [
            Cue::when(second, &[ElectionWon], (0, 0), &won),
            Cue::when(third, &[FollowNew], (0, MS), &[gone]),
            Cue::when(first, &[ElectionWon], (0, MS / 2), &[Act::Flush]),
        ];
        let begins = Course::given_up(cast, rng);
        let opening = vec![(third, ClientCarrier, length_ns)];
        Course { name: "old_ack", opening, cues: cues.into(), length_ns, ..begins }
    }

    /// A primary whose control plane stands still is back with a voter just after that has voted against it, and
    /// before the voter hears of the new reign.
    fn old_reign(cast: &Cast, rng: &mut Rng) -> Course {
        let (old, new, voter) = (cast.primary, cast.others[0], cast.others[1]);
        let length_ns = cast.suspect_ns * rng.range(6, 12);
        let away = all_between(old, new).chain(all_between(old, voter));
        let open = |way| Act::Way(Change::Open, way);
        let sever = |way| Act::Way(Change::Sever, way);
        let news = [Way::Replica(new, voter), Way::Second(new, voter)];
        let again = between(old, voter, Way::Replica);
        let meet: Vec<Act> = again.map(open).into_iter().chain(news.map(sever)).collect();
        let part: Vec<Act> = again.map(sever).into_iter().chain(news.map(open)).collect();
        let part = Cue { on: &[], by: None, after_ns: (3 * MS, 30 * MS), acts: part };
        Course {
            name: "old_reign",
            ways: away.map(|way| (Change::Sever, way)).collect(),
            opening: vec![(old, PauseControl, length_ns), (voter, ClientCarrier, length_ns)],
            cues: [Cue::when(voter, &[Voted], (0, MS), &meet), part].into(),
            length_ns,
        }
    }

    /// Someone falls behind, and is back in the moment in which those who hold more fail.
    fn behind(cast: &Cast, rng: &mut Rng) -> Course {
        let s = cast.suspect_ns;
        let length_ns = s * rng.range(6, 12);
        let laggard = cast.others[0];
        let away = rng.pick(&[Isolate, Isolate, CutReplica, DeafReplica, PauseBoth, PauseData]);
        let ends = rng.pick(&[Crash, Crash, TornDisk, Isolate, PauseBoth, AppExit]);
        let mut cues = VecDeque::new();
        let first = (s / 4, 2 * s);
        cues.push_back(Cue::then(first, Act::Hit(Who::Node(cast.primary), ends, length_ns)));
        for id in &cast.others[1..] {
            let (fault, ns) = match rng.below(7) {
                0 | 1 => (TornDisk, soon(rng)),
                2 => (Crash, soon(rng)),
                3 => (AppExit, length_ns),
                4 => (SlowClone, length_ns),
                _ => (ClientCarrier, length_ns),
            };
            cues.push_back(Cue::then((0, 2 * MS), Act::Hit(Who::Node(*id), fault, ns)));
        }
        cues.push_back(Cue::then((0, s / 4), Act::Mend(Who::Node(laggard))));
        let opening = vec![(laggard, away, length_ns)];
        Course { name: "behind", opening, cues, length_ns, ..Course::default() }
    }

    /// A primary that was given up for lost is back in the middle of the election, for a moment.
    fn late_return(cast: &Cast, rng: &mut Rng) -> Course {
        let s = cast.suspect_ns;
        let length_ns = s * rng.range(6, 12);
        let away = rng.pick(&[Isolate, Isolate, Isolate, PauseBoth, PauseData, MuteReplica]);
        let mut opening = vec![(cast.primary, away, length_ns)];
        for id in &cast.others {
            if rng.percent(50) {
                opening.push((*id, SlowDisk, length_ns));
            }
        }
        let on: &[_] = rng.pick(&[&[VoteStarted], &[VoteStarted], &[Voted], &[ElectionWon]]);
        let again = rng.pick(&[Crash, Isolate, PauseBoth]);
        let back = Cue::on(on, (0, 3 * MS), Act::Mend(Who::Node(cast.primary)));
        let act = Act::Hit(Who::Node(cast.primary), again, length_ns);
        let gone = Cue::then((3 * MS, 40 * MS), act);
        let cues = [back, gone].into();
        Course { name: "late_return", opening, cues, length_ns, ..Course::default() }
    }

    /// A primary goes of its own accord, one of the others does not hear it, and who has voted starts anew.
    fn handover(cast: &Cast, rng: &mut Rng) -> Course {
        let length_ns = cast.suspect_ns * rng.range(6, 12);
        let leave = rng.pick(&[Switchover, Switchover, AppExit, ReplicaCarrier]);
        let leave = (cast.primary, leave, length_ns);
        let estranged = (cast.before(cast.primary), Estrange, length_ns);
        let fault = rng.pick(&[Crash, Crash, TornDisk, Isolate]);
        let on: &[_] = rng.pick(&[&[Voted], &[Voted], &[ElectionWon], &[FollowNew]]);
        let act = Act::Hit(Who::Speaker, fault, soon(rng));
        let cues = [Cue::on(on, (0, 3 * MS), act)].into();
        let opening = vec![leave, estranged];
        Course { name: "handover", opening, cues, length_ns, ..Course::default() }
    }

    /// Anything, on any event.
    fn anything(cast: &Cast, rng: &mut Rng) -> Course {
        const ON: &[&[TimelineKind]] = &[
            &[],
            &[Suspicion],
            &[PreVoteStarted],
            &[VoteStarted],
            &[VoteStarted],
            &[Voted],
            &[Voted],
            &[ElectionWon],
            &[GateOpen],
            &[FollowNew],
            &[SteppedDown],
        ];
        let s = cast.suspect_ns;
        let faults = Profile::Elections.faults();
        let length_ns = s * rng.range(4, 12);
        let mut opening = vec![(cast.primary, rng.pick(faults), rng.range(s, 4 * s))];
        if rng.percent(50) {
            opening.push((cast.others[0], rng.pick(faults), rng.range(s, 4 * s)));
        }
        let mut cues = VecDeque::new();
        for _ in 0..rng.range(1, 4) {
            let who = rng.pick(&[Who::Speaker, Who::Speaker, Who::Any]);
            let act = match rng.below(3) {
                0 => Act::Mend(rng.pick(&[Who::Any, Who::Node(cast.primary)])),
                _ => Act::Hit(who, rng.pick(faults), rng.range(0, 2 * s)),
            };
            let longest = rng.pick(&[0, MS, 5 * MS, s]);
            cues.push_back(Cue::on(rng.pick(ON), (0, longest), act));
        }
        Course { name: "anything", opening, cues, length_ns, ..Course::default() }
    }

    /// What follows now: on an event if it is the cue, and on nothing but what went before.
    pub fn take_due(&mut self, heard: Option<(NodeId, TimelineKind)>) -> Vec<Cue> {
        let mut due = Vec::new();
        let mut heard = heard;
        while let Some(cue) = self.cues.front() {
            let chained = cue.on.is_empty() && (heard.is_none() || !due.is_empty());
            let cued = heard.is_some_and(|said| cue.is_due(said)) && due.is_empty();
            if !chained && !cued {
                break;
            }
            due.extend(self.cues.pop_front());
            heard = heard.filter(|_| !cued || chained);
        }
        due
    }
}
