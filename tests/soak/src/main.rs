//! `make soak`: users start, follow, resume, cancel and read for `SOAK_SECONDS`, and in the second half the front, the
//! launcher and the model relay are killed all the time. Runs in the test host; exits with 1 when anything was lost or
//! has grown.
//!
//! The first half kills nothing, so that processes grow old and a leak shows; the second half shows what outlives them.
//! At the end of each tenth the users pause: then everything that is on the machine must be explained by records.

mod chaos;
mod machine;
mod shared;
mod user;
mod verdict;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pi_gateway_e2e::host::until_ready;
use pi_gateway_e2e::points::Left;
use pi_gateway_e2e::testhost;

use shared::Shared;
use verdict::Tenth;

/// Parts of the time that are looked at one by one.
const PARTS: u32 = 10;

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name).as_deref() {
        Ok("") | Err(_) => default,
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number: {text}")),
    }
}

fn main() -> ExitCode {
    testhost();
    until_ready();
    let length = Duration::from_secs(number("SOAK_SECONDS", 3600));
    let users = usize::try_from(number("SOAK_USERS", 20)).unwrap();
    let seed = number("SOAK_SEED", 1);
    println!("soak: {users} users for {} s, seed {seed}", length.as_secs());
    let shared = Arc::new(Shared::new(users));
    let left = Left::look();
    let threads: Vec<_> = (0..users)
        .map(|index| {
            let shared = shared.clone();
            std::thread::spawn(move || user::User::new(index, seed, shared).live())
        })
        .collect();
    let killer = {
        let shared = shared.clone();
        std::thread::spawn(move || chaos::run(&shared, seed))
    };
    let part = length / PARTS;
    let (mut tenths, mut upstream) = (Vec::new(), machine::Upstream::default());
    for number in 1..=PARTS {
        shared.set_chaos(number > PARTS / 2);
        // The pauses come on top.
        let until = Instant::now() + part;
        let pause = (part / 60).clamp(Duration::from_millis(500), Duration::from_secs(5));
        let mut samples = Vec::new();
        while Instant::now() < until {
            samples.extend(machine::Sample::take());
            std::thread::sleep(pause.min(until.saturating_duration_since(Instant::now())));
        }
        shared.set_chaos(false);
        shared.pause();
        let quiet = machine::Quiet::look(&shared);
        upstream.compare(&shared);
        let tenth = Tenth::new(number, &samples, quiet, &shared);
        println!("{tenth}");
        tenths.push(tenth);
        if number < PARTS {
            shared.go_on();
        }
    }
    shared.end();
    for thread in threads {
        if thread.join().is_err() {
            shared.complain("a user's thread has panicked".to_owned());
        }
    }
    let _ = killer.join();
    // Workers stay for a minute; then the machine is as it was.
    machine::until_left(&left, &shared);
    verdict::give(&tenths, &shared)
}
