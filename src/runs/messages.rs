//! What the user says to a run that goes on: accepted over HTTP, handed to pi one at a time, followed until it is in the
//! conversation.
//!
//! A message is on disk before it is accepted. Whether pi has taken it is in the run's log of events, at the line that
//! says so, and nowhere else; so after a restart each is where it was. Only the first that pi has not answered can have
//! been written to it already: its answer, which pi gives at once, would be in the output. Of a run whose end has begun no
//! message is accepted, and what could not be delivered by then is refused with an event: nothing is lost in silence.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pi_gateway_helper::names::User;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{Mutex, Notify};
use utoipa::ToSchema;
use uuid::Uuid;

use super::event::Event;
use super::store::Store;

/// The longest message, in bytes.
pub const MAX_TEXT: usize = 64 << 10;
/// Messages that may wait until they are in the conversation.
pub const MAX_WAITING: usize = 32;
/// Messages of one run.
pub const MAX_MESSAGES: usize = 1000;
/// Why a message is refused that the run's end has overtaken.
const TOO_LATE: &str = "the run ended before the message was in the conversation";

/// When a message gets into the conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// After the tool calls that are under way, before the model goes on.
    Steer,
    /// When the agent would be done.
    FollowUp,
}

/// A message to a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its id; ids are in the order of acceptance.
    pub id: Uuid,
    /// What is said.
    pub text: String,
    /// When it gets into the conversation.
    pub mode: Mode,
    /// When it was accepted.
    pub at: jiff::Timestamp,
}

/// Why a message is not accepted.
#[derive(Debug)]
pub enum Refused {
    /// The user has no such run.
    NoRun,
    /// The run's end has begun.
    Ended,
    /// Too many wait already, or the run has had too many.
    TooMany,
    /// The disk refuses.
    Storage(io::Error),
}

struct Accepting {
    open: bool,
    count: usize,
    arrived: VecDeque<Message>,
}

/// Where accepted messages wait for the run's driver.
pub struct Inbox {
    accepting: Mutex<Accepting>,
    arrival: Notify,
    /// Messages that the driver holds and that are not in the conversation yet.
    held: AtomicUsize,
}

impl Inbox {
    /// One for a run that has had `count` messages already.
    fn new(open: bool, count: usize) -> Arc<Self> {
        let accepting = Mutex::new(Accepting { open, count, arrived: VecDeque::new() });
        Arc::new(Inbox { accepting, arrival: Notify::new(), held: AtomicUsize::new(0) })
    }

    /// Accepts a message: it is on disk then. Not to be dropped half way.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn accept(&self, store: Store, user: User, run: Uuid, message: Message) -> Result<(), Refused> {
        // Held until it is done: the driver ends the run only when nobody is accepting.
        let mut accepting = self.accepting.lock().await;
        if !accepting.open {
            return Err(Refused::Ended);
        }
        let waiting = accepting.arrived.len() + self.held.load(Ordering::Relaxed);
        if waiting >= MAX_WAITING || accepting.count >= MAX_MESSAGES {
            return Err(Refused::TooMany);
        }
        let kept = message.clone();
        let added = tokio::task::spawn_blocking(move || store.add_message(&user, run, &kept)).await;
        added.map_err(io::Error::other).flatten().map_err(Refused::Storage)?;
        accepting.count += 1;
        accepting.arrived.push_back(message);
        self.arrival.notify_one();
        Ok(())
    }

    /// Waits for a message that was not there before.
    pub async fn arrival(&self) {
        self.arrival.notified().await;
    }
}

/// What the log of events says of a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Taken,
    Over,
}

/// The driver's side.
pub struct Messages {
    inbox: Arc<Inbox>,
    /// What pi has not answered, in order.
    unsent: VecDeque<Message>,
    /// The first of these is with pi, or may be: nothing else is sent before its answer.
    sent: bool,
    /// Whether it is only that it may be, because a predecessor may have written it.
    doubtful: bool,
    /// What pi has taken and is not in the conversation yet.
    taken: Vec<Message>,
}

/// Collects what the log of events says of messages.
#[derive(Default)]
pub struct Fates(HashMap<Uuid, Fate>);

