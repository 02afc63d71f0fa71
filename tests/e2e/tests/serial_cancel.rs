//! Cancel and time-out: to the last process, within their time, at every point of a run, and whatever dies meanwhile.

use std::time::{Duration, Instant};

use pi_gateway_e2e::host::until_ready;
use pi_gateway_e2e::operator::{FILE, Restore};
use pi_gateway_e2e::points::{FRONT, LAUNCHER, Left, POINTS, Scene, TOOL, Trigger, WORDS};
use pi_gateway_e2e::{User, sh, testhost};

/// RUN_CANCEL_GRACE_MS, which these tests leave at its default.
const GRACE: Duration = Duration::from_secs(5);
/// What comes on top of it: systemd's own patience with what ignores SIGTERM (TimeoutStopSec=2s), and 3 s for the
/// requests to launcher and systemd on a busy machine.
const MARGIN: Duration = Duration::from_secs(5);
/// Two daemons, forked twice, in sessions of their own, that ignore what is asked of them; the tool itself does too.
const DAEMONS: &str = "[[bash trap '' TERM HUP INT; for i in 1 2; do (setsid bash -c 'trap \"\" TERM HUP INT; exec -a \
     daemon sleep 300' >/dev/null 2>&1 &); done; echo up; sleep 300]]";

/// Waits until the agent's daemons are there: the control that shows what is to be ended.
fn until_daemons(scene: &Scene) {
    scene.reach("the daemons are up", |scene| {
        let named = |pid: &String| {
            std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with("daemon\0"))
        };
        (scene.processes().iter().filter(|pid| named(pid)).count() == 2).then_some(())
    });
    scene.reach("the tool's output", |scene| (scene.logged("tool.output") > 0).then_some(()));
}

/// Waits until the agent's cgroup is empty; gives how long that took.
fn until_empty(scene: &Scene, since: Instant) -> Duration {
    scene.reach("the last process is gone", |scene| scene.processes().is_empty().then_some(()));
    since.elapsed()
}

#[test]
fn a_cancelled_tool_with_daemons_that_ignore_signals_is_gone_to_the_last_process_and_the_session_stays() {
    testhost();
    until_ready();
    let clean = Left::look();
    let user = User::new("daemons");
    let mut scene = Scene::begin(&user, "daemons", DAEMONS);
    until_daemons(&scene);
    let since = Instant::now();
    assert_eq!(scene.cancel(), 202);
    let took = until_empty(&scene, since);
    assert!(took <= GRACE + MARGIN, "{took:?}");
    eprintln!("cancelled daemons were gone after {took:?}");
    scene.survived("cancelled", 1, 0);
    assert_eq!(scene.cancel(), 200, "again");
    scene.continues();
    clean.is_all_there_is(&scene);
}

#[test]
fn a_cancelled_stream_ends_at_once_and_an_agent_that_stands_still_after_the_grace_period() {
    testhost();
    until_ready();
    let user = User::new("still");
    let mut scene = Scene::begin(&user, "a stream", "[[slow 2000 20]]");
    scene.reach("words", |scene| (scene.logged("text.delta") > 3).then_some(()));
    assert_eq!(scene.cancel(), 202);
    scene.survived("cancelled", 1, 0);
    scene.continues();
    let mut scene = Scene::begin(&user, "standing still", "[[slow 2000 20]]");
    scene.reach("words", |scene| (scene.logged("text.delta") > 3).then_some(()));
    let gate = scene.gate();
    let since = Instant::now();
    assert_eq!((scene.cancel(), scene.cancel()), (202, 202), "twice");
    let took = until_empty(&scene, since);
    assert!(took <= GRACE + MARGIN, "{took:?}");
    drop(gate);
    scene.survived("cancelled", 1, 0);
    scene.continues();
}

