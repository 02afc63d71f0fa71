//! Every run ends in a commit, and every workspace is in step with the Gitea: through the API, the launcher, the git
//! worker in its sandbox and the git relay.

use pi_gateway_e2e::gitea::{Gitea, at_gitea, elsewhere, in_workspace, is_real, is_sound, pushed};
use pi_gateway_e2e::host::try_sh;
use pi_gateway_e2e::operator::nothing;
use pi_gateway_e2e::{Response, User, request, sh, testhost, until};
use serde_json::json;

fn sync(user: &User) -> Response {
    user.post("/workspace/sync", &[], &nothing())
}

fn put(user: &User, path: &str, text: &str) -> Response {
    let path = format!("/workspace/files/content?path={path}");
    request("PUT", &path, Some(&user.token), &[], Some(text.as_bytes()))
}

#[test]
fn runs_are_committed_and_pushed_and_the_workspace_follows_the_remote() {
    testhost();
    let user = User::new("git");
    let gitea = Gitea::of(&[&user.name]);
    // The repository is there before the first agent, and the agent can use it.
    let seen = user.bash("git status --short --branch; git log --format=%s; git config user.name; ls -d .git");
    assert!(seen.contains("## main") && seen.contains("Initial commit") && seen.contains(".git"), "{seen}");
    // The first push goes to an empty repository.
    let run = pushed(&user, &user.run("[[bash echo one >page]]"));
    assert_eq!(run["workspace"]["push"], "pushed", "{run}");
    let commit = run["workspace"]["commit"].as_str().unwrap();
    assert_eq!(at_gitea(&user, "rev-parse main"), commit);
    assert_eq!(at_gitea(&user, "show main:page"), "one");
    let message = at_gitea(&user, "log -1 --format=%an%n%B main");
    assert_eq!(message, format!("pi-gateway\npi: [[bash echo one >page]]\n\nRun: {}", run["id"].as_str().unwrap()));
    // A run that changes nothing makes no commit.
    let idle = pushed(&user, &user.run("nothing to do"));
    assert_eq!((&idle["workspace"]["commit"], &idle["workspace"]["push"]), (&json!(null), &json!("pushed")));
    // An edit at the remote.
    elsewhere(&user, "echo two >page; mkdir -p docs; echo new >docs/new");
    let answer = sync(&user);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["outcome"], "fast_forward", "{answer:?}");
    assert_eq!(user.bash("cat page docs/new; git status --short"), "two\nnew\n");
    // Different edits on both sides.
    elsewhere(&user, "echo theirs >theirs");
    assert_eq!(put(&user, "ours", "ours").status, 201);
    let shown = user.get("/workspace").json();
    assert_eq!(shown["git"]["changed"], json!([{ "path": "ours", "kind": "added" }]), "{shown}");
    let answer = sync(&user).json();
    assert_eq!((&answer["outcome"], &answer["push"]), (&json!("merged"), &json!("pushed")), "{answer}");
    assert_eq!(at_gitea(&user, "ls-tree -r --name-only main"), "docs/new\nours\npage\ntheirs");
    let shown = user.get("/workspace").json();
    let git = &shown["git"];
    assert_eq!((&git["branch"], &git["ahead"], &git["behind"]), (&json!("main"), &json!(0), &json!(0)), "{shown}");
    assert_eq!(git["changed_count"], 0, "{shown}");
    assert_eq!(git["head"], at_gitea(&user, "rev-parse main"));
    assert!(git["last_sync"]["at"].is_string() && git["last_sync"]["error"].is_null(), "{shown}");
    // The agent's own commits and branches.
    user.run("[[bash git checkout -q -b feature && echo f >f && git add f && git commit -q -m mine && git checkout -q main]]");
    until("the agent's branch is at the remote", || {
        (try_sh(&format!("git -C {} log -1 --format=%s feature", pi_gateway_e2e::gitea::bare(&user))).1 == "mine")
            .then_some(())
    });
    // Rewritten by the agent it is not forced, and fails no push of what the workspace is on.
    let amend = "git checkout -q feature && git commit -q --amend -m again && git checkout -q main";
    let run = pushed(&user, &user.run(&format!("[[bash {amend} && echo y >y]]")));
    assert_eq!(
        (&run["workspace"]["push"], &run["workspace"]["reason"]["code"]),
        (&json!("pushed"), &json!("branches_diverged"))
    );
    assert!(run["workspace"]["reason"]["message"].as_str().unwrap().contains("feature"), "{run}");
    assert_eq!(at_gitea(&user, "log -1 --format=%s feature"), "mine");
    assert_eq!(at_gitea(&user, "show main:y"), "y");
    is_sound(&user);
    drop(gitea);
}

