//! The application's process: in the capsule's network namespace, pid 1 of a pid namespace of its
//! own, in the host's mount namespace, killed with the daemon unless it changes its user (then
//! `orphan` ends it before the next one starts).
//!
//! The child is made as `vfork` would (`CLONE_VM | CLONE_VFORK`), not by `fork`: a fork would mark
//! the daemon's private memory copy-on-write under running poll-mode cores, and private huge
//! pages that a device writes to must not move.

use crate::{Error, Result, image::pidfd_open, netns::NetNs, poll::poll_fds};
use std::{
    collections::BTreeMap,
    env,
    ffi::{CString, OsStr, OsString, c_char, c_int, c_void},
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::PermissionsExt,
            process::ExitStatusExt,
        },
    },
    path::{Path, PathBuf},
    process::ExitStatus,
    ptr,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// What to run in the capsule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppSpec {
    /// Program and arguments. A program without a slash is looked for in `PATH`.
    pub command: Vec<String>,
    /// Working directory; made if missing.
    pub work_dir: PathBuf,
    /// Its whole environment, but for PATH, which it has from the daemon unless given here.
    pub env: Vec<(String, String)>,
    /// File to which standard output and standard error are appended; made if missing.
    pub stdout_log: PathBuf,
}

/// A running application. Dropping it kills it, and with it everything in its pid namespace.
#[derive(Debug)]
pub struct App {
    pid: i32,
    pidfd: OwnedFd,
    status: Option<ExitStatus>,
    // The parent thread lives until this is dropped: PR_SET_PDEATHSIG follows that thread.
    keeper: Option<(mpsc::Sender<()>, thread::JoinHandle<()>)>,
}

/// Sees an application's death before anybody can tell of it: the kernel takes a dying process's
/// memory before it closes its files (`do_exit`, `kernel/exit.c`). From closed files come FINs, and
/// the last words of its other processes, which see a pipe end and are killed only after that.
#[derive(Debug)]
pub struct DeathProbe {
    pid: i32,
    /// Of its first thread.
    statm: File,
}

impl DeathProbe {
    /// One read of `/proc/<pid>/statm`, a third of what `stat` costs: all is 0 without memory. A
    /// process that is gone is dying; one whose first thread alone has ended is not, so then the
    /// others are asked.
    pub fn is_dying(&self) -> bool {
        has_no_memory(&self.statm) && threads(self.pid).all(|statm| has_no_memory(&statm))
    }
}

fn has_no_memory(statm: &File) -> bool {
    let mut buffer = [0u8; 2];
    std::os::unix::fs::FileExt::read_exact_at(statm, &mut buffer, 0).is_err() || buffer == *b"0 "
}

/// `statm` of every thread that is still there.
fn threads(pid: i32) -> impl Iterator<Item = File> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| File::open(task.path().join("statm")).ok())
}

/// How long [`App::kill`] waits for the kernel to tear the pid namespace down.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// How long [`App::stop`] waits.
const STOP_WAIT: Duration = Duration::from_secs(2);
/// Size of the kernel's signal set on every architecture that this builds for.
const SIGSET_BYTES: usize = 8;
const CHILD_STACK_BYTES: usize = 256 * 1024;
impl App {
    /// Starts the application. Returns once the program has been executed, or with the reason
    /// why it could not be.
    pub fn spawn(ns: &NetNs, spec: &AppSpec) -> Result<App> {
        let launch = Launch::prepare(spec)?;
        App::born(ns, move || launch.start())
    }

