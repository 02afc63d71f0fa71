//! The log: one line an event to stderr, which systemd takes to the journal, and from there to syslog where there is one.
//!
//! Only this project's own words are told below a warning: at a finer level the libraries below would tell what passes
//! through them. Lines are JSON unless `LOG_FORMAT` says otherwise. In the journal each has its priority, so that
//! `journalctl -p warning` finds what to look at.

use std::io::{self, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// What a pipe or a socket takes in one piece: PIPE_BUF of pipe(7), in bytes.
const WHOLE: usize = 4096;

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An object of JSON.
    Json,
    /// Text for people.
    Text,
}

/// Begins to log, for all of the process. A second call changes nothing.
pub fn begin(format: Format, level: LevelFilter) {
    let filter = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("pi_gateway", level);
    let _ = tracing_subscriber::registry().with(lines(format, Stderr::new()).with_filter(filter)).try_init();
}

fn lines<S, W>(format: Format, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer);
    match format {
        Format::Json => layer.json().flatten_event(true).with_span_list(false).boxed(),
        Format::Text => layer.boxed(),
    }
}

/// Stderr, with each line's priority before it where the journal reads.
struct Stderr {
    priorities: bool,
}

impl Stderr {
    fn new() -> Self {
        // systemd says which stream it has connected to the journal: stderr may have been put elsewhere since.
        let own = rustix::fs::fstat(io::stderr()).map(|found| format!("{}:{}", found.st_dev, found.st_ino));
        Stderr { priorities: own.is_ok_and(|own| std::env::var("JOURNAL_STREAM").is_ok_and(|given| given == own)) }
    }
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line("")
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line {
        Line(if self.priorities { priority(*event.level()) } else { "" })
    }
}

/// The mark of sd-daemon(3).
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}

struct Line(&'static str);

impl Write for Line {
    /// An event is one call, and goes out in one.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = [self.0.as_bytes(), bytes].concat();
        // Whole by itself: threads that have something to tell at the same time need not wait for each other.
        let sent = if line.len() <= WHOLE { rustix::io::write(io::stderr(), &line).unwrap_or(0) } else { 0 };
        if sent < line.len() {
            io::stderr().lock().write_all(&line[sent..])?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = tracing_subscriber::registry().with(lines(format, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let _request = tracing::error_span!("request", request = "r-1").entered();
            tracing::warn!(run = 7, "hello\nworld");
        });
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn what_is_logged_within_a_request_has_its_id_and_is_one_line() {
        let line = logged(Format::Json);
        assert_eq!(line.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["message"], &value["run"]), (&"hello\nworld".into(), &7.into()));
        assert_eq!((&value["span"]["request"], &value["level"]), (&"r-1".into(), &"WARN".into()));
        let line = logged(Format::Text);
        assert!(line.contains("request=\"r-1\"") && line.contains("WARN"), "{line}");
    }
}
