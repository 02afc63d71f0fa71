//! What there is to take over, and what of it cannot be. Everything is opened below the directory before it, without
//! following a link; only regular files are opened, by whoever owns the workspace they are in.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use pi_gateway_helper::names::User;
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use serde::Serialize;

use super::{Wanted, session};
use crate::worker::message::Failure;
use crate::worker::walk::{Met, Then, walk};

/// Entries that are named of those that cannot be taken over; the others are counted.
const NAMED: usize = 20;

/// An entry that cannot be taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Where it is; what is not ASCII in it is escaped.
    pub path: String,
    /// Why.
    pub reason: &'static str,
}

/// Somebody who may be taken over.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Candidate {
    /// The name of his directory, or of his session's file.
    pub name: String,
    /// Whether he has a workspace.
    pub workspace: bool,
    /// His session's file, below the directory of sessions.
    pub session: Option<String>,
    /// What there is to take over.
    pub entries: u64,
    /// What it takes on the disk.
    pub bytes: u64,
    /// Why he cannot be taken over.
    pub reasons: Vec<String>,
    /// What else there is to say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What of his cannot be: the first entries.
    pub left_out: Vec<LeftOut>,
    /// How many there are.
    pub left_out_count: u64,
}

impl Candidate {
    fn named(name: String) -> Self {
        Candidate { name, ..Candidate::default() }
    }

    /// The user of this name, as a token would name him.
    pub fn user(&self) -> Option<User> {
        User::parse(&self.name.to_ascii_lowercase()).ok()
    }

    fn leave_out(&mut self, path: &[u8], reason: &'static str) {
        self.left_out_count += 1;
        if self.left_out.len() < NAMED {
            let path = path[..path.len().min(1024)].escape_ascii().to_string();
            self.left_out.push(LeftOut { path, reason });
        }
    }
}

/// Opens a directory in another one, not by a link.
///
/// # Errors
/// When it is none.
pub fn directory_in(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

/// Opens one of the operator's two directories.
///
/// # Errors
/// When it is none.
pub fn open(path: &Path) -> Result<OwnedFd, String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| format!("{}: {error}", path.display()))
}

/// Everybody in both directories, by name.
///
/// # Errors
/// When one cannot be read.
pub fn survey(wanted: &Wanted) -> Result<Vec<Candidate>, String> {
    let mut found: BTreeMap<String, Candidate> = BTreeMap::new();
    let (workspaces, sessions) = (open(&wanted.workspaces)?, open(&wanted.sessions)?);
    for name in names(&wanted.workspaces)? {
        let mut candidate = Candidate::named(name.clone());
        candidate.workspace = true;
        match directory_in(&workspaces, &name) {
            Ok(root) => look(&mut candidate, root),
            Err(error) => {
                candidate.reasons.push(format!("its workspace is no directory ({error}); a link is not followed"))
            }
        }
        found.insert(name, candidate);
    }
    for entry in names(&wanted.sessions)? {
        let name = entry.strip_suffix(".jsonl").unwrap_or(&entry).to_owned();
        let candidate = found.entry(name.clone()).or_insert_with(|| Candidate::named(name));
        match session::find(&sessions, &entry) {
            Ok(found) if candidate.session.is_some() && found.is_some() => {
                candidate.reasons.push("has a session's file and a directory of sessions; leave one".to_owned());
            }
            Ok(Some((path, bytes))) => {
                candidate.session = Some(path);
                candidate.entries += 1;
                candidate.bytes += bytes;
            }
            Ok(None) => candidate.notes.push(format!("{entry} holds no session")),
            Err(why) => candidate.reasons.push(why),
        }
    }
    let mut all: Vec<Candidate> = found.into_values().collect();
    let folded: Vec<Option<User>> = all.iter().map(Candidate::user).collect();
    for (candidate, user) in all.iter_mut().zip(&folded) {
        match user {
            None => {
                let why = User::parse(&candidate.name.to_ascii_lowercase()).err().unwrap_or_default();
                candidate.reasons.push(format!("is no user's name: {why}"));
            }
            Some(_) if folded.iter().filter(|other| *other == user).count() > 1 => {
                candidate.reasons.push("is the same user as another entry: names are folded to lower case".to_owned());
            }
            Some(_) => {}
        }
    }
    for candidate in &mut all {
        if !candidate.workspace && candidate.session.is_none() && candidate.reasons.is_empty() {
            candidate.reasons.push("there is nothing to take over".to_owned());
        }
    }
    all.retain(|candidate| wanted.user.is_none() || candidate.user() == wanted.user);
    Ok(all)
}

