//! What `.gitignore` files and `.git/info/exclude` keep out of commits, gathered along a walk.
//!
//! Only regular files of at most [`MAX_RULES`] are read; a rule that is none is left out. Rules are matched by the
//! `ignore` crate as git matches them: the file nearest to a path decides.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::worker::message::Kind;
use crate::worker::relpath::{RelPath, join};
use crate::worker::tree::Tree;

/// The largest file of rules, in bytes.
const MAX_RULES: u64 = 1 << 20;
/// The most rules of a file.
const MAX_COUNT: usize = 10_000;

/// The rules on the way to where a walk is.
#[derive(Default)]
pub struct Ignored {
    /// Each with its directory; those of the root come first.
    levels: Vec<(Vec<u8>, Gitignore)>,
    /// An ignored directory that the walk is in, for the sake of what is committed in it.
    below: Option<Vec<u8>>,
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    directory.is_empty() || path.strip_prefix(directory).is_some_and(|rest| rest.first() == Some(&b'/'))
}

impl Ignored {
    /// Reads the rules that are in force in the whole workspace.
    pub fn of_root(tree: &Tree) -> Self {
        let mut ignored = Ignored::default();
        ignored.read(tree, b"", b".git/info/exclude");
        ignored.read(tree, b"", b".gitignore");
        ignored
    }

    /// The walk enters a directory.
    pub fn enter(&mut self, tree: &Tree, directory: &[u8]) {
        self.leave(directory);
        self.read(tree, directory, &join(directory, b".gitignore"));
    }

    /// The walk enters a directory although it is ignored.
    pub fn enter_ignored(&mut self, directory: &[u8]) {
        if self.below.is_none() {
            self.below = Some(directory.to_vec());
        }
    }

    fn leave(&mut self, path: &[u8]) {
        while self.levels.last().is_some_and(|(directory, _)| !is_below(path, directory)) {
            self.levels.pop();
        }
        if self.below.as_ref().is_some_and(|directory| !is_below(path, directory)) {
            self.below = None;
        }
    }

    fn read(&mut self, tree: &Tree, directory: &[u8], name: &[u8]) {
        let Ok(path) = RelPath::parse(name.to_vec()) else { return };
        if !matches!(tree.stat(&path), Ok(entry) if entry.kind == Kind::File && entry.version.size <= MAX_RULES) {
            return;
        }
        let Ok((file, _)) = tree.open_file(&path) else { return };
        let mut text = Vec::new();
        if file.take(MAX_RULES).read_to_end(&mut text).is_err() {
            return;
        }
        let mut builder = GitignoreBuilder::new("");
        // Some editors' mark of UTF-8 at the beginning of a file is no part of the first rule.
        let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&text);
        for line in text.split(|byte| *byte == b'\n').take(MAX_COUNT) {
            // Only patterns that are text can be matched.
            if let Ok(line) = std::str::from_utf8(line) {
                let _ = builder.add_line(None, line.trim_end_matches('\r'));
            }
        }
        if let Ok(rules) = builder.build() {
            self.levels.push((directory.to_vec(), rules));
        }
    }

    /// Whether something is ignored. Paths come in the order of a walk.
    pub fn has(&mut self, path: &[u8], is_directory: bool) -> bool {
        self.leave(path);
        if self.below.is_some() {
            return true;
        }
        for (directory, rules) in self.levels.iter().rev() {
            let rest = if directory.is_empty() { path } else { &path[directory.len() + 1..] };
            match rules.matched(Path::new(OsStr::from_bytes(rest)), is_directory) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => {}
            }
        }
        false
    }
}
