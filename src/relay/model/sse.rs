//! Reads the usage out of a streamed answer while it passes through.
//!
//! Fed with the answer's bytes in whatever pieces they come, it looks at each line of the event stream and keeps the
//! `usage` of the terminal event (`response.completed`, `.done`, `.incomplete` or `.failed`). It holds at most [`HEAD`] bytes
//! of a line's beginning and [`TAIL`] of its end, however long lines are, changes nothing, and cannot fail: a stream
//! it does not understand simply has no terminal event.

use serde::Deserialize;

/// Bytes kept of a line's beginning; the event's type is looked for there.
const HEAD: usize = 256;
/// Bytes kept of a line's end. The provider puts `usage` behind the whole output, a few fields before the end.
const TAIL: usize = 64 * 1024;

/// Tokens as the provider counted them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// All input, cached or not.
    pub input: u64,
    /// The part of `input` read from the provider's cache.
    pub cached: u64,
    /// The part of `input` written to the provider's cache.
    pub cache_write: u64,
    /// All output, reasoning included.
    pub output: u64,
    /// The part of `output` that was reasoning.
    pub reasoning: u64,
}

/// The scanner of one answer.
#[derive(Debug, Default)]
pub struct Scanner {
    head: Vec<u8>,
    tail: Vec<u8>,
    /// The line's whole length so far.
    length: u64,
    /// The last `event:` line named a terminal event.
    announced: bool,
    terminal: bool,
    usage: Option<Tokens>,
    deltas: u64,
}

impl Scanner {
    /// Takes the next bytes of the answer.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n' || *b == b'\r') {
            self.extend(&bytes[..end]);
            self.end_of_line();
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes);
    }

    /// Whether the terminal event has come.
    #[must_use]
    pub fn terminal(&self) -> bool {
        self.terminal
    }

    /// The usage in the terminal event, if it had one.
    #[must_use]
    pub fn usage(&self) -> Option<Tokens> {
        self.usage
    }

    /// Increments of text, reasoning or tool arguments seen; each is about one token.
    #[must_use]
    pub fn deltas(&self) -> u64 {
        self.deltas
    }

    fn extend(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.length += bytes.len() as u64;
        let room = HEAD.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        // Amortised: the buffer may grow to twice TAIL before its older half goes.
        let keep = &bytes[bytes.len().saturating_sub(TAIL)..];
        self.tail.extend_from_slice(keep);
        if self.tail.len() > 2 * TAIL {
            self.tail.drain(..self.tail.len() - TAIL);
        }
    }

    fn end_of_line(&mut self) {
        if let Some(name) = field(&self.head, b"event:") {
            self.announced = TERMINAL.iter().any(|t| t.as_bytes() == name);
        } else if field(&self.head, b"data:").is_some() {
            if self.announced || TERMINAL.iter().any(|t| contains_type(&self.head, t)) {
                self.terminal = true;
                self.usage = self.read_usage().or(self.usage);
            } else if contains(&self.head, b".delta\"") {
                self.deltas += 1;
            }
            self.announced = false;
        }
        self.head.clear();
        self.tail.clear();
        self.length = 0;
    }

    fn read_usage(&self) -> Option<Tokens> {
        if self.length == self.tail.len() as u64 {
            let data = field(&self.tail, b"data:")?;
            let event: Event = serde_json::from_slice(data).ok()?;
            return event.response.usage.map(Into::into);
        }
        // The line is longer than what is kept. Inside a JSON string the quotes would be escaped, so `"usage":` in
        // the raw bytes is a key; the last one is the answer's own.
        let key = b"\"usage\":";
        let at = self.tail.windows(key.len()).rposition(|w| w == key)?;
        let mut values = serde_json::Deserializer::from_slice(&self.tail[at + key.len()..]).into_iter::<Wire>();
        values.next()?.ok().map(Into::into)
    }
}

/// The last is a name that Codex's API has for the first.
const TERMINAL: [&str; 4] = ["response.completed", "response.incomplete", "response.failed", "response.done"];

/// The trimmed value of a line that begins with the field name.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    line.strip_prefix(name).map(<[u8]>::trim_ascii)
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    hay.windows(needle.len()).any(|w| w == needle)
}

/// Whether the event's own `type` is this one: the first `"type":` of the line, blanks allowed.
fn contains_type(head: &[u8], name: &str) -> bool {
    let key = b"\"type\":";
    let Some(at) = head.windows(key.len()).position(|w| w == key) else { return false };
    let rest = head[at + key.len()..].trim_ascii_start();
    rest.strip_prefix(b"\"").and_then(|r| r.strip_prefix(name.as_bytes())).is_some_and(|r| r.starts_with(b"\""))
}

#[derive(Deserialize)]
struct Event {
    response: Response,
}

#[derive(Deserialize)]
struct Response {
    usage: Option<Wire>,
}

