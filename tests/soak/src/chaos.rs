//! Kills the services, one at a time, and waits until the gateway is ready again.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pi_gateway_e2e::host::try_sh;
use pi_gateway_e2e::http::try_request;
use pi_gateway_e2e::points::{FRONT, LAUNCHER, RELAY};

use crate::shared::{Dice, Shared};

/// How long a service may take to be back.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is done to the services; a kill three times as often as a restart.
const DEEDS: [&str; 3] = [
    "kill -9 $(systemctl show -P MainPID UNIT)",
    "kill -9 $(systemctl show -P MainPID UNIT)",
    "systemctl restart UNIT",
];

/// Until it is over: something dies every two to six seconds, while that is wanted.
pub fn run(shared: &Shared, seed: u64) {
    let mut dice = Dice::new(seed, 1 << 18);
    while !shared.is_over() {
        std::thread::sleep(Duration::from_millis(2000 + dice.roll(4000)));
        if !shared.chaos() {
            continue;
        }
        let unit = [FRONT, LAUNCHER, RELAY][usize::try_from(dice.roll(3)).unwrap()];
        let deed = DEEDS[usize::try_from(dice.roll(3)).unwrap()].replace("UNIT", unit);
        let (done, told) = try_sh(&deed);
        if !done {
            shared.complain(format!("{deed}: {told}"));
        }
        shared.kills.fetch_add(1, Ordering::Relaxed);
        let deadline = Instant::now() + PATIENCE;
        while try_request("GET", "/health/ready", None, &[], None).is_none_or(|answer| answer.status != 200) {
            if Instant::now() > deadline {
                shared.complain(format!("not ready {PATIENCE:?} after {deed}"));
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
