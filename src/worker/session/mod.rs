//! The user's session, read without pi: what it is in a few words, and its history in pages.
//!
//! pi writes the file, one entry a line, and the user's agent owns it: it may be anything, and change while it is read. It
//! is opened as everything here is, looked through once for where its entries are ([`index`]), and of those only what a
//! page shows is read again ([`message`]). What is no entry is skipped; what is beyond a limit is [`Failure::TooLarge`]; a
//! file that does not begin as a session does is [`Failure::NotASession`]. Nothing of it is ever written but its name.

pub mod index;
mod line;
pub mod message;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, RenameFlags, fstat, fsync, renameat_with, unlinkat};
use rustix::io::Errno;
use uuid::Uuid;

use super::message::{Failure, Page, Place, Session, Version};
use super::relpath::RelPath;
use super::tree::{Tree, failure, version};
use index::{Index, Step, What};

/// The session's name in its directory; the launcher gives pi the same one.
const NAME: &str = "session.jsonl";
/// The largest file that is looked through, in bytes.
pub const MAX_FILE: u64 = 512 << 20;
/// How long that may take. The front waits longer for an answer.
const TIME: Duration = Duration::from_secs(7);
/// The longest title, in characters.
const MAX_TITLE: usize = 200;
/// A page is full when its messages have this many bytes, or when so much was read for it.
const PAGE: usize = 1 << 20;
const PAGE_READ: u64 = 64 << 20;

/// Reads one user's session. What was found is kept until the file is another one, so it is for one thread at a time.
pub struct Reader {
    directory: PathBuf,
    found: Option<(Version, Result<Index, Failure>)>,
}

