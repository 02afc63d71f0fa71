//! Writes what a merge or the remote brings into the workspace: the difference of two trees, where the workspace is the
//! first of them.
//!
//! Everything is looked at before anything is written: a path that git must not have (`..`, `.git`, our own names), or
//! where something is that is not committed, be it new or a change, is reported and nothing is done. Then files are written
//! below the root and without following links, each whole or not at all, and the index is told of exactly these. An
//! interruption leaves a mixture of both sides that the next snapshot commits on top of the old commit: the next merge
//! completes it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use git2::{Delta, DiffDelta, DiffOptions, FileMode, Index, IndexEntry, Oid, Tree as GitTree};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fsync, openat, renameat, statat, symlinkat, unlinkat};

use super::message::Failure;
use super::repository::Repository;
use super::snapshot::{SUBMODULE, is_same, known_as, mode_of};
use super::{failed, refused};
use crate::worker::message::{Condition, Failure as TreeFailure, Kind};
use crate::worker::relpath::{RelPath, join};
use crate::worker::tree::{Tree, failure, temporary};
use crate::worker::walk::{Then, walk};

/// Our own directory for files that are about to get their names.
const NEW: &str = ".pi-gateway-git";
/// How long one removal of what an interrupted checkout left may take.
const SWEEP: Duration = Duration::from_secs(2);

/// Removes what an interrupted checkout has left: it counts in the user's quota. For whoever has the workspace to himself;
/// what cannot be removed now is tried again by the next job.
pub fn sweep(tree: &Tree) {
    if let Err(failure) = crate::worker::trash::sweep_named(tree, NEW, Instant::now() + SWEEP) {
        tracing::warn!(?failure, "what an interrupted checkout left cannot be removed");
    }
}

/// A path that becomes something else.
struct Change {
    path: RelPath,
    new: Option<(Oid, FileMode)>,
}

/// Makes the workspace and its index, which are `from` but for what could not be committed, to be `to`. The paths that are
/// in the way, if any; nothing has changed then.
///
/// # Errors
/// When objects cannot be read or files not be written.
pub fn checkout(
    repository: &Repository<'_>,
    from: Option<&GitTree<'_>>,
    to: &GitTree<'_>,
) -> Result<Vec<Vec<u8>>, Failure> {
    let told = failed("comparing two trees");
    let mut options = DiffOptions::new();
    options.include_typechange(true);
    let diff = repository.git.diff_tree_to_tree(from, Some(to), Some(&mut options)).map_err(&told)?;
    let (mut index, _) = repository.index()?;
    let going = going(&diff);
    let (mut changes, mut in_the_way) = (Vec::new(), Vec::new());
    for delta in diff.deltas() {
        let (old, new) = (delta.old_file(), delta.new_file());
        let is_removal = delta.status() == Delta::Deleted;
        let bytes = if is_removal { old.path_bytes() } else { new.path_bytes() }.unwrap_or_default();
        let Some(path) = parse(bytes) else {
            in_the_way.push(bytes.to_vec());
            continue;
        };
        let is_free = match delta.status() {
            Delta::Added => !is_taken(repository, &path, &going)?,
            _ => is_committed(repository, &path, &delta, &index)?,
        };
        if !is_free {
            in_the_way.push(bytes.to_vec());
        }
        changes.push(Change { path, new: (!is_removal).then(|| (new.id(), new.mode())) });
    }
    if !in_the_way.is_empty() {
        return Ok(in_the_way);
    }
    // Removals first: a file may become a directory, and a directory a file.
    for change in changes.iter().filter(|change| change.new.is_none()) {
        remove(repository, &change.path)?;
    }
    let places = repository.tree.reserved(NEW).map_err(refused("making a directory of our own"))?;
    for change in &changes {
        if let Some((id, mode)) = change.new {
            write(repository, &places, &change.path, id, mode)?;
        }
    }
    let _ = unlinkat(repository.tree.root(), NEW, AtFlags::REMOVEDIR);
    note(repository, &changes, &mut index)?;
    Ok(Vec::new())
}

/// Tells the index what was written. A snapshot would not do: it leaves out what is ignored or too large, whoever has
/// committed it, and the next commit would take it from him.
fn note(repository: &Repository<'_>, changes: &[Change], index: &mut Index) -> Result<(), Failure> {
    let told = failed("changing the index");
    for change in changes.iter().filter(|change| change.new.is_none()) {
        // It may be gone from it already.
        let _ = index.remove(Path::new(OsStr::from_bytes(change.path.as_bytes())), 0);
    }
    for Change { path, new } in changes {
        if let (Some((id, mode)), Some(stat)) = (new, stat(repository, path)?) {
            let mode = if *mode == FileMode::Commit { SUBMODULE } else { mode_of(&stat) };
            index.add(&known_as(&stat, mode, *id, path.as_bytes())).map_err(&told)?;
        }
    }
    repository.put_index(index)
}

/// What becomes free: files that go, and the directories above them.
fn going(diff: &git2::Diff<'_>) -> HashSet<Vec<u8>> {
    let gone = diff.deltas().filter(|delta| delta.status() == Delta::Deleted);
    let paths = gone.filter_map(|delta| parse(delta.old_file().path_bytes()?));
    paths.flat_map(|path| path.ancestors().map(|path| path.as_bytes().to_vec()).collect::<Vec<_>>()).collect()
}

fn stat(repository: &Repository<'_>, path: &RelPath) -> Result<Option<Stat>, Failure> {
    let (parent, name) = path.split().map_err(refused("a path"))?;
    let found = repository
        .tree
        .directory(&parent)
        .and_then(|directory| statat(directory, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW).map_err(failure));
    match found {
        Ok(stat) => Ok(Some(stat)),
        Err(TreeFailure::NotFound | TreeFailure::NotADirectory | TreeFailure::Outside) => Ok(None),
        Err(other) => Err(refused("looking at the workspace")(other)),
    }
}

