//! Whether the service would survive the loss of any one node, in one word and its reasons.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Arbiter, Peer, Role, Status};

/// Whether the service and its connections would survive the loss of any one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// They would.
    Protected,
    /// They would not, or already suffer.
    #[default]
    Exposed,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Protected => "protected",
            Self::Exposed => "exposed",
        })
    }
}

impl Status {
    /// Fills in what follows from everything else: [`Status::verdict`], [`Status::reasons`] and
    /// [`Status::takeovers`].
    pub fn conclude(&mut self) {
        self.takeovers = crate::takeovers::find(&self.timeline);
        self.reasons = reasons(self);
        self.verdict = if self.reasons.is_empty() { Verdict::Protected } else { Verdict::Exposed };
    }

    /// The verdict as a line: `protected`, or `exposed because ...`.
    #[must_use]
    pub fn verdict_line(&self) -> String {
        match self.verdict {
            Verdict::Protected => "protected".into(),
            Verdict::Exposed if self.reasons.is_empty() => "exposed".into(),
            Verdict::Exposed => format!("exposed because {}", self.reasons.join("; ")),
        }
    }
}

/// What a loss would break, as this node knows it; empty if nothing.
fn reasons(s: &Status) -> Vec<String> {
    if s.peers.is_empty() {
        return vec!["the group has one node, and nobody could take over".into()];
    }
    let mut reasons = Vec::new();
    serving(s, &mut reasons);
    if s.gate.policy == "none" {
        reasons.push(
            "with commit.policy \"none\" replies leave before a replica holds their cause".into(),
        );
    }
    successor(s, &mut reasons);
    match &s.arbiter {
        Some(arbiter) => referee(s, arbiter, &mut reasons),
        None => majority(s, &mut reasons),
    }
    reasons
}

/// Whether the arbiter would let the other node take over.
fn referee(s: &Status, a: &Arbiter, reasons: &mut Vec<String>) {
    let group = std::iter::once(&s.node).chain(s.peers.iter().map(|p| &p.name));
    reasons.push(match (&a.register, a.reachable) {
        _ if a.alone => "the primary serves alone".into(),
        (_, Some(false)) => "the arbiter does not answer, and nobody takes over without it".into(),
        (_, None) => "the arbiter has not answered yet".into(),
        (None, _) => "the arbiter names nobody yet".into(),
        (Some(register), _) => {
            let missing: Vec<&str> =
                group.filter(|name| !register.members.contains(name)).map(String::as_str).collect();
            if missing.is_empty() {
                return;
            }
            format!("the arbiter does not name {}", missing.join(", "))
        }
    });
}

/// Whether there is a primary, and it serves.
fn serving(s: &Status, reasons: &mut Vec<String>) {
    match &s.primary {
        None => reasons.push("there is no primary".into()),
        Some(name) if *name == s.node => reasons.extend(s.not_ready_because.iter().cloned()),
        Some(name) => {
            if s.peers.iter().any(|p| p.name == *name && !p.alive) {
                reasons.push(format!("the primary {name} is not heard"));
            }
        }
    }
}

/// Whether somebody could take over.
fn successor(s: &Status, reasons: &mut Vec<String>) {
    let i_lead = s.role == Role::Primary;
    let i_could = !i_lead && s.role != Role::Witness;
    let others: Vec<&Peer> = s
        .peers
        .iter()
        .filter(|p| p.role != Some(Role::Witness) && s.primary.as_ref() != Some(&p.name))
        .collect();
    let ready = |p: &Peer| p.alive && p.clone_ready && p.electable && (!i_lead || p.in_commit_set);
    if i_could && s.ready || others.iter().any(|p| ready(p)) {
        return;
    }
    if i_could {
        reasons.push(format!("{} is not ready: {}", s.node, s.not_ready_because.join(", ")));
    }
    reasons.extend(others.iter().map(|p| match p {
        p if !p.alive => format!("{} is not heard", p.name),
        p if !p.clone_ready => format!("the clone on {} is not ready", p.name),
        p if !p.electable => format!("{} would not stand in an election", p.name),
        p => match &p.evicted_because {
            Some(why) => format!("{} is out of the commit set: {why}", p.name),
            None => format!("{} is not in the commit set yet", p.name),
        },
    }));
    if !i_could && others.is_empty() {
        reasons.push("no other node holds a clone".into());
    }
}

