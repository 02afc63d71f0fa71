//! Users, seen by the operator: blocked at once, packed, removed without a trace and without a danger, and listed.
//! The commands are those of docs/operator-commands.md.

use std::io::Read;

use pi_gateway_e2e::host::{listing, try_sh, uid_of, until_ready};
use pi_gateway_e2e::http::{open, raw};
use pi_gateway_e2e::operator::{kill, nothing};
use pi_gateway_e2e::{Response, User, request, sh, testhost, until};
use serde_json::Value;

/// Lets a user in again at the end, so that nothing stays behind a test that fails.
struct LetIn<'a>(&'a User);

impl Drop for LetIn<'_> {
    fn drop(&mut self) {
        let _ = try_sh(&format!("rm -f /var/lib/pi-gateway/standing/{}; systemctl start pi-gateway", self.0.name));
    }
}

fn users() -> Vec<Value> {
    serde_json::from_str::<Value>(&sh("pi-gateway users --json")).unwrap().as_array().unwrap().clone()
}

fn row(user: &User) -> Value {
    users().into_iter().find(|row| row["name"] == user.name.as_str()).expect("the user is listed")
}

fn runs(options: &str) -> Vec<Value> {
    serde_json::from_str::<Value>(&sh(&format!("pi-gateway runs --json {options}")))
        .unwrap()
        .as_array()
        .unwrap()
        .clone()
}

/// Everything that a user may ask, refused.
fn is_refused(user: &User) {
    let told = |response: Response| response.is_problem(403, "user_blocked");
    told(user.get("/session"));
    told(user.get("/runs"));
    told(user.get("/workspace/files"));
    told(user.post("/runs", &[], &serde_json::json!({"prompt": "hello"})));
    told(request("PUT", "/workspace/files/content?path=x", Some(&user.token), &[], Some(b"x")));
    told(request("DELETE", "/session", Some(&user.token), &[], None));
}

#[test]
fn a_blocked_user_is_refused_at_once_and_what_he_has_under_way_ends() {
    testhost();
    until_ready();
    let (user, neighbour) = (User::new("blocked"), User::new("beside"));
    let _let_in = LetIn(&user);
    assert_eq!(user.run("remember the word osprey")["status"], "succeeded");
    assert_eq!(user.put(b"large", &[], &vec![b'x'; 24 << 20]).status, 201);
    let other = neighbour.start("[[slow 60 100]]");
    let run = user.start("[[bash echo begun; sleep 600]]");
    let mut stream = user.stream(&run, None);
    assert!(stream.by_ref().any(|event| event.name == "tool.started"), "the command runs");
    // A download that waits in the middle for its reader.
    let mut download = open(&raw("GET", "/workspace/files/content?path=large", Some(&user.token), &[], None)).unwrap();
    let mut first = [0; 4096];
    download.body.read_exact(&mut first).unwrap();

    let told = sh(&format!("pi-gateway users block {}", user.name));
    assert!(told.contains("is blocked: refused, and nothing of his is under way"), "{told}");
    is_refused(&user);
    let left: Vec<String> = stream.map(|event| event.name).collect();
    assert!(!left.contains(&"run.finished".to_owned()), "the stream ended with the block: {left:?}");
    let mut rest = Vec::new();
    let whole = download.body.read_to_end(&mut rest).is_ok() && rest.len() + first.len() == 24 << 20;
    assert!(!whole, "the download went on to its end");
    let seen = runs(&format!("--user {}", user.name));
    assert_eq!(
        (seen[0]["id"].as_str(), seen[0]["status"].as_str()),
        (Some(run.as_str()), Some("cancelled")),
        "{seen:?}"
    );
    assert!(runs("--active").iter().all(|run| run["user"] != user.name.as_str()));
    assert_eq!(sh(&format!("pgrep -u {} -f 'sleep 600' || true", uid_of(&user.name))), "", "his agent is gone");
    assert_eq!((row(&user)["state"].as_str(), row(&neighbour)["state"].as_str()), (Some("blocked"), Some("active")));
    assert_eq!(neighbour.finished(&other)["status"], "succeeded", "somebody else's run goes on");

    // Whatever restarts, he stays out; twice is once; and unblocked he finds everything as it was.
    kill("pi-gateway");
    until_ready();
    is_refused(&user);
    assert!(sh(&format!("pi-gateway users block {}", user.name)).contains("is blocked"));
    assert!(sh(&format!("pi-gateway users unblock {}", user.name)).contains("is let in again"));
    assert!(user.run("[[recall]]")["output_text"].as_str().unwrap().contains("osprey"));
}

