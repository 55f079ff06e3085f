//! Socket images: reading the state of live TCP connections and putting it into new sockets, by
//! `TCP_REPAIR` (Linux 4.8 and later; CAP_NET_ADMIN in the socket's network namespace).
//!
//! [`socket_of`] takes a socket out of a running process, [`hold`] reads XX, and [`handover`] gives it to an application that takes connections so.

pub mod handover;
mod hold;
mod inject;
mod live;
mod mid_stream;
mod process;
mod renew;
mod restore;
mod sock;

pub use hold::{Held, hold, savable};
pub use live::{Frozen, LiveImage, read_at_once, read_live};
pub use mid_stream::{UNREAD_BYTES_MAX, adopt_mid_stream};
pub use process::{ProcessSocket, pidfd_open, socket_of, sockets_of};
pub use renew::{TsClock, clocks, renew};
pub use restore::restore;
