//! Builds a lab, says so, and holds it until a signal or `--seconds` have passed.
//!
//! It does not keep tests from running beside it.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use understudy_lab::{Lab, Member};

#[derive(Parser)]
struct Options {
    /// How long to hold it.
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let lab = Lab::beside_others()?;
    println!("client {}", lab.client_netns().display());
    println!("switch {}", lab.switch_netns().display());
    for member in Member::ALL {
        println!("node {member} {}", lab.node_netns(member).display());
    }
    println!("ready: enter one with nsenter --net=PATH; end with SIGINT");
    thread::sleep(Duration::from_secs(options.seconds));
    Ok(())
}
