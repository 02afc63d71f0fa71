//! Copies a workspace's `dist`, as its worker hands it over, to a new generation.
//!
//! The worker runs as the user and so does whatever he has done to it: its answers are bounded and looked at. Names are
//! checked part by part; what is opened must be a regular file of the user's and the very version that was listed. Left
//! out, and told: links, what is no file, names that a web server or a log could take for something else, what is too
//! deep, and what the user may not read or does not own. A site that is too large, or changes, is not exported at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use pi_gateway_helper::names::User;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::limits::{MAX_BYTES, MAX_DEPTH, MAX_ENTRIES, MAX_NAMED, MAX_PATH, PAGE};
use super::place::{Place, make_directory};
use super::state::{Site, SiteError};
use crate::runs::record::Skipped;
use crate::worker::message::{Entry, Failure, Kind, Reply, Request};
use crate::worker::relpath::{RelPath, join};
use crate::workspace::connection::{Answered, AskError};
use crate::workspace::disk::Space;
use crate::workspace::file;
use crate::workspace::workers::{WorkerError, Workers};

/// What is exported.
const DIST: &[u8] = b"dist";

/// Exports a user's `dist` and makes it what is served.
///
/// # Errors
/// Why not; what was served is served.
pub async fn export(root: &Path, user: &User, uid: u32, workers: &Workers, until: Instant) -> Result<Site, SiteError> {
    let disk = |error: io::Error| storage(&error);
    if Space::of(root).map_err(disk)?.is_scarce() {
        return Err(storage(&io::ErrorKind::StorageFull.into()));
    }
    let place = Place::open(root, user.as_str()).map_err(disk)?;
    place.tidy().map_err(disk)?;
    let generation = Uuid::now_v7();
    let into = place.begin(generation).map_err(disk)?;
    let mut export = Export { user, uid, workers, until, into: &into, site: Site::default() };
    let published = match export.copy().await {
        Ok(()) => place.publish(generation).map_err(disk),
        Err(error) => Err(error),
    };
    let Export { mut site, .. } = export;
    // Also after a failure: half a site takes room as well.
    if let Err(error) = place.tidy() {
        tracing::warn!(user = user.as_str(), %error, "older generations of the site could not be removed");
    }
    published?;
    (site.generation, site.exported_at) = (Some(generation), Some(jiff::Timestamp::now()));
    tracing::info!(user = user.as_str(), %generation, files = site.files, bytes = site.bytes, "site exported");
    Ok(site)
}

struct Export<'a> {
    user: &'a User,
    uid: u32,
    workers: &'a Workers,
    until: Instant,
    into: &'a Path,
    site: Site,
}

impl Export<'_> {
    async fn ask(&self, request: Request) -> Result<Result<Answered, Failure>, SiteError> {
        match timeout_at(self.until, self.workers.ask_aside(self.user, request)).await {
            Err(_) => Err(late()),
            Ok(Ok(answered)) => Ok(Ok(answered)),
            Ok(Err(WorkerError::Ask(AskError::Failed(failure)))) => Ok(Err(failure)),
            Ok(Err(error)) => Err(unfit(Err(error))),
        }
    }

    async fn copy(&mut self) -> Result<(), SiteError> {
        // Not followed: a link in its place would be another directory of the workspace.
        match self.ask(Request::Stat(DIST.to_vec())).await? {
            Ok((Reply::Entry(Entry { kind: Kind::Directory, .. }), _)) => {}
            Ok((Reply::Entry(_), _)) | Err(_) => {
                return Err(SiteError::new("no_output", "/workspace/dist is not a directory"));
            }
            Ok(_) => return Err(unfit(Ok(()))),
        }
        let (mut after, mut seen) = (None, 0);
        loop {
            let list = Request::List { path: DIST.to_vec(), after, limit: PAGE, recursive: true };
            let (entries, more) = match self.ask(list).await? {
                Ok((Reply::Page { entries, more }, _)) => (entries, more),
                Ok(_) => return Err(unfit(Ok(()))),
                Err(failure) => return Err(unreadable(failure)),
            };
            seen += entries.len();
            if seen > MAX_ENTRIES {
                return Err(too_large(format_args!("{MAX_ENTRIES} files and directories")));
            }
            let last = entries.last().map(|entry| below(&entry.path)).transpose()?.map(<[u8]>::to_vec);
            for entry in &entries {
                self.take(entry).await?;
            }
            match (more, last) {
                (false, _) => return Ok(()),
                (true, None) => return Err(unfit(Ok(()))),
                (true, last) => after = last,
            }
        }
    }

    async fn take(&mut self, entry: &Entry) -> Result<(), SiteError> {
        let path = below(&entry.path)?;
        let reason = match (judge(path), entry.kind) {
            (Verdict::Inside, _) => return Ok(()),
            (Verdict::Skipped(reason), _) => reason,
            (Verdict::Taken, Kind::Directory) => {
                return make_directory(&self.at(path)).map_err(|error| storage(&error));
            }
            (Verdict::Taken, Kind::File) => match self.file(entry, path).await? {
                None => return Ok(()),
                Some(reason) => reason,
            },
            (Verdict::Taken, Kind::Symlink) => "symlink",
            (Verdict::Taken, Kind::Fifo | Kind::Socket | Kind::Device) => "special",
        };
        self.site.skipped_count += 1;
        if self.site.skipped.len() < MAX_NAMED {
            let path = String::from_utf8_lossy(path).into_owned();
            self.site.skipped.push(Skipped { path, reason: reason.to_owned() });
        }
        Ok(())
    }

    fn at(&self, path: &[u8]) -> std::path::PathBuf {
        self.into.join(std::ffi::OsStr::from_bytes(path))
    }

    /// Copies a file; gives the reason when it is left out.
    async fn file(&mut self, entry: &Entry, path: &[u8]) -> Result<Option<&'static str>, SiteError> {
        if entry.version.size > MAX_BYTES - self.site.bytes {
            return Err(too_large(format_args!("{} MiB", MAX_BYTES >> 20)));
        }
        let descriptor = match self.ask(Request::Open(join(DIST, path))).await? {
            Ok((Reply::Entry(_), descriptor)) => descriptor,
            Ok(_) => return Err(unfit(Ok(()))),
            Err(Failure::Denied) => return Ok(Some("unreadable")),
            Err(failure) => return Err(unreadable(failure)),
        };
        let disk = |error: io::Error| storage(&error);
        let (file, version) = file::readable(descriptor).map_err(disk)?;
        if !is_of(&file, self.uid) {
            return Ok(Some("foreign"));
        }
        if version != entry.version {
            return Err(changed());
        }
        let mut copy = OpenOptions::new();
        let mut copy = copy.write(true).create_new(true).mode(0o640).open(self.at(path)).map_err(disk)?;
        let copied = io::copy(&mut file.take(entry.version.size), &mut copy).map_err(disk)?;
        if copied != entry.version.size {
            return Err(changed());
        }
        self.site.files += 1;
        self.site.bytes += copied;
        Ok(None)
    }
}

