//! A real redis with a live connection: dumped while it runs, killed, and restored on another node.
//! Needs root, CRIU, redis-server and ip.
#![forbid(unsafe_code)]

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use common::{Client, node, redis, root};
use understudy_checkpoint::{Criu, Manifest, Store};
use understudy_linux::capsule::{App, AppSpec};
use understudy_linux::image;
use understudy_linux::netns::NetNs;
use understudy_linux::rtnl;

fn start(ns: &NetNs, dir: &Path, data: &Path) -> App {
    fs::create_dir_all(data).unwrap();
    let words = ["--appendonly", "yes", "--dir", data.to_str().unwrap()];
    App::spawn(ns, &redis(dir, &words)).unwrap()
}

#[test]
fn a_redis_goes_on_elsewhere_with_its_connections_and_files() {
    if !root() {
        return;
    }
    let criu = Criu::find().unwrap();
    let temp = tempfile::tempdir().unwrap();
    let (dir, data) = (temp.path().to_path_buf(), temp.path().join("it's data"));
    let state_dirs: Vec<PathBuf> = vec![data.clone()];
    let client_ns = NetNs::create().unwrap();
    let first = node(&client_ns);
    let app = start(&first, &dir, &data);
    let mut client = Client::connect(&client_ns);
    assert_eq!(client.ask("incr counter"), ":1");
    for n in 0..2000 {
        assert_eq!(client.ask(&format!("set key:{n} {n}")), "+OK");
    }

    // As a dump leaves it that is killed together with the application.
    let left = fs::read_link(format!("/proc/{}/cwd", app.pid())).unwrap().join("proc.crtools");
    fs::create_dir(&left).unwrap();
    let mounted = Command::new("mount").args(["-t", "proc", "proc"]).arg(&left).status().unwrap();
    assert!(mounted.success());

    let store = Store::open(&dir.join("checkpoints"), 2).unwrap();
    let (draft, work) = (store.begin().unwrap(), dir.join("criu"));
    let begun = Instant::now();
    let dumped = criu.dump(&first, app.pid(), &state_dirs, draft.dir(), &work).unwrap();
    println!("criu {}: dump {:?}, {dumped:?}", criu.version(), begun.elapsed());
    assert!(dumped.frozen_us > 0 && dumped.pages > 100, "{dumped:?}");
    assert!(dumped.pending.is_empty() && !left.exists());
    let output_file = dir.join("output").to_str().unwrap().to_string();
    let mut manifest = Manifest { output_file, clocks: dumped.clocks, ..Manifest::default() };
    manifest.set_age(dumped.taken.elapsed().unwrap());
    assert_eq!(manifest.clocks.len(), 1);
    store.commit(draft, manifest).unwrap();

    // It went on, and what it does now is lost with its machine.
    assert_eq!(client.ask("incr counter"), ":2");
    client_ns.run(|| rtnl::delete_link("us-host")).unwrap().unwrap();
    drop(app);
    fs::write(data.join("rubbish"), b"x").unwrap();

    let generation = store.newest().unwrap();
    let second = node(&client_ns);
    let output = File::options().append(true).create(true).open(dir.join("output-2")).unwrap();
    let begun = Instant::now();
    let output = (generation.manifest.output_file.as_str(), output);
    let app = criu.restore(&second, &state_dirs, &generation.dir, &work, output).unwrap();
    let images = Criu::renew(&app, &generation.manifest).unwrap();
    // What the clock shows goes on where it was: the kernel's tick is a millisecond.
    let (_, clocks) = image::clocks(&app.processes()).unwrap();
    let before = generation.manifest.clocks[0].value;
    let shown = clocks[0].at.value.wrapping_sub(before);
    let passed = dumped.taken.elapsed().unwrap().as_millis() as u32;
    assert!(shown.abs_diff(passed) <= 4, "{shown} ticks in {passed} ms");
    println!("restore {:?}, {} connections", begun.elapsed(), images.len());
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].remote, client.0.get_ref().local_addr().unwrap());
    assert!(!data.join("rubbish").exists() && data.join("appendonlydir").is_dir());
    app.go_on().unwrap();

    // The image is older than the last reply: the connection's numbers say so, and nothing else is
    // to be expected of it without the log. Others find everything.
    let mut other = Client::connect(&client_ns);
    assert_eq!(other.ask("dbsize"), ":2001");
    assert_eq!(other.ask("incr counter"), ":2");
    assert_eq!(other.ask("bgsave"), "+Background saving started");
    let logged = fs::read_to_string(dir.join("output-2")).unwrap();
    assert!(logged.contains("Background saving started"), "{logged:?}");
}

#[test]
fn what_cannot_be_dumped_goes_on_and_says_why() {
    if !root() {
        return;
    }
    let criu = Criu::find().unwrap();
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let ns = NetNs::create().unwrap();
    let spec = AppSpec {
        command: vec!["sleep".into(), "60".into()],
        work_dir: dir.into(),
        env: vec![],
        stdout_log: dir.join("output"),
    };
    let mut app = App::spawn(&ns, &spec).unwrap();
    let missing = vec![dir.join("missing")];
    let error = criu.dump(&ns, app.pid(), &missing, &dir.join("a"), &dir.join("w")).unwrap_err();
    assert!(error.to_string().contains("criu cannot dump"), "{error}");
    assert!(app.try_wait().is_none(), "it goes on");
    // And can be dumped once nothing is in the way.
    criu.dump(&ns, app.pid(), &[], &dir.join("b"), &dir.join("w")).unwrap();
    assert!(app.try_wait().is_none());
    let output = File::create(dir.join("output-2")).unwrap();
    fs::remove_file(dir.join("b/image/inventory.img")).unwrap();
    let name = dir.join("output").to_str().unwrap().to_string();
    let output = (name.as_str(), output);
    let error = criu.restore(&ns, &[], &dir.join("b"), &dir.join("w"), output).unwrap_err();
    assert!(error.to_string().contains("criu cannot restore"), "{error}");
}
