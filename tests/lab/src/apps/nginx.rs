//! Debian's nginx with files that are the same on every node.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Result;

use super::{words, work_dirs};
use crate::node::NodeOptions;
use crate::pattern;
use crate::topology::Lab;

/// Where it listens.
pub const PORT: u16 = 80;
/// Bytes of the large file.
pub const LARGE_BYTES: u64 = 96 << 20;
/// Seed of the large file's bytes.
pub const LARGE_SEED: u64 = 17;
/// Small files, `/small/0` and so on; the number is the seed.
pub const SMALL_FILES: u64 = 64;

/// Bytes of a small file: from less than a segment to several.
pub fn small_bytes(number: u64) -> usize {
    (pattern::mix(number) % 6000) as usize + 1
}

/// nginx as the application, its master the first process.
pub fn options() -> NodeOptions {
    NodeOptions {
        command: Some(words("/usr/sbin/nginx -p ./ -c nginx.conf")),
        ports: Some(vec![format!("tcp/{PORT}")]),
        // The date in its answers may be the next second's on a clone.
        set: vec![("service.audit".into(), "report".into())],
        ..NodeOptions::default()
    }
}

/// Fills the nodes' working directories.
pub fn prepare(lab: &Lab, workers: usize) -> Result<()> {
    // The answers name the time of the last change (Last-Modified, ETag): it must be the same.
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    for dir in work_dirs(lab)? {
        fs::write(dir.join("nginx.conf"), configuration(workers))?;
        fs::create_dir_all(dir.join("html/small"))?;
        let large = pattern::bytes(LARGE_SEED, 0, LARGE_BYTES as usize);
        write(&dir.join("html/large"), &large, changed)?;
        for number in 0..SMALL_FILES {
            let bytes = pattern::bytes(number, 0, small_bytes(number));
            write(&dir.join(format!("html/small/{number}")), &bytes, changed)?;
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8], changed: SystemTime) -> Result<()> {
    fs::write(path, bytes)?;
    Ok(File::options().write(true).open(path)?.set_modified(changed)?)
}

fn configuration(workers: usize) -> String {
    format!(
        "daemon off;
user www-data;
worker_processes {workers};
error_log stderr;
pid nginx.pid;
events {{ worker_connections 256; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 1000000;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen {PORT};
        listen [::]:{PORT};
        root html;
    }}
}}
"
    )
}
