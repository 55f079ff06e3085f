//! What must survive a restart: epoch and vote, one small file, written atomically; and events.
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

use crate::events::EventLog;

const FILE_NAME: &str = "epoch";
/// Writes the control plane may have outstanding.
const QUEUE_MAX: usize = 64;
const RETRY: Duration = Duration::from_millis(100);

/// The state directory, open and locked by this process.
pub struct Store {
    /// What the last life left.
    pub persisted: Persisted,
    /// What happened, in all lives.
    pub events: EventLog,
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
    pub fn open(dir: &Path, node: &str) -> anyhow::Result<Store> {
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
        let events = EventLog::open(dir, node);
        Ok(Store { persisted, events, dir: dir.to_path_buf(), _lock: lock })
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

fn read(file: &Path) -> anyhow::Result<Persisted> {
    match fs::read(file) {
        Ok(bytes) => Persisted::decode(&bytes).with_context(|| {
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
    out.write_all(state.encode().as_bytes())?;
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
            let store = Store::open(&dir, "a").unwrap();
            assert_eq!(store.persisted, Persisted::default());
            assert!(Store::open(&dir, "a").is_err(), "two daemons on one state");
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
        fs::write(dir.join(FILE_NAME), [0xff; 20]).unwrap();
        assert!(read(&dir.join(FILE_NAME)).is_err(), "not text");
        fs::remove_dir_all(&dir).unwrap();
    }
}
