//! The rules of `[supervise]`.

use std::path::Path;

use super::{DAY_S, HOUR_MS, MINUTE_MS, Source, absolute, no_nul, range};
use crate::supervise::{HealthCheck, Policy, Watch};
use crate::{Config, ConfigError};

const COUNT_MAX: u64 = 1000;

pub(super) fn supervise(config: &Config, source: &Source<'_>) -> Result<(), ConfigError> {
    let s = &config.supervise;
    range(source, &["supervise", "failover_interval_s"], s.failover_interval_s, 0..=DAY_S)?;
    let watches = [
        ("application", s.application.watch()),
        ("health", s.health.watch()),
        ("links", s.links.watch()),
        ("paths", s.paths.watch()),
        ("lag", s.lag.watch()),
        ("disk", s.disk.watch()),
        ("memory", s.memory.watch()),
        ("core", s.core.watch()),
        ("clock", s.clock.watch()),
        ("cpu", s.cpu.watch()),
    ];
    watches.iter().try_for_each(|(name, watch)| common(source, name, *watch))?;
    health(config, source)?;
    range(source, &["supervise", "paths", "silent_ms"], s.paths.silent_ms, 10..=HOUR_MS)?;
    range(source, &["supervise", "lag", "log_percent"], s.lag.log_percent, 1..=100)?;
    range(source, &["supervise", "disk", "free_mb"], s.disk.free_mb, 0..=1_000_000_000)?;
    range(source, &["supervise", "disk", "timeout_ms"], s.disk.timeout_ms, 10..=HOUR_MS)?;
    let percent = s.memory.buffers_percent;
    range(source, &["supervise", "memory", "buffers_percent"], percent, 0..=90)?;
    range(source, &["supervise", "core", "stuck_ms"], s.core.stuck_ms, 50..=MINUTE_MS)?;
    range(source, &["supervise", "clock", "step_ms"], s.clock.step_ms, 1..=HOUR_MS)?;
    range(source, &["supervise", "clock", "drift_ppm"], s.clock.drift_ppm, 1..=1_000_000)?;
    range(source, &["supervise", "cpu", "gap_ms"], s.cpu.gap_ms, 10..=MINUTE_MS)
}

fn common(source: &Source<'_>, name: &str, watch: Watch) -> Result<(), ConfigError> {
    range(source, &["supervise", name, "interval_ms"], watch.interval_ms, 10..=HOUR_MS)?;
    range(source, &["supervise", name, "fall"], watch.fall.into(), 1..=COUNT_MAX)?;
    range(source, &["supervise", name, "rise"], watch.rise.into(), 1..=COUNT_MAX)?;
    let allowed: &[Policy] = match name {
        "application" | "health" => &[Policy::Failover, Policy::Restart, Policy::Alert],
        // It is about others.
        "paths" => &[Policy::Alert],
        _ => &[Policy::Failover, Policy::Alert],
    };
    if allowed.contains(&watch.policy) {
        return Ok(());
    }
    let names: Vec<_> = allowed.iter().map(|policy| format!("\"{policy}\"")).collect();
    let text = format!("\"{}\" is given, {} is allowed", watch.policy, names.join(" or "));
    Err(source.invalid(&["supervise", name, "policy"], text))
}

fn health(config: &Config, source: &Source<'_>) -> Result<(), ConfigError> {
    let health = &config.supervise.health;
    range(source, &["supervise", "health", "timeout_ms"], health.timeout_ms, 1..=HOUR_MS)?;
    let at = &["supervise", "health", "command"];
    match (&health.check, health.command.first()) {
        (HealthCheck::Command, None) => {
            return Err(source.invalid(
                at,
                "check is \"command\" and none is given, the absolute path of a program and its \
                 arguments are needed"
                    .into(),
            ));
        }
        (HealthCheck::Command, Some(program)) => absolute(source, at, Path::new(program))?,
        (check, Some(_)) => {
            return Err(source.invalid(
                at,
                format!("a command is given and check is \"{check}\", \"command\" is allowed"),
            ));
        }
        (_, None) => {}
    }
    health.command.iter().try_for_each(|word| no_nul(source, at, word))
}
