//! Capabilities that this process, and with it the application, gives up for good. What remains is
//! near to root's: namespaces, CRIU and ptrace need CAP_SYS_ADMIN and CAP_SYS_PTRACE as long as the
//! daemon lives, and an application that is started as root expects to be able to become another user.

use caps::{CapSet, Capability, CapsHashSet};
use tracing::{info, warn};

/// What neither the daemon nor DPDK, CRIU or an application in its capsule has any use for. CRIU needs
/// CAP_SYS_TIME: a restored application's monotonic clock goes on where it was, in a time namespace.
const UNNEEDED: [Capability; 12] = [
    Capability::CAP_SYS_MODULE,
    Capability::CAP_SYS_BOOT,
    Capability::CAP_SYSLOG,
    Capability::CAP_MAC_ADMIN,
    Capability::CAP_MAC_OVERRIDE,
    Capability::CAP_AUDIT_CONTROL,
    Capability::CAP_AUDIT_READ,
    Capability::CAP_WAKE_ALARM,
    Capability::CAP_BLOCK_SUSPEND,
    Capability::CAP_LINUX_IMMUTABLE,
    Capability::CAP_SYS_PACCT,
    Capability::CAP_SYS_TTY_CONFIG,
];

/// To be called before there is a second thread: capabilities are each thread's own.
pub fn give_up() {
    match try_give_up() {
        Ok(0) => {}
        Ok(dropped) => info!(dropped, "capabilities given up"),
        // As safe as it was before; no reason not to serve.
        Err(e) => warn!("capabilities cannot be given up: {e}"),
    }
}

/// How many there were to give up.
fn try_give_up() -> Result<usize, caps::errors::CapsError> {
    let mut dropped = 0;
    for cap in UNNEEDED {
        // A kernel that does not know it has not got it.
        if caps::has_cap(None, CapSet::Bounding, cap).unwrap_or(false) {
            // Before the others go: root gets these back when it executes a program.
            caps::drop(None, CapSet::Bounding, cap)?;
            dropped += 1;
        }
    }
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        let kept: CapsHashSet =
            caps::read(None, set)?.into_iter().filter(|cap| !UNNEEDED.contains(cap)).collect();
        caps::set(None, set, &kept)?;
    }
    Ok(dropped)
}
