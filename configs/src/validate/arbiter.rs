//! The rules of `[arbiter]`.

use super::{MINUTE_MS, Source, range};
use crate::{Config, ConfigError};

const ENDPOINTS_MAX: usize = 8;

pub(super) fn arbiter(config: &Config, source: &Source<'_>) -> Result<(), ConfigError> {
    let Some(arbiter) = &config.arbiter else { return Ok(()) };
    let section = &["arbiter"];
    let nodes = config.nodes.len();
    if nodes != 2 {
        return Err(source.invalid(
            section,
            format!("the group has {nodes} nodes, an arbiter is for two; leave it out"),
        ));
    }
    let at = &["arbiter", "etcd"];
    let count = arbiter.etcd.len();
    if !(1..=ENDPOINTS_MAX).contains(&count) {
        return Err(source
            .invalid(at, format!("{count} addresses are given, 1..={ENDPOINTS_MAX} are allowed")));
    }
    for endpoint in &arbiter.etcd {
        let rest = endpoint.strip_prefix("http://").or(endpoint.strip_prefix("https://"));
        let host = rest.map(|rest| rest.trim_end_matches('/'));
        let good = host.is_some_and(|h| !h.is_empty() && !h.contains(['/', '?', '#', '@', ' ']));
        if !good {
            return Err(source.invalid(
                at,
                format!(
                    "{endpoint:?} is given, \"http://HOST:PORT\" or \"https://HOST:PORT\" is allowed"
                ),
            ));
        }
    }
    let tls = arbiter.etcd.iter().any(|endpoint| endpoint.starts_with("https://"));
    if !tls && (arbiter.ca_file.is_some() || arbiter.cert_file.is_some()) {
        return Err(source.invalid(
            section,
            "ca_file, cert_file and key_file are for \"https://\" addresses, and none is given"
                .into(),
        ));
    }
    if arbiter.cert_file.is_some() != arbiter.key_file.is_some() {
        return Err(source.invalid(
            section,
            "cert_file and key_file are allowed together only, one of them is given".into(),
        ));
    }
    range(source, &["arbiter", "timeout_ms"], arbiter.timeout_ms, 10..=MINUTE_MS)
}
