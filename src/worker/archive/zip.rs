//! zip, written as a stream (PKWARE's APPNOTE 6.3.10; the numbers in the comments are its sections).
//!
//! Our own, because the libraries for it keep a record of every entry in memory until the end: a million files take them
//! hundreds of megabytes. Here the central directory is kept compressed, some ten bytes an entry.

use std::io::{self, Read, Write};

use flate2::write::{DeflateDecoder, DeflateEncoder};
use flate2::{Compression, Crc};

use super::{About, BUFFER, Form};

/// From this length on a file is given 64-bit fields; deflate makes nothing larger by as much as the rest.
const LARGE: u64 = 0xfff0_0000;
const MAX_32: u64 = 0xffff_ffff;
const MAX_16: u64 = 0xffff;
/// 4.4.3: what is needed to read it: 2.0, and 4.5 for 64-bit fields.
const VERSION: u16 = 20;
const VERSION_64: u16 = 45;
/// 4.4.2: made on Unix, so that the upper half of the external attributes is a mode.
const MADE_BY: u16 = 3 << 8 | 63;
/// 4.4.4: lengths and checksum follow the content; the name is UTF-8.
const FOLLOWS: u16 = 1 << 3;
const UTF8: u16 = 1 << 11;
/// 4.4.5
const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// Counts what is written.
struct Counted<W> {
    out: W,
    count: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// An entry as the central directory has it.
struct Record<'a> {
    name: &'a [u8],
    mode: u32,
    modified: i64,
    flags: u16,
    method: u16,
    crc: u32,
    compressed: u64,
    size: u64,
    offset: u64,
}

/// A zip that is being written.
pub(super) struct Zip<W: Write> {
    out: Counted<W>,
    /// The central directory, compressed.
    directory: DeflateEncoder<Vec<u8>>,
    entries: u64,
}

impl<W: Write> Zip<W> {
    pub(super) fn new(out: W) -> Self {
        let directory = DeflateEncoder::new(Vec::new(), Compression::fast());
        Zip { out: Counted { out, count: 0 }, directory, entries: 0 }
    }

    fn name_flags(name: &[u8]) -> u16 {
        if std::str::from_utf8(name).is_ok() { UTF8 } else { 0 }
    }

    /// 4.3.7, for content that is known; 4.3.9 follows when it is not.
    fn local(&mut self, record: &Record<'_>, large: bool) -> io::Result<()> {
        let known = record.flags & FOLLOWS == 0;
        let lengths = match (known, large) {
            (true, _) => [number(record.compressed)?, number(record.size)?],
            (false, true) => [u32::MAX; 2],
            (false, false) => [0; 2],
        };
        let mut extra = timestamp(record.modified);
        if large {
            // 4.5.3; the lengths themselves follow the content.
            extra.extend([1, 0, 16, 0]);
            extra.extend([0; 16]);
        }
        let mut bytes = b"PK\x03\x04".to_vec();
        bytes.extend((if large { VERSION_64 } else { VERSION }).to_le_bytes());
        bytes.extend(record.flags.to_le_bytes());
        bytes.extend(record.method.to_le_bytes());
        bytes.extend(dos_time(record.modified).to_le_bytes());
        bytes.extend((if known { record.crc } else { 0 }).to_le_bytes());
        bytes.extend(lengths[0].to_le_bytes());
        bytes.extend(lengths[1].to_le_bytes());
        bytes.extend(short(record.name.len())?.to_le_bytes());
        bytes.extend(short(extra.len())?.to_le_bytes());
        bytes.extend(record.name);
        bytes.extend(extra);
        self.out.write_all(&bytes)
    }

    /// 4.3.12
    fn note(&mut self, record: &Record<'_>) -> io::Result<()> {
        let mut large = Vec::new();
        for value in [record.size, record.compressed, record.offset] {
            if value >= MAX_32 {
                large.extend(value.to_le_bytes());
            }
        }
        let mut extra = timestamp(record.modified);
        if !large.is_empty() {
            extra.extend([1, 0]);
            extra.extend(short(large.len())?.to_le_bytes());
            extra.extend(&large);
        }
        let version = if large.is_empty() && record.size < LARGE { VERSION } else { VERSION_64 };
        let low = |value: u64| u32::try_from(value.min(MAX_32)).unwrap_or(u32::MAX).to_le_bytes();
        let mut bytes = b"PK\x01\x02".to_vec();
        bytes.extend(MADE_BY.to_le_bytes());
        bytes.extend(version.to_le_bytes());
        bytes.extend(record.flags.to_le_bytes());
        bytes.extend(record.method.to_le_bytes());
        bytes.extend(dos_time(record.modified).to_le_bytes());
        bytes.extend(record.crc.to_le_bytes());
        bytes.extend(low(record.compressed));
        bytes.extend(low(record.size));
        bytes.extend(short(record.name.len())?.to_le_bytes());
        bytes.extend(short(extra.len())?.to_le_bytes());
        // No comment, first disk, binary content.
        bytes.extend([0; 6]);
        bytes.extend((record.mode << 16).to_le_bytes());
        bytes.extend(low(record.offset));
        bytes.extend(record.name);
        bytes.extend(extra);
        self.entries += 1;
        self.directory.write_all(&bytes)
    }

