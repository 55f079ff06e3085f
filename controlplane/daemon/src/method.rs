//! How this node's configuration wants its application saved and brought back.

use std::path::PathBuf;
use std::time::Duration;

use understudy_checkpoint::{Criu, Hooks, Method, MethodKind, Site};
use understudy_config::{CheckpointMethod, Config, Proto};
use understudy_linux::capsule::AppSpec;
use understudy_linux::socks;

/// Which way.
pub fn kind(config: &Config) -> MethodKind {
    match config.checkpoint.method {
        CheckpointMethod::Criu => MethodKind::Criu,
        CheckpointMethod::Hooks => MethodKind::Hooks,
    }
}

/// The way, if it can be gone here.
pub fn find(config: &Config) -> anyhow::Result<Box<dyn Method>> {
    Ok(match hooks(config) {
        Some(hooks) => Box::new(hooks),
        None => Box::new(Criu::find()?),
    })
}

/// The operator's commands, if that is the way.
pub fn hooks(config: &Config) -> Option<Hooks> {
    let (service, checkpoint) = (&config.service, &config.checkpoint);
    (checkpoint.method == CheckpointMethod::Hooks).then(|| Hooks {
        snapshot: checkpoint.snapshot_command.clone(),
        restore: checkpoint.restore_command.clone(),
        ready: checkpoint.ready_command.clone(),
        limit: Duration::from_millis(checkpoint.command_timeout_ms),
        app: app_spec(config),
        ports: service.ports.iter().map(|spec| (proto(spec.proto), spec.port)).collect(),
        ready_limit: Duration::from_millis(service.ready_timeout_ms),
    })
}

/// What this node has for it.
pub fn site(config: &Config) -> Site {
    Site {
        state_dirs: config.service.state_dirs.clone(),
        work: work_dir(config),
        output: output(config),
    }
}

/// Where the node's checkpoints are.
pub fn checkpoints(config: &Config) -> PathBuf {
    config.control.state_dir.join("checkpoints")
}

/// Where logs of CRIU and of the commands go.
pub fn work_dir(config: &Config) -> PathBuf {
    config.control.state_dir.join(config.checkpoint.method.name())
}

/// Where the application's output goes.
pub fn output(config: &Config) -> PathBuf {
    config.control.state_dir.join("application.log")
}

/// What runs in the capsule.
pub fn app_spec(config: &Config) -> AppSpec {
    let service = &config.service;
    AppSpec {
        command: service.command.clone(),
        work_dir: service.work_dir.clone(),
        env: service.env.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        stdout_log: output(config),
    }
}

/// A configured protocol, as the kernel's lists have it.
pub fn proto(proto: Proto) -> socks::Proto {
    match proto {
        Proto::Tcp => socks::Proto::Tcp,
        Proto::Udp => socks::Proto::Udp,
    }
}
