//! The users being served: one listener each, for as long as the process that handed it over lives.

use std::collections::HashMap;
use std::net::TcpStream as StdStream;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::body::Budget;
use super::config::ApiKey;
use super::failure::Failure;
use super::fdstore::{self, Kept};
use super::handover::Offer;
use super::limits::{MAX_AGENTS, MAX_CONNECTIONS, USER_BODIES, Waits};
use super::listener::Acceptor;
use super::serve;
use super::upstream::Upstream;
use super::usage::Writer;
use super::watch::{ended, watch as watch_fd};
use crate::models::Catalogue;

/// What all users' requests share.
#[derive(Debug)]
pub struct Shared {
    /// The provider's port inside the sandboxes.
    pub port: u16,
    /// What may be asked for.
    pub catalogue: Catalogue,
    /// The provider's key.
    pub key: ApiKey,
    /// Where requests go.
    pub upstream: Upstream,
    /// Where usage is written.
    pub usage: Writer,
    /// Memory for all request bodies.
    pub bodies: Budget,
    /// The waits.
    pub waits: Waits,
}

/// One user's agent.
#[derive(Debug)]
pub struct Agent {
    /// The user.
    pub uid: u32,
    /// The run.
    pub run: Uuid,
    /// Memory for this user's request bodies.
    pub bodies: Budget,
    /// What all users share.
    pub shared: Arc<Shared>,
    refusals: AtomicU64,
}

impl Agent {
    /// Logs a request that was refused here. A sandbox can make any number of them, so after the first few only
    /// every power of two is logged.
    pub fn note_refusal(&self, failure: &Failure) {
        let count = self.refusals.fetch_add(1, Ordering::Relaxed) + 1;
        if count <= 16 || count.is_power_of_two() {
            tracing::info!(
                uid = self.uid,
                run = %self.run,
                status = failure.status.as_u16(),
                code = failure.code,
                refusals = count,
                "model request refused"
            );
        }
    }
}

/// Who is being served.
#[derive(Debug, Clone)]
pub struct Agents {
    shared: Arc<Shared>,
    live: Arc<Mutex<HashMap<u32, Entry>>>,
    closing: watch::Sender<bool>,
    /// Every serving task holds one; when all are gone, so are the tasks.
    alive: mpsc::WeakSender<()>,
    count: watch::Sender<usize>,
}

#[derive(Debug)]
struct Entry {
    pidfd: Arc<AsyncFd<OwnedFd>>,
    gone: watch::Receiver<()>,
}

/// Ends when every serving task has.
#[derive(Debug)]
pub struct Tasks {
    _own: mpsc::Sender<()>,
    all: mpsc::Receiver<()>,
}

impl Agents {
    /// Nobody yet.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> (Self, Tasks) {
        let (own, all) = mpsc::channel(1);
        let agents = Self {
            shared,
            live: Arc::default(),
            closing: watch::Sender::new(false),
            alive: own.downgrade(),
            count: watch::Sender::new(0),
        };
        (agents, Tasks { _own: own, all })
    }

    /// The number of users being served, and its changes.
    #[must_use]
    pub fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Serves an offered listener. One of the same user whose process has ended makes room first.
    ///
    /// # Errors
    /// The listener and a sentence for the peer.
    pub async fn take(&self, offer: Offer) -> Result<(), (OwnedFd, &'static str)> {
        if let Some(mut gone) = self.leaving(offer.uid) {
            let _ = tokio::time::timeout(self.shared.waits.hand_over, gone.changed()).await;
        }
        let Offer { uid, run, listener, pidfd } = offer;
        self.serve(uid, run, listener, pidfd, true)
    }

    /// Serves what the service manager kept; what does not hold any more is removed there.
    pub fn resume(&self, kept: Kept) {
        let Kept { uid, run, listener, pidfd } = kept;
        if ended(&pidfd) || super::listener::check(std::os::fd::AsFd::as_fd(&listener), self.shared.port).is_err() {
            fdstore::remove(uid, run);
            super::listener::discard(vec![listener], ());
        } else if let Err((listener, reason)) = self.serve(uid, run, listener, pidfd, false) {
            tracing::warn!(uid, %run, reason, "a kept listener is not served again");
            fdstore::remove(uid, run);
            super::listener::discard(vec![listener], ());
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
        let mut live = self.lock();
        if live.contains_key(&uid) {
            return Err((listener, "this user already has a listener whose process lives"));
        }
        if live.len() >= MAX_AGENTS {
            return Err((listener, "the relay serves as many users as it can"));
        }
        let Some(alive) = self.alive.upgrade().filter(|_| !*self.closing.borrow()) else {
            return Err((listener, "the relay is stopping; try again"));
        };
        let pidfd = match watch_fd(pidfd) {
            Ok(pidfd) => Arc::new(pidfd),
            Err(_) => return Err((listener, "the relay has no descriptors left")),
        };
        let listener = Arc::new(listener);
        let (out, connections) = mpsc::channel(1);
        let acceptor = match Acceptor::start(Arc::clone(&listener), self.shared.waits.client_stall, out) {
            Ok(acceptor) => acceptor,
            Err(_) => {
                let sentence = "the relay has no threads left";
                return Arc::into_inner(listener).map_or(Ok(()), |listener| Err((listener, sentence)));
            }
        };
        if new && let Err(error) = fdstore::keep(uid, run, &listener, pidfd.get_ref()) {
            tracing::warn!(uid, %run, %error, "the service manager did not take the listener: a restart will cut it");
        }
        drop(listener);
        let agent = Arc::new(Agent {
            uid,
            run,
            bodies: Budget::new(USER_BODIES),
            shared: Arc::clone(&self.shared),
            refusals: AtomicU64::new(0),
        });
        let (gone_sender, gone) = watch::channel(());
        live.insert(uid, Entry { pidfd: Arc::clone(&pidfd), gone });
        self.count.send_replace(live.len());
        drop(live);
        tracing::info!(uid, %run, resumed = !new, "listener taken");
        let this = self.clone();
        tokio::spawn(async move {
            this.run(agent, acceptor, connections, pidfd).await;
            drop(gone_sender);
            drop(alive);
        });
        Ok(())
    }

    /// Serves one agent until its process ends or the service stops.
    async fn run(
        &self,
        agent: Arc<Agent>,
        acceptor: Acceptor,
        mut connections: mpsc::Receiver<StdStream>,
        pidfd: Arc<AsyncFd<OwnedFd>>,
    ) {
        let mut closing = self.closing.subscribe();
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
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
                    Some((permit, stream)) => if let Ok(stream) = TcpStream::from_std(stream) {
                        let serving = serve::connection(stream, Arc::clone(&agent), self.closing.subscribe());
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
            let _ = tokio::time::timeout(self.shared.waits.drain, drained).await;
            open.shutdown().await;
            return;
        }
        // Requests of a process that has ended are of no use to anybody.
        open.shutdown().await;
        drop(connections);
        acceptor.close().await;
        fdstore::remove(agent.uid, agent.run);
        let mut live = self.lock();
        live.remove(&agent.uid);
        self.count.send_replace(live.len());
        drop(live);
        tracing::info!(uid = agent.uid, run = %agent.run, "listener let go");
    }
}

/// Waits until the service stops.
pub async fn stopping(closing: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop as well.
    let _ = closing.wait_for(|closing| *closing).await;
}

/// Says what the service does, for `systemctl status`.
#[must_use]
pub fn status(count: usize) -> String {
    match count {
        1 => "Serving 1 agent".to_owned(),
        count => format!("Serving {count} agents"),
    }
}