impl Reader {
    /// For the session in a directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Reader { directory: directory.into(), found: None }
    }

    /// The file and what is in it; None when there is none, or nothing in it yet.
    fn open(&mut self) -> Result<Option<(File, &Index)>, Failure> {
        let tree = Tree::open(&self.directory)?;
        let file = match tree.open_file(&RelPath::parse(NAME.into())?) {
            Err(Failure::NotFound) => return Ok(None),
            // A link that leads out, a pipe, a directory, a closed mode: pi would not go on with it either.
            Err(Failure::Outside | Failure::Special(_) | Failure::IsADirectory | Failure::Denied) => {
                return Err(Failure::NotASession);
            }
            opened => opened?.0,
        };
        let version = version(&fstat(&file).map_err(failure)?);
        if version.size == 0 {
            return Ok(None);
        }
        if version.size > MAX_FILE {
            return Err(Failure::TooLarge);
        }
        if self.found.as_ref().is_none_or(|(of, _)| *of != version) {
            // The old one goes first: there is room for one.
            self.found = None;
            let index = Index::read(&file, version.size, Instant::now() + TIME);
            self.found = Some((version, index));
        }
        match &self.found {
            Some((_, Ok(index))) => Ok(Some((file, index))),
            Some((_, Err(failure))) => Err(*failure),
            None => Ok(None),
        }
    }

    /// The session in a few words; None when there is none.
    ///
    /// # Errors
    /// [`Failure::NotASession`] or [`Failure::TooLarge`].
    pub fn session(&mut self) -> Result<Option<Session>, Failure> {
        let Some((file, index)) = self.open()? else { return Ok(None) };
        let steps = index.steps();
        let messages = steps.iter().filter(|step| step.what.is_message()).count();
        let named = |step: &&Step| step.what == What::Name;
        let name = steps.iter().rev().find(named).and_then(|step| line::name(&read(&file, step).ok()?));
        let asked = || steps.iter().find(|step| step.what == What::User);
        let title = name.or_else(|| message::first_line(&read(&file, asked()?).ok()?));
        // pi keeps its choice of a model, and each answer names the one that gave it.
        let chosen = |step: &&Step| matches!(step.what, What::Model | What::Assistant { .. });
        let model = steps.iter().rev().find(chosen).and_then(|step| line::model(&read(&file, step).ok()?));
        let updated = fstat(&file).map(|stat| version(&stat).modified).map_err(failure)?;
        Ok(Some(Session {
            created: index.created(),
            updated,
            messages: messages as u64,
            model,
            title: title.map(|title| title.chars().take(MAX_TITLE).collect()),
            tokens: tokens(steps),
            compactions: steps.iter().filter(|step| step.what == What::Compaction).count() as u64,
        }))
    }

    /// A page of the history, of what follows `after`; None there for the first.
    ///
    /// # Errors
    /// [`Failure::Changed`] when that was in another session, and as [`Reader::session`].
    pub fn page(&mut self, after: Option<Place>, limit: usize) -> Result<Page, Failure> {
        let Some((file, index)) = self.open()? else {
            return if after.is_none() { Ok(Page::default()) } else { Err(Failure::Changed) };
        };
        let (steps, inode) = (index.steps(), fstat(&file).map_err(failure)?.st_ino);
        let from = match after {
            None => 0,
            Some(place) if place.inode != inode => return Err(Failure::Changed),
            // A message may have been taken out meanwhile: then what was written after it is next.
            Some(place) => match steps.iter().position(|step| step.offset == place.offset) {
                Some(at) => at + 1,
                None => steps.iter().position(|step| step.offset > place.offset).unwrap_or(steps.len()),
            },
        };
        let (mut page, mut size, mut taken) = (Page::default(), 0, 0);
        let mut rest = steps[from..].iter().filter(|step| step.what.is_message()).peekable();
        while let Some(step) = rest.next() {
            taken += u64::from(step.length);
            if let Some(message) = read(&file, step).ok().as_deref().and_then(message::shown) {
                size += message.size();
                page.messages.push(message);
            }
            let full = page.messages.len() >= limit || size >= PAGE || taken >= PAGE_READ;
            if full && rest.peek().is_some() {
                page.next = Some(Place { inode, offset: step.offset });
                return Ok(page);
            }
        }
        Ok(page)
    }

    /// Gives the session another name in its directory, whatever it is, so that pi begins a new one. One that is not there
    /// any more was set aside already.
    ///
    /// # Errors
    /// When the directory refuses.
    pub fn set_aside(&mut self, id: Uuid) -> Result<(), Failure> {
        self.found = None;
        let directory = self.open_directory()?;
        match renameat_with(&directory, NAME, &directory, aside(id), RenameFlags::NOREPLACE) {
            Ok(()) => fsync(&directory).map_err(failure),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failure(error)),
        }
    }

    /// Removes a session that was set aside. One that is not there was removed already; what the agent has put in its
    /// place and is no file is his.
    ///
    /// # Errors
    /// When the directory refuses.
    pub fn drop_aside(&self, id: Uuid) -> Result<(), Failure> {
        match unlinkat(self.open_directory()?, aside(id), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT | Errno::ISDIR | Errno::PERM) => Ok(()),
            Err(error) => Err(failure(error)),
        }
    }

    fn open_directory(&self) -> Result<std::os::fd::OwnedFd, Failure> {
        Tree::open(&self.directory)?.directory(&RelPath::parse(Vec::new())?)
    }
}

/// What a session is called that was set aside.
fn aside(id: Uuid) -> String {
    format!("session-{id}.jsonl")
}

/// The bytes of an entry's line. Whoever has changed them meanwhile gets what he wrote.
fn read(file: &File, step: &Step) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; step.length as usize];
    file.read_exact_at(&mut bytes, step.offset)?;
    Ok(bytes)
}

/// How many tokens the last answer's context had; None when it was shortened since, and nothing was answered.
fn tokens(steps: &[Step]) -> Option<u64> {
    for step in steps.iter().rev() {
        match step.what {
            What::Compaction => return None,
            What::Assistant { tokens } if tokens > 0 => return Some(tokens),
            _ => {}
        }
    }
    Some(0)
}

#[cfg(test)]
mod tests;
