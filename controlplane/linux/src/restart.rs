//! Starting the daemon anew in place: same process id, nothing inherited.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Replaces this process by a fresh run of the same program with the same arguments. Every
/// descriptor but the standard three is closed on the way, so that huge pages, packet sockets
/// with frames still queued, and namespaces end with this life. `note` is an environment variable
/// for the next life. Returns only on failure.
pub fn restart_self(note: (&str, &str)) -> io::Error {
    let program = match std::env::current_exe() {
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
    Command::new(program).args(std::env::args_os().skip(1)).env(note.0, note.1).exec()
}
