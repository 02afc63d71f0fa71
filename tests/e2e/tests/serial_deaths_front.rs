//! The front is killed at each point of a run, at swept moments, under a large prompt, and over and over.

use pi_gateway_e2e::host::{until_ready, upstream_requests};
use pi_gateway_e2e::points::{
    FRONT, Left, Scene, Trigger, WORDS, die_at_any_moment, die_at_each_point, die_while_a_large_prompt_is_written,
};
use pi_gateway_e2e::{User, testhost};
use serde_json::{Value, json};

#[test]
fn a_run_survives_the_death_of_the_front_at_each_of_its_points() {
    testhost();
    die_at_each_point("front", &[FRONT], 0);
}

#[test]
fn a_run_survives_the_death_of_the_front_at_any_moment() {
    testhost();
    die_at_any_moment("front-any", &[FRONT], 12, 0);
}

#[test]
fn a_prompt_of_five_megabytes_survives_the_death_of_the_front_while_it_is_written() {
    testhost();
    die_while_a_large_prompt_is_written("front-large", &[FRONT]);
}

#[test]
fn a_front_that_dies_before_the_prompt_does_not_lose_the_chosen_model() {
    testhost();
    until_ready();
    let user = User::new("front-model");
    let models: Value =
        serde_json::from_slice(&std::fs::read("/usr/lib/pi-gateway/trusted/models.json").unwrap()).unwrap();
    let other = models.as_array().unwrap().iter().map(|model| &model["id"]).find(|id| *id != "gpt-6-sol").unwrap();
    for answer in ["\"state-", "\"model-", "\"thinking-"] {
        let trigger = Trigger::aim(&[FRONT]);
        let choice = json!({"model": other, "thinking": "low"});
        let mut scene = Scene::begin_with(&user, answer, WORDS, &choice);
        scene.reach("pi's answer", |scene| scene.printed().contains(answer).then_some(()));
        trigger.pull_and_wait();
        scene.survived("succeeded", 1, 0);
        assert_eq!(&upstream_requests(&scene.prompt)[0]["model"], other);
    }
}

#[test]
fn a_front_that_dies_twenty_times_during_one_run_loses_nothing() {
    testhost();
    until_ready();
    let clean = Left::look();
    let user = User::new("front-twenty");
    let mut scene = Scene::begin(&user, "twenty deaths", "[[slow 200 20]][[bash sleep 3; echo slept]][[slow 600 20]]");
    for death in 1..=20 {
        let trigger = Trigger::aim(&[FRONT]);
        // Each successor gets to an event of its own, or is killed while it starts.
        if death % 3 > 0 {
            let before = scene.logged("text.delta") + scene.logged("tool.output") + scene.logged("tool.completed");
            scene.reach("something new", |scene| {
                let now = scene.logged("text.delta") + scene.logged("tool.output") + scene.logged("tool.completed");
                (now > before).then_some(())
            });
        }
        assert_eq!(scene.logged("run.finalizing"), 0, "the run was over before death {death}");
        trigger.pull_and_wait();
    }
    scene.survived("succeeded", 2, 0);
    scene.continues();
    clean.is_all_there_is(&scene);
}
