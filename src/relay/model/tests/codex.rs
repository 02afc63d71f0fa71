//! Requests for models of a ChatGPT account, with the real launcher's code behind a real socket.

use std::sync::Arc;
use std::time::Instant;

use super::account::{Account, ID, access};
use super::*;
use crate::relay::model::codex::limits;
use crate::relay::model::codex::state::{self, State};

const MODEL: &str = "gpt-codex";

fn body() -> String {
    BODY.replace("gpt-6-sol", MODEL)
}

fn packed(text: &str) -> Vec<u8> {
    zstd::bulk::compress(text.as_bytes(), 3).unwrap()
}

fn short() -> Waits {
    let short = Duration::from_millis(30);
    let codex =
        limits::Waits { look: short, retry: short, most: short, period: LONG, token: LONG, ..limits::Waits::default() };
    Waits { codex, ..waits() }
}

/// A relay for an account, handed over.
fn bench(account: &Account, waits: Waits) -> (Bench, Uuid) {
    let text = include_str!("../../../../trusted/models.json");
    let mut models: Vec<serde_json::Value> = serde_json::from_str(text).unwrap();
    let mut own = models[0].clone();
    own["id"] = MODEL.into();
    own["provider"] = "codex".into();
    models.push(own);
    Bench::changed(waits, |config| {
        config.codex = Some(account.settings());
        config.catalogue = Catalogue::parse(&serde_json::to_string(&models).unwrap()).unwrap();
    })
    .handed_over()
}

impl Bench {
    fn codex(&self, more: &str, body: &[u8]) -> String {
        let more = format!(
            "Connection: close\r\nAuthorization: Bearer e30.placeholder.x\r\nchatgpt-account-id: placeholder-account\r\noriginator: pi\r\n{more}"
        );
        let head = self.head(&more, body.len()).replacen("/v1/responses", "/v1/codex/responses", 1);
        self.raw(&[head.as_bytes(), body].concat())
    }

    fn zstd(&self, text: &str) -> String {
        self.codex("Content-Encoding: zstd\r\n", &packed(text))
    }

    fn state(&self) -> State {
        state::read(&self.dir.path().join("usage"))
    }
}

fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn message(answer: &str) -> String {
    error(answer)["error"]["message"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_request_goes_as_it_came_with_the_accounts_token_and_its_answer_is_counted() {
    let account = Account::new(3600);
    let (mut bench, run) = bench(&account, short());
    let token = account.content()["tokens"]["access_token"].as_str().unwrap().to_owned();
    let answer = bench.zstd(&body());
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(answer.ends_with(&format!("{}{}", fake::DELTA, fake::COMPLETED)), "the stream's bytes: {answer}");
    assert!(!answer.contains("a=b") && !answer.to_lowercase().contains("plan"), "{answer}");
    assert_eq!(status(&bench.codex("", body().as_bytes())), 200, "uncompressed");
    let seen = account.seen();
    let (head, sent) = &seen.requests[0];
    assert_eq!(sent, &packed(&body()));
    for line in [
        &format!("authorization: Bearer {token}"),
        &format!("chatgpt-account-id: {ID}"),
        "content-encoding: zstd",
        "openai-beta: responses=experimental",
        "originator: pi",
        "accept: text/event-stream",
    ] {
        assert!(head.lines().any(|found| found == line), "{line}: {head}");
    }
    assert!(!head.contains("placeholder"), "{head}");
    assert!(!seen.requests[1].0.contains("content-encoding"), "{}", seen.requests[1].0);
    assert!(seen.exchanges.is_empty() && seen.early == 0);
    drop(seen);
    assert_eq!(bench.state(), State::Ok);
    let usage = bench.usage(run);
    assert_eq!((usage.requests, usage.input_tokens, usage.output_tokens), (2, 2000, 84));
}

#[test]
fn an_ended_token_is_exchanged_once_for_ten_users_and_stored_before_it_is_used() {
    let account = Account::new(-10);
    let (bench, _) = bench(&account, short());
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| assert_eq!(status(&bench.zstd(&body())), 200));
        }
    });
    let content = account.content();
    assert_eq!(content["tokens"]["refresh_token"], "rt-new-1");
    assert_eq!((content["mine"].as_str(), content["tokens"]["account_id"].as_str()), (Some("kept"), Some(ID)));
    let seen = account.seen();
    assert_eq!((seen.exchanges.as_slice(), seen.requests.len(), seen.early), (&["rt-0".to_owned()][..], 10, 0));
}

