//! CRIU (criu.org) as a program: it knows how to save and restore processes; we know when, and
//! what becomes of their connections.
//!
//! It runs in the capsule's network namespace, so that the sockets are at home there both times,
//! and with `--network-lock skip`: the data path holds back what would reach them.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use understudy_image::SocketImage;
use understudy_linux::capsule::{self, App};
use understudy_linux::netns::NetNs;
use understudy_linux::standstill;

use crate::error::{Error, Result, file};
use crate::manifest::{Clock, Manifest, MethodKind};
use crate::method::{Method, Restored, Running, Site, clocks, expect};
use crate::pending::pending;
use crate::state;
use crate::store::Generation;

/// Older ones fail on kernels that can adopt connections.
const VERSION_MIN: &str = "4.0";
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// A dump or restore that takes longer is given up.
const LIMIT: Duration = Duration::from_secs(120);
/// Errors of its log that are repeated to the operator.
const ERRORS_SHOWN: usize = 3;
/// Deleted files that are still open may be this long; they go into the checkpoint.
const GHOST_BYTES_MAX: &str = "256M";
/// Run by CRIU: writes down what the kernel had while everything stood still. (There is no tcp6
/// without IPv6.)
const SCRIPT: &str = "#!/bin/sh
set -e
[ \"$CRTOOLS_SCRIPT_ACTION\" = post-dump ] || exit 0
cat /proc/self/net/tcp6 >\"$CRTOOLS_IMAGE_DIR/tcp\" 2>/dev/null || :
cat /proc/self/net/tcp >>\"$CRTOOLS_IMAGE_DIR/tcp\"
";
/// It makes this where a process works, mounts proc on it and takes it away again. If that process is
/// killed just then it stays, and no later dump of one that works there succeeds.
const MOUNT_POINT: &str = "proc.crtools";
/// Where a checkpoint's directory holds what.
const IMAGES: &str = "image";
pub(crate) const STATE: &str = "state";

/// An installed CRIU.
#[derive(Clone, Debug)]
pub struct Criu {
    path: PathBuf,
    version: String,
}

/// What a dump did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dumped {
    /// For which moment `clocks` is told.
    pub taken: SystemTime,
    /// The clocks of its connections.
    pub clocks: Vec<Clock>,
    /// How long the application stood still, microseconds.
    pub frozen_us: u64,
    /// Pages written, 4 KiB each.
    pub pages: u64,
    /// Connections that it had not accepted: (client, service).
    pub pending: Vec<(SocketAddr, SocketAddr)>,
}

