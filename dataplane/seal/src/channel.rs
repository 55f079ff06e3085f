//! One end of a path: seals what this node says, opens what the others say.

use arrayvec::ArrayVec;
use ring::hmac;
use understudy_wire::pdu::{
    PDU_HEADER_LEN, PDU_OVERHEAD_LEN, PDU_TAG_LEN, PduError, PduHeader, PduKind, Sealing,
    TARGET_ALL,
};
use understudy_wire::{Epoch, NodeId};

use crate::counters::SealCounters;
use crate::key::{ClusterKey, KEYS_MAX, Keyring, SECRET_LEN, Scope};
use crate::session::{SealError, SessionKey};
use crate::window::{Refused, Window};

/// Other nodes of a group at most.
pub const PEERS_MAX: usize = 15;
const MS: u64 = 1_000_000;
const CHALLENGE_LEN: usize = 16;
/// An HMAC-SHA256; its second half is where other PDUs have their tag.
const MAC_LEN: usize = 32;
/// Bytes of a challenge or proof.
pub const HANDSHAKE_LEN: usize = PDU_HEADER_LEN + CHALLENGE_LEN + MAC_LEN;
const _: () = assert!(HANDSHAKE_LEN > PDU_OVERHEAD_LEN && MAC_LEN > PDU_TAG_LEN);
/// Between two challenges to one node, whatever comes in its name.
const CHALLENGE_INTERVAL_NS: u64 = 5 * MS;
/// How long an answer to a challenge counts. A recorded one is worth nothing afterwards.
const CHALLENGE_LIFE_NS: u64 = 1_000 * MS;
/// Between two proofs to one node; meanwhile its newest challenge is remembered.
const PROOF_INTERVAL_NS: u64 = MS;

type Challenge = [u8; CHALLENGE_LEN];

/// Why a PDU was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It is not a PDU of this group.
    #[error(transparent)]
    Pdu(#[from] PduError),
    /// From a node that is not configured, or from ourselves.
    #[error("PDU of an unknown node")]
    UnknownNode,
    /// Under a key that is not in the key file.
    #[error("PDU under an unknown key")]
    UnknownKey,
    /// Of a session that has not proved that it lives.
    #[error("PDU of an unknown session")]
    UnknownSession,
    /// Opened before.
    #[error("PDU was received before")]
    Replayed,
    /// Too far behind to know whether it was opened before.
    #[error("PDU is too old")]
    Stale,
    /// Does not open.
    #[error("PDU is forged")]
    Forged,
    /// A proof that nobody asked for.
    #[error("proof without a challenge")]
    Unasked,
}

impl From<Refused> for OpenError {
    fn from(refused: Refused) -> OpenError {
        match refused {
            Refused::Replayed => OpenError::Replayed,
            Refused::Stale => OpenError::Stale,
        }
    }
}

/// A challenge or proof to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// To whom.
    pub target: NodeId,
    /// The whole PDU.
    pub pdu: [u8; HANDSHAKE_LEN],
}

/// Another node's session that has proved that it lives.
struct Accepted {
    session: u64,
    window: Window,
    /// In the order of [`Channel::keys`].
    keys: ArrayVec<SessionKey, KEYS_MAX>,
}

struct Peer {
    id: NodeId,
    accepted: Option<Accepted>,
    key_seen: Option<u16>,
    /// Its session is not known: ask when the pace allows.
    wants_challenge: bool,
    challenged_at_ns: Option<u64>,
    /// What it has to repeat, and since when.
    open_challenge: Option<(Challenge, u64)>,
    /// What we have to repeat.
    asked: Option<Challenge>,
    proved_at_ns: Option<u64>,
}

struct Key {
    cluster: ClusterKey,
    handshake: hmac::Key,
}

/// A channel as operators see it.
#[derive(Clone, Debug, Default)]
pub struct ChannelView {
    /// Ids of the keys that open; the first one seals.
    pub keys: ArrayVec<u16, KEYS_MAX>,
    /// The other nodes.
    pub peers: ArrayVec<PeerView, PEERS_MAX>,
    /// Counts.
    pub counters: SealCounters,
}

