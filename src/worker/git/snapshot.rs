//! Brings git's index in line with the workspace, as `git add --all` does, by a walk of our own.
//!
//! Regular files and symbolic links are taken, byte by byte as they are: no filter, no attribute, no conversion of line
//! ends. Links are not followed. What cannot be taken is left out and reported: special files, other repositories, files
//! over [`MAX_FILE`], names that git refuses, whatever cannot be read. A file whose times, size and inode are those of
//! the index, and older than it, is not read again.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use git2::{Index, IndexEntry, IndexTime, ObjectType, Oid};
use rustix::fs::{FileType, Stat};

use super::ignored::Ignored;
use super::loose::Loose;
use super::message::{Failure, Reason, Skips};
use super::repository::{Repository, SET_ASIDE};
use super::{failed, refused};
use crate::worker::message::Failure as TreeFailure;
use crate::worker::relpath::{RelPath, join};
use crate::worker::tree::version;
use crate::worker::walk::{Met, Then, walk};

/// The largest file that is committed, in bytes. To push one takes twice its size of memory.
pub const MAX_FILE: u64 = 50 << 20;
/// Levels of directories that are committed; libgit2 goes through trees by recursion.
const MAX_LEVELS: usize = 128;
/// Files up to this size are read whole.
const WHOLE: u64 = 1 << 20;
/// Removals in one go; with more, the index is built anew.
const MANY: usize = 256;
/// git's modes.
const FILE: u32 = 0o100_644;
const EXECUTABLE: u32 = 0o100_755;
const LINK: u32 = 0o120_000;
pub(super) const SUBMODULE: u32 = 0o160_000;
/// The bit of an entry's flags that says that the file is not there on purpose.
const SKIP_WORKTREE: u16 = 1 << 14;

/// What a snapshot is.
pub struct Snapshot {
    /// The tree of it.
    pub tree: Oid,
    /// What is left out.
    pub skips: Skips,
    /// The index, when it differs from the one that is there.
    pub index: Option<Index>,
}

struct Taking<'a> {
    repository: &'a Repository<'a>,
    objects: Loose<'a>,
    ignored: Ignored,
    /// The index as it was; what the walk meets is taken out.
    known: HashMap<Vec<u8>, IndexEntry>,
    /// Directories that hold something of the index.
    tracked: std::collections::HashSet<Vec<u8>>,
    written: i64,
    kept: Vec<IndexEntry>,
    fresh: Vec<IndexEntry>,
    skips: Skips,
    /// What may still be added to the history, in bytes.
    room: u64,
}

/// Takes a snapshot that leaves what is committed and its history within `quota`, in bytes.
///
/// # Errors
/// When the workspace cannot be walked, or objects cannot be written.
pub fn take(repository: &Repository<'_>, quota: u64) -> Result<Snapshot, Failure> {
    let (mut index, written) = repository.index()?;
    let conflicts = index.has_conflicts();
    let mut taking = Taking::begin(repository, &index, written, quota)?;
    let mut lost = Vec::new();
    let root = RelPath::parse(Vec::new()).and_then(|root| repository.tree.directory(&root));
    let root = root.map_err(refused("opening the workspace"))?;
    let mut trouble = None;
    let walked = walk(
        root,
        |met| {
            taking.meet(met).map_err(|failure| {
                trouble = Some(failure);
                TreeFailure::Unfit
            })
        },
        |path, _| lost.push(path.to_vec()),
    );
    if let Some(failure) = trouble {
        return Err(failure);
    }
    walked.map_err(refused("walking the workspace"))?;
    lost.iter().for_each(|path| taking.lose(path));
    taking.finish(&mut index, conflicts).map(|(tree, changed, skips)| Snapshot {
        tree,
        skips,
        index: changed.then_some(index),
    })
}

/// git's mode of a file or link.
pub(super) fn mode_of(stat: &Stat) -> u32 {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => LINK,
        _ if stat.st_mode & 0o100 != 0 => EXECUTABLE,
        _ => FILE,
    }
}

