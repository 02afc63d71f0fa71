//! Any process may die while a workspace is committed, merged or pushed: nothing is lost, both repositories are sound, and
//! the next sync completes.

use std::time::Duration;

use pi_gateway_e2e::gitea::{Gitea, RELAY, at_gitea, elsewhere, in_workspace, is_sound, pushed};
use pi_gateway_e2e::host::{try_sh, until_ready};
use pi_gateway_e2e::http::{Response, try_request};
use pi_gateway_e2e::operator::persistent;
use pi_gateway_e2e::points::{FRONT, LAUNCHER};
use pi_gateway_e2e::{User, sh, testhost, until};

/// How long after the git worker's start the kill comes, in milliseconds: before, in and after each of its steps.
const MOMENTS: [u64; 4] = [0, 30, 100, 300];

fn try_sync(user: &User) -> Option<Response> {
    let headers = [("Content-Type", "application/json")];
    try_request("POST", "/workspace/sync", Some(&user.token), &headers, Some(b"{}"))
}

/// Syncs until it is done.
fn synced(user: &User) -> serde_json::Value {
    until("the sync completes", || {
        let answer = try_sync(user)?;
        assert!(matches!(answer.status, 200 | 409 | 500 | 502 | 503 | 504), "{answer:?}");
        assert_ne!(answer.json()["code"], "merge_conflict", "{answer:?}");
        (answer.status == 200 && answer.json()["push"] == "pushed").then(|| answer.json())
    })
}

/// Kills a victim some time after the user's git worker has started; tells whether it was there to be killed.
fn kill_at(user: &User, victim: &str, moment: u64) -> bool {
    let unit = format!("pi-gateway-git-{}.service", user.name);
    let worker = until("a git worker is up", || {
        let pid = try_sh(&format!("systemctl show -P MainPID {unit}")).1;
        (!pid.is_empty() && pid != "0").then_some(pid)
    });
    std::thread::sleep(Duration::from_millis(moment));
    match victim {
        "worker" => try_sh(&format!("kill -9 {worker}")).0,
        unit => try_sh(&format!("kill -9 $(systemctl show -P MainPID {unit})")).0,
    }
}

#[test]
fn whatever_dies_during_snapshot_and_push_the_next_sync_completes() {
    testhost();
    let user = User::new("dying");
    let _gitea = Gitea::of(&[&user.name]);
    assert_eq!(
        pushed(&user, &user.run("[[bash for n in $(seq 300); do echo $n >f$n; done]]"))["workspace"]["push"],
        "pushed"
    );
    let mut hits = 0;
    for victim in ["worker", FRONT, LAUNCHER, RELAY] {
        for moment in MOMENTS {
            let mark = format!("{victim} {moment}");
            let id = user.start(&format!(
                "[[bash for n in $(seq 300); do echo {mark} $n >f$n; done; head -c 3000000 /dev/urandom >big]]"
            ));
            user.stream(&id, None).find(|event| event.name == "tool.completed").unwrap();
            hits += u32::from(kill_at(&user, victim, moment));
            let events = persistent(&user, &id, |_, _| {});
            assert_eq!(events.last().unwrap().data["status"], "succeeded", "{mark}");
            until_ready();
            let run = pushed(&user, &user.get(&format!("/runs/{id}")).json());
            synced(&user);
            is_sound(&user);
            assert_eq!(at_gitea(&user, "show main:f300"), format!("{mark} 300"), "{run}");
            assert_eq!(in_workspace(&user, "status --porcelain"), "", "{mark}");
        }
    }
    assert!(hits > 8, "only {hits} of 16 were there to be killed");
    leaves_nothing();
}

#[test]
fn whatever_dies_during_a_merge_both_sides_are_there_after_the_next() {
    testhost();
    let user = User::new("merging");
    let _gitea = Gitea::of(&[&user.name]);
    assert_eq!(
        pushed(&user, &user.run("[[bash for n in $(seq 200); do echo $n >f$n; done]]"))["workspace"]["push"],
        "pushed"
    );
    let mut hits = 0;
    for victim in ["worker", FRONT, LAUNCHER, RELAY] {
        for moment in MOMENTS {
            let mark = format!("{victim} {moment}");
            elsewhere(
                &user,
                &format!("for n in $(seq 100); do echo theirs {mark} >f$n; done; echo {mark} >'new {mark}'"),
            );
            let run = user.run(&format!("[[bash for n in $(seq 101 200); do echo ours {mark} >f$n; done]]"));
            pushed(&user, &run);
            let clone = User { name: user.name.clone(), token: user.token.clone() };
            let syncing = std::thread::spawn(move || try_sync(&clone));
            hits += u32::from(kill_at(&user, victim, moment));
            let _ = syncing.join().unwrap();
            until_ready();
            synced(&user);
            is_sound(&user);
            for (file, text) in [("f1", format!("theirs {mark}")), ("f200", format!("ours {mark}"))] {
                assert_eq!(at_gitea(&user, &format!("show main:{file}")), text, "{mark}");
                assert_eq!(in_workspace(&user, &format!("show HEAD:{file}")), text, "{mark}");
            }
            assert_eq!(at_gitea(&user, &format!("show 'main:new {mark}'")), mark);
            assert_eq!(in_workspace(&user, "status --porcelain"), "", "{mark}");
        }
    }
    assert!(hits > 8, "only {hits} of 16 were there to be killed");
    leaves_nothing();
}

fn leaves_nothing() {
    until("no git worker is left", || {
        let units = sh("systemctl list-units --plain --no-legend 'pi-gateway-git-*'");
        let cgroups = sh("find /sys/fs/cgroup -type d -name 'pi-gateway-git-*'");
        (units.is_empty() && cgroups.is_empty()).then_some(())
    });
    assert_eq!(
        sh("find /var/lib/pi-gateway/workspaces -maxdepth 3 -name '.pi-gateway-*' -o -name '*.lock' -path '*/.git/*'"),
        ""
    );
}
