//! The user's repository, and how libgit2 gets to it.
//!
//! A scratch repository on a tmpfs has a configuration of our own and links to the objects and refs of the workspace's
//! `.git`. Before they are linked, everything in them is looked at: only regular files and directories of a plain
//! repository may be there, no alternates, nothing that libgit2 could wait for or be led away by. What else `.git` holds
//! (configuration, hooks, attributes, excludes, worktrees, modules) is the agent's own business and is not read.
//!
//! A `.git` that is no such repository is renamed and reported, and a new one made: nothing is lost, and the workspace is
//! committed all the same. With a remote the history comes back from there.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use git2::{ConfigLevel, Oid, Repository as Git, RepositoryOpenFlags};
use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};

use super::message::{Failure, Position, Settings};
use super::{broken, checkout, failed, refused, transport};
use crate::worker::message::{Condition, Failure as TreeFailure, Kind};
use crate::worker::relpath::RelPath;
use crate::worker::tree::Tree;
use crate::worker::walk::{Then, walk};

/// What the names begin with that unusable repositories are given.
pub const SET_ASIDE: &str = ".git-set-aside-";
/// The largest HEAD or ref, in bytes.
const MAX_REF: u64 = 1024;
/// The largest list of packed refs, in bytes.
const MAX_PACKED_REFS: u64 = 16 << 20;
/// The largest index, in bytes.
const MAX_INDEX: u64 = 512 << 20;
/// Refs that there may be, in files of their own.
const MAX_REFS: usize = 10_000;
/// The configuration of a new repository in a workspace.
const CONFIG: &str =
    "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n";
/// What the names of objects begin with that are being written, by git and by libgit2.
const TEMPORARY: [&[u8]; 2] = [b"tmp_", b"pack_git2_"];
/// How many of them are removed in one go.
const MAX_LEFT: usize = 1000;
/// What git in the sandbox leaves alone as well.
const EXCLUDE: &str = "/.git-set-aside-*\n/.pi-gateway-*\n";
/// The configuration of the scratch repository. Packs are made with little memory: what is large is not compared.
const SCRATCH_CONFIG: &str = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n\t\
    logallrefupdates = false\n\tbigFileThreshold = 1m\n[pack]\n\twindowMemory = 8m\n\tdeltaCacheSize = 8m\n";

/// A workspace's repository.
pub struct Repository<'a> {
    /// The scratch repository with its objects and refs.
    pub git: Git,
    /// The workspace.
    pub tree: &'a Tree,
    /// What an unusable `.git` was renamed to.
    pub set_aside: Option<String>,
    /// What objects and refs take on the disk, in bytes.
    pub taken: u64,
    /// Whether nobody else is at work in it; otherwise only objects and what was fetched are written.
    alone: bool,
    scratch: PathBuf,
}

/// Makes libgit2 read nothing but what it is given.
///
/// # Errors
/// When it refuses.
pub fn isolate() -> Result<(), Failure> {
    let told = failed("setting libgit2 up");
    for level in [ConfigLevel::System, ConfigLevel::Global, ConfigLevel::XDG, ConfigLevel::ProgramData] {
        // SAFETY: called before any thread is started.
        unsafe { git2::opts::set_search_path(level, "") }.map_err(&told)?;
    }
    // SAFETY: as above. A server that falls silent is given up; the relay has limits of its own.
    unsafe {
        git2::opts::set_server_connect_timeout_in_milliseconds(10_000).map_err(&told)?;
        git2::opts::set_server_timeout_in_milliseconds(120_000).map_err(&told)?;
        transport::register().map_err(&told)?;
    }
    // What is written was just made of what is there.
    git2::opts::strict_object_creation(false);
    Ok(())
}

fn path(name: &str) -> Result<RelPath, Failure> {
    RelPath::parse(name.as_bytes().to_vec()).map_err(refused("a path"))
}

/// What is there; None when nothing is.
fn kind(tree: &Tree, name: &str) -> Result<Option<(Kind, u64)>, Failure> {
    match tree.stat(&path(name)?) {
        Ok(entry) => Ok(Some((entry.kind, entry.version.size))),
        Err(TreeFailure::NotFound) => Ok(None),
        Err(other) => Err(refused("looking at .git")(other)),
    }
}

