//! Whether the gateway lives, and whether it can take runs.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use pi_gateway_helper::wire::{Activity, Unit};
use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use super::App;
use crate::models::Provider;
use crate::relay::model::codex::state::{self, State as Account};
use crate::runs::Services;
use crate::workspace::disk::Space;

/// How long an answer about readiness is good.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// The answer of `GET /health`.
#[derive(Serialize, ToSchema)]
pub struct Health {
    /// Always `ok`: whoever gets it has reached a living process.
    status: &'static str,
    /// The gateway's version.
    version: &'static str,
}

/// What a part of the gateway is up to.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// It works.
    Ok,
    /// It does not.
    Failed,
}

/// The answer of `GET /health/ready`.
#[derive(Clone, Serialize, ToSchema)]
pub struct Readiness {
    /// Whether runs can be started.
    ready: bool,
    /// Whether this process accepts runs at all, or is about to end.
    draining: bool,
    /// The launcher answers.
    launcher: Check,
    /// The model relay is up.
    model_relay: Check,
    /// The git relay is up, without which runs go on and nothing is pushed; null without a remote.
    git_relay: Option<Check>,
    /// The egress relay is up, without which no agent starts where agents may reach the internet; null where they may not.
    egress_relay: Option<Check>,
    /// How the ChatGPT account stands, without which models of the provider codex cannot be asked; null when none is on
    /// offer.
    codex: Option<Account>,
    /// The gateway's disk has space.
    disk: Check,
    /// Runs that are active now.
    active_runs: usize,
}

/// The last answer about readiness.
#[derive(Default)]
pub struct ReadyCache(Mutex<Option<(Instant, Readiness)>>);

/// Liveness.
#[utoipa::path(get, path = "/health", tag = "health", responses((status = 200, body = Health)))]
pub async fn health() -> Json<Health> {
    Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// Readiness, looked at anew at most once a second.
#[utoipa::path(get, path = "/health/ready", tag = "health", responses(
    (status = 200, body = Readiness), (status = 503, body = Readiness)))]
pub async fn ready(State(app): State<App>) -> (StatusCode, Json<Readiness>) {
    // One look at a time: the others wait for its answer and share it.
    let mut cache = app.ready.0.lock().await;
    let answer = match &*cache {
        Some((at, answer)) if at.elapsed() < GOOD_FOR => answer.clone(),
        // The time is that of the look: answers given since must not prolong it, or who asks often sees no change.
        _ => {
            let answer = look(&app).await;
            *cache = Some((Instant::now(), answer.clone()));
            answer
        }
    };
    let status = if answer.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(answer))
}

async fn look(app: &App) -> Readiness {
    let check = |ok| if ok { Check::Ok } else { Check::Failed };
    let services = app.runs.services();
    let relay = services.launcher.status(Unit::ModelRelay).await;
    if let Err(error) = &relay {
        tracing::warn!(%error, "not ready");
    }
    let launcher = check(relay.is_ok());
    let model_relay = check(relay.is_ok_and(|state| state.activity == Activity::Active));
    // Runs do not need it.
    let git_relay = optional(services, services.git.has_remote(), Unit::GitRelay).await;
    let egress_relay = optional(services, app.sandbox_internet, Unit::EgressRelay).await;
    let codex = services.catalogue.has(Provider::Codex).then(|| state::read(&services.usage));
    let disk = check(Space::of(&services.raw).is_ok_and(|space| !space.is_scarce()));
    let draining = app.is_draining();
    let needed = [launcher, model_relay, egress_relay.unwrap_or(Check::Ok), disk];
    let ready = !draining && needed.iter().all(|check| *check == Check::Ok);
    let active_runs = app.runs.active_count();
    Readiness { ready, draining, launcher, model_relay, git_relay, egress_relay, codex, disk, active_runs }
}

/// Whether a relay is up that is there only where the configuration wants it.
async fn optional(services: &Services, wanted: bool, relay: Unit) -> Option<Check> {
    if !wanted {
        return None;
    }
    let up = services.launcher.status(relay).await.is_ok_and(|state| state.activity == Activity::Active);
    Some(if up { Check::Ok } else { Check::Failed })
}
