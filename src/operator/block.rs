//! `pi-gateway users block` and `unblock`: whom the gateway lets in.

use std::time::{Duration, Instant};

use pi_gateway_helper::names::User;

use super::{Ground, Trouble, is_up};
use crate::standing::{self, Standing, Why, keeper};

/// How often it is looked whether the front has acted.
const LOOK: Duration = Duration::from_millis(50);
/// What the front may need beyond the end of a run: an image that is being made.
const MORE: Duration = Duration::from_secs(310);

/// How far a user's being kept out has come.
pub enum Force {
    /// Nothing of his is under way.
    Whole,
    /// He is refused; why something of his may still be under way.
    Refused(String),
}

/// Keeps a user out. What is said of him already stays, unless it is less.
///
/// # Errors
/// When the disk refuses.
pub fn keep_out(ground: &Ground, user: &User, wanted: Standing) -> Result<Standing, String> {
    // What cannot be read is written anew.
    let present = ground.register().of(user).ok().flatten();
    let standing = match present {
        Some(present) if present.why == wanted.why && present.file == wanted.file => return Ok(present),
        Some(present) if wanted.why == Why::Blocked => return Ok(present),
        _ => wanted,
    };
    let directory = &ground.paths.standing;
    let written = standing.write(directory, user, ground.front.1);
    let remedy = "`systemd-tmpfiles --create pi-gateway.conf` makes what is missing";
    written.map_err(|error| format!("{}: {error}; {remedy}", directory.display()))?;
    Ok(standing)
}

/// Waits until nothing of a user who is kept out is under way any more.
pub fn wait(ground: &Ground, user: &User, standing: &Standing) -> Force {
    if !is_up("pi-gateway.service") {
        let told = "pi-gateway is not up, so this is in force as soon as it is: `systemctl start pi-gateway`";
        return Force::Refused(told.to_owned());
    }
    let milliseconds = |name: &str| Duration::from_millis(ground.values.number(name));
    let patience = milliseconds("WORKSPACE_FINALIZATION_TIMEOUT_MS") + milliseconds("RUN_CANCEL_GRACE_MS") + MORE;
    let until = Instant::now() + patience;
    let told = ground.paths.state.join("standing");
    while !keeper::is_in_force(&told, user, standing) {
        if Instant::now() >= until {
            let told = format!(
                "something of his is still under way after {} s; see `journalctl -u pi-gateway`",
                patience.as_secs()
            );
            return Force::Refused(told);
        }
        std::thread::sleep(LOOK);
    }
    Force::Whole
}

/// Blocks a user.
///
/// # Errors
/// See [`Trouble`].
pub fn block(ground: &Ground, user: &User) -> Result<String, Trouble> {
    let standing = keep_out(ground, user, Standing::now(Why::Blocked))?;
    let known = if ground.uid(user)?.is_none() { " (who has never had a run)" } else { "" };
    let (name, word) = (user.as_str(), standing.why.word());
    Ok(match wait(ground, user, &standing) {
        Force::Whole => format!("{name}{known} is {word}: refused, and nothing of his is under way\n"),
        Force::Refused(why) => format!("{name}{known} is {word}: refused; {why}\n"),
    })
}

/// Lets a user in again.
///
/// # Errors
/// See [`Trouble`].
pub fn unblock(ground: &Ground, user: &User) -> Result<String, Trouble> {
    let (register, name) = (ground.register(), user.as_str());
    let present = register.of(user).ok().flatten();
    if !register.refuses(user) {
        return Ok(format!("{name} is not blocked\n"));
    }
    let told = match present.map(|present| present.why) {
        Some(Why::Importing) => {
            let told =
                format!("{name} is being imported: run the same `pi-gateway import … --apply` again, which ends it");
            return Err(Trouble::Failed(told));
        }
        Some(Why::Removed) => {
            is_gone(ground, user)?;
            "with an empty workspace and the uid that was his"
        }
        _ => "and finds everything as it was",
    };
    let lifted = standing::lift(&ground.paths.standing, user);
    lifted.map_err(|error| format!("{}: {error}", ground.paths.standing.display()))?;
    Ok(format!("{name} is let in again, {told}\n"))
}

/// A user whose removal was interrupted does not come back to the half of his things.
fn is_gone(ground: &Ground, user: &User) -> Result<(), String> {
    let there = ground.parents().map(|parent| parent.join(user.as_str())).into_iter().find(|path| path.exists());
    there.map_or(Ok(()), |path| {
        let name = user.as_str();
        Err(format!(
            "{} is still there: end his removal with `pi-gateway users remove {name} --yes` first",
            path.display()
        ))
    })
}
