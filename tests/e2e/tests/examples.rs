//! What the documents tell their readers to type is typed: their shell commands, and their JavaScript with the node of the
//! runtime. A block ```` ```js NAME ```` is a file of that name, which later blocks run. The blocks of a document go on from each
//! other: variables and files stay.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use pi_gateway_e2e::{Event, User, sh, testhost, until};
use serde_json::{Value, json};

/// Where the runtime's node is.
const NODE: &str = "/usr/lib/pi-gateway/runtime/1.5.2/bin";

/// A fenced block: the words behind its fence, and what is in it.
struct Block {
    kind: Vec<String>,
    text: String,
}

fn read(document: &str) -> String {
    std::fs::read_to_string(format!("{}/../../docs/{document}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn blocks(document: &str) -> Vec<Block> {
    let (mut found, mut open): (Vec<Block>, bool) = (Vec::new(), false);
    for line in read(document).lines() {
        match line.strip_prefix("```") {
            Some(words) if !open => {
                let kind = words.split(' ').map(str::to_owned).collect();
                found.push(Block { kind, text: String::new() });
                open = true;
            }
            Some(_) => open = false,
            None if open => found.last_mut().unwrap().text.push_str(&format!("{line}\n")),
            None => {}
        }
    }
    found
}

/// A directory of its own with the JavaScript files of a document.
fn files_of(document: &str, directory: &str) {
    sh(&format!("rm -rf {directory}; mkdir {directory}"));
    for block in blocks(document).iter().filter(|block| block.kind[0] == "js") {
        std::fs::write(format!("{directory}/{}", block.kind[1]), &block.text).unwrap();
    }
}

/// Types every shell block of a document as `user`, one after the other, in one directory.
fn work(document: &str, user: &User, count: usize) {
    testhost();
    let directory = format!("/root/{}", user.name);
    files_of(document, &directory);
    let blocks = blocks(document);
    let blocks: Vec<&Block> = blocks.iter().filter(|block| block.kind == ["sh"]).collect();
    assert!(blocks.len() >= count, "{document} has {} examples", blocks.len());
    for Block { text, .. } in blocks {
        let script = format!(
            "set -euo pipefail\n[ ! -e .state ] || . ./.state\n{text}\n\
             declare -p | grep -vE '^declare -[A-Za-z]*r|BASH|PIPESTATUS|FUNCNAME' >.state\n"
        );
        let mut command = Command::new("bash");
        command.args(["-c", &script]).env("TOKEN", &user.token).current_dir(&directory);
        command.env("PATH", format!("{NODE}:{}", std::env::var("PATH").unwrap()));
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{document}\n{text}\n{}\n{told}", String::from_utf8_lossy(&output.stdout));
        // The next block may want to write.
        for run in user.get("/runs").json()["data"].as_array().unwrap() {
            user.finished(run["id"].as_str().unwrap());
        }
    }
}

#[test]
fn every_command_of_the_guide_for_portals_works() {
    let alice = User { name: "alice".to_owned(), token: pi_gateway_e2e::tokens::token_for("alice", 3600) };
    work("api-guide.md", &alice, 8);
}

#[test]
fn the_first_run_of_the_readme_works() {
    work("../README.md", &User { name: "bob".to_owned(), token: pi_gateway_e2e::tokens::token_for("bob", 3600) }, 1);
}

#[test]
fn every_command_of_the_api_reference_works() {
    work("api-and-media.md", &User::new("examples"), 4);
}

#[test]
fn every_command_of_the_guide_to_images_works() {
    work("image-generation.md", &User::new("examples"), 1);
}

/// The guide's client, of which a run's text is expected, meets a portal's page, an `EventSource` with a cookie.
#[test]
fn the_page_of_the_guide_gets_every_event_through_the_portals_server() {
    testhost();
    let user = User::new("page");
    let directory = format!("/root/{}", user.name);
    files_of("api-guide.md", &directory);
    // What a browser adds: the page's origin, and its cookie, which node's EventSource cannot send.
    let page = "import http from 'node:http';\n\
        const forward = http.createServer((request, response) => {\n\
          const headers = { ...request.headers, cookie: 'portal=27182818' };\n\
          const on = http.request({ host: '127.0.0.1', port: 3031, path: request.url, headers }, (answer) => {\n\
            response.writeHead(answer.statusCode, answer.headers); answer.pipe(response); });\n\
          on.on('error', () => response.destroy()); response.on('close', () => on.destroy()); on.end();\n\
        }).listen(3032, '127.0.0.1');\n\
        const Real = EventSource;\n\
        globalThis.EventSource = class extends Real { constructor(path) { super(`http://127.0.0.1:3032${path}`); } };\n\
        globalThis.run = process.argv[2];\n\
        globalThis.show = (text) => process.stdout.write(text);\n\
        globalThis.done = (status) => { console.log(`\\n${status}`); process.exit(); };\n\
        await import('./page.mjs');\n";
    std::fs::write(format!("{directory}/browser.mjs"), page).unwrap();
    sh(&format!("sed -i s/3030/3031/ {directory}/portal.mjs"));
    let mut portal = Command::new(format!("{NODE}/node"));
    portal.arg("portal.mjs").current_dir(&directory).env("COOKIE", "27182818").env("USER_OF_COOKIE", &user.name);
    let mut portal = portal.env("JWT_SHARED_SECRET", pi_gateway_e2e::tokens::secret()).spawn().unwrap();
    until("the portal listens", || std::net::TcpStream::connect("127.0.0.1:3031").ok());
    let strangers = sh("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:3031/events/x");
    let id = user.start("[[slow 40 30]]");
    let mut browser = Command::new(format!("{NODE}/node"));
    browser.args(["--no-warnings", "--experimental-eventsource", "browser.mjs", &id]).current_dir(&directory);
    let output = browser.output().unwrap();
    let _ = portal.kill();
    let _ = portal.wait();
    assert_eq!(strangers, "401");
    let shown = String::from_utf8_lossy(&output.stdout);
    let run = user.finished(&id);
    let wanted = format!("{}\nsucceeded\n", run["output_text"].as_str().unwrap());
    assert_eq!(shown, wanted, "{}", String::from_utf8_lossy(&output.stderr));
}

/// One request: its head.
fn head(stream: &mut impl Read) -> String {
    let mut lines = BufReader::new(stream).lines();
    let mut all = String::new();
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            break;
        }
        all.push_str(&format!("{}\n", line.to_lowercase()));
    }
    all
}