/// Another node as a channel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Which.
    pub id: NodeId,
    /// Whether its session is accepted.
    pub is_accepted: bool,
    /// Id of the key under which its newest PDU was sealed.
    pub key_seen: Option<u16>,
}

/// One end of a path, for one life of a process. All memory is taken in [`Channel::new`].
pub struct Channel {
    me: NodeId,
    scope: Scope,
    session: u64,
    /// The next PDU's. It outlives changes of keys: that keeps nonces unique.
    counter: u64,
    keys: ArrayVec<Key, KEYS_MAX>,
    own: SessionKey,
    peers: Vec<Peer>,
    /// Makes challenges.
    random: hmac::Key,
    challenges: u64,
    /// There may be something for [`Channel::poll_handshake`].
    is_pending: bool,
    counters: SealCounters,
}

impl Channel {
    /// A channel to `peers`, at most [`PEERS_MAX`], none of them `me`. `entropy`: random bytes for
    /// this channel alone; the session is chosen from them.
    pub fn new(
        me: NodeId,
        scope: Scope,
        peers: &[NodeId],
        keyring: &Keyring,
        entropy: [u8; SECRET_LEN],
    ) -> Channel {
        let random = hmac::Key::new(hmac::HMAC_SHA256, &entropy);
        let session = first_u64(hmac::sign(&random, b"session").as_ref());
        let peer = |&id: &NodeId| Peer {
            id,
            accepted: None,
            key_seen: None,
            wants_challenge: false,
            challenged_at_ns: None,
            open_challenge: None,
            asked: None,
            proved_at_ns: None,
        };
        Channel {
            me,
            scope,
            session,
            counter: 0,
            keys: keys(keyring, &scope),
            own: SessionKey::derive(keyring.sealing(), &scope, me, session),
            peers: peers.iter().take(PEERS_MAX).filter(|&&id| id != me).map(peer).collect(),
            random,
            challenges: 0,
            is_pending: false,
            counters: SealCounters::default(),
        }
    }

    /// The group.
    pub fn cluster(&self) -> u64 {
        self.scope.cluster
    }

    /// Takes other keys. Sessions go on, with keys of their own under each; what is not in
    /// `keyring` opens nothing any more.
    pub fn set_keys(&mut self, keyring: &Keyring) {
        self.keys = keys(keyring, &self.scope);
        self.own = SessionKey::derive(keyring.sealing(), &self.scope, self.me, self.session);
        for peer in &mut self.peers {
            if let Some(accepted) = &mut peer.accepted {
                accepted.keys = session_keys(&self.keys, &self.scope, peer.id, accepted.session);
            }
        }
    }

    /// The state for operators.
    pub fn view(&self) -> ChannelView {
        let peer = |p: &Peer| PeerView {
            id: p.id,
            is_accepted: p.accepted.is_some(),
            key_seen: p.key_seen,
        };
        ChannelView {
            keys: self.keys.iter().map(|k| k.cluster.id()).collect(),
            peers: self.peers.iter().map(peer).collect(),
            counters: self.counters,
        }
    }

    /// The counts.
    pub fn counters(&self) -> &SealCounters {
        &self.counters
    }

    // ---- out ----------------------------------------------------------------

    /// Seals a PDU: [`PDU_HEADER_LEN`] bytes of room, the body, [`PDU_TAG_LEN`] bytes of room.
    ///
    /// # Errors
    /// If the length cannot be a PDU's or the session's counters are used up. Then it is not sealed
    /// and must not be sent.
    pub fn seal_in_place(
        &mut self,
        kind: PduKind,
        target: NodeId,
        epoch: Epoch,
        pdu: &mut [u8],
    ) -> Result<(), SealError> {
        let counter = self.next_counter()?;
        self.own.seal(&self.header(kind, target, epoch), self.session, counter, pdu)
    }

    fn header(&self, kind: PduKind, target: NodeId, epoch: Epoch) -> PduHeader {
        let cluster = self.scope.cluster;
        PduHeader { kind, node: self.me, target, cluster, epoch, stream: 0 }
    }

    fn next_counter(&mut self) -> Result<u64, SealError> {
        let counter = self.counter;
        self.counter = counter.checked_add(1).ok_or(SealError::Exhausted)?;
        Ok(counter)
    }

