//! What is looked at for supervision by threads of its own, since it may take long or never end: the
//! application's health and the disk.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use understudy_config::{Config, DiskWatch, HealthCheck};
use understudy_linux::health::{self, Check, Unwell};
use understudy_linux::netns::NetNs;
use understudy_linux::space;
use understudy_proto::supervise::{Cause, Fault};

const MIB: u64 = 1 << 20;
/// A check that has not ended so long after its time does not end.
const OVERDUE: Duration = Duration::from_secs(2);
/// What the disk is given to write.
const PROBE_BYTES: usize = 4096;
const PROBE_FILE: &str = "disk.probe";

/// Asks the application whether it is well, when told to.
pub struct HealthProbe {
    ask: Sender<()>,
    answers: Receiver<Result<(), Fault>>,
    /// An answer is awaited since then.
    asked: Option<Instant>,
    overdue_after: Duration,
}

impl HealthProbe {
    /// Starts the thread; none without a check.
    pub fn start(config: &Config, ns: &Arc<NetNs>) -> anyhow::Result<Option<HealthProbe>> {
        let Some(check) = check(config) else { return Ok(None) };
        let timeout = Duration::from_millis(config.supervise.health.timeout_ms);
        let ns = Arc::clone(ns);
        let (ask, asked) = bounded::<()>(1);
        let (answer, answers) = bounded(1);
        std::thread::Builder::new().name("health".into()).spawn(move || {
            while asked.recv().is_ok() {
                let seen = health::ask(&ns, &check, timeout).map_err(fault);
                if answer.send(seen).is_err() {
                    break;
                }
            }
        })?;
        let overdue_after = timeout + OVERDUE;
        Ok(Some(HealthProbe { ask, answers, asked: None, overdue_after }))
    }

    /// Asks, unless an answer is awaited.
    pub fn ask(&mut self) {
        if self.asked.is_none() && self.ask.try_send(()).is_ok() {
            self.asked = Some(Instant::now());
        }
    }

    /// Whether an answer is awaited.
    pub fn is_asking(&self) -> bool {
        self.asked.is_some()
    }

    /// The check itself does not end: the program, say, is where no signal reaches it.
    pub fn is_overdue(&self) -> bool {
        self.asked.is_some_and(|asked| asked.elapsed() > self.overdue_after)
    }

    /// The answer, once.
    pub fn answer(&mut self) -> Option<Result<(), Fault>> {
        let answer = self.answers.try_recv().ok();
        if answer.is_some() {
            self.asked = None;
        }
        answer
    }
}

fn check(config: &Config) -> Option<Check> {
    let (address, _) = config.vips().next()?;
    let health = &config.supervise.health;
    Some(match &health.check {
        HealthCheck::None => return None,
        HealthCheck::Tcp(port) => Check::Tcp((address, *port).into()),
        HealthCheck::Http { port, path } => {
            Check::Http { address: (address, *port).into(), path: path.clone() }
        }
        HealthCheck::Command => {
            Check::Command { words: health.command.clone(), dir: config.service.work_dir.clone() }
        }
    })
}

fn fault(unwell: Unwell) -> Fault {
    match unwell {
        Unwell::Refused(text) => Fault::new(Cause::Refused, text),
        Unwell::TimedOut(text) => Fault::new(Cause::TimedOut, text),
        Unwell::Failed(text) => Fault::new(Cause::Failed, text),
        Unwell::Unknown(text) => Fault::new(Cause::Unknown, text),
    }
}

/// Writes to the disk again and again, and looks how much room is left.
pub struct DiskProbe {
    seen: Arc<Mutex<DiskSeen>>,
    timeout: Duration,
}

#[derive(Default)]
struct DiskSeen {
    /// A write is under way since then.
    begun: Option<Instant>,
    /// How often it was looked.
    looks: u64,
    newest: Option<Result<(), Fault>>,
}

