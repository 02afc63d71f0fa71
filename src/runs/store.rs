//! Where runs are kept on disk, and the only code that knows the layout.
//!
//! ```text
//! front/active/<user>                     the id of the user's one active run
//! front/users/<user>/runs/<run>/          request.json, run.json, events
//! front/users/<user>/idempotency/<hash>   which run a key made, for 24 hours
//! ```
//!
//! Files are written to a temporary name, synced and renamed; a directory appears whole. The user's name is a
//! [`User`], which cannot be a path.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use pi_gateway_helper::names::User;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::record::{Record, RunRequest};

/// A JSON file larger than this is not read: a request's body limit and its escapes.
const MAX_JSON: u64 = 256 << 20;
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

impl Store {
    /// A store in `root`, which must exist; makes the directories in it and removes what a crash left half written.
    ///
    /// # Errors
    /// When the directories cannot be made.
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root.join("active"))?;
        fs::create_dir_all(root.join("users"))?;
        let store = Store { root: root.to_owned() };
        remove_temporaries(&root.join("active"))?;
        for user in store.users()? {
            let dir = store.user_dir(&user);
            for sub in ["runs", "idempotency"] {
                remove_temporaries(&dir.join(sub))?;
            }
        }
        Ok(store)
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
    /// When the disk refuses; nothing is left then but a mark without a run, which the next start removes.
    pub fn create(&self, user: &User, record: &Record, request: &RunRequest) -> io::Result<()> {
        let id = record.run.id;
        let runs = self.user_dir(user).join("runs");
        fs::create_dir_all(&runs)?;
        write_whole(&self.root.join("active").join(user.as_str()), id.to_string().as_bytes())?;
        let temporary = runs.join(format!(".tmp-{id}"));
        fs::create_dir(&temporary)?;
        write_json(&temporary.join("request.json"), request)?;
        write_json(&temporary.join("run.json"), record)?;
        fs::rename(&temporary, runs.join(id.to_string()))?;
        sync_dir(&runs)?;
        self.remember_key(user, record)
    }

    /// Makes sure that a run's idempotency key is on record.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remember_key(&self, user: &User, record: &Record) -> io::Result<()> {
        let Some(idempotency) = &record.idempotency else { return Ok(()) };
        let dir = self.user_dir(user).join("idempotency");
        fs::create_dir_all(&dir)?;
        let used = KeyUse { run: record.run.id, body: idempotency.body.clone(), at: record.run.created_at };
        write_json(&dir.join(&idempotency.key), &used)
    }

    /// What an idempotency key (as SHA-256, hex) was used for in the last 24 hours.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn key_use(&self, user: &User, key: &str, now: jiff::Timestamp) -> io::Result<Option<KeyUse>> {
        let found: Option<KeyUse> = read_json(&self.user_dir(user).join("idempotency").join(key))?;
        let limit = jiff::SignedDuration::from_hours(IDEMPOTENCY_HOURS);
        Ok(found.filter(|used| now.duration_since(used.at) < limit))
    }

    /// Replaces a run's record.
    ///
    /// # Errors
    /// When the disk refuses; the old record stays.
    pub fn save(&self, user: &User, record: &Record) -> io::Result<()> {
        write_json(&self.run_dir(user, record.run.id).join("run.json"), record)
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
        let hidden = self.user_dir(user).join("runs").join(format!(".tmp-{run}"));
        ignore_missing(fs::rename(self.run_dir(user, run), &hidden))?;
        ignore_missing(fs::remove_dir_all(hidden))
    }

    /// Removes the idempotency keys that are too old to count.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove_old_keys(&self, user: &User, now: jiff::Timestamp) -> io::Result<()> {
        let dir = self.user_dir(user).join("idempotency");
        for name in names(&dir)? {
            if self.key_use(user, &name, now)?.is_none() {
                ignore_missing(fs::remove_file(dir.join(name)))?;
            }
        }
        Ok(())
    }
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
    for name in names(dir)?.iter().filter(|name| name.starts_with(".tmp-")) {
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
    write_whole(path, &serde_json::to_vec(value)?)
}

/// Writes a file so that it is there whole or not at all, also after a power failure.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = dir.join(format!(".tmp-{name}"));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
