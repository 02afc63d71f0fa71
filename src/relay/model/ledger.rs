//! What each user has spent in the last 24 hours, and whether another request may go out (`USER_DAILY_TOKEN_BUDGET`).
//!
//! The window rolls in steps of ten minutes; a step counts until all of it is a day old, so nothing counts too short. What
//! requests under way may use at most is set aside until they have ended: one that could go beyond what is left goes out
//! only when none of the same user is under way. So a user gets beyond his budget by one request at most, however many he
//! makes at a time. All of it is in memory; the usage files have it for the next start.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::failure::Failure;

/// The window, in seconds.
pub const WINDOW: i64 = 86_400;
/// What is counted together, in seconds.
const STEP: i64 = 600;
/// How many users are remembered before those are forgotten that have spent nothing lately.
const REMEMBERED: usize = 1024;

/// The accounts of all users.
#[derive(Debug)]
pub struct Ledger {
    limit: u64,
    accounts: Mutex<HashMap<u32, Account>>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Account {
    /// Tokens by the number of their step.
    spent: BTreeMap<i64, u64>,
    /// What requests under way may use at most.
    aside: u64,
    under_way: usize,
}

/// What one request may use at most, set aside until this is dropped.
#[derive(Debug)]
pub struct Share {
    ledger: Arc<Ledger>,
    uid: u32,
    most: u64,
}

/// Whether a request may go out.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Go,
    /// Not before others of the user have ended.
    Wait,
    /// Not before this time.
    Exhausted(Timestamp),
}

impl Account {
    fn forget_before(&mut self, now: Timestamp) {
        let step = (now.as_second() - WINDOW).div_euclid(STEP);
        self.spent = self.spent.split_off(&step);
    }

    fn total(&self) -> u64 {
        self.spent.values().fold(0, |sum, tokens| sum.saturating_add(*tokens))
    }

    /// From when on less than `limit` is counted; None when it is so now.
    fn exhausted(&mut self, limit: u64, now: Timestamp) -> Option<Timestamp> {
        self.forget_before(now);
        let mut left = self.total();
        if left < limit {
            return None;
        }
        let (last, _) = self.spent.iter().find(|(_, tokens)| {
            left = left.saturating_sub(**tokens);
            left < limit
        })?;
        Timestamp::from_second((last + 1) * STEP + WINDOW).ok()
    }
}

impl Ledger {
    /// An empty one; `limit` is how many tokens a user may spend, 0 for any number.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Self> {
        let limit = if limit == 0 { u64::MAX } else { limit };
        Arc::new(Self { limit, accounts: Mutex::default(), ended: Notify::new() })
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<u32, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what a request used that ended at `at`.
    pub fn add(&self, uid: u32, at: Timestamp, tokens: u64) {
        let mut accounts = self.accounts();
        let step = accounts.entry(uid).or_default().spent.entry(at.as_second().div_euclid(STEP)).or_default();
        *step = step.saturating_add(tokens);
    }

    /// Those whose budget is used up, and until when.
    #[must_use]
    pub fn exhausted(&self, now: Timestamp) -> Vec<(u32, Timestamp)> {
        let mut accounts = self.accounts();
        let of = |(uid, account): (&u32, &mut Account)| Some((*uid, account.exhausted(self.limit, now)?));
        accounts.iter_mut().filter_map(of).collect()
    }

    /// Waits until a request of the user may go out that uses `most` tokens at most, as long as `patience`.
    ///
    /// # Errors
    /// The budget is used up, or requests under way may use up what is left of it.
    pub async fn admit(self: &Arc<Self>, uid: u32, most: u64, patience: Duration) -> Result<Share, Failure> {
        let deadline = Instant::now() + patience;
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            // From here on no end is missed.
            ended.as_mut().enable();
            match self.judge(uid, most, Timestamp::now()) {
                Verdict::Go => return Ok(Share { ledger: Arc::clone(self), uid, most }),
                Verdict::Exhausted(until) => return Err(Failure::exhausted(until, Timestamp::now())),
                Verdict::Wait => timeout_at(deadline, ended).await.map_err(|_| Failure::set_aside())?,
            }
        }
    }

    fn judge(&self, uid: u32, most: u64, now: Timestamp) -> Verdict {
        let mut accounts = self.accounts();
        if accounts.len() >= REMEMBERED {
            accounts.retain(|_, account| {
                account.forget_before(now);
                account.under_way > 0 || !account.spent.is_empty()
            });
        }
        let account = accounts.entry(uid).or_default();
        if let Some(until) = account.exhausted(self.limit, now) {
            return Verdict::Exhausted(until);
        }
        let asked = account.total().saturating_add(account.aside).saturating_add(most);
        if asked > self.limit && account.under_way > 0 {
            return Verdict::Wait;
        }
        account.aside = account.aside.saturating_add(most);
        account.under_way += 1;
        Verdict::Go
    }
}

