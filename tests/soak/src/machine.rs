//! What the services and their runs take of the machine.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pi_gateway_e2e::host::try_sh;
use pi_gateway_e2e::points::{FRONT, LAUNCHER, Left, RELAY};
use pi_gateway_e2e::sh;
use serde_json::Value;

use crate::shared::Shared;

/// The services that are watched.
pub const SERVICES: [&str; 3] = [FRONT, LAUNCHER, RELAY];
/// How long what a run leaves may take to go after its last event.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a worker may stay after its last question, with time to go.
const WORKERS: Duration = Duration::from_secs(120);

/// Memory in KiB and descriptors of each service's main process at one moment.
pub struct Sample(pub [(f64, f64); 3]);

impl Sample {
    /// Looks; None while one of them is not there.
    pub fn take() -> Option<Self> {
        let pids = try_sh(&format!("systemctl show -P MainPID {}", SERVICES.join(" "))).1;
        let mut all = [(0.0, 0.0); 3];
        let pids: Vec<&str> = pids.split_whitespace().collect();
        if pids.len() != 3 {
            return None;
        }
        for (slot, pid) in all.iter_mut().zip(pids) {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
            let memory = anonymous.trim().trim_end_matches(" kB").parse().ok()?;
            #[allow(clippy::cast_precision_loss)]
            let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as f64;
            *slot = (memory, descriptors);
        }
        Some(Sample(all))
    }
}

/// What is there while no run is active.
#[derive(Default)]
pub struct Quiet {
    /// Memory and descriptors of the services.
    pub services: [(f64, f64); 3],
    /// Units of ours that are not workers.
    pub units: usize,
    /// Workers, which stay for a minute.
    pub workers: usize,
    /// Cgroups of ours that are not workers'.
    pub cgroups: usize,
    /// Files below `/run/pi-gateway`.
    pub run_files: usize,
    /// Files below `/var/lib/pi-gateway` that no record explains, workspaces and sessions included.
    pub unexplained: usize,
}

fn count(command: &str) -> usize {
    sh(command).lines().filter(|line| !line.is_empty()).count()
}

impl Quiet {
    /// Waits until nothing of runs is left, then counts.
    pub fn look(shared: &Shared) -> Self {
        // Every one of these finds something while a run is active (serial_what_is_left.rs).
        let nothing = [
            "systemctl list-units --all --plain --no-legend 'pi-gateway-agent-*'",
            "systemctl list-units --state=failed --plain --no-legend 'pi-gateway*'",
            "find /run/systemd/transient -name 'pi-gateway-agent-*'",
            "find /sys/fs/cgroup -type d -name 'pi-gateway-agent-*'",
            "find /var/lib/pi-gateway/raw /var/lib/pi-gateway/front/active -mindepth 1",
            "find /var/lib/pi-gateway /run/pi-gateway /run/userdb \\( -name '*.new' -o -name '*.tmp' -o -name '.tmp*' -o \
             -name '*.lock' \\) -not -path '*/workspaces/*' -not -path '*/sessions/*'",
            "ps -eo uid=,args= | awk '$1 >= 1879048193' | grep -v pi-gateway-worker || true",
        ];
        for search in nothing {
            let deadline = Instant::now() + PATIENCE;
            let mut found = sh(search);
            while !found.is_empty() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(100));
                found = sh(search);
            }
            if !found.is_empty() {
                shared.complain(format!("left over while no run is active: {search}\n{found}"));
            }
        }
        let deadline = Instant::now() + PATIENCE;
        let services = loop {
            if let Some(sample) = Sample::take() {
                break sample.0;
            }
            if Instant::now() > deadline {
                shared.complain("a service is not there".to_owned());
                break Default::default();
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        let workers = count("systemctl list-units --all --plain --no-legend 'pi-gateway-worker-*'");
        let runs = count("find /var/lib/pi-gateway/front/users -mindepth 3 -maxdepth 3 -path '*/runs/*'");
        let accepted = usize::try_from(shared.accepted.load(Ordering::SeqCst)).unwrap();
        if runs != accepted {
            shared.complain(format!("{accepted} runs were accepted, {runs} are on disk"));
        }
        let counted = count("find /var/lib/pi-gateway/usage -type f");
        if counted > runs {
            shared.complain(format!("{runs} runs are on disk, {counted} are in the usage"));
        }
        // A run has three files or four and its key; a user has a session, what is known of his
        // repository, and what he wrote himself.
        let explained = "find /var/lib/pi-gateway -type f -not -path '*/workspaces/*' -not -regex \
            '.*/front/users/[^/]*/runs/[^/]*/\\(request.json\\|run.json\\|events\\|cancel\\)' -not -regex \
            '.*/front/users/[^/]*/\\(git.json\\|idempotency/[0-9a-f]*\\)' -not -regex '.*/sessions/[^/]*/session.jsonl' \
            -not -path '*/usage/*' -printf '%P\\n'";
        Quiet {
            services,
            units: count("systemctl list-units --all --plain --no-legend 'pi-gateway*' | grep -v pi-gateway-worker"),
            workers,
            cgroups: count("find /sys/fs/cgroup -type d -name 'pi-gateway*' | grep -v pi-gateway-worker"),
            run_files: count("find /run/pi-gateway | grep -v /worker/"),
            unexplained: count(explained),
        }
    }
}

