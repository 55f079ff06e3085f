//! Whether an application answers: one connection, one HTTP request, or one run of a program, in its
//! network namespace and within a time. Over its loopback interface: no dataplane sees it.

use crate::{image::pidfd_open, netns::NetNs, poll::poll_fds};
use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Of an HTTP answer, no more is read to find its first line.
const ANSWER_BYTES_MAX: usize = 4096;
/// A program that was killed is gone by then.
const KILL_WAIT: Duration = Duration::from_secs(1);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A connection. It is reset, not closed: nothing of it stays.
    Tcp(SocketAddr),
    /// GET; a status of 2xx or 3xx is well.
    Http {
        /// Where.
        address: SocketAddr,
        /// What, from its `/` on.
        path: String,
    },
    /// Program and arguments; 0 is well. It gets `PATH` and nothing else of the environment.
    Command {
        /// The words.
        words: Vec<String>,
        /// Where it runs.
        dir: PathBuf,
    },
}

/// Why it is not well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unwell {
    /// Nobody takes the connection.
    Refused(String),
    /// There was no answer in time.
    TimedOut(String),
    /// The answer is that it is not well.
    Failed(String),
    /// It could not be asked.
    Unknown(String),
}

/// Asks once.
pub fn ask(ns: &NetNs, check: &Check, timeout: Duration) -> Result<(), Unwell> {
    let asked = ns.run(|| match check {
        Check::Tcp(address) => connect(*address, Instant::now() + timeout).map(drop),
        Check::Http { address, path } => get(*address, path, Instant::now() + timeout),
        Check::Command { words, dir } => run(words, dir, timeout),
    });
    asked.unwrap_or_else(|e| Err(Unwell::Unknown(e.to_string())))
}

fn left(deadline: Instant) -> Result<Duration, Unwell> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(Unwell::TimedOut("no answer in time".into())),
        left => Ok(left),
    }
}

fn io(what: &str, e: &std::io::Error) -> Unwell {
    match e.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            Unwell::TimedOut(format!("{what}: no answer in time"))
        }
        ErrorKind::ConnectionRefused => Unwell::Refused(format!("{what}: refused")),
        _ => Unwell::Failed(format!("{what}: {e}")),
    }
}

fn connect(address: SocketAddr, deadline: Instant) -> Result<TcpStream, Unwell> {
    let stream = TcpStream::connect_timeout(&address, left(deadline)?)
        .map_err(|e| io(&format!("connection to {address}"), &e))?;
    let off = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the socket is open, and `off` is a live structure of the length given.
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const off).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    if set != 0 {
        return Err(Unwell::Unknown("a socket's options cannot be set".into()));
    }
    Ok(stream)
}

fn get(address: SocketAddr, path: &str, deadline: Instant) -> Result<(), Unwell> {
    let what = format!("GET {path} at {address}");
    let mut stream = connect(address, deadline)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: understudy\r\nConnection: close\r\n\r\n"
    );
    stream.set_write_timeout(Some(left(deadline)?)).map_err(|e| io(&what, &e))?;
    stream.write_all(request.as_bytes()).map_err(|e| io(&what, &e))?;
    let mut answer = [0u8; ANSWER_BYTES_MAX];
    let mut len = 0;
    while !answer[..len].contains(&b'\n') && len < answer.len() {
        stream.set_read_timeout(Some(left(deadline)?)).map_err(|e| io(&what, &e))?;
        match stream.read(&mut answer[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(io(&what, &e)),
        }
    }
    match http_status(&answer[..len]) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(Unwell::Failed(format!("{what}: status {status}"))),
        None => Err(Unwell::Failed(format!("{what}: the answer is not HTTP"))),
    }
}

/// Of a first line such as `HTTP/1.1 200 OK`.
fn http_status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|b| *b == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?.strip_prefix("HTTP/1.")?;
    let status = line.get(1..)?.strip_prefix(' ')?.get(..3)?;
    status.bytes().all(|b| b.is_ascii_digit()).then(|| status.parse().ok())?
}

