//! Gets a checkpoint from another node.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use understudy_seal::stream::End;

use super::link::{Identity, Link, transfer};
use super::{Answer, Ask, Wanted};
use crate::error::{Error, Result, file};
use crate::manifest::{FileEntry, Manifest};
use crate::store::{Generation, MANIFEST, MANIFEST_BYTES_MAX, Store, checksum, parse_manifest};

/// Each takes a round trip.
const AGE_EXCHANGES: usize = 5;
const CONNECT: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(20);
/// The other node may have to take a checkpoint first.
const OFFER_SILENCE: Duration = Duration::from_secs(180);

/// How far a transfer has come; for whoever watches.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes that are here.
    pub done: AtomicU64,
    /// Bytes of all files; 0 until they are known.
    pub total: AtomicU64,
    /// The connection of now.
    stream: Mutex<Option<TcpStream>>,
}

impl Progress {
    /// Ends the transfer that is under way, if one is: it fails soon.
    pub fn abort(&self) {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = &*stream {
            // It has ended already, perhaps.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn connected(&self, stream: Option<TcpStream>) {
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = stream;
    }
}

/// A checkpoint that arrived.
#[derive(Debug)]
pub struct Fetched {
    /// As it is kept here.
    pub generation: Generation,
    /// Bytes that came over the network.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// A connection to the node at `address`.
///
/// # Errors
/// If nobody answers there in time.
pub fn connect(address: SocketAddr) -> Result<TcpStream> {
    TcpStream::connect_timeout(&address, CONNECT)
        .map_err(|e| transfer(format!("{address} does not answer: {e}")))
}

/// Gets the newest checkpoint that fits from the node at the other end, and keeps it. What an
/// earlier attempt brought is not fetched again.
///
/// # Errors
/// Why there is none, or what broke; what has come so far stays for the next attempt.
pub fn fetch(
    stream: TcpStream,
    identity: &Identity,
    wanted: &Wanted,
    store: &Store,
    progress: &Progress,
) -> Result<Fetched> {
    progress.connected(stream.try_clone().ok());
    let fetched = fetch_over(stream, identity, wanted, store, progress);
    // The other end must not think that more is wanted.
    progress.connected(None);
    fetched
}

fn fetch_over(
    stream: TcpStream,
    identity: &Identity,
    wanted: &Wanted,
    store: &Store,
    progress: &Progress,
) -> Result<Fetched> {
    let begun = Instant::now();
    let mut link = Link::open(stream, End::Client, identity, SILENCE)?;
    link.set_patience(OFFER_SILENCE)?;
    link.say(&Ask::Offer(wanted.clone()))?;
    let (number, manifest_len) = match link.hear()? {
        Answer::Offer { generation, manifest_len } => (generation, manifest_len),
        Answer::Refused { why } => return Err(transfer(why)),
        _ => return Err(transfer("an answer to something else")),
    };
    link.set_patience(SILENCE)?;
    let mut manifest = read_manifest(&mut link, manifest_len)?;
    let age = ask_age(&mut link)?;
    manifest.set_age(age);
    if !wanted.fits(&manifest) {
        return Err(transfer("the checkpoint that was offered is of no use here"));
    }
    // What was written by another one of this number has another checksum in its list.
    let draft = store.begin_incoming(&format!("{}-{number}", link.peer))?;
    progress.total.store(manifest.bytes(), Ordering::Relaxed);
    progress.done.store(0, Ordering::Relaxed);
    let bytes = match receive_all(&mut link, &manifest, draft.dir(), progress) {
        Ok(bytes) => bytes,
        Err(e @ Error::File { .. }) => {
            // The disk: what was written must not stay in the way.
            draft.discard();
            return Err(e);
        }
        Err(e) => return Err(e),
    };
    let generation = store.commit_incoming(draft, manifest)?;
    Ok(Fetched { generation, bytes, took: begun.elapsed() })
}

/// The age of now, of the exchange that took least: it was told in the middle of that.
fn ask_age(link: &mut Link) -> Result<Duration> {
    let mut best: Option<(Duration, Instant)> = None;
    let mut least = Duration::MAX;
    for _ in 0..AGE_EXCHANGES {
        let asked = Instant::now();
        link.say(&Ask::Age)?;
        let Answer::Age { age_us } = link.hear()? else {
            return Err(transfer("an answer to something else"));
        };
        let took = asked.elapsed();
        if took < least {
            least = took;
            best = Some((Duration::from_micros(age_us), asked + took / 2));
        }
    }
    let (age, told) = best.ok_or_else(|| transfer("its age is not known"))?;
    Ok(age.saturating_add(told.elapsed()))
}

fn read_manifest(link: &mut Link, len: u64) -> Result<Manifest> {
    if len > MANIFEST_BYTES_MAX {
        return Err(transfer("its manifest is too long"));
    }
    let mut text = Vec::new();
    let mut left = ask_file(link, MANIFEST, 0, len)?;
    while left > 0 {
        let piece = link.receive_piece(left)?;
        text.extend_from_slice(piece);
        left -= piece.len() as u64;
    }
    let text = String::from_utf8(text).map_err(transfer)?;
    parse_manifest(&text, Path::new(MANIFEST))
}

fn ask_file(link: &mut Link, path: &str, from: u64, expected: u64) -> Result<u64> {
    link.say(&Ask::File { path: path.into(), from })?;
    match link.hear()? {
        Answer::File { len } if len == expected => Ok(len),
        Answer::Refused { why } => Err(transfer(why)),
        _ => Err(transfer(format!("{path} is not as long as the manifest says"))),
    }
}

fn receive_all(link: &mut Link, of: &Manifest, dir: &Path, progress: &Progress) -> Result<u64> {
    let mut bytes = 0;
    for entry in &of.files {
        bytes += receive_file(link, entry, &dir.join(&entry.path), progress)?;
    }
    Ok(bytes)
}

/// What is there already is continued, unless it is whole and wrong.
fn receive_file(link: &mut Link, entry: &FileEntry, to: &Path, progress: &Progress) -> Result<u64> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).map_err(file("make", dir))?;
    }
    let here = fs::metadata(to).map_or(0, |meta| meta.len());
    let whole = here == entry.len && checksum(to).is_ok_and(|(_, crc32)| crc32 == entry.crc32);
    let from = if here < entry.len || whole { here } else { 0 };
    let mut options = OpenOptions::new();
    let opened = options.create(true).write(true).truncate(false).open(to);
    let mut out = opened.map_err(file("make", to))?;
    out.set_len(from).map_err(file("write", to))?;
    progress.done.fetch_add(from, Ordering::Relaxed);
    if whole {
        return Ok(0);
    }
    std::io::Seek::seek(&mut out, std::io::SeekFrom::End(0)).map_err(file("write", to))?;
    let mut left = ask_file(link, &entry.path, from, entry.len - from)?;
    while left > 0 {
        let piece = link.receive_piece(left)?;
        out.write_all(piece).map_err(file("write", to))?;
        left -= piece.len() as u64;
        progress.done.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
    Ok(entry.len - from)
}
