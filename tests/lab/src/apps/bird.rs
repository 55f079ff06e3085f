//! Debian's BIRD 2: one behind the VIP that waits for its peer, and the peer in the client's place.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{words, work_dirs};
use crate::cmd;
use crate::node::{NodeOptions, work_dir};
use crate::proc::Proc;
use crate::topology::{CLIENT4, Lab, Member, VIP4};

/// In the node's working directory.
const CONFIGURATION: &str = "bird.conf";
/// Where BGP listens.
pub const PORT: u16 = 179;
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A session's timers.
#[derive(Clone, Copy, Debug)]
pub struct Timers {
    /// Seconds of silence after which a session ends.
    pub hold_s: u64,
    /// Seconds between two signs of life, less up to a quarter that BIRD leaves to chance.
    pub keepalive_s: u64,
}

impl Timers {
    /// As short as is common.
    pub const SHORT: Timers = Timers { hold_s: 9, keepalive_s: 3 };
    /// BIRD's own.
    pub const DEFAULT: Timers = Timers { hold_s: 240, keepalive_s: 80 };

    fn words(self) -> String {
        format!("hold time {}; keepalive time {};", self.hold_s, self.keepalive_s)
    }
}

/// Routes that each end can announce.
pub const ROUTES: usize = 10_000;

/// The first octet of what each end announces.
const VIP_NET: u8 = 20;
const PEER_NET: u8 = 30;

/// BIRD as the application. A clone may be as late as one period: its timers drift from the
/// primary's.
pub fn options(timers: Timers) -> NodeOptions {
    let wait_ms = i64::try_from(timers.keepalive_s * 1000).unwrap_or(i64::MAX);
    NodeOptions {
        command: Some(words(&format!("/usr/sbin/bird -f -c {CONFIGURATION} -s bird.ctl"))),
        ports: Some(vec![format!("tcp/{PORT}")]),
        set: vec![("service.clone_wait_ms".into(), wait_ms.into())],
        ..NodeOptions::default()
    }
}

/// Fills the nodes' working directories: this BIRD never opens a connection, only clients do.
pub fn prepare(lab: &Lab, timers: Timers) -> Result<()> {
    let session = format!(
        "local {VIP4} as 65001; neighbor {CLIENT4} as 65002; passive on; {}",
        timers.words()
    );
    for dir in work_dirs(lab)? {
        fs::write(dir.join(CONFIGURATION), configuration(VIP4, &session, VIP_NET, true))?;
    }
    Ok(())
}

/// Changes one route of what a node's BIRD announces, as an operator does who forgets the other nodes.
pub fn drift(lab: &Lab, member: Member) -> Result<()> {
    let path = work_dir(lab, member).join(CONFIGURATION);
    let text = fs::read_to_string(&path)?;
    let changed = text.replace(&route(VIP_NET, ROUTES - 1), &route(VIP_NET, ROUTES));
    ensure!(changed != text, "{} has no such route", path.display());
    Ok(fs::write(&path, changed)?)
}

fn route(net: u8, number: usize) -> String {
    format!("route {net}.{}.{}.0/24 blackhole;", number >> 8, number & 255)
}

fn configuration(id: &str, session: &str, net: u8, announces: bool) -> String {
    let disabled = if announces { "no" } else { "yes" };
    let mut text = format!(
        "log stderr all;
router id {id};
timeformat protocol iso long ms;
protocol device {{ }}
protocol bgp peer {{
    {session}
    ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};
}}
protocol static announced {{
    disabled {disabled};
    ipv4;
"
    );
    for number in 0..ROUTES {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "    {}", route(net, number));
    }
    text + "}\n"
}

/// The peer: an unprotected BIRD that opens the session with the VIP.
pub struct Peer {
    process: Proc,
    socket: PathBuf,
}

