//! How much a tree takes on the disk.

use super::message::Failure;
use super::relpath::RelPath;
use super::tree::Tree;
use super::walk::{Then, walk};

/// What a tree takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on the disk: holes cost nothing. A file with several names counts as often.
    pub bytes: u64,
    /// Files, directories and others.
    pub inodes: u64,
}

/// Counts a tree.
///
/// # Errors
/// When part of it cannot be counted: a directory that its owner has closed hides what it holds.
pub fn measure(tree: &Tree) -> Result<Usage, Failure> {
    let (mut usage, mut hidden) = (Usage::default(), None);
    walk(
        tree.directory(&RelPath::parse(Vec::new())?)?,
        |met| {
            usage.bytes += u64::try_from(met.stat.st_blocks).unwrap_or(0) * 512;
            usage.inodes += 1;
            Ok(Then::Enter)
        },
        |_, failure| hidden = Some(failure),
    )?;
    hidden.map_or(Ok(usage), Err)
}
