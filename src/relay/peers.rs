//! The users being served: one listener each, for as long as the process that handed it over lives.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::connection::stopping;
use super::fdstore::{self, Kept};
use super::handover::Offer;
use super::limits::{MAX_PEERS, Waits};
use super::listener::{self, Acceptor, Place, Stream};
use super::watch::{ended, watch as watch_fd};
use crate::closer::Handed;

/// What one kind of relay does with the connections of its users.
pub trait Kind: fmt::Debug + Send + Sync + 'static {
    /// Its name: in hand-overs, in the service manager's store, in the log.
    const NAME: &'static str;
    /// Open connections of one user; more wait in the kernel's backlog.
    const MAX_CONNECTIONS: usize;
    /// Threads for what blocks.
    const BLOCKING_THREADS: usize = 8;
    /// One user, as this kind sees him.
    type Peer: Send + Sync + 'static;

    /// Where listeners are inside the sandboxes.
    fn place(&self) -> Place;

    /// The waits.
    fn waits(&self) -> Waits;

    /// Takes on a user.
    ///
    /// # Errors
    /// A sentence for the process that handed the listener over.
    fn peer(self: &Arc<Self>, uid: u32, run: Uuid) -> Result<Self::Peer, &'static str>;

    /// Begins what goes on beside the users, when the service begins.
    fn begin(self: &Arc<Self>) {}

    /// Ends that, in a bounded time, when the service ends.
    fn end(self: Arc<Self>) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Serves one connection until it ends, or `closing` becomes true and the answer under way is finished.
    fn serve(peer: Arc<Self::Peer>, stream: Stream, closing: watch::Receiver<bool>) -> impl Future<Output = ()> + Send;

    /// Serves whoever else there is until `closing` becomes true; nobody unless a kind says so.
    fn beside(self: Arc<Self>, _closing: watch::Receiver<bool>) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// Counts the requests that were refused to one user. A sandbox can make any number of them, so after the first few
/// only every power of two is logged.
#[derive(Debug, Default)]
pub struct Refusals(AtomicU64);

impl Refusals {
    /// Counts one more; gives the number when this one is to be logged.
    pub fn count(&self) -> Option<u64> {
        let count = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        (count <= 16 || count.is_power_of_two()).then_some(count)
    }
}

/// Who is being served.
#[derive(Debug)]
pub struct Peers<K> {
    kind: Arc<K>,
    live: Arc<Mutex<HashMap<u32, Entry>>>,
    closing: watch::Sender<bool>,
    /// Every serving task holds one; when all are gone, so are the tasks.
    alive: mpsc::WeakSender<()>,
    count: watch::Sender<usize>,
}

#[derive(Debug)]
struct Entry {
    run: Uuid,
    /// The socket's inode: the same one again is the same hand-over again.
    inode: Option<u64>,
    pidfd: Arc<AsyncFd<OwnedFd>>,
    gone: watch::Receiver<()>,
}

/// Ends when every serving task has.
#[derive(Debug)]
pub struct Tasks {
    _own: mpsc::Sender<()>,
    all: mpsc::Receiver<()>,
}

impl<K> Clone for Peers<K> {
    fn clone(&self) -> Self {
        Self {
            kind: Arc::clone(&self.kind),
            live: Arc::clone(&self.live),
            closing: self.closing.clone(),
            alive: self.alive.clone(),
            count: self.count.clone(),
        }
    }
}

impl<K: Kind> Peers<K> {
    /// Nobody yet.
    #[must_use]
    pub fn new(kind: Arc<K>) -> (Self, Tasks) {
        let (own, all) = mpsc::channel(1);
        let peers = Self {
            kind,
            live: Arc::default(),
            closing: watch::Sender::new(false),
            alive: own.downgrade(),
            count: watch::Sender::new(0),
        };
        (peers, Tasks { _own: own, all })
    }

    /// The number of users being served, and its changes.
    #[must_use]
    pub fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Becomes true when the service stops.
    #[must_use]
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Serves an offered listener. One of the same user whose process has ended makes room first. One that is served
    /// already is what was asked for: its process did not hear so, because the relay ended before it could answer.
    ///
    /// # Errors
    /// The listener and a sentence for the peer.
    pub async fn take(&self, offer: Offer) -> Result<(), (OwnedFd, &'static str)> {
        if let Some(mut gone) = self.leaving(offer.uid) {
            let _ = tokio::time::timeout(self.kind.waits().hand_over, gone.changed()).await;
        }
        let Offer { uid, run, listener, pidfd } = offer;
        let same = |entry: &Entry| entry.run == run && entry.inode.is_some() && entry.inode == inode(&listener);
        if self.lock().get(&uid).is_some_and(same) {
            return Ok(());
        }
        self.serve(uid, run, listener, pidfd, true)
    }

    /// Serves what the service manager kept; what does not hold any more is removed there.
    pub fn resume(&self, kept: Kept) {
        let Kept { uid, run, listener, pidfd } = kept;
        if ended(&pidfd) || listener::check(std::os::fd::AsFd::as_fd(&listener), self.kind.place()).is_err() {
            fdstore::remove(K::NAME, uid, run);
            crate::closer::close(vec![listener], ());
        } else if let Err((listener, reason)) = self.serve(uid, run, listener, pidfd, false) {
            tracing::warn!(uid, %run, reason, "a kept listener is not served again");
            fdstore::remove(K::NAME, uid, run);
            crate::closer::close(vec![listener], ());
        }
    }

