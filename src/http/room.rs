//! Memory for bodies and answers: so much for one user, so much for all. Who finds none free waits, in order, until the
//! request's time is over; a body is not read before.
//!
//! What a request takes is an estimate from sizes known beforehand: a body is there as bytes and then as values, a record
//! is read before it is shown.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use pi_gateway_helper::names::User;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;

/// Memory is counted in pieces of this many bytes.
const PIECE: usize = 1024;
/// What is taken for making an answer that has at most a few MiB: a page, or a run's record. What it does not need is
/// given back before it is sent.
pub const ANSWER: usize = 16 << 20;
/// How much of an answer is handed to the connection at a time.
const SLICE: usize = 64 << 10;
/// How many users are remembered before those without a request are forgotten.
const REMEMBERED: usize = 1024;

/// The memory there is.
pub struct Room {
    all: Arc<Semaphore>,
    users: Mutex<HashMap<User, Weak<Semaphore>>>,
    /// In bytes.
    of_one: usize,
}

/// A share of it, given back when dropped.
pub struct Place {
    user: OwnedSemaphorePermit,
    all: OwnedSemaphorePermit,
}

impl Room {
    /// Memory of so many bytes for all users, and for one.
    pub fn new([all, of_one]: [usize; 2]) -> Self {
        Room { all: Arc::new(Semaphore::new(all / PIECE)), users: Mutex::default(), of_one }
    }

    /// Takes memory for so many bytes, at most what there is for one user; waits until it is free.
    ///
    /// # Errors
    /// When there is none any more, because the process ends.
    pub async fn take(&self, user: &User, bytes: usize) -> Result<Place, Box<Problem>> {
        let pieces = u32::try_from(bytes.min(self.of_one).div_ceil(PIECE)).unwrap_or(u32::MAX);
        let taken = async {
            let user = self.of(user).acquire_many_owned(pieces).await?;
            Ok(Place { user, all: self.all.clone().acquire_many_owned(pieces).await? })
        };
        taken.await.map_err(|_: tokio::sync::AcquireError| Problem::late())
    }

    fn of(&self, user: &User) -> Arc<Semaphore> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = users.get(user).and_then(Weak::upgrade) {
            return known;
        }
        if users.len() >= REMEMBERED {
            users.retain(|_, known| known.strong_count() > 0);
        }
        let new = Arc::new(Semaphore::new(self.of_one / PIECE));
        users.insert(user.clone(), Arc::downgrade(&new));
        new
    }
}

impl Place {
    /// Gives back what is beyond so many bytes.
    fn shrink(&mut self, bytes: usize) {
        for permit in [&mut self.user, &mut self.all] {
            drop(permit.split(permit.num_permits().saturating_sub(bytes.div_ceil(PIECE))));
        }
    }

    /// Answers with a value as JSON; the place is kept until the client has taken it.
    pub fn json(mut self, value: &impl Serialize) -> Response {
        let bytes = match serde_json::to_vec(value) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) => return Problem::storage(&error.into()).into_response(),
        };
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (header::CONTENT_LENGTH, bytes.len().into()),
        ];
        self.shrink(bytes.len());
        let slices = stream::unfold((bytes, self), |(mut bytes, place)| async move {
            let slice = bytes.split_to(SLICE.min(bytes.len()));
            (!slice.is_empty()).then_some((Ok::<_, Infallible>(slice), (bytes, place)))
        });
        (headers, Body::from_stream(slices)).into_response()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn one_user_cannot_take_what_is_for_the_others_and_what_is_given_back_is_there_again() {
        const USER: usize = 128 << 20;
        let room = Room::new([3 * USER, USER]);
        let [anna, bert, carl, dora] = ["anna", "bert", "carl", "dora"].map(|name| User::parse(name).unwrap());
        let mut first = room.take(&anna, USER).await.unwrap();
        assert!(room.take(&anna, 1).now_or_never().is_none());
        let _second = room.take(&bert, usize::MAX).await.unwrap();
        let third = room.take(&carl, USER).await.unwrap();
        assert!(room.take(&dora, 1).now_or_never().is_none(), "all is taken");
        first.shrink(USER / 2);
        assert!(room.take(&anna, USER / 2).now_or_never().is_some());
        drop((first, third));
        assert!(room.take(&dora, USER).now_or_never().is_some());
        assert!(room.take(&anna, USER).now_or_never().is_some());
    }
}