/// Whether enough nodes would be left.
fn majority(s: &Status, reasons: &mut Vec<String>) {
    let voters = s.peers.len() + 1;
    let counts = |p: &&Peer| p.alive && p.role != Some(Role::Recovering);
    let alive = usize::from(s.role != Role::Recovering) + s.peers.iter().filter(counts).count();
    if alive.saturating_sub(1) < voters / 2 + 1 {
        let missing: Vec<&str> =
            s.peers.iter().filter(|p| !counts(p)).map(|p| p.name.as_str()).collect();
        let who = if missing.is_empty() {
            String::new()
        } else {
            format!(" ({} missing)", missing.join(", "))
        };
        reasons.push(format!(
            "one more loss leaves no majority: {alive} of {voters} nodes count{who}"
        ));
        return;
    }
    let (set, required) = (s.gate.replicas_in_set, s.gate.replicas_required);
    let spare = s.peers.len() as u64 > required;
    if s.role == Role::Primary && s.gate.policy != "none" && spare && set == required {
        reasons.push(format!(
            "one more loss stops output: {set} of {} replicas keep up, and {required} must",
            s.peers.len()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Gate, Register};

    fn peer(name: &str) -> Peer {
        Peer {
            name: name.into(),
            role: Some(Role::Replica),
            alive: true,
            clone_ready: true,
            electable: true,
            in_commit_set: true,
            ..Peer::default()
        }
    }

    /// A healthy primary of three.
    fn primary() -> Status {
        Status {
            node: "a".into(),
            role: Role::Primary,
            primary: Some("a".into()),
            ready: true,
            gate: Gate {
                open: true,
                policy: "quorum".into(),
                replicas_required: 1,
                replicas_in_set: 2,
                ..Gate::default()
            },
            peers: vec![peer("b"), peer("c")],
            ..Status::default()
        }
    }

    fn line(mut s: Status) -> String {
        s.conclude();
        assert_eq!(s.verdict == Verdict::Protected, s.reasons.is_empty());
        s.verdict_line()
    }

    #[track_caller]
    fn exposed(change: impl FnOnce(&mut Status), because: &str) {
        let mut s = primary();
        change(&mut s);
        assert_eq!(line(s), format!("exposed because {because}"));
    }

    #[test]
    fn a_whole_group_is_protected_from_everywhere() {
        assert_eq!(line(primary()), "protected");
        let mut replica = primary();
        (replica.node, replica.role, replica.primary) =
            ("b".into(), Role::Replica, Some("a".into()));
        replica.gate.replicas_in_set = 0;
        replica.peers = vec![peer("a"), peer("c")];
        replica.peers[0].role = Some(Role::Primary);
        assert_eq!(line(replica.clone()), "protected");
        // One clone is enough, wherever it is.
        replica.ready = false;
        assert_eq!(line(replica.clone()), "protected");
        replica.peers[1].clone_ready = false;
        replica.not_ready_because = vec!["the clone is behind the log".into()];
        assert_eq!(
            line(replica.clone()),
            "exposed because b is not ready: the clone is behind the log; the clone on c is not ready"
        );
        (replica.role, replica.node) = (Role::Witness, "w".into());
        replica.peers[1].clone_ready = true;
        assert_eq!(line(replica), "protected");
    }

    #[test]
    fn each_loss_has_its_reason() {
        exposed(|s| s.peers.clear(), "the group has one node, and nobody could take over");
        exposed(
            |s| s.peers[1].alive = false,
            "one more loss leaves no majority: 2 of 3 nodes count (c missing)",
        );
        exposed(
            |s| s.peers[1].role = Some(Role::Recovering),
            "one more loss leaves no majority: 2 of 3 nodes count (c missing)",
        );
        exposed(
            |s| {
                (s.gate.replicas_in_set, s.peers[1].in_commit_set) = (1, false);
            },
            "one more loss stops output: 1 of 2 replicas keep up, and 1 must",
        );
        exposed(
            |s| s.peers.iter_mut().for_each(|p| p.clone_ready = false),
            "the clone on b is not ready; the clone on c is not ready",
        );
        exposed(
            |s| s.peers.iter_mut().for_each(|p| p.electable = false),
            "b would not stand in an election; c would not stand in an election",
        );
        exposed(
            |s| s.not_ready_because = vec!["the gate is not open".into()],
            "the gate is not open",
        );
        exposed(
            |s| s.gate.policy = "none".into(),
            "with commit.policy \"none\" replies leave before a replica holds their cause",
        );
        exposed(
            |s| (s.role, s.primary, s.ready) = (Role::Candidate, None, true),
            "there is no primary",
        );
        exposed(
            |s| {
                (s.node, s.role, s.primary) = ("x".into(), Role::Replica, Some("b".into()));
                s.peers[0].alive = false;
            },
            "the primary b is not heard; one more loss leaves no majority: 2 of 3 nodes count (b missing)",
        );
    }

    #[test]
    fn what_was_chosen_is_no_loss() {
        // commit.min = 2 of two replicas: output stops with either, as configured.
        let mut all = primary();
        all.gate.replicas_required = 2;
        assert_eq!(line(all), "protected");
    }

    #[test]
    fn a_pair_rests_on_its_arbiter() {
        let mut pair = primary();
        pair.peers.truncate(1);
        (pair.gate.replicas_required, pair.gate.replicas_in_set) = (0, 1);
        let register = Register { members: vec!["a".into()], ..Register::default() };
        pair.arbiter =
            Some(Arbiter { reachable: Some(true), register: Some(register), alone: false });
        let named_alone = "exposed because the arbiter does not name b";
        assert_eq!(line(pair.clone()), named_alone);
        let register = pair.arbiter.as_mut().unwrap().register.as_mut().unwrap();
        register.members.push("b".into());
        assert_eq!(line(pair.clone()), "protected");
        pair.arbiter.as_mut().unwrap().reachable = Some(false);
        assert_eq!(
            line(pair.clone()),
            "exposed because the arbiter does not answer, and nobody takes over without it"
        );
        pair.arbiter.as_mut().unwrap().alone = true;
        pair.peers[0].alive = false;
        assert_eq!(line(pair), "exposed because b is not heard; the primary serves alone");
    }
}
