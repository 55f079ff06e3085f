//! An application that outlived its daemon.
//!
//! Who changes its user loses the signal that kills it together with the daemon (`prctl(2)`,
//! `PR_SET_PDEATHSIG`). Such an application stays when the daemon is killed, and the next one on
//! the same files would ruin them: so it is written down which process it is.

use crate::{Error, Result, capsule::kill_by, image::pidfd_open, poll::poll_fds};
use std::{fs, os::fd::AsFd, path::Path, time::Duration};

/// How long the kernel may take to tear the pid namespace down.
const END_WAIT: Duration = Duration::from_secs(5);

/// Writes down that this process is the application.
pub fn note(record: &Path, pid: i32) -> Result<()> {
    let text = identity(pid).unwrap_or_default();
    fs::write(record, format!("{pid} {text}\n")).map_err(|e| {
        let what = format!("write down the application's process in {}", record.display());
        Error::os(what, "give the daemon a state directory that it can write to", e)
    })
}

/// Kills the process that was written down, with its pid namespace, if it still runs.
pub fn end(record: &Path) -> Result<Option<i32>> {
    let text = fs::read_to_string(record).unwrap_or_default();
    let Some((pid, noted)) = text.trim_end().split_once(' ') else { return Ok(None) };
    let Ok(pid) = pid.parse() else { return Ok(None) };
    // Opened first: what the number means cannot change after that.
    let Ok(process) = pidfd_open(pid) else { return Ok(None) };
    if identity(pid).is_none_or(|now| now != noted) {
        return Ok(None);
    }
    kill_by(process.as_fd());
    match poll_fds(&[process.as_fd()], END_WAIT) {
        Ok(ended) if ended[0] => Ok(Some(pid)),
        _ => Err(Error::os(
            format!("end process {pid}, which an earlier daemon left behind"),
            "end it by hand: two applications on the same files would ruin them",
            std::io::ErrorKind::TimedOut.into(),
        )),
    }
}

/// What no other process has: the boot and the moment of its start. `None`: it does not run.
fn identity(pid: i32) -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything; field 3 follows it, field 22 is the start.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let is_over = matches!(fields.next()?, "Z" | "X");
    let start = fields.nth(18)?;
    (!is_over).then(|| format!("{} {start}", boot.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_the_very_process_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let record = dir.path().join("application.pid");
        assert_eq!(end(&record).unwrap(), None, "nothing was noted");
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id() as i32;
        note(&record, pid).unwrap();
        let noted = fs::read_to_string(&record).unwrap();
        fs::write(&record, noted.replace('\n', "1\n")).unwrap();
        assert_eq!(end(&record).unwrap(), None, "another process has that number");
        assert!(child.try_wait().unwrap().is_none());
        fs::write(&record, noted).unwrap();
        assert_eq!(end(&record).unwrap(), Some(pid));
        child.wait().unwrap();
        assert_eq!(end(&record).unwrap(), None, "it is gone");
    }
}
