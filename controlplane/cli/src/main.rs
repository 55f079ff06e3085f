//! `understudy`: the operator's command.
#![forbid(unsafe_code)]

mod capture;
mod check;
mod doctor;
mod document;
mod events;
mod images;
mod key;
mod manuals;
mod plan;
mod probe;
mod progress;
mod replay;
mod text;
mod top;
mod views;
mod wait;

use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use serde::Serialize;
use serde_json::Value;
use understudy_api::{
    ApiError, ClientFilter, ErrorCode, Request, Response, SOCKET_DEFAULT, client,
};
use understudy_config::{ConfigError, NodeFile};

use document::document;

const SOCKET_VARIABLE: &str = "UNDERSTUDY_SOCKET";
const ASK_TIMEOUT_MS: u64 = 5_000;
const IMAGES_TIMEOUT_MS: u64 = 15_000;
const SWITCHOVER_TIMEOUT_MS: u64 = 30_000;
const RELOAD_TIMEOUT_MS: u64 = 30_000;
const WAIT_TIMEOUT_MS: u64 = 60_000;
const CHECKPOINT_TIMEOUT_MS: u64 = 180_000;

/// Looks at and directs an Understudy node.
#[derive(Debug, Parser)]
#[command(
    name = "understudy",
    version,
    after_help = "\
The socket is SOCKET, else control.socket of CONFIG, else $UNDERSTUDY_SOCKET, else
/run/understudy/understudyd.sock.

