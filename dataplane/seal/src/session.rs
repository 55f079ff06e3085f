//! The key of one session under one cluster key.

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use understudy_wire::pdu::{PDU_HEADER_LEN, PDU_OVERHEAD_LEN, PDU_TAG_LEN, PduHeader, Sealing};
use understudy_wire::{Epoch, NodeId};

use crate::key::{ClusterKey, Scope};

/// Why a PDU cannot be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It has no room for header and tag, or a body over 65535 bytes.
    #[error("a PDU of this length cannot be sealed")]
    Length,
    /// All counters of the session are used.
    #[error("the session has no counter left")]
    Exhausted,
}

/// Does not open: not sealed with this key, or changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forged;

/// Seals and opens PDUs of one sender's session. Keeps no counters: that is [`crate::Channel`]'s.
pub struct SessionKey {
    id: u16,
    key: LessSafeKey,
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKey({:04x})", self.id)
    }
}

impl SessionKey {
    /// The key of `node`'s session.
    pub fn derive(key: &ClusterKey, scope: &Scope, node: NodeId, session: u64) -> SessionKey {
        let bytes = key.session(scope, node, session);
        let unbound = UnboundKey::new(&AES_256_GCM, &bytes).expect("32 bytes are its key length");
        SessionKey { id: key.id(), key: LessSafeKey::new(unbound) }
    }

    /// Id of the cluster key that it comes from.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Seals a PDU: room for the header, the body, room for the tag. Never twice with the same
    /// `counter` of a session.
    ///
    /// # Errors
    /// If the length cannot be a PDU's; nothing is changed then.
    pub fn seal(
        &self,
        header: &PduHeader,
        session: u64,
        counter: u64,
        pdu: &mut [u8],
    ) -> Result<(), SealError> {
        let body_len = pdu.len().checked_sub(PDU_OVERHEAD_LEN).ok_or(SealError::Length)?;
        if body_len > usize::from(u16::MAX) {
            return Err(SealError::Length);
        }
        let head = header.encode(body_len, &Sealing { key: self.id, session, counter });
        let (room, rest) = pdu.split_at_mut(PDU_HEADER_LEN);
        room.copy_from_slice(&head);
        let (body, tag_room) = rest.split_at_mut(body_len);
        let nonce = nonce(header.epoch, counter);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(&head), body)
            .map_err(|_| SealError::Length)?;
        tag_room.copy_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens a PDU that [`PduHeader::decode`] has read so; gives its body.
    ///
    /// # Errors
    /// If it is not authentic; the body is lost then.
    pub fn open<'a>(
        &self,
        (header, sealing, body_len): &(PduHeader, Sealing, usize),
        pdu: &'a mut [u8],
    ) -> Result<&'a mut [u8], Forged> {
        let (head, rest) = pdu.split_at_mut_checked(PDU_HEADER_LEN).ok_or(Forged)?;
        let sealed = rest.get_mut(..body_len + PDU_TAG_LEN).ok_or(Forged)?;
        let nonce = nonce(header.epoch, sealing.counter);
        self.key.open_in_place(nonce, Aad::from(head), sealed).map_err(|_| Forged)
    }
}

fn nonce(epoch: Epoch, counter: u64) -> Nonce {
    let number = u128::from(epoch as u32) | u128::from(counter) << 32;
    let mut bytes = [0; 12];
    bytes.copy_from_slice(&number.to_le_bytes()[..12]);
    Nonce::assume_unique_for_key(bytes)
}
