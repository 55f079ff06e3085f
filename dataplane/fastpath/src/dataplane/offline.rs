//! A clone of a recorded log: no group, no clients; what it is given counts as committed.

use super::*;

impl<P: Ports> Dataplane<P> {
    /// Takes the next whole records of a recorded log; they are applied in the following polls. The first
    /// are those at 0, or at the floor of the checkpoint from which the clone goes on
    /// ([`Command::Resume`]).
    ///
    /// # Errors
    /// If they find no room yet: what is there must be applied first.
    pub fn feed(&mut self, now_ns: u64, records: &[u8], newest_ns: u64) -> Result<(), LogError> {
        let (at, floor) = (self.log.end(), self.own_floor());
        let is_first = at == self.log.start();
        self.log.write_at(at, records, floor)?;
        self.log.extend_to(at + records.len() as u64);
        self.committed = self.log.boundary();
        // TCP timestamps are projected from the log's clock, which never goes back.
        let ahead_ns = newest_ns.wrapping_sub(now_ns) as i64;
        if is_first || ahead_ns > self.log_clock_ahead_ns {
            self.log_clock_ahead_ns = ahead_ns;
        }
        Ok(())
    }

    /// Everything before it has been given to the application, or waits for its turn in a connection.
    pub fn applied(&self) -> Position {
        self.apply.cursor()
    }
}
