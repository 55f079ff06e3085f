//! A replay that begins with a checkpoint: which, whether it goes with the recording, and the application
//! that comes of it.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use understudy_api::replay::ReplayedCheckpoint;
use understudy_checkpoint::{Generation, Reign};
use understudy_config::Config;
use understudy_fastpath::command::Resume;
use understudy_linux::capsule::App;
use understudy_linux::netns::NetNs;
use understudy_wire::Position;
use understudy_wire::record::{EpochRecord, RecordKind};

use super::recording::Recording;
use crate::{method, resume};

/// A node that took a checkpoint and the primary, which stamps the log, differ by no more in what they
/// take the time to be.
const CLOCKS_NS: u64 = 10_000_000_000;

/// The checkpoint.
pub struct Origin(Generation);

/// Its application, which stands still.
pub struct Begun {
    pub app: App,
    /// What the data path must know of it.
    pub resume: Resume,
    pub told: ReplayedCheckpoint,
}

impl Origin {
    /// `name`: the number of one that the configuration's node has, or a directory. Every byte is checked.
    pub fn find(config: &Config, name: &str) -> anyhow::Result<Origin> {
        let dir = match name.parse::<u64>() {
            Ok(number) => method::checkpoints(config).join(number.to_string()),
            Err(_) => std::path::absolute(name)?,
        };
        ensure!(dir.is_dir(), "there is no checkpoint {}", dir.display());
        let generation = Generation::read(&dir)?;
        let (theirs, ours) = (&generation.manifest.cluster, &config.cluster.name);
        ensure!(
            theirs == ours,
            "checkpoint {name} is of cluster {theirs:?}, and the configuration of {ours:?}"
        );
        Ok(Origin(generation))
    }

    /// The log must be there from here on.
    pub fn floor(&self) -> Position {
        self.0.manifest.floor
    }

    /// Whether the recording is of the log that the checkpoint was taken beside, and reaches it.
    pub fn judge(&self, recording: &mut Recording) -> anyhow::Result<()> {
        let m = &self.0.manifest;
        let (begins, end) = (recording.begins(), recording.summary.end);
        ensure!(
            m.position <= end,
            "the recording ends at position {end}, before the checkpoint, which was taken at {}",
            m.position
        );
        let mut reigns = Vec::new();
        let (mut has_floor, mut has_barrier) = (m.floor == end, m.position == end);
        let (mut before_ns, mut after_ns) = (0, u64::MAX);
        recording.for_each(|at, header, payload| {
            has_floor |= at == m.floor;
            has_barrier |= at == m.position;
            if at >= m.position {
                after_ns = after_ns.min(header.timestamp_ns);
                return;
            }
            before_ns = before_ns.max(header.timestamp_ns);
            if header.kind == RecordKind::Epoch
                && let Some(record) = EpochRecord::decode(payload)
            {
                reigns.push(Reign { epoch: record.epoch, start: at });
            }
        })?;
        let oldest = m.reigns.first().map_or(0, |reign| reign.start);
        let theirs = m.reigns.iter().filter(|reign| reign.start >= begins);
        let ours = reigns.iter().filter(|reign| reign.start >= oldest);
        let in_time = before_ns <= m.at_ns.saturating_add(CLOCKS_NS)
            && m.at_ns <= after_ns.saturating_add(CLOCKS_NS);
        if !(has_floor && has_barrier && in_time && theirs.eq(ours)) {
            bail!(
                "the checkpoint was not taken beside the log that was recorded, but beside another"
            );
        }
        Ok(())
    }

    /// What the application finds in the place of its directories (the first of each pair in that of the
    /// second): it works at the same paths as it did, and nothing that it does there is to stay.
    pub fn own_files(
        &self,
        config: &Config,
        work_dir: Option<&Path>,
        scratch: &Path,
    ) -> anyhow::Result<Vec<(PathBuf, PathBuf)>> {
        let work = match work_dir {
            Some(given) => std::path::absolute(given)?,
            None => scratch.join("work"),
        };
        let mut pairs = vec![(work, config.service.work_dir.clone())];
        for (nth, at) in config.service.state_dirs.iter().enumerate() {
            let own = scratch.join("kept").join(nth.to_string());
            fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
            pairs.push((own, at.clone()));
        }
        // What holds others comes before them.
        pairs.sort_by_key(|(_, at)| at.components().count());
        for (nth, (own, at)) in pairs.iter().enumerate() {
            if let Some((holder, above)) =
                pairs[..nth].iter().find(|(_, above)| at.starts_with(above))
            {
                let inside = holder.join(at.strip_prefix(above)?);
                fs::create_dir_all(&inside)?;
                continue;
            }
            let there = fs::metadata(at).ok().filter(fs::Metadata::is_dir);
            let there = there.with_context(|| {
                format!("{} is not there, where the application works: make it", at.display())
            })?;
            let hidden = [scratch, &self.0.dir].into_iter().find(|path| path.starts_with(at));
            if let Some(hidden) = hidden {
                bail!(
                    "{} is in {}, which the application has for itself",
                    hidden.display(),
                    at.display()
                );
            }
            if own.starts_with(scratch) {
                fs::set_permissions(own, there.permissions())?;
                chown(own, Some(there.uid()), Some(there.gid()))?;
            }
        }
        Ok(pairs)
    }

    /// Brings the application back in `ns`, as a node does; its clocks show what they showed then.
    pub fn restore(mut self, config: &Config, ns: &NetNs) -> anyhow::Result<Begun> {
        self.0.manifest.set_age(Duration::ZERO);
        let taken_unix_ns = self.0.manifest.taken_unix_ns;
        let restored = method::find(config)?.restore(ns, &method::site(config), &self.0)?;
        let m = &self.0.manifest;
        let told = ReplayedCheckpoint {
            taken_on: m.node.clone(),
            taken_unix_ns,
            position: m.position,
            floor: m.floor,
            connections: restored.connections.len() as u64,
        };
        let resume = resume::resume(&self.0, &restored.connections, config.vmac());
        Ok(Begun { app: restored.app, resume, told })
    }
}
