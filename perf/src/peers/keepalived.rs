//! keepalived: two nodes of the lab with a redis each, the VIP on whichever is VRRP's master.

use std::fs;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use understudy_lab::node::vip4;
use understudy_lab::proc::Proc;
use understudy_lab::sys::{self, unix_ns};
use understudy_lab::topology::{VIP4, VRID};
use understudy_lab::{Lab, Member, cmd, plain};

use crate::clients::{Clients, Plan, Record, longest_gap};
use crate::findings::Findings;
use crate::noise::{Discarded, Fate, Watch};
use crate::stats::{Distribution, Spread};

/// Advertisement intervals, in ms.
pub const ADVERTS_MS: [u32; 2] = [10, 1000];

const PORT: u16 = 6379;
const MEMBERS: [Member; 2] = [Member::A, Member::B];
const LIVENESS: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_millis(500);
/// Kills for each that is wanted.
const ATTEMPTS: usize = 2;
/// An attempt of the prober to connect: on these links a handshake takes less than a millisecond.
const PROBE_TIMEOUT: Duration = Duration::from_millis(10);
const PROBE_PAUSE: Duration = Duration::from_millis(2);

/// All kills with one interval.
#[derive(Default)]
pub struct Tally {
    /// Silences of clients that connect again, in ns.
    stalls_ns: Vec<u64>,
    /// Of every kill, the worst client's, in ms.
    pub worst_ms: Vec<f64>,
    /// From the kill to an answered new connection, in ns.
    outages_ns: Vec<u64>,
    connections: usize,
    died: usize,
    kills: usize,
    /// Kills whose times do not count.
    pub discarded: Discarded,
}

/// A kill of the master.
struct Kill {
    at_ns: u64,
    over_ns: u64,
    fate: Fate,
}

impl Tally {
    /// Adds what was seen to the findings.
    pub fn report(&self, advert_ms: u32, findings: &mut Findings) {
        let id = format!("keepalived-{advert_ms}");
        let name = format!("keepalived, advert {advert_ms} ms");
        if let Some(remark) = self.discarded.remark(&name, self.kills) {
            findings.note(remark);
        }
        let stalls = Distribution::of_ns(self.stalls_ns.iter().copied());
        findings.times(
            "stall",
            &format!("{id}/stall"),
            &format!("{name}, node killed, clients connect again"),
            stalls,
        );
        let outages = Distribution::of_ns(self.outages_ns.iter().copied());
        findings.times(
            "stall",
            &format!("{id}/new"),
            &format!("{name}, node killed, new connections"),
            outages,
        );
        let what = format!("connections that died, {name}, of {}", self.connections);
        findings.figure(
            &format!("{id}/died"),
            &what,
            "",
            Spread::exact(self.died as f64),
            self.kills,
        );
    }

    fn add(&mut self, kill: &Kill, records: &[Record], answers: &[u64]) {
        self.kills += 1;
        self.connections += records.len();
        // A client may connect more than once before it is served; one death each is the kill's.
        let died = |r: &&Record| r.deaths_between(kill.at_ns, kill.over_ns) > 0;
        self.died += records.iter().filter(died).count();
        if self.discarded.count(kill.fate) {
            return;
        }
        let stalls: Vec<u64> =
            records.iter().filter_map(|r| r.stall(kill.at_ns)).map(|(length, _)| length).collect();
        self.worst_ms.extend(stalls.iter().max().map(|&ns| ns as f64 / 1e6));
        self.stalls_ns.extend(stalls);
        let gap = longest_gap(answers.iter().copied(), kill.at_ns);
        self.outages_ns.extend(gap.map(|(_, end)| end - kill.at_ns));
    }
}

/// The two nodes; dropped before the lab.
struct Nodes {
    running: Vec<(Member, Vec<Proc>)>,
}

/// A lab, and kills of the master one after another.
///
/// # Errors
/// If nobody becomes master.
pub fn block(
    advert_ms: u32,
    kills: usize,
    clients: (usize, Plan),
    tally: &mut Tally,
) -> Result<()> {
    let lab = Lab::new()?;
    for member in MEMBERS {
        prepare(&lab, member, advert_ms)?;
    }
    let mut nodes = Nodes { running: Vec::new() };
    for member in MEMBERS {
        nodes.start(&lab, member)?;
    }
    plain::wait_port(&lab.client_netns(), vip4(PORT))?;
    let clients = Clients::start(&lab.client_netns(), clients.0, clients.1)?;
    let prober = Prober::start(&lab)?;
    let mut done: Vec<Kill> = Vec::with_capacity(kills);
    let mut wanted = kills;
    while wanted > 0 && done.len() < kills * ATTEMPTS {
        clients.wait_replies_after(unix_ns(), LIVENESS)?;
        std::thread::sleep(SETTLE);
        let master = master(&lab)?.context("no node has the VIP")?;
        let watch = Watch::begin_failure();
        let at_ns = nodes.kill(&lab, master)?;
        std::thread::sleep(SETTLE);
        let fate = watch.end();
        clients.wait_replies_after(unix_ns(), LIVENESS)?;
        wanted -= usize::from(fate == Fate::Quiet);
        done.push(Kill { at_ns, over_ns: unix_ns(), fate });
        nodes.revive(&lab, master)?;
        // It must be a backup again: three advertisements and some.
        std::thread::sleep(SETTLE + Duration::from_millis(u64::from(advert_ms)) * 4);
    }
    let (records, answers) = (clients.finish()?, prober.finish()?);
    done.iter().for_each(|kill| tally.add(kill, &records, &answers));
    Ok(())
}

