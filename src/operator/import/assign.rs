//! A uid for a new user, of the launcher, who alone writes the registry: a worker of his is started, with the front's
//! rights, as the front would for his first request, and stopped.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use pi_gateway_helper::names::User;
use pi_gateway_helper::wire::{self, Refusal, Reply, Request, Unit};

use crate::operator::Ground;

/// How long one answer may take; the launcher's own limit is 10 s.
const ANSWER: Duration = Duration::from_secs(12);
/// How long it is tried when others are being started.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

/// Has the user given a uid.
///
/// # Errors
/// When the launcher does not.
pub fn uid(ground: &Ground, user: &User) -> Result<u32, String> {
    let until = Instant::now() + PATIENCE;
    loop {
        match ask(ground, &Request::StartWorker(user.clone()))? {
            Reply::Started(uid) => {
                ask(ground, &Request::Stop(Unit::Worker(user.clone())))?;
                return Ok(uid);
            }
            Reply::Refused(Refusal::Failed(wire::Step::WaitForTurn) | Refusal::Busy(_)) if Instant::now() < until => {
                std::thread::sleep(PAUSE);
            }
            other => {
                return Err(format!("the launcher gives no uid ({other:?}); see `journalctl -u pi-gateway-launcher`"));
            }
        }
    }
}

fn ask(ground: &Ground, request: &Request) -> Result<Reply, String> {
    let socket = &ground.paths.launcher_socket;
    let exchange = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        stream.write_all(&wire::encode(request)?)?;
        wire::read(&mut stream)
    };
    // Whoever connects is who the launcher answers.
    let answered = ground.as_front(exchange)?;
    answered.map_err(|error| format!("{}: {error}; `systemctl status pi-gateway-launcher`", socket.display()))
}
