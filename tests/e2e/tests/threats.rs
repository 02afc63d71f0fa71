//! Attacks of docs/threat-model.md that have no place in another suite.

use pi_gateway_e2e::{User, sh, testhost};

/// Where an extension leaves that it was loaded.
const MARK: &str = "/workspace/loaded";

#[test]
fn what_a_workspace_brings_along_for_pi_is_not_loaded() {
    testhost();
    let user = User::new("brought");
    let extension =
        format!("import fs from 'node:fs'; fs.writeFileSync('{MARK}', ''); export default function () {{}}\n");
    for path in [".pi/extensions/evil.mjs", ".pi/extensions/evil.ts", ".pi/agent/extensions/evil.mjs"] {
        let status = user.put(path.as_bytes(), &[], extension.as_bytes()).status;
        assert_eq!(status, 201, "{path}");
    }
    let settings = r#"{"extensions": ["./.pi/extensions/evil.mjs"], "defaultProvider": "elsewhere"}"#;
    assert_eq!(user.put(b".pi/settings.json", &[], settings.as_bytes()).status, 201);
    for prompt in ["hello", "hello again"] {
        assert_eq!(user.run(prompt)["status"], "succeeded");
    }
    assert_eq!(sh(&format!("ls {}", user.workspace())), "", "nothing but dotfiles");
    // The extension is one: pi loads it when it is told to.
    let told = user.bash("timeout 20 /usr/lib/pi-gateway/runtime/1.5.2/pi --mode rpc --no-session --offline -e .pi/extensions/evil.mjs </dev/null >/dev/null 2>&1; ls");
    assert_eq!(told.trim(), "loaded");
}
