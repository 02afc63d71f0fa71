//! An agent's internet: off, it is nowhere; on, the programs that people use work without a setting, and nothing but the
//! internet can be reached.

use pi_gateway_e2e::host::{try_sh, uid_of};
use pi_gateway_e2e::internet::{FORBIDDEN, FORBIDDEN_V6, Internet, OWN, PUBLIC, RELAY, names, pip_index};
use pi_gateway_e2e::operator::{fact, kill, nothing};
use pi_gateway_e2e::{User, request, sh, testhost, until};
use serde_json::Value;

/// What a sandbox has of a network.
const NETWORK: &str = "awk -F: 'NR>2 {gsub(/ /, \"\", $1); print \"interface=\" $1}' /proc/self/net/dev; \
    echo listening=$(awk '$4 == \"0A\" {sub(/.*:/, \"\", $2); print $2}' /proc/self/net/tcp /proc/self/net/tcp6 2>/dev/null | sort | tr '\\n' ' '); \
    echo run=$(ls /run | tr '\\n' ' '); echo proxies=$(env | grep -i _proxy= | wc -l)";

fn active(unit: &str) -> String {
    try_sh(&format!("systemctl is-active {unit}")).1
}

fn egress_health() -> Value {
    request("GET", "/health/ready", None, &[], None).json()["egress_relay"].clone()
}

#[test]
fn with_the_internet_off_a_sandbox_has_lo_one_listener_and_no_relay_and_with_it_one_more_listener() {
    testhost();
    let off = User::new("offline").bash(NETWORK);
    assert_eq!(active(RELAY), "inactive");
    assert_eq!(egress_health(), Value::Null);
    // 4180, 4182.
    assert_eq!((fact(&off, "interface"), fact(&off, "listening")), ("lo", "1054"), "{off}");
    assert_eq!((off.matches("interface=").count(), fact(&off, "proxies")), (1, "0"), "{off}");
    assert!(!fact(&off, "run").contains("egress"), "{off}");
    let internet = Internet::with(&[]);
    let on = User::new("online").bash(NETWORK);
    assert_eq!((fact(&on, "interface"), fact(&on, "listening")), ("lo", "1054 1056"), "{on}");
    assert_eq!((on.matches("interface=").count(), fact(&on, "proxies")), (1, "7"), "{on}");
    assert!(fact(&on, "run").contains("relay-egress"), "{on}");
    assert_eq!((active(RELAY).as_str(), egress_health()), ("active", Value::from("ok")));
    assert_eq!(sh(&format!("systemctl show -P User {RELAY}")), "pi-gateway-egress");
    assert!(!std::path::Path::new("/run/credentials/pi-gateway-relay-egress.service").exists());
    let line = sh(&format!("systemd-analyze security --no-pager {RELAY}.service | tail -1"));
    let score: f64 = line.split(": ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
    assert!(score <= 1.2, "{line}");
    let doctor = try_sh("pi-gateway doctor").1;
    assert!(doctor.contains("internet     agents reach every public host"), "{doctor}");
    drop(internet);
    assert_eq!((active(RELAY).as_str(), egress_health()), ("inactive", Value::Null));
}

#[test]
fn npm_pip_git_and_curl_work_without_any_setting() {
    testhost();
    let internet = Internet::with(&[]);
    let user = User::new("programs");
    let told = user.bash(
        "exec 2>&1; curl -fsS https://example.com/; curl -fsS http://example.com/; \
         git clone -q https://github.com/someone/thing.git && cat thing/README; \
         mkdir n && cd n && npm install --no-fund --no-audit tiny-hello && node -p \"require('tiny-hello')\"; cd ..; \
         pip install tiny-hello && python3 -m tiny_hello; echo over",
    );
    println!("{told}");
    assert_eq!(told.matches("hello from curl").count(), 2, "{told}");
    for program in ["hello from git", "hello from npm", "hello from pip", "over"] {
        assert!(told.contains(program), "{program}: {told}");
    }
    // And the node that pi runs on, by its own fetch.
    let node = "/usr/lib/pi-gateway/runtime/1.5.2/node";
    let fetched = user.bash(&format!(
        "n={node}; [ -x $n ] || n=$(find /usr/lib/pi-gateway/runtime -name node -type f | head -1); \
         $n -e 'fetch(\"https://example.com/\").then(a => a.text()).then(t => console.log(t))' 2>&1"
    ));
    assert!(fetched.contains("hello from curl"), "{fetched}");
    assert_eq!(internet.called(), [PUBLIC]);
    let log = sh(&format!(
        "journalctl -b --no-pager -o cat -u {RELAY} | grep '\"egress connection\"' | grep {}",
        uid_of(&user.name)
    ));
    for host in names() {
        let line = log.lines().find(|line| line.contains(&host)).unwrap_or_else(|| panic!("{host}: {log}"));
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["address"], &line["status"]), (&PUBLIC.into(), &200.into()), "{line}");
        assert!(line["down_bytes"].as_u64().unwrap() > 100 && line["ms"].is_u64(), "{line}");
    }
}

