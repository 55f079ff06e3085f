//! Groups of the lab for the measurements: three nodes, or one that has nobody to wait for.

use anyhow::Result;
use understudy_lab::{Lab, NodeOptions, Trio};

/// A lab with a group that serves; the nodes go first.
pub struct Service {
    /// Its nodes; only the first is started when it is alone.
    pub trio: Trio,
    /// Where it is.
    pub lab: Lab,
}

impl Service {
    /// Three nodes, gate on.
    ///
    /// # Errors
    /// If the group does not come up.
    pub fn protected(options: &NodeOptions) -> Result<Service> {
        let lab = Lab::new()?;
        let trio = Trio::start(&lab, options)?;
        Ok(Service { trio, lab })
    }

    /// The same daemon, configured as a group of one.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn alone(options: &NodeOptions) -> Result<Service> {
        let mut options = options.clone();
        let mut node = toml::Table::new();
        node.insert("name".into(), "a".into());
        node.insert("id".into(), 1.into());
        node.insert("address".into(), "10.77.2.1:7400".into());
        options.set.push(("nodes".into(), vec![node].into()));
        let lab = Lab::new()?;
        let mut trio = Trio::prepare(&lab, &options)?;
        trio.nodes[0].start()?;
        trio.wait_ready()?;
        Ok(Service { trio, lab })
    }

    /// Either.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(is_protected: bool, options: &NodeOptions) -> Result<Service> {
        if is_protected { Service::protected(options) } else { Service::alone(options) }
    }
}
