//! The arbiter of a pair: Debian's etcd on the management network, behind no node.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::proc::Proc;
use crate::topology::{Lab, Net};
use crate::{cmd, sys};

const PROGRAM: &str = "/usr/bin/etcd";
/// As `configs/pair` names it.
const ADDRESS: &str = "10.77.2.9";
const PORT: u16 = 2379;
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// One etcd in the switch's namespace; killed when dropped, its data goes with the lab.
pub struct Etcd {
    netns: PathBuf,
    data_dir: PathBuf,
    log: PathBuf,
    mark: String,
    process: Option<Proc>,
}

impl Etcd {
    /// Gives the management network etcd's address and starts it.
    pub fn start(lab: &Lab) -> Result<Etcd> {
        let netns = lab.switch_netns();
        let address = format!("{ADDRESS}/24");
        let bridge = Net::Mgmt.bridge();
        cmd::run_inside(&netns, &["ip", "addr", "add", &address, "dev", bridge])?;
        let mut etcd = Etcd {
            netns,
            data_dir: lab.dir().join("etcd"),
            log: lab.dir().join("etcd.log"),
            mark: lab.prefix().to_string(),
            process: None,
        };
        etcd.restart()?;
        Ok(etcd)
    }

    /// Starts it, with what it holds on disk, and waits until it listens.
    pub fn restart(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("etcd runs already");
        }
        let url = format!("http://{ADDRESS}:{PORT}");
        let mut command = cmd::inside(&self.netns, PROGRAM);
        command.arg("--data-dir").arg(&self.data_dir);
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", "http://127.0.0.1:2380"]);
        self.process = Some(Proc::start(command, &self.log, &self.mark)?);
        let target: SocketAddr = format!("{ADDRESS}:{PORT}").parse()?;
        cmd::wait_until("etcd listens", START_TIMEOUT, || {
            Ok(sys::in_netns(&self.netns, || TcpStream::connect(target))?.is_ok())
        })
    }

    /// SIGKILL.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.take().context("etcd does not run")?.kill_tree(&[]);
        Ok(())
    }

    /// SIGSTOP: connections to it open, and nothing answers.
    pub fn pause(&self) -> Result<()> {
        self.signal(libc::SIGSTOP)
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<()> {
        self.signal(libc::SIGCONT)
    }

    fn signal(&self, signal: i32) -> Result<()> {
        Ok(sys::kill(self.process.as_ref().context("etcd does not run")?.pid(), signal)?)
    }
}
