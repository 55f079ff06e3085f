//! A capture in files: by size, by time, and no more than so many of them.
//!
//! Names are tcpdump's: by size `x`, `x1`, `x2`..; by time what `strftime` makes of the name; with a
//! number of files `x0`..`x9`, used again in turn. Unlike tcpdump, a limit always means the newest
//! files: a name with a time in it is not used again, so the oldest file is deleted.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use thiserror::Error;

use crate::{Packet, Section, Statistics, Writer};

const BUFFER_BYTES: usize = 256 * 1024;
/// A size or time that nothing reaches.
const NEVER: u64 = u64::MAX;

/// A file that cannot be written.
#[derive(Debug, Error)]
pub enum RotateError {
    /// The file, or the pipe.
    #[error("cannot write {}: {source}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The name is no format of a time.
    #[error("{name:?} is not a name with strftime's % in it: {why}")]
    Name {
        /// The name.
        name: String,
        /// Why.
        why: String,
    },
}

impl RotateError {
    /// Whether the reader of a pipe has gone.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// When the next file begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Before a file would get larger, in bytes. A file has one packet at least.
    pub size_bytes: Option<u64>,
    /// When a packet is so much later than a file's first.
    pub interval_ns: Option<u64>,
    /// Files that are left; the oldest go.
    pub files_max: Option<u32>,
}

impl Rotation {
    fn is_on(&self) -> bool {
        self.size_bytes.is_some() || self.interval_ns.is_some()
    }
}

/// Where it is written now.
enum Output {
    /// No packet yet: no file yet.
    None,
    File(Writer<BufWriter<File>>),
    Pipe(Writer<Box<dyn Write + Send>>),
}

/// Writes a capture to a pipe, a file or a ring of files.
pub struct Recorder {
    section: Section,
    rotation: Rotation,
    name: PathBuf,
    output: Output,
    /// Of the file that is written, for errors.
    path: PathBuf,
    first_ns: Option<u64>,
    files: u32,
    /// What the ring holds, oldest first.
    ring: VecDeque<PathBuf>,
    zone: TimeZone,
}