#[test]
fn a_conflict_is_409_with_the_paths_and_both_sides_are_kept() {
    testhost();
    let user = User::new("conflict");
    let _gitea = Gitea::of(&[&user.name]);
    let run = user.run("[[bash echo base >page; echo base >other]]");
    assert_eq!(pushed(&user, &run)["workspace"]["push"], "pushed");
    elsewhere(&user, "echo theirs >page; echo x >more");
    // The end of a run never merges: the push fails and says why.
    let run = pushed(&user, &user.run("[[bash echo ours >page]]"));
    assert_eq!((&run["status"], &run["workspace"]["push"]), (&json!("succeeded"), &json!("failed")));
    assert_eq!(run["workspace"]["reason"]["code"], "diverged", "{run}");
    let answer = sync(&user);
    answer.is_problem(409, "merge_conflict");
    assert_eq!(answer.json()["paths"], json!(["page"]));
    let side = answer.json()["side_branch"].as_str().unwrap().to_owned();
    assert_eq!(at_gitea(&user, &format!("show {side}:page")), "ours");
    assert_eq!(at_gitea(&user, "show main:page"), "theirs");
    assert_eq!(user.bash("cat page; ls; git status --short"), "ours\nother\npage\n");
    let shown = user.get("/workspace").json();
    assert_eq!(shown["git"]["last_sync"]["error"]["code"], "conflict", "{shown}");
    // Solved in the workspace by the agent, which sees the remote's side as origin/main.
    user.run("[[bash git merge -q -X ours origin/main -m both]]");
    let answer = sync(&user);
    assert_eq!(answer.json()["push"], "pushed", "{answer:?}");
    assert_eq!(at_gitea(&user, "show main:page"), "ours");
    assert_eq!(at_gitea(&user, "show main:more"), "x");
    is_sound(&user);
}

#[test]
fn a_remote_that_fails_fails_no_run_and_the_next_sync_catches_up() {
    testhost();
    let user = User::new("faults");
    let gitea = Gitea::of(&[&user.name]);
    assert_eq!(pushed(&user, &user.run("[[bash echo 0 >n]]"))["workspace"]["push"], "pushed");
    for (number, (fault, codes)) in [
        ("status 401", ["gitea_unauthorized"; 2]),
        ("status 403", ["gitea_forbidden"; 2]),
        ("status 404", ["gitea_not_found"; 2]),
        ("status 413", ["gitea_too_large"; 2]),
        ("status 503", ["gitea_error"; 2]),
        ("redirect 302 http://127.0.0.1:9180/", ["gitea_unreachable"; 2]),
        // Half of the answer: the relay sees that before it has passed a byte on, or git does behind it.
        ("cut", ["gitea_unexpected", "gitea_unreachable"]),
    ]
    .into_iter()
    .enumerate()
    {
        gitea.fault(fault);
        let run = pushed(&user, &user.run(&format!("[[bash echo {number} >n; date +%N >>n]]")));
        assert_eq!(run["status"], "succeeded", "{fault}");
        assert_eq!(run["workspace"]["push"], "failed", "{fault}: {run}");
        let code = run["workspace"]["reason"]["code"].as_str().unwrap();
        assert!(codes.contains(&code), "{fault}: {run}");
        assert!(run["workspace"]["commit"].is_string(), "{fault}: {run}");
        let answer = sync(&user);
        answer.is_problem(502, "remote_failed");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(codes.iter().any(|code| detail.contains(code)), "{fault}: {detail}");
    }
    gitea.fault("");
    sh("systemctl stop pi-gateway-gitea");
    let run = pushed(&user, &user.run("[[bash echo down >n]]"));
    assert_eq!(
        (&run["status"], &run["workspace"]["reason"]["code"]),
        (&json!("succeeded"), &json!("gitea_unreachable")),
        "{run}"
    );
    sh("systemctl start pi-gateway-gitea");
    until("the Gitea listens", || try_sh("bash -c '</dev/tcp/127.0.0.1/3000'").0.then_some(()));
    let answer = sync(&user);
    assert_eq!(answer.json()["push"], "pushed", "{answer:?}");
    assert_eq!(at_gitea(&user, "show main:n"), "down");
    assert_eq!(at_gitea(&user, "rev-list --count main"), "10", "each run's commit has arrived");
    is_sound(&user);
}

