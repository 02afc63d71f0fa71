//! Disks and their limits: a run that takes too much ends as `disk_full`, its session goes on, and others are not hurt.

use pi_gateway_e2e::disk::Disk;
use pi_gateway_e2e::host::{try_sh, until_ready, user_processes};
use pi_gateway_e2e::operator::{FILE, Restore};
use pi_gateway_e2e::{User, sh, testhost};
use serde_json::json;

fn restart() {
    sh("systemctl restart pi-gateway-launcher pi-gateway");
    until_ready();
}

#[test]
fn a_workspace_over_its_quota_ends_the_run_and_the_session_goes_on() {
    testhost();
    let _restore = Restore::new();
    sh(&format!("echo WORKSPACE_QUOTA_MB=32 >> {FILE}"));
    restart();
    let (user, neighbour) = (User::new("greedy"), User::new("frugal"));
    assert_eq!(user.run("remember the word heron")["status"], "succeeded");
    let other = neighbour.start("[[bash sleep 8; echo slept]]");
    let run = user.run("[[bash head -c 64M /dev/urandom > big; sleep 60]]");
    assert_eq!((run["status"].as_str(), run["error"]["code"].as_str()), (Some("failed"), Some("disk_full")), "{run}");
    assert!(run["error"]["message"].as_str().unwrap().contains("WORKSPACE_QUOTA_MB"), "{run}");
    assert_eq!(neighbour.finished(&other)["status"], "succeeded");
    // What is too much can be looked at and removed; then the session goes on where it was.
    let shown = user.get("/workspace").json();
    assert!(shown["size_bytes"].as_u64() > shown["quota_bytes"].as_u64(), "{shown}");
    let removed = pi_gateway_e2e::request("DELETE", "/workspace/files?path=big", Some(&user.token), &[], None);
    assert_eq!(removed.status, 204);
    let next = user.run("[[recall]]");
    assert_eq!(next["status"], "succeeded");
    assert!(next["output_text"].as_str().unwrap().contains("heron"), "{next}");
    // A run that stays below is left alone, however long the looks go on.
    assert_eq!(user.run("[[bash head -c 8M /dev/urandom > small; sleep 7]]")["status"], "succeeded");
}

#[test]
fn a_write_over_the_quota_is_507_and_leaves_everything_as_it_was() {
    testhost();
    let _restore = Restore::new();
    sh(&format!("echo WORKSPACE_QUOTA_MB=32 >> {FILE}"));
    restart();
    let user = User::new("stuffed");
    let bytes = |count: usize| vec![b'n'; count << 20];
    assert_eq!(user.put(b"large", &[], &bytes(20)).status, 201);
    user.put(b"more", &[], &bytes(20)).is_problem(507, "quota_exceeded");
    user.put(b"large", &[], &bytes(33)).is_problem(507, "quota_exceeded");
    let part = |name: &str| {
        let head = format!("--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"{name}\"\r\n\r\n");
        [head.as_bytes(), &bytes(8), b"\r\n"].concat()
    };
    let form = [part("one"), part("two"), b"--B--\r\n".to_vec()].concat();
    let headers = [("Content-Type", "multipart/form-data; boundary=B")];
    // Each would fit, both do not.
    user.ask("POST", "/workspace/files", &headers, Some(&form)).is_problem(507, "quota_exceeded");
    assert_eq!(user.read(b"large", &[]).body.len(), 20 << 20);
    assert_eq!(user.tree(b"", 10).len(), 1);
    assert_eq!(user.put(b"small", &[], &bytes(8)).status, 201);
    // What is removed is room again.
    assert_eq!(user.remove(b"large", &[]).status, 204);
    assert_eq!(user.put(b"more", &[], &bytes(20)).status, 201);
}

#[test]
fn an_agent_that_stops_its_worker_does_not_escape_the_measuring() {
    testhost();
    let _restore = Restore::new();
    sh(&format!("echo WORKSPACE_QUOTA_MB=32 >> {FILE}"));
    restart();
    let user = User::new("evasive");
    // It signals everything of its uid but itself: its worker, and pi as well.
    let stop_all = "import os,signal,time\nf = open(\"big\", \"wb\")\nwhile True:\n f.write(os.urandom(1 << 19)); f.flush()\n \
        os.kill(-1, signal.SIGSTOP); time.sleep(0.05)\n if f.tell() > 64 << 20: f.seek(0)";
    let run = user.run(&format!("[[bash python3 -c '{stop_all}']]"));
    assert_eq!(run["status"], "failed", "{run}");
    let code = run["error"]["code"].as_str().unwrap();
    assert!(["disk_full", "workspace_unmeasurable"].contains(&code), "{run}");
    assert_eq!(user_processes(), "");
}

