//! What each run has used, in files: the relay appends, the front sums up.
//!
//! One line of JSON per upstream request, when it ends, in `<uid>-<run>.jsonl`. The file name comes from the kernel
//! (uid) and a checked run id, never from a path a client sent. Lines are written by one thread with one `write`
//! each, so they do not interleave; a line torn by a full disk or a crash costs that line only. Reading is bounded in
//! time and memory and takes no line on trust.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::mark;
use super::sse::Tokens;
use crate::models::Catalogue;

/// Longest line that is read, in bytes; a written one has about 250.
const MAX_LINE: usize = 1024;
/// How much of a file is read, in bytes: 250,000 requests of one run.
const MAX_FILE: u64 = 64 * 1024 * 1024;
/// How much is read of all files at a start, in bytes: a million requests in a day, in about a second.
const MAX_RECOUNT: u64 = 256 * 1024 * 1024;
/// Records waiting for the disk before new ones go to the log only.
const QUEUE: usize = 1024;

/// One upstream request that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When it ended.
    pub at: Timestamp,
    /// The model's id.
    pub model: String,
    /// The status the upstream answered with; 502 or 504 when it did not answer.
    pub status: u16,
    /// All input tokens.
    pub input_tokens: u64,
    /// Those of them read from the provider's cache.
    pub cached_input_tokens: u64,
    /// Those of them written to the provider's cache.
    #[serde(default)]
    pub cache_write_tokens: u64,
    /// All output tokens.
    pub output_tokens: u64,
    /// Those of them that were reasoning.
    pub reasoning_tokens: u64,
    /// The answer came to its end and was counted by the provider. Otherwise the stream was cut and the tokens are
    /// the relay's estimate: a token for four bytes of request text and one for each increment of the answer.
    pub complete: bool,
}

/// What one run has used so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Upstream requests, failed ones included.
    pub requests: u64,
    /// All input tokens.
    pub input_tokens: u64,
    /// Those of them read from the provider's cache.
    pub cached_input_tokens: u64,
    /// All output tokens.
    pub output_tokens: u64,
    /// Those of them that were reasoning.
    pub reasoning_tokens: u64,
    /// The price by the catalogue, in USD. Models that are no longer in it cost nothing here.
    pub cost_usd: f64,
    /// Some of it is an estimate, or lines could not be read.
    pub estimated: bool,
}

impl Usage {
    /// Sums up the file of `run`; a file that does not exist is a run without requests.
    ///
    /// # Errors
    /// The file exists and cannot be opened or read.
    pub fn read(dir: &Path, uid: u32, run: Uuid, catalogue: &Catalogue) -> io::Result<Self> {
        let mut usage = Self::default();
        let file = match File::open(file_of(dir, uid, run)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(usage),
            Err(e) => return Err(e),
        };
        usage.estimated = file.metadata()?.len() > MAX_FILE;
        each_line(file, |record| match record {
            Some(record) => usage.add(&record, catalogue),
            None => usage.estimated = true,
        })?;
        Ok(usage)
    }

    fn add(&mut self, record: &Record, catalogue: &Catalogue) {
        self.requests = self.requests.saturating_add(1);
        self.input_tokens = self.input_tokens.saturating_add(record.input_tokens);
        self.cached_input_tokens = self.cached_input_tokens.saturating_add(record.cached_input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(record.output_tokens);
        self.reasoning_tokens = self.reasoning_tokens.saturating_add(record.reasoning_tokens);
        self.estimated |= !record.complete;
        if let Some(model) = catalogue.get(&record.model) {
            let fresh = record
                .input_tokens
                .saturating_sub(record.cached_input_tokens)
                .saturating_sub(record.cache_write_tokens);
            let price = |tokens: u64, per_million: f64| tokens as f64 * per_million / 1e6;
            self.cost_usd += price(fresh, model.cost.input)
                + price(record.cached_input_tokens, model.cost.cache_read)
                + price(record.cache_write_tokens, model.cost.cache_write)
                + price(record.output_tokens, model.cost.output);
        }
    }
}

/// Reads a file line by line; None for what is no record.
fn each_line(file: File, mut take: impl FnMut(Option<Record>)) -> io::Result<()> {
    let mut lines = BufReader::new(file.take(MAX_FILE));
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut lines).take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        // What has no end yet is being written, was torn, or is longer than any line of ours.
        take(serde_json::from_slice(&line).ok().filter(|_| line.ends_with(b"\n")));
    }
}

