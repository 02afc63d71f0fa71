//! The HTTP side: routes, what surrounds them, and the server.
//!
//! A route takes a [`caller::Caller`] or is public (`/health`, `/health/ready`, `/openapi.json`, and the [`pages`]). The
//! OpenAPI document is generated from the same declarations the router is built from.

mod access;
mod blocked;
pub mod body;
pub mod caller;
mod document;
pub mod events;
mod framing;
pub mod health;
pub mod limits;
pub mod messages;
pub mod models;
mod pages;
mod parameters;
pub mod problem;
pub mod room;
pub mod runs;
pub mod seats;
pub mod server;
pub mod session;
mod start;
mod transport;
pub mod workspace;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;
use tower_http::cors::CorsLayer;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Verifier;
use crate::image::maker::Maker;
use crate::runs::Runs;
use crate::workspace::workers::Workers;

pub use start::serve;

/// What every request may need, shared by all: on its way a request takes it along many times.
#[derive(Clone)]
pub struct App(Arc<Parts>);

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl From<Parts> for App {
    fn from(parts: Parts) -> Self {
        App(Arc::new(parts))
    }
}

/// The parts of [`App`].
pub struct Parts {
    /// The users' runs.
    pub runs: Arc<Runs>,
    /// The users' workers.
    pub workers: Arc<Workers>,
    /// Makes images.
    pub maker: Arc<Maker>,
    /// `MAX_UPLOAD_MB`, in bytes.
    pub max_upload: u64,
    /// Checks tokens.
    pub verifier: Verifier,
    /// `SANDBOX_INTERNET_ENABLED`.
    pub sandbox_internet: bool,
    /// The last answer about readiness.
    pub ready: health::ReadyCache,
    /// Memory for bodies.
    pub bodies: Arc<room::Room>,
    /// Memory for answers.
    pub answers: Arc<room::Room>,
    /// Memory for files that are sent.
    pub files: Arc<room::Room>,
    /// What each user may have under way.
    pub seats: seats::Seats,
    /// Becomes true when this process ends.
    pub shutdown: watch::Receiver<bool>,
    /// `REQUEST_TIMEOUT_MS`.
    pub request_timeout: Duration,
    /// `RUN_RETENTION_DAYS`.
    pub run_retention: Duration,
}

impl Parts {
    /// Whether this process is about to end.
    pub fn is_draining(&self) -> bool {
        *self.shutdown.borrow()
    }
}

#[derive(OpenApi)]
#[openapi(
    info(title = "pi-gateway", description = "Runs the pi coding agent for many users, each in a sandbox of his own."),
    modifiers(&Bearer),
    tags((name = "health", description = "Is it there, is it ready"), (name = "runs", description = "One at a time"),
        (name = "session", description = "The user's conversation"), (name = "workspace", description = "The user's files"))
)]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    }
}

fn declared() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(runs::start, runs::list))
        .routes(routes!(runs::show))
        .routes(routes!(runs::cancel))
        .routes(routes!(events::events))
        .routes(routes!(messages::send))
        .routes(routes!(models::list))
        .routes(routes!(session::show, session::remove))
        .routes(routes!(session::messages::list))
        .routes(routes!(session::context::show))
        .routes(routes!(workspace::show::show))
        .routes(routes!(workspace::sync::sync))
        .routes(routes!(workspace::files::list, workspace::files::change, workspace::files::remove))
        .routes(routes!(workspace::content::read, workspace::content::write, workspace::content::remove))
        .routes(routes!(workspace::archive::archive))
        .routes(routes!(workspace::image::generate))
}

/// The OpenAPI document, as `GET /openapi.json` and `pi-gateway openapi` give it.
pub fn openapi_json() -> String {
    let (_, mut declared) = declared().split_for_parts();
    blocked::declare(&mut declared);
    let mut document = serde_json::to_value(declared).unwrap_or_default();
    document::complete(&mut document);
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

/// The router with everything around it.
pub fn router(app: App, cors_origins: &[String], console: bool) -> Router {
    let (routes, _) = declared().split_for_parts();
    let document = Bytes::from(openapi_json());
    let openapi = move || async move { ([(header::CONTENT_TYPE, "application/json")], document) };
    let mut router = routes
        .route("/openapi.json", get(openapi))
        .merge(pages::routes(console))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(body::MAX_BODY))
        .layer(middleware::from_fn_with_state(app.clone(), access::surround));
    let origins: Vec<HeaderValue> = cors_origins.iter().filter_map(|origin| origin.parse().ok()).collect();
    if !origins.is_empty() {
        router = router.layer(cors(origins));
    }
    router.with_state(app)
}

/// Lets pages of the listed origins call with a token. Credentials of the browser stay out of it: none are used.
fn cors(origins: Vec<HeaderValue>) -> CorsLayer {
    let name = HeaderName::from_static;
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::ACCEPT,
            name("last-event-id"),
            name("idempotency-key"),
            access::X_REQUEST_ID,
        ])
        .expose_headers([header::LOCATION, header::RETRY_AFTER, access::X_REQUEST_ID])
        .max_age(Duration::from_secs(3600))
}

async fn unknown_path() -> Response {
    problem::Problem::not_found("This path").into_response()
}

async fn wrong_method() -> Response {
    problem::Problem::new(problem::METHOD_NOT_ALLOWED, "See /openapi.json.").into_response()
}