    /// An application that `restore` brings to life as a child of the thread on which it is called,
    /// in the capsule's network namespace; it returns the process id.
    pub fn restored<E: From<Error> + Send + 'static>(
        ns: &NetNs,
        restore: impl FnOnce() -> std::result::Result<i32, E> + Send + 'static,
    ) -> std::result::Result<App, E> {
        App::born(ns, move || {
            let pid = restore()?;
            Ok((pid, pidfd_open(pid)?))
        })
    }

    fn born<E: From<Error> + Send + 'static>(
        ns: &NetNs,
        bear: impl FnOnce() -> std::result::Result<(i32, OwnedFd), E> + Send + 'static,
    ) -> std::result::Result<App, E> {
        let ns = NetNs::duplicate(ns)?;
        let (answer, started) = mpsc::channel();
        let (stop, stopped) = mpsc::channel::<()>();
        let keeper = thread::Builder::new()
            .name("app-parent".into())
            .spawn(move || {
                let app = ns.enter().map_err(E::from).and_then(|()| bear());
                let running = app.is_ok();
                if answer.send(app).is_ok() && running {
                    let _ = stopped.recv();
                }
            })
            .map_err(|e| {
                Error::os(
                    "start a thread for the application",
                    "raise the limit of tasks (TasksMax= or ulimit -u)",
                    e,
                )
            })?;
        let (pid, pidfd) = started.recv().expect("the thread answers before it ends")?;
        Ok(App { pid, pidfd, status: None, keeper: Some((stop, keeper)) })
    }

    /// The application's process id in the daemon's pid namespace (in its own it is 1).
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// A descriptor that polls readable when the application has exited.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Tells whether the application is being torn down, before its end is reported.
    pub fn death_probe(&self) -> Result<DeathProbe> {
        let path = format!("/proc/{}/statm", self.pid);
        let statm =
            File::open(&path).map_err(|e| Error::os(format!("open {path}"), "mount /proc", e))?;
        Ok(DeathProbe { pid: self.pid, statm })
    }

    /// Stops it with all its processes, until [`App::go_on`].
    ///
    /// # Errors
    /// If one of them does not stop.
    pub fn stop(&self) -> Result<()> {
        let end = Instant::now() + STOP_WAIT;
        loop {
            let running: Vec<i32> = tree(self.pid).into_iter().filter(|&p| runs(p)).collect();
            if running.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                let advice = "see dmesg: it may wait for a device";
                let late = io::ErrorKind::TimedOut.into();
                return Err(Error::os(format!("stop process {}", running[0]), advice, late));
            }
            for pid in running {
                // SAFETY: takes plain numbers. One that has ended meanwhile and was reaped by its
                // parent, all within this loop, is not there to be signalled.
                unsafe { libc::kill(pid, libc::SIGSTOP) };
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets a restored application run that was left stopped, with all its processes.
    pub fn go_on(&self) -> Result<()> {
        for pid in tree(self.pid) {
            // SAFETY: takes plain numbers. The processes are stopped: none of them ends meanwhile,
            // so none of the numbers is given to another one.
            if unsafe { libc::kill(pid, libc::SIGCONT) } != 0 {
                let error = io::Error::last_os_error();
                return Err(Error::os(format!("let process {pid} go on"), "see dmesg", error));
            }
        }
        Ok(())
    }

    /// The application's processes, the first one first.
    pub fn processes(&self) -> Vec<i32> {
        tree(self.pid)
    }

    /// How the application ended, or `None` while it runs.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.status.is_some() {
            return self.status;
        }
        // SAFETY: all-zero bytes are a valid siginfo_t.
        let mut seen: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let look = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
        // SAFETY: `seen` is a live siginfo_t; the pid is our own child's, not reaped yet.
        let looked = unsafe { libc::waitid(libc::P_PID, self.pid as libc::id_t, &mut seen, look) };
        // While a thread of ours traces it, its stops are shown as well, and are that thread's to
        // take: only what has ended is waited for.
        let ends = [libc::CLD_EXITED, libc::CLD_KILLED, libc::CLD_DUMPED];
        if looked == 0 && !ends.contains(&seen.si_code) {
            return None;
        }
        let mut status: c_int = 0;
        // SAFETY: `status` is a live integer. The pid is our own child's and not reaped yet, so
        // it cannot have been given to another process.
        let done = unsafe { libc::waitpid(self.pid, &mut status, libc::WNOHANG | libc::__WALL) };
        if done == self.pid {
            self.status = Some(ExitStatus::from_raw(status));
        } else if done < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD) {
            // Somebody else reaped it (SIGCHLD ignored): it is gone, how is not known.
            tracing::warn!(pid = self.pid, "the application's exit status was lost");
            self.status = Some(ExitStatus::from_raw(0xff << 8));
        }
        self.status
    }

    /// Kills the application and everything in its pid namespace, and reaps it. Bounded: gives up
    /// waiting after a few seconds.
    pub fn kill(&mut self) {
        let end = Instant::now() + KILL_WAIT;
        while self.try_wait().is_none() {
            kill_by(self.pidfd.as_fd());
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::error!(pid = self.pid, "the application does not die; leaving it");
                break;
            }
            let _ = poll_fds(&[self.pidfd.as_fd()], left);
        }
    }
}

/// SIGKILL by pidfd; whoever has ended already has got what was meant for it.
pub(crate) fn kill_by(pidfd: BorrowedFd<'_>) {
    // SAFETY: the pidfd is open because it is borrowed; a null siginfo is allowed.
    unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
}

