//! `SITES_DIR`: who may do what there, and a user's directory in it.
//!
//! ```text
//! SITES_DIR/<user>/<generation>/   an exported site: a UUIDv7, so names sort by time
//! SITES_DIR/<user>/current         a symbolic link to the one that is served
//! SITES_DIR/<user>/.tmp-*          what is being made; what a death has left of it goes with the next export
//! ```
//!
//! A web server follows `current`, which is swapped in whole. The generation before stays, so that whoever is reading
//! it can finish. `SITES_DIR` has the set-group-id bit: the kernel gives its group to everything made below, which takes
//! neither a right nor a call.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{AccessFlags, Gid, Group, Uid, User as Account, access};
use uuid::Uuid;

use crate::durable::{self, TEMPORARY};

/// The front's account, and the group of those who may read sites.
const OWNER: &str = "pi-gateway";
const GROUP: &str = "pi-gateway-sites";
/// The mode of `SITES_DIR`.
const MODE: u32 = 0o2750;
/// The mode of directories in it, beside the bit they inherit.
const DIRECTORY: u32 = 0o750;
/// The link to what is served.
const CURRENT: &str = "current";
/// The front's unit.
const UNIT: &str = "pi-gateway.service";

/// Whether a directory can be `SITES_DIR`.
///
/// # Errors
/// What is wrong, with the command that sets it right.
pub fn judge(root: &Path) -> Result<(), String> {
    let owner = Account::from_name(OWNER).ok().flatten().map(|account| account.uid);
    let group = Group::from_name(GROUP).ok().flatten().map(|group| group.gid);
    match (owner, group) {
        (Some(owner), Some(group)) => judge_for(root, owner, group),
        _ => Err(format!("SITES_DIR: no account {OWNER} or no group {GROUP}: `systemd-sysusers pi-gateway.conf`")),
    }
}

fn judge_for(root: &Path, owner: Uid, group: Gid) -> Result<(), String> {
    let shown = root.display();
    let found = fs::symlink_metadata(root).map_err(|error| error.to_string());
    let good = found.as_ref().is_ok_and(|found| {
        let mode = found.mode() & 0o7777;
        found.is_dir() && found.uid() == owner.as_raw() && found.gid() == group.as_raw() && mode == MODE
    });
    if !good {
        let remedy = format!("`install -d -o {OWNER} -g {GROUP} -m {MODE:o} {shown}`");
        return Err(format!("SITES_DIR: must be a directory of {OWNER}:{GROUP} with mode {MODE:o}: {remedy}"));
    }
    for above in root.ancestors().skip(1) {
        let passable = fs::metadata(above).is_ok_and(|found| found.mode() & 0o001 != 0);
        if !passable {
            let above = above.display();
            return Err(format!("SITES_DIR: a web server cannot pass through {above}: `chmod o+x {above}`"));
        }
    }
    Ok(())
}

/// Whether this process may write there.
///
/// # Errors
/// The drop-in that lets it.
pub fn is_writable(root: &Path) -> Result<(), String> {
    access(root, AccessFlags::W_OK).map_err(|_| closed(root))
}

/// Whether the front's unit lets it write there, as systemd says.
///
/// # Errors
/// The drop-in that lets it.
pub fn is_open_to_the_front(root: &Path) -> Result<(), String> {
    let mut ask = Command::new("systemctl");
    ask.args(["show", "-P", "ReadWritePaths", UNIT]).stdin(Stdio::null()).stderr(Stdio::null());
    let paths = ask.output().map_err(|error| format!("SITES_DIR: systemctl: {error}"))?.stdout;
    let paths = String::from_utf8_lossy(&paths).into_owned();
    let open = paths.split_whitespace().any(|path| root.starts_with(path.trim_start_matches(['-', '+'])));
    if open { Ok(()) } else { Err(closed(root)) }
}

fn closed(root: &Path) -> String {
    let shown = root.display();
    format!(
        "SITES_DIR: {UNIT} may not write to {shown}: `systemctl edit pi-gateway`, enter\n[Service]\nReadWritePaths={shown}\n\
         and run `systemctl restart pi-gateway`"
    )
}

/// One user's directory.
pub struct Place(PathBuf);

