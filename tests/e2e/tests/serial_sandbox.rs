//! The sandbox from inside, and the scores of the units.

use pi_gateway_e2e::{User, sh, testhost};

#[test]
fn a_sandbox_has_one_interface_one_listener_and_no_socket_of_the_host() {
    testhost();
    let user = User::new("walls");
    let facts = user.bash(
        "awk -F: 'NR>2 {print \"interface\" $1}' /proc/self/net/dev; \
         for p in 4180 8787 9180 22 53; do (exec 3<>/dev/tcp/127.0.0.1/$p) 2>/dev/null && echo open $p; done; \
         find / -xdev -type s 2>/dev/null; find /run /dev /tmp -type s 2>/dev/null; ls -A /sys 2>/dev/null; \
         ls / | tr '\\n' ' '; echo; grep -E 'NoNewPrivs|Seccomp:|CapEff|CapBnd' /proc/self/status; ulimit -c; umask; \
         ls /proc | grep -c '^[0-9]'; cat /proc/1/cmdline 2>&1 | head -c 60",
    );
    let lines: Vec<&str> = facts.lines().map(str::trim).collect();
    assert_eq!(
        lines.iter().filter(|line| line.starts_with("interface")).collect::<Vec<_>>(),
        [&"interface    lo"],
        "{facts}"
    );
    assert_eq!(lines.iter().filter(|line| line.starts_with("open")).collect::<Vec<_>>(), [&"open 4180"], "{facts}");
    let sockets: Vec<_> = lines.iter().filter(|line| line.ends_with(".sock") || line.contains("socket")).collect();
    assert!(sockets.iter().all(|socket| **socket == "/run/relay-model/relay.sock"), "{facts}");
    assert!(
        facts.contains("agent bin dev etc home lib lib64 proc root run sbin session sys tmp tmp-sized trusted usr var var-tmp-sized workspace"),
        "{facts}"
    );
    for fact in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "\n0077\n"]
    {
        assert!(facts.contains(fact), "{fact} is not in {facts}");
    }
    assert!(facts.contains("No such file"), "process 1 is not there: {facts}");
}

#[test]
fn what_a_sandbox_must_not_do_fails() {
    testhost();
    let user = User::new("forbidden");
    for (attempt, control) in [
        (": > /usr/bin/forbidden", ": > /usr/bin/forbidden; rm /usr/bin/forbidden"),
        (": > /etc/forbidden", ": > /etc/forbidden; rm /etc/forbidden"),
        (": >> /trusted/extension.mjs", ": >> /usr/lib/pi-gateway/trusted/extension.mjs"),
        (": >> /agent/settings.json", ": >> /usr/lib/pi-gateway/trusted/settings.json"),
        ("cat /proc/sys/kernel/hostname", "cat /proc/sys/kernel/hostname"),
    ] {
        // Outside the sandbox the same thing works, so it is the sandbox that forbids it.
        assert!(pi_gateway_e2e::host::try_sh(control).0, "{control} does not work outside either");
        let output = user.bash(&format!("if ( {attempt} ) 2>/dev/null; then echo worked; else echo refused; fi"));
        assert_eq!(output.trim(), "refused", "{attempt}");
    }
}

#[test]
fn the_units_have_their_scores() {
    testhost();
    let user = User::new("scores");
    let id = user.start("[[slow 100 30]]");
    user.stream(&id, None).find(|event| event.name == "text.delta").unwrap();
    assert_eq!(user.get("/workspace/files").status, 200, "a worker is up");
    for (unit, most) in [
        (format!("pi-gateway-agent-{}", user.name), 0.5),
        (format!("pi-gateway-worker-{}", user.name), 0.3),
        ("pi-gateway".to_owned(), 0.5),
        ("pi-gateway-launcher".to_owned(), 1.0),
        ("pi-gateway-relay-model".to_owned(), 1.2),
    ] {
        let line = sh(&format!("systemd-analyze security --no-pager {unit}.service | tail -1"));
        let score: f64 = line.split(": ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
        println!("{unit}: {score}");
        assert!(score <= most, "{line}");
    }
    user.finished(&id);
}
