//! The nodes' turns: their two threads, their disks, what they ask for.

use understudy_proto::{Persisted, TimelineKind};

use super::*;
use crate::check::holds;
use crate::control::Effect;
use crate::machine::{Life, Round};

impl World {
    pub(super) fn boot(&mut self, id: NodeId) {
        let (now_ns, mut rng) = (self.now_ns, self.rng.fork());
        let scenario = self.scenario.clone();
        let machine = self.machine(id);
        if machine.life.is_some() {
            return;
        }
        if !machine.boot(&scenario, now_ns, &mut rng) {
            *self.notes.entry("RefusedToStart".into()).or_default() += 1;
            return self.note(format!("node {id} refuses to start: what it persisted is damaged"));
        }
        let (life, disk) = (machine.lives, machine.disk.load());
        if let Some(l) = &mut machine.life {
            (l.poll_due, l.wake_due) = (now_ns, now_ns);
        }
        self.note(format!("node {id} starts, life {life}, persisted {disk:?}"));
        self.push(now_ns, Event::Poll(id, life));
        self.push(now_ns, Event::Wake(id, life));
    }

    /// A node's process is gone.
    pub fn crash(&mut self, id: NodeId) {
        let (scenario, mut rng) = (self.scenario.clone(), self.rng.fork());
        let machine = self.machine(id);
        machine.crash(&scenario, &mut rng);
        machine.kept = None;
    }

    /// Power is lost, and with it what the disk said it had.
    pub fn tear(&mut self, id: NodeId) {
        let (scenario, mut rng) = (self.scenario.clone(), self.rng.fork());
        let machine = self.machine(id);
        machine.tear(&scenario, &mut rng);
        machine.kept = None;
    }

    pub(super) fn arrive(&mut self, id: NodeId, port: PortRole, frame: SimFrame) {
        let machine = self.machine(id);
        let up = match port {
            PortRole::Client => machine.client_carrier,
            PortRole::Replica => machine.replica_carrier,
            PortRole::Host => true,
        };
        if let Some(life) = machine.life.as_mut().filter(|_| up) {
            life.ports.arrive(port, frame);
            self.hurry_poll(id);
        }
    }

    fn hurry_poll(&mut self, id: NodeId) {
        let at = self.now_ns + 1 + self.rng.below(40 * US);
        let machine = self.machine(id);
        let lives = machine.lives;
        let loop_ns = machine.slow.loop_ns;
        let due = |l: &Life| at.max(l.polled_at + loop_ns);
        if let Some(life) = machine.life.as_mut().filter(|l| due(l) < l.poll_due) {
            let at = due(life);
            life.poll_due = at;
            self.push(at, Event::Poll(id, lives));
        }
    }

    pub(super) fn hurry_wake(&mut self, id: NodeId) {
        let at = self.now_ns + 1 + self.rng.below(60 * US);
        let machine = self.machine(id);
        let lives = machine.lives;
        if let Some(life) = machine.life.as_mut().filter(|l| at < l.wake_due) {
            life.wake_due = at;
            self.push(at, Event::Wake(id, lives));
        }
    }

    pub(super) fn on_poll(&mut self, id: NodeId, lives: u64) {
        let (now_ns, mutation) = (self.now_ns, self.scenario.mutation);
        let stale = self.rng.percent(50);
        let machine = self.machine(id);
        let Some(life) = machine.life.as_mut().filter(|l| l.poll_due <= now_ns) else { return };
        if machine.lives != lives {
            return;
        }
        let (since, until) = machine.poll_stall;
        if now_ns < until {
            life.poll_due = until;
            if until < u64::MAX {
                self.push(until, Event::Poll(id, lives));
            }
            return;
        }
        machine.poll_stall = (0, 0);
        // It may have stood still just after it had read the clock.
        let read_ns = if until > 0 && stale { since } else { now_ns };
        let (read_ns, clock_ns) =
            (machine.data_clock.local(read_ns), machine.data_clock.local(now_ns));
        (life.poll_due, life.polled_at) = (u64::MAX, now_ns);
        let round = life.poll(read_ns, clock_ns, mutation);
        self.after_poll(id, round);
    }

