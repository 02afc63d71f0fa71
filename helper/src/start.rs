//! The launcher's own start: it makes itself small, checks everything, brings up the relay, and only then is ready.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;

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
        tracing_subscriber::fmt()
            .with_writer(syslog)
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .init();
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
    let settings = environment::read_root_file(Path::new(settings::FILE), 0o022)
        .map_err(|mistake| vec![mistake])
        .and_then(|text| Settings::new(&text));
    let front = nix::unistd::User::from_name("pi-gateway").ok().flatten();
    if front.is_none() {
        mistakes.push("there is no user pi-gateway: `systemd-sysusers`".to_owned());
    }
    if listener.is_none() {
        mistakes.push("no socket was passed: `systemctl start pi-gateway-launcher.socket`".to_owned());
    }
    let opened = settings.and_then(|settings| match open_registry(&settings) {
        Ok(registry) => Ok((settings, registry)),
        Err(error) => Err(vec![format!("the registry of uids: {error}")]),
    });
    let (settings, registry, listener, front) = match (opened, listener, front) {
        (Ok((settings, registry)), Some(listener), Some(front)) if mistakes.is_empty() => {
            (settings, registry, listener, front)
        }
        (opened, _, _) => {
            mistakes.extend(opened.err().unwrap_or_default());
            return Err(mistakes);
        }
    };
    let told = |what: &str, error: &dyn std::fmt::Display| vec![format!("{what}: {error}")];
    drop_capabilities().map_err(|error| told("dropping capabilities", &error))?;
    relays::ensure_model_relay().map_err(|error| told("starting the model relay", &error.0))?;
    let launcher = Launcher {
        settings,
        version,
        registry,
        front: (front.uid.into(), front.gid.into()),
        starting: Mutex::new(()),
    };
    let ready = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status("waiting for requests")]);
    info!(version, "ready");
    ready.and_then(|()| launcher.serve(&listener)).map_err(|error| told("serving", &error))
}

fn open_registry(settings: &Settings) -> std::io::Result<Registry> {
    let registry = Registry::open(Path::new(REGISTRY))?;
    registry.check(Path::new(settings.get("BASE_WORKDIR")))?;
    registry.check(Path::new(settings.get("SESSION_DIR")))?;
    Ok(registry)
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
