//! `pi-gateway runs`: the runs of all users, newest first, as the front has them on its disk.

use jiff::Timestamp;
use pi_gateway_helper::names::User;
use serde::Serialize;
use uuid::Uuid;

use super::{Ground, Trouble, table};
use crate::runs::record::{Run, Status};
use crate::runs::store::Store;

/// How many there are unless asked otherwise, and at most.
pub const LIMIT: usize = 50;
/// The most that can be asked for.
pub const MAX_LIMIT: usize = 100_000;

/// Which runs are wanted.
pub struct Wanted {
    /// Those of one user.
    pub user: Option<User>,
    /// Those that have not ended.
    pub active: bool,
    /// How many at most.
    pub limit: usize,
}

/// One run.
#[derive(Debug, Serialize)]
struct Row {
    user: String,
    id: Uuid,
    status: Status,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    /// Until it ended, or until now.
    duration_ms: u64,
    /// Why it did not succeed.
    code: Option<String>,
}

impl Row {
    fn new(user: &User, run: Run, now: Timestamp) -> Self {
        let lasted = run.finished_at.unwrap_or(now).duration_since(run.created_at).as_millis();
        Row {
            user: user.as_str().to_owned(),
            id: run.id,
            status: run.status,
            created_at: run.created_at,
            started_at: run.started_at,
            finished_at: run.finished_at,
            duration_ms: u64::try_from(lasted).unwrap_or(0),
            code: run.error.map(|error| error.code),
        }
    }
}

/// The wanted runs, newest first; ids sort by time.
fn find(store: &Store, wanted: &Wanted, now: Timestamp) -> std::io::Result<Vec<Row>> {
    let users = match &wanted.user {
        Some(user) => vec![user.clone()],
        None => store.users()?,
    };
    let mut all = Vec::new();
    for user in &users {
        match wanted.active {
            true => all.extend(store.active_mark(user).map(|id| (id, user))),
            false => all.extend(store.list(user, None, wanted.limit)?.into_iter().map(|id| (id, user))),
        }
    }
    all.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
    let mut rows = Vec::new();
    for (id, user) in all {
        if rows.len() == wanted.limit {
            break;
        }
        // One whose record is damaged, or that retention has just removed, keeps the others from nobody.
        match store.load(user, id) {
            Ok(Some(record)) if !(wanted.active && record.run.status.is_final()) => {
                rows.push(Row::new(user, record.run, now));
            }
            Ok(_) => {}
            Err(error) => eprintln!("pi-gateway: run {id} of {}: {error}", user.as_str()),
        }
    }
    Ok(rows)
}

/// Lists runs.
///
/// # Errors
/// See [`Trouble`].
pub fn list(ground: &Ground, wanted: &Wanted, json: bool) -> Result<String, Trouble> {
    let store = ground.store();
    let found = ground.as_front(|| find(&store, wanted, Timestamp::now()))?;
    let rows = found.map_err(|error| format!("{}: {error}", ground.paths.state.display()))?;
    if json {
        return serde_json::to_string_pretty(&rows)
            .map(|text| text + "\n")
            .map_err(|error| Trouble::Failed(error.to_string()));
    }
    let head = ["STARTED", "DURATION", "STATE", "CODE", "USER", "RUN"].map(str::to_owned).to_vec();
    let body = rows.iter().map(|row| {
        let status = serde_json::to_value(row.status).ok().and_then(|word| word.as_str().map(str::to_owned));
        let code = row.code.clone().unwrap_or_else(|| "-".to_owned());
        let (at, lasted) = (table::time(row.created_at), table::duration(row.duration_ms));
        vec![at, lasted, status.unwrap_or_default(), code, row.user.clone(), row.id.to_string()]
    });
    Ok(table::text(&std::iter::once(head).chain(body).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::runs::record::{Record, RunRequest};

    fn make(store: &Store, user: &str, status: &str) -> Uuid {
        let record: Record = serde_json::from_value(serde_json::json!({
            "run": {
                "id": Uuid::now_v7(), "status": status, "output_text": null, "error": {"code": "timeout", "message": ""},
                "created_at": "2026-11-26T04:00:00Z", "started_at": null, "finished_at": "2026-11-26T04:01:00Z",
                "usage": crate::relay::model::usage::Usage::default(), "model": null, "thinking": null, "metadata": {},
            },
        }))
        .unwrap();
        let request: RunRequest = serde_json::from_value(serde_json::json!({"prompt": "x"})).unwrap();
        let user = User::parse(user).unwrap();
        store.create(&user, &record, &request).unwrap();
        if status != "running" {
            store.clear_active(&user).unwrap();
        }
        record.run.id
    }

    #[test]
    fn the_runs_of_all_users_come_newest_first_and_can_be_narrowed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let ids = [make(&store, "alice", "failed"), make(&store, "bob", "failed"), make(&store, "alice", "running")];
        std::fs::create_dir_all(dir.path().join("users/bob/runs/01800000-0000-7000-8000-000000000000")).unwrap();
        let found = |user: Option<&str>, active, limit| {
            let wanted = Wanted { user: user.map(|name| User::parse(name).unwrap()), active, limit };
            let rows = find(&store, &wanted, Timestamp::now()).unwrap();
            rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
        };
        assert_eq!(found(None, false, 9), [ids[2], ids[1], ids[0]]);
        assert_eq!(found(None, false, 2), [ids[2], ids[1]]);
        assert_eq!(found(Some("alice"), false, 9), [ids[2], ids[0]]);
        assert_eq!(found(None, true, 9), [ids[2]]);
        assert_eq!(found(Some("carol"), true, 9), [] as [Uuid; 0]);
        let row =
            find(&store, &Wanted { user: None, active: false, limit: 9 }, Timestamp::now()).unwrap().pop().unwrap();
        assert_eq!((row.duration_ms, row.code.as_deref()), (60_000, Some("timeout")));
    }
}
