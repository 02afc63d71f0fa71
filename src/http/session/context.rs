//! `GET /context`: how full the model's context is, and what the session has cost.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::{refused, told};
use crate::http::App;
use crate::http::caller::Caller;
use crate::http::problem::Problem;

/// The context of a user's session.
#[derive(Serialize, ToSchema)]
pub struct Context {
    /// The model that has answered last; the operator's default before that.
    model: String,
    /// Tokens of its context; null when the operator offers it no more.
    context_window: Option<u64>,
    /// Tokens in it after the last answer, as pi says; null when it was shortened since and nothing was answered.
    tokens: Option<u64>,
    /// How full it is, in per cent.
    percent: Option<f64>,
    /// What the session's runs have cost so far, in USD, as the model relay counted it; of the runs that are kept.
    cost_usd: f64,
    /// Whether some of that is an estimate.
    cost_estimated: bool,
    /// How often it was shortened.
    compactions: u64,
}

/// How full the context is.
#[utoipa::path(get, path = "/context", tag = "session", security(("bearer" = [])),
    responses((status = 200, body = Context), (status = 401, body = Problem),
        (status = 409, description = "`session_unusable` or `session_too_large`", body = Problem),
        (status = 503, body = Problem)))]
pub async fn show(State(app): State<App>, Caller(caller): Caller) -> Result<Json<Context>, Box<Problem>> {
    let found = told(&app, &caller.user).await.map_err(refused)?;
    let runs = app.runs.clone();
    let spent = tokio::task::spawn_blocking(move || runs.services().spent(&caller.user));
    let spent = spent.await.map_err(std::io::Error::other).flatten().map_err(|error| Problem::storage(&error))?;
    let services = app.runs.services();
    let (tokens, compactions) = found.as_ref().map_or((Some(0), 0), |found| (found.tokens, found.compactions));
    let model = found.and_then(|found| found.model).unwrap_or_else(|| services.default_model.clone());
    let context_window = services.catalogue.get(&model).map(|model| model.context_window);
    #[allow(clippy::cast_precision_loss, reason = "a percentage")]
    let percent = |(tokens, window): (u64, u64)| (tokens as f64 * 1000.0 / window as f64).round() / 10.0;
    Ok(Json(Context {
        model,
        context_window,
        tokens,
        percent: tokens.zip(context_window).map(percent),
        cost_usd: spent.cost_usd,
        cost_estimated: spent.estimated,
        compactions,
    }))
}
