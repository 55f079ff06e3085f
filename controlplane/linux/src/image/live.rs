//! The connections of an application that serves meanwhile.
//!
//! A socket in repair mode answers EINVAL to its application's writes, so the application stands
//! still while its sockets are read: briefly, in as many turns as it takes.

use super::{
    hold::{Look, SEGMENT_BYTES_MAX, SEND_QUEUE_BYTES_MAX, hold_so, savable},
    process::{pidfd_open, socket_of, sockets_of},
};
use crate::{
    Error, Result,
    capsule::tree,
    netns::NetNs,
    socks::SockInfo,
    standstill::{Stood, stand_still},
};
use std::{
    collections::HashMap,
    fs::{self, File},
    ops::ControlFlow,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    thread,
    time::{Duration, Instant},
};
use understudy_image::SocketImage;

/// No socket is begun after the application has stood still for so long: reading one takes
/// microseconds, or a few hundred if much waits in it.
const TURN: Duration = Duration::from_millis(1);
/// Between turns the application serves for so many times as long as it stood, and at least so
/// long.
const SHARE: u32 = 4;
const BETWEEN_MIN: Duration = Duration::from_millis(2);
/// How long a checkpoint that is being taken is waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// Passes over what changed in the pass before: descriptors may, between look and read, and queues
/// while they are read, since frames still come.
const LOOKS: u32 = 3;

/// A connection's image, its lists cut to what the reader wanted to see. What a send queue of more
/// than 1 MiB holds is not read: the kernel shows it only as a whole, which takes long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveImage {
    /// The image, with the first bytes of each list.
    pub image: SocketImage,
    /// Bytes sent and not acknowledged.
    pub in_flight_bytes: usize,
    /// Bytes written and not sent.
    pub pending_bytes: usize,
    /// Bytes received and not read.
    pub unread_bytes: usize,
}

impl LiveImage {
    /// The next sequence number to send; it counts a FIN that was sent.
    pub fn snd_nxt(&self) -> u32 {
        self.image.snd_nxt().wrapping_add(cut(self.in_flight_bytes, &self.image.in_flight))
    }

    /// One beyond the last byte written; it counts a FIN.
    pub fn write_seq(&self) -> u32 {
        let cut = cut(self.in_flight_bytes, &self.image.in_flight)
            .wrapping_add(cut(self.pending_bytes, &self.image.pending));
        self.image.write_seq().wrapping_add(cut)
    }

    /// Sequence number of the first unread byte.
    pub fn copied_seq(&self) -> u32 {
        self.image.copied_seq().wrapping_sub(cut(self.unread_bytes, &self.image.unread))
    }
}

/// How many bytes of a list are not there.
fn cut(bytes: usize, list: &[u8]) -> u32 {
    (bytes - list.len()) as u32
}

/// How long the application stood still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frozen {
    /// How often.
    pub turns: u32,
    /// In all.
    pub total: Duration,
    /// At once, at most.
    pub longest: Duration,
}

impl Frozen {
    fn add<T>(&mut self, stood: &Stood<T>) {
        self.turns += stood.attempts;
        self.total += stood.frozen_total;
        self.longest = self.longest.max(stood.frozen);
    }
}

/// A socket's descriptor in one of the processes.
pub(super) struct Place<'a> {
    pidfd: &'a OwnedFd,
    fd: i32,
}

