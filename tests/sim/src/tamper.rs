//! Planted bugs that show on the replica network: what a broken node would have sent.

use understudy_wire::frame::ETH_LEN;
use understudy_wire::pdu::{DATA_HEADER_LEN, DataHeader, PDU_HEADER_LEN, PduKind};

use crate::scenario::Mutation;
use crate::world::World;

const BODY_AT: usize = ETH_LEN + PDU_HEADER_LEN;
/// How far ahead of the truth a forged acknowledgement is.
const FORGED_AHEAD: u64 = 4096;

/// A frame on the replica network, as the node with the planted bug sends it.
pub fn replica_frame(world: &World, mut bytes: Vec<u8>) -> Vec<u8> {
    match World::pdu_kind(&bytes) {
        Some(PduKind::Ack) if world.has(Mutation::ForgedAcks) => {
            let field = &mut bytes[BODY_AT..BODY_AT + 8];
            let position = u64::from_le_bytes(field.try_into().unwrap_or_default());
            field.copy_from_slice(&(position + FORGED_AHEAD).to_le_bytes());
        }
        Some(PduKind::Data) if world.has(Mutation::EarlyCommit) => {
            if let Ok((header, _)) = DataHeader::decode(&bytes[BODY_AT..]) {
                let early = DataHeader { committed: header.end, ..header }.encode();
                bytes[BODY_AT..BODY_AT + DATA_HEADER_LEN].copy_from_slice(&early);
            }
        }
        _ => {}
    }
    bytes
}
