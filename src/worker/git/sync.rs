//! The tasks: prepare, snapshot, sync, push, compare.
//!
//! The order inside a sync is what makes it safe to be killed anywhere: commit what is there, fetch, write the merged
//! files, move the branch, push. Until the branch has moved the old commit counts, and whatever was written meanwhile is
//! committed on top of it by the next snapshot.

use std::path::Path;

use git2::{Commit, Oid, Signature};

use super::checkout::checkout;
use super::message::{
    Change, ChangeKind, Committed, Compared, Failure, MAX_NAMED, Outcome, Pushed, Settings, Synced, shown,
};
use super::remote::Way;
use super::repository::{Repository, open, open_as_it_is};
use super::{failed, snapshot};
use crate::worker::tree::Tree;

fn signature(settings: &Settings) -> Result<Signature<'static>, Failure> {
    Signature::now(&settings.author, &settings.email).map_err(failed("naming the author"))
}

/// Commits what the workspace holds; None without a repository.
///
/// # Errors
/// When it cannot be done; the branch is where it was then.
pub fn commit<'a>(
    tree: &'a Tree,
    settings: &Settings,
    message: &str,
    scratch: &Path,
) -> Result<Option<(Repository<'a>, Committed)>, Failure> {
    let Some(repository) = open(tree, settings, scratch)? else { return Ok(None) };
    let branch = repository.branch()?;
    let taken = snapshot::take(&repository, settings.quota)?;
    let parent = repository.commit_of(&format!("refs/heads/{branch}"))?;
    let is_new = match &parent {
        // A repository begins with a commit, if only an empty one: then there is something to compare with.
        None => true,
        Some(parent) => parent.tree_id() != taken.tree,
    };
    let message = if parent.is_none() && !settings.initial_message.is_empty() && message.is_empty() {
        &settings.initial_message
    } else {
        message
    };
    let made = if is_new { Some(make(&repository, settings, message, taken.tree, parent.as_slice())?) } else { None };
    // Done before a restart: the commit says by its message, which names the run, that it is this one.
    let known = parent.as_ref().filter(|parent| !is_new && parent.message() == Ok(message)).map(Commit::id);
    drop(parent);
    if let Some(oid) = made {
        repository.set_branch(&branch, oid)?;
    }
    if let Some(mut index) = taken.index {
        repository.put_index(&mut index)?;
    }
    let committed = Committed {
        position: repository.position()?,
        commit: made.or(known).map(|oid| oid.to_string()),
        skipped: taken.skips,
        set_aside: repository.set_aside.clone(),
    };
    Ok(Some((repository, committed)))
}

