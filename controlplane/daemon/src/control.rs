//! The control-plane thread: feeds the sans-IO node with time, messages and facts, does what it says.

mod checkpoint;
mod cover;
mod divergence;
mod links;
pub mod next_life;
mod reload;
mod requests;
mod restore;
mod supervise;
mod warm;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use crossbeam::channel::{Receiver, Sender, bounded};
use signal_hook::iterator::Signals;
use tracing::{debug, error, info, warn};
use understudy_api::{
    ApiError, Drained, ErrorCode, Request, Response, SwitchoverDone, TimelineEvent,
};
use understudy_config::{CloneMode, CommitPolicy, Config};
use understudy_fastpath::MS;
use understudy_fastpath::command::{Command, ControlBody, DataRole, Event, Snapshot};
use understudy_linux::rtnl::LinkMonitor;
use understudy_proto::{
    Config as ProtoConfig, DpCommand, Held, LocalFact, LogState, Node, Output, Path, Paths,
    Persisted, ServiceCommand, To,
};
use understudy_seal::Keyring;
use understudy_wire::control::Control as Message;
use understudy_wire::pdu::TARGET_ALL;
use understudy_wire::{Epoch, NodeId};

use crate::arbiter::{self, Arbiter};
use crate::capture::{Captures, Told};
use crate::drain;
use crate::events::EventLog;
use crate::keys::Keys;
use crate::lcore::{self, ControlEnd, Up};
use crate::logging::Filter;
use crate::node_capsule::NodeCapsule;
use crate::ports::{DeviceCounts, NodeClock};
use crate::running::Running;
use crate::second_path::{Received, SecondPath};
use crate::server::{Call, ConnsView, Server};
use crate::status;
use crate::store::{Store, StoreWriter};
use crate::supervisor::{Facts, Supervisor};
use crate::web;
pub use checkpoint::NOT_NOW;
use checkpoint::Taking;
use divergence::Divergences;
use restore::Restoration;
use supervise::Supervision;
use warm::Warm;

/// Longest sleep of the loop: the poll-mode thread wakes it for news, not for each newer state.
const TICK: Duration = Duration::from_millis(2);
/// The same while that state is waited for.
const TICK_CHANGING: Duration = Duration::from_micros(250);
/// Between killing the application and starting anew: repeated notices still leave.
const RESTART_DELAY_NS: u64 = 150 * MS;
/// A switchover waits for the checkpoint under way to be stored at the other end.
const CHECKPOINT_SWITCHOVER_NS: u64 = 2_500 * MS;
/// How long a stop waits for another node to take over.
const STOP_LIMIT_NS: u64 = 3_000 * MS;
const READY_CHECK_NS: u64 = 20 * MS;
/// How long the disk may take with the last events before the daemon ends.
const EVENTS_FLUSH: Duration = Duration::from_millis(300);
const DATAGRAMS_PER_TICK: usize = 64;

/// How the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Told to.
    Stop,
    /// To come back with an empty log and a fresh application.
    Restart {
        /// How long this life waited before it ended; the next waits longer if it is short too.
        backoff_ms: u64,
        /// What this life can have acknowledged, if it knows.
        held: Option<Held>,
    },
}

/// What may be changed while the daemon runs.
pub struct Settings {
    pub running: Arc<Running>,
    pub log_filter: Filter,
    /// SIGHUP: the file is to be read again.
    pub hangups: Signals,
}

/// The thread and the channel on which it waits for the data path to be up.
pub struct Handle {
    pub start: Sender<Up>,
    pub thread: JoinHandle<anyhow::Result<Ending>>,
}

/// Starts the thread.
pub fn spawn(
    settings: Settings,
    store: Store,
    capsule: Option<NodeCapsule>,
    dataplane: ControlEnd,
    second: SecondPath,
    keys: Keys,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<Handle> {
    let (start, started) = bounded::<Up>(1);
    let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
        // The data path did not come up: its own error says why.
        let Ok(up) = started.recv() else { return Ok(Ending::Stop) };
        lcore::ask_short_slices();
        let result = Control::new(settings, store, capsule, dataplane, second, keys, stop, up)
            .and_then(|mut control| control.run());
        if let Err(e) = &result {
            error!("control plane: {e:#}");
        }
        result
    })?;
    Ok(Handle { start, thread })
}

