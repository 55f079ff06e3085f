//! Processes of the lab: started with a mark in their environment, killed as whole trees.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{cmd, sys};

/// Environment variable that marks every process of a lab, so that orphans can be found.
pub const MARK: &str = "UNDERSTUDY_LAB";
/// Deepest process tree the lab follows.
const DEPTH_MAX: usize = 16;
/// How often a killed tree is looked at again for children born meanwhile.
const KILL_PASSES: usize = 5;
/// A killed process is gone by then.
const DEATH_TIMEOUT: Duration = Duration::from_secs(5);

/// A child process with its log; its whole tree is killed when this is dropped.
pub struct Proc {
    child: Child,
    log: PathBuf,
}

impl Proc {
    /// Starts `command` with stdout and stderr appended to `log`.
    pub fn start(mut command: Command, log: &Path, mark: &str) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        let child = command
            .env(MARK, mark)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { child, log: log.to_path_buf() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The last lines of its log, for an error message.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Asks it to end (SIGTERM) and waits for its exit code.
    pub fn terminate(&mut self, timeout: Duration) -> Result<i32> {
        sys::kill(self.pid(), libc::SIGTERM)?;
        cmd::wait(&mut self.child, timeout)
    }

    /// SIGKILLs it and its known descendants, itself first, and waits for nothing.
    pub fn strike(&self, tree: &[u32]) {
        for &pid in [self.pid()].iter().chain(tree) {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
    }

    /// SIGKILLs it and every descendant, itself first. With `tree`, its known members, no time
    /// is lost on looking for them before the first signal.
    pub fn kill_tree(&mut self, tree: &[u32]) {
        let is_running = self.is_running();
        if !is_running && tree.is_empty() {
            return;
        }
        let mut doomed: BTreeSet<u32> = tree.iter().copied().collect();
        if tree.is_empty() {
            doomed = descendants(self.pid());
        }
        if is_running {
            let _ = sys::kill(self.pid(), libc::SIGKILL);
        }
        for _ in 0..KILL_PASSES {
            for &pid in &doomed {
                let _ = sys::kill(pid, libc::SIGKILL);
            }
            let born: BTreeSet<u32> = doomed.iter().flat_map(|&pid| descendants(pid)).collect();
            if born.is_subset(&doomed) {
                break;
            }
            doomed.extend(born);
        }
        let _ = cmd::wait(&mut self.child, DEATH_TIMEOUT);
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        self.kill_tree(&[]);
    }
}

/// Every process id of the machine.
pub fn all_pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Parent and name of a process.
fn parent_and_name(pid: u32) -> Option<(u32, String)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let name = stat.get(stat.find('(')? + 1..stat.rfind(')')?)?.to_string();
    let mut rest = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let state = rest.next()?;
    let parent = rest.next()?.parse().ok()?;
    (state != "Z").then_some((parent, name))
}

/// The name of a process; nothing when it is gone or a zombie.
pub fn name_of(pid: u32) -> Option<String> {
    parent_and_name(pid).map(|(_, name)| name)
}

/// Children, their children and so on.
pub fn descendants(root: u32) -> BTreeSet<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in all_pids() {
        if let Some((parent, _)) = parent_and_name(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = BTreeSet::new();
    let mut front = vec![root];
    for _ in 0..DEPTH_MAX {
        front = front.iter().filter_map(|pid| children.get(pid)).flatten().copied().collect();
        found.extend(front.iter().copied());
    }
    found
}

/// Living processes whose environment has a lab mark that `wanted` accepts.
pub fn marked(wanted: impl Fn(&str) -> bool) -> Vec<u32> {
    let own = std::process::id();
    let key = format!("{MARK}=");
    all_pids()
        .into_iter()
        .filter(|&pid| pid != own)
        .filter(|&pid| {
            environment(pid).split(|&byte| byte == 0).any(|entry| {
                let entry = String::from_utf8_lossy(entry);
                entry.strip_prefix(&key).is_some_and(&wanted)
            })
        })
        .collect()
}

/// Whether a process runs in one of these network namespaces (by inode).
pub fn is_in_netns(pid: u32, inodes: &[u64]) -> bool {
    fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|meta| inodes.contains(&meta.ino()))
}

/// Whether the working directory of a process is in `dir`, which may be deleted.
pub fn works_in(pid: u32, dir: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
}

/// The environment of a process. It looks empty in the middle of an exec: then it is read again.
fn environment(pid: u32) -> Vec<u8> {
    for _ in 0..10 {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        // Threads of the kernel and zombies have no executable, and nothing to wait for.
        if !environ.is_empty() || fs::read_link(format!("/proc/{pid}/exe")).is_err() {
            return environ;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Vec::new()
}
