//! Planted bugs that show on the replica network: what a broken node would have sent.
//!
//! A broken node holds the key: it seals what it says, under its own session.

use understudy_seal::{Path, Scope, SessionKey};
use understudy_wire::frame::ETH_LEN;
use understudy_wire::pdu::{DATA_HEADER_LEN, DataHeader, PduHeader, PduKind};

use crate::frames::{CLUSTER, cluster_key};
use crate::scenario::Mutation;
use crate::world::World;

/// How far ahead of the truth a forged acknowledgement is.
const FORGED_AHEAD: u64 = 4096;

/// A frame on the replica network, as the node with the planted bug sends it.
pub fn replica_frame(world: &World, mut bytes: Vec<u8>) -> Vec<u8> {
    let change = match World::pdu_kind(&bytes) {
        Some(PduKind::Ack) if world.has(Mutation::ForgedAcks) => acknowledge_ahead,
        Some(PduKind::Data) if world.has(Mutation::EarlyCommit) => commit_early,
        _ => return bytes,
    };
    change_body(&mut bytes[ETH_LEN..], change);
    bytes
}

/// Opens a PDU, changes its body, and seals it again in its sender's name.
fn change_body(pdu: &mut [u8], change: fn(&mut [u8])) {
    let Ok(read) = PduHeader::decode(pdu, CLUSTER) else { return };
    let (header, sealing, _) = read;
    let scope = Scope { cluster: CLUSTER, path: Path::Replica };
    let key = SessionKey::derive(&cluster_key(), &scope, header.node, sealing.session);
    let body = key.open(&read, pdu).expect("a node of this simulation sealed it");
    change(body);
    // The same nonce for two bodies: nobody here reads along.
    let sealed = key.seal(&header, sealing.session, sealing.counter, pdu);
    sealed.expect("as long as before");
}

fn acknowledge_ahead(body: &mut [u8]) {
    let field = &mut body[..8];
    let position = u64::from_le_bytes((&*field).try_into().unwrap_or_default());
    field.copy_from_slice(&(position + FORGED_AHEAD).to_le_bytes());
}

fn commit_early(body: &mut [u8]) {
    if let Ok((header, _)) = DataHeader::decode(body) {
        let early = DataHeader { committed: header.end, ..header }.encode();
        body[..DATA_HEADER_LEN].copy_from_slice(&early);
    }
}
