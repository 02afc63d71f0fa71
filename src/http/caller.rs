//! Who calls: the bearer token of a request, checked before anything else of it is looked at. Whom the operator has blocked
//! is refused, whatever his token says.

use axum::extract::FromRequestParts;
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::request::Parts;

use super::App;
use super::access::LogUser;
use super::problem::{Problem, UNAUTHORIZED};
use super::seats::{Held, Kind};
use crate::auth;

/// The caller of a request. Taking it as an argument is what protects a route.
pub struct Caller(pub auth::Caller);

impl FromRequestParts<App> for Caller {
    type Rejection = Box<Problem>;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Self::Rejection> {
        let mut values = parts.headers.get_all(AUTHORIZATION).iter();
        let value = values.next();
        let several = values.next().is_some();
        let verified = app.verifier.verify(value.map(|value| value.as_bytes()), several, jiff::Timestamp::now());
        match verified {
            Ok(caller) => {
                if let Some(log) = parts.extensions.get::<LogUser>() {
                    log.set(caller.user.as_str());
                }
                // The seat first: from then on it learns of every change.
                let seat = app.seats.take(&caller.user, Kind::Request)?;
                if app.runs.services().standing.refuses(&caller.user) {
                    return Err(Problem::blocked());
                }
                if let Some(held) = parts.extensions.get::<Held>() {
                    held.put(seat);
                }
                parts.extensions.insert(caller.user.clone());
                Ok(Caller(caller))
            }
            Err(error) => {
                Err(Problem::new(UNAUTHORIZED, error.to_string())
                    .with_header(WWW_AUTHENTICATE, error.www_authenticate()))
            }
        }
    }
}
