//! `pi-gateway import`: takes over users of the npm package, their workspaces and pi sessions.
//!
//! It reads `WORKSPACES/<user>/`, and `SESSIONS/<user>.jsonl` or the one session in `SESSIONS/<user>/`. Nothing there is
//! changed. First everything is looked at ([`survey`]) and told; only `--apply` does it, user by user: he is kept out, gets
//! a uid of the launcher, his directories are filled ([`copy`]), all of it is on the disk, and he is let in. Whoever is
//! interrupted runs the same command again: a user who is let in is done, one who was begun is begun anew.
//!
//! What cannot be taken over is refused, never repaired: a name that is no user's, somebody who is here already, links that
//! lead out of a workspace, special files, files of somebody else, a file that is no session of pi.

mod assign;
mod copy;
mod session;
mod survey;

use std::path::{Path, PathBuf};

use pi_gateway_helper::names::User;
use serde::Serialize;

use super::block::{Force, keep_out, wait};
use super::confined::Confined;
use super::{Ground, Trouble, is_up, table};
use crate::standing::{self, Standing, Why};
use survey::Candidate;

/// What is wanted.
pub struct Wanted {
    /// Where the workspaces are.
    pub workspaces: PathBuf,
    /// Where the sessions are.
    pub sessions: PathBuf,
    /// Only this user.
    pub user: Option<User>,
    /// Not only told, but done.
    pub apply: bool,
    /// What cannot be taken over of a workspace is left out, instead of the user.
    pub leave_out: bool,
}

/// What becomes of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// He would be taken over.
    Ready,
    /// He was.
    Imported,
    /// He is here already and is left alone.
    Exists,
    /// He cannot be.
    Refused,
    /// He was begun; the same command goes on.
    Failed,
}

impl Fate {
    fn word(self) -> &'static str {
        match self {
            Fate::Ready => "ready",
            Fate::Imported => "imported",
            Fate::Exists => "exists",
            Fate::Refused => "refused",
            Fate::Failed => "failed",
        }
    }
}

/// What is told of a user.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    candidate: Candidate,
    state: Fate,
}

/// Looks at everybody, and takes over whom it may.
///
/// # Errors
/// See [`Trouble`]; what was found is printed before.
pub fn import(ground: &Ground, wanted: &Wanted, json: bool) -> Result<String, Trouble> {
    let mut rows = Vec::new();
    for mut candidate in survey::survey(wanted)? {
        let mut fate = judge(ground, wanted, &mut candidate);
        if wanted.apply && fate == Fate::Ready {
            fate = match take_over(ground, wanted, &candidate) {
                Ok(()) => Fate::Imported,
                Err(why) => {
                    candidate.reasons.push(why);
                    Fate::Failed
                }
            };
        }
        rows.push(Row { candidate, state: fate });
    }
    let text = if json {
        serde_json::to_string_pretty(&rows).map_err(|error| error.to_string())? + "\n"
    } else {
        render(&rows, wanted.apply)
    };
    let bad = rows.iter().filter(|row| matches!(row.state, Fate::Refused | Fate::Failed)).count();
    if bad == 0 {
        return Ok(text);
    }
    print!("{text}");
    Err(Trouble::Failed(format!("{bad} of {} users cannot be taken over, or not completely; see above", rows.len())))
}

