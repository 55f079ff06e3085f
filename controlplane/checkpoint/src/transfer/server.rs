//! Gives checkpoints to the other nodes of the group: one thread a client, bounded in number.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use understudy_seal::stream::End;

use super::link::{Identity, Link, transfer};
use super::{Answer, Ask, Wanted};
use crate::error::{Error, Result, file};
use crate::pins::Pin;
use crate::store::{Generation, MANIFEST};

const CLIENTS_MAX: usize = 4;
/// A client that says and takes nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(20);
/// After an error of the listener: file descriptors may come back.
const PAUSE: Duration = Duration::from_millis(100);

/// Where the checkpoints come from.
pub trait Source: Send + Sync + 'static {
    /// The newest checkpoint that fits, or why there is none. May take one. It stays while the pin
    /// does: until the node that asks has it, or takes nothing of it any more.
    ///
    /// # Errors
    /// For the node that asks.
    fn offer(&self, wanted: &Wanted) -> std::result::Result<(Generation, Pin), String>;

    /// Who this node is, with the keys of now.
    fn identity(&self) -> Identity;
}

/// What was served, for the counters.
#[derive(Debug, Default)]
pub struct Served {
    /// Connections.
    pub clients: AtomicU64,
    /// That were refused because too many were open.
    pub refused: AtomicU64,
    /// That ended with an error.
    pub failed: AtomicU64,
    /// Bytes of files.
    pub bytes: AtomicU64,
}

/// The listener; it lives as long as the process.
#[derive(Debug)]
pub struct Server {
    served: Arc<Served>,
}

struct Shared<S> {
    source: S,
    pace: Pace,
    served: Arc<Served>,
    open: AtomicUsize,
}

impl Server {
    /// Listens. `rate_bytes_s`: what all clients together are sent at most; 0: no limit.
    ///
    /// # Errors
    /// If the address cannot be had.
    pub fn start(address: SocketAddr, source: impl Source, rate_bytes_s: u64) -> Result<Server> {
        let cannot = |e| Error::Listen { address, source: e };
        let listener = TcpListener::bind(address).map_err(cannot)?;
        let served = Arc::new(Served::default());
        let shared = Arc::new(Shared {
            source,
            pace: Pace::new(rate_bytes_s),
            served: Arc::clone(&served),
            open: AtomicUsize::new(0),
        });
        let accept = move || {
            for stream in listener.incoming() {
                match stream {
                    Ok(stream) => shared.accept(stream),
                    Err(_) => thread::sleep(PAUSE),
                }
            }
        };
        thread::Builder::new().name("transfers".into()).spawn(accept).map_err(cannot)?;
        Ok(Server { served })
    }

