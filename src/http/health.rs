//! Whether the gateway lives, and whether it can take runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use pi_gateway_helper::wire::{Activity, Unit};
use serde::Serialize;
use tokio::sync::Mutex;
use utoipa::ToSchema;

use super::App;
use crate::runs::Runs;

/// How long an answer about readiness is good.
const GOOD_FOR: Duration = Duration::from_secs(1);
/// Free space below which no run should start: 256 MiB.
const DISK_FLOOR: u64 = 256 << 20;

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
        _ => look(&app.runs, app.is_draining()).await,
    };
    *cache = Some((Instant::now(), answer.clone()));
    let status = if answer.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(answer))
}

async fn look(runs: &Arc<Runs>, draining: bool) -> Readiness {
    let check = |ok| if ok { Check::Ok } else { Check::Failed };
    let services = runs.services();
    let relay = services.launcher.status(Unit::ModelRelay).await;
    if let Err(error) = &relay {
        tracing::warn!(%error, "not ready");
    }
    let launcher = check(relay.is_ok());
    let model_relay = check(relay.is_ok_and(|state| state.activity == Activity::Active));
    let free = nix::sys::statvfs::statvfs(&services.raw).map(|fs| fs.blocks_available() * fs.fragment_size());
    let disk = check(free.is_ok_and(|free| free >= DISK_FLOOR));
    let ready = !draining && [launcher, model_relay, disk].iter().all(|check| *check == Check::Ok);
    Readiness { ready, draining, launcher, model_relay, disk, active_runs: runs.active_count() }
}