/// Opens the workspace's repository for whoever has the workspace to himself. None when there is none and none is to be
/// made. `scratch` is a directory that is this job's alone.
///
/// # Errors
/// When it can neither be used nor replaced.
pub fn open<'a>(tree: &'a Tree, settings: &Settings, scratch: &Path) -> Result<Option<Repository<'a>>, Failure> {
    checkout::sweep(tree);
    let found = kind(tree, ".git")?;
    if found.is_none() && !settings.init {
        return Ok(None);
    }
    let mut set_aside = None;
    let told = match found {
        Some((Kind::Directory, _)) => {
            make(tree, settings).and_then(|()| census(tree)).and_then(|found| unlock(tree, found))
        }
        Some((other, _)) => Err(Failure::new("repository_unusable", format_args!(".git is a {other:?}"))),
        None => make(tree, settings).map(|()| 0),
    };
    let taken = *told.as_ref().unwrap_or(&0);
    if let Err(failure) = told {
        if failure.code == "disk_full" || found.is_none() {
            return Err(failure);
        }
        tracing::warn!(reason = failure.message, "the workspace's repository is set aside");
        set_aside = Some(put_aside(tree)?);
        if !settings.init {
            return Ok(None);
        }
        make(tree, settings)?;
    }
    let opened = |scratch: PathBuf, set_aside, taken| {
        Ok(Some(Repository { git: link(tree, &scratch)?, tree, set_aside, taken, alone: true, scratch }))
    };
    let first = opened(scratch.join("first"), set_aside, taken)?;
    // What is committed is needed for the next commit; a history that cannot be read is as good as none.
    match first.as_ref().map(|repository| repository.position()) {
        Some(Err(failure)) if failure.code != "disk_full" && settings.init => {
            tracing::warn!(reason = failure.message, "the workspace's repository is set aside");
            let name = put_aside(tree)?;
            make(tree, settings)?;
            opened(scratch.join("second"), Some(name), 0)
        }
        Some(Err(failure)) => Err(failure),
        _ => Ok(first),
    }
}

/// Opens it beside an agent that may be at work, to look at it or push what is committed: locks, HEAD and what cannot be
/// used are left as they are.
///
/// # Errors
/// When it cannot be used; nothing has changed then.
pub fn open_as_it_is<'a>(tree: &'a Tree, scratch: &Path) -> Result<Option<Repository<'a>>, Failure> {
    if kind(tree, ".git")?.is_none() {
        return Ok(None);
    }
    let taken = census(tree)?.taken;
    let (git, scratch) = (link(tree, scratch)?, scratch.to_owned());
    Ok(Some(Repository { git, tree, set_aside: None, taken, alone: false, scratch }))
}

/// Makes what is missing of a plain repository.
fn make(tree: &Tree, settings: &Settings) -> Result<(), Failure> {
    if kind(tree, ".git")?.is_none() {
        tree.make_directory(&path(".git/info")?).map_err(refused("making a repository"))?;
        write(tree, ".git/info/exclude", EXCLUDE.as_bytes())?;
    }
    for name in [".git", ".git/objects", ".git/refs", ".git/refs/heads", ".git/refs/tags", ".git/objects/pack"] {
        if kind(tree, name)?.is_none() {
            tree.make_directory(&path(name)?).map_err(refused("making a repository"))?;
        }
    }
    for (name, text) in [(".git/config", CONFIG), (".git/HEAD", &format!("ref: refs/heads/{}\n", settings.branch))] {
        if kind(tree, name)?.is_none() {
            write(tree, name, text.as_bytes())?;
        }
    }
    Ok(())
}

fn write(tree: &Tree, name: &str, bytes: &[u8]) -> Result<(), Failure> {
    let (name, told) = (path(name)?, refused("writing to .git"));
    let mut unnamed = tree.create(&name, false).map_err(&told)?;
    let written = unnamed.file.write_all(bytes);
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => told(TreeFailure::NoSpace),
        _ => broken("writing to .git")(error),
    })?;
    tree.commit(unnamed, &name, Condition::None).map(|_| ()).map_err(&told)
}

/// What was found in a usable repository.
#[derive(Default)]
struct Census {
    /// What it takes on the disk, in bytes.
    taken: u64,
    /// What an interrupted git has left among the objects.
    left: Vec<Vec<u8>>,
}

