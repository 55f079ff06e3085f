//! Seals and opens what nodes say to each other: AES-256-GCM under keys derived from the cluster's.
//!
//! One [`Channel`] for each path (replica port, second path) and each life of a process. It knows
//! no IO and no time: PDUs, moments and 32 random bytes at its start are arguments.
//!
//! **Keys.** A cluster key is never used itself. Each life of a sender on a path is a *session*, a
//! random number, with a key of its own:
//! `HKDF-SHA256(cluster key; cluster, path, sender, session)`. The whole PDU header is
//! authenticated, the body is encrypted as well.
//!
//! **Nonces.** The low 32 bits of the epoch, then the 64-bit counter of the session. The counter
//! alone makes them unique: it never starts again within a session, whatever key is in use.
//!
//! **Freshness.** A receiver takes PDUs of one session per sender, and of that session each counter
//! once (a window of [`WINDOW_COUNTERS`]). It changes to another session only when that one has
//! answered a challenge of its own: 16 bytes never used before. So a recording of an earlier life
//! is worth nothing, also towards a node that has just started and knows nobody. Challenge and
//! proof carry an HMAC-SHA256 under a key that the members of a path share, over challenger,
//! responder, session and counter. They need no session's key: nobody without the cluster key makes
//! a node derive one, and a node that is asked by many strangers is not kept from its friends.
//!
//! **What it does not do.** All members hold the same cluster key: each could speak for another.
#![forbid(unsafe_code)]

mod channel;
mod counters;
mod key;
pub mod keyfile;
mod session;
pub mod stream;
mod window;

pub use channel::{Channel, ChannelView, HANDSHAKE_LEN, Handshake, OpenError, PEERS_MAX, PeerView};
pub use counters::SealCounters;
pub use key::{ClusterKey, KEYS_MAX, Keyring, KeyringError, Path, SECRET_LEN, Scope};
pub use session::{SealError, SessionKey};
pub use window::WINDOW_COUNTERS;

use ring::rand::{SecureRandom, SystemRandom};

/// The operating system has no random bytes to give.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gives no random bytes")]
pub struct NoEntropy;

/// 32 random bytes of the operating system: for the edges, who pass them in.
///
/// # Errors
/// If the operating system has none.
pub fn entropy() -> Result<[u8; SECRET_LEN], NoEntropy> {
    let mut bytes = [0; SECRET_LEN];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoEntropy)?;
    Ok(bytes)
}