impl Drop for App {
    fn drop(&mut self) {
        self.kill();
        if let Some((stop, keeper)) = self.keeper.take() {
            drop(stop);
            let _ = keeper.join();
        }
    }
}

/// Neither stopped nor ended, as far as /proc shows.
fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, in brackets, which may hold anything.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'T' | 't' | 'Z' | 'X'))
}

/// Processes in one application at most; more are not followed.
const PROCESSES_MAX: usize = 65_536;

/// A process and all that descend from it, as /proc shows them.
pub fn tree(root: i32) -> Vec<i32> {
    let mut all = vec![root];
    let mut at = 0;
    while at < all.len() && all.len() < PROCESSES_MAX {
        let tasks = fs::read_dir(format!("/proc/{}/task", all[at])).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
        at += 1;
    }
    all
}

/// Everything the child needs, allocated beforehand: between clone and exec it must not allocate.
struct Launch {
    program: PathBuf,
    work_dir: PathBuf,
    path: CString,
    dir: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    stdin: File,
    log: File,
}

impl Launch {
    fn prepare(spec: &AppSpec) -> Result<Launch> {
        let command = spec.command.first().filter(|c| !c.is_empty()).ok_or(Error::EmptyCommand)?;
        // Nothing of the daemon's own but PATH: clones on other nodes must see the same.
        let mut env: BTreeMap<OsString, OsString> =
            env::vars_os().filter(|(name, _)| name == "PATH").collect();
        env.extend(spec.env.iter().map(|(k, v)| (k.into(), v.into())));
        fs::create_dir_all(&spec.work_dir).map_err(|e| {
            Error::os(
                format!("make the application's working directory {}", spec.work_dir.display()),
                "give a directory that the daemon can write to",
                e,
            )
        })?;
        let work_dir = std::path::absolute(&spec.work_dir)
            .map_err(|e| Error::os("resolve the working directory", "give an absolute path", e))?;
        let search = env.get(OsStr::new("PATH")).cloned().unwrap_or_default();
        let program = resolve(command, &search, &work_dir)?;
        let log =
            OpenOptions::new().append(true).create(true).open(&spec.stdout_log).map_err(|e| {
                Error::os(
                    format!("open the application's log {}", spec.stdout_log.display()),
                    "give a file in a directory that exists and the daemon can write to",
                    e,
                )
            })?;
        let stdin = File::open("/dev/null")
            .map_err(|e| Error::os("open /dev/null", "provide /dev/null", e))?;
        let entry = |(name, value): (OsString, OsString)| {
            let mut bytes = name.into_vec();
            bytes.push(b'=');
            bytes.extend(value.into_vec());
            c_string(bytes, "an environment variable")
        };
        Ok(Launch {
            path: c_string(program.as_os_str().as_bytes(), "the application's path")?,
            dir: c_string(work_dir.as_os_str().as_bytes(), "the working directory")?,
            args: spec
                .command
                .iter()
                .map(|a| c_string(a.as_bytes(), "an argument of the application"))
                .collect::<Result<_>>()?,
            env: env.into_iter().map(entry).collect::<Result<_>>()?,
            work_dir,
            program,
            stdin,
            log,
        })
    }

