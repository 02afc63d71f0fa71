//! Where runs are kept on disk, and the only code that knows the layout.
//!
//! ```text
//! front/active/<user>                     the id of the user's one active run
//! front/users/<user>/runs/<run>/          request.json, run.json, events; cancel, once the user asked for it;
//!                                         message-<id>.json, each that the user has sent to the run
//! front/users/<user>/idempotency/<hash>   which run a key made, for 24 hours
//! front/users/<user>/aside/<id>           that a session was set aside under this id, until it is removed
//! front/users/<user>/images/<hash>        which image a key made, for 24 hours
//! front/ballast                           space that is given up when the disk is full, so that runs can still be ended
//! ```
//!
//! Files are written to a temporary name, synced and renamed; a directory appears whole. The user's name is a
//! [`User`], which cannot be a path.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::FallocateFlags;

use pi_gateway_helper::names::User;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::messages::Message;
use super::record::{Record, RunRequest};
use crate::durable::{self, Access, TEMPORARY};

/// A JSON file larger than this is not read: a request's body limit and its escapes.
const MAX_JSON: u64 = 256 << 20;
/// What is kept for the last words of runs on a full disk, in bytes.
const BALLAST: i64 = 4 << 20;
/// How long an idempotency key is kept, in hours.
pub const IDEMPOTENCY_HOURS: i64 = 24;

/// The front's directory.
#[derive(Clone)]
pub struct Store {
    root: PathBuf,
}

/// What an idempotency key stands for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyUse {
    /// The run it made.
    pub run: Uuid,
    /// SHA-256 of the body, hex.
    pub body: String,
    /// When.
    pub at: jiff::Timestamp,
}

/// What an idempotency key stands for that made an image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageUse {
    /// SHA-256 of the body, hex.
    pub body: String,
    /// When.
    pub at: jiff::Timestamp,
    /// What was answered.
    pub answer: serde_json::Value,
}

