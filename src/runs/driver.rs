//! Drives one run from its record to its last event.
//!
//! Every step can be interrupted by the death of the front and is done again after the restart: the record says what
//! was decided, the event log says how much of pi's output is accounted for, and the sandbox, which outlives the front,
//! says the rest. The prompt goes to pi once: `prompt_written` is on disk before its first byte is written, and after a
//! restart it is repeated only when pi shows no sign of having got it.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use pi_gateway_helper::names::User;
use tokio::sync::watch;
use tokio::time::Instant;

use super::event::Event;
use super::log::EventLog;
use super::messages::{Fates, Messages};
use super::record::{Record, Run, RunRequest, Status, Verdict};
use super::verdict;
use super::{Services, agent};
use crate::git::Pushing;
use crate::metrics::front::metrics;
use crate::pi::command::{self, Asker};
use crate::pi::lines::Lines;
use crate::pi::translate::Translator;
use crate::sites::state::Site;

/// The driver of one run.
pub struct Driver {
    pub(super) services: Arc<Services>,
    pub(super) user: User,
    pub(super) record: Record,
    pub(super) request: RunRequest,
    pub(super) log: EventLog,
    pub(super) shown: watch::Sender<Run>,
    pub(super) cancel: watch::Receiver<bool>,
    pub(super) translator: Translator,
    pub(super) lines: Lines,
    pub(super) bad_lines: u32,
    /// End of the last line that was taken, in pi's output.
    pub(super) taken: u64,
    /// Whether pi has accepted the prompt.
    pub(super) accepted: bool,
    /// Whether `run.finalizing` is in the log already.
    pub(super) finalizing: bool,
    /// Whether the agent has called a tool.
    pub(super) tools: bool,
    /// What is still to be chosen before the prompt.
    pub(super) choices: VecDeque<Vec<u8>>,
    /// How the run ends when the agent gives in or the grace period is over.
    pub(super) ending: Option<(Verdict, Instant)>,
    pub(super) abort_sent: bool,
    pub(super) first_answer: Option<Instant>,
    pub(super) evidence: Option<Instant>,
    /// What the user has said to the run since.
    pub(super) messages: Messages,
    /// pi has settled, and a message is about to begin another turn.
    pub(super) settled: bool,
    /// When a message that a predecessor may have written is written again.
    pub(super) resend: Option<Instant>,
    /// The push that goes on behind the run's end.
    pushing: Option<Pushing>,
    /// Tells the answers to this driver's commands from those to its predecessors', which are still in the output.
    pub(super) asker: Asker,
}

/// What the driver knows when it begins.
pub struct Beginning {
    /// Whose run it is.
    pub user: User,
    /// Its record.
    pub record: Record,
    /// What was asked.
    pub request: RunRequest,
    /// Where its log is.
    pub events: PathBuf,
    /// Shows the run to others.
    pub shown: watch::Sender<Run>,
    /// Becomes true when the user cancels.
    pub cancel: watch::Receiver<bool>,
}

impl Driver {
    /// Takes a run where its record and log say it is.
    ///
    /// # Errors
    /// When the log cannot be opened, or a message not be read.
    pub fn new(services: Arc<Services>, beginning: Beginning) -> io::Result<Self> {
        let Beginning { user, record, request, events, shown, cancel } = beginning;
        let mut translator = Translator::default();
        let (mut accepted, mut finalizing, mut tools) = (false, false, false);
        let mut fates = Fates::default();
        let log = EventLog::open(&events, |event, data| {
            translator.restore(event, data);
            fates.restore(event, data);
            accepted |= event == "run.started";
            finalizing |= event == "run.finalizing";
            tools |= event == "tool.started";
        })?;
        let sent = services.store.messages(&user, record.run.id)?;
        let messages = fates.of(sent, record.verdict.is_none() && !record.run.status.is_final(), accepted);
        let taken = log.last().offset;
        let asker = Asker::new();
        let mut choices = VecDeque::new();
        choices.extend(request.model.as_deref().map(|model| command::set_model(model, asker)));
        choices.extend(request.thinking.map(|level| command::set_thinking(level.as_str(), asker)));
        Ok(Driver {
            services,
            user,
            record,
            request,
            log,
            shown,
            cancel,
            translator,
            lines: Lines::default(),
            bad_lines: 0,
            taken,
            accepted,
            finalizing,
            tools,
            choices,
            ending: None,
            abort_sent: false,
            first_answer: None,
            evidence: None,
            messages,
            settled: false,
            resend: None,
            pushing: None,
            asker,
        })
    }

    /// The log, for readers.
    pub fn log(&self) -> &EventLog {
        &self.log
    }

    /// Drives the run to its end. `release` frees the user's lock; it is called before the last event is shown.
    pub async fn drive(mut self, release: impl FnOnce()) {
        if !self.record.run.status.is_final() {
            let verdict = match self.record.verdict.clone() {
                Some(verdict) => verdict,
                None => self.run().await,
            };
            self.finalize(verdict).await;
        }
        self.finish(release).await;
    }

