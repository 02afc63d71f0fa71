//! The worker's program: connects to the front, answers its questions, and ends with the connection.
//!
//! It has no state but the unnamed files that the front is filling. It may be killed or stopped at any instruction; the
//! front then has another one started.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pi_gateway_helper::names::Run;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use uuid::Uuid;

use super::message::{Answer, Ask, Condition, Failure, Place as At, Reply, Request, decode, encode, encode_page};
use super::relpath::RelPath;
use super::tree::{Tree, Unnamed};
use super::{archive, list, once, packet, session, trash, usage};
use crate::workspace::disk::Space;

/// Where things are in the worker's sandbox.
const SOCKET: &str = "/run/worker/worker.sock";
const WORKSPACE: &str = "/workspace";
const SESSION: &str = "/session";
/// What build-site leaves beside the session.
const SITE_REPORT: &[u8] = b"site.json";
/// Threads that answer; what takes long has one of its own.
const THREADS: usize = 4;
/// Questions that wait for a thread; the front asks no more than 64 at a time.
const QUEUE: usize = 64;
/// Archives at a time.
const MAX_ARCHIVES: usize = 4;
/// Unnamed files at a time.
const MAX_UNNAMED: usize = 96;
/// How long one question removes what was put aside.
const REMOVING: Duration = Duration::from_secs(2);
/// How much a pipe holds when the system lets it.
const PIPE: usize = 1 << 20;

struct Worker {
    socket: OwnedFd,
    tree: Tree,
    unnamed: Mutex<HashMap<u32, Unnamed>>,
    archives: AtomicUsize,
    session: Mutex<session::Reader>,
}

/// Runs the worker; gives its exit status.
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let what = arguments.next();
    // What is no UTF-8 is no run either.
    let run = arguments.next().map(|run| Run::parse(&run.to_string_lossy()));
    let work: Box<dyn FnOnce() -> io::Result<()>> = match (what.as_deref().and_then(OsStr::to_str), run) {
        (Some("files"), None) => Box::new(|| connect().and_then(serve)),
        (Some("git"), Some(Ok(run))) => Box::new(move || super::git::service::serve(&run)),
        (Some("measure"), None) => return once(once::measure),
        (Some("pack"), None) => return once(once::pack),
        (Some("empty"), None) => return once(once::empty),
        _ => {
            let who = "The launcher starts the first two, `pi-gateway users` the others.";
            eprintln!("usage: pi-gateway-worker files|git RUN|measure|pack|empty\n{who}");
            return ExitCode::from(64);
        }
    };
    tracing_subscriber::fmt().json().with_max_level(tracing::Level::WARN).with_writer(io::stderr).init();
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        // A front that is gone is no failure of ours: the next one has us started again.
        Err(error) => {
            tracing::warn!(%error, "the worker ends");
            ExitCode::SUCCESS
        }
    }
}

/// Does what is to be done once; its failure is one.
fn once(work: fn() -> io::Result<()>) -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pi-gateway-worker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn connect() -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(SOCKET)?)?;
    Ok(socket)
}

fn serve(socket: OwnedFd) -> io::Result<()> {
    let tree = Tree::open(Path::new(WORKSPACE)).map_err(|failure| io::Error::other(format!("{failure:?}")))?;
    if let Err(failure) = trash::sweep(&tree, Instant::now() + REMOVING) {
        tracing::warn!(?failure, "what an earlier worker left cannot be removed");
    }
    let (unnamed, session) = (Mutex::default(), Mutex::new(session::Reader::new(SESSION)));
    let worker = Arc::new(Worker { socket, tree, unnamed, archives: AtomicUsize::new(0), session });
    let queue = answering(&worker, THREADS)?;
    // One at a time: a line of a session may need much memory.
    let sessions = answering(&worker, 1)?;
    while let Some((packet, _)) = packet::receive(&worker.socket)? {
        let ask: Ask = decode(&packet)?;
        match ask.request {
            Request::Archive { .. } | Request::Measure => {
                let (long, id) = (worker.clone(), ask.id);
                // The unit's limit of threads: as many counts may be asked for. What others have under way goes on.
                if std::thread::Builder::new().spawn(move || long.answer(ask)).is_err() {
                    worker.send(id, Err(Failure::Unfit), None);
                }
            }
            // Quicker done than handed to another thread.
            Request::Open(_) | Request::Stat(_) => worker.answer(ask),
            Request::Session | Request::History { .. } | Request::SetAside(_) | Request::DropAside(_) => {
                sessions.send(ask).map_err(io::Error::other)?;
            }
            _ => queue.send(ask).map_err(io::Error::other)?,
        }
    }
    Ok(())
}

