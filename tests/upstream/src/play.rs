//! Answers one request as its script says.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::unfold;
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::account;
use crate::events::{Gone, Piece, Stream, words};
use crate::images;
use crate::journal::Journal;
use crate::request::Body;
use crate::script::{self, Step};

/// Characters of a tool's result that are repeated.
const REPEATED: usize = 2000;

type Streamed = StreamBody<std::pin::Pin<Box<dyn futures_util::Stream<Item = Piece> + Send>>>;
pub type Answer = Response<Either<Full<Bytes>, Streamed>>;

pub async fn answer(request: Request<Incoming>, journal: Arc<Journal>) -> Answer {
    let (head, body) = request.into_parts();
    if head.uri.path() == "/__log" && head.method == Method::GET {
        return json_answer(StatusCode::OK, &journal.lines());
    }
    let bytes = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let unfolded = match head.headers.get(CONTENT_ENCODING) {
        Some(coding) if coding == "zstd" => zstd::decode_all(&bytes[..]).unwrap_or_default(),
        _ => bytes.to_vec(),
    };
    let parsed = serde_json::from_slice::<Body>(&unfolded);
    let mut line = Map::new();
    line.insert("method".to_owned(), json!(head.method.as_str()));
    line.insert("path".to_owned(), json!(head.uri.to_string()));
    line.insert("body_bytes".to_owned(), json!(bytes.len()));
    if let Ok(body) = &parsed {
        let texts = body.user_texts();
        line.insert("model".to_owned(), json!(body.model));
        line.insert("last_user".to_owned(), json!(texts.last().cloned().unwrap_or_else(|| body.image_prompt())));
        line.insert("user_texts".to_owned(), json!(texts.len()));
        line.insert("images".to_owned(), json!(body.images()));
        line.insert("tool_results".to_owned(), json!(body.results()));
        line.insert("tools".to_owned(), json!(body.tool_names()));
    }
    if let Some(refresh) = parsed.as_ref().ok().and_then(|body| body.refresh_token.as_ref()) {
        line.insert("refresh_token".to_owned(), json!(refresh));
    }
    let n = journal.request(line, &head.headers);
    let posted = head.method == Method::POST;
    if posted && head.uri.path() == "/oauth/token" {
        let (status, answer) = account::exchange(&unfolded, &journal).await;
        journal.end(n, status, "whole");
        return json_answer(StatusCode::from_u16(status).unwrap_or_default(), &answer);
    }
    if head.uri.path().contains("/codex/") && !account::takes(&head.headers) {
        journal.end(n, 401, "whole");
        return json_answer(StatusCode::UNAUTHORIZED, &json!({"detail": "Unauthorized"}));
    }
    match parsed {
        Ok(body) if posted && (head.uri.path().ends_with("/images/generations") || body.has_image_tool()) => {
            journal.end(n, 200, "whole");
            images::answer(&body.image_prompt(), body.has_image_tool())
        }
        Ok(body) if posted && head.uri.path().ends_with("/responses") => play(n, body, journal),
        _ => {
            journal.end(n, 404, "whole");
            error(StatusCode::NOT_FOUND)
        }
    }
}