    /// Makes the child on the calling thread, which becomes the parent whose death kills it.
    fn start(&self) -> Result<(i32, OwnedFd)> {
        let pointers = |list: &[CString]| -> Vec<*const c_char> {
            list.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
        };
        let (argv, envp) = (pointers(&self.args), pointers(&self.env));
        let mut child = Child {
            path: self.path.as_ptr(),
            dir: self.dir.as_ptr(),
            argv: argv.as_ptr(),
            envp: envp.as_ptr(),
            stdin: self.stdin.as_raw_fd(),
            log: self.log.as_raw_fd(),
            parent: std::process::id(),
            step: Step::Start,
            errno: 0,
        };
        let mut stack = vec![0u128; CHILD_STACK_BYTES / 16];
        let mut pidfd: c_int = -1;
        let flags = libc::CLONE_VM
            | libc::CLONE_VFORK
            | libc::CLONE_NEWPID
            | libc::CLONE_PIDFD
            | libc::SIGCHLD;

        // No handler of the daemon's may run in the child, which shares its memory.
        // SAFETY: all-zero bytes are a valid signal set, filled in by the next call.
        let (mut all, mut old): (libc::sigset_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
        // SAFETY: both sets are live; the calls touch this thread's mask only.
        unsafe {
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut old);
        }
        // SAFETY: the top of `stack` is 16-byte aligned. CLONE_VFORK suspends this thread until
        // the child has executed or exited, so the stack, `child` and all that it points to
        // outlive the child's use of them, and nobody else touches them meanwhile. The function
        // makes only system calls. CLONE_PIDFD writes one descriptor to `pidfd`.
        let pid = unsafe {
            libc::clone(
                run_child,
                stack.as_mut_ptr_range().end.cast(),
                flags,
                ptr::from_mut(&mut child).cast(),
                &mut pidfd as *mut c_int,
            )
        };
        let error = io::Error::last_os_error();
        // SAFETY: restores the mask saved above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &old, ptr::null_mut()) };
        if pid < 0 {
            return Err(Error::os(
                "create the application's process and pid namespace",
                "run understudyd as root or with CAP_SYS_ADMIN, and raise the limit of tasks",
                error,
            ));
        }
        // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        // SAFETY: the child wrote these through a raw pointer before it ended or executed; it is
        // done with them. Volatile, because the compiler saw no write.
        let (step, errno) =
            unsafe { (ptr::read_volatile(&child.step), ptr::read_volatile(&child.errno)) };
        if errno == 0 {
            return Ok((pid, pidfd));
        }
        let mut status: c_int = 0;
        // SAFETY: `pid` is our child, not reaped yet, and has exited or is about to.
        unsafe { libc::waitpid(pid, &mut status, libc::__WALL) };
        let error = io::Error::from_raw_os_error(errno);
        Err(match step {
            Step::Exec => Error::NotExecutable {
                path: self.program.clone(),
                reason: match errno {
                    libc::ENOENT => "its interpreter or dynamic loader is missing".into(),
                    libc::ENOEXEC => "it is neither a program nor a script with #!".into(),
                    _ => error.to_string(),
                },
            },
            Step::Directory => Error::os(
                format!("enter the application's working directory {}", self.work_dir.display()),
                "give a directory that the daemon can enter",
                error,
            ),
            Step::Start => {
                Error::os("set up the application's process", "see the daemon's log", error)
            }
        })
    }
}

fn c_string(bytes: impl Into<Vec<u8>>, what: &str) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::Nul { what: what.into() })
}

/// Finds the program as a shell would, so that a missing one is named before anything starts.
/// A relative path with a slash is relative to the working directory, where it will be executed.
fn resolve(command: &str, search: &OsStr, work_dir: &Path) -> Result<PathBuf> {
    if command.contains('/') {
        let path = work_dir.join(command);
        return match executable(&path) {
            Ok(()) => Ok(path),
            Err(None) => Err(Error::CommandNotFound {
                command: path.display().to_string(),
                searched: String::new(),
            }),
            Err(Some(reason)) => Err(Error::NotExecutable { path, reason }),
        };
    }
    let mut refused = None;
    for dir in env::split_paths(search) {
        let path = work_dir.join(dir).join(command);
        match executable(&path) {
            Ok(()) => return Ok(path),
            Err(None) => {}
            Err(Some(reason)) => refused = refused.or(Some((path, reason))),
        }
    }
    Err(match refused {
        Some((path, reason)) => Error::NotExecutable { path, reason },
        None => Error::CommandNotFound {
            command: command.into(),
            searched: format!(" in PATH ({})", search.display()),
        },
    })
}

/// `Err(None)`: no such file. `Err(Some(reason))`: it is there and cannot be executed.
fn executable(path: &Path) -> std::result::Result<(), Option<String>> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Err(Some("it is a directory".into())),
        Ok(meta) if !meta.is_file() => Err(Some("it is not a regular file".into())),
        Ok(meta) if meta.permissions().mode() & 0o111 == 0 => {
            Err(Some("it has no execute permission".into()))
        }
        Ok(_) => Ok(()),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Err(None),
        Err(e) => Err(Some(e.to_string())),
    }
}

#[derive(Clone, Copy)]
#[repr(u8)]
enum Step {
    Start,
    Directory,
    Exec,
}

/// What the child reads, and where it says why it failed.
struct Child {
    path: *const c_char,
    dir: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
    stdin: c_int,
    log: c_int,
    parent: u32,
    step: Step,
    errno: c_int,
}