/// The times and numbers by which a file is known again.
pub(super) fn known_as(stat: &Stat, mode: u32, id: Oid, path: &[u8]) -> IndexEntry {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the index has 32 bits for each")]
    IndexEntry {
        ctime: IndexTime::new(stat.st_ctime as i32, stat.st_ctime_nsec as u32),
        mtime: IndexTime::new(stat.st_mtime as i32, stat.st_mtime_nsec as u32),
        dev: stat.st_dev as u32,
        ino: stat.st_ino as u32,
        mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        file_size: stat.st_size as u32,
        id,
        flags: 0,
        flags_extended: 0,
        path: path.to_vec(),
    }
}

/// Whether a file is the one that the index knows, by its times and numbers.
pub(super) fn is_same(old: &IndexEntry, new: &IndexEntry) -> bool {
    (old.ctime, old.mtime, old.ino, old.mode, old.file_size) == (new.ctime, new.mtime, new.ino, new.mode, new.file_size)
}

impl<'a> Taking<'a> {
    fn begin(repository: &'a Repository<'a>, index: &Index, written: i64, quota: u64) -> Result<Self, Failure> {
        let objects = Loose::of(repository, repository.git.odb().map_err(failed("opening the objects"))?);
        let (mut known, mut tracked) = (HashMap::new(), std::collections::HashSet::new());
        for entry in index.iter().filter(|entry| entry.flags & 0x3000 == 0) {
            let mut end = entry.path.len();
            while let Some(at) = entry.path[..end].iter().rposition(|byte| *byte == b'/') {
                if !tracked.insert(entry.path[..at].to_vec()) {
                    break;
                }
                end = at;
            }
            known.insert(entry.path.clone(), entry);
        }
        // What is ignored is not counted: it can be removed, and what is committed cannot.
        let committed: u64 = known.values().map(|entry: &IndexEntry| u64::from(entry.file_size)).sum();
        let room = quota.saturating_sub(repository.taken).saturating_sub(committed);
        let ignored = Ignored::of_root(repository.tree);
        let (kept, fresh, skips) = Default::default();
        Ok(Taking { repository, objects, ignored, known, tracked, written, kept, fresh, skips, room })
    }

    fn meet(&mut self, met: &Met<'_>) -> Result<Then, Failure> {
        let at_root = !met.path.contains(&b'/');
        if met.is_reserved() || at_root && (met.path == b".git" || met.path.starts_with(SET_ASIDE.as_bytes())) {
            return Ok(Then::Pass);
        }
        match met.kind() {
            FileType::Directory => Ok(self.meet_directory(met)),
            FileType::RegularFile | FileType::Symlink => {
                // What is committed stays so, whatever the rules say of it later.
                if !self.known.contains_key(met.path) && self.ignored.has(met.path, false) {
                    return Ok(Then::Pass);
                }
                self.take(met)?;
                Ok(Then::Pass)
            }
            _ => {
                if !self.ignored.has(met.path, false) {
                    self.skips.add(met.path, Reason::Special);
                }
                Ok(Then::Pass)
            }
        }
    }

    fn meet_directory(&mut self, met: &Met<'_>) -> Then {
        // A submodule's commit, which the agent has put there: its content is none of ours.
        if self.known.get(met.path).is_some_and(|entry| entry.mode == SUBMODULE) {
            self.keep(met.path);
            return Then::Pass;
        }
        let ignored = self.ignored.has(met.path, true);
        if ignored && !self.tracked.contains(met.path) {
            return Then::Pass;
        }
        let too_deep = met.path.iter().filter(|byte| **byte == b'/').count() + 2 > MAX_LEVELS;
        let git = RelPath::parse(join(met.path, b".git"));
        if too_deep || git.is_err() {
            self.keep_below(met.path);
            self.skips.add(met.path, Reason::TooDeep);
            return Then::Pass;
        }
        if git.is_ok_and(|git| self.repository.tree.stat(&git).is_ok()) {
            self.keep_below(met.path);
            self.skips.add(met.path, Reason::NestedRepository);
            return Then::Pass;
        }
        self.ignored.enter(self.repository.tree, met.path);
        if ignored {
            self.ignored.enter_ignored(met.path);
        }
        Then::Enter
    }

