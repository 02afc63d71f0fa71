//! What the model relay counts: requests to the providers, their times and tokens. The front asks for it.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Unit;

use super::{Book, Times, long, short};
use crate::relay::model::sse::Tokens;

/// What all names begin with. The front lets nothing else of the relay's through.
pub const PREFIX: &str = "pi_gateway_model_relay";

/// Which requests are counted together. A model is one of the operator's list, or the one that makes images.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    model: String,
    outcome: &'static str,
}

/// Which tokens are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TokenLabels {
    model: String,
    kind: &'static str,
}

/// All of it.
#[derive(Debug)]
pub struct Metrics {
    /// What describes and shows it.
    pub book: Book,
    requests: Family<RequestLabels, Counter>,
    head_time: Times<[(&'static str, String); 1]>,
    request_time: Times<[(&'static str, String); 1]>,
    tokens: Family<TokenLabels, Counter>,
    refusals: Family<[(&'static str, String); 1], Counter>,
}

/// One request to a provider that has ended.
pub struct Ended<'a> {
    /// The model.
    pub model: &'a str,
    /// The provider's status, or the relay's word for none.
    pub status: u16,
    /// Whether the answer came to its end and was counted.
    pub complete: bool,
    /// Time until the answer began, if it did.
    pub head: Option<Duration>,
    /// Time until it was over.
    pub whole: Duration,
    /// What it used.
    pub tokens: Tokens,
}

/// The model relay's metrics.
pub fn metrics() -> &'static Metrics {
    static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);
    &METRICS
}

impl Metrics {
    fn new() -> Self {
        let mut book = Book::new(PREFIX);
        Metrics {
            requests: book.add("requests", "Requests to the providers, by model and outcome", Family::default()),
            head_time: book.add_in(
                "upstream_answer",
                Unit::Seconds,
                "Time until a provider's answer began, by model",
                Family::new_with_constructor(short),
            ),
            request_time: book.add_in(
                "upstream",
                Unit::Seconds,
                "Time until a request to a provider was over, by model",
                Family::new_with_constructor(long),
            ),
            tokens: book.add("tokens", "Tokens that were used, by model and kind", Family::default()),
            refusals: book.add(
                "refusals",
                "Requests of agents and of the front that went to no provider, by code",
                Family::default(),
            ),
            book,
        }
    }

    /// A request to a provider has ended.
    pub fn ended(&self, ended: &Ended) {
        let model = || ended.model.to_owned();
        let outcome = outcome(ended.status, ended.complete);
        self.requests.get_or_create(&RequestLabels { model: model(), outcome }).inc();
        if let Some(head) = ended.head {
            self.head_time.get_or_create(&[("model", model())]).observe(head.as_secs_f64());
        }
        self.request_time.get_or_create(&[("model", model())]).observe(ended.whole.as_secs_f64());
        let Tokens { input, cached, cache_write, output, reasoning } = ended.tokens;
        for (kind, count) in [
            ("input", input),
            ("cached_input", cached),
            ("cache_write", cache_write),
            ("output", output),
            ("reasoning", reasoning),
        ] {
            if count > 0 {
                self.tokens.get_or_create(&TokenLabels { model: model(), kind }).inc_by(count);
            }
        }
    }

    /// A request was refused here. `code` is a word of the relay's own.
    pub fn refused(&self, code: &str) {
        self.refusals.get_or_create(&[("code", code.to_owned())]).inc();
    }

    /// All of it as text.
    pub fn text(&self) -> String {
        self.book.text()
    }
}

fn outcome(status: u16, complete: bool) -> &'static str {
    match status {
        200 if complete => "answered",
        200 => "cut",
        401 | 403 => "credential_refused",
        429 => "rate_limited",
        499 => "client_gone",
        400..500 => "refused",
        _ => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_is_one_of_a_few_words() {
        let words: std::collections::BTreeSet<_> =
            (0..1000).flat_map(|status| [true, false].map(|whole| outcome(status, whole))).collect();
        assert_eq!(words.len(), 7, "{words:?}");
        assert_eq!((outcome(200, true), outcome(504, false)), ("answered", "failed"));
    }
}