#[test]
fn during_a_sync_runs_and_writes_are_409_and_during_a_run_a_sync_is() {
    testhost();
    let user = User::new("order");
    let gitea = Gitea::of(&[&user.name]);
    assert_eq!(pushed(&user, &user.run("[[bash echo 0 >n]]"))["workspace"]["push"], "pushed");
    let id = user.start("[[bash sleep 30]]");
    user.stream(&id, None).find(|event| event.name == "tool.started").unwrap();
    sync(&user).is_problem(409, "run_active");
    let shown = user.get("/workspace").json();
    assert!(shown["git"]["changed"].is_null() && shown["git"]["branch"] == "main", "{shown}");
    let _ = user.post(&format!("/runs/{id}/cancel"), &[], &nothing());
    let run = user.finished(&id);
    pushed(&user, &run);
    gitea.fault("slow 4000");
    let clone = User { name: user.name.clone(), token: user.token.clone() };
    let syncing = std::thread::spawn(move || sync(&clone));
    // The sync has the workspace from before its worker is started.
    until("the sync's worker is up", || {
        (try_sh(&format!("systemctl is-active pi-gateway-git-{}", user.name)).1 == "active").then_some(())
    });
    user.post("/runs", &[], &json!({"prompt": "[[say too early]]"})).is_problem(409, "sync_active");
    put(&user, "n", "1").is_problem(409, "sync_active");
    assert_eq!(user.get("/workspace/files/content?path=n").status, 200, "reading goes on");
    gitea.fault("");
    assert_eq!(syncing.join().unwrap().status, 200);
}

#[test]
fn without_a_remote_runs_are_committed_and_there_is_nothing_to_sync_with() {
    testhost();
    let user = User::new("local");
    let run = user.run("[[bash echo 1 >a]]");
    assert!(run["workspace"]["commit"].is_string() && run["workspace"]["push"].is_null(), "{run}");
    sync(&user).is_problem(409, "no_remote");
    assert_eq!(in_workspace(&user, "log --format=%s | wc -l"), "2");
    // What is cancelled or fails is committed as well.
    let id = user.start("[[bash echo half >b; sleep 60]]");
    user.stream(&id, None).find(|event| event.name == "tool.started").unwrap();
    until("the tool has written", || {
        try_sh(&format!("test -s /var/lib/pi-gateway/workspaces/{}/b", user.name)).0.then_some(())
    });
    let _ = user.post(&format!("/runs/{id}/cancel"), &[], &nothing());
    let run = user.finished(&id);
    assert_eq!(run["status"], "cancelled");
    assert_eq!(in_workspace(&user, "show HEAD:b"), "half");
}

#[test]
fn what_an_agent_does_to_its_repository_hurts_nobody_and_the_tree_is_committed() {
    testhost();
    let (user, neighbour) = (User::new("hostile"), User::new("neighbour"));
    let _gitea = Gitea::of(&[&user.name, &neighbour.name]);
    assert_eq!(pushed(&user, &user.run("[[bash echo 0 >n]]"))["workspace"]["push"], "pushed");
    for (number, plant) in [
        "mkfifo .git/info/alternates; rm .git/config; mkfifo .git/config; rm .git/index; mkfifo .git/index",
        "rm -rf .git; mkfifo .git",
        "rm -rf .git; ln -s /session .git",
        "rm .git/HEAD; mkfifo .git/HEAD",
        "echo /session >.git/objects/info/alternates",
        "mkfifo pipe .gitignore; truncate -s 1T huge; git init -q nested; ln -s /etc/passwd link",
        "chmod 000 .git",
        "chmod 000 .git/objects; mkdir -m 000 closed",
    ]
    .into_iter()
    .enumerate()
    {
        let run = pushed(&user, &user.run(&format!("[[bash {plant}; echo {number} >n; date +%N >>n]]")));
        assert_eq!(run["status"], "succeeded", "{plant}: {run}");
        assert!(run["workspace"]["commit"].is_string(), "{plant}: {run}");
        let other = pushed(&neighbour, &neighbour.run(&format!("[[bash echo {number} >n]]")));
        assert_eq!(other["workspace"]["push"], "pushed", "{plant}: {other}");
        // A history that had to begin anew is joined with the remote's by the next sync.
        let answer = sync(&user);
        assert!(answer.status == 200 || answer.json()["code"] == "merge_conflict", "{plant}: {answer:?}");
    }
    assert_eq!(at_gitea(&user, "ls-tree -r --name-only main | grep -c passwd || true"), "0");
    let secret = sh("head -c 30 /etc/shadow");
    let everything = at_gitea(&user, "rev-list --objects --all | cut -d' ' -f1 | git cat-file --batch | strings");
    assert!(!everything.contains(&secret));
}

