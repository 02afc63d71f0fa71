//! Drives one run from its record to its last event.
//!
//! Every step can be interrupted by the death of the front and is done again after the restart: the record says what
//! was decided, the event log says how much of pi's output is accounted for, and the sandbox, which outlives the front,
//! says the rest. The prompt goes to pi once: `prompt_written` is on disk before its first byte is written, and after a
//! restart it is repeated only when pi shows no sign of having got it.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pi_gateway_helper::names::User;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::event::Event;
use super::log::EventLog;
use super::raw::{RawError, RawOutput};
use super::record::{Record, Run, RunRequest, Status, Verdict};
use super::stdin::Stdin;
use super::verdict;
use super::wake::{UnitCgroup, Wake};
use super::{Services, agent};
use crate::pi::command;
use crate::pi::lines::{Line, Lines};
use crate::pi::translate::{Signal, Translator};

/// How long pi may take from the start of its sandbox to its first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(60);
/// After a restart: how long a prompt that may have been written has to show itself before it is written again.
const PROMPT_EVIDENCE: Duration = Duration::from_secs(2);
/// Lines that are not records of pi; more of them end the run as `output_invalid`.
const MAX_BAD_LINES: u32 = 100;
/// How much of the output is read at a time.
const CHUNK: usize = 128 << 10;

