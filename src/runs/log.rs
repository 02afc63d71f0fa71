//! The log of a run's events: written once, in the form in which it is sent, and read by each subscriber on its own.
//!
//! The file holds server-sent events and nothing else. One writer appends whole batches with a single write and only
//! then publishes the new length, so a reader never sees part of an event. A crash may leave a torn end: opening cuts it
//! off; nobody has seen it. A slow reader costs nothing, a resume is a binary search over the file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use super::event::{Event, EventId, MAX_DATA};

/// The largest log of one run: 512 MiB. A run that would exceed it fails as `output_limit`.
pub const MAX_LOG: u64 = 512 << 20;
/// No frame is longer than this: data, id and name.
const MAX_FRAME: usize = MAX_DATA + 256;
/// How much is read at a time when a position is looked for.
const PROBE: usize = 4096;

/// How far a log has grown, and whether it will grow further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes; always the end of a frame.
    pub length: u64,
    /// Whether the last event is in it.
    pub finished: bool,
}

/// The writing end. There is one per run.
pub struct EventLog {
    file: Arc<File>,
    /// The last event that was pushed.
    last: EventId,
    /// The last event that is in the file.
    written: EventId,
    /// How far the file goes; readers are told by `publish`.
    end: Extent,
    batch: Vec<u8>,
    extent: watch::Sender<Extent>,
}

/// A reading end.
#[derive(Clone)]
pub struct LogReader {
    file: Arc<File>,
    extent: watch::Receiver<Extent>,
}

impl EventLog {
    /// Opens or creates the log at `path`, cuts off a torn end and calls `each` with every event in it.
    ///
    /// # Errors
    /// When the file cannot be opened, read or cut.
    pub fn open(path: &Path, mut each: impl FnMut(&str, &serde_json::Value)) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let (mut last, mut end, mut finished) = (EventId::default(), 0, false);
        each_frame(&file, |frame| {
            let Some(parsed) = Frame::parse(frame) else { return false };
            end += frame.len() as u64;
            last = parsed.id;
            finished = parsed.event == Event::LAST;
            each(parsed.event, &serde_json::from_str(parsed.data).unwrap_or_default());
            true
        })?;
        if file.metadata()?.len() != end {
            file.set_len(end)?;
        }
        let end = Extent { length: end, finished };
        let (extent, _) = watch::channel(end);
        Ok(EventLog { file: Arc::new(file), last, written: last, end, batch: Vec::new(), extent })
    }

    /// The id of the last event, `0-0` when there is none.
    pub fn last(&self) -> EventId {
        self.last
    }

    /// Whether the run's last event is in the log.
    pub fn is_finished(&self) -> bool {
        self.end.finished
    }

    /// Adds an event to the batch; `offset` says how much of pi's output it accounts for.
    pub fn push(&mut self, event: &Event, offset: u64) {
        self.last = EventId { seq: self.last.seq + 1, offset };
        event.frame(self.last, &mut self.batch);
        self.end.finished |= matches!(event, Event::RunFinished { .. });
    }

    /// Writes the batch; the readers see it with [`EventLog::publish`].
    ///
    /// # Errors
    /// When the write fails. What was written of it is cut off again, so the log stays whole and the batch is lost.
    pub fn write(&mut self) -> io::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let mut batch = std::mem::take(&mut self.batch);
        let mut file = &*self.file;
        if let Err(error) = file.write_all(&batch) {
            self.file.set_len(self.end.length)?;
            self.last = self.written;
            self.end.finished = false;
            return Err(error);
        }
        self.end.length += batch.len() as u64;
        self.written = self.last;
        // The buffer is kept for the next batch unless it was unusually large.
        if batch.capacity() <= 256 << 10 {
            batch.clear();
            self.batch = batch;
        }
        Ok(())
    }

    /// Lets the readers see what was written.
    pub fn publish(&self) {
        self.extent.send_if_modified(|extent| std::mem::replace(extent, self.end) != self.end);
    }

    /// Writes and publishes.
    ///
    /// # Errors
    /// As [`EventLog::write`].
    pub fn commit(&mut self) -> io::Result<()> {
        self.write()?;
        self.publish();
        Ok(())
    }

    /// Whether the log has reached [`MAX_LOG`].
    pub fn is_full(&self) -> bool {
        self.end.length + self.batch.len() as u64 >= MAX_LOG
    }

    /// Forces the log to the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// A reading end.
    pub fn reader(&self) -> LogReader {
        LogReader { file: self.file.clone(), extent: self.extent.subscribe() }
    }
}

