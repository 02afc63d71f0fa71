//! What the documents tell their readers to type is typed.

use std::process::Command;

use pi_gateway_e2e::{User, testhost};

/// The blocks of shell commands in a document.
fn blocks(document: &str) -> Vec<&str> {
    document.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn every_command_of_the_api_guide_works() {
    work(include_str!("../../../docs/api-and-media.md"), 2);
}

#[test]
fn every_command_of_the_guide_to_images_works() {
    work(include_str!("../../../docs/image-generation.md"), 1);
}

fn work(document: &str, count: usize) {
    testhost();
    let user = User::new("examples");
    let blocks = blocks(document);
    assert!(blocks.len() >= count, "the guide has examples");
    let directory = format!("/root/{}", user.name);
    std::fs::create_dir(&directory).unwrap();
    for block in blocks {
        let script = format!("set -euo pipefail\n{block}");
        let command =
            Command::new("bash").args(["-c", &script]).env("TOKEN", &user.token).current_dir(&directory).output();
        let output = command.unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{block}\n{}\n{told}", String::from_utf8_lossy(&output.stdout));
        // The next block may want to write.
        for run in user.get("/runs").json()["data"].as_array().unwrap() {
            user.finished(run["id"].as_str().unwrap());
        }
    }
}
