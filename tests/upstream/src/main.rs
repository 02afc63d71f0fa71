//! A scripted model: an upstream for tests and the demo that speaks OpenAI's Responses streaming protocol.
//!
//! `pi-gateway-upstream --listen 127.0.0.1:PORT [--log FILE]` prints `listening on ADDRESS` when it is ready (port 0
//! takes a free one) and serves `POST …/responses` until it is killed. What it answers stands in the LAST user text
//! of the request, as directives:
//!
//! | directive         | answer                                                                                     |
//! |-------------------|--------------------------------------------------------------------------------------------|
//! | `[[say TEXT]]`    | a message with this text, word by word                                                     |
//! | `[[think TEXT]]`  | a reasoning summary with this text                                                         |
//! | `[[bash COMMAND]]`| a call of the tool `bash`; COMMAND is everything up to `]]`. The request that brings the   |
//! |                   | result is answered with a text that repeats its beginning, then the script goes on         |
//! | `[[image PROMPT]]`| a call of the tool `generate_image`, like `bash`                                              |
//! | `[[slow N MS]]`   | a message of N words, MS milliseconds apart                                                |
//! | `[[long N]]`      | a message of N words, as fast as they are taken                                            |
//! | `[[recall]]`      | a message that lists all earlier user texts of the request                                 |
//! | `[[told TEXT]]`   | a message that says `told` or `not told`: whether the request's instructions hold TEXT     |
//! | `[[error STATUS]]`| this HTTP status with OpenAI's words for it; each time (pi retries 429 and 5xx)            |
//! | `[[flaky STATUS N]]`| this HTTP status the first N times this text is asked, then the script goes on           |
//! | `[[overflow]]`    | the first time in a session: that the request exceeds the model's context; then the script   |
//! |                   | goes on                                                                                    |
//! | `[[cut]]`         | a part of a message, then the connection is cut                                            |
//! | `[[hang]]`        | the beginning of an answer, then nothing until the client goes away                        |
//! | `[[failed]]`      | a `response.failed` event                                                                  |
//!
//! Several directives are played in their order, up to and including the next `bash` or `image`, as one answer; what
//! follows is played when its result comes. `error`, `flaky` and `overflow` count only at the beginning of an answer.
//! Without a directive the answer is a short polite sentence; an unknown directive is answered with a sentence saying so.
//!
//! `POST …/backend-api/codex/responses` is the same for a ChatGPT account, whose tokens are exchanged at
//! `POST /oauth/token`; `account.rs` says which are taken. Bodies may come compressed with zstd.
//!
//! `POST …/images/generations`, and `POST …/responses` with the provider's tool for images, are answered with a small PNG,
//! and with something else when the prompt has one of these words: `lie-html` (a page in base64), `lie-huge` (40 MiB),
//! `lie-truncated` (an image that breaks off), `lie-refuse` (400).
//!
//! Each request is one line of JSON in the log file and one element of `GET /__log`: `n`, `method`, `path`,
//! `headers`, `body_bytes`, `refresh_token`, `model`, `last_user`, `user_texts`, `images`, `tool_results`, `tools`; when its answer
//! ends, a line
//! `{"n", "end": "whole" | "cut" | "client gone", "status"}` follows. Headers are logged as they came, credentials
//! included: tests look for them there.

mod account;
mod events;
mod images;
mod journal;
mod play;
mod request;
mod script;

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

fn main() -> Result<(), Box<dyn Error>> {
    let mut listen: SocketAddr = ([127, 0, 0, 1], 0).into();
    let mut log = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or("every option takes a value")?;
        match name.as_str() {
            "--listen" => listen = value.parse()?,
            "--log" => log = Some(value),
            _ => return Err("usage: pi-gateway-upstream --listen ADDRESS:PORT [--log FILE]".into()),
        }
    }
    let journal = Arc::new(journal::Journal::open(log.as_deref())?);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(listen, journal))
}

async fn serve(listen: SocketAddr, journal: Arc<journal::Journal>) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(listen).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let journal = Arc::clone(&journal);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let journal = Arc::clone(&journal);
                async move { Ok::<_, Infallible>(play::answer(request, journal).await) }
            });
            // A connection ends as the client or the script wants it.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
