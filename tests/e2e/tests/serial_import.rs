//! Users of the npm package are taken over: told first, then done, whole or not at all, whatever their trees hold.
//! The commands are those of docs/operator-commands.md.

use pi_gateway_e2e::host::{listing, try_sh, uid_of, until_ready};
use pi_gateway_e2e::{User, sh, testhost, until};
use serde_json::Value;

/// A tree like the npm package's, removed at the end.
struct Origin(String);

impl Origin {
    fn new(name: &str) -> Self {
        let path = format!("/srv/origin-{name}");
        sh(&format!("rm -rf {path}; mkdir -p {path}/workspaces {path}/sessions"));
        Origin(path)
    }

    /// A workspace of a user, as the old gateway's own account would have it.
    fn workspace(&self, name: &str, commands: &str) {
        let path = format!("{}/workspaces/{name}", self.0);
        sh(&format!("mkdir -p {path} && cd {path} && {commands} && chown -hR nobody: {path} && chmod 700 {path}"));
    }

    fn import(&self, options: &str) -> (bool, String) {
        try_sh(&format!("pi-gateway import --workspaces {0}/workspaces --sessions {0}/sessions {options}", self.0))
    }

    fn json(&self, options: &str) -> Vec<Value> {
        let command =
            format!("pi-gateway import --workspaces {0}/workspaces --sessions {0}/sessions --json {options}", self.0);
        let text = sh(&format!("{command} 2>/dev/null || true"));
        serde_json::from_str::<Value>(&text).unwrap_or_else(|_| panic!("{text}")).as_array().unwrap().clone()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = try_sh(&format!("rm -rf {}; rm -f /var/lib/pi-gateway/standing/*", self.0));
    }
}

fn of<'a>(rows: &'a [Value], name: &str) -> &'a Value {
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name} is not among {rows:?}"))
}

#[test]
fn an_imported_session_goes_on_and_nothing_of_the_origin_is_changed() {
    testhost();
    until_ready();
    let origin = Origin::new("good");
    // A session that pi itself has written, in a directory that is not there any more.
    let old = User::new("before");
    assert_eq!(old.run("remember the word dunlin")["status"], "succeeded");
    let (first, second, third) = (User::new("moved"), User::new("Moved-Too"), User::new("plain"));
    origin.workspace(
        &first.name,
        "git init -q -b main . && echo one >a && git add a && git -c user.name=o -c user.email=o@o commit -qm old && \
         mkdir -p bin && printf '#!/bin/sh\\necho ran' >bin/run && chmod 755 bin/run && ln -s bin/run go && touch -d '2024-02-03' a",
    );
    origin.workspace(&second.name, "echo two >b");
    origin.workspace(&third.name, "echo three >c");
    let (from, sessions) = (old.session_file(), format!("{}/sessions", origin.0));
    let (one, other) = (&first.name, &second.name);
    sh(&format!(
        "sed '1s#\"/workspace\"#\"/old/gateway/workspaces/x\"#' {from} >{sessions}/{one}.jsonl; grep -q /old/gateway {sessions}/{one}.jsonl; \
         mkdir {sessions}/{other}; cp {sessions}/{one}.jsonl {sessions}/{other}/2026-01-01_x.jsonl; chown -R nobody: {sessions}"
    ));
    let tree = || {
        sh(&format!(
            "cd {} && find . -printf '%p %U:%G %m %T@ %C@ %l\\n' | sort; find . -type f -exec sha256sum {{}} + | sort",
            origin.0
        ))
    };
    let (before, state) = (tree(), listing("/var/lib/pi-gateway"));

    let (ok, told) = origin.import("");
    assert!(ok && told.contains("Nothing is changed yet") && told.contains("ready"), "{told}");
    assert_eq!((tree(), listing("/var/lib/pi-gateway")), (before.clone(), state), "a dry run changed something");

    let rows = origin.json("--apply");
    for user in [&first, &second, &third] {
        assert_eq!(of(&rows, &user.name)["state"], "imported", "{rows:?}");
    }
    assert_eq!(tree(), before, "the origin was changed");
    assert_eq!(sh("ls /var/lib/pi-gateway/standing"), "");
    let (name, uid) = (&first.name, uid_of(&first.name));
    assert_eq!(
        sh(&format!("find /var/lib/pi-gateway/workspaces/{name} /var/lib/pi-gateway/sessions/{name} ! -uid {uid}")),
        ""
    );
    assert_eq!(
        sh(&format!(
            "stat -c '%a %Y' /var/lib/pi-gateway/workspaces/{name}/a; readlink /var/lib/pi-gateway/workspaces/{name}/go"
        )),
        "644 1706918400\nbin/run"
    );

    // The conversation goes on, in the sandbox, with the files.
    let run = first.run("[[recall]]");
    assert_eq!(run["status"], "succeeded", "{run}");
    assert!(run["output_text"].as_str().unwrap().contains("dunlin"), "{run}");
    assert!(
        first.bash("pwd; ./go; cat a; git log --format=%s | tail -1").contains("/workspace\nran\none\nold"),
        "the workspace goes on"
    );
    let folded = User::named(&second.name.to_ascii_lowercase());
    assert!(folded.run("[[recall]]")["output_text"].as_str().unwrap().contains("dunlin"));
    assert!(third.bash("cat c").contains("three"));

    // Again, nobody is touched.
    let rows = origin.json("--apply");
    assert!(rows.iter().all(|row| row["state"] == "exists"), "{rows:?}");
    assert!(origin.import("--apply").0);
    let conversation = first.conversation();
    assert_eq!(conversation[0], ("user".to_owned(), "remember the word dunlin".to_owned()));
    assert!(conversation.len() >= 8, "{conversation:?}");
}