fn make(
    repository: &Repository<'_>,
    settings: &Settings,
    message: &str,
    tree: Oid,
    parents: &[Commit<'_>],
) -> Result<Oid, Failure> {
    let told = failed("making a commit");
    let (tree, author) = (repository.git.find_tree(tree).map_err(&told)?, signature(settings)?);
    let parents: Vec<_> = parents.iter().collect();
    repository.git.commit(None, &author, &author, message, &tree, &parents).map_err(told)
}

/// Makes the repository of a new workspace. What the remote has is taken over before anything is committed; when it
/// cannot be asked, the first sync merges.
///
/// # Errors
/// When it cannot be made.
pub fn prepare(tree: &Tree, settings: &Settings, scratch: &Path) -> Result<Committed, Failure> {
    if let Some(way) = Way::of(settings)
        && let Some(repository) = open(tree, settings, &scratch.join("fetch"))?
    {
        let branch = repository.branch()?;
        let is_new = repository.commit_of(&format!("refs/heads/{branch}"))?.is_none();
        if is_new && let Err(failure) = way.fetch(&repository) {
            tracing::warn!(code = failure.code, "the remote cannot be asked for the new workspace's content");
        }
        let theirs = repository.commit_of(&format!("refs/remotes/origin/{branch}"))?;
        if let (true, Some(theirs)) = (is_new, theirs) {
            let new = theirs.tree().map_err(failed("reading the remote's tree"))?;
            if checkout(&repository, None, &new)?.is_empty() {
                repository.set_branch(&branch, theirs.id())?;
            }
        }
    }
    let committed = commit(tree, settings, "", &scratch.join("commit"))?;
    Ok(committed.map(|(_, committed)| committed).unwrap_or_default())
}

/// Commits, fetches, merges and pushes.
///
/// # Errors
/// When committing fails, or the remote cannot be asked; what was committed stays.
pub fn sync(tree: &Tree, settings: &Settings, message: &str, scratch: &Path) -> Result<Synced, Failure> {
    let Some((repository, committed)) = commit(tree, settings, message, &scratch.join("commit"))? else {
        return Err(Failure::new("no_repository", "the workspace is no git repository (WORKSPACE_GIT_INIT_ENABLED)"));
    };
    let way =
        Way::of(settings).ok_or_else(|| Failure::new("no_remote", "there is no remote (WORKSPACE_REMOTE_MODE)"))?;
    way.fetch(&repository)?;
    let outcome = merge(&repository, settings, &way)?;
    let pushed = match &outcome {
        Outcome::Conflict { count, .. } => {
            Pushed::Not(Failure::new("conflict", format_args!("{count} paths were changed on both sides")))
        }
        _ => way.push(&repository),
    };
    Ok(Synced { committed, outcome, position: repository.position()?, pushed })
}

fn merge(repository: &Repository<'_>, settings: &Settings, way: &Way) -> Result<Outcome, Failure> {
    let (git, branch) = (&repository.git, repository.branch()?);
    let ours = repository.commit_of(&format!("refs/heads/{branch}"))?;
    let ours = ours.ok_or_else(|| Failure::new("git_failed", "the branch has no commit"))?;
    let Some(theirs) = repository.commit_of(&format!("refs/remotes/origin/{branch}"))? else {
        return Ok(Outcome::UpToDate);
    };
    let told = failed("merging");
    let descends = |one: &Commit<'_>, other: &Commit<'_>| {
        Ok(one.id() == other.id() || git.graph_descendant_of(one.id(), other.id()).map_err(&told)?)
    };
    if descends(&ours, &theirs)? {
        return Ok(Outcome::UpToDate);
    }
    let old = ours.tree().map_err(&told)?;
    if descends(&theirs, &ours)? {
        let new = theirs.tree().map_err(&told)?;
        let in_the_way = checkout(repository, Some(&old), &new)?;
        if !in_the_way.is_empty() {
            return conflict(repository, way, ours.id(), in_the_way);
        }
        repository.set_branch(&branch, theirs.id())?;
        return Ok(Outcome::FastForward);
    }
    let mut merged = git.merge_commits(&ours, &theirs, None).map_err(&told)?;
    if merged.has_conflicts() {
        let mut paths = Vec::new();
        for conflict in merged.conflicts().map_err(&told)? {
            let conflict = conflict.map_err(&told)?;
            let side = conflict.our.or(conflict.their).or(conflict.ancestor);
            paths.extend(side.map(|side| side.path));
        }
        paths.dedup();
        return conflict(repository, way, ours.id(), paths);
    }
    let new = merged.write_tree_to(git).and_then(|oid| git.find_tree(oid)).map_err(&told)?;
    let in_the_way = checkout(repository, Some(&old), &new)?;
    if !in_the_way.is_empty() {
        return conflict(repository, way, ours.id(), in_the_way);
    }
    let message = format!("Merge the remote's {branch}");
    let made = make(repository, settings, &message, new.id(), &[ours, theirs])?;
    repository.set_branch(&branch, made)?;
    Ok(Outcome::Merged(made.to_string()))
}

/// Keeps both sides: ours goes to a branch of its own at the remote, once for each commit.
fn conflict(repository: &Repository<'_>, way: &Way, ours: Oid, paths: Vec<Vec<u8>>) -> Result<Outcome, Failure> {
    let side = format!("pi-gateway/conflict-{}", &ours.to_string()[..12]);
    way.put(repository, ours, &side)?;
    let count = paths.len() as u64;
    let paths = paths.iter().take(MAX_NAMED).map(|path| shown(path)).collect();
    Ok(Outcome::Conflict { paths, count, side })
}

/// Compares the workspace with its last commit. An agent may be at work by then: nothing is changed but that objects are
/// added.
///
/// # Errors
/// When it cannot be read.
pub fn compare(tree: &Tree, settings: &Settings, scratch: &Path) -> Result<Compared, Failure> {
    let Some(repository) = open_as_it_is(tree, scratch)? else { return Ok(Compared::default()) };
    let position = repository.position()?;
    let taken = snapshot::take(&repository, settings.quota)?;
    let told = failed("comparing with the last commit");
    let old = repository.committed()?.map(|commit| commit.tree()).transpose().map_err(&told)?;
    let new = repository.git.find_tree(taken.tree).map_err(&told)?;
    let diff = repository.git.diff_tree_to_tree(old.as_ref(), Some(&new), None).map_err(&told)?;
    let changed = diff.deltas().take(MAX_NAMED).map(|delta| {
        let (kind, file) = match delta.status() {
            git2::Delta::Added => (ChangeKind::Added, delta.new_file()),
            git2::Delta::Deleted => (ChangeKind::Deleted, delta.old_file()),
            _ => (ChangeKind::Modified, delta.new_file()),
        };
        Change { path: shown(file.path_bytes().unwrap_or_default()), kind }
    });
    let (changed, count) = (changed.collect(), diff.deltas().len() as u64);
    Ok(Compared { position, changed, count, skipped: taken.skips })
}
