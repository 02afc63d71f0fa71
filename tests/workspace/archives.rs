//! Archives as others open them, and what happens to files that change while they are read.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::path::Path;

use pi_gateway::worker::archive::{self, Source};
use pi_gateway::worker::message::{Failure, Format};

use crate::support::{Place, path, run};

/// Names that programs stumble over.
pub fn odd_names() -> Vec<Vec<u8>> {
    vec![
        b"with space".to_vec(),
        b"'quotes\" `and` $(more)".to_vec(),
        b"line\nfeed".to_vec(),
        "emoji 🦀 é".into(),
        b"invalid \xff\xfe utf-8".to_vec(),
        b"\xff".repeat(255),
        b"a".repeat(255),
        "é".repeat(127).into_bytes(),
        b"--checkpoint-action=exec=sh".to_vec(),
        b"-rf".to_vec(),
        b" ".to_vec(),
        b"...".to_vec(),
        b"back\\slash".to_vec(),
        b"C:".to_vec(),
        b"a*?[b".to_vec(),
        b"\x01\x1b[31m\x7f".to_vec(),
    ]
}

/// A tree with all that an archive can hold.
fn full() -> Place {
    let place = Place::new();
    for (number, name) in odd_names().into_iter().enumerate() {
        place.write(OsStr::from_bytes(&name), number.to_string().as_bytes());
    }
    let deep = ["a directory whose name has some length"; 12].join("/");
    std::fs::create_dir_all(place.inside(&deep)).unwrap();
    place.write(format!("{deep}/file"), b"deep");
    std::fs::create_dir(place.inside(OsStr::from_bytes(b"\xff\xff directory"))).unwrap();
    place.write(OsStr::from_bytes(b"\xff\xff directory/file"), b"");
    std::fs::create_dir(place.inside("empty")).unwrap();
    place.write("nothing", b"");
    place.write(
        "large",
        &(0..300_000u32).flat_map(|number| number.wrapping_mul(number).to_le_bytes()).collect::<Vec<_>>(),
    );
    std::fs::hard_link(place.inside("large"), place.inside("hard link")).unwrap();
    std::fs::create_dir_all(place.inside("project/.git")).unwrap();
    place.write("project/.git/config", b"[core]");
    for (name, target) in [
        ("to a file", "nothing"),
        ("out", "../../outside/secret"),
        ("absolute", "/etc/hostname"),
        ("dangling", "not/there"),
        ("slashes", "a//b/./c/"),
        ("dot", "./nothing"),
    ] {
        symlink(target, place.inside(name)).unwrap();
    }
    symlink("x".repeat(300), place.inside("to a long name")).unwrap();
    symlink(OsStr::from_bytes(&b"\xff".repeat(200)), place.inside("to invalid")).unwrap();
    place
}

/// What a directory holds, by path: what kind, and the content or target.
fn held(at: &Path) -> BTreeMap<Vec<u8>, (char, Vec<u8>)> {
    let (mut found, mut open) = (BTreeMap::new(), vec![at.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let name = path.strip_prefix(at).unwrap().as_os_str().as_bytes().to_vec();
            if kind.is_dir() {
                open.push(path);
                found.insert(name, ('d', Vec::new()));
            } else if kind.is_symlink() {
                found.insert(name, ('l', std::fs::read_link(path).unwrap().into_os_string().into_vec()));
            } else {
                found.insert(name, ('f', std::fs::read(path).unwrap()));
            }
        }
    }
    found
}

fn assert_same(expected: &BTreeMap<Vec<u8>, (char, Vec<u8>)>, found: &BTreeMap<Vec<u8>, (char, Vec<u8>)>, who: &str) {
    for (name, one) in expected {
        let other = found.get(name).map(|(kind, content)| (kind, content.as_slice()));
        assert!(other == Some((&one.0, &one.1)), "{who}: {} is {:?}", name.escape_ascii(), other.map(|other| other.0));
    }
    assert_eq!(expected.len(), found.len(), "{who} has unpacked more");
}

fn unpack(place: &Place, who: &str, program: &str, arguments: &[&OsStr]) {
    let at = place.unpacked(who);
    run(program, arguments, &at);
    assert_same(&held(&place.inside("")), &held(&at), who);
}

#[test]
fn gnu_tar_unpacks_exactly_the_tree() {
    let place = full();
    let (gz, zst) = (place.archived(Format::TarGz), place.archived(Format::TarZst));
    unpack(&place, "gnu gz", "tar", &["-xzf".as_ref(), gz.as_os_str()]);
    unpack(&place, "gnu zst", "tar", &["--zstd".as_ref(), "-xf".as_ref(), zst.as_os_str()]);
}

#[test]
fn bsdtar_unpacks_exactly_the_tree() {
    if std::process::Command::new("bsdtar").arg("--version").output().is_err() {
        eprintln!("!!! NOT TRIED: bsdtar is not installed (libarchive-tools)");
        return;
    }
    let place = full();
    for format in [Format::TarGz, Format::TarZst, Format::Zip] {
        let archive = place.archived(format);
        unpack(&place, &format!("bsd {format:?}"), "bsdtar", &["-xf".as_ref(), archive.as_os_str()]);
    }
}