/// The names in a directory. One that is not UTF-8 is told with what is replaced in it, and is no user's.
fn names(path: &Path) -> Result<Vec<String>, String> {
    let told = |error: io::Error| format!("{}: {error}", path.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(told)? {
        names.push(entry.map_err(told)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// Looks through a workspace.
fn look(candidate: &mut Candidate, root: OwnedFd) {
    let owner = match fstat(&root) {
        Ok(stat) => stat.st_uid,
        Err(error) => return candidate.reasons.push(error.to_string()),
    };
    let mut lost = Vec::new();
    let walked = walk(
        root,
        |met| match judge(met, owner) {
            Ok(()) => {
                candidate.entries += 1;
                candidate.bytes += u64::try_from(met.stat.st_blocks).unwrap_or(0) * 512;
                Ok(Then::Enter)
            }
            Err(reason) => {
                candidate.leave_out(met.path, reason);
                Ok(Then::Pass)
            }
        },
        |path, failure| lost.push((path.to_vec(), failure)),
    );
    for (path, failure) in lost {
        let reason = if failure == Failure::Outside { "another file system" } else { "cannot be read" };
        candidate.leave_out(&path, reason);
    }
    if walked.is_err() {
        candidate.reasons.push("its workspace has too many levels of directories".to_owned());
    }
}

/// Whether an entry of a workspace can be taken over; `owner` is the workspace's.
///
/// # Errors
/// Why not.
pub fn judge(met: &Met<'_>, owner: u32) -> Result<(), &'static str> {
    if met.is_reserved() {
        return Err("a name that the gateway keeps for itself");
    }
    match met.kind() {
        FileType::Directory => Ok(()),
        FileType::RegularFile if met.stat.st_uid == owner => Ok(()),
        FileType::RegularFile => Err("belongs to somebody else than the workspace"),
        FileType::Symlink => {
            let target = met.target().map_err(|_| "cannot be read")?;
            if stays(met.path, &target) { Ok(()) } else { Err("a link that leads out of the workspace") }
        }
        _ => Err("no file, directory or link"),
    }
}

/// Whether a link at `path` with this target stays in the workspace, as its words say.
fn stays(path: &[u8], target: &[u8]) -> bool {
    if target.starts_with(b"/") {
        return false;
    }
    let mut depth = path.split(|byte| *byte == b'/').count() - 1;
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if depth == 0 => return false,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    #[test]
    fn a_link_stays_by_its_words_or_leads_out() {
        for (path, target, stays_in) in [
            ("a", "b", true),
            ("a", "../b", false),
            ("x/a", "../b", true),
            ("x/a", "../../b", false),
            ("x/a", "y/../../b", true),
            ("x/a", "/etc/passwd", false),
            ("a", ".", true),
            ("a", "..", false),
        ] {
            assert_eq!(stays(path.as_bytes(), target.as_bytes()), stays_in, "{path} -> {target}");
        }
    }

    #[test]
    fn everything_that_cannot_be_taken_over_is_told_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (workspaces, sessions) = (dir.path().join("workspaces"), dir.path().join("sessions"));
        for name in ["alice/src", "Bob", "bob", "no such user", "carol"] {
            fs::create_dir_all(workspaces.join(name)).unwrap();
        }
        fs::create_dir_all(sessions.join("dave")).unwrap();
        let alice = workspaces.join("alice");
        fs::write(alice.join("src/main.c"), "int").unwrap();
        symlink("src/main.c", alice.join("good")).unwrap();
        symlink("/etc/passwd", alice.join("out")).unwrap();
        nix::unistd::mkfifo(&alice.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        fs::write(alice.join("foreign"), "x").unwrap();
        chown(alice.join("foreign"), Some(12345), None).unwrap();
        fs::create_dir(alice.join(".pi-gateway-trash")).unwrap();
        symlink("/etc", workspaces.join("eve")).unwrap();
        let header = "{\"type\":\"session\",\"version\":3,\"id\":\"x\",\"cwd\":\"/old/alice\"}\n";
        fs::write(sessions.join("alice.jsonl"), header).unwrap();
        symlink(sessions.join("alice.jsonl"), sessions.join("carol.jsonl")).unwrap();
        for name in ["1.jsonl", "2.jsonl"] {
            fs::write(sessions.join("dave").join(name), header).unwrap();
        }
        let wanted = Wanted { workspaces, sessions, user: None, apply: false, leave_out: false };
        let found = survey(&wanted).unwrap();
        let of = |name: &str| found.iter().find(|candidate| candidate.name == name).unwrap().clone();
        let alice = of("alice");
        assert_eq!(alice.reasons, [] as [&str; 0]);
        assert_eq!((alice.entries, alice.left_out_count, alice.session.as_deref()), (4, 4, Some("alice.jsonl")));
        let mut paths: Vec<&str> = alice.left_out.iter().map(|left| left.path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(paths, [".pi-gateway-trash", "fifo", "foreign", "out"]);
        for (name, word) in [
            ("Bob", "same user"),
            ("bob", "same user"),
            ("no such user", "no user's name"),
            ("eve", "no directory"),
            ("carol", "no regular file"),
            ("dave", "several sessions"),
        ] {
            let reasons = of(name).reasons.concat();
            assert!(reasons.contains(word), "{name}: {reasons}");
        }
    }
}