/// The provider's `usage` object.
#[derive(Deserialize)]
pub struct Wire {
    #[serde(default)]
    input_tokens: u64,
    #[serde(default)]
    input_tokens_details: Option<InputDetails>,
    #[serde(default)]
    output_tokens: u64,
    #[serde(default)]
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Deserialize, Default)]
struct InputDetails {
    #[serde(default)]
    cached_tokens: u64,
    #[serde(default)]
    cache_write_tokens: u64,
}

#[derive(Deserialize, Default)]
struct OutputDetails {
    #[serde(default)]
    reasoning_tokens: u64,
}

impl From<Wire> for Tokens {
    fn from(wire: Wire) -> Self {
        let input = wire.input_tokens_details.unwrap_or_default();
        Self {
            input: wire.input_tokens,
            cached: input.cached_tokens,
            cache_write: input.cache_write_tokens,
            output: wire.output_tokens,
            reasoning: wire.output_tokens_details.unwrap_or_default().reasoning_tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    const USAGE: &str = r#"{"input_tokens":1000,"input_tokens_details":{"cached_tokens":512},"output_tokens":42,"output_tokens_details":{"reasoning_tokens":7},"total_tokens":1042}"#;
    const COUNTED: Tokens = Tokens { input: 1000, cached: 512, cache_write: 0, output: 42, reasoning: 7 };

    fn stream(ending: &str) -> String {
        format!(
            "event: response.output_text.delta\ndata: {{\"type\":\"response.output_text.delta\",\"delta\":\"a \\\"usage\\\":{{}} b\"}}\n\n: comment\n\n{ending}"
        )
    }

    fn completed(padding: usize) -> String {
        format!(
            "event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{{\"id\":\"r\",\"output\":[\"{}\"],\"usage\":{USAGE},\"user\":null}}}}\n\n",
            "x".repeat(padding)
        )
    }

    fn scan(pieces: &[&[u8]]) -> Scanner {
        let mut scanner = Scanner::default();
        pieces.iter().for_each(|piece| scanner.feed(piece));
        scanner
    }

    #[test]
    fn finds_the_usage_at_every_split() {
        let text = stream(&completed(10));
        for at in 0..=text.len() {
            let scanner = scan(&[&text.as_bytes()[..at], &text.as_bytes()[at..]]);
            assert_eq!((scanner.terminal(), scanner.usage(), scanner.deltas()), (true, Some(COUNTED), 1), "{at}");
        }
        let single: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(scan(&single).usage(), Some(COUNTED));
    }

    #[test]
    fn finds_it_behind_an_output_larger_than_it_keeps() {
        for padding in [TAIL - 400, TAIL, 3 * TAIL, 5_000_000] {
            let text = completed(padding);
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(9000).collect();
            let scanner = scan(&pieces);
            assert_eq!(scanner.usage(), Some(COUNTED), "{padding}");
        }
    }

    #[test]
    fn holds_a_bounded_part_of_an_endless_line() {
        let mut scanner = Scanner::default();
        for _ in 0..2000 {
            scanner.feed(&[b'x'; 10_000]);
            assert!(scanner.tail.capacity() <= 6 * TAIL && scanner.head.len() <= HEAD);
        }
        assert!(!scanner.terminal());
    }

    #[test]
    fn other_terminal_events_carriage_returns_and_missing_event_lines_are_understood() {
        for name in TERMINAL {
            let text = format!("data: {{\"type\": \"{name}\",\"response\":{{\"usage\":{USAGE}}}}}\r\n\r\n");
            assert_eq!(scan(&[text.as_bytes()]).usage(), Some(COUNTED), "{name}");
        }
        let failed = "event: response.failed\ndata: {\"response\":{\"usage\":null}}\n\n";
        let scanner = scan(&[failed.as_bytes()]);
        assert_eq!((scanner.terminal(), scanner.usage()), (true, None));
    }

    #[test]
    fn a_cut_stream_or_a_quoted_event_is_not_terminal() {
        let text = stream(&completed(10));
        let cut = &text.as_bytes()[..text.len() - 3];
        assert!(!scan(&[cut]).terminal());
        let quoted =
            "data: {\"type\":\"response.output_text.delta\",\"delta\":\"\\\"type\\\":\\\"response.completed\\\"\"}\n\n";
        assert!(!scan(&[quoted.as_bytes()]).terminal());
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_read_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..2000), cut in 1usize..50) {
            let mut all = bytes.clone();
            all.extend_from_slice(b"\n");
            all.extend_from_slice(completed(3).as_bytes());
            let whole = scan(&[&all]);
            let pieces: Vec<&[u8]> = all.chunks(cut).collect();
            let split = scan(&pieces);
            prop_assert_eq!(whole.usage(), split.usage());
            prop_assert_eq!(whole.terminal(), split.terminal());
            prop_assert!(split.terminal());
        }
    }
}
