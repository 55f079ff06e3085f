//! The crate's one error type: each text says what to do.

use std::{io, path::PathBuf};

/// What went wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no CRIU.
    #[error(
        "there is no criu in {searched}: applications cannot be checkpointed here; install CRIU \
         {min} or later (dpdk-build/criu.sh)"
    )]
    NoCriu {
        /// Where it was looked for.
        searched: String,
        /// The oldest version that works.
        min: &'static str,
    },
    /// A CRIU that is too old, or says nothing that could be understood.
    #[error("{} says \"{said}\": CRIU {min} or later is needed (dpdk-build/criu.sh)", path.display())]
    BadCriu {
        /// Which program.
        path: PathBuf,
        /// What it said of its version.
        said: String,
        /// The oldest version that works.
        min: &'static str,
    },
    /// CRIU gave up.
    #[error("criu cannot {what}: {reason} (all of it: {})", log.display())]
    Criu {
        /// `dump` or `restore`.
        what: &'static str,
        /// The errors in its log, or how it ended.
        reason: String,
        /// Where its log is.
        log: PathBuf,
    },
    /// Another moment may do: nothing was saved.
    #[error("{0}")]
    NotNow(String),
    /// A command of the operator's failed.
    #[error("{command} failed: {reason} (all that it said: {})", log.display())]
    Hook {
        /// Its key in the configuration.
        command: &'static str,
        /// The last that it said, or how it ended.
        reason: String,
        /// Where the rest is.
        log: PathBuf,
    },
    /// The fresh application did not get ready for its connections.
    #[error("{0}")]
    NotReady(String),
    /// A checkpoint that was taken in another way than this node's.
    #[error(
        "the checkpoint was taken by \"{theirs}\" and this node restores by \"{ours}\": give \
         checkpoint.method the same value on every node"
    )]
    OtherMethod {
        /// Its method.
        theirs: crate::MethodKind,
        /// This node's.
        ours: crate::MethodKind,
    },
    /// A file or directory.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was attempted, as a verb phrase.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A generation is not what was written.
    #[error("checkpoint {generation} is damaged: {what}")]
    Damaged {
        /// Its number, or where it is.
        generation: String,
        /// What is wrong.
        what: String,
    },
    /// Nothing that could be used.
    #[error("no sound checkpoint in {}", .0.display())]
    None(PathBuf),
    /// Another node's, or the connection to it.
    #[error("no checkpoint from another node: {0}")]
    Transfer(String),
    /// The address where others ask.
    #[error(
        "cannot listen on {address} for nodes that need a checkpoint: {source}; give this machine \
         that address or correct nodes.address"
    )]
    Listen {
        /// TCP, the same as the second path's.
        address: std::net::SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel.
    #[error(transparent)]
    Linux(#[from] understudy_linux::Error),
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

pub(crate) fn file<'a>(
    what: &'static str,
    path: &'a std::path::Path,
) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::File { what, path: path.into(), source }
}