/// Has each URL fetched in the sandbox; gives what curl saw of each, in their order.
fn fetch(user: &User, urls: &[String]) -> Vec<String> {
    let list: Vec<String> = urls.iter().map(|url| format!("'{url}'")).collect();
    let told = user.bash(&format!(
        "for u in {}; do echo \"$u => $(curl -gksS -L -m 20 -w ' %{{http_code}} %{{http_connect}}' \"$u\" 2>&1 | tr '\\n' ' ')\"; done",
        list.join(" ")
    ));
    println!("{told}");
    let lines: Vec<String> = told.lines().filter(|line| line.contains(" => ")).map(str::to_owned).collect();
    assert_eq!(lines.len(), urls.len(), "{told}");
    lines
}

#[test]
fn forbidden_addresses_are_refused_in_every_notation_by_ip_name_and_redirect() {
    testhost();
    let internet = Internet::with(&[]);
    let user = User::new("forbidden");
    // The control: outside of the sandbox each of these is there, and is seen to be called.
    let six: Vec<&str> =
        FORBIDDEN_V6.into_iter().filter(|address| try_sh(&format!("curl -gsS -m 3 'http://[{address}]/'")).0).collect();
    let mut outside: Vec<String> = FORBIDDEN.iter().map(|address| (*address).to_owned()).collect();
    outside.extend(["127.0.0.1", "127.0.0.2", OWN, "169.254.170.2"].map(str::to_owned));
    internet.called();
    for address in &outside {
        sh(&format!("curl -fsS -m 5 http://{address}/"));
        sh(&format!("curl -kfsS -m 5 https://{address}/"));
    }
    let called = internet.called();
    assert!(outside.iter().all(|address| called.contains(address)), "{called:?}");
    let mut hosts = outside;
    hosts.extend(six.iter().map(|address| format!("[{address}]")));
    for written in [
        "127.1",
        "0x7f.1",
        "0x7f000001",
        "2130706433",
        "017700000001",
        "0177.0.0.1",
        "127.0.0.1.",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "[fe80::1%25lo]",
        "%31%32%37.0.0.1",
        "localhost",
        "LOCALHOST",
        "localhost.localdomain",
        "inner.dns.test",
        "zero.dns.test",
        "private.dns.test",
        "metadata.dns.test",
        "own.dns.test",
        "both.dns.test",
        "mapped.dns.test",
        "six.dns.test",
        "inner.dns.test.",
        "user:pw@127.0.0.1",
        "example.com@127.0.0.1",
    ] {
        hosts.push(written.to_owned());
    }
    let mut urls = Vec::new();
    for host in &hosts {
        urls.extend([format!("http://{host}/"), format!("https://{host}/")]);
    }
    for (index, line) in fetch(&user, &urls).iter().enumerate() {
        assert!(!line.contains("hello from curl"), "{}: {line}", urls[index]);
    }
    // And without the environment's exception for what is local.
    let list: Vec<String> = urls.iter().map(|url| format!("'{url}'")).collect();
    let told = user.bash(&format!(
        "for u in {}; do curl -gksS --noproxy '' -m 20 -o /dev/null -w '%{{http_code}} %{{http_connect}}\\n' \"$u\" 2>/dev/null; done; true",
        list.join(" ")
    ));
    let answered: Vec<&str> = told.trim().lines().collect();
    assert_eq!(answered.len(), urls.len(), "{told}");
    for (url, codes) in urls.iter().zip(&answered) {
        // Refused by the relay, or by curl itself, which takes no such host.
        let refused = ["403", "400", "502", "000"].iter().any(|code| codes.split(' ').any(|got| got == *code));
        assert!(refused && !codes.contains("200"), "{url}: {codes}");
    }
    assert!(answered.iter().filter(|codes| codes.contains("403")).count() > 60, "{told}");
    // By redirect, each of which is a request of its own.
    let redirects: Vec<String> = [
        "http://127.0.0.1/",
        "https://127.0.0.2/",
        "http://169.254.169.254/latest/",
        "http://10.1.2.3/",
        "http://0x7f.2/",
        "http://inner.dns.test/",
    ]
    .iter()
    .flat_map(|to| [format!("https://example.com/to?{to}"), format!("http://example.com/to?{to}")])
    .collect();
    for line in fetch(&user, &redirects) {
        assert!(!line.contains("hello from curl"), "{line}");
    }
    assert_eq!(internet.called(), [PUBLIC], "nobody but the redirecting host was called");
    // The way there is open to what is permitted.
    let permitted = fetch(
        &user,
        &[
            "http://public.dns.test/".to_owned(),
            format!("http://{PUBLIC}/"),
            "https://example.com/to?https://example.com/".to_owned(),
        ],
    );
    assert!(permitted.iter().all(|line| line.contains("hello from curl")), "{permitted:?}");
}

