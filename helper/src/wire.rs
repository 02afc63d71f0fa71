//! What front and launcher say to each other, and the frame around it.
//!
//! A frame is a little-endian u32 with the length of the rest, one byte with the version, and a bincode value. The length
//! is checked before anything is allocated; a value must fill its frame; the names in it check themselves. Whatever does
//! not fit is an error, which ends the connection. docs/protocol.md describes every message; a test compares.

use std::fmt;
use std::io::{self, Read};

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};

use crate::names::{Run, User};

/// The largest content of the Codex credential's file, in bytes; real ones have 5,000.
pub const MAX_CONTENT: usize = 16 << 10;
/// The largest frame without its length, in bytes: two contents of the Codex credential. Other messages need 200.
pub const MAX_FRAME: usize = 2 * MAX_CONTENT + 1024;
/// The version of these messages.
pub const VERSION: u8 = 1;

/// A unit the launcher runs.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Unit {
    /// A user's agent.
    Agent(User),
    /// A user's worker.
    Worker(User),
    /// The model relay.
    ModelRelay,
    /// The git relay.
    GitRelay,
    /// A user's git worker.
    Git(User),
    /// The egress relay.
    EgressRelay,
}

/// What the front may ask for. This is the whole privileged surface.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// Start the user's agent for a run. Done already is done.
    StartAgent(User, Run),
    /// Start the user's worker, which connects to the front. Done already is done.
    StartWorker(User),
    /// Stop a user's unit to its last process.
    Stop(Unit),
    /// Tell what a unit does or how it ended.
    Status(Unit),
    /// Forget how a run's agent ended and remove its input and output.
    Forget(User, Run),
    /// Start the user's git worker for a job, which connects to the front. Done already is done.
    StartGit(User, Run),
    /// Replace what the Codex credential's file holds, the first, by the second; by an empty one: only tell. This one is
    /// the model relay's, all others are the front's.
    StoreCodexToken(Hidden, Hidden),
}

/// Bytes that are secret: what is shown of them is how many they are.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Hidden(pub Vec<u8>);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What the launcher answers.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// The unit is up, as this uid.
    Started(u32),
    /// No process of the unit is left.
    Stopped,
    /// What the unit does.
    State(UnitState),
    /// Nothing is kept of the run.
    Forgotten,
    /// It was not done.
    Refused(Refusal),
    /// What the Codex credential's file holds now.
    CodexToken(Hidden),
}

/// What systemd says of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct UnitState {
    /// What it does.
    pub activity: Activity,
    /// How it ended, if it has.
    pub outcome: Outcome,
    /// Exit status or signal, if it has ended.
    pub status: i32,
    /// The run it is or was for.
    pub run: Option<Run>,
    /// The uid it runs as.
    pub uid: Option<u32>,
}

/// systemd's ActiveState.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Activity {
    /// Not there, or ended well.
    Inactive,
    /// Being started.
    Activating,
    /// Up.
    Active,
    /// Being stopped.
    Deactivating,
    /// Ended badly; kept until it is forgotten.
    Failed,
}

/// systemd's Result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Outcome {
    /// Nothing went wrong.
    Success,
    /// It exited with a status other than 0.
    ExitCode,
    /// A signal ended it.
    Signal,
    /// A time limit ended it.
    Timeout,
    /// The kernel ended it for want of memory.
    OutOfMemory,
    /// Anything else.
    Other,
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Refusal {
    /// The user's agent is up for another run (None: not one of ours), or the unit is about to end.
    Busy(Option<Run>),
    /// As many agents are up as `MAX_CONCURRENT_RUNS`, the number here, allows.
    Full(u64),
    /// systemd could not start the unit; the exit status says at which step (`systemd.exec(5)`, "Process Exit Codes").
    StartFailed(i32),
    /// The launcher starts and stops this unit itself, nobody else; or the request is another peer's.
    NotYours,
    /// A step of the launcher's own failed, and nothing was done; its log has the cause.
    Failed(Step),
}