/// Looks through what libgit2 is going to see.
fn census(tree: &Tree) -> Result<Census, Failure> {
    let unusable = |what: &str| Failure::new("repository_unusable", what);
    for name in [".git", ".git/objects", ".git/refs"] {
        if !matches!(kind(tree, name)?, Some((Kind::Directory, _))) {
            return Err(unusable(&format!("{name} is no directory")));
        }
    }
    if !matches!(kind(tree, ".git/HEAD")?, Some((Kind::File, 1..=MAX_REF))) {
        return Err(unusable(".git/HEAD is no small file"));
    }
    if !matches!(kind(tree, ".git/packed-refs")?, None | Some((Kind::File, 0..=MAX_PACKED_REFS))) {
        return Err(unusable(".git/packed-refs is no file of at most 16 MiB"));
    }
    let mut refs = 0;
    look_through(tree, ".git/refs", |met_path, kind, size, _| {
        refs += 1;
        match kind {
            Kind::Directory => None,
            Kind::File if size <= MAX_REF && refs <= MAX_REFS => None,
            Kind::File if met_path.ends_with(b".lock") => None,
            Kind::File => Some("too large, or one ref too many"),
            _ => Some("neither file nor directory"),
        }
    })?;
    let mut found = Census::default();
    let Census { taken, left } = &mut found;
    look_through(tree, ".git/objects", |met_path, kind, _, blocks| match kind {
        Kind::File if met_path == b"info/alternates" || met_path == b"info/http-alternates" => {
            Some("objects of another repository")
        }
        Kind::File => {
            *taken += blocks * 512;
            let name = met_path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            if TEMPORARY.iter().any(|begin| name.starts_with(begin)) && left.len() < MAX_LEFT {
                left.push([b".git/objects/", met_path].concat());
            }
            None
        }
        Kind::Directory => None,
        _ => Some("neither file nor directory"),
    })?;
    Ok(found)
}

fn look_through(
    tree: &Tree,
    name: &str,
    mut judge: impl FnMut(&[u8], Kind, u64, u64) -> Option<&'static str>,
) -> Result<(), Failure> {
    let root = tree.directory(&path(name)?).map_err(refused("opening .git"))?;
    let tell = |path: &[u8], what: &str| {
        let path = String::from_utf8_lossy(path);
        Failure::new("repository_unusable", format_args!("{name}/{path}: {what}"))
    };
    let (mut wrong, mut lost) = (None, None);
    let walked = walk(
        root,
        |met| {
            let number = |number: i64| u64::try_from(number).unwrap_or(0);
            let (size, blocks) = (number(met.stat.st_size), number(met.stat.st_blocks));
            if let Some(what) = judge(met.path, crate::worker::tree::kind(&met.stat), size, blocks) {
                wrong = Some(tell(met.path, what));
                return Err(TreeFailure::Unfit);
            }
            Ok(Then::Enter)
        },
        |path, failure| {
            lost.get_or_insert_with(|| tell(path, &format!("{failure:?}")));
        },
    );
    match (wrong, lost, walked) {
        (Some(failure), ..) | (None, Some(failure), _) => Err(failure),
        (None, None, Err(failure)) => Err(tell(b"", &format!("{failure:?}"))),
        (None, None, Ok(())) => Ok(()),
    }
}

/// Removes the locks of a git that was killed, and what else it has left; gives what the repository takes. Nobody else is at
/// work in it.
fn unlock(tree: &Tree, found: Census) -> Result<u64, Failure> {
    let mut locks = found.left;
    locks.extend(["HEAD", "index", "packed-refs", "config"].map(|name| format!(".git/{name}.lock").into_bytes()));
    look_through(tree, ".git/refs", |met_path, kind, _, _| {
        if kind == Kind::File && met_path.ends_with(b".lock") {
            locks.push([b".git/refs/", met_path].concat());
        }
        None
    })?;
    for lock in locks {
        let Ok(lock) = RelPath::parse(lock) else { continue };
        match tree.remove(&lock, false, Condition::None) {
            Ok(()) | Err(TreeFailure::NotFound) => {}
            Err(other) => return Err(refused("removing an old lock of git")(other)),
        }
    }
    Ok(found.taken)
}

