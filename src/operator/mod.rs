//! The operator's commands about users and runs: `pi-gateway users`, `runs` and `import`. Run as root.
//!
//! Root follows no path that somebody else can change: what the front keeps is read with the front's own rights
//! ([`Ground::as_front`]), a user's tree is looked at, packed and emptied by a program of ours in his worker's sandbox
//! ([`confined`]). Every failure is a line that says what to do, and status 1; a wrong configuration is status 78.

pub mod archive;
pub mod block;
pub mod confined;
pub mod import;
pub mod remove;
pub mod runs;
pub mod table;
pub mod users;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::unistd::{Gid, Uid, User as Account, geteuid, setegid, seteuid};
use pi_gateway_helper::names::User;

use crate::config::values::Values;
use crate::config::{EX_CONFIG, Mistakes, Paths};
use crate::owners;
use crate::runs::store::Store;
use crate::standing::Register;

/// The front's account.
const FRONT: &str = "pi-gateway";

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub enum Trouble {
    /// The configuration is wrong.
    Config(Mistakes),
    /// A step failed, or is not possible; what to do is told with it.
    Failed(String),
}

impl From<String> for Trouble {
    fn from(told: String) -> Self {
        Trouble::Failed(told)
    }
}

impl Trouble {
    /// Tells it, and gives the exit status.
    pub fn tell(&self) -> ExitCode {
        match self {
            Trouble::Config(mistakes) => {
                eprint!("pi-gateway: the configuration is wrong:\n{mistakes}");
                ExitCode::from(EX_CONFIG)
            }
            Trouble::Failed(told) => {
                eprintln!("pi-gateway: {told}");
                ExitCode::FAILURE
            }
        }
    }
}

/// What every command works with.
pub struct Ground {
    /// The configuration.
    pub values: Values,
    /// Where things are.
    pub paths: Paths,
    /// uid and gid of the front.
    pub front: (u32, u32),
}

impl Ground {
    /// Reads the configuration.
    ///
    /// # Errors
    /// That it is wrong, or that this is not root.
    pub fn open(file: &Path) -> Result<Self, Trouble> {
        if !geteuid().is_root() {
            return Err(Trouble::Failed("this command must be run as root".to_owned()));
        }
        let (values, _) = Values::load(file).map_err(Trouble::Config)?;
        let account = Account::from_name(FRONT).ok().flatten();
        let account = account.ok_or_else(|| format!("there is no user {FRONT}: `systemd-sysusers pi-gateway.conf`"))?;
        Ok(Ground { values, paths: Paths::default(), front: (account.uid.as_raw(), account.gid.as_raw()) })
    }

    /// The front's store, to be looked at.
    pub fn store(&self) -> Store {
        Store::look(&self.paths.state)
    }

    /// Who is kept out.
    pub fn register(&self) -> Register {
        Register::new(&self.paths.standing)
    }

    /// Does something with the front's rights: what it keeps could hold links to what only root may read.
    ///
    /// # Errors
    /// When the rights cannot be changed.
    pub fn as_front<T>(&self, work: impl FnOnce() -> T) -> Result<T, String> {
        let told = |error: nix::Error| format!("taking the rights of {FRONT}: {error}");
        let (uid, gid) = (Uid::from_raw(self.front.0), Gid::from_raw(self.front.1));
        setegid(gid).and_then(|()| seteuid(uid)).map_err(told)?;
        let done = work();
        seteuid(Uid::from_raw(0)).and_then(|()| setegid(Gid::from_raw(0))).map_err(told)?;
        Ok(done)
    }

    /// Everybody who has a uid, with it.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub fn uids(&self) -> Result<Vec<(User, u32)>, String> {
        owners::registry(&self.paths.registry).map_err(|error| format!("{}: {error}", self.paths.registry.display()))
    }

    /// A user's uid, if he has one.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub fn uid(&self, user: &User) -> Result<Option<u32>, String> {
        Ok(self.uids()?.into_iter().find_map(|(known, uid)| (known == *user).then_some(uid)))
    }

    /// Where the users' directories are: of workspaces, of sessions.
    pub fn parents(&self) -> [&Path; 2] {
        ["BASE_WORKDIR", "SESSION_DIR"].map(|name| Path::new(self.values.get(name)))
    }
}

/// Takes a user's name as an operator types it.
///
/// # Errors
/// What is wrong with it.
pub fn name(text: &str) -> Result<User, String> {
    User::parse(&text.to_ascii_lowercase()).map_err(|error| format!("{text}: {error}"))
}

/// Whether a unit is up.
pub fn is_up(unit: &str) -> bool {
    let mut ask = Command::new("/usr/bin/systemctl");
    let asked = ask.args(["is-active", "--quiet", unit]).stdin(Stdio::null()).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}