impl DiskProbe {
    /// Starts the thread.
    pub fn start(dir: &Path, watch: &DiskWatch) -> anyhow::Result<DiskProbe> {
        let seen = Arc::new(Mutex::new(DiskSeen::default()));
        let shared = Arc::downgrade(&seen);
        let interval = Duration::from_millis(watch.interval_ms);
        let (dir, free_bytes) = (dir.to_path_buf(), watch.free_mb * MIB);
        std::thread::Builder::new().name("disk".into()).spawn(move || {
            loop {
                let Some(seen) = shared.upgrade() else { return };
                lock(&seen).begun = Some(Instant::now());
                let result = look(&dir, free_bytes);
                let mut state = lock(&seen);
                *state = DiskSeen { begun: None, looks: state.looks + 1, newest: Some(result) };
                drop(state);
                drop(seen);
                std::thread::sleep(interval);
            }
        })?;
        Ok(DiskProbe { seen, timeout: Duration::from_millis(watch.timeout_ms) })
    }

    /// What was seen since the look before, whose number is given and set; or that it takes too long.
    pub fn seen(&self, looks: &mut u64) -> Option<Result<(), Fault>> {
        let state = lock(&self.seen);
        if state.begun.is_some_and(|begun| begun.elapsed() > self.timeout) {
            let text = format!("the disk has not taken a small write within {:?}", self.timeout);
            return Some(Err(Fault::new(Cause::TimedOut, text)));
        }
        if state.looks == *looks {
            return None;
        }
        *looks = state.looks;
        state.newest.clone()
    }
}

fn lock(seen: &Mutex<DiskSeen>) -> std::sync::MutexGuard<'_, DiskSeen> {
    // What it holds is whole at every moment.
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn look(dir: &Path, free_bytes: u64) -> Result<(), Fault> {
    write(&dir.join(PROBE_FILE)).map_err(|e| {
        let full = e.kind() == std::io::ErrorKind::StorageFull;
        let cause = if full { Cause::NoSpace } else { Cause::WriteFailed };
        Fault::new(cause, format!("{} cannot be written to: {e}", dir.display()))
    })?;
    let free = space::free_bytes(dir)
        .map_err(|e| Fault::new(Cause::Unknown, format!("{}: {e}", dir.display())))?;
    if free < free_bytes {
        let text = format!(
            "{} MiB free in {}, supervise.disk.free_mb is {}",
            free / MIB,
            dir.display(),
            free_bytes / MIB
        );
        return Err(Fault::new(Cause::NoSpace, text));
    }
    Ok(())
}

fn write(file: &PathBuf) -> std::io::Result<()> {
    let written = File::create(file).and_then(|mut out| {
        out.write_all(&[0x55; PROBE_BYTES])?;
        out.sync_data()
    });
    let _ = fs::remove_file(file);
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_room_or_says_what_it_lacks() {
        let dir = std::env::temp_dir();
        assert_eq!(look(&dir, 1), Ok(()));
        let fault = look(&dir, u64::MAX).unwrap_err();
        assert!(fault.cause == Cause::NoSpace && fault.text.contains("MiB free"), "{fault:?}");
        let fault = look(Path::new("/proc/sys"), 1).unwrap_err();
        assert!(matches!(fault.cause, Cause::WriteFailed), "{fault:?}");
        assert!(!dir.join(PROBE_FILE).exists());
    }

    #[test]
    fn each_look_is_seen_once() {
        let watch = DiskWatch { interval_ms: 60_000, free_mb: 0, ..DiskWatch::default() };
        let probe = DiskProbe::start(&std::env::temp_dir(), &watch).unwrap();
        let (mut looks, end) = (0, Instant::now() + Duration::from_secs(20));
        let seen = loop {
            match probe.seen(&mut looks) {
                Some(seen) => break seen,
                None => assert!(Instant::now() < end),
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        assert_eq!((seen, looks), (Ok(()), 1));
        assert_eq!(probe.seen(&mut looks), None);
    }
}
