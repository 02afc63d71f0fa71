//! The command list of a push: what it would do to which refs, read and judged before anything goes upstream.
//!
//! Each command is `<old id> <new id> <ref>`; the first one also has what the client can do, behind a zero byte. Only
//! branches may be created and moved. Deletions, tags and every other ref, signed and shallow pushes, options for the
//! server's hooks, and whatever reads differently from what is written here are refused: git itself looks for
//! capabilities in every line, ends a list at any special packet and takes a line apart by fixed offsets, so nothing is
//! accepted that two readers could take for two things.

use std::collections::HashSet;

use super::limits::{MAX_COMMANDS, MAX_LIST, MAX_REF};
use super::pkt::{self, Packet};

/// What a client may say that it can do. `push-options` is not here: it puts a second list behind this one.
const CAPABILITIES: [&str; 6] =
    ["report-status", "report-status-v2", "side-band-64k", "atomic", "quiet", "object-format=sha1"];
/// Digits of an object's id.
const ID: usize = 40;
/// Longest name and version that a client may give itself, in bytes.
const MAX_AGENT: usize = 128;

/// A command list that is being read.
#[derive(Debug, Default)]
pub struct List {
    held: Vec<u8>,
    read: usize,
    refs: HashSet<Vec<u8>>,
    whole: bool,
}

impl List {
    /// Takes the next bytes of the body; tells whether the list is whole. Bytes behind it are kept.
    ///
    /// # Errors
    /// A sentence saying what is not allowed.
    pub fn take(&mut self, bytes: &[u8]) -> Result<bool, String> {
        self.held.extend_from_slice(bytes);
        while !self.whole {
            let Some((packet, length)) = pkt::next(&self.held[self.read..])? else { break };
            if self.read + length > MAX_LIST {
                break;
            }
            match packet {
                Packet::Flush => self.whole = true,
                Packet::Special => return Err("a push is no conversation of version 2".to_owned()),
                Packet::Data(line) => {
                    let name = command(line, self.refs.is_empty())?;
                    if !self.refs.insert(name.to_vec()) {
                        return Err("a ref is named twice".to_owned());
                    }
                }
            }
            self.read += length;
            if self.refs.len() > MAX_COMMANDS {
                return Err(format!("a push may have at most {MAX_COMMANDS} commands"));
            }
        }
        if !self.whole && self.held.len() > MAX_LIST {
            return Err(format!("the command list of a push may have at most {MAX_LIST} bytes"));
        }
        Ok(self.whole)
    }

    /// How many refs it changes. A list without any is git's question whether it may push at all.
    #[must_use]
    pub fn commands(&self) -> usize {
        self.refs.len()
    }

    /// What has come behind the list so far.
    #[must_use]
    pub fn behind(&self) -> &[u8] {
        if self.whole { &self.held[self.read..] } else { &[] }
    }

    /// All bytes that were taken.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.held
    }
}

/// Judges one line; gives the ref.
fn command(line: &[u8], first: bool) -> Result<&[u8], String> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(2, |byte| *byte == 0);
    let (text, capabilities) = (parts.next().unwrap_or_default(), parts.next());
    match capabilities {
        Some(said) if first => judge_capabilities(said)?,
        Some(_) => return Err("capabilities belong to the first command".to_owned()),
        None => {}
    }
    let (Some(old), Some(new), Some(name)) = (text.get(..ID), text.get(ID + 1..2 * ID + 1), text.get(2 * ID + 2..))
    else {
        return Err(NO_COMMAND.to_owned());
    };
    let blanks = text[ID] == b' ' && text[2 * ID + 1] == b' ';
    if !blanks || !is_id(old) || !is_id(new) {
        return Err(NO_COMMAND.to_owned());
    }
    if new.iter().all(|digit| *digit == b'0') {
        return Err("a ref would be deleted; only creating and moving branches is allowed".to_owned());
    }
    if !is_branch(name) {
        return Err("only branches may be pushed: refs/heads/ and a name that git allows".to_owned());
    }
    Ok(name)
}

const NO_COMMAND: &str = "a line of the command list is not `<old id> <new id> <ref>`; \
                          signed, shallow and SHA-256 pushes are not taken";

fn is_id(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte))
}