    fn after_poll(&mut self, id: NodeId, round: Round) {
        let (now_ns, rest_max) = (self.now_ns, self.scenario.rest_ns_max);
        let chance = self.rng.bits();
        let machine = self.machine(id);
        let lives = machine.lives;
        let Some(life) = &mut machine.life else { return };
        life.idle_rounds = if round.busy { 0 } else { life.idle_rounds + 1 };
        // It rests the longer, the longer there was nothing to do.
        let rest = match life.idle_rounds {
            0 => 1 + chance % (40 * US),
            n => 50 * US + chance % rest_max.min((100 * US) << n.min(10)),
        };
        let at = now_ns + rest.max(machine.slow.loop_ns);
        life.poll_due = at;
        self.push(at, Event::Poll(id, lives));
        self.judge(id, &round);
        let fed = round.fed;
        self.deliver_to_kernel(id, lives, round.host, fed);
        for frame in round.replica {
            self.send_replica(id, frame.bytes);
        }
        for frame in round.client.into_iter().flat_map(|(_, frames)| frames) {
            self.send_client(Plug::Node(id), frame.bytes);
        }
    }

    fn judge(&mut self, id: NodeId, round: &Round) {
        let machines = &self.machines;
        let holders = |from, bytes: &[u8]| {
            let has = |m: &&Machine| {
                let now = m.life.as_ref().map(|l| l.dp.log());
                let logs = [now, m.ghost.as_ref().map(|g| g.log())];
                logs.into_iter().flatten().any(|log| holds(log, from, bytes))
            };
            machines.iter().filter(has).map(|m| m.id).collect()
        };
        let machine = &machines[usize::from(id) - 1];
        let Some(life) = &machine.life else { return };
        let s = &round.snapshot;
        let mut result = self.truth.observe(id, machine.lives, s, life.dp.log(), &holders);
        for (role, frames) in &round.client {
            result = result.and_then(|()| self.truth.release((id, machine.lives), *role, frames));
        }
        if s.alone && !self.arbiter.names_alone(id) {
            let register = &self.arbiter.register;
            result = Err(format!("node {id} goes on alone, the register holds {register:?}"));
        }
        let bounded = s.gate_waiting <= GATE_FRAMES_MAX
            && s.retained <= RETAINED_FRAMES_MAX
            && life.queues.commands.len() <= COMMANDS_MAX;
        if !bounded {
            result = Err(format!("node {id}: a bounded queue is over its bound"));
        }
        if let Err(text) = result {
            self.violate(text);
        }
    }

    /// A paused node's threads may run again.
    pub fn resume(&mut self, id: NodeId) {
        self.hurry_poll(id);
        self.hurry_wake(id);
    }

    pub(super) fn on_wake(&mut self, id: NodeId, lives: u64) {
        let now_ns = self.now_ns;
        let machine = self.machine(id);
        let Some(life) = machine.life.as_mut().filter(|l| l.wake_due <= now_ns) else { return };
        if machine.lives != lives {
            return;
        }
        if now_ns < machine.wake_stall {
            let at = machine.wake_stall;
            life.wake_due = at;
            if at < u64::MAX {
                self.push(at, Event::Wake(id, lives));
            }
            return;
        }
        let (local_ns, facts) = (machine.clock.local(now_ns), life.facts(now_ns));
        let effects = life.control.wake(local_ns, &mut life.queues, facts);
        let due = machine.clock.global(life.control.due_ns(local_ns), now_ns);
        let at = due.max(now_ns + US) + self.rng.below(50 * US);
        let mut ordered = false;
        if let Some(life) = &mut self.machine(id).life {
            life.wake_due = at;
            ordered = !life.queues.commands.is_empty();
        }
        self.push(at, Event::Wake(id, lives));
        if ordered {
            self.hurry_poll(id);
        }
        for effect in effects {
            self.carry_out(id, lives, effect);
        }
    }

