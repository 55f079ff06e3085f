//! The crate's one error type: each text is a sentence that says what to do.

use std::{io, path::PathBuf};

/// What went wrong, and what the operator can do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("cannot {what}: {source}; {advice}")]
    Os {
        /// What was attempted, as a verb phrase.
        what: String,
        /// What to do about it.
        advice: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused a netlink request.
    #[error("the kernel refused to {what}: {source}{detail}; {advice}")]
    Netlink {
        /// What was attempted, as a verb phrase.
        what: String,
        /// The kernel's extended message, in brackets, or empty.
        detail: String,
        /// What to do about it.
        advice: String,
        /// The kernel's error number.
        source: io::Error,
    },
    /// The name cannot be that of a network interface.
    #[error(
        "\"{0}\" cannot name a network interface: use 1 to 15 characters without '/', ':' or blanks"
    )]
    BadIfName(String),
    /// There is no such network interface.
    #[error("there is no network interface \"{0}\" here: check the name with `ip link`")]
    NoSuchLink(String),
    /// A link of that name exists and is not a leftover of ours.
    #[error(
        "network interface \"{name}\" already exists and is of kind {kind}, not veth: choose \
         another name for the host port or remove that interface"
    )]
    LinkInTheWay {
        /// The interface's name.
        name: String,
        /// Its kind as the kernel reports it.
        kind: String,
    },
    /// The application's command line is empty.
    #[error("the application's command is empty: give the program and its arguments")]
    EmptyCommand,
    /// The application's program does not exist.
    #[error(
        "cannot find the application's command \"{command}\"{searched}: install it or give its full path"
    )]
    CommandNotFound {
        /// The first word of the command line.
        command: String,
        /// Where it was looked for, or empty for an explicit path.
        searched: String,
    },
    /// The application's program exists but cannot be executed.
    #[error(
        "the application's command \"{path}\" cannot be executed: {reason}; make it an executable \
         file (chmod +x) for the daemon's user"
    )]
    NotExecutable {
        /// The resolved path.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A string holds a NUL byte.
    #[error("{what} contains a NUL byte: remove it")]
    Nul {
        /// Which string.
        what: String,
    },
    /// The kernel cannot adopt connections.
    #[error(
        "this kernel cannot adopt TCP connections: {0}; use Linux 6.9 or later built with CONFIG_DEBUG_INFO_BTF, CONFIG_SYN_COOKIES and CONFIG_NET_XGRESS, or configure warm clones from checkpoints"
    )]
    NoAdoption(String),
    /// The BPF program could not be loaded or used.
    #[error("cannot {what}: {reason}; {advice}")]
    Bpf {
        /// What was attempted, as a verb phrase.
        what: String,
        /// libbpf's or the kernel's answer.
        reason: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// The table of prepared flows is full.
    #[error(
        "the table of flows waiting for adoption is full ({max_flows} entries): raise the \
         configured number of flows or forget flows that never completed"
    )]
    FlowTableFull {
        /// The bound given when the program was loaded.
        max_flows: u32,
    },
    /// Client and server addresses of a flow are of different families.
    #[error(
        "a flow cannot join {client} and {server}: give both addresses of the same family, IPv4 or IPv6"
    )]
    MixedFamilies {
        /// The client's end.
        client: std::net::SocketAddr,
        /// The server's end.
        server: std::net::SocketAddr,
    },
    /// Handshake attributes that no TCP handshake can have agreed on.
    #[error("a flow's {what} is out of range: take the values from the recorded SYN and SYN-ACK")]
    BadAttrs {
        /// Which attribute.
        what: &'static str,
    },
    /// No image can be made of a socket.
    #[error(transparent)]
    Unsavable(#[from] understudy_image::Unsavable),
    /// An image that cannot be used.
    #[error(transparent)]
    Image(#[from] understudy_image::Error),
    /// A connection changed while it was read.
    #[error(
        "the connection {local} to {remote} changed while it was read: stop the application and \
         what reaches it first, or a segment with urgent data has come"
    )]
    Moving {
        /// Our end.
        local: std::net::SocketAddr,
        /// The peer's end.
        remote: std::net::SocketAddr,
    },
    /// More bytes wait in a socket than an image takes.
    #[error("a socket holds {bytes} bytes and an image takes {bytes_max}: let the peer read them")]
    QueueTooLong {
        /// Bytes in its longest queue.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The kernel did not come to the state of the image.
    #[error(
        "a connection in {wanted:?} could not be restored: the kernel has it in state \
         {kernel_state}; check that lo is up and not filtered"
    )]
    NotRestored {
        /// The image's state.
        wanted: understudy_image::State,
        /// The kernel's number of the state reached.
        kernel_state: u8,
    },
    /// The application did not take a connection.
    #[error("the application did not take the connection of {remote}: {reason}; see its log")]
    HandoverRefused {
        /// The client.
        remote: std::net::SocketAddr,
        /// Its reason.
        reason: String,
    },
    /// A connection of an image was not taken up.
    #[error(
        "the connection of {remote} was not taken up by the application within {waited_ms} ms: \
         {reason}; see its log"
    )]
    NotTakenUp {
        /// The client.
        remote: std::net::SocketAddr,
        /// How far it came.
        reason: &'static str,
        /// How long it was waited for.
        waited_ms: u128,
    },
    /// A command of the operator's did not end in time.
    #[error("{command} has not ended within {limit_ms} ms and was killed")]
    HookTimeout {
        /// Its program.
        command: String,
        /// How long it was given.
        limit_ms: u128,
    },
    /// Another tracer has the application.
    #[error(
        "thread {tid} of the application is traced by {tracer}, so it cannot be made to stand \
         still: ask again when that has ended"
    )]
    Traced {
        /// The thread.
        tid: i32,
        /// Number and name of the other tracer.
        tracer: String,
    },
    /// A checkpoint is being taken, or another standstill is under way.
    #[error(
        "the application is held by a checkpoint or another reader for more than {waited_ms} ms: \
         ask again"
    )]
    TracerBusy {
        /// How long it was waited for.
        waited_ms: u128,
    },
    /// A thread of the application did not stop in time; all were released.
    #[error(
        "the application was not made to stand still: its thread {tid} (state {state}) did not \
         stop within 40 ms, at the last of several attempts; it goes on, ask again when the machine \
         is less busy"
    )]
    DoesNotStop {
        /// The thread.
        tid: i32,
        /// Its state, as ps(1) shows it.
        state: char,
    },
    /// A socket that was listed has no descriptor.
    #[error(
        "the connection of {remote} has no descriptor in a process of the application: it was \
         closed just now, or is on its way between processes"
    )]
    NoDescriptor {
        /// The client.
        remote: std::net::SocketAddr,
    },
    /// The application has ended.
    #[error("the application (process {pid}) has ended: see its log")]
    ApplicationGone {
        /// Its process id.
        pid: i32,
    },
    /// The process lacks capabilities.
    #[error(
        "understudyd lacks {missing}: run it as root, or grant the capability with systemd's \
         AmbientCapabilities="
    )]
    MissingCapabilities {
        /// The missing capabilities' names.
        missing: String,
    },
}

/// Result with the crate's error.
pub type Result<T> = std::result::Result<T, Error>;

/// Advice for calls that fail for want of privilege.
pub(crate) const BE_ROOT: &str = "run understudyd as root or with CAP_NET_ADMIN and CAP_SYS_ADMIN";

impl Error {
    pub(crate) fn os(
        what: impl Into<String>,
        advice: impl Into<String>,
        source: io::Error,
    ) -> Self {
        Error::Os { what: what.into(), advice: advice.into(), source }
    }

    pub(crate) fn last_os(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::os(what, advice, io::Error::last_os_error())
    }

    /// The kernel's error number, where there is one.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Error::Os { source, .. } | Error::Netlink { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