/// Gives every record since a time with its user, of files that were written since then: the newest first, and no more
/// than [`MAX_RECOUNT`] bytes.
///
/// # Errors
/// The directory or a file cannot be read.
pub fn recount(dir: &Path, since: Timestamp, mut take: impl FnMut(u32, &Record)) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(uid) = name.strip_suffix(".jsonl").and_then(|name| name.split_once('-')?.0.parse().ok()) else {
            continue;
        };
        let found = entry.metadata()?;
        let written = found.modified()?;
        if found.is_file() && Timestamp::try_from(written).is_ok_and(|written| written >= since) {
            files.push((written, found.len().min(MAX_FILE), uid, entry.path()));
        }
    }
    files.sort_unstable_by_key(|(written, ..)| std::cmp::Reverse(*written));
    let (mut left, count) = (MAX_RECOUNT, files.len());
    for (index, (_, size, uid, path)) in files.into_iter().enumerate() {
        let Some(rest) = left.checked_sub(size) else {
            tracing::warn!(files = count - index, "not all of what users have spent is counted: too much was written");
            return Ok(());
        };
        left = rest;
        each_line(File::open(path)?, |record| match record {
            Some(record) if record.at >= since => take(uid, &record),
            _ => {}
        })?;
    }
    Ok(())
}

impl Record {
    /// All its tokens.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }

    /// A record of a request that ended now.
    #[must_use]
    pub fn now(model: &str, status: u16, tokens: Tokens, complete: bool) -> Self {
        Self {
            at: Timestamp::now(),
            model: model.to_owned(),
            status,
            input_tokens: tokens.input,
            cached_input_tokens: tokens.cached,
            cache_write_tokens: tokens.cache_write,
            output_tokens: tokens.output,
            reasoning_tokens: tokens.reasoning,
            complete,
        }
    }
}

fn file_of(dir: &Path, uid: u32, run: Uuid) -> PathBuf {
    dir.join(format!("{uid}-{run}.jsonl"))
}

/// Appends `record` to the file of `run`, in one write.
///
/// # Errors
/// The file cannot be opened or written.
pub fn append(dir: &Path, uid: u32, run: Uuid, record: &Record) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(file_of(dir, uid, run))?;
    let size = file.metadata()?.len();
    let mut line = Vec::with_capacity(MAX_LINE);
    if size == 0 {
        // The front reads it through the directory's group, whatever the service's umask.
        file.set_permissions(Permissions::from_mode(0o640))?;
    } else {
        let mut last = [0];
        file.read_exact_at(&mut last, size - 1)?;
        if last != *b"\n" {
            line.push(b'\n');
        }
    }
    serde_json::to_writer(&mut line, record)?;
    line.push(b'\n');
    let written = file.write(&line)?;
    if written == line.len() { Ok(()) } else { Err(io::Error::other("the disk took only a part of the line")) }
}

/// Removes the files that nothing was added to for as long as `retention`; gives how many.
///
/// # Errors
/// The directory cannot be read, or a file not be removed.
pub fn remove_past(dir: &Path, retention: Duration) -> io::Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        if age > retention && entry.file_name().to_string_lossy().ends_with(".jsonl") {
            std::fs::remove_file(entry.path())?;
            count += 1;
        }
    }
    Ok(count)
}

/// A user, his run, what it used, and until when his budget is used up.
type Job = (u32, Uuid, Record, Option<Timestamp>);

/// The writing thread, so that a slow disk does not hold up answers.
#[derive(Debug)]
pub struct Writer {
    queue: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The directory does not exist, or the thread cannot be started.
    pub fn start(dir: PathBuf) -> io::Result<Self> {
        if !dir.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{} is no directory", dir.display())));
        }
        let (queue, jobs) = sync_channel::<Job>(QUEUE);
        let thread = std::thread::Builder::new().name("usage".to_owned()).stack_size(128 * 1024).spawn(move || {
            for (uid, run, record, exhausted) in jobs {
                if let Err(error) = append(&dir, uid, run, &record) {
                    lost(uid, run, &record, &error.to_string());
                }
                // Without its mark a run is started all the same, and refused here.
                if let Some(Err(error)) = exhausted.map(|until| mark::write(&dir, uid, until)) {
                    tracing::error!(uid, %error, "a user whose budget is used up could not be marked");
                }
            }
        })?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Hands a record over, with the time until when the user's budget is used up, if it is; it never waits.
    pub fn record(&self, uid: u32, run: Uuid, record: Record, exhausted: Option<Timestamp>) {
        let Some(queue) = &self.queue else { return };
        if let Err(error) = queue.try_send((uid, run, record, exhausted)) {
            use std::sync::mpsc::TrySendError::{Disconnected, Full};
            let (Full((uid, run, record, _)) | Disconnected((uid, run, record, _))) = error;
            lost(uid, run, &record, "the disk is too slow");
        }
    }
}