impl Share {
    /// The request has ended and used so many tokens; gives until when the budget is used up, if it is.
    pub fn spend(&self, tokens: u64, now: Timestamp) -> Option<Timestamp> {
        self.ledger.add(self.uid, now, tokens);
        let mut accounts = self.ledger.accounts();
        accounts.get_mut(&self.uid).and_then(|account| account.exhausted(self.ledger.limit, now))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(account) = self.ledger.accounts().get_mut(&self.uid) {
            account.aside = account.aside.saturating_sub(self.most);
            account.under_way = account.under_way.saturating_sub(1);
        }
        self.ledger.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    const UID: u32 = 1_879_048_193;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn what_was_spent_counts_for_a_day_and_the_end_is_told_before() {
        let ledger = Ledger::new(100);
        ledger.add(UID, at(0), 60);
        assert_eq!(ledger.exhausted(at(1)), []);
        ledger.add(UID, at(7200), 50);
        // Without the first step 50 are left to spend.
        let until = at(STEP + WINDOW);
        assert_eq!(ledger.judge(UID, 1, at(7201)), Verdict::Exhausted(until));
        assert_eq!(ledger.exhausted(at(STEP + WINDOW - 1)), [(UID, until)]);
        assert_eq!(ledger.exhausted(until), []);
        assert_eq!(ledger.judge(UID, 50, until), Verdict::Go);
        assert_eq!(ledger.judge(UID + 1, u64::MAX, at(7201)), Verdict::Go, "another user's account is another one");
        assert_eq!(Ledger::new(0).judge(UID, u64::MAX, at(0)), Verdict::Go, "no limit");
    }

    #[tokio::test]
    async fn a_request_that_may_go_beyond_waits_until_it_is_alone() {
        let ledger = Ledger::new(100);
        let soon = Duration::from_millis(50);
        let first = ledger.admit(UID, 60, soon).await.unwrap();
        let second = ledger.admit(UID, 40, soon).await.unwrap();
        assert_eq!(ledger.admit(UID, 1, soon).await.unwrap_err(), Failure::set_aside());
        let waiting = {
            let ledger = Arc::clone(&ledger);
            tokio::spawn(async move { ledger.admit(UID, 500, Duration::from_secs(20)).await })
        };
        first.spend(10, Timestamp::now());
        drop(first);
        second.spend(10, Timestamp::now());
        drop(second);
        let third = waiting.await.unwrap().unwrap();
        assert!(third.spend(500, Timestamp::now()).is_some());
        drop(third);
        let refused = ledger.admit(UID, 1, soon).await.unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.code.as_str()), (429, "budget_exhausted"));
    }

    proptest! {
        /// Whatever is asked for, in whatever order requests end and however long they take: what a user has spent in a day
        /// is never beyond the budget by more than his largest request.
        #[test]
        fn a_user_gets_beyond_his_budget_by_one_request_at_most(
            limit in 1_u64..5_000,
            steps in proptest::collection::vec((1_u64..2_000, 0_u64..=100, any::<bool>(), 0_i64..20_000), 1..80),
        ) {
            let ledger = Ledger::new(limit);
            let mut under_way: Vec<(Share, u64)> = Vec::new();
            let mut clock = 0;
            let mut spent: Vec<(i64, u64)> = Vec::new();
            let mut largest = 0;
            for (most, percent, starts, later) in steps {
                clock += later;
                if starts {
                    if ledger.judge(UID, most, at(clock)) == Verdict::Go {
                        let share = Share { ledger: Arc::clone(&ledger), uid: UID, most };
                        under_way.push((share, most * percent / 100));
                    }
                } else if !under_way.is_empty() {
                    let (share, used) = under_way.remove(percent as usize % under_way.len());
                    share.spend(used, at(clock));
                    spent.push((clock, used));
                    largest = largest.max(used);
                }
                let day: u64 = spent.iter().filter(|(when, _)| clock - when < WINDOW).map(|(_, used)| used).sum();
                prop_assert!(day <= limit + largest, "{day} of {limit}, the largest request {largest}");
            }
            drop(under_way);
            let accounts = ledger.accounts();
            prop_assert!(accounts.get(&UID).is_none_or(|account| account.aside == 0 && account.under_way == 0));
        }
    }
}
