//! What all threads of the soak know: what was done, what went wrong, and whether to pause.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// How long users may take to come to a pause: the longest run with its tries.
const PAUSE: Duration = Duration::from_secs(180);
/// Complaints that are kept and shown.
const KEPT: usize = 50;

/// A run that has ended, for the comparison with the upstream's log.
pub struct Ended {
    /// The prompt, which no other run has.
    pub prompt: String,
    /// Requests that the script makes, when nothing is tried again.
    pub requests: usize,
    /// Tries that pi told of.
    pub retries: usize,
    /// Whether it succeeded; of others the upstream may have seen less.
    pub succeeded: bool,
}

#[derive(Default)]
struct Gate {
    closed: bool,
    ended: bool,
    waiting: usize,
}

/// The state.
pub struct Shared {
    users: usize,
    gate: Mutex<Gate>,
    moved: Condvar,
    chaos: AtomicBool,
    /// Runs by how they ended.
    pub outcomes: Mutex<HashMap<String, u64>>,
    /// Runs that were accepted.
    pub accepted: AtomicU64,
    /// Streams that were resumed.
    pub resumes: AtomicU64,
    /// Events that were seen.
    pub events: AtomicU64,
    /// Kills and restarts.
    pub kills: AtomicU64,
    /// Runs that have ended since the last comparison.
    pub ended: Mutex<Vec<Ended>>,
    complaints: Mutex<Vec<String>>,
}

impl Shared {
    /// For so many users.
    pub fn new(users: usize) -> Self {
        Shared {
            users,
            gate: Mutex::default(),
            moved: Condvar::new(),
            chaos: AtomicBool::new(false),
            outcomes: Mutex::default(),
            accepted: AtomicU64::new(0),
            resumes: AtomicU64::new(0),
            events: AtomicU64::new(0),
            kills: AtomicU64::new(0),
            ended: Mutex::default(),
            complaints: Mutex::default(),
        }
    }

    /// Something that must not be.
    pub fn complain(&self, what: String) {
        let mut complaints = self.complaints.lock().unwrap();
        if complaints.len() < KEPT {
            eprintln!("WRONG: {what}");
        }
        complaints.push(what);
    }

    /// How many complaints there are.
    pub fn complaints(&self) -> usize {
        self.complaints.lock().unwrap().len()
    }

    /// Whether services are to be killed.
    pub fn set_chaos(&self, wanted: bool) {
        self.chaos.store(wanted, Ordering::SeqCst);
    }

    /// Whether services are to be killed.
    pub fn chaos(&self) -> bool {
        self.chaos.load(Ordering::SeqCst)
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.gate.lock().unwrap().ended
    }

    /// Waits until all users are between two runs.
    pub fn pause(&self) {
        let deadline = Instant::now() + PAUSE;
        let mut gate = self.gate.lock().unwrap();
        gate.closed = true;
        while gate.waiting < self.users {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let waiting = gate.waiting;
                drop(gate);
                self.complain(format!("{} users did not end their run within {PAUSE:?}", self.users - waiting));
                return;
            }
            gate = self.moved.wait_timeout(gate, left).unwrap().0;
        }
    }

    /// Lets users go on.
    pub fn go_on(&self) {
        self.gate.lock().unwrap().closed = false;
        self.moved.notify_all();
    }

    /// Lets users end.
    pub fn end(&self) {
        self.gate.lock().unwrap().ended = true;
        self.moved.notify_all();
    }

    /// A user between two runs; waits through a pause. False when it is over.
    pub fn next(&self) -> bool {
        let mut gate = self.gate.lock().unwrap();
        gate.waiting += 1;
        self.moved.notify_all();
        while gate.closed && !gate.ended {
            gate = self.moved.wait(gate).unwrap();
        }
        gate.waiting -= 1;
        !gate.ended
    }
}

/// Numbers that look random and are the same for the same seed.
pub struct Dice(u64);

impl Dice {
    /// For a seed and a player.
    pub fn new(seed: u64, player: u64) -> Self {
        Dice((seed << 20 | player << 1 | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// From 0 to below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}