fn judge_capabilities(said: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(said).map_err(|_| "the capabilities are not text".to_owned())?;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let agent = word.strip_prefix("agent=").is_some_and(|agent| {
            (1..=MAX_AGENT).contains(&agent.len()) && agent.bytes().all(|byte| byte.is_ascii_graphic())
        });
        if !agent && !CAPABILITIES.contains(&word) {
            return Err(format!("a push may use these capabilities only: {}, agent", CAPABILITIES.join(", ")));
        }
    }
    Ok(())
}

/// Whether a name is one of a branch, by the rules of git-check-ref-format(1), and UTF-8.
fn is_branch(name: &[u8]) -> bool {
    let Some(rest) = std::str::from_utf8(name).ok().and_then(|name| name.strip_prefix("refs/heads/")) else {
        return false;
    };
    let plain = |c: char| !c.is_control() && !" ~^:?*[\\".contains(c);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    name.len() <= MAX_REF
        && rest.chars().all(plain)
        && rest.split('/').all(part)
        && !rest.ends_with('.')
        && !rest.contains("..")
        && !rest.contains("@{")
        // A branch of this name would hide what the checked out one is.
        && !rest.starts_with('-')
        && rest != "HEAD"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const NONE: &str = "0000000000000000000000000000000000000000";
    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "0123456789abcdef0123456789abcdef01234567";

    fn packet(line: &str) -> String {
        format!("{:04x}{line}", line.len() + 4)
    }

    fn judge(body: &[u8]) -> Result<(bool, usize, Vec<u8>), String> {
        let mut list = List::default();
        let whole = list.take(body)?;
        Ok((whole, list.commands(), list.behind().to_vec()))
    }

    fn one(line: &str) -> Result<(bool, usize, Vec<u8>), String> {
        judge(format!("{}0000PACK", packet(line)).as_bytes())
    }

    #[test]
    fn branches_are_created_and_moved() {
        for line in [
            format!("{NONE} {A} refs/heads/main\0 report-status side-band-64k agent=git/2.39.5\n"),
            format!("{A} {B} refs/heads/main\0report-status-v2 side-band-64k object-format=sha1 agent=git/2"),
            format!("{A} {B} refs/heads/a/b-c/d.e\0"),
            format!("{A} {B} refs/heads/grün"),
            format!("{A} {B} refs/heads/pi-gateway/conflict-01a205e8\0 atomic quiet\n"),
        ] {
            assert_eq!(one(&line), Ok((true, 1, b"PACK".to_vec())), "{line:?}");
        }
        assert_eq!(judge(b"0000"), Ok((true, 0, Vec::new())), "git asks whether it may push");
    }

    #[test]
    fn everything_else_is_refused() {
        let other = |name: &str| format!("{A} {B} {name}");
        let mut lines: Vec<String> = [
            "refs/tags/v1",
            "refs/heads/",
            "refs/heads",
            "refs/for/main",
            "refs/notes/commits",
            "refs/pull/1/head",
            "refs/remotes/origin/main",
            "refs/heads/../tags/x",
            "refs/heads/./x",
            "refs/heads//x",
            "refs/heads/x/",
            "refs/heads/.x",
            "refs/heads/x.lock",
            "refs/heads/x.lock/y",
            "refs/heads/x.",
            "refs/heads/x..y",
            "refs/heads/x@{1}",
            "refs/heads/a b",
            "refs/heads/a:b",
            "refs/heads/a\\b",
            "refs/heads/a\tb",
            "refs/heads/a\n",
            "refs/heads/a\n\n",
            "refs/heads/a\u{7f}",
            "refs/heads/a\u{85}",
            "refs/heads/-x",
            "refs/heads/HEAD",
            "HEAD",
            "main",
            "",
            " refs/heads/x",
            "Refs/heads/x",
        ]
        .map(other)
        .to_vec();
        lines.extend([
            format!("{A} {NONE} refs/heads/main"),
            format!("{NONE} {NONE} refs/heads/main"),
            format!("{A} {B} refs/heads/{}", "x".repeat(MAX_REF)),
            format!("{A}  {B} refs/heads/x"),
            format!("{A}\t{B}\trefs/heads/x"),
            format!("{} {B} refs/heads/x", A.to_uppercase()),
            format!("{A}a {B} refs/heads/x"),
            format!("{A}{A} {B}{B} refs/heads/x"),
            format!("shallow {A}"),
            "push-cert\0 report-status".to_owned(),
            "ERR no".to_owned(),
            String::new(),
            format!("{A} {B} refs/heads/x\0 push-options"),
            format!("{A} {B} refs/heads/x\0 push-cert=1"),
            format!("{A} {B} refs/heads/x\0 object-format=sha256"),
            format!("{A} {B} refs/heads/x\0 report-status\0atomic"),
            format!("{A} {B} refs/heads/x\0 report-status\npush-options"),
            format!("{A} {B} refs/heads/x\0 agent="),
            format!("{A} {B} refs/heads/x\0 agent={}", "x".repeat(MAX_AGENT + 1)),
            format!("{A} {B} refs/heads/x\0 session-id=x"),
        ]);
        for line in lines {
            // One line feed at the end of a packet is git's own way of writing it.
            let good = line == other("refs/heads/a\n");
            assert_eq!(one(&line).is_ok(), good, "{line:?}");
        }
        let invalid = [format!("{A} {B} refs/heads/").as_bytes(), b"\xff"].concat();
        assert!(command(&invalid, true).is_err());
    }

    #[test]
    fn a_later_line_is_judged_like_the_first_and_has_no_capabilities() {
        let first = packet(&format!("{A} {B} refs/heads/x\0 report-status"));
        for (second, good) in [
            (format!("{A} {B} refs/heads/y"), true),
            (format!("{A} {B} refs/heads/x"), false),
            (format!("{A} {NONE} refs/heads/y"), false),
            (format!("{A} {B} refs/tags/y"), false),
            (format!("{A} {B} refs/heads/y\0"), false),
            (format!("{A} {B} refs/heads/y\0 push-options"), false),
        ] {
            let body = format!("{first}{}0000PACK", packet(&second));
            assert_eq!(judge(body.as_bytes()).is_ok(), good, "{second:?}");
        }
        for special in ["0001", "0002", "0003", "zzzz"] {
            assert!(judge(format!("{first}{special}PACK").as_bytes()).is_err(), "{special}");
        }
    }

    #[test]
    fn commands_and_bytes_are_limited() {
        let many = |count: usize| {
            let lines = (0..count).map(|n| packet(&format!("{A} {B} refs/heads/b{n}")));
            lines.collect::<String>() + "0000"
        };
        assert_eq!(judge(many(MAX_COMMANDS).as_bytes()).unwrap().1, MAX_COMMANDS);
        assert!(judge(many(MAX_COMMANDS + 1).as_bytes()).is_err());
        // A packet that is announced and never comes whole: its bytes end at the limit.
        let long = format!("ffe0{}", "x".repeat(MAX_LIST));
        let mut list = List::default();
        let refused = long.as_bytes().chunks(1000).position(|piece| list.take(piece).is_err());
        assert!(refused.is_some() && list.held.len() <= MAX_LIST + 1000);
    }

    proptest! {
        #[test]
        fn the_pieces_that_a_body_comes_in_change_nothing(
            names in prop::collection::vec("[a-z/.]{1,12}", 0..6), zero in any::<bool>(), cut in 1usize..40,
        ) {
            let lines = names.iter().map(|name| packet(&format!("{A} {B} refs/heads/{name}")));
            let body = lines.collect::<String>() + if zero { "0000PACK" } else { "" };
            let at_once = judge(body.as_bytes());
            let mut list = List::default();
            let in_pieces = body.as_bytes().chunks(cut).try_fold(false, |_, piece| list.take(piece));
            match (at_once, in_pieces) {
                (Ok(expected), Ok(whole)) => {
                    prop_assert_eq!((whole, list.commands(), list.behind().to_vec()), expected);
                }
                (Err(_), in_pieces) => prop_assert!(in_pieces.is_err()),
                (Ok(_), Err(told)) => prop_assert!(false, "{}", told),
            }
        }

        #[test]
        fn no_bytes_are_accepted_that_name_another_ref(line in "[ -~\\x00]{0,30}", name in "(refs/|HEAD|x)[ -~]{0,20}") {
            let text = format!("{A} {B} {name}{line}");
            if let Ok(found) = command(text.as_bytes(), true) {
                prop_assert!(found.starts_with(b"refs/heads/"));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = judge(&body);
        }
    }
}
