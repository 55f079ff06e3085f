//! A group of three whose application says random numbers, committed by checkpoints: whatever order
//! things happen in, and whoever dies when, nobody leads with a state that contradicts what clients
//! heard. Elections are the essence of the real ones: promise, then the most complete log leads.

use std::collections::BTreeMap;

use super::covered::{record, stored};
use super::*;
use understudy_fastpath::command::{Barrier, DataRole, Resume, Snapshot};
use understudy_wire::control::History;

const SEEDS: u64 = 300;
const STEPS: usize = 240;

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.word() % n
    }
}

/// What the application has said so far.
type State = Vec<u64>;

struct Node {
    rig: Rig,
    alive: bool,
    /// It holds what was committed when it came back.
    votes: bool,
    disk: Vec<(Barrier, State)>,
    /// Of the application, while it runs.
    state: Option<State>,
    under_way: Option<(Barrier, State)>,
    lives: u8,
}

struct Group {
    nodes: Vec<Node>,
    leader: Option<usize>,
    epoch: u64,
    /// Nothing passes between these and the leader.
    cut_off: [bool; 3],
    heard: BTreeMap<u64, u64>,
    dice: Dice,
    takeovers: u64,
}

fn rig(id: usize, life: u8) -> Rig {
    let mut rig = Rig::new(id as u16 + 1, CommitPolicy::Checkpoint);
    let log = CaptureLog::new(1 << 20).unwrap();
    rig.dp = Dataplane::new(rig.config.clone(), log, channel(id as u16 + 1, CLUSTER, life));
    rig
}

fn view(node: &Node) -> Snapshot {
    node.rig.dp.snapshot(node.rig.now_ns)
}

/// Where two histories part, as the control plane finds it.
fn parting(own: &History, theirs: &History) -> u64 {
    let common = own.iter().rev().find(|e| theirs.contains(e)).map_or(0, |e| e.epoch);
    let next = |h: &History| h.iter().find(|e| e.epoch > common).map_or(u64::MAX, |e| e.start);
    if common == 0 { 0 } else { next(own).min(next(theirs)) }
}

impl Group {
    fn new(seed: u64) -> Group {
        let node = |id| Node {
            rig: rig(id, 0),
            alive: true,
            votes: true,
            disk: Vec::new(),
            state: None,
            under_way: None,
            lives: 0,
        };
        let mut group = Group {
            nodes: (0..3).map(node).collect(),
            leader: None,
            epoch: 0,
            cut_off: [false; 3],
            heard: BTreeMap::new(),
            dice: Dice(seed),
            takeovers: 0,
        };
        for node in &mut group.nodes {
            node.rig.order(Command::Service { up: false });
        }
        group.greet();
        group.elect();
        group
    }

    /// Sessions of new lives are accepted.
    fn greet(&mut self) {
        for node in self.nodes.iter_mut().filter(|n| n.alive) {
            node.rig.order(Command::Control {
                target: TARGET_ALL,
                epoch: 0,
                body: Default::default(),
            });
        }
        self.run(6);
    }

    fn run(&mut self, polls: usize) {
        for _ in 0..polls {
            let mut frames = Vec::new();
            for (id, node) in self.nodes.iter_mut().enumerate().filter(|(_, n)| n.alive) {
                node.rig.poll();
                frames.extend(node.rig.sent(PortRole::Replica).into_iter().map(|f| (id, f)));
            }
            for (from, frame) in frames {
                let leader = self.leader;
                let passes = |to: usize| {
                    let of_leader = leader == Some(from) || leader == Some(to);
                    !of_leader || !self.cut_off[from] && !self.cut_off[to]
                };
                for (to, node) in self.nodes.iter_mut().enumerate() {
                    if to != from && node.alive && passes(to) {
                        node.rig.give(PortRole::Replica, frame.clone());
                    }
                }
            }
            self.listen();
            self.serve();
        }
    }

    /// What clients hear they have heard.
    fn listen(&mut self) {
        for node in self.nodes.iter_mut().filter(|n| n.alive) {
            for frame in node.rig.sent(PortRole::Client) {
                let Some(at) = frame.len().checked_sub(16) else { continue };
                if Segment::parse(&frame).is_none() {
                    continue;
                }
                let word = |at: usize| u64::from_be_bytes(frame[at..at + 8].try_into().unwrap());
                let (index, token) = (word(at), word(at + 8));
                let before = *self.heard.entry(index).or_insert(token);
                assert_eq!(before, token, "answer {index} is taken back");
            }
        }
    }