impl Drop for Writer {
    /// Waits until everything handed over is written.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A record that did not reach its file is in the log, so that an operator can still account for it.
fn lost(uid: u32, run: Uuid, record: &Record, reason: &str) {
    tracing::error!(
        uid,
        %run,
        reason,
        record = serde_json::to_string(record).unwrap_or_default(),
        "usage not written: check the space and the owner of the usage directory"
    );
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const UID: u32 = 1_879_048_193;

    fn catalogue() -> Catalogue {
        Catalogue::parse(include_str!("../../../trusted/models.json")).unwrap()
    }

    fn record(input: u64, output: u64, complete: bool) -> Record {
        let tokens = Tokens { input, cached: input / 2, cache_write: 0, output, reasoning: 1 };
        Record::now("gpt-6-sol", 200, tokens, complete)
    }

    #[test]
    fn what_is_appended_is_summed_with_its_price() {
        let dir = tempfile::tempdir().unwrap();
        let run = Uuid::now_v7();
        let writer = Writer::start(dir.path().to_owned()).unwrap();
        writer.record(UID, run, record(1_000_000, 100_000, true), None);
        writer.record(UID, run, record(2_000, 10, true), None);
        writer.record(UID, Uuid::now_v7(), record(5, 5, true), None);
        drop(writer);
        let usage = Usage::read(dir.path(), UID, run, &catalogue()).unwrap();
        assert_eq!((usage.requests, usage.input_tokens, usage.output_tokens), (2, 1_002_000, 100_010));
        assert_eq!((usage.cached_input_tokens, usage.reasoning_tokens, usage.estimated), (501_000, 2, false));
        let expected = (501_000.0 * 2.0 + 501_000.0 * 0.2 + 100_010.0 * 10.0) / 1e6;
        assert!((usage.cost_usd - expected).abs() < 1e-9, "{}", usage.cost_usd);
        let mode = std::fs::metadata(file_of(dir.path(), UID, run)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(Usage::read(dir.path(), UID, Uuid::now_v7(), &catalogue()).unwrap(), Usage::default());
        assert_eq!(Usage::read(dir.path(), UID + 1, run, &catalogue()).unwrap(), Usage::default());
    }

    #[test]
    fn a_line_torn_at_any_byte_costs_that_line_only() {
        let dir = tempfile::tempdir().unwrap();
        let run = Uuid::now_v7();
        append(dir.path(), UID, run, &record(10, 1, true)).unwrap();
        let path = file_of(dir.path(), UID, run);
        let line = std::fs::read(&path).unwrap();
        for at in 1..line.len() {
            std::fs::write(&path, [&line, &line[..at]].concat()).unwrap();
            let usage = Usage::read(dir.path(), UID, run, &catalogue()).unwrap();
            assert_eq!((usage.requests, usage.estimated), (1, true), "{at}");
            append(dir.path(), UID, run, &record(100, 1, true)).unwrap();
            let usage = Usage::read(dir.path(), UID, run, &catalogue()).unwrap();
            // A line that lacks only its end is whole again with the next one's line feed.
            let whole = u64::from(at == line.len() - 1);
            assert_eq!((usage.requests, usage.input_tokens), (2 + whole, 110 + 10 * whole), "{at}");
        }
    }

    #[test]
    fn rubbish_and_endless_lines_are_skipped_in_bounded_memory() {
        let dir = tempfile::tempdir().unwrap();
        let run = Uuid::now_v7();
        let path = file_of(dir.path(), UID, run);
        std::fs::write(&path, [vec![b'x'; 3 * MAX_LINE], b"\n\n{}\n".to_vec()].concat()).unwrap();
        append(dir.path(), UID, run, &record(u64::MAX, u64::MAX, true)).unwrap();
        append(dir.path(), UID, run, &record(u64::MAX, 1, false)).unwrap();
        let usage = Usage::read(dir.path(), UID, run, &catalogue()).unwrap();
        assert_eq!((usage.requests, usage.input_tokens, usage.estimated), (2, u64::MAX, true));
    }

    #[test]
    fn what_was_used_since_a_time_is_found_again_by_user() {
        let dir = tempfile::tempdir().unwrap();
        for (uid, input) in [(UID, 10), (UID, 20), (UID + 1, 40)] {
            append(dir.path(), uid, Uuid::now_v7(), &record(input, 1, input != 20)).unwrap();
        }
        let old = Record { at: Timestamp::UNIX_EPOCH, ..record(500, 1, true) };
        append(dir.path(), UID, Uuid::now_v7(), &old).unwrap();
        std::fs::write(dir.path().join("x.jsonl"), "{}").unwrap();
        let mut found = std::collections::BTreeMap::new();
        let since = Timestamp::now() - jiff::SignedDuration::from_secs(60);
        recount(dir.path(), since, |uid, record| *found.entry(uid).or_insert(0) += record.tokens()).unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [(UID, 32), (UID + 1, 41)]);
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let run = Uuid::now_v7();
        let target = dir.path().join("target");
        std::os::unix::fs::symlink(&target, file_of(dir.path(), UID, run)).unwrap();
        assert!(append(dir.path(), UID, run, &record(1, 1, true)).is_err());
        assert!(!target.exists());
    }
}
