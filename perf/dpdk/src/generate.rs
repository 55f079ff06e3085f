//! Numbered frames at a rate, to one device.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use understudy_dpdk::clock::Clock;
use understudy_dpdk::{
    BURST, Burst, DEFAULT_DATA_ROOM_BYTES, Mempool, Port, PortConfig, RxQueues, TxQueue,
    vdev_attach,
};
use understudy_perf::numbered;

const MBUFS: u32 = 8191;
const CACHE_MBUFS: u32 = 250;
/// Between two looks at the schedule.
const NAP: Duration = Duration::from_micros(50);
/// Who was kept from sending for longer makes up for so much of it, and is late with the rest: a
/// burst of everything would be another load than the one that was asked for.
const CATCH_UP_NS: u64 = 4_000_000;
/// The other end of the link comes by then.
const LINK_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends to a device.
pub struct Generator {
    port: Port,
    _rx: RxQueues,
    tx: TxQueue,
    pool: Mempool,
    clock: Clock,
    template: Vec<u8>,
}

/// What was sent.
pub struct Offered {
    /// Frames a second.
    pub per_s: f64,
    /// Frames that the device had no room for, which are lost.
    pub refused: u64,
}

impl Generator {
    /// Attaches the device.
    pub fn open(device: &str, frame_len: usize) -> Result<Generator> {
        let pool = Mempool::new("frames", MBUFS, CACHE_MBUFS, DEFAULT_DATA_ROOM_BYTES)?;
        let id = vdev_attach(device)?;
        let (port, rx, tx) = Port::configure(id, &PortConfig::default(), &pool)?;
        let template = numbered::frame(frame_len)?;
        Ok(Generator { port, _rx: rx, tx, pool, clock: Clock::calibrate(), template })
    }

    /// Sends so many frames, numbered from 0, each when it is due.
    pub fn offer(&mut self, frames: u64, per_s: f64) -> Result<Offered> {
        ensure!(frames > 0 && per_s > 0.0, "nothing to send");
        let deadline = Instant::now() + LINK_TIMEOUT;
        while !self.port.link_up() {
            ensure!(Instant::now() < deadline, "nobody is at the other end of the link");
            std::thread::sleep(Duration::from_millis(10));
        }
        let (mut burst, mut refused, mut sent) = (Burst::new(), 0, 0);
        let begun_ns = self.clock.now_ns();
        // Moves when sending is late.
        let mut schedule_ns = begun_ns;
        while sent < frames {
            let at = |number: u64| (number as f64 * 1e9 / per_s) as u64;
            let elapsed_ns = self.clock.now_ns() - schedule_ns;
            let late_ns = elapsed_ns.saturating_sub(at(sent));
            schedule_ns += late_ns.saturating_sub(CATCH_UP_NS);
            let due = (elapsed_ns.min(at(sent) + CATCH_UP_NS) as f64 * per_s / 1e9) as u64 + 1;
            let due = due.min(frames);
            if due <= sent {
                std::thread::sleep(NAP);
                continue;
            }
            while sent < due && burst.len() < BURST {
                let mut mbuf = self.pool.alloc_copy(&self.template).context("no mbuf")?;
                numbered::write(sent, mbuf.bytes_mut());
                burst.push(mbuf);
                sent += 1;
            }
            self.tx.tx_burst(&mut burst);
            refused += burst.len() as u64;
            burst.clear();
        }
        let took_ns = self.clock.now_ns() - begun_ns;
        Ok(Offered { per_s: frames as f64 * 1e9 / took_ns as f64, refused })
    }
}
