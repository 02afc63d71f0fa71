//! The git relay as the launcher starts it: up while workspaces are kept in step with a Gitea, and for users in empty
//! network namespaces only. The user's side is git in a unit of its own whose first process hands the listener over.

use pi_gateway_e2e::gitea::{Gitea, HAND_OVER, RELAY, REPOSITORIES, pushed};
use pi_gateway_e2e::host::{try_sh, uid_of};
use pi_gateway_e2e::operator::kill;
use pi_gateway_e2e::{User, sh, testhost, until};

/// Runs commands as the user, in a network namespace of his own, with a listener that the relay has.
fn in_a_git_unit(user: &str, commands: &str) -> (bool, String) {
    std::fs::write("/usr/local/bin/hand-over.py", HAND_OVER).unwrap();
    std::fs::write("/usr/local/bin/git-unit.sh", commands).unwrap();
    try_sh(&format!(
        "systemd-run -q --wait --pipe -p User={} -p PrivateNetwork=yes -p PrivateTmp=yes -p WorkingDirectory=/tmp \
         -E HOME=/nonexistent -E GIT_TERMINAL_PROMPT=0 -E GIT_AUTHOR_NAME=a -E GIT_AUTHOR_EMAIL=a@b \
         -E GIT_COMMITTER_NAME=a -E GIT_COMMITTER_EMAIL=a@b -E URL=http://127.0.0.1:4181/{user}/workspace.git \
         python3 /usr/local/bin/hand-over.py 'sh -e /usr/local/bin/git-unit.sh 2>&1'",
        uid_of(user)
    ))
}

fn active(unit: &str) -> String {
    try_sh(&format!("systemctl is-active {unit}")).1
}

