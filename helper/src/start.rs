//! The launcher's own start: it makes itself small, checks everything, brings up the relay, and only then is ready.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::stat::{Mode, umask};
use sd_notify::NotifyState;
use tracing::{error, info};

use crate::launcher::Launcher;
use crate::settings::Settings;
use crate::uids::Registry;
use crate::{environment, relays, settings, sys};

/// The registry of uids.
const REGISTRY: &str = "/var/lib/pi-gateway/uids";
/// `EX_CONFIG` of sysexits.h: a restart changes nothing, the operator must.
const EX_CONFIG: u8 = 78;

/// Runs the launcher until it is ended; gives the exit status of a start that failed.
pub fn launcher_main() -> ExitCode {
    // Nothing that is made is for others unless it is said; nothing of this process is for a core dump.
    umask(Mode::from_bits_truncate(0o077));
    let listener = sys::passed_listener();
    let closed = sys::close_from(if listener.is_some() { 4 } else { 3 }, false);
    let private = closed.and(nix::sys::prctl::set_dumpable(false));
    let (options, facility) = (syslog_tracing::Options::LOG_PID, syslog_tracing::Facility::Daemon);
    if let Some(syslog) = syslog_tracing::Syslog::new(c"pi-gateway-launcher", options, facility) {
        // The time is syslog's own.
        tracing_subscriber::fmt().with_writer(syslog).with_ansi(false).without_time().with_target(false).init();
    }
    let started = match private {
        Ok(()) => start(listener),
        Err(error) => Err(vec![format!("making the process private: {error}")]),
    };
    let Err(mistakes) = started else { return ExitCode::SUCCESS };
    for mistake in mistakes {
        error!("{mistake}");
        eprintln!("pi-gateway-launcher: {mistake}");
    }
    ExitCode::from(EX_CONFIG)
}

fn start(listener: Option<UnixListener>) -> Result<(), Vec<String>> {
    let (version, mut mistakes) = environment::machine();
    mistakes.extend(environment::credential("OPENAI_API_KEY").err());
    mistakes.extend(environment::configure().err());
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let text = environment::read_root_file(Path::new(settings::FILE), 0o022).map_err(|mistake| vec![mistake])?;
    let settings = Settings::new(&text)?;
    serve(listener, version, settings).map_err(|mistake| vec![mistake])
}

fn serve(listener: Option<UnixListener>, version: u32, settings: Settings) -> Result<(), String> {
    let front = nix::unistd::User::from_name("pi-gateway").ok().flatten();
    let front = front.ok_or("there is no user pi-gateway: `systemd-sysusers`")?;
    let listener = listener.ok_or("no socket was passed: `systemctl start pi-gateway-launcher.socket`")?;
    let registry = Registry::open(Path::new(REGISTRY)).map_err(|error| format!("the registry of uids: {error}"))?;
    for name in ["BASE_WORKDIR", "SESSION_DIR"] {
        registry.check(Path::new(settings.get(name))).map_err(|error| format!("{name}: {error}"))?;
    }
    drop_capabilities().map_err(|error| format!("dropping capabilities: {error}"))?;
    relays::ensure_model_relay().map_err(|error| format!("starting the model relay: {error}"))?;
    let front = (front.uid.as_raw(), front.gid.as_raw());
    let launcher =
        Launcher { settings, version, registry, front, starting: Mutex::new(()), waiting: AtomicUsize::new(0) };
    let ready = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status("waiting for requests")]);
    info!(version, "ready");
    ready.and_then(|()| launcher.serve(&listener)).map_err(|error| format!("serving: {error}"))
}

/// Keeps CAP_CHOWN, which giving a user his directories needs, and nothing else. Under its unit nothing is left to drop,
/// and capset is not allowed.
fn drop_capabilities() -> Result<(), caps::errors::CapsError> {
    let keep: CapsHashSet = [Capability::CAP_CHOWN].into_iter().collect();
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        let held = caps::read(None, set)?;
        if !held.is_subset(&keep) {
            caps::set(None, set, &held.intersection(&keep).copied().collect())?;
        }
    }
    Ok(())
}
