//! All threads of an application standing still, for as long as a closure runs.
//!
//! By ptrace, on a thread of its own that ends with it: whatever happens there, an error, a panic,
//! the end of the daemon, the kernel releases everything when that thread ends. No signal is lost:
//! a thread that stopped to be asked about one gets it.
//!
//! What the application can notice is what any debugger or a stop and continue does: a call such
//! as `epoll_wait` returns EINTR, a blocked write is cut short.

use crate::{
    Error, Result,
    capsule::tree,
    netns::scratch,
    ptrace::{self, Seen},
};
use std::{
    collections::BTreeSet,
    fs, io,
    sync::{Mutex, MutexGuard, PoisonError, TryLockError},
    thread,
    time::{Duration, Instant},
};

/// A closure's answer, and what it cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stood<T> {
    /// The answer.
    pub value: T,
    /// From before the first thread was asked to stop until the last one went on; the longest, if
    /// it took several attempts.
    pub frozen: Duration,
    /// Attempts, the last of which succeeded.
    pub attempts: u32,
    /// How long threads were stopped in all attempts.
    pub frozen_total: Duration,
}

/// Threads that do not stop within this are given up and all released. One that is ready to run
/// has to be given a processor first; one in a disk's driver has to come back; a program that is
/// just being started (`vfork`) has to be there. Later attempts are more patient, for machines that
/// are overloaded.
const STOP_WITHIN_MS: [u64; 6] = [10, 10, 20, 20, 40, 40];
/// Between attempts, growing with their number.
const RETRY_AFTER: Duration = Duration::from_millis(15);
/// Threads in one application at most; more are an error.
const TASKS_MAX: usize = 16_384;
/// Looks at threads that still run, before a look costs a nap.
const SPINS: u32 = 5;
const NAP: Duration = Duration::from_micros(30);

/// One tracer at a time: a process has no second one, and CRIU fails if it finds one.
static TRACER: Mutex<()> = Mutex::new(());

/// The right to trace the application, for who does so otherwise (a checkpoint by CRIU). Waits
/// for a standstill that is under way, which takes milliseconds.
pub fn exclusive() -> MutexGuard<'static, ()> {
    TRACER.lock().unwrap_or_else(PoisonError::into_inner)
}