    /// The application answers what it is given with something random.
    fn serve(&mut self) {
        for id in 0..3 {
            let given = self.nodes[id].rig.sent(PortRole::Host);
            for _ in given.iter().filter(|f| Segment::parse(f).is_some()) {
                self.say(id);
            }
        }
    }

    fn say(&mut self, id: usize) {
        let token = self.dice.word();
        let node = &mut self.nodes[id];
        let Some(state) = &mut node.state else { return };
        let said = [(state.len() as u64).to_be_bytes(), token.to_be_bytes()].concat();
        state.push(token);
        let seq = 16 * state.len() as u32;
        node.rig.give(PortRole::Host, from_server(srv(seq), cli(0), ACK, 500, &said));
    }

    /// The most complete of those that may vote leads, if they are a majority.
    fn elect(&mut self) {
        let voters: Vec<usize> =
            (0..3).filter(|&i| self.nodes[i].alive && self.nodes[i].votes).collect();
        if self.leader.is_some() || voters.len() < 2 {
            return;
        }
        self.epoch += 1;
        let epoch = self.epoch;
        for &i in &voters {
            self.nodes[i].rig.order(Command::Promise { epoch });
        }
        let rank = |i: &usize| {
            let view = view(&self.nodes[*i]);
            (view.held_history().last().map_or(0, |e| e.epoch), view.held)
        };
        let best = *voters.iter().max_by_key(|i| rank(i)).unwrap();
        self.leader = Some(best);
        self.raise(best);
        (0..3).filter(|&i| i != best).for_each(|i| self.follow(i));
    }

    fn raise(&mut self, id: usize) {
        let epoch = self.epoch;
        let node = &mut self.nodes[id];
        let view = view(node);
        node.rig.order(Command::Lead { epoch, serve: true });
        let history = view.held_history();
        let fits = |b: &Barrier| {
            let newest = b.history.last().expect("a reign");
            let next = history.iter().find(|e| e.epoch > newest.epoch);
            b.position <= view.held
                && history.contains(newest)
                && next.is_none_or(|e| b.position <= e.start)
                && view.checkpoint_held.is_none_or(|least| record(b) >= least)
        };
        let found =
            node.disk.iter().filter(|(b, _)| fits(b)).max_by_key(|(b, _)| record(b)).cloned();
        let state = match found {
            Some((barrier, state)) => {
                let resume = Resume { barrier, flows: vec![], pending: vec![], owed: vec![] };
                node.rig.order(Command::Resume(Box::new(resume)));
                state
            }
            None => {
                assert_eq!(view.checkpoint_held, None, "node {id} leads and lacks its checkpoint");
                State::new()
            }
        };
        for (&index, &token) in &self.heard {
            let known = state.get(index as usize);
            assert_eq!(known, Some(&token), "node {id} leads and contradicts answer {index}");
        }
        node.state = Some(state);
        node.rig.order(Command::Service { up: true });
        self.takeovers += 1;
    }

    fn follow(&mut self, id: usize) {
        let Some(leader) = self.leader.filter(|_| self.nodes[id].alive) else { return };
        let theirs = self.nodes[leader].rig.dp.log().history().clone();
        let (own, primary) = (view(&self.nodes[id]), leader as u16 + 1);
        let cut = parting(&own.held_history(), &theirs);
        self.nodes[id].rig.order(Command::Follow { epoch: self.epoch, primary, cut });
    }

    /// The leader is cut off from the others, goes on for a while, and dies.
    fn kill(&mut self, polls: usize) {
        let Some(leader) = self.leader else { return };
        let others = (0..3).filter(|&i| i != leader);
        if !others.clone().all(|i| self.nodes[i].alive && self.nodes[i].votes) {
            return;
        }
        self.cut_off[leader] = true;
        self.run(polls);
        self.cut_off[leader] = false;
        let node = &mut self.nodes[leader];
        (node.alive, node.votes, node.state, node.under_way) = (false, false, None, None);
        self.leader = None;
        self.elect();
        self.run(10);
    }

