//! A node's state directory as the daemon's store writes it: a new file, synced, then renamed over
//! the old one. What is read back is read by the shipped decoder.

use understudy_proto::Persisted;

use crate::rng::Rng;

/// What is on the platter.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    file: Vec<u8>,
    /// `epoch.new`, which nobody ever reads.
    new: Vec<u8>,
}

impl Disk {
    /// What a life that starts finds; `None`: damaged, and the daemon refuses to start.
    pub fn load(&self) -> Option<Persisted> {
        if self.file.is_empty() {
            return Some(Persisted::default());
        }
        Persisted::decode(&self.file)
    }

    /// A write that is done.
    pub fn write(&mut self, state: &Persisted) {
        self.file = state.encode().into_bytes();
        self.new.clear();
    }

    /// A crash in the middle of a write: the new file is torn, or whole, or has taken the old one's
    /// place, which the directory on the platter may say or not. True: it has.
    pub fn interrupted(&mut self, state: &Persisted, rng: &mut Rng) -> bool {
        let whole = state.encode().into_bytes();
        match rng.below(4) {
            0 => self.new = torn(&whole, rng),
            1 => self.new = whole,
            _ => {
                self.write(state);
                return true;
            }
        }
        false
    }

    /// A disk that said "synced" and had not: after the crash the file holds the beginning of
    /// something, or blocks never written.
    pub fn lie(&mut self, state: &Persisted, rng: &mut Rng) {
        self.file = torn(state.encode().as_bytes(), rng);
    }

    /// The operator removes the file.
    pub fn wipe(&mut self) {
        *self = Disk::default();
    }
}

fn torn(whole: &[u8], rng: &mut Rng) -> Vec<u8> {
    let kept = 1 + rng.below(whole.len() as u64 - 1) as usize;
    let mut out = whole[..kept].to_vec();
    if rng.percent(40) {
        let fill = rng.pick(&[0, 0xff]);
        out.resize(whole.len(), fill);
    }
    out
}