fn exclusive_within(limit: Duration) -> Result<MutexGuard<'static, ()>> {
    let end = Instant::now() + limit;
    loop {
        match TRACER.try_lock() {
            Ok(guard) => return Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() >= end => {
                return Err(Error::TracerBusy { waited_ms: limit.as_millis() });
            }
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Stops all threads of the process `root` and of its descendants, runs `act`, and lets them go
/// on. `act` runs on a thread of its own and decides how long they stand still. Waits up to
/// `patience` for another tracer of this daemon.
///
/// # Errors
/// If another tracer has the application, or some thread of it does not stop in several attempts
/// of 10 to 40 ms.
pub fn stand_still<T: Send>(
    root: i32,
    patience: Duration,
    act: impl FnOnce() -> T + Send,
) -> Result<Stood<T>> {
    let mut act = Some(act);
    let (mut frozen, mut frozen_total) = (Duration::ZERO, Duration::ZERO);
    let mut attempts = 0;
    loop {
        let within = Duration::from_millis(STOP_WITHIN_MS[attempts as usize]);
        attempts += 1;
        let tracer = exclusive_within(patience)?;
        let (acted, took) = scratch(|| {
            be_quick();
            let begun = Instant::now();
            let mut still = Still::default();
            let acted = still.stop(root, begun + within).map(|()| act.take().map(|act| act()));
            drop(still);
            (acted, begun.elapsed())
        })?;
        drop(tracer);
        (frozen, frozen_total) = (frozen.max(took), frozen_total + took);
        match acted {
            Ok(value) => {
                let value = value.expect("only one attempt succeeds");
                return Ok(Stood { value, frozen, attempts, frozen_total });
            }
            Err(Error::DoesNotStop { .. }) if (attempts as usize) < STOP_WITHIN_MS.len() => {
                thread::sleep(RETRY_AFTER * attempts);
            }
            Err(e) => return Err(e),
        }
    }
}

/// Whether every thread of the process `root` and of its descendants sleeps at this moment, waiting for
/// something: none runs, is about to, or is in the middle of a read or write of a disk.
#[must_use]
pub fn is_asleep(root: i32) -> bool {
    let sleeps = |tid| matches!(stat_state(tid), Some('S' | 'I' | 'Z' | 'X') | None);
    tree(root).into_iter().all(|pid| tasks(pid).into_iter().all(sleeps))
}

/// While others stand still this thread should not wait for its turn; it ends soon.
fn be_quick() {
    const FIRST: i32 = -20;
    // SAFETY: takes plain numbers; 0 is the calling thread. Without the right nothing changes.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, FIRST) };
}

/// Threads that this thread has stopped. Dropped, they go on; what cannot be released so goes on
/// when this thread ends.
#[derive(Default)]
struct Still(BTreeSet<i32>);

impl Still {
    /// Until a look over all finds none that is new: who stands still starts no other.
    fn stop(&mut self, root: i32, deadline: Instant) -> Result<()> {
        loop {
            let found = self.seize_new(root, deadline)?;
            if found.is_empty() {
                return Ok(());
            }
            for &tid in &found {
                // One that has ended in between is seen so below.
                let _ = ptrace::interrupt(tid);
            }
            await_stops(&found, deadline)?;
        }
    }

    fn seize_new(&mut self, root: i32, deadline: Instant) -> Result<Vec<i32>> {
        let mut found = Vec::new();
        for pid in tree(root) {
            for tid in tasks(pid) {
                if self.0.contains(&tid) {
                    continue;
                }
                if Instant::now() > deadline || self.0.len() >= TASKS_MAX {
                    return Err(does_not_stop(tid));
                }
                match ptrace::seize(tid) {
                    Ok(()) => {
                        self.0.insert(tid);
                        found.push(tid);
                    }
                    Err(e) => refused(tid, e)?,
                }
            }
        }
        if self.0.is_empty() {
            return Err(Error::ApplicationGone { pid: root });
        }
        Ok(found)
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        for &tid in &self.0 {
            if let Seen::Stopped { signal } = ptrace::look(tid) {
                // It may be killed at this moment.
                let _ = ptrace::detach(tid, signal);
            }
        }
    }
}

fn await_stops(tids: &[i32], deadline: Instant) -> Result<()> {
    for &tid in tids {
        let mut looks = 0;
        while ptrace::look(tid) == Seen::Runs {
            looks += 1;
            if looks < SPINS {
                thread::yield_now();
                continue;
            }
            if is_dead(tid) {
                break;
            }
            if Instant::now() > deadline {
                return Err(does_not_stop(tid));
            }
            thread::sleep(NAP);
        }
    }
    Ok(())
}

/// A thread that cannot be traced: no matter if it has ended.
fn refused(tid: i32, error: io::Error) -> Result<()> {
    if error.raw_os_error() == Some(libc::ESRCH) || is_dead(tid) {
        return Ok(());
    }
    match tracer_of(tid) {
        Some(tracer) => Err(Error::Traced { tid, tracer }),
        None => Err(Error::os(
            format!("stop thread {tid} of the application"),
            "run understudyd as root or with CAP_SYS_PTRACE, with kernel.yama.ptrace_scope below 3",
            error,
        )),
    }
}

fn does_not_stop(tid: i32) -> Error {
    let state = stat_state(tid).unwrap_or('?');
    Error::DoesNotStop { tid, state }
}

fn tasks(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The letter in `/proc/<tid>/stat` behind the name, which may hold blanks and brackets.
fn stat_state(tid: i32) -> Option<char> {
    let text = fs::read(format!("/proc/{tid}/stat")).ok()?;
    let end = text.iter().rposition(|&b| b == b')')?;
    text.get(end + 2).map(|&b| char::from(b))
}

fn is_dead(tid: i32) -> bool {
    stat_state(tid).is_none_or(|state| matches!(state, 'Z' | 'X' | 'x'))
}

/// Number and name of who traces a thread.
fn tracer_of(tid: i32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let pid = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?.trim();
    if pid == "0" {
        return None;
    }
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("process {pid} ({})", name.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead, BufReader},
        panic::{AssertUnwindSafe, catch_unwind},
        process::{Child, ChildStdout, Command, Stdio},
        sync::mpsc,
    };

    const SOON: Duration = Duration::from_secs(5);
    const COUNTS: &str = "trap 'echo signal' USR1; echo ready; while :; do :; done";

    struct Shell(Child, BufReader<ChildStdout>);

    impl Shell {
        fn start(script: &str) -> Shell {
            // It ends with the test, also if that is killed: it may be one that never rests.
            let mut command = Command::new("setpriv");
            let command = command.args(["--pdeathsig", "KILL", "sh", "-c", script]);
            let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
            let said = BufReader::new(child.stdout.take().unwrap());
            let mut shell = Shell(child, said);
            assert_eq!(shell.line(), "ready");
            shell
        }

        fn pid(&self) -> i32 {
            self.0.id() as i32
        }

        fn line(&mut self) -> String {
            let mut line = String::new();
            self.1.read_line(&mut line).unwrap();
            line.trim_end().to_owned()
        }

        fn kill(&self, signal: i32) {
            // SAFETY: takes plain numbers; the child is not reaped yet, so the number is its own.
            assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0);
        }

        fn reaches(&self, states: &str) {
            let end = Instant::now() + SOON;
            while !stat_state(self.pid()).is_some_and(|state| states.contains(state)) {
                assert!(Instant::now() < end, "{:?}, not {states}", stat_state(self.pid()));
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn all_processes_stand_still_and_go_on() {
        let shell = Shell::start("(while :; do :; done) & (sleep 60) & echo ready; wait");
        let all = tree(shell.pid());
        assert!(all.len() >= 3, "{all:?}");
        for _ in 0..20 {
            let states = || tree(shell.pid()).into_iter().map(stat_state).collect::<Vec<_>>();
            let stood = stand_still(shell.pid(), SOON, states).unwrap();
            assert!(stood.value.iter().all(|s| *s == Some('t')), "{:?}", stood.value);
            assert!(states().iter().all(|s| *s != Some('t')), "{:?}", states());
        }
        for pid in all.into_iter().skip(1) {
            // SAFETY: takes plain numbers; the shell has not ended, so its children are not reaped.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }

    /// Stopped by a signal, released by `release`: the signal arrives.
    fn a_signal_arrives(release: fn(Still)) {
        let mut shell = Shell::start(COUNTS);
        scratch(|| {
            let mut still = Still::default();
            still.seize_new(shell.pid(), Instant::now() + SOON).unwrap();
            shell.kill(libc::SIGUSR1);
            shell.reaches("t");
            assert_eq!(ptrace::look(shell.pid()), Seen::Stopped { signal: libc::SIGUSR1 });
            release(still);
        })
        .unwrap();
        assert_eq!(shell.line(), "signal");
        shell.reaches("RS");
    }

    #[test]
    fn no_signal_is_lost() {
        a_signal_arrives(drop);
    }

    #[test]
    fn no_signal_is_lost_when_the_thread_only_ends() {
        a_signal_arrives(std::mem::forget);
    }

    #[test]
    fn the_end_of_the_thread_releases_what_is_not_yet_stopped() {
        let shell = Shell::start(COUNTS);
        scratch(|| {
            let mut still = Still::default();
            still.seize_new(shell.pid(), Instant::now() + SOON).unwrap();
            ptrace::interrupt(shell.pid()).unwrap();
            std::mem::forget(still);
        })
        .unwrap();
        shell.reaches("R");
    }

    #[test]
    fn what_does_not_stop_in_time_goes_on() {
        let shell = Shell::start("sleep 60 & echo ready; while :; do :; done");
        let late = scratch(|| Still::default().stop(shell.pid(), Instant::now() - SOON)).unwrap();
        assert!(matches!(late, Err(Error::DoesNotStop { .. })), "{late:?}");
        shell.reaches("R");
        for pid in tree(shell.pid()).into_iter().skip(1) {
            // SAFETY: takes plain numbers; the shell has not ended, so its child is not reaped.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }

    #[test]
    fn a_panic_releases_and_is_passed_on() {
        let mut shell = Shell::start(COUNTS);
        let stood = catch_unwind(AssertUnwindSafe(|| {
            stand_still(shell.pid(), SOON, || panic!("on purpose")).map(|s: Stood<()>| s.frozen)
        }));
        assert!(stood.is_err());
        shell.reaches("R");
        shell.kill(libc::SIGUSR1);
        assert_eq!(shell.line(), "signal");
        assert!(stand_still(shell.pid(), SOON, || ()).is_ok(), "the next one may");
    }

    #[test]
    fn who_was_stopped_stays_so() {
        let shell = Shell::start(COUNTS);
        shell.kill(libc::SIGSTOP);
        shell.reaches("T");
        assert_eq!(stand_still(shell.pid(), SOON, || 7).unwrap().value, 7);
        shell.reaches("T");
        shell.kill(libc::SIGCONT);
        shell.reaches("R");
    }

    #[test]
    fn another_tracer_is_named_and_not_disturbed() {
        let shell = Shell::start(COUNTS);
        let (held, is_held) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let pid = shell.pid();
            scope.spawn(move || {
                let mut still = Still::default();
                still.stop(pid, Instant::now() + SOON).unwrap();
                held.send(()).unwrap();
                let _ = ended.recv();
                assert!(matches!(ptrace::look(pid), Seen::Stopped { .. }));
            });
            is_held.recv().unwrap();
            let refused = stand_still(shell.pid(), SOON, || ()).unwrap_err().to_string();
            assert!(refused.contains("is traced by process "), "{refused}");
            drop(end);
        });
        shell.reaches("R");
    }

    #[test]
    fn one_tracer_of_ours_at_a_time() {
        let shell = Shell::start(COUNTS);
        let guard = exclusive();
        let refused = stand_still(shell.pid(), Duration::from_millis(20), || ()).unwrap_err();
        assert!(matches!(refused, Error::TracerBusy { .. }), "{refused}");
        drop(guard);
        assert!(stand_still(shell.pid(), SOON, || ()).is_ok());
    }

    #[test]
    fn who_works_is_not_asleep() {
        let busy = Shell::start(COUNTS);
        assert!(!is_asleep(busy.pid()));
        drop(busy);
        // It is being started, first.
        let waits = Shell::start("echo ready; exec sleep 60");
        let end = Instant::now() + SOON;
        while !is_asleep(waits.pid()) && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(is_asleep(waits.pid()), "{:?}", stat_state(waits.pid()));
    }

    #[test]
    fn an_application_that_has_ended_is_named() {
        let mut shell = Shell::start("echo ready");
        shell.0.wait().unwrap();
        let refused = stand_still(shell.pid(), SOON, || ()).unwrap_err();
        assert!(matches!(refused, Error::ApplicationGone { .. }), "{refused}");
    }
}
