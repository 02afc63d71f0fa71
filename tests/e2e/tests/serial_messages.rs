//! A message that was accepted survives the death of the front exactly once, wherever it was; and an old session that was
//! set aside goes when its time is over.

use std::time::{Duration, Instant};

use pi_gateway_e2e::host::{until_ready, upstream_requests};
use pi_gateway_e2e::points::{FRONT, Left, Scene, Trigger};
use pi_gateway_e2e::{Event, User, sh, testhost, until};

/// A tool that waits until the test lets it go on: the one of this name.
fn wait(name: &str) -> String {
    format!("[[bash until [ -e go-{name} ]; do sleep 0.02; done; echo gone]]")
}

fn of_message<'a>(events: &'a [Event], name: &'a str, message: &'a str) -> impl Iterator<Item = &'a Event> {
    events.iter().filter(move |event| event.name == name && event.data["message_id"] == message)
}

/// Holds that the message is in the conversation once: in the events, at the model, in the session.
fn once(scene: &mut Scene, message: &str, text: &str) {
    let events = scene.finished();
    let story = scene.story();
    assert_eq!(events.last().unwrap().data["status"], "succeeded", "{story}");
    for name in ["message.accepted", "message.completed"] {
        assert_eq!(of_message(&events, name, message).count(), 1, "{name}\n{story}");
    }
    assert_eq!(of_message(&events, "message.refused", message).count(), 0, "{story}");
    assert_eq!(upstream_requests(text).len(), 1, "{story}");
    let said = scene.user.conversation().into_iter().filter(|(role, said)| role == "user" && said == text).count();
    assert_eq!(said, 1, "{story}");
}

fn go(scene: &Scene, name: &str) {
    std::fs::write(format!("{}/go-{name}", scene.user.workspace()), "").unwrap();
}

#[test]
fn a_message_survives_the_death_of_the_front_wherever_it_is() {
    testhost();
    until_ready();
    let user = User::new("said");
    assert_eq!(user.run("hello")["status"], "succeeded");
    let clean = Left::look();
    for (name, point) in [("1", "pi has not read it"), ("2", "pi has taken it"), ("3", "it is in the conversation")] {
        eprintln!("killing the front: {point}");
        let mut scene = Scene::begin(&user, point, &wait(name));
        scene.reach("the tool", |scene| (scene.logged("tool.started") > 0).then_some(()));
        let text = format!("{} said, {point} [[slow 40 20]]", scene.user.name);
        let trigger = Trigger::aim(&[FRONT]);
        let gate = (point == "pi has not read it").then(|| scene.gate());
        let message = scene.user.said(&scene.run, &text, "steer");
        match point {
            "pi has not read it" => {}
            "pi has taken it" => {
                scene.reach("it is accepted", |scene| (scene.logged("message.accepted") > 0).then_some(()))
            }
            _ => {
                go(&scene, name);
                scene.reach("its answer", |scene| (scene.logged("text.delta") > 3).then_some(()));
            }
        }
        trigger.pull_and_wait();
        drop(gate);
        go(&scene, name);
        once(&mut scene, &message, &text);
        clean.is_all_there_is(&scene);
    }
}

#[test]
fn a_message_survives_the_death_of_the_front_at_any_moment() {
    testhost();
    until_ready();
    let user = User::new("said-any");
    assert_eq!(user.run("hello")["status"], "succeeded");
    for number in 0..10_u64 {
        let name = number.to_string();
        let mut scene = Scene::begin(&user, "a swept moment", &wait(&name));
        scene.reach("the tool", |scene| (scene.logged("tool.started") > 0).then_some(()));
        let text = format!("{} said, number {number} [[say heard]]", scene.user.name);
        let trigger = Trigger::aim(&[FRONT]);
        let message = scene.user.said(&scene.run, &text, if number % 2 == 0 { "steer" } else { "follow_up" });
        std::thread::sleep(Duration::from_micros(number * number * 400));
        trigger.pull_and_wait();
        go(&scene, &name);
        once(&mut scene, &message, &text);
    }
}

#[test]
fn messages_that_come_while_the_front_is_away_for_the_end_of_the_turn_begin_another() {
    testhost();
    until_ready();
    let user = User::new("said-end");
    let mut scene = Scene::begin(&user, "the turn ends meanwhile", &wait("1"));
    scene.reach("the tool", |scene| (scene.logged("tool.started") > 0).then_some(()));
    let text = format!("{} said to a turn that ends [[say heard]]", scene.user.name);
    let trigger = Trigger::aim(&[FRONT]);
    // pi stands still until the front is dead, then ends its turn before the next one is there.
    let gate = scene.gate();
    let message = scene.user.said(&scene.run, &text, "follow_up");
    trigger.pull();
    go(&scene, "1");
    drop(gate);
    until_ready();
    once(&mut scene, &message, &text);
    assert_eq!(user.get(&format!("/runs/{}", scene.run)).json()["output_text"], "heard");
}

#[test]
fn a_session_that_was_set_aside_is_removed_when_its_time_is_over() {
    testhost();
    until_ready();
    let user = User::new("old-session");
    user.run("hello");
    assert_eq!(user.ask("DELETE", "/session", &[], None).status, 204);
    // One of the year 2024, beside the new one.
    let old = "01900000-0000-7000-8000-000000000000";
    let (sessions, marks) = (
        format!("/var/lib/pi-gateway/sessions/{}", user.name),
        format!("/var/lib/pi-gateway/front/users/{}/aside", user.name),
    );
    sh(&format!("cp -a {sessions}/session-*.jsonl {sessions}/session-{old}.jsonl; cp -a {marks}/0* {marks}/{old}"));
    sh("systemctl restart pi-gateway");
    until_ready();
    let begun = Instant::now();
    until("the old session is gone", || {
        let left = sh(&format!("ls {sessions} {marks}"));
        (!left.contains(old)).then_some(())
    });
    eprintln!("gone after {:?}", begun.elapsed());
    assert_eq!(sh(&format!("ls {sessions} | wc -l; ls {marks} | wc -l")), "1\n1");
}
