//! Courses of events around elections: what is broken at first, and what follows on which event.
//!
//! Time alone seldom hits the moment between a vote and its writing, or between a promise and the reign that it
//! is for. So what happens there is arranged: it follows on what the nodes say on their time lines.

use std::collections::VecDeque;

use understudy_fastpath::MS;
use understudy_proto::TimelineKind::{self, *};
use understudy_wire::NodeId;

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
    /// A fault, and how long it lasts if nothing ends it before.
    Hit(Who, Fault, u64),
    /// What is wrong with a node ends.
    Mend(Who),
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
            Act::Mend(who) => Act::Mend(name(who)),
        }
    }
}

/// Something that follows.
#[derive(Clone, Copy, Debug)]
pub struct Cue {
    /// On any of these; on what went before, if empty.
    pub on: &'static [TimelineKind],
    /// After at least and at most so long.
    pub after_ns: (u64, u64),
    /// What.
    pub act: Act,
}

/// A course of events.
#[derive(Clone, Debug, Default)]
pub struct Course {
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

impl Course {
    /// Around the first election, in which nobody has anything to lose and everybody may vote.
    pub fn first(w: &mut World) -> Course {
        let cast = Cast::new(w);
        match w.rng.below(3) {
            0 => Course::behind(&cast, &mut w.rng),
            _ => Course::twice(&cast, &mut w.rng),
        }
    }

    /// Around any election.
    pub fn draw(w: &mut World) -> Course {
        let cast = Cast::new(w);
        let rng = &mut w.rng;
        match rng.below(6) {
            0 | 1 => Course::behind(&cast, rng),
            2 | 3 => Course::late_return(&cast, rng),
            4 => Course::handover(&cast, rng),
            _ => Course::anything(&cast, rng),
        }
    }

    /// Whoever has voted starts anew while another one, a stranger to the first, still asks.
    fn twice(cast: &Cast, rng: &mut Rng) -> Course {
        let fault = rng.pick(&[Crash, Crash, TornDisk]);
        let hit = Act::Hit(Who::Speaker, fault, soon(rng));
        let length_ns = cast.suspect_ns * rng.range(6, 10);
        Course {
            opening: vec![(rng.pick(&cast.others), Estrange, length_ns)],
            cues: [Cue { on: &[Voted], after_ns: (0, 2 * MS), act: hit }].into(),
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
        cues.push_back(Cue {
            on: &[],
            after_ns: first,
            act: Act::Hit(Who::Node(cast.primary), ends, length_ns),
        });
        for id in &cast.others[1..] {
            let (fault, ns) = match rng.below(7) {
                0 | 1 => (TornDisk, soon(rng)),
                2 => (Crash, soon(rng)),
                3 => (AppExit, length_ns),
                4 => (SlowClone, length_ns),
                _ => (ClientCarrier, length_ns),
            };
            let act = Act::Hit(Who::Node(*id), fault, ns);
            cues.push_back(Cue { on: &[], after_ns: (0, 2 * MS), act });
        }
        let act = Act::Mend(Who::Node(laggard));
        cues.push_back(Cue { on: &[], after_ns: (0, s / 4), act });
        Course { opening: vec![(laggard, away, length_ns)], cues, length_ns }
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
        let act = Act::Mend(Who::Node(cast.primary));
        let back = Cue { on, after_ns: (0, 3 * MS), act };
        let act = Act::Hit(Who::Node(cast.primary), again, length_ns);
        let gone = Cue { on: &[], after_ns: (3 * MS, 40 * MS), act };
        Course { opening, cues: [back, gone].into(), length_ns }
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
        let cues = [Cue { on, after_ns: (0, 3 * MS), act }].into();
        Course { opening: vec![leave, estranged], cues, length_ns }
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
            cues.push_back(Cue { on: rng.pick(ON), after_ns: (0, longest), act });
        }
        Course { opening, cues, length_ns }
    }

    /// What follows now: on an event if it is the cue, and on nothing but what went before.
    pub fn take_due(&mut self, heard: Option<TimelineKind>) -> Vec<Cue> {
        let mut due = Vec::new();
        let mut heard = heard;
        while let Some(cue) = self.cues.front() {
            let chained = cue.on.is_empty() && (heard.is_none() || !due.is_empty());
            let cued = heard.is_some_and(|kind| cue.on.contains(&kind)) && due.is_empty();
            if !chained && !cued {
                break;
            }
            due.extend(self.cues.pop_front());
            heard = heard.filter(|_| !cued || chained);
        }
        due
    }
}