/// A gateway that is silent, busy, cut off and asks for another token, one after the other.
#[test]
fn the_client_of_the_guide_bears_silence_refusals_and_cuts_and_sees_each_event_once() {
    testhost();
    let directory = "/root/guide-client";
    files_of("api-guide.md", directory);
    // The silence that it bears, shortened; and a token of its own for each connection.
    sh(&format!("sed -i 's/45_000/1_500/' {directory}/events.mjs; grep -q 1_500 {directory}/events.mjs"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let script = format!(
        "import {{ events, GatewayError }} from './events.mjs';\nlet asked = 0;\n\
         const token = async () => `token-${{++asked}}`;\n\
         try {{ for await (const e of events({{ base: 'http://{address}', run: 'r', token }})) console.log(JSON.stringify(e)); }}\n\
         catch (error) {{ console.log(error instanceof GatewayError ? error.problem.code : `${{error}}`); }}\n"
    );
    std::fs::write(format!("{directory}/try.mjs"), script).unwrap();
    let mut client = Command::new(format!("{NODE}/node"));
    let client = client.arg("try.mjs").current_dir(directory).stdout(Stdio::piped()).spawn().unwrap();
    let event = |n: u32, name: &str| format!("id: {n}-{n}\nevent: {name}\ndata: {{\"n\":{n}}}\n\n");
    let stream = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    let problem = |status: &str, more: &str, code: &str| {
        let body = json!({"status": 0, "title": "t", "code": code}).to_string();
        format!("HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
    };
    // What each connection is answered with, whether it then stays open in silence, and the id that it must have sent.
    let plan = [
        (format!("{stream}retry: 1000\n\n{}", event(1, "run.started")), true, None),
        (problem("503 Busy", "Retry-After: 1\r\n", "draining"), false, Some("1-1")),
        (format!("{stream}: still here\n\n{}id: 3-3\nevent: text.del", event(2, "text.delta")), false, Some("1-1")),
        (problem("401 No", "", "unauthorized"), false, Some("2-2")),
        (format!("{stream}{}: still here\n\n", event(3, "text.delta")), false, Some("2-2")),
        (problem("401 No", "", "unauthorized"), false, Some("3-3")),
        // Another token is asked for once, not for ever.
        (problem("401 No", "", "unauthorized"), false, Some("3-3")),
    ];
    let mut kept = Vec::new();
    for (number, (answer, silent, after)) in plan.into_iter().enumerate() {
        let (mut connection, _) = listener.accept().unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = head(&mut connection);
        let sent = head.lines().find_map(|line| line.strip_prefix("last-event-id: "));
        assert_eq!(sent, after, "connection {number}: {head}");
        assert!(head.contains(&format!("authorization: bearer token-{}\n", number + 1)), "{head}");
        connection.write_all(answer.as_bytes()).unwrap();
        if silent {
            kept.push(connection);
        }
    }
    let output = client.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (seen, end) = text.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(end, "unauthorized", "{text}");
    let ids: Vec<Value> = seen
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("{text}"))["id"].clone())
        .collect();
    assert_eq!(ids, ["1-1", "2-2", "3-3"]);
}

/// What an event is made of: names and kinds of its members.
fn shape(data: &Value) -> BTreeMap<String, &'static str> {
    let kind = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    data.as_object().unwrap().iter().map(|(name, value)| (name.clone(), kind(value))).collect()
}

