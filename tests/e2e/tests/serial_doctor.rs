//! `pi-gateway doctor` finds what is broken, and nothing else: faults are planted one by one, each between two looks at
//! which all is well, and its remedy, when it is a command, is run as it was told. See docs/operator-commands.md.

use pi_gateway_e2e::gitea::Gitea;
use pi_gateway_e2e::host::{listing, try_sh, until_ready};
use pi_gateway_e2e::operator::{FILE, Restore};
use pi_gateway_e2e::{User, sh, testhost};
use serde_json::Value;

/// Something that is broken.
struct Fault {
    /// What breaks it.
    plant: String,
    /// The one line that fails, and a word of it.
    line: (&'static str, String),
    /// How it is put right.
    mend: Mend,
}

enum Mend {
    /// By the command that doctor tells; this is put before it, as what the operator types in.
    Told(String),
    /// What it tells is no command, or one that needs what a test host has not: a package, an answer of somebody else.
    By(String),
}

fn fault(plant: impl Into<String>, what: &'static str, word: impl Into<String>, mend: Mend) -> Fault {
    Fault { plant: plant.into(), line: (what, word.into()), mend }
}

fn told() -> Mend {
    Mend::Told(String::new())
}

/// What doctor finds, and whether it is content.
fn doctor() -> (bool, Vec<Value>) {
    let (ok, text) = try_sh("pi-gateway doctor --json");
    let found: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (ok, found.as_array().unwrap().clone())
}

fn failures(found: &[Value]) -> Vec<&Value> {
    found.iter().filter(|finding| finding["state"] == "failure").collect()
}

fn all_is_well(when: &str) -> Vec<Value> {
    let (ok, found) = doctor();
    assert!(ok && failures(&found).is_empty(), "{when}: {:#?}", failures(&found));
    found
}

fn find(faults: &[Fault]) {
    for Fault { plant, line: (what, word), mend } in faults {
        println!("{what}: {plant}");
        sh(plant);
        let (ok, found) = doctor();
        let failed = failures(&found);
        assert_eq!(failed.len(), 1, "{plant}: {failed:#?}");
        let finding = failed[0];
        let text = finding["told"].as_str().unwrap();
        assert!(!ok && finding["what"] == *what && text.contains(word), "{plant}: {finding}");
        match mend {
            Mend::Told(input) => {
                let command = finding["command"].as_str().unwrap_or_else(|| panic!("no command in {finding}"));
                sh(&if input.is_empty() { command.to_owned() } else { format!("{input} | {command}") });
            }
            Mend::By(command) => drop(sh(command)),
        }
        all_is_well(plant);
    }
}

#[test]
fn a_whole_gateway_is_well_in_every_respect_and_looking_changes_nothing() {
    testhost();
    until_ready();
    let state = || {
        let fixed =
            |path: &str| listing(path).lines().filter(|line| !line.contains("/front/")).collect::<Vec<_>>().join("\n");
        let units = sh(
            "systemctl list-units --all --plain --no-legend 'pi-gateway*' | awk '{print $1, $3}' | grep -v -e worker -e quota",
        );
        [fixed("/var/lib/pi-gateway"), fixed("/run/pi-gateway"), fixed("/run/userdb"), fixed("/etc/pi-gateway"), units]
    };
    let before = state();
    let found = all_is_well("at first");
    assert_eq!(state(), before);
    let seen: Vec<&str> = found
        .iter()
        .filter(|finding| finding["state"] == "ok")
        .filter_map(|finding| finding["what"].as_str())
        .collect();
    for what in [
        "configuration",
        "systemd",
        "names",
        "cgroups",
        "files",
        "credentials",
        "runtime",
        "disk",
        "owners",
        "units",
        "address",
        "versions",
        "limits",
        "sandbox",
        "upstream",
        "front",
    ] {
        assert!(seen.contains(&what), "{what} is not among {seen:?}");
    }
    let text = sh("pi-gateway doctor");
    println!("{text}");
    assert!(text.contains("ok       sandbox      an agent's holds, and the relays take its listeners"), "{text}");
    assert!(text.contains("node 22.23.3 and pi 1.5.2 run in an agent's sandbox"), "{text}");
    for limit in ["MemoryMax=", "TasksMax=", "CPUQuota="] {
        assert!(text.contains(&format!("ok       limits       {limit} limits")), "{text}");
    }
}

#[test]
fn each_planted_fault_is_found_alone_with_its_remedy() {
    testhost();
    let _restore = Restore::new();
    until_ready();
    let user = User::new("examined");
    assert_eq!(user.run("hello")["status"], "succeeded");
    let (name, workspace) = (&user.name, user.workspace());
    let key = "/etc/pi-gateway/credentials/OPENAI_API_KEY";
    let restart = "systemctl restart pi-gateway-launcher pi-gateway";
    let enter = "/usr/lib/pi-gateway/pi-gateway-enter";
    let jiti = "/usr/lib/pi-gateway/runtime/1.5.2/node_modules/jiti/package.json";
    let drop_in = "/etc/systemd/system/pi-gateway-agent-.service.d";
    sh(&format!("cp -a {key} /root/key; cp -a {FILE} /root/env; cp /etc/nsswitch.conf /root/nsswitch.conf"));
    all_is_well("before the first fault");
    find(&[
        fault(format!("echo MAX_UPLOAD_MB=many >>{FILE}"), "configuration", "MAX_UPLOAD_MB", Mend::By(format!("cp -a /root/env {FILE}"))),
        fault(format!("chmod 0644 {FILE}"), "configuration", "lets others read", told()),
        fault("sed -i 's/ systemd//' /etc/nsswitch.conf", "names", "libnss-systemd", Mend::By("cp /root/nsswitch.conf /etc/nsswitch.conf".into())),
        fault(format!("chmod 0775 {enter}"), "files", enter, told()),
        fault("rmdir /run/pi-gateway/root/session", "files", "/run/pi-gateway/root/session", told()),
        fault("echo 10.0.0.1 api.example.org >>/run/pi-gateway/root/etc/hosts", "files", "etc/hosts", told()),
        fault("chown nobody /var/lib/pi-gateway/standing", "files", "/var/lib/pi-gateway/standing", told()),
        fault(format!("chmod 0644 {key}"), "credentials", "OPENAI_API_KEY", told()),
        fault(format!("mv {key} /root/key.moved"), "credentials", "no credential", Mend::Told("cat /root/key".into())),
        fault(format!("echo changeme-please >{key}"), "credentials", "placeholder", Mend::By(format!("cp -a /root/key {key}"))),
        fault(format!("echo '{{}}' >/root/changed; mount --bind /root/changed {jiti}"), "runtime", "pinned", Mend::By(format!("umount {jiti}"))),
        fault(format!("chown 12345 {workspace}"), "owners", name, Mend::By(format!("chown {} {workspace}", pi_gateway_e2e::host::uid_of(name)))),
        fault(
            format!("mount -t tmpfs -o size=4M,mode=711 full /var/lib/pi-gateway/sessions && head -c 4000K /dev/zero >/var/lib/pi-gateway/sessions/{name}"),
            "disk",
            "make room",
            Mend::By("umount /var/lib/pi-gateway/sessions".into()),
        ),
        fault("systemctl stop pi-gateway-quota.path", "units", "pi-gateway-quota.path is inactive", told()),
        fault("systemctl stop pi-gateway-relay-model", "units", "pi-gateway-relay-model.service is not up", told()),
        fault(format!("echo PORT=8788 >>{FILE}"), "address", "127.0.0.1:8788", Mend::By(format!("cp -a /root/env {FILE}"))),
        fault("cp -a /usr/bin/pi-gateway /usr/bin/pi-gateway.new && mv /usr/bin/pi-gateway.new /usr/bin/pi-gateway", "versions", "older /usr/bin/pi-gateway", told()),
        fault(
            format!("mkdir -p {drop_in} && printf '[Service]\\nPrivateUsers=no\\n' >{drop_in}/looser.conf && systemctl daemon-reload"),
            "sandbox",
            "PrivateUsers=yes is not enforced",
            told(),
        ),
        fault("systemctl stop pi-gateway-upstream", "upstream", "cannot be reached", Mend::By("systemctl start pi-gateway-upstream && for i in $(seq 100); do curl -s -o /dev/null http://127.0.0.1:9180/__log && break; sleep 0.1; done".into())),
    ]);
    sh(&format!("{restart}; rm -f /root/key.moved /root/changed"));
    until_ready();
}

#[test]
fn faults_of_gitea_and_its_account_are_found() {
    testhost();
    until_ready();
    let user = User::new("pushing");
    let _gitea = Gitea::of(&[&user.name]);
    assert_eq!(user.run("hello")["status"], "succeeded");
    let found = all_is_well("with a Gitea");
    let gitea = found.iter().find(|finding| finding["what"] == "gitea").expect("Gitea is asked");
    assert!(gitea["told"].as_str().unwrap().contains("127.0.0.1:3000"), "{gitea}");
    if pi_gateway_e2e::gitea::is_real() {
        return;
    }
    let token = "/etc/pi-gateway/credentials/GITEA_SYNC_SERVICE_TOKEN";
    let access = format!("/var/lib/pi-gateway-gitea/{}/workspace.git/access", user.name);
    sh(&format!("cp -a {token} /root/token"));
    let up = "systemctl start pi-gateway-gitea && for i in $(seq 100); do curl -s -o /dev/null http://127.0.0.1:3000/ && break; sleep 0.1; done";
    find(&[
        fault(
            format!("echo 0123456789abcdef >{token}"),
            "gitea",
            "does not accept sync-bot's token",
            Mend::Told("cat /root/token".into()),
        ),
        fault(
            format!("echo 'sync-bot read' >{access}"),
            "gitea",
            "may not push",
            Mend::By(format!("echo 'sync-bot write' >{access}")),
        ),
        fault("systemctl stop pi-gateway-gitea", "gitea", "cannot be reached", Mend::By(up.into())),
    ]);
}
