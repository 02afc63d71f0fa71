//! The launcher's own start: it makes itself small, checks everything, brings up the relay, and only then is ready.

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::stat::{Mode, umask};
use sd_notify::NotifyState;
use tracing::{error, info};

use crate::launcher::{self, Launcher};
use crate::uids::Registry;
use crate::{environment, relays, settings, sys, systemd};

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
    let private = nix::sys::prctl::set_dumpable(false);
    log_to_syslog();
    match closed
        .and(private)
        .map_err(|error| vec![format!("making the process private: {error}")])
        .and_then(|()| start(listener))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(mistakes) => {
            for mistake in &mistakes {
                error!("{mistake}");
                eprintln!("pi-gateway-launcher: {mistake}");
            }
            ExitCode::from(EX_CONFIG)
        }
    }
}

fn log_to_syslog() {
    let (options, facility) = (syslog_tracing::Options::LOG_PID, syslog_tracing::Facility::Daemon);
    if let Some(syslog) = syslog_tracing::Syslog::new(c"pi-gateway-launcher", options, facility) {
        // The time and the program are syslog's own.
        tracing_subscriber::fmt()
            .with_writer(syslog)
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .init();
    }
}

fn start(listener: Option<std::os::unix::net::UnixListener>) -> Result<(), Vec<String>> {
    let (version, mut mistakes) = environment::machine();
    let configured = environment::configuration(Path::new(settings::FILE));
    mistakes.extend(environment::credential("OPENAI_API_KEY").err());
    let listener =
        listener.ok_or("no socket was passed: `systemctl start pi-gateway-launcher.socket`".to_owned());
    let front = nix::unistd::User::from_name("pi-gateway").ok().flatten();
    let front = front.ok_or("there is no user pi-gateway: `systemd-sysusers`".to_owned());
    mistakes.extend(listener.as_ref().err().cloned());
    mistakes.extend(front.as_ref().err().cloned());
    let (variables, settings) = match configured {
        Ok(configured) => configured,
        Err(more) => {
            mistakes.extend(more);
            return Err(mistakes);
        }
    };
    let registry = Registry::open(Path::new(REGISTRY)).and_then(|registry| {
        registry.check(&settings.base_workdir)?;
        registry.check(&settings.session_dir)?;
        Ok(registry)
    });
    let registry = registry.map_err(|error| format!("the registry of uids: {error}"));
    mistakes.extend(registry.as_ref().err().cloned());
    let (true, Ok(listener), Ok(front), Ok(registry)) = (mistakes.is_empty(), listener, front, registry)
    else {
        return Err(mistakes);
    };
    let one = |mistake: String| vec![mistake];
    drop_capabilities().map_err(|error| one(format!("dropping capabilities: {error}")))?;
    relays::ensure_model_relay(&variables).map_err(|systemd::Ask(error)| {
        one(format!("starting the model relay: {error}; see `journalctl -u {}`", crate::units::MODEL_RELAY))
    })?;
    let front = (front.uid.as_raw(), front.gid.as_raw());
    let limit = settings.max_concurrent_runs;
    let launcher = Launcher { settings, version, registry, front, starting: Mutex::new(()) };
    let status = format!("up to {limit} agents");
    sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)])
        .map_err(|error| one(format!("telling systemd: {error}")))?;
    info!(version, limit, "ready");
    launcher::serve(&Arc::new(launcher), &listener)
        .map_err(|error| one(format!("waiting for requests: {error}")))
}

/// Keeps CAP_CHOWN, which giving a user his directories needs, and nothing else.
fn drop_capabilities() -> Result<(), caps::errors::CapsError> {
    let keep: CapsHashSet = [Capability::CAP_CHOWN].into_iter().collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    for capability in caps::read(None, CapSet::Bounding)? {
        if !keep.contains(&capability) && caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)
}
