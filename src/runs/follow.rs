//! The middle of a run: pi's output is taken line by line, its signals are acted on, its input is written.
//!
//! Everything ends in a [`Verdict`]: pi settled, the user cancelled, time is over, the sandbox ended, or the output is
//! not what pi prints.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::driver::Driver;
use super::event::{Event, Role};
use super::raw::{RawError, RawOutput};
use super::record::{Status, Verdict};
use super::stdin::Stdin;
use super::wake::{UnitCgroup, Wake};
use super::{agent, disk, verdict};
use crate::pi::command;
use crate::pi::lines::{Line, MAX_LINE};
use crate::pi::translate::Signal;

/// How long pi may take from the start of its sandbox to its first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(60);
/// After a restart: how long a prompt or message that may have been written has to show itself before it is written again.
const PROMPT_EVIDENCE: Duration = Duration::from_secs(2);
/// Lines that are not records of pi; more of them end the run as `output_invalid`.
const MAX_BAD_LINES: u32 = 100;
/// How much of the output is read at a time.
const CHUNK: usize = 128 << 10;
/// How many of these before the run's time, its cancel and its disk are looked at again.
const BATCH: usize = 16;

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
        stdin.send(command::probe(self.asker));
        self.first_answer = (!self.accepted).then(|| Instant::now() + FIRST_ANSWER);
        let run_deadline = self.run_deadline();
        let mut buffer = vec![0; CHUNK];
        let (services, user) = (self.services.clone(), self.user.clone());
        let inbox = self.messages.inbox().clone();
        let mut disk = Box::pin(disk::watch(&services, &user, self.record.run.id));
        loop {
            // The cgroup is asked first: what was printed before it became empty is read after that.
            let alive = cgroup.is_populated();
            let more = match self.pump(&mut raw, &mut buffer, &stdin).await? {
                ControlFlow::Break(verdict) => return Ok(verdict),
                ControlFlow::Continue(more) => more,
            };
            if !alive && !more {
                let verdict = match self.ending.take() {
                    Some((verdict, _)) => Some(verdict),
                    None => agent::end_of(&self.services, &self.user, self.record.run.id, &cgroup).await,
                };
                if let Some(verdict) = verdict {
                    return Err(verdict);
                }
            }
            self.note_cancel(&stdin)?;
            self.send_message(&stdin).await;
            let now = Instant::now();
            if self.ending.is_none() && now >= run_deadline {
                self.end_with(verdict::timeout(self.services.run_timeout), &stdin);
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
                stdin.send(command::probe(self.asker));
            }
            if self.resend.take_if(|deadline| now >= *deadline).is_some() {
                // Nothing shows that the message arrived before the restart.
                self.messages.doubt();
                self.send_abort(&stdin);
                continue;
            }
            // Once the run is being ended, the end of its grace period is what counts.
            let end = self.ending.as_ref().map_or(run_deadline, |(_, deadline)| *deadline);
            let next = [Some(end), self.first_answer, self.evidence, self.resend].into_iter().flatten().min();
            tokio::select! {
                () = wake.wait(), if !more => {}
                () = tokio::task::yield_now(), if more => {}
                () = sleep_until(next.unwrap_or(run_deadline)) => {}
                _ = self.cancel.changed(), if !*self.cancel.borrow() => {}
                () = inbox.arrival() => {}
                full = &mut disk, if self.ending.is_none() => self.end_with(full, &stdin),
            }
        }
    }

    fn run_deadline(&self) -> Instant {
        let elapsed = jiff::Timestamp::now().duration_since(self.record.run.created_at);
        let elapsed = Duration::try_from(elapsed).unwrap_or_default();
        Instant::now() + self.services.run_timeout.saturating_sub(elapsed)
    }

    fn note_cancel(&mut self, stdin: &Stdin) -> Result<(), Verdict> {
        if !*self.cancel.borrow() || self.ending.is_some() {
            return Ok(());
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

    /// The abort goes out once, and only after the response to the prompt, and to a message: an earlier one is answered at
    /// once and undone.
    fn send_abort(&mut self, stdin: &Stdin) {
        if self.accepted && self.ending.is_some() && !self.abort_sent && !self.messages.is_asking() {
            self.abort_sent = true;
            stdin.send(command::abort());
        }
    }

    /// Sends the user's next message. Of prompts and messages one is on its way at a time: pi takes two that it reads
    /// together for one.
    async fn send_message(&mut self, stdin: &Stdin) {
        if self.accepted
            && self.ending.is_none()
            && let Some(message) = self.messages.next().await
        {
            stdin.send(command::message(&message));
        }
    }

    /// Takes the output there is, at most [`BATCH`] chunks of it; tells whether there may be more.
    async fn pump(
        &mut self,
        raw: &mut RawOutput,
        buffer: &mut [u8],
        stdin: &Stdin,
    ) -> Result<ControlFlow<Verdict, bool>, Verdict> {
        for _ in 0..BATCH {
            let start = raw.offset();
            let count = raw.read(buffer).map_err(|error| match error {
                RawError::Tampered { .. } => Verdict::failed("output_tampered", error.to_string()),
                RawError::Io(error) => verdict::of_disk(&error),
            })?;
            if count == 0 {
                return Ok(ControlFlow::Continue(false));
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
            if self.lines.is_endless() {
                invalid.get_or_insert_with(line_too_long);
            }
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
        Ok(ControlFlow::Continue(true))
    }

    fn take_line(&mut self, line: Line<'_>, end: u64, signals: &mut Vec<Signal>) -> Result<(), Verdict> {
        let before = std::mem::replace(&mut self.taken, end);
        let bytes = match line {
            Line::Whole(bytes) => bytes,
            Line::Skipped => return Ok(()),
            Line::TooLong => return Err(line_too_long()),
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
        if let Some(mut event) = fed.event {
            if let Event::MessageCompleted { role: Role::User, message_id, text, .. } = &mut event {
                *message_id = self.messages.delivered(text);
            }
            self.tools |= matches!(event, Event::ToolStarted { .. });
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
        // At its own line, so that after a restart it is known for what is not read again.
        let answered = match &fed.signal {
            Some(Signal::MessageTaken { id, started }) => {
                self.settled &= !started;
                self.messages.taken(*id)
            }
            Some(Signal::MessageRefused { id, reason }) => self.messages.refused(*id, reason),
            _ => None,
        };
        if let Some(event) = answered {
            self.log.push(&event, end);
        }
        // Decided here and not when the signals are acted on: the message's answer may be the next line already.
        if fed.signal == Some(Signal::Settled) && self.messages.is_asking() && self.ending.is_none() {
            (self.settled, self.first_answer) = (true, Some(Instant::now() + FIRST_ANSWER));
            return Ok(());
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
            // Lines without an event are read again after a restart. Acted on, an old answer would have the choices and
            // the prompt sent side by side.
            Signal::State { asker, .. } | Signal::Chosen { asker } if asker != Some(self.asker) => {}
            Signal::State { streaming, .. } => {
                self.first_answer = None;
                if self.messages.is_doubtful() {
                    self.resend.get_or_insert_with(|| Instant::now() + PROMPT_EVIDENCE);
                }
                if self.accepted || streaming {
                    return Ok(None);
                }
                if self.record.prompt_written {
                    self.evidence.get_or_insert_with(|| Instant::now() + PROMPT_EVIDENCE);
                } else {
                    self.next_choice(stdin).await?;
                }
            }
            Signal::Chosen { .. } => self.next_choice(stdin).await?,
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
            Signal::MessageTaken { .. } | Signal::MessageRefused { .. } if self.messages.is_asking() => {}
            Signal::MessageTaken { .. } | Signal::MessageRefused { .. } => {
                (self.first_answer, self.resend) = (None, None);
                self.send_abort(stdin);
                if self.settled {
                    return self.end_of_turn(stdin).await;
                }
            }
            // A prompt that came twice after all is refused the second time: the first one runs.
            Signal::PromptRefused(_) => {}
            // What a restart tore is ended by the LF of the probe; the answer to an empty line looks the same.
            Signal::InputTorn => {}
            Signal::Dialog(id) => stdin.send(command::dismiss(&id)),
            // pi settles after each turn of ours only; before the prompt was accepted it can be an older one's.
            Signal::Settled if !self.accepted => {}
            Signal::Settled => return self.end_of_turn(stdin).await,
        }
        Ok(None)
    }

    /// pi has settled. That is the run's end, unless a message of the user's is on its way: it begins another turn.
    async fn end_of_turn(&mut self, stdin: &Stdin) -> Result<Option<Verdict>, Verdict> {
        if let Some((verdict, _)) = self.ending.take() {
            return Ok(Some(verdict));
        }
        if !self.messages.is_asking() && self.messages.close_unless_any().await {
            return Ok(Some(self.answered()));
        }
        self.settled = true;
        self.first_answer = Some(Instant::now() + FIRST_ANSWER);
        self.send_message(stdin).await;
        Ok(None)
    }

    /// The verdict when pi has settled and this driver had not asked it to. A predecessor may have: then it was for the
    /// user's cancel or for the time-out, both of which are still known.
    fn answered(&self) -> Verdict {
        let last = self.translator.last_message();
        let aborted = last.is_some_and(|last| last.stop_reason == "aborted");
        if aborted && *self.cancel.borrow() {
            return Verdict::cancelled();
        }
        if aborted && Instant::now() >= self.run_deadline() {
            return verdict::timeout(self.services.run_timeout);
        }
        verdict::of_answer(last)
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

fn line_too_long() -> Verdict {
    Verdict::failed("output_limit", format!("pi printed a line of more than {MAX_LINE} bytes"))
}