#[test]
fn the_relay_is_up_exactly_while_workspaces_are_kept_in_step() {
    testhost();
    let user = User::new("mode");
    user.run("hello");
    assert_eq!(active(RELAY), "inactive");
    let restore = Gitea::of(&[&user.name, "bob"]);
    assert_eq!(active(RELAY), "active");
    assert_eq!(sh(&format!("systemctl show -P User {RELAY}")), "pi-gateway-git");
    let line = sh(&format!("systemd-analyze security --no-pager {RELAY}.service | tail -1"));
    let score: f64 = line.split(": ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
    assert!(score <= 1.2, "{line}");
    let pid = sh(&format!("systemctl show -P MainPID {RELAY}"));
    sh("systemctl restart pi-gateway-launcher");
    assert_eq!(sh(&format!("systemctl show -P MainPID {RELAY}")), pid, "what is up with its configuration stays");
    // Some of these are new within the second in which the relay was started.
    let mut last = pid;
    for _ in 0..4 {
        sh("touch /etc/pi-gateway/credentials/GITEA_SYNC_SERVICE_TOKEN; systemctl restart pi-gateway-launcher");
        let next = sh(&format!("systemctl show -P MainPID {RELAY}"));
        assert_ne!(next, last, "a new token is taken at once");
        last = next;
    }
    drop(restore);
    assert_eq!(active(RELAY), "inactive");
    assert!(!std::path::Path::new("/run/credentials/pi-gateway-relay-git.service").exists());
}

#[test]
fn a_user_in_an_empty_namespace_reaches_his_own_repository_and_keeps_it_over_restarts_of_the_relay() {
    testhost();
    let user = User::new("gituser");
    user.run("hello");
    let restore = Gitea::of(&[&user.name, "bobs-own"]);
    let (name, commands) = (
        user.name.clone(),
        "ls /sys/class/net 2>/dev/null; git clone -q $URL w; cd w; n=0
         while [ $n -lt 40 ]; do
             n=$((n + 1)); git commit -q --allow-empty -m $n; tries=0
             until git push -q origin HEAD:main; do tries=$((tries + 1)); [ $tries -lt 100 ]; done
         done
         for other in bobs-own x/../bobs-own; do git ls-remote http://127.0.0.1:4181/$other/workspace.git && exit 3; done
         git push origin :main && exit 4
         git ls-remote http://127.0.0.1:3000/bobs-own/workspace.git && exit 5
         echo all done",
    );
    let unit = std::thread::spawn(move || in_a_git_unit(&name, commands));
    let pushed = || {
        let path = format!("{REPOSITORIES}/{}/workspace.git", user.name);
        sh(&format!("git -C {path} rev-list --count main 2>/dev/null || echo 0")).parse::<u32>().unwrap()
    };
    for count in [5, 15] {
        until("some commits have arrived", || (pushed() >= count || unit.is_finished()).then_some(()));
        kill(RELAY);
    }
    let (ok, told) = unit.join().unwrap();
    assert!(ok && told.contains("hand-over: ok") && told.ends_with("all done"), "{told}");
    assert_eq!(pushed(), 40);
    for (word, reason) in [("path_not_allowed", "of bob"), ("403", "a deletion"), ("3000", "Gitea itself")] {
        assert!(told.contains(word), "{reason} is refused: {told}");
    }
    let requests = sh(&format!("journalctl -b --no-pager -o cat -u {RELAY} | grep -c '\"git request\"'"));
    assert!(requests.parse::<u32>().unwrap() >= 80, "{requests}");
    let log = sh(&format!("cat {REPOSITORIES}/log"));
    assert!(!log.contains("bobs-own"), "nothing was asked about his: {log}");
    drop(restore);
}

#[test]
fn the_token_is_nowhere_but_in_the_git_relay() {
    testhost();
    let user = User::new("tokens");
    let restore = Gitea::of(&[&user.name, "bob"]);
    // The git worker's own listener is gone before another is handed over.
    pushed(&user, &user.run("hello"));
    let (ok, told) = in_a_git_unit(
        &user.name,
        "git ls-remote $URL; cat /etc/pi-gateway/credentials/* /run/credentials/*/* && exit 3; echo all done",
    );
    assert!(told.contains("hand-over: ok") && (ok || told.contains("not_found")), "{told}");
    std::fs::copy("/etc/pi-gateway/credentials/GITEA_SYNC_SERVICE_TOKEN", "/root/needle-token").unwrap();
    let files = sh("grep -rlaF -f /root/needle-token --devices=skip /etc /var/lib /var/log /run 2>/dev/null || true");
    let allowed = [
        "/etc/pi-gateway/credentials/GITEA_SYNC_SERVICE_TOKEN",
        "/run/credentials/pi-gateway-relay-git.service/GITEA_SYNC_SERVICE_TOKEN",
        "/var/lib/pi-gateway-gitea/accounts",
    ];
    let mut found: Vec<&str> = files.lines().collect();
    found.sort_unstable();
    assert_eq!(found, allowed);
    let units = "journalctl -b --no-pager; systemctl show 'pi-gateway*' --all; \
                 cat /run/systemd/transient/* /proc/[0-9]*/cmdline /proc/[0-9]*/environ";
    assert_eq!(sh(&format!("({units}) 2>/dev/null | grep -caF -f /root/needle-token || true")), "0");
    // The memory of every other process of the gateway; that of the relay shows that the search finds it.
    for (unit, holds) in
        [(RELAY, true), ("pi-gateway", false), ("pi-gateway-launcher", false), ("pi-gateway-relay-model", false)]
    {
        let pid = sh(&format!("systemctl show -P MainPID {unit}"));
        let count = sh(&format!(
            "(printf 'sync-bot:'; tr -d '\\n' </root/needle-token) | base64 -w0 \
             >/root/needle-basic; while read -r range flags _; do case $flags in r*) from=$((16#${{range%-*}})); \
             to=$((16#${{range#*-}})); dd if=/proc/{pid}/mem bs=4096 skip=$((from/4096)) count=$(((to-from)/4096)) \
             2>/dev/null;; esac; done </proc/{pid}/maps | grep -caF -f /root/needle-token -f /root/needle-basic || true"
        ));
        assert_eq!(count != "0", holds, "{unit}: {count}");
    }
    drop(restore);
    sh("rm -f /root/needle-token /root/needle-basic");
}
