//! The application's process.

mod common;

use common::{eventually, root};
use std::{
    env, fs,
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};
use understudy_linux::{
    Error,
    capsule::{App, AppSpec},
    netns::NetNs,
    poll_fds,
};

fn spec(dir: &tempfile::TempDir, command: &[&str]) -> AppSpec {
    AppSpec {
        command: command.iter().map(|s| (*s).to_owned()).collect(),
        work_dir: dir.path().join("work"),
        env: vec![("UNDERSTUDY_TEST".into(), "a value".into())],
        stdout_log: dir.path().join("log"),
    }
}

fn wait(app: &mut App) -> std::process::ExitStatus {
    assert!(poll_fds(&[app.pidfd()], common::LIMIT).unwrap()[0], "the application goes on");
    app.try_wait().expect("it has exited")
}

#[test]
fn the_application_runs_in_its_own_world() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ns = NetNs::create().unwrap();
    let leak = fs::File::open("/dev/zero").unwrap();
    // SAFETY: clears FD_CLOEXEC of a descriptor we own, to show that it is not inherited.
    unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&leak), libc::F_SETFD, 0) };
    let script = "echo pid=$$; echo net=$(readlink /proc/self/ns/net); echo dir=$PWD; \
                  echo env=$UNDERSTUDY_TEST; echo fds=$(ls -l /proc/self/fd | grep -c zero); \
                  echo $(grep -E 'SigBlk|SigIgn|Cpus_allowed_list' /proc/self/status); \
                  echo oops >&2; exit 7";
    let mut app = App::spawn(&ns, &spec(&dir, &["sh", "-c", script])).unwrap();
    assert!(app.pid() > 1);
    let status = wait(&mut app);
    assert_eq!(status.code(), Some(7));
    assert_eq!(app.try_wait(), Some(status), "the answer stays");
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    let line = |name: &str| log.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("?");
    assert_eq!(line("pid="), "1", "{log}");
    assert_eq!(line("net="), format!("net:[{}]", ns.id().unwrap().1), "{log}");
    assert_eq!(PathBuf::from(line("dir=")), dir.path().join("work").canonicalize().unwrap());
    assert_eq!(line("env="), "a value");
    assert_eq!(line("fds="), "0", "a descriptor leaked: {log}");
    assert!(log.contains("SigBlk: 0000000000000000 SigIgn: 0000000000000000"), "{log}");
    assert!(log.contains("oops"), "stderr goes to the log too: {log}");

    // The log is appended to.
    wait(&mut App::spawn(&ns, &spec(&dir, &["echo", "again"])).unwrap());
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains("oops") && log.ends_with("again\n"), "{log}");
}

#[test]
fn kill_ends_the_whole_pid_namespace() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ns = NetNs::create().unwrap();
    let script = "trap '' TERM; setsid sleep 1000 & sleep 1000";
    let mut app = App::spawn(&ns, &spec(&dir, &["sh", "-c", script])).unwrap();
    assert!(app.try_wait().is_none());
    assert!(!poll_fds(&[app.pidfd()], Duration::from_millis(50)).unwrap()[0]);
    let children = format!("/proc/{0}/task/{0}/children", app.pid());
    eventually("a grandchild runs", || {
        fs::read_to_string(&children).is_ok_and(|c| c.split_whitespace().count() == 2)
    });
    let grandchild = fs::read_to_string(&children).unwrap();
    let grandchild = grandchild.split_whitespace().next().unwrap().to_owned();
    app.kill();
    assert_eq!(app.try_wait().unwrap().signal(), Some(libc::SIGKILL));
    assert!(!fs::exists(format!("/proc/{grandchild}")).unwrap(), "a descendant survived");
    app.kill();

    let app = App::spawn(&ns, &spec(&dir, &["sleep", "1000"])).unwrap();
    let pid = app.pid();
    drop(app);
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap(), "drop kills");
}

#[test]
fn death_is_seen_and_life_is_not_mistaken_for_it() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ns = NetNs::create().unwrap();
    let mut app = App::spawn(&ns, &spec(&dir, &["sh", "-c", "sleep 0.2; exec sleep 0.2"])).unwrap();
    let probe = app.death_probe().unwrap();
    while app.try_wait().is_none() {
        let is_dying = probe.is_dying();
        let ended = poll_fds(&[app.pidfd()], Duration::from_millis(20)).unwrap()[0];
        assert!(!is_dying || ended);
    }
    assert!(probe.is_dying());
}