    /// Keeps what the index says of a path.
    fn keep(&mut self, path: &[u8]) {
        self.kept.extend(self.known.remove(path));
    }

    fn keep_below(&mut self, directory: &[u8]) {
        let below: Vec<_> = self.known.keys().filter(|path| is_below(path, directory)).cloned().collect();
        below.iter().for_each(|path| self.keep(path));
    }

    /// What cannot be looked at, or listed to its end, stays as it is committed: nobody has removed it.
    fn lose(&mut self, path: &[u8]) {
        self.keep(path);
        self.keep_below(path);
        self.skips.add(path, Reason::Unreadable);
    }

    fn skip(&mut self, met: &Met<'_>, reason: Reason) {
        self.skips.add(met.path, reason);
        self.keep(met.path);
    }

    fn take(&mut self, met: &Met<'_>) -> Result<(), Failure> {
        let size = u64::try_from(met.stat.st_size).unwrap_or(0);
        if size > MAX_FILE {
            self.skip(met, Reason::TooLarge);
            return Ok(());
        }
        let mode = mode_of(&met.stat);
        let mut entry = known_as(&met.stat, mode, Oid::ZERO_SHA1, met.path);
        if let Some(old) = self.known.get(met.path) {
            let changed = version(&met.stat).changed.max(version(&met.stat).modified);
            // One that was changed in the instant in which the index was written may have been changed after it.
            if is_same(old, &entry) && changed < self.written && old.flags_extended & SKIP_WORKTREE == 0 {
                self.keep(met.path);
                return Ok(());
            }
        }
        if !self.has_room(size) {
            self.skip(met, Reason::NoRoom);
            return Ok(());
        }
        match self.hash(met, mode == LINK, size)? {
            Ok(id) => entry.id = id,
            Err(reason) => {
                self.skip(met, reason);
                return Ok(());
            }
        }
        self.known.remove(met.path);
        self.fresh.push(entry);
        Ok(())
    }

    /// Whether so many bytes may be added to the history; then they are counted. That they may be there already is not
    /// looked at: to be known, they would have to be read.
    fn has_room(&mut self, size: u64) -> bool {
        // Once in the workspace, once in the history.
        let both = size.saturating_mul(2);
        let fits = both <= self.room;
        if fits {
            self.room -= both;
        }
        fits
    }

    /// Writes a blob.
    fn hash(&mut self, met: &Met<'_>, is_link: bool, size: u64) -> Result<Result<Oid, Reason>, Failure> {
        let told = failed("writing an object");
        let reason = |failure: TreeFailure| match failure {
            TreeFailure::Denied => Reason::Unreadable,
            _ => Reason::Changed,
        };
        if is_link {
            return match met.target() {
                Ok(target) => self.objects.write(&target).map(Ok),
                Err(failure) => Ok(Err(reason(failure))),
            };
        }
        let mut file = match met.open() {
            Ok(file) => file,
            Err(failure) => return Ok(Err(reason(failure))),
        };
        if size <= WHOLE {
            let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
            return match file.take(WHOLE + 1).read_to_end(&mut bytes) {
                Ok(read) if read as u64 == size => self.objects.write(&bytes).map(Ok),
                Ok(_) => Ok(Err(Reason::Changed)),
                Err(_) => Ok(Err(Reason::Unreadable)),
            };
        }
        let length = usize::try_from(size).map_err(|error| Failure::new("git_failed", error))?;
        let mut writer = self.objects.odb().writer(length, ObjectType::Blob).map_err(&told)?;
        let mut buffer = vec![0; 256 << 10];
        let mut left = size;
        loop {
            let read = match file.read(&mut buffer) {
                Ok(read) => read,
                Err(_) => return Ok(Err(Reason::Unreadable)),
            };
            left = match left.checked_sub(read as u64) {
                Some(left) => left,
                None => return Ok(Err(Reason::Changed)),
            };
            if read == 0 {
                break;
            }
            let write = writer.write_all(&buffer[..read]);
            write.map_err(|error| Failure::new("git_failed", format_args!("writing an object: {error}")))?;
        }
        if left > 0 { Ok(Err(Reason::Changed)) } else { writer.finalize().map(Ok).map_err(told) }
    }

