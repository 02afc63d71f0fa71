//! `pi-gateway-enter`: the first program in an agent's sandbox, as the user, with the user's rights and no more.
//!
//! It proves from inside that the sandbox holds, binds the provider's port in the private network namespace, hands that
//! listener out to the relay, and becomes pi. Nothing of it stays behind. A probe that fails is exit status 70 and one
//! line that names the property; any other failure is 71.

use std::fs::OpenOptions;
use std::io::IoSlice;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

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
/// The relay's socket, as the sandbox sees it.
const RELAY: &str = "/run/relay-model/relay.sock";
/// How long the relay may take to answer, in seconds.
const RELAY_PATIENCE: i64 = 5;

/// Prepares the sandbox and becomes the program in the arguments; returns only when that fails.
pub fn enter_main(arguments: impl Iterator<Item = String>) -> ExitCode {
    let Err((status, told)) = enter(arguments);
    eprintln!("pi-gateway-enter: {told}");
    ExitCode::from(status)
}

fn enter(arguments: impl Iterator<Item = String>) -> Result<std::convert::Infallible, (u8, String)> {
    // 1. What the launcher asks for.
    let (run, port, program) = parse(arguments).map_err(failed("arguments"))?;
    // 2. No descriptor beyond 0, 1, 2 goes on.
    sys::close_at_exec().map_err(failed("closing descriptors"))?;
    // 3. Is every restriction real?
    probe::all().map_err(|told| (NOT_SEALED, told))?;
    // 4. The input is held open on both sides from here on: no restart of the front is an end of file.
    let both = OpenOptions::new().read(true).write(true).open("/proc/self/fd/0");
    let both = both.map_err(failed("opening the input for both sides"))?;
    nix::unistd::dup2_stdin(&both).map_err(failed("keeping the input open"))?;
    // 5. The provider's port, inside; its listener, outside.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    hand_over(&listener.map_err(failed("listening inside the sandbox"))?, &run)
        .map_err(failed("handing the listener to the model relay"))?;
    // 6. pi.
    let error = Command::new(&program[0]).args(&program[1..]).exec();
    Err(failed(&program[0])(error))
}

fn failed<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> (u8, String) {
    move |error| (FAILED, format!("{what}: {error}"))
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<(Run, u16, Vec<String>), String> {
    let all: Vec<String> = arguments.collect();
    match all.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--run", run, "--model-port", port, "--", _, ..] => {
            let port = port.parse().map_err(|error| format!("--model-port: {error}"))?;
            Ok((Run::parse(run)?, port, all[5..].to_vec()))
        }
        _ => Err("--run ID --model-port PORT -- PROGRAM ARGUMENTS is wanted; only the launcher calls it".into()),
    }
}

/// Sends the listener with one message, `1 model <run>`, and waits for `ok`. Every step has [`RELAY_PATIENCE`].
fn hand_over(listener: &TcpListener, run: &Run) -> Result<(), String> {
    let mut answer = [0; 256];
    let mut exchange = || {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        // The time-out for sending is also that for connecting to a relay that accepts nobody.
        setsockopt(&socket, SendTimeout, &TimeVal::seconds(RELAY_PATIENCE))?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(RELAY_PATIENCE))?;
        connect(socket.as_raw_fd(), &UnixAddr::new(RELAY)?)?;
        let message = format!("1 model {}", run.as_str());
        let (parts, descriptors) = ([IoSlice::new(message.as_bytes())], [listener.as_raw_fd()]);
        let control = [ControlMessage::ScmRights(&descriptors)];
        sendmsg::<UnixAddr>(socket.as_raw_fd(), &parts, &control, MsgFlags::MSG_NOSIGNAL, None)?;
        recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())
    };
    let length = exchange().map_err(|error: Errno| format!("{RELAY}: {error}"))?;
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
        let (parsed_run, port, program) =
            parsed(&format!("--run {run} --model-port 4180 -- /usr/bin/pi --mode rpc")).unwrap();
        assert_eq!((parsed_run.as_str(), port), (run, 4180));
        assert_eq!(program, ["/usr/bin/pi", "--mode", "rpc"]);
        for bad in [
            "".to_owned(),
            format!("--run {run}"),
            format!("--run {run} --model-port 4180"),
            format!("--run {run} --model-port 4180 --"),
            format!("--run {run} --model-port 99999 -- /usr/bin/pi"),
            "--run ../../x --model-port 4180 -- /usr/bin/pi".to_owned(),
            format!("--model-port 4180 --run {run} -- /usr/bin/pi"),
        ] {
            assert!(parsed(&bad).is_err(), "{bad}");
        }
    }
}