/// Starts threads that answer what is put into the queue.
fn answering(worker: &Arc<Worker>, threads: usize) -> io::Result<SyncSender<Ask>> {
    let (queue, questions) = sync_channel::<Ask>(QUEUE);
    let questions = Arc::new(Mutex::new(questions));
    for _ in 0..threads {
        let (worker, questions) = (worker.clone(), questions.clone());
        std::thread::Builder::new().spawn(move || answer_all(&worker, &questions))?;
    }
    Ok(queue)
}

fn answer_all(worker: &Worker, questions: &Mutex<Receiver<Ask>>) {
    loop {
        let next = questions.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(ask) = next else { return };
        worker.answer(ask);
    }
}

impl Worker {
    fn answer(&self, ask: Ask) {
        let id = ask.id;
        let (reply, descriptor) = match self.act(id, ask.request) {
            Ok((reply, descriptor)) => (Ok(reply), descriptor),
            Err(failure) => (Err(failure), None),
        };
        self.send(id, reply, descriptor);
    }

    fn send(&self, id: u32, reply: Result<Reply, Failure>, descriptor: Option<OwnedFd>) {
        let sent = encode(&Answer { id, reply })
            .and_then(|packet| packet::send(&self.socket, &packet, descriptor.as_ref().map(AsFd::as_fd)));
        if let Err(error) = sent {
            tracing::warn!(%error, "an answer could not be sent");
        }
    }

    fn act(&self, id: u32, request: Request) -> Result<(Reply, Option<OwnedFd>), Failure> {
        let tree = &self.tree;
        let reply = match request {
            Request::Stat(path) => Reply::Entry(tree.stat(&RelPath::parse(path)?)?),
            Request::List { path, after, limit, recursive } => {
                let limit = usize::try_from(limit).unwrap_or(1).max(1);
                let (entries, more) = list::page(tree, &RelPath::parse(path)?, after.as_deref(), limit, recursive)?;
                Reply::Page { entries, more }
            }
            Request::Open(path) => {
                let (file, entry) = tree.open_file(&RelPath::parse(path)?)?;
                return Ok((Reply::Entry(entry), Some(file.into())));
            }
            Request::SiteReport => {
                let session = Tree::open(Path::new(SESSION))?;
                let (file, entry) = session.open_file(&RelPath::parse(SITE_REPORT.to_vec())?)?;
                return Ok((Reply::Entry(entry), Some(file.into())));
            }
            Request::Create { path, parents } => return self.create(id, path, parents),
            Request::Commit { file, path, condition } => {
                let unnamed = self.unnamed().remove(&file).ok_or(Failure::Unfit)?;
                Reply::Entry(tree.commit(unnamed, &RelPath::parse(path)?, condition)?)
            }
            Request::Discard(file) => {
                drop(self.unnamed().remove(&file));
                Reply::Done
            }
            Request::MakeDirectory(path) => {
                tree.make_directory(&RelPath::parse(path)?)?;
                Reply::Done
            }
            Request::Rename { from, to, overwrite } => {
                tree.rename(&RelPath::parse(from)?, &RelPath::parse(to)?, overwrite)?;
                Reply::Done
            }
            Request::Remove { path, recursive, condition } => self.remove(path, recursive, condition)?,
            Request::Archive { path, format, git } => self.archive(id, path, format, git)?,
            Request::Measure => {
                let session = Tree::open(Path::new(SESSION))?;
                let (mine, his) = (usage::measure(tree)?, usage::measure(&session)?);
                let Space { free, total } = Space::of(Path::new(WORKSPACE)).map_err(|_| Failure::Failed)?;
                Reply::Measured { bytes: mine.bytes + his.bytes, inodes: mine.inodes + his.inodes, free, total }
            }
            Request::Session => Reply::Session(self.session().session()?),
            Request::History { after, limit } => self.history(id, after, limit)?,
            Request::SetAside(aside) => {
                self.session().set_aside(Uuid::from_u128(aside))?;
                Reply::Done
            }
            Request::DropAside(aside) => {
                self.session().drop_aside(Uuid::from_u128(aside))?;
                Reply::Done
            }
        };
        Ok((reply, None))
    }

