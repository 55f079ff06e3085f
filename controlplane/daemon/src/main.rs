//! understudyd: one node of the appliance.
//!
//! The main thread is the poll-mode thread; the control plane has a thread of
//! its own; disk and sockets of the CLI are on helper threads.
#![forbid(unsafe_code)]

mod arbiter;
mod beginnings;
mod capture;
mod capture_node;
mod checkpointer;
mod clocks;
mod control;
mod drain;
mod events;
mod idle;
mod images;
mod keys;
mod lcore;
mod logging;
mod method;
mod node_capsule;
mod offers;
mod ports;
mod preflight;
mod privileges;
mod probes;
mod replay;
mod resume;
mod running;
mod second_path;
mod server;
mod status;
mod store;
mod supervisor;
mod web;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use clap::Parser;
use signal_hook::iterator::Signals;
use tracing::error;
use understudy_api::check::{Finding, Findings, Level};
use understudy_api::doctor::{Diagnoses, Diagnosis, Health};
use understudy_api::replay::ReplayVerdict;
use understudy_config::NodeFile;

use logging::Filter;
use running::Running;

/// One node of a group that keeps a service and its connections alive.
#[derive(Parser)]
#[command(
    name = "understudyd",
    version,
    after_help = "\
SIGTERM hands the service over, then ends. SIGHUP reads the configuration again, as `understudy reload`.

Exit codes: 0 ok, 1 runtime error, 2 usage, 3 invalid configuration, 5 refused because unsafe."
)]
struct Args {
    /// The node's configuration.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["check", "doctor"])]
    config: Option<PathBuf>,
    /// Validate a configuration and this machine against it, change nothing, print findings as JSON.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    check: Option<PathBuf>,
    /// Look at this machine, and at the configuration if there is one, change nothing, print JSON.
    #[arg(long, conflicts_with = "check")]
    doctor: bool,
    /// Feed a recorded log to a fresh application, compare what it says with the notes in it, print JSON.
    #[arg(long, value_name = "RECORDING", requires = "config", conflicts_with_all = ["check", "doctor"])]
    replay: Option<PathBuf>,
    #[command(flatten)]
    replayed: Replayed,
}

/// How a recorded log is fed; each needs --replay.
#[derive(clap::Args)]
struct Replayed {
    /// Begin with the application of a checkpoint: the number of one of the node's, or a directory.
    #[arg(long, value_name = "CHECKPOINT", requires = "replay", conflicts_with = "command")]
    checkpoint: Option<String>,
    /// What the application says goes here too, as pcapng.
    #[arg(long, value_name = "FILE", requires = "replay")]
    write: Option<PathBuf>,
    /// Where the application runs, instead of in an empty directory.
    #[arg(long, value_name = "DIR", requires = "replay")]
    work_dir: Option<PathBuf>,
    /// At most so many times as fast as it was, instead of as fast as the application follows.
    #[arg(long, value_name = "FACTOR", requires = "replay")]
    speed: Option<f64>,
    /// Run this instead of service.command.
    #[arg(last = true, requires = "replay")]
    command: Vec<String>,
}

const EXIT_RUNTIME: u8 = 1;
const EXIT_INVALID_CONFIG: u8 = 3;
const EXIT_UNSAFE: u8 = 5;

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = logging::init();
    if args.doctor {
        return doctor(args.config.as_deref());
    }
    if let (Some(recording), Some(config)) = (&args.replay, &args.config) {
        return replay(config, recording, &args.replayed);
    }
    match (args.check, args.config) {
        (Some(file), _) => check(&file),
        (None, Some(file)) => run(&file, filter),
        (None, None) => ExitCode::from(2),
    }
}

/// The environment's findings on stdout, one JSON document.
fn check(file: &std::path::Path) -> ExitCode {
    let (findings, code) = match NodeFile::load(file) {
        Ok(config) => {
            let findings = find(&config);
            let bad = findings.iter().any(|f| f.level == Level::Error);
            (findings, if bad { EXIT_RUNTIME } else { 0 })
        }
        Err(e) => (vec![Finding::new(Level::Error, e.to_string())], config_exit_code(&e)),
    };
    let document = serde_json::to_string(&Findings { findings });
    println!("{}", document.unwrap_or_default());
    ExitCode::from(code)
}

fn find(config: &NodeFile) -> Vec<Finding> {
    match config {
        NodeFile::Service(config) => preflight::check(config),
        NodeFile::Capture(node) => capture_node::check(node),
    }
}

/// The same for `understudy doctor`, good news included.
fn doctor(file: Option<&std::path::Path>) -> ExitCode {
    let means = "what the daemon is told";
    let (config, about_file) = match file.map(|file| (file, NodeFile::load(file))) {
        None => (None, None),
        Some((file, Ok(config))) => {
            let found = format!("{} is valid", file.display());
            (Some(config), Some(Diagnosis::ok("config", means, found)))
        }
        Some((_, Err(e))) => {
            let mend = "correct it; configs/trio/a.toml explains every field";
            let bad = Diagnosis::bad("config", means, Health::Fail, e.to_string(), mend);
            (None, Some(bad))
        }
    };
    let checks = about_file.into_iter().chain(preflight::doctor(config.as_ref())).collect();
    let all = Diagnoses { checks };
    println!("{}", serde_json::to_string(&all).unwrap_or_default());
    ExitCode::from(if all.worst() == Health::Fail { EXIT_RUNTIME } else { 0 })
}

