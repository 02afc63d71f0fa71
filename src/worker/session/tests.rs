//! Sessions as pi 1.5.2 writes them, and as nobody should.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::worker::message::{Message, Part, Role, decode_page, encode_page};

/// A directory with a session in it.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Place { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join(NAME)
    }

    fn with(bytes: impl AsRef<[u8]>) -> Self {
        let place = Place::new();
        fs::write(place.path(), bytes).unwrap();
        place
    }

    fn reader(&self) -> Reader {
        Reader::new(self.directory.path())
    }

    fn session(&self) -> Session {
        self.reader().session().unwrap().unwrap()
    }

    /// The whole history, page by page.
    fn history(&self, limit: usize) -> Vec<Message> {
        let (mut reader, mut after, mut all) = (self.reader(), None, Vec::new());
        loop {
            let page = reader.page(after, limit).unwrap();
            assert!(page.messages.len() <= limit);
            all.extend(page.messages);
            match page.next {
                Some(next) => after = Some(next),
                None => return all,
            }
        }
    }

    /// The texts of the history.
    fn texts(&self) -> Vec<String> {
        self.history(3).iter().map(text).collect()
    }
}

fn text(message: &Message) -> String {
    let texts = message.parts.iter().filter_map(|part| match part {
        Part::Text(text) => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

const HEADER: &str = r#"{"type":"session","version":3,"id":"01a20598-d4d2-7cf6-97c8-bd05e8f0bb1a","timestamp":"2026-11-23T01:00:10.578Z","cwd":"/workspace"}"#;
const MODEL: &str = r#"{"type":"model_change","id":"8faaecac","parentId":null,"timestamp":"2026-11-23T01:00:10.579Z","provider":"gateway","modelId":"gpt-6-sol"}"#;

fn lines(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn entry(id: &str, parent: Option<&str>, more: Value) -> String {
    let mut entry = json!({"type": "message", "id": id, "parentId": parent, "timestamp": "2026-11-23T01:01:03.734Z"});
    entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    entry.to_string()
}

fn user(id: &str, parent: Option<&str>, text: &str) -> String {
    let message =
        json!({"role": "user", "content": [{"type": "text", "text": text}], "timestamp": 1_795_395_663_734_u64});
    entry(id, parent, json!({"message": message}))
}

fn answer(id: &str, parent: Option<&str>, text: &str, stop: &str, tokens: u64) -> String {
    let usage = json!({"input": 538, "output": 42, "cacheRead": 512, "cacheWrite": 0, "totalTokens": tokens});
    let message = json!({"role": "assistant", "content": [{"type": "text", "text": text, "textSignature": "{\"v\":1}"}],
        "api": "openai-responses", "provider": "gateway", "model": "gpt-6-luna", "usage": usage, "stopReason": stop,
        "responseId": "resp_44", "rawStopReason": "completed", "durationMs": 72, "thinkingLevel": "medium"});
    entry(id, parent, json!({"message": message}))
}

/// What pi leaves of a conversation with a tool, a failed try and a compaction.
fn conversation() -> Vec<String> {
    vec![
        HEADER.into(),
        MODEL.into(),
        r#"{"type":"thinking_level_change","id":"38c7532a","parentId":"8faaecac","timestamp":"2026-11-23T01:00:10.579Z","thinkingLevel":"medium"}"#.into(),
        entry("9b6d8746", Some("38c7532a"), json!({"message": {"role": "system", "content": "", "sections": {"cwd": "/workspace"}}})),
        user("aaaa0001", Some("9b6d8746"), "\n  Make a page \nabout cats"),
        answer("aaaa0002", Some("aaaa0001"), "", "error", 0),
        r#"{"type":"context_edit","id":"aaaa0003","parentId":"aaaa0002","timestamp":"2026-11-23T00:57:41.670Z","targetId":"aaaa0002","replacement":null}"#.into(),
        entry("aaaa0004", Some("aaaa0003"), json!({"message": {"role": "assistant", "model": "gpt-6-sol", "stopReason": "toolUse",
            "content": [{"type": "thinking", "thinking": "**Plan**", "thinkingSignature": "x"},
                {"type": "toolCall", "id": "call_98a3|fc_61", "name": "bash", "arguments": {"command": "ls"}}],
            "usage": {"totalTokens": 1062}}})),
        entry("aaaa0005", Some("aaaa0004"), json!({"message": {"role": "toolResult", "toolCallId": "call_98a3|fc_61", "toolName": "bash",
            "content": [{"type": "text", "text": "cat.png"}, {"type": "image", "data": "iVBORw0KGg==", "mimeType": "image/png"}],
            "details": {"path": "cat.png"}, "isError": true}})),
        r#"{"type":"compaction","id":"aaaa0006","parentId":"aaaa0005","timestamp":"2026-11-23T01:03:35.404Z","summary":"cats","firstKeptEntryId":"aaaa0004","tokensBefore":50000}"#.into(),
        answer("aaaa0007", Some("aaaa0006"), "Done.", "stop", 1092),
    ]
}

#[test]
fn a_conversation_is_shown_whole_but_for_failed_tries_and_what_is_not_said() {
    let place = Place::with(lines(&conversation()));
    let session = place.session();
    assert_eq!((session.messages, session.tokens, session.compactions), (4, Some(1092), 1));
    assert_eq!(session.title.as_deref(), Some("Make a page"));
    assert_eq!(session.model.as_deref(), Some("gpt-6-luna"));
    assert_eq!(session.created, Some("2026-11-23T01:00:10.578Z".parse::<jiff::Timestamp>().unwrap().as_millisecond()));
    let history = place.history(50);
    let roles: Vec<Role> = history.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::ToolResult, Role::Assistant]);
    let call = Part::ToolCall {
        id: "call_98a3|fc_61".into(),
        name: "bash".into(),
        arguments: Some(r#"{"command":"ls"}"#.into()),
    };
    assert_eq!(history[1].parts, [Part::Thinking("**Plan**".into()), call]);
    let result = &history[2];
    assert_eq!((result.tool_call_id.as_deref(), result.is_error), (Some("call_98a3|fc_61"), true));
    assert_eq!(result.parts[1], Part::Image { mime_type: "image/png".into(), bytes: 7 });
    assert_eq!((text(&history[3]).as_str(), history[3].stop_reason.as_deref()), ("Done.", Some("stop")));
    for limit in 1..6 {
        assert_eq!(place.history(limit), history, "{limit}");
    }
}

#[test]
fn after_a_compaction_the_context_is_not_known_until_something_is_answered() {
    let mut all = conversation();
    all.pop();
    assert_eq!(Place::with(lines(&all)).session().tokens, None);
    all.push(answer("aaaa0008", Some("aaaa0006"), "no", "aborted", 7));
    assert_eq!(Place::with(lines(&all)).session().tokens, None);
}

#[test]
fn only_the_branch_of_the_last_entry_is_the_history_and_a_name_is_its_title() {
    let all = [
        HEADER.into(),
        user("a", None, "first"),
        answer("b", Some("a"), "left", "stop", 1),
        user("c", Some("b"), "left too"),
        answer("d", Some("a"), "right", "stop", 2),
        r#"{"type":"session_info","id":"e","parentId":"d","timestamp":"x","name":" Cats  "}"#.into(),
    ];
    let place = Place::with(lines(&all));
    assert_eq!(place.texts(), ["first", "right"]);
    assert_eq!(place.session().title.as_deref(), Some("Cats"));
}

#[test]
fn of_several_edits_of_a_message_the_latest_counts() {
    let edit = |id: &str, parent: &str, replacement: Value| {
        json!({"type": "context_edit", "id": id, "parentId": parent, "targetId": "a", "replacement": replacement})
            .to_string()
    };
    let mut all = vec![HEADER.into(), user("a", None, "kept"), edit("b", "a", Value::Null)];
    assert_eq!(Place::with(lines(&all)).texts(), [""; 0]);
    all.push(edit("c", "b", json!("other words")));
    assert_eq!(Place::with(lines(&all)).texts(), ["kept"]);
}

#[test]
fn a_file_torn_at_any_byte_shows_what_was_whole() {
    let whole = lines(&conversation());
    let first = HEADER.len();
    for length in first..whole.len() {
        let place = Place::with(&whole.as_bytes()[..length]);
        let messages = place.session().messages;
        assert!(messages <= 4, "torn at {length}");
        assert_eq!(place.history(50).len() as u64, messages, "torn at {length}");
        // What pi writes next begins with a line feed, and goes on from the last whole entry.
    }
    let torn = format!("{HEADER}\n{}\n{{\"type\":\"mess\n{}\n", user("a", None, "one"), user("b", Some("a"), "two"));
    assert_eq!(Place::with(torn).texts(), ["one", "two"]);
}

#[test]
fn no_file_and_an_empty_one_are_no_session_yet() {
    let place = Place::new();
    assert_eq!(place.reader().session(), Ok(None));
    assert_eq!(place.reader().page(None, 9), Ok(Page::default()));
    fs::write(place.path(), "").unwrap();
    assert_eq!(place.reader().session(), Ok(None));
}

#[test]
fn what_is_no_session_is_refused_and_never_waited_for() {
    let refused = |place: &Place| assert_eq!(place.reader().session(), Err(Failure::NotASession));
    for bytes in ["x", "\n\n", "{}\n", "[]\n", MODEL, "\0\0\0"] {
        refused(&Place::with(bytes));
    }
    let place = Place::new();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.path(),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    refused(&place);
    fs::remove_file(place.path()).unwrap();
    fs::create_dir(place.path()).unwrap();
    refused(&place);
    fs::remove_dir(place.path()).unwrap();
    let outside = Place::with(lines(&conversation()));
    for target in [outside.path(), "/dev/zero".into(), "../etc".into(), "/proc/self/mem".into()] {
        symlink(&target, place.path()).unwrap();
        refused(&place);
        fs::remove_file(place.path()).unwrap();
    }
}

#[test]
fn what_is_too_large_is_told_at_once() {
    let place = Place::with(lines(&conversation()));
    fs::OpenOptions::new().write(true).open(place.path()).unwrap().set_len(MAX_FILE + 1).unwrap();
    assert_eq!(place.reader().session(), Err(Failure::TooLarge));
    let mut many = format!("{HEADER}\n");
    for number in 0..=index::MAX_ENTRIES {
        many.push_str(&format!("{{\"type\":\"label\",\"id\":\"{number}\"}}\n"));
    }
    let place = Place::with(many);
    let mut reader = place.reader();
    for _ in 0..2 {
        assert_eq!(reader.session(), Err(Failure::TooLarge));
    }
}

#[test]
fn a_line_that_is_too_long_is_passed_over() {
    let long = user("b", Some("a"), &"x".repeat(index::MAX_LINE));
    let all = [HEADER.into(), user("a", None, "one"), long, user("c", Some("a"), "two")];
    let place = Place::with(lines(&all));
    assert_eq!(place.texts(), ["one", "two"]);
}

#[test]
fn entries_that_name_each_other_in_a_circle_are_each_met_once() {
    let all = [
        HEADER.into(),
        user("a", Some("c"), "one"),
        user("b", Some("a"), "two"),
        user("c", Some("b"), "three"),
        user("d", Some("d"), "self"),
    ];
    assert_eq!(Place::with(lines(&all[..4])).texts(), ["one", "two", "three"]);
    assert_eq!(Place::with(lines(&all)).texts(), ["self"]);
}

#[test]
fn what_is_no_text_is_shown_as_far_as_it_is_one() {
    let plain = r#"{"type":"message","id":"a","parentId":null,"message":{"role":"user","content":"plain"}}"#;
    let halved = r#"{"type":"message","id":"b","parentId":"a","message":{"role":"user","content":[{"type":"text","text":"x\ud83d"}]}}"#;
    let mut bytes = lines(&[HEADER.into(), plain.into(), halved.into()]).into_bytes();
    bytes.extend(b"{\"type\":\"message\",\"id\":\"c\",\"parentId\":\"b\",\"message\":{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"\xff!\"}]}}\n");
    let texts = Place::with(bytes).texts();
    assert_eq!((texts[0].as_str(), texts.len()), ("plain", 3));
    assert!(texts[1].starts_with('x') && texts[1].len() > 1 && texts[2].ends_with('!'), "{texts:?}");
}

#[test]
fn a_message_is_cut_where_it_would_be_too_long_and_says_so() {
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    let call = |arguments: &str| format!(r#"{{"type":"toolCall","id":"i","name":"n","arguments":{arguments}}}"#);
    let message = |parts: &[String]| {
        let parts = parts.join(",");
        format!(r#"{{"type":"message","id":"a","parentId":null,"message":{{"role":"assistant","content":[{parts}]}}}}"#)
    };
    let shown = |parts: &[String]| message::shown(message(parts).as_bytes()).unwrap();
    let text = |length: usize| format!(r#"{{"type":"text","text":"{}"}}"#, "ü".repeat(length));
    let many = shown(&vec![text(1); message::MAX_PARTS + 1]);
    assert_eq!((many.parts.len(), many.truncated), (message::MAX_PARTS, true));
    let long = shown(&[text(message::MAX_TEXT / 2 + 10), text(1)]);
    assert!(long.truncated && long.size() <= message::MAX_TEXT + 4096, "{}", long.size());
    for arguments in [deep.as_str(), &format!("\"{}\"", "x".repeat(70_000))] {
        let cut = shown(&[call(arguments)]);
        assert!(matches!(&cut.parts[0], Part::ToolCall { arguments: None, .. }) && cut.truncated);
    }
    assert!(!shown(&[call("{\"a\":1}"), text(3)]).truncated);
}

#[test]
fn a_page_of_the_largest_messages_fits_what_the_front_takes() {
    let text = "x".repeat(message::MAX_TEXT);
    let all = [HEADER.into(), user("a", None, &text), user("b", Some("a"), &text), user("c", Some("b"), &text)];
    let place = Place::with(lines(&all));
    let page = place.reader().page(None, 200).unwrap();
    assert_eq!((page.messages.len(), page.next.is_some()), (1, true));
    assert_eq!(decode_page(&encode_page(&page).unwrap()).unwrap(), page);
    assert_eq!(place.history(200).len(), 3);
}

#[test]
fn a_page_goes_on_where_the_last_one_ended_when_the_session_grows_and_not_in_another_one() {
    let mut all = conversation();
    let place = Place::with(lines(&all));
    let mut reader = place.reader();
    let next = reader.page(None, 3).unwrap().next.unwrap();
    all.push(user("aaaa0008", Some("aaaa0007"), "more"));
    fs::write(place.path(), lines(&all)).unwrap();
    let texts: Vec<String> = reader.page(Some(next), 9).unwrap().messages.iter().map(text).collect();
    assert_eq!(texts, ["Done.", "more"]);
    let id = Uuid::now_v7();
    reader.set_aside(id).unwrap();
    assert_eq!(reader.session(), Ok(None));
    assert_eq!(reader.page(Some(next), 9), Err(Failure::Changed));
    fs::write(place.path(), lines(&all)).unwrap();
    assert_eq!(reader.page(Some(next), 9), Err(Failure::Changed));
}

#[test]
fn setting_aside_keeps_every_byte_under_another_name_and_may_be_done_again() {
    let place = Place::with(lines(&conversation()));
    let (id, mut reader) = (Uuid::now_v7(), place.reader());
    let kept = place.directory.path().join(format!("session-{id}.jsonl"));
    for _ in 0..2 {
        reader.set_aside(id).unwrap();
        assert_eq!(fs::read_to_string(&kept).unwrap(), lines(&conversation()));
        assert!(!place.path().exists());
    }
    for _ in 0..2 {
        reader.drop_aside(id).unwrap();
        assert!(!kept.exists());
    }
    // A link in its place goes itself; where it leads stays.
    let outside = Place::with("kept");
    symlink(outside.path(), place.path()).unwrap();
    reader.set_aside(id).unwrap();
    reader.drop_aside(id).unwrap();
    assert_eq!(fs::read_to_string(outside.path()).unwrap(), "kept");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_a_session_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), header in any::<bool>()) {
        let begin = if header { format!("{HEADER}\n") } else { String::new() };
        let place = Place::with([begin.as_bytes(), &bytes].concat());
        match place.reader().session() {
            Ok(Some(session)) => prop_assert_eq!(place.history(7).len() as u64, session.messages),
            Ok(None) | Err(Failure::NotASession) => {}
            Err(other) => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn any_tree_gives_each_message_once_and_ends(parents in prop::collection::vec(0usize..14, 1..14), limit in 1usize..5) {
        let mut all = vec![HEADER.to_owned()];
        for (number, parent) in parents.iter().enumerate() {
            all.push(user(&number.to_string(), Some(&parent.to_string()), &format!("text {number}")));
        }
        let place = Place::with(lines(&all));
        let texts: Vec<String> = place.history(limit).iter().map(text).collect();
        let mut once = texts.clone();
        once.sort();
        once.dedup();
        prop_assert_eq!(once.len(), texts.len());
        prop_assert_eq!(texts.last().cloned(), Some(format!("text {}", parents.len() - 1)));
        prop_assert_eq!(place.session().messages, texts.len() as u64);
    }

    #[test]
    fn any_change_of_a_byte_is_survived(at in 0usize..4000, byte in any::<u8>()) {
        let mut bytes = lines(&conversation()).into_bytes();
        let length = bytes.len();
        bytes[at % length] = byte;
        let place = Place::with(bytes);
        if let Ok(Some(session)) = place.reader().session() {
            prop_assert!(place.history(2).len() as u64 <= session.messages);
        }
    }
}