impl LogReader {
    /// Opens the log of a run that has ended.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let (_, extent) = watch::channel(Extent { length, finished: true });
        Ok(LogReader { file: Arc::new(file), extent })
    }

    /// How far the log has grown.
    pub fn extent(&self) -> Extent {
        *self.extent.borrow()
    }

    /// Waits until the log is longer than `position` or finished; None when its writer is gone before.
    pub async fn grown(&mut self, position: u64) -> Option<Extent> {
        self.extent.wait_for(|extent| extent.length > position || extent.finished).await.ok().map(|extent| *extent)
    }

    /// Reads what follows `position`, at most `limit` bytes. A page-cache read: the writer has just written it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, position: u64, limit: usize) -> io::Result<Vec<u8>> {
        let length = self.extent.borrow().length.saturating_sub(position).min(limit as u64);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(limit)];
        let count = self.file.read_at(&mut bytes, position)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// Reads the one frame at `position`; None at the end.
    ///
    /// # Errors
    /// When the file cannot be read or holds no frame there.
    pub fn frame(&self, position: u64) -> io::Result<Option<Vec<u8>>> {
        let mut size = PROBE;
        loop {
            let mut bytes = self.read(position, size)?;
            if let Some(end) = frame_end(&bytes) {
                bytes.truncate(end);
                return Ok(Some(bytes));
            }
            if bytes.is_empty() {
                return Ok(None);
            }
            if size > MAX_FRAME || bytes.len() < size {
                return Err(damaged("an event without end"));
            }
            size *= 8;
        }
    }

    /// The position behind the event `id`; None when the log does not hold it.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn position_after(&self, id: EventId) -> io::Result<Option<u64>> {
        if id == EventId::default() {
            return Ok(Some(0));
        }
        let (mut low, mut high) = (0, self.extent().length);
        while low < high {
            let middle = low + (high - low) / 2;
            let start = self.frame_start(middle, low)?;
            let Some(frame) = self.frame(start)? else { return Ok(None) };
            let Some(parsed) = Frame::parse(&frame) else { return Err(damaged("an event without id")) };
            match parsed.id.seq.cmp(&id.seq) {
                std::cmp::Ordering::Equal => {
                    return Ok((parsed.id == id).then(|| start + frame.len() as u64));
                }
                std::cmp::Ordering::Less => low = start + frame.len() as u64,
                std::cmp::Ordering::Greater => high = start,
            }
        }
        Ok(None)
    }

    /// The start of the frame that holds the byte at `at`, not before `low`, which is the start of one.
    fn frame_start(&self, at: u64, low: u64) -> io::Result<u64> {
        let mut to = at;
        while to > low {
            let from = to.saturating_sub(PROBE as u64).max(low);
            // One byte of overlap on each side, so that a boundary is found whole.
            let bytes = self.read(from, usize::try_from(to - from).unwrap_or(PROBE))?;
            if let Some(position) = bytes.windows(2).rposition(|pair| pair == b"\n\n") {
                return Ok(from + position as u64 + 2);
            }
            if from == low {
                return Ok(low);
            }
            to = from + 1;
        }
        Ok(low)
    }
}

/// One event of the log, taken apart.
pub struct Frame<'a> {
    /// Its id.
    pub id: EventId,
    /// Its name.
    pub event: &'a str,
    /// Its data, JSON.
    pub data: &'a str,
}