#[test]
fn a_block_while_the_front_is_down_is_in_force_when_it_is_back_and_ends_the_run_it_left() {
    testhost();
    until_ready();
    let user = User::new("absent");
    let _let_in = LetIn(&user);
    let run = user.start("[[bash echo begun; sleep 600]]");
    assert!(user.stream(&run, None).any(|event| event.name == "tool.started"), "the command runs");
    sh("systemctl stop pi-gateway.socket pi-gateway");
    let told = sh(&format!("pi-gateway users block {}", user.name));
    assert!(told.contains("`systemctl start pi-gateway`"), "{told}");
    sh("systemctl start pi-gateway.socket pi-gateway");
    until_ready();
    is_refused(&user);
    until("the run is cancelled", || {
        (runs(&format!("--user {}", user.name))[0]["status"] == "cancelled").then_some(())
    });
    assert_eq!(sh(&format!("pgrep -u {} -f 'sleep 600' || true", uid_of(&user.name))), "");
    // A file that nobody can read keeps him out as well.
    sh(&format!("echo x >/var/lib/pi-gateway/standing/{}", user.name));
    is_refused(&user);
}

#[test]
fn an_archive_is_whole_and_roots_and_the_user_is_blocked() {
    testhost();
    until_ready();
    let user = User::new("packed");
    let _let_in = LetIn(&user);
    let made =
        user.bash("mkdir -p src && echo one >src/a && ln -s /etc/shadow leak && mkfifo pipe && chmod 000 src/a; id -u");
    assert!(!made.is_empty());
    let to = format!("/root/{}.tar.zst", user.name);
    sh(&format!("touch {to}"));
    let (ok, told) = try_sh(&format!("pi-gateway users archive {} --to {to}", user.name));
    assert!(!ok && told.contains("is there already"), "{told}");
    assert_eq!(user.get("/session").status, 200, "what is refused changes nothing");
    sh(&format!("rm {to}"));
    let told = sh(&format!("pi-gateway users archive {} --to {to}", user.name));
    assert!(told.contains("is blocked") && told.contains("2 entries are not in it"), "{told}");
    is_refused(&user);
    assert_eq!(sh(&format!("stat -c '%u %a' {to}; ls /root/{}*", user.name)), format!("0 600\n{to}"));
    let names = sh(&format!("zstd -dcq {to} | tar -tf -"));
    let lines: Vec<&str> = names.lines().collect();
    for name in [
        "workspace/src/",
        "workspace/leak",
        "session/session.jsonl",
        "workspace/.git/HEAD",
        "MISSING-FROM-THIS-ARCHIVE.txt",
    ] {
        assert!(lines.contains(&name), "{name}: {names}");
    }
    // A link is a link, whatever it leads to.
    assert!(sh(&format!("zstd -dcq {to} | tar -tvf - workspace/leak")).contains("workspace/leak -> /etc/shadow"));
    assert!(!try_sh(&format!("zstd -dcq {to} | grep -qF \"$(head -1 /etc/shadow)\"")).0, "the host's file is in it");
    assert!(sh(&format!("zstd -dcq {to} | tar -xOf - MISSING-FROM-THIS-ARCHIVE.txt")).contains("workspace/pipe"));
    let row = row(&user);
    assert_eq!((row["state"].as_str(), row["archive"].as_str()), (Some("archived"), Some(to.as_str())));
    assert!(sh(&format!("pi-gateway users unblock {}", user.name)).contains("finds everything as it was"));
    assert_eq!(user.run("hello")["status"], "succeeded");
    sh(&format!("rm {to}"));
}

#[test]
fn a_removed_user_leaves_nothing_but_his_uid_and_takes_nobody_with_him() {
    testhost();
    until_ready();
    let (user, neighbour) = (User::new("removed"), User::new("stays"));
    let _let_in = LetIn(&user);
    assert_eq!(neighbour.run("remember the word lapwing")["status"], "succeeded");
    sh("echo kept >/srv/outside");
    // What an agent can do against whoever removes his tree.
    let hostile = "mkdir -p deep && d=deep && for i in $(seq 300); do d=$d/d; done && mkdir -p $d && ln -s /srv srv && \
        ln -s /etc/passwd deep/passwd && mkdir closed && touch closed/f && chmod 000 closed && mkfifo pipe && \
        mkdir .pi-gateway-own && touch .pi-gateway-own/f && chmod 500 . && echo made";
    assert!(user.bash(hostile).contains("made"));
    let uid = uid_of(&user.name);
    let before = sh("sha256sum /etc/passwd /srv/outside");
    assert!(row(&user)["session_bytes"].as_u64().unwrap() > 0, "{}", row(&user));
    let places = format!(
        "/var/lib/pi-gateway/workspaces/{0} /var/lib/pi-gateway/sessions/{0} /var/lib/pi-gateway/front/users/{0} \
         /var/lib/pi-gateway/front/active/{0} /run/pi-gateway/users/{0} /run/userdb/{uid}.user /var/lib/pi-gateway/usage/{uid}-*",
        user.name
    );
    assert!(!sh(&format!("ls -d {places} 2>/dev/null || true")).is_empty());

    let told = sh(&format!("pi-gateway users remove {}", user.name));
    assert!(told.contains("Nothing is removed yet") && told.contains("1 runs"), "{told}");
    assert_eq!(user.get("/session").status, 200);
    // Killed in the middle, at different moments, the next call goes on.
    for after in ["0.05", "0.15", "0.3", "0.5"] {
        let _ = try_sh(&format!("timeout -s KILL {after} pi-gateway users remove {} --yes", user.name));
    }
    let told = sh(&format!("pi-gateway users remove {} --yes", user.name));
    assert!(told.contains(&format!("uid {uid} will never be anybody else's")), "{told}");
    assert_eq!(sh(&format!("ls -d {places} 2>/dev/null || true")), "");
    assert_eq!(sh(&format!("find /var/lib/pi-gateway /run/pi-gateway -uid {uid}")), "");
    assert_eq!(sh("sha256sum /etc/passwd /srv/outside"), before, "a link was followed");
    assert_eq!(sh(&format!("grep -c '^{uid} {}$' /var/lib/pi-gateway/uids", user.name)), "1");
    is_refused(&user);
    assert_eq!(row(&user)["state"], "removed");
    sh("pi-gateway check; systemctl restart pi-gateway-launcher");
    until_ready();

    let next = User::new("later");
    assert_eq!(next.run("hello")["status"], "succeeded");
    assert_ne!(uid_of(&next.name), uid);
    assert!(neighbour.run("[[recall]]")["output_text"].as_str().unwrap().contains("lapwing"));
    // He may come back as a new user with the uid that was his.
    sh(&format!("pi-gateway users unblock {}", user.name));
    assert_eq!(user.get("/runs").json()["data"].as_array().unwrap().len(), 0);
    assert_eq!(user.run("hello again")["status"], "succeeded");
    assert_eq!(uid_of(&user.name), uid);
    assert_eq!(user.conversation().len(), 2, "nothing is left of the session before");
}