/// What is going on with the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum App {
    Starting {
        since_ns: u64,
        checked_ns: u64,
    },
    Ready,
    Gone,
    /// A warm clone's: it comes to life at takeover.
    Parked,
}

struct Control {
    config: Arc<Config>,
    running: Arc<Running>,
    log_filter: Filter,
    clock: NodeClock,
    node: Node,
    dataplane: ControlEnd,
    /// A witness has none.
    capsule: Option<NodeCapsule>,
    store: StoreWriter,
    second: SecondPath,
    arbiter: Option<Arbiter>,
    links: LinkMonitor,
    calls: Receiver<Call>,
    _server: Server,
    conns: Arc<Mutex<ConnsView>>,
    /// For captures.
    told: Arc<Told>,
    /// A witness takes no checkpoints.
    taking: Option<Taking>,
    restoration: Restoration,
    divergences: Divergences,
    warm: Warm,
    supervision: Supervision,
    keys: Keys,
    supervisor: Supervisor,
    stop: Arc<AtomicBool>,
    started_ns: u64,
    snapshot: Option<Snapshot>,
    app: App,
    /// How it ended is not known yet.
    death_untold: bool,
    events: EventLog,
    switchover: Option<(Sender<Response>, u64)>,
    stopping_since_ns: Option<u64>,
    /// An operator wants this node to serve nobody.
    withdrawn: bool,
    restart_at_ns: Option<u64>,
    held: Option<Held>,
    backoff_ms: u64,
    counters: BTreeMap<&'static str, u64>,
    devices: DeviceCounts,
}

impl Control {
    #[expect(clippy::too_many_arguments, reason = "all that main has set up, once")]
    fn new(
        settings: Settings,
        store: Store,
        mut capsule: Option<NodeCapsule>,
        dataplane: ControlEnd,
        second: SecondPath,
        keys: Keys,
        stop: Arc<AtomicBool>,
        up: Up,
    ) -> anyhow::Result<Control> {
        let config = settings.running.config();
        let clock = up.clock;
        let now_ns = clock.now_ns();
        let persisted = store.persisted();
        // The store holds the directory's lock.
        let events = EventLog::open(&config.control.state_dir, &config.me().name);
        let store = store.into_writer(dataplane.waker().clone())?;
        let proto = ProtoConfig { held: next_life::held(), ..proto_config(&config, now_ns) };
        let node = Node::new(proto, persisted, now_ns, now_ns)?;
        let links = LinkMonitor::new()?;
        let arbiter = arbiter::start(&config, dataplane.waker().clone())?;
        let (sender, calls) = bounded(16);
        let conns = Arc::new(Mutex::new(ConnsView::default()));
        let told = Arc::new(Told::default());
        let captures = Captures::new(&config, up.log.clone(), Arc::clone(&told));
        let server = Server::start(
            &config.control.socket,
            sender.clone(),
            capsule.as_ref().map(|c| Arc::clone(&c.ns)),
            Arc::clone(&conns),
            Arc::clone(&settings.running),
            captures,
            events.clone(),
        )?;
        web::start(&config, sender.clone())?;
        let Settings { running, log_filter, hangups } = settings;
        reload::on_hangup(hangups, Arc::clone(&running), sender.clone())?;
        let supervisor = Supervisor::start()?;
        let take = || Taking::start(&config, sender, &keys, up.log, now_ns);
        let taking = capsule.is_some().then(take).transpose()?;
        let supervision = Supervision::start(&config, capsule.as_ref())?;
        let app = match &mut capsule {
            Some(_) if config.service.clone == CloneMode::Warm => App::Parked,
            Some(capsule) => start_app(capsule, &dataplane, now_ns)?,
            None => App::Gone,
        };
        let withdrawn = drain::is_drained(&config.control.state_dir);
        info!(epoch = persisted.epoch, node = config.me().name, "control plane started");
        Ok(Control {
            started_ns: now_ns,
            app,
            death_untold: false,
            config,
            running,
            log_filter,
            clock,
            node,
            dataplane,
            capsule,
            store,
            second,
            arbiter,
            links,
            calls,
            _server: server,
            conns,
            told,
            taking,
            restoration: Restoration::new(),
            divergences: Divergences::default(),
            warm: Warm::default(),
            supervision,
            keys,
            supervisor,
            stop,
            snapshot: None,
            events,
            switchover: None,
            stopping_since_ns: None,
            withdrawn,
            restart_at_ns: None,
            backoff_ms: 0,
            held: None,
            counters: BTreeMap::new(),
            devices: DeviceCounts::default(),
        })
    }

