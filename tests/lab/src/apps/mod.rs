//! Real applications that are not made for this: what each needs to run on every node alike.

pub mod bird;
pub mod nginx;
pub mod postgres;

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::node::work_dir;
use crate::topology::{Lab, Member};

/// Every node's working directory, made.
fn work_dirs(lab: &Lab) -> Result<Vec<PathBuf>> {
    let dirs = Member::ALL.map(|member| work_dir(lab, member));
    dirs.iter().try_for_each(fs::create_dir_all)?;
    Ok(dirs.to_vec())
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(String::from).collect()
}