#[test]
fn an_application_whose_first_thread_has_ended_is_not_dying() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ns = NetNs::create().unwrap();
    let script = format!(
        "import ctypes, threading, time\n\
         threading.Thread(target=time.sleep, args=(600,)).start()\n\
         ctypes.CDLL(None).syscall({}, 0)",
        libc::SYS_exit
    );
    let mut app = App::spawn(&ns, &spec(&dir, &["python3", "-c", &script])).unwrap();
    let probe = app.death_probe().unwrap();
    let statm = format!("/proc/{}/statm", app.pid());
    eventually("its first thread ends", || fs::read_to_string(&statm).unwrap().starts_with("0 "));
    assert!(!probe.is_dying());
    assert_eq!(app.try_wait(), None);
    app.kill();
    assert!(probe.is_dying());
}

#[test]
fn commands_that_cannot_run_are_named() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ns = NetNs::create().unwrap();
    let error = |command: &[&str]| App::spawn(&ns, &spec(&dir, command)).unwrap_err();
    let missing = error(&["no-such-command-here", "x"]);
    assert!(matches!(missing, Error::CommandNotFound { .. }));
    assert!(missing.to_string().contains("\"no-such-command-here\""), "{missing}");
    assert!(matches!(error(&["/no/such/file"]), Error::CommandNotFound { .. }));
    assert!(matches!(error(&[]), Error::EmptyCommand));
    let text = error(&["/etc/passwd"]).to_string();
    assert!(text.contains("/etc/passwd") && text.contains("execute permission"), "{text}");

    // Only exec itself can tell these.
    let script = dir.path().join("script");
    for (body, reason) in [("#!/no/such/interpreter\n", "interpreter"), ("just text\n", "#!")] {
        fs::write(&script, body).unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let text = error(&[script.to_str().unwrap()]).to_string();
        assert!(text.contains("script") && text.contains(reason), "{text}");
    }
    let mut bad_log = spec(&dir, &["true"]);
    bad_log.stdout_log = dir.path().join("none/log");
    let text = App::spawn(&ns, &bad_log).unwrap_err().to_string();
    assert!(text.contains("none/log"), "{text}");
    let mut file_as_dir = spec(&dir, &["true"]);
    file_as_dir.work_dir = script;
    assert!(App::spawn(&ns, &file_as_dir).is_err());
    assert!(matches!(error(&["true", "a\0b"]), Error::Nul { .. }));
}

#[test]
fn the_application_survives_the_thread_that_spawned_it() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ns = NetNs::create().unwrap();
    let mut app = std::thread::scope(|s| {
        s.spawn(|| App::spawn(&ns, &spec(&dir, &["sleep", "1000"])).unwrap()).join().unwrap()
    });
    assert!(!poll_fds(&[app.pidfd()], Duration::from_millis(100)).unwrap()[0]);
    assert!(app.try_wait().is_none());
}

/// Not a test by itself: the daemon's part in the next one.
#[test]
fn helper_spawner() {
    let Ok(dir) = env::var("UNDERSTUDY_SPAWNER_DIR") else { return };
    let ns = NetNs::create().unwrap();
    let app = App::spawn(
        &ns,
        &AppSpec {
            command: vec!["sleep".into(), "1000".into()],
            work_dir: dir.clone().into(),
            env: Vec::new(),
            stdout_log: PathBuf::from(dir).join("log"),
        },
    )
    .unwrap();
    println!("\napp {}", app.pid());
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn the_application_dies_with_its_spawner() {
    if !root() {
        return;
    }
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = Command::new(env::current_exe().unwrap())
            .args(["--exact", "helper_spawner", "--nocapture"])
            .env("UNDERSTUDY_SPAWNER_DIR", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid: u32 = BufReader::new(daemon.stdout.take().unwrap())
            .lines()
            .find_map(|line| line.unwrap().strip_prefix("app ").and_then(|p| p.parse().ok()))
            .expect("the helper tells the application's pid");
        let alive = || {
            fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|s| s.contains("(sleep)") && !s.contains(") Z "))
        };
        assert!(alive());
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        eventually("the application dies with the daemon", || !alive());
    }
}