/// Reads the wanted connections of the application that is the process `root` and its descendants,
/// in the namespace `ns`, with the first `keep` bytes of each list. `take` is given each one's place
/// in `wanted`, and its image or why there is none, while the application serves; once it answers
/// false, no further one is read.
///
/// # Errors
/// If the application cannot be made to stand still, or has ended.
pub fn read_live(
    ns: &NetNs,
    root: i32,
    wanted: &[SockInfo],
    keep: usize,
    mut take: impl FnMut(usize, Result<LiveImage>) -> bool,
) -> Result<Frozen> {
    let mut frozen = Frozen::default();
    let mut left = Vec::new();
    for (at, info) in wanted.iter().enumerate() {
        match savable(info).map_err(Error::from) {
            Ok(_) => left.push(at),
            Err(reason) => {
                if !take(at, Err(reason)) {
                    return Ok(frozen);
                }
            }
        }
    }
    let mut moved = Vec::new();
    // Written now: memory that is touched for the first time while all stand still costs more.
    let mut room = vec![1; SEND_QUEUE_BYTES_MAX + SEGMENT_BYTES_MAX];
    for _ in 0..LOOKS {
        if left.is_empty() {
            break;
        }
        let pidfds = processes(root);
        let places = places(&pidfds, left.iter().map(|&at| wanted[at].inode));
        let room = &mut room;
        let mut pass = Pass { ns, root, wanted, places, keep, room, left, moved: Vec::new() };
        if pass.run(&mut frozen, &mut take)?.is_break() {
            return Ok(frozen);
        }
        moved = pass.moved;
        left = moved.iter().map(|(at, _)| *at).collect();
    }
    for (at, why) in moved {
        if !take(at, Err(why)) {
            break;
        }
    }
    Ok(frozen)
}

/// Reads all of the wanted connections as of one moment, with the first `keep` bytes of each list: the
/// application stands still until the last of them is read, some tens of microseconds each.
///
/// # Errors
/// If one of them cannot be read or has ended, or the application cannot be made to stand still.
pub fn read_at_once(
    ns: &NetNs,
    root: i32,
    wanted: &[SockInfo],
    keep: usize,
) -> Result<(Vec<LiveImage>, Frozen)> {
    let pidfds = processes(root);
    let places = places(&pidfds, wanted.iter().map(|info| info.inode));
    let mut room = vec![1; SEND_QUEUE_BYTES_MAX + SEGMENT_BYTES_MAX];
    let read_one = |info: &SockInfo, room: &mut Vec<u8>| {
        let socket = places.get(&info.inode).and_then(|place| place.socket(info.inode));
        read(socket.ok_or(Error::NoDescriptor { remote: info.remote })?, keep, room)
    };
    let stood = stand_still(root, PATIENCE, || {
        if !is_in(root, ns)? {
            return Err(Error::ApplicationGone { pid: root });
        }
        wanted.iter().map(|info| read_one(info, &mut room)).collect::<Result<Vec<_>>>()
    })?;
    let mut frozen = Frozen::default();
    frozen.add(&stood);
    Ok((stood.value?, frozen))
}

/// All that is left, in turns.
struct Pass<'a> {
    ns: &'a NetNs,
    root: i32,
    wanted: &'a [SockInfo],
    places: HashMap<u32, Place<'a>>,
    keep: usize,
    room: &'a mut Vec<u8>,
    left: Vec<usize>,
    /// What changed under the look at it, and how.
    moved: Vec<(usize, Error)>,
}