    /// An entry whose content is at hand.
    fn stored(&mut self, name: &[u8], mode: u32, about: About, content: &[u8]) -> io::Result<()> {
        let mut crc = Crc::new();
        crc.update(content);
        let size = content.len() as u64;
        let record = Record {
            name,
            mode,
            modified: about.modified,
            flags: Self::name_flags(name),
            method: STORED,
            crc: crc.sum(),
            compressed: size,
            size,
            offset: self.out.count,
        };
        self.local(&record, false)?;
        self.out.write_all(content)?;
        self.note(&record)
    }
}

impl<W: Write> Form for Zip<W> {
    fn directory(&mut self, path: &[u8], about: About) -> io::Result<()> {
        self.stored(&[path, b"/"].concat(), 0o040_000 | about.mode, about, b"")
    }

    fn symlink(&mut self, path: &[u8], about: About, target: &[u8]) -> io::Result<()> {
        self.stored(path, 0o120_000 | about.mode, about, target)
    }

    fn file(&mut self, path: &[u8], about: About, content: &mut dyn Read) -> io::Result<()> {
        let mut record = Record {
            name: path,
            mode: 0o100_000 | about.mode,
            modified: about.modified,
            flags: FOLLOWS | Self::name_flags(path),
            method: DEFLATED,
            crc: 0,
            compressed: 0,
            size: 0,
            offset: self.out.count,
        };
        let large = about.size >= LARGE;
        self.local(&record, large)?;
        let begin = self.out.count;
        let mut crc = Crc::new();
        let mut encoder = DeflateEncoder::new(&mut self.out, Compression::default());
        let mut buffer = vec![0; usize::try_from(about.size).unwrap_or(BUFFER).clamp(1, BUFFER)];
        loop {
            let count = content.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            crc.update(&buffer[..count]);
            encoder.write_all(&buffer[..count])?;
            record.size += count as u64;
        }
        encoder.finish()?;
        (record.crc, record.compressed) = (crc.sum(), self.out.count - begin);
        // 4.3.9
        let mut bytes = b"PK\x07\x08".to_vec();
        bytes.extend(record.crc.to_le_bytes());
        if large {
            bytes.extend(record.compressed.to_le_bytes());
            bytes.extend(record.size.to_le_bytes());
        } else {
            bytes.extend(number(record.compressed)?.to_le_bytes());
            bytes.extend(number(record.size)?.to_le_bytes());
        }
        self.out.write_all(&bytes)?;
        self.note(&record)
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        let Zip { mut out, directory, entries } = *self;
        let offset = out.count;
        let compressed = directory.finish()?;
        let mut decoder = DeflateDecoder::new(&mut out);
        decoder.write_all(&compressed)?;
        decoder.finish()?;
        let (length, end) = (out.count - offset, out.count);
        let mut bytes = Vec::new();
        if entries >= MAX_16 || length >= MAX_32 || offset >= MAX_32 {
            // 4.3.14, 4.3.15
            bytes.extend(b"PK\x06\x06");
            bytes.extend(44u64.to_le_bytes());
            bytes.extend([MADE_BY.to_le_bytes(), VERSION_64.to_le_bytes()].concat());
            bytes.extend([0; 8]);
            for value in [entries, entries, length, offset] {
                bytes.extend(value.to_le_bytes());
            }
            bytes.extend(b"PK\x06\x07\0\0\0\0");
            bytes.extend(end.to_le_bytes());
            bytes.extend(1u32.to_le_bytes());
        }
        // 4.3.16
        let count = u16::try_from(entries.min(MAX_16)).unwrap_or(u16::MAX).to_le_bytes();
        let low = |value: u64| u32::try_from(value.min(MAX_32)).unwrap_or(u32::MAX).to_le_bytes();
        bytes.extend(b"PK\x05\x06\0\0\0\0");
        bytes.extend([count, count].concat());
        bytes.extend([low(length), low(offset)].concat());
        bytes.extend([0; 2]);
        out.write_all(&bytes)?;
        out.flush()
    }
}

fn too_long() -> io::Error {
    io::Error::other("a length that has no room in a zip")
}

fn number(value: u64) -> io::Result<u32> {
    u32::try_from(value).map_err(|_| too_long())
}

fn short(value: usize) -> io::Result<u16> {
    u16::try_from(value).map_err(|_| too_long())
}

/// The time as Info-ZIP's extra field has it: seconds since the epoch.
fn timestamp(modified: i64) -> Vec<u8> {
    let seconds = i32::try_from(modified).unwrap_or(0);
    let mut extra = vec![0x55, 0x54, 5, 0, 1];
    extra.extend(seconds.to_le_bytes());
    extra
}

/// 4.4.6: date and time, UTC, from 1980 to 2107, time in the lower half.
fn dos_time(modified: i64) -> u32 {
    let Ok(time) = jiff::Timestamp::from_second(modified) else { return 0x0021_0000 };
    let time = jiff::tz::Offset::UTC.to_datetime(time);
    let Ok(year) = u32::try_from(i32::from(time.year()) - 1980) else { return 0x0021_0000 };
    let part = |value: i8| u32::from(value.unsigned_abs());
    let date = year.min(127) << 9 | part(time.month()) << 5 | part(time.day());
    let clock = part(time.hour()) << 11 | part(time.minute()) << 5 | (part(time.second()) / 2);
    date << 16 | clock
}
