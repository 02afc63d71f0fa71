//! A session of pi: which file it is, and that it goes on in another place.
//!
//! pi resumes a session in the directory that its first line names, and refuses when that is not there. In a sandbox the
//! workspace is `/workspace`, so that one word of the first line is replaced; everything else stays byte for byte.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{Dir, FileType, Mode, OFlags, fstat, openat};
use serde_json::Value;

use super::survey::directory_in;
use crate::worker::session::MAX_FILE;

/// The longest first line, in bytes; one has about 200.
const MAX_HEADER: u64 = 64 << 10;
/// Where pi works in its sandbox.
const CWD: &str = "/workspace";
/// The name that is taken of several.
const NAME: &str = "session.jsonl";
/// Entries of a directory of sessions that are looked at.
const MAX_ENTRIES: usize = 10_000;

/// The session that an entry of the directory of sessions is: its path below that, and its size; None when it is none.
///
/// # Errors
/// Why it cannot be taken over.
pub fn find(sessions: &OwnedFd, entry: &str) -> Result<Option<(String, u64)>, String> {
    let path = match directory_in(sessions, entry) {
        Err(_) if !entry.ends_with(".jsonl") => {
            return Err(format!("{entry}: neither a session's file nor a directory of sessions"));
        }
        Err(_) => entry.to_owned(),
        Ok(directory) => {
            let names = names(directory).map_err(|error| format!("{entry}: {error}"))?;
            match names.as_slice() {
                [] => return Ok(None),
                [one] => format!("{entry}/{one}"),
                several if several.iter().any(|name| name == NAME) => format!("{entry}/{NAME}"),
                several => {
                    return Err(format!(
                        "{entry} has several sessions ({}, …); leave one",
                        several.iter().take(3).cloned().collect::<Vec<_>>().join(", ")
                    ));
                }
            }
        }
    };
    let (file, bytes) = open(sessions, &path)?;
    header(&mut BufReader::new(file)).map_err(|why| format!("{path}: {why}"))?;
    Ok(Some((path, bytes)))
}

/// The names of sessions in a directory, sorted.
fn names(directory: OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::new(directory)?.take(MAX_ENTRIES) {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".jsonl") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Opens a session's file, not by a link, and gives its size.
///
/// # Errors
/// When it is no regular file, has other names, or is too large.
pub fn open(sessions: &OwnedFd, path: &str) -> Result<(File, u64), String> {
    let told = |error: rustix::io::Errno| format!("{path}: {error}");
    let (inner, name) = match path.split_once('/') {
        Some((directory, name)) => {
            (Some(directory_in(sessions, directory).map_err(|error| format!("{path}: {error}"))?), name)
        }
        None => (None, path),
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    // Not opened before it is known to be a file: a link is none, and opening some things does something.
    let at = inner.as_ref().unwrap_or(sessions);
    let stat = rustix::fs::statat(at, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).map_err(told)?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(format!("{path}: no regular file"));
    }
    let file = openat(at, name, flags, Mode::empty()).map_err(told)?;
    let stat = fstat(&file).map_err(told)?;
    let bytes = u64::try_from(stat.st_size).unwrap_or(0);
    match () {
        () if !FileType::from_raw_mode(stat.st_mode).is_file() => Err(format!("{path}: no regular file")),
        () if stat.st_nlink != 1 => Err(format!("{path}: has other names as well")),
        () if bytes > MAX_FILE => Err(format!("{path}: larger than {} MiB", MAX_FILE >> 20)),
        () => Ok((file.into(), bytes)),
    }
}

/// Reads the first line.
fn header(reader: &mut impl BufRead) -> Result<Value, String> {
    let no_session = || "no session of pi: its first line is not one's".to_owned();
    let mut line = Vec::new();
    reader.take(MAX_HEADER).read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
    let header: Value = serde_json::from_slice(&line).map_err(|_| no_session())?;
    let good = line.ends_with(b"\n") && header["type"] == "session" && header["id"].is_string();
    if good { Ok(header) } else { Err(no_session()) }
}

/// Copies a session, so that it goes on in the sandbox.
///
/// # Errors
/// When it is none, or the disk refuses.
pub fn copy(from: File, bytes: u64, to: &mut impl Write) -> Result<(), String> {
    // What is appended meanwhile is not of this session as it was looked at.
    let mut from = BufReader::new(from.take(bytes));
    let mut header = header(&mut from)?;
    header["cwd"] = CWD.into();
    let told = |error: io::Error| error.to_string();
    to.write_all(&serde_json::to_vec(&header).map_err(|error| error.to_string())?).map_err(told)?;
    to.write_all(b"\n").map_err(told)?;
    io::copy(&mut from, to).map(drop).map_err(told)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn copied(text: &str) -> Result<String, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let mut out = Vec::new();
        copy(file, text.len() as u64, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_session_goes_on_in_the_sandbox_and_nothing_else_of_it_changes() {
        let rest = "{\"type\":\"message\",\"text\":\"/old/alice\\u00fc\"}\n{ \"odd\" : 1 }\nno json\n";
        let header = "{\"type\":\"session\",\"version\":3,\"id\":\"i\",\"timestamp\":\"t\",\"cwd\":\"/old/alice\",\"parentSession\":\"p\"}\n";
        let text = copied(&format!("{header}{rest}")).unwrap();
        let (first, behind) = text.split_once('\n').unwrap();
        assert_eq!(behind, rest);
        let mut known: Value = serde_json::from_str(header).unwrap();
        known["cwd"] = CWD.into();
        assert_eq!(serde_json::from_str::<Value>(first).unwrap(), known);
        for bad in ["", "{}\n", "x\n", "{\"type\":\"session\",\"id\":\"i\"}", "[1]\n"] {
            assert!(copied(bad).unwrap_err().contains("no session of pi"), "{bad}");
        }
    }
}
