//! Removes runs, their logs and idempotency keys when their time is over (`RUN_RETENTION_DAYS`).

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::Runs;

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
        tokio::time::sleep(PERIOD).await;
    }
}

/// One pass; gives how many runs were removed. An active run is never removed.
///
/// # Errors
/// When the disk refuses.
pub fn remove_past(runs: &Runs, retention: Duration, now: Timestamp) -> std::io::Result<usize> {
    let store = &runs.services().store;
    let mut count = 0;
    for user in store.users()? {
        store.remove_old_keys(&user, now)?;
        for id in store.list(&user, None, MAX_RUNS)? {
            let past = is_past(id, retention, now);
            if past && runs.get(&user, id)?.is_none_or(|run| run.status.is_final()) {
                store.remove(&user, id)?;
                count += 1;
            }
        }
    }
    Ok(count)
}