    async fn run(&mut self) -> Verdict {
        if *self.cancel.borrow() && !self.record.prompt_written {
            return Verdict::cancelled();
        }
        let known = self.record.prompt_written || self.taken > 0;
        if !known {
            super::git::prepare(&self.services, &self.user).await;
        }
        match agent::ensure(&self.services, &self.user, self.record.run.id, known, &mut self.cancel).await {
            Ok(agent::Ensured::Started(uid)) => self.record.uid = Some(uid),
            Ok(agent::Ensured::Gone) => {}
            Err(verdict) => return verdict,
        }
        if let Err(error) = self.save().await {
            return verdict::of_disk(&error);
        }
        match self.follow().await {
            Ok(verdict) | Err(verdict) => verdict,
        }
    }

    /// Stops the sandbox and completes the record. Done again from the start after a crash.
    async fn finalize(&mut self, verdict: Verdict) {
        self.record.verdict = Some(verdict.clone());
        self.record.run.status = Status::Finalizing;
        if let Err(error) = self.save().await {
            tracing::error!(run = %self.record.run.id, %error, "the record could not be saved before finalizing");
        }
        let late = self.messages.end().await;
        if !self.finalizing {
            for event in late {
                self.log.push(&event, self.taken);
            }
            self.log.push(&Event::RunFinalizing { run_id: self.record.run.id }, self.taken);
            self.commit();
        }
        agent::remove(&self.services, &self.user, self.record.run.id).await;
        // Whoever called no tool has built nothing; a sandbox that never started has not even a user.
        if let (true, Some(uid)) = (self.tools, self.record.uid) {
            self.record.run.site = self.services.sites.publish(&self.user, self.record.run.id, uid).await;
        }
        self.services.workers.leave(&self.user).await;
        let pushing = super::git::commit(&self.services, &self.user, &mut self.record, &self.request.prompt).await;
        self.record.run.usage = self.services.usage(self.record.uid, self.record.run.id);
        self.record.run.output_text = self.translator.last_message().map(|last| last.text.clone());
        self.record.run.status = verdict.status;
        self.record.run.error = verdict.error;
        self.record.run.finished_at = Some(jiff::Timestamp::now());
        if let Err(error) = self.save().await {
            tracing::error!(run = %self.record.run.id, %error, "the final record could not be saved; a restart will do it");
        }
        self.pushing = pushing;
    }

    /// Writes the last event, frees the lock, shows the event: whoever sees it can start the next run at once.
    async fn finish(mut self, release: impl FnOnce()) {
        let run = &self.record.run;
        if !self.log.is_finished() {
            let event = Event::RunFinished {
                run_id: run.id,
                status: run.status,
                error: run.error.clone(),
                usage: run.usage.clone(),
            };
            let notice = run.site.as_ref().map(notice_of);
            let events = notice.iter().chain([&event]);
            events.clone().for_each(|event| self.log.push(event, self.taken));
            let mut written = self.log.write();
            if let Err(error) = &written
                && self.services.store.give_ballast(error)
            {
                events.for_each(|event| self.log.push(event, self.taken));
                written = self.log.write();
            }
            if let Err(error) = written.and_then(|()| self.log.sync()) {
                tracing::error!(run = %run.id, %error, "the run's last event could not be written");
            }
        }
        if let Err(error) = self.services.store.clear_active(&self.user) {
            tracing::error!(run = %run.id, %error, "the mark of the active run could not be removed");
        }
        let code = run.error.as_ref().map(|error| error.code.as_str());
        metrics().finished(run);
        tracing::info!(run = %run.id, user = self.user.as_str(), status = ?run.status, code, "run finished");
        release();
        self.shown.send_replace(self.record.run.clone());
        self.log.publish();
        if let Some(pushing) = self.pushing.take() {
            tokio::spawn(super::git::push_behind(self.services, self.user, self.record.run.id, pushing));
        }
    }

    fn commit(&mut self) {
        if let Err(error) = self.log.commit() {
            tracing::error!(run = %self.record.run.id, %error, "events could not be written");
        }
    }

    /// Saves the record and shows the run.
    pub(super) async fn save(&mut self) -> io::Result<()> {
        let (store, user, record) = (self.services.store.clone(), self.user.clone(), self.record.clone());
        if !record.run.status.is_final() {
            self.shown.send_replace(record.run.clone());
        }
        tokio::task::spawn_blocking(move || store.save(&user, &record)).await.map_err(io::Error::other)?
    }
}

/// What became of the site, for whoever follows the run.
fn notice_of(site: &Site) -> Event {
    let (code, message) = match &site.error {
        None if site.skipped_count == 0 => ("site_exported", format!("the site has {} files", site.files)),
        None => (
            "site_exported",
            format!("the site has {} files; {} of dist were left out", site.files, site.skipped_count),
        ),
        Some(error) => ("site_failed", format!("the site stays as it was: {} ({})", error.message, error.code)),
    };
    Event::Notice { code: code.to_owned(), message }
}
