//! EAL: initialisation, devices, threads, and the bookkeeping that makes cleaning up safe.

use std::ffi::{CString, c_char};
use std::fmt;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, last_errno, reason};

/// Number of an Ethernet port, given by DPDK when the device was probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub(crate) u16);

impl PortId {
    /// DPDK's number of the port.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {}", self.0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not initialised yet, or the attempt failed.
    Idle,
    Running,
    /// [`Eal`] was dropped: nothing new can be made.
    Finished,
}

/// A pool that was created, for the audit at the end.
pub(crate) struct PoolPointer(pub(crate) NonNull<dpdk_sys::rte_mempool>);

// SAFETY: a mempool may be inspected from any thread, and the pointer is valid until
// rte_eal_cleanup(), which runs under the lock that guards the list of these.
unsafe impl Send for PoolPointer {}

/// Everything alive that points into DPDK's memory, except mbufs, which the pools count.
pub(crate) struct State {
    phase: Phase,
    /// Every pool ever created: they live until the cleanup.
    pub(crate) pools: Vec<PoolPointer>,
    /// Pools to which a [`crate::Mempool`] handle exists.
    pub(crate) pools_held: usize,
    /// Configured ports.
    pub(crate) ports: Vec<PortId>,
    threads_registered: usize,
}

static STATE: Mutex<State> = Mutex::new(State {
    phase: Phase::Idle,
    pools: Vec::new(),
    pools_held: 0,
    ports: Vec::new(),
    threads_registered: 0,
});

/// The bookkeeping. Held during every slow-path call, because DPDK's control functions are not
/// safe against each other, and so that nothing is created while EAL is being cleaned up.
pub(crate) fn state() -> MutexGuard<'static, State> {
    // Every update of the state is complete when it is made: a panic elsewhere does not spoil it.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bookkeeping, if EAL runs.
pub(crate) fn running() -> Result<MutexGuard<'static, State>, Error> {
    let state = state();
    if state.phase == Phase::Running { Ok(state) } else { Err(Error::NotInitialised) }
}

/// EAL, initialised: one per process.
///
/// It stays on the thread that made it. Dropping it calls `rte_eal_cleanup()` if no pool handle,
/// port, queue, mbuf or thread registration is left; if one is, the cleanup is left to the end of
/// the process, so that what is left stays usable.
#[derive(Debug)]
pub struct Eal {
    /// rte_eal_cleanup() belongs to the thread that called rte_eal_init().
    not_send: PhantomData<*const ()>,
}

impl Eal {
    /// Initialises EAL with `args`, which do not include the program's name.
    ///
    /// Pins the calling thread to the main lcore. A second call in the same process fails with
    /// [`Error::AlreadyInitialised`], also after the first [`Eal`] was dropped. Refused are
    /// `--help`, which would end the process, secondary processes, and a choice of mbuf pool that
    /// may not be safe between threads.
    pub fn init(args: &[String]) -> Result<Eal, Error> {
        let mut state = state();
        if state.phase != Phase::Idle {
            return Err(Error::AlreadyInitialised);
        }
        let mut argv = vec![CString::from(c"understudy")];
        for (index, arg) in args.iter().enumerate() {
            check_arg(arg, args.get(index + 1))?;
            argv.push(c_string(arg)?);
        }
        let count = i32::try_from(argv.len()).map_err(|_| Error::BadArgument {
            argument: format!("{} arguments", argv.len()),
            reason: "too many",
        })?;
        // EAL keeps pointers into the arguments, so they are given away for good.
        let mut pointers: Vec<*mut c_char> = argv.into_iter().map(CString::into_raw).collect();
        pointers.push(ptr::null_mut());
        let pointers = Vec::leak(pointers);
        // SAFETY: `pointers` is a NULL-terminated array of `count` NUL-terminated strings; both are
        // leaked, so EAL may keep, permute and change them. The lock makes this the only call.
        let parsed = unsafe { dpdk_sys::rte_eal_init(count, pointers.as_mut_ptr()) };
        if parsed < 0 {
            let errno = last_errno();
            if errno == libc::EALREADY {
                return Err(Error::AlreadyInitialised);
            }
            return Err(Error::Init { args: args.join(" "), reason: reason(errno), errno });
        }
        state.phase = Phase::Running;
        Ok(Eal { not_send: PhantomData })
    }
}