#[test]
fn a_name_that_changes_its_address_is_judged_each_time_and_called_where_it_was_judged() {
    testhost();
    let internet = Internet::with(&[]);
    let user = User::new("rebind");
    let rebind = "http://rebind.dns.test/".to_owned();
    let told = fetch(&user, &[rebind.clone(), rebind.clone(), rebind, "http://nowhere.dns.test/".to_owned()]);
    assert!(told[0].contains("hello from curl") && told[3].contains("name_not_found"), "{told:?}");
    assert!(told[1..3].iter().all(|line| line.contains("address_not_allowed") && line.contains("403")), "{told:?}");
    assert_eq!(internet.called(), [PUBLIC]);
    assert_eq!(sh("curl -fsS -m 5 http://rebind.dns.test/"), "hello from curl", "outside it leads to loopback by now");
    assert_eq!(internet.called(), ["127.0.0.1"]);
}

#[test]
fn nothing_gets_out_but_through_the_proxy_and_dns_does_not_either() {
    testhost();
    let internet = Internet::with(&[]);
    let attempts = format!(
        "exec 2>&1; t() {{ if timeout 10 \"$@\" >/dev/null 2>&1; then echo $name=worked; else echo $name=refused; fi; }}; \
         name=names t getent hosts example.com public.dns.test; \
         name=tcp t bash -c 'exec 3<>/dev/tcp/{PUBLIC}/80'; \
         name=dns-tcp t bash -c 'exec 3<>/dev/tcp/93.184.216.53/53'; \
         name=udp t /usr/bin/python3 -c 'import socket as s; u = s.socket(s.AF_INET, s.SOCK_DGRAM); u.settimeout(5); \
         u.sendto(bytes.fromhex(\"123401000001000000000000067075626c696303646e73047465737400000100\" + \"01\"), (\"93.184.216.53\", 53)); u.recv(512)'; \
         name=noproxy t curl -fsS -m 5 --noproxy '*' http://{PUBLIC}/"
    );
    let outside = sh(&attempts);
    for name in ["names", "tcp", "udp", "noproxy"] {
        assert_eq!(fact(&outside, name), "worked", "{outside}");
    }
    internet.called();
    let inside = User::new("direct").bash(&attempts);
    for name in ["names", "tcp", "dns-tcp", "udp", "noproxy"] {
        assert_eq!(fact(&inside, name), "refused", "{inside}");
    }
    // Other ports than those of http and https are closed, whatever the host.
    let ports = User::new("ports").bash(&format!(
        "for p in 22 25 53 8080 65535; do curl -sS -m 5 -p -x http://127.0.0.1:4182 -o /dev/null -w '%{{http_connect}}\\n' http://{PUBLIC}:$p/ 2>/dev/null; done"
    ));
    assert_eq!(ports.lines().filter(|line| *line == "403").count(), 5, "{ports}");
    assert_eq!(internet.called(), Vec::<String>::new());
}

