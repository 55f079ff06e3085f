//! One error type for the crate.

use std::ffi::CStr;

use crate::PortId;

/// What went wrong, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// [`crate::Eal::init`] was called twice; EAL can be initialised once in the life of a process.
    #[error("DPDK's EAL can be initialised only once per process, and already was")]
    AlreadyInitialised,
    /// A DPDK object was asked for before [`crate::Eal::init`], or after EAL was cleaned up.
    #[error("DPDK's EAL is not initialised in this process")]
    NotInitialised,
    /// An argument that this wrapper refuses before DPDK sees it.
    #[error("`{argument}` is refused: {reason}")]
    BadArgument {
        /// The argument as it was given.
        argument: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// EAL refused to start.
    #[error(
        "DPDK's EAL did not start with the arguments `{args}`: {reason} (DPDK's log on stderr may say more)"
    )]
    Init {
        /// The arguments, joined by spaces.
        args: String,
        /// The text of `rte_errno`.
        reason: String,
        /// `rte_errno`.
        errno: i32,
    },
    /// No driver took the device, or the driver failed.
    #[error("device `{device}` could not be attached: {reason}")]
    Attach {
        /// The name and arguments of the device.
        device: String,
        /// What DPDK said, or what its silence means.
        reason: String,
        /// The error number, 0 when DPDK reported none.
        errno: i32,
    },
    /// The port does not exist (any more).
    #[error("{0} does not exist")]
    NoSuchPort(PortId),
    /// The port is configured already; it has one owner.
    #[error("{0} is in use already")]
    PortInUse(PortId),
    /// The device has not that many receive queues.
    #[error("{id} cannot have {wanted} receive queues: 1 to {max} are possible")]
    RxQueues {
        /// The port.
        id: PortId,
        /// What was asked for.
        wanted: u16,
        /// What can be had.
        max: u16,
    },
    /// Any other DPDK call that failed.
    #[error("{action} failed: {reason}")]
    Call {
        /// What was attempted.
        action: String,
        /// The text of the error number.
        reason: String,
        /// The error number, positive.
        errno: i32,
    },
}

impl Error {
    /// `action` returned `code`, a negative error number.
    pub(crate) fn call(action: impl Into<String>, code: i32) -> Error {
        let errno = code.saturating_abs();
        Error::Call { action: action.into(), reason: reason(errno), errno }
    }

    /// The (positive) error number that DPDK reported, if it was DPDK that failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Init { errno, .. } | Error::Attach { errno, .. } | Error::Call { errno, .. } => {
                Some(*errno)
            }
            _ => None,
        }
    }
}

/// The text of an error number, of the system or of DPDK.
pub(crate) fn reason(errno: i32) -> String {
    // SAFETY: rte_strerror takes any number, needs no EAL, and returns a NUL-terminated string in
    // storage of the calling thread, which is copied before anything else can overwrite it.
    let text = unsafe { CStr::from_ptr(dpdk_sys::rte_strerror(errno)) };
    text.to_string_lossy().into_owned()
}

/// `rte_errno` of the calling thread.
pub(crate) fn last_errno() -> i32 {
    // SAFETY: reads a thread-local integer.
    unsafe { dpdk_sys::shim_errno() }
}
