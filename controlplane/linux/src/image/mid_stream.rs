//! Connections taken up in the middle by an application that knows nothing of it: it accepts them
//! from its listener as any others.
//!
//! The kernel makes the socket from an acknowledgement of the peer's (see [`crate::adopt`]), which it
//! is told over the loopback device. What had been received and not read it is told likewise. What had
//! been written and not acknowledged is written into the accepted socket, as the application did that
//! is gone.

use super::{
    inject::{FIN_ACK, PSH_ACK},
    live::{places, processes},
    restore::segment,
    sock::{NODELAY, Sock, TCP},
};
use crate::{
    Error, Result,
    adopt::{AdoptAttrs, Adopter, Adoption, FlowKey},
    image::inject::ACK,
    netns::NetNs,
    nl,
    socks::{self, SockInfo},
};
use std::{
    collections::HashMap,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};
use understudy_image::{Fin, SocketImage, State};

/// Unread bytes of one connection at most: they must fit the first window of the new socket.
pub const UNREAD_BYTES_MAX: usize = 32 * 1024;
/// So many connections are offered to the listener at a time: what its queue does not hold is lost, and
/// offered again.
const BATCH: usize = 256;
const LOOK: Duration = Duration::from_millis(1);
/// A send buffer holds this much whatever the limits of the machine.
const SEND_BYTES_MIN: usize = 16 * 1024;

/// Brings connections to the application that is the process `root` and its descendants, which listens
/// in `ns`, as their images have them, `elapsed` ago. The application must not speak first on a connection
/// that it accepts. What it cannot know, it is not told: options that it had set on some connections only.
///
/// # Errors
/// An image whose service side has been closed, or what the application did not take in time.
pub fn adopt_mid_stream(
    ns: &NetNs,
    root: i32,
    images: &[SocketImage],
    elapsed: Duration,
    limit: Duration,
) -> Result<()> {
    if images.is_empty() {
        return Ok(());
    }
    let begun = Instant::now();
    let program = Adoption::load(ns, "lo", u32::try_from(images.len()).unwrap_or(u32::MAX))?;
    let adoption =
        Bringing { ns, root, adopter: program.handle(), taken: begun - elapsed, begun, limit };
    adoption.offer_all(images)?;
    let accepted = adoption.accepted(images)?;
    for (image, sock) in images.iter().zip(&accepted) {
        adoption.hear(image, sock)?;
        speak(image, sock)?;
    }
    Ok(())
}

struct Bringing<'a> {
    ns: &'a NetNs,
    root: i32,
    adopter: Adopter,
    /// When the images were.
    taken: Instant,
    begun: Instant,
    limit: Duration,
}

/// Both ends, as `sock_diag` shows them.
fn ends(image: &SocketImage) -> (SocketAddr, SocketAddr) {
    let plain = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    (plain(image.local), plain(image.remote))
}