const PYTHON: &str = r#"
import os, sys, tarfile, zipfile
archive, at = map(os.fsencode, sys.argv[1:])
if archive.endswith(b".zip"):
    with zipfile.ZipFile(os.fsdecode(archive)) as file:
        assert file.testzip() is None
        for info in file.infolist():
            name = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437")
            mode = info.external_attr >> 16
            to = os.path.join(at, name)
            if mode & 0o170000 == 0o040000:
                assert name.endswith(b"/") and info.is_dir()
                os.makedirs(to, exist_ok=True)
            elif mode & 0o170000 == 0o120000:
                os.symlink(file.read(info), to)
            else:
                assert mode & 0o170000 == 0o100000
                open(to, "wb").write(file.read(info))
else:
    with tarfile.open(os.fsdecode(archive), "r:gz") as file:
        file.extractall(os.fsdecode(at), filter="fully_trusted")
"#;

#[test]
fn python_unpacks_exactly_the_tree() {
    let place = full();
    for format in [Format::TarGz, Format::Zip] {
        let (archive, who) = (place.archived(format), format!("python {format:?}"));
        let at = place.unpacked(&who);
        run("python3", &["-c".as_ref(), PYTHON.as_ref(), archive.as_os_str(), at.as_os_str()], &at);
        assert_same(&held(&place.inside("")), &held(&at), &who);
    }
}

#[test]
fn unzip_finds_no_fault_and_unpacks_the_tree() {
    let place = full();
    // unzip knows no name that is not UTF-8, and cuts targets at its own buffer; the others are exact.
    for name in odd_names() {
        if std::str::from_utf8(&name).is_err() {
            std::fs::remove_file(place.inside(OsStr::from_bytes(&name))).unwrap();
        }
    }
    std::fs::remove_dir_all(place.inside(OsStr::from_bytes(b"\xff\xff directory"))).unwrap();
    let zip = place.archived(Format::Zip);
    run("unzip", &["-tqq".as_ref(), zip.as_os_str()], &place.inside(""));
    let at = place.unpacked("unzip");
    // -^ keeps control characters in names.
    let arguments = ["LC_ALL=C.UTF-8".as_ref(), "unzip".as_ref(), "-qq^".as_ref(), zip.as_os_str()];
    run("env", &arguments, &at);
    assert_same(&held(&place.inside("")), &held(&at), "unzip");
}

#[test]
fn git_directories_are_left_out_unless_asked_for() {
    let place = full();
    for format in [Format::TarGz, Format::TarZst, Format::Zip] {
        let with = place.archive(format, true).unwrap().1;
        let without = place.archive(format, false).unwrap().1;
        assert_eq!((with.entries - without.entries, without.skipped), (2, 0));
    }
}

/// Does something when the first byte of the archive comes out.
struct Then<F: FnMut()> {
    act: Option<F>,
    bytes: Vec<u8>,
}

impl<F: FnMut()> Write for Then<F> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Some(mut act) = self.act.take() {
            act();
        }
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Bytes that no compression makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(length).collect()
}

/// Several times what is gathered before anything comes out: zstd begins with a block of megabytes per thread.
const LENGTH: usize = 24_000_000;

fn changed_meanwhile(format: Format, length: u64) -> (Result<archive::Summary, Failure>, Vec<u8>) {
    let place = Place::new();
    place.write("file", &noise(LENGTH));
    let at = place.inside("file");
    let act = move || std::fs::OpenOptions::new().write(true).open(&at).unwrap().set_len(length).unwrap();
    let mut out = Then { act: Some(act), bytes: Vec::new() };
    let source = Source::open(&place.tree, &path("")).unwrap();
    let result = archive::write(source, format, true, &mut out);
    assert!(out.act.is_none(), "nothing came out before the end");
    (result, out.bytes)
}

/// Whether a program finds an archive whole.
fn whole(format: Format, bytes: &[u8]) -> bool {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let at = directory.path().join("archive");
    std::fs::write(&at, bytes).unwrap();
    let arguments: [OsString; 2] = match format {
        Format::TarGz => ["-tzf".into(), at.into()],
        Format::TarZst => ["-I zstd".into(), at.into()],
        Format::Zip => ["-tqq".into(), at.into()],
    };
    let mut command = std::process::Command::new(if format == Format::Zip { "unzip" } else { "tar" });
    if format == Format::TarZst {
        command.args(["--zstd", "-tf"]).arg(&arguments[1]);
    } else {
        command.args(arguments);
    }
    command.output().unwrap().status.success()
}

#[test]
fn a_file_that_grows_while_it_is_read_is_cut_where_it_was() {
    for format in [Format::TarGz, Format::TarZst, Format::Zip] {
        let (result, bytes) = changed_meanwhile(format, LENGTH as u64 + 1_000_000);
        assert_eq!(result.unwrap().entries, 1);
        assert!(whole(format, &bytes), "{format:?}");
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_read_leaves_no_archive_that_looks_whole() {
    for format in [Format::TarGz, Format::TarZst, Format::Zip] {
        // Little is missing: the end of a tar is a kibibyte of zeros, which could stand for it.
        for missing in [300, LENGTH as u64 / 2] {
            let (result, bytes) = changed_meanwhile(format, LENGTH as u64 - missing);
            assert_eq!(result.unwrap_err(), Failure::Torn, "{format:?}");
            assert!(!whole(format, &bytes), "{format:?} with {missing} bytes missing looks whole");
        }
    }
}

#[test]
fn a_reader_that_goes_away_ends_an_archive() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let place = full();
    for format in [Format::TarGz, Format::TarZst, Format::Zip] {
        let source = Source::open(&place.tree, &path("")).unwrap();
        assert_eq!(archive::write(source, format, true, &mut Gone), Err(Failure::Unfit), "{format:?}");
    }
}