fn play(n: u64, body: Body, journal: Arc<Journal>) -> Answer {
    let steps = script::read(&body.user_texts().pop().unwrap_or_default());
    let results = body.results();
    let mut turn = script::turn(&steps, results.len()).to_vec();
    if turn.first() == Some(&Step::Overflow) && journal.is_first(&format!("overflow {}", body.session())) {
        journal.end(n, 400, "whole");
        return overflow();
    }
    let failing = match turn.first() {
        Some(Step::Error(status)) => Some(*status),
        Some(Step::Flaky { status, times }) if journal.fails(&body.key(), *times) => Some(*status),
        _ => None,
    };
    if let Some(status) = failing {
        journal.end(n, status, "whole");
        return error(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    }
    turn.retain(|step| !matches!(step, Step::Error(_) | Step::Flaky { .. } | Step::Overflow));

    let (out, pieces) = mpsc::channel(16);
    tokio::spawn(async move {
        let stream = Stream::new(out, format!("resp_{n}"), &body.model);
        let how = run(stream, &turn, &body, results.last()).await.unwrap_or("client gone");
        journal.end(n, 200, how);
    });
    let stream = unfold(pieces, |mut pieces| async move { pieces.recv().await.map(|piece| (piece, pieces)) });
    let mut response = Response::new(Either::Right(StreamBody::new(Box::pin(stream) as _)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    // What a provider tells about the account; none of it may reach a sandbox.
    headers.insert("openai-organization", HeaderValue::from_static("org-of-the-gateway"));
    headers.insert("set-cookie", HeaderValue::from_static("__cf_bm=of-the-gateway"));
    headers.insert("x-request-id", HeaderValue::from_static("req_of_the_gateway"));
    response
}

/// Plays the steps and says how the answer ended.
async fn run(mut stream: Stream, turn: &[Step], body: &Body, result: Option<&String>) -> Result<&'static str, Gone> {
    stream.begin().await?;
    if let Some(result) = result {
        let begin: String = result.chars().take(REPEATED).collect();
        stream.message(&words(&format!("The command printed: {}", begin.trim_end())), Duration::ZERO, true).await?;
    }
    for step in turn {
        match step {
            Step::Say(text) => stream.message(&words(text), Duration::ZERO, true).await?,
            Step::Think(text) => stream.reasoning(text).await?,
            Step::Bash(command) => stream.call("bash", &json!({"command": command})).await?,
            Step::Image(prompt) => stream.call("generate_image", &json!({"prompt": prompt})).await?,
            Step::Words { count, pause_ms } => {
                let all: Vec<String> = (1..=*count).map(|i| format!("word{i} ")).collect();
                stream.message(&all, Duration::from_millis(*pause_ms), true).await?;
            }
            Step::Recall => {
                let mut earlier = body.user_texts();
                earlier.pop();
                let text = format!("Earlier you said: {}", earlier.join(" | "));
                stream.message(&words(&text), Duration::ZERO, true).await?;
            }
            Step::Told(text) => {
                let answer = if body.instructions().contains(text) { "told" } else { "not told" };
                stream.message(&words(answer), Duration::ZERO, true).await?;
            }
            Step::Cut => {
                // The pause lets the part go out: an abort throws away what is not yet on the wire.
                stream.message(&words("This answer breaks "), Duration::from_millis(50), false).await?;
                stream.cut().await;
                return Ok("cut");
            }
            Step::Hang => {
                stream.until_gone().await;
                return Err(Gone);
            }
            Step::Failed => {
                stream.failed().await?;
                return Ok("whole");
            }
            // Only at the beginning of an answer, where they have been dealt with.
            Step::Error(_) | Step::Flaky { .. } | Step::Overflow => {}
        }
    }
    stream.completed(body.tokens()).await?;
    Ok("whole")
}

/// An error in the provider's own words, with what it tells about the account.
pub fn error(status: StatusCode) -> Answer {
    let (message, kind, code) = match status.as_u16() {
        401 => (
            "Incorrect API key provided: sk-scrip*****test. You can find your API key at your account page.",
            "invalid_request_error",
            "invalid_api_key",
        ),
        404 => ("Invalid URL or body.", "invalid_request_error", "unknown_url"),
        429 => (
            "Rate limit reached for this model in organization org-of-the-gateway on tokens per min. Please try again in 1s.",
            "tokens",
            "rate_limit_exceeded",
        ),
        500.. => {
            ("The server had an error while processing your request. Sorry about that!", "server_error", "server_error")
        }
        _ => ("The request is not accepted.", "invalid_request_error", "invalid_request"),
    };
    let mut answer =
        json_answer(status, &json!({"error": {"message": message, "type": kind, "param": null, "code": code}}));
    if status == StatusCode::TOO_MANY_REQUESTS {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer
}

/// That a request is too long for the model, in the provider's own words.
fn overflow() -> Answer {
    let message = "Your input exceeds the context window of this model. Please adjust your input and try again.";
    let error = json!({"message": message, "type": "invalid_request_error", "param": "input", "code": "context_length_exceeded"});
    json_answer(StatusCode::BAD_REQUEST, &json!({"error": error}))
}

pub fn json_answer(status: StatusCode, body: &Value) -> Answer {
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(body.to_string()))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
