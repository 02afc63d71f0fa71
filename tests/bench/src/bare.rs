//! The rival: the same pi with the same extension, arguments and environment, as an ordinary child process without a
//! sandbox, whose model is the scripted upstream itself.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pi_gateway_e2e::sh;

/// From the start of pi to its answer to a prompt, which is sent when it has answered a state query, as the front does.
pub fn prompt_to_answer() -> Duration {
    // Fresh directories, like those of a sandbox, at the same paths.
    sh(
        "rm -rf /agent /bare && mkdir -p /agent /bare/workspace /bare/session && cp /usr/lib/pi-gateway/trusted/settings.json \
        /agent && ln -sfn /usr/lib/pi-gateway/trusted /trusted",
    );
    let arguments = "--mode rpc -ne -ns -np --no-themes -nc -na --offline -e /trusted/extension.mjs --append-system-prompt \
        /trusted/AGENTS.md --session-dir /bare/session --session /bare/session/session.jsonl --provider gateway --model gpt-6-sol";
    let begun = Instant::now();
    let mut pi = Command::new("/usr/lib/pi-gateway/runtime/1.5.2/pi")
        .args(arguments.split_whitespace())
        .current_dir("/bare/workspace")
        .env_clear()
        .envs([
            ("HOME", "/bare/workspace"),
            ("PATH", "/usr/local/bin:/usr/bin:/bin"),
            ("LANG", "C.UTF-8"),
            ("TMPDIR", "/tmp"),
            ("PI_CODING_AGENT_DIR", "/agent"),
            ("PI_OFFLINE", "1"),
            ("JITI_FS_CACHE", "false"),
            ("NODE_DISABLE_COMPILE_CACHE", "1"),
            ("GATEWAY_URL", "http://127.0.0.1:9180/v1"),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("pi");
    let mut input = pi.stdin.take().expect("its input");
    let mut lines = BufReader::new(pi.stdout.take().expect("its output")).lines();
    input.write_all(b"{\"type\":\"get_state\",\"id\":\"state\"}\n").expect("a write");
    let mut answered = |id: &str| {
        let wanted = format!("\"id\":\"{id}\"");
        let line = lines.by_ref().map_while(Result::ok).find(|line| line.contains(&wanted));
        line.expect("an answer");
    };
    answered("state");
    input.write_all(b"{\"type\":\"prompt\",\"id\":\"prompt\",\"message\":\"hello\"}\n").expect("a write");
    answered("prompt");
    let took = begun.elapsed();
    // The end of its input ends it.
    drop(input);
    let _ = pi.wait();
    took
}
