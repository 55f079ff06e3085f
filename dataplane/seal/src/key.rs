//! Cluster keys, and what is derived from them.

use std::fmt;

use arrayvec::ArrayVec;
use ring::{hkdf, hmac};
use understudy_wire::NodeId;

/// Bytes of a cluster key.
pub const SECRET_LEN: usize = 32;
/// Cluster keys accepted at the same time.
pub const KEYS_MAX: usize = 4;

/// Which of the paths between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Path {
    /// The replica port.
    Replica = 1,
    /// The second path.
    Second = 2,
}

/// Where keys count: a PDU of another cluster or path does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The group.
    pub cluster: u64,
    /// The path.
    pub path: Path,
}

/// A secret that all members of the group hold.
#[derive(Clone)]
pub struct ClusterKey {
    id: u16,
    secret: [u8; SECRET_LEN],
}

impl fmt::Debug for ClusterKey {
    /// The id only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey({:04x})", self.id)
    }
}

impl ClusterKey {
    /// A key of random bytes.
    pub fn new(secret: [u8; SECRET_LEN]) -> ClusterKey {
        let derived = derive(&secret, &[b"understudy key id"]);
        ClusterKey { id: u16::from_le_bytes([derived[0], derived[1]]), secret }
    }

    /// Its number in PDUs, derived from it.
    pub fn id(&self) -> u16 {
        self.id
    }

    pub(crate) fn secret(&self) -> &[u8; SECRET_LEN] {
        &self.secret
    }

    pub(crate) fn session(&self, scope: &Scope, node: NodeId, session: u64) -> [u8; SECRET_LEN] {
        let (cluster, path) = (scope.cluster.to_le_bytes(), [scope.path as u8]);
        let (node, session) = (node.to_le_bytes(), session.to_le_bytes());
        derive(&self.secret, &[b"understudy session", &cluster, &path, &node, &session])
    }

    pub(crate) fn handshake(&self, scope: &Scope) -> hmac::Key {
        let (cluster, path) = (scope.cluster.to_le_bytes(), [scope.path as u8]);
        let key = derive(&self.secret, &[b"understudy handshake", &cluster, &path]);
        hmac::Key::new(hmac::HMAC_SHA256, &key)
    }
}

/// HKDF-SHA256. The parts are a label and fields of fixed length: no two lists read the same.
pub(crate) fn derive(secret: &[u8], info: &[&[u8]]) -> [u8; SECRET_LEN] {
    let mut out = [0; SECRET_LEN];
    hkdf::Salt::new(hkdf::HKDF_SHA256, b"understudy pdu v2")
        .extract(secret)
        .expand(info, hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut out))
        .expect("HKDF gives up to 255 times 32 bytes");
    out
}

/// Why keys do not make a keyring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// There is none.
    #[error("there is no key")]
    Empty,
    /// More than [`KEYS_MAX`].
    #[error("there are more than {KEYS_MAX} keys")]
    Full,
    /// Two keys have one id, or are the same.
    #[error("two keys have the id {0:04x}; one of them must be another key")]
    SameId(u16),
}

/// The keys that are accepted; the first one seals.
#[derive(Clone, Debug)]
pub struct Keyring(ArrayVec<ClusterKey, KEYS_MAX>);

impl Keyring {
    /// Of 1 to [`KEYS_MAX`] keys.
    ///
    /// # Errors
    /// If there are too few or too many, or two with the same id.
    pub fn new(keys: impl IntoIterator<Item = ClusterKey>) -> Result<Keyring, KeyringError> {
        let mut out: ArrayVec<ClusterKey, KEYS_MAX> = ArrayVec::new();
        for key in keys {
            if out.iter().any(|k| k.id == key.id) {
                return Err(KeyringError::SameId(key.id));
            }
            out.try_push(key).map_err(|_| KeyringError::Full)?;
        }
        if out.is_empty() { Err(KeyringError::Empty) } else { Ok(Keyring(out)) }
    }

    /// Of one key.
    pub fn single(key: ClusterKey) -> Keyring {
        Keyring(ArrayVec::from_iter([key]))
    }

    /// The key that seals.
    pub fn sealing(&self) -> &ClusterKey {
        &self.0[0]
    }

    /// All of them, the one that seals first.
    pub fn keys(&self) -> &[ClusterKey] {
        &self.0
    }
}
