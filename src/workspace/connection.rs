//! The front's end of a worker's connection: many questions at a time, each with its own deadline.
//!
//! The worker runs as the user, whose agent can stop or kill it at any time, so silence is an ordinary answer: a question
//! that is not answered in time fails, and whoever asked has the worker replaced.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::FileType;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::closer::{self, Handed};
use crate::worker::message::{Answer, Ask, Failure, Reply, Request, decode, encode};
use crate::worker::packet;

/// Questions that may be open on one connection; a further one is refused as busy.
const MAX_OPEN: usize = 64;

/// What came as an answer: the reply, and a descriptor if there was one.
pub type Answered = (Reply, Option<OwnedFd>);

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The worker is gone.
    #[error("the worker has ended")]
    Gone,
    /// It did not answer in time.
    #[error("the worker did not answer in time")]
    Late,
    /// Too many questions are open.
    #[error("the worker has too much to do")]
    Busy,
    /// It answered something else than was asked.
    #[error("the worker's answer is not one to the question")]
    Unfit,
    /// It says why not.
    #[error("{0:?}")]
    Failed(Failure),
}

type Replies = mpsc::Sender<(Result<Reply, Failure>, Option<OwnedFd>)>;

/// The questions that are open; None when the connection has ended.
type Open = Mutex<Option<HashMap<u32, Replies>>>;

/// A connection to a worker.
pub struct Connection {
    /// The user's uid, by the kernel's word.
    pub uid: u32,
    socket: Arc<AsyncFd<Handed>>,
    open: Arc<Open>,
    next: AtomicU32,
    reader: AbortHandle,
}

/// A question that is open; it is forgotten when this is dropped.
pub struct Question {
    /// Its number.
    pub id: u32,
    open: Arc<Open>,
    replies: mpsc::Receiver<(Result<Reply, Failure>, Option<OwnedFd>)>,
}

impl Drop for Question {
    fn drop(&mut self) {
        if let Some(open) = &mut *lock(&self.open) {
            open.remove(&self.id);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Connection {
    /// Takes over a connected socket that does not block.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn new(uid: u32, socket: Handed) -> io::Result<Self> {
        let socket = Arc::new(crate::relay::watch::watch_handed(socket)?);
        let open = Arc::new(Mutex::new(Some(HashMap::new())));
        let reader = tokio::spawn(read(socket.clone(), open.clone())).abort_handle();
        Ok(Connection { uid, socket, open, next: AtomicU32::new(1), reader })
    }

    /// Whether the worker has closed it.
    pub fn is_closed(&self) -> bool {
        lock(&self.open).is_none()
    }

    /// How many questions are open.
    pub fn open(&self) -> usize {
        lock(&self.open).as_ref().map_or(0, HashMap::len)
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn ask(&self, request: Request, patience: Duration) -> Result<Answered, AskError> {
        self.question(request).await?.answer(patience).await
    }

    /// Asks. The answer is waited for on what is returned.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn question(&self, request: Request) -> Result<Question, AskError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        // An archive is answered twice; nothing is answered more often.
        let (sender, replies) = mpsc::channel(2);
        match &mut *lock(&self.open) {
            None => return Err(AskError::Gone),
            Some(open) if open.len() >= MAX_OPEN => return Err(AskError::Busy),
            Some(open) => open.insert(id, sender),
        };
        let question = Question { id, open: self.open.clone(), replies };
        let packet = encode(&Ask { id, request }).map_err(|_| AskError::Unfit)?;
        loop {
            let mut ready = self.socket.writable().await.map_err(|_| AskError::Gone)?;
            match ready.try_io(|socket| packet::send(socket.get_ref(), &packet, None)) {
                Ok(Ok(())) => return Ok(question),
                Ok(Err(_)) => return Err(AskError::Gone),
                Err(_) => {}
            }
        }
    }
}

impl Question {
    /// Waits for the next answer.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn answer(&mut self, patience: Duration) -> Result<Answered, AskError> {
        match tokio::time::timeout(patience, self.replies.recv()).await {
            Err(_) => Err(AskError::Late),
            Ok(None) => Err(AskError::Gone),
            Ok(Some((Err(failure), _))) => Err(AskError::Failed(failure)),
            Ok(Some((Ok(reply), descriptor))) => Ok((reply, descriptor)),
        }
    }
}

/// Hands answers to whoever asked until the connection ends; then nobody waits any longer.
async fn read(socket: Arc<AsyncFd<Handed>>, open: Arc<Open>) {
    loop {
        // However much it sends: others get their turn.
        tokio::task::consume_budget().await;
        let Ok(mut ready) = socket.readable().await else { break };
        let packet = match ready.try_io(|socket| packet::receive(socket.get_ref())) {
            Err(_) => continue,
            Ok(Ok(Some(packet))) => packet,
            Ok(Ok(None) | Err(_)) => break,
        };
        let (message, descriptor) = packet;
        // Files and pipes are closed at once wherever that happens; what else there is has no business here.
        let harmless = descriptor.as_ref().is_none_or(is_file_or_pipe);
        let (true, Ok(Answer { id, reply })) = (harmless, decode(&message)) else {
            closer::close(descriptor.into_iter().collect(), ());
            break;
        };
        if let Some(open) = &*lock(&open)
            && let Some(asker) = open.get(&id)
        {
            // A third answer, or one to nobody, is dropped with its descriptor.
            let _ = asker.try_send((reply, descriptor));
        }
    }
    *lock(&open) = None;
}

fn is_file_or_pipe(descriptor: &OwnedFd) -> bool {
    let kind = rustix::fs::fstat(descriptor).map(|found| FileType::from_raw_mode(found.st_mode));
    matches!(kind, Ok(FileType::RegularFile | FileType::Fifo))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
