//! What a checkpoint of a real redis with live connections costs, beside plain `criu dump` and
//! `criu restore` of the same process. Needs root, CRIU and redis-server; makes namespaces of its own.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use understudy_checkpoint::{Criu, Manifest, Store};
use understudy_linux::capsule::{App, AppSpec};
use understudy_linux::netns::NetNs;
use understudy_linux::rtnl::{self, VethSpec};

use super::scratch;
use crate::findings::{Findings, Sides};
use crate::noise::Discarded;
use crate::paired::{Pair, Pairs};
use crate::stats::Spread;

const SERVER: &str = "10.87.0.1:7001";
const VMAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x50];
const VALUE_BYTES: usize = 100_000;
const LIMIT: Duration = Duration::from_secs(10);

/// What it is.
pub const ABOUT: &str = "What a checkpoint of a running redis with 100 live connections costs, beside plain \
    `criu dump` and `criu restore` of the same process, in turn. Frozen is how long the process \
    stood still, by CRIU's own count; a dump holds the reading of its connections' clocks; a restore \
    ends when the application may go on and its clocks are set.";

const DATA_MB: [usize; 2] = [0, 50];
const CONNECTIONS: usize = 100;
const PAIRS: usize = 10;
const PAIRS_QUICK: usize = 3;

struct Rig {
    criu: Criu,
    dir: PathBuf,
    capsule: NetNs,
    _clients: NetNs,
    _connections: Vec<TcpStream>,
}

#[derive(Default)]
struct Times {
    frozen: Vec<f64>,
    dump: Vec<f64>,
    plain_dump: Vec<f64>,
    keep: Vec<f64>,
    restore: Vec<f64>,
    plain_restore: Vec<f64>,
    bytes: u64,
}

/// Runs it.
///
/// # Errors
/// What is missing here.
pub fn run(plan: &super::Plan, findings: &mut Findings) -> Result<()> {
    for data_mb in DATA_MB {
        let dir = scratch(plan, &format!("checkpoint-{data_mb}"))?;
        measure(data_mb, plan.count(PAIRS, PAIRS_QUICK), &dir, findings)?;
    }
    Ok(())
}

fn measure(data_mb: usize, pairs: usize, dir: &Path, findings: &mut Findings) -> Result<()> {
    let criu = Criu::find()?;
    let clients = NetNs::create()?;
    let capsule = NetNs::create()?;
    join(&clients, &capsule)?;
    let mut app = Some(start(&capsule, dir)?);
    let connections = fill(&clients, data_mb)?;
    let rig = Rig { criu, dir: dir.into(), capsule, _clients: clients, _connections: connections };
    let mut times = Times::default();
    for pair in 0..pairs {
        app = Some(rig.round(app.take().context("no application")?, pair, &mut times)?);
    }
    times.report(data_mb, rig.criu.version(), findings);
    Ok(())
}

impl Times {
    fn report(&self, data_mb: usize, criu: &str, findings: &mut Findings) {
        let what = format!("redis with {data_mb} MB of data");
        for (name, ours, theirs) in [
            ("dump", &self.dump, &self.plain_dump),
            ("restore", &self.restore, &self.plain_restore),
        ] {
            let pair = |(&subject, &baseline)| Pair { baseline, subject };
            let kept = ours.iter().zip(theirs).map(pair).collect();
            let pairs = Pairs { kept, discarded: Discarded::default() };
            let (id, theirs) = (format!("checkpoint/{data_mb}/{name}"), format!("criu {name}"));
            let (ours, theirs) = (name, theirs.as_str());
            findings.compare(Sides { id: &id, what: &what, unit: "ms", ours, theirs }, &pairs);
        }
        let mut figure = |id: &str, name: &str, unit: &str, value: Spread, samples: usize| {
            let (id, what) = (format!("checkpoint/{data_mb}/{id}"), format!("{name}, {what}"));
            findings.figure(&id, &what, unit, value, samples);
        };
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        let count = self.frozen.len();
        figure("frozen", "frozen", "ms", spread(&self.frozen), count);
        figure("keep", "kept on disk (checksums, fsync)", "ms", spread(&self.keep), count);
        figure("size", "size", "MB", Spread::exact(self.bytes as f64 / 1e6), count);
        findings.note(format!("CRIU {criu}, {what}, {CONNECTIONS} connections."));
    }
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

impl Rig {
    /// Both kinds of dump of one process, then both kinds of restore; the last one goes on.
    fn round(&self, app: App, pair: usize, times: &mut Times) -> Result<App> {
        let store = Store::open(&self.dir.join("checkpoints"), 2)?;
        let (draft, work) = (store.begin()?, self.dir.join("work"));
        let plain = self.dir.join("plain");
        let _ = fs::remove_dir_all(&plain);
        fs::create_dir_all(&plain)?;
        let mut dumped = None;
        let first = pair.is_multiple_of(2);
        for ours in [first, !first] {
            let begun = Instant::now();
            if ours {
                let done = self.criu.dump(&self.capsule, app.pid(), &[], draft.dir(), &work)?;
                times.dump.push(ms(begun));
                dumped = Some(done);
            } else {
                let pid = app.pid().to_string();
                self.plain(&["dump", "--tree", &pid, "--leave-running"], &plain)?;
                times.plain_dump.push(ms(begun));
            }
        }
        let dumped = dumped.context("not dumped")?;
        times.frozen.push(dumped.frozen_us as f64 / 1e3);
        let output_file = self.dir.join("output").to_string_lossy().into_owned();
        let mut manifest = Manifest { output_file, clocks: dumped.clocks, ..Manifest::default() };
        manifest.set_age(dumped.taken.elapsed().unwrap_or_default());
        let begun = Instant::now();
        let generation = store.commit(draft, manifest)?;
        times.keep.push(ms(begun));
        times.bytes = generation.manifest.bytes();
        drop(app);
        understudy_linux::socks::destroy_connections(&self.capsule)?;
        self.plain_restore(&plain, times)?;
        let output = File::options().append(true).create(true).open(self.dir.join("output"))?;
        let name = generation.manifest.output_file.clone();
        let begun = Instant::now();
        let app = self.criu.restore(
            &self.capsule,
            &[],
            &generation.dir,
            &work,
            (name.as_str(), output),
        )?;
        Criu::renew(&app, &generation.manifest)?;
        times.restore.push(ms(begun));
        app.go_on()?;
        Ok(app)
    }

