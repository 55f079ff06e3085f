//! What the daemon says of itself: to the journal with its fields, where stderr is the journal,
//! else as lines on stderr.

use std::os::unix::fs::MetadataExt as _;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};
use understudy_config::LogLevel;

/// Sets the least severe messages that are logged.
#[derive(Clone)]
pub struct Filter(reload::Handle<EnvFilter, Registry>);

/// Messages go where they belong from now on; the environment's filter counts, or else "info".
pub fn init() -> Filter {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(LogLevel::default().as_str()));
    let (filter, handle) = reload::Layer::new(filter);
    let journal = is_journal().then(|| tracing_journald::layer().ok()).flatten();
    let lines =
        journal.is_none().then(|| tracing_subscriber::fmt::layer().with_writer(std::io::stderr));
    tracing_subscriber::registry().with(filter).with(journal).with(lines).init();
    Filter(handle)
}

impl Filter {
    /// At the start: unless the environment says something else.
    pub fn set_first(&self, level: LogLevel) {
        if EnvFilter::try_from_default_env().is_err() {
            self.set(level);
        }
    }

    pub fn set(&self, level: LogLevel) {
        // Only fails when the subscriber is gone, and with it all messages.
        let _ = self.0.reload(EnvFilter::new(level.as_str()));
    }
}

/// Whether stderr is what systemd connected with the journal, and has not been redirected since.
fn is_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let Some((device, inode)) = stream.split_once(':') else { return false };
    let wanted = device.parse::<u64>().ok().zip(inode.parse::<u64>().ok());
    let stderr = std::fs::metadata("/proc/self/fd/2").map(|meta| (meta.dev(), meta.ino()));
    stderr.is_ok_and(|found| wanted == Some(found))
}
