//! Builds a lab, says so, and holds it until a signal or `--seconds` have passed.
//!
//! It does not keep tests from running beside it. With `--impair replica` a forwarder takes the
//! bridge's place on that network and does what lines on stdin say, such as
//!
//! ```text
//! replica *>* loss=5%,reorder=10%,reorder-by=1ms
//! replica a>b delay=1ms,jitter=500us,duplicate=1%,corrupt=0.1%,rate=200mbit,queue=256k
//! replica a>* block
//! replica *>* none
//! replica counters
//! ```

use std::io::BufRead as _;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::{Parser, ValueEnum};
use understudy_lab::{Lab, Member, Net, sys};

#[derive(Clone, Copy, ValueEnum)]
enum Impaired {
    Replica,
    Mgmt,
}

impl From<Impaired> for Net {
    fn from(net: Impaired) -> Net {
        match net {
            Impaired::Replica => Net::Replica,
            Impaired::Mgmt => Net::Mgmt,
        }
    }
}

#[derive(Parser)]
struct Options {
    /// How long to hold it.
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// Put a forwarder on this network and read commands from stdin, such as "replica *>* loss=5%".
    #[arg(long, value_name = "NET")]
    impair: Vec<Impaired>,
    /// Seed of the forwarders' chances. Default: the time.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let nets: Vec<Net> = options.impair.iter().map(|&net| net.into()).collect();
    let seed = options.seed.unwrap_or_else(sys::unix_ns);
    let lab = Lab::beside_others(&nets, seed)?;
    println!("client {}", lab.client_netns().display());
    println!("switch {}", lab.switch_netns().display());
    for member in Member::ALL {
        println!("node {member} {}", lab.node_netns(member).display());
    }
    if !nets.is_empty() {
        println!("seed {seed}");
    }
    println!("ready: enter one with nsenter --net=PATH; end with SIGINT");
    let lines = lines_of_stdin();
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => match obey(&lab, &line) {
                Ok(answer) => print!("{answer}"),
                Err(error) => eprintln!("{line:?}: {error:#}"),
            },
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(end.saturating_duration_since(Instant::now()));
                return Ok(());
            }
        }
    }
}

/// One command: a network, then what its forwarder understands.
fn obey(lab: &Lab, line: &str) -> Result<String> {
    if line.trim().is_empty() {
        return Ok(String::new());
    }
    let (net, command) = line.trim().split_once(' ').context("a network and a command wanted")?;
    let net = Impaired::from_str(net, false).map_err(|error| anyhow!(error))?;
    lab.forwarder(net.into())?.command(command)
}

/// Its thread ends with the process at the latest.
fn lines_of_stdin() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}
