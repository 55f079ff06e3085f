//! Nodes: the shipped daemon with the shipped configuration, in a node's namespace.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use understudy_api::{Events, Response, Role, Status, TimelineEvent, Verdict, decode_response};

use crate::proc::{self, Proc};
use crate::sys::{self, unix_ns};
use crate::topology::{Lab, Member, Net};
use crate::{cmd, topology};

/// The group is ready, or has a new primary, by then: a bound on liveness.
pub const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// A daemon that is asked to end has ended by then.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// An answer of the CLI, which has a shorter bound of its own.
const CLI_TIMEOUT: Duration = Duration::from_secs(40);

/// The key that the nodes of a lab begin with.
pub const FIRST_KEY: &str = "46697273742d6b65792d6f662d746865206c61622c206e6f2073656372657421";

/// A shipped binary: in `UNDERSTUDY_BIN_DIR`, or where cargo put those of this build.
pub fn binary(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os("UNDERSTUDY_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let own = std::env::current_exe()?;
            let dir = own.parent().context("an executable without a directory")?;
            // Test executables are in deps/ below the others.
            let is_test = dir.file_name().is_some_and(|name| name == "deps");
            dir.parent().filter(|_| is_test).unwrap_or(dir).to_path_buf()
        }
    };
    let path = dir.join(name);
    if !path.is_file() {
        bail!("{name} is not in {}: build it, or set UNDERSTUDY_BIN_DIR", dir.display());
    }
    Ok(path)
}

/// Which of the shipped groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Group {
    /// Three nodes.
    #[default]
    Trio,
    /// Nodes a and b, and an etcd.
    Pair,
}

impl Group {
    fn examples(self) -> &'static str {
        ["trio", "pair"][self as usize]
    }

    fn members(self) -> &'static [Member] {
        match self {
            Group::Trio => &Member::ALL,
            Group::Pair => &[Member::A, Member::B],
        }
    }
}

/// What a test changes in the shipped configuration.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// Whose configuration.
    pub group: Group,
    /// Another application.
    pub command: Option<Vec<String>>,
    /// Its ports, such as `tcp/7000`.
    pub ports: Option<Vec<String>>,
    /// Another commit policy.
    pub commit: Option<String>,
    /// Supervised as by systemd: the socket for its notices, and its watchdog's time in us.
    pub notify: Option<(PathBuf, u64)>,
    /// Any other keys: `("detect.suspect_after_ms", 500.into())`.
    pub set: Vec<(String, toml::Value)>,
}

impl NodeOptions {
    /// The lab's own server as the application; `kind` is `tcp` or `udp`.
    pub fn lab_server(kind: &str, port: u16) -> Result<Self> {
        let program = binary("lab-server")?.to_string_lossy().into_owned();
        let words = [&program, kind, "--listen", &format!("[::]:{port}")];
        Ok(Self {
            command: Some(words.map(String::from).to_vec()),
            ports: Some(vec![format!("{kind}/{port}")]),
            ..Self::default()
        })
    }
}

/// One node of the trio.
pub struct Node {
    /// Which.
    pub member: Member,
    netns: PathBuf,
    mark: String,
    config: PathBuf,
    key_file: PathBuf,
    socket: PathBuf,
    state_dir: PathBuf,
    log: PathBuf,
    notify: Option<(PathBuf, u64)>,
    process: Option<Proc>,
    /// Processes that are stopped (SIGSTOP).
    paused: Vec<u32>,
}

/// What a pause stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paused {
    /// The daemon; its application runs on.
    Daemon,
    /// The daemon and its application, as when a virtual machine is paused.
    Machine,
}

