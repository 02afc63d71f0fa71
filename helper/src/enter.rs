//! `pi-gateway-enter`: the first program in an agent's or a git worker's sandbox, with the user's rights and no more.
//!
//! It proves from inside that the sandbox holds, binds an agent's ports in the private network namespace, hands each
//! listener out to its relay, and becomes pi or the worker. Nothing of it stays behind. A probe that fails is exit status
//! 70 and one line that names the property; any other failure is 71.

use std::fs::File;
use std::io::IoSlice;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{ReceiveTimeout, SendTimeout};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, sendmsg, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::names::Run;
use crate::{probe, sys};

/// Exit status when the sandbox does not hold.
pub const NOT_SEALED: u8 = 70;
/// Exit status when something else failed.
const FAILED: u8 = 71;
/// How long the relay may take for one step of the hand-over, in seconds, and how long another try is made.
const RELAY_PATIENCE: i64 = 5;
/// The wait before another try.
const RELAY_RETRY: Duration = Duration::from_millis(50);
/// What is wanted.
const USAGE: &str = "RUN RELAY:PORT,…|none PROGRAM ARGUMENTS is wanted; only the launcher calls it";

/// Prepares the sandbox and becomes the program in the arguments; returns only when that fails.
pub fn enter_main(arguments: impl Iterator<Item = String>) -> ExitCode {
    let Err((status, told)) = enter(arguments);
    eprintln!("pi-gateway-enter: {told}");
    ExitCode::from(status)
}

fn enter(arguments: impl Iterator<Item = String>) -> Result<std::convert::Infallible, (u8, String)> {
    // 1. What the launcher asks for.
    let (run, relays, program) = parse(arguments).map_err(failed("arguments"))?;
    // 2. No descriptor beyond 0, 1, 2 goes on.
    sys::close_at_exec().map_err(failed("closing descriptors"))?;
    // 3. Is every restriction real?
    let mounts = if relays.is_empty() { "relay-git worker" } else { "relay-model relay-egress" };
    probe::all(mounts).map_err(|told| (NOT_SEALED, told))?;
    // 4. The input is held open on both sides from here on: no restart of the front is an end of file.
    let both = File::options().read(true).write(true).open("/proc/self/fd/0").map_err(failed("opening the input"))?;
    nix::unistd::dup2_stdin(&both).map_err(failed("keeping the input open"))?;
    // 5. Each relay's port, inside; its listener, outside. A git worker has no port, and hands a listener over itself.
    for (name, port) in relays {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(failed("listening inside the sandbox"))?;
        hand_over(&listener, &name, &run).map_err(failed("handing a listener to its relay"))?;
    }
    // 6. pi, or the worker.
    let error = Command::new(&program[0]).args(&program[1..]).exec();
    Err(failed(&program[0])(error))
}

fn failed<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> (u8, String) {
    move |error| (FAILED, format!("{what}: {error}"))
}

/// Names of relays and their ports.
type Relays = Vec<(String, u16)>;

/// The run, its relays and the program: `RUN NAME:PORT,… PROGRAM ARGUMENTS…`, with `none` for no relay.
fn parse(arguments: impl Iterator<Item = String>) -> Result<(Run, Relays, Vec<String>), String> {
    let all: Vec<String> = arguments.collect();
    let [run, relays, program @ ..] = all.as_slice() else { return Err(USAGE.to_owned()) };
    let known = |relay: &str| {
        let (name, port) = relay.split_once(':').filter(|(name, _)| ["model", "egress"].contains(name))?;
        Some((name.to_owned(), port.parse().ok()?))
    };
    let relays = relays.split(',').filter(|relay| *relay != "none").map(known).collect::<Option<_>>();
    Ok((Run::parse(run)?, relays.filter(|_| !program.is_empty()).ok_or(USAGE)?, program.to_vec()))
}

/// Hands over until the relay has taken it: it may be starting anew at this very moment, and is back in less than this.
///
/// # Errors
/// What the relay, or the kernel, said last.
pub fn hand_over(listener: &impl AsFd, name: &str, run: &Run) -> Result<(), String> {
    let until = Instant::now() + Duration::from_secs(RELAY_PATIENCE.unsigned_abs());
    loop {
        match try_hand_over(listener, name, run) {
            Err(_) if Instant::now() < until => std::thread::sleep(RELAY_RETRY),
            done => return done,
        }
    }
}

/// Sends the listener with one message, `1 <relay> <run>`, and waits for `ok`. Every step has [`RELAY_PATIENCE`].
fn try_hand_over(listener: &impl AsFd, name: &str, run: &Run) -> Result<(), String> {
    // As the sandbox sees it.
    let relay = format!("/run/relay-{name}/relay.sock");
    let mut answer = [0; 256];
    let mut exchange = || {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        // The time-out for sending is also that for connecting to a relay that accepts nobody.
        setsockopt(&socket, SendTimeout, &TimeVal::seconds(RELAY_PATIENCE))?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(RELAY_PATIENCE))?;
        connect(socket.as_raw_fd(), &UnixAddr::new(relay.as_str())?)?;
        let message = format!("1 {name} {}", run.as_str());
        let (parts, descriptors) = ([IoSlice::new(message.as_bytes())], [listener.as_fd().as_raw_fd()]);
        let control = [ControlMessage::ScmRights(&descriptors)];
        sendmsg::<UnixAddr>(socket.as_raw_fd(), &parts, &control, MsgFlags::MSG_NOSIGNAL, None)?;
        recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())
    };
    let length = exchange().map_err(|error: Errno| format!("{relay}: {error}"))?;
    match &answer[..length] {
        b"ok" => Ok(()),
        other => Err(format!("refused: {}", String::from_utf8_lossy(other))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_launchers_own_arguments_are_taken() {
        let run = "01a205e8-7d1f-7255-8c8f-ce60b3ba1d9d";
        let parsed = |line: &str| parse(line.split(' ').map(str::to_owned));
        let (parsed_run, relays, program) =
            parsed(&format!("{run} model:4180,egress:4182 /usr/bin/pi --mode rpc")).unwrap();
        assert_eq!(parsed_run.as_str(), run);
        assert_eq!(relays, [("model".to_owned(), 4180), ("egress".to_owned(), 4182)]);
        assert_eq!(program, ["/usr/bin/pi", "--mode", "rpc"]);
        let (_, relays, program) = parsed(&format!("{run} none /usr/bin/worker git")).unwrap();
        assert_eq!((relays, program), (vec![], vec!["/usr/bin/worker".to_owned(), "git".to_owned()]));
        for bad in [
            "".to_owned(),
            run.to_owned(),
            format!("{run} none"),
            format!("{run} model:4180"),
            format!("{run} model /usr/bin/pi"),
            format!("{run} model:99999 /usr/bin/pi"),
            format!("{run} model:4180, /usr/bin/pi"),
            format!("{run} ../x:4180 /usr/bin/pi"),
            "../../x model:4180 /usr/bin/pi".to_owned(),
            format!("model:4180 {run} /usr/bin/pi"),
        ] {
            assert!(parsed(&bad).is_err(), "{bad}");
        }
    }
}
