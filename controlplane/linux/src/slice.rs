//! How long a thread may use a CPU before others get it.
//!
//! The fair scheduler lets a thread that asks for a shorter slice go first when it wakes, ahead of one that is in the
//! middle of a longer one (Linux 6.12, `kernel/sched/fair.c`, `PREEMPT_SHORT`; earlier kernels ignore the wish). A
//! thread with a CPU of its own loses nothing.

use std::mem::size_of;
use std::time::Duration;

use crate::{Error, Result};

/// The shortest there is.
pub const SHORTEST: Duration = Duration::from_micros(100);
const NO_FLAGS: libc::c_ulong = 0;
const ALLOW: &str = "allow sched_getattr and sched_setattr";

/// Asks for slices of this length for the calling thread, not for what it starts afterwards.
///
/// # Errors
/// If the kernel refuses it, which a filter of system calls makes it do.
pub fn ask(slice: Duration) -> Result<()> {
    let mut attr = attributes()?;
    // Whoever runs the daemon under a policy of real time has decided otherwise.
    if attr.sched_policy != libc::SCHED_OTHER as u32 {
        return Ok(());
    }
    attr.sched_flags |= libc::SCHED_FLAG_RESET_ON_FORK as u64;
    attr.sched_runtime = slice.as_nanos() as u64;
    // SAFETY: the structure is live, and says its own length; 0 is the calling thread.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, NO_FLAGS) };
    if set != 0 {
        return Err(Error::last_os("ask for short slices", ALLOW));
    }
    Ok(())
}

/// How the calling thread is scheduled.
fn attributes() -> Result<libc::sched_attr> {
    const SIZE: u32 = size_of::<libc::sched_attr>() as u32;
    // SAFETY: all zeroes is a value of this structure of integers.
    let mut attr: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is live, writable, and of the length given; 0 is the calling thread.
    let read = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, SIZE, NO_FLAGS) };
    if read != 0 {
        return Err(Error::last_os("read how a thread is scheduled", ALLOW));
    }
    Ok(attr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_asks_for_itself_and_its_children_do_not_inherit_it() {
        let slice_ns = || attributes().unwrap().sched_runtime;
        let before_ns = slice_ns();
        std::thread::spawn(move || {
            ask(SHORTEST).unwrap();
            let own_ns = slice_ns();
            // Older kernels tell none.
            assert!(own_ns == SHORTEST.as_nanos() as u64 || own_ns == before_ns, "{own_ns}");
            let child = std::thread::spawn(slice_ns);
            assert_eq!(child.join().unwrap(), before_ns);
        })
        .join()
        .unwrap();
    }
}
