//! Points of a run at which something dies, and what must hold all the same.
//!
//! A [`Scene`] is one run that is under way, with a client that comes back. Points are reached by looking (at files,
//! cgroups and the log of events, without asking the gateway, which may be dead), never by time. Where a point is too
//! short for that, the moment is swept. [`Scene::survived`] holds what a client and the upstream may see; [`Left`] what
//! the machine may.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::host::{try_sh, until_ready, upstream_requests};
use crate::operator::{nothing, persistent};
use crate::{Event, User, sh, until};

/// The services, by what they are called in tests.
pub const FRONT: &str = "pi-gateway";
pub const LAUNCHER: &str = "pi-gateway-launcher";
pub const RELAY: &str = "pi-gateway-relay-model";

/// Where runs keep what a point is seen by.
const DATA: &str = "/var/lib/pi-gateway";
/// The longest a point may take to come.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked for.
const LOOK: Duration = Duration::from_micros(200);

/// A shell that holds its finger on the trigger: it knows the processes and kills them at a line of input, within a
/// millisecond.
pub struct Trigger {
    shell: Child,
    units: Vec<&'static str>,
    pids: Vec<String>,
}

impl Trigger {
    /// Aims at the main processes of some units. Forgets how often they were started, so that the limit of starts does
    /// not count what tests did to them.
    pub fn aim(units: &[&'static str]) -> Self {
        sh(&format!("systemctl reset-failed {}", units.join(" ")));
        let pids: Vec<String> = units.iter().map(|unit| sh(&format!("systemctl show -P MainPID {unit}"))).collect();
        assert!(pids.iter().all(|pid| pid != "0"), "one of {units:?} is not up: {pids:?}");
        let shell = Command::new("bash")
            .args(["-c", &format!("read && kill -KILL {}", pids.join(" "))])
            .stdin(Stdio::piped())
            .spawn()
            .expect("bash");
        Trigger { shell, units: units.to_vec(), pids }
    }

    /// Kills, with no chance to tidy up.
    pub fn pull(mut self) {
        self.shell.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(self.shell.wait().unwrap().success(), "{:?} could not be killed: dead already?", self.units);
    }

    /// Kills, and waits until all of them run again.
    pub fn pull_and_wait(self) {
        let (units, before) = (self.units.clone(), self.pids.clone());
        self.pull();
        until_up_again(&units, &before);
    }
}

fn until_up_again(units: &[&'static str], before: &[String]) {
    for (unit, before) in units.iter().zip(before) {
        until("the killed unit is up again", || {
            let shown = sh(&format!("systemctl show -p MainPID -p ActiveState {unit}"));
            (shown.contains("ActiveState=active") && !shown.contains(&format!("MainPID={before}\n"))).then_some(())
        });
    }
    until_ready();
}

/// One run under way.
pub struct Scene {
    pub user: User,
    pub run: String,
    pub prompt: String,
    client: Option<JoinHandle<Vec<Event>>>,
}

impl Scene {
    /// Starts a run with a prompt that no other run has, and a client that comes back until it has ended.
    pub fn begin(user: &User, what: &str, script: &str) -> Self {
        Self::begin_with(user, what, script, &nothing())
    }

    /// The same with more in the request's body than the prompt.
    pub fn begin_with(user: &User, what: &str, script: &str, more: &Value) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let prompt = format!("scene {} of {}: {what} {script}", COUNT.fetch_add(1, Ordering::Relaxed), user.name);
        let user = User { name: user.name.clone(), token: user.token.clone() };
        let mut body = more.clone();
        body["prompt"] = Value::from(prompt.as_str());
        let response = user.post("/runs", &[], &body);
        assert_eq!(response.status, 202, "{}", String::from_utf8_lossy(&response.body));
        let run = response.json()["id"].as_str().unwrap().to_owned();
        let client = {
            let (user, run) = (User { name: user.name.clone(), token: user.token.clone() }, run.clone());
            std::thread::spawn(move || persistent(&user, &run, |_, _| {}))
        };
        Scene { user, run, prompt, client: Some(client) }
    }

    /// Looks until something is so; fails after 20 s.
    pub fn reach<T>(&self, what: &str, mut look: impl FnMut(&Scene) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "the run never came to this point: {what}\n{}", self.story());
            std::thread::sleep(LOOK);
        }
    }

    fn file(&self, name: &str) -> String {
        format!("{DATA}/front/users/{}/runs/{}/{name}", self.user.name, self.run)
    }

    /// The run's record as it is on disk.
    pub fn record(&self) -> Value {
        let text = std::fs::read(self.file("run.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// How often an event is in the run's log.
    pub fn logged(&self, event: &str) -> usize {
        let text = std::fs::read_to_string(self.file("events")).unwrap_or_default();
        text.lines().filter(|line| line.strip_prefix("event: ") == Some(event)).count()
    }

    /// What pi has printed.
    pub fn printed(&self) -> String {
        let bytes = std::fs::read(format!("{DATA}/raw/{}/out", self.run)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether the run's input and output are there.
    pub fn has_files(&self) -> bool {
        std::path::Path::new(&format!("{DATA}/raw/{}/in", self.run)).exists()
    }

    /// Whether systemd knows the unit.
    pub fn has_unit(&self) -> bool {
        std::path::Path::new(&format!("/run/systemd/transient/{}", self.unit())).exists()
    }

    /// The unit of the user's agent.
    pub fn unit(&self) -> String {
        format!("pi-gateway-agent-{}.service", self.user.name)
    }

    /// The processes in the agent's cgroup.
    pub fn processes(&self) -> Vec<String> {
        let path = format!("pi.slice/pi-gateway.slice/{}/cgroup.procs", self.unit());
        let read = |root: &str| std::fs::read_to_string(format!("{root}/{path}")).ok();
        let text = read("/sys/fs/cgroup/unified").or_else(|| read("/sys/fs/cgroup")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Whether a process in the agent's cgroup is running a program of this name.
    pub fn runs(&self, program: &str) -> bool {
        let comm = |pid: &String| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        self.processes().iter().any(|pid| comm(pid).trim() == program)
    }

    /// Stops the agent's processes where they are; they go on when the gate is dropped.
    pub fn gate(&self) -> Gate {
        let pids = self.reach("the agent has a process", |scene| {
            let pids = scene.processes().join(" ");
            (!pids.is_empty() && try_sh(&format!("kill -STOP {pids}")).0).then_some(pids)
        });
        Gate(pids)
    }

    /// Cancels the run; gives the status of the answer.
    pub fn cancel(&self) -> u16 {
        self.user.post(&format!("/runs/{}/cancel", self.run), &[], &nothing()).status
    }

    /// Waits until the client that comes back has seen the end.
    pub fn finished(&mut self) -> Vec<Event> {
        let seen = self.client.take().expect("asked once").join();
        seen.unwrap_or_else(|_| panic!("the client did not see the end\n{}", self.story()))
    }

    /// What can be said of the run when something is wrong.
    pub fn story(&self) -> String {
        let journal = "journalctl -b --no-pager -o short-monotonic -n 60 -u 'pi-gateway*' | cut -c1-260";
        let prompt: String = self.prompt.chars().take(200).collect();
        format!(
            "{prompt}\n{}\nupstream: {}\n{}\n{}",
            self.record(),
            upstream_requests(&self.prompt).len(),
            try_sh(&format!("cut -c1-200 {} | grep ^event | uniq -c | tail -30", self.file("events"))).1,
            try_sh(journal).1
        )
    }

    /// Holds what a client and the upstream may see: the status and each event once (the client that comes back saw to
    /// it), the last event last and once, the answer's text as it was streamed, and the prompt at the upstream
    /// `requests` times and once more for each retry that pi told of, of which there may be `retries`.
    pub fn survived(&mut self, status: &str, requests: usize, retries: usize) -> Vec<Event> {
        let events = self.finished();
        let story = self.story();
        let count = |name: &str| events.iter().filter(|event| event.name == name).count();
        let last = events.last().unwrap();
        assert_eq!((last.name.as_str(), &last.data["status"]), ("run.finished", &Value::from(status)), "{story}");
        assert_eq!((count("run.finished"), count("run.finalizing")), (1, 1), "{story}");
        assert!(count("run.started") <= 1, "{story}");
        assert!(count("retry.scheduled") <= retries, "{story}");
        let shown = self.user.get(&format!("/runs/{}", self.run)).json();
        assert_eq!(shown["status"], status, "{story}");
        let seen = upstream_requests(&self.prompt).len();
        if status == "cancelled" {
            assert!(seen <= requests, "{seen} requests\n{story}");
            return events;
        }
        assert!((requests..=requests + count("retry.scheduled")).contains(&seen), "{seen} requests\n{story}");
        let message = events.iter().rfind(|event| event.name == "message.completed").expect("a message");
        let of_last = |event: &&Event| event.name == "text.delta" && event.data["message"] == message.data["message"];
        let text: String = events.iter().filter(of_last).map(|event| event.data["text"].as_str().unwrap()).collect();
        assert_eq!((&text, message.data["text"].as_str()), (&text, Some(text.as_str())), "{story}");
        assert_eq!(shown["output_text"].as_str(), Some(text.as_str()), "{story}");
        events
    }

    /// What every other run's prompt does not begin with.
    fn marker(&self) -> String {
        format!("{}:", self.prompt.split(':').next().unwrap())
    }

    /// Holds that the session goes on: the next run's model sees this run's prompt, once.
    pub fn continues(&self) {
        let next = self.user.run("[[recall]]");
        let recalled = next["output_text"].as_str().unwrap_or_default();
        assert_eq!(recalled.matches(&self.marker()).count(), 1, "{recalled}\n{next}\n{}", self.story());
    }
}

/// Processes that stand still.
pub struct Gate(String);

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = try_sh(&format!("kill -CONT {}", self.0));
    }
}

/// What is on the machine of runs. Taken when no run is active, it must be the same whenever none is.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Left(Vec<(&'static str, String)>);

impl Left {
    /// Looks for everything that a run could leave.
    pub fn look() -> Self {
        const SEARCHES: [(&str, &str); 13] = [
            (
                "units",
                "systemctl list-units --all --plain --no-legend 'pi-gateway-agent-*' 'run-*.service' | cut -c1-80",
            ),
            ("failed units", "systemctl list-units --state=failed --plain --no-legend 'pi-gateway*'"),
            ("jobs", "systemctl list-jobs --plain --no-legend 'pi-gateway*'"),
            ("transient units", "find /run/systemd/transient -name 'pi-gateway-agent-*'"),
            ("cgroups", "find /sys/fs/cgroup -type d -name 'pi-gateway-agent-*'"),
            ("processes", crate::host::USER_PROCESSES),
            ("processes of the start", "ps -eo args= | grep -E '^([^ ]*/)?systemd-run .*[p]i-gateway-agent' || true"),
            (
                "mounts",
                "cat /proc/1/mounts $(pgrep -x pi-gateway | sed 's,.*,/proc/&/mounts,') | awk '$2 ~ \"^/run/pi-gateway/root\" {print $2}'",
            ),
            ("raw output", "find /var/lib/pi-gateway/raw -mindepth 1"),
            ("active runs", "find /var/lib/pi-gateway/front/active -mindepth 1"),
            (
                "temporary files",
                "find /var/lib/pi-gateway /run/pi-gateway /run/userdb \\( -name '*.new' -o -name '*.tmp' -o -name '.tmp*' -o -name '*.lock' \\) -not -path '*/workspaces/*' -not -path '*/sessions/*'",
            ),
            ("sockets", "find /run/pi-gateway -type s; ls /run/credentials"),
            ("the relay's kept descriptors", "systemctl show -P NFileDescriptorStore pi-gateway-relay-model"),
        ];
        Left(SEARCHES.into_iter().map(|(what, search)| (what, sh(search))).collect())
    }

    /// Holds that it comes to be the same again.
    pub fn is_all_there_is(&self, scene: &Scene) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let now = Left::look();
            if now == *self {
                return;
            }
            if Instant::now() > deadline {
                let more: Vec<_> = now.0.iter().filter(|found| !self.0.contains(found)).collect();
                panic!("left over: {more:#?}\n{}", scene.story());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A point of a run.
pub struct Point {
    /// What the run is at.
    pub name: &'static str,
    /// The run's script.
    pub script: &'static str,
    /// Requests that the script makes the upstream see.
    pub requests: usize,
    /// Goes there; what it gives holds the run there until it is dropped.
    pub reach: fn(&Scene) -> Option<Gate>,
    /// Whether the user cancels on the way.
    pub cancelled: bool,
}

/// An answer that takes long enough to see where it is.
pub const WORDS: &str = "[[slow 30 10]]";
/// The same with a tool.
pub const TOOL: &str = "[[bash for i in 1 2 3; do echo $i; sleep 0.15; done]][[slow 10 10]]";
/// Its daemon takes the whole of systemd's patience to stop.
const STUBBORN: &str =
    "[[bash (setsid bash -c 'trap \"\" TERM HUP; while :; do sleep 0.1; done' >/dev/null 2>&1 &); echo up]]";

const fn at(name: &'static str, script: &'static str, requests: usize, reach: fn(&Scene) -> Option<Gate>) -> Point {
    Point { name, script, requests, reach, cancelled: false }
}

/// Waits for something that can be seen.
macro_rules! seen {
    ($what:expr, $scene:ident, $condition:expr) => {
        $scene.reach($what, |$scene| ($condition).then_some(()))
    };
}

/// The points, in the order of a run.
pub const POINTS: [Point; 19] = [
    at("accepted", WORDS, 1, |_| None),
    at("its files are there, its unit is not", WORDS, 1, |scene| {
        seen!("files", scene, scene.has_files());
        None
    }),
    at("systemd knows the unit", WORDS, 1, |scene| {
        seen!("unit", scene, scene.has_unit());
        None
    }),
    at("its first process", WORDS, 1, |scene| {
        seen!("a process", scene, !scene.processes().is_empty());
        None
    }),
    at("enter proves the sandbox", WORDS, 1, |scene| {
        seen!("enter", scene, scene.runs("pi-gateway-ente") || scene.runs("node"));
        None
    }),
    at("pi is loading, the prompt is not written", WORDS, 1, |scene| {
        seen!("pi", scene, scene.runs("node"));
        let gate = scene.gate();
        assert_eq!(scene.record()["prompt_written"], false);
        Some(gate)
    }),
    at("pi has answered for the first time", WORDS, 1, |scene| {
        seen!("an answer", scene, scene.printed().contains("\"state-"));
        None
    }),
    at("the prompt may be written", WORDS, 1, |scene| {
        seen!("the mark", scene, scene.record()["prompt_written"] == true);
        None
    }),
    at("the prompt is written and pi has not answered", WORDS, 1, |scene| {
        seen!("the mark", scene, scene.record()["prompt_written"] == true);
        Some(scene.gate())
    }),
    at("the prompt is taken", WORDS, 1, |scene| {
        seen!("run.started", scene, scene.logged("run.started") > 0);
        None
    }),
    at("the first words", WORDS, 1, |scene| {
        seen!("a delta", scene, scene.logged("text.delta") > 0);
        None
    }),
    at("in mid-stream", WORDS, 1, |scene| {
        seen!("ten deltas", scene, scene.logged("text.delta") > 9);
        None
    }),
    at("in a tool", TOOL, 2, |scene| {
        seen!("tool.started", scene, scene.logged("tool.started") > 0);
        None
    }),
    at("during a tool's output", TOOL, 2, |scene| {
        seen!("tool.output", scene, scene.logged("tool.output") > 0);
        None
    }),
    at("between two requests", TOOL, 2, |scene| {
        seen!("tool.completed", scene, scene.logged("tool.completed") > 0);
        None
    }),
    at("pi has settled", WORDS, 1, |scene| {
        seen!("agent_settled", scene, scene.printed().contains("agent_settled"));
        None
    }),
    at("its sandbox is being stopped", STUBBORN, 2, |scene| {
        seen!("finalizing", scene, scene.record()["run"]["status"] == "finalizing");
        seen!("pi is gone", scene, !scene.runs("node") && !scene.processes().is_empty());
        None
    }),
    Point {
        name: "during a cancel",
        script: "[[bash trap '' TERM HUP INT; while :; do sleep 0.1; done]]",
        requests: 1,
        reach: |scene| {
            seen!("tool.started", scene, scene.logged("tool.started") > 0);
            assert_eq!(scene.cancel(), 202);
            None
        },
        cancelled: true,
    },
    at("its record is complete", WORDS, 1, |scene| {
        seen!("a final record", scene, scene.record()["run"]["status"] == "succeeded");
        None
    }),
];

/// Kills units at each point of a run of its own, and holds everything each time. A relay's death may cost `retries`.
pub fn die_at_each_point(prefix: &str, units: &[&'static str], retries: usize) {
    until_ready();
    let user = User::new(prefix);
    assert_eq!(user.run("hello")["status"], "succeeded");
    let clean = Left::look();
    let mut before: Option<Scene> = None;
    for point in &POINTS {
        eprintln!("killing {units:?}: {}", point.name);
        let trigger = Trigger::aim(units);
        // The model tells what it was asked earlier: the session has gone on, with the run before in it once.
        let mut scene = Scene::begin(&user, point.name, &format!("[[recall]]{}", point.script));
        let gate = (point.reach)(&scene);
        trigger.pull_and_wait();
        drop(gate);
        let events = scene.survived(if point.cancelled { "cancelled" } else { "succeeded" }, point.requests, retries);
        if let Some(before) = before {
            let told =
                |event: &Event| event.data["text"].as_str().unwrap_or_default().matches(&before.marker()).count();
            let most = events.iter().filter(|event| event.name == "message.completed").map(told).max();
            assert_eq!(most, Some(1), "{events:?}");
        }
        clean.is_all_there_is(&scene);
        before = Some(scene);
    }
    before.expect("a last one").continues();
}

/// Kills units at moments that are swept over a whole run, `count` of them, and holds everything each time.
pub fn die_at_any_moment(prefix: &str, units: &[&'static str], count: u32, retries: usize) {
    until_ready();
    let user = User::new(prefix);
    let started = Instant::now();
    assert_eq!(user.run(TOOL)["status"], "succeeded");
    let whole = started.elapsed();
    let clean = Left::look();
    for number in 0..count {
        let moment = whole * number / count;
        eprintln!("killing {units:?} {moment:?} after the run was accepted");
        let trigger = Trigger::aim(units);
        let mut scene = Scene::begin(&user, "a swept moment", TOOL);
        std::thread::sleep(moment);
        trigger.pull_and_wait();
        scene.survived("succeeded", 2, retries);
        clean.is_all_there_is(&scene);
        if number + 1 == count {
            scene.continues();
        }
    }
}

/// Kills units while a prompt of 5 MB is on its way through a FIFO that holds 64 KiB of it.
pub fn die_while_a_large_prompt_is_written(prefix: &str, units: &[&'static str]) {
    until_ready();
    let clean = Left::look();
    let user = User::new(prefix);
    let trigger = Trigger::aim(units);
    let mut scene = Scene::begin(&user, "a large prompt", &format!("{}[[say read it all]]", "x".repeat(5 << 20)));
    scene.reach("the mark", |scene| (scene.record()["prompt_written"] == true).then_some(()));
    let gate = scene.gate();
    assert_eq!(scene.logged("run.started"), 0, "pi cannot have taken all of it yet");
    trigger.pull_and_wait();
    drop(gate);
    scene.survived("succeeded", 1, 0);
    assert_eq!(user.get(&format!("/runs/{}", scene.run)).json()["output_text"], "read it all");
    scene.continues();
    clean.is_all_there_is(&scene);
}
