//! Agents that take all they can get: the limit bites, the run ends by its own code or goes on, nothing is left, the
//! next run works, and a neighbour's run goes on beside it.

use std::sync::mpsc;
use std::time::Duration;

use pi_gateway_e2e::attack::{outside, place};
use pi_gateway_e2e::host::{try_sh, uid_of};
use pi_gateway_e2e::neighbour::paced;
use pi_gateway_e2e::operator::{Restore, fact, nothing};
use pi_gateway_e2e::{User, sh, testhost, until};
use serde_json::Value;

const HOG: &str = include_str!("../attacks/hog.py");
/// Far more than a busy machine takes between two words, and far less than one that has lost a wall.
const NOTICED: Duration = Duration::from_secs(5);
const SPIN: &str =
    "for n in 1 2 3 4 5 6 7 8; do timeout -s KILL 6 bash -c 'while :; do :; done' & done; wait; echo spun=yes";

fn hog(what: &str) -> String {
    format!("/usr/bin/python3 {} {what} 2>/dev/null", place("hog.py", HOG))
}

/// Runs a command by the bash tool of one user beside a paced run of another; gives what the tool printed, None when it
/// did not come to its end, and the run.
fn beside(command: &str) -> (Option<String>, Value) {
    let (user, neighbour) = (User::new("hog"), User::new("neighbour"));
    let (begin, begun) = mpsc::channel();
    let told = std::thread::scope(|scope| {
        let user = &user;
        let hog = scope.spawn(move || {
            begun.recv().unwrap();
            let id = user.start(&format!("[[bash {command}; exit 0]][[say done]]"));
            let tool = user.stream(&id, None).find(|event| event.name == "tool.completed");
            (tool.map(|event| event.data["output"].as_str().unwrap().to_owned()), user.finished(&id))
        });
        let seen = paced(&neighbour, 150, 40, || begin.send(()).unwrap());
        assert_eq!(seen.status, "succeeded", "the neighbour's run");
        println!("the neighbour's gaps: median {:?}, p99 {:?}", seen.median(), seen.p99());
        assert!(seen.p99() < NOTICED, "the neighbour noticed: {:?}", seen.p99());
        hog.join().unwrap()
    });
    nothing_left(&user);
    assert_eq!(user.run("and again")["status"], "succeeded");
    told
}

fn nothing_left(user: &User) {
    let (unit, uid) = (format!("pi-gateway-agent-{}", user.name), uid_of(&user.name));
    until("no process, cgroup or unit is left", || {
        let processes = try_sh(&format!("pgrep -u {uid}")).0;
        let cgroups = sh(&format!("find /sys/fs/cgroup -type d -name '{unit}.service'"));
        let units = sh(&format!("systemctl list-units --all --plain --no-legend '{unit}*'"));
        (!processes && cgroups.is_empty() && units.is_empty()).then_some(())
    });
}

fn number(facts: &str, name: &str) -> u64 {
    // A fact may be told many times; the last counts.
    let last = facts.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).next_back();
    last.unwrap_or_else(|| panic!("{name} is not in {facts}")).trim().parse().unwrap()
}

#[test]
fn a_memory_hog_is_ended_at_its_limit() {
    testhost();
    let control = outside("", &format!("bash -c '{}'", hog("memory 1500")));
    assert_eq!((number(&control, "mib"), fact(&control, "stopped")), (1504, "nothing"), "outside");
    let (told, run) = beside(&format!("{} | tail -n 1", hog("memory")));
    println!("{told:?} {run}");
    match run["status"].as_str().unwrap() {
        // Where the kernel ends one process, that is the tool's.
        "succeeded" => {
            let mib = number(&told.unwrap(), "mib");
            assert!((500..1024).contains(&mib), "it got {mib} MiB of 1 GiB");
        }
        // Where systemd learns of it, it ends all of the sandbox.
        _ => assert!(["out_of_memory", "agent_killed"].contains(&run["error"]["code"].as_str().unwrap()), "{run}"),
    }
}

#[test]
fn memory_that_no_process_holds_ends_the_agent_with_a_code_of_its_own() {
    testhost();
    let (told, run) = beside(&hog("shm"));
    println!("{told:?} {run}");
    assert_eq!(run["status"], "failed", "{run}");
    assert!(["out_of_memory", "agent_killed"].contains(&run["error"]["code"].as_str().unwrap()), "{run}");
}

#[test]
fn a_fork_bomb_stops_at_its_limit_and_is_gone_with_the_run() {
    testhost();
    let control = outside("-p TasksMax=2000 -p KillSignal=SIGKILL", &format!("bash -c '{}'", hog("forks 400")));
    assert_eq!((number(&control, "forked"), fact(&control, "stopped")), (400, "nothing"), "outside");
    let (told, run) = beside(&hog("forks"));
    let told = told.unwrap();
    assert_eq!(fact(&told, "stopped"), "EAGAIN", "{told}");
    assert!((100..256).contains(&number(&told, "forked")), "{told}");
    println!("{told} {}", run["status"]);
    assert_eq!(run["status"], "succeeded", "{run}");
}

