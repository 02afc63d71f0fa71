//! The recorded output of pi 1.5.2 (tests/data/transcripts) through the gateway's pi client.
//!
//! Each recording is one JSON line per record, `{"ms", "dir": in|out|err|exit, "rec"}`. The golden file holds what the
//! client makes of each; `UPDATE_GOLDEN=1 cargo test --test transcripts` writes it anew, to be read before it is committed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

use pi_gateway::pi::lines::{Line, Lines};
use pi_gateway::pi::translate::{Signal, Translator};
use pi_gateway::runs::event::Event;
use serde_json::Value;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn recordings() -> Vec<(String, Vec<Value>)> {
    let mut names: Vec<PathBuf> =
        fs::read_dir(data().join("transcripts")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let read = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let records = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), records)
    };
    names.iter().map(read).collect()
}

/// pi's output as bytes, with the id of the first prompt made the one that the gateway uses.
fn output(records: &[Value]) -> Vec<u8> {
    let first =
        records.iter().find(|record| record["rec"]["type"] == "prompt").map(|record| record["rec"]["id"].clone());
    let mut bytes = Vec::new();
    for record in records.iter().filter(|record| record["dir"] == "out" && record["rec"].get("_eof").is_none()) {
        let mut record = record["rec"].clone();
        if first.is_some() && record.get("id") == first.as_ref() {
            record["id"] = "prompt".into();
        }
        // serde_json sorts keys, which also shows that the order does not matter to the client.
        bytes.extend(serde_json::to_vec(&record).unwrap());
        bytes.push(b'\n');
    }
    bytes
}

/// The events and signals of an output that arrives in pieces of `size`.
fn translate(bytes: &[u8], size: usize) -> (Vec<Event>, Vec<Signal>) {
    let (mut lines, mut translator) = (Lines::default(), Translator::default());
    let (mut events, mut signals) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(size) {
        lines.feed(piece, |line, _| {
            let Line::Whole(line) = line else { panic!("a recorded line is over the cap") };
            let fed =
                translator.feed(line).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(line)));
            events.extend(fed.before);
            events.extend(fed.event);
            signals.extend(fed.signal);
        });
    }
    events.extend(translator.flush());
    (events, signals)
}

fn name(event: &Event) -> String {
    let value = serde_json::to_value(event).unwrap();
    value["event"].as_str().unwrap().to_owned()
}

fn text(events: &[Event]) -> String {
    let delta = |event: &Event| match event {
        Event::TextDelta { text, .. } => Some(text.clone()),
        _ => None,
    };
    events.iter().filter_map(delta).collect()
}

#[test]
fn every_recording_gives_the_events_of_the_golden_file() {
    let mut golden = String::new();
    for (recording, records) in recordings() {
        let (events, signals) = translate(&output(&records), usize::MAX);
        golden.push_str(&format!("== {recording}\n"));
        for event in &events {
            let mut line = serde_json::to_string(event).unwrap();
            if line.len() > 300 {
                let mut end = 300;
                while !line.is_char_boundary(end) {
                    end -= 1;
                }
                line.truncate(end);
                line.push('…');
            }
            golden.push_str(&format!("{line}\n"));
        }
        let mut last = (String::new(), 0);
        for signal in signals.iter().map(|signal| format!("{signal:?}")).chain([String::new()]) {
            if signal == last.0 {
                last.1 += 1;
            } else {
                if last.1 > 0 {
                    golden.push_str(&format!("  {} x{}\n", last.0, last.1));
                }
                last = (signal, 1);
            }
        }
    }
    let path = data().join("transcripts.golden");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &golden).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), golden, "see this file's head for how to write it anew");
}

#[test]
fn deltas_add_up_to_the_text_whatever_the_pieces() {
    for (recording, records) in recordings() {
        let bytes = output(&records);
        let (whole, signals) = translate(&bytes, usize::MAX);
        for size in [7, 64, 4096] {
            let (pieces, same) = translate(&bytes, size);
            assert_eq!(text(&whole), text(&pieces), "{recording} in pieces of {size}");
            assert_eq!(signals, same, "{recording} in pieces of {size}");
        }
    }
}

#[test]
fn a_restart_at_any_event_goes_on_as_if_there_had_been_none() {
    for (recording, records) in recordings() {
        let bytes = output(&records);
        let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        let feed = |translator: &mut Translator, lines: &[&[u8]]| {
            let mut events = Vec::new();
            for line in lines {
                let fed = translator.feed(&line[..line.len() - 1]).unwrap();
                events.extend(fed.before);
                events.extend(fed.event);
            }
            events.extend(translator.flush());
            events
        };
        for at in (0..lines.len()).step_by(7) {
            let mut before = Translator::default();
            let emitted = feed(&mut before, &lines[..at]);
            let mut restored = Translator::default();
            for event in &emitted {
                let tagged = serde_json::to_value(event).unwrap();
                restored.restore(&name(event), &tagged["data"]);
            }
            let rest = feed(&mut before, &lines[at..]);
            assert_eq!(rest, feed(&mut restored, &lines[at..]), "{recording} at line {at}");
            assert_eq!(before.last_message(), restored.last_message(), "{recording} at line {at}");
        }
    }
}

#[test]
fn every_recorded_turn_that_settled_is_seen_to_settle() {
    for (recording, records) in recordings() {
        let settled =
            records.iter().filter(|record| record["dir"] == "out" && record["rec"]["type"] == "agent_settled").count();
        let (_, signals) = translate(&output(&records), usize::MAX);
        assert_eq!(signals.iter().filter(|signal| **signal == Signal::Settled).count(), settled, "{recording}");
    }
}