fn put_aside(tree: &Tree) -> Result<String, Failure> {
    let name = format!("{SET_ASIDE}{}", uuid::Uuid::now_v7());
    let renamed = tree.rename(&path(".git")?, &path(&name)?, false);
    renamed.map(|()| name).map_err(refused("setting the unusable .git aside"))
}

/// Makes the scratch repository and opens it.
fn link(tree: &Tree, scratch: &Path) -> Result<Git, Failure> {
    let told = broken("making the scratch repository");
    fs::create_dir_all(scratch).map_err(&told)?;
    fs::write(scratch.join("config"), SCRATCH_CONFIG).map_err(&told)?;
    let root = tree.path();
    for name in ["objects", "refs", "packed-refs"] {
        symlink(root.join(".git").join(name), scratch.join(name)).map_err(&told)?;
    }
    copy_out(tree, ".git/HEAD", MAX_REF, &scratch.join("HEAD"))?;
    let flags = RepositoryOpenFlags::BARE | RepositoryOpenFlags::NO_SEARCH | RepositoryOpenFlags::NO_DOTGIT;
    let git = Git::open_ext(scratch, flags, [] as [&Path; 0]);
    // A merge would look for attributes in the repository's own index.
    let opened = git.and_then(|git| git.set_index(&mut git2::Index::new()?).map(|()| git));
    opened.map_err(failed("opening the repository"))
}

/// Copies a regular file of at most `most` bytes; tells whether there was one.
fn copy_out(tree: &Tree, name: &str, most: u64, to: &Path) -> Result<bool, Failure> {
    let (from, entry) = match tree.open_file(&path(name)?) {
        Ok(opened) => opened,
        Err(TreeFailure::NotFound) => return Ok(false),
        // Whatever is there instead of an index is replaced by one.
        Err(_) => return Ok(false),
    };
    if entry.version.size > most {
        return Ok(false);
    }
    let told = broken("copying a file of .git");
    let mut out = fs::File::create(to).map_err(&told)?;
    std::io::copy(&mut from.take(most), &mut out).map_err(&told)?;
    Ok(true)
}

