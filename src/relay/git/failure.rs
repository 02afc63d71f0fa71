//! Answers that are errors: a status and one line of plain text, `<code>: <sentence>`.
//!
//! Codes that begin with `gitea_` tell what Gitea did; all others are refusals of this relay. Nothing of Gitea's own
//! text is passed on: it was written for somebody else, and could repeat what it was sent.

use hyper::StatusCode;

pub use crate::relay::failure::Failure;

impl Failure {
    /// What the client learns of an answer with this status, which is not the one that was hoped for.
    #[must_use]
    pub fn gitea(status: StatusCode) -> Self {
        let told = |code, message: &str| Self::new(status, code, message);
        match status.as_u16() {
            401 => told("gitea_unauthorized", "Gitea does not accept the gateway's account or token"),
            403 => told("gitea_forbidden", "the gateway's account may not do this in the repository"),
            404 => told("gitea_not_found", "the repository does not exist, or the gateway's account may not see it"),
            413 => told("gitea_too_large", "Gitea, or a server before it, does not take a push of this size"),
            429 => told("gitea_busy", "Gitea asks for fewer requests"),
            500.. => told("gitea_error", "Gitea reports an error of its own"),
            300..=399 => {
                let message =
                    format!("Gitea redirects ({status}), which is not followed; GITEA_BASE_URL must be exact");
                Self::new(StatusCode::BAD_GATEWAY, "gitea_redirect", message)
            }
            _ => Self::unexpected(&format!("status {status}")),
        }
    }

    /// An answer that is not what git's protocol wants.
    #[must_use]
    pub fn unexpected(what: &str) -> Self {
        let message = format!("what answers at GITEA_BASE_URL does not speak git here ({what})");
        Self::new(StatusCode::BAD_GATEWAY, "gitea_unexpected", message)
    }

    /// Gitea took too long.
    #[must_use]
    pub fn late() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "gitea_timeout", "Gitea did not answer in time")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_of_gitea_stay_what_they_are_and_redirects_become_errors() {
        for (status, expected, code) in [
            (401, 401, "gitea_unauthorized"),
            (403, 403, "gitea_forbidden"),
            (404, 404, "gitea_not_found"),
            (413, 413, "gitea_too_large"),
            (429, 429, "gitea_busy"),
            (500, 500, "gitea_error"),
            (503, 503, "gitea_error"),
            (301, 502, "gitea_redirect"),
            (302, 502, "gitea_redirect"),
            (308, 502, "gitea_redirect"),
            (204, 502, "gitea_unexpected"),
            (418, 502, "gitea_unexpected"),
        ] {
            let failure = Failure::gitea(StatusCode::from_u16(status).unwrap_or_default());
            assert_eq!((failure.status.as_u16(), failure.code), (expected, code), "{status}");
        }
    }
}