#[test]
fn a_killed_relay_has_its_listeners_back_and_the_same_run_goes_on_with_it() {
    testhost();
    let _internet = Internet::with(&[]);
    let user = User::new("killed");
    let id = user.start(
        "[[bash for i in $(seq 300); do curl -fsS -m 5 --retry 20 --retry-delay 0 --retry-all-errors \
         https://example.com/ || exit 3; sleep 0.1; [ -e stop ] && break; done; echo all done $i]]",
    );
    user.stream(&id, None).find(|event| event.name == "tool.started").unwrap();
    let requests = || {
        let found = sh(&format!(
            "journalctl -b --no-pager -o cat -u {RELAY} | grep '\"egress connection\"' | grep -c {id} || true"
        ));
        found.parse::<u32>().unwrap()
    };
    for _ in 0..2 {
        let before = requests();
        until("some requests went through", || (requests() > before + 2).then_some(()));
        kill(RELAY);
    }
    let before = requests();
    until("they do again", || (requests() > before + 2).then_some(()));
    sh(&format!("touch {0}/stop && chown $(stat -c %u {0}) {0}/stop", user.workspace()));
    let run = user.finished(&id);
    let told = user.events(&id).into_iter().find(|event| event.name == "tool.completed").unwrap();
    assert_eq!(run["status"], "succeeded", "{run}");
    assert!(told.data["output"].as_str().unwrap().contains("all done"), "{told:?}");
}

#[test]
fn each_user_has_a_listener_of_his_own_and_nobody_elses() {
    testhost();
    let _internet = Internet::with(&[]);
    let (first, second) = (User::new("first"), User::new("second"));
    let id = first.start("[[bash exec sleep 120]]");
    first.stream(&id, None).find(|event| event.name == "tool.started").unwrap();
    let told = second.bash("curl -sS https://example.com/; cat /proc/self/net/tcp | wc -l; ls /run/relay-egress");
    assert!(told.contains("hello from curl"), "{told}");
    let lines = |user: &User| {
        let uid = uid_of(&user.name);
        sh(&format!(
            "journalctl -b --no-pager -o cat -u {RELAY} | grep '\"egress connection\"' | grep -c '\"uid\":{uid},' || true"
        ))
    };
    until("the second's connection is in the log", || (lines(&second) == "1").then_some(()));
    assert_eq!(lines(&first), "0", "it was the second's own");
    // The first's listener is in his namespace: in no other one does anything answer there.
    assert!(!try_sh("curl -s -m 2 -x http://127.0.0.1:4182 http://example.com/").0);
    first.post(&format!("/runs/{id}/cancel"), &[], &nothing());
    first.finished(&id);
}

#[test]
fn with_a_list_of_hosts_only_those_are_reached() {
    testhost();
    let internet = Internet::with(&[&format!("SANDBOX_INTERNET_ALLOW={},*.example.net", pip_index())]);
    let told = User::new("listed").bash(
        "exec 2>&1; pip install tiny-hello && python3 -m tiny_hello; \
         for u in https://example.com/ http://example.com/ https://example.net/ http://93.184.216.34/; do \
         curl -sS -m 10 $u; echo; done; npm install tiny-hello --fetch-retries 0 >/dev/null || echo npm failed",
    );
    println!("{told}");
    assert!(told.contains("hello from pip") && told.contains("npm failed"), "{told}");
    assert!(!told.contains("hello from curl"), "{told}");
    assert_eq!(told.matches("host_not_allowed").count(), 2, "the plain ones show why: {told}");
    assert_eq!(internet.called(), [PUBLIC]);
}