    fn revive(&mut self, id: usize) {
        let node = &mut self.nodes[id];
        if node.alive || node.lives > 12 {
            return;
        }
        node.lives += 1;
        let now_ns = self.nodes.iter().map(|n| n.rig.now_ns).max().unwrap();
        let node = &mut self.nodes[id];
        node.rig = rig(id, node.lives);
        node.rig.now_ns = now_ns;
        node.rig.order(Command::Service { up: false });
        node.alive = true;
        self.greet();
        self.follow(id);
        self.tell(id);
        self.run(20);
    }

    /// It may vote again when it holds what its primary has.
    fn catch_up(&mut self, id: usize) {
        let Some(leader) = self.leader.filter(|&l| l != id) else { return };
        let (end, view) = (self.nodes[leader].rig.dp.log().end(), view(&self.nodes[id]));
        let follows = view.role == DataRole::Follow(self.epoch);
        self.nodes[id].votes |= follows && view.held >= end;
    }

    fn tell(&mut self, id: usize) {
        let node = &mut self.nodes[id];
        let all = node.disk.iter().rev().take(8).map(|(b, _)| stored(b)).collect();
        node.rig.order(Command::Stored(all));
    }

    fn begin_checkpoint(&mut self) {
        let Some(leader) = self.leader else { return };
        let node = &mut self.nodes[leader];
        let open = view(node).gate_open;
        if node.under_way.is_none() && open {
            let barrier = node.rig.held();
            node.under_way = node.state.clone().map(|state| (barrier, state));
        }
    }

    fn end_checkpoint(&mut self, fails: bool) {
        let Some(leader) = self.leader else { return };
        let node = &mut self.nodes[leader];
        let Some((barrier, state)) = node.under_way.take() else { return };
        node.rig.order(Command::Release);
        if !fails {
            node.disk.push((barrier.clone(), state));
            node.rig.order(Command::Checkpointed(record(&barrier)));
        }
    }

    /// A replica gets the checkpoint that its log speaks of, or the newest there is.
    fn store(&mut self, id: usize, newest: bool) {
        let Some(leader) = self.leader.filter(|&l| l != id) else { return };
        if self.cut_off[id] || !self.nodes[id].alive {
            return;
        }
        let lacking = view(&self.nodes[id]).checkpoint_lacking;
        let disk = &self.nodes[leader].disk;
        let found = match newest {
            true => disk.last(),
            false => disk.iter().find(|(b, _)| Some(record(b)) == lacking),
        };
        let Some(found) = found.cloned() else { return };
        let disk = &mut self.nodes[id].disk;
        if !disk.contains(&found) {
            disk.push(found);
        }
        self.tell(id);
    }

    fn step(&mut self) {
        let id = self.dice.below(3) as usize;
        match self.dice.below(24) {
            0..5 => {
                let frame = from_client(cli(self.dice.below(1 << 20) as u32), srv(0), ACK, b"?");
                if let Some(leader) = self.leader {
                    self.nodes[leader].rig.give(PortRole::Client, frame);
                }
            }
            5..7 => (0..3).for_each(|id| self.say_unasked(id)),
            7..10 => self.begin_checkpoint(),
            10..13 => {
                let fails = self.dice.below(8) == 0;
                self.end_checkpoint(fails);
            }
            13..17 => self.store(id, false),
            17 => self.store(id, true),
            18 => self.cut_off[id] = Some(id) != self.leader && self.dice.below(2) == 0,
            19 => {
                let polls = self.dice.below(30) as usize;
                self.kill(polls);
            }
            20..22 => self.revive(id),
            _ => self.catch_up(id),
        }
        let polls = self.dice.below(6) as usize;
        self.run(polls);
    }

    fn say_unasked(&mut self, id: usize) {
        if self.leader == Some(id) && self.nodes[id].alive {
            self.say(id);
        }
    }
}

#[test]
fn nothing_that_was_said_is_taken_back() {
    let (mut heard, mut takeovers) = (0, 0);
    for seed in 0..SEEDS {
        let run = std::panic::catch_unwind(|| {
            let mut group = Group::new(seed);
            (0..STEPS).for_each(|_| group.step());
            (group.heard.len(), group.takeovers)
        });
        let (h, t) = run.unwrap_or_else(|e| {
            println!("seed {seed}");
            std::panic::resume_unwind(e)
        });
        (heard, takeovers) = (heard + h, takeovers + t);
    }
    println!("{SEEDS} seeds: {heard} answers heard, {takeovers} takeovers");
    assert!(heard as u64 > 10 * SEEDS && takeovers > 2 * SEEDS, "{heard} {takeovers}");
}
