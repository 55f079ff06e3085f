//! The generations that a node keeps: one directory each, complete or not there.
//!
//! A draft is written under a name of its own, synced, given its manifest, and renamed; whatever a
//! crash leaves of it is removed at the next start. A generation that comes from another node is
//! written under a name that tells which, and stays when it is interrupted, to be continued. A
//! generation is believed only after every file has the length and the checksum that the manifest
//! names. One that did not restore is put aside.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::error::{Error, Result, file};
use crate::manifest::{FileEntry, Manifest, VERSION};
use crate::pins::{Pin, Pins};

pub(crate) const MANIFEST: &str = "manifest.toml";
const DRAFT: &str = "draft";
const INCOMING: &str = "incoming";
/// The last one that did not restore, for whoever wants to know why.
const REJECTED: &str = "rejected";
/// Names the generation that is being restored: if that ends the daemon, it is not tried again.
const TRYING: &str = "trying";
/// Generations that a node keeps, whatever the reason.
pub const KEEP_MAX: usize = 16;
/// Longer manifests are damage.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 16 << 20;
const READ_BYTES: usize = 1 << 18;

/// A node's checkpoints.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    /// How many stay; shared, as what follows.
    keep: Arc<AtomicUsize>,
    /// Generations with a barrier from here on stay, beyond `keep` of them.
    keep_from: Arc<AtomicU64>,
    /// Generations that are being sent stay, too.
    pins: Pins,
    syncs: bool,
}

/// A generation as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its number: a later one is larger.
    pub number: u64,
    /// Where its files are.
    pub dir: PathBuf,
    /// What it is.
    pub manifest: Manifest,
}

/// A generation in the making; dropped, it is gone, unless it comes from another node.
#[derive(Debug)]
pub struct Draft {
    number: u64,
    dir: PathBuf,
    stays: bool,
}