    /// Brings the index in line and writes its tree; tells whether the index has changed.
    fn finish(mut self, index: &mut Index, conflicts: bool) -> Result<(Oid, bool, Skips), Failure> {
        let told = failed("changing the index");
        let sparse: Vec<_> = self
            .known
            .values()
            .filter(|entry| entry.flags_extended & SKIP_WORKTREE != 0)
            .map(|e| e.path.clone())
            .collect();
        sparse.iter().for_each(|path| self.keep(path));
        self.fresh.sort_by(|one, other| one.path.cmp(&other.path));
        let changed = conflicts || !self.known.is_empty() || !self.fresh.is_empty();
        if conflicts || self.known.len() > MANY {
            index.clear().map_err(&told)?;
            self.kept.append(&mut self.fresh);
            self.kept.sort_by(|one, other| one.path.cmp(&other.path));
            std::mem::swap(&mut self.kept, &mut self.fresh);
        } else {
            for path in self.known.keys() {
                index.remove(Path::new(OsStr::from_bytes(path)), 0).map_err(&told)?;
            }
        }
        for entry in &self.fresh {
            if index.add(entry).is_err() {
                self.skips.add(&entry.path, Reason::Name);
            }
        }
        let tree = index.write_tree_to(&self.repository.git).map_err(failed("writing the tree"))?;
        Ok((tree, changed, self.skips))
    }
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    directory.is_empty() || path.strip_prefix(directory).is_some_and(|rest| rest.first() == Some(&b'/'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::worker::git::message::Settings;
    use crate::worker::git::{repository, sync};
    use crate::worker::tree::Tree;

    #[test]
    fn a_directory_that_is_not_listed_to_its_end_loses_nothing_of_what_is_committed() {
        let place = tempfile::tempdir().unwrap();
        let (inside, scratch) = (place.path().join("inside"), place.path().join("scratch"));
        std::fs::create_dir_all(inside.join("d/e")).unwrap();
        for name in ["a", "d/b", "d/e/c", "dd"] {
            std::fs::write(inside.join(name), name).unwrap();
        }
        let tree = Tree::open(&inside).unwrap();
        let [branch, initial_message, author, email] = ["main", "", "a", "a@b"].map(str::to_owned);
        let settings = Settings { init: true, branch, initial_message, author, email, quota: u64::MAX, remote: None };
        sync::commit(&tree, &settings, "all", &scratch.join("1")).unwrap();
        let repository = repository::open(&tree, &settings, &scratch.join("2")).unwrap().unwrap();
        // As if reading the directory had failed before anything of it was met.
        let files_without = |lost: &[&str]| {
            let (mut index, written) = repository.index().unwrap();
            let mut taking = Taking::begin(&repository, &index, written, u64::MAX).unwrap();
            lost.iter().for_each(|path| taking.lose(path.as_bytes()));
            let (oid, _, skips) = taking.finish(&mut index, false).unwrap();
            assert_eq!(skips.count, lost.len() as u64);
            let mut files = Vec::new();
            let mut each = |above: &str, entry: &git2::TreeEntry<'_>| {
                if entry.kind() == Some(ObjectType::Blob) {
                    files.push(format!("{above}{}", entry.name().unwrap()));
                }
                git2::TreeWalkResult::Ok
            };
            repository.git.find_tree(oid).unwrap().walk(git2::TreeWalkMode::PreOrder, &mut each).unwrap();
            files
        };
        // The control: what is not met and not lost either has been removed.
        assert_eq!(files_without(&[]), [""; 0]);
        assert_eq!(files_without(&[""]), ["a", "d/b", "d/e/c", "dd"]);
        assert_eq!(files_without(&["d"]), ["d/b", "d/e/c"]);
        assert_eq!(files_without(&["d/e", "a"]), ["a", "d/e/c"], "also a file that cannot be looked at");
    }
}
