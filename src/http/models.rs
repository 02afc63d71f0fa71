//! `GET /models`: what the operator offers, out of the catalogue.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::caller::Caller;
use super::problem::Problem;
use crate::models::{Cost, Input, Model, Thinking};

/// A model that a run may choose.
#[derive(Serialize, ToSchema)]
pub struct OfferedModel {
    /// What `POST /runs` calls it.
    id: String,
    /// What people call it.
    name: String,
    /// Whether a run that names none gets it.
    default: bool,
    /// Tokens of context.
    context_window: u64,
    /// The most tokens of one answer.
    max_tokens: u64,
    /// The thinking levels that may be chosen; none when it does not think.
    thinking_levels: Vec<Thinking>,
    /// What it takes.
    inputs: Vec<Input>,
    /// Prices in USD per million tokens.
    prices: Cost,
}

/// The models, in the operator's order.
#[derive(Serialize, ToSchema)]
pub struct ModelPage {
    /// All of them.
    data: Vec<OfferedModel>,
    /// Always null: there is one page.
    next: Option<String>,
}

/// What the operator offers.
#[utoipa::path(get, path = "/models", tag = "session", security(("bearer" = [])),
    responses((status = 200, body = ModelPage), (status = 401, body = Problem)))]
pub async fn list(State(app): State<App>, Caller(_caller): Caller) -> Json<ModelPage> {
    let services = app.runs.services();
    let offered = |model: &Model| OfferedModel {
        id: model.id.clone(),
        name: model.name.clone(),
        default: model.id == services.default_model,
        context_window: model.context_window,
        max_tokens: model.max_tokens,
        thinking_levels: model.thinking_levels.clone(),
        inputs: model.input.clone(),
        prices: model.cost,
    };
    Json(ModelPage { data: services.catalogue.iter().map(offered).collect(), next: None })
}
