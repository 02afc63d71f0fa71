//! How long things take to begin: the front, and a prompt on its way to pi beside a bare pi.

use std::time::{Duration, Instant};

use pi_gateway_e2e::host::until_ready;
use pi_gateway_e2e::{User, sh};

use crate::bare;
use crate::table::Table;

/// How often each thing is measured.
pub const TIMES: usize = 15;

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

/// From `POST /runs` to the event that pi has answered the prompt.
fn through_gateway(user: &User) -> Duration {
    let begun = Instant::now();
    let id = user.start("hello");
    user.stream(&id, None).find(|event| event.name == "run.started").expect("pi's answer");
    let took = begun.elapsed();
    user.finished(&id);
    took
}

/// The rows of the front's start.
pub fn front(table: &mut Table) {
    sh("systemctl stop pi-gateway.socket pi-gateway; cp -a /etc/pi-gateway/gateway.env /root/bench.env");
    exec_to_ready("/root/bench.env");
    let mut starts: Vec<f64> = (0..TIMES).map(|_| exec_to_ready("/root/bench.env")).collect();
    table.row("front: from exec to READY", &mut starts, "ms", 30.0);
    // Root has run it: what it made is given back to the service's user.
    sh("chown -R pi-gateway:pi-gateway /var/lib/pi-gateway/front; systemctl start pi-gateway.socket pi-gateway");
    let mut starts: Vec<f64> = (0..TIMES).map(|_| front_start()).collect();
    until_ready();
    table.row("front: from systemd's fork to READY, sandbox included", &mut starts, "ms", f64::INFINITY);
}

/// The rows of a prompt, turn by turn with a bare pi, so that a machine that slows down slows both.
pub fn prompt(table: &mut Table) {
    let milliseconds = |times: &[Duration]| times.iter().map(|time| time.as_secs_f64() * 1000.0).collect::<Vec<f64>>();
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
}
