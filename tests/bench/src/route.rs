//! The way from a line of pi's output to a client: latency, throughput, what a subscriber costs, what a resume takes. The
//! lines come from the fake pi in a real sandbox, through the front's raw file, translation and log, over TCP.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use pi_gateway_bench::{now, word};
use pi_gateway_e2e::host::until_ready;
use pi_gateway_e2e::http::{ADDRESS, raw};
use pi_gateway_e2e::operator::{FILE, Restore, nothing};
use pi_gateway_e2e::{User, sh};

use crate::table::Table;

/// Deltas whose way is timed, and the time between two of them: as fast as a quick model.
pub const DELTAS: usize = 2000;
pub const PAUSE_US: usize = 4000;
/// Lines of one flood, and how many floods there are.
pub const LINES: usize = 300_000;
pub const FLOODS: usize = 5;
/// Clients that wait on one run.
pub const SUBSCRIBERS: usize = 2000;
/// Events of the log that is resumed, and how often.
pub const EVENTS: usize = 100_000;
const RESUMES: usize = 200;

pub const FAKE: &str = "/usr/local/lib/pi-gateway-fake-pi";

/// Has runs driven by the fake pi until the result is dropped.
pub fn with_fake_pi() -> Restore {
    let restore = Restore::new();
    let program = std::env::current_exe().expect("this program").with_file_name("pi-gateway-fake-pi");
    sh(&format!("install -m 0755 {} {FAKE}; echo PI_BIN={FAKE} >> {FILE}", program.display()));
    sh("systemctl restart pi-gateway-launcher pi-gateway");
    until_ready();
    restore
}

/// Has a run ended that waits.
pub fn stop(user: &User, run: &str) {
    let _ = user.post(&format!("/runs/{run}/cancel"), &[], &nothing());
    user.finished(run);
}

/// Resident memory of a service's main process, in bytes.
pub fn resident(unit: &str) -> f64 {
    let pid = sh(&format!("systemctl show -P MainPID {unit}"));
    rss(&pid)
}

/// Resident memory of a process, in bytes.
pub fn rss(pid: &str) -> f64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
}

/// From the write of a line to its event at a client.
pub fn latency(table: &mut Table) {
    let user = User::new("latency");
    let id = user.start(&format!("latency {DELTAS} {PAUSE_US}"));
    let mut times = Vec::with_capacity(DELTAS);
    for event in user.stream(&id, None).filter(|event| event.name == "text.delta") {
        let received = now();
        let written = event.data["text"].as_str().unwrap().split_whitespace();
        #[allow(clippy::cast_precision_loss)]
        times.extend(written.map(|time| (received - time.parse::<u64>().unwrap()) as f64 / 1e6));
    }
    assert_eq!(times.len(), DELTAS, "every line arrived");
    table.quantile("pi line to SSE client: p50", &mut times, 0.5, "ms", 1.0);
    table.quantile("pi line to SSE client: p99", &mut times, 0.99, "ms", 3.0);
}

/// As many lines as go through, and none missing.
pub fn throughput(table: &mut Table) {
    let user = User::new("flood");
    let expected: String = (0..LINES).map(word).collect();
    let mut rates = Vec::new();
    for _ in 0..FLOODS {
        let id = user.start(&format!("flood {LINES}"));
        let mut text = String::with_capacity(expected.len() + 32);
        let mut last = 0;
        for event in user.stream(&id, None).filter(|event| event.name == "text.delta") {
            text.push_str(event.data["text"].as_str().unwrap());
            last = now();
        }
        let (begun, rest) = text.split_once(' ').unwrap();
        assert!(rest == expected, "the text is complete and in order: {} of {} bytes", rest.len(), expected.len());
        #[allow(clippy::cast_precision_loss)]
        rates.push(LINES as f64 / ((last - begun.parse::<u64>().unwrap()) as f64 / 1e9));
        user.finished(&id);
    }
    table.at_least("pi lines through to a subscriber", &mut rates, "lines/s", 50_000.0);
}

/// Opens the stream of a run and reads until `mark` has come.
pub fn subscribe(address: &str, request: &[u8], mark: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_nodelay(true).expect("an option");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
    stream.write_all(request).expect("a request");
    let (mut seen, mut buffer) = (Vec::new(), [0; 16 << 10]);
    loop {
        let count = stream.read(&mut buffer).expect("an answer in time");
        assert_ne!(count, 0, "the stream ended: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buffer[..count]);
        if seen.windows(mark.len()).any(|window| window == mark) {
            return stream;
        }
    }
}

/// What the front needs for a client that waits.
pub fn subscribers(table: &mut Table) {
    // One user may have 256 streams, and eight runs may be active.
    let runs: Vec<(User, String)> = (0..8)
        .map(|_| {
            let user = User::new("idle");
            let id = user.start("wait");
            (user, id)
        })
        .collect();
    let request = |(user, id): &(User, String)| raw("GET", &format!("/runs/{id}/events"), Some(&user.token), &[], None);
    let one: Vec<TcpStream> = runs.iter().map(|run| subscribe(ADDRESS, &request(run), b"waiting")).collect();
    let before = resident("pi-gateway");
    let all: Vec<TcpStream> =
        (0..SUBSCRIBERS).map(|number| subscribe(ADDRESS, &request(&runs[number % runs.len()]), b"waiting")).collect();
    #[allow(clippy::cast_precision_loss)]
    let each = (resident("pi-gateway") - before) / SUBSCRIBERS as f64 / 1024.0;
    table.row(&format!("front's memory for each of {SUBSCRIBERS} idle subscribers"), &mut [each], "KiB", 32.0);
    drop((one, all));
    for (user, id) in &runs {
        stop(user, id);
    }
}

/// From the connection to the mark, again and again, in milliseconds.
pub fn timed_resumes(address: &str, request: &[u8], mark: &[u8]) -> Vec<f64> {
    let once = || {
        let begun = Instant::now();
        let _stream = subscribe(address, request, mark);
        begun.elapsed().as_secs_f64() * 1000.0
    };
    (0..RESUMES).map(|_| once()).collect()
}

/// From the connection to the first event behind the one that the client has seen last.
pub fn resume(table: &mut Table) {
    let user = User::new("resume");
    let id = user.start(&format!("events {EVENTS}"));
    let path = format!("/runs/{id}/events");
    let seen: Vec<_> = user.stream(&id, None).take(EVENTS).collect();
    let (before, last) = (&seen[EVENTS - 2], &seen[EVENTS - 1]);
    assert!(last.id.starts_with(&format!("{EVENTS}-")), "{last:?}");
    let request = raw("GET", &path, Some(&user.token), &[("Last-Event-ID", &before.id)], None);
    let mark = format!("id: {}\n", last.id);
    let measure = || timed_resumes(ADDRESS, &request, mark.as_bytes());
    let what = |when: &str, share: &str| format!("resume at the end of {EVENTS} events, {when}: {share}");
    let mut times = measure();
    table.quantile(&what("active run", "p50"), &mut times, 0.5, "ms", 8.0);
    table.quantile(&what("active run", "p99"), &mut times, 0.99, "ms", 8.0);
    stop(&user, &id);
    table.quantile(&what("ended run", "p99"), &mut measure(), 0.99, "ms", 8.0);
}
