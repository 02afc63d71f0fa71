//! What is said of each tenth, and of all of them together.
//!
//! The second tenth is what later ones are compared with: the fifth, at whose end the processes are as old as half of the
//! soak, and the last, after all the deaths. A figure has grown when it is above the second tenth's by more than a
//! quarter and by more than its tolerance; what must be the same at every pause may not differ at all.

use std::fmt;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use crate::machine::{Quiet, SERVICES, Sample};
use crate::shared::Shared;

/// Growth of memory that is let pass, in KiB: what an allocator keeps.
const MEMORY: f64 = 3072.0;
/// Growth of descriptors that is let pass: connections come and go.
const DESCRIPTORS: f64 = 12.0;

/// One tenth.
pub struct Tenth {
    number: u32,
    /// Medians while users were at work.
    busy: [(f64, f64); 3],
    quiet: Quiet,
    accepted: u64,
    resumes: u64,
    kills: u64,
    complaints: usize,
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

impl Tenth {
    /// What was seen in it.
    pub fn new(number: u32, samples: &[Sample], quiet: Quiet, shared: &Shared) -> Self {
        let busy = std::array::from_fn(|service| {
            let of = |pick: fn(&(f64, f64)) -> f64| median(samples.iter().map(|sample| pick(&sample.0[service])));
            (of(|both| both.0), of(|both| both.1))
        });
        Tenth {
            number,
            busy,
            quiet,
            accepted: shared.accepted.load(Ordering::SeqCst),
            resumes: shared.resumes.load(Ordering::SeqCst),
            kills: shared.kills.load(Ordering::SeqCst),
            complaints: shared.complaints(),
        }
    }
}

impl fmt::Display for Tenth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quiet = &self.quiet;
        write!(
            f,
            "{:>2}/10  runs {:>5}  resumes {:>5}  deaths {:>4} ",
            self.number, self.accepted, self.resumes, self.kills
        )?;
        for (index, name) in ["front", "launcher", "relay"].into_iter().enumerate() {
            let (memory, descriptors) = self.busy[index];
            let (still, open) = quiet.services[index];
            write!(f, " {name} {:.1}/{:.1} MiB {descriptors:.0}/{open:.0} fds ", memory / 1024.0, still / 1024.0)?;
        }
        write!(
            f,
            " units {}+{} cgroups {} /run {} unexplained {}  wrong {}",
            quiet.units, quiet.workers, quiet.cgroups, quiet.run_files, quiet.unexplained, self.complaints
        )
    }
}

fn grown(what: &str, before: f64, after: f64, tolerance: f64, shared: &Shared) {
    if after > before * 1.25 && after > before + tolerance {
        shared.complain(format!(
            "{what} has grown from {before:.0} to {after:.0} (a quarter and {tolerance:.0} let pass)"
        ));
    }
}

/// The verdict.
pub fn give(tenths: &[Tenth], shared: &Shared) -> ExitCode {
    let second = &tenths[1];
    for later in [&tenths[4], &tenths[9]] {
        for (index, service) in SERVICES.iter().enumerate() {
            let in_tenth = |what: &str| format!("{service}: {what}, tenth 2 to tenth {}", later.number);
            let (busy, still) = (second.busy[index], second.quiet.services[index]);
            let (later_busy, later_still) = (later.busy[index], later.quiet.services[index]);
            grown(&in_tenth("KiB of memory at work"), busy.0, later_busy.0, MEMORY, shared);
            grown(&in_tenth("KiB of memory at rest"), still.0, later_still.0, MEMORY, shared);
            grown(&in_tenth("descriptors at work"), busy.1, later_busy.1, DESCRIPTORS, shared);
            grown(&in_tenth("descriptors at rest"), still.1, later_still.1, DESCRIPTORS, shared);
        }
        let (before, after) = (&second.quiet, &later.quiet);
        for (what, before, after) in [
            ("units", before.units, after.units),
            ("cgroups", before.cgroups, after.cgroups),
            ("files below /run/pi-gateway", before.run_files, after.run_files),
            ("files that nothing explains", before.unexplained, after.unexplained),
        ] {
            if before != after {
                shared.complain(format!("{what}: {before} in tenth 2, {after} in tenth {}", later.number));
            }
        }
    }
    let mut outcomes: Vec<_> = shared.outcomes.lock().unwrap().clone().into_iter().collect();
    outcomes.sort();
    let outcomes: Vec<String> = outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    let count = |number: &std::sync::atomic::AtomicU64| number.load(Ordering::SeqCst);
    println!(
        "runs: {}; {} events, {} resumes, {} deaths and restarts",
        outcomes.join(", "),
        count(&shared.events),
        count(&shared.resumes),
        count(&shared.kills)
    );
    match shared.complaints() {
        0 => {
            println!("soak: nothing lost, nothing grown");
            ExitCode::SUCCESS
        }
        wrong => {
            println!("soak: FAILED, {wrong} things are wrong");
            ExitCode::FAILURE
        }
    }
}
