//! The arbiter of a group of two, asked on a thread of its own: the network may be slow.

use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use tracing::{info, warn};
use understudy_arbiter::{Etcd, EtcdConfig, Tls};
use understudy_config::Config;
use understudy_linux::wake::Waker;
use understudy_proto::arbiter::{ArbiterAnswer, ArbiterRequest, Wish};

/// The node has one request under way at a time.
const QUEUE_MAX: usize = 2;

/// Takes requests, gives answers: one for each.
pub struct Arbiter {
    pub ask: Sender<ArbiterRequest>,
    pub answers: Receiver<(ArbiterRequest, ArbiterAnswer)>,
}

fn etcd(config: &Config) -> anyhow::Result<Option<Etcd>> {
    let Some(arbiter) = &config.arbiter else { return Ok(None) };
    let etcd = Etcd::new(EtcdConfig {
        endpoints: arbiter.etcd.clone(),
        timeout: Duration::from_millis(arbiter.timeout_ms),
        cluster: config.cluster.name.clone(),
        me: config.me().id,
        both: config.nodes.iter().map(|n| n.id).collect(),
        tls: Tls {
            ca_file: arbiter.ca_file.clone(),
            client: arbiter.cert_file.clone().zip(arbiter.key_file.clone()),
        },
    })?;
    Ok(Some(etcd))
}

/// Starts the thread, if the group has an arbiter; it wakes whom it has answered.
///
/// # Errors
/// TLS files that cannot be used.
pub fn start(config: &Config, waker: Waker) -> anyhow::Result<Option<Arbiter>> {
    let Some(mut etcd) = etcd(config)? else { return Ok(None) };
    let (ask, requests) = bounded::<ArbiterRequest>(QUEUE_MAX);
    let (answer, answers) = bounded(QUEUE_MAX);
    std::thread::Builder::new().name("arbiter".into()).spawn(move || {
        let mut told = None;
        for request in requests {
            let (said, error) = etcd.serve(&request);
            // Once for each change: the node asks again and again.
            let error = error.map(|e| e.to_string());
            if error != told {
                match &error {
                    Some(e) => warn!("arbiter: {e}"),
                    None => info!("arbiter: answers"),
                }
                told = error;
            }
            if answer.send((request, said)).is_err() {
                break;
            }
            waker.wake();
        }
    })?;
    Ok(Some(Arbiter { ask, answers }))
}

/// What keeps the arbiter from answering now, for a check.
pub fn check(config: &Config) -> Option<Result<(), String>> {
    let mut etcd = match etcd(config) {
        Ok(etcd) => etcd?,
        Err(e) => return Some(Err(e.to_string())),
    };
    let (_, error) = etcd.serve(&ArbiterRequest { wish: Wish::Probe, epoch: 0 });
    Some(error.map_or(Ok(()), |e| Err(e.to_string())))
}
