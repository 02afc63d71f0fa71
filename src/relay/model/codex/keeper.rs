//! Keeps the one ChatGPT credential for all users.
//!
//! Whoever needs a token takes the present one. One that ends soon is exchanged while it is still used; one that has
//! ended, or that the upstream refuses, is exchanged while those who need it wait. There is one exchange at a time, in a
//! task of its own, so that nobody who goes away cuts it in two. Before it, the file is read anew: an operator may have
//! replaced it. Behind it, the new content is on the disk before anything uses it. What is refused for good stays so
//! until the file is another one; everything else is tried again, more and more seldom.
//!
//! What is lost is what the issuer has given and the launcher's socket has not yet taken when this process is killed: a
//! moment without a wait in it. Then the issuer refuses the old refresh token, and the operator signs in again.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use pi_gateway_helper::wire::{Refusal, Step};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, sleep, timeout};

use super::failure::{Trouble, told};
use super::file::{self, Credential};
use super::issuer::{Issuer, Refused};
use super::limits::Waits;
use super::state::{Report, State};
use crate::launcher::{Launcher, LauncherError};
use crate::relay::model::failure::Failure;

/// The longest wait between two tries to have a new content stored.
const STORE_PERIOD: Duration = Duration::from_secs(2);

/// The credential, and everything that changes it.
pub struct Keeper {
    launcher: Launcher,
    issuer: Issuer,
    report: Report,
    waits: Waits,
    present: RwLock<Option<Arc<Credential>>>,
    work: Arc<Mutex<Work>>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// What is known of the file; whoever holds it is the only one to look, to exchange or to store.
#[derive(Default)]
struct Work {
    /// What it held last.
    content: Vec<u8>,
    /// The issuer gives nothing any more for that.
    ended: bool,
    /// Until when nothing is tried, and what holds meanwhile.
    pause: Option<(Instant, Trouble)>,
    /// Exchanges in a row that failed.
    failures: u32,
    /// When the present token was exchanged for.
    renewed: Option<Instant>,
}

fn now() -> i64 {
    Timestamp::now().as_second()
}

impl Keeper {
    /// One that has not looked yet.
    #[must_use]
    pub fn new(launcher: Launcher, issuer: Issuer, report: Report, waits: Waits) -> Self {
        Self { launcher, issuer, report, waits, present: RwLock::default(), work: Arc::default() }
    }

    /// Looks after the token as long as nobody asks for it.
    pub async fn watch(self: Arc<Self>) {
        loop {
            sleep(self.waits.period).await;
            // What is wrong is in the report.
            let _ = self.token().await;
        }
    }

    /// Waits for an exchange under way, for a bounded time.
    pub async fn settle(&self) {
        if timeout(self.waits.settle, self.work.lock()).await.is_err() {
            tracing::error!("the service ends while a token is exchanged");
        }
    }

    /// The token to use now.
    ///
    /// # Errors
    /// There is none, or it does not come in time.
    pub async fn token(self: &Arc<Self>) -> Result<Arc<Credential>, Failure> {
        match self.present() {
            Some(held) if now() < held.renew => Ok(held),
            Some(held) if now() < held.expires => {
                // Good for a while yet, so nobody waits for the next one.
                if let Ok(work) = Arc::clone(&self.work).try_lock_owned() {
                    tokio::spawn(Arc::clone(self).bring(work, None));
                }
                Ok(held)
            }
            _ => self.wait(None).await,
        }
    }

    /// Another token than this one, which the upstream refuses.
    ///
    /// # Errors
    /// There is none, or it does not come in time.
    pub async fn instead_of(self: &Arc<Self>, refused: Arc<Credential>) -> Result<Arc<Credential>, Failure> {
        self.wait(Some(refused)).await
    }

    async fn wait(self: &Arc<Self>, refused: Option<Arc<Credential>>) -> Result<Arc<Credential>, Failure> {
        let brought = async {
            let work = Arc::clone(&self.work).lock_owned().await;
            tokio::spawn(Arc::clone(self).bring(work, refused)).await
        };
        match timeout(self.waits.token, brought).await {
            Ok(Ok(brought)) => brought.map_err(told),
            _ => Err(told(Trouble::Unavailable)),
        }
    }