/// The files workers with their ages in seconds.
const WORKING: &str = "ps -eo uid=,pid=,etimes=,args= | grep 'pi-gateway-worker files$' || true";

/// Waits until the machine is as it was before the first run, idle workers included.
pub fn until_left(left: &Left, shared: &Shared) {
    let deadline = Instant::now() + WORKERS;
    loop {
        let workers = sh(WORKING);
        if Left::look() == *left && workers.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            shared.complain(format!("not as it was before: {left:?}\nnow {:?}\n{workers}", Left::look()));
            // Whether the front knows of them, and what it waits for.
            for question in [
                "ss -xp | grep worker.sock; date",
                "cd /proc/$(systemctl show -P MainPID pi-gateway); grep . task/*/wchan task/*/syscall; ls -l fd",
                "systemctl list-units --all 'pi-gateway-*'; curl -sS -m 5 http://127.0.0.1:8787/health/ready",
            ] {
                println!("{question}\n{}", try_sh(question).1);
            }
            return;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The upstream's log, read on from where the last look ended.
#[derive(Default)]
pub struct Upstream {
    position: u64,
    counts: HashMap<String, usize>,
}

impl Upstream {
    /// Every prompt that succeeded arrived as often as its script says, and once more for each try that pi told of.
    pub fn compare(&mut self, shared: &Shared) {
        let mut file = File::open("/var/lib/private/pi-gateway-upstream/log").expect("the upstream's log");
        file.seek(SeekFrom::Start(self.position)).expect("a position");
        let mut reader = BufReader::new(file);
        let mut line = String::new();
        while reader.read_line(&mut line).expect("a line") > 0 && line.ends_with('\n') {
            self.position += line.len() as u64;
            let value: Value = serde_json::from_str(&line).unwrap_or_default();
            if let (Some(prompt), true) = (value["last_user"].as_str(), value.get("method").is_some()) {
                *self.counts.entry(prompt.to_owned()).or_default() += 1;
            }
            line.clear();
        }
        for ended in shared.ended.lock().unwrap().drain(..) {
            let times = self.counts.remove(&ended.prompt).unwrap_or(0);
            let least = if ended.succeeded { ended.requests } else { 0 };
            if !(least..=ended.requests + ended.retries).contains(&times) {
                let (requests, retries) = (ended.requests, ended.retries);
                let prompt = ended.prompt;
                shared.complain(format!(
                    "{times} requests at the upstream, not {requests} + {retries} retries: {prompt}"
                ));
            }
        }
    }
}
