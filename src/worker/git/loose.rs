//! Writes blobs as loose objects, as `git add` does. libgit2 does so too, but asks three times for each whether it is there,
//! looks for new packs, and sets its compressor up anew: with many new files that is a good part of a snapshot.
//!
//! An object is there whole or not at all: it is written under another name and renamed. What a killed worker leaves begins
//! with `tmp_`, and the next one removes it. Nobody else is at work in the repository.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use flate2::{Compress, Compression, FlushCompress, Status};
use git2::{ObjectType, Odb, OdbLookupFlags, Oid};
use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::message::Failure;
use super::repository::Repository;
use super::{broken, failed, refused};
use crate::worker::message::Failure as TreeFailure;
use crate::worker::relpath::RelPath;
use crate::worker::tree::failure;

const STEP: &str = "writing an object";
/// What an object is called that is being written.
const TEMPORARY: &str = "tmp_obj_gateway";

/// The loose objects of a repository.
pub struct Loose<'a> {
    repository: &'a Repository<'a>,
    odb: Odb<'a>,
    /// By the first byte of an id; opened when first needed.
    directories: Vec<Option<OwnedFd>>,
    compressor: Compress,
    packed: Vec<u8>,
}

impl<'a> Loose<'a> {
    /// Those of a repository, which is also asked for what it has.
    pub fn of(repository: &'a Repository<'a>, odb: Odb<'a>) -> Self {
        let directories = std::iter::repeat_with(|| None).take(256).collect();
        // As git does it: what is written once and seldom read is not worth more.
        let compressor = Compress::new(Compression::fast(), true);
        Loose { repository, odb, directories, compressor, packed: Vec::new() }
    }

    /// The database that it belongs to.
    pub fn odb(&self) -> &Odb<'a> {
        &self.odb
    }

    /// Writes a blob that is not there yet; gives its id.
    ///
    /// # Errors
    /// When it cannot be written: no room is left, or the repository was changed from outside.
    pub fn write(&mut self, bytes: &[u8]) -> Result<Oid, Failure> {
        let id = Oid::hash_object(ObjectType::Blob, bytes).map_err(failed(STEP))?;
        if self.odb.exists_ext(id, OdbLookupFlags::NO_REFRESH) {
            return Ok(id);
        }
        self.pack(bytes).map_err(broken(STEP))?;
        let name = id.to_string();
        let (first, rest) = name.split_at(2);
        let place = usize::from_str_radix(first, 16).map_err(|error| Failure::new("git_failed", error))?;
        if self.directories.get(place).is_none_or(Option::is_none) {
            let opened = self.directory(first).map_err(refused(STEP))?;
            if let Some(directory) = self.directories.get_mut(place) {
                *directory = Some(opened);
            }
        }
        let Some(Some(directory)) = self.directories.get(place) else {
            return Err(Failure::new("git_failed", format_args!("{STEP}: there is no place for {name}")));
        };
        put(directory, rest, &self.packed).map_err(|error| refused(STEP)(failure(error)))?;
        Ok(id)
    }

    fn directory(&self, first: &str) -> Result<OwnedFd, TreeFailure> {
        let path = RelPath::parse(format!(".git/objects/{first}").into_bytes())?;
        match self.repository.tree.directory(&path) {
            Err(TreeFailure::NotFound) => {
                self.repository.tree.make_directory(&path)?;
                self.repository.tree.directory(&path)
            }
            opened => opened,
        }
    }

    /// The form that objects have on the disk.
    fn pack(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.compressor.reset();
        self.packed.clear();
        for (mut part, flush) in
            [(format!("blob {}\0", bytes.len()).as_bytes(), FlushCompress::None), (bytes, FlushCompress::Finish)]
        {
            loop {
                self.packed.reserve(part.len() + 256);
                let before = self.compressor.total_in();
                let status = self.compressor.compress_vec(part, &mut self.packed, flush)?;
                let taken = usize::try_from(self.compressor.total_in() - before).unwrap_or(part.len());
                part = &part[taken.min(part.len())..];
                let done =
                    if matches!(flush, FlushCompress::Finish) { status == Status::StreamEnd } else { part.is_empty() };
                if done {
                    break;
                }
            }
        }
        Ok(())
    }
}

fn put(directory: &OwnedFd, name: &str, bytes: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let create = || openat(directory, TEMPORARY, flags, Mode::RUSR | Mode::RGRP | Mode::ROTH);
    let file = match create() {
        Err(Errno::EXIST) => {
            unlinkat(directory, TEMPORARY, AtFlags::empty())?;
            create()
        }
        created => created,
    }?;
    let written = File::from(file).write_all(bytes);
    written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    renameat(directory, TEMPORARY, directory, name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::worker::git::message::Settings;
    use crate::worker::git::repository;
    use crate::worker::tree::Tree;

    #[test]
    fn what_is_written_is_read_by_libgit2_whatever_its_size_and_form() {
        let place = tempfile::tempdir().unwrap();
        let (inside, scratch) = (place.path().join("inside"), place.path().join("scratch"));
        std::fs::create_dir(&inside).unwrap();
        let tree = Tree::open(&inside).unwrap();
        let [branch, initial_message, author, email] = ["main", "", "a", "a@b"].map(str::to_owned);
        let settings = Settings { init: true, branch, initial_message, author, email, quota: u64::MAX, remote: None };
        let repository = repository::open(&tree, &settings, &scratch).unwrap().unwrap();
        let mut loose = Loose::of(&repository, repository.git.odb().unwrap());
        let mut noise = 1_u32;
        let random: Vec<u8> = std::iter::repeat_with(|| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            noise.to_le_bytes()[3]
        })
        .take(1 << 20)
        .collect();
        let contents = [b"".as_slice(), b"a", b"hello\n", &[0; 70_000], &random, &random[..65_535], &random[..4096]];
        for bytes in contents {
            let id = loose.write(bytes).unwrap();
            assert_eq!(loose.write(bytes).unwrap(), id, "twice is once");
            let read = repository.git.find_blob(id).unwrap();
            assert!(read.content() == bytes, "{} bytes", bytes.len());
            // What a killed worker has left in the way is no obstacle.
            std::fs::write(inside.join(format!(".git/objects/{}/{TEMPORARY}", &id.to_string()[..2])), "torn").unwrap();
        }
        let told = std::process::Command::new("git").args(["fsck", "--strict"]).current_dir(&inside).output().unwrap();
        assert!(told.status.success(), "{told:?}");
    }
}
