//! The launcher's own start: it closes what is nobody else's, checks everything, brings up the relay, and only then is ready.

use std::fmt::Display;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::stat::{Mode, umask};
use sd_notify::NotifyState;
use tracing::{error, info};

use crate::launcher::Launcher;
use crate::settings::Settings;
use crate::systemd::Systemd;
use crate::uids::Registry;
use crate::{environment, relays, settings, sys, uids};

/// How long systemd may take with all that a start asks of it; the start itself has 30 s.
const PATIENCE: Duration = Duration::from_secs(25);
/// `EX_CONFIG` of sysexits.h: a restart changes nothing, the operator must.
const EX_CONFIG: u8 = 78;

/// Runs the launcher until it is ended; gives the exit status of a start that failed.
pub fn launcher_main() -> ExitCode {
    // Nothing that is made is for others unless it is said; nothing of this process is for a core dump.
    umask(Mode::from_bits_truncate(0o077));
    let listener = sys::passed_listener();
    // What is passed on to the programs started here is 0, 1 and 2, whatever else came along.
    let private = sys::close_at_exec().and(nix::sys::prctl::set_dumpable(false));
    let (options, facility) = (syslog_tracing::Options::LOG_PID, syslog_tracing::Facility::Daemon);
    if let Some(syslog) = syslog_tracing::Syslog::new(c"pi-gateway-launcher", options, facility) {
        // The time is syslog's own.
        let lines = tracing_subscriber::fmt().with_writer(syslog).with_ansi(false);
        lines.without_time().with_target(false).init();
    }
    let made = private.map_err(one("making the process private")).and_then(|()| prepare(listener));
    // A restart may change what happens to a launcher that was well prepared.
    let (status, told) = match made.map(|(launcher, listener)| operate(&launcher, &listener)) {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(told)) => (1, told),
        Err(mistakes) => (EX_CONFIG, mistakes),
    };
    for line in told.lines() {
        error!("{line}");
        eprintln!("pi-gateway-launcher: {line}");
    }
    ExitCode::from(status)
}

fn one<E: Display>(what: &str) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}

/// Checks everything; what an operator gets wrong is told at once, a line each.
fn prepare(listener: Option<UnixListener>) -> Result<(Launcher, UnixListener), String> {
    let machine = environment::machine(Systemd::within(PATIENCE));
    let steps = [environment::credential("OPENAI_API_KEY"), environment::configure()].into_iter();
    let wrong: Vec<String> = steps.filter_map(Result::err).chain(machine.clone().err()).collect();
    let version = machine.ok().filter(|_| wrong.is_empty()).ok_or(wrong.join("\n"))?;
    let settings = Settings::new(&environment::read_root_file(Path::new(settings::FILE), 0o022)?)?;
    let registry = Registry::open(Path::new(uids::REGISTRY)).map_err(one(uids::REGISTRY))?;
    for name in ["BASE_WORKDIR", "SESSION_DIR"] {
        registry.check(Path::new(settings.get(name))).map_err(one(name))?;
    }
    let front = nix::unistd::User::from_name("pi-gateway").ok().flatten();
    let front = front.ok_or("there is no user pi-gateway: `systemd-sysusers`")?;
    let listener = listener.ok_or("no socket was passed: `systemctl start pi-gateway-launcher.socket`")?;
    let front = (front.uid.into(), front.gid.into());
    let (starting, waiting) = Default::default();
    Ok((Launcher { settings, version, registry, front, starting, waiting }, listener))
}

/// Brings the relay up, says that all is ready, and serves.
fn operate(launcher: &Launcher, listener: &UnixListener) -> Result<(), String> {
    relays::ensure_model_relay(Systemd::within(PATIENCE)).map_err(one("starting the model relay"))?;
    let ready = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status("waiting for requests")]);
    info!(version = launcher.version, "ready");
    ready.and_then(|()| launcher.serve(listener)).map_err(one("serving"))
}