fn prepare(lab: &Lab, member: Member, advert_ms: u32) -> Result<()> {
    let number = member.number();
    let netns = lab.node_netns(member);
    cmd::run_inside(
        &netns,
        &["ip", "addr", "add", &format!("10.77.0.1{number}/24"), "dev", "us-cl"],
    )?;
    let text = format!(
        "global_defs {{\n router_id {member}\n vrrp_version 3\n vrrp_garp_master_delay 0\n}}\n\
         vrrp_instance service {{\n state BACKUP\n nopreempt\n interface us-cl\n \
         virtual_router_id {VRID}\n priority {}\n advert_int {}\n \
         virtual_ipaddress {{\n  {VIP4}/24\n }}\n}}\n",
        110 - 10 * number,
        f64::from(advert_ms) / 1000.0
    );
    fs::write(lab.dir().join(format!("keepalived-{member}.conf")), text)?;
    Ok(())
}

impl Nodes {
    fn start(&mut self, lab: &Lab, member: Member) -> Result<()> {
        let redis = plain::start_redis(lab, member, PORT)?;
        let path = |end: &str| lab.dir().join(format!("keepalived-{member}{end}"));
        let (conf, pid, vrrp) = (path(".conf"), path(".pid"), path("-vrrp.pid"));
        // Those of a killed one name processes that may not be reaped yet.
        for stale in [&pid, &vrrp] {
            let _ = fs::remove_file(stale);
        }
        let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let (conf, pid, vrrp) = (text(&conf), text(&pid), text(&vrrp));
        let words = [
            "keepalived",
            "--dont-fork",
            "--log-console",
            "--vrrp",
            "-f",
            &conf,
            "-p",
            &pid,
            "-r",
            &vrrp,
        ];
        let keepalived = plain::start(lab, member, "keepalived", &words)?;
        self.running.push((member, vec![keepalived, redis]));
        Ok(())
    }

    /// SIGKILL to both programs, all links cut; gives the moment just before.
    fn kill(&mut self, lab: &Lab, member: Member) -> Result<u64> {
        let at = self.running.iter().position(|(m, _)| *m == member).context("it does not run")?;
        let (_, mut programs) = self.running.remove(at);
        let trees: Vec<Vec<u32>> = programs
            .iter()
            .map(|p| understudy_lab::proc::descendants(p.pid()).into_iter().collect())
            .collect();
        let at_ns = unix_ns();
        programs.iter().zip(&trees).for_each(|(program, tree)| program.strike(tree));
        lab.cut_all_links(member)?;
        for (program, tree) in programs.iter_mut().zip(&trees) {
            program.kill_tree(tree);
        }
        Ok(at_ns)
    }

    /// The machine comes back, without the VIP.
    fn revive(&mut self, lab: &Lab, member: Member) -> Result<()> {
        let vip = format!("{VIP4}/24");
        let _ =
            cmd::run_inside(&lab.node_netns(member), &["ip", "addr", "del", &vip, "dev", "us-cl"]);
        lab.restore_all_links(member)?;
        self.start(lab, member)
    }
}

/// The node that has the VIP and lives.
fn master(lab: &Lab) -> Result<Option<Member>> {
    for member in MEMBERS {
        let words = ["ip", "-4", "-o", "addr", "show", "dev", "us-cl"];
        if cmd::run_inside(&lab.node_netns(member), &words)?.contains(&format!(" {VIP4}/")) {
            return Ok(Some(member));
        }
    }
    Ok(None)
}

/// Makes new connections all the time.
struct Prober {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<std::io::Result<Vec<u64>>>,
}

impl Prober {
    fn start(lab: &Lab) -> Result<Prober> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = sys::spawn_in_netns(&lab.client_netns(), "perf-prober", move || {
            let mut answers = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                if probe().is_ok() {
                    answers.push(unix_ns());
                }
                std::thread::sleep(PROBE_PAUSE);
            }
            answers
        })?;
        Ok(Prober { stop, thread })
    }

    /// When attempts were answered.
    fn finish(self) -> Result<Vec<u64>> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(answers) => Ok(answers?),
            Err(_) => bail!("the prober panicked"),
        }
    }
}

fn probe() -> Result<()> {
    use std::io::{Read, Write};
    let begun = Instant::now();
    let mut stream = TcpStream::connect_timeout(&vip4(PORT), PROBE_TIMEOUT)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    if &answer != b"+PONG\r\n" {
        bail!("answered {answer:?} after {:?}", begun.elapsed());
    }
    Ok(())
}
