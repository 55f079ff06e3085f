//! What Understudy asks of the Linux kernel: network namespaces, synchronous rtnetlink, the
//! capsule in which the application runs and can be made to stand still, adoption of connections by
//! BPF, socket inspection, and socket images.
//!
//! The crate knows nothing of DPDK, and of the other crates only what a socket image is. Every call
//! here is synchronous and bounded; none belongs on a poll-mode core except
//! [`adopt::Adopter::prepare`], which is one system call.

pub mod adopt;
pub mod arrivals;
pub mod capsule;
mod error;
pub mod health;
pub mod hook;
pub mod image;
pub mod mounts;
pub mod netns;
mod nl;
pub mod orphan;
pub mod poll;
pub mod preflight;
mod ptrace;
pub mod restart;
pub mod rtnl;
pub mod slice;
pub mod socks;
pub mod space;
pub mod standstill;
pub mod wake;

pub use error::{Error, Result};
pub use poll::poll_fds;
