//! The links of the ports: what interfaces of the kernel tell of their carriers, and the drivers of
//! all others.

use std::sync::Arc;

use tracing::info;
use understudy_config::Policy as ConfigPolicy;
use understudy_fastpath::command::Command;
use understudy_fastpath::ports::PortRole;
use understudy_linux::rtnl;
use understudy_proto::LocalFact;
use understudy_proto::supervise::{Cause, Fault, Resource};

use super::Control;
use super::supervise::Due;
use crate::node_capsule::HOST_INTERFACE;

/// Whether each port has a link, as far as anybody has told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Links {
    client: Option<bool>,
    replica: Option<bool>,
    host: Option<bool>,
    /// When supervision looks at them.
    due: Due,
}

impl Links {
    fn of(&mut self, port: PortRole) -> &mut Option<bool> {
        match port {
            PortRole::Client => &mut self.client,
            PortRole::Replica => &mut self.replica,
            PortRole::Host => &mut self.host,
        }
    }
}

impl Control {
    pub(super) fn initial_links(&mut self, now_ns: u64) {
        let config = Arc::clone(&self.config);
        let carrier = |name: Option<&str>| name.map(|n| rtnl::carrier(n).unwrap_or(false));
        let client = carrier(config.client_interface());
        let replica = carrier(config.replica_interface());
        let host = carrier(Some(HOST_INTERFACE));
        for (port, up) in
            [(PortRole::Client, client), (PortRole::Replica, replica), (PortRole::Host, host)]
        {
            if let Some(up) = up {
                self.note_link(port, up);
            }
        }
        // Of the others the drivers will tell.
        self.link_changed(now_ns, PortRole::Client, client.unwrap_or(true));
        self.link_changed(now_ns, PortRole::Replica, replica.unwrap_or(true));
    }

    pub(super) fn take_links(&mut self, now_ns: u64) {
        let mut changes = Vec::new();
        let config = Arc::clone(&self.config);
        self.links.drain(|name, up| {
            for (port, interface) in [
                (PortRole::Client, config.client_interface()),
                (PortRole::Replica, config.replica_interface()),
                (PortRole::Host, Some(HOST_INTERFACE)),
            ] {
                if interface == Some(name) {
                    changes.push((port, up));
                }
            }
        });
        if let Some(links) = self.dataplane.links() {
            let told = [(PortRole::Client, links.client), (PortRole::Replica, links.replica)];
            changes.extend(told.into_iter().filter_map(|(port, up)| Some((port, up?))));
        }
        for (port, up) in changes {
            if self.note_link(port, up) {
                info!(?port, up, "link");
                self.link_changed(now_ns, port, up);
                self.done(now_ns);
            }
        }
    }

    /// The data path and the node take a port's link into account.
    fn link_changed(&mut self, now_ns: u64, port: PortRole, up: bool) {
        let fact = match port {
            PortRole::Client => {
                self.dataplane.order(Command::ClientLink { up });
                LocalFact::ClientLink(up || !self.follows_client_link())
            }
            PortRole::Replica => LocalFact::ReplicaLink(up),
            PortRole::Host => return,
        };
        self.node.handle_local(now_ns, fact);
    }

    /// Another policy may follow the client port's link, or no longer.
    pub(super) fn follow_links_anew(&mut self, now_ns: u64) {
        self.supervision.links.due = Due::default();
        if let Some(up) = self.supervision.links.client {
            self.link_changed(now_ns, PortRole::Client, up);
            self.done(now_ns);
        }
    }

    /// Remembers a link; false if it is known to be so.
    fn note_link(&mut self, port: PortRole, up: bool) -> bool {
        if port == PortRole::Host && self.capsule.is_none() {
            return false;
        }
        self.supervision.links.due = Due::default();
        self.supervision.links.of(port).replace(up) != Some(up)
    }

    pub(super) fn look_at_links(&mut self, now_ns: u64) {
        let interval_ms = self.config.supervise.links.interval_ms;
        if !self.supervision.links.due.is_now(now_ns, interval_ms) {
            return;
        }
        let links = self.supervision.links;
        let config = Arc::clone(&self.config);
        let (client, replica) = (config.client_interface(), config.replica_interface());
        let ports = &config.ports;
        for (resource, name, up) in [
            (Resource::ClientLink, client.unwrap_or(&ports.client.device), links.client),
            (Resource::ReplicaLink, replica.unwrap_or(&ports.replica.device), links.replica),
            (Resource::HostLink, HOST_INTERFACE, links.host),
        ] {
            let Some(up) = up else { continue };
            let fault = || Fault::new(Cause::NoCarrier, format!("{name} has no carrier"));
            self.supervision.sample(now_ns, resource, up.then_some(()).ok_or_else(fault));
        }
    }

    /// Whether the client port's link decides who serves.
    fn follows_client_link(&self) -> bool {
        self.config.supervise.links.policy != ConfigPolicy::Alert
    }
}