Exit codes: 0 ok, 1 runtime error, 2 usage, 3 invalid configuration, 4 daemon unreachable,
5 refused because unsafe."
)]
struct Arguments {
    /// Print one JSON document, also on errors
    #[arg(short, long, global = true)]
    json: bool,
    /// The daemon's unix socket
    #[arg(short, long, global = true, value_name = "SOCKET", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// The node's configuration file, which names the socket
    #[arg(short, long, global = true, value_name = "CONFIG")]
    config: Option<PathBuf>,
    /// How long to wait for the daemon [default: 5000, conns -v: 15000, switchover, reload: 30000, wait: 60000,
    /// checkpoint: 180000, replay: no limit]
    #[arg(short, long, global = true, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    timeout_ms: Option<u64>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Whether the service is protected; role, readiness, log, gate, peers and the last takeover
    Status,
    /// Wait until this node does its part, or with --protected until the service would survive any one node's loss
    Wait {
        /// Until the service is protected
        #[arg(long)]
        protected: bool,
    },
    /// Every node of the group, as this one sees it
    Nodes,
    /// Every node's clone: how far it is, whether it could take over and why not
    Clones,
    /// The capture log: positions, memory, what was captured, where the others' logs end
    Log,
    /// The service's connections on this node
    Conns {
        /// All that their sockets have; the application stands still for a moment
        #[arg(short, long)]
        verbose: bool,
        /// Only of this client: 10.0.0.7, 10.0.0.7:4711, fd00::7 or [fd00::7]:4711
        #[arg(value_name = "CLIENT", requires = "verbose")]
        client: Option<ClientFilter>,
    },
    /// Hand the service over to another node, with the primary's consent
    Switchover {
        /// The node that takes over; the fittest one if not given
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
    },
    /// Give the service away, if it is on this node, and serve nobody until undrain: before maintenance
    ///
    /// The node goes on voting and holding the log: majorities count every configured node, so to leave for good is
    /// to change every node's file. `leave` is the same command.
    #[command(visible_alias = "leave")]
    Drain,
    /// Let this node take over again; `join` is the same command
    #[command(visible_alias = "join")]
    Undrain,
    /// A live view: roles, rates, positions, waits at the gate, takeovers; q ends it
    Top(top::TopArguments),
    /// Take a checkpoint of the application on this node; it stands still for a moment
    Checkpoint,
    /// What has happened on this node, in all lives of its daemon; with --follow, what happens
    Events(events::EventsArguments),
    /// What clients sent, live or past, as text or pcapng
    Capture(Box<capture::CaptureArguments>),
    /// Feed a recorded log to a fresh application, offline, and tell where it says something else
    Replay(Box<replay::ReplayArguments>),
    /// What this machine can do, what it cannot, and how to mend that; with -c also for a configuration
    Doctor,
    /// The keys that seal what nodes say to each other
    #[command(subcommand)]
    Key(KeyCommand),
    /// What a changed file would mean for the running daemon, field by field; changes nothing
    Plan {
        /// The file; the daemon's own if not given
        file: Option<PathBuf>,
    },
    /// Make the daemon go on with what its file says by now: all of it, or nothing
    Reload,
    /// Print a script that makes a shell complete this command: source <(understudy completions bash)
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of this command and all of its commands
    Man {
        /// Where to; made if it is not there
        directory: PathBuf,
    },
    /// Validate a configuration file, and this machine against it if root
    Check {
        /// The node's configuration file
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
#[command(after_help = key::ROTATION)]
enum KeyCommand {
    /// Make a key file, or with --add one more key that is accepted and does not seal
    Generate {
        /// Append a key to a file that exists
        #[arg(long)]
        add: bool,
        /// The key file; never overwritten
        file: PathBuf,
    },
    /// Make the daemon read its key file again; keys that are gone open nothing from then on
    Reload,
    /// Which keys seal and open, and under which the other nodes were seen
    Status,
}

/// What a command has to say.
enum Outcome {
    Answer(Response),
    Captured(capture::Captured),
    Told {
        /// Its place in the JSON document.
        name: &'static str,
        value: Value,
        text: String,
        error: Option<ApiError>,
    },
    /// All has been said.
    Said,
}

/// One value, for programs and for people.
fn told(
    name: &'static str,
    value: &impl Serialize,
    text: String,
    error: Option<ApiError>,
) -> Outcome {
    match serde_json::to_value(value) {
        Ok(value) => Outcome::Told { name, value, text, error },
        Err(e) => failed(ApiError::new(ErrorCode::Runtime, format!("the answer: {e}"))),
    }
}

fn failed(error: ApiError) -> Outcome {
    Outcome::Answer(Response::Error(error))
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let (json, outcome) = match Arguments::try_parse_from(&arguments) {
        Ok(arguments) => (arguments.json, run(&arguments)),
        Err(e) if !e.use_stderr() => return print(&e.to_string(), 0),
        Err(e) if !json_wanted(&arguments) => {
            // clap's own message: it has the usage and a tip.
            let _ = e.print();
            return ExitCode::from(ErrorCode::Usage.exit_code());
        }
        Err(e) => (true, failed(usage_error(&e))),
    };
    match render(json, &outcome) {
        Ok(code) => code,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "understudy: {e:#}");
            ExitCode::from(ErrorCode::Runtime.exit_code())
        }
    }
}

fn run(arguments: &Arguments) -> Outcome {
    let (request, timeout_default_ms) = match &arguments.command {
        Command::Status | Command::Nodes | Command::Clones | Command::Log => {
            (Request::Status, ASK_TIMEOUT_MS)
        }
        Command::Conns { verbose: false, .. } => (Request::Conns, ASK_TIMEOUT_MS),
        Command::Conns { verbose: true, client } => {
            (Request::ConnImages { client: *client }, IMAGES_TIMEOUT_MS)
        }
        Command::Switchover { to } => {
            (Request::Switchover { to: to.clone() }, SWITCHOVER_TIMEOUT_MS)
        }
        Command::Drain => (Request::Drain, SWITCHOVER_TIMEOUT_MS),
        Command::Undrain => (Request::Undrain, ASK_TIMEOUT_MS),
        Command::Checkpoint => (Request::Checkpoint, CHECKPOINT_TIMEOUT_MS),
        Command::Plan { file } => match file.as_deref().map(std::path::absolute).transpose() {
            Ok(file) => {
                let file = file.map(|path| path.to_string_lossy().into_owned());
                (Request::Plan { file }, ASK_TIMEOUT_MS)
            }
            Err(e) => {
                let error = ApiError::new(ErrorCode::Usage, format!("FILE: {e}"));
                return Outcome::Answer(Response::Error(error));
            }
        },
        Command::Reload => (Request::Reload, RELOAD_TIMEOUT_MS),
        Command::Key(KeyCommand::Status) => (Request::KeyStatus, ASK_TIMEOUT_MS),
        Command::Key(KeyCommand::Reload) => (Request::KeyReload, ASK_TIMEOUT_MS),
        _ => return run_here(arguments),
    };
    let timeout = Duration::from_millis(arguments.timeout_ms.unwrap_or(timeout_default_ms));
    let response = ask(arguments, &request, timeout).unwrap_or_else(Response::Error);
    match (&arguments.command, response) {
        (Command::Nodes, Response::Status(s)) => {
            let nodes = s.nodes();
            told("nodes", &nodes, views::nodes(&nodes), None)
        }
        (Command::Clones, Response::Status(s)) => {
            let clones = s.clones();
            told("clones", &clones, views::clones(&clones), None)
        }
        (Command::Log, Response::Status(s)) => {
            let log = s.log_view();
            told("log", &log, views::log(&log), None)
        }
        (Command::Nodes | Command::Clones | Command::Log, Response::CaptureStatus(_)) => {
            failed(only_captures())
        }
        (_, response) => Outcome::Answer(response),
    }
}

