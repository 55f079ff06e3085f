//! What every test and the demo begin and end with.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::capture::{Capture, HEADERS_ONLY, Reign};
use crate::etcd::Etcd;
use crate::node::{Group, NodeOptions, Trio, binary};
use crate::topology::{Lab, Member, Net};
use crate::{cmd, sys};

/// Set to 1, nothing may be skipped.
pub const REQUIRE: &str = "UNDERSTUDY_REQUIRE_ROOT";
/// Huge pages that three nodes need, and some more.
const HUGE_PAGES_MIN: u64 = 1024;
const BACKLOG: &str = "/proc/sys/net/core/netdev_max_backlog";
const BACKLOG_MIN: u64 = 16_384;
const HUGE_PAGES_DIR: &str = "/dev/hugepages";

/// Whether a test can run here; otherwise it says why not, or fails if it must run.
pub fn can_run(binaries: &[&str]) -> bool {
    let missing = binaries.iter().find_map(|name| binary(name).err());
    let reason = match (sys::is_root(), missing) {
        (false, _) => "not root".to_string(),
        (true, Some(error)) => format!("{error}"),
        (true, None) => return true,
    };
    assert!(std::env::var(REQUIRE).as_deref() != Ok("1"), "must not be skipped: {reason}");
    eprintln!("skipped: {reason}");
    false
}

/// Whether these programs are installed; otherwise as [`can_run`].
pub fn has_programs(programs: &[&str]) -> bool {
    let is_missing = |name: &&&str| cmd::run(&["sh", "-c", &format!("command -v {name}")]).is_err();
    let missing: Vec<&str> = programs.iter().filter(is_missing).copied().collect();
    if missing.is_empty() {
        return true;
    }
    let why = format!("{} not installed: dpdk-build/setup.sh installs them", missing.join(", "));
    assert!(std::env::var(REQUIRE).as_deref() != Ok("1"), "must not be skipped: {why}");
    eprintln!("skipped: {why}");
    false
}

/// Huge pages for three nodes; what is there already stays.
pub fn prepare_machine() -> Result<()> {
    let path = "/proc/sys/vm/nr_hugepages";
    let pages: u64 = fs::read_to_string(path)?.trim().parse()?;
    if pages < HUGE_PAGES_MIN {
        fs::write(path, HUGE_PAGES_MIN.to_string()).context("nr_hugepages")?;
    }
    let got: u64 = fs::read_to_string(path)?.trim().parse()?;
    if got < HUGE_PAGES_MIN {
        bail!("only {got} huge pages of {HUGE_PAGES_MIN}");
    }
    // Of a kernel's queue between namespaces, where thousands of clients' frames come at once.
    let backlog: u64 = fs::read_to_string(BACKLOG)?.trim().parse()?;
    if backlog < BACKLOG_MIN {
        fs::write(BACKLOG, BACKLOG_MIN.to_string()).context("netdev_max_backlog")?;
    }
    fs::create_dir_all(HUGE_PAGES_DIR).context("no place for huge pages")?;
    if !fs::read_to_string("/proc/mounts")?.contains(" hugetlbfs ") {
        cmd::run(&["mount", "-t", "hugetlbfs", "hugetlbfs", HUGE_PAGES_DIR])?;
    }
    Ok(())
}

/// Files of huge pages: there are none once all daemons have ended.
pub fn huge_page_files() -> Vec<String> {
    let entries = fs::read_dir(Path::new(HUGE_PAGES_DIR)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// A lab with a ready group and a capture.
pub struct Scenario {
    /// The nodes. Before the lab: they must be dropped first.
    pub trio: Trio,
    capture: Option<Capture>,
    etcd: Option<Etcd>,
    /// The lab.
    pub lab: Lab,
}

impl Scenario {
    /// Builds all of it and waits until it is ready.
    pub fn start(options: &NodeOptions) -> Result<Scenario> {
        Self::start_in(Lab::new, options)
    }

    /// The same, after `prepare` has given the applications what they begin with.
    pub fn start_prepared(
        options: &NodeOptions,
        prepare: impl FnOnce(&Lab) -> Result<()>,
    ) -> Result<Scenario> {
        let lab = || {
            let lab = Lab::new()?;
            prepare(&lab)?;
            Ok(lab)
        };
        Self::start_in(lab, options)
    }

    /// The same, in a lab with forwarders on these networks.
    pub fn start_impaired(options: &NodeOptions, nets: &[Net], seed: u64) -> Result<Scenario> {
        Self::start_in(|| Lab::impaired(nets, seed), options)
    }

    /// The same, with only some of the nodes started.
    pub fn start_some(options: &NodeOptions, members: &[Member]) -> Result<Scenario> {
        prepare_machine()?;
        let lab = Lab::new()?;
        let capture = Some(Capture::start(&lab, HEADERS_ONLY)?);
        let mut trio = Trio::prepare(&lab, options)?;
        members.iter().try_for_each(|&member| trio.node(member).start())?;
        trio.wait_ready()?;
        Ok(Scenario { trio, capture, etcd: None, lab })
    }

    fn start_in(lab: impl FnOnce() -> Result<Lab>, options: &NodeOptions) -> Result<Scenario> {
        prepare_machine()?;
        let lab = lab()?;
        let capture = Some(Capture::start(&lab, HEADERS_ONLY)?);
        let pair = options.group == Group::Pair;
        let etcd = pair.then(|| Etcd::start(&lab)).transpose()?;
        let trio = Trio::start(&lab, options)?;
        Ok(Scenario { trio, capture, etcd, lab })
    }

    /// A pair's arbiter.
    pub fn etcd(&mut self) -> Result<&mut Etcd> {
        self.etcd.as_mut().context("only a pair has an arbiter")
    }

    /// The primary, which there must be.
    pub fn primary(&mut self) -> Result<Member> {
        self.trio.primary().context("no primary")
    }

    /// Ends the capture, keeps it as pcap files, and gives what it recorded.
    pub fn recording(&mut self) -> Result<crate::capture::Recording> {
        let recording = self.capture.take().context("the capture has ended")?.finish()?;
        recording.write_pcap(self.lab.dir())?;
        Ok(recording)
    }

    /// As `recording`, and goes on with a new capture.
    pub fn recording_so_far(&mut self) -> Result<crate::capture::Recording> {
        let next = Capture::start(&self.lab, HEADERS_ONLY)?;
        let recording = self.recording();
        self.capture = Some(next);
        recording
    }

    /// Ends the capture and checks that never two nodes answered, that there were exactly so many
    /// handovers, and that no client's TCP was told what it must not hear.
    pub fn check_wire(&mut self, handovers: usize) -> Result<Vec<Reign>> {
        let recording = self.recording()?;
        let reigns = recording.check_one_answers(handovers)?;
        if reigns.len() != handovers + 1 {
            bail!("{} handovers on the wire, {handovers} expected", reigns.len().saturating_sub(1));
        }
        recording.check_tcp()?;
        Ok(reigns)
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        if std::thread::panicking() && self.capture.is_some() {
            // The test failed already: what cannot be written is only missing.
            let _ = self.recording();
        }
    }
}
