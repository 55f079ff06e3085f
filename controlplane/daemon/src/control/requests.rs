//! What operators ask, over the unix socket, and what they are answered.

use understudy_api::TIMELINE_EVENTS_MAX;

use super::*;

impl Control {
    pub(super) fn take_calls(&mut self, now_ns: u64) {
        while let Ok(call) = self.calls.try_recv() {
            match call.request {
                Request::Status => {
                    let _ = call.answer.send(self.status(now_ns).into());
                }
                Request::Switchover { to } => self.start_switchover(now_ns, to, call.answer),
                Request::Checkpoint => self.ask_checkpoint(now_ns, call.answer),
                Request::Drain => {
                    let _ = call.answer.send(self.withdraw(now_ns, true));
                }
                Request::Undrain => {
                    let _ = call.answer.send(self.withdraw(now_ns, false));
                }
                Request::KeyStatus => {
                    let _ = call.answer.send(self.key_view().into());
                }
                Request::KeyReload => {
                    let _ = call.answer.send(self.take_keys(call.keys));
                }
                Request::Reload => {
                    let _ = call.answer.send(self.reload(now_ns, call.reload));
                }
                // Answered where they come in.
                Request::Conns
                | Request::ConnImages { .. }
                | Request::Plan { .. }
                | Request::Events { .. }
                | Request::Capture { .. } => {}
            }
        }
    }

    /// From now on this node stands for no election, or does again.
    fn withdraw(&mut self, now_ns: u64, drained: bool) -> Response {
        let me = self.config.me();
        let was_primary = self.node.view(now_ns).primary == Some(me.id);
        let node = me.name.clone();
        if self.withdrawn != drained {
            let epoch = self.node.view(now_ns).epoch;
            let name = if drained { "drained" } else { "undrained" };
            self.note(now_ns, epoch, name, "by an operator".into());
        }
        self.withdrawn = drained;
        self.node.handle_local(now_ns, LocalFact::Withdrawn(drained));
        self.done(now_ns);
        Drained { node, drained, was_primary, switchover: None }.into()
    }

    /// Both paths change their keys, or none does.
    pub(super) fn take_keys(&mut self, keys: Option<Keyring>) -> Response {
        let Some(keyring) = keys else {
            return ApiError::new(ErrorCode::Runtime, "no keys were read").into();
        };
        if !self.dataplane.order(Command::Keys(keyring.clone())) {
            self.count("dataplane_orders_dropped");
            let text = "the poll-mode thread takes no orders; nothing was changed";
            return ApiError::new(ErrorCode::Runtime, text).into();
        }
        self.second.set_keys(&keyring);
        self.keys.set(keyring);
        let keys = self.key_view();
        info!(seals = keys.seals, opens = ?keys.opens, "the key file was read again");
        keys.into()
    }

    pub(super) fn key_view(&self) -> understudy_api::Keys {
        let replica = self.snapshot.as_ref().map(|s| &s.channel);
        status::keys(&self.config, replica, &self.second.view())
    }

    pub(super) fn start_switchover(
        &mut self,
        now_ns: u64,
        to: Option<String>,
        answer: Sender<Response>,
    ) {
        let refuse = |code, text: String| {
            let _ = answer.send(ApiError::new(code, text).into());
        };
        let view = self.node.view(now_ns);
        if view.primary != Some(self.config.me().id) {
            let primary = view.primary.and_then(|id| self.config.nodes.iter().find(|n| n.id == id));
            let text = match primary {
                Some(p) => format!("this node is not the primary; ask node \"{}\"", p.name),
                None => "there is no primary to switch over from".into(),
            };
            return refuse(ErrorCode::RefusedUnsafe, text);
        }
        if self.switchover.is_some() || self.is_handing_over() {
            return refuse(ErrorCode::RefusedUnsafe, "a switchover is under way".into());
        }
        let target = match to.as_deref().map(|name| (name, self.config.node(name))) {
            None => None,
            Some((_, Some(node))) => Some(node.id),
            Some((name, None)) => {
                return refuse(
                    ErrorCode::Usage,
                    format!("there is no node \"{name}\" in the group"),
                );
            }
        };
        self.switchover = Some((answer, now_ns));
        self.node.handle_switchover(now_ns, target);
        self.done(now_ns);
    }

    pub(super) fn end_switchover(&mut self, now_ns: u64, result: Result<NodeId, String>) {
        self.handed_over(now_ns, &result);
        let Some((answer, since_ns)) = self.switchover.take() else { return };
        let name = |id: NodeId| {
            self.config
                .nodes
                .iter()
                .find(|n| n.id == id)
                .map(|n| n.name.clone())
                .unwrap_or_default()
        };
        let response: Response = match result {
            Ok(to) => SwitchoverDone {
                from: self.config.me().name.clone(),
                to: name(to),
                epoch: self.node.view(now_ns).epoch,
                took_ms: (now_ns - since_ns) / MS,
            }
            .into(),
            Err(text) => ApiError::new(ErrorCode::RefusedUnsafe, text).into(),
        };
        let _ = answer.send(response);
    }

    pub(super) fn app_pid(&self) -> Option<i32> {
        let process = self.capsule.as_ref().and_then(NodeCapsule::app_pid);
        process.filter(|_| !matches!(self.app, App::Gone | App::Parked))
    }

    pub(super) fn status(&self, now_ns: u64) -> understudy_api::Status {
        let mut counters: BTreeMap<String, u64> =
            self.counters.iter().map(|(k, v)| ((*k).to_string(), *v)).collect();
        counters.extend(self.second.counters());
        counters.insert("supervisor_notices_unsent".into(), self.supervisor.unsent());
        counters.extend(self.devices.iter());
        let adopted = self.capsule.as_ref().map(NodeCapsule::adoption_stats).unwrap_or_default();
        for (name, value) in [
            ("bpf_adopted", adopted.adopted),
            ("bpf_no_listener", adopted.no_listener),
            ("bpf_refused", adopted.refused),
            ("bpf_existing", adopted.existing),
            ("bpf_time_wait", adopted.time_wait),
        ] {
            counters.insert(name.into(), value);
        }
        let transfers = self.taking.as_ref().map(Taking::counters).into_iter().flatten();
        counters.extend(transfers.map(|(name, value)| (name.to_string(), value)));
        counters.insert("events_not_stored".into(), self.events.trouble().0);
        let supervised = self.supervision.counters().into_iter();
        counters.extend(supervised.map(|(name, value)| (name.to_string(), value)));
        let facts = status::Facts {
            config: &self.config,
            uptime_ms: (now_ns - self.started_ns) / MS,
            drained: self.withdrawn,
            app_pid: self.app_pid(),
            timeline: self.events.this_life(TIMELINE_EVENTS_MAX),
            checkpoints: self.checkpoints(now_ns),
            faults: self.faults(now_ns),
            counters,
            not_ready: match (self.restart_at_ns, &self.capsule) {
                (None, _) => {
                    let diverges = self.divergences.reason(now_ns);
                    diverges.into_iter().chain(self.unfit_because()).collect()
                }
                (Some(_), None) => vec!["starting anew".into()],
                (Some(_), Some(_)) => vec![format!(
                    "starting anew; the application's output is in {}",
                    self.app_log()
                )],
            },
        };
        status::status(&self.node.view(now_ns), self.snapshot.as_ref(), facts)
    }
}
