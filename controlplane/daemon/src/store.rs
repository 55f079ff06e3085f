//! What must survive a restart: epoch and vote, one small file.
//!
//! Written by a helper thread, since a slow disk must not delay heartbeats. A takeover waits for two
//! such writes, the candidate's and a voter's, at the same time. A corrupt file is refused: guessing an epoch could elect two
//! primaries.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use crossbeam::channel::{Receiver, Sender, bounded};
use tracing::error;
use understudy_linux::wake::Waker;
use understudy_proto::Persisted;

use crate::lcore;

const FILE_NAME: &str = "epoch";
/// Writes the control plane may have outstanding.
const QUEUE_MAX: usize = 64;
const RETRY: Duration = Duration::from_millis(100);

/// The state directory, open and locked by this process.
pub struct Store {
    slots: Slots,
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
        let slots = Slots::open(dir)
            .with_context(|| format!("cannot use control.state_dir {}", dir.display()))?;
        Ok(Store { slots, _lock: lock })
    }

    /// What the last life left.
    pub fn persisted(&self) -> Persisted {
        self.slots.newest
    }

    /// Starts the helper thread, which wakes whom it has confirmed something.
    pub fn into_writer(mut self, waker: Waker) -> anyhow::Result<StoreWriter> {
        let (submit, jobs) = bounded::<Persisted>(QUEUE_MAX);
        let (confirm, done) = bounded(QUEUE_MAX);
        std::thread::Builder::new().name("store".into()).spawn(move || {
            lcore::ask_short_slices();
            for state in jobs {
                // Without it on disk there is no vote: try until the disk takes it.
                while let Err(e) = self.slots.write(&state) {
                    error!(
                        "cannot persist epoch {}: {e}; this node does not vote until it can",
                        state.epoch
                    );
                    std::thread::sleep(RETRY);
                }
                if confirm.send(state.epoch).is_err() {
                    break;
                }
                waker.wake();
            }
        })?;
        Ok(StoreWriter { submit, done })
    }
}

/// The file: two slots, written in turn, so that a write that is cut off leaves the state before it.
/// It has its full length from the start, and a write changes nothing but bytes of one block: one
/// flush of the disk, where a new file and its name would be several. A slot holds its state twice,
/// in blocks of their own, against a block that the disk loses later.
struct Slots {
    file: File,
    newest: Persisted,
    /// Where `newest` is not.
    next: usize,
}

const SLOTS: usize = 2;
const SLOT_LEN: usize = 4096;
const COPIES: usize = 2;
const COPY_LEN: usize = SLOT_LEN / COPIES;
const FILE_LEN: usize = SLOTS * SLOT_LEN;

impl Slots {
    fn open(dir: &Path) -> anyhow::Result<Slots> {
        let path = dir.join(FILE_NAME);
        if !path.exists() {
            // Whole under its name, or not there.
            let new = dir.join("epoch.new");
            let mut file = File::create(&new)?;
            file.write_all(&vec![slot(&Persisted::default()); SLOTS].concat())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(dir)?.sync_all()?;
        }
        let file = File::options().read(true).write(true).open(&path)?;
        let mut bytes = Vec::with_capacity(FILE_LEN + 1);
        (&file).take(FILE_LEN as u64 + 1).read_to_end(&mut bytes)?;
        let (at, newest) = newest(&bytes).with_context(|| {
            format!(
                "{} is damaged; remove it only if this node's group is stopped or after the others \
                 have been running without it",
                path.display()
            )
        })?;
        Ok(Slots { file, newest, next: (at + 1) % SLOTS })
    }

    fn write(&mut self, state: &Persisted) -> std::io::Result<()> {
        self.file.write_all_at(&slot(state), (self.next * SLOT_LEN) as u64)?;
        self.file.sync_data()?;
        self.newest = *state;
        self.next = (self.next + 1) % SLOTS;
        Ok(())
    }
}

/// The bytes of a slot.
fn slot(state: &Persisted) -> Vec<u8> {
    let mut copy = state.encode().into_bytes();
    copy.resize(COPY_LEN, 0);
    copy.repeat(COPIES)
}

