//! The operator's commands: one saves what the application knows, the other puts that in place before
//! a fresh application starts. Its connections are saved as socket images, and come back to the fresh
//! application by way of its listener ([`understudy_linux::image::adopt_mid_stream`]).
//!
//! Only what an application has done can be saved so, not what it is doing. So it is saved when it sleeps
//! and all that it was given has been read, or is not wanted by it; the command has the last word, since
//! it alone can know whether a request is half read ([`NOT_NOW`]). What moved on a connection while the
//! command ran makes the attempt void.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use understudy_image::SocketImage;
use understudy_linux::capsule::{App, AppSpec, tree};
use understudy_linux::hook::Hook;
use understudy_linux::image::{
    LiveImage, UNREAD_BYTES_MAX, adopt_mid_stream, read_at_once, savable,
};
use understudy_linux::netns::NetNs;
use understudy_linux::socks::{self, Proto, SockInfo, TcpState};
use understudy_linux::{Error as LinuxError, standstill};

use crate::criu::{Dumped, STATE, packed, quoted};
use crate::error::{Error, Result, file};
use crate::manifest::MethodKind;
use crate::method::{Method, Restored, Running, Site, clocks, expect, renew};
use crate::pending::pending;
use crate::state;
use crate::store::Generation;

/// Names the directory of what a command saves or brings back.
pub const SNAPSHOT_DIR: &str = "UNDERSTUDY_SNAPSHOT_DIR";
/// Names the application's first process, for the command that saves it.
const APP_PID: &str = "UNDERSTUDY_APP_PID";
/// A snapshot command's exit code for "not at this moment" (`EX_TEMPFAIL`, sysexits.h).
const NOT_NOW: i32 = 75;
/// Where a checkpoint's directory holds what.
const SNAPSHOT: &str = "snapshot";
const SOCKETS: &str = "sockets";
/// So often in a row the application must be found asleep, with nothing moving on its connections.
const QUIET_LOOKS: u32 = 3;
const LOOK: Duration = Duration::from_millis(1);
/// And by then; later, the more connections are to be looked at.
const QUIET_LIMIT: Duration = Duration::from_millis(250);
const QUIET_LIMIT_PER_CONNECTION: Duration = Duration::from_micros(50);
const SOCKETS_MAX: usize = 200_000;
/// Images of one checkpoint.
const IMAGES_BYTES_MAX: u64 = 1 << 30;

/// The commands, and the application that they are for.
#[derive(Clone, Debug)]
pub struct Hooks {
    /// Saves what the application knows into [`SNAPSHOT_DIR`].
    pub snapshot: Vec<String>,
    /// Puts what is there in place, before the application starts; without it, what is there at first.
    pub restore: Vec<String>,
    /// Ends when the application has what was put in place; empty: it has it when its ports are bound.
    pub ready: Vec<String>,
    /// How long each may take.
    pub limit: Duration,
    /// The application.
    pub app: AppSpec,
    /// What it binds when it is ready.
    pub ports: Vec<(Proto, u16)>,
    /// How long it may take for that, and then to accept its connections.
    pub ready_limit: Duration,
}

impl Hooks {
    /// Runs the restore command for a start from nothing.
    ///
    /// # Errors
    /// If it fails.
    pub fn start_from_nothing(&self, ns: &NetNs, work: &Path) -> Result<()> {
        self.put_in_place(ns, work, Path::new(""))
    }

    fn put_in_place(&self, ns: &NetNs, work: &Path, snapshot: &Path) -> Result<()> {
        let hook = self.hook(&self.restore, work, "restore.log", snapshot)?;
        let status = hook.run(ns, self.limit)?;
        if status.success() { Ok(()) } else { Err(failed(RESTORE, &hook, status)) }
    }

    fn hook(&self, command: &[String], work: &Path, log: &str, snapshot: &Path) -> Result<Hook> {
        fs::create_dir_all(work).map_err(file("make", work))?;
        let mut env = self.app.env.clone();
        env.push((SNAPSHOT_DIR.into(), utf8(snapshot)?));
        let (command, work_dir) = (command.to_vec(), self.app.work_dir.clone());
        Ok(Hook { command, work_dir, env, log: work.join(log) })
    }

    fn take_snapshot(&self, app: &Running<'_>, site: &Site, dir: &Path) -> Result<()> {
        let snapshot = dir.join(SNAPSHOT);
        fs::create_dir_all(&snapshot).map_err(file("make", &snapshot))?;
        let mut hook = self.hook(&self.snapshot, &site.work, "snapshot.log", &snapshot)?;
        hook.env.push((APP_PID.into(), app.pid.to_string()));
        let status = hook.run(app.ns, self.limit)?;
        match status.code() {
            Some(0) => {}
            Some(NOT_NOW) => {
                let said = hook.last_words().unwrap_or_else(|| "it does not say why".into());
                return Err(Error::NotNow(format!("{SNAPSHOT_COMMAND}: not now: {said}")));
            }
            _ => return Err(failed(SNAPSHOT_COMMAND, &hook, status)),
        }
        pack_state(&site.state_dirs, dir)
    }