    fn plain_restore(&self, images: &Path, times: &mut Times) -> Result<()> {
        let begun = Instant::now();
        let _ = fs::remove_file(images.join("pid"));
        self.plain(
            &["restore", "--restore-detached", "--leave-stopped", "--pidfile", "pid"],
            images,
        )?;
        times.plain_restore.push(ms(begun));
        let pid = fs::read_to_string(images.join("pid"))?;
        let killed = Command::new("kill").args(["-9", pid.trim()]).status()?;
        if !killed.success() {
            bail!("cannot end the restored process {pid}");
        }
        let end = Instant::now() + LIMIT;
        while Path::new("/proc").join(pid.trim()).exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        understudy_linux::socks::destroy_connections(&self.capsule)?;
        Ok(())
    }

    /// CRIU as anybody would call it.
    fn plain(&self, words: &[&str], images: &Path) -> Result<()> {
        let mut command = Command::new("criu");
        command.args(words).arg("--images-dir").arg(images).arg("--work-dir").arg(images);
        command.args(["--tcp-established", "--network-lock", "skip", "--manage-cgroups=ignore"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = self.capsule.run(|| command.status())??;
        if !status.success() {
            bail!("criu {} failed; its log is in {}", words[0], images.display());
        }
        Ok(())
    }
}

fn join(clients: &NetNs, capsule: &NetNs) -> Result<()> {
    let spec = VethSpec { outer: "us-bench", inner: "eth0", inner_mac: VMAC, mtu: 1500 };
    clients.run(|| rtnl::create_veth(capsule, &spec))??;
    rtnl::configure_capsule(capsule, "eth0", &[("10.87.0.1".parse()?, 24)], &[])?;
    let ip = |words: &[&str]| -> Result<()> {
        let status = Command::new("ip").args(words).status()?;
        if status.success() { Ok(()) } else { bail!("ip {} failed", words.join(" ")) }
    };
    clients.run(|| {
        ip(&["addr", "add", "10.87.0.2/24", "dev", "us-bench"])?;
        ip(&["link", "set", "us-bench", "up"])
    })?
}

fn start(capsule: &NetNs, dir: &Path) -> Result<App> {
    let (ip, port) = SERVER.split_once(':').context("a constant")?;
    let words =
        ["redis-server", "--bind", ip, "--port", port, "--save", "", "--protected-mode", "no"];
    let spec = AppSpec {
        command: words.map(String::from).into(),
        work_dir: dir.into(),
        env: vec![],
        stdout_log: dir.join("output"),
    };
    Ok(App::spawn(capsule, &spec)?)
}

fn fill(clients: &NetNs, data_mb: usize) -> Result<Vec<TcpStream>> {
    let to: SocketAddr = SERVER.parse()?;
    let end = Instant::now() + LIMIT;
    let mut connections = Vec::new();
    while connections.len() < CONNECTIONS {
        match clients.run(|| TcpStream::connect_timeout(&to, LIMIT))? {
            Ok(stream) => connections.push(stream),
            Err(e) if Instant::now() > end => return Err(e.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    let mut writer = BufReader::new(connections[0].try_clone()?);
    let value = "v".repeat(VALUE_BYTES);
    for key in 0..data_mb * 1_000_000 / VALUE_BYTES {
        let (name, value) = (format!("key:{key}"), format!("{key}{value}"));
        let words = ["set", &name, &value].map(|w| format!("${}\r\n{w}\r\n", w.len()));
        writer.get_mut().write_all(format!("*3\r\n{}", words.concat()).as_bytes())?;
        let mut line = String::new();
        writer.read_line(&mut line)?;
        if line != "+OK\r\n" {
            bail!("redis answers {line:?}");
        }
    }
    Ok(connections)
}
