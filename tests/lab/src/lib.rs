//! The lab: a client, a switch and three nodes in network namespaces, the
//! shipped binaries, real applications, and clients that keep a ledger.
//!
//! Nothing here knows how Understudy works inside. The lab sees what an
//! operator sees (configuration files, the CLI's JSON) and what a client and a
//! switch see (bytes, frames, times), and judges from that alone.

pub mod apps;
pub mod bgp;
pub mod capture;
pub mod captures;
pub mod clients;
pub mod cmd;
pub mod demo;
pub mod etcd;
pub mod forwarder;
pub mod frame;
pub mod impair;
pub mod ledger;
pub mod liar;
pub mod mix;
pub mod node;
pub mod notices;
pub mod pattern;
pub mod plain;
pub mod proc;
pub mod prometheus;
pub mod scenario;
pub mod screens;
pub mod server;
pub mod stream;
pub mod sys;
pub mod tap;
pub mod topology;

pub use capture::Capture;
pub use etcd::Etcd;
pub use forwarder::Forwarder;
pub use impair::Impairment;
pub use ledger::{Stall, Verdict};
pub use node::{Group, Node, NodeOptions, Trio};
pub use scenario::Scenario;
pub use topology::{Lab, Member, Net};
