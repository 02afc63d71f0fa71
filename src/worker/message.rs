//! What front and worker say to each other: one message a packet, with at most one descriptor beside it.
//!
//! The front asks, each question with a number; the worker answers with the same number, in any order. Neither believes
//! the other: a packet over [`MAX_PACKET`] or of another form ends the connection, paths are checked by who opens them,
//! and what comes as a descriptor is looked at before it is used. Archives and pages of history are answered twice: with the
//! reading end of a pipe at once, and with how they went when the last byte is in it.

use std::io;

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};

/// The largest message, in bytes. A page of a directory ends before it.
pub const MAX_PACKET: usize = 96 << 10;
/// The version of these messages, a packet's first byte. Front and worker come from the same package; during an upgrade
/// an older worker may still be there, and is told to go.
pub const VERSION: u8 = 1;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Ask {
    /// Its number.
    pub id: u32,
    /// What is asked for.
    pub request: Request,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Answer {
    /// The number of the question.
    pub id: u32,
    /// What was found or done.
    pub reply: Result<Reply, Failure>,
}

/// A path in the workspace: bytes, relative, without `.` and `..`. Empty for the workspace itself.
pub type Path = Vec<u8>;

/// What the front may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// What is at a path.
    Stat(Path),
    /// A page of a directory, of what follows `after`, in the order of the names' bytes; at most `limit` entries.
    List {
        /// The directory.
        path: Path,
        /// The last entry of the page before, relative to the directory.
        after: Option<Path>,
        /// Entries at most.
        limit: u32,
        /// Whether what is in its directories belongs to it.
        recursive: bool,
    },
    /// Open a regular file for reading.
    Open(Path),
    /// Make an unnamed file where `path` is to be; the directories above are made
    /// with its name, when `parents` says so.
    Create {
        /// What it will be called.
        path: Path,
        /// Whether directories that are missing are made.
        parents: bool,
    },
    /// Give the unnamed file that question `file` made its name, if `condition` holds.
    Commit {
        /// The number of the question that made it.
        file: u32,
        /// Its name.
        path: Path,
        /// What must be true of what is there.
        condition: Condition,
    },
    /// Forget the unnamed file that question `file` made.
    Discard(u32),
    /// Make a directory, and those above it.
    MakeDirectory(Path),
    /// Give something another name.
    Rename {
        /// What it is called.
        from: Path,
        /// What it will be called.
        to: Path,
        /// Whether what has that name may be replaced.
        overwrite: bool,
    },
    /// Remove something, if `condition` holds; a directory with what is in it when `recursive` says so.
    Remove {
        /// What.
        path: Path,
        /// Whether a directory may hold something.
        recursive: bool,
        /// What must be true of it.
        condition: Condition,
    },
    /// Write an archive of what is at a path.
    Archive {
        /// The file or directory.
        path: Path,
        /// Its form.
        format: Format,
        /// Whether `.git` belongs to it.
        git: bool,
    },
    /// Count what the workspace and the session take.
    Measure,
    /// What the session is.
    Session,
    /// A page of the session's history, of what follows `after`; at most `limit` messages. Answered as an archive is: with
    /// the reading end of a pipe that gives one [`Page`], and with how it went.
    History {
        /// Where the page before ended.
        after: Option<Place>,
        /// Messages at most.
        limit: u32,
    },
    /// Give the session another name, made of this id.
    SetAside(u128),
    /// Remove the session that was given the name made of this id.
    DropAside(u128),
    /// Open what build-site has left beside the session, for reading.
    SiteReport,
}

/// A place in a session's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Place {
    /// The inode of the session's file.
    pub inode: u64,
    /// Where the entry's line begins in it.
    pub offset: u64,
}