/// Whether nothing is lost when what is at a path is changed or removed: the last snapshot has it as it is.
fn is_committed(
    repository: &Repository<'_>,
    path: &RelPath,
    delta: &DiffDelta<'_>,
    index: &Index,
) -> Result<bool, Failure> {
    let Some(stat) = stat(repository, path)? else { return Ok(true) };
    if delta.old_file().mode() == FileMode::Commit {
        // Another repository's place, which is kept unless a file comes to it.
        let stays = delta.status() == Delta::Deleted || delta.new_file().mode() == FileMode::Commit;
        let is_directory = FileType::from_raw_mode(stat.st_mode).is_dir();
        return Ok(stays || is_directory && !holds_more(repository, path, &HashSet::new())?);
    }
    let now: IndexEntry = known_as(&stat, mode_of(&stat), delta.old_file().id(), path.as_bytes());
    let known = index.get_path(Path::new(OsStr::from_bytes(path.as_bytes())), 0);
    Ok(known.is_some_and(|known| known.id == now.id && is_same(&known, &now)))
}

/// Whether a directory holds anything but what goes.
fn holds_more(repository: &Repository<'_>, directory: &RelPath, going: &HashSet<Vec<u8>>) -> Result<bool, Failure> {
    let told = refused("looking at the workspace");
    let (mut more, mut hidden) = (false, false);
    let walked = walk(
        repository.tree.directory(directory).map_err(&told)?,
        |met| {
            more = !going.contains(&join(directory.as_bytes(), met.path));
            if more { Err(TreeFailure::NotEmpty) } else { Ok(Then::Enter) }
        },
        |_, _| hidden = true,
    );
    if more { Ok(true) } else { walked.map(|()| hidden).map_err(told) }
}

/// A path that git may have and we take.
fn parse(bytes: &[u8]) -> Option<RelPath> {
    let is_git = |part: &[u8]| part.eq_ignore_ascii_case(b".git");
    if bytes.is_empty() || bytes.split(|byte| *byte == b'/').any(is_git) {
        return None;
    }
    RelPath::parse(bytes.to_vec()).ok()
}

/// Whether something that is not committed is where a new file is to be, or on the way to it.
fn is_taken(repository: &Repository<'_>, path: &RelPath, going: &HashSet<Vec<u8>>) -> Result<bool, Failure> {
    for ancestor in path.ancestors() {
        let found = match repository.tree.stat(&ancestor) {
            Ok(entry) => entry.kind,
            Err(TreeFailure::NotFound | TreeFailure::NotADirectory) => return Ok(false),
            Err(other) => return Err(refused("looking at the workspace")(other)),
        };
        let goes = going.contains(ancestor.as_bytes());
        match found {
            Kind::Directory if ancestor != *path => {}
            // A directory that empties when what was committed in it goes is removed with it.
            Kind::Directory => return Ok(!goes || holds_more(repository, path, going)?),
            _ => return Ok(!goes),
        }
    }
    Ok(false)
}

fn remove(repository: &Repository<'_>, path: &RelPath) -> Result<(), Failure> {
    let tree = repository.tree;
    match tree.remove(path, false, Condition::None) {
        Ok(()) | Err(TreeFailure::NotFound | TreeFailure::NotADirectory | TreeFailure::NotEmpty) => {}
        Err(other) => return Err(refused("removing a file")(other)),
    }
    // git keeps no empty directories.
    let mut directory = path.split().map_err(refused("a path"))?.0;
    while !directory.is_root() && tree.remove(&directory, false, Condition::None).is_ok() {
        directory = directory.split().map_err(refused("a path"))?.0;
    }
    Ok(())
}

fn write(
    repository: &Repository<'_>,
    places: &OwnedFd,
    path: &RelPath,
    id: Oid,
    mode: FileMode,
) -> Result<(), Failure> {
    let told = refused("writing a file");
    let (tree, by_kernel) = (repository.tree, |error| told(failure(error)));
    let (parent, name) = path.split().map_err(&told)?;
    tree.make_parents(&parent).map_err(&told)?;
    if mode == FileMode::Commit {
        // Another repository's commit: its place is kept, its content is not fetched.
        return match tree.make_directory(path) {
            Ok(()) | Err(TreeFailure::Exists) => Ok(()),
            Err(other) => Err(told(other)),
        };
    }
    let directory = tree.directory(&parent).map_err(&told)?;
    let blob = repository.git.find_blob(id).map_err(failed("reading an object"))?;
    let place = temporary();
    if mode == FileMode::Link {
        symlinkat(OsStr::from_bytes(blob.content()), places, place.as_str()).map_err(by_kernel)?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let bits = Mode::from_raw_mode(if mode == FileMode::BlobExecutable { 0o777 } else { 0o666 });
        let mut file = std::fs::File::from(openat(places, place.as_str(), flags, bits).map_err(by_kernel)?);
        let written = file.write_all(blob.content()).and_then(|()| Ok(fsync(&file)?));
        written.map_err(|error| match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => told(TreeFailure::NoSpace),
            _ => Failure::new("git_failed", format_args!("writing a file: {error}")),
        })?;
    }
    // In place of a submodule's empty directory.
    let _ = unlinkat(&directory, OsStr::from_bytes(name), AtFlags::REMOVEDIR);
    renameat(places, place.as_str(), &directory, OsStr::from_bytes(name)).map_err(by_kernel)
}