impl Drop for Eal {
    fn drop(&mut self) {
        let mut state = state();
        state.phase = Phase::Finished;
        let idle = state.pools_held == 0
            && state.ports.is_empty()
            && state.threads_registered == 0
            && state.pools.iter().all(|pool| {
                // SAFETY: pools live until the cleanup below, and this thread holds the lock.
                unsafe { dpdk_sys::rte_mempool_in_use_count(pool.0.as_ptr()) == 0 }
            });
        if !idle {
            return;
        }
        state.pools.clear();
        // SAFETY: EAL is initialised, and this is the thread that did it (Eal is !Send). Nothing
        // points into DPDK's memory any more: there is no handle to a pool, no port or queue, and
        // every mbuf is back in its pool; nothing new can be made, because the phase is Finished
        // and this thread holds the lock. No other thread is still inside a pool either: one
        // without an lcore leaves the pool with the store that made the count above complete, and
        // one with an lcore (which may still be writing its cache) would be registered.
        unsafe { dpdk_sys::rte_eal_cleanup() };
    }
}

/// Refuses what would take the process or the wrapper's invariants down.
fn check_arg(arg: &str, next: Option<&String>) -> Result<(), Error> {
    let refuse = |reason| Err(Error::BadArgument { argument: arg.to_owned(), reason });
    let (name, inline_value) = match arg.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (arg, None),
    };
    let value = inline_value.or(next.map(String::as_str));
    // getopt_long accepts every unambiguous prefix of a long option.
    let is = |option: &str, shortest: usize| name.len() >= shortest && option.starts_with(name);
    if name == "-h" || is("--help", "--h".len()) {
        return refuse("it makes DPDK print its usage and end the process");
    }
    if is("--proc-type", "--p".len()) && value != Some("primary") {
        return refuse("only a primary process is supported");
    }
    if is("--mbuf-pool-ops-name", "--mb".len()) {
        return refuse("mbufs move between threads, which only the default pool is known to allow");
    }
    Ok(())
}

pub(crate) fn c_string(text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::BadArgument {
        argument: text.escape_default().to_string(),
        reason: "it contains a NUL byte",
    })
}

/// Attaches a device after EAL was initialised and returns its port.
///
/// `name_and_args` is a virtual device (`net_af_packet_client,iface=veth0`, whose name begins with
/// the driver's name and is unique in the process) or a PCI address (`0000:01:00.0`). A PCI device
/// that was probed when EAL started is found as well; a virtual device that exists already is an
/// error, because its arguments may differ. Of a device with several ports the first is returned.
///
/// Drivers that open sockets (`net_af_packet`, `net_af_xdp`, `net_tap`) do so in the network
/// namespace of the calling thread. The device is detached when its last port is closed.
pub fn vdev_attach(name_and_args: &str) -> Result<PortId, Error> {
    let _state = running()?;
    let device_args = c_string(name_and_args)?;
    let name = name_and_args.split_once(',').map_or(name_and_args, |(name, _)| name);
    let is_virtual = !name.contains(':');
    let attach_error =
        |reason: String, errno| Error::Attach { device: name_and_args.to_owned(), reason, errno };

    if let Some(id) = port_lookup(name)? {
        if is_virtual {
            return Err(attach_error(
                "a device of that name exists already".to_owned(),
                libc::EEXIST,
            ));
        }
        return Ok(id);
    }
    // SAFETY: EAL runs, the string is NUL-terminated and copied by DPDK; the lock serialises
    // changes to the set of devices.
    let code = unsafe { dpdk_sys::rte_dev_probe(device_args.as_ptr()) };
    if code < 0 {
        let errno = -code;
        let reason = match errno {
            libc::EFAULT | libc::ENODEV | libc::ENOENT => format!(
                "no DPDK bus or driver takes it ({}); check its name and that the driver is installed",
                reason(errno)
            ),
            libc::EEXIST => "a device of that name exists already".to_owned(),
            // Drivers return -1 for any failure of their own, which is not EPERM.
            libc::EPERM => "its driver failed; check its arguments and the process's privileges \
                            (DPDK's log on stderr may say more)"
                .to_owned(),
            _ => reason(errno),
        };
        return Err(attach_error(reason, errno));
    }
    if let Some(id) = port_lookup(name)? {
        return Ok(id);
    }
    let mut port_id = 0;
    // SAFETY: EAL runs, the string is NUL-terminated, and `port_id` is valid for the write.
    let code = unsafe { dpdk_sys::shim_eth_find(device_args.as_ptr(), &mut port_id) };
    if code == 0 {
        Ok(PortId(port_id))
    } else {
        Err(attach_error("its driver has made no Ethernet port".to_owned(), 0))
    }
}