fn run(words: &[String], dir: &Path, timeout: Duration) -> Result<(), Unwell> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Unwell::Unknown("no program is given".into()));
    };
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir).env_clear().process_group(0);
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child =
        command.spawn().map_err(|e| Unwell::Unknown(format!("{program} cannot be run: {e}")))?;
    match wait(&mut child, timeout) {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(Unwell::Failed(format!("{program}: {}", ended(status)))),
        None => {
            kill_group(&child);
            let _ = wait(&mut child, KILL_WAIT);
            Err(Unwell::TimedOut(format!("{program} did not end in time, and was killed")))
        }
    }
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn wait(child: &mut Child, timeout: Duration) -> Option<ExitStatus> {
    if let Ok(process) = pidfd_open(child.id() as i32) {
        let _ = poll_fds(&[process.as_fd()], timeout);
    }
    child.try_wait().ok().flatten()
}

fn kill_group(child: &Child) {
    // SAFETY: takes plain numbers. The child is not reaped, so its number is still its own, and its
    // group's: it was made the leader of a new one.
    unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
}

/// The state of a process as the kernel shows it: `R`, `S`, `D`, `T` (stopped), `t` (traced), `Z`.
/// `None`: it is gone.
pub fn process_state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(100);

    /// Serves one connection with these bytes, or none and keeps silent.
    fn served(answer: Option<&'static [u8]>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let _ = stream.read(&mut request);
            match answer {
                Some(answer) => drop(stream.write_all(answer)),
                None => std::thread::sleep(3 * SHORT),
            }
        });
        address
    }

    #[test]
    fn http_answers_are_judged_by_their_status() {
        let deadline = || Instant::now() + LONG;
        for (answer, well) in [
            (&b"HTTP/1.1 200 OK\r\n\r\n"[..], true),
            (b"HTTP/1.0 302 Found\r\n", true),
            (b"HTTP/1.1 503 Busy\r\n\r\n", false),
            (b"HTTP/1.1 20\r\n", false),
            (b"SSH-2.0-x\r\n", false),
            (b"", false),
        ] {
            let got = get(served(Some(answer)), "/", deadline());
            assert_eq!(got.is_ok(), well, "{got:?}");
            assert!(well || matches!(got, Err(Unwell::Failed(_))), "{got:?}");
        }
        let silent = get(served(None), "/", Instant::now() + SHORT);
        assert!(matches!(silent, Err(Unwell::TimedOut(_))), "{silent:?}");
    }

    #[test]
    fn connections_are_taken_or_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(connect(address, Instant::now() + LONG).is_ok());
        drop(listener);
        let refused = connect(address, Instant::now() + LONG).map(drop);
        assert!(matches!(refused, Err(Unwell::Refused(_))), "{refused:?}");
    }

    #[test]
    fn programs_are_judged_by_their_end_and_killed_in_time() {
        let run = |script: &str, timeout| {
            let words = ["/bin/sh", "-c", script].map(String::from);
            super::run(&words, Path::new("/"), timeout)
        };
        assert_eq!(run("exit 0", LONG), Ok(()));
        assert_eq!(run("exit 3", LONG), Err(Unwell::Failed("/bin/sh: exit 3".into())));
        let begun = Instant::now();
        let late = run("sleep 60 & wait", SHORT);
        assert!(matches!(late, Err(Unwell::TimedOut(_))), "{late:?}");
        assert!(begun.elapsed() < LONG);
        let absent = super::run(&["/no/such/program".into()], Path::new("/"), LONG);
        assert!(matches!(absent, Err(Unwell::Unknown(_))), "{absent:?}");
    }

    #[test]
    fn a_process_has_a_state() {
        let mut child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        // SAFETY: takes plain numbers; the child is ours and not reaped.
        unsafe { libc::kill(pid, libc::SIGSTOP) };
        let end = Instant::now() + LONG;
        while process_state(pid) != Some('T') {
            assert!(Instant::now() < end);
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(process_state(pid), None);
    }
}
