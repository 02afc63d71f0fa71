//! What the model is told beside the prompt: the operator's instructions, and the workspace's own only if he says so.

use pi_gateway_e2e::host::until_ready;
use pi_gateway_e2e::operator::{FILE, Restore};
use pi_gateway_e2e::{User, sh, testhost};

/// Whether the request that reaches the upstream holds a text in its instructions; the prompt does not count.
fn is_told(user: &User, text: &str) -> bool {
    let run = user.run(&format!("[[told {text}]]"));
    match run["output_text"].as_str() {
        Some("told") => true,
        Some("not told") => false,
        _ => panic!("{run}"),
    }
}

fn configure(name: &str, value: &str) {
    sh(&format!(
        "sed -i '/^{name}=/d' {FILE}; echo {name}={value} >> {FILE}; systemctl restart pi-gateway-launcher pi-gateway"
    ));
    until_ready();
}

#[test]
fn the_operators_instructions_reach_the_model_and_another_file_takes_their_place() {
    testhost();
    let user = User::new("instructed");
    assert!(is_told(&user, "hosted gateway") && is_told(&user, "build-site"), "the packaged instructions");
    let _restore = Restore::new();
    let file = "/usr/local/share/pi-gateway-agents.md";
    sh(&format!("echo 'The operator says marigold.' >{file}; chmod 644 {file}"));
    configure("PI_SANDBOX_AGENTS_PATH", file);
    assert!(is_told(&user, "The operator says marigold."));
    assert!(!is_told(&user, "hosted gateway"), "both files are read");
}

#[test]
fn context_files_of_a_workspace_reach_the_model_only_when_they_are_not_disabled() {
    testhost();
    let users = [("AGENTS.md", User::new("agents")), ("CLAUDE.md", User::new("claude"))];
    for (file, user) in &users {
        assert_eq!(user.put(file.as_bytes(), &[], b"The workspace says cornflower.").status, 201);
        assert!(!is_told(user, "cornflower"), "{file} is read though nobody asked for it");
    }
    let _restore = Restore::new();
    configure("PI_DISABLE_CONTEXT_FILES", "false");
    for (file, user) in &users {
        assert!(is_told(user, "cornflower"), "{file} is not read");
        assert!(is_told(user, "hosted gateway"), "the operator's instructions are still there");
    }
    configure("PI_DISABLE_CONTEXT_FILES", "true");
    assert!(!is_told(&users[0].1, "cornflower"), "it is read though it is disabled");
}
