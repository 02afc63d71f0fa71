//! `pi-gateway-enter`: the first program in an agent's sandbox, as the user, with the user's rights and no more.
//!
//! It proves from inside that the sandbox holds, binds the provider's port in the private network namespace, hands that
//! listener out to the relay, and becomes pi. Nothing of it stays behind. A probe that fails is exit status 70 and one
//! line that names the property; any other failure is 71.

use std::fs::OpenOptions;
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recvmsg, sendmsg, setsockopt,
    socket, sockopt::ReceiveTimeout,
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
    // 1. What the launcher asks for.
    let (status, told) = match parse(arguments) {
        Err(told) => (FAILED, told),
        // 2. Is every restriction real?
        Ok((run, port, program)) => match probe::all() {
            Err(told) => (NOT_SEALED, told),
            Ok(()) => (FAILED, become_pi(&run, port, &program).unwrap_or_else(|told| told)),
        },
    };
    eprintln!("pi-gateway-enter: {told}");
    ExitCode::from(status)
}

/// Gives the reason when it returns.
fn become_pi(run: &Run, port: u16, program: &[String]) -> Result<String, String> {
    let told = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    // 3. No descriptor beyond 0, 1, 2 goes on.
    sys::close_from(3, true).map_err(|error| told("closing descriptors")(error.into()))?;
    // 4. The input is held open on both sides from here on: no restart of the front is an end of file.
    let both = OpenOptions::new().read(true).write(true).open("/proc/self/fd/0").map_err(told("opening the input"))?;
    nix::unistd::dup2_stdin(&both).map_err(|error| told("keeping the input open")(error.into()))?;
    // 5. The provider's port, inside; its listener, outside. Ours is closed at exec.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(told("listening inside the sandbox"))?;
    hand_over(&listener, run).map_err(|error| format!("handing the listener to the model relay: {error}"))?;
    // 6. pi.
    Ok(format!("{}: {}", program[0], Command::new(&program[0]).args(&program[1..]).exec()))
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<(Run, u16, Vec<String>), String> {
    let usage = "usage: pi-gateway-enter --run ID --model-port PORT -- PROGRAM ARGUMENTS; only the launcher calls it";
    let mut expect = |flag: &str| (arguments.next().as_deref() == Some(flag)).then(|| arguments.next()).flatten();
    let run = expect("--run").ok_or(usage)?;
    let run = Run::parse(&run).map_err(|error| format!("--run: {error}"))?;
    let port = expect("--model-port").and_then(|port| port.parse().ok()).ok_or(usage)?;
    let separator = arguments.next();
    let program: Vec<String> = arguments.collect();
    if separator.as_deref() == Some("--") && !program.is_empty() { Ok((run, port, program)) } else { Err(usage.into()) }
}

/// Sends the listener with one message, `1 model <run>`, and waits for `ok`.
fn hand_over(listener: &TcpListener, run: &Run) -> Result<(), String> {
    let told = |error: nix::errno::Errno| error.to_string();
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(told)?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(RELAY_PATIENCE)).map_err(told)?;
    let address = UnixAddr::new(RELAY).map_err(told)?;
    connect(socket.as_raw_fd(), &address).map_err(|error| format!("{RELAY}: {error}"))?;
    let message = format!("1 model {}", run.as_str());
    let descriptors = [listener.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&descriptors)];
    let parts = [IoSlice::new(message.as_bytes())];
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &parts, &control, MsgFlags::MSG_NOSIGNAL, None).map_err(told)?;
    let mut answer = [0; 256];
    let mut parts = [IoSliceMut::new(&mut answer)];
    let received = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, None, MsgFlags::empty()).map_err(told)?;
    let length = received.bytes;
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