/// What is to be done with a path below `dist`.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Taken,
    /// It is left out, and told.
    Skipped(&'static str),
    /// It is in what is left out.
    Inside,
}

fn judge(path: &[u8]) -> Verdict {
    let reason = |depth: usize, name: &[u8]| match name {
        // .htaccess and its kind are for the operator to write.
        [b'.', ..] if name != b".well-known" => Some("hidden"),
        _ if name.iter().any(u8::is_ascii_control) => Some("name"),
        _ if depth >= MAX_DEPTH => Some("too_deep"),
        _ => None,
    };
    let mut names = path.split(|byte| *byte == b'/').enumerate().peekable();
    while let Some((depth, name)) = names.next() {
        match (reason(depth, name), names.peek()) {
            (None, _) => {}
            (Some(reason), None) => return Verdict::Skipped(reason),
            (Some(_), Some(_)) => return Verdict::Inside,
        }
    }
    if path.len() > MAX_PATH { Verdict::Skipped("too_deep") } else { Verdict::Taken }
}

/// The part of a path that is below `dist`.
fn below(path: &[u8]) -> Result<&[u8], SiteError> {
    let below = path.strip_prefix(DIST).and_then(|rest| rest.strip_prefix(b"/"));
    let below = below.filter(|below| !below.is_empty() && RelPath::parse(below.to_vec()).is_ok());
    below.ok_or_else(|| unfit(Ok(())))
}

/// Whether a file is a user's own.
pub fn is_of(file: &File, uid: u32) -> bool {
    file.metadata().is_ok_and(|found| found.uid() == uid)
}

/// Time is over.
pub fn late() -> SiteError {
    SiteError::new("timeout", "it took longer than WORKSPACE_FINALIZATION_TIMEOUT_MS")
}

/// The worker is not there, or answers something else than it was asked.
pub fn unfit(answer: Result<(), WorkerError>) -> SiteError {
    let error = answer.err().unwrap_or(WorkerError::Ask(AskError::Unfit));
    SiteError::new("workspace_unavailable", error)
}

/// The gateway's own disk refuses.
pub fn storage(error: &io::Error) -> SiteError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            SiteError::new("disk_full", "the disk of SITES_DIR is full, or nearly")
        }
        _ => SiteError::new("storage_failed", error),
    }
}

fn too_large(limit: impl std::fmt::Display) -> SiteError {
    SiteError::new("too_large", format_args!("dist has more than {limit}"))
}

fn changed() -> SiteError {
    SiteError::new("changed", "dist changed while it was exported")
}

fn unreadable(failure: Failure) -> SiteError {
    SiteError::new("unreadable", format_args!("dist could not be read: {failure:?}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_judged_part_by_part() {
        let deep = vec![b"d".as_slice(); MAX_DEPTH].join(&b'/');
        let deeper = join(&deep, b"e");
        let long = [vec![b'n'; 250].as_slice(); 5].join(&b'/');
        for (path, verdict) in [
            (b"index.html".as_slice(), Verdict::Taken),
            (b"a b/\xff\xfe/\xc3\xa9", Verdict::Taken),
            (b".well-known/security.txt", Verdict::Taken),
            (b"...", Verdict::Skipped("hidden")),
            (b".htaccess", Verdict::Skipped("hidden")),
            (b"a/.git", Verdict::Skipped("hidden")),
            (b"a/.git/config", Verdict::Inside),
            (b"a\nb", Verdict::Skipped("name")),
            (b"a\x7f/b", Verdict::Inside),
            (&deep, Verdict::Taken),
            (&deeper, Verdict::Skipped("too_deep")),
            (&join(&deeper, b"f"), Verdict::Inside),
            (&long, Verdict::Skipped("too_deep")),
        ] {
            assert_eq!(judge(path), verdict, "{}", path.escape_ascii());
        }
    }

    #[test]
    fn a_path_that_the_worker_invents_is_no_path_below_dist() {
        assert_eq!(below(b"dist/a/b").unwrap(), b"a/b");
        for bad in
            [b"dist".as_slice(), b"dist/", b"distant/a", b"src/a", b"dist//etc", b"dist/../src/a", b"dist/a\0", b""]
        {
            assert_eq!(below(bad).unwrap_err().code, "workspace_unavailable", "{}", bad.escape_ascii());
        }
    }
}
