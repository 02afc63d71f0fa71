//! Which user a uid is, by the launcher's registry: a line each, `<uid> <name>`.
//!
//! It is read anew for each hand-over, because it grows. A line without its end was never acted on and does not count;
//! a name that is none is an error, not somebody's.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use pi_gateway_helper::names::User;
use pi_gateway_helper::uids::RANGE;

/// Longest line, in bytes: ten digits, a blank, a name of forty letters, its end.
const MAX_LINE: u64 = 52;
/// How much is read, in bytes.
const MAX_REGISTRY: u64 = RANGE as u64 * MAX_LINE;

/// The user with this uid, if there is one.
///
/// # Errors
/// The registry cannot be read, or is not what the launcher writes.
pub fn name(registry: &Path, uid: u32) -> io::Result<Option<User>> {
    let wanted = uid.to_string();
    match find(registry, |found, _| found == wanted)? {
        Some((_, name)) => User::parse(&name).map(Some).map_err(|_| io::Error::other("a name is none")),
        None => Ok(None),
    }
}

/// The uid of this user, if he has one.
///
/// # Errors
/// The registry cannot be read, or is not what the launcher writes.
pub fn uid(registry: &Path, user: &User) -> io::Result<Option<u32>> {
    match find(registry, |_, name| name == user.as_str())? {
        Some((uid, _)) => uid.parse().map(Some).map_err(|_| io::Error::other("a uid is none")),
        None => Ok(None),
    }
}

/// The first line that is wanted, as uid and name.
fn find(registry: &Path, wanted: impl Fn(&str, &str) -> bool) -> io::Result<Option<(String, String)>> {
    let mut reader = BufReader::new(File::open(registry)?.take(MAX_REGISTRY));
    let mut line = String::new();
    loop {
        line.clear();
        reader.by_ref().take(MAX_LINE).read_line(&mut line)?;
        let Some(whole) = line.strip_suffix('\n') else {
            return if (line.len() as u64) < MAX_LINE { Ok(None) } else { Err(io::Error::other("a line is too long")) };
        };
        if let Some((uid, name)) = whole.split_once(' ')
            && wanted(uid, name)
        {
            return Ok(Some((uid.to_owned(), name.to_owned())));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lookup(text: &str, uid: u32) -> io::Result<Option<String>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        name(file.path(), uid).map(|user| user.map(|user| user.as_str().to_owned()))
    }

    #[test]
    fn a_uid_is_the_user_of_its_whole_line_and_of_no_other() {
        let text = "1879048193 alice\n1879048194 bob\n1879048195 caro";
        assert_eq!(lookup(text, 1_879_048_193).unwrap().as_deref(), Some("alice"));
        assert_eq!(lookup(text, 1_879_048_194).unwrap().as_deref(), Some("bob"));
        for uid in [1_879_048_195, 1_879_048_196, 0, 187_904_819, 1] {
            assert_eq!(lookup(text, uid).unwrap(), None, "{uid}");
        }
        assert_eq!(lookup("", 1).unwrap(), None);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let uid = |name: &str| uid(file.path(), &User::parse(name).unwrap()).unwrap();
        assert_eq!((uid("alice"), uid("bob")), (Some(1_879_048_193), Some(1_879_048_194)));
        assert_eq!((uid("ali"), uid("caro")), (None, None));
    }

    #[test]
    fn what_the_launcher_does_not_write_is_nobodys() {
        for bad in ["7 ../bob\n", "7 Bob\n", "7 \n", "7 a b\n"] {
            assert!(lookup(bad, 7).is_err(), "{bad:?}");
        }
        for other in ["07 bob\n", " 7 bob\n", "7\tbob\n", "+7 bob\n"] {
            assert_eq!(lookup(other, 7).unwrap(), None, "{other:?}");
        }
        assert!(lookup(&"x".repeat(100_000), 7).is_err());
        assert!(name(Path::new("/nonexistent/uids"), 7).is_err());
    }

    #[test]
    fn what_the_launchers_registry_assigns_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("uids");
        let registry = pi_gateway_helper::uids::Registry::open(&path).unwrap();
        for user in ["alice", "bob", &"a".repeat(40)] {
            let uid = registry.assign(&User::parse(user).unwrap()).unwrap();
            assert_eq!(name(&path, uid).unwrap().unwrap().as_str(), user);
        }
    }
}
