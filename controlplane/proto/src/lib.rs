//! The control plane without IO: detection, election, following, leading, handing over.
//!
//! [`Node`] is a state machine in the manner of quinn-proto. Time (monotonic nanoseconds) and a seed are arguments.
//! The driver calls one `handle_*`, then drains [`Node::poll_output`], then sleeps until [`Node::poll_timeout`] or
//! the next input. Nothing that depends on persisted state or on a promise of the dataplane is sent before either
//! is confirmed.
#![forbid(unsafe_code)]

pub mod arbiter;
mod config;
mod io;
mod join;
mod node;
mod peers;
mod persisted;
mod rng;
pub mod supervise;
mod timer;
mod view;

pub use config::{Config, ConfigError};
pub use io::{
    DpCommand, Held, LocalFact, LogState, Output, Path, Paths, ServiceCommand, TimelineEvent,
    TimelineKind, To,
};
pub use node::Node;
pub use persisted::Persisted;
pub use timer::Timer;
pub use view::{ArbiterView, NeedsCheckpoint, PeerView, PrimaryLog, View};