    fn run(&mut self) -> anyhow::Result<Ending> {
        self.note_start();
        let now_ns = self.clock.now_ns();
        self.initial_links(now_ns);
        self.node.handle_local(now_ns, LocalFact::Withdrawn(self.withdrawn));
        self.done(now_ns);
        let ending = loop {
            self.sleep();
            let now_ns = self.clock.now_ns();
            self.take_from_dataplane(now_ns);
            self.take_datagrams(now_ns);
            self.take_links(now_ns);
            self.take_persisted(now_ns);
            self.take_arbiter(now_ns);
            self.watch_app(now_ns)?;
            self.advance_checkpoint(now_ns);
            self.advance_restoration(now_ns);
            self.advance_supervision(now_ns);
            self.take_calls(now_ns);
            if self.node.poll_timeout().is_some_and(|due| due <= now_ns) {
                self.node.handle_timeout(now_ns);
                self.carry_out(now_ns)?;
            }
            if let Some(ending) = self.is_over(now_ns)? {
                break ending;
            }
            self.tell_supervisor(now_ns);
        };
        self.dataplane.quit();
        self.stop_app();
        self.note_ending(ending);
        Ok(ending)
    }

    fn sleep(&mut self) {
        let now_ns = self.clock.now_ns();
        let due_ns = self.node.poll_timeout().unwrap_or(u64::MAX).saturating_sub(now_ns);
        let tick = if self.node.is_changing() { TICK_CHANGING } else { TICK };
        let timeout = tick.min(Duration::from_nanos(due_ns));
        let mut fds: Vec<BorrowedFd<'_>> =
            vec![self.second.as_fd(), self.links.as_fd(), self.dataplane.waker().as_fd()];
        if self.app != App::Gone {
            fds.extend(self.capsule.as_ref().and_then(NodeCapsule::app_pidfd));
        }
        // An error here is a short nap; every source is looked at anyway.
        let _ = understudy_linux::poll_fds(&fds, timeout);
        self.dataplane.waker().drain();
    }

    /// Told to stop or to start anew, and ready for it.
    fn is_over(&mut self, now_ns: u64) -> anyhow::Result<Option<Ending>> {
        if self.dataplane.is_finished() {
            return Ok(Some(Ending::Stop));
        }
        // What CRIU has begun it would finish after us, and leave behind.
        let restoring = self.restoration.is_restoring();
        if self.restart_at_ns.is_some_and(|at| now_ns >= at) && !restoring {
            let stop = self.stopping_since_ns.is_some();
            return Ok(Some(if stop {
                Ending::Stop
            } else {
                Ending::Restart { backoff_ms: self.backoff_ms, held: self.held }
            }));
        }
        if !self.stop.load(Ordering::Acquire) {
            return Ok(None);
        }
        let leads = self.snapshot.as_ref().is_some_and(|s| matches!(s.role, DataRole::Lead(_)));
        match self.stopping_since_ns {
            None => {
                self.stopping_since_ns = Some(now_ns);
                self.supervisor.stopping();
                if leads {
                    info!("stopping: handing the service over first");
                    self.node.handle_switchover(now_ns, None);
                    self.carry_out(now_ns)?;
                    return Ok(None);
                }
                Ok(Some(Ending::Stop))
            }
            Some(since) if leads && now_ns < since + STOP_LIMIT_NS => Ok(None),
            Some(since) if now_ns < since + RESTART_DELAY_NS => Ok(None),
            Some(_) => Ok(Some(Ending::Stop)),
        }
    }

    /// A node that is alone is able, too: who waits for it to be ready may be about to start another.
    fn tell_supervisor(&mut self, now_ns: u64) {
        if !self.supervisor.is_due(now_ns) {
            return;
        }
        let applies = self.capsule.is_none() || matches!(self.app, App::Ready | App::Parked);
        let view = self.node.view(now_ns);
        let heard = view.peers.iter().filter(|p| p.alive).count();
        let facts = Facts {
            able: applies && self.snapshot.is_some() && self.restart_at_ns.is_none(),
            progress_ns: self.snapshot.as_ref().map(|s| s.at_ns),
            status: format!(
                "{} in epoch {}, hears {heard} of {} other nodes",
                status::role(&view),
                view.epoch,
                view.peers.len()
            ),
        };
        self.supervisor.look(now_ns, facts);
    }

