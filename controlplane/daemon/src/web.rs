//! Metrics and the status page: the control plane's answers, on threads of their own.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use crossbeam::channel::{Sender, bounded};
use understudy_api::{Request, Response, Status};
use understudy_config::{Config, MetricsConfig};
use understudy_web::{Seen, Server};

use crate::capture_node::CaptureStated;
use crate::server::Call;

/// A control plane that is slower is not asked to hurry: who asked is told.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves `metrics.listen`, if there is one.
pub fn start(config: &Config, calls: Sender<Call>) -> anyhow::Result<()> {
    let Some(metrics) = &config.metrics else { return Ok(()) };
    let source = Box::new(move || ask(&calls).map(|status| Seen::Node(Box::new(status))));
    Server::start(metrics.listen, metrics.allow_remote, source).context("cannot serve metrics")?;
    Ok(())
}

/// The same of a node that only captures, which nobody has to be asked for.
pub fn start_capture(
    metrics: Option<&MetricsConfig>,
    stated: Arc<CaptureStated>,
) -> anyhow::Result<()> {
    let Some(metrics) = metrics else { return Ok(()) };
    let source = Box::new(move || Some(Seen::Capture(Box::new(stated.status()))));
    Server::start(metrics.listen, metrics.allow_remote, source).context("cannot serve metrics")?;
    Ok(())
}

fn ask(calls: &Sender<Call>) -> Option<Status> {
    let (answer, answered) = bounded(1);
    let call = Call::new(Request::Status, answer);
    calls.send_timeout(call, ANSWER_TIMEOUT).ok()?;
    match answered.recv_timeout(ANSWER_TIMEOUT) {
        Ok(Response::Status(status)) => Some(*status),
        _ => None,
    }
}