impl Store {
    /// The generations in `dir`, which is made; `keep` of them stay, at least 1. Removes drafts
    /// that an earlier life left.
    ///
    /// # Errors
    /// If the directory cannot be made or read.
    pub fn open(dir: &Path, keep: usize) -> Result<Store> {
        fs::create_dir_all(dir).map_err(file("make", dir))?;
        // They hold the application's memory.
        let own = fs::Permissions::from_mode(0o700);
        fs::set_permissions(dir, own).map_err(file("protect", dir))?;
        let store = Store {
            dir: dir.into(),
            keep: Arc::new(AtomicUsize::new(keep.max(1))),
            keep_from: Arc::new(AtomicU64::new(u64::MAX)),
            pins: Pins::default(),
            syncs: true,
        };
        for entry in fs::read_dir(dir).map_err(file("read", dir))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(DRAFT) {
                remove(&entry.path());
            }
        }
        store.reject_tried();
        Ok(store)
    }

    /// Generations need not outlive the machine: they are not forced to its disk. What a crash of
    /// the machine leaves of one is seen when it is read.
    #[must_use]
    pub fn without_sync(self) -> Store {
        Store { syncs: false, ..self }
    }

    /// An earlier life began to restore it and was not seen to succeed.
    fn reject_tried(&self) {
        let tried = fs::read_to_string(self.dir.join(TRYING)).ok().and_then(|n| n.parse().ok());
        if let Some(number) = tried {
            tracing::warn!("checkpoint {number} was being restored when the daemon ended");
            if let Err(e) = self.reject(number) {
                tracing::warn!("{e}");
            }
            self.set_trying(None);
        }
    }

    /// Which generation is being restored; `None`: none any more.
    pub fn set_trying(&self, number: Option<u64>) {
        let path = self.dir.join(TRYING);
        let done = match number {
            Some(number) => fs::write(&path, number.to_string()),
            None => fs::remove_file(&path).or_else(|e| match e.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(e),
            }),
        };
        if let Err(e) = done {
            tracing::warn!("cannot write {}: {e}", path.display());
        }
    }

    /// Numbers of the generations, newest first.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn numbers(&self) -> Result<Vec<u64>> {
        let entries = fs::read_dir(&self.dir).map_err(file("read", &self.dir))?;
        let mut numbers: Vec<u64> =
            entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        Ok(numbers)
    }

    /// Begins a generation.
    ///
    /// # Errors
    /// If its directory cannot be made.
    pub fn begin(&self) -> Result<Draft> {
        let number = self.next_number()?;
        let dir = self.dir.join(format!("{DRAFT}-{number}"));
        remove(&dir);
        fs::create_dir_all(&dir).map_err(file("make", &dir))?;
        Ok(Draft { number, dir, stays: false })
    }

    /// Begins or continues a generation that comes from elsewhere and is known as `name` there.
    /// Only one does at a time: others that were begun are removed.
    ///
    /// # Errors
    /// If its directory cannot be made.
    pub fn begin_incoming(&self, name: &str) -> Result<Draft> {
        let number = self.next_number()?;
        let dir = self.dir.join(format!("{INCOMING}-{name}"));
        for entry in fs::read_dir(&self.dir).map_err(file("read", &self.dir))?.flatten() {
            let other = entry.file_name().to_string_lossy().starts_with(INCOMING);
            if other && entry.path() != dir {
                remove(&entry.path());
            }
        }
        fs::create_dir_all(&dir).map_err(file("make", &dir))?;
        Ok(Draft { number, dir, stays: true })
    }

    fn next_number(&self) -> Result<u64> {
        Ok(self.numbers()?.first().map_or(1, |n| n + 1))
    }

    /// Makes the draft a generation, durably, and removes those beyond the number that is kept.
    ///
    /// # Errors
    /// If it cannot be written; nothing of it stays then.
    pub fn commit(&self, draft: Draft, mut manifest: Manifest) -> Result<Generation> {
        manifest.version = VERSION;
        manifest.files = self.sync_all(&draft.dir)?;
        self.finish(draft, manifest)
    }

    /// As [`Store::commit`], of one that came from elsewhere, whose files are known.
    ///
    /// # Errors
    /// [`Error::Damaged`] if what arrived is not what the manifest names.
    pub fn commit_incoming(&self, mut draft: Draft, manifest: Manifest) -> Result<Generation> {
        let generation = draft.number.to_string();
        let damaged = |what: String| Error::Damaged { generation, what };
        let checked = match self.sync_all(&draft.dir) {
            Ok(files) if files == manifest.files => Ok(()),
            Ok(files) => Err(damaged(differs(&files, &manifest.files))),
            Err(e) => Err(damaged(e.to_string())),
        };
        if let Err(e) = checked {
            draft.stays = false;
            return Err(e);
        }
        self.finish(draft, manifest)
    }

    fn finish(&self, mut draft: Draft, manifest: Manifest) -> Result<Generation> {
        let text = toml::to_string(&manifest).expect("a manifest is plain data");
        let path = draft.dir.join(MANIFEST);
        fs::write(&path, text).map_err(file("write", &path))?;
        self.sync(&path)?;
        self.sync(&draft.dir)?;
        let dir = self.dir.join(draft.number.to_string());
        fs::rename(&draft.dir, &dir).map_err(file("rename", &draft.dir))?;
        draft.stays = true;
        self.sync(&self.dir)?;
        self.remove_old()?;
        Ok(Generation { number: draft.number, dir, manifest })
    }

    fn sync(&self, path: &Path) -> Result<()> {
        if !self.syncs {
            return Ok(());
        }
        let opened = File::open(path).map_err(file("open", path))?;
        opened.sync_all().map_err(file("write", path))
    }

    /// Every file below `dir`, durable from now on where that is asked for.
    fn sync_all(&self, dir: &Path) -> Result<Vec<FileEntry>> {
        let (mut files, mut dirs) = (Vec::new(), vec![dir.to_path_buf()]);
        while let Some(at) = dirs.pop() {
            for entry in fs::read_dir(&at).map_err(file("read", &at))? {
                let entry = entry.map_err(file("read", &at))?;
                let (path, kind) = (entry.path(), entry.file_type().map_err(file("read", &at))?);
                if kind.is_dir() {
                    dirs.push(path);
                } else if kind.is_file() {
                    self.sync(&path)?;
                    let (len, crc32) = checksum(&path)?;
                    let relative = path.strip_prefix(dir).expect("found below it");
                    let Some(relative) = relative.to_str() else {
                        let named = std::io::Error::other("its name is not UTF-8");
                        return Err(file("keep", &path)(named));
                    };
                    files.push(FileEntry { path: relative.into(), len, crc32 });
                }
            }
            self.sync(&at)?;
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    fn remove_old(&self) -> Result<()> {
        let keep_from = self.keep_from.load(Ordering::Acquire);
        let keep = self.keep.load(Ordering::Acquire);
        for (at, old) in self.numbers()?.into_iter().enumerate().skip(keep) {
            let dir = self.dir.join(old.to_string());
            let stays = || read_manifest(&dir).is_ok_and(|m| m.position >= keep_from);
            let needed = self.pins.holds(old) || at < KEEP_MAX && stays();
            if !needed {
                remove(&dir);
            }
        }
        Ok(())
    }

    /// So many stay from the next one on, at least 1.
    pub fn set_keep(&self, keep: usize) {
        self.keep.store(keep.max(1), Ordering::Release);
    }

    /// Generations with a barrier at or after `position` are not removed for newer ones, within
    /// [`KEEP_MAX`].
    pub fn keep_from(&self, position: u64) {
        self.keep_from.store(position, Ordering::Release);
    }

    /// The generation is not removed for newer ones while the pin is there and something moves. It may
    /// have been removed before.
    #[must_use]
    pub fn pin(&self, number: u64) -> Pin {
        self.pins.pin(number)
    }

    /// What the generations are, newest first; those that cannot be read are left out.
    #[must_use]
    pub fn manifests(&self) -> Vec<Manifest> {
        let numbers = self.numbers().unwrap_or_default().into_iter();
        numbers.filter_map(|n| read_manifest(&self.dir.join(n.to_string())).ok()).collect()
    }

    /// Reads a generation and checks every byte of it.
    ///
    /// # Errors
    /// What is damaged, or could not be read.
    pub fn load(&self, number: u64) -> Result<Generation> {
        let (dir, name) = (self.dir.join(number.to_string()), number.to_string());
        Generation::checked(number, dir, &name)
    }

    /// The newest generation that is sound; those that are not are named in the log.
    ///
    /// # Errors
    /// [`Error::None`] if there is none.
    pub fn newest(&self) -> Result<Generation> {
        self.newest_that(|_| true)
    }

    /// The newest generation that is sound and fits.
    ///
    /// # Errors
    /// [`Error::None`] if there is none.
    pub fn newest_that(&self, fits: impl Fn(&Manifest) -> bool) -> Result<Generation> {
        Ok(self.newest_pinned(fits)?.0)
    }

    /// As [`Store::newest_that`], and it stays while the pin does.
    ///
    /// # Errors
    /// [`Error::None`] if there is none.
    pub fn newest_pinned(&self, fits: impl Fn(&Manifest) -> bool) -> Result<(Generation, Pin)> {
        for number in self.numbers()? {
            let pin = self.pin(number);
            // One that cannot be read is named below.
            let manifest = read_manifest(&self.dir.join(number.to_string()));
            if manifest.is_ok_and(|m| !fits(&m)) {
                continue;
            }
            match self.load(number) {
                Ok(generation) => return Ok((generation, pin)),
                Err(e) => tracing::warn!("{e}; the generation before it is used"),
            }
        }
        Err(Error::None(self.dir.clone()))
    }

    /// Puts a generation aside that did not restore; the one put aside before it is removed.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub fn reject(&self, number: u64) -> Result<()> {
        let (dir, aside) = (self.dir.join(number.to_string()), self.dir.join(REJECTED));
        remove(&aside);
        fs::rename(&dir, &aside).map_err(file("put aside", &dir))
    }
}