/// A session in a few words. The user's agent may have written all of them.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Session {
    /// When it began, in milliseconds since the epoch.
    pub created: Option<i64>,
    /// When it was changed last, in nanoseconds since the epoch.
    pub updated: i64,
    /// Messages in its history.
    pub messages: u64,
    /// The model that was chosen or has answered last.
    pub model: Option<String>,
    /// Its name, or the first line of what it began with.
    pub title: Option<String>,
    /// Tokens of the last answer's context; None when it was shortened since.
    pub tokens: Option<u64>,
    /// How often it was shortened.
    pub compactions: u64,
}

/// A page of a session's history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Page {
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// Where it ended, when something follows.
    pub next: Option<Place>,
}

/// Who a message is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Role {
    /// The user.
    User,
    /// The model.
    Assistant,
    /// A tool.
    ToolResult,
}

/// A message of a session.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Message {
    /// pi's id of the entry.
    pub id: String,
    /// Who it is of.
    pub role: Role,
    /// When it was written, in milliseconds since the epoch.
    pub at: Option<i64>,
    /// What it is made of.
    pub parts: Vec<Part>,
    /// Whether something was left out because it is too long.
    pub truncated: bool,
    /// The model that gave it.
    pub model: Option<String>,
    /// Why the model ended it, in pi's words.
    pub stop_reason: Option<String>,
    /// What went wrong with it.
    pub error: Option<String>,
    /// The call that it is the result of.
    pub tool_call_id: Option<String>,
    /// The tool that gave it.
    pub tool_name: Option<String>,
    /// Whether that tool failed.
    pub is_error: bool,
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Part {
    /// Text.
    Text(String),
    /// The summary of the model's reasoning.
    Thinking(String),
    /// A call of a tool.
    ToolCall {
        /// Its id.
        id: String,
        /// The tool.
        name: String,
        /// Its arguments, JSON; None when they are too long.
        arguments: Option<String>,
    },
    /// An image, without its bytes.
    Image {
        /// Its type.
        mime_type: String,
        /// How many bytes it has.
        bytes: u64,
    },
}

/// What must be true of what is at a path before it is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Condition {
    /// Nothing.
    None,
    /// There is nothing.
    Absent,
    /// It is this version of a file, or a link to it that stays inside.
    Version(Version),
}

/// Which version of a file it is: each write makes another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Version {
    /// Its inode.
    pub inode: u64,
    /// Its length in bytes.
    pub size: u64,
    /// When its content was changed, in nanoseconds since the epoch.
    pub modified: i64,
    /// When anything of it was changed, in nanoseconds since the epoch.
    pub changed: i64,
}

/// The form of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Format {
    /// tar, compressed by gzip.
    TarGz,
    /// tar, compressed by zstd.
    TarZst,
    /// zip.
    Zip,
}

/// What kind of thing something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[allow(missing_docs, reason = "the kinds of POSIX")]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    Device,
}

/// Something in a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Entry {
    /// Where it is, from the workspace's root.
    pub path: Path,
    /// What it is.
    pub kind: Kind,
    /// Which version of it.
    pub version: Version,
    /// Its permission bits.
    pub mode: u32,
    /// Where a symlink leads.
    pub target: Option<Path>,
}

/// What was found or done.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// What is there. With a descriptor when it was to be opened.
    Entry(Entry),
    /// A page of a directory, and whether more follows.
    Page {
        /// What is in it.
        entries: Vec<Entry>,
        /// Whether anything follows.
        more: bool,
    },
    /// An unnamed file, with its descriptor.
    Created,
    /// An archive is being written into the pipe whose reading end comes along.
    Piped,
    /// It is done.
    Done,
    /// Part of it is done; ask again.
    Partly,
    /// How an archive went: what it does not hold.
    Archived {
        /// Files, directories and links in it.
        entries: u64,
        /// Things that are none of these, which are left out.
        skipped: u64,
    },
    /// What the session is; None when there is none.
    Session(Option<Session>),
    /// What workspace and session take.
    Measured {
        /// Bytes on the disk.
        bytes: u64,
        /// Files, directories and others.
        inodes: u64,
        /// What the disk has left for others than root, in bytes.
        free: u64,
        /// How large the disk is, in bytes.
        total: u64,
    },
}

