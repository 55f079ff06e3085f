//! This node's capsule: namespace, host port, adoption program, application.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;

use anyhow::Context;
use understudy_config::Config;
use understudy_linux::adopt::{Adopter, Adoption};
use understudy_linux::capsule::{App, DeathProbe};
use understudy_linux::netns::NetNs;
use understudy_linux::{orphan, rtnl, socks};

use crate::method;

/// The dataplane's end of the host port's veth pair.
pub const HOST_INTERFACE: &str = "us-host";
const APP_INTERFACE: &str = "eth0";
/// Below the state directory: which process is the application.
const PROCESS_FILE: &str = "application.pid";
/// Connections a clone can carry.
pub const FLOWS_MAX: u32 = 65536;

/// Where the application's process is written down, for a life after a daemon that was killed.
fn record(config: &Config) -> PathBuf {
    config.control.state_dir.join(PROCESS_FILE)
}

/// Everything the application lives in.
pub struct NodeCapsule {
    config: Arc<Config>,
    /// The network namespace; the CLI's `conns` looks into it from its own thread.
    pub ns: Arc<NetNs>,
    adoption: Adoption,
    app: Option<App>,
    death: Option<DeathProbe>,
}

impl NodeCapsule {
    /// Makes the namespace with VIP and VMAC, standby until told otherwise; nothing runs in it yet.
    pub fn create(config: &Arc<Config>) -> anyhow::Result<NodeCapsule> {
        if let Some(pid) = orphan::end(&record(config))? {
            tracing::warn!(pid, "ended the application that a killed daemon had left behind");
        }
        let ns = NetNs::create().context("cannot make the capsule's network namespace")?;
        let mtu = u32::from(config.ports.host.mtu);
        let veth = rtnl::VethSpec {
            outer: HOST_INTERFACE,
            inner: APP_INTERFACE,
            inner_mac: config.vmac(),
            mtu,
        };
        rtnl::create_veth(&ns, &veth).context("cannot make the host port")?;
        rtnl::disable_offloads(HOST_INTERFACE)?;
        ns.run(|| rtnl::disable_offloads(APP_INTERFACE))??;
        let addresses: Vec<_> = config.vips().collect();
        rtnl::configure_capsule(&ns, APP_INTERFACE, &addresses, &config.service.gateway)
            .context("cannot set up the capsule's interface")?;
        rtnl::set_standby(&ns, true)?;
        let adoption = Adoption::load(&ns, APP_INTERFACE, FLOWS_MAX)?;
        Ok(NodeCapsule {
            config: Arc::clone(config),
            ns: Arc::new(ns),
            adoption,
            app: None,
            death: None,
        })
    }

    /// For the poll-mode thread.
    pub fn adopter(&self) -> Adopter {
        self.adoption.handle()
    }

    /// Starts the application, from nothing. The probe tells the poll-mode thread of its death.
    pub fn start_app(&mut self) -> anyhow::Result<(i32, DeathProbe)> {
        if let Some(hooks) = method::hooks(&self.config) {
            hooks.start_from_nothing(&self.ns, &method::work_dir(&self.config))?;
        }
        let app = App::spawn(&self.ns, &method::app_spec(&self.config))?;
        orphan::note(&record(&self.config), app.pid())?;
        let probes = [app.death_probe()?, app.death_probe()?];
        Ok(self.keep(app, probes))
    }

    /// Lets an application go on that was restored, and takes care of it from now on.
    pub fn install(&mut self, app: App) -> anyhow::Result<(i32, DeathProbe)> {
        self.stop_app();
        orphan::note(&record(&self.config), app.pid())?;
        let probes = [app.death_probe()?, app.death_probe()?];
        app.go_on()?;
        Ok(self.keep(app, probes))
    }

    fn keep(&mut self, app: App, [own, given]: [DeathProbe; 2]) -> (i32, DeathProbe) {
        let pid = app.pid();
        (self.app, self.death) = (Some(app), Some(own));
        (pid, given)
    }

    /// Where the application's output goes.
    pub fn log_file(&self) -> PathBuf {
        method::output(&self.config)
    }

    /// Whether every configured port is bound.
    pub fn is_ready(&self) -> anyhow::Result<bool> {
        for spec in &self.config.service.ports {
            if !socks::is_bound(&self.ns, method::proto(spec.proto), spec.port)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Becomes readable when the application exits.
    pub fn app_pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.app.as_ref().map(App::pidfd)
    }

    /// Process id, when it runs.
    pub fn app_pid(&self) -> Option<i32> {
        self.app.as_ref().map(App::pid)
    }

    /// Whether the application is being torn down, or was.
    pub fn app_is_dying(&self) -> bool {
        self.death.as_ref().is_some_and(DeathProbe::is_dying)
    }

    /// How the application ended, once it has.
    pub fn app_exited(&mut self) -> Option<ExitStatus> {
        self.app.as_mut()?.try_wait()
    }

    /// Kills the application and everything it started; gives how it ended.
    pub fn stop_app(&mut self) -> Option<ExitStatus> {
        self.death = None;
        let mut app = self.app.take()?;
        app.kill();
        app.try_wait()
    }

    /// A clone keeps no TIME_WAIT; a primary does.
    pub fn set_standby(&self, standby: bool) -> anyhow::Result<()> {
        rtnl::set_standby(&self.ns, standby)?;
        Ok(())
    }

    /// What became of adoptions.
    pub fn adoption_stats(&self) -> understudy_linux::adopt::AdoptStats {
        self.adoption.stats()
    }
}

impl Drop for NodeCapsule {
    fn drop(&mut self) {
        self.stop_app();
        // The pair goes with either end; the namespace with its last descriptor.
        let _ = rtnl::delete_link(HOST_INTERFACE);
    }
}