fn only_captures() -> ApiError {
    let text = "a node that only captures has no group; see status and capture";
    ApiError::new(ErrorCode::Usage, text)
}

/// The commands that are more than one question to the daemon, or none.
fn run_here(arguments: &Arguments) -> Outcome {
    match &arguments.command {
        Command::Key(KeyCommand::Generate { add, file }) => match key::generate(file, *add) {
            Ok(made) => told("key", &made, key::text(&made), None),
            Err(error) => failed(error),
        },
        Command::Capture(wanted) if wanted.directory().is_some() => {
            let directory = wanted.directory().unwrap_or(Path::new("."));
            Outcome::Captured(capture::capture_directory(wanted, arguments.json, directory))
        }
        Command::Capture(wanted) => {
            let timeout = arguments.timeout_ms.unwrap_or(ASK_TIMEOUT_MS);
            let timeout = Duration::from_millis(timeout);
            Outcome::Captured(match socket(arguments) {
                Ok(socket) => capture::capture(wanted, arguments.json, &socket, timeout),
                Err(error) => error.into(),
            })
        }
        Command::Events(wanted) => {
            let timeout = Duration::from_millis(arguments.timeout_ms.unwrap_or(ASK_TIMEOUT_MS));
            let events = socket(arguments)
                .and_then(|socket| events::events(wanted, arguments.json, &socket, timeout));
            match events {
                Ok(Some(events)) => Outcome::Answer(events.into()),
                Ok(None) => Outcome::Said,
                Err(error) => failed(error),
            }
        }
        Command::Top(wanted) => top(arguments, wanted),
        Command::Wait { protected } => {
            let timeout_ms = arguments.timeout_ms.unwrap_or(WAIT_TIMEOUT_MS);
            let timeout = Duration::from_millis(timeout_ms);
            match socket(arguments) {
                Ok(socket) => wait::wait(&socket, *protected, timeout, arguments.json),
                Err(error) => failed(error),
            }
        }
        Command::Replay(wanted) => {
            let timeout = arguments.timeout_ms.map(Duration::from_millis);
            match replay::replay(wanted, arguments.config.as_deref(), timeout) {
                Ok((found, error)) => told("replay", &found, replay::text(&found), error),
                Err(error) => failed(error),
            }
        }
        Command::Doctor => {
            let (found, error) = doctor::doctor(arguments.config.as_deref());
            let text = doctor::text(&found, error.as_ref());
            told("doctor", &found, text, error)
        }
        Command::Completions { shell } => {
            let made = manuals::completions(*shell, Arguments::command());
            told("completions", &made, made.script.clone(), None)
        }
        Command::Man { directory } => match manuals::manuals(directory, Arguments::command()) {
            Ok(made) => told("man", &made, manuals::text(&made), None),
            Err(error) => failed(error),
        },
        Command::Check { file } => {
            let (report, error) = check::check(file);
            told("check", &report, text::check(&report), error)
        }
        _ => failed(ApiError::new(ErrorCode::Usage, "this is asked of the daemon")),
    }
}

