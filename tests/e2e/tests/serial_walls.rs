//! The walls of a sandbox. Each attack runs inside, by the agent's bash tool, and outside, where it works.

use std::collections::BTreeMap;

use pi_gateway_e2e::attack::{facts, outside, place};
use pi_gateway_e2e::host::{try_sh, uid_of};
use pi_gateway_e2e::operator::fact;
use pi_gateway_e2e::{User, sh, testhost, until};

const KERNEL: &str = include_str!("../attacks/kernel.py");
const REACH: &str = include_str!("../attacks/reach.py");
const HAND_OVER: &str = include_str!("../attacks/hand_over.py");
const PYTHON: &str = "/usr/bin/python3";

#[test]
fn a_shell_in_the_sandbox_has_three_descriptors_no_core_files_and_sees_its_own_processes_only() {
    testhost();
    let facts = User::new("facts").bash(
        "for f in /proc/$$/fd/*; do [ -L $f ] && n=\"$n ${f##*/}\"; done; echo \"fds=$n\"; \
         exec 7</dev/null; n=; for f in /proc/$$/fd/*; do [ -L $f ] && n=\"$n ${f##*/}\"; done; echo \"control=$n\"; \
         echo core=$(ulimit -Hc); echo sys=$(ls -A /sys 2>/dev/null | wc -l); echo run=$(find /run -mindepth 1 2>/dev/null | sort | tr '\\n' ' '); \
         echo incoming=$(ls -A /run/systemd/incoming >/dev/null 2>&1 && echo open || echo closed); \
         own=0; foreign=0; for p in /proc/[0-9]*; do u=$(stat -c %u $p 2>/dev/null) || continue; \
         if [ $u = $(id -u) ]; then own=$((own+1)); else foreign=$((foreign+1)); fi; done; \
         echo own=$own; echo foreign=$foreign; echo caps=$(grep -h ^Cap /proc/self/status | tr -d '[:alpha:]:[:space:]0'); \
         echo groups=$(id -G | wc -w); echo keys=$(cat /proc/keys 2>/dev/null | wc -l)",
    );
    println!("{facts}");
    assert_eq!(fact(&facts, "fds"), "0 1 2", "{facts}");
    assert_eq!(fact(&facts, "control"), "0 1 2 7", "the count finds a fourth: {facts}");
    assert_eq!(fact(&facts, "core"), "0", "{facts}");
    assert_eq!(fact(&facts, "sys"), "0", "{facts}");
    // systemd's own place for mounts that come later is there in 252: empty, root's, and closed.
    let allowed = ["/run/relay-model", "/run/relay-model/relay.sock", "/run/systemd", "/run/systemd/incoming"];
    let run: Vec<&str> = fact(&facts, "run").split(' ').collect();
    assert!(run.contains(&allowed[1]) && run.iter().all(|path| allowed.contains(path)), "{facts}");
    assert_eq!(fact(&facts, "incoming"), "closed", "{facts}");
    assert_eq!(fact(&facts, "foreign"), "0", "{facts}");
    assert!(fact(&facts, "own").parse::<u32>().unwrap() >= 2, "{facts}");
    assert_eq!(fact(&facts, "caps"), "", "{facts}");
    assert_eq!(fact(&facts, "groups"), "1", "{facts}");
    assert_eq!(fact(&facts, "keys"), "0", "{facts}");
}