impl Generation {
    /// One that was copied elsewhere, or lies in a node's directory, which is not touched. Every byte
    /// of it is checked.
    ///
    /// # Errors
    /// What is damaged, or could not be read.
    pub fn read(dir: &Path) -> Result<Generation> {
        let number = dir.file_name().and_then(|name| name.to_str()?.parse().ok());
        Generation::checked(number.unwrap_or_default(), dir.into(), &dir.display().to_string())
    }

    fn checked(number: u64, dir: PathBuf, name: &str) -> Result<Generation> {
        let damaged = |what: String| Error::Damaged { generation: name.into(), what };
        let manifest = read_manifest(&dir).map_err(|what| damaged(what.to_string()))?;
        for entry in &manifest.files {
            match checksum(&dir.join(&entry.path)) {
                Ok((len, crc32)) if (len, crc32) == (entry.len, entry.crc32) => {}
                Ok(_) => return Err(damaged(format!("{} is not what was written", entry.path))),
                Err(e) => return Err(damaged(e.to_string())),
            }
        }
        Ok(Generation { number, dir, manifest })
    }
}

impl Draft {
    /// Whoever interrupts it may not continue it later.
    pub fn discard(mut self) {
        self.stays = false;
    }

    /// Where its files belong.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The number that it will have.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.stays {
            remove(&self.dir);
        }
    }
}

