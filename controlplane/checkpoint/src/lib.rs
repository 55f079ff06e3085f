//! Checkpoints of the application: taking them from the running process, keeping the last
//! generations of them, giving them to other nodes, and restoring one.
//!
//! A checkpoint is what the application was at a barrier of the capture log, with its connections, and
//! the contents of the service's state directories. There are two ways of taking one ([`Method`]): CRIU
//! saves the processes as they are; or the operator's commands save and bring back what the application
//! knows, and its connections come as socket images. What was on its way between kernel and application
//! (handshakes not accepted) is named, so that the log can bring it again. Nothing here knows of clusters or of the data path: it is told where the barrier is.
//! Every call is synchronous and takes milliseconds to seconds: for a helper thread.
#![forbid(unsafe_code)]

mod criu;
mod error;
mod hooks;
mod manifest;
mod method;
mod pending;
mod pins;
mod state;
mod store;
pub mod transfer;

pub use criu::{Criu, Dumped};
pub use error::{Error, Result};
pub use hooks::{Hooks, SNAPSHOT_DIR};
pub use manifest::{Clock, FileEntry, Manifest, Mark, MethodKind, Pending, Reign};
pub use method::{Method, Restored, Running, Site};
pub use pins::Pin;
pub use store::{Draft, Generation, Store};
