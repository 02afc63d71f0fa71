//! `pi-gateway users`: everybody the gateway knows, what he takes, and whether he is let in.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;
use std::sync::PoisonError;

use jiff::Timestamp;
use pi_gateway_helper::names::User;
use serde::Serialize;
use uuid::Uuid;

use super::confined::{Confined, MEASURE};
use super::{Ground, Trouble, table};
use crate::runs::record::Status;
use crate::worker::once::Measured;

/// Sandboxes at a time in which sizes are measured.
const AT_ONCE: usize = 4;

/// A user's last run.
#[derive(Debug, Clone, Serialize)]
pub struct LastRun {
    id: Uuid,
    status: Status,
    created_at: Timestamp,
}

/// One user.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// His name.
    pub name: String,
    /// His uid; None when he has never had a sandbox.
    pub uid: Option<u32>,
    /// `active`, or why he is kept out.
    pub state: &'static str,
    /// Since when he is kept out.
    pub since: Option<Timestamp>,
    /// Where he is packed.
    pub archive: Option<String>,
    /// What his workspace takes on the disk; None when it cannot be counted.
    pub workspace_bytes: Option<u64>,
    /// The same of his session and those that were set aside.
    pub session_bytes: Option<u64>,
    /// His last run that is kept.
    pub last_run: Option<LastRun>,
}

/// Everybody, by name.
fn everybody(ground: &Ground) -> Result<BTreeSet<User>, String> {
    let store = ground.store();
    let mut all: BTreeSet<User> = ground.uids()?.into_iter().map(|(user, _)| user).collect();
    all.extend(
        ground.as_front(|| store.users())?.map_err(|error| format!("{}: {error}", ground.paths.state.display()))?,
    );
    let kept_out = ground.register().users();
    all.extend(kept_out.map_err(|error| format!("{}: {error}", ground.paths.standing.display()))?);
    Ok(all)
}

/// What is known of a user without looking into his directories.
fn known(ground: &Ground, user: &User, uid: Option<u32>) -> Result<Row, String> {
    let register = ground.register();
    let standing = register.of(user);
    let state = match &standing {
        Ok(None) => "active",
        Ok(Some(standing)) => standing.why.word(),
        Err(_) => "blocked",
    };
    let standing = standing.ok().flatten();
    let store = ground.store();
    let last = ground.as_front(|| {
        let last = store.list(user, None, 1).ok()?.pop()?;
        store.load(user, last).ok()?
    })?;
    Ok(Row {
        name: user.as_str().to_owned(),
        uid,
        state,
        since: standing.as_ref().map(|standing| standing.at),
        archive: standing.and_then(|standing| standing.file).map(|file| file.display().to_string()),
        workspace_bytes: None,
        session_bytes: None,
        last_run: last.map(|record| LastRun {
            id: record.run.id,
            status: record.run.status,
            created_at: record.run.created_at,
        }),
    })
}

/// Measures what a user takes, in his sandbox. Of one whose directories are not there nothing is made.
fn measure(ground: &Ground, row: &mut Row) {
    let Some((user, uid)) = User::parse(&row.name).ok().zip(row.uid) else { return };
    if ground.parents().iter().any(|parent| fs::symlink_metadata(parent.join(user.as_str())).is_err()) {
        (row.workspace_bytes, row.session_bytes) = (Some(0), Some(0));
        return;
    }
    let measured = Confined::open(ground, &user, uid).and_then(|confined| confined.run(&user, MEASURE));
    let measured = measured.and_then(|text| serde_json::from_str::<Measured>(&text).map_err(|error| error.to_string()));
    match measured {
        Ok(measured) => {
            row.workspace_bytes = measured.workspace.map(|taken| taken.bytes);
            row.session_bytes = measured.session.map(|taken| taken.bytes);
        }
        Err(why) => eprintln!("pi-gateway: {} cannot be measured: {why}", row.name),
    }
}

/// One user, measured.
///
/// # Errors
/// That there is none of this name, or what could not be read.
pub fn look(ground: &Ground, user: &User) -> Result<Row, String> {
    if !everybody(ground)?.contains(user) {
        return Err(format!("there is no user {}; `pi-gateway users` lists them", user.as_str()));
    }
    let mut row = known(ground, user, ground.uid(user)?)?;
    measure(ground, &mut row);
    Ok(row)
}

/// Lists everybody.
///
/// # Errors
/// See [`Trouble`].
pub fn list(ground: &Ground, json: bool) -> Result<String, Trouble> {
    let uids = ground.uids()?;
    let mut rows = Vec::new();
    for user in everybody(ground)? {
        let uid = uids.iter().find_map(|(known, uid)| (*known == user).then_some(*uid));
        rows.push(known(ground, &user, uid)?);
    }
    // Only now: a thread must not find itself with the front's rights.
    let queue = Mutex::new(rows.iter_mut());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(row) = next else { return };
                    measure(ground, row);
                }
            });
        }
    });
    if json {
        return serde_json::to_string_pretty(&rows)
            .map(|text| text + "\n")
            .map_err(|error| Trouble::Failed(error.to_string()));
    }
    Ok(render(&rows))
}

fn render(rows: &[Row]) -> String {
    let size = |bytes: Option<u64>| bytes.map_or("?".to_owned(), table::size);
    let head = ["NAME", "UID", "STATE", "WORKSPACE", "SESSION", "LAST RUN"].map(str::to_owned).to_vec();
    let body = rows.iter().map(|row| {
        let uid = row.uid.map_or("-".to_owned(), |uid| uid.to_string());
        let last = row.last_run.as_ref().map_or("-".to_owned(), |run| {
            let status = serde_json::to_value(run.status).ok().and_then(|word| word.as_str().map(str::to_owned));
            format!("{} {}", table::time(run.created_at), status.unwrap_or_default())
        });
        let sizes = if row.uid.is_some() {
            [size(row.workspace_bytes), size(row.session_bytes)]
        } else {
            ["-".to_owned(), "-".to_owned()]
        };
        let [workspace, session] = sizes;
        vec![row.name.clone(), uid, row.state.to_owned(), workspace, session, last]
    });
    table::text(&std::iter::once(head).chain(body).collect::<Vec<_>>())
}