fn top(arguments: &Arguments, wanted: &top::TopArguments) -> Outcome {
    let socket = match socket(arguments) {
        Ok(socket) => socket,
        Err(error) => return failed(error),
    };
    let timeout = Duration::from_millis(arguments.timeout_ms.unwrap_or(ASK_TIMEOUT_MS));
    let ask: top::Asks = Box::new(move || match client::call(&socket, &Request::Status, timeout) {
        Ok(Response::Status(status)) => Ok(*status),
        Ok(Response::Error(error)) => Err(error),
        Ok(Response::CaptureStatus(_)) => Err(only_captures()),
        Ok(_) => Err(ApiError::new(ErrorCode::Runtime, "the daemon gives no status")),
        Err(e) => Err(ApiError::new(e.code(), e.to_string())),
    });
    let shown = match arguments.json {
        true => top::once(wanted, &ask).map(|look| told("top", &look, String::new(), None)),
        false => top::show(wanted, ask).map(|()| Outcome::Said),
    };
    shown.unwrap_or_else(failed)
}

/// Where the daemon listens.
fn socket(arguments: &Arguments) -> Result<PathBuf, ApiError> {
    Ok(match (&arguments.socket, &arguments.config) {
        (Some(socket), _) => socket.clone(),
        (None, Some(file)) => {
            NodeFile::load(file).map_err(|e| config_error(&e))?.socket().to_path_buf()
        }
        (None, None) => match std::env::var_os(SOCKET_VARIABLE) {
            Some(socket) if !socket.is_empty() => PathBuf::from(socket),
            _ => Path::new(SOCKET_DEFAULT).to_path_buf(),
        },
    })
}

fn ask(arguments: &Arguments, request: &Request, timeout: Duration) -> Result<Response, ApiError> {
    let socket = socket(arguments)?;
    let long = match request {
        Request::Checkpoint => Some("the checkpoint is being taken"),
        Request::Switchover { .. } | Request::Drain => Some("the service changes over"),
        Request::ConnImages { .. } => Some("connections are read"),
        _ => None,
    };
    let _shown = long.filter(|_| !arguments.json).map(progress::Progress::start);
    client::call(&socket, request, timeout).map_err(|e| {
        let mut message = e.to_string();
        if matches!(request, Request::Switchover { .. } | Request::Drain)
            && !matches!(e, client::ClientError::Unreachable { .. })
        {
            message.push_str("; whether the switchover takes place is not known, see status");
        }
        ApiError::new(e.code(), message)
    })
}

/// A configuration error as an answer.
fn config_error(error: &ConfigError) -> ApiError {
    let code = if error.is_unsafe() { ErrorCode::RefusedUnsafe } else { ErrorCode::InvalidConfig };
    ApiError::new(code, error.to_string())
}

/// Writes the outcome and gives its exit code.
fn render(json: bool, outcome: &Outcome) -> anyhow::Result<ExitCode> {
    let error = match outcome {
        Outcome::Answer(Response::Error(error)) => Some(error),
        Outcome::Answer(_) | Outcome::Said => None,
        Outcome::Captured(captured) => captured.error.as_ref(),
        Outcome::Told { error, .. } => error.as_ref(),
    };
    let exit_code = error.map_or(0, |e| e.code.exit_code());
    let output = match (json, outcome) {
        (_, Outcome::Said) => String::new(),
        (true, Outcome::Told { name, value, error, .. }) => document(name, value, error.as_ref())?,
        (false, Outcome::Told { text, .. }) => text.clone(),
        (true, Outcome::Answer(response)) => serde_json::to_string(response)? + "\n",
        (false, Outcome::Answer(Response::Error(error))) => {
            let message = text::plain(&error.message);
            let _ = writeln!(std::io::stderr(), "understudy: {message}");
            return Ok(ExitCode::from(exit_code));
        }
        (false, Outcome::Answer(response)) => answer_text(response),
        (true, Outcome::Captured(captured)) => match (&captured.summary, &captured.error) {
            (Some(summary), error) => document("capture", summary, error.as_ref())?,
            (None, Some(error)) => serde_json::to_string(&Response::Error(error.clone()))? + "\n",
            (None, None) => String::new(),
        },
        // The standard output may be the capture itself.
        (false, Outcome::Captured(captured)) => {
            let mut said = captured.summary.as_ref().map_or(String::new(), capture::text);
            if let Some(error) = &captured.error {
                said.push_str(&format!("understudy: {}\n", text::plain(&error.message)));
            }
            let _ = std::io::stderr().write_all(said.as_bytes());
            return Ok(ExitCode::from(exit_code));
        }
    };
    Ok(print(&output, exit_code))
}