#[test]
fn a_token_that_ends_soon_is_exchanged_while_it_is_used() {
    let account = Account::new(limits::MARGIN / 2);
    let (bench, _) = bench(&account, short());
    until("the exchange", || {
        assert_eq!(status(&bench.zstd(&body())), 200);
        account.seen().exchanges.len() == 1
    });
    until("the new token", || {
        assert_eq!(status(&bench.zstd(&body())), 200);
        account.content()["tokens"]["refresh_token"] == "rt-new-1"
    });
    // One that is never good for longer than the margin is not exchanged for every request.
    account.seen().lifetime = limits::MARGIN / 2;
    account.sign_in("rt-short", &access(-1));
    account.revoke();
    assert_eq!(status(&bench.zstd(&body())), 200);
    let exchanges = account.seen().exchanges.len();
    (0..5).for_each(|_| assert_eq!(status(&bench.zstd(&body())), 200));
    assert_eq!(account.seen().exchanges.len(), exchanges);
}

#[test]
fn a_token_that_the_upstream_refuses_is_exchanged_and_the_request_made_again() {
    let account = Account::new(3600);
    let (mut bench, run) = bench(&account, short());
    assert_eq!(status(&bench.zstd(&body())), 200);
    account.revoke();
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| assert_eq!(status(&bench.zstd(&body())), 200));
        }
    });
    {
        let seen = account.seen();
        assert_eq!((seen.exchanges.len(), seen.early), (1, 0));
        assert!(seen.requests.iter().all(|(_, sent)| *sent == packed(&body())));
    }
    // An account that takes no token of its own issuer is not asked for more and more of them.
    account.seen().closed = true;
    for _ in 0..5 {
        let answer = bench.zstd(&body());
        assert_eq!(status(&answer), 401, "{answer}");
        assert!(message(&answer).starts_with("Codex API error (401): The model provider does not accept"), "{answer}");
    }
    assert_eq!(account.seen().exchanges.len(), 1);
    assert_eq!(bench.usage(run).requests, 16);
}

