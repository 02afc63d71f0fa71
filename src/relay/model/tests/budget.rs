//! `USER_DAILY_TOKEN_BUDGET` under requests at the same time, cut streams and restarts.

use std::sync::{Arc, Mutex, mpsc};

use super::*;
use crate::relay::model::mark;
use crate::relay::model::sse::Tokens;
use crate::relay::model::usage::{Record, append};

/// What each whole answer of the fake costs.
const COST: u64 = 1042;

fn bench(upstream: &Fake, budget: u64) -> (Bench, Uuid) {
    Bench::configured(upstream, waits(), |config, _| config.budget = budget).handed_over()
}

/// The statuses of so many requests that are made at the same time.
fn at_once(bench: &Bench, count: usize) -> Vec<String> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..count).map(|_| scope.spawn(|| bench.post("", BODY))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    })
}

#[test]
fn requests_at_the_same_time_spend_one_too_many_at_most() {
    let upstream = Fake::start(Mode::Whole);
    let (free, _) = bench(&upstream, 0);
    at_once(&free, 8);
    assert_eq!(upstream.seen().len(), 8, "without a budget all of them go out");

    let upstream = Fake::start(Mode::Whole);
    let (mut bench, run) = bench(&upstream, 2 * COST - 1);
    let answers = at_once(&bench, 8);
    let refused: Vec<&String> = answers.iter().filter(|answer| status(answer) == 429).collect();
    assert_eq!((refused.len(), upstream.seen().len()), (6, 2));
    for answer in refused {
        let error = &error(answer)["error"];
        assert_eq!(
            (error["code"].as_str(), error["type"].as_str()),
            (Some("budget_exhausted"), Some("insufficient_quota"))
        );
        // The words that keep pi from trying again, and the time.
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("quota exceeded") && message.contains("until 20"), "{message}");
        let after = answer.to_lowercase().split("retry-after: ").nth(1).unwrap().lines().next().unwrap().parse::<u64>();
        assert!((86_400..=87_001).contains(&after.unwrap()), "{answer}");
    }
    let usage = bench.usage(run);
    assert_eq!(usage.input_tokens + usage.output_tokens, 2 * COST, "one request beyond, no more");
    let marked = mark::read(&bench.dir.path().join("usage"), own_uid(), jiff::Timestamp::now());
    assert!(marked.unwrap().is_some(), "the front is told");
}

#[test]
fn what_surely_fits_goes_out_at_the_same_time_and_what_may_not_waits() {
    let (go, held) = mpsc::channel();
    let upstream = Fake::start(Mode::Held(Arc::new(Mutex::new(held))));
    let waits = Waits { turn: Duration::from_millis(200), ..waits() };
    let (bench, _) = Bench::configured(&upstream, waits, |config, _| config.budget = 100_000).handed_over();
    let small = BODY.replace("\"store\"", "\"max_output_tokens\":1000,\"store\"");
    let open = || {
        let mut stream = bench.connect();
        let head = bench.head("Connection: close\r\n", small.len());
        stream.write_all(format!("{head}{small}").as_bytes()).unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
        stream
    };
    let under_way: Vec<TcpStream> = (0..4).map(|_| open()).collect();
    let answer = bench.post("", BODY);
    assert_eq!(
        (status(&answer), error(&answer)["error"]["code"].as_str()),
        (429, Some("budget_set_aside")),
        "{answer}"
    );
    assert_eq!(upstream.seen().len(), 4);
    for _ in 0..5 {
        go.send(()).unwrap();
    }
    for mut stream in under_way {
        read_all(&mut stream);
    }
    assert_eq!(status(&bench.post("", BODY)), 200, "alone it goes out");
}

#[test]
fn a_stream_that_the_client_cuts_is_paid_for() {
    let upstream = Fake::start(Mode::Begin);
    let (bench, _) = bench(&upstream, 10);
    let mut stream = bench.connect();
    stream.write_all(format!("{}{BODY}", bench.head("", BODY.len())).as_bytes()).unwrap();
    stream.read_exact(&mut [0; 12]).unwrap();
    drop(stream);
    assert_eq!(upstream.report(), 0, "the relay has seen it");
    // The account is made when the answer is dropped; a request before that waits for it.
    let answer = bench.post("", BODY);
    assert_eq!(
        (status(&answer), error(&answer)["error"]["code"].as_str()),
        (429, Some("budget_exhausted")),
        "{answer}"
    );
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn a_relay_that_starts_knows_what_was_spent_before() {
    let upstream = Fake::start(Mode::Whole);
    let spent = |tokens: u64| {
        move |config: &mut Config, usage: &Path| {
            config.budget = 5_000;
            let record = Record::now("gpt-6-sol", 200, Tokens { input: tokens, ..Tokens::default() }, true);
            append(usage, own_uid(), Uuid::now_v7(), &record).unwrap();
            // What an earlier relay said, with another budget.
            mark::write(usage, own_uid(), jiff::Timestamp::now() + jiff::SignedDuration::from_secs(999)).unwrap();
        }
    };
    let marked = |bench: &Bench| {
        mark::read(&bench.dir.path().join("usage"), own_uid(), jiff::Timestamp::now()).unwrap().is_some()
    };
    let (bench, _) = Bench::configured(&upstream, waits(), spent(5_000)).handed_over();
    assert!(marked(&bench));
    assert_eq!(status(&bench.post("", BODY)), 429);
    assert_eq!(upstream.seen(), Vec::<String>::new());
    let (bench, _) = Bench::configured(&upstream, waits(), spent(4_999)).handed_over();
    assert!(!marked(&bench));
    assert_eq!(status(&bench.post("", BODY)), 200);
    assert_eq!(status(&bench.post("", BODY)), 429);
}