    // ---- inputs -------------------------------------------------------------

    fn take_from_dataplane(&mut self, now_ns: u64) {
        while let Some(event) = self.dataplane.event() {
            match event {
                Event::Control { node, epoch, body } => {
                    self.take_message(now_ns, Path::Replica, node, epoch, &body);
                }
                Event::ServiceDying => self.application_gone(now_ns),
                Event::Member { epoch, node, change } => {
                    let name = self.config.nodes.iter().find(|n| n.id == node);
                    let name = name.map_or_else(|| node.to_string(), |n| n.name.clone());
                    let (event, detail) = status::member_change(&name, &change);
                    self.note(now_ns, epoch, event, detail);
                }
                Event::Held(barrier) => self.checkpoint_held(now_ns, barrier),
                Event::Resumed(resumed) => self.resumed(now_ns, resumed),
                Event::Diverged { divergence, unfit } => self.diverged(now_ns, &divergence, unfit),
                Event::Promised { epoch, snapshot } => {
                    let state = self.log_state(&snapshot);
                    self.snapshot = Some(snapshot);
                    self.node.handle_promised(now_ns, epoch, &state);
                    self.done(now_ns);
                }
            }
        }
        let newer = self
            .dataplane
            .snapshot()
            .filter(|new| self.snapshot.as_ref().is_none_or(|old| old.at_ns <= new.at_ns));
        if let Some(snapshot) = newer {
            let counted = &snapshot.counters;
            self.told.set_not_logged(counted.log_full + counted.frame_too_long);
            let state = self.log_state(&snapshot);
            self.snapshot = Some(snapshot);
            self.node.handle_log(now_ns, &state);
            self.done(now_ns);
        }
        if let Some(devices) = self.dataplane.devices() {
            self.devices = devices;
        }
        while let Some(key) = self.dataplane.adopted() {
            if let Ok(mut view) = self.conns.lock() {
                view.adopted.insert(key);
            }
        }
    }

    fn take_message(&mut self, now_ns: u64, path: Path, node: NodeId, epoch: Epoch, body: &[u8]) {
        match Message::decode(body) {
            Ok(message) => {
                self.node.handle_message(now_ns, path, node, epoch, &message);
                self.done(now_ns);
            }
            Err(_) => self.count("control_malformed"),
        }
    }

    fn take_datagrams(&mut self, now_ns: u64) {
        for _ in 0..DATAGRAMS_PER_TICK {
            match self.second.receive(now_ns) {
                Received::Nothing => break,
                Received::Nought => {}
                Received::Message { node, epoch, body } => {
                    self.take_message(now_ns, Path::Second, node, epoch, &body);
                }
            }
        }
        self.second.shake_hands(now_ns);
    }

    fn take_arbiter(&mut self, now_ns: u64) {
        while let Some((request, answer)) =
            self.arbiter.as_ref().and_then(|arbiter| arbiter.answers.try_recv().ok())
        {
            self.node.handle_arbiter(now_ns, &request, answer);
            self.done(now_ns);
        }
    }

    fn take_persisted(&mut self, now_ns: u64) {
        while let Ok(epoch) = self.store.done.try_recv() {
            self.node.handle_persisted(now_ns, epoch);
            self.done(now_ns);
        }
    }

    fn watch_app(&mut self, now_ns: u64) -> anyhow::Result<()> {
        self.tell_how_it_ended();
        let Some(capsule) = self.capsule.as_mut().filter(|_| self.app != App::Gone) else {
            return Ok(());
        };
        if capsule.app_is_dying() {
            self.application_gone(now_ns);
            return self.carry_out(now_ns);
        }
        let App::Starting { since_ns, checked_ns } = self.app else { return Ok(()) };
        if now_ns < checked_ns + READY_CHECK_NS {
            return Ok(());
        }
        if capsule.is_ready()? {
            info!("the application is ready");
            self.app = App::Ready;
            self.dataplane.order(Command::Service { up: true });
            self.node.handle_local(now_ns, LocalFact::AppReady);
            return self.carry_out(now_ns);
        }
        let limit_ms = self.config.service.ready_timeout_ms;
        if now_ns > since_ns + limit_ms * MS {
            warn!("the application has not bound service.ports after {limit_ms} ms; waiting on");
            self.app = App::Starting { since_ns: now_ns, checked_ns: now_ns };
        } else {
            self.app = App::Starting { since_ns, checked_ns: now_ns };
        }
        Ok(())
    }

