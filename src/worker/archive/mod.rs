//! Archives of a tree, written as it is walked: memory does not grow with the number or size of its files.
//!
//! A file's length is fixed when it is opened. What grows while it is read is cut there; what shrinks ends the archive
//! with an error, so that nobody takes it for whole. Regular files, directories and symbolic links are in it; a file with
//! several names is in it as often. FIFOs, sockets, devices, what its mode hides, files of almost nothing but holes
//! ([`MAX_HOLES`]) and paths over [`MAX_PATH`] are left out, and [`MISSING`] says which.

mod tar;
mod zip;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Stat, fstat};

use super::message::{Failure, Format};
use super::relpath::{RelPath, join};
use super::tree::{Tree, failure};
use super::walk::{Then, walk};

/// The file in an archive that says what is not in it.
pub const MISSING: &[u8] = b"MISSING-FROM-THIS-ARCHIVE.txt";
/// How much of that is written.
const MAX_MISSING: usize = 64 << 10;
/// How much of a file may be holes, which take nothing on the disk and hours in an archive. Bytes.
pub const MAX_HOLES: u64 = 16 << 30;
/// The longest path of an entry in bytes, for the slash behind a directory's: a zip has no room for more.
pub const MAX_PATH: usize = 65_534;
/// How much is read and written at a time.
const BUFFER: usize = 256 << 10;

/// What is to be archived.
pub enum Source {
    /// A directory, and the path that its entries have in the archive.
    Directory(OwnedFd, Vec<u8>),
    /// A file and its name.
    File(File, Vec<u8>),
}

/// How an archive went.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Files, directories and links in it.
    pub entries: u64,
    /// What is not in it.
    pub skipped: u64,
}

/// What an archive says of an entry beside its path and content.
#[derive(Debug, Clone, Copy)]
struct About {
    /// Permission bits.
    mode: u32,
    /// Length in bytes.
    size: u64,
    /// When its content was changed, in seconds since the epoch.
    modified: i64,
}

impl From<&Stat> for About {
    fn from(stat: &Stat) -> Self {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        About { mode: stat.st_mode & 0o777, size, modified: stat.st_mtime }
    }
}

/// The form of an archive: takes entries one after the other.
trait Form {
    fn directory(&mut self, path: &[u8], about: About) -> io::Result<()>;
    fn symlink(&mut self, path: &[u8], about: About, target: &[u8]) -> io::Result<()>;
    fn file(&mut self, path: &[u8], about: About, content: &mut dyn Read) -> io::Result<()>;
    fn finish(self: Box<Self>) -> io::Result<()>;
}

impl Source {
    /// What is at a path.
    ///
    /// # Errors
    /// When it is neither file nor directory.
    pub fn open(tree: &Tree, path: &RelPath) -> Result<Self, Failure> {
        let name = path.split().map_or(Vec::new(), |(_, name)| name.to_vec());
        match tree.open_file(path) {
            Ok((file, _)) => Ok(Source::File(file, name)),
            Err(Failure::IsADirectory) => Ok(Source::Directory(tree.directory(path)?, name)),
            Err(other) => Err(other),
        }
    }
}

/// Writes an archive.
///
/// # Errors
/// [`Failure::Torn`] when a file shrank while it was read, [`Failure::TooDeep`], or when `out` takes no more: the archive
/// is not whole then.
pub fn write(source: Source, format: Format, git: bool, out: &mut (impl Write + Send)) -> Result<Summary, Failure> {
    write_all(vec![source], format, git, out)
}

/// Writes an archive of several trees.
///
/// # Errors
/// Those of [`write`].
pub fn write_all(
    sources: Vec<Source>,
    format: Format,
    git: bool,
    out: &mut (impl Write + Send),
) -> Result<Summary, Failure> {
    let open = Cell::new(true);
    let out = Gate { out: BufWriter::with_capacity(BUFFER, out), open: &open };
    let mut form: Box<dyn Form + '_> = match format {
        Format::TarGz => Box::new(tar::gzip(out)),
        Format::TarZst => Box::new(tar::zstd(out).map_err(|error| broken(&error))?),
        Format::Zip => Box::new(zip::Zip::new(out)),
    };
    let filled = fill(form.as_mut(), sources, git);
    // What writes an archive ends it when it is dropped: with zeros, which could stand for the end of a file that shrank.
    open.set(filled.is_ok());
    let summary = filled?;
    form.finish().map_err(|error| broken(&error))?;
    Ok(summary)
}