/// The port of a device that exists already, for instance one given by `--vdev` to [`Eal::init`].
pub fn port_by_name(name: &str) -> Option<PortId> {
    let _state = running().ok()?;
    port_lookup(name).ok().flatten()
}

/// The caller holds the state's lock.
fn port_lookup(name: &str) -> Result<Option<PortId>, Error> {
    let name = c_string(name)?;
    let mut port_id = 0;
    // SAFETY: the string is NUL-terminated and `port_id` is valid for the write.
    let code = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut port_id) };
    Ok((code == 0).then_some(PortId(port_id)))
}

/// The calling thread, known to EAL: it has an lcore number, and with it the mbuf caches of the
/// pools. A thread without one works too, but goes to the pool's shared ring for every mbuf.
///
/// Drop it on the same thread, before the thread ends (it cannot leave the thread).
#[derive(Debug)]
pub struct ThreadRegistration {
    /// False on the thread of [`Eal`], which has an lcore number anyway.
    owned: bool,
    /// rte_thread_unregister() acts on the calling thread.
    not_send: PhantomData<*const ()>,
}

impl ThreadRegistration {
    /// Registers the calling thread. Fails when EAL's lcore numbers (128 in most builds) are used up.
    pub fn new() -> Result<ThreadRegistration, Error> {
        let mut state = running()?;
        // SAFETY: reads a thread-local integer; all bits set means that there is none.
        let owned = unsafe { dpdk_sys::rte_lcore_id() } == u32::MAX;
        if owned {
            // SAFETY: EAL runs, and the calling thread has no lcore number.
            if unsafe { dpdk_sys::rte_thread_register() } != 0 {
                return Err(Error::call("registering the thread with EAL", last_errno()));
            }
            state.threads_registered += 1;
        }
        Ok(ThreadRegistration { owned, not_send: PhantomData })
    }
}

impl Drop for ThreadRegistration {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        let mut state = state();
        // SAFETY: this thread was registered by `new` (the type is !Send), and EAL has not been
        // cleaned up, because `threads_registered` is not 0.
        unsafe { dpdk_sys::rte_thread_unregister() };
        state.threads_registered -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str]) -> Result<(), Error> {
        let args: Vec<String> = args.iter().map(|arg| arg.to_string()).collect();
        args.iter().enumerate().try_for_each(|(index, arg)| check_arg(arg, args.get(index + 1)))
    }

    #[test]
    fn dangerous_arguments_are_refused() {
        for args in [
            &["-h"][..],
            &["--help"],
            &["--hel"],
            &["--proc-type=secondary"],
            &["--proc-type", "auto"],
            &["--proc-type"],
            &["--mbuf-pool-ops-name=ring_sp_sc"],
        ] {
            assert!(check(args).is_err(), "{args:?}");
        }
        let usual =
            ["-l", "0", "--in-memory", "--huge-unlink", "--huge-dir=/x", "--proc-type=primary"];
        check(&usual).expect("usual arguments pass");
    }
}
