//! What the front counts.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Unit;

use super::{Book, Counters, Times, Words, long, short};
use crate::http::App;
use crate::launcher::LauncherError;
use crate::runs::record::{Run, Status};
use crate::workspace::disk::Space;

/// Which requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    method: &'static str,
    /// The route's pattern.
    route: String,
    status: u16,
}

/// Which runs are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RunLabels {
    status: &'static str,
    /// The run's error code, which is one of docs/pi-runtime.md; empty without an error.
    code: String,
}

/// All of it.
#[derive(Debug)]
pub struct Metrics {
    /// What describes and shows it.
    pub book: Book,
    requests: Family<RequestLabels, Counter>,
    request_time: Times<[(&'static str, String); 1]>,
    refusals: Counters<1>,
    requests_under_way: Gauge,
    subscribers: Gauge,
    runs: Family<Words<1>, Gauge>,
    runs_finished: Family<RunLabels, Counter>,
    run_time: Times<Words<1>>,
    run_start: Histogram,
    workers: Gauge,
    worker_starts: Counters<1>,
    worker_start: Histogram,
    syncs: Counters<1>,
    pushes: Counters<1>,
    launcher_requests: Counters<2>,
    launcher_time: Times<Words<1>>,
    disk_free: Gauge,
    draining: Gauge,
    relay_up: Gauge,
}

/// The front's metrics.
pub fn metrics() -> &'static Metrics {
    static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);
    &METRICS
}

fn family<L: Clone + std::hash::Hash + Eq>(of: fn() -> Histogram) -> Times<L> {
    Family::new_with_constructor(of)
}

impl Metrics {
    fn new() -> Self {
        let mut book = Book::new("pi_gateway");
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        let text = "The version of the front";
        book.describe("build".to_owned(), text, &version);
        book.registry.register("build", text, version);
        Metrics {
            requests: book.add("http_requests", "Requests that were answered", Family::default()),
            request_time: book.add_in(
                "http_request",
                Unit::Seconds,
                "Time until an answer began, by route",
                family(short),
            ),
            refusals: book.add(
                "refusals",
                "Requests that were answered by a problem, by its code",
                Counters::default(),
            ),
            requests_under_way: book.add(
                "http_requests_under_way",
                "Requests that are being answered",
                Gauge::default(),
            ),
            subscribers: book.add("subscribers", "Streams of events that are open", Gauge::default()),
            runs: book.add("runs", "Active runs, by status", Family::default()),
            runs_finished: book.add(
                "runs_finished",
                "Runs that have ended, by status and error code",
                Family::default(),
            ),
            run_time: book.add_in(
                "run",
                Unit::Seconds,
                "Time from a run's acceptance to its end, by status",
                family(long),
            ),
            run_start: book.add_in(
                "run_start",
                Unit::Seconds,
                "Time from a run's acceptance until pi has taken its prompt",
                short(),
            ),
            workers: book.add("workers", "Users' files workers that are up", Gauge::default()),
            worker_starts: book.add("worker_starts", "Starts of files workers, by outcome", Counters::default()),
            worker_start: book.add_in(
                "worker_start",
                Unit::Seconds,
                "Time until a files worker was connected",
                short(),
            ),
            syncs: book.add("syncs", "Syncs of workspaces, by outcome", Counters::default()),
            pushes: book.add("pushes", "Pushes behind runs, by outcome", Counters::default()),
            launcher_requests: book.add(
                "launcher_requests",
                "Requests to the launcher, by kind and outcome",
                Counters::default(),
            ),
            launcher_time: book.add_in(
                "launcher_request",
                Unit::Seconds,
                "Time until the launcher answered, by kind of request",
                family(short),
            ),
            disk_free: book.add_in("disk_free", Unit::Bytes, "Free space of the gateway's disk", Gauge::default()),
            draining: book.add(
                "draining",
                "Whether no more runs are accepted, because the front ends: 1 or 0",
                Gauge::default(),
            ),
            relay_up: book.add("relay_up", "Whether the model relay has told what it counts: 1 or 0", Gauge::default()),
            book,
        }
    }

