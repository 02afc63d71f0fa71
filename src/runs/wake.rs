//! Wakes a run's driver when its agent has printed something or its cgroup has become empty.
//!
//! inotify reports both: the kernel notifies `cgroup.events` like a modified file. A bounded poll stands behind it, so a
//! lost notification costs half a second, never a hang.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};

/// The longest a wait lasts when nothing is notified.
const POLL: Duration = Duration::from_millis(500);

/// The cgroup of an agent's unit, seen from outside.
pub struct UnitCgroup {
    events: PathBuf,
}

impl UnitCgroup {
    /// The cgroup of the unit called `unit` in `pi-gateway.slice`, on a unified or a hybrid hierarchy.
    pub fn of(unit: &str) -> Self {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
        let root = roots.iter().find(|root| Path::new(root).join("cgroup.controllers").exists()).unwrap_or(&roots[0]);
        // A dash in a slice's name is a level: pi-gateway.slice lies in pi.slice.
        let events = Path::new(root).join("pi.slice/pi-gateway.slice").join(unit).join("cgroup.events");
        UnitCgroup { events }
    }

    /// Whether any process is left in it. A cgroup that is not there has none.
    pub fn is_populated(&self) -> bool {
        fs::read_to_string(&self.events).is_ok_and(|text| text.lines().any(|line| line == "populated 1"))
    }
}

/// What a driver waits on.
pub struct Wake {
    events: EventStream<[u8; 1024]>,
}

impl Wake {
    /// Watches the output file and the cgroup (which may be gone already).
    ///
    /// # Errors
    /// When the kernel has no more watches to give, or the output is not there.
    pub fn new(output: &Path, cgroup: &UnitCgroup) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        inotify.watches().add(output, WatchMask::MODIFY)?;
        match inotify.watches().add(&cgroup.events, WatchMask::MODIFY) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Wake { events: inotify.into_event_stream([0; 1024])? })
    }

    /// Waits for a notification, at most half a second.
    pub async fn wait(&mut self) {
        // Whatever came, or that nothing came: the caller looks at both files.
        let _ = tokio::time::timeout(POLL, self.events.next()).await;
    }
}
