//! The service's state directories, packed by `tar` while the application stands still, and put back.
//!
//! Owners, permissions, links, pipes, extended attributes and holes are kept; sockets are not, since
//! nobody listens at the other end any more.

use std::fs;
use std::io::{Error as IoError, ErrorKind};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Result, file};

/// What both ways are to keep.
const KEPT: [&str; 3] = ["--numeric-owner", "--xattrs", "--acls"];

/// A shell command that packs `from`, a word of its own, into `to`, likewise.
pub fn packing(from: &str, to: &str) -> String {
    // Status 1: a file changed while it was read, which others than the application may do.
    format!(
        "tar --create {} --sparse --warning=no-file-ignored --file {to} --directory {from} . || [ $? -eq 1 ]\n",
        KEPT.join(" ")
    )
}

/// Makes `to` hold what was packed and nothing else.
///
/// # Errors
/// What could not be removed, made or unpacked.
pub fn replace(packed: &Path, to: &Path) -> Result<()> {
    match fs::read_dir(to) {
        Ok(entries) => {
            for entry in entries.flatten() {
                let path = entry.path();
                let dir = entry.file_type().is_ok_and(|t| t.is_dir());
                let gone = if dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                gone.map_err(file("remove", &path))?;
            }
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {
            fs::create_dir_all(to).map_err(file("make", to))?;
        }
        Err(e) => return Err(file("read", to)(e)),
    }
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--preserve-permissions"]).args(KEPT);
    tar.arg("--file").arg(packed).arg("--directory").arg(to);
    let done = tar.stdin(Stdio::null()).output().map_err(file("run tar for", to))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let first = said.lines().next().unwrap_or("tar failed").to_string();
    Err(file("unpack into", to)(IoError::other(first)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_tree_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (a, c) = (dir.path().join("a"), dir.path().join("c"));
        fs::create_dir_all(a.join("sub/empty")).unwrap();
        fs::write(a.join("sub/data"), b"contents").unwrap();
        fs::set_permissions(a.join("sub/data"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("sub/data", a.join("link")).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(a.join("socket")).unwrap();
        let packed = dir.path().join("packed.tar");
        let script = packing(a.to_str().unwrap(), packed.to_str().unwrap());
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
        drop(socket);
        fs::create_dir_all(c.join("old")).unwrap();
        fs::write(c.join("stale"), b"x").unwrap();
        replace(&packed, &c).unwrap();
        assert_eq!(fs::read(c.join("link")).unwrap(), b"contents");
        assert_eq!(fs::metadata(c.join("sub/data")).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(c.join("sub/empty").is_dir());
        assert!(!c.join("stale").exists() && !c.join("old").exists() && !c.join("socket").exists());
        fs::write(&packed, b"rubbish").unwrap();
        let error = replace(&packed, &c).unwrap_err().to_string();
        assert!(error.contains("cannot unpack into"), "{error}");
    }
}
