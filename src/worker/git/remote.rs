//! The remote, which is one repository behind one name: the git relay's ([`super::transport`]).
//!
//! Nothing else can be reached, no redirect is followed, no proxy is asked, and there is no secret here. What the relay or
//! Gitea refuses becomes a failure with a stable word.

use std::cell::RefCell;
use std::rc::Rc;

use git2::{AutotagOption, ErrorCode, FetchOptions, Oid, PushOptions, Remote, RemoteCallbacks, RemoteRedirect};

use super::failed;
use super::message::{Failure, Pushed, Settings};
use super::repository::Repository;
use crate::relay::git::limits::MAX_REF;

/// Branches that are pushed at most; the relay takes a few more commands in one push.
const MAX_BRANCHES: usize = 100;
/// Branches that are named at most when they have diverged; the others are counted.
const MAX_TOLD: usize = 10;

/// Where the remote's branches are kept.
const SPEC: &str = "+refs/heads/*:refs/remotes/origin/*";
/// All that [`SPEC`] names.
const BRANCHES: &[&str] = &[];

/// The way to the user's repository, if there is one.
pub struct Way(String);

impl Way {
    /// That of the settings.
    pub fn of(settings: &Settings) -> Option<Self> {
        settings.remote.clone().map(Way)
    }

    fn remote<'a>(&self, repository: &'a Repository<'_>) -> Result<Remote<'a>, Failure> {
        // In the configuration of the scratch repository: a remote without a name has nothing pruned.
        let known = repository.git.find_remote("origin");
        let remote = known.or_else(|_| repository.git.remote_with_fetch("origin", &self.0, SPEC));
        remote.map_err(failed("naming the remote"))
    }

    /// Fetches the remote's branches to `refs/remotes/origin/`; one that it has no more is gone from there as well, or it
    /// would be taken for one that is pushed.
    ///
    /// # Errors
    /// A `gitea_…` failure.
    pub fn fetch(&self, repository: &Repository<'_>) -> Result<(), Failure> {
        let mut options = FetchOptions::new();
        options.download_tags(AutotagOption::None).follow_redirects(RemoteRedirect::None).update_fetchhead(false);
        let mut remote = self.remote(repository)?;
        let mut fetched = remote.fetch(BRANCHES, Some(&mut options), None);
        if remote.prune(None).is_ok() && fetched.is_err() {
            // A name that is gone may have been in the way of a new one.
            fetched = remote.fetch(BRANCHES, Some(&mut options), None);
        }
        fetched.map_err(|error| told(&error))
    }

    /// Pushes refs or commits to branches, each `<what>:refs/heads/<branch>`.
    ///
    /// # Errors
    /// A `gitea_…` failure, or the first refusal of a branch.
    fn send(&self, repository: &Repository<'_>, refspecs: &[String]) -> Result<(), Failure> {
        let refused: Rc<RefCell<Option<Failure>>> = Rc::default();
        let mut callbacks = RemoteCallbacks::new();
        let seen = refused.clone();
        callbacks.push_update_reference(move |name, status| {
            if let Some(status) = status {
                let failure = Failure::new("gitea_refused", format_args!("{name}: {status}"));
                seen.borrow_mut().get_or_insert(failure);
            }
            Ok(())
        });
        let mut options = PushOptions::new();
        options.remote_callbacks(callbacks).follow_redirects(RemoteRedirect::None).packbuilder_parallelism(1);
        self.remote(repository)?.push(refspecs, Some(&mut options)).map_err(|error| told(&error))?;
        let refused = refused.borrow_mut().take();
        refused.map_or(Ok(()), Err)
    }

    /// Pushes every branch of the workspace that the remote has not, forwards only.
    pub fn push(&self, repository: &Repository<'_>) -> Pushed {
        match self.try_push(repository).and_then(|left| Ok((repository.position()?, left))) {
            Ok((position, None)) => Pushed::All(position),
            Ok((position, Some(left))) => Pushed::Most(position, left),
            Err(failure) => Pushed::Not(failure),
        }
    }