    /// Counts, by name.
    pub fn counters(&self) -> [(&'static str, u64); 4] {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let s = &self.served;
        [
            ("transfer_clients", of(&s.clients)),
            ("transfer_refused", of(&s.refused)),
            ("transfer_failed", of(&s.failed)),
            ("transfer_bytes", of(&s.bytes)),
        ]
    }
}

impl<S: Source> Shared<S> {
    fn accept(self: &Arc<Self>, stream: TcpStream) {
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        count(&self.served.clients);
        if self.open.fetch_add(1, Ordering::AcqRel) >= CLIENTS_MAX {
            self.open.fetch_sub(1, Ordering::AcqRel);
            count(&self.served.refused);
            return;
        }
        let shared = Arc::clone(self);
        let serve = move || {
            if let Err(e) = shared.serve(stream) {
                count(&shared.served.failed);
                tracing::warn!("a checkpoint's transfer: {e}");
            }
            shared.open.fetch_sub(1, Ordering::AcqRel);
        };
        if thread::Builder::new().name("transfer".into()).spawn(serve).is_err() {
            self.open.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Until the client hangs up.
    fn serve(&self, stream: TcpStream) -> Result<()> {
        let mut link = Link::open(stream, End::Server, &self.source.identity(), SILENCE)?;
        let (mut offered, mut answered): (Option<(Generation, Pin)>, bool) = (None, false);
        loop {
            let ask = match link.hear() {
                Ok(ask) => ask,
                // It has all that it wants, or will not get it.
                Err(_) if answered => return Ok(()),
                Err(e) => return Err(e),
            };
            answered = true;
            match (ask, &offered) {
                (Ask::Offer(wanted), _) => offered = self.offer(&mut link, &wanted)?,
                (Ask::File { path, from }, Some((generation, pin))) => {
                    self.send_file(&mut link, (generation, pin), &path, from)?;
                }
                (Ask::Age, Some((generation, _))) => {
                    let age_us = u64::try_from(generation.manifest.age().as_micros());
                    link.say(&Answer::Age { age_us: age_us.unwrap_or(u64::MAX) })?;
                }
                (_, None) => return Err(transfer("it asks of a checkpoint, and none was offered")),
            }
        }
    }

    fn offer(&self, link: &mut Link, wanted: &Wanted) -> Result<Option<(Generation, Pin)>> {
        match self.source.offer(wanted) {
            Ok((generation, pin)) => {
                let path = generation.dir.join(MANIFEST);
                let meta = path.metadata().map_err(file("look at", &path))?;
                let (number, manifest_len) = (generation.number, meta.len());
                tracing::info!(peer = link.peer, "checkpoint {number} is asked for");
                link.say(&Answer::Offer { generation: number, manifest_len })?;
                Ok(Some((generation, pin)))
            }
            Err(why) => {
                link.say(&Answer::Refused { why })?;
                Ok(None)
            }
        }
    }

    fn send_file(
        &self,
        link: &mut Link,
        (of, pin): (&Generation, &Pin),
        path: &str,
        from: u64,
    ) -> Result<()> {
        pin.moved();
        if path != MANIFEST && !of.manifest.files.iter().any(|entry| entry.path == path) {
            return link.say(&Answer::Refused { why: format!("there is no file {path}") });
        }
        let full = of.dir.join(path);
        let mut opened = match File::open(&full) {
            Ok(opened) => opened,
            // Put aside, or it moved too slowly and newer ones took its place.
            Err(e) => return link.say(&Answer::Refused { why: format!("{path}: {e}") }),
        };
        let len = opened.metadata().map_err(file("look at", &full))?.len().saturating_sub(from);
        opened.seek(SeekFrom::Start(from)).map_err(file("read", &full))?;
        link.say(&Answer::File { len })?;
        let mut left = len;
        while left > 0 {
            let sent = link.send_piece(&mut opened, left)? as u64;
            if sent == 0 {
                return Err(transfer(format!("{path} became shorter")));
            }
            left -= sent;
            pin.moved();
            self.served.bytes.fetch_add(sent, Ordering::Relaxed);
            self.pace.sent(sent);
        }
        Ok(())
    }
}

/// Holds everybody to one rate.
struct Pace {
    begun: Instant,
    rate_bytes_s: u64,
    /// When what was sent so far may have been sent, microseconds.
    free_at_us: AtomicU64,
}

impl Pace {
    fn new(rate_bytes_s: u64) -> Pace {
        Pace { begun: Instant::now(), rate_bytes_s, free_at_us: AtomicU64::new(0) }
    }

    fn sent(&self, bytes: u64) {
        if self.rate_bytes_s == 0 {
            return;
        }
        let now_us = self.begun.elapsed().as_micros() as u64;
        let takes_us = bytes.saturating_mul(1_000_000) / self.rate_bytes_s;
        let next = |free_at_us: u64| Some(free_at_us.max(now_us) + takes_us);
        let before = self.free_at_us.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        let free_at_us = before.unwrap_or(0).max(now_us) + takes_us;
        thread::sleep(Duration::from_micros(free_at_us - now_us));
    }
}