/// An answer of the daemon for people.
fn answer_text(response: &Response) -> String {
    match response {
        Response::Status(status) => text::status(status),
        Response::CaptureStatus(status) => text::capture_node(status),
        Response::Conns(conns) => text::conns(conns),
        Response::ConnImages(all) => images::images(all),
        Response::Switchover(done) => text::switchover(done),
        Response::Drained(done) => text::drained(done),
        Response::Keys(keys) => text::keys(keys),
        Response::Checkpoint(taken) => text::checkpoint(taken),
        Response::Plan(plan) => plan::text(plan),
        Response::Events(events) => text::events(events),
        // Only `capture` asks for it, and takes it itself; errors are told otherwise.
        Response::Capturing(_) | Response::Error(_) => String::new(),
    }
}

/// Writes at once; false if nobody reads any more.
fn write_out(text: &str) -> bool {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

/// A reader that has gone (`understudy conns | head`) is no error.
fn print(output: &str, exit_code: u8) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(output.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            let _ = writeln!(std::io::stderr(), "understudy: the output cannot be written: {e}");
            ExitCode::from(ErrorCode::Runtime.exit_code())
        }
        _ => ExitCode::from(exit_code),
    }
}

/// Whether `-j` is on a command line that clap refused.
fn json_wanted(arguments: &[OsString]) -> bool {
    arguments.iter().skip(1).take_while(|a| *a != OsStr::new("--")).any(|argument| {
        match argument.as_bytes() {
            b"--json" => true,
            [b'-', b'-', ..] => false,
            // Flags may be joined, up to the first that takes a value: -js SOCKET.
            [b'-', flags @ ..] => {
                flags.iter().take_while(|f| !b"sct".contains(f)).any(|&f| f == b'j')
            }
            _ => false,
        }
    })
}

/// What there is, without what is hidden.
fn command_names() -> Vec<String> {
    let command = Arguments::command();
    let shown = command.get_subcommands().filter(|c| !c.is_hide_set());
    shown.map(|c| c.get_name().to_owned()).collect()
}

fn usage_error(error: &clap::Error) -> ApiError {
    use clap::error::ErrorKind as Kind;
    let missing = matches!(
        error.kind(),
        Kind::DisplayHelpOnMissingArgumentOrSubcommand | Kind::MissingSubcommand
    );
    let message = if missing {
        format!("a command is missing, allowed: {}", command_names().join(", "))
    } else {
        // The first paragraph; usage and tips follow.
        let text = error.to_string();
        let paragraph = text.split("\n\n").next().unwrap_or_default();
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        words.join(" ").trim_start_matches("error: ").to_owned()
    };
    ApiError::new(ErrorCode::Usage, message)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        super::Arguments::command().debug_assert();
    }

    #[test]
    fn json_is_seen_on_refused_command_lines() {
        let wanted = |line: &str| {
            let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            super::json_wanted(&line)
        };
        for line in ["u -j", "u x --json", "u -js x", "u -hj", "u -s x y -j"] {
            assert!(wanted(line), "{line}");
        }
        for line in ["u", "u j", "u -sj", "u -- -j", "u --jsonx", "-j", "u -"] {
            assert!(!wanted(line), "{line}");
        }
    }
}