#[test]
fn users_and_runs_are_listed_for_people_and_for_scripts() {
    testhost();
    until_ready();
    let user = User::new("listed");
    assert_eq!(user.run("first")["status"], "succeeded");
    let failed = user.run("[[error 401]]");
    assert_eq!(failed["status"], "failed");
    let active = user.start("[[slow 100 100]]");
    let seen = runs(&format!("--user {}", user.name));
    assert_eq!(seen.len(), 3);
    assert_eq!((seen[0]["id"].as_str(), seen[0]["code"].as_str()), (Some(active.as_str()), None));
    assert_eq!((seen[1]["status"].as_str(), seen[1]["code"].as_str()), (Some("failed"), Some("upstream_unauthorized")));
    assert!(seen[2]["duration_ms"].as_u64().unwrap() > 0, "{seen:?}");
    let ids: Vec<String> = runs("--limit 1000").iter().map(|run| run["id"].as_str().unwrap().to_owned()).collect();
    assert!(ids.is_sorted_by(|a, b| a > b), "newest first");
    assert_eq!(runs("--limit 2").len(), 2);
    assert!(runs("--active").iter().any(|run| run["id"] == active.as_str()));
    let table = sh("pi-gateway runs --limit 3");
    assert!(table.starts_with("STARTED") && table.contains("upstream_unauthorized"), "{table}");
    user.post(&format!("/runs/{active}/cancel"), &[], &nothing());
    user.finished(&active);
    let row = row(&user);
    assert_eq!((row["state"].as_str(), row["uid"].as_u64()), (Some("active"), Some(u64::from(uid_of(&user.name)))));
    assert!(row["workspace_bytes"].as_u64().unwrap() > 0 && row["session_bytes"].as_u64().unwrap() > 0, "{row}");
    assert_eq!(row["last_run"]["id"], active.as_str());
    let table = sh("pi-gateway users");
    assert!(table.starts_with("NAME") && table.contains(&user.name), "{table}");
    // systemd takes a unit that has ended out of its memory when it next has nothing else to do.
    until("what measured is gone", || {
        sh("systemctl list-units --all --plain --no-legend 'pi-gateway-worker-*:*'").is_empty().then_some(())
    });
}

#[test]
fn nobody_but_root_may_and_root_reads_nothing_that_the_front_could_point_elsewhere() {
    testhost();
    until_ready();
    for command in ["users", "users block x", "runs", "import --workspaces / --sessions /", "doctor"] {
        let (ok, told) = try_sh(&format!("setpriv --reuid=pi-gateway --clear-groups pi-gateway {command}"));
        assert!(!ok && told.contains("root"), "{command}: {told}");
    }
    let (ok, told) = try_sh("pi-gateway users remove no-such-user --yes");
    assert!(!ok && told.contains("there is no user no-such-user"), "{told}");
    assert!(!std::path::Path::new("/var/lib/pi-gateway/standing/no-such-user").exists());
    // A front that was taken over could put a link in the place of a record.
    let user = User::new("linked");
    let run = user.run("hello")["id"].as_str().unwrap().to_owned();
    let record = format!("/var/lib/pi-gateway/front/users/{}/runs/{run}/run.json", user.name);
    sh(&format!(
        "mv {record} /root/record; echo '{{\"secret\": 1}}' >/root/only-root; chmod 600 /root/only-root; chmod 711 /root; ln -s /root/only-root {record}"
    ));
    let (_, told) = try_sh(&format!("pi-gateway runs --user {}", user.name));
    sh(&format!("rm {record}; mv /root/record {record}; chmod 700 /root"));
    assert!(told.contains("Permission denied"), "{told}");
    assert_eq!(listing("/var/lib/pi-gateway/standing").lines().count(), 1, "nobody is left blocked");
}