impl Store {
    /// A store in `root`, which must exist; makes the directories in it and removes what a crash left half written.
    ///
    /// # Errors
    /// When the directories cannot be made.
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root.join("active"))?;
        fs::create_dir_all(root.join("users"))?;
        let store = Store { root: root.to_owned() };
        store.take_ballast();
        remove_temporaries(&root.join("active"))?;
        remove_temporaries(&root.join("users"))?;
        for user in store.users()? {
            let dir = store.user_dir(&user);
            for sub in ["runs", "idempotency", "images", "aside"] {
                remove_temporaries(&dir.join(sub))?;
            }
        }
        Ok(store)
    }

    /// A store that is only looked at, by the operator's commands.
    pub fn look(root: &Path) -> Self {
        Store { root: root.to_owned() }
    }

    fn user_dir(&self, user: &User) -> PathBuf {
        self.root.join("users").join(user.as_str())
    }

    fn run_dir(&self, user: &User, run: Uuid) -> PathBuf {
        self.user_dir(user).join("runs").join(run.to_string())
    }

    /// The log of a run.
    pub fn events_path(&self, user: &User, run: Uuid) -> PathBuf {
        self.run_dir(user, run).join("events")
    }

    /// The users that have ever had a run.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn users(&self) -> io::Result<Vec<User>> {
        names(&self.root.join("users")).map(|names| names.iter().filter_map(|name| User::parse(name).ok()).collect())
    }

    /// Writes a new run: first the mark that it is active, then its directory in one piece, then its key.
    ///
    /// # Errors
    /// When the disk refuses; what was written goes again, the mark last: one without a run is removed by the next start.
    pub fn create(&self, user: &User, record: &Record, request: &RunRequest) -> io::Result<()> {
        self.write_new(user, record, request).inspect_err(|_| self.undo(user, record.run.id))
    }

    /// The user's active run, by its mark.
    pub fn active_mark(&self, user: &User) -> Option<Uuid> {
        fs::read_to_string(self.root.join("active").join(user.as_str())).ok()?.trim().parse().ok()
    }

    /// Removes everything that is kept of a user: first from sight, then his files.
    ///
    /// # Errors
    /// When the disk refuses; what is left of it goes with the next call, or the next start.
    pub fn forget(&self, user: &User) -> io::Result<()> {
        let hidden = self.root.join("users").join(format!("{TEMPORARY}{}", user.as_str()));
        ignore_missing(fs::remove_dir_all(&hidden))?;
        ignore_missing(fs::rename(self.user_dir(user), &hidden))?;
        durable::sync_directory(&self.root.join("users"))?;
        ignore_missing(fs::remove_dir_all(&hidden))?;
        self.clear_active(user)
    }

    /// Removes a run that nobody was promised.
    pub fn undo(&self, user: &User, run: Uuid) {
        if let Err(error) = self.remove(user, run).and_then(|()| self.clear_active(user)) {
            tracing::error!(%run, %error, "what was written of a run that was not accepted could not be removed");
        }
    }

    fn write_new(&self, user: &User, record: &Record, request: &RunRequest) -> io::Result<()> {
        let id = record.run.id;
        let runs = self.user_dir(user).join("runs");
        fs::create_dir_all(&runs)?;
        let mark = self.root.join("active").join(user.as_str());
        durable::write(&mark, id.to_string().as_bytes(), Access::PRIVATE)?;
        let temporary = runs.join(format!("{TEMPORARY}{id}"));
        fs::create_dir(&temporary)?;
        write_json(&temporary.join("request.json"), request)?;
        write_json(&temporary.join("run.json"), record)?;
        fs::rename(&temporary, runs.join(id.to_string()))?;
        durable::sync_directory(&runs)?;
        self.remember_key(user, record)
    }

    /// Makes sure that a run's idempotency key is on record. One that is needs no room on the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remember_key(&self, user: &User, record: &Record) -> io::Result<()> {
        let Some(idempotency) = &record.idempotency else { return Ok(()) };
        let dir = self.user_dir(user).join("idempotency");
        let used = KeyUse { run: record.run.id, body: idempotency.body.clone(), at: record.run.created_at };
        let path = dir.join(&idempotency.key);
        if read_json(&path).is_ok_and(|known: Option<KeyUse>| known.is_some_and(|known| known.run == used.run)) {
            return Ok(());
        }
        fs::create_dir_all(&dir)?;
        write_json(&path, &used)
    }

    /// What an idempotency key (as SHA-256, hex) was used for in the last 24 hours.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn key_use(&self, user: &User, key: &str, now: jiff::Timestamp) -> io::Result<Option<KeyUse>> {
        let found: Option<KeyUse> = read_json(&self.user_dir(user).join("idempotency").join(key))?;
        Ok(found.filter(|used| counts(used.at, now)))
    }

    /// Keeps what a key (as SHA-256, hex) made.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remember_image(&self, user: &User, key: &str, made: &ImageUse) -> io::Result<()> {
        let dir = self.user_dir(user).join("images");
        fs::create_dir_all(&dir)?;
        write_json(&dir.join(key), made)
    }

    /// The image that a key made in the last 24 hours.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn image_use(&self, user: &User, key: &str, now: jiff::Timestamp) -> io::Result<Option<ImageUse>> {
        let found: Option<ImageUse> = read_json(&self.user_dir(user).join("images").join(key))?;
        Ok(found.filter(|made| counts(made.at, now)))
    }

    /// Replaces a run's record. On a full disk the ballast makes room for it.
    ///
    /// # Errors
    /// When the disk refuses; the old record stays.
    pub fn save(&self, user: &User, record: &Record) -> io::Result<()> {
        let path = self.run_dir(user, record.run.id).join("run.json");
        match write_json(&path, record) {
            Err(error) if self.give_ballast(&error) => write_json(&path, record),
            saved => saved,
        }
    }

    /// Takes the space that is given up on a full disk, unless it is held already or there is none.
    pub fn take_ballast(&self) {
        let path = self.root.join("ballast");
        let held =
            fs::metadata(&path).is_ok_and(|found| i64::try_from(found.len()).is_ok_and(|length| length >= BALLAST));
        let take = || {
            nix::fcntl::fallocate(File::create(&path)?, FallocateFlags::empty(), 0, BALLAST).map_err(io::Error::from)
        };
        if !held && let Err(error) = take() {
            let _ = fs::remove_file(&path);
            tracing::warn!(%error, "no space could be set aside for a full disk");
        }
    }

    /// Gives the ballast up if the disk is full; tells whether something may fit now.
    pub fn give_ballast(&self, error: &io::Error) -> bool {
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        full && fs::remove_file(self.root.join("ballast")).is_ok()
    }

    /// A run's record; None when the user has no such run.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn load(&self, user: &User, run: Uuid) -> io::Result<Option<Record>> {
        read_json(&self.run_dir(user, run).join("run.json"))
    }

    /// What a run was asked to do.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn request(&self, user: &User, run: Uuid) -> io::Result<Option<RunRequest>> {
        read_json(&self.run_dir(user, run).join("request.json"))
    }

    /// How long the file with a run's request is, in bytes; 0 when there is none.
    pub fn request_size(&self, user: &User, run: Uuid) -> u64 {
        std::fs::metadata(self.run_dir(user, run).join("request.json")).map_or(0, |file| file.len())
    }

    /// Keeps that the user wants a run to end.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn request_cancel(&self, user: &User, run: Uuid) -> io::Result<()> {
        let dir = self.run_dir(user, run);
        File::create(dir.join("cancel"))?;
        durable::sync_directory(&dir)
    }

    /// Whether the user wants a run to end.
    pub fn cancel_requested(&self, user: &User, run: Uuid) -> bool {
        self.run_dir(user, run).join("cancel").exists()
    }

    /// Keeps a message that the user has sent to a run.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn add_message(&self, user: &User, run: Uuid, message: &Message) -> io::Result<()> {
        write_json(&self.run_dir(user, run).join(format!("message-{}.json", message.id)), message)
    }

    /// The messages that the user has sent to a run, in their order.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn messages(&self, user: &User, run: Uuid) -> io::Result<Vec<Message>> {
        let dir = self.run_dir(user, run);
        let mut messages = Vec::new();
        for name in names(&dir)?.iter().filter(|name| name.starts_with("message-")) {
            messages.extend(read_json::<Message>(&dir.join(name))?);
        }
        messages.sort_unstable_by_key(|message| message.id);
        Ok(messages)
    }

    /// A user's runs, newest first, that are older than `before`.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self, user: &User, before: Option<Uuid>, limit: usize) -> io::Result<Vec<Uuid>> {
        let mut ids: Vec<Uuid> = names(&self.user_dir(user).join("runs"))?
            .iter()
            .filter_map(|name| Uuid::try_parse(name).ok())
            .filter(|id| before.is_none_or(|before| *id < before))
            .collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.truncate(limit);
        Ok(ids)
    }

    /// The runs that were active when the front last ended. A mark without a run is removed: nobody was promised it. A
    /// run that cannot be read is one user's trouble and is left to the operator.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn active(&self) -> io::Result<Vec<(User, Record, RunRequest)>> {
        let dir = self.root.join("active");
        let mut found = Vec::new();
        for name in names(&dir)? {
            let Ok(user) = User::parse(&name) else { continue };
            match self.marked(&user, &dir.join(&name)) {
                Ok(Some((record, request))) => found.push((user, record, request)),
                Ok(None) => fs::remove_file(dir.join(&name))?,
                Err(error) => tracing::error!(user = name, %error, "the active run cannot be taken up again"),
            }
        }
        Ok(found)
    }

    fn marked(&self, user: &User, mark: &Path) -> io::Result<Option<(Record, RunRequest)>> {
        let Ok(id) = Uuid::try_parse(fs::read_to_string(mark)?.trim()) else { return Ok(None) };
        let (record, request) = (self.load(user, id)?, self.request(user, id)?);
        Ok(record.zip(request))
    }

    /// Removes the mark that the user has an active run.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn clear_active(&self, user: &User) -> io::Result<()> {
        ignore_missing(fs::remove_file(self.root.join("active").join(user.as_str())))
    }

    /// Removes a run that has ended: first from sight, then its files.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove(&self, user: &User, run: Uuid) -> io::Result<()> {
        let hidden = self.user_dir(user).join("runs").join(format!("{TEMPORARY}{run}"));
        ignore_missing(fs::rename(self.run_dir(user, run), &hidden))?;
        ignore_missing(fs::remove_dir_all(hidden))
    }

    /// Removes the user's oldest runs until what is kept of him takes at most `most` bytes on the disk, so that one user's
    /// prompts and events cannot fill it for all. His active run stays.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn make_room(&self, user: &User, most: u64) -> io::Result<usize> {
        let (mut kept, mut removed) = (0, 0);
        // Newest first: what does not fit any more is older than what does.
        for run in self.list(user, None, usize::MAX)? {
            kept += size_of(&self.run_dir(user, run))?;
            if kept > most && !self.is_active(user, run) {
                self.remove(user, run)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn is_active(&self, user: &User, run: Uuid) -> bool {
        self.active_mark(user) == Some(run)
    }

    /// Keeps that the user's session is set aside under an id.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn note_aside(&self, user: &User, id: Uuid) -> io::Result<()> {
        let dir = self.user_dir(user).join("aside");
        fs::create_dir_all(&dir)?;
        durable::write(&dir.join(id.to_string()), b"", Access::PRIVATE)
    }

    /// The ids under which sessions of the user were set aside.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn asides(&self, user: &User) -> io::Result<Vec<Uuid>> {
        let names = names(&self.user_dir(user).join("aside"))?;
        Ok(names.iter().filter_map(|name| Uuid::try_parse(name).ok()).collect())
    }

    /// Forgets a session that was set aside and is removed.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn forget_aside(&self, user: &User, id: Uuid) -> io::Result<()> {
        ignore_missing(fs::remove_file(self.user_dir(user).join("aside").join(id.to_string())))
    }

    /// Removes the idempotency keys that are too old to count.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove_old_keys(&self, user: &User, now: jiff::Timestamp) -> io::Result<()> {
        let dir = self.user_dir(user).join("idempotency");
        for name in names(&dir)? {
            // A damaged one is of no use to anybody either.
            if self.key_use(user, &name, now).ok().flatten().is_none() {
                ignore_missing(fs::remove_file(dir.join(name)))?;
            }
        }
        let dir = self.user_dir(user).join("images");
        for name in names(&dir)? {
            if self.image_use(user, &name, now)?.is_none() {
                ignore_missing(fs::remove_file(dir.join(name)))?;
            }
        }
        Ok(())
    }
}