    fn unnamed(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Unnamed>> {
        self.unnamed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self) -> std::sync::MutexGuard<'_, session::Reader> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers with the reading end of a pipe, writes a page of the history into it, and tells that it is whole.
    fn history(&self, id: u32, after: Option<At>, limit: u32) -> Result<Reply, Failure> {
        let page = self.session().page(after, usize::try_from(limit).unwrap_or(1).max(1))?;
        let bytes = encode_page(&page).map_err(|_| Failure::Failed)?;
        let mut out = File::from(self.pipe(id)?);
        out.write_all(&bytes).map_err(|_| Failure::Failed)?;
        Ok(Reply::Done)
    }

    /// Makes a pipe and hands its reading end over as the first answer.
    fn pipe(&self, id: u32) -> Result<OwnedFd, Failure> {
        let (reading, writing) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|_| Failure::Failed)?;
        // Not more than the system allows; less only costs time.
        let _ = rustix::pipe::fcntl_setpipe_size(&writing, PIPE);
        self.send(id, Ok(Reply::Piped), Some(reading));
        Ok(writing)
    }

    fn create(&self, id: u32, path: Vec<u8>, parents: bool) -> Result<(Reply, Option<OwnedFd>), Failure> {
        let path = RelPath::parse(path)?;
        if self.unnamed().len() >= MAX_UNNAMED {
            return Err(Failure::Unfit);
        }
        let unnamed = self.tree.create(&path, parents)?;
        let descriptor = unnamed.file.try_clone().map_err(|_| Failure::Failed)?;
        self.unnamed().insert(id, unnamed);
        Ok((Reply::Created, Some(descriptor.into())))
    }

    fn remove(&self, path: Vec<u8>, recursive: bool, condition: Condition) -> Result<Reply, Failure> {
        let removed = self.tree.remove(&RelPath::parse(path)?, recursive, condition);
        if !recursive {
            return removed.map(|()| Reply::Done);
        }
        // Asked again, it is out of sight already and only what was in it is left.
        let pending = matches!(removed, Err(Failure::NotFound));
        if !pending {
            removed?;
        } else if trash::is_empty(&self.tree)? {
            return Err(Failure::NotFound);
        }
        let over = trash::empty(&self.tree, Instant::now() + REMOVING)?;
        Ok(if over { Reply::Done } else { Reply::Partly })
    }

    /// Answers with the reading end of a pipe, fills it, and tells how that went.
    fn archive(&self, id: u32, path: Vec<u8>, format: super::message::Format, git: bool) -> Result<Reply, Failure> {
        let _place = Place::take(&self.archives).ok_or(Failure::Unfit)?;
        let source = archive::Source::open(&self.tree, &RelPath::parse(path)?)?;
        let mut out = File::from(self.pipe(id)?);
        let summary = archive::write(source, format, git, &mut out)?;
        out.flush().map_err(|_| Failure::Failed)?;
        Ok(Reply::Archived { entries: summary.entries, skipped: summary.skipped })
    }
}

/// One of a few places, given back on drop.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(places: &'a AtomicUsize) -> Option<Self> {
        let take = |taken: usize| (taken < MAX_ARCHIVES).then_some(taken + 1);
        places.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok().then(|| Place(places))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