impl Bringing<'_> {
    fn sockets(&self, images: usize) -> Result<HashMap<(SocketAddr, SocketAddr), SockInfo>> {
        const OTHERS_MAX: usize = 10_000;
        let found = socks::tcp_sockets(self.ns, images + OTHERS_MAX)?;
        Ok(found.into_iter().map(|s| ((s.local, s.remote), s)).collect())
    }

    /// A look later. Too late is an error, about this client.
    fn wait(&self, remote: SocketAddr, reason: &'static str) -> Result<()> {
        if self.begun.elapsed() > self.limit {
            let waited_ms = self.limit.as_millis();
            return Err(Error::NotTakenUp { remote, reason, waited_ms });
        }
        thread::sleep(LOOK);
        Ok(())
    }

    /// Until the kernel has them all.
    fn offer_all(&self, images: &[SocketImage]) -> Result<()> {
        let mut missing: Vec<&SocketImage> = images.iter().collect();
        loop {
            let there = self.sockets(images.len())?;
            missing.retain(|image| !there.contains_key(&ends(image)));
            let Some(first) = missing.first() else { return Ok(()) };
            let batch = &missing[..missing.len().min(BATCH)];
            self.ns.run(|| batch.iter().try_for_each(|image| self.offer(image)))??;
            self.wait(first.remote, "its listener does not take it")?;
        }
    }

    fn offer(&self, image: &SocketImage) -> Result<()> {
        if image.fin != Fin::None {
            return Err(Error::NotRestored { wanted: image.state, kernel_state: 0 });
        }
        let elapsed_us = u64::try_from(self.taken.elapsed().as_micros()).unwrap_or(u64::MAX);
        // What the peer's clock shows is not known; the kernel takes 0 for that (`tcp_paws_check`).
        let timestamps = image.timestamp_after(elapsed_us).map(|own| (0, own));
        let (local, remote) = ends(image);
        let first = (image.copied_seq(), image.snd_una);
        let attrs = AdoptAttrs {
            mss: image.agreed.mss,
            snd_wscale: image.agreed.scales.map(|(send, _)| send),
            rcv_wscale: image.agreed.scales.map_or(0, |(_, receive)| receive),
            sack: image.agreed.sack,
            ecn: false,
            timestamps,
            first: Some(first),
        };
        self.adopter.prepare(&FlowKey { client: remote, server: local }, &attrs)?;
        let mut ack = segment(image, ACK, first.0, first.1);
        ack.timestamps = timestamps;
        ack.send()
    }

    /// The sockets, each in the application's hands.
    fn accepted(&self, images: &[SocketImage]) -> Result<Vec<Sock>> {
        let mut found: Vec<Option<Sock>> = images.iter().map(|_| None).collect();
        loop {
            let there = self.sockets(images.len())?;
            let inode = |image| there.get(&ends(image)).map_or(0, |info| info.inode);
            let processes = processes(self.root);
            let places = places(&processes, images.iter().map(inode).filter(|&inode| inode != 0));
            for (image, slot) in images.iter().zip(&mut found) {
                if !there.contains_key(&ends(image)) {
                    let reason = "it has closed the connection";
                    return Err(Error::NotTakenUp { remote: image.remote, reason, waited_ms: 0 });
                }
                let inode = inode(image);
                let socket = places.get(&inode).filter(|_| slot.is_none());
                if let Some(socket) = socket.and_then(|place| place.socket(inode)) {
                    *slot = Some(Sock(socket.into()));
                }
            }
            match found.iter().position(Option::is_none) {
                None => return Ok(found.into_iter().flatten().collect()),
                Some(at) => self.wait(images[at].remote, "it has not accepted the connection")?,
            }
        }
    }

    /// What the peer had sent and the application had not read, or had not been told: its FIN.
    fn hear(&self, image: &SocketImage, sock: &Sock) -> Result<()> {
        let closed = image.state.peer_has_closed();
        if image.unread.is_empty() && !closed {
            return Ok(());
        }
        let flags = if closed { PSH_ACK | FIN_ACK } else { PSH_ACK };
        let unread = &image.unread[..image.unread.len().min(UNREAD_BYTES_MAX)];
        loop {
            let info = sock.info()?;
            let received = nl::u64_at(&info, BYTES_RECEIVED_AT).unwrap_or(0);
            // The FIN takes the place of a byte, and may be counted as one.
            let whole = received >= unread.len() as u64;
            if whole && (!closed || info[0] == State::CloseWait.to_kernel()) {
                return Ok(());
            }
            let mut told = segment(image, flags, image.copied_seq(), image.snd_una);
            told.payload = unread;
            self.ns.run(|| told.send())??;
            self.wait(image.remote, "what it had not read does not arrive")?;
        }
    }
}

/// In `struct tcp_info`: bytes received in order.
const BYTES_RECEIVED_AT: usize = 128;

/// What the application that is gone had said and the peer may lack.
fn speak(image: &SocketImage, sock: &Sock) -> Result<()> {
    let len = image.in_flight.len() + image.pending.len();
    if len == 0 {
        return Ok(());
    }
    // Not one byte of it may be held back: the peer may have acknowledged it.
    let no_delay = sock.get("TCP_NODELAY", TCP, NODELAY)?;
    sock.set("TCP_NODELAY", TCP, NODELAY, 1)?;
    let widened = len > SEND_BYTES_MIN;
    if widened {
        sock.widen(len, image.options.rcv_buf.unsigned_abs() as usize)?;
    }
    sock.put("bytes in flight", &image.in_flight)?;
    sock.put("pending bytes", &image.pending)?;
    if widened {
        sock.set_buffers(&image.options)?;
    }
    sock.set("TCP_NODELAY", TCP, NODELAY, no_delay)
}