fn fill(form: &mut dyn Form, sources: Vec<Source>, git: bool) -> Result<Summary, Failure> {
    let mut entries = 0;
    let left_out = RefCell::new(LeftOut::default());
    for source in sources {
        entries += take(form, source, git, &left_out)?;
    }
    let LeftOut { count, text } = left_out.into_inner();
    if !text.is_empty() {
        let now = jiff::Timestamp::now().as_second();
        let about = About { mode: 0o644, size: text.len() as u64, modified: now };
        form.file(MISSING, about, &mut text.as_slice()).map_err(|error| broken(&error))?;
    }
    Ok(Summary { entries, skipped: count })
}

/// Adds a tree or a file; gives how many entries that are.
fn take(form: &mut dyn Form, source: Source, git: bool, left_out: &RefCell<LeftOut>) -> Result<u64, Failure> {
    let mut entries = 0;
    match source {
        Source::File(file, name) => entries += u64::from(add(form, &name, file, left_out)?),
        Source::Directory(directory, prefix) => walk(
            directory,
            |met| {
                if met.is_reserved() || (met.name == c".git" && !git) {
                    return Ok(Then::Pass);
                }
                let path = join(&prefix, met.path);
                let leave_out = |why| {
                    left_out.borrow_mut().add(&path, why);
                    Ok(Then::Pass)
                };
                if path.len() > MAX_PATH {
                    return leave_out("its path is too long for an archive");
                }
                match met.kind() {
                    FileType::Directory => {
                        form.directory(&path, (&met.stat).into()).map_err(|error| broken(&error))?;
                        entries += 1;
                    }
                    FileType::Symlink => {
                        // It may be gone, or something else, by now.
                        let Ok(target) = met.target() else { return Ok(Then::Pass) };
                        form.symlink(&path, (&met.stat).into(), &target).map_err(|error| broken(&error))?;
                        entries += 1;
                    }
                    FileType::RegularFile => match met.open() {
                        Ok(file) => entries += u64::from(add(form, &path, file, left_out)?),
                        Err(Failure::NotFound) => {}
                        Err(Failure::Denied) => return leave_out("its mode does not let its owner read it"),
                        Err(_) => return leave_out("it changed at that moment"),
                    },
                    _ => return leave_out("no file, directory or link"),
                }
                Ok(Then::Enter)
            },
            |path, _| left_out.borrow_mut().add(&join(&prefix, path), "it cannot be read"),
        )?,
    }
    Ok(entries)
}

/// What is not in an archive, and why: all of it counted, some of it named.
#[derive(Default)]
struct LeftOut {
    count: u64,
    text: Vec<u8>,
}

impl LeftOut {
    fn add(&mut self, path: &[u8], why: &str) {
        self.count += 1;
        if self.text.len() < MAX_MISSING {
            // A path may be a mebibyte, and may hold line feeds.
            self.text.extend_from_slice(path[..path.len().min(4096)].escape_ascii().to_string().as_bytes());
            self.text.extend_from_slice(format!(": {why}\n").as_bytes());
        }
    }
}

/// Adds a file; false when it is left out.
fn add(form: &mut dyn Form, path: &[u8], file: File, left_out: &RefCell<LeftOut>) -> Result<bool, Failure> {
    let stat = fstat(&file).map_err(failure)?;
    let about = About::from(&stat);
    let on_disk = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    if about.size.saturating_sub(on_disk) > MAX_HOLES {
        left_out.borrow_mut().add(path, "it is almost nothing but holes");
        return Ok(false);
    }
    let mut content = Exactly { file, left: about.size };
    form.file(path, about, &mut content).map_err(|error| broken(&error))?;
    Ok(true)
}

/// Lets bytes through until it is shut.
struct Gate<'a, W> {
    out: W,
    open: &'a Cell<bool>,
}

impl<W: Write> Write for Gate<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.open.get() { self.out.write(bytes) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn broken(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Failure::Torn,
        io::ErrorKind::BrokenPipe => Failure::Unfit,
        _ => {
            tracing::warn!(%error, "an archive could not be completed");
            Failure::Failed
        }
    }
}

/// Reads exactly as much of a file as it had when it was opened.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(buffer.len()).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.file.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file shrank while it was read"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}