#[test]
fn a_bomb_that_goes_on_forking_is_ended_by_a_cancel() {
    testhost();
    let user = User::new("bomb");
    let id = user.start("[[bash bomb() { bomb | bomb & }; bomb; sleep 300]]");
    user.stream(&id, None).find(|event| event.name == "tool.started").unwrap();
    let uid = uid_of(&user.name);
    until("the limit is reached", || {
        (sh(&format!("ps -L -o pid= -u {uid} | wc -l")).parse::<u32>().unwrap() > 200).then_some(())
    });
    let other = User::new("unmoved");
    assert_eq!(other.run("hello")["status"], "succeeded");
    user.post(&format!("/runs/{id}/cancel"), &[], &nothing());
    assert_eq!(user.finished(&id)["status"], "cancelled");
    nothing_left(&user);
    assert_eq!(user.run("and again")["status"], "succeeded");
}

#[test]
fn a_spinner_on_all_processors_is_held_to_its_quota() {
    testhost();
    let _restore = Restore::new();
    let (told, run) = beside(SPIN);
    assert_eq!((fact(&told.unwrap(), "spun"), &run["status"]), ("yes", &Value::from("succeeded")));
    // With a fifth of a processor, so that it bites on any machine: the kernel counts how often the sandbox had to wait.
    sh("echo SANDBOX_CPU_QUOTA=20% >> /etc/pi-gateway/gateway.env; systemctl restart pi-gateway-launcher");
    let user = User::new("throttled");
    let id = user.start(&format!("[[bash {SPIN}]]"));
    let unit = format!("pi-gateway-agent-{}.service", user.name);
    let waits = until("the spinner has to wait", || {
        let counts =
            try_sh(&format!("find /sys/fs/cgroup -path '*{unit}/cpu.stat' -exec grep -h nr_throttled {{}} +")).1;
        let counts = counts.split_whitespace().filter_map(|word| word.parse::<u32>().ok());
        counts.max().filter(|count| *count >= 3)
    });
    println!("it had to wait {waits} times");
    assert_eq!(user.finished(&id)["status"], "succeeded");
    nothing_left(&user);
}

#[test]
fn a_full_tmp_is_an_error_of_the_tool() {
    testhost();
    let control = outside("", &format!("bash -c '{}; rm /tmp/hog'", hog("fill /tmp/hog 600")));
    assert_eq!(fact(&control, "stopped"), "nothing", "outside");
    for (path, size) in [("/tmp/hog", 512), ("/var/tmp/hog", 128), ("/agent/hog", 16)] {
        let (told, run) = beside(&hog(&format!("fill {path} 600")));
        let told = told.unwrap();
        assert_eq!(fact(&told, "stopped"), "ENOSPC", "{path}: {told}");
        assert!((size - 2..=size).contains(&number(&told, "mib")), "{path}: {told}");
        assert_eq!(run["status"], "succeeded", "{run}");
    }
}

#[test]
fn a_tool_that_prints_more_than_tmp_holds_ends_its_run_as_disk_full() {
    testhost();
    let (_, run) = beside("yes | head -c 700M");
    assert_eq!((run["status"].as_str(), run["error"]["code"].as_str()), (Some("failed"), Some("disk_full")), "{run}");
}

#[test]
fn a_file_of_a_tebibyte_is_an_error_of_the_tool() {
    testhost();
    let control = outside("", &format!("bash -c '{}'", hog("files /var/lib/tebibyte")));
    assert_eq!((fact(&control, "sparse"), fact(&control, "beyond")), ("nothing", "nothing"), "{control}");
    let (told, run) = beside(&hog("files /workspace/tebibyte"));
    let told = told.unwrap();
    for way in ["sparse", "seek", "fallocate", "beyond"] {
        assert_eq!(fact(&told, way), "EFBIG", "{told}");
    }
    assert_eq!((fact(&told, "last"), number(&told, "size")), ("nothing", 4 << 30), "{told}");
    assert_eq!(run["status"], "succeeded", "{run}");
}

#[test]
fn a_million_files_stop_at_the_limit_of_tmp() {
    testhost();
    let control = outside("", &format!("bash -c '{}; rm -r /tmp/many'", hog("inodes /tmp/many 70000")));
    assert_eq!(fact(&control, "stopped"), "nothing", "outside");
    let (told, run) = beside(&hog("inodes /tmp/many 1000000"));
    let told = told.unwrap();
    assert_eq!(fact(&told, "stopped"), "ENOSPC", "{told}");
    assert!((60_000..65_536).contains(&number(&told, "files")), "{told}");
    assert_eq!(run["status"], "succeeded", "{run}");
}
