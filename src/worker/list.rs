//! Pages of a directory, in the order of the names' bytes; recursive ones as a tree is read from top to bottom.
//!
//! A directory may hold a million entries: only those of the page are kept. A listing is no snapshot: what appears or
//! disappears between two pages is in it or not, everything else exactly once.

use rustix::fs::Dir;
use std::collections::BinaryHeap;
use std::os::fd::OwnedFd;

use super::message::{Entry, Failure, Kind, MAX_PACKET};
use super::relpath::{RESERVED, RelPath, join};
use super::tree::{Tree, failure};

/// Names that are kept at a time while the directories beside them are read; more are read again when they are needed.
const KEPT: usize = 4096;
/// What an entry takes in a packet beside its path and target, in bytes.
const ENTRY: usize = 96;
/// What the entries of a page may take.
const PAGE: usize = MAX_PACKET - 16 * 1024;

/// A page: what follows `after`, and whether anything follows it.
///
/// # Errors
/// When the directory cannot be read.
pub fn page(
    tree: &Tree,
    path: &RelPath,
    after: Option<&[u8]>,
    limit: usize,
    recursive: bool,
) -> Result<(Vec<Entry>, bool), Failure> {
    let mut page = Page { entries: Vec::new(), size: 0, limit };
    // The directories on the way to where the page is, the innermost last.
    let mut open = vec![Level::new(path.as_bytes().to_vec(), None)];
    if let Some(after) = after {
        let after = RelPath::parse(after.to_vec())?;
        open.clear();
        let mut at = path.as_bytes().to_vec();
        for name in after.as_bytes().split(|byte| *byte == b'/') {
            open.push(Level::new(at.clone(), Some(name.to_vec())));
            at = join(&at, name);
        }
        // A link is not gone into, wherever it leads: a page may end with one.
        let inside = RelPath::parse(at.clone()).and_then(|at| tree.stat(&at));
        if recursive && inside.is_ok_and(|entry| is_entered(&entry)) {
            open.push(Level::new(at, None));
        }
    }
    let mut first = after.is_none();
    while let Some(level) = open.last_mut() {
        let Some(name) = level.names.next() else {
            if level.complete {
                open.pop();
                continue;
            }
            match level.read(tree, limit + 1 - page.entries.len()) {
                Ok(()) => {}
                Err(Failure::BadPath) => return Err(Failure::TooDeep),
                // What the page before ended with may be gone, and what is deeper may be closed; what is asked for may not.
                Err(error) if first => return Err(error),
                Err(_) => drop(open.pop()),
            }
            first = false;
            continue;
        };
        let entry = match level.entry(tree, &name) {
            Ok(entry) => entry,
            Err(Failure::NotFound | Failure::Torn) => {
                level.after = Some(name);
                continue;
            }
            Err(error) if open.len() == 1 => return Err(error),
            Err(_) => {
                open.pop();
                continue;
            }
        };
        let enter = recursive && is_entered(&entry);
        let inside = Level::new(entry.path.clone(), None);
        if !page.take(entry) {
            return Ok((page.entries, true));
        }
        level.after = Some(name);
        if enter {
            level.directory = None;
            open.push(inside);
            forget(&mut open);
        }
    }
    Ok((page.entries, false))
}

/// Whether what is in it belongs to a recursive listing: not the repository's inside, unless that is asked for by path.
fn is_entered(entry: &Entry) -> bool {
    entry.kind == Kind::Directory && entry.path != b".git"
}

/// A directory that is being read.
struct Level {
    at: Vec<u8>,
    /// The last name that was taken.
    after: Option<Vec<u8>>,
    /// The names behind it.
    names: std::vec::IntoIter<Vec<u8>>,
    /// Whether these are all.
    complete: bool,
    /// Open while it is the innermost one.
    directory: Option<OwnedFd>,
}

impl Level {
    fn new(at: Vec<u8>, after: Option<Vec<u8>>) -> Self {
        Level { at, after, names: Vec::new().into_iter(), complete: false, directory: None }
    }

    fn opened(&mut self, tree: &Tree) -> Result<&OwnedFd, Failure> {
        let directory = match self.directory.take() {
            Some(directory) => directory,
            None => tree.directory(&RelPath::parse(self.at.clone())?)?,
        };
        Ok(self.directory.insert(directory))
    }

    fn read(&mut self, tree: &Tree, many: usize) -> Result<(), Failure> {
        let after = self.after.clone();
        let mut names = smallest(self.opened(tree)?, after.as_deref(), many)?;
        self.complete = names.len() < many;
        names.shrink_to_fit();
        self.names = names.into_iter();
        Ok(())
    }

    fn entry(&mut self, tree: &Tree, name: &[u8]) -> Result<Entry, Failure> {
        let at = self.at.clone();
        Tree::entry_in(self.opened(tree)?, &at, name)
    }
}

/// Lets go of names until no more than [`KEPT`] are kept, the outermost first: they are needed last.
fn forget(open: &mut [Level]) {
    let mut kept: usize = open.iter().map(|level| level.names.len()).sum();
    for level in open {
        if kept <= KEPT {
            return;
        }
        kept -= level.names.len();
        level.complete = level.complete && level.names.len() == 0;
        level.names = Vec::new().into_iter();
    }
}

struct Page {
    entries: Vec<Entry>,
    size: usize,
    limit: usize,
}

impl Page {
    /// Takes an entry; false when the page is full.
    fn take(&mut self, entry: Entry) -> bool {
        let size = ENTRY + entry.path.len() + entry.target.as_ref().map_or(0, Vec::len);
        if self.entries.len() == self.limit || self.size + size > PAGE {
            return false;
        }
        self.size += size;
        self.entries.push(entry);
        true
    }
}

/// The `many` smallest names that follow `after`, in order.
fn smallest(directory: &OwnedFd, after: Option<&[u8]>, many: usize) -> Result<Vec<Vec<u8>>, Failure> {
    let mut kept = BinaryHeap::with_capacity(many + 1);
    for entry in Dir::read_from(directory).map_err(failure)? {
        let entry = entry.map_err(failure)?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if name.starts_with(RESERVED) {
            continue;
        }
        let follows = after.is_none_or(|after| name > after);
        if follows && (kept.len() < many || kept.peek().is_some_and(|largest: &Vec<u8>| name < largest.as_slice())) {
            kept.push(name.to_vec());
            if kept.len() > many {
                kept.pop();
            }
        }
    }
    Ok(kept.into_sorted_vec())
}
