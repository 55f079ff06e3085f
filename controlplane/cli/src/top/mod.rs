//! `understudy top`: a node, live.

mod draw;
mod model;

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGTERM};
use understudy_api::{ApiError, ErrorCode, Status};

pub use model::{Look, Model};

/// How long a key may wait.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Size of the picture where there is no terminal.
const PLAIN_SIZE: (u16, u16) = (120, 40);

/// How it is shown.
#[derive(Debug, Args)]
pub struct TopArguments {
    /// Between two looks
    #[arg(short, long, value_name = "MS", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(100..=60_000))]
    interval_ms: u64,
    /// End after so many pictures [default: on a terminal when q is pressed, else 1]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// Asks a node.
pub type Asks = Box<dyn Fn() -> Result<Status, ApiError> + Send>;

/// Two looks, for JSON: the rates need both.
pub fn once(arguments: &TopArguments, ask: &Asks) -> Result<Look, ApiError> {
    let first = ask()?;
    std::thread::sleep(Duration::from_millis(arguments.interval_ms));
    let second = ask()?;
    Ok(model::look(&second, Some(&first)))
}

/// Shows it until it is ended.
pub fn show(arguments: &TopArguments, ask: Asks) -> Result<(), ApiError> {
    let shown = if std::io::stdout().is_terminal() && std::io::stdin().is_terminal() {
        on_terminal(arguments, ask)
    } else {
        return as_text(arguments, &ask);
    };
    shown.map_err(|e| ApiError::new(ErrorCode::Runtime, format!("the terminal: {e:#}")))
}

/// Pictures as plain text: for a pipe or a file.
fn as_text(arguments: &TopArguments, ask: &Asks) -> Result<(), ApiError> {
    let interval = Duration::from_millis(arguments.interval_ms);
    let mut model = Model::default();
    model.take(Ok(ask()?));
    for _ in 0..arguments.count.unwrap_or(1) {
        std::thread::sleep(interval);
        model.take(Ok(ask()?));
        let picture = picture(&model, PLAIN_SIZE.0, PLAIN_SIZE.1);
        if !crate::write_out(&picture) {
            break;
        }
    }
    Ok(())
}

/// The picture as text, without empty lines at its end.
pub fn picture(model: &Model, width: u16, height: u16) -> String {
    // A buffer in memory takes everything.
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| draw::draw(frame, model));
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for y in 0..height {
        let row: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text.trim_end().to_owned() + "\n"
}

fn on_terminal(arguments: &TopArguments, ask: Asks) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot watch signals")?;
    }
    let answers = ask_on(ask, Duration::from_millis(arguments.interval_ms))?;
    let mut terminal = ratatui::try_init().context("cannot be prepared")?;
    let shown = watch(arguments, &answers, &stop, |model| {
        terminal.draw(|frame| draw::draw(frame, model)).map(|_| ())
    });
    ratatui::restore();
    shown
}

/// A daemon that does not answer must not keep keys from being heard.
fn ask_on(ask: Asks, interval: Duration) -> anyhow::Result<Receiver<Result<Status, String>>> {
    let (sender, answers) = mpsc::sync_channel(1);
    std::thread::Builder::new().name("ask".into()).spawn(move || {
        loop {
            let begun = Instant::now();
            if sender.send(ask().map_err(|e| e.message)).is_err() {
                return;
            }
            std::thread::sleep(interval.saturating_sub(begun.elapsed()));
        }
    })?;
    Ok(answers)
}

fn watch(
    arguments: &TopArguments,
    answers: &Receiver<Result<Status, String>>,
    stop: &AtomicBool,
    mut draw: impl FnMut(&Model) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let mut model = Model::default();
    let mut pictures = 0;
    draw(&model)?;
    while !stop.load(Ordering::Acquire) {
        let mut changed = match answers.recv_timeout(LOOK_INTERVAL) {
            Ok(answer) => {
                model.take(answer);
                pictures += 1;
                true
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        while event::poll(Duration::ZERO)? {
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => {
                    let control = key.modifiers.contains(KeyModifiers::CONTROL);
                    match key.code {
                        KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                        KeyCode::Char('c' | 'd') if control => return Ok(()),
                        _ => {}
                    }
                }
                Event::Resize(..) => changed = true,
                _ => {}
            }
        }
        if changed {
            draw(&model)?;
        }
        if arguments.count.is_some_and(|count| pictures >= count) {
            break;
        }
    }
    Ok(())
}
