//! The service's state directories, as a checkpoint has them, put back.
//!
//! Files, directories and symbolic links with their permissions and owners; sockets, pipes and
//! devices are passed over and counted.

use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;

use crate::error::{Result, file};

/// Deeper trees are refused: a loop of mounts, most likely.
const DEPTH_MAX: usize = 64;

/// Makes `to` hold what `from` holds and nothing else. Returns how many special files were left out.
pub fn replace(from: &Path, to: &Path) -> Result<u64> {
    match fs::read_dir(to) {
        Ok(entries) => {
            for entry in entries.flatten() {
                let path = entry.path();
                let dir = entry.file_type().is_ok_and(|t| t.is_dir());
                let gone = if dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                gone.map_err(file("remove", &path))?;
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(file("read", to)(e)),
    }
    copy_dir(from, to, 0)
}

fn copy_dir(from: &Path, to: &Path, depth: usize) -> Result<u64> {
    if depth > DEPTH_MAX {
        let deep = std::io::Error::other("directories are nested too deeply");
        return Err(file("copy", from)(deep));
    }
    fs::create_dir_all(to).map_err(file("make", to))?;
    let mut left_out = 0;
    for entry in fs::read_dir(from).map_err(file("read", from))? {
        let entry = entry.map_err(file("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let meta = match fs::symlink_metadata(&source) {
            Ok(meta) => meta,
            // It was there a moment ago: somebody removes it.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(file("look at", &source)(e)),
        };
        if meta.is_dir() {
            left_out += copy_dir(&source, &target, depth + 1)?;
        } else if meta.is_symlink() {
            let aim = fs::read_link(&source).map_err(file("read", &source))?;
            symlink(aim, &target).map_err(file("make", &target))?;
            own(&target, &meta)?;
        } else if meta.is_file() {
            fs::copy(&source, &target).map_err(file("copy", &source))?;
            own(&target, &meta)?;
        } else {
            left_out += 1;
        }
    }
    let meta = fs::metadata(from).map_err(file("look at", from))?;
    own(to, &meta)?;
    let mode = fs::Permissions::from_mode(meta.permissions().mode());
    fs::set_permissions(to, mode).map_err(file("set the permissions of", to))?;
    Ok(left_out)
}

/// Only root may give files away; anybody else owns what he copies.
fn own(path: &Path, meta: &Metadata) -> Result<()> {
    match lchown(path, Some(meta.uid()), Some(meta.gid())) {
        Err(e) if e.kind() != std::io::ErrorKind::PermissionDenied => {
            Err(file("set the owner of", path)(e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, c) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
        fs::create_dir_all(a.join("sub")).unwrap();
        fs::write(a.join("sub/data"), b"contents").unwrap();
        fs::set_permissions(a.join("sub/data"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("sub/data", a.join("link")).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(a.join("socket")).unwrap();
        assert_eq!(replace(&a, &b).unwrap(), 1);
        drop(socket);
        fs::create_dir_all(c.join("old")).unwrap();
        fs::write(c.join("stale"), b"x").unwrap();
        replace(&b, &c).unwrap();
        assert_eq!(fs::read(c.join("link")).unwrap(), b"contents");
        assert_eq!(fs::metadata(c.join("sub/data")).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(!c.join("stale").exists() && !c.join("old").exists() && !c.join("socket").exists());
    }
}