    /// Until it has its state: it must not answer before.
    fn wait_ready(&self, ns: &NetNs, work: &Path, app: &mut App) -> Result<()> {
        self.wait_bound(ns, app)?;
        if self.ready.is_empty() {
            return Ok(());
        }
        let hook = self.hook(&self.ready, work, "ready.log", Path::new(""))?;
        let status = hook.run(ns, self.limit)?;
        if status.success() { Ok(()) } else { Err(failed(READY, &hook, status)) }
    }

    /// Until everything that it binds is bound.
    fn wait_bound(&self, ns: &NetNs, app: &mut App) -> Result<()> {
        let end = Instant::now() + self.ready_limit;
        for &(proto, port) in &self.ports {
            while !socks::is_bound(ns, proto, port)? {
                if let Some(status) = app.try_wait() {
                    let log = self.app.stdout_log.display();
                    let text = format!("the fresh application ended: {status}; see {log}");
                    return Err(Error::NotReady(text));
                }
                if Instant::now() > end {
                    let ms = self.ready_limit.as_millis();
                    let text =
                        format!("the fresh application has not bound port {port} in {ms} ms");
                    return Err(Error::NotReady(text));
                }
                sleep(LOOK);
            }
        }
        Ok(())
    }
}

const SNAPSHOT_COMMAND: &str = "checkpoint.snapshot_command";
const RESTORE: &str = "checkpoint.restore_command";
const READY: &str = "checkpoint.ready_command";

fn failed(command: &'static str, hook: &Hook, status: ExitStatus) -> Error {
    let reason =
        hook.last_words().map_or_else(|| status.to_string(), |w| format!("{w} ({status})"));
    Error::Hook { command, reason, log: hook.log.clone() }
}

fn utf8(path: &Path) -> Result<String> {
    let odd = || file("name", path)(std::io::Error::other("its name is not UTF-8"));
    path.to_str().map(String::from).ok_or_else(odd)
}

impl Method for Hooks {
    fn kind(&self) -> MethodKind {
        MethodKind::Hooks
    }

    fn save(&self, app: &Running<'_>, site: &Site, dir: &Path) -> Result<Dumped> {
        let quiet = quiet(app)?;
        let (before, _) = read_at_once(app.ns, app.pid, &quiet, 0).map_err(moved)?;
        self.take_snapshot(app, site, dir)?;
        let (taken, clocks) = clocks(&tree(app.pid))?;
        let now = connections(app.ns)?;
        let (images, frozen) = read_at_once(app.ns, app.pid, &now, usize::MAX).map_err(moved)?;
        unchanged(&before, &images)?;
        let images = images.into_iter().map(whole).collect::<Result<Vec<SocketImage>>>()?;
        write_images(&dir.join(SOCKETS), &images)?;
        let frozen_us = u64::try_from(frozen.total.as_micros()).unwrap_or(u64::MAX);
        let pending = not_accepted(app.pid)?;
        Ok(Dumped { taken, clocks, frozen_us, pages: 0, pending })
    }

    fn restore(&self, ns: &NetNs, site: &Site, from: &Generation) -> Result<Restored> {
        expect(self.kind(), &from.manifest)?;
        for (at, state_dir) in site.state_dirs.iter().enumerate() {
            state::replace(&from.dir.join(STATE).join(packed(at)), state_dir)?;
        }
        let images = read_images(&from.dir.join(SOCKETS), from.number)?;
        self.put_in_place(ns, &site.work, &from.dir.join(SNAPSHOT))?;
        let mut app = App::spawn(ns, &self.app)?;
        self.wait_ready(ns, &site.work, &mut app)?;
        adopt_mid_stream(ns, app.pid(), &images, from.manifest.age(), self.ready_limit)?;
        app.stop()?;
        let connections = renew(&app, &from.manifest)?;
        let there: HashSet<_> = connections.iter().map(ends).collect();
        if let Some(image) = images.iter().find(|image| !there.contains(&ends(image))) {
            let client = image.remote;
            let text = format!("the fresh application has ended the connection of {client}");
            return Err(Error::NotReady(text));
        }
        Ok(Restored { app, connections })
    }
}

/// Both ends, whatever the family of the socket.
fn ends(image: &SocketImage) -> (SocketAddr, SocketAddr) {
    let plain = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    (plain(image.local), plain(image.remote))
}

