//! Cuts pi's output into lines without ever holding more than one capped line.
//!
//! Only LF ends a line (U+2028, U+2029 and U+0085 occur inside pi's strings). A line over [`MAX_LINE`] is not kept: it
//! is reported as [`Line::Skipped`] when its prefix shows a record we have no use for (pi repeats whole conversations
//! in `agent_end`, `turn_end`, `message_start` and in the echo of a user's message), and as [`Line::TooLong`] otherwise.

/// The longest line that is kept: 16 MiB. The largest record of use is a tool's end with 1 MiB of structured output
/// beside its text and images (each ≤ 4.7 MB as base64).
pub const MAX_LINE: usize = 16 << 20;

/// The longest line that is skipped: 256 MiB. It stays on the disk until it ends.
pub const MAX_SKIPPED: u64 = 256 << 20;

/// How much of a skipped line is kept to tell what it was.
const PREFIX: usize = 64;

/// Beginnings of records that may be of any length because nothing in them is used.
const UNUSED: [&[u8]; 5] = [
    b"{\"type\":\"agent_end\"",
    b"{\"type\":\"turn_end\"",
    b"{\"type\":\"message_start\"",
    b"{\"type\":\"message_end\",\"message\":{\"role\":\"user\"",
    b"{\"type\":\"message_end\",\"message\":{\"role\":\"toolResult\"",
];

/// One line of pi's output, without its LF.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A whole line.
    Whole(&'a [u8]),
    /// A line over the cap that is of no use.
    Skipped,
    /// A line over the cap that could have mattered.
    TooLong,
}

/// The part of a line that has arrived so far.
#[derive(Default)]
pub struct Lines {
    partial: Vec<u8>,
    overflow: bool,
    /// Length of the line so far.
    length: u64,
}

impl Lines {
    /// Feeds `bytes`; calls `line` with each line that ended in them and with the number of bytes of `bytes` up to and
    /// including its LF.
    pub fn feed(&mut self, bytes: &[u8], mut line: impl FnMut(Line<'_>, usize)) {
        let mut start = 0;
        while let Some(length) = bytes[start..].iter().position(|b| *b == b'\n') {
            let end = start + length;
            let piece = &bytes[start..end];
            if self.overflow || self.partial.len() + piece.len() > MAX_LINE {
                self.keep(piece);
                line(self.oversize(), end + 1);
            } else if self.partial.is_empty() {
                line(Line::Whole(piece), end + 1);
            } else {
                self.partial.extend_from_slice(piece);
                line(Line::Whole(&self.partial), end + 1);
            }
            // A long line's memory is given back at once: lines of megabytes are rare.
            self.partial = Vec::new();
            self.overflow = false;
            self.length = 0;
            start = end + 1;
        }
        self.keep(&bytes[start..]);
        self.length += (bytes.len() - start) as u64;
    }

    /// Whether the line that has not ended yet is too long already: nobody waits for its end.
    pub fn is_endless(&self) -> bool {
        self.overflow && (self.length > MAX_SKIPPED || self.oversize() == Line::TooLong)
    }

    fn keep(&mut self, piece: &[u8]) {
        if !self.overflow && self.partial.len() + piece.len() > MAX_LINE {
            let missing = PREFIX.saturating_sub(self.partial.len()).min(piece.len());
            self.partial.extend_from_slice(&piece[..missing]);
            self.partial.truncate(PREFIX);
            self.partial.shrink_to_fit();
            self.overflow = true;
        } else if !self.overflow {
            self.partial.extend_from_slice(piece);
        }
    }

    fn oversize(&self) -> Line<'static> {
        if UNUSED.iter().any(|prefix| self.partial.starts_with(prefix)) { Line::Skipped } else { Line::TooLong }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn collect(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for chunk in chunks {
            lines.feed(chunk, |line, _| {
                out.push(match line {
                    Line::Whole(bytes) => bytes.to_vec(),
                    Line::Skipped => b"<skipped>".to_vec(),
                    Line::TooLong => b"<too long>".to_vec(),
                })
            });
        }
        out
    }

    #[test]
    fn only_line_feeds_separate() {
        let text = "a\u{2028}b\u{2029}c\u{85}\r\n\nd";
        assert_eq!(collect(&[text.as_bytes()]), ["a\u{2028}b\u{2029}c\u{85}\r".as_bytes(), b""]);
    }

    #[test]
    fn a_long_line_of_no_use_is_skipped_and_any_other_reported() {
        let filler = vec![b'x'; MAX_LINE];
        let skipped = collect(&[b"{\"type\":\"agent_end\",\"messages\":[\"", &filler, b"\"]}\nnext\n"]);
        assert_eq!(skipped, [b"<skipped>".to_vec(), b"next".to_vec()]);
        let too_long = collect(&[b"{\"type\":\"tool_execution_end\"", &filler, &filler, b"\nnext\n"]);
        assert_eq!(too_long, [b"<too long>".to_vec(), b"next".to_vec()]);
    }

    #[test]
    fn a_line_that_is_too_long_is_given_up_before_it_ends() {
        let (mut lines, filler) = (Lines::default(), vec![b'x'; MAX_LINE]);
        lines.feed(b"{\"type\":\"agent_end\"", |_, _| {});
        for _ in 0..MAX_SKIPPED / MAX_LINE as u64 {
            assert!(!lines.is_endless());
            lines.feed(&filler, |_, _| {});
        }
        assert!(lines.is_endless());
        lines.feed(b"\nx", |_, _| {});
        assert!(!lines.is_endless());
        lines.feed(&filler, |_, _| {});
        assert!(lines.is_endless());
    }

    #[test]
    fn a_long_line_leaves_no_memory_behind() {
        let mut lines = Lines::default();
        lines.feed(&vec![b'x'; MAX_LINE + 1], |_, _| {});
        assert!(lines.partial.capacity() <= PREFIX);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_lines_and_offsets(text in "[a-c\\n]{0,60}", cut in 0usize..61) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            prop_assert_eq!(collect(&[bytes]), collect(&[&bytes[..cut], &bytes[cut..]]));
            let mut lines = Lines::default();
            let mut ends = Vec::new();
            lines.feed(bytes, |_, end| ends.push(end));
            let expected: Vec<usize> =
                bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
            prop_assert_eq!(ends, expected);
        }
    }
}