impl Criu {
    /// Looks for a CRIU that is new enough.
    ///
    /// # Errors
    /// Where it was looked for, or what is wrong with it.
    pub fn find() -> Result<Criu> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = std::env::split_paths(&path).chain(SBIN.iter().map(PathBuf::from));
        let found = dirs.map(|dir| dir.join("criu")).find(|path| path.is_file());
        let Some(path) = found else {
            let searched = format!("PATH ({})", path.to_string_lossy());
            return Err(Error::NoCriu { searched, min: VERSION_MIN });
        };
        let output = Command::new(&path)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(file("run", &path))?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_string();
        match version(&said) {
            Some(version) if is_new_enough(&version) => Ok(Criu { path, version }),
            _ => Err(Error::BadCriu { path, said, min: VERSION_MIN }),
        }
    }

    /// Its version, as it says.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Saves the processes of the tree below `pid` and what is in `state_dirs` into `dir`; they go
    /// on. `work`: where logs go.
    ///
    /// # Errors
    /// What CRIU says cannot be saved.
    pub fn dump(
        &self,
        ns: &NetNs,
        pid: i32,
        state_dirs: &[PathBuf],
        dir: &Path,
        work: &Path,
    ) -> Result<Dumped> {
        let (images, state) = (&dir.join(IMAGES), &dir.join(STATE));
        for made in [images, state, work] {
            fs::create_dir_all(made).map_err(file("make", made))?;
        }
        let script = write_script(work, state_dirs, state)?;
        let processes = capsule::tree(pid);
        processes.iter().for_each(|pid| remove_left_behind(*pid));
        let (taken, clocks) = clocks(&processes)?;
        let mut command = self.command("dump", images, work);
        command.args(["--tree", &pid.to_string(), "--leave-running", "--skip-in-flight"]);
        command.args(["--ghost-limit", GHOST_BYTES_MAX, "--link-remap"]);
        command.arg("--action-script").arg(&script);
        let tracer = standstill::exclusive();
        let status = ns.run(|| wait(command.stdout(Stdio::null())))?;
        drop(tracer);
        succeeded("dump", status, work)?;
        let listed = images.join("tcp");
        let text = fs::read_to_string(&listed).map_err(file("read", &listed))?;
        let stats = work.join("stats-dump");
        let (frozen_us, pages) =
            stats_of(&fs::read(&stats).map_err(file("read", &stats))?).unwrap_or_default();
        Ok(Dumped { taken, clocks, frozen_us, pages, pending: pending(&text) })
    }

    /// Brings what [`Criu::dump`] saved in `dir` to life again, stopped until [`App::go_on`]. What
    /// it had open as `output_file` is `output` from now on.
    ///
    /// # Errors
    /// What CRIU says is missing here.
    pub fn restore(
        &self,
        ns: &NetNs,
        state_dirs: &[PathBuf],
        dir: &Path,
        work: &Path,
        (output_file, output): (&str, File),
    ) -> Result<App> {
        fs::create_dir_all(work).map_err(file("make", work))?;
        for (at, state_dir) in state_dirs.iter().enumerate() {
            state::replace(&dir.join(STATE).join(packed(at)), state_dir)?;
        }
        let pid_file = work.join("pid");
        let _ = fs::remove_file(&pid_file);
        let mut command = self.command("restore", &dir.join(IMAGES), work);
        // As a child of ours, not of CRIU's, so that it ends when we do.
        command.args(["--restore-detached", "--restore-sibling", "--leave-stopped"]);
        command.arg("--pidfile").arg(&pid_file);
        command.arg("--inherit-fd");
        command.arg(format!("fd[1]:{}", output_file.trim_start_matches('/')));
        command.stdout(output);
        let work = work.to_path_buf();
        App::restored(ns, move || {
            let status = wait(&mut command);
            drop(command);
            succeeded("restore", status, &work)?;
            let text = fs::read_to_string(&pid_file).map_err(file("read", &pid_file))?;
            text.trim().parse().map_err(|_| Error::Criu {
                what: "restore",
                reason: format!("it says that the process id is {text:?}"),
                log: work.join("restore.log"),
            })
        })
    }

    /// Reads the connections of a restored application, which still stands still, and sets their
    /// clocks to what they must show by now.
    ///
    /// # Errors
    /// A connection that cannot be read.
    pub fn renew(app: &App, manifest: &Manifest) -> Result<Vec<SocketImage>> {
        crate::method::renew(app, manifest)
    }

    fn command(&self, what: &'static str, images: &Path, work: &Path) -> Command {
        let mut command = Command::new(&self.path);
        command.arg(what).arg("--images-dir").arg(images).arg("--work-dir").arg(work);
        command.args(["--tcp-established", "--network-lock", "skip", "--file-locks"]);
        command.args(["--manage-cgroups=ignore", "-v2", "--log-file", &format!("{what}.log")]);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    }
}

impl Method for Criu {
    fn kind(&self) -> MethodKind {
        MethodKind::Criu
    }

    fn save(&self, app: &Running<'_>, site: &Site, dir: &Path) -> Result<Dumped> {
        self.dump(app.ns, app.pid, &site.state_dirs, dir, &site.work)
    }

    fn restore(&self, ns: &NetNs, site: &Site, from: &Generation) -> Result<Restored> {
        expect(self.kind(), &from.manifest)?;
        let opened = OpenOptions::new().append(true).create(true).open(&site.output);
        let output = opened.map_err(file("open", &site.output))?;
        let output = (from.manifest.output_file.as_str(), output);
        let app = Criu::restore(self, ns, &site.state_dirs, &from.dir, &site.work, output)?;
        let connections = Criu::renew(&app, &from.manifest)?;
        Ok(Restored { app, connections })
    }
}

/// Takes away what a dump that was killed left where this process works.
fn remove_left_behind(pid: i32) {
    let Ok(cwd) = fs::read_link(format!("/proc/{pid}/cwd")) else { return };
    let path = cwd.join(MOUNT_POINT);
    let removed = fs::remove_dir(&path).or_else(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        std::io::ErrorKind::ResourceBusy => {
            Command::new("umount").arg("--lazy").arg(&path).stdin(Stdio::null()).status()?;
            fs::remove_dir(&path)
        }
        _ => Err(e),
    });
    if let Err(e) = removed {
        // The dump says that it is in the way, too.
        tracing::warn!("cannot remove {}, which a dump left: {e}", path.display());
    }
}