impl Recorder {
    /// To files; the first is made at once, so that a name that cannot be written is known.
    /// `now_ns`: the time in its name.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn to_files(
        name: &Path,
        section: Section,
        rotation: Rotation,
        now_ns: u64,
    ) -> Result<Recorder, RotateError> {
        let mut recorder = Recorder::new(name.to_path_buf(), section, rotation);
        recorder.open(now_ns)?;
        Ok(recorder)
    }

    /// To a pipe, which is one file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn to_pipe(out: Box<dyn Write + Send>, section: Section) -> Result<Recorder, RotateError> {
        let mut recorder = Recorder::new("the pipe".into(), section, Rotation::default());
        recorder.path = recorder.name.clone();
        let writer = Writer::new(out, &recorder.section).and_then(|mut w| w.flush().map(|()| w));
        recorder.output = Output::Pipe(writer.map_err(|source| recorder.error(source))?);
        Ok(recorder)
    }

    fn new(name: PathBuf, section: Section, rotation: Rotation) -> Recorder {
        Recorder {
            section,
            rotation,
            path: PathBuf::new(),
            name,
            output: Output::None,
            first_ns: None,
            files: 0,
            ring: VecDeque::new(),
            zone: TimeZone::system(),
        }
    }

    /// Files begun so far.
    pub fn files(&self) -> u32 {
        self.files
    }

    /// Writes a packet, into the next file if this one is full. `counted` ends a full one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn packet(
        &mut self,
        packet: &Packet<'_>,
        counted: impl FnOnce() -> Vec<Statistics>,
    ) -> Result<(), RotateError> {
        if self.is_full(packet) {
            self.close(&counted())?;
            self.open(packet.timestamp_ns)?;
        }
        self.first_ns.get_or_insert(packet.timestamp_ns);
        let written = match &mut self.output {
            Output::File(writer) => writer.packet(packet),
            Output::Pipe(writer) => writer.packet(packet),
            Output::None => Ok(()),
        };
        written.map_err(|source| self.error(source))
    }

    /// Hands on what was written: who reads along sees it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn flush(&mut self) -> Result<(), RotateError> {
        let flushed = match &mut self.output {
            Output::File(writer) => writer.flush(),
            Output::Pipe(writer) => writer.flush(),
            Output::None => Ok(()),
        };
        flushed.map_err(|source| self.error(source))
    }

    /// Ends the last file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self, counted: &[Statistics]) -> Result<(), RotateError> {
        self.close(counted)
    }

    fn is_full(&self, packet: &Packet<'_>) -> bool {
        let (Output::File(writer), Some(first_ns)) = (&self.output, self.first_ns) else {
            return false;
        };
        let size_max = self.rotation.size_bytes.unwrap_or(NEVER);
        let interval_ns = self.rotation.interval_ns.unwrap_or(NEVER);
        let bytes = Writer::<File>::packet_bytes(packet);
        writer.bytes() + bytes > size_max
            || packet.timestamp_ns >= first_ns.saturating_add(interval_ns)
    }

    fn open(&mut self, now_ns: u64) -> Result<(), RotateError> {
        self.path = self.next_name(now_ns)?;
        self.first_ns = None;
        self.files += 1;
        let file = File::create(&self.path).and_then(|file| {
            Writer::new(BufWriter::with_capacity(BUFFER_BYTES, file), &self.section)
        });
        self.output = Output::File(file.map_err(|source| self.error(source))?);
        self.remember()
    }

    /// Deletes what is beyond the ring, the oldest first.
    fn remember(&mut self) -> Result<(), RotateError> {
        let Some(files_max) = self.rotation.files_max.filter(|_| self.rotation.is_on()) else {
            return Ok(());
        };
        self.ring.retain(|path| *path != self.path);
        self.ring.push_back(self.path.clone());
        while self.ring.len() > files_max.max(1) as usize
            && let Some(path) = self.ring.pop_front()
        {
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(RotateError::Io { path, source: e });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn close(&mut self, counted: &[Statistics]) -> Result<(), RotateError> {
        let closed = match std::mem::replace(&mut self.output, Output::None) {
            Output::File(writer) => end(writer, counted).map(drop),
            Output::Pipe(writer) => end(writer, counted).map(drop),
            Output::None => Ok(()),
        };
        closed.map_err(|source| self.error(source))
    }

    fn next_name(&self, now_ns: u64) -> Result<PathBuf, RotateError> {
        let mut name = self.name.to_string_lossy().into_owned();
        if !self.rotation.is_on() {
            return Ok(self.name.clone());
        }
        let is_timed = self.rotation.interval_ns.is_some() && name.contains('%');
        if is_timed {
            let timestamp = jiff::Timestamp::from_nanosecond(now_ns.into()).unwrap_or_default();
            let zoned = timestamp.to_zoned(self.zone.clone());
            name = jiff::fmt::strtime::format(&name, &zoned)
                .map_err(|e| RotateError::Name { name: name.clone(), why: e.to_string() })?;
        }
        let number = match (is_timed, self.rotation.files_max) {
            // Several in one second.
            (true, _)
                if self.path != Path::new(&name) && !self.ring.contains(&name.clone().into()) =>
            {
                return Ok(name.into());
            }
            (true, _) => return Ok(format!("{name}{}", self.files).into()),
            (false, Some(files_max)) => self.files % files_max.max(1),
            (false, None) if self.files == 0 => return Ok(name.into()),
            (false, None) => self.files,
        };
        let width = self.rotation.files_max.map_or(0, |max| (max.max(1) - 1).to_string().len());
        Ok(format!("{name}{number:0width$}").into())
    }

    fn error(&self, source: io::Error) -> RotateError {
        RotateError::Io { path: self.path.clone(), source }
    }
}

fn end<W: Write>(mut writer: Writer<W>, counted: &[Statistics]) -> io::Result<W> {
    counted.iter().try_for_each(|counted| writer.statistics(counted))?;
    writer.finish()
}