impl Node {
    /// Writes the node's configuration; starts nothing.
    pub fn prepare(lab: &Lab, member: Member, options: &NodeOptions) -> Result<Node> {
        let path = |end: &str| lab.dir().join(format!("{member}{end}"));
        let node = Node {
            member,
            netns: lab.node_netns(member),
            mark: lab.prefix().to_string(),
            config: path(".toml"),
            key_file: path(".key"),
            socket: path(".sock"),
            state_dir: state_dir(lab, member),
            log: path(".log"),
            notify: options.notify.clone(),
            process: None,
            paused: Vec::new(),
        };
        fs::create_dir_all(&node.state_dir)?;
        node.write_keys(&[FIRST_KEY])?;
        let table = configuration(&node, &work_dir(lab, member), options)?;
        fs::write(&node.config, toml::to_string(&table)?)?;
        Ok(node)
    }

    /// Writes the node's key file: the first key seals, all open. The daemon reads it when it
    /// starts or is told to.
    pub fn write_keys(&self, keys: &[&str]) -> Result<()> {
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&self.key_file)?;
        Ok(file.write_all((keys.join("\n") + "\n").as_bytes())?)
    }

    /// Starts the daemon.
    pub fn start(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("node {} runs already", self.member);
        }
        let daemon = binary("understudyd")?;
        let mut command = match &self.notify {
            None => cmd::inside(&self.netns, daemon),
            Some((socket, watchdog_us)) => {
                // The watchdog is for one process id, which only the process itself knows here.
                let mut shell = cmd::inside(&self.netns, "sh");
                shell.args(["-c", "export WATCHDOG_PID=$$; exec \"$0\" \"$@\""]).arg(daemon);
                shell.env("NOTIFY_SOCKET", socket).env("WATCHDOG_USEC", watchdog_us.to_string());
                shell
            }
        };
        command.arg("--config").arg(&self.config);
        self.process = Some(Proc::start(command, &self.log, &self.mark)?);
        Ok(())
    }

    /// Whether the daemon runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Proc::is_running)
    }

    /// Process id of the daemon.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Proc::pid)
    }

    /// The daemon's log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    fn ask(&self, words: &[&str]) -> Result<Response> {
        let mut command = Command::new(binary("understudy")?);
        command.arg("-j").arg("-s").arg(&self.socket).args(words);
        let said = cmd::output(command, "", CLI_TIMEOUT)?;
        decode_response(said.stdout.trim().as_bytes()).with_context(|| {
            format!("understudy {}: exit {}: {}", words.join(" "), said.code, said.stderr.trim())
        })
    }

    /// `understudy status`.
    pub fn status(&self) -> Result<Status> {
        match self.ask(&["status"])? {
            Response::Status(status) => Ok(*status),
            Response::Error(error) => bail!("status of {}: {error}", self.member),
            _ => bail!("status of {}: another answer", self.member),
        }
    }

    /// `understudy key status`.
    pub fn keys(&self) -> Result<understudy_api::Keys> {
        self.key_command("status")
    }

    /// `understudy key reload`.
    pub fn reload_keys(&self) -> Result<understudy_api::Keys> {
        self.key_command("reload")
    }

    /// `understudy checkpoint`.
    pub fn checkpoint(&self) -> Result<understudy_api::Checkpoint> {
        match self.ask(&["checkpoint"])? {
            Response::Checkpoint(checkpoint) => Ok(checkpoint),
            Response::Error(error) => bail!("checkpoint of {}: {error}", self.member),
            _ => bail!("checkpoint of {}: another answer", self.member),
        }
    }

    /// `understudy events` since a number.
    pub fn events(&self, since_seq: u64) -> Result<Events> {
        match self.ask(&["events", "--since", &since_seq.to_string()])? {
            Response::Events(events) => Ok(events),
            Response::Error(error) => bail!("events of {}: {error}", self.member),
            _ => bail!("events of {}: another answer", self.member),
        }
    }

    /// `understudy events --follow -j`, while it runs, into a file of its own.
    pub fn follow_events(&self) -> Result<Proc> {
        let mut command = Command::new(binary("understudy")?);
        command.arg("-j").arg("-s").arg(&self.socket).args(["events", "--follow"]);
        Proc::start(command, &self.events_file(), &self.mark)
    }

    /// Where `follow_events` writes.
    pub fn events_file(&self) -> PathBuf {
        self.log.with_extension("events.log")
    }

    /// `understudy capture` with these words, while it runs.
    pub fn capture(&self, words: &[&str]) -> Result<Proc> {
        let mut command = Command::new(binary("understudy")?);
        command.arg("-s").arg(&self.socket).arg("capture").args(words);
        Proc::start(command, &self.log.with_extension("capture.log"), &self.mark)
    }

    /// Where its checkpoints are.
    pub fn checkpoints(&self) -> PathBuf {
        self.state_dir.join("checkpoints")
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Where it keeps its state.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The daemon's unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Changes one key of its file, such as `checkpoint.keep`; the daemon is told nothing.
    pub fn edit(&self, key: &str, value: impl Into<toml::Value>) -> Result<()> {
        let mut table: toml::Table = fs::read_to_string(&self.config)?.parse()?;
        set(&mut table, key, value.into())?;
        Ok(fs::write(&self.config, toml::to_string(&table)?)?)
    }

    /// `understudy plan`, of its own file.
    pub fn plan(&self) -> Result<understudy_api::Plan> {
        self.plan_command("plan")
    }

    /// `understudy reload`; a refusal is the error, as the daemon said it.
    pub fn reload(&self) -> Result<understudy_api::Plan> {
        self.plan_command("reload")
    }

    fn plan_command(&self, word: &str) -> Result<understudy_api::Plan> {
        match self.ask(&[word])? {
            Response::Plan(plan) => Ok(plan),
            Response::Error(error) => Err(error.into()),
            _ => bail!("{word} of {}: another answer", self.member),
        }
    }

    fn key_command(&self, word: &str) -> Result<understudy_api::Keys> {
        match self.ask(&["key", word])? {
            Response::Keys(keys) => Ok(keys),
            Response::Error(error) => bail!("key {word} of {}: {error}", self.member),
            _ => bail!("key {word} of {}: another answer", self.member),
        }
    }

    /// `understudy conns`.
    pub fn conns(&self) -> Result<understudy_api::Conns> {
        match self.ask(&["conns"])? {
            Response::Conns(conns) => Ok(conns),
            Response::Error(error) => bail!("conns of {}: {error}", self.member),
            _ => bail!("conns of {}: another answer", self.member),
        }
    }

    /// `understudy conns -v`, of all clients or one.
    pub fn conn_images(&self, client: Option<&str>) -> Result<understudy_api::ConnImages> {
        let words: Vec<&str> = ["conns", "-v"].into_iter().chain(client).collect();
        match self.ask(&words)? {
            Response::ConnImages(images) => Ok(images),
            Response::Error(error) => bail!("conns -v of {}: {error}", self.member),
            _ => bail!("conns -v of {}: another answer", self.member),
        }
    }

    /// `understudy switchover`, to a given node or the fittest.
    pub fn switchover(&self, to: Option<Member>) -> Result<understudy_api::SwitchoverDone> {
        let mut words = vec!["switchover"];
        if let Some(to) = to {
            words.extend(["--to", to.name()]);
        }
        match self.ask(&words)? {
            Response::Switchover(done) => Ok(done),
            Response::Error(error) => bail!("switchover from {}: {error}", self.member),
            _ => bail!("switchover from {}: another answer", self.member),
        }
    }

    /// Waits until the node says that it is ready.
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<Status> {
        let deadline = Instant::now() + timeout;
        loop {
            let status = self.status();
            match status {
                Ok(status) if status.ready => return Ok(status),
                _ if !self.is_running() => {
                    let tail = self.process.as_ref().map(Proc::log_tail).unwrap_or_default();
                    bail!("node {} has ended:\n{tail}", self.member);
                }
                _ if Instant::now() < deadline => {}
                Ok(status) => {
                    let why = status.not_ready_because.join("; ");
                    bail!("node {} ({}) is not ready: {why}", self.member, status.role)
                }
                Err(error) => return Err(error),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// SIGKILL to daemon and application at once; gives the moment just before.
    pub fn kill9(&mut self) -> Result<u64> {
        self.kill9_with(|| Ok(()))
    }

    /// The same, with what else dies in the same moment.
    fn kill9_with(&mut self, dies_with_it: impl FnOnce() -> Result<()>) -> Result<u64> {
        let app = self.status().ok().and_then(|status| status.service.app_pid);
        let process =
            self.process.as_mut().with_context(|| format!("{} not started", self.member))?;
        let mut tree: Vec<u32> = proc::descendants(process.pid()).into_iter().collect();
        tree.extend(app.into_iter().filter(|&pid| proc::name_of(pid).is_some()));
        let moment = unix_ns();
        process.strike(&tree);
        let outcome = dies_with_it();
        process.kill_tree(&tree);
        self.process = None;
        outcome.map(|()| moment)
    }

    /// SIGKILL to the application only; gives the moment just before.
    pub fn kill_application(&mut self) -> Result<u64> {
        let pid = self.status()?.service.app_pid.context("no application runs")?;
        let moment = unix_ns();
        sys::kill(pid, libc::SIGKILL)?;
        Ok(moment)
    }

    /// SIGSTOP; gives the moment just before. Until `resume` nothing is asked of the node.
    pub fn pause(&mut self, what: Paused) -> Result<u64> {
        let app = self.status()?.service.app_pid.filter(|_| what == Paused::Machine);
        self.paused = self.pid().into_iter().chain(app).collect();
        let moment = unix_ns();
        self.paused.iter().try_for_each(|&pid| sys::kill(pid, libc::SIGSTOP))?;
        Ok(moment)
    }

    /// SIGCONT to all that a pause stopped; gives the moment just before.
    pub fn resume(&mut self) -> Result<u64> {
        let moment = unix_ns();
        self.paused.drain(..).try_for_each(|pid| sys::kill(pid, libc::SIGCONT))?;
        Ok(moment)
    }

    /// Whether the daemon runs and is not paused.
    fn can_answer(&mut self) -> bool {
        self.paused.is_empty() && self.is_running()
    }

    /// SIGTERM to the daemon; gives its exit code.
    pub fn stop(&mut self) -> Result<i32> {
        let mut process = self.process.take().context("not started")?;
        let code = process.terminate(STOP_TIMEOUT);
        code.with_context(|| format!("node {} and SIGTERM:\n{}", self.member, process.log_tail()))
    }

    /// Forgets what the node holds on disk, as a new machine would.
    pub fn wipe_state(&self) -> Result<()> {
        fs::remove_dir_all(&self.state_dir)?;
        Ok(fs::create_dir_all(&self.state_dir)?)
    }
}

/// Where a node keeps its state.
pub fn state_dir(lab: &Lab, member: Member) -> PathBuf {
    lab.dir().join(format!("{member}-state"))
}

/// Where a node's application works.
pub fn work_dir(lab: &Lab, member: Member) -> PathBuf {
    lab.dir().join(format!("{member}-work"))
}

/// The shipped file of a node with the lab's paths and the test's changes.
fn configuration(node: &Node, work_dir: &Path, options: &NodeOptions) -> Result<toml::Table> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let shipped = shipped.join(options.group.examples());
    let file = shipped.join(format!("{}.toml", node.member));
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let mut table: toml::Table = text.parse()?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut changes: Vec<(String, toml::Value)> = vec![
        ("cluster.key_file".into(), text(&node.key_file).into()),
        ("control.socket".into(), text(&node.socket).into()),
        ("control.state_dir".into(), text(&node.state_dir).into()),
        ("service.work_dir".into(), text(work_dir).into()),
        // The application does not inherit the daemon's environment; this marks it.
        (format!("service.env.{}", proc::MARK), node.mark.as_str().into()),
    ];
    for (key, interface) in [("ports.client.device", "us-cl"), ("ports.replica.device", "us-rp")] {
        let device = string_at(&table, key)?;
        changes.push((key.into(), with_interface(&device, interface).into()));
    }
    let list = |words: &[String]| toml::Value::from(words.to_vec());
    changes.extend(options.command.iter().map(|words| ("service.command".into(), list(words))));
    changes.extend(options.ports.iter().map(|words| ("service.ports".into(), list(words))));
    changes.extend(options.commit.iter().map(|p| ("commit.policy".into(), p.as_str().into())));
    changes.extend(options.set.iter().cloned());
    for (key, value) in changes {
        set(&mut table, &key, value)?;
    }
    Ok(table)
}

fn string_at(table: &toml::Table, key: &str) -> Result<String> {
    let mut words = key.split('.');
    let first = words.next().and_then(|word| table.get(word));
    let value = words.fold(first, |value, word| value?.get(word));
    let text = value.and_then(toml::Value::as_str);
    text.map(String::from).with_context(|| format!("{key} is not in the configuration"))
}

/// The devargs with another `iface=`: in the lab every node's interfaces have the same names.
fn with_interface(device: &str, interface: &str) -> String {
    let parts = device.split(',').map(|part| match part.starts_with("iface=") {
        true => format!("iface={interface}"),
        false => part.to_string(),
    });
    parts.collect::<Vec<_>>().join(",")
}

/// `nodes.1.priority` is in the second of a list.
fn set(table: &mut toml::Table, key: &str, value: toml::Value) -> Result<()> {
    let Some((section, rest)) = key.split_once('.') else {
        table.insert(key.to_string(), value);
        return Ok(());
    };
    let entry = table.entry(section).or_insert_with(|| toml::Table::new().into());
    let (entry, rest) = match (entry, rest.split_once('.')) {
        (toml::Value::Array(list), Some((at, rest))) => {
            let at: usize = at.parse()?;
            (list.get_mut(at).with_context(|| format!("{section} has no {at}"))?, rest)
        }
        (entry, _) => (entry, rest),
    };
    let inner = entry.as_table_mut().with_context(|| format!("{section} is no section"))?;
    set(inner, rest, value)
}

/// Three nodes, or two of a pair.
pub struct Trio {
    /// In the order a, b, c.
    pub nodes: Vec<Node>,
}

impl Trio {
    /// Writes the configurations; starts nothing.
    pub fn prepare(lab: &Lab, options: &NodeOptions) -> Result<Trio> {
        let members = options.group.members().iter();
        let nodes = members.map(|&member| Node::prepare(lab, member, options));
        Ok(Trio { nodes: nodes.collect::<Result<_>>()? })
    }

    /// Starts the nodes and waits until one serves and the others could.
    pub fn start(lab: &Lab, options: &NodeOptions) -> Result<Trio> {
        let mut trio = Trio::prepare(lab, options)?;
        trio.nodes.iter_mut().try_for_each(Node::start)?;
        trio.wait_ready()?;
        Ok(trio)
    }

    /// One of them.
    pub fn node(&mut self, member: Member) -> &mut Node {
        &mut self.nodes[member as usize]
    }

    /// Waits until every running node is ready and one of them is the primary.
    pub fn wait_ready(&mut self) -> Result<Member> {
        for node in self.nodes.iter_mut().filter(|node| node.process.is_some()) {
            node.wait_ready(READY_TIMEOUT)?;
        }
        self.wait_primary(None, READY_TIMEOUT)
    }

    /// The running node that calls itself primary in the newest epoch.
    pub fn primary(&mut self) -> Option<Member> {
        self.primary_status().map(|(member, _)| member)
    }

    fn primary_status(&mut self) -> Option<(Member, Status)> {
        let running = self.nodes.iter_mut().filter_map(|n| n.can_answer().then_some(&*n));
        running
            .filter_map(|node| Some((node.member, node.status().ok()?)))
            .filter(|(_, status)| status.role == Role::Primary)
            .max_by_key(|(_, status)| status.epoch)
    }

    /// Waits for a primary that serves and is not `old`.
    pub fn wait_primary(&mut self, old: Option<Member>, timeout: Duration) -> Result<Member> {
        let mut found = None;
        cmd::wait_until("a primary that serves", timeout, || {
            let primary = self.primary_status();
            found = primary
                .filter(|(member, status)| status.ready && Some(*member) != old)
                .map(|(member, _)| member);
            Ok(found.is_some())
        })?;
        found.ok_or_else(|| anyhow!("no primary"))
    }

    /// The death of a machine: daemon and application killed, all cables dead.
    pub fn crash(&mut self, lab: &Lab, member: Member) -> Result<u64> {
        // Not after the processes are gone: that takes as long as a takeover.
        self.node(member).kill9_with(|| lab.cut_all_links(member))
    }

    /// The machine comes back: cables first, then the daemon.
    pub fn revive(&mut self, lab: &Lab, member: Member) -> Result<()> {
        lab.restore_all_links(member)?;
        self.node(member).start()
    }

    /// Waits until every running node says that the service is protected.
    pub fn wait_protected(&mut self) -> Result<()> {
        for node in self.nodes.iter_mut().filter(|node| node.process.is_some()) {
            let mut line = String::new();
            let said = cmd::wait_until("protected", READY_TIMEOUT, || {
                // A daemon that starts anew does not answer for a moment.
                let Ok(status) = node.status() else { return Ok(false) };
                line = status.verdict_line();
                Ok(status.verdict == Verdict::Protected)
            });
            said.with_context(|| format!("node {} says: {line}", node.member))?;
        }
        Ok(())
    }

    /// Stops all that run; gives their exit codes.
    pub fn stop(&mut self) -> Result<Vec<(Member, i32)>> {
        let mut codes = Vec::new();
        for node in self.nodes.iter_mut().filter(|node| node.process.is_some()) {
            codes.push((node.member, node.stop()?));
        }
        Ok(codes)
    }

    /// Events of all running nodes since a moment, in order of time.
    pub fn timeline(&mut self, since_ns: u64) -> Vec<(Member, TimelineEvent)> {
        let mut events: Vec<(Member, TimelineEvent)> = Vec::new();
        for node in self.nodes.iter_mut().filter_map(|n| n.can_answer().then_some(n)) {
            let timeline = node.status().map(|status| status.timeline).unwrap_or_default();
            events.extend(timeline.into_iter().map(|event| (node.member, event)));
        }
        events.retain(|(_, event)| event.unix_ns >= since_ns);
        events.sort_by_key(|(_, event)| event.unix_ns);
        events
    }
}

/// The frames of the replica network that are acknowledgements.
///
/// Byte 5 of a PDU is its kind, 2 is ACK; see `understudy_wire::pdu`.
pub const ACKNOWLEDGEMENTS: topology::Match =
    topology::Match::Byte { ethertype: 0x88b5, offset: 5, value: 2 };

/// Drops (true) or lets pass again (false) the acknowledgements of all replicas.
pub fn block_acknowledgements(lab: &Lab, primary: Member, is_blocked: bool) -> Result<()> {
    primary.others().try_for_each(|replica| match is_blocked {
        true => lab.block(replica, Net::Replica, topology::Direction::FromNode, ACKNOWLEDGEMENTS),
        false => lab.unblock(replica, Net::Replica),
    })
}

/// A port of the IPv4 VIP.
pub fn vip4(port: u16) -> SocketAddr {
    SocketAddr::new(topology::VIP4.parse().expect("a constant"), port)
}

/// A port of the IPv6 VIP.
pub fn vip6(port: u16) -> SocketAddr {
    SocketAddr::new(topology::VIP6.parse().expect("a constant"), port)
}