#[test]
fn a_run_past_its_time_is_gone_to_the_last_process_and_has_its_own_code() {
    testhost();
    let _restore = Restore::new();
    let limit = Duration::from_secs(8);
    sh(&format!("sed -i '/^RUN_TIMEOUT_MS=/d' {FILE}; echo RUN_TIMEOUT_MS={} >>{FILE}", limit.as_millis()));
    sh("systemctl restart pi-gateway-launcher pi-gateway");
    until_ready();
    let clean = Left::look();
    let user = User::new("late");
    for (what, trigger) in [("alone", None), ("over the death of the front", Some(()))] {
        let since = Instant::now();
        let mut scene = Scene::begin(&user, what, DAEMONS);
        until_daemons(&scene);
        if trigger.is_some() {
            Trigger::aim(&[FRONT]).pull_and_wait();
        }
        let took = until_empty(&scene, since);
        assert!(took <= limit + GRACE + MARGIN, "{took:?}");
        eprintln!("daemons past their time were gone after {took:?}");
        let events = scene.finished();
        let last = events.last().unwrap();
        assert_eq!((&last.data["status"], &last.data["error"]["code"]), (&"failed".into(), &"timeout".into()));
        scene.continues();
        clean.is_all_there_is(&scene);
    }
}

#[test]
fn a_run_can_be_cancelled_at_each_of_its_points_and_the_next_begins_at_once() {
    testhost();
    until_ready();
    let user = User::new("anywhere");
    assert_eq!(user.run("hello")["status"], "succeeded");
    let clean = Left::look();
    for point in POINTS.iter().filter(|point| !point.cancelled) {
        eprintln!("cancelling: {}", point.name);
        let mut scene = Scene::begin(&user, point.name, point.script);
        let gate = (point.reach)(&scene);
        let answer = scene.cancel();
        drop(gate);
        let events = scene.finished();
        let status = events.last().unwrap().data["status"].as_str().unwrap().to_owned();
        // What had its verdict already keeps it.
        let decided = answer == 200 || ["pi has settled", "its sandbox is being stopped"].contains(&point.name);
        let allowed: &[&str] = if decided { &["succeeded", "cancelled"] } else { &["cancelled"] };
        let short = point.name == "its record is complete" && status == "succeeded";
        assert!(short || allowed.contains(&status.as_str()), "{status}\n{}", scene.story());
        assert_eq!(events.iter().filter(|event| event.name == "run.finished").count(), 1);
    }
    let mut scene = Scene::begin(&user, "afterwards", WORDS);
    scene.survived("succeeded", 1, 0);
    clean.is_all_there_is(&scene);
}

#[test]
fn a_cancel_at_any_moment_is_answered_and_ends_the_run_once() {
    testhost();
    until_ready();
    let user = User::new("anytime");
    let started = Instant::now();
    assert_eq!(user.run(TOOL)["status"], "succeeded");
    let whole = started.elapsed();
    let clean = Left::look();
    for number in 0..16 {
        let mut scene = Scene::begin(&user, "a swept cancel", TOOL);
        std::thread::sleep(whole * number / 14);
        let answer = scene.cancel();
        let events = scene.finished();
        let status = events.last().unwrap().data["status"].as_str().unwrap().to_owned();
        assert!(["cancelled", "succeeded"].contains(&status.as_str()), "{status}\n{}", scene.story());
        assert!([200, 202].contains(&answer), "{answer}");
        if number == 15 {
            clean.is_all_there_is(&scene);
        }
    }
}

#[test]
fn a_cancel_that_was_answered_outlives_the_front_also_before_the_agent_is_up() {
    testhost();
    until_ready();
    let user = User::new("kept");
    let clean = Left::look();
    for waits in ["the launcher", "pi"] {
        let trigger = Trigger::aim(&[FRONT]);
        let launcher = sh(&format!("systemctl show -P MainPID {LAUNCHER}"));
        if waits == "the launcher" {
            sh(&format!("kill -STOP {launcher}"));
        }
        let mut scene = Scene::begin(&user, &format!("cancelled while it waits for {waits}"), WORDS);
        let gate = (waits == "pi").then(|| {
            scene.reach("pi", |scene| scene.runs("node").then_some(()));
            scene.gate()
        });
        let answer = scene.cancel();
        trigger.pull();
        sh(&format!("kill -CONT {launcher}"));
        drop(gate);
        assert_eq!(answer, 202);
        until_ready();
        scene.survived("cancelled", 0, 0);
        clean.is_all_there_is(&scene);
    }
    assert_eq!(user.run("hello")["status"], "succeeded");
}
