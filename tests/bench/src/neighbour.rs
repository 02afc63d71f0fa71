//! What a neighbour notices of an agent that takes all it can get: the time between the events of a run whose upstream
//! writes a word every 30 ms, beside each hog and alone, turn by turn.
//!
//! The upstream and the client stand for programs on other machines, which no agent here slows. So they have a slice of
//! their own with the largest weight; all between them competes with the hog as it does on a server. On a machine that
//! others use too this measures them: a tick of the kernel is 4 ms, as much as the limit allows.

use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use pi_gateway_e2e::attack::place;
use pi_gateway_e2e::neighbour::paced;
use pi_gateway_e2e::{User, sh};

use crate::table::{Table, quantile};

const SLICE: &str = "elsewhere.slice";
/// Where the upstream's unit is told of it; gone with the boot.
const DROP_IN: &str = "/run/systemd/system/pi-gateway-upstream.service.d";
/// Turns of each hog.
const ROUNDS: usize = 5;
const WORDS: usize = 300;
const PAUSE_MS: u64 = 30;
const HOG: &str = include_str!("../../e2e/attacks/hog.py");

/// Each takes about as long as the run beside it.
fn hogs() -> [(&'static str, String); 6] {
    let hog = |what: &str| format!("/usr/bin/python3 {} {what} 2>/dev/null", place("hog.py", HOG));
    let spin = "for n in 1 2 3 4 5 6 7 8; do timeout -s KILL 9 bash -c 'while :; do :; done' & done; wait";
    [
        ("memory", format!("for n in 1 2 3 4 5 6; do {} | tail -n 1; done", hog("memory"))),
        ("forks", format!("{}; sleep 5", hog("forks"))),
        ("fork bomb", "bomb() { bomb | bomb & }; bomb; sleep 9".to_owned()),
        ("spinner", spin.to_owned()),
        ("full /tmp", format!("for n in 1 2 3 4 5 6 7 8; do {}; rm /tmp/hog; done", hog("fill /tmp/hog 600"))),
        ("inodes", format!("for n in 1 2 3; do {}; rm -r /tmp/many; done", hog("inodes /tmp/many 1000000"))),
    ]
}

/// Measures in a process of its own in the slice, because the other rows are not to have its weight.
pub fn all(table: &mut Table) {
    if std::fs::read_to_string("/proc/self/cgroup").is_ok_and(|text| text.contains(SLICE)) {
        return measure(table);
    }
    sh(&format!(
        "mkdir -p {DROP_IN} && printf '[Service]\nSlice={SLICE}\nNice=-20\n' >{DROP_IN}/elsewhere.conf && systemctl daemon-reload && \
         systemctl set-property --runtime {SLICE} CPUWeight=10000 && systemctl restart pi-gateway-upstream"
    ));
    let this = std::env::current_exe().expect("this program");
    let slice = format!("--slice={SLICE}");
    let inside = Command::new("systemd-run")
        .args(["--quiet", "--scope", &slice, "--nice=-20"])
        .arg(this)
        .env("BENCH", "neighbour")
        .status();
    table.missed |= !inside.is_ok_and(|status| status.success());
    sh(&format!("rm -r {DROP_IN} && systemctl daemon-reload && systemctl restart pi-gateway-upstream"));
}

fn milliseconds(gaps: Vec<Duration>) -> impl Iterator<Item = f64> {
    gaps.into_iter().map(|gap| gap.as_secs_f64() * 1e3)
}

fn measure(table: &mut Table) {
    for (name, command) in hogs() {
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let neighbour = User::new("measured");
            alone.extend(milliseconds(paced(&neighbour, WORDS, PAUSE_MS, || {}).gaps));
            let user = User::new("hog");
            let (begin, begun) = mpsc::channel();
            let gaps = std::thread::scope(|scope| {
                let (user, command) = (&user, &command);
                scope.spawn(move || {
                    begun.recv().expect("the first word");
                    let id = user.start(&format!("[[bash {command}; exit 0]]"));
                    user.finished(&id)
                });
                paced(&neighbour, WORDS, PAUSE_MS, || begin.send(()).expect("the hog's thread")).gaps
            });
            beside.extend(milliseconds(gaps));
        }
        alone.sort_by(f64::total_cmp);
        let limit = 1.1 * quantile(&alone, 0.99);
        table.quantile(&format!("a neighbour's gaps beside the hog `{name}`: p99"), &mut beside, 0.99, "ms", limit);
    }
}
