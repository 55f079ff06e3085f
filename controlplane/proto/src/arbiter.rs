//! The external arbiter of a group of two: one register, changed by compare-and-swap.
//!
//! What belongs here: what the register holds, what a node may ask of it, and the rule that decides. Pure: whoever
//! keeps the register (etcd, a simulation) reads it, applies [`step`], and writes back only if it has not changed.
//! The keeper serves one request at a time, and once it has answered, be it `Unreachable`, it reads and decides no
//! more for that request: what may still arrive late is a write that the next one makes void.
//!
//! Two nodes have no majority without each other. The register says which of them hold everything that was ever
//! committed. A node that is named may take a new epoch (`Claim`): it leads then, and nothing older changes the
//! register any more, but nothing leaves yet and the other one stays named. Who leads and is named may make itself
//! the only one (`Seclude`), by which the other one is out until it is admitted again (`Share`). While a node is the
//! only one named, nobody else can lead: it needs no lease. So no node leads without the consent of the other one or
//! of the register, and the register never consents twice.
//!
//! Claim and seclusion are two steps because a node may die between them: whoever claimed and came no further let
//! nothing out, and the other one, which still holds everything, claims a newer epoch.

use understudy_wire::{Epoch, NodeId};

/// What the arbiter keeps: who may lead without the other's consent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Register {
    /// The newest epoch that it has heard of.
    pub epoch: Epoch,
    /// Who wrote it.
    pub primary: NodeId,
    /// Who holds everything committed: one node or both, sorted.
    pub members: Vec<NodeId>,
    /// The epoch in which these were named.
    pub since: Epoch,
}

/// What a node asks of the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wish {
    /// Would a claim succeed? Changes nothing.
    Probe,
    /// Lead in this epoch without the other node's vote. It stays named.
    Claim,
    /// Be the only member: to serve without the other node.
    Seclude,
    /// The other node holds everything again (or still): name both.
    Share,
}

/// A request; the answer comes back through `Node::handle_arbiter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ArbiterRequest {
    /// What is asked.
    pub wish: Wish,
    /// In which epoch.
    pub epoch: Epoch,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ArbiterAnswer {
    /// Done, and this is what the register holds now; for `Probe`, what it held and still holds.
    Granted(Register),
    /// Not done; what the register holds, `None` if nothing was ever written.
    Refused(Option<Register>),
    /// Nobody answered in time. Whether it was done is unknown.
    Unreachable,
}

/// What the keeper of the register does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Answer; nothing changes.
    Answer(ArbiterAnswer),
    /// Write this, if the register is still what was read, and answer `Granted` with it; else read again. Written
    /// even if it is what the register holds: the write voids an earlier one that is still on its way.
    Write(Register),
}

/// What to do with `request` of node `me` of the group `both`, given what the register was read to hold.
#[must_use]
pub fn step(
    held: Option<&Register>,
    me: NodeId,
    both: &[NodeId],
    request: &ArbiterRequest,
) -> Step {
    match (decide(held, me, both, request), request.wish, held) {
        (None, _, _) => Step::Answer(ArbiterAnswer::Refused(held.cloned())),
        (Some(_), Wish::Probe, Some(held)) => Step::Answer(ArbiterAnswer::Granted(held.clone())),
        (Some(new), _, _) => Step::Write(new),
    }
}

/// What the register is to hold after `request` of node `me`; `None` if it must stay as it is.
#[must_use]
pub fn decide(
    held: Option<&Register>,
    me: NodeId,
    both: &[NodeId],
    request: &ArbiterRequest,
) -> Option<Register> {
    let epoch = request.epoch;
    // Its own write of this epoch, or something older.
    let not_newer = held.is_none_or(|r| r.epoch < epoch || r.epoch == epoch && r.primary == me);
    let member = held.is_some_and(|r| r.members.contains(&me));
    let (members, since) = match (request.wish, held) {
        (Wish::Probe | Wish::Claim, Some(held)) if member => (held.members.clone(), held.since),
        (Wish::Seclude, Some(_)) if member => (vec![me], epoch),
        (Wish::Share, _) => {
            let mut both = both.to_vec();
            both.sort_unstable();
            (both, epoch)
        }
        _ => return None,
    };
    not_newer.then_some(Register { epoch, primary: me, members, since })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [NodeId; 2] = [1, 2];

    fn ask(held: Option<&Register>, me: NodeId, wish: Wish, epoch: Epoch) -> Option<Register> {
        decide(held, me, &BOTH, &ArbiterRequest { wish, epoch })
    }

    #[test]
    fn who_secludes_itself_leaves_nothing_to_the_other() {
        let shared = ask(None, 1, Wish::Share, 3).unwrap();
        assert_eq!(shared.members, BOTH);
        let mine = ask(Some(&shared), 1, Wish::Seclude, 3).unwrap();
        assert_eq!((&mine.members[..], mine.since), (&[1][..], 3));
        for epoch in [2, 3, 4, 99] {
            for wish in [Wish::Claim, Wish::Seclude, Wish::Probe] {
                assert_eq!(ask(Some(&mine), 2, wish, epoch), None);
            }
        }
        assert_eq!(ask(Some(&mine), 1, Wish::Seclude, 3), Some(mine.clone()), "asked again");
        let later = ask(Some(&mine), 1, Wish::Claim, 5).unwrap();
        assert_eq!((&later.members[..], later.since), (&[1][..], 3));
    }

    #[test]
    fn a_claim_that_came_no_further_gives_way() {
        let shared = ask(None, 1, Wish::Share, 3).unwrap();
        let claimed = ask(Some(&shared), 2, Wish::Claim, 4).unwrap();
        assert_eq!(claimed, Register { epoch: 4, primary: 2, members: BOTH.to_vec(), since: 3 });
        for wish in [Wish::Claim, Wish::Seclude, Wish::Share] {
            assert_eq!(ask(Some(&claimed), 1, wish, 3), None, "the old reign is over");
            assert_eq!(ask(Some(&claimed), 1, wish, 4), None, "an epoch has one primary");
        }
        let taken = ask(Some(&claimed), 1, Wish::Claim, 5).unwrap();
        for wish in [Wish::Claim, Wish::Seclude, Wish::Share] {
            assert_eq!(ask(Some(&taken), 2, wish, 4), None, "too late");
        }
        assert_eq!(ask(Some(&taken), 1, Wish::Seclude, 5).unwrap().members, [1]);
    }

    #[test]
    fn nothing_old_overwrites() {
        let taken = Register { epoch: 6, primary: 2, members: vec![2], since: 6 };
        assert_eq!(ask(Some(&taken), 1, Wish::Share, 5), None);
        assert_eq!(ask(Some(&taken), 1, Wish::Share, 6), None, "another's epoch");
        assert!(ask(Some(&taken), 1, Wish::Share, 7).is_some(), "2 voted for it since");
    }

    #[test]
    fn an_empty_register_gives_nothing_to_one_node() {
        assert_eq!(ask(None, 1, Wish::Claim, 1), None);
        assert_eq!(ask(None, 1, Wish::Seclude, 1), None);
        assert!(ask(None, 1, Wish::Share, 1).is_some());
    }
}
