//! What is known of a user's repository between two jobs: `git.json` in the user's directory of the front.
//!
//! It is what the last job has told, for those who ask while none can be done. A file that cannot be read is as good as
//! none: the next job writes it anew.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pi_gateway_helper::names::User;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::durable::{self, Access};
use crate::worker::git::message::{self, Failure};

/// The largest state, in bytes.
const MAX: usize = 64 << 10;

/// What is known.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct State {
    /// The workspace's repository was made once.
    #[serde(default)]
    pub prepared: bool,
    /// Where the workspace was.
    #[serde(default)]
    pub position: Position,
    /// The run whose push goes on.
    #[serde(default)]
    pub pushing: Option<Uuid>,
    /// A sync goes on: its worker changes files of the workspace.
    #[serde(default)]
    pub syncing: bool,
    /// The last push behind a run.
    #[serde(default)]
    pub last_push: Option<Push>,
    /// The last sync.
    #[serde(default)]
    pub last_sync: Option<Push>,
}

/// Where a workspace is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Position {
    /// Its branch.
    pub branch: Option<String>,
    /// The commit it is at.
    pub head: Option<String>,
    /// Commits that the remote, as it was last seen, has not.
    pub ahead: Option<u32>,
    /// Commits of the remote that the workspace has not.
    pub behind: Option<u32>,
}

impl From<message::Position> for Position {
    fn from(from: message::Position) -> Self {
        // The worker's words: what is no branch or id is not shown.
        let plain = |text: &String| text.len() <= 250 && !text.chars().any(char::is_control);
        let (branch, head) = (from.branch.filter(plain), from.head.filter(plain));
        Position { branch, head, ahead: from.ahead, behind: from.behind }
    }
}

/// How a push or a sync went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Push {
    /// When it ended, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    pub at: jiff::Timestamp,
    /// Why it failed; null when it did not.
    pub error: Option<GitError>,
}

/// Why something was not done with a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GitError {
    /// A stable word: docs/api-and-media.md, "Git".
    pub code: String,
    /// What happened.
    pub message: String,
}

impl From<&Failure> for GitError {
    fn from(failure: &Failure) -> Self {
        let failure = super::job::clean(failure.clone());
        GitError { code: failure.code, message: failure.message }
    }
}

impl Push {
    /// One that has just ended.
    pub fn now(failure: Option<&Failure>) -> Self {
        Push { at: jiff::Timestamp::now(), error: failure.map(GitError::from) }
    }
}

/// The states of all users.
pub struct States {
    users: PathBuf,
    /// Held while one is changed.
    changing: tokio::sync::Mutex<()>,
}

impl States {
    /// Those in the directory of a store.
    pub fn new(store: &Path) -> Self {
        States { users: store.join("users"), changing: tokio::sync::Mutex::default() }
    }

    fn path(&self, user: &User) -> PathBuf {
        self.users.join(user.as_str()).join("git.json")
    }

    /// A user's.
    pub fn load(&self, user: &User) -> State {
        read(&self.path(user))
    }

    /// Changes a user's. When it cannot be kept, the next job's will be.
    pub async fn change(&self, user: &User, change: impl FnOnce(&mut State) + Send + 'static) {
        let _changing = self.changing.lock().await;
        let path = self.path(user);
        let work = move || {
            let mut state = read(&path);
            change(&mut state);
            let text = serde_json::to_vec(&state).map_err(io::Error::other)?;
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
            durable::write(&path, &text, Access::PRIVATE)
        };
        let kept = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten();
        if let Err(error) = kept {
            tracing::warn!(user = user.as_str(), %error, "what is known of the repository could not be kept");
        }
    }

    /// The users whose push an earlier process did not see end, with the run.
    pub fn unfinished(&self) -> Vec<(User, Uuid)> {
        self.all().filter_map(|(user, state)| state.pushing.map(|run| (user, run))).collect()
    }

    /// The users whose sync an earlier process did not see end.
    pub fn interrupted(&self) -> Vec<User> {
        self.all().filter_map(|(user, state)| state.syncing.then_some(user)).collect()
    }

    fn all(&self) -> impl Iterator<Item = (User, State)> {
        let names = fs::read_dir(&self.users).into_iter().flatten().flatten();
        let users = names.filter_map(|entry| User::parse(entry.file_name().to_str()?).ok());
        users.map(|user| (user.clone(), self.load(&user)))
    }
}

fn read(path: &Path) -> State {
    let text = fs::read(path).unwrap_or_default();
    if text.len() > MAX { State::default() } else { serde_json::from_slice(&text).unwrap_or_default() }
}