impl Peer {
    /// Starts it in the client's namespace; its routes may wait for `announce`.
    pub fn start(lab: &Lab, timers: Timers, announces: bool) -> Result<Peer> {
        let path = |end: &str| lab.dir().join(format!("peer.{end}"));
        let session = format!(
            "local {CLIENT4} as 65002; neighbor {VIP4} as 65001; connect delay time 1; {}",
            timers.words()
        );
        fs::write(path("conf"), configuration(CLIENT4, &session, PEER_NET, announces))?;
        let mut command = cmd::inside(&lab.client_netns(), "bird");
        command.arg("-f").arg("-c").arg(path("conf")).arg("-s").arg(path("ctl"));
        let process = Proc::start(command, &path("log"), lab.prefix())?;
        Ok(Peer { process, socket: path("ctl") })
    }

    /// Waits until the peer has imported and exported so many routes.
    pub fn wait_routes(&self, imported: usize, exported: usize) -> Result<()> {
        let whole = ("Established".to_string(), (imported, exported));
        cmd::wait_until("all routes at the peer", START_TIMEOUT, || {
            Ok(self.session().is_ok_and(|session| (session.state, session.routes) == whole))
        })
        .with_context(|| format!("{:?}\n{}", self.session(), self.process.log_tail()))
    }

    /// Announces its own routes.
    pub fn announce(&self) -> Result<()> {
        let socket = self.socket.to_string_lossy();
        cmd::run(&["birdc", "-s", &socket, "enable", "announced"]).map(drop)
    }

    /// How the peer sees the session now.
    pub fn session(&self) -> Result<Session> {
        Session::ask(&self.socket)
    }
}

/// How the BIRD of a node sees the session, a clone's too.
pub fn session_of(lab: &Lab, member: Member) -> Result<Session> {
    Session::ask(&work_dir(lab, member).join("bird.ctl"))
}

/// What `birdc show protocols all` says of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// `Established` in a session that lives.
    pub state: String,
    /// When the session came into this state, in ms of the day; reckoned back from now each time.
    pub since_ms: u64,
    /// Routes: (imported, exported).
    pub routes: (usize, usize),
    /// Received and not: (updates, withdraws).
    pub imports: (usize, usize),
    /// What ended the last session, if one has ended.
    pub last_error: Option<String>,
}

/// Reads `19:26:47.919`.
fn ms_of_day(text: &str) -> Option<u64> {
    let (time, ms) = text.split_once('.')?;
    let seconds =
        time.split(':').try_fold(0, |all, part| Some(all * 60 + part.parse::<u64>().ok()?));
    Some(seconds? * 1000 + ms.parse::<u64>().ok()?)
}

impl Session {
    /// Whether this is still that session, with nothing lost or said anew.
    pub fn is_same_as(&self, earlier: &Session) -> bool {
        let is_old = self.since_ms.abs_diff(earlier.since_ms) < 100;
        is_old && Session { since_ms: earlier.since_ms, ..self.clone() } == *earlier
    }

    fn ask(socket: &Path) -> Result<Session> {
        let socket = socket.to_string_lossy();
        let said = cmd::run(&["birdc", "-s", &socket, "show", "protocols", "all", "peer"])?;
        Self::read(&said).with_context(|| said)
    }

    fn read(said: &str) -> Option<Session> {
        let after = |name: &str| {
            let line = said.lines().find(|line| line.trim_start().starts_with(name))?;
            Some(line.trim_start().strip_prefix(name)?.trim().to_string())
        };
        let numbers = |name: &str| -> Vec<usize> {
            let text = after(name).unwrap_or_default();
            let words = text.split(|c: char| !c.is_ascii_digit());
            words.filter_map(|word| word.parse().ok()).collect()
        };
        // Name, Proto, Table, State, Since (two words), Info.
        let head = said.lines().find(|line| line.starts_with("peer"))?;
        let since_ms = ms_of_day(head.split_whitespace().nth(5)?)?;
        let (routes, updates) = (numbers("Routes:"), numbers("Import updates:"));
        let number = |list: &[usize], at: usize| list.get(at).copied().unwrap_or(0);
        Some(Session {
            state: after("BGP state:")?,
            since_ms,
            routes: (number(&routes, 0), number(&routes, 1)),
            imports: (number(&updates, 0), number(&numbers("Import withdraws:"), 0)),
            last_error: after("Last error:"),
        })
    }
}
