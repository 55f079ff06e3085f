//! The external arbiter of a group of two: one register, changed by compare-and-swap.
//!
//! What belongs here: what the register holds, what a node may ask of it, and the rule that decides. Pure: whoever
//! keeps the register (etcd, a simulation) reads it, applies [`decide`], and writes back only if it has not changed.
//!
//! Two nodes have no majority without each other. The register says which of them hold everything that was ever
//! committed. A node that is named may make itself the only one (`Claim`), by which the other one is out until it is
//! admitted again (`Share`). While a node is the only one named, nobody else can lead: it needs no lease. So no
//! node leads without the consent of the other one or of the register, and the register never consents twice.

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
}

/// What a node asks of the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wish {
    /// Would a claim succeed? Changes nothing.
    Probe,
    /// Be the only member: to take over, or to go on without the other node.
    Claim,
    /// The other node holds everything again (or still): name both.
    Share,
    /// Both nodes agree that everything is lost: name both, whatever was.
    Reset,
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
    /// Done, and the register holds this now (for `Probe`: it would be done).
    Granted(Register),
    /// Not done; what the register holds, `None` if nothing was ever written.
    Refused(Option<Register>),
    /// Nobody answered in time. Whether it was done is unknown.
    Unreachable,
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
    let members = match request.wish {
        Wish::Probe | Wish::Claim => member.then(|| vec![me])?,
        Wish::Share | Wish::Reset => {
            let mut both = both.to_vec();
            both.sort_unstable();
            both
        }
    };
    not_newer.then_some(Register { epoch, primary: me, members })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [NodeId; 2] = [1, 2];

    fn ask(held: Option<&Register>, me: NodeId, wish: Wish, epoch: Epoch) -> Option<Register> {
        decide(held, me, &BOTH, &ArbiterRequest { wish, epoch })
    }

    #[test]
    fn only_one_of_two_claims_succeeds() {
        let shared = ask(None, 1, Wish::Share, 3).unwrap();
        assert_eq!(shared.members, BOTH);
        let mine = ask(Some(&shared), 1, Wish::Claim, 3).unwrap();
        assert_eq!(mine.members, [1]);
        for epoch in [2, 3, 4, 99] {
            assert_eq!(ask(Some(&mine), 2, Wish::Claim, epoch), None);
            assert_eq!(ask(Some(&mine), 2, Wish::Probe, epoch), None);
        }
        assert_eq!(ask(Some(&mine), 1, Wish::Claim, 3), Some(mine), "asked again");
    }

    #[test]
    fn nothing_old_overwrites() {
        let taken = Register { epoch: 6, primary: 2, members: vec![2] };
        assert_eq!(ask(Some(&taken), 1, Wish::Share, 5), None);
        assert_eq!(ask(Some(&taken), 1, Wish::Share, 6), None, "another's epoch");
        assert!(ask(Some(&taken), 1, Wish::Share, 7).is_some(), "2 voted for it since");
    }

    #[test]
    fn an_empty_register_gives_nothing_to_one_node() {
        assert_eq!(ask(None, 1, Wish::Claim, 1), None);
        assert!(ask(None, 1, Wish::Share, 1).is_some());
    }
}