#[test]
fn on_a_disk_that_is_nearly_full_the_run_that_took_the_most_ends_and_the_others_go_on() {
    testhost();
    let _restore = Restore::new();
    // A small disk for the workspaces of this test, over the ordinary one.
    let place = "/var/lib/pi-gateway/workspaces";
    let _disk = Disk::mount(place, "size=120M,mode=711", "'pi-gateway-worker-*' 'pi-gateway-agent-*'");
    restart();
    let (large, small) = (User::new("large"), User::new("small"));
    let other = small.start("[[bash head -c 4M /dev/urandom > mine; sleep 12; echo slept]]");
    let run = large.run("[[bash head -c 112M /dev/urandom > big; sleep 60]]");
    assert_eq!((run["status"].as_str(), run["error"]["code"].as_str()), (Some("failed"), Some("disk_full")), "{run}");
    assert!(run["error"]["message"].as_str().unwrap().contains("nearly full"), "{run}");
    let removed = pi_gateway_e2e::request("DELETE", "/workspace/files?path=big", Some(&large.token), &[], None);
    assert_eq!(removed.status, 204);
    assert_eq!(small.finished(&other)["status"], "succeeded");
}

#[test]
fn a_full_disk_of_the_gateway_refuses_new_runs_and_ends_the_active_one_in_good_order() {
    testhost();
    let _restore = Restore::new();
    let place = "/var/lib/pi-gateway/front";
    let _disk = Disk::mount(place, "size=24M,mode=700,uid=$(id -u pi-gateway),gid=$(id -g pi-gateway)", "pi-gateway");
    restart();
    let user = User::new("full");
    let id = user.start("[[bash sleep 2; echo one]][[bash seq 1000; echo two]][[slow 2000 2]]");
    user.stream(&id, None).find(|event| event.name == "tool.started").unwrap();
    // Everything but the gateway's ballast is taken by somebody else.
    let (_, told) = try_sh(&format!("head -c 30M /dev/zero > {place}/somebody-else"));
    assert!(told.contains("No space left"), "{told}");
    let run = user.finished(&id);
    assert_eq!((run["status"].as_str(), run["error"]["code"].as_str()), (Some("failed"), Some("disk_full")), "{run}");
    assert_eq!(user_processes(), "");
    let events = user.events(&id);
    assert_eq!(events.last().unwrap().name, "run.finished");
    for (number, event) in events.iter().enumerate() {
        assert!(event.id.starts_with(&format!("{}-", number + 1)), "a gap before {event:?}");
    }
    sh(&format!("rm {place}/somebody-else"));
    assert_eq!(user.run("and again")["status"], "succeeded");
}

#[test]
fn a_run_is_refused_while_the_disk_is_nearly_full_and_nothing_is_left_of_it() {
    testhost();
    let _restore = Restore::new();
    let place = "/var/lib/pi-gateway/raw";
    let _disk = Disk::mount(place, "size=10M,mode=711", "pi-gateway");
    restart();
    sh(&format!("head -c 9800k /dev/zero > {place}/somebody-else"));
    let user = User::new("refused");
    user.post("/runs", &[], &json!({"prompt": "hello"})).is_problem(507, "disk_full");
    assert_eq!(user.get("/runs").json()["data"], json!([]));
    sh(&format!("rm {place}/somebody-else"));
    assert_eq!(user.run("hello")["status"], "succeeded");
}

#[test]
fn doctor_says_which_limit_is_in_force_and_what_is_wrong() {
    testhost();
    let _restore = Restore::new();
    let quota = |json: &str| -> serde_json::Value {
        let all: serde_json::Value = serde_json::from_str(json).unwrap();
        all.as_array().unwrap().iter().find(|finding| finding["what"] == "quota").unwrap().clone()
    };
    // No kernel of a test machine keeps quotas on an overlay: measured it is, and the reason is told.
    let found = quota(&sh("pi-gateway doctor --json"));
    assert_eq!(found["state"], "warning", "{found}");
    assert!(found["told"].as_str().unwrap().contains("measured every few seconds"), "{found}");
    assert!(sh("pi-gateway doctor").contains("ok       credentials"));
    assert!(
        sh("systemctl start pi-gateway-quota; journalctl -b -u pi-gateway-quota -o cat --no-pager")
            .contains("workspaces are measured")
    );
    sh("mv /etc/pi-gateway/credentials/OPENAI_API_KEY /root/key.kept");
    let (ok, told) = try_sh("pi-gateway doctor");
    sh("mv /root/key.kept /etc/pi-gateway/credentials/OPENAI_API_KEY");
    assert!(!ok && told.contains("failure  credentials  OPENAI_API_KEY: no credential; type it into"), "{told}");
}