impl<'a> Frame<'a> {
    /// Takes a whole frame apart; None when it is not of the form in which this module writes.
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(frame).ok()?.strip_suffix("\n\n")?;
        let mut lines = text.split('\n');
        let id = lines.next()?.strip_prefix("id: ")?.parse().ok()?;
        let event = lines.next()?.strip_prefix("event: ")?;
        let data = lines.next()?.strip_prefix("data: ")?;
        lines.next().is_none().then_some(Frame { id, event, data })
    }
}

/// The length of the frame at the beginning of `bytes`, if it is whole.
pub fn frame_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(2).position(|pair| pair == b"\n\n").map(|at| at + 2)
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the run's event log is damaged: {what}"))
}

/// Calls `each` with the whole frames of a file in order until it says stop, the end, or a torn frame.
fn each_frame(mut file: &File, mut each: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let mut start = 0;
        while let Some(length) = frame_end(&buffer[start..]) {
            if !each(&buffer[start..start + length]) {
                return Ok(());
            }
            start += length;
        }
        buffer.drain(..start);
        if buffer.len() > MAX_FRAME || (&mut file).take(256 << 10).read_to_end(&mut buffer)? == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn delta(text: &str) -> Event {
        Event::TextDelta { message: 1, index: 0, text: text.into() }
    }

    fn filled(path: &Path, texts: &[String]) -> EventLog {
        let mut log = EventLog::open(path, |_, _| {}).unwrap();
        for (index, text) in texts.iter().enumerate() {
            log.push(&delta(text), 10 * (index as u64 + 1));
            log.commit().unwrap();
        }
        log
    }

    #[test]
    fn every_event_is_found_and_gives_exactly_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let texts: Vec<String> = (0..200).map(|n| "x".repeat((n * 37) % 9000)).collect();
        let log = filled(&dir.path().join("events"), &texts);
        let reader = log.reader();
        let whole = reader.read(0, usize::MAX).unwrap();
        for seq in 0..=texts.len() as u64 {
            let position = reader.position_after(EventId { seq, offset: seq * 10 }).unwrap().unwrap();
            let rest = &whole[usize::try_from(position).unwrap()..];
            match Frame::parse(&rest[..frame_end(rest).unwrap_or(0)]) {
                Some(next) => assert_eq!(next.id.seq, seq + 1),
                None => assert_eq!(seq as usize, texts.len()),
            }
        }
        for wrong in [EventId { seq: 5, offset: 51 }, EventId { seq: 201, offset: 2010 }, EventId { seq: 0, offset: 1 }]
        {
            assert_eq!(reader.position_after(wrong).unwrap(), None);
        }
    }

    #[test]
    fn a_torn_end_is_cut_off_wherever_it_was_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        drop(filled(&path, &["one".into(), "two".into()]));
        let whole = std::fs::read(&path).unwrap();
        let first = frame_end(&whole).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let mut seen = 0;
            let log = EventLog::open(&path, |_, _| seen += 1).unwrap();
            let kept = if length < first { 0 } else { first };
            assert_eq!(std::fs::metadata(&path).unwrap().len(), kept as u64, "torn at {length}");
            assert_eq!(log.last().seq, seen);
        }
    }

    #[tokio::test]
    async fn readers_wake_when_a_batch_is_committed_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = EventLog::open(&dir.path().join("events"), |_, _| {}).unwrap();
        let mut reader = log.reader();
        log.push(&delta("a"), 1);
        assert_eq!(reader.read(0, 100).unwrap(), b"");
        log.commit().unwrap();
        let extent = reader.grown(0).await.unwrap();
        assert_eq!(reader.read(0, 1000).unwrap().len() as u64, extent.length);
        drop(log);
        assert_eq!(reader.grown(extent.length).await, None);
    }

    proptest! {
        #[test]
        fn opening_anything_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("events");
            std::fs::write(&path, &bytes).unwrap();
            let log = EventLog::open(&path, |_, _| {}).unwrap();
            let _ = log.reader().position_after(EventId { seq: 3, offset: 1 });
            let _ = LogReader::open(&path).unwrap().position_after(EventId { seq: 1, offset: 1 });
        }
    }
}
