//! Paths in a workspace: bytes, relative, without tricks. What is not one is refused, never repaired.

use super::message::Failure;

/// The longest path, in bytes; the kernel takes no longer one at a time.
pub const MAX_PATH: usize = 4095;
/// The longest part of it, in bytes.
const MAX_NAME: usize = 255;
/// What the names of our own files begin with: temporary ones, and what is being removed. They are not shown, and no
/// request can name them.
pub const RESERVED: &[u8] = b".pi-gateway-";

/// A path in a workspace; empty for the workspace itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelPath(Vec<u8>);

impl RelPath {
    /// Takes a path as a caller gives it.
    ///
    /// # Errors
    /// [`Failure::BadPath`]: absolute, with NUL, with an empty, `.`, `..`, reserved or too long part, or too long.
    pub fn parse(path: Vec<u8>) -> Result<Self, Failure> {
        let good = |name: &[u8]| {
            !name.is_empty() && name != b"." && name != b".." && name.len() <= MAX_NAME && !name.starts_with(RESERVED)
        };
        let whole = path.len() <= MAX_PATH && !path.contains(&0);
        if whole && (path.is_empty() || path.split(|byte| *byte == b'/').all(good)) {
            return Ok(RelPath(path));
        }
        Err(Failure::BadPath)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is the workspace itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory and the name in it.
    ///
    /// # Errors
    /// [`Failure::IsADirectory`] for the workspace itself, which has none.
    pub fn split(&self) -> Result<(RelPath, &[u8]), Failure> {
        if self.is_root() {
            return Err(Failure::IsADirectory);
        }
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(at) => Ok((RelPath(self.0[..at].to_vec()), &self.0[at + 1..])),
            None => Ok((RelPath(Vec::new()), &self.0)),
        }
    }

    /// The directories on the way to it and itself, from the top.
    pub fn ancestors(&self) -> impl Iterator<Item = RelPath> + '_ {
        let ends = self.0.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let whole = (!self.is_root()).then_some(self.0.len());
        ends.chain(whole).map(|end| RelPath(self.0[..end].to_vec()))
    }
}

/// The path of something called `name` in the directory `path`.
pub fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_paths_that_stay_inside_are_paths() {
        let long = [b'a'; 256];
        for bad in [
            b"/a".as_slice(),
            b"a/",
            b"a//b",
            b".",
            b"..",
            b"../a",
            b"a/..",
            b"a/./b",
            b"a\0b",
            b"/",
            &long,
            b".pi-gateway-x",
            b"a/.pi-gateway-trash/b",
        ] {
            assert_eq!(RelPath::parse(bad.to_vec()), Err(Failure::BadPath), "{}", bad.escape_ascii());
        }
        for good in [b"".as_slice(), b"a", b"a/b", b"...", b"..a/b..", b"-rf", b" ", b"\n", b"\xff/\x01", &long[1..]] {
            RelPath::parse(good.to_vec()).unwrap();
        }
        assert!(RelPath::parse([b"aaaa".as_slice(); 820].join(&b'/')).is_err(), "4099 bytes");
        let path = RelPath::parse(b"a/b/c".to_vec()).unwrap();
        let (parent, name) = path.split().unwrap();
        assert_eq!((parent.as_bytes(), name), (b"a/b".as_slice(), b"c".as_slice()));
        let all: Vec<_> = path.ancestors().map(|path| path.0).collect();
        assert_eq!(all, [b"a".to_vec(), b"a/b".to_vec(), b"a/b/c".to_vec()]);
    }

    proptest! {
        #[test]
        fn what_is_taken_names_the_same_thing_to_the_kernel(bytes in prop::collection::vec(prop::sample::select(b"a./\0\xff".to_vec()), 0..12)) {
            if let Ok(path) = RelPath::parse(bytes.clone()) {
                prop_assert_eq!(path.as_bytes(), bytes.as_slice());
                prop_assert!(!bytes.starts_with(b"/") && !bytes.contains(&0));
                prop_assert!(bytes.split(|byte| *byte == b'/').all(|name| name != b".." && name != b"."));
            }
        }
    }
}