/// Whether a key that was used then still counts.
fn counts(at: jiff::Timestamp, now: jiff::Timestamp) -> bool {
    now.duration_since(at) < jiff::SignedDuration::from_hours(IDEMPOTENCY_HOURS)
}

/// What a directory of files takes on the disk, in bytes.
fn size_of(dir: &Path) -> io::Result<u64> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut size = 0;
    for entry in entries {
        match entry?.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => size += found?.blocks() * 512,
        }
    }
    Ok(size)
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

fn remove_temporaries(dir: &Path) -> io::Result<()> {
    for name in names(dir)?.iter().filter(|name| name.starts_with(TEMPORARY)) {
        let path = dir.join(name);
        ignore_missing(if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) })?;
    }
    Ok(())
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let file = match File::open(path) {
        Ok(file) => file,
        // A name that is too long is no file of ours either.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let bytes = {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, MAX_JSON), &mut bytes)?;
        bytes
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: not what was written: {error}", path.display()))
    })
}

fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    durable::write(path, &serde_json::to_vec(value)?, Access::PRIVATE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn record(key: &str) -> Record {
        serde_json::from_value(serde_json::json!({
            "run": {
                "id": Uuid::now_v7(), "status": "starting", "output_text": null, "error": null,
                "created_at": jiff::Timestamp::now(), "started_at": null, "finished_at": null,
                "usage": crate::relay::model::usage::Usage::default(), "model": null, "thinking": null, "metadata": {},
            },
            "idempotency": {"key": key, "body": "b"},
        }))
        .unwrap()
    }

    #[test]
    fn a_run_that_was_refused_for_want_of_space_is_not_there_and_not_found_by_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let (store, user) = (Store::open(dir.path()).unwrap(), User::parse("alice").unwrap());
        let request: RunRequest = serde_json::from_value(serde_json::json!({"prompt": "x"})).unwrap();
        let home = dir.path().join("users/alice");
        fs::create_dir_all(&home).unwrap();
        // The last step fails, and then one in the middle.
        fs::write(home.join("idempotency"), "").unwrap();
        store.create(&user, &record("k"), &request).unwrap_err();
        let blocked = record("k");
        fs::create_dir_all(home.join(format!("runs/{TEMPORARY}{}/run.json", blocked.run.id))).unwrap();
        store.create(&user, &blocked, &request).unwrap_err();
        assert_eq!(names(&home.join("runs")).unwrap(), [] as [String; 0]);
        assert!(store.active().unwrap().is_empty());
        assert_eq!(names(&dir.path().join("active")).unwrap(), [] as [String; 0]);
    }

    #[test]
    fn a_key_that_is_on_record_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let (store, user) = (Store::open(dir.path()).unwrap(), User::parse("alice").unwrap());
        let known = record("k");
        store.remember_key(&user, &known).unwrap();
        // As on a full disk: nothing can be written beside it.
        fs::create_dir(dir.path().join(format!("users/alice/idempotency/{TEMPORARY}k"))).unwrap();
        store.remember_key(&user, &known).unwrap();
        store.remember_key(&user, &record("k")).unwrap_err();
    }

    #[test]
    fn of_what_is_kept_of_a_user_the_oldest_goes_first_and_the_active_run_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (store, user) = (Store::open(dir.path()).unwrap(), User::parse("alice").unwrap());
        let runs: Vec<Uuid> = (0..4)
            .map(|_| {
                let run = Uuid::now_v7();
                fs::create_dir_all(store.run_dir(&user, run)).unwrap();
                fs::write(store.run_dir(&user, run).join("events"), vec![b'x'; 64 << 10]).unwrap();
                run
            })
            .collect();
        assert_eq!(store.make_room(&user, 4 * (64 << 10)).unwrap(), 0);
        fs::write(dir.path().join("active/alice"), runs[0].to_string()).unwrap();
        assert_eq!(store.make_room(&user, 2 * (64 << 10)).unwrap(), 1);
        assert_eq!(store.list(&user, None, 9).unwrap(), [runs[3], runs[2], runs[0]]);
        assert_eq!(store.make_room(&User::parse("bob").unwrap(), 0).unwrap(), 0);
    }
}