/// The newest state in a file, and its slot. States follow one another by epoch, and in an epoch a
/// vote follows none.
fn newest(bytes: &[u8]) -> Option<(usize, Persisted)> {
    let copy = |bytes: &[u8]| {
        let len = bytes.iter().position(|&byte| byte == 0)?;
        Persisted::decode(&bytes[..len])
    };
    let slot = |bytes: &[u8]| bytes.chunks(COPY_LEN).find_map(copy);
    let whole = bytes.len() == FILE_LEN;
    let states = bytes.chunks(SLOT_LEN).enumerate().filter_map(|(at, s)| Some((at, slot(s)?)));
    states.filter(|_| whole).max_by_key(|(_, s)| (s.epoch, s.voted_for.is_some()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("understudy-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn survives_a_restart_and_is_locked() {
        let dir = scratch("store");
        for epoch in [7, 8, 9] {
            let state = Persisted { epoch, voted_for: Some(3) };
            {
                let store = Store::open(&dir).unwrap();
                let before = store.persisted();
                assert_eq!(before.epoch, if epoch == 7 { 0 } else { epoch - 1 });
                assert!(Store::open(&dir).is_err(), "two daemons on one state");
                let writer = store.into_writer(Waker::new().unwrap()).unwrap();
                writer.submit.send(Persisted { epoch, voted_for: None }).unwrap();
                writer.submit.send(state).unwrap();
                assert_eq!((writer.done.recv(), writer.done.recv()), (Ok(epoch), Ok(epoch)));
            }
            // Its thread ends, and gives up the lock, soon after.
            let deadline = std::time::Instant::now() + Duration::from_secs(10);
            let store = loop {
                match Store::open(&dir) {
                    Ok(store) => break store,
                    Err(e) if std::time::Instant::now() > deadline => panic!("{e:#}"),
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            };
            assert_eq!(store.persisted(), state);
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    /// Whatever part of a write reached the disk, the state is the one before it or the new one.
    #[test]
    fn a_write_that_is_cut_off_leaves_a_state() {
        let dir = scratch("slots");
        let states = [(1, None), (1, Some(2)), (2, None), (9, Some(1)), (10, Some(12))]
            .map(|(epoch, voted_for)| Persisted { epoch, voted_for });
        let mut slots = Slots::open(&dir).unwrap();
        let mut before = Persisted::default();
        for state in states {
            let old = fs::read(dir.join(FILE_NAME)).unwrap();
            assert_eq!(newest(&old).map(|(_, s)| s), Some(before));
            slots.write(&state).unwrap();
            let new = fs::read(dir.join(FILE_NAME)).unwrap();
            for cut in (0..FILE_LEN).filter(|at| old[*at] != new[*at]) {
                let begun = [&new[..cut], &old[cut..]].concat();
                let late = [&old[..cut], &new[cut..]].concat();
                for torn in [begun, late] {
                    let found = newest(&torn).map(|(_, s)| s);
                    assert!(found == Some(before) || found == Some(state), "{found:?}");
                }
            }
            // A block that is lost later costs nothing.
            for block in 0..FILE_LEN / 512 {
                let mut lost = new.clone();
                lost[block * 512..][..512].fill(0xff);
                assert_eq!(newest(&lost).map(|(_, s)| s), Some(state), "block {block}");
            }
            before = state;
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn damage_is_refused() {
        let dir = scratch("damage");
        drop(Slots::open(&dir).unwrap());
        let whole = fs::read(dir.join(FILE_NAME)).unwrap();
        let long = [&whole[..], &[0]].concat();
        for bad in [&[][..], &whole[..FILE_LEN - 1], &long, &[0xff; FILE_LEN], &[0; FILE_LEN]] {
            fs::write(dir.join(FILE_NAME), bad).unwrap();
            let error = Store::open(&dir).map(drop).unwrap_err();
            assert!(format!("{error:#}").contains("damaged"), "{error:#}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
