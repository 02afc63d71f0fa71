//! A run's record: the resource that `GET /runs/{id}` shows, and the request it was made from.
//!
//! The record is small and rewritten at each change of state; the request (prompt and images, up to the body limit) is
//! written once, beside it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::git::state::GitError;
use crate::models::Thinking;
use crate::relay::model::usage::Usage;
use crate::sites::state::Site;

/// Where a run is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Accepted; its sandbox is being started.
    Starting,
    /// pi works on the prompt.
    Running,
    /// pi has finished; the sandbox is being stopped and the result recorded.
    Finalizing,
    /// Ended by itself.
    Succeeded,
    /// Ended by an error, named in `error`.
    Failed,
    /// Ended by the user's cancel.
    Cancelled,
    /// Ended by the machine: its sandbox disappeared while nobody was there to see why.
    Interrupted,
}

impl Status {
    /// Whether nothing will change any more.
    pub fn is_final(self) -> bool {
        match self {
            Status::Starting | Status::Running | Status::Finalizing => false,
            Status::Succeeded | Status::Failed | Status::Cancelled | Status::Interrupted => true,
        }
    }
}

/// Why a run did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunError {
    /// A stable code, listed in docs/pi-runtime.md.
    pub code: String,
    /// What happened and what to do about it.
    pub message: String,
}

impl RunError {
    /// An error of the given code.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        RunError { code: code.to_owned(), message: message.into() }
    }
}

/// Whether what a run committed has reached the remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PushStatus {
    /// It is on its way.
    Pending,
    /// The remote has it.
    Pushed,
    /// The remote has it not; `reason` says why. The next run or sync pushes it as well.
    Failed,
}

/// What became of the workspace at a run's end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunWorkspace {
    /// The commit that was made; null when nothing had changed.
    pub commit: Option<String>,
    /// How pushing went; null without a remote, or without a commit to push.
    pub push: Option<PushStatus>,
    /// Why it was not committed or not pushed; beside `pushed`, which other branches the remote has not.
    pub reason: Option<GitError>,
    /// What could not be committed: the first hundred paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
    /// How much could not be committed.
    #[serde(default)]
    pub skipped_count: u64,
    /// What an unusable `.git` was renamed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<String>,
}

/// A path that could not be committed, or is not in the exported site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Skipped {
    /// Where it is; what is not UTF-8 in it is replaced.
    pub path: String,
    /// Why: a word of docs/api-and-media.md, "Git" or "Sites".
    pub reason: String,
}

/// A run as it is shown and stored.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Run {
    /// UUIDv7, so ids sort by time.
    pub id: Uuid,
    /// Where the run is in its life.
    pub status: Status,
    /// The text of the last message, once there is one.
    pub output_text: Option<String>,
    /// Why it did not succeed.
    pub error: Option<RunError>,
    /// When it was accepted, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: jiff::Timestamp,
    /// When pi accepted the prompt.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<jiff::Timestamp>,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<jiff::Timestamp>,
    /// Tokens and cost, counted by the model relay; complete when the run has ended.
    pub usage: Usage,
    /// What became of the workspace; null until the run has ended, and without git.
    #[serde(default)]
    pub workspace: Option<RunWorkspace>,
    /// What became of the site that it built; null until it has ended, when it built none, and without `SITES_DIR`.
    #[serde(default)]
    pub site: Option<Site>,
    /// The model that was asked for; null for the operator's default.
    pub model: Option<String>,
    /// The thinking level that was asked for; null for pi's default.
    pub thinking: Option<Thinking>,
    /// The caller's own labels.
    #[schema(value_type = HashMap<String, String>)]
    pub metadata: Metadata,
}

/// Labels of the caller: at most 16, keys up to 64 bytes, values up to 512 bytes.
pub type Metadata = std::collections::BTreeMap<String, String>;

/// An image of a prompt.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptImage {
    /// `image/png`, `image/jpeg`, `image/webp` or `image/gif`.
    #[schema(pattern = "^image/(png|jpeg|webp|gif)$")]
    pub mime_type: String,
    /// The file in base64.
    #[schema(pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)$")]
    pub data: String,
}

/// What a caller asks for with `POST /runs`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// What the agent is to do: 1 byte to 8 MiB of text.
    #[schema(min_length = 1, max_length = 8388608, pattern = r"\S")]
    pub prompt: String,
    /// Images that belong to the prompt, at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 8)]
    pub images: Vec<PromptImage>,
    /// A model of the operator's list.
    #[serde(default)]
    pub model: Option<String>,
    /// A thinking level of that model.
    #[serde(default)]
    pub thinking: Option<Thinking>,
    /// The caller's own labels, shown with the run.
    #[serde(default)]
    #[schema(value_type = HashMap<String, String>)]
    pub metadata: Metadata,
}

/// An idempotency key as it is kept: hashes only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// SHA-256 of the key, hex.
    pub key: String,
    /// SHA-256 of the body, hex.
    pub body: String,
}

/// What is stored of a run beside what is shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// What is shown.
    pub run: Run,
    /// The prompt may be in pi's input; set before the first byte is written.
    #[serde(default)]
    pub prompt_written: bool,
    /// The uid of the run's sandbox, once it was started.
    #[serde(default)]
    pub uid: Option<u32>,
    /// How the run ends, once that is decided; `run.status` then is `finalizing`.
    #[serde(default)]
    pub verdict: Option<Verdict>,
    /// The idempotency key it was made with.
    #[serde(default)]
    pub idempotency: Option<Idempotency>,
}

/// How a run ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// A final status.
    pub status: Status,
    /// Why, unless it succeeded.
    pub error: Option<RunError>,
}

impl Verdict {
    /// A failure.
    pub fn failed(code: &str, message: impl Into<String>) -> Self {
        Verdict { status: Status::Failed, error: Some(RunError::new(code, message)) }
    }

    /// The end by the user's wish.
    pub fn cancelled() -> Self {
        Verdict { status: Status::Cancelled, error: None }
    }
}
