//! `[checkpoint]`.

use std::path::Path;

use super::{DAY_S, HOUR_MS, absolute, no_nul, range};
use crate::ConfigError;
use crate::locate::Source;
use crate::types::{CheckpointMethod, Config};

pub(super) fn checkpoint(config: &Config, source: &Source<'_>) -> Result<(), ConfigError> {
    let checkpoint = &config.checkpoint;
    commands(config, source)?;
    let timeout_ms = checkpoint.command_timeout_ms;
    range(source, &["checkpoint", "command_timeout_ms"], timeout_ms, 1..=HOUR_MS)?;
    range(source, &["checkpoint", "keep"], checkpoint.keep as u64, 2..=100)?;
    range(source, &["checkpoint", "interval_s"], checkpoint.interval_s, 0..=DAY_S)?;
    let fill = checkpoint.log_fill_percent;
    range(source, &["checkpoint", "log_fill_percent"], fill, 0..=90)?;
    range(source, &["checkpoint", "connections"], checkpoint.connections, 0..=1_000_000_000)?;
    range(source, &["checkpoint", "transfer_mb_s"], checkpoint.transfer_mb_s, 0..=100_000)
}

/// With "hooks" at least those that save and bring back, none otherwise.
fn commands(config: &Config, source: &Source<'_>) -> Result<(), ConfigError> {
    let checkpoint = &config.checkpoint;
    for (name, command) in [
        ("snapshot_command", &checkpoint.snapshot_command),
        ("restore_command", &checkpoint.restore_command),
        ("ready_command", &checkpoint.ready_command),
    ] {
        let at = &["checkpoint", name];
        match (checkpoint.method, command.first()) {
            (CheckpointMethod::Criu, None) => {}
            (CheckpointMethod::Criu, Some(_)) => {
                let text = "a command is given, and method \"criu\" runs none; leave it out or set \
                            checkpoint.method = \"hooks\"";
                return Err(source.invalid(at, text.into()));
            }
            (CheckpointMethod::Hooks, None) if name == "ready_command" => {}
            (CheckpointMethod::Hooks, None) => {
                let text =
                    "method \"hooks\" needs it: the absolute path of a program, and its arguments";
                return Err(source.invalid(at, text.into()));
            }
            (CheckpointMethod::Hooks, Some(program)) => {
                absolute(source, &["checkpoint", name, "0"], Path::new(program))?;
            }
        }
        for (i, argument) in command.iter().enumerate() {
            no_nul(source, &["checkpoint", name, &i.to_string()], argument)?;
        }
    }
    Ok(())
}
