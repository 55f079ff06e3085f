//! Kills the machine of a running Redis and shows that its clients do not notice.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use understudy_lab::demo::{self, Plan};

#[derive(Parser)]
struct Options {
    /// One JSON document instead of text.
    #[arg(long)]
    json: bool,
    /// Seconds of work before the kill.
    #[arg(long, default_value_t = 3)]
    before: u64,
    /// Seconds of work after it.
    #[arg(long, default_value_t = 3)]
    after: u64,
    /// Another commit policy than the shipped one.
    #[arg(long)]
    commit: Option<String>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let plan = Plan {
        before: Duration::from_secs(options.before),
        after: Duration::from_secs(options.after),
        commit: options.commit,
    };
    let outcome = demo::run(&plan);
    let pass = outcome.as_ref().is_ok_and(|report| report.pass);
    match (outcome, options.json) {
        (Ok(report), true) => {
            println!("{}", serde_json::to_string_pretty(&report).expect("plain data is JSON"));
        }
        (Ok(report), false) => println!("{}", report.text()),
        (Err(error), true) => {
            let error = format!("{error:#}");
            println!("{}", serde_json::json!({ "pass": false, "error": error }));
        }
        (Err(error), false) => eprintln!("demo: {error:#}"),
    }
    if pass { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
