//! The middle of a run: pi's output is taken line by line, its signals are acted on, its input is written.
//!
//! Everything ends in a [`Verdict`]: pi settled, the user cancelled, time is over, the sandbox ended, or the output is
//! not what pi prints.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::driver::Driver;
use super::event::Event;
use super::raw::{RawError, RawOutput};
use super::record::{Status, Verdict};
use super::stdin::Stdin;
use super::wake::{UnitCgroup, Wake};
use super::{agent, verdict};
use crate::pi::command;
use crate::pi::lines::Line;
use crate::pi::translate::Signal;

/// How long pi may take from the start of its sandbox to its first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(60);
/// After a restart: how long a prompt that may have been written has to show itself before it is written again.
const PROMPT_EVIDENCE: Duration = Duration::from_secs(2);
/// Lines that are not records of pi; more of them end the run as `output_invalid`.
const MAX_BAD_LINES: u32 = 100;
/// How much of the output is read at a time.
const CHUNK: usize = 128 << 10;

impl Driver {
    /// Follows pi's output until the run has a verdict; an error is a verdict as well.
    pub(super) async fn follow(&mut self) -> Result<Verdict, Verdict> {
        let directory = self.services.raw_dir(self.record.run.id);
        let output = directory.join("out");
        let gone = |error: io::Error| {
            Verdict::failed("agent_lost", format!("{}: {error}; the agent's output is gone", output.display()))
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
                return Err(Verdict::failed("agent_unresponsive", format!("pi did not answer within {waited} s")));
            }
            if let Some((verdict, _)) = self.ending.take_if(|(_, deadline)| now >= *deadline) {
                return Ok(verdict);
            }
            if self.evidence.take_if(|deadline| now >= *deadline).is_some() {
                // Nothing shows that the prompt arrived before the restart. Asked once more, pi says whether it works.
                self.record.prompt_written = false;
                stdin.send(command::probe());
            }
            // Once the run is being ended, the end of its grace period is what counts.
            let end = self.ending.as_ref().map_or(run_deadline, |(_, deadline)| *deadline);
            let next = [Some(end), self.first_answer, self.evidence].into_iter().flatten().min();
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
                return Err(Verdict::failed("output_limit", format!("pi printed a line of more than {limit} bytes")));
            }
        };
        let Ok(fed) = self.translator.feed(bytes) else {
            self.bad_lines += 1;
            if self.bad_lines > MAX_BAD_LINES {
                let message = format!("pi printed more than {MAX_BAD_LINES} lines that are no records of its protocol");
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
}
