//! `pi-gateway users remove`: removes all that is kept of a user, and keeps his name out.
//!
//! In this order, each step done again by the next call when one is interrupted: he is blocked; the front ends what he has
//! under way and forgets his runs, events, keys, repository's state and site; his workspace and session are emptied in his
//! sandbox, and the two empty directories removed; what the model relay counted for him goes, and his uid's name. His line
//! in the registry of uids stays, so that the uid is never anybody else's; so does the block, or a token that he still has
//! would bring him back.

use std::fs;
use std::io;
use std::path::Path;

use pi_gateway_helper::names::User;
use pi_gateway_helper::uids::BASE;
use pi_gateway_helper::units::USERS_DIR;
use serde::Serialize;

use super::block::{Force, keep_out, wait};
use super::confined::{Confined, USERDB};
use super::{Ground, Trouble, table, users};
use crate::standing::{Standing, Why};

/// What would be removed.
#[derive(Debug, Serialize)]
struct Plan {
    name: String,
    uid: Option<u32>,
    workspace_bytes: Option<u64>,
    session_bytes: Option<u64>,
    runs: usize,
    usage_files: usize,
}

/// Says what would be removed.
///
/// # Errors
/// See [`Trouble`].
pub fn plan(ground: &Ground, user: &User) -> Result<String, Trouble> {
    let row = users::look(ground, user)?;
    let store = ground.store();
    let runs = ground.as_front(|| store.list(user, None, usize::MAX))?.map_err(|error| error.to_string())?.len();
    let plan = Plan {
        name: user.as_str().to_owned(),
        uid: row.uid,
        workspace_bytes: row.workspace_bytes,
        session_bytes: row.session_bytes,
        runs,
        usage_files: row.uid.map_or(Ok(0), |uid| usage_files(&ground.paths.usage, uid).map(|files| files.len()))?,
    };
    let size = |bytes: Option<u64>| bytes.map_or("unknown".to_owned(), table::size);
    Ok(format!(
        "{}: a workspace of {}, sessions of {}, {} runs with their events, {} files of usage, the exported site.\n\
         His uid stays his, his repository at Gitea is not touched, and he is blocked.\n\
         Nothing is removed yet: `pi-gateway users remove {} --yes`\n",
        plan.name,
        size(plan.workspace_bytes),
        size(plan.session_bytes),
        plan.runs,
        plan.usage_files,
        plan.name
    ))
}

/// Removes it.
///
/// # Errors
/// See [`Trouble`]; the next call goes on.
pub fn remove(ground: &Ground, user: &User) -> Result<String, Trouble> {
    let name = user.as_str();
    if users::look(ground, user).is_err() {
        return Err(Trouble::Failed(format!("there is no user {name}; `pi-gateway users` lists them")));
    }
    let standing = keep_out(ground, user, Standing::now(Why::Removed))?;
    if let Force::Refused(why) = wait(ground, user, &standing) {
        return Err(Trouble::Failed(format!("{name} is blocked and not removed yet: {why}, then run this again")));
    }
    let uid = ground.uid(user)?;
    if let Some(uid) = uid {
        empty(ground, user, uid)?;
        forget_uid(ground, user, uid)?;
    }
    let stays = uid.map_or(String::new(), |uid| format!(", and uid {uid} will never be anybody else's"));
    Ok(format!("{name} is removed and stays blocked until `pi-gateway users unblock {name}`{stays}\n"))
}

/// Empties the user's directories in his sandbox, and removes them.
fn empty(ground: &Ground, user: &User, uid: u32) -> Result<(), String> {
    let places = ground.parents().map(|parent| parent.join(user.as_str()));
    if places.iter().all(|place| fs::symlink_metadata(place).is_err()) {
        return Ok(());
    }
    Confined::open(ground, user, uid)?.run(user, "empty")?;
    for place in &places {
        missing_is_removed(fs::remove_dir(place)).map_err(|error| format!("{}: {error}", place.display()))?;
    }
    Ok(())
}

/// Removes what is kept by his uid. All of it lies in directories in which he has no rights.
fn forget_uid(ground: &Ground, user: &User, uid: u32) -> Result<(), String> {
    let mut files = usage_files(&ground.paths.usage, uid)?;
    let names = Path::new(USERS_DIR).join(user.as_str());
    files.extend(["passwd", "group"].map(|file| names.join(file)));
    let number = uid.saturating_sub(BASE);
    for name in [format!("pg{number}"), uid.to_string()] {
        files.extend(["user", "group"].map(|kind| Path::new(USERDB).join(format!("{name}.{kind}"))));
    }
    for file in &files {
        missing_is_removed(fs::remove_file(file)).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    missing_is_removed(fs::remove_dir(&names)).map_err(|error| format!("{}: {error}", names.display()))
}

/// The files of a uid in the directory of usage.
fn usage_files(directory: &Path, uid: u32) -> Result<Vec<std::path::PathBuf>, String> {
    let told = |error: io::Error| format!("{}: {error}", directory.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(told)? {
        let entry = entry.map_err(told)?;
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(uid.to_string().as_str()));
        if rest.is_some_and(|rest| rest.starts_with('-') || rest.starts_with('.')) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn missing_is_removed(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_files_of_a_uid_are_its_own_and_not_those_of_one_that_begins_alike() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["187-a.jsonl", "187.exhausted", "1879-b.jsonl", "18", "codex.json"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let mut found = usage_files(dir.path(), 187).unwrap();
        found.sort();
        assert_eq!(found, ["187-a.jsonl", "187.exhausted"].map(|name| dir.path().join(name)));
    }
}
