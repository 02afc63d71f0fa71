//! Where the entries of a session's history are: one pass over the file, of which only offsets are kept.
//!
//! pi's rules: the last entry is where the session is; from there each names the one before it; a later edit without a
//! replacement takes a message out (failed tries); a compaction takes out nothing. A line that is torn, no entry or over
//! [`MAX_LINE`] is skipped. Entries may name each other in a circle: each is met once.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::time::Instant;

use super::line::Line;
use crate::worker::message::Failure;

/// The longest line that is taken, in bytes: a prompt with its images, as pi writes it.
pub const MAX_LINE: usize = 48 << 20;
/// The most entries; more is [`Failure::TooLarge`].
pub const MAX_ENTRIES: usize = 200_000;
/// A buffer for lines that has grown beyond this is given back.
const KEPT: usize = 1 << 20;

/// What an entry of the history is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A message of the user.
    User,
    /// An answer, and how many tokens its context had as pi says; 0 when it is not known.
    Assistant {
        /// So many.
        tokens: u64,
    },
    /// What a tool gave.
    ToolResult,
    /// The conversation was shortened.
    Compaction,
    /// Another model was chosen.
    Model,
    /// The session got a name.
    Name,
    /// Nothing that is shown.
    Other,
}

impl What {
    /// Whether it is a message that is shown.
    pub fn is_message(self) -> bool {
        matches!(self, What::User | What::Assistant { .. } | What::ToolResult)
    }
}

/// An entry of the history and where its line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Where its line begins, in bytes.
    pub offset: u64,
    /// How long it is, without its line feed.
    pub length: u32,
    /// What it is.
    pub what: What,
}

/// The history, oldest first.
#[derive(Debug)]
pub struct Index {
    created: Option<i64>,
    steps: Vec<Step>,
}

/// What the pass keeps of an entry.
struct Entry {
    step: Step,
    parent: Option<Box<str>>,
    /// The message that it edits, and whether nothing takes its place.
    edits: Option<(Box<str>, bool)>,
}

impl Index {
    /// Looks through the first `size` bytes of a file.
    ///
    /// # Errors
    /// [`Failure::NotASession`] when its first entry is no header, [`Failure::TooLarge`] beyond the limits or the time.
    pub fn read(file: &File, size: u64, until: Instant) -> Result<Self, Failure> {
        let mut pass = Pass::default();
        let mut input = BufReader::with_capacity(256 << 10, file.take(size));
        let (mut line, mut offset) = (Vec::new(), 0);
        loop {
            line.clear();
            let mut length = (&mut input).take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line);
            let ended = line.last() == Some(&b'\n');
            let skipped = !ended && line.len() > MAX_LINE;
            if skipped {
                length = length.and_then(|length| Ok(length + input.skip_until(b'\n')?));
            }
            let length = length.map_err(|error| {
                tracing::warn!(%error, "the session cannot be read");
                Failure::Torn
            })?;
            if length == 0 {
                break;
            }
            if !skipped {
                pass.take(line.strip_suffix(b"\n").unwrap_or(&line), offset)?;
            }
            offset += length as u64;
            if line.capacity() > KEPT {
                line = Vec::new();
            }
            if Instant::now() > until {
                return Err(Failure::TooLarge);
            }
        }
        pass.finish()
    }

    /// When the session began, by its own words: milliseconds since the epoch.
    pub fn created(&self) -> Option<i64> {
        self.created
    }

    /// The entries of the history, oldest first, without the messages that were taken out.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}

#[derive(Default)]
struct Pass {
    header: bool,
    created: Option<i64>,
    entries: Vec<Entry>,
    by_id: HashMap<Box<str>, usize>,
}

impl Pass {
    fn take(&mut self, bytes: &[u8], offset: u64) -> Result<(), Failure> {
        let Some(line) = Line::parse(bytes) else { return Ok(()) };
        let Some(id) = line.id.as_deref() else { return Ok(()) };
        if !self.header {
            if line.kind != "session" {
                return Err(Failure::NotASession);
            }
            self.header = true;
            let created = line.timestamp.as_deref().and_then(|at| at.parse::<jiff::Timestamp>().ok());
            self.created = created.map(|at| at.as_millisecond());
            return Ok(());
        }
        if line.kind == "session" {
            return Ok(());
        }
        if self.entries.len() == MAX_ENTRIES {
            return Err(Failure::TooLarge);
        }
        let edits = match (&*line.kind, line.target_id.as_deref()) {
            ("context_edit", Some(target)) => Some((target.into(), line.replacement.is_none())),
            _ => None,
        };
        let step = Step { offset, length: u32::try_from(bytes.len()).unwrap_or(0), what: what(&line) };
        // Of two with the same id the later one counts, as pi has it.
        self.by_id.insert(id.into(), self.entries.len());
        self.entries.push(Entry { step, parent: line.parent_id.as_deref().map(Into::into), edits });
        Ok(())
    }

    fn finish(self) -> Result<Index, Failure> {
        if !self.header {
            return Err(Failure::NotASession);
        }
        let find = |id: &str| self.by_id.get(id).copied();
        let (mut met, mut path) = (vec![false; self.entries.len()], Vec::new());
        // The latest edit of a message counts, and it is met first.
        let mut edited: HashMap<usize, bool> = HashMap::new();
        let mut at = self.entries.len().checked_sub(1);
        while let Some(number) = at.filter(|number| !met[*number]) {
            met[number] = true;
            let entry = &self.entries[number];
            if let Some((target, void)) = &entry.edits
                && let Some(target) = find(target)
            {
                edited.entry(target).or_insert(*void);
            }
            if !(entry.step.what.is_message() && edited.get(&number) == Some(&true)) {
                path.push(entry.step);
            }
            at = entry.parent.as_deref().and_then(find);
        }
        path.reverse();
        path.shrink_to_fit();
        Ok(Index { created: self.created, steps: path })
    }
}

fn what(line: &Line<'_>) -> What {
    match &*line.kind {
        "compaction" => What::Compaction,
        "model_change" => What::Model,
        "session_info" => What::Name,
        "message" => {
            let Some(head) = &line.message else { return What::Other };
            let whole = !matches!(head.stop_reason.as_deref(), Some("error" | "aborted"));
            let tokens = head.usage.as_ref().and_then(|usage| usage.total_tokens).filter(|_| whole);
            match &*head.role {
                "user" => What::User,
                "toolResult" => What::ToolResult,
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float casts saturate")]
                "assistant" => What::Assistant { tokens: tokens.unwrap_or(0.0) as u64 },
                _ => What::Other,
            }
        }
        _ => What::Other,
    }
}
