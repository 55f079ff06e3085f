//! Single threads of other processes, stopped by ptrace.
//!
//! What `waitid` tells is left there (`WNOWAIT`): a stop that nobody took note of keeps its signal,
//! so that the kernel delivers it even if the tracing thread ends without a detach.

use std::{ffi::c_long, io, ptr};

/// What a traced thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It runs, or sleeps in the kernel.
    Runs,
    /// It stands still.
    Stopped {
        /// The signal that it has stopped to be asked about; 0 if none.
        signal: i32,
    },
    /// It has ended, or is not traced by this thread.
    Gone,
}

fn request(request: libc::c_uint, tid: i32, data: c_long) -> io::Result<()> {
    // SAFETY: the requests of this module take plain numbers; the kernel reads and writes no
    // memory of ours, and checks that the calling thread may trace, or traces, that thread.
    let done = unsafe { libc::ptrace(request, tid, ptr::null_mut::<u8>(), data) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Begins to trace; the thread goes on. It ends at the latest with the calling thread.
pub(crate) fn seize(tid: i32) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, tid, 0)
}

/// Asks it to stop before it next runs in user mode.
pub(crate) fn interrupt(tid: i32) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT, tid, 0)
}

/// Lets a stopped thread go on, with the signal that it has stopped for.
pub(crate) fn detach(tid: i32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_DETACH, tid, signal.into())
}

/// What a thread that the caller traces does, without waiting.
pub(crate) fn look(tid: i32) -> Seen {
    const FLAGS: i32 = libc::WSTOPPED
        | libc::WEXITED
        | libc::WNOHANG
        | libc::WNOWAIT
        | libc::__WALL
        | libc::__WNOTHREAD;
    // SAFETY: all-zero bytes are a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is a live siginfo_t; the other arguments are plain numbers.
    if unsafe { libc::waitid(libc::P_PID, tid as libc::id_t, &mut info, FLAGS) } != 0 {
        return Seen::Gone;
    }
    // SAFETY: the call filled in what SIGCHLD tells, or left the zeros.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    match info.si_code {
        _ if pid == 0 => Seen::Runs,
        libc::CLD_TRAPPED | libc::CLD_STOPPED => Seen::Stopped { signal: asked_about(status) },
        _ => Seen::Gone,
    }
}

/// A stop that is an event (an interrupt, a group's stop) has its number above the signal's, and
/// no signal to deliver.
fn asked_about(status: i32) -> i32 {
    if status >> 8 == 0 { status & 0x7f } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_no_signals() {
        assert_eq!(asked_about(libc::SIGUSR1), libc::SIGUSR1);
        assert_eq!(asked_about(libc::PTRACE_EVENT_STOP << 8 | libc::SIGTRAP), 0);
        assert_eq!(asked_about(libc::PTRACE_EVENT_STOP << 8 | libc::SIGSTOP), 0);
    }

    #[test]
    fn strangers_are_gone() {
        assert_eq!(look(std::process::id() as i32), Seen::Gone);
        assert!(interrupt(1).is_err() && detach(1, 0).is_err());
    }
}