    /// The next challenge or proof that is due; call it until `None` after PDUs were opened.
    pub fn poll_handshake(&mut self, now_ns: u64) -> Option<Handshake> {
        if !self.is_pending {
            return None;
        }
        for i in 0..self.peers.len() {
            let peer = &mut self.peers[i];
            if peer.asked.is_some() && is_due(peer.proved_at_ns, PROOF_INTERVAL_NS, now_ns) {
                let challenge = peer.asked.take()?;
                peer.proved_at_ns = Some(now_ns);
                self.counters.proofs_sent += 1;
                return self.handshake(PduKind::Proof, i, &challenge);
            }
            if peer.wants_challenge && is_due(peer.challenged_at_ns, CHALLENGE_INTERVAL_NS, now_ns)
            {
                peer.wants_challenge = false;
                peer.challenged_at_ns = Some(now_ns);
                self.counters.challenges_sent += 1;
                let challenge = self.challenge(i, now_ns);
                return self.handshake(PduKind::Challenge, i, &challenge);
            }
        }
        self.is_pending = self.peers.iter().any(|p| p.asked.is_some() || p.wants_challenge);
        None
    }

    /// What a node has to repeat: the same for a while, so that an answer on its way counts.
    fn challenge(&mut self, peer: usize, now_ns: u64) -> Challenge {
        if let Some((challenge, since_ns)) = self.peers[peer].open_challenge
            && now_ns < since_ns + CHALLENGE_LIFE_NS
        {
            return challenge;
        }
        self.challenges += 1;
        // A number has 8 bytes and "session" 7: no challenge shows the session's origin.
        let random = hmac::sign(&self.random, &self.challenges.to_le_bytes());
        let mut challenge = [0; CHALLENGE_LEN];
        challenge.copy_from_slice(&random.as_ref()[..CHALLENGE_LEN]);
        self.peers[peer].open_challenge = Some((challenge, now_ns));
        challenge
    }

    fn handshake(
        &mut self,
        kind: PduKind,
        peer: usize,
        challenge: &Challenge,
    ) -> Option<Handshake> {
        let target = self.peers[peer].id;
        let key = &self.keys[0];
        let sealing =
            Sealing { key: key.cluster.id(), session: self.session, counter: self.counter };
        let body_len = HANDSHAKE_LEN - PDU_OVERHEAD_LEN;
        let mut pdu = [0; HANDSHAKE_LEN];
        pdu[..PDU_HEADER_LEN]
            .copy_from_slice(&self.header(kind, target, 0).encode(body_len, &sealing));
        pdu[PDU_HEADER_LEN..HANDSHAKE_LEN - MAC_LEN].copy_from_slice(challenge);
        let mac = hmac::sign(&key.handshake, &pdu[..HANDSHAKE_LEN - MAC_LEN]);
        pdu[HANDSHAKE_LEN - MAC_LEN..].copy_from_slice(mac.as_ref());
        self.next_counter().ok()?;
        Some(Handshake { target, pdu })
    }

    // ---- in -----------------------------------------------------------------