impl Fates {
    /// Takes an event of the log.
    pub fn restore(&mut self, event: &str, data: &Value) {
        let fate = match event {
            "message.accepted" => Fate::Taken,
            "message.refused" | "message.completed" => Fate::Over,
            _ => return,
        };
        if let Some(id) = data["message_id"].as_str().and_then(|id| Uuid::try_parse(id).ok()) {
            self.0.insert(id, fate);
        }
    }

    /// The messages of a run, each where the log says it is. `open` says whether it takes more, `asked` whether pi may
    /// have been given any.
    pub fn of(self, messages: Vec<Message>, open: bool, asked: bool) -> Messages {
        let inbox = Inbox::new(open, messages.len());
        let (mut unsent, mut taken) = (VecDeque::new(), Vec::new());
        for message in messages {
            match self.0.get(&message.id) {
                None => unsent.push_back(message),
                Some(Fate::Taken) => taken.push(message),
                Some(Fate::Over) => {}
            }
        }
        let sent = asked && !unsent.is_empty();
        let messages = Messages { inbox, unsent, sent, doubtful: sent, taken };
        messages.count();
        messages
    }
}

impl Messages {
    /// Where new ones come in.
    pub fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    fn count(&self) {
        self.inbox.held.store(self.unsent.len() + self.taken.len(), Ordering::Relaxed);
    }

    /// Whether an answer of pi is outstanding.
    pub fn is_asking(&self) -> bool {
        self.sent
    }

    /// Whether nobody knows that the message was written whose answer is outstanding.
    pub fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// Gives up the answer that is outstanding: pi shows no sign of having got the message.
    pub fn doubt(&mut self) {
        (self.sent, self.doubtful) = (false, false);
    }

    /// The message to send now, if there is one and no answer is outstanding.
    pub async fn next(&mut self) -> Option<Message> {
        if self.sent {
            return None;
        }
        self.collect(false).await;
        let next = self.unsent.front().cloned();
        self.sent = next.is_some();
        next
    }

    async fn collect(&mut self, close: bool) {
        let inbox = self.inbox.clone();
        let mut accepting = inbox.accepting.lock().await;
        self.unsent.extend(accepting.arrived.drain(..));
        self.count();
        accepting.open &= !(close && self.unsent.is_empty());
    }

    /// Accepts no more, unless something is there that pi has not answered; tells whether it is so.
    pub async fn close_unless_any(&mut self) -> bool {
        self.collect(true).await;
        self.unsent.is_empty()
    }

    /// pi has taken a message: the event that says so, once.
    pub fn taken(&mut self, id: Uuid) -> Option<Event> {
        let message = self.answered(id)?;
        let event = Event::MessageAccepted { message_id: id, mode: message.mode };
        self.taken.push(message);
        self.count();
        Some(event)
    }

    /// pi has refused a message: the event that says so, once.
    pub fn refused(&mut self, id: Uuid, reason: &str) -> Option<Event> {
        self.answered(id)?;
        self.count();
        Some(Event::MessageRefused { message_id: id, reason: reason.to_owned() })
    }

    fn answered(&mut self, id: Uuid) -> Option<Message> {
        // Only the first one can have been sent; another id is a lie of the agent's.
        self.unsent.front().filter(|message| message.id == id)?;
        (self.sent, self.doubtful) = (false, false);
        self.unsent.pop_front()
    }

    /// A text of the user is in the conversation: the message that it is of.
    pub fn delivered(&mut self, text: &str) -> Option<Uuid> {
        let at = self.taken.iter().position(|message| message.text == text)?;
        let id = self.taken.remove(at).id;
        self.count();
        Some(id)
    }

    /// Accepts no more: the events that say which messages the end has overtaken.
    pub async fn end(&mut self) -> Vec<Event> {
        let inbox = self.inbox.clone();
        let mut accepting = inbox.accepting.lock().await;
        accepting.open = false;
        let late = self.taken.drain(..).chain(self.unsent.drain(..)).chain(accepting.arrived.drain(..));
        late.map(|message| Event::MessageRefused { message_id: message.id, reason: TOO_LATE.to_owned() }).collect()
    }
}

#[cfg(test)]
mod tests;