    fn present(&self) -> Option<Arc<Credential>> {
        self.present.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hold(&self, held: Option<Arc<Credential>>) {
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = held;
    }

    /// Brings a token that is good and not the refused one, and reports how it went.
    async fn bring(
        self: Arc<Self>,
        mut work: OwnedMutexGuard<Work>,
        refused: Option<Arc<Credential>>,
    ) -> Result<Arc<Credential>, Trouble> {
        let brought = self.work(&mut work, refused.as_deref()).await;
        let state = match &brought {
            Ok(_) => State::Ok,
            Err(trouble) => trouble.state(),
        };
        // An exchange that failed while the token before is good is no trouble yet.
        let good = brought.is_err() && refused.is_none() && self.present().is_some_and(|held| now() < held.expires);
        self.report.tell(if good { State::Ok } else { state }).await;
        brought
    }

    async fn work(&self, work: &mut Work, refused: Option<&Credential>) -> Result<Arc<Credential>, Trouble> {
        let fits = |held: &Credential| {
            now() < held.renew && refused.is_none_or(|refused| refused.bearer.header() != held.bearer.header())
        };
        // Another one has brought it while this one waited.
        if let Some(held) = self.present().filter(|held| fits(held)) {
            return Ok(held);
        }
        if let Some((until, trouble)) = work.pause
            && Instant::now() < until
        {
            return Err(trouble);
        }
        let held = self.look(work).await?;
        if fits(&held) {
            return Ok(held);
        }
        if work.ended {
            return Err(work.pauses(Trouble::SignedOut, self.waits.look));
        }
        if refused.is_some() && work.renewed.is_some_and(|at| at.elapsed() < self.waits.renewed) {
            // The next one would be refused as well; what is wrong is the account.
            return Err(Trouble::Refused);
        }
        self.exchange(work, &held).await
    }

    /// Reads the file, and takes over what is new in it.
    async fn look(&self, work: &mut Work) -> Result<Arc<Credential>, Trouble> {
        let content = match self.launcher.codex_token(&[], &[]).await {
            Ok(content) => content,
            Err(LauncherError::Refused(Refusal::Failed(Step::CodexFile))) => {
                tracing::error!("the launcher cannot read PI_GATEWAY_CODEX_AUTH_FILE; its log says why");
                self.hold(None);
                return Err(work.pauses(Trouble::Unreadable, self.waits.look));
            }
            Err(error) => {
                tracing::warn!(%error, "the ChatGPT credential cannot be read at the moment");
                return Err(work.fails(&self.waits));
            }
        };
        if content != work.content {
            *work = Work { content, ..Work::default() };
        }
        self.take_over(work)
    }

    fn take_over(&self, work: &mut Work) -> Result<Arc<Credential>, Trouble> {
        match file::read(&work.content) {
            Ok(held) => {
                let held = Arc::new(held);
                self.hold((!work.ended).then(|| Arc::clone(&held)));
                Ok(held)
            }
            Err(mistake) => {
                tracing::error!("PI_GATEWAY_CODEX_AUTH_FILE {mistake}");
                self.hold(None);
                Err(work.pauses(Trouble::Unreadable, self.waits.look))
            }
        }
    }

    async fn exchange(&self, work: &mut Work, held: &Credential) -> Result<Arc<Credential>, Trouble> {
        let rotated = match self.issuer.exchange(&held.refresh).await {
            Ok(rotated) => rotated,
            Err(Refused::Ended(word)) => {
                tracing::error!(
                    word,
                    "the ChatGPT sign-in has ended: sign in again and replace PI_GATEWAY_CODEX_AUTH_FILE; no restart is needed"
                );
                work.ended = true;
                self.hold(None);
                return Err(work.pauses(Trouble::SignedOut, self.waits.look));
            }
            Err(Refused::Unclear(cause)) => {
                tracing::warn!(cause, "the issuer of ChatGPT's tokens gives none");
                return Err(work.fails(&self.waits));
            }
        };
        let new = file::rotated(&work.content, &rotated, Timestamp::now()).map_err(|mistake| {
            tracing::error!("the new tokens cannot be kept: {mistake}");
            work.fails(&self.waits)
        })?;
        let content = self.store(&work.content, &new).await;
        let ours = content == new;
        *work = Work { content, renewed: ours.then(Instant::now), ..Work::default() };
        let brought = self.take_over(work)?;
        if !ours {
            tracing::warn!(
                "PI_GATEWAY_CODEX_AUTH_FILE was replaced while its token was exchanged; what it holds now is used"
            );
            return Ok(brought);
        }
        tracing::info!(expires = brought.expires, "the ChatGPT token was exchanged");
        // One that is not given for longer than the margin is used for half of what it is given for.
        let half = now().saturating_add(brought.expires.saturating_sub(now()) / 2);
        let brought = Arc::new(Credential { renew: brought.renew.max(half), ..(*brought).clone() });
        self.hold(Some(Arc::clone(&brought)));
        Ok(brought)
    }

    /// Has the launcher store a new content, however long that takes: without it the sign-in would be lost. Gives what the
    /// file holds then, which is another's when an operator has replaced it.
    async fn store(&self, known: &[u8], new: &[u8]) -> Vec<u8> {
        let mut wait = Duration::from_millis(20);
        loop {
            match self.launcher.codex_token(known, new).await {
                Ok(content) => return content,
                Err(error) => {
                    tracing::error!(%error, "the new ChatGPT token is not stored yet");
                    self.report.tell(State::Unavailable).await;
                }
            }
            sleep(wait).await;
            wait = (wait * 2).min(STORE_PERIOD);
        }
    }
}

impl Work {
    fn pauses(&mut self, trouble: Trouble, wait: Duration) -> Trouble {
        self.pause = Some((Instant::now() + wait, trouble));
        trouble
    }

    fn fails(&mut self, waits: &Waits) -> Trouble {
        let wait = waits.retry.saturating_mul(1 << self.failures.min(16)).min(waits.most);
        self.failures += 1;
        self.pauses(Trouble::Unavailable, wait)
    }
}
