//! Going on with another configuration, of which everything is live.

use understudy_api::Plan;

use super::*;
use crate::running::Reload;
use crate::{lcore, server};

/// Orders of one reload: settings and keys.
const ORDERS: usize = 2;

/// Whoever sends SIGHUP gets no answer, but for the log.
pub(super) fn on_hangup(
    mut hangups: Signals,
    running: Arc<Running>,
    calls: Sender<Call>,
) -> anyhow::Result<()> {
    let read_again = move || {
        for _ in hangups.forever() {
            match server::reload(&running, &calls) {
                Response::Error(e) => warn!("SIGHUP: {e}"),
                Response::Plan(plan) => info!("SIGHUP: {} fields changed", plan.changes.len()),
                _ => {}
            }
        }
    };
    std::thread::Builder::new().name("reload".into()).spawn(read_again)?;
    Ok(())
}

impl Control {
    /// All of it, or nothing: what can fail comes first.
    pub(super) fn reload(&mut self, now_ns: u64, reload: Option<Box<Reload>>) -> Response {
        let failed = |text: &str| {
            ApiError::new(ErrorCode::Runtime, format!("{text}; nothing was changed")).into()
        };
        let Some(reload) = reload else { return failed("no file was read") };
        let Reload { base, config, plan, keys } = *reload;
        if !Arc::ptr_eq(&base, &self.config) {
            return failed("the configuration was changed meanwhile");
        }
        if !self.dataplane.has_room(ORDERS) {
            self.count("dataplane_orders_dropped");
            return failed("the poll-mode thread takes no orders");
        }
        let retuned = match Supervision::retune(&self.config, &config, self.capsule.as_ref()) {
            Ok(retuned) => retuned,
            Err(e) => return failed(&format!("supervision: {e:#}")),
        };
        let tuning = lcore::tuning(&config);
        debug!(?tuning, idle = ?config.idle, "the poll-mode thread is told");
        self.tell(Command::Tune(tuning));
        if let Some(keyring) = keys {
            // There is room: this thread alone gives orders.
            let _ = self.take_keys(Some(keyring));
        }
        self.dataplane.set_idle(config.idle.clone());
        self.node.set_priority(config.me().priority);
        if let Some(taking) = &self.taking {
            taking.tune(&config.checkpoint);
        }
        self.log_filter.set(config.control.log_level);
        self.running.set(Arc::clone(&config));
        self.config = config;
        self.supervise_by(now_ns, retuned);
        self.supervisor.reloaded();
        self.count("reloads");
        if !plan.changes.is_empty() {
            let epoch = self.node.view(now_ns).epoch;
            self.note(now_ns, epoch, "reloaded", summary(&plan));
        }
        plan.into()
    }
}

fn summary(plan: &Plan) -> String {
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".into());
    let change = |c: &understudy_api::Change| {
        format!("{} from {} to {}", c.field, value(&c.from), value(&c.to))
    };
    plan.changes.iter().map(change).collect::<Vec<_>>().join(", ")
}