impl Place {
    /// Makes it, if it is not there.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(root: &Path, user: &str) -> io::Result<Self> {
        let place = Place(root.join(user));
        match DirBuilder::new().mode(DIRECTORY).create(&place.0) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(place),
        }
    }

    /// Makes the directory that a generation is written to.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn begin(&self, generation: Uuid) -> io::Result<PathBuf> {
        let path = self.0.join(format!("{TEMPORARY}{generation}"));
        make_directory(&path)?;
        Ok(path)
    }

    /// Makes a generation that is complete the one that is served.
    ///
    /// # Errors
    /// When the disk refuses; what was served is served.
    pub fn publish(&self, generation: Uuid) -> io::Result<()> {
        let (name, link) = (generation.to_string(), self.0.join(format!("{TEMPORARY}{CURRENT}")));
        // All of it in one go: twenty thousand files are not synced one by one.
        let written = self.0.join(format!("{TEMPORARY}{generation}"));
        rustix::fs::syncfs(File::open(&written)?)?;
        fs::rename(written, self.0.join(&name))?;
        symlink(&name, &link)?;
        durable::sync_directory(&self.0)?;
        fs::rename(link, self.0.join(CURRENT))?;
        durable::sync_directory(&self.0)
    }

    /// Removes everything but what is served and the generation before it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn tidy(&self) -> io::Result<()> {
        let current = fs::read_link(self.0.join(CURRENT)).ok().and_then(|target| target.to_str().map(str::to_owned));
        let names = fs::read_dir(&self.0)?.map(|entry| entry.map(|entry| entry.file_name()));
        let names = names.collect::<io::Result<Vec<_>>>()?;
        let generations = names.iter().filter_map(|name| name.to_str().filter(|name| Uuid::try_parse(name).is_ok()));
        let before = generations.filter(|name| current.as_deref().is_some_and(|current| *name < current)).max();
        for name in &names {
            let kept = [Some(CURRENT), current.as_deref(), before].into_iter().flatten().any(|kept| name == kept);
            let path = self.0.join(name);
            match fs::symlink_metadata(&path)?.is_dir() {
                _ if kept => {}
                true => fs::remove_dir_all(path)?,
                false => fs::remove_file(path)?,
            }
        }
        Ok(())
    }
}

/// Removes a user's directory: what is served at once, then the rest.
///
/// # Errors
/// When the disk refuses.
pub fn remove(root: &Path, user: &str) -> io::Result<()> {
    let place = root.join(user);
    for removed in [fs::remove_file(place.join(CURRENT)), fs::remove_dir_all(&place)] {
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    durable::sync_directory(root)
}

/// Makes a directory that the group may read.
///
/// # Errors
/// When the disk refuses, or something is there.
pub fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIRECTORY).create(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn site(place: &Place, text: &str) -> Uuid {
        let generation = Uuid::now_v7();
        fs::write(place.begin(generation).unwrap().join("index.html"), text).unwrap();
        generation
    }

    fn names(place: &Place) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(&place.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_served_is_swapped_whole_and_the_generation_before_stays() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::open(dir.path(), "alice").unwrap();
        let mut made = Vec::new();
        for text in ["one", "two", "three"] {
            let generation = site(&place, text);
            place.publish(generation).unwrap();
            assert_eq!(fs::read_to_string(place.0.join("current/index.html")).unwrap(), text);
            place.tidy().unwrap();
            made.push(generation.to_string());
        }
        assert_eq!(names(&place), [made[1].as_str(), made[2].as_str(), CURRENT]);
    }

    #[test]
    fn what_a_death_leaves_at_any_step_is_removed_and_what_is_served_stays() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::open(dir.path(), "alice").unwrap();
        let served = site(&place, "served");
        place.publish(served).unwrap();
        // Half written; complete and renamed; linked and not swapped.
        site(&place, "half");
        let whole = site(&place, "whole");
        fs::rename(place.0.join(format!("{TEMPORARY}{whole}")), place.0.join(whole.to_string())).unwrap();
        symlink(whole.to_string(), place.0.join(format!("{TEMPORARY}{CURRENT}"))).unwrap();
        place.tidy().unwrap();
        assert_eq!(names(&place), [served.to_string().as_str(), CURRENT]);
        assert_eq!(fs::read_to_string(place.0.join("current/index.html")).unwrap(), "served");
        // Without anything that is served, nothing is worth keeping.
        fs::remove_file(place.0.join(CURRENT)).unwrap();
        place.tidy().unwrap();
        assert_eq!(names(&place), [""; 0]);
    }

    #[test]
    fn a_directory_that_others_could_read_or_nobody_reach_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let (owner, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let root = dir.path().join("sites");
        set(dir.path(), 0o711);
        assert!(judge_for(&root, owner, group).unwrap_err().contains("install -d"));
        fs::create_dir(&root).unwrap();
        for (mode, good) in [(0o2750, true), (0o750, false), (0o2755, false), (0o2770, false)] {
            set(&root, mode);
            assert_eq!(judge_for(&root, owner, group).is_ok(), good, "{mode:o}");
        }
        set(&root, 0o2750);
        assert!(judge_for(&root, Uid::from_raw(owner.as_raw() + 1), group).is_err());
        let link = dir.path().join("link");
        symlink(&root, &link).unwrap();
        assert!(judge_for(&link, owner, group).is_err());
        set(dir.path(), 0o700);
        assert!(judge_for(&root, owner, group).unwrap_err().contains("chmod o+x"));
        is_writable(&root).unwrap();
        assert!(is_writable(Path::new("/nonexistent")).unwrap_err().contains("ReadWritePaths=/nonexistent"));
    }
}
