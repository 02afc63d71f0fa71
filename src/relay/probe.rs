//! Asks what a relay asks, once, for the operator: is it there, does it accept the credential? The same configuration,
//! credential and client as the relay's, in a unit like its own; nothing is asked for that costs anything, nothing of an
//! answer but its status is looked at (and of Gitea's whether the account may write), and one line of JSON is printed for each.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use pi_gateway_helper::names::User;
use reqwest::Url;
use serde::Serialize;

use super::git::admit::{Call, Service};
use super::service::{StartError, failed};
use super::{git, model};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most users whose repositories are asked for.
const MAX_USERS: usize = 100;
/// The longest description of a repository that is read, in bytes.
const MAX_DESCRIPTION: usize = 1 << 20;
/// Questions at a time.
const AT_ONCE: usize = 8;

/// What was found out.
#[derive(Debug, Serialize)]
struct Answer {
    /// What was asked: a URL's origin, or a user.
    of: String,
    /// The status of the answer.
    status: Option<u16>,
    /// Why there is none.
    error: Option<String>,
}

impl Answer {
    fn new(of: impl Into<String>, asked: Result<u16, String>) -> Self {
        let of = of.into();
        match asked {
            Ok(status) => Answer { of, status: Some(status), error: None },
            Err(error) => Answer { of, status: None, error: Some(error) },
        }
    }
}

/// Asks as the relay of this kind; `words` are the users that the git relay asks for.
///
/// # Errors
/// When the relay could not start either.
pub fn run(kind: &str, words: &[String]) -> Result<(), StartError> {
    nix::sys::prctl::set_dumpable(false).map_err(io::Error::from).map_err(failed("make itself non-dumpable"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(failed("start its runtime"))?;
    let answers = if kind == "git" { runtime.block_on(gitea(words)) } else { runtime.block_on(upstreams()) }?;
    let mut out = io::stdout().lock();
    for answer in answers {
        let line = serde_json::to_string(&answer).map_err(io::Error::other).map_err(failed("tell what it found"))?;
        writeln!(out, "{line}").map_err(failed("tell what it found"))?;
    }
    Ok(())
}

fn credentials() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

/// The cause of an error at its end, which says more than the layers above it; never the URL.
fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

async fn within<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let late = |_| format!("no answer within {} s", PATIENCE.as_secs());
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
}

/// Asks the model providers: a request without a model, which none of them can do.
async fn upstreams() -> Result<Vec<Answer>, StartError> {
    let places = model::service::Places::default();
    let config = model::config::Config::load(&places.config, credentials().as_deref(), &places.launcher);
    let config = config.map_err(StartError::Config)?;
    let waits = model::limits::Waits::default();
    let upstream = model::upstream::Upstream::new(config.endpoint.clone(), &waits);
    let upstream = upstream.map_err(io::Error::other).map_err(failed("set up its connection to the model provider"))?;
    let mut answers = Vec::new();
    if let Some(key) = &config.key {
        let headers = HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (hyper::header::AUTHORIZATION, key.header()),
        ]);
        answers.push(ask(&upstream, &config.endpoint, headers).await);
    }
    if let Some(codex) = &config.codex {
        // Without a token, which only the relay itself may renew: that anybody answers is all there is to see.
        let mut answer = ask(&upstream, &codex.endpoint, HeaderMap::new()).await;
        answer.status = answer.status.map(|_| 200);
        answers.push(answer);
    }
    Ok(answers)
}

async fn ask(upstream: &model::upstream::Upstream, url: &Url, headers: HeaderMap) -> Answer {
    let asked = within(async { upstream.raw(url, headers, Bytes::from_static(b"{}")).await.map_err(cause) }).await;
    Answer::new(url.origin().ascii_serialization(), asked.map(|response| response.status().as_u16()))
}

/// Whether Gitea says that the account may not write: it lets whoever may read ask for a push, and refuses it at its end.
async fn is_read_only(upstream: &git::upstream::Upstream, repository: &str) -> Result<bool, String> {
    let mut response = upstream.describe(repository).await.map_err(cause)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(cause)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_DESCRIPTION {
            return Ok(false);
        }
    }
    // An older Gitea, or a token that may not ask this, says nothing, and a push will tell.
    let said: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok(said["permissions"]["push"] == false)
}

/// Asks Gitea for what a fetch and a push of each user ask first, and whether a push would be taken.
async fn gitea(words: &[String]) -> Result<Vec<Answer>, StartError> {
    let places = git::service::Places::default();
    let config = git::config::Config::load(&places.config, credentials().as_deref()).map_err(StartError::Config)?;
    let upstream = git::upstream::Upstream::new(config.base, config.account, &git::limits::Waits::default());
    let upstream = upstream.map_err(io::Error::other).map_err(failed("set up its connection to Gitea"))?;
    let users: Vec<User> = words.iter().take(MAX_USERS).filter_map(|word| User::parse(word).ok()).collect();
    let mut answers = Vec::new();
    for some in users.chunks(AT_ONCE) {
        let asked = some.iter().map(|user| async {
            let path = format!("/{}/{}.git", user.as_str(), config.repository);
            let asked = within(async {
                // A push to a repository that is not there is as forbidden as one to somebody else's.
                for service in [Service::UploadPack, Service::ReceivePack] {
                    let call = Call { service, asks_for_refs: true, version: None, length: None, compressed: false };
                    let answer = upstream.send(&path, call, "".into()).await.map_err(cause)?;
                    if answer.status() != 200 {
                        return Ok(answer.status().as_u16());
                    }
                }
                let refused = is_read_only(&upstream, path.trim_end_matches(".git")).await?;
                Ok(if refused { 403 } else { 200 })
            });
            Answer::new(user.as_str(), asked.await)
        });
        answers.extend(futures_util::future::join_all(asked).await);
    }
    Ok(answers)
}
