//! Takes the pictures of the documents: `understudy top` in tmux and the status page in Chromium, of a
//! group that serves clients and has just lost and regained a machine.
//!
//!     cargo run -p understudy-lab --bin lab-screenshots -- controlplane/web/doc

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use understudy_lab::clients::pipelined::Pipelined;
use understudy_lab::node::{READY_TIMEOUT, binary, vip4};
use understudy_lab::screens::{Terminal, as_html, chromium};
use understudy_lab::{Member, NodeOptions, Scenario, cmd};

const REDIS: u16 = 6379;
const LISTEN: &str = "127.0.0.1:9464";
const PATIENCE: Duration = Duration::from_secs(30);
/// As long as the curves of the picture.
const LOOKS: Duration = Duration::from_secs(12);

fn main() -> Result<()> {
    let directory = std::env::args().nth(1).context("usage: lab-screenshots DIRECTORY")?;
    let directory = PathBuf::from(directory);
    fs::create_dir_all(&directory)?;
    let directory = directory.canonicalize()?;
    let set = vec![("metrics.listen".into(), LISTEN.into())];
    let mut scenario = Scenario::start(&NodeOptions { set, ..NodeOptions::default() })?;
    let plan = Pipelined {
        target: vip4(REDIS),
        prefix: "lane".into(),
        connections: 20,
        depth: 4,
        pause: Duration::from_millis(4),
        seed: 1,
    };
    let task = plan.start(&scenario.lab.client_netns())?;
    task.wait_progress(1000, PATIENCE)?;
    let old = scenario.primary()?;
    scenario.trio.crash(&scenario.lab, old)?;
    let primary = scenario.trio.wait_primary(Some(old), READY_TIMEOUT)?;
    scenario.trio.revive(&scenario.lab, old)?;
    scenario.trio.wait_ready()?;
    top(&scenario, primary, &directory.join("top.png"))?;
    let netns = scenario.lab.node_netns(primary);
    let url = format!("http://{LISTEN}/");
    shoot(&scenario, &netns, &url, "1000,1250", &directory.join("status.png"))?;
    let verdict = task.finish()?;
    println!("{verdict}  pictures in {}", directory.display());
    Ok(())
}

fn top(scenario: &Scenario, primary: Member, picture: &Path) -> Result<()> {
    let socket = scenario.lab.dir().join(format!("{primary}.sock"));
    let line = format!("{} -s {} top -i 250", binary("understudy")?.display(), socket.display());
    let terminal = Terminal::start(&format!("{}-top", scenario.lab.prefix()), &line)?;
    std::thread::sleep(LOOKS);
    let page = scenario.lab.dir().join("top.html");
    fs::write(&page, as_html(&terminal.screen_in_colors()?))?;
    terminal.press("q")?;
    cmd::wait_until("the end of top", PATIENCE, || Ok(terminal.has_ended()))?;
    let url = format!("file://{}", page.display());
    shoot(scenario, &scenario.lab.client_netns(), &url, "1130,620", picture)
}

fn shoot(scenario: &Scenario, netns: &Path, url: &str, size: &str, picture: &Path) -> Result<()> {
    let _ = fs::remove_file(picture);
    let arguments = [
        "--virtual-time-budget=3000".to_owned(),
        format!("--window-size={size}"),
        format!("--screenshot={}", picture.display()),
        url.to_owned(),
    ];
    chromium(
        netns,
        &scenario.lab.dir().join("chromium"),
        &arguments.each_ref().map(String::as_str),
    )?;
    fs::metadata(picture).with_context(|| format!("no {}", picture.display())).map(|_| ())
}
