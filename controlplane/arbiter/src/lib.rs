//! The register of a group of two, kept in etcd: the keeper that [`understudy_proto::arbiter`] describes.
//!
//! What belongs here: reading and conditionally writing one key over etcd's JSON gateway (API v3, etcd 3.4 and
//! newer), and the key's format. Blocking, for a thread of its own. What is decided is the protocol's business.
#![forbid(unsafe_code)]

mod etcd;
mod value;

pub use etcd::{Etcd, EtcdConfig, Tls};

/// Why a request was not answered by the arbiter.
#[derive(Debug, thiserror::Error)]
pub enum ArbiterError {
    /// No endpoint answered in time.
    #[error("{endpoint}: {reason}")]
    Endpoint {
        /// Which endpoint was asked last.
        endpoint: String,
        /// What went wrong.
        reason: String,
    },
    /// The key holds something else; it is left alone.
    #[error(
        "etcd key {key} does not hold a register of this version ({reason}); it is not overwritten"
    )]
    Value {
        /// The key.
        key: String,
        /// What is wrong with its value.
        reason: String,
    },
    /// Others wrote each time in between.
    #[error("etcd key {0} changed during each of several attempts")]
    Contended(String),
    /// TLS material that cannot be used.
    #[error("{file}: {reason}")]
    Tls {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
}