/// Waits for its end, but not for ever.
fn wait(command: &mut Command) -> std::io::Result<ExitStatus> {
    let begun = Instant::now();
    let mut child = command.spawn()?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if begun.elapsed() > LIMIT {
            child.kill()?;
            return child.wait();
        }
        sleep(Duration::from_millis(1));
    }
}

fn succeeded(what: &'static str, status: std::io::Result<ExitStatus>, work: &Path) -> Result<()> {
    let log = work.join(format!("{what}.log"));
    let reason = match status {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => errors_in(&log).unwrap_or_else(|| status.to_string()),
        Err(e) => e.to_string(),
    };
    Err(Error::Criu { what, reason, log })
}

/// The first errors in its log: the later ones follow from them.
fn errors_in(log: &Path) -> Option<String> {
    let text = fs::read(log).ok()?;
    let text = String::from_utf8_lossy(&text);
    let errors: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_once("Error ").map(|(_, error)| error))
        .take(ERRORS_SHOWN)
        .collect();
    (!errors.is_empty()).then(|| errors.join("; "))
}

fn write_script(work: &Path, state_dirs: &[PathBuf], packed_dir: &Path) -> Result<PathBuf> {
    let path = work.join("action.sh");
    let _ = fs::remove_file(&path);
    let mut script = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o700)
        .open(&path)
        .map_err(file("make", &path))?;
    let mut text = SCRIPT.to_string();
    for (at, dir) in state_dirs.iter().enumerate() {
        text += &state::packing(&quoted(dir)?, &quoted(&packed_dir.join(packed(at)))?);
    }
    script.write_all(text.as_bytes()).map_err(file("write", &path))?;
    Ok(path)
}

/// File name of the state directory of this number.
pub(crate) fn packed(at: usize) -> String {
    format!("{at}.tar")
}

/// As one word of a shell's.
pub(crate) fn quoted(path: &Path) -> Result<String> {
    let odd = || file("copy", path)(std::io::Error::other("its name is not UTF-8"));
    let text = path.to_str().ok_or_else(odd)?;
    Ok(format!("'{}'", text.replace('\'', "'\\''")))
}

/// `Version: 4.2.1` and perhaps more lines.
fn version(said: &str) -> Option<String> {
    let version = said.lines().find_map(|line| line.strip_prefix("Version:"))?;
    Some(version.trim().to_string())
}

fn is_new_enough(version: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> {
        text.split(['.', '-']).map_while(|part| part.parse().ok()).collect()
    };
    numbers(version) >= numbers(VERSION_MIN)
}

/// Microseconds frozen and pages written, of a `stats-dump` file: two magic numbers and a length of
/// 32 bits each, then a `StatsEntry` (images/stats.proto) whose field 1 is a `DumpStatsEntry`, in
/// which field 2 is `frozen_time` and field 7 `pages_written`.
fn stats_of(bytes: &[u8]) -> Option<(u64, u64)> {
    let mut entry = bytes.get(12..)?;
    let (mut frozen_us, mut pages) = (None, None);
    if varint(&mut entry)? != (1 << 3 | 2) {
        return None;
    }
    let len = varint(&mut entry)? as usize;
    let mut dump = entry.get(..len)?;
    while !dump.is_empty() {
        let tag = varint(&mut dump)?;
        if tag & 7 != 0 {
            return None;
        }
        let value = varint(&mut dump)?;
        match tag >> 3 {
            2 => frozen_us = Some(value),
            7 => pages = Some(value),
            _ => {}
        }
    }
    Some((frozen_us?, pages?))
}

/// A base-128 number of protocol buffers.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(version("Version: 4.2.1\nGitID: v4.2.1"), Some("4.2.1".into()));
        assert_eq!(version("criu?"), None);
        for (version, enough) in
            [("4.2.1", true), ("4.0", true), ("10.1", true), ("3.17.1", false), ("", false)]
        {
            assert_eq!(is_new_enough(version), enough, "{version}");
        }
    }

    #[test]
    fn statistics_are_read_or_not() {
        let header = [0u8; 12];
        let dump = [0x08, 5, 0x10, 0xac, 0x02, 0x18, 1, 0x38, 0x80, 0x01];
        let whole = [&header[..], &[0x0a, dump.len() as u8], &dump].concat();
        assert_eq!(stats_of(&whole), Some((300, 128)));
        for len in 0..whole.len() {
            assert_eq!(stats_of(&whole[..len]), None);
        }
        assert_eq!(stats_of(&[0xff; 64]), None);
    }
}
