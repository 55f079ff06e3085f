//! The generations that a node keeps: one directory each, complete or not there.
//!
//! A draft is written under a name of its own, synced, given its manifest, and renamed; whatever a
//! crash leaves of it is removed at the next start. A generation is believed only after every file
//! has the length and the checksum that the manifest names.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, file};
use crate::manifest::{FileEntry, Manifest, VERSION};

const MANIFEST: &str = "manifest.toml";
const DRAFT: &str = "draft";
/// Longer manifests are damage.
const MANIFEST_BYTES_MAX: u64 = 16 << 20;
const READ_BYTES: usize = 1 << 18;

/// A node's checkpoints.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    keep: usize,
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

/// A generation in the making; dropped, it is gone.
#[derive(Debug)]
pub struct Draft {
    number: u64,
    dir: PathBuf,
    done: bool,
}

impl Store {
    /// The generations in `dir`, which is made; `keep` of them stay, at least 1. Removes drafts
    /// that an earlier life left.
    ///
    /// # Errors
    /// If the directory cannot be made or read.
    pub fn open(dir: &Path, keep: usize) -> Result<Store> {
        fs::create_dir_all(dir).map_err(file("make", dir))?;
        let store = Store { dir: dir.into(), keep: keep.max(1) };
        for entry in fs::read_dir(dir).map_err(file("read", dir))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(DRAFT) {
                remove(&entry.path());
            }
        }
        Ok(store)
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
        let number = self.numbers()?.first().map_or(1, |n| n + 1);
        let dir = self.dir.join(format!("{DRAFT}-{number}"));
        remove(&dir);
        fs::create_dir_all(&dir).map_err(file("make", &dir))?;
        Ok(Draft { number, dir, done: false })
    }

    /// Makes the draft a generation, durably, and removes those beyond the number that is kept.
    ///
    /// # Errors
    /// If it cannot be written; nothing of it stays then.
    pub fn commit(&self, mut draft: Draft, mut manifest: Manifest) -> Result<Generation> {
        manifest.version = VERSION;
        manifest.files = sync_all(&draft.dir)?;
        let text = toml::to_string(&manifest).expect("a manifest is plain data");
        let path = draft.dir.join(MANIFEST);
        fs::write(&path, text).map_err(file("write", &path))?;
        sync(&path)?;
        sync(&draft.dir)?;
        let dir = self.dir.join(draft.number.to_string());
        fs::rename(&draft.dir, &dir).map_err(file("rename", &draft.dir))?;
        draft.done = true;
        sync(&self.dir)?;
        for old in self.numbers()?.into_iter().skip(self.keep) {
            remove(&self.dir.join(old.to_string()));
        }
        Ok(Generation { number: draft.number, dir, manifest })
    }

    /// Reads a generation and checks every byte of it.
    ///
    /// # Errors
    /// What is damaged, or could not be read.
    pub fn load(&self, number: u64) -> Result<Generation> {
        let dir = self.dir.join(number.to_string());
        let damaged = |what: String| Error::Damaged { generation: number, what };
        let manifest = read_manifest(&dir).map_err(|what| damaged(what.to_string()))?;
        for entry in &manifest.files {
            let inside = Path::new(&entry.path)
                .components()
                .all(|c| matches!(c, std::path::Component::Normal(_)));
            if !inside {
                return Err(damaged(format!("it names {}", entry.path)));
            }
            match checksum(&dir.join(&entry.path)) {
                Ok((len, crc32)) if (len, crc32) == (entry.len, entry.crc32) => {}
                Ok(_) => return Err(damaged(format!("{} is not what was written", entry.path))),
                Err(e) => return Err(damaged(e.to_string())),
            }
        }
        Ok(Generation { number, dir, manifest })
    }

    /// The newest generation that is sound; those that are not are named in the log.
    ///
    /// # Errors
    /// [`Error::None`] if there is none.
    pub fn newest(&self) -> Result<Generation> {
        for number in self.numbers()? {
            match self.load(number) {
                Ok(generation) => return Ok(generation),
                Err(e) => tracing::warn!("{e}; the generation before it is used"),
            }
        }
        Err(Error::None(self.dir.clone()))
    }
}

impl Draft {
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
        if !self.done {
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

fn sync(path: &Path) -> Result<()> {
    let opened = File::open(path).map_err(file("open", path))?;
    opened.sync_all().map_err(file("write", path))
}

fn read_manifest(dir: &Path) -> Result<Manifest> {
    let path = dir.join(MANIFEST);
    let opened = File::open(&path).map_err(file("open", &path))?;
    let mut text = String::new();
    opened.take(MANIFEST_BYTES_MAX).read_to_string(&mut text).map_err(file("read", &path))?;
    let invalid = |what: String| file("understand", &path)(std::io::Error::other(what));
    let manifest: Manifest = toml::from_str(&text).map_err(|e| invalid(e.to_string()))?;
    if manifest.version != VERSION {
        return Err(invalid(format!("version {}, not {VERSION}", manifest.version)));
    }
    if manifest.floor > manifest.position {
        return Err(invalid("the floor is after the barrier".into()));
    }
    Ok(manifest)
}

/// Every file below `dir`, durable from now on.
fn sync_all(dir: &Path) -> Result<Vec<FileEntry>> {
    let (mut files, mut dirs) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(at) = dirs.pop() {
        for entry in fs::read_dir(&at).map_err(file("read", &at))? {
            let entry = entry.map_err(file("read", &at))?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(file("read", &at))?);
            if kind.is_dir() {
                dirs.push(path);
            } else if kind.is_file() {
                sync(&path)?;
                let (len, crc32) = checksum(&path)?;
                let relative = path.strip_prefix(dir).expect("found below it");
                let Some(relative) = relative.to_str() else {
                    let named = std::io::Error::other("its name is not UTF-8");
                    return Err(file("keep", &path)(named));
                };
                files.push(FileEntry { path: relative.into(), len, crc32 });
            }
        }
        sync(&at)?;
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn checksum(path: &Path) -> Result<(u64, u32)> {
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
