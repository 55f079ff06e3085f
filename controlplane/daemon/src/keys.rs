//! The group's keys, and both ends that this node has.

use anyhow::Context;
use understudy_config::Config;
use understudy_seal::keyfile::{self, KeyFileError};
use understudy_seal::{Channel, ClusterKey, Keyring, Path, Scope, entropy};
use understudy_wire::NodeId;

/// The keys of the configured file; `None` for a node on its own without one.
pub fn load(config: &Config) -> Result<Option<Keyring>, KeyFileError> {
    config.cluster.key_file.as_deref().map(keyfile::load).transpose()
}

/// This node's ends of the replica port and the second path. A node on its own has a key that
/// nobody else knows.
pub fn channels(config: &Config) -> anyhow::Result<(Channel, Channel)> {
    let keyring = match load(config)? {
        Some(keyring) => keyring,
        None => Keyring::single(ClusterKey::new(entropy()?)),
    };
    let peers: Vec<NodeId> = config.peers().map(|p| p.id).collect();
    let channel = |path| {
        let scope = Scope { cluster: config.cluster_id(), path };
        let entropy = entropy().context("cannot choose a session")?;
        anyhow::Ok(Channel::new(config.me().id, scope, &peers, &keyring, entropy))
    };
    Ok((channel(Path::Replica)?, channel(Path::Second)?))
}
