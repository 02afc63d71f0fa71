//! The listing of processes in docs/overview.md is what `ps` shows of a gateway at work.

use std::collections::BTreeSet;

use pi_gateway_e2e::host::{until_ready, user_processes};
use pi_gateway_e2e::operator::{FILE, Restore};
use pi_gateway_e2e::{User, sh, testhost, until};

/// Lines of the listing: user, network namespace, unit and command, in columns.
fn listing(user: &User, run: &str) -> String {
    let uid = sh(&format!("stat -c %u {}", user.workspace()));
    let host = sh("readlink /proc/1/ns/net | tr -dc 0-9");
    let ps = sh("ps -ww -eo user:20,netns,unit:50,args --sort=start_time,pid --no-headers");
    let mut lines = BTreeSet::new();
    for line in ps.lines().filter(|line| line.contains("pi-gateway-") || line.contains("pi-gateway.service")) {
        let mut words = line.split_whitespace();
        let mut next = || words.next().unwrap().to_owned();
        let (owner, netns, unit) = (next(), next(), next());
        let command = words.collect::<Vec<_>>().join(" ");
        // The upstream, Gitea and the test itself are no part of the gateway.
        if ["pi-gateway-upstream", "pi-gateway-gitea"].iter().any(|other| unit.starts_with(other))
            || unit.starts_with("run-")
        {
            continue;
        }
        // What the launcher starts for a moment, such as systemctl.
        if unit == "pi-gateway-launcher.service" && !command.starts_with("/usr/lib/pi-gateway/") {
            continue;
        }
        let namespace = if netns == host { "host" } else { "own" };
        // As another machine would show it.
        let name = format!("pg{}", uid.parse::<u32>().unwrap() - 1_879_048_192);
        let owner = if owner == name || owner == uid { "pg1".to_owned() } else { owner };
        let unit = unit.replace(&user.name, "alice");
        let command = command.replace(run, "RUN").replace(&user.name, "alice");
        lines.insert(format!("{owner:<18} {namespace:<5} {unit:<34} {command}"));
    }
    format!(
        "{:<18} {:<5} {:<34} COMMAND\n{}\n",
        "USER",
        "NETNS",
        "UNIT",
        lines.into_iter().collect::<Vec<_>>().join("\n")
    )
}

#[test]
fn the_listing_in_the_overview_is_what_ps_shows() {
    testhost();
    let _restore = Restore::new();
    // Every relay is up.
    sh(&format!(
        "printf '%s\\n' SANDBOX_INTERNET_ENABLED=true WORKSPACE_REMOTE_MODE=gitea GITEA_BASE_URL=http://127.0.0.1:3000 \
         GITEA_SYNC_SERVICE_USERNAME=sync-bot >>{FILE}; systemctl restart pi-gateway-launcher pi-gateway"
    ));
    until_ready();
    until("nobody else is there", || user_processes().is_empty().then_some(()));
    let user = User::new("listed");
    let run = user.start("[[bash sleep 60]]");
    user.stream(&run, None).find(|event| event.name == "tool.started").expect("the tool");
    // The worker counts what the workspace takes as soon as the agent works.
    let found = until("agent, tool and worker are there", || {
        let found = listing(&user, &run);
        let worker = found.lines().any(|line| line.starts_with("pg1 ") && line.ends_with("/pi-gateway-worker files"));
        (found.contains(" sleep 60") && worker).then_some(found)
    });
    user.post(&format!("/runs/{run}/cancel"), &[], &serde_json::json!({}));
    user.finished(&run);
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/overview.md")).unwrap();
    let told = document.split("<!-- begin of the listing -->\n```\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(found, told, "put the former into docs/overview.md:\n{found}");
}