    /// A request was answered. `route` is a pattern of the router.
    pub fn request(
        &self,
        method: &axum::http::Method,
        route: &str,
        status: u16,
        code: Option<&'static str>,
        time: Duration,
    ) {
        let method = match method.as_str() {
            "GET" => "GET",
            "HEAD" => "HEAD",
            "POST" => "POST",
            "PUT" => "PUT",
            "DELETE" => "DELETE",
            "OPTIONS" => "OPTIONS",
            _ => "other",
        };
        let route = route.to_owned();
        self.request_time.get_or_create(&[("route", route.clone())]).observe(time.as_secs_f64());
        self.requests.get_or_create(&RequestLabels { method, route, status }).inc();
        if let Some(code) = code {
            self.refusals.get_or_create(&[("code", code)]).inc();
        }
    }

    /// A run has ended.
    pub fn finished(&self, run: &Run) {
        let status = status(run.status);
        let code = run.error.as_ref().map_or_else(String::new, |error| error.code.clone());
        self.runs_finished.get_or_create(&RunLabels { status, code }).inc();
        let seconds = |from: jiff::Timestamp, to: jiff::Timestamp| to.duration_since(from).as_secs_f64().max(0.0);
        if let Some(finished) = run.finished_at {
            self.run_time.get_or_create(&[("status", status)]).observe(seconds(run.created_at, finished));
        }
        if let Some(started) = run.started_at {
            self.run_start.observe(seconds(run.created_at, started));
        }
    }

    /// The start of a files worker has come to an end.
    pub fn worker_start(&self, ok: bool, begun: Instant) {
        self.worker_starts.get_or_create(&[("outcome", if ok { "connected" } else { "failed" })]).inc();
        if ok {
            self.worker_start.observe(begun.elapsed().as_secs_f64());
        }
    }

    /// A sync has ended.
    pub fn sync(&self, outcome: &'static str) {
        self.syncs.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// A push behind a run has ended.
    pub fn push(&self, outcome: &'static str) {
        self.pushes.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// The launcher has answered, or has not.
    pub fn launcher<T>(&self, kind: &'static str, answer: &Result<T, LauncherError>, begun: Instant) {
        let outcome = match answer {
            Ok(_) => "done",
            Err(LauncherError::Refused(_)) => "refused",
            Err(LauncherError::Late) => "late",
            Err(LauncherError::Unreachable { .. }) => "unreachable",
            Err(LauncherError::Protocol(_)) => "protocol",
        };
        self.launcher_requests.get_or_create(&[("request", kind), ("outcome", outcome)]).inc();
        self.launcher_time.get_or_create(&[("request", kind)]).observe(begun.elapsed().as_secs_f64());
    }

    /// Looks at what is not counted but looked at, and gives all of it as text. `relay` is what the model relay has told.
    pub fn text(&self, app: &App, relay: Option<&str>) -> String {
        let gauge = |gauge: &Gauge, value: usize| _ = gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        let [requests, streams] = app.seats.taken();
        gauge(&self.requests_under_way, requests);
        gauge(&self.subscribers, streams);
        gauge(&self.workers, app.workers.up());
        let active = app.runs.active_states();
        for state in [Status::Starting, Status::Running, Status::Finalizing] {
            let count = active.iter().filter(|active| **active == state).count();
            gauge(&self.runs.get_or_create(&[("status", status(state))]), count);
        }
        if let Ok(space) = Space::of(&app.runs.services().raw) {
            gauge(&self.disk_free, usize::try_from(space.free).unwrap_or(usize::MAX));
        }
        gauge(&self.draining, usize::from(app.is_draining()));
        gauge(&self.relay_up, usize::from(relay.is_some()));
        format!("{}{}# EOF\n", self.book.text(), relay.unwrap_or_default())
    }
}

fn status(status: Status) -> &'static str {
    match status {
        Status::Starting => "starting",
        Status::Running => "running",
        Status::Finalizing => "finalizing",
        Status::Succeeded => "succeeded",
        Status::Failed => "failed",
        Status::Cancelled => "cancelled",
        Status::Interrupted => "interrupted",
    }
}
