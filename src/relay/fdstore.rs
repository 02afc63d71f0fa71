//! The service manager's memory: each listener and its process's pidfd, kept while the relay restarts.
//!
//! Names are `<kind>-<uid>-<run>-l` and `-p`. What comes back is checked like a new hand-over, and a half of a pair,
//! an unknown name or a listener whose process has ended is removed. Outside systemd all of this does nothing.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use sd_notify::NotifyState;
use uuid::Uuid;

use super::handover::parse_run;

/// A listener that was kept over a restart.
#[derive(Debug)]
pub struct Kept {
    /// The user.
    pub uid: u32,
    /// The run it serves.
    pub run: Uuid,
    /// The listening socket.
    pub listener: OwnedFd,
    /// The process that handed it over.
    pub pidfd: OwnedFd,
}

fn names(kind: &str, uid: u32, run: Uuid) -> [String; 2] {
    ["l", "p"].map(|half| format!("{kind}-{uid}-{run}-{half}"))
}

/// Gives both descriptors to the service manager.
///
/// # Errors
/// It cannot be reached.
pub fn keep(kind: &str, uid: u32, run: Uuid, listener: &impl AsFd, pidfd: &impl AsFd) -> io::Result<()> {
    let [l, p] = names(kind, uid, run);
    sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(&l)], &[listener.as_fd()])?;
    sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(&p)], &[pidfd.as_fd()])
}

/// Has both descriptors forgotten.
pub fn remove(kind: &str, uid: u32, run: Uuid) {
    names(kind, uid, run).iter().for_each(|name| forget(name));
}

fn forget(name: &str) {
    if let Err(error) = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]) {
        tracing::warn!(name, %error, "the service manager did not take FDSTOREREMOVE");
    }
}

/// Takes back what the service manager kept. To be called once, before anything else opens descriptors.
///
/// # Errors
/// The manager's variables contradict each other.
pub fn take_back(kind: &str) -> io::Result<Vec<Kept>> {
    let given: Vec<(OwnedFd, String)> = sd_notify::listen_fds_with_names()?
        .map(|(fd, name)| {
            // SAFETY: the service manager opened these numbers for this process (LISTEN_PID was compared), and
            // nothing else owns them: this runs once, before other descriptors are opened.
            (unsafe { OwnedFd::from_raw_fd(fd) }, name)
        })
        .collect();
    let (kept, unknown) = pair(kind, given);
    unknown.iter().for_each(|name| {
        tracing::warn!(name, "a kept descriptor has no use any more; removed");
        forget(name);
    });
    Ok(kept)
}

/// Whole pairs, and the names of everything else.
fn pair(kind: &str, given: Vec<(OwnedFd, String)>) -> (Vec<Kept>, Vec<String>) {
    let mut halves: BTreeMap<(u32, Uuid), [Option<OwnedFd>; 2]> = BTreeMap::new();
    let mut unknown = Vec::new();
    for (fd, name) in given {
        match parse(kind, &name) {
            Some((uid, run, half)) => {
                let slot = &mut halves.entry((uid, run)).or_default()[half];
                if slot.replace(fd).is_some() {
                    unknown.push(name);
                }
            }
            None => unknown.push(name),
        }
    }
    let mut kept = Vec::new();
    for ((uid, run), pair) in halves {
        match pair {
            [Some(listener), Some(pidfd)] if !names(kind, uid, run).iter().any(|n| unknown.contains(n)) => {
                kept.push(Kept { uid, run, listener, pidfd });
            }
            _ => unknown.extend(names(kind, uid, run)),
        }
    }
    (kept, unknown)
}

fn parse(kind: &str, name: &str) -> Option<(u32, Uuid, usize)> {
    let (uid, rest) = name.strip_prefix(kind)?.strip_prefix('-')?.split_once('-')?;
    let (run, half) = rest.rsplit_once('-')?;
    let half = ["l", "p"].iter().position(|h| *h == half)?;
    let number: u32 = uid.parse().ok().filter(|n: &u32| n.to_string() == uid)?;
    Some((number, parse_run(run)?, half))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn fd() -> OwnedFd {
        tempfile::tempfile().unwrap().into()
    }

    #[test]
    fn names_round_trip_and_hold_only_what_the_service_manager_allows() {
        let run = Uuid::now_v7();
        for (half, name) in names("model", 4_000_000_000, run).iter().enumerate() {
            assert_eq!(parse("model", name), Some((4_000_000_000, run, half)));
            assert!(name.len() < 255 && name.bytes().all(|b| b.is_ascii_graphic() && b != b':'));
        }
        for bad in [
            "",
            "model",
            "model-1",
            "stored",
            "model-x-y-l",
            "model-01-z-p",
            &format!("model-7-{run}-q"),
            &format!("git-7-{run}-l"),
        ] {
            assert_eq!(parse("model", bad), None, "{bad}");
        }
        assert_eq!(parse("model", &format!("model-007-{run}-l")), None);
    }

    #[test]
    fn pairs_come_back_in_any_order_and_the_rest_is_named_for_removal() {
        let (a, b, c) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
        let [al, ap] = names("git", 5, a);
        let [bl, _] = names("git", 6, b);
        let [cl, cp] = names("git", 7, c);
        let given = [ap, bl.clone(), "stored".to_owned(), cl.clone(), al, cp, cl.clone()];
        let (kept, unknown) = pair("git", given.into_iter().map(|n| (fd(), n)).collect());
        assert_eq!(kept.iter().map(|k| (k.uid, k.run)).collect::<Vec<_>>(), [(5, a)]);
        for name in [bl, "stored".to_owned(), cl] {
            assert!(unknown.contains(&name), "{name}");
        }
    }
}