    /// Finishes the answers under way (up to the drain time) and stops serving. The listeners stay with the service
    /// manager.
    pub async fn close(self, tasks: Tasks) {
        self.closing.send_replace(true);
        let Tasks { _own, mut all } = tasks;
        drop(_own);
        while all.recv().await.is_some() {}
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Entry>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The user's present entry, if its process has ended.
    fn leaving(&self, uid: u32) -> Option<watch::Receiver<()>> {
        self.lock().get(&uid).filter(|entry| ended(entry.pidfd.get_ref())).map(|entry| entry.gone.clone())
    }

    fn serve(
        &self,
        uid: u32,
        run: Uuid,
        listener: OwnedFd,
        pidfd: OwnedFd,
        new: bool,
    ) -> Result<(), (OwnedFd, &'static str)> {
        let peer = match self.kind.peer(uid, run) {
            Ok(peer) => Arc::new(peer),
            Err(sentence) => return Err((listener, sentence)),
        };
        let mut live = self.lock();
        if live.contains_key(&uid) {
            return Err((listener, "this user already has a listener whose process lives"));
        }
        if live.len() >= MAX_PEERS {
            return Err((listener, "the relay serves as many users as it can"));
        }
        let Some(alive) = self.alive.upgrade().filter(|_| !*self.closing.borrow()) else {
            return Err((listener, "the relay is stopping; try again"));
        };
        let pidfd = match watch_fd(pidfd) {
            Ok(pidfd) => Arc::new(pidfd),
            Err(_) => return Err((listener, "the relay has no descriptors left")),
        };
        let inode = inode(&listener);
        let listener = Arc::new(listener);
        let (out, connections) = mpsc::channel(1);
        let acceptor = match Acceptor::start(Arc::clone(&listener), self.kind.waits().client_stall, out) {
            Ok(acceptor) => acceptor,
            Err(_) => {
                let sentence = "the relay has no threads left";
                return Arc::into_inner(listener).map_or(Ok(()), |listener| Err((listener, sentence)));
            }
        };
        if new && let Err(error) = fdstore::keep(K::NAME, uid, run, &listener, pidfd.get_ref()) {
            tracing::warn!(uid, %run, %error, "the service manager did not take the listener: a restart will cut it");
        }
        drop(listener);
        let (gone_sender, gone) = watch::channel(());
        live.insert(uid, Entry { run, inode, pidfd: Arc::clone(&pidfd), gone });
        self.count.send_replace(live.len());
        drop(live);
        tracing::info!(uid, %run, resumed = !new, "listener taken");
        let this = self.clone();
        tokio::spawn(async move {
            if this.run(&peer, acceptor, connections, &pidfd).await == Ended::WithItsProcess {
                this.let_go(uid, run);
            }
            drop(gone_sender);
            drop(alive);
        });
        Ok(())
    }

    /// Serves one user until his process ends or the service stops.
    async fn run(
        &self,
        peer: &Arc<K::Peer>,
        acceptor: Acceptor,
        mut connections: mpsc::Receiver<Handed>,
        pidfd: &AsyncFd<OwnedFd>,
    ) -> Ended {
        let mut closing = self.closing.subscribe();
        let permits = Arc::new(Semaphore::new(K::MAX_CONNECTIONS));
        let mut open: JoinSet<()> = JoinSet::new();
        let stopped = loop {
            let next = async {
                // The place first: a connection that has none waits in the kernel.
                let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
                Some((permit, connections.recv().await?))
            };
            tokio::select! {
                biased;
                _ = pidfd.ready(Interest::READABLE) => break false,
                () = stopping(&mut closing) => break true,
                Some(_) = open.join_next() => {}
                accepted = next => match accepted {
                    None => break false,
                    Some((permit, stream)) => if let Ok(stream) = listener::stream(stream, self.kind.waits().client_stall) {
                        let serving = K::serve(Arc::clone(peer), stream, self.closing.subscribe());
                        open.spawn(async move {
                            serving.await;
                            drop(permit);
                        });
                    },
                },
            }
        };
        if stopped {
            acceptor.pause();
            let drained = async { while open.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(self.kind.waits().drain, drained).await;
            open.shutdown().await;
            return Ended::WithTheService;
        }
        // Requests of a process that has ended are of no use to anybody.
        open.shutdown().await;
        drop(connections);
        acceptor.close().await;
        Ended::WithItsProcess
    }

    fn let_go(&self, uid: u32, run: Uuid) {
        fdstore::remove(K::NAME, uid, run);
        let mut live = self.lock();
        live.remove(&uid);
        self.count.send_replace(live.len());
        drop(live);
        tracing::info!(uid, %run, "listener let go");
    }
}

/// What tells one open socket from another.
fn inode(socket: &OwnedFd) -> Option<u64> {
    nix::sys::stat::fstat(socket).ok().map(|found| found.st_ino)
}

/// How serving a user ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    WithItsProcess,
    WithTheService,
}

/// Says what the service does, for `systemctl status`.
#[must_use]
pub fn status(count: usize) -> String {
    match count {
        1 => "Serving 1 user".to_owned(),
        count => format!("Serving {count} users"),
    }
}
