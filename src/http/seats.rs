//! How much one user may have under way at a time: so many requests, so many streams of events. One more is 429 at once,
//! before its body is read; nobody waits.
//!
//! A seat is kept until the answer has been sent, its connection has ended or the user is blocked: an answer that nobody reads costs memory and
//! a descriptor.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use pi_gateway_helper::names::User;
use tokio::sync::watch;

use super::problem::{self, Problem};
use crate::standing::Register;

/// What a seat is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any request but a stream.
    Request,
    /// A stream of events.
    Stream,
}

type Taken = Mutex<HashMap<User, [usize; 2]>>;

/// All seats.
pub struct Seats {
    taken: Arc<Taken>,
    standing: Register,
    /// Of one user: requests, streams.
    most: [usize; 2],
}

/// One seat, given back on drop.
pub struct Seat {
    taken: Arc<Taken>,
    standing: Register,
    /// That somebody's standing has changed since the seat was taken.
    changed: watch::Receiver<()>,
    user: User,
    kind: Kind,
}

impl Seat {
    /// Whether the user is kept out by now. Only after a change is that looked up: it is asked for every piece of an answer.
    fn is_refused(&mut self) -> bool {
        if !self.changed.has_changed().unwrap_or(true) {
            return false;
        }
        self.changed.mark_unchanged();
        self.standing.refuses(&self.user)
    }
}

fn lock(taken: &Taken) -> MutexGuard<'_, HashMap<User, [usize; 2]>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seats {
    /// Seats for each user: so many requests, so many streams.
    pub fn new(most: [usize; 2], standing: Register) -> Self {
        Seats { taken: Arc::default(), standing, most }
    }

    /// How many are taken by all users: requests, streams.
    pub fn taken(&self) -> [usize; 2] {
        lock(&self.taken).values().fold([0, 0], |[a, b], [c, d]| [a + c, b + d])
    }

    /// Takes one.
    ///
    /// # Errors
    /// A problem when the user has no more.
    pub fn take(&self, user: &User, kind: Kind) -> Result<Seat, Box<Problem>> {
        let mut taken = lock(&self.taken);
        let most = self.most[kind as usize];
        let count = &mut taken.entry(user.clone()).or_default()[kind as usize];
        if *count >= most {
            let (code, what) = match kind {
                Kind::Request => (problem::TOO_MANY_REQUESTS, "requests"),
                Kind::Stream => (problem::TOO_MANY_STREAMS, "streams of events"),
            };
            let detail = format!("{most} {what} at a time: read or close one, and try again.");
            return Err(Problem::new(code, detail).with_header(header::RETRY_AFTER, "1"));
        }
        *count += 1;
        let (standing, changed) = (self.standing.clone(), self.standing.changes());
        Ok(Seat { taken: self.taken.clone(), standing, changed, user: user.clone(), kind })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(counts) = taken.get_mut(&self.user) {
            counts[self.kind as usize] = counts[self.kind as usize].saturating_sub(1);
            if *counts == [0, 0] {
                taken.remove(&self.user);
            }
        }
    }
}

/// Where the seat of a request is while it is answered. Travels with the request, and with the answer of a stream, which
/// has a seat of another kind.
#[derive(Clone, Default)]
pub struct Held(Arc<Mutex<Option<Seat>>>);

impl Held {
    /// Holds a seat.
    pub fn of(seat: Seat) -> Self {
        Held(Arc::new(Mutex::new(Some(seat))))
    }

    /// Puts a seat here.
    pub fn put(&self, seat: Seat) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(seat);
    }

    fn taken(&self) -> Option<Seat> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Keeps the seat of a request, or the answer's own, until the answer is sent.
pub fn keep(mut response: Response, request: &Held) -> Response {
    let own = response.extensions_mut().remove::<Held>();
    let seat = request.taken();
    let Some(seat) = own.and_then(|own| own.taken()).or(seat) else { return response };
    if response.body().is_end_stream() {
        return response;
    }
    response.map(|inner| Body::new(Seated { inner, seat }))
}

/// An answer with its seat.
struct Seated {
    inner: Body,
    seat: Seat,
}

impl HttpBody for Seated {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // A stream ends in good order, by itself; what else is on its way breaks off, so that nobody takes it for whole.
        if self.seat.kind == Kind::Request && self.seat.is_refused() {
            return Poll::Ready(Some(Err(axum::Error::new("the user is blocked"))));
        }
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures_util::StreamExt;

    use super::*;

    #[test]
    fn a_user_has_so_many_seats_of_each_kind_and_gets_them_back() {
        let seats = Seats::new([2, 1], Register::new("/nonexistent"));
        let [anna, bert] = ["anna", "bert"].map(|name| User::parse(name).unwrap());
        let first = seats.take(&anna, Kind::Request).unwrap();
        let _second = seats.take(&anna, Kind::Request).unwrap();
        let refused = seats.take(&anna, Kind::Request).err().unwrap();
        assert_eq!((refused.status, refused.code), (429, "too_many_requests"));
        let stream = seats.take(&anna, Kind::Stream).unwrap();
        assert_eq!(seats.take(&anna, Kind::Stream).err().unwrap().code, "too_many_streams");
        let others = seats.take(&bert, Kind::Request).unwrap();
        drop((first, stream, others));
        seats.take(&anna, Kind::Request).unwrap();
        seats.take(&anna, Kind::Stream).unwrap();
        assert_eq!(lock(&seats.taken).len(), 1, "bert is forgotten");
    }

    #[test]
    fn the_seat_is_the_answers_until_it_is_sent_and_an_empty_one_keeps_none() {
        let seats = Seats::new([9, 9], Register::new("/nonexistent"));
        let anna = User::parse("anna").unwrap();
        let taken = || lock(&seats.taken).get(&anna).copied().unwrap_or_default();
        let request = || Held::of(seats.take(&anna, Kind::Request).unwrap());
        let answer = keep(Response::new(Body::from("text")), &request());
        assert_eq!((taken(), answer.body().size_hint().exact()), ([1, 0], Some(4)));
        drop(answer);
        assert_eq!(taken(), [0, 0]);
        let _answer = keep(Response::new(Body::empty()), &request());
        assert_eq!(taken(), [0, 0]);
        let mut stream = Response::new(Body::from("text"));
        stream.extensions_mut().insert(Held::of(seats.take(&anna, Kind::Stream).unwrap()));
        let _stream = keep(stream, &request());
        assert_eq!(taken(), [0, 1], "a stream is no request any more");
    }

    #[tokio::test]
    async fn an_answer_on_its_way_breaks_off_when_its_user_is_kept_out_and_no_other_does() {
        let dir = tempfile::tempdir().unwrap();
        let register = Register::new(dir.path());
        let seats = Seats::new([9, 9], register.clone());
        let [anna, bert] = ["anna", "bert"].map(|name| User::parse(name).unwrap());
        let parts = || futures_util::stream::iter(["a", "b", "c"].map(Ok::<_, std::io::Error>));
        let answer = |user| {
            let request = Held::of(seats.take(user, Kind::Request).unwrap());
            keep(Response::new(Body::from_stream(parts())), &request).into_body().into_data_stream()
        };
        let [mut hers, mut his] = [answer(&anna), answer(&bert)];
        assert_eq!(
            (&hers.next().await.unwrap().unwrap()[..], &his.next().await.unwrap().unwrap()[..]),
            (&b"a"[..], &b"a"[..])
        );
        std::fs::write(dir.path().join("anna"), "").unwrap();
        register.stir();
        assert!(hers.next().await.unwrap().is_err());
        assert_eq!(&his.next().await.unwrap().unwrap()[..], b"b");
    }
}