    /// Opens what was received; what follows the PDU is ignored. `None`: for another node, or of
    /// the handshake, which is dealt with here.
    ///
    /// # Errors
    /// Why it must be dropped. Each of the seal's own reasons is counted here.
    pub fn open_in_place<'a>(
        &mut self,
        now_ns: u64,
        bytes: &'a mut [u8],
    ) -> Result<Option<(PduHeader, &'a [u8])>, OpenError> {
        let result = self.open(now_ns, bytes);
        let c = &mut self.counters;
        match &result {
            Ok(Some(_)) => c.opened += 1,
            Ok(None) | Err(OpenError::Pdu(_) | OpenError::UnknownNode) => {}
            Err(OpenError::UnknownKey) => c.unknown_key += 1,
            Err(OpenError::UnknownSession) => c.unknown_session += 1,
            Err(OpenError::Replayed) => c.replayed += 1,
            Err(OpenError::Stale) => c.stale += 1,
            Err(OpenError::Forged) => c.forged += 1,
            Err(OpenError::Unasked) => c.proofs_unasked += 1,
        }
        result
    }

    fn open<'a>(
        &mut self,
        now_ns: u64,
        bytes: &'a mut [u8],
    ) -> Result<Option<(PduHeader, &'a [u8])>, OpenError> {
        let pdu = PduHeader::decode(bytes, self.scope.cluster)?;
        let (header, sealing, _) = &pdu;
        let found = self.peers.iter().position(|p| p.id == header.node);
        let peer = found.ok_or(OpenError::UnknownNode)?;
        if header.target != TARGET_ALL && header.target != self.me {
            return Ok(None);
        }
        let key = self.keys.iter().position(|k| k.cluster.id() == sealing.key);
        let key = key.ok_or(OpenError::UnknownKey)?;
        if matches!(header.kind, PduKind::Challenge | PduKind::Proof) {
            self.on_handshake(now_ns, peer, key, &pdu, bytes)?;
            return Ok(None);
        }
        let peer = &mut self.peers[peer];
        let accepted = peer.accepted.as_mut().filter(|a| a.session == sealing.session);
        let Some(accepted) = accepted else {
            peer.wants_challenge = true;
            self.is_pending = true;
            return Err(OpenError::UnknownSession);
        };
        accepted.window.check(sealing.counter)?;
        let body = accepted.keys[key].open(&pdu, bytes).map_err(|_| OpenError::Forged)?;
        accepted.window.mark(sealing.counter);
        peer.key_seen = Some(sealing.key);
        Ok(Some((*header, body)))
    }

    fn on_handshake(
        &mut self,
        now_ns: u64,
        peer: usize,
        key: usize,
        (header, sealing, body_len): &(PduHeader, Sealing, usize),
        bytes: &[u8],
    ) -> Result<(), OpenError> {
        if *body_len + PDU_OVERHEAD_LEN != HANDSHAKE_LEN || header.target != self.me {
            return Err(PduError::Malformed.into());
        }
        let peer = &mut self.peers[peer];
        let accepted = peer.accepted.as_mut().filter(|a| a.session == sealing.session);
        if let Some(accepted) = &accepted {
            accepted.window.check(sealing.counter)?;
        }
        let (said, mac) = bytes[..HANDSHAKE_LEN].split_at(HANDSHAKE_LEN - MAC_LEN);
        hmac::verify(&self.keys[key].handshake, said, mac).map_err(|_| OpenError::Forged)?;
        let mut challenge = [0; CHALLENGE_LEN];
        challenge.copy_from_slice(&said[PDU_HEADER_LEN..]);
        let is_known = accepted.is_some();
        if let Some(accepted) = accepted {
            accepted.window.mark(sealing.counter);
        }
        if header.kind == PduKind::Challenge {
            self.counters.challenges_received += 1;
            peer.asked = Some(challenge);
            peer.wants_challenge |= !is_known;
            self.is_pending = true;
            return Ok(());
        }
        let open = peer.open_challenge.filter(|(_, since)| now_ns < since + CHALLENGE_LIFE_NS);
        if open.is_none_or(|(open, _)| open != challenge) {
            return Err(OpenError::Unasked);
        }
        // Each challenge counts once.
        peer.open_challenge = None;
        peer.wants_challenge = false;
        if !is_known {
            self.counters.sessions += 1;
            peer.accepted = Some(Accepted {
                session: sealing.session,
                window: Window::after(sealing.counter),
                keys: session_keys(&self.keys, &self.scope, peer.id, sealing.session),
            });
        }
        peer.key_seen = Some(sealing.key);
        Ok(())
    }
}

fn is_due(last_ns: Option<u64>, interval_ns: u64, now_ns: u64) -> bool {
    last_ns.is_none_or(|last| now_ns >= last + interval_ns)
}

fn keys(keyring: &Keyring, scope: &Scope) -> ArrayVec<Key, KEYS_MAX> {
    let key = |k: &ClusterKey| Key { cluster: k.clone(), handshake: k.handshake(scope) };
    keyring.keys().iter().map(key).collect()
}

fn session_keys(
    keys: &[Key],
    scope: &Scope,
    node: NodeId,
    session: u64,
) -> ArrayVec<SessionKey, KEYS_MAX> {
    keys.iter().map(|k| SessionKey::derive(&k.cluster, scope, node, session)).collect()
}

fn first_u64(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}
