//! What a poll-mode thread does when no port has work: it spins, then yields the CPU, then sleeps until something
//! comes. Three nodes and a client live on two cores.

use std::time::Duration;

use tracing::{info, warn};
use understudy_config::IdleConfig;
use understudy_linux::arrivals::Arrivals;

/// How a thread rests.
pub struct Rest {
    config: IdleConfig,
    arrivals: Arrivals,
    busy_at_ns: u64,
    /// What ended the last sleep could not be dealt with, such as frames for which there is no buffer: the next one
    /// is not ended by it.
    in_vain: bool,
}

impl Rest {
    /// Of a thread that had nothing to do yet.
    pub fn new(config: IdleConfig, arrivals: Arrivals) -> Rest {
        Rest { config, arrivals, busy_at_ns: 0, in_vain: false }
    }

    /// Rests otherwise from now on.
    pub fn set(&mut self, config: IdleConfig) {
        self.config = config;
    }

    /// A turn of the loop is over that had something to do, or nothing.
    pub fn after(&mut self, now_ns: u64, busy: bool) {
        if busy {
            (self.busy_at_ns, self.in_vain) = (now_ns, false);
            return;
        }
        let idle_us = now_ns.saturating_sub(self.busy_at_ns) / 1000;
        let IdleConfig { spin_us, pause_us, sleep_us } = self.config;
        if idle_us < spin_us || sleep_us == 0 {
            std::hint::spin_loop();
        } else if idle_us < spin_us + pause_us {
            std::thread::yield_now();
        } else {
            self.sleep(Duration::from_micros(sleep_us));
        }
    }

    fn sleep(&mut self, most: Duration) {
        if self.in_vain {
            std::thread::sleep(most);
            self.in_vain = false;
        } else {
            self.in_vain = self.arrivals.wait(most);
        }
    }
}

/// Has a sleep end with a frame of this interface.
pub fn watch(arrivals: &mut Arrivals, interface: &str) {
    match arrivals.watch(interface) {
        Ok(0) => {
            info!(
                interface,
                "no other socket wakes an idle thread for its frames; those of AF_XDP are counted with the first interface"
            )
        }
        Ok(sockets) => info!(interface, sockets, "an idle thread wakes for its frames"),
        Err(error) => warn!(interface, "an idle thread sleeps through its frames: {error}"),
    }
}