/// What `understudy replay` asks for: one JSON document, and 0 if all is the same.
fn replay(config: &std::path::Path, recording: &std::path::Path, how: &Replayed) -> ExitCode {
    let config = match NodeFile::load(config) {
        Ok(NodeFile::Service(config)) => *config,
        Ok(NodeFile::Capture(_)) => {
            eprintln!("understudyd: a node that only captures has no application");
            return ExitCode::from(EXIT_RUNTIME);
        }
        Err(e) => {
            eprintln!("understudyd: {e}");
            return ExitCode::from(config_exit_code(&e));
        }
    };
    let wanted = replay::Wanted {
        file: recording,
        checkpoint: how.checkpoint.as_deref(),
        write: how.write.as_deref(),
        work_dir: how.work_dir.as_deref(),
        speed: how.speed,
        command: &how.command,
    };
    match replay::replay(&config, &wanted) {
        Ok(found) => {
            println!("{}", serde_json::to_string(&found).unwrap_or_default());
            ExitCode::from(if found.verdict == ReplayVerdict::Same { 0 } else { EXIT_RUNTIME })
        }
        Err(e) => ended(Err(e)),
    }
}

fn config_exit_code(e: &understudy_config::ConfigError) -> u8 {
    if e.is_unsafe() { EXIT_UNSAFE } else { EXIT_INVALID_CONFIG }
}

fn run(file: &std::path::Path, log_filter: Filter) -> ExitCode {
    let config = match running::load(file) {
        Ok(config) => config,
        Err(e) => {
            eprintln!("understudyd: {e}");
            return ExitCode::from(config_exit_code(&e));
        }
    };
    let problems: Vec<_> = find(&config).into_iter().filter(|f| f.level == Level::Error).collect();
    if !problems.is_empty() {
        for problem in problems {
            eprintln!("understudyd: {}", problem.message);
        }
        return ExitCode::from(EXIT_RUNTIME);
    }
    let node = match config {
        NodeFile::Service(config) => *config,
        NodeFile::Capture(node) => return ended(capture_node::serve(file, &node)),
    };
    log_filter.set_first(node.control.log_level);
    let running = Arc::new(Running::new(file, node));
    match serve(&running, log_filter) {
        Ok(control::Ending::Stop) => {
            running.forget();
            ExitCode::SUCCESS
        }
        Ok(control::Ending::Restart { backoff_ms, held }) => {
            supervisor::begins_anew();
            let backoff_ms = OsString::from(backoff_ms.to_string());
            let held = held.map(control::next_life::write_held);
            let (kept, path) = running.note_for_next_life();
            let e = understudy_linux::restart::restart_self(&[
                (control::next_life::BACKOFF_VARIABLE, Some(&backoff_ms)),
                (control::next_life::HELD_VARIABLE, held.as_deref()),
                (kept, path.as_deref()),
            ]);
            eprintln!("understudyd: cannot start itself anew: {e}");
            ExitCode::from(EXIT_RUNTIME)
        }
        Err(e) => ended(Err(e)),
    }
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    let Err(e) = result else { return ExitCode::SUCCESS };
    error!("{e:#}");
    eprintln!("understudyd: {e:#}");
    ExitCode::from(EXIT_RUNTIME)
}

/// Sets everything up, runs until told to stop, takes everything down.
fn serve(running: &Arc<Running>, log_filter: Filter) -> anyhow::Result<control::Ending> {
    privileges::give_up();
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot watch signals")?;
    }
    let hangups = Signals::new([signal_hook::consts::SIGHUP]).context("cannot watch signals")?;
    let settings = control::Settings { running: Arc::clone(running), log_filter, hangups };
    let config = running.config();
    let store = store::Store::open(&config.control.state_dir)?;
    // A witness has no application, and nothing to put one in.
    let capsule = match config.is_witness() {
        true => None,
        false => Some(node_capsule::NodeCapsule::create(&config)?),
    };
    let keys = keys::Keys::open(&config)?;
    let (replica, second) = keys.channels(&config)?;
    let second = second_path::SecondPath::open(&config, second)?;
    let (dp_end, ctl_end) = lcore::link()?;
    let adopter = capsule.as_ref().map(node_capsule::NodeCapsule::adopter);
    // Spawned before EAL pins this thread, so that it does not inherit the poll-mode core.
    let control = control::spawn(settings, store, capsule, ctl_end, second, keys, stop.clone())?;
    let polled = lcore::run(&config, adopter, replica, &dp_end, &control.start);
    if polled.is_err() {
        stop.store(true, Ordering::Release);
        dp_end.finished();
    }
    drop(control.start);
    let ending =
        control.thread.join().map_err(|_| anyhow::anyhow!("the control plane panicked"))?;
    polled?;
    ending
}
