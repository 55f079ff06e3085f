//! A real Prometheus beside a node, with the configuration that is shipped.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::proc::Proc;
use crate::topology::Lab;
use crate::{cmd, sys};

/// Where nodes are expected by the shipped file.
pub const LISTEN: &str = "127.0.0.1:9464";
const ADDRESS: &str = "127.0.0.1:9090";
const PATIENCE: Duration = Duration::from_secs(20);

/// It runs in a node's network namespace.
pub struct Prometheus {
    netns: PathBuf,
    process: Proc,
}

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs")
}

/// GET in a network namespace; the body, if the answer is 200.
pub fn get(netns: &Path, address: &str, path: &str) -> Option<String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = sys::in_netns(netns, ask).ok()?.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}

/// promtool takes the shipped configuration, and each file of rules passes its tests.
pub fn check_rules() -> Result<()> {
    let promtool = |words: &[&str]| {
        let mut command = Command::new("promtool");
        command.args(words).current_dir(configs().join("prometheus"));
        let said = cmd::output(command, "", PATIENCE)?;
        ensure!(said.code == 0, "{words:?}: {}{}", said.stdout, said.stderr);
        Ok(())
    };
    promtool(&["check", "config", "prometheus.yml"])?;
    for rules in ["alerts", "capture_alerts"] {
        promtool(&["test", "rules", &format!("{rules}_test.yml")])?;
    }
    Ok(())
}

/// Names of rules in a file of ours that its tests do not see fire.
pub fn untested(rules: &str) -> Result<Vec<String>> {
    let read = |name: String| fs::read_to_string(configs().join("prometheus").join(name));
    let (text, tests) = (read(format!("{rules}.yml"))?, read(format!("{rules}_test.yml"))?);
    let fires = |name: &&str| tests.contains(&format!("alertname: {name}\n        exp_alerts:"));
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    Ok(names.filter(|name| !fires(name)).map(String::from).collect())
}

/// Names that one of our files has and an exposition lacks.
pub fn unknown_names(file: &str, exposition: &str) -> Result<Vec<String>> {
    let used = fs::read_to_string(configs().join(file))?;
    let words = used.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let names: Vec<&str> = words.filter(|word| word.starts_with("understudy_")).collect();
    ensure!(names.len() > 10, "{file} names {names:?}");
    let has = |name: &str| exposition.contains(&format!("\n{name}{{"));
    Ok(names.into_iter().filter(|name| !has(name)).map(String::from).collect())
}

impl Prometheus {
    /// Starts it with the shipped configuration, but for its pace.
    pub fn start(lab: &Lab, netns: &Path) -> Result<Prometheus> {
        let dir = lab.dir().join("prometheus");
        fs::create_dir_all(&dir)?;
        let shipped = configs().join("prometheus");
        let text = fs::read_to_string(shipped.join("prometheus.yml"))?;
        ensure!(text.contains(&format!("[\"{LISTEN}\"]")) && text.contains(": 5s"), "{text}");
        fs::write(dir.join("prometheus.yml"), text.replace(": 5s", ": 200ms"))?;
        for rules in ["alerts.yml", "capture_alerts.yml"] {
            fs::copy(shipped.join(rules), dir.join(rules))?;
        }
        let mut command = cmd::inside(netns, "prometheus");
        command
            .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address={ADDRESS}"));
        let process = Proc::start(command, &lab.dir().join("prometheus.log"), lab.prefix())?;
        Ok(Prometheus { netns: netns.into(), process })
    }

    /// Whether jq says yes to what it answers to an expression.
    pub fn query(&self, expression: &str, filter: &str) -> Result<bool> {
        let encoded: String = expression.bytes().map(|b| format!("%{b:02X}")).collect();
        let path = format!("/api/v1/query?query={encoded}");
        let Some(answer) = get(&self.netns, ADDRESS, &path) else { return Ok(false) };
        // It may come in chunks: the document is the line that is one.
        let document = answer.lines().find(|line| line.starts_with('{')).unwrap_or_default();
        Ok(cmd::run_with_input(&["jq", "-e", filter], document).is_ok())
    }

    /// Waits until jq says yes.
    pub fn wait(&self, expression: &str, filter: &str) -> Result<()> {
        cmd::wait_until(expression, PATIENCE, || self.query(expression, filter))
    }

    /// Waits until an alert of ours fires.
    pub fn wait_alert(&self, name: &str) -> Result<()> {
        let expression = format!("ALERTS{{alertname=\"{name}\",alertstate=\"firing\"}}");
        self.wait(&expression, ".data.result | length > 0")
    }

    /// Every expression of a dashboard means something to it, with these for its variables.
    pub fn check_dashboard(&self, file: &str, variables: &[(&str, &str)]) -> Result<()> {
        let text = fs::read_to_string(configs().join("grafana").join(file))?;
        let expressions = cmd::run_with_input(&["jq", "-r", ".. | .expr? // empty"], &text)?;
        ensure!(expressions.lines().count() > 20, "{file}: {expressions}");
        for line in expressions.lines() {
            let mut plain = line.replace("$__rate_interval", "2s");
            for (name, value) in variables {
                plain = plain.replace(name, value);
            }
            if !self.query(&plain, ".status == \"success\"").context(file.to_owned())? {
                bail!("{file}: {plain}");
            }
        }
        Ok(())
    }

    /// Ends it.
    pub fn stop(mut self) -> Result<()> {
        self.process.terminate(PATIENCE).map(|_| ())
    }
}