/// A step of the launcher that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[allow(missing_docs, reason = "the steps are those of docs/protocol.md")]
pub enum Step {
    AskSystemd,
    AssignUid,
    PublishName,
    UserDirectories,
    RunFiles,
    WaitForTurn,
    CodexFile,
}

const fn config() -> Configuration<LittleEndian, Fixint, Limit<MAX_FRAME>> {
    bincode::config::standard().with_fixed_int_encoding().with_limit::<MAX_FRAME>()
}

fn not_one(what: impl fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no message of version {VERSION}: {what}"))
}

fn checked(length: usize) -> io::Result<usize> {
    if (1..=MAX_FRAME).contains(&length) { Ok(length) } else { Err(not_one(format!("{length} bytes"))) }
}

/// The whole frame of a message.
///
/// # Errors
/// When the message is too long for a frame.
pub fn encode<T: Encode>(message: &T) -> io::Result<Vec<u8>> {
    let body = bincode::encode_to_vec(message, config()).map_err(not_one)?;
    let length = u32::try_from(checked(body.len() + 1)?).map_err(not_one)?;
    Ok([&length.to_le_bytes(), [VERSION].as_slice(), &body].concat())
}

/// The message in a frame's bytes behind its length.
///
/// # Errors
/// When the version is another, or the rest is not exactly one message.
pub fn decode<T: Decode<()>>(payload: &[u8]) -> io::Result<T> {
    let body = payload.strip_prefix(&[VERSION]).ok_or_else(|| not_one("another version"))?;
    match bincode::decode_from_slice(body, config()).map_err(not_one)? {
        (message, used) if used == body.len() => Ok(message),
        _ => Err(not_one("bytes behind it")),
    }
}

/// Reads one message.
///
/// # Errors
/// When the bytes do not come, or are no message.
pub fn read<T: Decode<()>>(mut from: impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut payload = vec![0; checked(u32::from_le_bytes(length) as usize)?];
    from.read_exact(&mut payload)?;
    decode(&payload)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn start() -> Request {
        let run = Run::parse("01a205e8-7d1f-7255-8c8f-ce60b3ba1d9d").unwrap();
        Request::StartAgent(User::parse("alice").unwrap(), run)
    }

    #[test]
    fn the_bytes_of_a_request_are_fixed() {
        let mut golden = vec![58, 0, 0, 0, 1, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0];
        golden.extend(b"alice");
        golden.extend([36, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend(b"01a205e8-7d1f-7255-8c8f-ce60b3ba1d9d");
        golden[0] = u8::try_from(golden.len() - 4).unwrap();
        assert_eq!(encode(&start()).unwrap(), golden);
        assert_eq!(read::<Request>(golden.as_slice()).unwrap(), start());
    }

    #[test]
    fn what_is_not_exactly_a_message_is_refused() {
        let told = |result: io::Result<Request>| {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            error.to_string()
        };
        let frame = encode(&start()).unwrap();
        for cut in 0..frame.len() {
            let error = read::<Request>(&frame[..cut]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}");
        }
        assert!(told(read(&[0, 0, 0, 0][..])).contains(": 0 bytes"));
        assert!(told(read(&[255, 255, 255, 255][..])).contains(": 4294967295 bytes"));
        let mut other = frame.clone();
        other[4] = 2;
        assert!(told(read(other.as_slice())).contains("another version"));
        let mut longer = frame[4..].to_vec();
        longer.push(0);
        assert!(told(decode(&longer)).contains("bytes behind it"));
        let mut hostile = frame[4..].to_vec();
        hostile[13] = b'/';
        assert!(told(decode(&hostile)).contains("User at byte 0"));
        let mut huge = frame[4..].to_vec();
        huge[5..13].fill(0xff);
        assert!(told(decode(&huge)).contains("LimitExceeded"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_come_back_the_same(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(request) = decode::<Request>(&bytes) {
                prop_assert_eq!(&encode(&request).unwrap()[4..], bytes.as_slice());
            }
            let _ = decode::<Reply>(&bytes);
        }
    }
}
