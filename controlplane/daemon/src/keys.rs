//! The group's keys, and both ends that this node has.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use understudy_checkpoint::transfer::Identity;
use understudy_config::Config;
use understudy_seal::keyfile::{self, KeyFileError};
use understudy_seal::{Channel, ClusterKey, Keyring, Path, Scope, entropy};
use understudy_wire::NodeId;

/// The keys of the configured file; `None` for a node on its own without one.
pub fn load(config: &Config) -> Result<Option<Keyring>, KeyFileError> {
    config.cluster.key_file.as_deref().map(keyfile::load).transpose()
}

/// The keys of now, for the threads that open connections.
#[derive(Clone)]
pub struct Keys {
    identity: Arc<Mutex<Identity>>,
}

impl Keys {
    /// Reads the configured file. A node on its own has a key that nobody else knows.
    pub fn open(config: &Config) -> anyhow::Result<Keys> {
        let keyring = match load(config)? {
            Some(keyring) => keyring,
            None => Keyring::single(ClusterKey::new(entropy()?)),
        };
        let identity = Identity { cluster: config.cluster_id(), node: config.me().id, keyring };
        Ok(Keys { identity: Arc::new(Mutex::new(identity)) })
    }

    /// This node's ends of the replica port and the second path.
    pub fn channels(&self, config: &Config) -> anyhow::Result<(Channel, Channel)> {
        let keyring = self.identity().keyring;
        let peers: Vec<NodeId> = config.peers().map(|p| p.id).collect();
        let channel = |path| {
            let scope = Scope { cluster: config.cluster_id(), path };
            let entropy = entropy().context("cannot choose a session")?;
            anyhow::Ok(Channel::new(config.me().id, scope, &peers, &keyring, entropy))
        };
        Ok((channel(Path::Replica)?, channel(Path::Second)?))
    }

    /// Who this node is, with the keys of now.
    pub fn identity(&self) -> Identity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Other keys from now on.
    pub fn set(&self, keyring: Keyring) {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).keyring = keyring;
    }
}
