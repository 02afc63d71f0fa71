//! `make bench`: figures of the installed gateway, each beside its limit or its rival in the same run. Runs in the test
//! host; exits with 1 when a figure misses its limit.

mod bare;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use pi_gateway_e2e::host::until_ready;
use pi_gateway_e2e::{User, sh, testhost};

/// How often each thing is measured.
const TIMES: usize = 15;

/// The table.
#[derive(Default)]
struct Table {
    missed: bool,
}

impl Table {
    fn row(&mut self, what: &str, values: &mut [f64], unit: &str, limit: f64) {
        values.sort_by(f64::total_cmp);
        let (median, least, most) = (values[values.len() / 2], values[0], values[values.len() - 1]);
        let ok = median <= limit;
        self.missed |= !ok;
        println!(
            "{what:<58} {median:>8.1} {unit:<4} ({least:.1} to {most:.1}, n={})  limit {limit:>6.1}  ratio {:.2}  {}",
            values.len(),
            median / limit,
            if ok { "ok" } else { "MISSED" }
        );
    }
}

fn monotonic(unit: &str, property: &str) -> f64 {
    sh(&format!("systemctl show -P {property} {unit}")).parse().unwrap()
}

/// From exec to READY of the front's program itself, with systemd's notification read here. The service is stopped.
fn exec_to_ready(config: &str) -> f64 {
    let path = "/run/bench-notify";
    let _ = std::fs::remove_file(path);
    let socket = std::os::unix::net::UnixDatagram::bind(path).expect("a socket");
    let begun = Instant::now();
    let mut front = std::process::Command::new("/usr/bin/pi-gateway")
        .args(["serve", "--config", config])
        .env("NOTIFY_SOCKET", path)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the front");
    let mut message = [0; 1024];
    loop {
        let length = socket.recv(&mut message).expect("a notification");
        if String::from_utf8_lossy(&message[..length]).contains("READY=1") {
            break;
        }
    }
    let took = begun.elapsed().as_secs_f64() * 1000.0;
    let _ = front.kill();
    let _ = front.wait();
    took
}

/// From the fork of systemd to READY: the same with the making of the front's sandbox.
fn front_start() -> f64 {
    sh("systemctl restart pi-gateway");
    let (from, to) = ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic");
    (monotonic("pi-gateway", to) - monotonic("pi-gateway", from)) / 1000.0
}

/// Resident memory of a service's main process in MiB.
fn resident(unit: &str) -> f64 {
    let pid = sh(&format!("systemctl show -P MainPID {unit}"));
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// From `POST /runs` to the event that pi has answered the prompt.
fn through_gateway(user: &User) -> Duration {
    let begun = Instant::now();
    let id = user.start("hello");
    user.stream(&id, None).find(|event| event.name == "run.started").expect("pi's answer");
    let took = begun.elapsed();
    user.finished(&id);
    took
}

fn main() -> ExitCode {
    testhost();
    until_ready();
    let mut table = Table::default();
    let milliseconds = |times: &[Duration]| times.iter().map(|time| time.as_secs_f64() * 1000.0).collect::<Vec<f64>>();

    sh("systemctl stop pi-gateway.socket pi-gateway; cp -a /etc/pi-gateway/gateway.env /root/bench.env");
    exec_to_ready("/root/bench.env");
    let mut starts: Vec<f64> = (0..TIMES).map(|_| exec_to_ready("/root/bench.env")).collect();
    table.row("front: from exec to READY", &mut starts, "ms", 30.0);
    // Root has run it: what it made is given back to the service's user.
    sh("chown -R pi-gateway:pi-gateway /var/lib/pi-gateway/front; systemctl start pi-gateway.socket pi-gateway");
    let mut starts: Vec<f64> = (0..TIMES).map(|_| front_start()).collect();
    until_ready();
    table.row("front: from systemd's fork to READY, sandbox included", &mut starts, "ms", f64::INFINITY);

    // Turn by turn, so that a machine that slows down slows both.
    let user = User::new("bench");
    through_gateway(&user);
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        ours.push(through_gateway(&user));
        bare.push(bare::prompt_to_answer());
    }
    let mut added: Vec<f64> = milliseconds(&ours).iter().zip(milliseconds(&bare)).map(|(a, b)| a - b).collect();
    let infinite = f64::INFINITY;
    table.row("POST /runs to pi's answer to the prompt", &mut milliseconds(&ours), "ms", infinite);
    table.row("the same of a bare `pi --mode rpc` from its start", &mut milliseconds(&bare), "ms", infinite);
    table.row("added by the gateway, pair by pair", &mut added, "ms", 120.0);

    for (unit, limit) in [("pi-gateway", 15.0), ("pi-gateway-launcher", 5.0), ("pi-gateway-relay-model", 15.0)] {
        table.row(&format!("{unit}: resident memory after {} runs", TIMES + 1), &mut [resident(unit)], "MiB", limit);
    }
    if table.missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