#[test]
fn the_git_workers_unit_is_walled_in_and_holds_no_secret() {
    testhost();
    let user = User::new("unit");
    let gitea = Gitea::of(&[&user.name]);
    // The worker of the run itself, which ends soon, is not the one to look at.
    pushed(&user, &user.run("hello"));
    gitea.fault("slow 5000");
    let clone = User { name: user.name.clone(), token: user.token.clone() };
    let syncing = std::thread::spawn(move || sync(&clone));
    let unit = format!("pi-gateway-git-{}.service", user.name);
    let pid = until("the worker is up", || {
        let pid = try_sh(&format!("systemctl show -P MainPID {unit}")).1;
        let program = try_sh(&format!("cat /proc/{pid}/cmdline | tr '\\0' ' '")).1;
        program.contains("pi-gateway-worker git").then_some(pid)
    });
    let line = sh(&format!("systemd-analyze security --no-pager {unit} | tail -1"));
    let score: f64 = line.split(": ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
    assert!(score <= 0.3, "{line}");
    let inside = |command: &str| try_sh(&format!("nsenter -t {pid} -n -m -S $(stat -c %u /proc/{pid}) {command}")).1;
    assert_eq!(inside("cat /proc/self/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' '"), "lo");
    let files = sh(&format!("ls /proc/{pid}/root/run /proc/{pid}/root/etc"));
    assert!(!files.contains("pi-gateway") && !files.contains("credentials\n"), "{files}");
    let token = sh("cat /etc/pi-gateway/credentials/GITEA_SYNC_SERVICE_TOKEN");
    assert_eq!(sh(&format!("cat /proc/{pid}/environ /proc/{pid}/cmdline | grep -c '{token}' || true")), "0");
    gitea.fault("");
    assert_eq!(syncing.join().unwrap().status, 200);
}

#[test]
#[ignore = "needs a real Gitea: `make test-gitea` runs it"]
fn a_gitea_that_refuses_does_so_in_words_that_are_understood() {
    testhost();
    assert!(is_real(), "this test is for a real Gitea: `make test-gitea`");
    let user = User::new("refused");
    // There is no such account at the Gitea yet.
    let gitea = Gitea::of(&[]);
    let reason = |run: &serde_json::Value| run["workspace"]["reason"]["code"].as_str().unwrap_or_default().to_owned();
    let run = pushed(&user, &user.run("[[bash echo 1 >n]]"));
    assert_eq!((run["status"].as_str(), reason(&run).as_str()), (Some("succeeded"), "gitea_not_found"), "{run}");
    sh(&format!("/usr/local/bin/gitea-repository {}", user.name));
    assert_eq!(sync(&user).json()["push"], "pushed");
    let api = format!(
        "curl -fsS -H \"Authorization: token $(cat /root/gitea-admin-token)\" -H 'Content-Type: application/json' \
         http://127.0.0.1:3000/api/v1/repos/{}/workspace",
        user.name
    );
    sh(&format!("{api} -X PATCH -d '{{\"archived\": true}}'"));
    let run = pushed(&user, &user.run("[[bash echo 2 >n]]"));
    assert_eq!(reason(&run), "gitea_forbidden", "{run}");
    sh(&format!("{api} -X PATCH -d '{{\"archived\": false}}'"));
    sh(&format!("{api}/collaborators/sync-bot -X PUT -d '{{\"permission\": \"read\"}}'"));
    let run = pushed(&user, &user.run("[[bash echo 3 >n]]"));
    assert!(["gitea_forbidden", "gitea_refused"].contains(&reason(&run).as_str()), "{run}");
    sh(&format!("{api}/branch_protections -X POST -d '{{\"rule_name\": \"main\", \"enable_push\": false}}'"));
    sh(&format!("{api}/collaborators/sync-bot -X PUT -d '{{\"permission\": \"write\"}}'"));
    let run = pushed(&user, &user.run("[[bash echo 4 >n]]"));
    assert_eq!(reason(&run), "gitea_refused", "{run}");
    sh(&format!("{api}/branch_protections/main -X DELETE"));
    assert_eq!(sync(&user).json()["push"], "pushed");
    assert_eq!(at_gitea(&user, "show main:n"), "4");
    // A token that is not accepted.
    sh("cp -a /etc/pi-gateway/credentials/GITEA_SYNC_SERVICE_TOKEN /root/token.kept; \
        echo 0123456789012345678901234567890123456789 >/etc/pi-gateway/credentials/GITEA_SYNC_SERVICE_TOKEN; \
        systemctl restart pi-gateway-launcher");
    let run = pushed(&user, &user.run("[[bash echo 5 >n]]"));
    assert_eq!(reason(&run), "gitea_unauthorized", "{run}");
    sh(
        "cp -a /root/token.kept /etc/pi-gateway/credentials/GITEA_SYNC_SERVICE_TOKEN; systemctl restart pi-gateway-launcher",
    );
    assert_eq!(sync(&user).json()["push"], "pushed");
    is_sound(&user);
    drop(gitea);
}
