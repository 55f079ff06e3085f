//! Commands of the operator's: run in the capsule's network namespace, with a limit on their time.

use crate::{Error, Result, netns::NetNs};
use std::{
    env,
    fs::OpenOptions,
    io,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(1);

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Where it works; made if missing.
    pub work_dir: PathBuf,
    /// Its whole environment, but for PATH, which it has from the daemon unless given here.
    pub env: Vec<(String, String)>,
    /// Takes its standard output and standard error, in place of what is there.
    pub log: PathBuf,
}

impl Hook {
    /// Runs it to its end. What takes longer than `limit` is killed, with its process group.
    ///
    /// # Errors
    /// If it cannot be started, or takes too long.
    pub fn run(&self, ns: &NetNs, limit: Duration) -> Result<ExitStatus> {
        let (program, args) = self.command.split_first().ok_or(Error::EmptyCommand)?;
        let failed = |what: String| {
            move |e: io::Error| Error::os(what, "correct the command or its directory", e)
        };
        std::fs::create_dir_all(&self.work_dir)
            .map_err(failed(format!("make the directory {}", self.work_dir.display())))?;
        let open = OpenOptions::new().write(true).create(true).truncate(true).open(&self.log);
        let log = open.map_err(failed(format!("write {}", self.log.display())))?;
        let log_too = log.try_clone().map_err(failed("duplicate a descriptor".into()))?;
        let mut command = Command::new(program);
        command.args(args).current_dir(&self.work_dir).process_group(0);
        command.env_clear().envs(env::vars_os().filter(|(name, _)| name == "PATH"));
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log).stderr(log_too);
        ns.run(|| {
            let child = command.spawn().map_err(failed(format!("run {program}")))?;
            wait(child, program, limit)
        })?
    }

    /// The last line that it said, if any.
    #[must_use]
    pub fn last_words(&self) -> Option<String> {
        let said = std::fs::read(&self.log).ok()?;
        let text = String::from_utf8_lossy(&said);
        let line = text.lines().rfind(|line| !line.trim().is_empty())?;
        Some(line.trim().chars().take(300).collect())
    }
}

fn wait(mut child: Child, program: &str, limit: Duration) -> Result<ExitStatus> {
    let end = Instant::now() + limit;
    let failed = |e| Error::os(format!("wait for {program}"), "see dmesg", e);
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok(status);
        }
        if Instant::now() >= end {
            let group = -(child.id() as i32);
            // SAFETY: takes plain numbers. The group's first process is our child and not reaped yet,
            // so the number is still this group's.
            unsafe { libc::kill(group, libc::SIGKILL) };
            child.wait().map_err(failed)?;
            let (command, limit_ms) = (program.to_string(), limit.as_millis());
            return Err(Error::HookTimeout { command, limit_ms });
        }
        thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(dir: &std::path::Path, script: &str) -> Hook {
        Hook {
            command: ["/bin/sh", "-c", script].map(String::from).into(),
            work_dir: dir.join("work"),
            env: vec![("GREETING".into(), "hello".into())],
            log: dir.join("log"),
        }
    }

    #[test]
    fn what_it_says_and_how_it_ends_is_known_and_its_time_limited() {
        // SAFETY: geteuid takes and returns plain numbers.
        if unsafe { libc::geteuid() } != 0 {
            return eprintln!("skipped: needs root for network namespaces");
        }
        let dir = tempfile::tempdir().unwrap();
        let ns = NetNs::create().unwrap();
        let limit = Duration::from_secs(10);
        let greets = hook(dir.path(), "echo first; echo \"$GREETING $HOME $(pwd)\" >&2; exit 75");
        assert_eq!(greets.run(&ns, limit).unwrap().code(), Some(75));
        let said = greets.last_words().unwrap();
        assert_eq!(said, format!("hello  {}", dir.path().join("work").display()));
        let silent = hook(dir.path(), "ip -o link show up >links; test $(wc -l <links) = 1");
        assert!(silent.run(&ns, limit).unwrap().success(), "it sees the namespace's devices");
        assert_eq!(silent.last_words(), None);
        let begun = Instant::now();
        let slow = hook(dir.path(), "sleep 60 & wait");
        let late = slow.run(&ns, Duration::from_millis(50)).unwrap_err().to_string();
        assert!(late.contains("50 ms") && begun.elapsed() < limit, "{late}");
        let missing = Hook { command: vec!["/nonexistent".into()], ..slow };
        let error = missing.run(&ns, limit).unwrap_err().to_string();
        assert!(error.contains("cannot run /nonexistent"), "{error}");
    }
}