/// The state directories, packed; the application is quiet.
fn pack_state(state_dirs: &[PathBuf], dir: &Path) -> Result<()> {
    if state_dirs.is_empty() {
        return Ok(());
    }
    let to = dir.join(STATE);
    fs::create_dir_all(&to).map_err(file("make", &to))?;
    for (at, from) in state_dirs.iter().enumerate() {
        let script = state::packing(&quoted(from)?, &quoted(&to.join(packed(at)))?);
        let mut shell = Command::new("sh");
        let done = shell.args(["-c", &script]).stdin(Stdio::null()).output();
        let done = done.map_err(file("run tar for", from))?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr);
            let first = said.lines().next().unwrap_or("tar failed").to_string();
            return Err(file("pack", from)(std::io::Error::other(first)));
        }
    }
    Ok(())
}

/// The connections of clients: to a port on which something listens, from outside of the capsule, and
/// held by the application.
fn connections(ns: &NetNs) -> Result<Vec<SockInfo>> {
    let all = socks::tcp_sockets(ns, SOCKETS_MAX)?;
    let listens = |s: &&SockInfo| s.state == TcpState::Listen;
    let ports: Vec<u16> = all.iter().filter(listens).map(|s| s.local.port()).collect();
    let inside = |s: &SockInfo| s.remote.ip() == s.local.ip() || s.remote.ip().is_loopback();
    let mut clients: Vec<SockInfo> = all
        .into_iter()
        .filter(|s| ports.contains(&s.local.port()) && !inside(s) && savable(s).is_ok())
        .collect();
    clients.sort_unstable_by_key(|s| (s.remote, s.local));
    Ok(clients)
}

/// Waits until it has read what it was given, or leaves it unread, and sleeps.
fn quiet(app: &Running<'_>) -> Result<Vec<SockInfo>> {
    let begun = Instant::now();
    let seen = |s: &SockInfo| (s.local, s.remote, s.inode, s.rqueue, s.wqueue, s.bytes_received);
    let mut before: Vec<_> = Vec::new();
    let mut looks = 0;
    loop {
        let now = connections(app.ns)?;
        let moves: Vec<_> = now.iter().map(seen).collect();
        let still = standstill::is_asleep(app.pid) && (looks == 0 || moves == before);
        looks = if still { looks + 1 } else { 0 };
        if looks == QUIET_LOOKS {
            return Ok(now);
        }
        before = moves;
        let limit = QUIET_LIMIT + QUIET_LIMIT_PER_CONNECTION * now.len() as u32;
        if begun.elapsed() > limit {
            let ms = limit.as_millis();
            let text = format!("the application has not come to rest in {ms} ms");
            return Err(Error::NotNow(text));
        }
        sleep(LOOK);
    }
}

/// What changed under the look may stand still the next time.
fn moved(error: LinuxError) -> Error {
    match error {
        LinuxError::Moving { .. }
        | LinuxError::NoDescriptor { .. }
        | LinuxError::DoesNotStop { .. }
        | LinuxError::TracerBusy { .. } => Error::NotNow(error.to_string()),
        error => error.into(),
    }
}

fn unchanged(before: &[LiveImage], after: &[LiveImage]) -> Result<()> {
    let seen = |live: &LiveImage| {
        let image = &live.image;
        (image.local, image.remote, live.write_seq(), image.rcv_nxt, live.copied_seq())
    };
    let differs = before.iter().zip(after).find(|(a, b)| seen(a) != seen(b));
    let what = match differs {
        None if before.len() == after.len() => return Ok(()),
        None => "connections came or went".to_string(),
        Some((image, _)) => format!("something moved on the connection of {}", image.image.remote),
    };
    Err(Error::NotNow(format!("{what} while the application was saved")))
}

/// The image, if all of it is there and can be brought back.
fn whole(live: LiveImage) -> Result<SocketImage> {
    let LiveImage { image, in_flight_bytes, pending_bytes, unread_bytes } = live;
    let client = image.remote;
    let written = in_flight_bytes + pending_bytes;
    if image.in_flight.len() + image.pending.len() != written {
        let text = format!("{written} bytes wait for {client}, too many to be saved");
        return Err(Error::NotNow(text));
    }
    if unread_bytes > UNREAD_BYTES_MAX {
        let text = format!("{unread_bytes} bytes of {client} are not read, too many to be saved");
        return Err(Error::NotNow(text));
    }
    if image.fin != understudy_image::Fin::None {
        let text = format!("the connection of {client} is being closed");
        return Err(Error::NotNow(text));
    }
    Ok(image)
}

fn not_accepted(pid: i32) -> Result<Vec<(SocketAddr, SocketAddr)>> {
    let mut text = String::new();
    for (name, needed) in [("tcp6", false), ("tcp", true)] {
        let path = PathBuf::from(format!("/proc/{pid}/net/{name}"));
        match fs::read_to_string(&path) {
            Ok(listed) => text += &listed,
            Err(e) if needed => return Err(file("read", &path)(e)),
            // Without IPv6.
            Err(_) => {}
        }
    }
    Ok(pending(&text))
}

