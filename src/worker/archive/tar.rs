//! tar, compressed. Long names and large files in GNU's way, which every tar of today reads. Owners are nobody's: who
//! unpacks it owns it.
//!
//! Names and targets are written here, byte for byte: the library tidies paths (`a//b` becomes `a/b`), and refuses long
//! ones that do not begin with UTF-8.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

use super::{About, Form};

/// What ends the compression.
trait Compressor: Write {
    fn end(self) -> io::Result<()>;
}

impl<W: Write> Compressor for GzEncoder<W> {
    fn end(self) -> io::Result<()> {
        self.finish()?.flush()
    }
}

impl<W: Write> Compressor for zstd::Encoder<'_, W> {
    fn end(self) -> io::Result<()> {
        self.finish()?.flush()
    }
}

struct Tar<C: Compressor>(Builder<C>);

/// A tar in gzip.
pub(super) fn gzip<'a>(out: impl Write + 'a) -> impl Form + 'a {
    Tar(Builder::new(GzEncoder::new(out, Compression::default())))
}

/// A tar in zstd, compressed by as many threads as there are processors.
pub(super) fn zstd<'a>(out: impl Write + 'a) -> io::Result<impl Form + 'a> {
    let mut encoder = zstd::Encoder::new(out, zstd::DEFAULT_COMPRESSION_LEVEL)?;
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(4));
    encoder.multithread(u32::try_from(threads).unwrap_or(1))?;
    Ok(Tar(Builder::new(encoder)))
}

fn header(kind: EntryType, about: About) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(about.mode);
    header.set_mtime(u64::try_from(about.modified).unwrap_or(0));
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(if kind == EntryType::Regular { about.size } else { 0 });
    header
}

/// What GNU's tar calls the entries that hold a long name.
const LONG: &[u8] = b"././@LongLink";

impl<C: Compressor> Tar<C> {
    /// Puts a name into a field of a header, or before it into an entry of its own if it is too long.
    fn name(&mut self, kind: EntryType, name: &[u8], field: &mut [u8; 100]) -> io::Result<()> {
        if name.len() > field.len() {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..LONG.len()].copy_from_slice(LONG);
            header.set_entry_type(kind);
            header.set_mode(0o644);
            header.set_size(name.len() as u64 + 1);
            header.set_cksum();
            self.0.append(&header, name.chain(&[0][..]))?;
        }
        let fits = name.len().min(field.len());
        field[..fits].copy_from_slice(&name[..fits]);
        Ok(())
    }

    fn entry(&mut self, at: &[u8], mut header: Header, content: impl Read) -> io::Result<()> {
        self.name(EntryType::GNULongName, at, &mut header.as_old_mut().name)?;
        header.set_cksum();
        self.0.append(&header, content)
    }
}

impl<C: Compressor> Form for Tar<C> {
    fn directory(&mut self, at: &[u8], about: About) -> io::Result<()> {
        self.entry(&[at, b"/"].concat(), header(EntryType::Directory, about), io::empty())
    }

    fn symlink(&mut self, at: &[u8], about: About, target: &[u8]) -> io::Result<()> {
        let mut header = header(EntryType::Symlink, about);
        self.name(EntryType::GNULongLink, target, &mut header.as_old_mut().linkname)?;
        self.entry(at, header, io::empty())
    }

    fn file(&mut self, at: &[u8], about: About, content: &mut dyn Read) -> io::Result<()> {
        self.entry(at, header(EntryType::Regular, about), content)
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.0.into_inner()?.end()
    }
}
