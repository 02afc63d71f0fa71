//! What front and git worker say to each other: one job, then its reports, a packet each. The form of a packet is that of
//! [`crate::worker::message`].
//!
//! Neither believes the other: lists have limits that are part of the message, and what was left out is counted.

use bincode::{Decode, Encode};

/// Paths that a report names at most; the others are counted. Together they fit into a packet.
pub const MAX_NAMED: usize = 100;
/// Bytes of a path that are reported; the rest of a longer one is cut off.
pub const MAX_SHOWN: usize = 400;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Job {
    /// With which settings.
    pub settings: Settings,
    /// What.
    pub task: Task,
}

/// What the operator has configured.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Settings {
    /// Whether a workspace without a repository gets one.
    pub init: bool,
    /// The branch of a new repository.
    pub branch: String,
    /// The message of its first commit.
    pub initial_message: String,
    /// Who commits.
    pub author: String,
    /// His address.
    pub email: String,
    /// What workspace and history may take together, in bytes (`WORKSPACE_QUOTA_MB`).
    pub quota: u64,
    /// Where the user's repository is, seen from the worker: at the git relay's listener. None without a remote.
    pub remote: Option<String>,
}

/// A task. Each ends with the report named here, or with [`Report::Failed`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Task {
    /// Make the repository if there is none, take over what the remote has. [`Report::Committed`].
    Prepare,
    /// Commit what the workspace holds: [`Report::Committed`]. With a remote, then push: [`Report::Pushed`].
    Snapshot(String),
    /// Commit, fetch, merge, push. [`Report::Synced`].
    Sync(String),
    /// Push what is committed. [`Report::Pushed`].
    Push,
    /// Compare the workspace with what is committed. [`Report::Compared`].
    Compare,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Report {
    /// What the workspace holds is committed.
    Committed(Committed),
    /// How pushing went.
    Pushed(Pushed),
    /// How a sync went.
    Synced(Box<Synced>),
    /// How the workspace compares with its last commit.
    Compared(Compared),
    /// It was not done.
    Failed(Failure),
}

/// Where the workspace is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Position {
    /// Its branch; None without a repository.
    pub branch: Option<String>,
    /// The commit it is at.
    pub head: Option<String>,
    /// Commits that the remote's branch, as it was last seen, has not.
    pub ahead: Option<u32>,
    /// Commits of the remote's branch that the workspace has not.
    pub behind: Option<u32>,
}

/// A snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Committed {
    /// Where the workspace is now.
    pub position: Position,
    /// The commit that was made; None when there was nothing to commit.
    pub commit: Option<String>,
    /// What could not be committed.
    pub skipped: Skips,
    /// What an unusable `.git` was renamed to.
    pub set_aside: Option<String>,
}

/// Things that are left out of commits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Skips {
    /// The first [`MAX_NAMED`] of them.
    pub named: Vec<Skip>,
    /// All.
    pub count: u64,
}

/// Something that is left out.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Skip {
    /// Where it is.
    pub path: Vec<u8>,
    /// Why.
    pub reason: Reason,
}

/// Why something is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Reason {
    /// A FIFO, a socket or a device.
    Special,
    /// Another git repository.
    NestedRepository,
    /// A file that is too large.
    TooLarge,
    /// Its mode does not let the user.
    Unreadable,
    /// git does not take the name.
    Name,
    /// There are too many levels above it, or its path is too long.
    TooDeep,
    /// It changed while it was read.
    Changed,
    /// With it the workspace would be over its quota: what is committed counts as well, and stays.
    NoRoom,
}

/// How pushing went.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Pushed {
    /// The remote has every branch of the workspace.
    All(Position),
    /// It has not the one that the workspace is on; the failure says why. Other branches may have arrived.
    Not(Failure),
    /// It has the one that the workspace is on; what is told says which others it has not.
    Most(Position, Failure),
}

impl Pushed {
    /// Where the workspace is, and what is told of other branches than its own.
    ///
    /// # Errors
    /// Why its own is not at the remote.
    pub fn told(self) -> Result<(Position, Option<Failure>), Failure> {
        match self {
            Pushed::All(position) => Ok((position, None)),
            Pushed::Most(position, left) => Ok((position, Some(left))),
            Pushed::Not(failure) => Err(failure),
        }
    }
}

/// How a sync went.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Synced {
    /// The snapshot before it.
    pub committed: Committed,
    /// What came of it.
    pub outcome: Outcome,
    /// Where the workspace is now.
    pub position: Position,
    /// How pushing went.
    pub pushed: Pushed,
}

/// What came of a sync.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Outcome {
    /// The remote had nothing new.
    UpToDate,
    /// The workspace is where the remote's branch is.
    FastForward,
    /// The remote's changes were merged by this commit.
    Merged(String),
    /// Both sides have changed the same; the workspace is as it was.
    Conflict {
        /// The first of the paths.
        paths: Vec<Vec<u8>>,
        /// How many there are.
        count: u64,
        /// The remote's branch that has the workspace's side.
        side: String,
    },
}

/// The workspace and its last commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Compared {
    /// Where the workspace is.
    pub position: Position,
    /// The first paths that differ.
    pub changed: Vec<Change>,
    /// How many there are.
    pub count: u64,
    /// What could not be compared.
    pub skipped: Skips,
}

/// A path that differs.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Change {
    /// Where.
    pub path: Vec<u8>,
    /// How.
    pub kind: ChangeKind,
}

/// How something differs from the last commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[allow(missing_docs, reason = "the words say it")]
pub enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

/// Why something was not done. The workspace is as it was.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Failure {
    /// A stable word: those of docs/api-and-media.md, "Git".
    pub code: String,
    /// What happened.
    pub message: String,
}

impl Failure {
    /// A failure.
    pub fn new(code: &str, message: impl std::fmt::Display) -> Self {
        let mut message = message.to_string();
        while message.len() > MAX_SHOWN {
            message.pop();
        }
        Failure { code: code.to_owned(), message }
    }
}

impl Skips {
    /// One more.
    pub fn add(&mut self, path: &[u8], reason: Reason) {
        self.count += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push(Skip { path: shown(path), reason });
        }
    }
}

/// As much of a path as is reported.
pub fn shown(path: &[u8]) -> Vec<u8> {
    path[..path.len().min(MAX_SHOWN)].to_vec()
}