/// The driver of one run.
pub struct Driver {
    services: Arc<Services>,
    user: User,
    record: Record,
    request: RunRequest,
    log: EventLog,
    shown: watch::Sender<Run>,
    cancel: watch::Receiver<bool>,
    translator: Translator,
    lines: Lines,
    bad_lines: u32,
    /// End of the last line that was taken, in pi's output.
    taken: u64,
    /// Whether pi has accepted the prompt.
    accepted: bool,
    /// Whether `run.finalizing` is in the log already.
    finalizing: bool,
    /// What is still to be chosen before the prompt.
    choices: VecDeque<Vec<u8>>,
    /// How the run ends when the agent gives in or the grace period is over.
    ending: Option<(Verdict, Instant)>,
    abort_sent: bool,
    first_answer: Option<Instant>,
    evidence: Option<Instant>,
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
    /// When the log cannot be opened.
    pub fn new(services: Arc<Services>, beginning: Beginning) -> io::Result<Self> {
        let Beginning { user, record, request, events, shown, cancel } = beginning;
        let mut translator = Translator::default();
        let (mut accepted, mut finalizing) = (false, false);
        let log = EventLog::open(&events, |event, data| {
            translator.restore(event, data);
            accepted |= event == "run.started";
            finalizing |= event == "run.finalizing";
        })?;
        let taken = log.last().offset;
        let mut choices = VecDeque::new();
        choices.extend(request.model.as_deref().map(command::set_model));
        choices.extend(request.thinking.map(|level| command::set_thinking(level.as_str())));
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
            choices,
            ending: None,
            abort_sent: false,
            first_answer: None,
            evidence: None,
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
        if self.record.cancel_requested && !self.record.prompt_written {
            return Verdict::cancelled();
        }
        let known = self.record.prompt_written || self.taken > 0;
        match agent::ensure(&self.services, &self.user, self.record.run.id, known).await {
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

    /// Follows pi's output until the run has a verdict; an error is a verdict as well.
    async fn follow(&mut self) -> Result<Verdict, Verdict> {
        let directory = self.services.raw_dir(self.record.run.id);
        let output = directory.join("out");
        let gone = |error: io::Error| {
            Verdict::failed(
                "agent_lost",
                format!("{}: {error}; the agent's output is gone", output.display()),
            )
        };
        let mut raw = RawOutput::open(&output, self.taken).map_err(gone)?;
        let cgroup = UnitCgroup::of(&agent::unit_name(&self.user));
        let mut wake = Wake::new(&output, &cgroup).map_err(gone)?;
        let stdin = Stdin::open(&directory.join("in"));
        stdin.send(command::probe());
        self.first_answer = (!self.accepted).then(|| Instant::now() + FIRST_ANSWER);
        let run_deadline = self.run_deadline();
        let mut buffer = vec![0; CHUNK];
        loop {
            // The cgroup is asked first: what was printed before it became empty is read after that.
            let alive = cgroup.is_populated();
            if let ControlFlow::Break(verdict) = self.pump(&mut raw, &mut buffer, &stdin).await? {
                return Ok(verdict);
            }
            if !alive {
                return Err(match self.ending.take() {
                    Some((verdict, _)) => verdict,
                    None => agent::end_of(&self.services, &self.user, self.record.run.id).await,
                });
            }
            self.note_cancel(&stdin).await?;
            let now = Instant::now();
            if self.ending.is_none() && now >= run_deadline {
                let limit = self.services.run_timeout.as_secs();
                let message = format!("the run was stopped after {limit} s (RUN_TIMEOUT_MS)");
                self.end_with(Verdict::failed("timeout", message), &stdin);
            }
            if let Some(deadline) = self.first_answer.filter(|deadline| now >= *deadline) {
                let waited = (FIRST_ANSWER + (now - deadline)).as_secs();
                return Err(Verdict::failed(
                    "agent_unresponsive",
                    format!("pi did not answer within {waited} s"),
                ));
            }
            if let Some((verdict, _)) = self.ending.take_if(|(_, deadline)| now >= *deadline) {
                return Ok(verdict);
            }
            if self.evidence.take_if(|deadline| now >= *deadline).is_some() {
                // Nothing shows that the prompt arrived before the restart. Asked once more, pi says whether it works.
                self.record.prompt_written = false;
                stdin.send(command::probe());
            }
            let deadlines = [Some(run_deadline), self.first_answer, self.evidence];
            let next = deadlines.into_iter().flatten().chain(self.ending.as_ref().map(|(_, at)| *at)).min();
            tokio::select! {
                () = wake.wait() => {}
                () = sleep_until(next.unwrap_or(run_deadline)) => {}
                _ = self.cancel.changed(), if !*self.cancel.borrow() => {}
            }
        }
    }

    fn run_deadline(&self) -> Instant {
        let elapsed = jiff::Timestamp::now().duration_since(self.record.run.created_at);
        let elapsed = Duration::try_from(elapsed).unwrap_or_default();
        Instant::now() + self.services.run_timeout.saturating_sub(elapsed)
    }

    async fn note_cancel(&mut self, stdin: &Stdin) -> Result<(), Verdict> {
        if !*self.cancel.borrow() || self.ending.is_some() {
            return Ok(());
        }
        if !self.record.cancel_requested {
            self.record.cancel_requested = true;
            self.save().await.map_err(|error| verdict::of_disk(&error))?;
        }
        if !self.record.prompt_written {
            return Err(Verdict::cancelled());
        }
        self.end_with(Verdict::cancelled(), stdin);
        Ok(())
    }

    /// Asks pi to give in, and gives it the grace period.
    fn end_with(&mut self, verdict: Verdict, stdin: &Stdin) {
        self.ending = Some((verdict, Instant::now() + self.services.cancel_grace));
        self.send_abort(stdin);
    }

    /// The abort goes out once, and only after the prompt's response: an earlier one is answered at once and undone.
    fn send_abort(&mut self, stdin: &Stdin) {
        if self.accepted && self.ending.is_some() && !self.abort_sent {
            self.abort_sent = true;
            stdin.send(command::abort());
        }
    }

    /// Takes all output there is.
    async fn pump(
        &mut self,
        raw: &mut RawOutput,
        buffer: &mut [u8],
        stdin: &Stdin,
    ) -> Result<ControlFlow<Verdict>, Verdict> {
        loop {
            let start = raw.offset();
            let count = raw.read(buffer).map_err(|error| match error {
                RawError::Tampered { .. } => Verdict::failed("output_tampered", error.to_string()),
                RawError::Io(error) => verdict::of_disk(&error),
            })?;
            if count == 0 {
                return Ok(ControlFlow::Continue(()));
            }
            let mut signals = Vec::new();
            let mut lines = std::mem::take(&mut self.lines);
            let mut invalid = None;
            lines.feed(&buffer[..count], |line, end| {
                if let Err(verdict) = self.take_line(line, start + end as u64, &mut signals) {
                    invalid.get_or_insert(verdict);
                }
            });
            self.lines = lines;
            if let Some(event) = self.translator.flush() {
                self.log.push(&event, self.taken);
            }
            self.log.commit().map_err(|error| verdict::of_disk(&error))?;
            if let Some(verdict) = invalid {
                return Err(verdict);
            }
            for signal in signals {
                if let Some(verdict) = self.act(signal, stdin).await? {
                    return Ok(ControlFlow::Break(verdict));
                }
            }
            raw.free_before(self.log.last().offset);
            // A chatty agent must not keep this thread from the other runs.
            tokio::task::yield_now().await;
        }
    }

    fn take_line(&mut self, line: Line<'_>, end: u64, signals: &mut Vec<Signal>) -> Result<(), Verdict> {
        let before = std::mem::replace(&mut self.taken, end);
        let bytes = match line {
            Line::Whole(bytes) => bytes,
            Line::Skipped => return Ok(()),
            Line::TooLong => {
                let limit = crate::pi::lines::MAX_LINE;
                return Err(Verdict::failed(
                    "output_limit",
                    format!("pi printed a line of more than {limit} bytes"),
                ));
            }
        };
        let Ok(fed) = self.translator.feed(bytes) else {
            self.bad_lines += 1;
            if self.bad_lines > MAX_BAD_LINES {
                let message =
                    format!("pi printed more than {MAX_BAD_LINES} lines that are no records of its protocol");
                return Err(Verdict::failed("output_invalid", message));
            }
            return Ok(());
        };
        if let Some(event) = fed.before {
            self.log.push(&event, before);
        }
        if let Some(event) = fed.event {
            // Deltas that make room for this line end before it.
            let delta = matches!(event, Event::TextDelta { .. } | Event::ThinkingDelta { .. });
            self.log.push(&event, if delta { before } else { end });
        }
        if self.translator.is_full()
            && let Some(event) = self.translator.flush()
        {
            self.log.push(&event, end);
        }
        if fed.signal == Some(Signal::PromptAccepted) && !self.accepted {
            self.log.push(&Event::RunStarted { run_id: self.record.run.id, at: jiff::Timestamp::now() }, end);
        }
        // Signals of one chunk are few unless pi is hostile; those beyond the cap say nothing new.
        if let Some(signal) = fed.signal
            && signals.len() < 1024
        {
            signals.push(signal);
        }
        if self.log.is_full() {
            return Err(Verdict::failed("output_limit", "the run's events exceed 512 MiB"));
        }
        Ok(())
    }

    async fn act(&mut self, signal: Signal, stdin: &Stdin) -> Result<Option<Verdict>, Verdict> {
        match signal {
            Signal::State { streaming } => {
                self.first_answer = None;
                if self.accepted || streaming {
                    return Ok(None);
                }
                if self.record.prompt_written {
                    self.evidence.get_or_insert_with(|| Instant::now() + PROMPT_EVIDENCE);
                } else {
                    self.next_choice(stdin).await?;
                }
            }
            Signal::Chosen => self.next_choice(stdin).await?,
            Signal::ChoiceRefused(reason) => return Err(Verdict::failed("model_refused", reason)),
            Signal::PromptAccepted => {
                (self.first_answer, self.evidence) = (None, None);
                if !self.accepted {
                    self.accepted = true;
                    self.record.run.status = Status::Running;
                    self.record.run.started_at = Some(jiff::Timestamp::now());
                    self.save().await.map_err(|error| verdict::of_disk(&error))?;
                }
                self.send_abort(stdin);
            }
            Signal::PromptRefused(reason) if !self.accepted => {
                return Err(Verdict::failed("prompt_refused", reason));
            }
            // A prompt that came twice after all is refused the second time: the first one runs.
            Signal::PromptRefused(_) => {}
            // What a restart tore is ended by the LF of the probe; the answer to an empty line looks the same.
            Signal::InputTorn => {}
            Signal::Dialog(id) => stdin.send(command::dismiss(&id)),
            // pi settles after each turn of ours only; before the prompt was accepted it can be an older one's.
            Signal::Settled if !self.accepted => {}
            Signal::Settled => {
                let verdict = match self.ending.take() {
                    Some((verdict, _)) => verdict,
                    None => verdict::of_answer(self.translator.last_message()),
                };
                return Ok(Some(verdict));
            }
        }
        Ok(None)
    }

    /// Sends the next choice, or the prompt when all are made. pi handles commands side by side, so each waits for the
    /// answer to the one before.
    async fn next_choice(&mut self, stdin: &Stdin) -> Result<(), Verdict> {
        if let Some(choice) = self.choices.pop_front() {
            stdin.send(choice);
            return Ok(());
        }
        if self.record.prompt_written {
            return Ok(());
        }
        self.record.prompt_written = true;
        self.save().await.map_err(|error| verdict::of_disk(&error))?;
        let images: Vec<command::Image<'_>> = self
            .request
            .images
            .iter()
            .map(|image| command::Image { r#type: "image", data: &image.data, mime_type: &image.mime_type })
            .collect();
        stdin.send(command::prompt(&self.request.prompt, &images));
        self.first_answer = Some(Instant::now() + FIRST_ANSWER);
        Ok(())
    }

    /// Stops the sandbox and completes the record. Done again from the start after a crash.
    async fn finalize(&mut self, verdict: Verdict) {
        self.record.verdict = Some(verdict.clone());
        self.record.run.status = Status::Finalizing;
        if let Err(error) = self.save().await {
            tracing::error!(run = %self.record.run.id, %error, "the record could not be saved before finalizing");
        }
        if !self.finalizing {
            self.log.push(&Event::RunFinalizing { run_id: self.record.run.id }, self.taken);
            self.commit();
        }
        agent::remove(&self.services, &self.user, self.record.run.id).await;
        self.record.run.usage = self.services.usage(self.record.uid, self.record.run.id);
        self.record.run.output_text = self.translator.last_message().map(|last| last.text.clone());
        self.record.run.status = verdict.status;
        self.record.run.error = verdict.error;
        self.record.run.finished_at = Some(jiff::Timestamp::now());
        if let Err(error) = self.save().await {
            tracing::error!(run = %self.record.run.id, %error, "the final record could not be saved; a restart will do it");
        }
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
            self.log.push(&event, self.taken);
            if let Err(error) = self.log.write().and_then(|()| self.log.sync()) {
                tracing::error!(run = %run.id, %error, "the run's last event could not be written");
            }
        }
        if let Err(error) = self.services.store.clear_active(&self.user) {
            tracing::error!(run = %run.id, %error, "the mark of the active run could not be removed");
        }
        let code = run.error.as_ref().map(|error| error.code.as_str());
        tracing::info!(run = %run.id, user = self.user.as_str(), status = ?run.status, code, "run finished");
        release();
        self.shown.send_replace(self.record.run.clone());
        self.log.publish();
    }

    fn commit(&mut self) {
        if let Err(error) = self.log.commit() {
            tracing::error!(run = %self.record.run.id, %error, "events could not be written");
        }
    }

    /// Saves the record and shows the run.
    async fn save(&mut self) -> io::Result<()> {
        let (store, user, record) = (self.services.store.clone(), self.user.clone(), self.record.clone());
        if !record.run.status.is_final() {
            self.shown.send_replace(record.run.clone());
        }
        tokio::task::spawn_blocking(move || store.save(&user, &record)).await.map_err(io::Error::other)?
    }
}
