//! Turns a tool's cumulative output into increments.
//!
//! pi reports the last 50 KB or 2,000 lines a tool has printed so far, again and again. What is new is the text behind
//! the overlap of the previous report with this one; without an overlap some output was missed, and that is said.

use crate::runs::event::{MAX_TOOL_TEXT, keep_end};

/// How much of a report's beginning is looked for in the previous one, in bytes.
const NEEDLE: usize = 256;

/// The last report of one tool call.
#[derive(Default)]
pub struct Tail {
    previous: String,
}

impl Tail {
    /// Takes the next report; gives what was added and whether something between was missed. None when nothing is new.
    pub fn advance(&mut self, report: &str) -> Option<(String, bool)> {
        let (report, _) = keep_end(report, MAX_TOOL_TEXT);
        let (added, gap) = match overlap(&self.previous, report) {
            Some(length) => (&report[length..], false),
            None => (report, true),
        };
        let added = added.to_owned();
        if report != self.previous {
            report.clone_into(&mut self.previous);
        }
        if added.is_empty() { None } else { Some((added, gap)) }
    }

    /// Restores the state from increments that were emitted before a restart.
    pub fn restore(&mut self, added: &str) {
        self.previous.push_str(added);
        let (kept, cut) = keep_end(&self.previous, MAX_TOOL_TEXT);
        if cut {
            self.previous = kept.to_owned();
        }
    }
}

/// Length of the longest end of `previous` that begins `report`; None when there is none.
fn overlap(previous: &str, report: &str) -> Option<usize> {
    if previous.is_empty() || report.is_empty() {
        return Some(0);
    }
    if report.starts_with(previous) {
        return Some(previous.len());
    }
    let mut needle = report.len().min(NEEDLE);
    while !report.is_char_boundary(needle) {
        needle -= 1;
    }
    let mut from = 0;
    // Each candidate is the position of the needle, so the search is linear for ordinary output; the number of
    // candidates is bounded because hostile output ("aaaa…") would make it quadratic.
    for _ in 0..64 {
        let at = from + previous.get(from..)?.find(&report[..needle])?;
        if report.starts_with(&previous[at..]) {
            return Some(previous.len() - at);
        }
        from = at + 1;
        while !previous.is_char_boundary(from) {
            from += 1;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn growing_output_is_cut_into_its_increments() {
        let mut tail = Tail::default();
        assert_eq!(tail.advance(""), None);
        assert_eq!(tail.advance("a\n"), Some(("a\n".into(), false)));
        assert_eq!(tail.advance("a\n"), None);
        assert_eq!(tail.advance("a\nb\n"), Some(("b\n".into(), false)));
    }

    #[test]
    fn a_window_that_moved_on_keeps_its_overlap() {
        let line = |n: u32| format!("line {n}\n");
        let window = |range: std::ops::Range<u32>| range.map(line).collect::<String>();
        let mut tail = Tail::default();
        tail.advance(&window(0..2000));
        assert_eq!(tail.advance(&window(500..2100)), Some((window(2000..2100), false)));
        assert_eq!(tail.advance(&window(9000..9100)), Some((window(9000..9100), true)));
    }

    #[test]
    fn hostile_repetition_ends_soon() {
        let mut tail = Tail::default();
        tail.advance(&"a".repeat(60_000));
        assert!(tail.advance(&format!("{}b", "a".repeat(30_000))).is_some());
    }

    proptest! {
        #[test]
        fn increments_add_up_to_the_output(pieces in prop::collection::vec("[a-z\\n\u{e9}]{0,20}", 0..20)) {
            let mut tail = Tail::default();
            let (mut whole, mut seen) = (String::new(), String::new());
            for piece in pieces {
                whole.push_str(&piece);
                if let Some((added, gap)) = tail.advance(&whole) {
                    prop_assert!(!gap);
                    seen.push_str(&added);
                }
            }
            prop_assert_eq!(whole, seen);
        }

        #[test]
        fn nothing_panics(reports in prop::collection::vec(any::<String>(), 0..8)) {
            let mut tail = Tail::default();
            for report in reports {
                tail.advance(&report);
            }
        }
    }
}