    /// Gives what is to be told of other branches than the one that the workspace is on: none of them fails its push.
    fn try_push(&self, repository: &Repository<'_>) -> Result<Option<Failure>, Failure> {
        self.fetch(repository)?;
        let (told, here) = (failed("listing branches"), repository.position()?.branch);
        let mut branches = Vec::new();
        for reference in repository.git.references_glob("refs/heads/*").map_err(&told)? {
            let reference = reference.map_err(&told)?;
            branches.extend(reference.name().ok().and_then(|name| name.strip_prefix("refs/heads/")).map(str::to_owned));
        }
        // First, so that it is none of those that are left for the next push.
        branches.sort_by_key(|branch| Some(branch) != here.as_ref());
        let (mut refspecs, mut moved, mut diverged) = (Vec::new(), Vec::new(), Vec::new());
        let (mut left_out, mut stays) = (0, false);
        for branch in branches {
            let (name, origin) = (format!("refs/heads/{branch}"), format!("refs/remotes/origin/{branch}"));
            let Some(ours) = repository.commit_of(&name)? else { continue };
            let theirs = repository.commit_of(&origin)?.map(|commit| commit.id());
            if theirs == Some(ours.id()) {
                continue;
            }
            let forward = match theirs {
                None => true,
                Some(theirs) => {
                    repository.git.graph_descendant_of(ours.id(), theirs).map_err(failed("comparing branches"))?
                }
            };
            if forward && refspecs.len() < MAX_BRANCHES && name.len() <= MAX_REF {
                refspecs.push(format!("{name}:{name}"));
                moved.push((origin, ours.id()));
                continue;
            }
            stays |= here.as_ref() == Some(&branch);
            if forward {
                left_out += 1;
            } else {
                diverged.push(branch);
            }
        }
        if !refspecs.is_empty() {
            self.send(repository, &refspecs)?;
            for (origin, oid) in moved {
                repository.git.reference(&origin, oid, true, "").map_err(failed("noting what was pushed"))?;
            }
        }
        let named = diverged[..diverged.len().min(MAX_TOLD)].join(", ");
        let left = match (diverged.len(), left_out) {
            (0, 0) => return Ok(None),
            (0, some) => Failure::new("too_many_branches", format_args!("{some} branches are left for the next push")),
            (1.., _) if stays => Failure::new(
                "diverged",
                format_args!("the remote has commits that this workspace has not, sync it: {named}"),
            ),
            (some, _) => Failure::new(
                "branches_diverged",
                format_args!("on {some} other branches the remote has commits that the workspace has not: {named}"),
            ),
        };
        if stays { Err(left) } else { Ok(Some(left)) }
    }

    /// Puts a commit onto a branch of the remote that is for it alone.
    ///
    /// # Errors
    /// A `gitea_…` failure.
    pub fn put(&self, repository: &Repository<'_>, commit: Oid, branch: &str) -> Result<(), Failure> {
        if repository.commit_of(&format!("refs/remotes/origin/{branch}"))?.is_some_and(|there| there.id() == commit) {
            return Ok(());
        }
        self.send(repository, &[format!("{commit}:refs/heads/{branch}")])
    }
}

/// What libgit2 says of the remote, in the relay's words.
fn told(error: &git2::Error) -> Failure {
    let message = error.message();
    let status = message.rsplit_once("status code: ").and_then(|(_, code)| code.trim().parse::<u16>().ok());
    let (code, told) = match status {
        Some(401) => ("gitea_unauthorized", "Gitea does not accept the gateway's account or token".to_owned()),
        Some(403) => ("gitea_forbidden", "the gateway's account may not do this in the user's repository".to_owned()),
        Some(404) => {
            ("gitea_not_found", "the user's repository does not exist, or is not shared with the gateway".to_owned())
        }
        Some(413) => ("gitea_too_large", "the push is larger than Gitea, or the gateway, takes".to_owned()),
        Some(429) => ("gitea_busy", "Gitea asks for fewer requests".to_owned()),
        Some(502) => ("gitea_unreachable", "Gitea cannot be reached, or does not answer as it should".to_owned()),
        Some(504) => ("gitea_timeout", "Gitea did not answer in time".to_owned()),
        Some(500..) => ("gitea_error", "Gitea reports an error of its own".to_owned()),
        Some(other) => ("gitea_unexpected", format!("the request was refused with status {other}")),
        None if error.code() == ErrorCode::Auth => {
            ("gitea_unauthorized", "Gitea does not accept the gateway's account or token".to_owned())
        }
        None if error.code() == ErrorCode::NotFastForward => {
            ("diverged", "the remote has commits that this workspace has not: sync it".to_owned())
        }
        None => ("gitea_unexpected", message.to_owned()),
    };
    Failure::new(code, told)
}
