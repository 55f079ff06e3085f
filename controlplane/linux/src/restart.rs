//! Starting the daemon anew in place: same process id, nothing inherited.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// Replaces this process by a fresh run of the same program with the same arguments. Every
/// descriptor but the standard three is closed on the way, so that huge pages, packet sockets
/// with frames still queued, and namespaces end with this life. `notes` are environment variables
/// for the next life, which lacks those without a value. Returns only on failure.
pub fn restart_self(notes: &[(&str, Option<&OsStr>)]) -> io::Error {
    let program = match std::env::current_exe() {
        // An upgrade has put another one in its place; this life's is still to be had.
        Ok(program) if !program.exists() => PathBuf::from("/proc/self/exe"),
        Ok(program) => program,
        Err(e) => return e,
    };
    // SAFETY: takes plain numbers; marks descriptors close-on-exec and closes none now, so that
    // no owner in this process is left with a dead descriptor.
    let done = unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if done != 0 {
        return io::Error::last_os_error();
    }
    let mut command = Command::new(program);
    let mut words = std::env::args_os();
    if let Some(name) = words.next() {
        command.arg0(name);
    }
    command.args(words);
    for (name, value) in notes {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.exec()
}
