//! Connections of an application that was restored as a whole.

use super::{
    hold::{Held, hold},
    process::{pidfd_open, socket_of, sockets_of},
};
use crate::{Error, Result};
use std::{collections::BTreeSet, os::fd::AsFd, time::Duration};
use understudy_image::{SocketImage, Unsavable};

/// Reads every connection of processes that stand still, restored from what they were at least
/// `elapsed` ago, and sets its TSval clock ahead by as much, so that it does not go backwards.
/// Listeners and sockets that are not connected TCP sockets are passed over.
///
/// # Errors
/// A connection that cannot be read, or the kernel's refusals.
pub fn renew(processes: &[i32], elapsed: Duration) -> Result<Vec<SocketImage>> {
    let (mut seen, mut images) = (BTreeSet::new(), Vec::new());
    for &pid in processes {
        let pidfd = pidfd_open(pid)?;
        for socket in sockets_of(pid)? {
            // Processes share sockets.
            if !seen.insert(socket.inode) {
                continue;
            }
            match hold(socket_of(pidfd.as_fd(), socket.fd)?) {
                Ok(held) => images.push(set_ahead(held, elapsed)?),
                Err(Error::Unsavable(
                    Unsavable::Listening { .. } | Unsavable::NotTcp(_) | Unsavable::Closed,
                )) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(images)
}

fn set_ahead(held: Held, elapsed: Duration) -> Result<SocketImage> {
    let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    if let Some(value) = held.image.timestamp_after(elapsed_us) {
        held.set_timestamp(value)?;
    }
    Ok(held.image)
}