    /// It is being torn down, or was: what that takes the kernel, nobody waits for.
    fn application_gone(&mut self, now_ns: u64) {
        if self.app == App::Gone {
            return;
        }
        self.app = App::Gone;
        self.death_untold = self.capsule.as_ref().is_some_and(|c| c.app_pid().is_some());
        self.dataplane.order(Command::Service { up: false });
        self.node.handle_local(now_ns, LocalFact::AppExited);
        self.done(now_ns);
    }

    /// How an application ended of which it was only known that it dies.
    fn tell_how_it_ended(&mut self) {
        if self.death_untold {
            let status = self.capsule.as_mut().and_then(NodeCapsule::app_exited);
            self.tell_ending(status);
        }
    }

    fn tell_ending(&mut self, status: Option<ExitStatus>) {
        if let Some(status) = status.filter(|_| self.death_untold) {
            self.death_untold = false;
            warn!("the application ended: {status}; its output is in {}", self.app_log());
        }
    }

    fn stop_app(&mut self) {
        let status = self.capsule.as_mut().and_then(NodeCapsule::stop_app);
        self.tell_ending(status);
        self.death_untold = false;
    }

    /// Where the application's output goes.
    fn app_log(&self) -> String {
        let file = self.capsule.as_ref().map(NodeCapsule::log_file);
        file.map_or_else(|| "no file".into(), |file| file.display().to_string())
    }

    // ---- outputs ------------------------------------------------------------

    fn done(&mut self, now_ns: u64) {
        if let Err(e) = self.carry_out(now_ns) {
            error!("{e:#}");
        }
    }

    fn carry_out(&mut self, now_ns: u64) -> anyhow::Result<()> {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Send { to, paths, epoch, msg } => self.send(to, paths, epoch, &msg),
                Output::Persist { epoch, voted_for } => {
                    self.store
                        .submit
                        .send(Persisted { epoch, voted_for })
                        .context("the store is gone")?;
                }
                Output::Arbiter(request) => {
                    let arbiter = self.arbiter.as_ref().context("no arbiter is configured")?;
                    arbiter.ask.send(request).context("the arbiter's thread is gone")?;
                }
                Output::Dataplane(command) => self.order(command),
                Output::Service(ServiceCommand::Restart { held }) => {
                    self.held = held;
                    self.restart(now_ns);
                }
                Output::Event(event) => {
                    self.note(event.at_ns, event.epoch, status::event_name(event.kind), event.text);
                }
                Output::SwitchoverDone(result) => self.end_switchover(now_ns, result),
            }
        }
        if let Ok(mut view) = self.conns.lock() {
            view.role = status::role(&self.node.view(now_ns));
            view.app_pid = self.app_pid();
        }
        Ok(())
    }

    fn send(&mut self, to: To, paths: Paths, epoch: Epoch, msg: &Message) {
        let mut body = Vec::with_capacity(1200);
        msg.encode(&mut body);
        let target = match to {
            To::All => TARGET_ALL,
            To::One(id) => id,
        };
        if paths != Paths::Second {
            let body: ControlBody = body.iter().copied().collect();
            if !self.dataplane.order(Command::Control { target, epoch, body }) {
                self.count("dataplane_orders_dropped");
            }
        }
        if paths != Paths::Replica {
            self.second.send(target, epoch, &body);
        }
    }

    fn order(&mut self, command: DpCommand) {
        let command = match command {
            DpCommand::Promise { epoch } => Command::Promise { epoch },
            DpCommand::Follow { epoch, primary, cut } => Command::Follow { epoch, primary, cut },
            DpCommand::Lead { epoch, serve } => {
                if serve && self.is_parked() {
                    self.raise(self.clock.now_ns());
                }
                if serve
                    && let Some(capsule) = &self.capsule
                    && let Err(e) = capsule.set_standby(false)
                {
                    warn!("{e:#}");
                }
                Command::Lead { epoch, serve }
            }
            DpCommand::Alone { epoch, on } => Command::Alone { epoch, on },
            DpCommand::Drain => Command::Drain,
            DpCommand::Undrain => Command::Undrain,
            DpCommand::Fence { epoch } => Command::Fence { epoch },
            DpCommand::Announce => Command::Announce,
        };
        self.tell(command);
    }

    /// An order that is only missed if it is lost.
    fn tell(&mut self, command: Command) {
        if !self.dataplane.order(command) {
            error!("the poll-mode thread takes no orders");
            self.count("dataplane_orders_dropped");
        }
    }

    /// A fresh start of everything: the whole process, a moment from now.
    fn restart(&mut self, now_ns: u64) {
        if self.restart_at_ns.is_none() {
            // After a switchover this is how the old primary becomes a replica: it worked.
            let me = self.config.me().id;
            if let Some(to) = self.node.view(now_ns).primary.filter(|&id| id != me) {
                self.end_switchover(now_ns, Ok(to));
            }
            // What a takeover cost a life that worked is no failure to start.
            if !matches!(self.app, App::Ready) {
                self.backoff_ms = next_life::backoff_ms(now_ns - self.started_ns);
            }
            self.dataplane.order(Command::Service { up: false });
            self.stop_app();
            self.app = App::Gone;
            self.restart_at_ns = Some(now_ns + RESTART_DELAY_NS + self.backoff_ms * MS);
            if self.backoff_ms > 0 {
                warn!("the service did not last; starting anew in {} ms", self.backoff_ms);
            }
        }
    }

    fn note(&mut self, at_ns: u64, epoch: Epoch, event: &'static str, detail: String) {
        info!(epoch, "{event}: {detail}");
        let event = event.into();
        self.events.push(TimelineEvent {
            unix_ns: at_ns,
            epoch,
            event,
            detail,
            ..Default::default()
        });
    }

    fn note_start(&mut self) {
        let now_ns = self.clock.now_ns();
        let epoch = self.node.view(now_ns).epoch;
        let text = format!("version {}, process {}", env!("CARGO_PKG_VERSION"), std::process::id());
        self.note(now_ns, epoch, "daemon_started", text);
    }

    fn note_ending(&mut self, ending: Ending) {
        let now_ns = self.clock.now_ns();
        let epoch = self.node.view(now_ns).epoch;
        let text = match ending {
            Ending::Stop => "told to stop".into(),
            Ending::Restart { .. } => {
                "to start anew with a fresh application and an empty log".into()
            }
        };
        self.note(now_ns, epoch, "daemon_ended", text);
        self.events.flush(EVENTS_FLUSH);
    }

    fn count(&mut self, name: &'static str) {
        *self.counters.entry(name).or_default() += 1;
    }
}

