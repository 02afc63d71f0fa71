//! The front's side: as soon as the operator keeps a user out, what he has under way is ended.
//!
//! Streams and downloads break off by themselves ([`Register::refused`]). Here his active run is cancelled, as if he had
//! asked: its session stays, what it has changed is committed. Then nothing of his is under way any more, which is noted in
//! `front/standing/<user>`. Before a user is packed or removed his workers are sent away as well, and of one who is removed
//! the front forgets everything. Whatever fails is tried again; a front that dies has its successor do it all once more.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use jiff::Timestamp;
use pi_gateway_helper::names::User;
use uuid::Uuid;

use super::{Register, Standing, Why};
use crate::durable::{self, Access};
use crate::runs::{Hold, Runs};

/// The longest time between two looks, should a notification be lost.
const POLL: Duration = Duration::from_secs(1);
/// The shortest and the longest wait before something is tried again.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(1);

/// Where it is noted that a user's standing is in force.
fn note_of(told: &Path, user: &User) -> PathBuf {
    told.join(user.as_str())
}

/// Whether the front has noted that a standing is in force. `told` is the front's, so nothing in it is followed or waited for.
pub fn is_in_force(told: &Path, user: &User, standing: &Standing) -> bool {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let opened = rustix::fs::open(note_of(told, user), flags, rustix::fs::Mode::empty());
    let mut text = String::new();
    let read = opened.map(fs::File::from).map(|file| file.take(64).read_to_string(&mut text));
    matches!(read, Ok(Ok(_))) && text == standing.id.to_string()
}