impl Repository<'_> {
    /// The index as the last snapshot or the agent left it, and when it was written, in nanoseconds since the epoch. One of
    /// the last commit when it is not there or cannot be read: what is not in it and cannot be taken anew, because it is
    /// ignored or too large, would be gone from the next commit.
    ///
    /// # Errors
    /// When not even that can be had.
    pub fn index(&self) -> Result<(git2::Index, i64), Failure> {
        let (name, file) = (path(".git/index")?, self.scratch.join("index"));
        let written = match self.tree.stat(&name) {
            Ok(entry) if entry.kind == Kind::File => entry.version.modified,
            _ => 0,
        };
        let _ = fs::remove_file(&file);
        let there = written != 0 && copy_out(self.tree, ".git/index", MAX_INDEX, &file)?;
        let read = || git2::Index::open(&file);
        if let (true, Ok(index)) = (there, read()) {
            return Ok((index, written));
        }
        let _ = fs::remove_file(&file);
        let told = failed("opening an index");
        let mut index = read().map_err(&told)?;
        if let Some(commit) = self.committed()? {
            commit.tree().and_then(|tree| index.read_tree(&tree)).map_err(told)?;
        }
        Ok((index, 0))
    }

    /// The commit that HEAD is at; None when there is none yet.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn committed(&self) -> Result<Option<git2::Commit<'_>>, Failure> {
        match self.git.head().and_then(|head| head.peel_to_commit()) {
            Err(error) if matches!(error.code(), git2::ErrorCode::UnbornBranch | git2::ErrorCode::NotFound) => Ok(None),
            found => found.map(Some).map_err(failed("reading the commit of HEAD")),
        }
    }

    /// Gives the workspace the index.
    ///
    /// # Errors
    /// When there is no room.
    pub fn put_index(&self, index: &mut git2::Index) -> Result<(), Failure> {
        index.write().map_err(failed("writing the index"))?;
        let bytes = fs::read(self.scratch.join("index")).map_err(broken("reading the index"))?;
        if matches!(kind(self.tree, ".git/index")?, Some((Kind::Directory, _))) {
            let removed = self.tree.remove(&path(".git/index")?, true, Condition::None);
            removed.map_err(refused("removing what is in place of the index"))?;
        }
        // Not synced to the disk, as git does it: it can be made anew from the workspace, and a sync would wait for every
        // object that was written before it.
        let told = broken("writing the index");
        // git's own name for it: what an interruption leaves is removed by the next job.
        let name = "index.lock";
        let place = self.tree.directory(&path(".git")?).map_err(refused("opening .git"))?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(&place, name, flags, Mode::from_raw_mode(0o666)).map_err(|error| told(error.into()))?;
        let written = fs::File::from(file).write_all(&bytes);
        let renamed = written.and_then(|()| Ok(renameat(&place, name, &place, "index")?));
        renamed.map_err(|error| {
            let _ = unlinkat(&place, name, AtFlags::empty());
            match error.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    refused("writing the index")(TreeFailure::NoSpace)
                }
                _ => told(error),
            }
        })
    }

    /// The branch that HEAD names. A HEAD that names none is given one, called after the commit that it is at.
    ///
    /// # Errors
    /// When HEAD names nothing that can be a branch.
    pub fn branch(&self) -> Result<String, Failure> {
        let head = self.git.find_reference("HEAD").map_err(failed("reading HEAD"))?;
        if let Some(target) = head.symbolic_target().ok().flatten() {
            let branch = target.strip_prefix("refs/heads/").filter(|_| git2::Reference::is_valid_name(target));
            return branch.map(str::to_owned).ok_or_else(|| Failure::new("git_failed", "HEAD names no branch"));
        }
        let oid = head.target().ok_or_else(|| Failure::new("git_failed", "HEAD names nothing"))?;
        let name = format!("detached-{}", &oid.to_string()[..12]);
        let mut branch = name.clone();
        // One that was at this commit before and has gone on keeps what it has.
        for number in 2..=MAX_REFS {
            if self.commit_of(&format!("refs/heads/{branch}"))?.is_none_or(|there| there.id() == oid) {
                break;
            }
            branch = format!("{name}-{number}");
        }
        self.set_branch(&branch, oid)?;
        write(self.tree, ".git/HEAD", format!("ref: refs/heads/{branch}\n").as_bytes())?;
        self.git.set_head(&format!("refs/heads/{branch}")).map_err(failed("naming a detached HEAD"))?;
        Ok(branch)
    }

    /// Moves a branch.
    ///
    /// # Errors
    /// When the ref cannot be written.
    pub fn set_branch(&self, branch: &str, oid: Oid) -> Result<(), Failure> {
        let name = format!("refs/heads/{branch}");
        self.git.reference(&name, oid, true, "").map(|_| ()).map_err(failed("moving the branch"))
    }

    /// The commit that a ref names.
    ///
    /// # Errors
    /// When it names something else, or the object is not there.
    pub fn commit_of(&self, name: &str) -> Result<Option<git2::Commit<'_>>, Failure> {
        match self.git.find_reference(name) {
            Err(error) if error.code() == git2::ErrorCode::NotFound => Ok(None),
            Err(error) => Err(failed("reading a ref")(error)),
            Ok(reference) => reference.peel_to_commit().map(Some).map_err(failed("reading the commit of a ref")),
        }
    }

    /// Where the workspace is.
    ///
    /// # Errors
    /// When refs or commits cannot be read.
    pub fn position(&self) -> Result<Position, Failure> {
        if !self.alone && self.git.head_detached().map_err(failed("reading HEAD"))? {
            let head = self.committed()?.map(|commit| commit.id().to_string());
            return Ok(Position { head, ..Position::default() });
        }
        let branch = self.branch()?;
        let ours = self.commit_of(&format!("refs/heads/{branch}"))?.map(|commit| commit.id());
        let theirs = self.commit_of(&format!("refs/remotes/origin/{branch}"))?.map(|commit| commit.id());
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let (ahead, behind) = match (ours, theirs) {
            (Some(ours), Some(theirs)) => {
                let counted = self.git.graph_ahead_behind(ours, theirs).map_err(failed("counting commits"))?;
                (Some(count(counted.0)), Some(count(counted.1)))
            }
            _ => (None, None),
        };
        Ok(Position { branch: Some(branch), head: ours.map(|oid| oid.to_string()), ahead, behind })
    }
}
