//! `pi-gateway users archive`: blocks a user and packs his workspace and session into one file.
//!
//! The archive is made in the user's sandbox and comes through a pipe; the file is root's, mode 0600, and gets its name
//! when it is whole and on the disk. A failure leaves the user blocked and no file.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use pi_gateway_helper::names::User;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::block::{Force, keep_out, wait};
use super::confined::Confined;
use super::{Ground, Trouble, table};
use crate::durable;
use crate::standing::{Standing, Why};
use crate::worker::once::Packed;

/// Packs a user.
///
/// # Errors
/// See [`Trouble`].
pub fn archive(ground: &Ground, user: &User, to: &Path) -> Result<String, Trouble> {
    let name = user.as_str();
    let uid = ground.uid(user)?.ok_or_else(|| format!("{name} has never had a run: there is nothing to pack"))?;
    let to = absolute(to)?;
    if fs::symlink_metadata(&to).is_ok() {
        return Err(Trouble::Failed(format!("{}: is there already; take another name", to.display())));
    }
    let why = ground.register().of(user).ok().flatten().map(|present| present.why);
    if let Some(why @ (Why::Removed | Why::Importing)) = why {
        return Err(Trouble::Failed(format!("{name} is {}: there is nothing to pack", why.word())));
    }
    let mut wanted = Standing::now(Why::Archived);
    wanted.file = Some(to.clone());
    let standing = keep_out(ground, user, wanted)?;
    if let Force::Refused(why) = wait(ground, user, &standing) {
        return Err(Trouble::Failed(format!("{name} is blocked and not packed: {why}, then run this again")));
    }
    let (bytes, packed) =
        pack(ground, user, uid, &to).map_err(|why| format!("{name} is blocked and not packed: {why}"))?;
    let (shown, size, entries) = (to.display(), table::size(bytes), packed.entries);
    let left_out = match packed.left_out {
        0 => String::new(),
        count => format!("\n{count} entries are not in it; its MISSING-FROM-THIS-ARCHIVE.txt names them"),
    };
    Ok(format!("{name} is blocked; {shown} has {entries} entries of his workspace and session, {size}{left_out}\n"))
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn pack(ground: &Ground, user: &User, uid: u32, to: &Path) -> Result<(u64, Packed), String> {
    let mut part = to.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let told = |error: io::Error| format!("{}: {error}", part.display());
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).map_err(told)?;
    let packed = fill(ground, user, uid, file).and_then(|packed| {
        // Nobody's file is replaced, whoever made it meanwhile.
        let named = renameat_with(CWD, &part, CWD, to, RenameFlags::NOREPLACE).map_err(io::Error::from);
        named.and_then(|()| durable::sync_directory(to.parent().unwrap_or(Path::new("/")))).map_err(told)?;
        Ok(packed)
    });
    if packed.is_err() {
        let _ = fs::remove_file(&part);
    }
    packed
}

fn fill(ground: &Ground, user: &User, uid: u32, mut file: File) -> Result<(u64, Packed), String> {
    let mut task = Confined::open(ground, user, uid)?.begin(user, "pack")?;
    let copied = task.out.take().map_or(Ok(0), |mut out| io::copy(&mut out, &mut file)).and_then(|bytes| {
        file.sync_all()?;
        Ok(bytes)
    });
    // The reason of a full disk is ours, and comes before what the worker says of its broken pipe.
    let ended = task.end();
    let bytes = copied.map_err(|error| format!("writing: {error}"))?;
    let packed =
        serde_json::from_str(&ended?).map_err(|error| format!("what the worker says is not understood: {error}"))?;
    Ok((bytes, packed))
}