/// The examples of events in the guide have the shape of real ones. They are the recorded ones where a real run is not made here.
#[test]
fn the_examples_of_events_are_like_real_ones() {
    testhost();
    let mut real: Vec<Event> = Vec::new();
    let mut play = |user: &User, prompt: &str, act: &dyn Fn(&User, &str)| {
        let id = user.start(prompt);
        act(user, &id);
        user.finished(&id);
        real.extend(user.events(&id));
    };
    let nothing = |_: &User, _: &str| {};
    let user = User::new("events");
    play(
        &user,
        "[[think I will look around.]][[bash for n in 1 2 3; do echo line $n; sleep 0.4; done]] [[say Done.]]",
        &nothing,
    );
    play(&user, &format!("{} [[flaky 500 1]][[say At last.]]", user.name), &nothing);
    play(&user, "[[error 401]]", &nothing);
    let said = |user: &User, id: &str| {
        user.said(id, "Leave the README as it is.", "steer");
    };
    play(&user, "[[bash sleep 1]] [[slow 20 50]]", &said);
    let cancelled = |user: &User, id: &str| {
        user.said(id, "And then this.", "follow_up");
        user.post(&format!("/runs/{id}/cancel"), &[], &json!({}));
    };
    play(&user, "[[slow 200 50]]", &cancelled);
    let long = User::new("compacted");
    for prompt in ["[[long 12000]]", "[[long 12000]]", "[[overflow]][[say After it.]]"] {
        play(&long, prompt, &nothing);
    }
    let shapes: BTreeSet<_> = real.iter().map(|event| (event.name.clone(), shape(&event.data))).collect();
    let examples = read("api-guide.md");
    let examples: Vec<Value> = examples
        .lines()
        .filter(|line| line.starts_with("{\"id\""))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut left: BTreeSet<&str> = real.iter().map(|event| event.name.as_str()).collect();
    let mut wrong = Vec::new();
    for example in &examples {
        let name = example["event"].as_str().unwrap();
        left.remove(name);
        // Only a site that was built, or an extension that failed, makes one.
        if name != "notice" && !shapes.contains(&(name.to_owned(), shape(&example["data"]))) {
            wrong.push(example);
        }
    }
    let mut shown = BTreeSet::new();
    for event in real.iter().filter(|event| shown.insert((event.name.clone(), shape(&event.data)))) {
        println!(
            "{}",
            json!({"id": event.id, "event": event.name, "data": event.data})
                .to_string()
                .chars()
                .take(700)
                .collect::<String>()
        );
    }
    assert!(wrong.is_empty() && left.is_empty(), "not like a real one: {wrong:?}; without an example: {left:?}");
    assert!(examples.len() >= 17);
}
