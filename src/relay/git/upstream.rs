//! Gitea: one origin, fixed at start. No redirect is followed, no proxy is taken from the environment, answers are not
//! decompressed. Every header that goes out is made here.

use hyper::Method;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT,
};
use reqwest::{Client, Response, Url, redirect};

use super::admit::{Call, GIT_PROTOCOL};
use super::answer::media_type;
use super::config::Account;
use super::limits::Waits;

/// How the relay calls itself; some servers know git by the beginning.
const NAME: HeaderValue = HeaderValue::from_static("git/pi-gateway");

/// The client for the one origin.
#[derive(Debug)]
pub struct Upstream {
    client: Client,
    base: Url,
    account: Account,
}

impl Upstream {
    /// Makes the client.
    ///
    /// # Errors
    /// TLS cannot be set up, as when the system has no certificate authorities.
    pub fn new(base: Url, account: Account, waits: &Waits) -> reqwest::Result<Self> {
        let client = Client::builder()
            .https_only(base.scheme() == "https")
            .http1_only()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .tcp_nodelay(true)
            .connect_timeout(waits.connect)
            // The other times are kept where it is known who is waited for. No connection is kept for later: a push
            // cannot be sent again when Gitea closes one at the moment in which it is used.
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self { client, base, account })
    }

    /// Asks Gitea's own API for what it says of a repository, `/<user>/<name>`. No sandbox can have this asked: it is the
    /// operator's question ([`crate::relay::probe`]).
    ///
    /// # Errors
    /// There is no answer.
    pub async fn describe(&self, repository: &str) -> reqwest::Result<Response> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/api/v1/repos{repository}", self.base.path().trim_end_matches('/')));
        self.client.get(url).header(USER_AGENT, NAME).header(AUTHORIZATION, self.account.header()).send().await
    }

    /// Sends a request for `repository`, a path that was compared with what may be asked for.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn send(&self, repository: &str, call: Call, body: reqwest::Body) -> reqwest::Result<Response> {
        let service = call.service.name();
        let mut url = self.base.clone();
        let above = self.base.path().trim_end_matches('/');
        let mut headers = HeaderMap::new();
        let mut set = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        set(ACCEPT, &media_type(call));
        set(ACCEPT_ENCODING, "identity");
        if let Some(version) = call.version {
            set(GIT_PROTOCOL, version);
        }
        let method = if call.asks_for_refs {
            url.set_path(&format!("{above}{repository}/info/refs"));
            url.set_query(Some(&format!("service={service}")));
            Method::GET
        } else {
            url.set_path(&format!("{above}{repository}/{service}"));
            set(CONTENT_TYPE, &format!("application/x-{service}-request"));
            Method::POST
        };
        headers.insert(USER_AGENT, NAME);
        headers.insert(AUTHORIZATION, self.account.header());
        let request = self.client.request(method, url).headers(headers);
        let request = if call.asks_for_refs { request } else { request.body(body) };
        request.send().await
    }
}
