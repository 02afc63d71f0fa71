//! Removes runs, their logs, idempotency keys and sessions that were set aside when their time is over
//! (`RUN_RETENTION_DAYS`).

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::Runs;
use crate::worker::message::{Reply, Request};

/// How often the store is looked through.
const PERIOD: Duration = Duration::from_secs(3600);
/// Runs that are looked at for one user in one pass.
const MAX_RUNS: usize = 100_000;

/// When a run with this id was made, by the time in its id; None when it is no UUIDv7.
pub fn made_at(run: Uuid) -> Option<Timestamp> {
    let (seconds, nanos) = run.get_timestamp()?.to_unix();
    Timestamp::new(i64::try_from(seconds).ok()?, i32::try_from(nanos).ok()?).ok()
}

/// Whether a run with this id is past its retention.
pub fn is_past(run: Uuid, retention: Duration, now: Timestamp) -> bool {
    made_at(run).is_some_and(|made| Duration::try_from(now.duration_since(made)).is_ok_and(|age| age > retention))
}

/// Looks through the store every hour, for ever.
pub async fn keep(runs: Arc<Runs>, retention: Duration) {
    loop {
        let pass = runs.clone();
        let done = tokio::task::spawn_blocking(move || remove_past(&pass, retention, Timestamp::now())).await;
        match done.map_err(std::io::Error::other) {
            Ok(Ok(0)) => {}
            Ok(Ok(count)) => tracing::info!(count, "runs past their retention were removed"),
            Ok(Err(error)) | Err(error) => tracing::error!(%error, "old runs could not be removed"),
        }
        if let Err(error) = drop_asides(&runs, retention, Timestamp::now()).await {
            tracing::error!(%error, "old sessions could not be looked for");
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// Has the sessions removed that were set aside too long ago, by the workers of their users: no other one may touch them.
/// What cannot be removed now is tried again in the next pass.
async fn drop_asides(runs: &Runs, retention: Duration, now: Timestamp) -> std::io::Result<()> {
    let services = runs.services();
    for user in services.store.users()? {
        for id in services.store.asides(&user)?.into_iter().filter(|id| is_past(*id, retention, now)) {
            match services.workers.ask(&user, Request::DropAside(id.as_u128())).await {
                Ok((Reply::Done, _)) => services.store.forget_aside(&user, id)?,
                Ok(_) => tracing::warn!(user = user.as_str(), "an old session could not be removed: no such answer"),
                Err(error) => tracing::warn!(user = user.as_str(), %error, "an old session could not be removed"),
            }
        }
    }
    Ok(())
}

/// One pass; gives how many runs were removed. An active run is never removed.
///
/// # Errors
/// When the disk refuses.
pub fn remove_past(runs: &Runs, retention: Duration, now: Timestamp) -> std::io::Result<usize> {
    let store = &runs.services().store;
    store.take_ballast();
    let mut count = 0;
    for user in store.users()? {
        store.remove_old_keys(&user, now)?;
        for id in store.list(&user, None, MAX_RUNS)? {
            let past = is_past(id, retention, now);
            // One whose record is damaged goes as well: it must not keep what is older, and everybody else's, for ever.
            if past && runs.get(&user, id).ok().flatten().is_none_or(|run| run.status.is_final()) {
                store.remove(&user, id)?;
                count += 1;
            }
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::runs::testing;

    #[tokio::test]
    async fn a_damaged_record_or_key_keeps_nobody_elses_runs_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let runs = testing::runs(dir.path());
        // Of 2022.
        let old = "01800000-0000-7000-8000-000000000000";
        for user in ["alice", "bob", "carl"] {
            let home = dir.path().join("users").join(user);
            std::fs::create_dir_all(home.join("runs").join(old)).unwrap();
            std::fs::write(home.join("runs").join(old).join("run.json"), "damaged").unwrap();
            std::fs::create_dir_all(home.join("idempotency")).unwrap();
            std::fs::write(home.join("idempotency/key"), "damaged").unwrap();
        }
        assert_eq!(remove_past(&runs, Duration::from_secs(1), Timestamp::now()).unwrap(), 3);
        assert_eq!(std::fs::read_dir(dir.path().join("users/bob/idempotency")).unwrap().count(), 0);
    }
}
