//! Directories that only one thread, and what it starts, sees in the place of others.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;

use crate::{Error, Result, error::BE_ROOT};

/// From now on the calling thread, and what it starts, finds at the second path of each pair what is
/// at the first; nobody else does. It ends with them.
///
/// # Errors
/// If a path is not a directory here, or the caller lacks CAP_SYS_ADMIN.
pub fn put_over(pairs: &[(PathBuf, PathBuf)]) -> Result<()> {
    // SAFETY: unshare takes no pointers. CLONE_NEWNS gives this thread, and nothing that runs already,
    // mounts and a working directory of its own.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(Error::last_os("make a mount namespace", BE_ROOT));
    }
    // What is mounted from here on is not told to the namespace that this one was copied from.
    let private = libc::MS_REC | libc::MS_PRIVATE;
    mount(None, Path::new("/"), private)?;
    pairs.iter().try_for_each(|(shown, at)| mount(Some(shown), at, libc::MS_BIND))
}

fn mount(source: Option<&Path>, target: &Path, flags: libc::c_ulong) -> Result<()> {
    let word = |text: &OsStr| {
        CString::new(text.as_bytes()).map_err(|_| Error::Nul { what: "a directory's name".into() })
    };
    let from = source.map(|path| word(path.as_os_str())).transpose()?;
    let to = word(target.as_os_str())?;
    let from = from.as_ref().map_or(ptr::null(), |path| path.as_ptr());
    // SAFETY: both names are zero-terminated and outlive the call; a bind mount and a change of
    // propagation take neither type nor data, which may be null.
    let done = unsafe { libc::mount(from, to.as_ptr(), ptr::null(), flags, ptr::null()) };
    if done != 0 {
        let what = format!("put another directory over {}", target.display());
        return Err(Error::last_os(what, "check that it is a directory, and be root"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::scratch;
    use std::fs;

    #[test]
    fn only_whoever_asked_sees_it() {
        // SAFETY: geteuid takes nothing and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir(&a).unwrap();
        fs::create_dir(&b).unwrap();
        fs::write(a.join("file"), "of a").unwrap();
        fs::write(b.join("file"), "of b").unwrap();
        let pairs = [(b.clone(), a.clone())];
        scratch(|| {
            put_over(&pairs).unwrap();
            assert_eq!(fs::read(a.join("file")).unwrap(), b"of b");
            // What it starts sees it, too.
            let read = std::process::Command::new("cat").arg(a.join("file")).output().unwrap();
            assert_eq!(read.stdout, b"of b");
            fs::write(a.join("new"), "x").unwrap();
            let error = put_over(&[(b.clone(), a.join("none"))]).unwrap_err().to_string();
            assert!(error.contains("put another directory over"), "{error}");
        })
        .unwrap();
        assert_eq!(fs::read(a.join("file")).unwrap(), b"of a");
        assert!(b.join("new").exists() && !a.join("new").exists());
    }
}