#[test]
fn what_the_kernel_does_for_a_program_outside_it_refuses_inside() {
    let script = place("kernel.py", KERNEL);
    let outside: BTreeMap<_, _> =
        facts(&outside("-p LimitCORE=infinity", &format!("{PYTHON} {script}"))).into_iter().collect();
    let inside = facts(&User::new("kernel").bash(&format!("{PYTHON} {script}")));
    assert!(outside.len() > 60 && inside.len() == outside.len(), "{outside:?}\n{inside:?}");
    let mut wrong = Vec::new();
    for (attempt, refused) in &inside {
        let control = outside[attempt].as_str();
        println!("{attempt}: {control} outside, {refused} inside");
        let wall = match control {
            "worked" => refused != "worked",
            // This kernel lacks it. The filter comes before the kernel's own answer, so it shows all the same.
            "ENOSYS" => ["EPERM", "signal-31"].contains(&refused.as_str()),
            // Nothing to refuse: not built into this kernel.
            "EAFNOSUPPORT" if attempt == "alg" => refused == control,
            "ENOENT" if attempt == "kcore" => refused == control,
            _ => false,
        };
        if !wall {
            wrong.push(format!("{attempt}: {control} outside, {refused} inside"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Sockets that are no part of this machine but of others, until this goes.
struct Pretended(std::process::Child);

impl Pretended {
    fn new() -> Self {
        let script = place(
            "pretend.py",
            "import os, socket, threading\n\
             def serve(name):\n    s = socket.socket(socket.AF_UNIX); s.bind(name); s.listen(8)\n\
             \x20   while True: s.accept()[0].close()\n\
             for name in ['/run/systemd/resolve/io.systemd.Resolve', '/run/nscd/socket', '/run/avahi-daemon/socket', '\\0pi-gateway-abstract']:\n\
             \x20   if name[0] == '/':\n        os.makedirs(os.path.dirname(name), exist_ok=True)\n        if os.path.exists(name): os.unlink(name)\n\
             \x20   threading.Thread(target=serve, args=[name]).start()\n",
        );
        let child = std::process::Command::new(PYTHON).arg(script).spawn().unwrap();
        until("the sockets are there", || sh("cat /proc/net/unix").contains("@pi-gateway-abstract").then_some(()));
        Pretended(child)
    }
}

impl Drop for Pretended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = try_sh("rm -rf /run/systemd/resolve /run/nscd /run/avahi-daemon");
    }
}

#[test]
fn every_socket_of_the_host_answers_outside_and_only_the_model_relay_inside() {
    testhost();
    let _pretended = Pretended::new();
    // Everything that listens, or takes datagrams, by a name.
    let named =
        sh("awk 'NR>1 && $8 != \"\" && ($4 != \"00000000\" || $5 == \"0002\") {print $8}' /proc/net/unix | sort -u");
    let mut targets: Vec<String> = named
        .lines()
        .map(|name| name.strip_prefix('@').map_or_else(|| format!("unix {name}"), |name| format!("abstract {name}")))
        .collect();
    let ports = sh("ss -ltnH | awk '{sub(/.*:/, \"\", $4); print $4}' | sort -u");
    targets.extend(ports.lines().map(|port| format!("tcp {port}")));
    for expected in [
        "unix /run/pi-gateway/launcher/launcher.sock",
        "unix /run/pi-gateway/launcher-model/launcher.sock",
        "unix /run/systemd/private",
        "unix /run/systemd/userdb/io.systemd.DynamicUser",
        "unix /run/systemd/resolve/io.systemd.Resolve",
        "unix /run/nscd/socket",
        "unix /run/dbus/system_bus_socket",
        "unix /run/systemd/journal/stdout",
        "unix /run/systemd/journal/socket",
        "abstract pi-gateway-abstract",
        "tcp 8787",
        "tcp 9180",
    ] {
        assert!(targets.iter().any(|target| target == expected), "{expected} is not among {targets:#?}");
    }
    let script = place("reach.py", REACH);
    let list = place("sockets", &targets.join("\n"));
    for (target, outcome) in facts(&outside("", &format!("{PYTHON} {script} {list}"))) {
        assert_eq!(outcome, "worked", "outside: {target}");
    }
    let list = place("sockets", &format!("{}\nunix /run/relay-model/relay.sock\ntcp 4180\n", targets.join("\n")));
    let inside = facts(&User::new("sockets").bash(&format!("{PYTHON} {script} {list}; cat /proc/net/dev")));
    assert_eq!(inside.len(), targets.len() + 2, "{inside:#?}");
    for (target, outcome) in &inside {
        let own =
            target.ends_with("relay-model/relay.sock") && target.contains("/run/relay-model") || target == "tcp 4180";
        assert_eq!(outcome == "worked", own, "inside: {target}={outcome}");
    }
}

#[test]
fn a_neighbour_and_the_services_are_out_of_reach() {
    testhost();
    let victim = User::new("victim");
    let id = victim.start("[[bash echo mine > /workspace/secret; exec sleep 300]]");
    victim.stream(&id, None).find(|event| event.name == "tool.started").unwrap();
    let uid = uid_of(&victim.name);
    let pid = until("the victim's process is there", || {
        let found = try_sh(&format!("pgrep -u {uid} -fx 'sleep 300'"));
        found.0.then_some(found.1)
    });
    let name = &victim.name;
    let mut targets: Vec<String> = [
        "/var/lib/pi-gateway/workspaces",
        "/var/lib/pi-gateway/front",
        "/var/lib/pi-gateway/raw",
        "/etc/pi-gateway/gateway.env",
        "/etc/pi-gateway/credentials/OPENAI_API_KEY",
        "/run/credentials/pi-gateway-relay-model.service/OPENAI_API_KEY",
        "/root",
        "/etc/shadow",
    ]
    .map(|path| format!("open {path}"))
    .to_vec();
    targets.push(format!("open /var/lib/pi-gateway/workspaces/{name}/secret"));
    targets.push(format!("open {}", sh(&format!("find /var/lib/pi-gateway -path '*{name}/session.jsonl'"))));
    for file in ["in", "out", "err"] {
        targets.push(format!("write /var/lib/pi-gateway/raw/{id}/{file}"));
    }
    targets.push(format!("open /proc/{pid}/root/workspace/secret"));
    let mut pids = vec![pid.clone(), "1".to_owned()];
    for unit in ["pi-gateway", "pi-gateway-launcher", "pi-gateway-relay-model"] {
        pids.push(sh(&format!("systemctl show -P MainPID {unit}")));
    }
    for pid in &pids {
        targets.extend(["signal", "trace", "memory", "see"].map(|kind| format!("{kind} {pid}")));
    }
    // Not every machine's root may do this to others; the uid itself may.
    let limits = format!("limits {pid}");
    let script = place("reach.py", REACH);
    let list = place("neighbours", &targets.join("\n"));
    for (target, outcome) in facts(&outside("", &format!("{PYTHON} {script} {list}"))) {
        assert_eq!(outcome, "worked", "outside, as root: {target}");
    }
    // Another control: the victim's own uid reaches his process by a signal, so a uid is what is in the way.
    targets.push(limits.clone());
    let list = place("neighbours", &targets.join("\n"));
    let own = facts(&outside(&format!("-p User={uid}"), &format!("{PYTHON} {script} {list}")));
    for target in [limits, format!("signal {pid}")] {
        assert!(own.contains(&(target.clone(), "worked".to_owned())), "{target}: {own:#?}");
    }
    let inside = facts(&User::new("thief").bash(&format!("{PYTHON} {script} {list}")));
    assert_eq!(inside.len(), targets.len(), "{inside:#?}");
    for (target, outcome) in &inside {
        assert_ne!(outcome, "worked", "inside: {target}");
    }
    let _ = victim.post(&format!("/runs/{id}/cancel"), &[], &pi_gateway_e2e::operator::nothing());
    assert_eq!(victim.finished(&id)["status"], "cancelled", "and nobody has hurt it");
}

/// The sockets among the descriptors of processes that are not of their own network namespace, and the files that lie
/// outside of what a sandbox has.
fn inherited(pids: &str) -> String {
    sh(&format!(
        "for p in {pids}; do for f in /proc/$p/fd/*; do t=$(readlink $f) || continue; case $t in \
           socket:*) i=${{t//[!0-9]/}}; grep -qw $i /proc/$p/net/tcp /proc/$p/net/tcp6 /proc/$p/net/unix || echo $p $t ;; \
           /dev/null | /proc/* | /usr/* | /workspace/* | /session/* | /agent/* | /tmp/* | /trusted/* | pipe:* | anon_inode:*) ;; \
           /var/lib/pi-gateway/raw/*) [ ${{f##*/}} -le 2 ] || echo $p $t ;; \
           *) echo $p $t ;; esac; done; done"
    ))
}

#[test]
fn no_descriptor_beyond_the_three_reaches_pi() {
    testhost();
    // A process in a network namespace of its own that inherited a connection, and one that inherited a file.
    let control = "exec 9<>/dev/tcp/127.0.0.1/8787 8</etc/shadow; exec unshare -n sleep 60";
    let mut child = std::process::Command::new("bash").args(["-c", control]).spawn().unwrap();
    let found = until("the search finds what was inherited", || {
        let found = inherited(&child.id().to_string());
        (found.contains("socket:") && found.contains("/etc/shadow")).then_some(found)
    });
    println!("control: {found}");
    child.kill().unwrap();
    child.wait().unwrap();

    let user = User::new("descriptors");
    let id = user.start("[[bash exec sleep 301]]");
    user.stream(&id, None).find(|event| event.name == "tool.started").unwrap();
    let uid = uid_of(&user.name);
    let pids = until("the tool runs", || {
        // A worker of the same uid may come and go beside it.
        let inside = format!(
            "for p in $(pgrep -u {uid}); do grep -q pi-gateway-agent- /proc/$p/cgroup && echo $p; done | tr '\\n' ' '"
        );
        let found = try_sh(&format!("pgrep -u {uid} -fx 'sleep 301' >/dev/null && {inside}"));
        found.0.then_some(found.1)
    });
    assert!(pids.split_whitespace().count() >= 2, "pi and its tool: {pids}");
    let found = inherited(&pids);
    let _ = user.post(&format!("/runs/{id}/cancel"), &[], &pi_gateway_e2e::operator::nothing());
    user.finished(&id);
    assert_eq!(found, "");
}

#[test]
fn programs_that_give_rights_outside_give_none_inside() {
    testhost();
    // Where every sandbox sees them: a set-uid program of root, and one with a capability in its file.
    let (set_uid, capable) = ("/usr/local/bin/attack-id", "/usr/local/bin/attack-grep");
    sh(&format!("cp /usr/bin/id {set_uid}; chmod 4755 {set_uid}; cp /usr/bin/grep {capable}; chmod 755 {capable}"));
    sh(&format!(
        "{PYTHON} -c \"import os, struct; os.setxattr('{capable}', 'security.capability', \
         struct.pack('<5I', 0x02000001, 1, 0, 0, 0))\""
    ));
    let attack = place(
        "rights.sh",
        &format!(
            "echo euid=$({set_uid} -u); echo caps=$({capable} CapEff /proc/self/status | tr -d 'CapEff:[:space:]0'); \
                  echo su=$([ -u /usr/bin/su ] && echo set); echo root=$(su -c 'id -u' root </dev/null 2>/dev/null || echo refused)\n"
        ),
    );
    let control = outside("-p User=nobody", &format!("bash {attack}"));
    assert_eq!(fact(&control, "euid"), "0", "{control}");
    assert_ne!(fact(&control, "caps"), "", "{control}");
    let user = User::new("rights");
    let told = user.bash(&format!("bash {attack}; exit 0"));
    sh(&format!("rm {set_uid} {capable}"));
    assert_eq!(fact(&told, "euid"), uid_of(&user.name).to_string(), "{told}");
    assert_eq!(fact(&told, "caps"), "", "{told}");
    assert_eq!((fact(&told, "su"), fact(&told, "root")), ("set", "refused"), "{told}");
}

#[test]
fn a_second_listener_is_refused_by_the_relay() {
    testhost();
    let script = place("hand_over.py", HAND_OVER);
    let user = User::new("second");
    let id = user.start("well [[say yes]]");
    user.finished(&id);
    // The same, by the same uid and in a network namespace, works while the user has no agent.
    let control = outside(
        &format!("-p User={} -p PrivateNetwork=yes", uid_of(&user.name)),
        &format!("{PYTHON} {script} /run/pi-gateway/relay-model/relay.sock 4180 {id}"),
    );
    assert_eq!(fact(&control, "answer"), "ok", "{control}");
    for port in [4180, 4181] {
        let told = user.bash(&format!("{PYTHON} {script} /run/relay-model/relay.sock {port} {id} 2>&1; exit 0"));
        println!("{port}: {told}");
        assert_ne!(fact(&told, "answer"), "ok", "{told}");
    }
    assert_eq!(user.run("and the first one serves on")["status"], "succeeded");
}
