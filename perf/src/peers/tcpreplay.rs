//! tcpreplay of a file of numbered frames.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use understudy_lab::cmd;

use crate::lossless::Generator;
use crate::numbered::{self, Stored};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Started anew for every offer.
pub struct Tcpreplay {
    netns: PathBuf,
    interface: &'static str,
    frame_len: usize,
    file: PathBuf,
    /// In the file.
    frames: u64,
}

impl Tcpreplay {
    /// One that sends to an interface of a namespace; its file goes into a directory.
    pub fn new(netns: PathBuf, interface: &'static str, frame_len: usize, dir: &Path) -> Tcpreplay {
        Tcpreplay { netns, interface, frame_len, file: dir.join("replay.pcap"), frames: 0 }
    }

    fn write_file(&mut self, frames: u64) -> Result<()> {
        let mut out = BufWriter::new(File::create(&self.file)?);
        // Magic, version 2.4, zone, accuracy, longest frame, Ethernet.
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1] {
            out.write_all(&word.to_le_bytes())?;
        }
        let (mut frame, len) = (numbered::frame(self.frame_len)?, self.frame_len as u32);
        for number in 0..frames {
            numbered::write(number, &mut frame);
            for word in [1, 0, len, len] {
                out.write_all(&word.to_le_bytes())?;
            }
            out.write_all(&frame)?;
        }
        out.flush()?;
        self.frames = frames;
        Ok(())
    }
}

impl Generator for Tcpreplay {
    fn offer(&mut self, frames: u64, per_s: f64) -> Result<f64> {
        if self.frames < frames {
            self.write_file(frames)?;
        }
        let mut command = cmd::inside(&self.netns, "tcpreplay");
        command.args(["-q", "--preload-pcap", "-i", self.interface]);
        command.args([format!("--pps={per_s:.0}"), format!("--limit={frames}")]);
        command.arg(&self.file);
        let said = cmd::output(command, "", TIMEOUT)?;
        if said.code != 0 {
            bail!("tcpreplay: exit {}: {}", said.code, said.stderr.trim());
        }
        rate(&said.stdout).with_context(|| format!("what tcpreplay said: {}", said.stdout))
    }

    fn read(&self, file: &Path) -> Result<Stored> {
        numbered::read(file, self.frame_len)
    }
}

/// `Rated: 62669495.2 Bps, 501.35 Mbps, 979210.86 pps`
fn rate(said: &str) -> Option<f64> {
    let line = said.lines().find(|line| line.starts_with("Rated:"))?;
    line.strip_suffix(" pps")?.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_what_was_asked_for_and_the_rate_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut tcpreplay = Tcpreplay::new(PathBuf::new(), "tx0", 64, dir.path());
        tcpreplay.write_file(5).unwrap();
        assert_eq!(tcpreplay.read(&tcpreplay.file).unwrap().right, 5);
        let said = "Actual: 10 packets\nRated: 62669495.2 Bps, 501.35 Mbps, 979210.86 pps\n";
        assert_eq!(rate(said), Some(979_210.86));
        assert_eq!(rate("Actual: 10 packets\n"), None);
    }
}
