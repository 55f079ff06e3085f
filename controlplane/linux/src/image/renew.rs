//! Connections of an application that is saved and restored as a whole.
//!
//! The program that does it reads each connection at a moment of its own, which nobody is told. So
//! the clocks of the timestamp option are read beside it, all of them as of one moment, and set
//! anew after the restore: every clone of an application shows the same clock.

use super::{
    hold::{Held, check_kind, hold, state_of, timestamps},
    process::{pidfd_open, socket_of, sockets_of},
    sock::Sock,
};
use crate::{Error, Result};
use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant, SystemTime},
};
use understudy_image::{SocketImage, Timestamps, Unsavable};

/// The clock of a connection's timestamp option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TsClock {
    /// This end.
    pub local: SocketAddr,
    /// The other one.
    pub remote: SocketAddr,
    /// What it showed.
    pub at: Timestamps,
}

/// The clocks of all connections of running processes, and the moment they are told for. A
/// connection that ends meanwhile is passed over.
///
/// # Errors
/// The kernel's refusals.
pub fn clocks(processes: &[i32]) -> Result<(SystemTime, Vec<TsClock>)> {
    let (moment, begun) = (SystemTime::now(), Instant::now());
    let mut all = Vec::new();
    each_socket(processes, |socket| {
        let sock = Sock(TcpStream::from(socket));
        if check_kind(&sock).and_then(|()| state_of(&sock)).is_err() {
            return Ok(());
        }
        let ends = sock.0.local_addr().ok().zip(sock.0.peer_addr().ok());
        let read = timestamps(&sock)?;
        let since_us = i64::try_from(begun.elapsed().as_micros()).unwrap_or(i64::MAX);
        all.extend(ends.zip(read).map(|((local, remote), clock)| TsClock {
            local,
            remote,
            at: clock.shifted(-since_us),
        }));
        Ok(())
    })?;
    Ok((moment, all))
}

/// Reads every connection of processes that stand still, restored from what they were `elapsed`
/// ago, and sets their clocks to what they must show by now. Listeners and sockets that are not
/// connected TCP sockets are passed over.
///
/// # Errors
/// A connection that cannot be read, or the kernel's refusals.
pub fn renew(processes: &[i32], elapsed: Duration, clocks: &[TsClock]) -> Result<Vec<SocketImage>> {
    let begun = Instant::now();
    let mut images = Vec::new();
    each_socket(processes, |socket| {
        match hold(socket) {
            Ok(held) => images.push(set_ahead(held, elapsed + begun.elapsed(), clocks)?),
            Err(Error::Unsavable(
                Unsavable::Listening { .. } | Unsavable::NotTcp(_) | Unsavable::Closed,
            )) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    })?;
    Ok(images)
}

/// Processes share sockets: each is visited once.
fn each_socket(processes: &[i32], mut visit: impl FnMut(OwnedFd) -> Result<()>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for &pid in processes {
        let pidfd = pidfd_open(pid)?;
        for socket in sockets_of(pid)? {
            if seen.insert(socket.inode) {
                visit(socket_of(pidfd.as_fd(), socket.fd)?)?;
            }
        }
    }
    Ok(())
}

fn set_ahead(held: Held, elapsed: Duration, clocks: &[TsClock]) -> Result<SocketImage> {
    let image = &held.image;
    let ends = (image.local, image.remote);
    let known = clocks.iter().find(|c| (c.local, c.remote) == ends).map(|c| c.at);
    let elapsed_us = i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX);
    let now = known.or(image.agreed.timestamps).map(|clock| clock.shifted(elapsed_us));
    if let Some(clock) = now {
        held.set_timestamp(clock.value)?;
    }
    let mut image = held.image;
    // What it showed before may be ahead of it, and whoever goes by that would make it go back.
    image.agreed.timestamps = now;
    Ok(image)
}