/// Each with its length before it, 32 bits, little-endian.
fn write_images(path: &Path, images: &[SocketImage]) -> Result<()> {
    let mut bytes = Vec::new();
    for image in images {
        let encoded =
            image.encode().map_err(|e| LinuxError::from(understudy_image::Error::from(e)))?;
        bytes.extend((encoded.len() as u32).to_le_bytes());
        bytes.extend(encoded);
    }
    fs::write(path, bytes).map_err(file("write", path))
}

fn read_images(path: &Path, generation: u64) -> Result<Vec<SocketImage>> {
    let damaged = |what: &str| {
        let generation = generation.to_string();
        Error::Damaged { generation, what: format!("{SOCKETS}: {what}") }
    };
    let len = path.metadata().map_err(file("look at", path))?.len();
    if len > IMAGES_BYTES_MAX {
        return Err(damaged("too long"));
    }
    let bytes = fs::read(path).map_err(file("read", path))?;
    let mut rest = &bytes[..];
    let mut images = Vec::new();
    while !rest.is_empty() {
        let (head, after) = rest.split_first_chunk().ok_or_else(|| damaged("it is cut off"))?;
        let len = u32::from_le_bytes(*head) as usize;
        let image = after.get(..len).ok_or_else(|| damaged("it is cut off"))?;
        images.push(SocketImage::decode(image).map_err(|e| damaged(&e.to_string()))?);
        rest = &after[len..];
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_image::{Agreed, Fin, Options, State, Timing, Window};

    fn image(port: u16) -> SocketImage {
        SocketImage {
            local: "10.0.0.1:80".parse().unwrap(),
            remote: SocketAddr::new("10.0.0.2".parse().unwrap(), port),
            state: State::Established,
            fin: Fin::None,
            read_shut: false,
            snd_una: 1,
            rcv_nxt: 9,
            window: Window { rcv_wup: 9, ..Window::default() },
            agreed: Agreed { mss: 1460, scales: None, sack: true, timestamps: None },
            timing: Timing::default(),
            options: Options { congestion: "cubic".into(), ..Options::default() },
            in_flight: vec![1; 100],
            pending: vec![2; 50],
            unread: vec![3; 7],
        }
    }

    fn live(image: SocketImage) -> LiveImage {
        LiveImage { image, in_flight_bytes: 100, pending_bytes: 50, unread_bytes: 7 }
    }

    #[test]
    fn images_come_back_and_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sockets");
        let images: Vec<SocketImage> = (1..4).map(image).collect();
        write_images(&path, &images).unwrap();
        assert_eq!(read_images(&path, 1).unwrap(), images);
        let bytes = fs::read(&path).unwrap();
        for len in [1, 3, 4, 5, bytes.len() / 2, bytes.len() - 1] {
            fs::write(&path, &bytes[..len]).unwrap();
            let error = read_images(&path, 1).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "{len}: {error}");
        }
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 1;
        fs::write(&path, flipped).unwrap();
        assert!(matches!(read_images(&path, 1), Err(Error::Damaged { .. })));
        write_images(&path, &[]).unwrap();
        assert_eq!(read_images(&path, 1).unwrap(), []);
    }

    #[test]
    fn what_moved_makes_an_attempt_void() {
        let before: Vec<LiveImage> = (1..4).map(|port| live(image(port))).collect();
        assert!(unchanged(&before, &before).is_ok());
        let not_now = |after: &[LiveImage]| match unchanged(&before, after) {
            Err(Error::NotNow(text)) => text,
            other => panic!("{other:?}"),
        };
        assert!(not_now(&before[..2]).contains("came or went"));
        let mut after = before.clone();
        after[1].pending_bytes += 1;
        after[1].image.pending.push(2);
        assert!(not_now(&after).contains("10.0.0.2:2"));
        // Acknowledged meanwhile: the same was said.
        let mut after = before.clone();
        after[1].image.snd_una += 40;
        after[1].image.in_flight.drain(..40);
        after[1].in_flight_bytes -= 40;
        assert!(unchanged(&before, &after).is_ok());
    }

    #[test]
    fn what_cannot_come_back_is_not_saved() {
        assert_eq!(whole(live(image(1))).unwrap(), image(1));
        let cut = LiveImage { pending_bytes: 60, ..live(image(1)) };
        let full = LiveImage { unread_bytes: UNREAD_BYTES_MAX + 1, ..live(image(1)) };
        let closing = live(SocketImage { state: State::FinWait2, fin: Fin::Acked, ..image(1) });
        for (live, why) in [(cut, "wait for"), (full, "not read"), (closing, "being closed")] {
            let error = whole(live).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
