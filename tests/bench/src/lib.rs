//! What the bench and its fake pi have in common: a clock and a text.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`, which is the same inside a sandbox and outside.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the clock");
    u64::try_from(time.tv_sec()).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap()
}

/// The text of the flood's line `number`.
pub fn word(number: usize) -> String {
    format!("w{number:07} ")
}
