//! Debian's PostgreSQL: copies of one data directory, so that every node is the same system.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, ensure};

use super::{words, work_dirs};
use crate::cmd;
use crate::node::NodeOptions;
use crate::topology::{Lab, Member};

/// Where it listens.
pub const PORT: u16 = 5432;
/// It refuses to be root.
const AS_POSTGRES: &str =
    "/usr/bin/setpriv --reuid=postgres --regid=postgres --clear-groups --pdeathsig=KILL --";
const INITDB_TIMEOUT: Duration = Duration::from_secs(60);
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Everything else is Debian's default. Huge pages are the data plane's here, and what three
/// servers on one machine share, System V memory, is each one's own (`unshare --ipc`).
const SETTINGS: &str = "
listen_addresses = '*'
unix_socket_directories = ''
huge_pages = off
shared_buffers = 16MB
dynamic_shared_memory_type = sysv
";

/// The newest installed server's programs.
fn programs() -> Result<PathBuf> {
    let root = Path::new("/usr/lib/postgresql");
    let versions = fs::read_dir(root).context("PostgreSQL is not installed")?.flatten();
    let newest = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max();
    Ok(root.join(newest.context("no version of PostgreSQL")?.to_string()).join("bin"))
}

/// PostgreSQL as the application.
pub fn options() -> Result<NodeOptions> {
    let server = programs()?.join("postgres");
    let line = format!("/usr/bin/unshare --ipc -- {AS_POSTGRES} {} -D data", server.display());
    Ok(NodeOptions {
        command: Some(words(&line)),
        ports: Some(vec![format!("tcp/{PORT}")]),
        // Each session is told a random key for cancelling.
        set: vec![("service.audit".into(), "report".into())],
        ..NodeOptions::default()
    })
}

/// Makes one data directory and copies it to the others.
pub fn prepare(lab: &Lab) -> Result<()> {
    let dirs: Vec<PathBuf> = work_dirs(lab)?.iter().map(|dir| dir.join("data")).collect();
    let first = dirs.first().context("no node")?;
    let text = first.to_string_lossy();
    cmd::run(&["install", "-d", "-o", "postgres", "-g", "postgres", "-m", "700", &text])?;
    let line = words(AS_POSTGRES);
    let mut initdb = Command::new(&line[0]);
    initdb.args(&line[1..]).arg(programs()?.join("initdb")).current_dir(env::temp_dir());
    initdb.args(["-U", "postgres", "-A", "trust", "--no-sync", "--locale=C", "-D"]).arg(first);
    let said = cmd::output(initdb, "", INITDB_TIMEOUT)?;
    ensure!(said.code == 0, "initdb: {}", said.stderr);
    append(&first.join("postgresql.conf"), SETTINGS)?;
    append(&first.join("pg_hba.conf"), "host all all all trust\n")?;
    for copy in &dirs[1..] {
        cmd::run(&["cp", "-a", &text, &copy.to_string_lossy()])?;
    }
    Ok(())
}

/// Waits until every node's server takes sessions. Its port is bound earlier, and a clone that
/// refuses what the primary accepted is another server from then on.
pub fn wait_ready(lab: &Lab) -> Result<()> {
    for member in Member::ALL {
        let log = lab.dir().join(format!("{member}-state/application.log"));
        cmd::wait_until(&format!("PostgreSQL on {member}"), START_TIMEOUT, || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            Ok(text.contains("database system is ready to accept connections"))
        })?;
    }
    Ok(())
}

fn append(path: &Path, text: &str) -> Result<()> {
    let before = fs::read_to_string(path)?;
    Ok(fs::write(path, before + text)?)
}