/// The child between clone and exec: shares the daemon's memory, so only system calls, no
/// allocation, no lock, no panic. Returns (which ends the process) only on failure.
extern "C" fn run_child(arg: *mut c_void) -> c_int {
    // SAFETY: `arg` is the `Child` of `Launch::start`, whose thread is suspended meanwhile, so
    // this is the only reference; all its pointers lead to NUL-terminated strings and
    // null-terminated arrays that outlive the child's use. Each call below is a system call
    // wrapper without hidden state except errno, which the suspended thread lends us.
    unsafe {
        let child = &mut *arg.cast::<Child>();
        // Handlers first, then the mask: nothing pending may run code of the daemon's. Ignored
        // signals would stay ignored across exec. Zero bytes are the kernel's sigaction for
        // SIG_DFL; the C library's wrapper would leave out the two signals it keeps to itself.
        let default = [0u64; 8];
        for signal in 1..=64 {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null_mut::<c_void>(),
                SIGSET_BYTES,
            );
        }
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) != 0 {
            return fail(child);
        }
        // The daemon may have died before that call. (getppid is 0 in a new pid namespace.)
        if host_parent().is_some_and(|parent| parent != child.parent) {
            *libc::__errno_location() = libc::ESRCH;
            return fail(child);
        }
        libc::setsid();
        // A pinned or real-time daemon thread must not pin the application to a poll-mode core.
        let mut cpus: libc::cpu_set_t = std::mem::zeroed();
        ptr::write_bytes(ptr::from_mut(&mut cpus).cast::<u8>(), 0xff, size_of_val(&cpus));
        libc::sched_setaffinity(0, size_of_val(&cpus), &cpus);
        let normal: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_OTHER, &normal);
        if libc::dup2(child.stdin, 0) < 0
            || libc::dup2(child.log, 1) < 0
            || libc::dup2(child.log, 2) < 0
            || libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) != 0
        {
            return fail(child);
        }
        child.step = Step::Directory;
        if libc::chdir(child.dir) != 0 {
            return fail(child);
        }
        child.step = Step::Exec;
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
        libc::execve(child.path, child.argv, child.envp);
        fail(child)
    }
}

fn fail(child: &mut Child) -> c_int {
    // SAFETY: reads the calling thread's errno.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: a plain store to a live field; volatile, because its reader is another process.
    unsafe { ptr::write_volatile(&mut child.errno, if errno == 0 { libc::EIO } else { errno }) };
    // SAFETY: ends the child without running the daemon's exit handlers.
    unsafe { libc::_exit(127) }
}

/// The parent's process id as the host's /proc shows it; `None` if that cannot be read. Makes
/// only system calls.
fn host_parent() -> Option<u32> {
    let mut text = [0u8; 512];
    // SAFETY: the path is NUL-terminated, the buffer is live and of the length passed, and the
    // descriptor is closed by its only owner.
    let len = unsafe {
        let fd = libc::open(c"/proc/self/stat".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return None;
        }
        let len = libc::read(fd, text.as_mut_ptr().cast(), text.len());
        libc::close(fd);
        len
    };
    parent_of_stat(text.get(..usize::try_from(len).ok()?)?)
}

/// The fourth field of a stat line; the second may hold blanks and brackets.
fn parent_of_stat(text: &[u8]) -> Option<u32> {
    let end = text.iter().rposition(|b| *b == b')')?;
    let mut parent: Option<u32> = None;
    for byte in text.get(end + 4..)? {
        let digit = match byte {
            b'0'..=b'9' => u32::from(byte - b'0'),
            _ => break,
        };
        parent = Some(parent.unwrap_or(0).checked_mul(10)?.checked_add(digit)?);
    }
    parent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_with_odd_names_are_read() {
        assert_eq!(parent_of_stat(b"12 (a) b) S 34 5 6"), Some(34));
        assert_eq!(parent_of_stat(b"12 (a) S 0 0"), Some(0));
        assert_eq!(parent_of_stat(b"12 (a"), None);
        assert_eq!(parent_of_stat(b"12 (a) S"), None);
    }

    #[test]
    fn programs_are_found_or_named() {
        let dir = Path::new("/");
        assert!(resolve("sh", OsStr::new("/nowhere:/bin"), dir).is_ok());
        let error = resolve("no-such-program", OsStr::new("/bin"), dir).unwrap_err().to_string();
        assert!(error.contains("\"no-such-program\" in PATH (/bin)"), "{error}");
        let error = resolve("/no/such", OsStr::new(""), dir).unwrap_err().to_string();
        assert!(error.contains("\"/no/such\""), "{error}");
        let error = resolve("/etc/passwd", OsStr::new(""), dir).unwrap_err().to_string();
        assert!(error.contains("no execute permission"), "{error}");
        let error = resolve("/etc", OsStr::new(""), dir).unwrap_err().to_string();
        assert!(error.contains("directory"), "{error}");
    }
}
