//! The launcher's own start: it closes what is nobody else's, checks everything, brings up the relays, and only then is
//! ready.
//!
//! A relay that is up is left alone: it carries other people's streams. It is restarted, with its descriptor store kept,
//! only when its configuration or its credential is not the one it was last started with. Which that was stands in a
//! stamp beside the configuration; no clocks are compared, so a change in the very moment of a start is seen as well.

use std::convert::Infallible;
use std::fmt::Display;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::{fs, io};

use nix::sys::stat::{Mode, umask};
use nix::unistd::User;
use sd_notify::NotifyState;
use tracing::{error, info};

use crate::launcher::Launcher;
use crate::settings::Settings;
use crate::systemd::Systemd;
use crate::uids::Registry;
use crate::units::{self, Relay};
use crate::wire::Activity;
use crate::{environment, files, sys, uids};

/// How long systemd may take with all that a start asks of it; the start itself has 30 s.
const PATIENCE: Duration = Duration::from_secs(25);
/// `EX_CONFIG` of sysexits.h: a restart changes nothing, the operator must.
const EX_CONFIG: u8 = 78;

/// Runs the launcher until it is ended; gives the exit status of a start that failed.
pub fn launcher_main() -> ExitCode {
    // Nothing that is made is for others unless it is said; nothing of this process is for a core dump.
    umask(Mode::from_bits_truncate(0o077));
    let listeners = sys::passed_listeners();
    // What is passed on to the programs started here is 0, 1 and 2, whatever else came along.
    let private = sys::close_at_exec().and(nix::sys::prctl::set_dumpable(false));
    let (options, facility) = (syslog_tracing::Options::LOG_PID, syslog_tracing::Facility::Daemon);
    if let Some(syslog) = syslog_tracing::Syslog::new(c"pi-gateway-launcher", options, facility) {
        // The time is syslog's own.
        let lines = tracing_subscriber::fmt().with_writer(syslog).with_ansi(false);
        lines.without_time().with_target(false).init();
    }
    let made = private.map_err(one("making the process private")).and_then(|()| prepare(&listeners));
    // A restart may change what happens to a launcher that was well prepared.
    let (status, told) = match made.map(|launcher| operate(&launcher, &listeners)) {
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

/// Checks everything; what an operator gets wrong in the configuration is told at once, a line each.
fn prepare(listeners: &[UnixListener]) -> Result<Launcher, String> {
    let version = environment::machine(Systemd::within(PATIENCE))?;
    let settings = Settings::new(&environment::configure()?)?;
    let registry = Registry::open(Path::new(uids::REGISTRY)).map_err(one(uids::REGISTRY))?;
    listeners.first().ok_or("no socket was passed: `systemctl start pi-gateway-launcher.socket`")?;
    let ids = |name: &str| match User::from_name(name) {
        Ok(Some(user)) => Ok((user.uid.into(), user.gid.into())),
        _ => Err(format!("there is no user {name}: `systemd-sysusers`")),
    };
    let (front, (relay, _)) = (ids("pi-gateway")?, ids("pi-gateway-model")?);
    let (starting, waiting) = Default::default();
    Ok(Launcher { settings, version, registry, front, relay, starting, waiting })
}

/// Brings the relays up, or down, says that all is ready, and serves until that fails; tells why.
fn operate(launcher: &Launcher, listeners: &[UnixListener]) -> Result<Infallible, String> {
    let is = |name, value| launcher.settings.get(name) == value;
    let git = (&units::GIT, is("WORKSPACE_REMOTE_MODE", "gitea"));
    let egress = (&units::EGRESS, is("SANDBOX_INTERNET_ENABLED", "true"));
    for (relay, wanted) in [(&units::MODEL, true), git, egress] {
        let told = format!("starting or stopping the {} relay", relay.0);
        ensure(Systemd::within(PATIENCE), relay, wanted).map_err(one(&told))?;
    }
    let ready = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status("waiting for requests")]);
    info!(version = launcher.version, "ready");
    ready.and_then(|()| launcher.serve(listeners)).map_err(one("serving"))
}

/// Which file this is and when it was changed last; a copied file may bring an old modification time along.
fn stamp(path: &str) -> String {
    fs::metadata(path)
        .map_or("none".to_owned(), |file| format!("{} {}.{}", file.ino(), file.ctime(), file.ctime_nsec()))
}

/// Makes sure that a relay is up with the present configuration, or down when it is not wanted.
fn ensure(systemd: Systemd, relay: &Relay, wanted: bool) -> io::Result<()> {
    let unit = units::relay(relay);
    // What it is configured with; `pi-gateway check --write` makes the first when it changes.
    let settings = format!("/run/pi-gateway/config/relay-{}.env", relay.0);
    let credential = relay.1.map(|name| format!("/etc/pi-gateway/credentials/{name}"));
    // systemd starts no unit whose credential is absent. An empty one is for the relay to judge, which may need none.
    let _ = wanted && credential.as_ref().is_some_and(|path| files::create(Path::new(path)).is_ok());
    let present =
        [Some(settings.clone()), credential].map(|path| path.map_or(String::new(), |path| stamp(&path))).join(" ");
    let started_with = Path::new(&settings).with_extension("stamp");
    let same = fs::read_to_string(&started_with).is_ok_and(|known| known == present);
    match systemd.show(&unit)?.activity {
        _ if !wanted => return systemd.manage("stop", &unit),
        Activity::Active | Activity::Activating if same => return Ok(()),
        Activity::Inactive => systemd.run(&units::relay_argv(relay)),
        Activity::Failed => systemd.manage("reset-failed", &unit).and_then(|()| systemd.run(&units::relay_argv(relay))),
        _ => systemd.manage("restart", &unit),
    }?;
    // Only now: a launcher that dies before has the next one restart the relay once too often, never too seldom.
    files::publish(&started_with, &present)
}