/// What becomes of a candidate; why he is refused is added to what is told.
fn judge(ground: &Ground, wanted: &Wanted, candidate: &mut Candidate) -> Fate {
    let Some(user) = candidate.user() else { return Fate::Refused };
    let standing = ground.register().of(&user);
    match standing {
        Ok(None) => {
            if ground.parents().iter().any(|parent| std::fs::symlink_metadata(parent.join(user.as_str())).is_ok()) {
                return Fate::Exists;
            }
        }
        Ok(Some(standing)) if standing.why == Why::Importing => {
            if standing.file.as_deref() != Some(wanted.workspaces.as_path()) {
                let from = standing.file.unwrap_or_default();
                candidate.reasons.push(format!("is being imported from {}", from.display()));
            }
        }
        Ok(Some(standing)) => {
            let (word, name) = (standing.why.word(), user.as_str());
            candidate.reasons.push(format!("is {word}: `pi-gateway users unblock {name}` first"));
        }
        Err(error) => candidate.reasons.push(error.to_string()),
    }
    let quota = ground.values.number("WORKSPACE_QUOTA_MB");
    if candidate.bytes > quota << 20 {
        candidate.reasons.push(format!("takes more than WORKSPACE_QUOTA_MB ({quota})"));
    }
    if candidate.left_out_count > 0 && !wanted.leave_out {
        let count = candidate.left_out_count;
        candidate.reasons.push(format!("{count} entries cannot be taken over; --leave-out imports the rest"));
    }
    if candidate.reasons.is_empty() { Fate::Ready } else { Fate::Refused }
}

/// Takes a user over. The order is that of the module's head.
fn take_over(ground: &Ground, wanted: &Wanted, candidate: &Candidate) -> Result<(), String> {
    let user = candidate.user().ok_or("no user")?;
    let space = crate::workspace::disk::Space::of(ground.parents()[0]).map_err(|error| error.to_string())?;
    if space.free < candidate.bytes.saturating_add(space.total / 20) {
        return Err("the disk has no room for it".to_owned());
    }
    let begun = ground.register().of(&user).ok().flatten().is_some();
    let mut mark = Standing::now(Why::Importing);
    mark.file = Some(wanted.workspaces.clone());
    let standing = keep_out(ground, &user, mark)?;
    if let Force::Refused(why) = wait(ground, &user, &standing)
        && is_up("pi-gateway.service")
    {
        return Err(why);
    }
    let there = |parent: &Path| std::fs::symlink_metadata(parent.join(user.as_str())).is_ok();
    if !begun && ground.parents().iter().any(|parent| there(parent)) {
        standing::lift(&ground.paths.standing, &user).map_err(|error| error.to_string())?;
        return Err("has come to be here meanwhile and is left alone".to_owned());
    }
    let uid = match ground.uid(&user)? {
        Some(uid) => uid,
        None => assign::uid(ground, &user)?,
    };
    // What an interrupted import has left, and the launcher's worker: as the user, who has nothing else.
    Confined::open(ground, &user, uid)?.run(&user, "empty")?;
    let [workspace, session] = ground.parents().map(|parent| parent.join(user.as_str()));
    copy::workspace(wanted, candidate, &workspace, uid)?;
    copy::session(wanted, candidate, &session, uid)?;
    standing::lift(&ground.paths.standing, &user)
        .map_err(|error| format!("{}: {error}", ground.paths.standing.display()))
}

fn render(rows: &[Row], applied: bool) -> String {
    let head = ["NAME", "STATE", "ENTRIES", "SIZE", "SESSION"].map(str::to_owned).to_vec();
    let body = rows.iter().map(|Row { candidate, state }| {
        let session = candidate.session.as_deref().unwrap_or("-").to_owned();
        let (entries, size) = (candidate.entries.to_string(), table::size(candidate.bytes));
        vec![candidate.name.clone(), state.word().to_owned(), entries, size, session]
    });
    let mut text = table::text(&std::iter::once(head).chain(body).collect::<Vec<_>>());
    for Row { candidate, .. } in rows {
        for reason in candidate.reasons.iter().chain(&candidate.notes) {
            text.push_str(&format!("{}: {reason}\n", candidate.name));
        }
        for left in &candidate.left_out {
            text.push_str(&format!("{}: {}: {}\n", candidate.name, left.path, left.reason));
        }
        let hidden = candidate.left_out_count.saturating_sub(candidate.left_out.len() as u64);
        if hidden > 0 {
            text.push_str(&format!("{}: and {hidden} more\n", candidate.name));
        }
    }
    if !applied {
        text.push_str("Nothing is changed yet: the same with --apply does it.\n");
    }
    text
}