/// Starts the application; the poll-mode thread watches it from now on.
fn start_app(
    capsule: &mut NodeCapsule,
    dataplane: &ControlEnd,
    now_ns: u64,
) -> anyhow::Result<App> {
    let (pid, probe) = capsule.start_app().context("cannot start the service")?;
    dataplane.watch_application(probe);
    info!(pid, "application started");
    Ok(App::Starting { since_ns: now_ns, checked_ns: 0 })
}

fn proto_config(config: &Config, incarnation: u64) -> ProtoConfig {
    let detect = &config.detect;
    let mut proto = ProtoConfig::new(
        config.me().id,
        config.nodes.iter().map(|n| n.id).collect(),
        detect.heartbeat_interval_ms * MS,
        detect.suspect_after_ms * MS,
        detect.lease_ms * MS,
    );
    if config.commit.policy == CommitPolicy::Checkpoint {
        proto.switchover_limit_ns = CHECKPOINT_SWITCHOVER_NS;
    }
    proto.priority = config.me().priority;
    proto.witness = config.is_witness();
    proto.arbiter = config.arbiter.is_some();
    proto.alone_allowed = proto.arbiter && config.commit_min() == 0;
    proto.incarnation = incarnation;
    proto
}

fn log_state(s: &Snapshot) -> LogState {
    let (epoch, leading) = match s.role {
        DataRole::Follow(epoch) => (epoch, false),
        DataRole::Lead(epoch) => (epoch, true),
        DataRole::Idle | DataRole::Fenced => (0, false),
    };
    let history = s.held_history();
    LogState {
        epoch,
        leading,
        log_epoch: history.last().map_or(0, |e| e.epoch),
        log_start: s.log_start,
        position: s.held,
        committed: s.committed,
        applied: s.applied,
        history,
        alone: s.alone,
        gate_open: s.gate_open,
        lease_valid: s.lease_valid,
        drained: s.drained,
        last_data_rx_ns: s.data_heard_at_ns,
        clone_level: s.level,
        fit: s.fit,
        peer_acked: s.peers.iter().map(|p| (p.id, p.covered)).collect(),
    }
}