#[test]
fn a_sign_in_that_has_ended_is_told_and_comes_back_with_the_operators_next_file() {
    let account = Account::new(-10);
    let (bench, _) = bench(&account, short());
    for (status_of, says) in [
        (401, r#"{"error":{"code":"refresh_token_invalidated","message":"for user-abc"}}"#),
        (400, r#"{"error":"invalid_grant"}"#),
    ] {
        account.seen().says = Some((status_of, says.to_owned()));
        let before = account.seen().exchanges.len();
        for _ in 0..5 {
            let answer = bench.zstd(&body());
            assert_eq!((status(&answer), error(&answer)["error"]["code"].as_str()), (403, Some("codex_signed_out")));
            assert!(message(&answer).starts_with("Codex API error (codex_signed_out): "), "{answer}");
            assert!(!answer.contains("user-abc") && !answer.contains("rt-"), "{answer}");
        }
        assert_eq!((bench.state(), account.seen().exchanges.len()), (State::SignedOut, before + 1));
        account.seen().says = None;
        account.sign_in(&format!("rt-again-{status_of}"), &access(3600));
        until("the new file is used", || status(&bench.zstd(&body())) == 200);
        assert_eq!((bench.state(), account.seen().exchanges.len()), (State::Ok, before + 1));
        account.sign_in(&format!("rt-ended-{status_of}"), &access(-10));
        account.revoke();
    }
    // A file that is none is told as well, and one that is good again is taken.
    std::fs::write(account.file(), "{").unwrap();
    until("the file is looked at", || status(&bench.zstd(&body())) == 403);
    assert_eq!(bench.state(), State::Unreadable);
    std::fs::remove_file(account.file()).unwrap();
    assert_eq!(status(&bench.zstd(&body())), 403);
    account.sign_in("rt-last", &access(3600));
    until("the file is taken", || status(&bench.zstd(&body())) == 200);
    assert_eq!(account.seen().early, 0);
}

#[test]
fn an_issuer_that_stumbles_is_tried_again() {
    let account = Account::new(-10);
    let (bench, _) = bench(&account, short());
    for says in [
        (500, "<html>".to_owned()),
        (200, "{}".to_owned()),
        (200, format!("{{\"access_token\":\"{}\"}}", "x".repeat(70_000))),
    ] {
        account.seen().says = Some(says);
        let answer = bench.zstd(&body());
        assert_eq!((status(&answer), error(&answer)["error"]["code"].as_str()), (503, Some("codex_unavailable")));
        assert!(message(&answer).starts_with("Codex API error (503): "), "{answer}");
        assert_eq!(bench.state(), State::Unavailable);
    }
    account.seen().says = None;
    until("it gives tokens again", || status(&bench.zstd(&body())) == 200);
    assert_eq!(bench.state(), State::Ok);
}

#[test]
fn a_token_that_cannot_be_stored_is_not_used_and_not_lost() {
    let account = Account::new(-10);
    let (bench, _) = bench(&account, short());
    let (here, away) = (account.socket(), account.dir.path().join("away"));
    let moved = (here.clone(), away.clone());
    account.seen().before_answer = Some(Box::new(move || std::fs::rename(&moved.0, &moved.1).unwrap()));
    std::thread::scope(|scope| {
        let request = scope.spawn(|| bench.zstd(&body()));
        until("the store is tried", || bench.state() == State::Unavailable);
        assert_eq!(
            (account.content()["tokens"]["refresh_token"].as_str(), account.seen().requests.len()),
            (Some("rt-0"), 0)
        );
        std::fs::rename(&away, &here).unwrap();
        assert_eq!(status(&request.join().unwrap()), 200);
    });
    assert_eq!(account.counts(), (1, 0));
    assert_eq!(account.content()["tokens"]["refresh_token"], "rt-new-1");
}

#[test]
fn a_client_that_goes_away_does_not_cut_an_exchange_in_two() {
    let account = Account::new(-10);
    let (bench, _) = bench(&account, short());
    let (go, held) = std::sync::mpsc::channel::<()>();
    account.seen().before_answer = Some(Box::new(move || held.recv_timeout(LONG).unwrap()));
    let body = packed(&body());
    let mut stream = bench.connect();
    let head = bench.head("Content-Encoding: zstd\r\n", body.len()).replacen("/v1/responses", "/v1/codex/responses", 1);
    stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
    until("the exchange", || account.seen().exchanges.len() == 1);
    drop(stream);
    go.send(()).unwrap();
    until("the new token is stored", || account.content()["tokens"]["refresh_token"] == "rt-new-1");
    assert_eq!(status(&bench.codex("Content-Encoding: zstd\r\n", &body)), 200);
    assert_eq!(account.seen().exchanges.len(), 1);
}

#[test]
fn a_file_that_is_replaced_during_an_exchange_stays() {
    let account = Arc::new(Account::new(-10));
    let (bench, _) = bench(&account, short());
    let operator = Arc::clone(&account);
    account.seen().before_answer = Some(Box::new(move || operator.sign_in("rt-operator", &access(3600))));
    assert_eq!(status(&bench.zstd(&body())), 200);
    assert_eq!(account.content()["tokens"]["refresh_token"], "rt-operator");
    assert_eq!(account.counts(), (1, 0));
    account.seen().before_answer = None;
}

#[test]
fn what_is_not_allowed_reaches_neither_upstream_nor_issuer() {
    let account = Account::new(3600);
    let (bench, _) = bench(&account, short());
    assert_eq!(status(&bench.zstd(&body())), 200, "the way is open");
    let zstd = "Content-Encoding: zstd\r\n";
    let bomb = packed(&format!("{}{}", body(), " ".repeat(33 << 20)));
    for (more, sent, expected) in [
        (zstd, packed(&body().replace(MODEL, "gpt-6-sol")), "request_not_allowed"),
        (zstd, packed(&body().replace("\"store\":false", "\"store\":true")), "request_not_allowed"),
        (
            zstd,
            packed(&body().replace("\"store\":false", "\"store\":false,\"tools\":[{\"type\":\"web_search\"}]")),
            "request_not_allowed",
        ),
        (
            zstd,
            packed(&body().replace("\"store\":false", "\"store\":false,\"previous_response_id\":\"r\"")),
            "request_not_allowed",
        ),
        (zstd, bomb, "body_too_large"),
        (zstd, [packed(&body()), packed(&body())].concat(), "content_encoding"),
        (zstd, body().into_bytes(), "content_encoding"),
        ("", packed(&body()), "request_not_allowed"),
        ("Content-Encoding: gzip\r\n", packed(&body()), "content_encoding"),
        ("Upgrade: websocket\r\n", packed(&body()), "header_not_allowed"),
    ] {
        let answer = bench.codex(more, &sent);
        assert_eq!(error(&answer)["error"]["code"], expected, "{more} {answer}");
    }
    for path in [
        "/v1/codex/responses/x",
        "/v1/codex",
        "/backend-api/codex/responses",
        "/v1/codex/responses?x=1",
        "/oauth/token",
    ] {
        let head = bench.head("Connection: close\r\n", body().len()).replacen("/v1/responses", path, 1);
        assert!((400..405).contains(&status(&bench.raw(format!("{head}{}", body()).as_bytes()))), "{path}");
    }
    let handshake = format!(
        "GET /v1/codex/responses HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n",
        bench.port
    );
    assert_eq!(status(&bench.raw(handshake.as_bytes())), 405);
    assert_eq!(account.seen().requests.len(), 1);
    assert_eq!(account.counts(), (0, 0));
}

#[test]
fn without_an_account_the_path_does_not_exist() {
    let upstream = Fake::start(Mode::Whole);
    let (bench, _) = Bench::new(&upstream).handed_over();
    assert_eq!(error(&bench.zstd(&body()))["error"]["code"], "unknown_path");
    assert_eq!(upstream.seen(), Vec::<String>::new());
}
