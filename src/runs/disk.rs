//! Watches what a run's workspace takes of the disk while its agent is at work.
//!
//! The user's worker counts. A workspace over `WORKSPACE_QUOTA_MB` ends its run. When the disk itself is nearly full, the
//! run ends that has taken the most since it began: sessions and events need room. A workspace that cannot be counted three times in a row ends its run too, or an agent that stops its worker could fill the disk.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pi_gateway_helper::names::User;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::Services;
use super::record::Verdict;
use crate::worker::message::Reply;
use crate::workspace::disk::Space;

/// How long a run has before it is looked at, and the shortest time between two looks.
const PERIOD: Duration = Duration::from_secs(2);
/// The longest time between two looks.
const LONGEST: Duration = Duration::from_secs(60);
/// A look may take a twentieth of the time.
const SHARE: u32 = 20;
/// Failures in a row that end the run.
const MAX_FAILURES: u32 = 3;

/// What a run must have taken to be ended for a nearly full disk, in bytes.
const BLAMED: u64 = 16 << 20;

/// What the active runs have taken since they began, in bytes, and what each user's workspace took when it was last looked
/// at.
#[derive(Default)]
pub struct Sizes {
    taken: Mutex<HashMap<Uuid, u64>>,
    known: Mutex<HashMap<User, u64>>,
}

impl Sizes {
    /// Forgets what a user's workspace took.
    pub fn forget(&self, user: &User) {
        lock(&self.known).remove(user);
    }

    /// Whether `size` more bytes of a user stay within `quota`; then they count. His workspace is counted, which may take
    /// long, only when what is known of it does not tell.
    ///
    /// # Errors
    /// Those of `count`.
    pub async fn fits<E>(
        &self,
        user: &User,
        size: u64,
        quota: u64,
        count: impl Future<Output = Result<u64, E>>,
    ) -> Result<bool, E> {
        let fits = |known: u64| known.saturating_add(size) <= quota;
        let known = lock(&self.known).get(user).copied().filter(|known| fits(*known));
        let known = match known {
            Some(known) => known,
            None => count.await?,
        };
        lock(&self.known).insert(user.clone(), if fits(known) { known.saturating_add(size) } else { known });
        Ok(fits(known))
    }
}

/// One run's place among them, given back on drop.
struct Place<'a> {
    sizes: &'a Sizes,
    run: Uuid,
    user: &'a User,
    /// What the workspace took before the run, as far as anybody knows.
    before: u64,
}

impl<'a> Place<'a> {
    fn new(sizes: &'a Sizes, run: Uuid, user: &'a User) -> Self {
        let before = lock(&sizes.known).get(user).copied().unwrap_or(0);
        Place { sizes, run, user, before }
    }

    fn set(&self, bytes: u64) {
        lock(&self.sizes.taken).insert(self.run, bytes.saturating_sub(self.before));
        lock(&self.sizes.known).insert(self.user.clone(), bytes);
    }

    /// Whether it has taken more than any other, and enough to make a difference.
    fn is_to_blame(&self) -> bool {
        let taken = lock(&self.sizes.taken);
        // Of several that have taken as much, one: the id decides.
        let most = taken.iter().max_by_key(|(run, bytes)| (**bytes, **run));
        most.is_some_and(|(run, bytes)| *run == self.run && *bytes >= BLAMED)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.sizes.taken).remove(&self.run);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until the run has to end.
pub(super) async fn watch(services: &Services, user: &User, run: Uuid) -> Verdict {
    let place = Place::new(&services.sizes, run, user);
    let (mut pause, mut failures, mut scarce) = (PERIOD, 0, 0);
    loop {
        sleep(pause).await;
        let begun = Instant::now();
        match services.workers.measure(user).await {
            Ok((Reply::Measured { bytes, free, total, .. }, _)) => {
                failures = 0;
                pause = (begun.elapsed() * SHARE).clamp(PERIOD, LONGEST);
                place.set(bytes);
                if bytes > services.workspace_quota {
                    let quota = services.workspace_quota >> 20;
                    let message = format!("the workspace takes more than {quota} MiB (WORKSPACE_QUOTA_MB)");
                    return Verdict::failed("disk_full", message);
                }
                scarce = if (Space { free, total }).is_scarce() { scarce + 1 } else { 0 };
                // Twice: by then each of the others has been looked at once.
                if scarce >= 2 && place.is_to_blame() {
                    let message = "the disk is nearly full, and of the active runs this one has taken the most";
                    return Verdict::failed("disk_full", message);
                }
            }
            unmeasured => {
                failures += 1;
                pause = PERIOD;
                let reason = unmeasured.map_or_else(|error| error.to_string(), |_| "no answer to the question".into());
                tracing::warn!(%run, user = user.as_str(), reason, failures, "the workspace cannot be measured");
                if failures == MAX_FAILURES {
                    let message = format!("the workspace could not be measured {MAX_FAILURES} times: {reason}");
                    return Verdict::failed("workspace_unmeasurable", message);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn what_is_uploaded_adds_up_and_is_counted_anew_when_it_may_be_too_much() {
        let (sizes, user) = (Sizes::default(), User::parse("alice").unwrap());
        let fits =
            async |size, count: Option<u64>| sizes.fits(&user, size, 100, async { count.ok_or("not counted") }).await;
        assert_eq!(fits(10, None).await, Err("not counted"), "nothing is known");
        assert_eq!(fits(10, Some(50)).await, Ok(true));
        assert_eq!(fits(40, None).await, Ok(true), "100 of 100");
        assert_eq!(fits(1, Some(100)).await, Ok(false));
        assert_eq!(fits(1, Some(30)).await, Ok(true), "something was removed");
        assert_eq!(fits(69, None).await, Ok(true));
    }

    #[test]
    fn for_a_full_disk_the_one_is_blamed_that_has_taken_the_most_since_it_began() {
        let (sizes, user) = (Sizes::default(), |name: &str| User::parse(name).unwrap());
        let (large, greedy, modest) = (user("large"), user("greedy"), user("modest"));
        // Large before the run, and not by it.
        lock(&sizes.known).insert(large.clone(), 900 << 20);
        let places = [&large, &greedy, &modest].map(|user| Place::new(&sizes, Uuid::now_v7(), user));
        for (place, bytes) in places.iter().zip([910 << 20, 40 << 20, 4 << 20]) {
            place.set(bytes);
        }
        assert_eq!(places.each_ref().map(Place::is_to_blame), [false, true, false]);
        let [_, greedy, _keep] = places;
        drop(greedy);
        // What is left has not taken enough to be worth ending.
        assert_eq!(lock(&sizes.taken).values().filter(|bytes| **bytes >= BLAMED).count(), 0);
    }
}
