//! Messages of a run, without a run.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::runs::record::{Idempotency, Record, Run, RunRequest, Status};

/// A store with one run.
struct Place {
    _directory: tempfile::TempDir,
    store: Store,
    user: User,
    run: Uuid,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (store, user) = (Store::open(directory.path()).unwrap(), User::parse("alice").unwrap());
        let run = Run {
            id: Uuid::now_v7(),
            status: Status::Running,
            output_text: None,
            error: None,
            created_at: jiff::Timestamp::now(),
            started_at: None,
            finished_at: None,
            usage: Default::default(),
            workspace: None,
            site: None,
            model: None,
            thinking: None,
            metadata: Default::default(),
        };
        let id = run.id;
        let idempotency: Option<Idempotency> = None;
        let record = Record { run, prompt_written: true, uid: None, verdict: None, idempotency };
        let request: RunRequest = serde_json::from_str(r#"{"prompt":"x"}"#).unwrap();
        store.create(&user, &record, &request).unwrap();
        Place { _directory: directory, store, user, run: id }
    }

    async fn say(&self, messages: &Messages, text: &str) -> Result<Uuid, Refused> {
        let at = jiff::Timestamp::now();
        let message = Message { id: Uuid::now_v7(), text: text.into(), mode: Mode::Steer, at };
        let id = message.id;
        messages.inbox().accept(self.store.clone(), self.user.clone(), self.run, message).await.map(|()| id)
    }

    /// The messages as a new driver finds them, after these events.
    fn found(&self, events: &[Event]) -> Messages {
        let mut fates = Fates::default();
        for event in events {
            let tagged = serde_json::to_value(event).unwrap();
            fates.restore(tagged["event"].as_str().unwrap(), &tagged["data"]);
        }
        fates.of(self.store.messages(&self.user, self.run).unwrap(), true, true)
    }
}

fn completed(id: Uuid) -> Event {
    Event::MessageCompleted {
        message: 2,
        role: crate::runs::event::Role::User,
        message_id: Some(id),
        text: String::new(),
        truncated: false,
        stop_reason: None,
        error: None,
    }
}

#[tokio::test]
async fn one_is_sent_at_a_time_in_the_order_of_acceptance_and_followed_into_the_conversation() {
    let place = Place::new();
    let mut messages = place.found(&[]);
    assert_eq!(messages.next().await, None);
    let first = place.say(&messages, "one").await.unwrap();
    let second = place.say(&messages, "two").await.unwrap();
    assert_eq!(messages.next().await.unwrap().id, first);
    assert_eq!(messages.next().await, None, "its answer is outstanding");
    assert!(messages.taken(second).is_none(), "it was not sent");
    assert!(!messages.close_unless_any().await);
    assert!(matches!(messages.taken(first), Some(Event::MessageAccepted { .. })));
    assert!(messages.taken(first).is_none(), "once");
    assert_eq!(messages.next().await.unwrap().id, second);
    assert!(matches!(messages.refused(second, "no"), Some(Event::MessageRefused { .. })));
    assert_eq!(messages.delivered("else"), None);
    assert_eq!(messages.delivered("one"), Some(first));
    assert!(messages.close_unless_any().await);
    assert!(matches!(place.say(&messages, "late").await, Err(Refused::Ended)));
    assert!(messages.end().await.is_empty());
}

#[tokio::test]
async fn after_a_restart_each_is_where_the_log_says() {
    let place = Place::new();
    let before = place.found(&[]);
    let mut ids = Vec::new();
    for text in ["delivered", "taken", "refused", "sent", "waiting"] {
        ids.push(place.say(&before, text).await.unwrap());
    }
    let taken = |id| Event::MessageAccepted { message_id: id, mode: Mode::Steer };
    let refused = Event::MessageRefused { message_id: ids[2], reason: "no".into() };
    let mut after = place.found(&[taken(ids[0]), taken(ids[1]), completed(ids[0]), refused]);
    // Whether the first was written nobody knows: its answer is waited for.
    assert!(after.is_asking() && after.is_doubtful());
    assert_eq!(after.next().await, None);
    after.doubt();
    assert_eq!(after.next().await.unwrap().id, ids[3]);
    assert!(after.is_asking() && !after.is_doubtful());
    assert!(after.taken(ids[3]).is_some());
    let late: Vec<Event> = after.end().await;
    let late: Vec<Uuid> = late
        .iter()
        .filter_map(|event| match event {
            Event::MessageRefused { message_id, .. } => Some(*message_id),
            _ => None,
        })
        .collect();
    assert_eq!(late, [ids[1], ids[3], ids[4]]);
    // What its end has overtaken is over for the next driver as well.
    let refused: Vec<Event> =
        late.iter().map(|id| Event::MessageRefused { message_id: *id, reason: "late".into() }).collect();
    let mut last = place.found(
        &[vec![completed(ids[0]), Event::MessageRefused { message_id: ids[2], reason: "no".into() }], refused].concat(),
    );
    assert!(!last.is_asking() && last.end().await.is_empty());
}

#[tokio::test]
async fn so_many_may_wait_and_one_that_is_in_the_conversation_makes_room() {
    let place = Place::new();
    let mut messages = place.found(&[]);
    for number in 0..MAX_WAITING {
        place.say(&messages, &number.to_string()).await.unwrap();
    }
    assert!(matches!(place.say(&messages, "more").await, Err(Refused::TooMany)));
    let first = messages.next().await.unwrap();
    messages.taken(first.id).unwrap();
    assert!(matches!(place.say(&messages, "more").await, Err(Refused::TooMany)), "taken is not delivered");
    messages.delivered("0").unwrap();
    place.say(&messages, "more").await.unwrap();
    assert_eq!(place.store.messages(&place.user, place.run).unwrap().len(), MAX_WAITING + 1);
}