fn remove(dir: &Path) {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!("cannot remove {}: {e}", dir.display());
        }
        _ => {}
    }
}

/// In which file two lists differ first.
fn differs(found: &[FileEntry], named: &[FileEntry]) -> String {
    let missing = named.iter().find(|entry| !found.contains(entry));
    let entry = missing.or_else(|| found.iter().find(|entry| !named.contains(entry)));
    entry.map_or_else(String::new, |entry| format!("{} is not what was written", entry.path))
}

fn read_manifest(dir: &Path) -> Result<Manifest> {
    let path = dir.join(MANIFEST);
    let opened = File::open(&path).map_err(file("open", &path))?;
    let mut text = String::new();
    opened.take(MANIFEST_BYTES_MAX).read_to_string(&mut text).map_err(file("read", &path))?;
    parse_manifest(&text, &path)
}

pub(crate) fn parse_manifest(text: &str, path: &Path) -> Result<Manifest> {
    let invalid = |what: String| file("understand", path)(std::io::Error::other(what));
    let manifest: Manifest = toml::from_str(text).map_err(|e| invalid(e.to_string()))?;
    if manifest.version != VERSION {
        return Err(invalid(format!("version {}, not {VERSION}", manifest.version)));
    }
    if manifest.floor > manifest.position {
        return Err(invalid("the floor is after the barrier".into()));
    }
    if let Some(entry) = manifest.files.iter().find(|entry| !is_inside(&entry.path)) {
        return Err(invalid(format!("it names {}", entry.path)));
    }
    Ok(manifest)
}

/// A path that stays below the checkpoint's directory.
fn is_inside(path: &str) -> bool {
    let normal = |c| matches!(c, std::path::Component::Normal(_));
    !path.is_empty() && Path::new(path).components().all(normal)
}

