//! The limits of the HTTP side, in one place. [`table`] is what docs/api-and-media.md shows; a test compares.

use std::time::Duration;

/// Connections at the same time; a further one waits in the socket's queue.
pub const CONNECTIONS: usize = 12_000;
/// A request's line and headers must be complete in this time, counted from the connection or the request before.
pub const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// The most bytes of a request's line and headers.
pub const HEAD_BYTES: usize = 32 << 10;
/// The most headers of a request.
pub const HEADERS: usize = 64;
/// The most memory hyper may take for what a connection has sent and nobody has read yet, and for what it is to be sent.
pub const BUFFER: usize = 64 << 10;
/// A client that takes nothing of what waits for it for this long is closed: it does not read, or it is gone.
pub const WRITE_STALL: Duration = Duration::from_secs(15);
/// What the kernel may hold of an answer that cannot be sent because nobody reads, in bytes. By itself it would let that
/// grow to megabytes a connection, and count them as this service's memory. What is on its way does not count, so that a
/// distant client is served at full speed.
pub const UNSENT: u32 = 128 << 10;
/// The same while a file is sent, whose bytes are no copies; counted among [`FILES`].
pub const UNSENT_FILE: u32 = 512 << 10;
/// A client that acknowledges nothing for this long is gone, in milliseconds. For what the kernel still holds after the
/// connection was closed.
pub const UNACKNOWLEDGED_MS: u32 = 20_000;
/// How long requests may take to end when the process ends.
pub const GRACE: Duration = Duration::from_secs(5);
/// Memory for bodies: of all users together, and of one. `MemoryMax=` of the front's unit is well above this and the next
/// two together.
pub const BODIES: [usize; 2] = [256 << 20, 64 << 20];
/// Memory for answers: of all users together, and of one.
pub const ANSWERS: [usize; 2] = [192 << 20, 32 << 20];
/// Memory for what is read of files and not taken by their clients yet: of all users together, and of one.
pub const FILES: [usize; 2] = [256 << 20, 24 << 20];
/// Requests and streams of events that one user may have under way: more is 429.
pub const USER_REQUESTS: usize = 128;
/// See [`USER_REQUESTS`]; a stream is no request any more once it has begun.
pub const USER_STREAMS: usize = 256;

/// The limits as rows: what, how much, and what happens beyond.
pub fn table() -> Vec<[String; 3]> {
    let row = |what: &str, limit: String, beyond: &str| [what.to_owned(), limit, beyond.to_owned()];
    let seconds = |time: Duration| format!("{} s", time.as_secs());
    let kib = |bytes: usize| format!("{} KiB", bytes >> 10);
    let mib = |bytes: usize| format!("{} MiB", bytes >> 20);
    let both = |[all, user]: [usize; 2]| format!("{}, {}", mib(user), mib(all));
    let waits = "the request waits its turn; 408 when its time is over";
    vec![
        row("connections at the same time", CONNECTIONS.to_string(), "wait in the socket's queue (`Backlog=`, 4096)"),
        row("time for the first request's head, and for each further one", seconds(HEAD_DEADLINE), "closed"),
        row("request line and headers", kib(HEAD_BYTES), "431 without a document, closed"),
        row("headers", HEADERS.to_string(), "431 without a document, closed"),
        row(
            "time for a body, and for an answer to begin",
            "`REQUEST_TIMEOUT_MS`".into(),
            "408, closed; `?wait=` extends the answer's alone",
        ),
        row("requests of one user at the same time", USER_REQUESTS.to_string(), "429 `too_many_requests`"),
        row("streams of events of one user at the same time", USER_STREAMS.to_string(), "429 `too_many_streams`"),
        row("messages that wait in a run", crate::runs::messages::MAX_WAITING.to_string(), "429 `too_many_messages`"),
        row("body", mib(super::body::MAX_BODY), "413, closed"),
        row("memory for bodies of one user, of all", both(BODIES), waits),
        row("memory for answers of one user, of all", both(ANSWERS), waits),
        row("memory for files that are sent to one user, to all", both(FILES), waits),
        row(
            "time in which a client takes nothing of what waits for it",
            seconds(WRITE_STALL),
            "closed; a stream can be resumed",
        ),
        row(
            "what is kept for a client that does not read",
            kib(BUFFER + UNSENT as usize),
            "nothing more is made for it",
        ),
        row("time for requests to end when the gateway restarts", seconds(GRACE), "cut"),
    ]
}
