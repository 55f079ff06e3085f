//! What must survive a restart: epoch and vote, one small file, written atomically.
//!
//! Written by a helper thread, since a slow disk must not delay heartbeats. A
//! torn or corrupt file is refused: guessing an epoch could elect two primaries.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use crossbeam::channel::{Receiver, Sender, bounded};
use tracing::error;
use understudy_proto::Persisted;

const FILE_NAME: &str = "epoch";
const MAGIC: &str = "understudy-epoch-1";
/// Writes the control plane may have outstanding.
const QUEUE_MAX: usize = 64;
const RETRY: Duration = Duration::from_millis(100);

/// The state directory, open and locked by this process.
pub struct Store {
    /// What the last life left.
    pub persisted: Persisted,
    dir: PathBuf,
    _lock: File,
}

/// Hands writes to the helper thread and takes its confirmations.
pub struct StoreWriter {
    pub submit: Sender<Persisted>,
    pub done: Receiver<u64>,
}

impl Store {
    /// Opens (and makes) the directory, locks it, reads what is there.
    pub fn open(dir: &Path) -> anyhow::Result<Store> {
        fs::create_dir_all(dir)
            .with_context(|| format!("cannot make control.state_dir {}", dir.display()))?;
        let lock = File::create(dir.join("lock"))
            .with_context(|| format!("cannot write in control.state_dir {}", dir.display()))?;
        if lock.try_lock().is_err() {
            bail!(
                "another understudyd uses {}; stop it or set another control.state_dir",
                dir.display()
            );
        }
        let persisted = read(&dir.join(FILE_NAME))?;
        Ok(Store { persisted, dir: dir.to_path_buf(), _lock: lock })
    }

    /// Starts the helper thread.
    pub fn into_writer(self) -> anyhow::Result<StoreWriter> {
        let (submit, jobs) = bounded::<Persisted>(QUEUE_MAX);
        let (confirm, done) = bounded(QUEUE_MAX);
        std::thread::Builder::new().name("store".into()).spawn(move || {
            for state in jobs {
                // Without it on disk there is no vote: try until the disk takes it.
                while let Err(e) = write(&self.dir, &state) {
                    error!(
                        "cannot persist epoch {}: {e:#}; this node does not vote until it can",
                        state.epoch
                    );
                    std::thread::sleep(RETRY);
                }
                if confirm.send(state.epoch).is_err() {
                    break;
                }
            }
        })?;
        Ok(StoreWriter { submit, done })
    }
}

fn encode(state: &Persisted) -> String {
    let body = format!("{MAGIC} {} {}", state.epoch, state.voted_for.unwrap_or(0));
    format!("{body} {:016x}\n", checksum(&body))
}

fn decode(text: &str) -> Option<Persisted> {
    let (body, check) = text.strip_suffix('\n')?.rsplit_once(' ')?;
    if u64::from_str_radix(check, 16).ok()? != checksum(body) {
        return None;
    }
    let mut words = body.split(' ');
    if words.next()? != MAGIC {
        return None;
    }
    let epoch = words.next()?.parse().ok()?;
    let vote: u16 = words.next()?.parse().ok()?;
    Some(Persisted { epoch, voted_for: (vote != 0).then_some(vote) })
}

/// FNV-1a: tells a torn file, not an attacker.
fn checksum(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

fn read(file: &Path) -> anyhow::Result<Persisted> {
    match fs::read_to_string(file) {
        Ok(text) => decode(&text).with_context(|| {
            format!(
                "{} is damaged; remove it only if this node's group is stopped or after the others \
                 have been running without it",
                file.display()
            )
        }),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Persisted::default()),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", file.display())),
    }
}

fn write(dir: &Path, state: &Persisted) -> anyhow::Result<()> {
    let (new, file) = (dir.join("epoch.new"), dir.join(FILE_NAME));
    let mut out = File::create(&new)?;
    out.write_all(encode(state).as_bytes())?;
    out.sync_all()?;
    fs::rename(&new, &file)?;
    File::open(dir)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_a_restart_and_refuses_damage() {
        let dir = std::env::temp_dir().join(format!("understudy-store-{}", std::process::id()));
        let state = Persisted { epoch: 7, voted_for: Some(3) };
        {
            let store = Store::open(&dir).unwrap();
            assert_eq!(store.persisted, Persisted::default());
            assert!(Store::open(&dir).is_err(), "two daemons on one state");
            let writer = store.into_writer().unwrap();
            writer.submit.send(state).unwrap();
            assert_eq!(writer.done.recv(), Ok(7));
        }
        let whole = fs::read_to_string(dir.join(FILE_NAME)).unwrap();
        assert_eq!(read(&dir.join(FILE_NAME)).unwrap(), state);
        for cut in 0..whole.len() {
            fs::write(dir.join(FILE_NAME), &whole[..cut]).unwrap();
            assert!(read(&dir.join(FILE_NAME)).is_err(), "cut at {cut}");
        }
        for at in 0..whole.len() - 1 {
            let mut bytes = whole.clone().into_bytes();
            bytes[at] ^= 1;
            fs::write(dir.join(FILE_NAME), &bytes).unwrap();
            assert!(read(&dir.join(FILE_NAME)).is_err(), "bit flipped at {at}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
