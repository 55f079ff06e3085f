//! What every way of saving an application has in common.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use understudy_image::{SocketImage, Timestamps};
use understudy_linux::capsule::App;
use understudy_linux::image::{self, TsClock};
use understudy_linux::netns::NetNs;

use crate::criu::Dumped;
use crate::error::{Error, Result};
use crate::manifest::{Clock, Manifest, MethodKind};
use crate::store::Generation;

/// An application that is to be saved, and is given nothing meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Running<'a> {
    /// Its network namespace.
    pub ns: &'a NetNs,
    /// Its first process.
    pub pid: i32,
}

/// What a node has for it.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// Directories that are part of the application's state.
    pub state_dirs: Vec<PathBuf>,
    /// Where logs and temporary files go.
    pub work: PathBuf,
    /// Where the application's output goes.
    pub output: PathBuf,
}

/// An application as it was, standing still until [`App::go_on`].
#[derive(Debug)]
pub struct Restored {
    /// Its processes.
    pub app: App,
    /// Its connections.
    pub connections: Vec<SocketImage>,
}

/// A way of saving an application and of bringing it back.
pub trait Method: Debug + Send {
    /// Which one.
    fn kind(&self) -> MethodKind;

    /// Saves the application, its connections and its state directories into `dir`; it goes on.
    ///
    /// # Errors
    /// [`Error::NotNow`] if another moment may do, or what cannot be saved.
    fn save(&self, app: &Running<'_>, site: &Site, dir: &Path) -> Result<Dumped>;

    /// Brings it back as it was, in `ns`, where nothing of it is left.
    ///
    /// # Errors
    /// What is missing here.
    fn restore(&self, ns: &NetNs, site: &Site, from: &Generation) -> Result<Restored>;
}

/// Refuses what was taken in another way.
pub(crate) fn expect(ours: MethodKind, manifest: &Manifest) -> Result<()> {
    let theirs = manifest.method;
    if theirs == ours { Ok(()) } else { Err(Error::OtherMethod { theirs, ours }) }
}

/// The clocks of the connections of running processes, and for which moment they are told.
pub(crate) fn clocks(processes: &[i32]) -> Result<(SystemTime, Vec<Clock>)> {
    let (taken, clocks) = image::clocks(processes)?;
    let clock = |TsClock { local, remote, at: Timestamps { value, micros } }| Clock {
        local,
        remote,
        value,
        micros,
    };
    Ok((taken, clocks.into_iter().map(clock).collect()))
}

/// Reads the connections of an application that stands still, and sets their clocks to what they must
/// show by now.
pub(crate) fn renew(app: &App, manifest: &Manifest) -> Result<Vec<SocketImage>> {
    let clock = |c: &Clock| TsClock {
        local: c.local,
        remote: c.remote,
        at: Timestamps { value: c.value, micros: c.micros },
    };
    let clocks: Vec<TsClock> = manifest.clocks.iter().map(clock).collect();
    Ok(image::renew(&app.processes(), manifest.age(), &clocks)?)
}