    fn carry_out(&mut self, id: NodeId, lives: u64, effect: Effect) {
        match effect {
            Effect::Second(target, datagram) => self.send_second(id, target, &datagram),
            Effect::Persist(state) => self.persist(id, lives, state),
            Effect::Arbiter(request) => self.ask_arbiter(id, lives, request),
            Effect::KillApp if self.has(Mutation::KeptClone) => {}
            Effect::KillApp => self.kill_app(id),
            Effect::Die(handed_down) => {
                self.note(format!("node {id} starts anew"));
                let (scenario, mut rng) = (self.scenario.clone(), self.rng.fork());
                let machine = self.machine(id);
                machine.crash(&scenario, &mut rng);
                machine.handed_down = Some(handed_down);
                let at = self.now_ns + self.rng.range(10 * MS, 200 * MS);
                self.push(at, Event::Boot(id));
            }
            Effect::Note(event) => {
                *self.notes.entry(format!("{:?}", event.kind)).or_default() += 1;
                if event.kind == TimelineKind::AllLost {
                    self.on_all_lost();
                }
                let (kind, epoch, text) = (event.kind, event.epoch, &event.text);
                self.note(format!("node {id} epoch {epoch} {kind:?}: {text}"));
                if kind == TimelineKind::ElectionWon
                    && let Err(text) = self.truth.won(id, epoch)
                {
                    self.violate(text);
                }
                self.direct(|director, world| director.hear(world, id, kind));
            }
            // Every application here is a function of what it is given.
            Effect::Diverged(d) => {
                self.violate(format!("node {id}'s clone says other bytes than the primary: {d:?}"));
            }
            Effect::Switchover(result) => {
                let name = if result.is_ok() { "SwitchedOver" } else { "SwitchoverFailed" };
                *self.notes.entry(name.into()).or_default() += 1;
                self.note(format!("node {id} switchover: {result:?}"));
            }
        }
    }

    /// A group that starts from nothing has lost what it had. That ends a run in which more was
    /// broken than is tolerated, and breaks a promise in any other.
    fn on_all_lost(&mut self) {
        if self.scenario.is_beyond {
            self.over = true;
        } else {
            self.violate("every log was lost although no more was broken than is tolerated".into());
        }
    }

    fn persist(&mut self, id: NodeId, lives: u64, state: Persisted) {
        let wait = self.rng.range(50 * US, self.scenario.disk_ns_max);
        let (now_ns, early) = (self.now_ns, self.has(Mutation::UnwrittenVote));
        let machine = self.machine(id);
        let extra = machine.slow.disk_ns;
        let Some(life) = &mut machine.life else { return };
        let begun = life.writes.back().map_or(now_ns, |(at, _)| *at).max(now_ns);
        let at = begun.saturating_add(wait).saturating_add(extra);
        life.writes.push_back((at, state));
        if early {
            life.control.persisted.push_back(state.epoch);
        }
        if at < u64::MAX {
            self.push(at, Event::Durable(id, lives));
        }
    }

    pub(super) fn on_durable(&mut self, id: NodeId, lives: u64) {
        let early = self.has(Mutation::UnwrittenVote);
        let machine = self.machine(id);
        if machine.lives != lives || machine.slow.disk_ns == u64::MAX {
            return;
        }
        let Some(life) = &mut machine.life else { return };
        if let Some((_, state)) = life.writes.pop_front() {
            machine.disk.write(&state);
            if !early {
                life.control.persisted.push_back(state.epoch);
            }
        }
    }

    /// The disk goes on with what it was given.
    pub fn unstall_disk(&mut self, id: NodeId) {
        let now_ns = self.now_ns;
        let machine = self.machine(id);
        machine.slow.disk_ns = 0;
        let lives = machine.lives;
        let Some(life) = &mut machine.life else { return };
        let mut due = Vec::new();
        for (i, (at, _)) in life.writes.iter_mut().enumerate() {
            *at = now_ns + (i as u64 + 1) * MS;
            due.push(*at);
        }
        for at in due {
            self.push(at, Event::Durable(id, lives));
        }
    }
}
