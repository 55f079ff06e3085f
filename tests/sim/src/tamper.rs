//! Planted bugs that show in PDUs: what a broken node would have sent, or would have taken.
//!
//! A broken node holds the key: it seals what it says, under its own session.

use understudy_seal::{Path, Scope, SessionKey};
use understudy_wire::Epoch;
use understudy_wire::control::{Ballot, Candidacy, Control as Message};
use understudy_wire::frame::ETH_LEN;
use understudy_wire::pdu::{Ack, DATA_HEADER_LEN, DataHeader, PduHeader, PduKind};

use crate::frames::{CLUSTER, cluster_key};
use crate::scenario::Mutation;

/// How far ahead of the truth a forged acknowledgement is.
const FORGED_AHEAD: u64 = 4096;

/// A frame on the replica network, as the node with the planted bug sends it.
pub fn frame_sent(mutation: Mutation, frame: &mut [u8]) {
    sent(mutation, Path::Replica, &mut frame[ETH_LEN..]);
}

/// A PDU, as the node with the planted bug sends it.
pub fn sent(mutation: Mutation, path: Path, pdu: &mut [u8]) {
    use Mutation::*;
    if !matches!(mutation, ForgedAcks | EarlyCommit | EveryVoteGranted | StaleCandidate) {
        return;
    }
    rewrite(path, pdu, |header, body| match (mutation, header.kind) {
        (ForgedAcks, PduKind::Ack) => {
            if let Ok(ack) = Ack::decode(body) {
                let position = ack.position + FORGED_AHEAD;
                let ahead = Ack { position, covered: position, ..ack };
                body.copy_from_slice(&ahead.encode());
            }
        }
        (EarlyCommit, PduKind::Data) => {
            if let Ok((data, _)) = DataHeader::decode(body) {
                let early = DataHeader { committed: data.end, ..data }.encode();
                body[..DATA_HEADER_LEN].copy_from_slice(&early);
            }
        }
        (EveryVoteGranted | StaleCandidate, PduKind::Control) => {
            if let Some(message) = Message::decode(body).ok().and_then(|m| vote(mutation, m)) {
                let mut changed = Vec::new();
                message.encode(&mut changed);
                body.copy_from_slice(&changed);
            }
        }
        _ => {}
    });
}

fn vote(mutation: Mutation, message: Message) -> Option<Message> {
    let all = mutation == Mutation::EveryVoteGranted;
    let yes = |b: Ballot| Ballot { granted: true, ..b };
    let ahead = |c: Candidacy| Candidacy { log_epoch: c.epoch - 1, position: 1 << 40, ..c };
    match message {
        Message::PreVoteReply(b) if all => Some(Message::PreVoteReply(yes(b))),
        Message::VoteReply(b) if all => Some(Message::VoteReply(yes(b))),
        Message::PreVote(c) if !all => Some(Message::PreVote(ahead(c))),
        Message::Vote(c) if !all => Some(Message::Vote(ahead(c))),
        _ => None,
    }
}

/// A frame of the replica network, as a node in `epoch` takes it that looks at no epoch.
pub fn frame_taken(frame: &mut [u8], epoch: Epoch) {
    rewrite(Path::Replica, &mut frame[ETH_LEN..], |header, _| {
        if matches!(header.kind, PduKind::Ack | PduKind::Nak | PduKind::Data) {
            header.epoch = epoch;
        }
    });
}

/// Opens a PDU, changes its header and body, and seals it again in its sender's name.
fn rewrite(path: Path, pdu: &mut [u8], change: impl FnOnce(&mut PduHeader, &mut [u8])) {
    let Ok(read) = PduHeader::decode(pdu, CLUSTER) else { return };
    let (mut header, sealing, _) = read;
    // A handshake is not sealed under a session, and opening would spoil it.
    if !matches!(header.kind, PduKind::Data | PduKind::Ack | PduKind::Nak | PduKind::Control) {
        return;
    }
    let scope = Scope { cluster: CLUSTER, path };
    let key = SessionKey::derive(&cluster_key(), &scope, header.node, sealing.session);
    let Ok(body) = key.open(&read, pdu) else { return };
    change(&mut header, body);
    // The same nonce for two bodies: nobody here reads along.
    let sealed = key.seal(&header, sealing.session, sealing.counter, pdu);
    sealed.expect("as long as before");
}