/// Why something was not done. Nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Failure {
    /// There is nothing.
    NotFound,
    /// A part of the path is not a directory.
    NotADirectory,
    /// It is a directory.
    IsADirectory,
    /// It is neither file nor directory.
    Special(Kind),
    /// A symlink leads out of the workspace.
    Outside,
    /// Something is there already.
    Exists,
    /// It is not the version that was asked for.
    Changed,
    /// Its mode does not let the user.
    Denied,
    /// The path is no path of a workspace.
    BadPath,
    /// There are too many levels of directories.
    TooDeep,
    /// The directory holds something.
    NotEmpty,
    /// The disk is full.
    NoSpace,
    /// The user's quota is used up.
    Quota,
    /// It changed while it was read.
    Torn,
    /// The session's file is not one of pi's.
    NotASession,
    /// It is larger than what is looked through.
    TooLarge,
    /// The question does not fit here: no such unnamed file, or too many of them.
    Unfit,
    /// The system says something else; the worker's log has it.
    Failed,
}

/// The longest page of a session's history, in bytes: it goes through a pipe.
pub const MAX_PAGE: usize = 4 << 20;

const fn config() -> Configuration<LittleEndian, Fixint, Limit<MAX_PACKET>> {
    bincode::config::standard().with_fixed_int_encoding().with_limit::<MAX_PACKET>()
}

const fn page_config() -> Configuration<LittleEndian, Fixint, Limit<MAX_PAGE>> {
    bincode::config::standard().with_fixed_int_encoding().with_limit::<MAX_PAGE>()
}

/// The bytes of a page of history.
///
/// # Errors
/// When it is too long.
pub fn encode_page(page: &Page) -> io::Result<Vec<u8>> {
    bincode::encode_to_vec(page, page_config()).map_err(not_one)
}

/// The page of history in such bytes.
///
/// # Errors
/// When they are not exactly one page.
pub fn decode_page(bytes: &[u8]) -> io::Result<Page> {
    match bincode::decode_from_slice(bytes, page_config()).map_err(not_one)? {
        (page, used) if used == bytes.len() => Ok(page),
        _ => Err(not_one("bytes behind it")),
    }
}

fn not_one(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no message of version {VERSION}: {what}"))
}

/// The packet of a message.
///
/// # Errors
/// When the message is too long.
pub fn encode<T: Encode>(message: &T) -> io::Result<Vec<u8>> {
    let mut packet = vec![VERSION];
    bincode::encode_into_std_write(message, &mut packet, config()).map_err(not_one)?;
    if packet.len() > MAX_PACKET { Err(not_one(format!("{} bytes", packet.len()))) } else { Ok(packet) }
}

/// The message in a packet.
///
/// # Errors
/// When the packet is not exactly one message.
pub fn decode<T: Decode<()>>(packet: &[u8]) -> io::Result<T> {
    let body = packet.strip_prefix(&[VERSION]).ok_or_else(|| not_one("another version"))?;
    match bincode::decode_from_slice(body, config()).map_err(not_one)? {
        (message, used) if used == body.len() => Ok(message),
        _ => Err(not_one("bytes behind it")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_come_back_the_same(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(ask) = decode::<Ask>(&bytes) {
                prop_assert_eq!(&encode(&ask).unwrap(), &bytes);
            }
            let _ = decode::<Answer>(&bytes);
            let _ = decode_page(&bytes);
        }
    }

    #[test]
    fn a_length_that_is_a_lie_allocates_nothing() {
        let mut packet = encode(&Ask { id: 1, request: Request::Stat(b"a".to_vec()) }).unwrap();
        let length = packet.len() - 9;
        packet[length..length + 8].fill(0xff);
        assert!(decode::<Ask>(&packet).unwrap_err().to_string().contains("LimitExceeded"));
        packet[0] = 9;
        assert!(decode::<Ask>(&packet).unwrap_err().to_string().contains("another version"));
    }
}