pub(crate) fn checksum(path: &Path) -> Result<(u64, u32)> {
    let mut from = File::open(path).map_err(file("open", path))?;
    let (mut hasher, mut len) = (crc32fast::Hasher::new(), 0);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let n = from.read(&mut buffer).map_err(file("read", path))?;
        if n == 0 {
            return Ok((len, hasher.finalize()));
        }
        hasher.update(&buffer[..n]);
        len += n as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(store: &Store, contents: &[u8]) -> Generation {
        let draft = store.begin().unwrap();
        fs::create_dir(draft.dir().join("image")).unwrap();
        fs::write(draft.dir().join("image/pages"), contents).unwrap();
        let manifest = Manifest { position: 80, floor: 40, ..Manifest::default() };
        store.commit(draft, manifest).unwrap()
    }

    #[test]
    fn the_last_generations_are_kept_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 2).unwrap();
        assert!(matches!(store.newest(), Err(Error::None(_))));
        let all: Vec<Generation> = (0..4).map(|n| add(&store, &[n; 1000])).collect();
        assert_eq!(store.numbers().unwrap(), [4, 3]);
        assert_eq!(store.newest().unwrap(), all[3]);
        assert_eq!(store.load(3).unwrap(), all[2]);
        assert_eq!(all[3].manifest.bytes(), 1000);
        assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
        // Told to one, it counts for every handle.
        store.clone().set_keep(3);
        add(&store, &[4; 1000]);
        assert_eq!(store.numbers().unwrap(), [5, 4, 3]);
        store.set_keep(1);
        add(&store, &[5; 1000]);
        assert_eq!(store.numbers().unwrap(), [6]);
    }

    #[test]
    fn a_damaged_generation_gives_way_to_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 9).unwrap();
        for n in 0..5 {
            add(&store, &[n; 1000]);
        }
        fs::write(dir.path().join("5/image/pages"), [0; 1000]).unwrap();
        fs::write(dir.path().join("4/image/pages"), [3; 999]).unwrap();
        fs::remove_file(dir.path().join("3/image/pages")).unwrap();
        let text = fs::read_to_string(dir.path().join("2/manifest.toml")).unwrap();
        fs::write(dir.path().join("2/manifest.toml"), &text[..text.len() / 2]).unwrap();
        assert_eq!(store.newest().unwrap().number, 1);
        fs::write(dir.path().join("1/manifest.toml"), text.replace("image/pages", "../x")).unwrap();
        let error = store.load(1).unwrap_err().to_string();
        assert!(error.contains("it names ../x"), "{error}");
        assert!(matches!(store.newest(), Err(Error::None(_))));
    }

    #[test]
    fn a_copy_is_read_wherever_it_is_and_named_by_that() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), 9).unwrap();
        let kept = add(&store, &[7; 1000]);
        assert_eq!(Generation::read(&kept.dir).unwrap(), kept);
        let copy = dir.path().join("copy");
        fs::rename(&kept.dir, &copy).unwrap();
        let read = Generation::read(&copy).unwrap();
        assert_eq!((read.manifest, read.dir), (kept.manifest, copy.clone()));
        fs::write(copy.join("image/pages"), [8; 1000]).unwrap();
        let error = Generation::read(&copy).unwrap_err().to_string();
        let expected = format!("checkpoint {} is damaged: image/pages is not", copy.display());
        assert!(error.starts_with(&expected), "{error}");
        fs::remove_file(copy.join(MANIFEST)).unwrap();
        let error = Generation::read(&copy).unwrap_err().to_string();
        assert!(error.contains("cannot open"), "{error}");
    }

    #[test]
    fn what_did_not_restore_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 9).unwrap();
        for n in 0..4 {
            add(&store, &[n; 10]);
        }
        store.reject(4).unwrap();
        assert_eq!(store.newest().unwrap().number, 3);
        store.set_trying(Some(3));
        store.set_trying(None);
        assert_eq!(Store::open(dir.path(), 9).unwrap().newest().unwrap().number, 3);
        store.set_trying(Some(3));
        let store = Store::open(dir.path(), 9).unwrap();
        assert_eq!(store.newest().unwrap().number, 2);
        assert_eq!(Store::open(dir.path(), 9).unwrap().newest().unwrap().number, 2);
        let of_one = |m: &Manifest| m.position == 80;
        assert_eq!(store.newest_that(of_one).unwrap().number, 2);
        assert!(matches!(store.newest_that(|m| m.position > 80), Err(Error::None(_))));
    }

    #[test]
    fn what_is_being_sent_stays_while_it_moves() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 2).unwrap();
        add(&store, b"1");
        let (sent, pin) = store.newest_pinned(|_| true).unwrap();
        let twice = store.pin(sent.number);
        for n in 0..20 {
            add(&store, &[n]);
        }
        assert_eq!(store.numbers().unwrap(), [21, 20, 1]);
        assert_eq!(store.load(1).unwrap(), sent);
        drop(pin);
        add(&store, b"x");
        assert_eq!(store.numbers().unwrap(), [22, 21, 1], "another one sends it, too");
        twice.expire();
        add(&store, b"y");
        assert_eq!(store.numbers().unwrap(), [23, 22], "nothing of it moves");
        twice.moved();
        add(&store, b"z");
        assert_eq!(store.numbers().unwrap(), [24, 23]);
    }

    #[test]
    fn what_was_not_finished_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 2).unwrap();
        drop(store.begin().unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        std::mem::forget(store.begin().unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "as a crash leaves it");
        let store = Store::open(dir.path(), 2).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(add(&store, b"x").number, 1);
    }
}