/// Acts on what the operator wants, for ever. `told` is where it is noted.
pub async fn keep(runs: Arc<Runs>, told: PathBuf) {
    let register = runs.services().standing.clone();
    let mut begun = BTreeMap::new();
    let mut watching = register.watch().inspect_err(|error| {
        tracing::warn!(%error, "the directory of blocked users cannot be watched; it is looked at every second");
    });
    loop {
        match look(&register, &told) {
            Ok(now) if now != begun => {
                register.stir();
                for (user, standing) in &now {
                    if begun.get(user) != Some(standing) {
                        tokio::spawn(enforce(runs.clone(), told.clone(), user.clone(), standing.clone()));
                    }
                }
                begun = now;
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "who is blocked could not be read"),
        }
        match &mut watching {
            Ok(events) => drop(tokio::time::timeout(POLL, events.next()).await),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// Who is kept out now; the notes of whoever is not any more are removed.
fn look(register: &Register, told: &Path) -> io::Result<BTreeMap<User, Standing>> {
    let mut found = BTreeMap::new();
    for user in register.users()? {
        // One whose file cannot be read is kept out as well.
        let standing = register.of(&user).unwrap_or_else(|error| {
            tracing::error!(user = user.as_str(), %error, "why the user is blocked cannot be read");
            Some(Standing { id: Uuid::nil(), why: Why::Blocked, at: Timestamp::UNIX_EPOCH, file: None })
        });
        found.extend(standing.map(|standing| (user, standing)));
    }
    fs::create_dir_all(told)?;
    for entry in fs::read_dir(told)? {
        let entry = entry?;
        let user = entry.file_name().to_str().and_then(|name| User::parse(name).ok());
        if user.is_some_and(|user| !found.contains_key(&user)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(found)
}

/// Ends what a user has under way, forgets him if he is removed, and notes it.
async fn enforce(runs: Arc<Runs>, told: PathBuf, user: User, standing: Standing) {
    if is_in_force(&told, &user, &standing) {
        return;
    }
    let mut pause = PAUSE;
    while let Err(what) = attempt(&runs, &told, &user, &standing).await {
        // The operator may have changed his mind meanwhile.
        match runs.services().standing.of(&user) {
            Ok(Some(now)) if now.id == standing.id => {}
            Err(_) if standing.id.is_nil() => {}
            _ => return,
        }
        tracing::info!(user = user.as_str(), why = standing.why.word(), what, "the user still has something under way");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
    tracing::info!(user = user.as_str(), why = standing.why.word(), "the user is kept out");
}

/// One try; tells what is still under way.
async fn attempt(runs: &Arc<Runs>, told: &Path, user: &User, standing: &Standing) -> Result<(), String> {
    if let Some(run) = runs.active_run(user) {
        runs.cancel(user, run).await.map_err(|error| error.to_string())?;
    }
    let hold = runs.hold_for_keeper(user).await.map_err(|busy| format!("{busy:?}"))?;
    if matches!(standing.why, Why::Archived | Why::Removed) {
        retire(runs, user).await?;
    }
    let (runs, told, user, standing) = (runs.clone(), told.to_owned(), user.clone(), standing.clone());
    let noted = tokio::task::spawn_blocking(move || conclude(&runs, hold, &told, &user, &standing));
    noted.await.map_err(io::Error::other).flatten().map_err(|error| error.to_string())
}

/// Sends the user's workers away, and lets the last job of his repository end.
async fn retire(runs: &Runs, user: &User) -> Result<(), String> {
    let services = runs.services();
    services.git.rest(user).await.map_err(|failure| failure.message)?;
    services.workers.dismiss(user).await.map_err(|error| error.to_string())
}

fn conclude(runs: &Runs, hold: Hold, told: &Path, user: &User, standing: &Standing) -> io::Result<()> {
    let services = runs.services();
    if standing.why == Why::Removed {
        services.sites.forget(user)?;
        services.store.forget(user)?;
    }
    durable::write(&note_of(told, user), standing.id.to_string().as_bytes(), Access::PRIVATE)?;
    drop(hold);
    if standing.why == Why::Removed {
        services.sizes.forget(user);
        runs.forget(user);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::runs::testing;

    async fn until(what: &str, mut ask: impl FnMut() -> bool) {
        let come = async {
            while !ask() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), come).await.unwrap_or_else(|_| panic!("{what}"));
    }

    #[tokio::test]
    async fn a_user_who_is_removed_is_forgotten_with_all_his_runs_and_nobody_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("standing");
        fs::create_dir(&directory).unwrap();
        let told = dir.path().join("told");
        for user in ["alice", "bob"] {
            fs::create_dir_all(dir.path().join(format!("users/{user}/runs/01800000-0000-7000-8000-000000000000")))
                .unwrap();
        }
        let runs = testing::runs(dir.path());
        let keeping = tokio::spawn(keep(runs.clone(), told.clone()));
        let (alice, bob) = (User::parse("alice").unwrap(), User::parse("bob").unwrap());
        let group = nix::unistd::getegid().as_raw();
        let blocked = Standing::now(Why::Blocked);
        blocked.write(&directory, &bob, group).unwrap();
        until("bob is kept out", || is_in_force(&told, &bob, &blocked)).await;
        assert!(dir.path().join("users/bob").exists());
        // The workers are stopped by the launcher, which is not there at first: it is tried again.
        let removed = Standing::now(Why::Removed);
        removed.write(&directory, &alice, group).unwrap();
        let launcher = std::os::unix::net::UnixListener::bind(dir.path().join("launcher.sock")).unwrap();
        let answering = std::thread::spawn(move || {
            let (mut peer, _) = launcher.accept().unwrap();
            let asked: pi_gateway_helper::wire::Request = pi_gateway_helper::wire::read(&mut peer).unwrap();
            let reply = pi_gateway_helper::wire::encode(&pi_gateway_helper::wire::Reply::Stopped).unwrap();
            io::Write::write_all(&mut peer, &reply).unwrap();
            asked
        });
        until("alice is forgotten", || is_in_force(&told, &alice, &removed)).await;
        let asked = answering.join().unwrap();
        assert_eq!(asked, pi_gateway_helper::wire::Request::Stop(pi_gateway_helper::wire::Unit::Worker(alice.clone())));
        assert!(!dir.path().join("users/alice").exists() && dir.path().join("users/bob").exists());
        assert!(runs.hold(&alice).await.is_err(), "nothing of hers begins");
        super::super::lift(&directory, &bob).unwrap();
        until("bob's note is gone", || !note_of(&told, &bob).exists()).await;
        runs.hold(&bob).await.unwrap();
        keeping.abort();
    }
}
