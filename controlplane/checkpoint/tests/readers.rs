//! Readers that make the application stand still, and dumps of it by CRIU: neither disturbs the
//! other. Needs root and CRIU.
#![forbid(unsafe_code)]

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use understudy_checkpoint::Criu;
use understudy_linux::Error;
use understudy_linux::capsule::{App, AppSpec};
use understudy_linux::netns::NetNs;
use understudy_linux::standstill::stand_still;

const DUMPS: usize = 5;

#[test]
fn a_dump_and_a_reader_take_turns() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    if !status.lines().any(|l| l.starts_with("Uid:\t0\t")) {
        assert_ne!(std::env::var("UNDERSTUDY_REQUIRE_ROOT").as_deref(), Ok("1"), "must be root");
        println!("skipped: needs root");
        return;
    }
    let criu = Criu::find().unwrap();
    let (ns, dir) = (NetNs::create().unwrap(), tempfile::tempdir().unwrap());
    let script = "sleep 1000 & while :; do :; done";
    let spec = AppSpec {
        command: ["sh", "-c", script].map(String::from).into(),
        work_dir: dir.path().into(),
        env: vec![],
        stdout_log: dir.path().join("output"),
    };
    let mut app = App::spawn(&ns, &spec).unwrap();
    let (pid, ended) = (app.pid(), AtomicBool::new(false));
    let (mut stood, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut stood, mut refused) = (0, 0);
            while !ended.load(Ordering::Acquire) {
                match stand_still(pid, Duration::from_millis(1), || ()) {
                    Ok(_) => stood += 1,
                    Err(Error::TracerBusy { .. }) => refused += 1,
                    Err(e) => panic!("{e}"),
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            (stood, refused)
        });
        let work = dir.path().join("criu");
        let dumped: Vec<_> = (0..DUMPS)
            .map(|n| {
                std::thread::sleep(Duration::from_millis(30));
                criu.dump(&ns, pid, &[], &dir.path().join(n.to_string()), &work)
            })
            .collect();
        ended.store(true, Ordering::Release);
        for dump in dumped {
            assert!(dump.as_ref().is_ok_and(|d| d.frozen_us > 0), "{dump:?}");
        }
        (stood, refused) = reader.join().unwrap();
    });
    println!("{DUMPS} dumps, {stood} standstills, {refused} refused while one was under way");
    assert!(stood > 0 && refused > 0);
    assert_eq!(app.try_wait(), None, "it goes on");
}
