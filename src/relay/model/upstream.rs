//! The upstream: one URL, fixed at start. No redirect is followed, no proxy is taken from the environment, and
//! answers are neither decompressed nor kept.

use bytes::Bytes;
use hyper::header::HeaderMap;
use hyper::{Method, StatusCode};
use reqwest::{Client, Response, Url, redirect};

use super::failure::Failure;
use super::limits::{MAX_ERROR_BODY, Waits};

/// The client for the one endpoint.
#[derive(Debug)]
pub struct Upstream {
    client: Client,
    endpoint: Url,
}

impl Upstream {
    /// Makes the client.
    ///
    /// # Errors
    /// TLS cannot be set up, as when the system has no certificate authorities.
    pub fn new(endpoint: Url, waits: &Waits) -> reqwest::Result<Self> {
        let client = Client::builder()
            .https_only(endpoint.scheme() == "https")
            .http1_only()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .tcp_nodelay(true)
            .connect_timeout(waits.connect)
            // Covers the wait for the answer's head too. There is no limit on the whole answer: long ones are normal,
            // and the run that asked for it has its own.
            .read_timeout(waits.upstream_idle)
            .pool_max_idle_per_host(8)
            .build()?;
        Ok(Self { client, endpoint })
    }

    /// Sends one request; its body and headers are the upstream's.
    ///
    /// # Errors
    /// What the client is told when there is no answer.
    pub async fn send(&self, headers: HeaderMap, body: Bytes) -> Result<Response, Failure> {
        self.post(&self.endpoint, headers, body).await
    }

    /// The same, with what the client of the network says when there is no answer.
    ///
    /// # Errors
    /// There is none.
    pub async fn raw(&self, to: &Url, headers: HeaderMap, body: Bytes) -> reqwest::Result<Response> {
        self.client.request(Method::POST, to.clone()).headers(headers).body(body).send().await
    }

    /// The same to another of the operator's URLs.
    ///
    /// # Errors
    /// What the client is told when there is no answer.
    pub async fn post(&self, to: &Url, headers: HeaderMap, body: Bytes) -> Result<Response, Failure> {
        self.raw(to, headers, body).await.map_err(|error| {
            // The error names the URL only; without it, what is left is the cause.
            let error = error.without_url();
            let (status, code, message) = if error.is_timeout() {
                let message = "The model provider did not answer in time (upstream timeout).";
                (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", message)
            } else {
                let message = "The model provider cannot be reached from the gateway (connection error).";
                (StatusCode::BAD_GATEWAY, "upstream_unreachable", message)
            };
            tracing::warn!(code, cause = %chain(&error), "no answer from the upstream");
            Failure::trouble(status, code, message)
        })
    }
}

/// Reads the start of an error's body; what cannot be read is left out.
pub async fn error_body(mut response: Response, waits: &Waits) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reading = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            let room = MAX_ERROR_BODY.saturating_sub(bytes.len()).min(chunk.len());
            bytes.extend_from_slice(&chunk[..room]);
            if bytes.len() == MAX_ERROR_BODY {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(waits.error_body, reading).await;
    bytes
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
