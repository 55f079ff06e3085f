//! A supervisor's end of systemd's protocol: what a daemon says of itself.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// The supervisor's socket.
pub struct Notices(UnixDatagram);

impl Notices {
    /// Listens.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn bind(path: &Path) -> io::Result<Notices> {
        let socket = UnixDatagram::bind(path)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(Notices(socket))
    }

    fn next(&self) -> Option<String> {
        let mut bytes = [0; 4096];
        match self.0.recv(&mut bytes) {
            Ok(len) => Some(String::from_utf8_lossy(&bytes[..len]).into_owned()),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(e) => panic!("{e}"),
        }
    }

    /// What is said until something begins so.
    ///
    /// # Panics
    /// If it is not said.
    pub fn until(&self, wanted: &str) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut said = Vec::new();
        while Instant::now() < deadline {
            said.extend(self.next());
            if said.last().is_some_and(|notice: &String| notice.starts_with(wanted)) {
                return said;
            }
        }
        panic!("{wanted} was not said, but {said:?}");
    }

    /// How often progress is told in a time.
    pub fn fed_within(&self, time: Duration) -> usize {
        let deadline = Instant::now() + time;
        let mut fed = 0;
        while Instant::now() < deadline {
            fed += usize::from(self.next().is_some_and(|notice| notice.starts_with("WATCHDOG=1")));
        }
        fed
    }
}