impl Pass<'_> {
    fn run(
        &mut self,
        frozen: &mut Frozen,
        take: &mut impl FnMut(usize, Result<LiveImage>) -> bool,
    ) -> Result<ControlFlow<()>> {
        // From the back, in order.
        self.left.reverse();
        while !self.left.is_empty() {
            let root = self.root;
            let stood = stand_still(root, PATIENCE, || self.turn())?;
            frozen.add(&stood);
            for (at, read) in stood.value? {
                if !take(at, read) {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if !self.left.is_empty() {
                thread::sleep((stood.frozen * SHARE).max(BETWEEN_MIN));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// While the application stands still.
    fn turn(&mut self) -> Result<Vec<(usize, Result<LiveImage>)>> {
        let begun = Instant::now();
        if !is_in(self.root, self.ns)? {
            return Err(Error::ApplicationGone { pid: self.root });
        }
        let mut images = Vec::new();
        while begun.elapsed() < TURN {
            let Some(at) = self.left.pop() else { break };
            let SockInfo { inode, remote, .. } = self.wanted[at];
            let socket = self.places.get(&inode).and_then(|place| place.socket(inode));
            let read = match socket {
                Some(socket) => read(socket, self.keep, self.room),
                None => Err(Error::NoDescriptor { remote }),
            };
            match read {
                Err(why @ (Error::NoDescriptor { .. } | Error::Moving { .. })) => {
                    self.moved.push((at, why));
                }
                read => images.push((at, read)),
            }
        }
        Ok(images)
    }
}

fn read(socket: OwnedFd, keep: usize, room: &mut Vec<u8>) -> Result<LiveImage> {
    let (held, lengths) = hold_so(socket, Look { keep, room, lives_on: true })?;
    Ok(LiveImage {
        image: held.image,
        in_flight_bytes: lengths.in_flight,
        pending_bytes: lengths.pending,
        unread_bytes: lengths.unread,
    })
}

/// Whether it is that process still, and not another one that was given its number.
fn is_in(pid: i32, ns: &NetNs) -> Result<bool> {
    let Ok(seen) = fs::metadata(format!("/proc/{pid}/ns/net")) else { return Ok(false) };
    Ok((seen.dev(), seen.ino()) == ns.id()?)
}

impl Place<'_> {
    /// The socket, if it is the one meant.
    pub(super) fn socket(&self, inode: u32) -> Option<OwnedFd> {
        let file = File::from(socket_of(self.pidfd.as_fd(), self.fd).ok()?);
        let same = file.metadata().is_ok_and(|meta| meta.ino() == u64::from(inode));
        same.then(|| file.into())
    }
}

pub(super) fn processes(root: i32) -> Vec<(i32, OwnedFd)> {
    tree(root).into_iter().filter_map(|pid| Some((pid, pidfd_open(pid).ok()?))).collect()
}

/// Where the sockets are, while the application runs: that takes longer than reading them.
pub(super) fn places<'a>(
    pidfds: &'a [(i32, OwnedFd)],
    inodes: impl Iterator<Item = u32>,
) -> HashMap<u32, Place<'a>> {
    let mut places: HashMap<u32, Option<Place<'a>>> = inodes.map(|inode| (inode, None)).collect();
    for (pid, pidfd) in pidfds {
        // One that has just ended has no sockets.
        for socket in sockets_of(*pid).unwrap_or_default() {
            let place = u32::try_from(socket.inode).ok().and_then(|inode| places.get_mut(&inode));
            if let Some(place) = place {
                *place = Some(Place { pidfd, fd: socket.fd });
            }
        }
    }
    places.into_iter().filter_map(|(inode, place)| Some((inode, place?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_image::{Agreed, Fin, Options, State, Timing, Window};

    #[test]
    fn sequence_numbers_count_what_was_cut() {
        let image = SocketImage {
            local: "10.0.0.1:80".parse().unwrap(),
            remote: "10.0.0.2:4000".parse().unwrap(),
            state: State::LastAck,
            fin: Fin::Unsent,
            read_shut: false,
            snd_una: u32::MAX - 2,
            rcv_nxt: 3,
            window: Window::default(),
            agreed: Agreed { mss: 1460, scales: None, sack: true, timestamps: None },
            timing: Timing::default(),
            options: Options::default(),
            in_flight: vec![1; 100],
            pending: vec![2; 50],
            unread: vec![3; 7],
        };
        let whole = LiveImage {
            in_flight_bytes: 100,
            pending_bytes: 50,
            unread_bytes: 7,
            image: image.clone(),
        };
        let seqs = |i: &LiveImage| (i.snd_nxt(), i.write_seq(), i.copied_seq());
        assert_eq!(seqs(&whole), (image.snd_nxt(), image.write_seq(), image.copied_seq()));
        let mut short = whole.clone();
        for list in [&mut short.image.in_flight, &mut short.image.pending, &mut short.image.unread]
        {
            list.truncate(5);
        }
        assert_eq!(seqs(&short), seqs(&whole));
    }
}
