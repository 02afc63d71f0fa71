//! A pi that prints what the bench wants to measure, in pi's own words: started by the launcher in a real sandbox
//! (`PI_BIN`), driven by the front over its real input and output. The prompt says what it prints:
//!
//! | prompt         | what is printed                                                                              |
//! |----------------|----------------------------------------------------------------------------------------------|
//! | `latency N US` | N deltas, US microseconds apart, each with the time at which it is written as its text       |
//! | `flood N`      | the time, then N deltas as fast as they go out                                               |
//! | `events N`     | N deltas that cannot be merged, each an event of its own; then it waits                      |
//! | `wait`         | the beginning of an answer; then it waits                                                    |
//!
//! What waits is ended by `abort`. With `--acp` it prints the same texts in the words of the rival's protocol.

use std::io::{BufWriter, Write};
use std::time::Duration;

use pi_gateway_bench::{now, word};
use serde_json::{Value, json};

fn main() -> std::io::Result<()> {
    // The standard output of Rust writes at each line feed; whole lines in larger pieces go through a buffer above it.
    let mut out = BufWriter::with_capacity(64 << 10, std::io::stdout());
    if std::env::args().nth(1).as_deref() == Some("--acp") {
        return acp(&mut out);
    }
    for line in std::io::stdin().lines() {
        let Ok(command) = serde_json::from_str::<Value>(&line?) else { continue };
        let kind = command["type"].as_str().unwrap_or_default();
        let data = match kind {
            "get_state" => json!({"isStreaming": false}),
            "prompt" => json!({"disposition": "started"}),
            _ => Value::Null,
        };
        if kind == "abort" {
            settle(&mut out, "aborted")?;
        }
        say(
            &mut out,
            &json!({"id": command["id"], "type": "response", "command": kind, "success": true, "data": data}),
        )?;
        if kind == "prompt" {
            answer(&mut out, command["message"].as_str().unwrap_or_default())?;
        }
    }
    Ok(())
}

fn say(out: &mut impl Write, record: &Value) -> std::io::Result<()> {
    out.write_all(format!("{record}\n").as_bytes())?;
    out.flush()
}

/// One delta, as pi prints it: two thirds of the line are what it repeats.
fn delta(out: &mut impl Write, index: usize, text: &str) -> std::io::Result<()> {
    writeln!(
        out,
        "{{\"type\":\"message_update\",\"usage\":{{\"input\":0,\"output\":0,\"cacheRead\":0,\"cacheWrite\":0,\
        \"totalTokens\":0,\"cost\":{{\"input\":0,\"output\":0,\"cacheRead\":0,\"cacheWrite\":0,\"total\":0}}}},\
        \"assistantMessageEvent\":{{\"type\":\"text_delta\",\"contentIndex\":{index},\"delta\":\"{text}\"}}}}"
    )
}

fn settle(out: &mut impl Write, reason: &str) -> std::io::Result<()> {
    let content = json!([{"type": "text", "text": "done"}]);
    say(
        out,
        &json!({"type": "message_end", "message": {"role": "assistant", "content": content, "stopReason": reason}}),
    )?;
    say(out, &json!({"type": "agent_settled", "aborted": reason == "aborted"}))
}

fn answer(out: &mut impl Write, prompt: &str) -> std::io::Result<()> {
    let message = json!({"role": "assistant", "content": [], "stopReason": "pending"});
    say(out, &json!({"type": "message_start", "message": message}))?;
    match print(out, prompt, delta)? {
        true => settle(out, "stop"),
        false => Ok(()),
    }
}

/// Prints what the prompt says; false when it waits then.
fn print<W: Write>(
    out: &mut W,
    prompt: &str,
    delta: fn(&mut W, usize, &str) -> std::io::Result<()>,
) -> std::io::Result<bool> {
    let words: Vec<&str> = prompt.split(' ').collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<usize>().ok()).unwrap_or(0);
    match words[0] {
        "latency" => {
            let pause = Duration::from_micros(number(2) as u64);
            for _ in 0..number(1) {
                std::thread::sleep(pause);
                delta(out, 0, &format!("{} ", now()))?;
                out.flush()?;
            }
        }
        "flood" => {
            delta(out, 0, &format!("{} ", now()))?;
            for line in 0..number(1) {
                delta(out, 0, &word(line))?;
            }
        }
        "events" => {
            for line in 0..number(1) {
                delta(out, line % 2, &word(line))?;
            }
        }
        _ => delta(out, 0, "waiting")?,
    }
    out.flush()?;
    Ok(matches!(words[0], "latency" | "flood"))
}

/// The rival's agent: each request has an answer, a prompt its texts before it.
fn acp(out: &mut impl Write) -> std::io::Result<()> {
    for line in std::io::stdin().lines() {
        let Ok(request) = serde_json::from_str::<Value>(&line?) else { continue };
        if request["method"] == "session/prompt" {
            print(out, request["params"]["prompt"][0]["text"].as_str().unwrap_or_default(), chunk)?;
        }
        say(out, &json!({"jsonrpc": "2.0", "id": request["id"], "result": {"sessionId": "x", "protocolVersion": 1}}))?;
    }
    Ok(())
}

/// One text in ACP.
fn chunk(out: &mut impl Write, _: usize, text: &str) -> std::io::Result<()> {
    writeln!(
        out,
        "{{\"jsonrpc\":\"2.0\",\"method\":\"session/update\",\"params\":{{\"sessionId\":\"x\",\"update\":{{\
        \"sessionUpdate\":\"agent_message_chunk\",\"content\":{{\"type\":\"text\",\"text\":\"{text}\"}}}}}}}}"
    )
}