#[test]
fn what_cannot_be_taken_over_is_refused_and_told() {
    testhost();
    until_ready();
    let origin = Origin::new("bad");
    let (hostile, here, good) = (User::new("hostile"), User::new("here"), User::new("good"));
    assert_eq!(here.put(b"mine", &[], b"mine").status, 201);
    origin.workspace(&here.name, "echo theirs >mine");
    origin.workspace(&good.name, "echo fine >f");
    origin.workspace(
        &hostile.name,
        "echo fine >f && ln -s /etc/shadow leak && ln -s ../../../../etc/passwd up && mkfifo pipe && mkdir .pi-gateway-trash && \
         python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")' && mknod device c 1 3",
    );
    // Somebody else's file by another name of it.
    sh(&format!(
        "echo roots >{0}/secret; chmod 600 {0}/secret; ln {0}/secret {0}/workspaces/{1}/linked",
        origin.0, hostile.name
    ));
    sh(&format!(
        "cd {0}/workspaces; mkdir -p '..x' 'no good' A.. $(printf 'n%.0s' $(seq 50)); ln -s /etc link; touch file; \
         cd ../sessions; ln -s /etc/shadow {1}.jsonl; echo no >nobody.jsonl; touch README; mkdir empty",
        origin.0, good.name
    ));
    let rows = origin.json("");
    for (name, word) in [
        ("..x", "no user's name"),
        ("no good", "no user's name"),
        ("A..", "no user's name"),
        (&"n".repeat(50), "no user's name"),
        ("link", "no directory"),
        ("file", "no directory"),
        ("nobody", "no session of pi"),
        ("empty", "nothing to take over"),
        ("README", "neither a session"),
        (&good.name, "no regular file"),
        (&hostile.name, "--leave-out"),
    ] {
        let row = of(&rows, name);
        assert_eq!(row["state"], "refused", "{row}");
        assert!(row["reasons"].to_string().contains(word), "{name}: {row}");
    }
    assert_eq!(of(&rows, &here.name)["state"], "exists");
    let paths: Vec<&str> = of(&rows, &hostile.name)["left_out"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|left| left["path"].as_str())
        .collect();
    for path in ["leak", "up", "pipe", ".pi-gateway-trash", "socket", "device", "linked"] {
        assert!(paths.contains(&path), "{path} is not among {paths:?}");
    }
    let (ok, told) = origin.import("--apply");
    assert!(!ok && told.contains("cannot be taken over"), "{told}");
    assert!(here.read(b"mine", &[]).body == b"mine", "an existing user is left alone");
    assert!(!std::path::Path::new(&hostile.workspace()).exists());

    // The rest of it, when the operator wants that.
    let rows = origin.json(&format!("--apply --leave-out --user {}", hostile.name));
    assert_eq!((rows.len(), rows[0]["state"].as_str()), (1, Some("imported")), "{rows:?}");
    let names = sh(&format!("ls -A {}", hostile.workspace()));
    assert_eq!(names, "f");
    assert!(hostile.bash("cat f").contains("fine"));
}

#[test]
fn an_import_that_was_killed_keeps_the_user_out_and_the_next_one_ends_it() {
    testhost();
    until_ready();
    let origin = Origin::new("killed");
    let user = User::new("halfway");
    origin.workspace(
        &user.name,
        "mkdir d && for i in $(seq 4000); do echo $i >d/$i; done && head -c 64M /dev/zero >large",
    );
    let path = user.workspace();
    sh(&format!(
        "pi-gateway import --workspaces {0}/workspaces --sessions {0}/sessions --apply >/dev/null 2>&1 & pid=$!; \
         for i in $(seq 2000); do [ -e {path}/d ] && break; sleep 0.01; done; kill -9 $pid; wait $pid || true",
        origin.0
    ));
    assert!(std::path::Path::new(&format!("{path}/d")).exists(), "it was killed before it had begun");
    user.get("/session").is_problem(403, "user_blocked");
    let listed: Value = serde_json::from_str(&sh("pi-gateway users --json")).unwrap();
    let state =
        listed.as_array().unwrap().iter().find(|row| row["name"] == user.name.as_str()).unwrap()["state"].clone();
    assert_eq!(state, "importing");
    let (ok, told) = try_sh(&format!("pi-gateway users unblock {}", user.name));
    assert!(!ok && told.contains("being imported"), "{told}");
    // Another origin does not go on with it.
    sh(&format!("mkdir -p /srv/other/sessions; cp -a {}/workspaces /srv/other/", origin.0));
    let (ok, told) =
        try_sh("pi-gateway import --workspaces /srv/other/workspaces --sessions /srv/other/sessions --apply");
    assert!(!ok && told.contains("is being imported from"), "{told}");
    sh("rm -r /srv/other; systemctl restart pi-gateway-launcher pi-gateway");
    until_ready();
    let (ok, told) = origin.import("--apply");
    assert!(ok && told.contains("imported"), "{told}");
    assert_eq!(sh(&format!("diff -r {}/workspaces/{} {path} && find {path} | wc -l", origin.0, user.name)), "4003");
    until("he is let in", || (user.get("/session").status == 200).then_some(()));
    assert!(user.bash("wc -c <large").contains("67108864"));
}
