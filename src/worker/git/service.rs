//! The git worker's program: connects to the front, does one job, reports, ends.
//!
//! It keeps nothing. It may be killed at any instruction: see [`super::sync`] for why that loses nothing.

use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use pi_gateway_helper::enter::hand_over;
use pi_gateway_helper::names::Run;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::message::{Failure, Job, Pushed, Report, Task};
use super::remote::Way;
use super::{repository, sync};
use crate::relay::git::limits::NAME;
use crate::worker::message::{decode, encode};
use crate::worker::packet;
use crate::worker::tree::Tree;

/// Where things are in the worker's sandbox.
const SOCKET: &str = "/run/worker/git.sock";
const WORKSPACE: &str = "/workspace";
/// On a tmpfs that nobody else sees.
const SCRATCH: &str = "/tmp/git";

/// Does the one job that the front has; `run` is what the launcher calls it.
///
/// # Errors
/// When there is no front, or it says something else.
pub fn serve(run: &Run) -> io::Result<()> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(SOCKET)?)?;
    let Some((packet, _)) = packet::receive(&socket)? else { return Ok(()) };
    let job: Job = decode(&packet)?;
    if job.settings.remote.is_some()
        && job.task != Task::Compare
        && let Err(error) = open_way(run)
    {
        // What needs no remote is done all the same; what needs it will say that it is not there.
        tracing::warn!(error, "the git relay has not taken the listener");
    }
    let last = match work(&job, &socket) {
        Ok(report) => report,
        Err(failure) => Report::Failed(failure),
    };
    send(&socket, &last)
}

/// Has the git relay serve a listener of this sandbox.
fn open_way(run: &Run) -> Result<(), String> {
    let address = SocketAddr::from_abstract_name(NAME);
    let listener = address.and_then(|address| UnixListener::bind_addr(&address)).map_err(|error| error.to_string())?;
    hand_over(&listener, "git", run)
}

fn send(socket: &OwnedFd, report: &Report) -> io::Result<()> {
    packet::send(socket, &encode(report)?, None)
}

fn work(Job { settings, task }: &Job, socket: &OwnedFd) -> Result<Report, Failure> {
    repository::isolate()?;
    let tree = Tree::open(Path::new(WORKSPACE)).map_err(super::refused("opening the workspace"))?;
    let scratch = Path::new(SCRATCH);
    match task {
        Task::Prepare => sync::prepare(&tree, settings, scratch).map(Report::Committed),
        Task::Compare => sync::compare(&tree, settings, scratch).map(Report::Compared),
        Task::Sync(message) => {
            sync::sync(&tree, settings, message, scratch).map(|synced| Report::Synced(Box::new(synced)))
        }
        Task::Snapshot(message) => {
            let done = sync::commit(&tree, settings, message, scratch)?;
            let (repository, committed) = done.unzip();
            let committed = Report::Committed(committed.unwrap_or_default());
            match (Way::of(settings), repository) {
                (Some(way), Some(repository)) => {
                    let told = |error| Failure::new("git_failed", format_args!("reporting the commit: {error}"));
                    send(socket, &committed).map_err(told)?;
                    Ok(Report::Pushed(way.push(&repository)))
                }
                _ => Ok(committed),
            }
        }
        Task::Push => {
            let nothing = || Failure::new("no_repository", "there is nothing to push, or nowhere to push it to");
            let way = Way::of(settings).ok_or_else(nothing)?;
            let repository = repository::open_as_it_is(&tree, scratch)?.ok_or_else(nothing)?;
            let pushed: Pushed = way.push(&repository);
            Ok(Report::Pushed(pushed))
        }
    }
}
