//! Models of a ChatGPT account beside those of OpenAI: one token for all users, exchanged in time, lost by nobody.

use pi_gateway_e2e::account::{self, Account, FILE, ID, MODEL, access, exchanges, run, sign_in, start, tokens};
use pi_gateway_e2e::host::{api_key, memory_holds, search, try_sh, until_ready, upstream_log, upstream_requests};
use pi_gateway_e2e::operator::{kill, nothing};
use pi_gateway_e2e::points::{LAUNCHER, RELAY};
use pi_gateway_e2e::{User, sh, testhost, until};

fn main_pid(unit: &str) -> String {
    sh(&format!("systemctl show -P MainPID {unit}"))
}

#[test]
fn a_run_over_codex_and_one_over_openai_in_one_gateway() {
    testhost();
    let token = access(3600, "both");
    sign_in("rt-both", &token);
    let _account = Account::configured("", false);
    let doctor = sh("pi-gateway doctor || true");
    assert!(doctor.contains("has a ChatGPT account and a token; it is good for"), "{doctor}");
    let user = User::new("both");
    let prompt = format!("codex of {} [[think hm]][[bash echo by-codex]][[say done]]", user.name);
    let codex = run(&user, &prompt);
    assert_eq!((codex["status"].as_str(), codex["model"].as_str()), (Some("succeeded"), Some(MODEL)), "{codex}");
    assert!(codex["output_text"].as_str().unwrap().contains("by-codex"), "{codex}");
    assert!(codex["usage"]["requests"] == 2 && codex["usage"]["cost_usd"].as_f64().unwrap() > 0.0, "{codex}");
    // The next run of the same session, by the other provider, and back.
    let openai = user.run(&format!("openai of {} [[recall]]", user.name));
    assert_eq!(openai["status"], "succeeded", "{openai}");
    assert!(openai["output_text"].as_str().unwrap().contains("codex of"), "{openai}");
    assert_eq!(run(&user, "[[recall]]")["status"], "succeeded");
    let seen = upstream_requests(&prompt);
    assert_eq!(seen.len(), 2);
    for request in seen {
        let header = |name: &str| request["headers"][name].as_str().unwrap_or_default().to_owned();
        assert_eq!(request["path"], "/backend-api/codex/responses");
        assert_eq!((header("authorization"), header("chatgpt-account-id")), (format!("Bearer {token}"), ID.to_owned()));
        assert_eq!((header("originator").as_str(), header("content-encoding").as_str()), ("pi", "zstd"));
        assert_eq!(header("openai-beta"), "responses=experimental");
        assert!(header("user-agent").starts_with("pi/") && !request.to_string().contains("placeholder"), "{request}");
        let allowed = "accept accept-encoding authorization chatgpt-account-id content-encoding content-length content-type \
            host openai-beta originator session-id user-agent x-client-request-id";
        for name in request["headers"].as_object().unwrap().keys() {
            assert!(allowed.split(' ').any(|known| known == name), "{name} went to the upstream");
        }
    }
    let other = upstream_requests(&format!("openai of {} [[recall]]", user.name));
    assert_eq!(other[0]["path"], "/v1/responses");
    assert_eq!(other[0]["headers"]["authorization"], format!("Bearer {}", api_key()));
    assert_eq!((account::standing().as_str(), exchanges("rt-both").len()), ("ok", 0));
}

#[test]
fn an_ended_token_is_exchanged_once_while_ten_users_run() {
    testhost();
    sign_in("rt-slow-ten", &access(-60, "ten"));
    let _account = Account::configured("MAX_CONCURRENT_RUNS=10\n", false);
    let users: Vec<User> = (0..10).map(|_| User::new("ten")).collect();
    let runs: Vec<String> =
        users.iter().map(|user| start(user, &format!("ten of {} [[slow 20 20]]", user.name))).collect();
    for (user, id) in users.iter().zip(&runs) {
        let run = user.finished(id);
        assert_eq!(run["status"], "succeeded", "{run}");
    }
    assert_eq!(exchanges("rt-slow-ten"), [("rt-slow-ten".to_owned(), 200)]);
    assert_eq!(exchanges("rt-ten").len(), 0);
    assert_eq!(tokens()["refresh_token"], "rt-ten.1");
    assert_eq!(sh(&format!("stat -c '%a %u' {FILE}")), "600 0");
    let bearer = format!("Bearer {}", tokens()["access_token"].as_str().unwrap());
    for user in &users {
        let seen = upstream_requests(&format!("ten of {} [[slow 20 20]]", user.name));
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!(seen[0]["headers"]["authorization"], bearer);
    }
}

#[test]
fn a_token_that_the_upstream_refuses_is_exchanged_and_pi_does_not_notice() {
    testhost();
    sign_in("rt-early", &access(3600, "revoked-early"));
    let _account = Account::configured("", false);
    let user = User::new("early");
    let id = start(&user, "[[say all is well]]");
    assert_eq!(user.finished(&id)["status"], "succeeded");
    assert!(user.events(&id).iter().all(|event| event.name != "retry.scheduled"));
    assert_eq!(exchanges("rt-early"), [("rt-early".to_owned(), 200)]);
}

/// A new content that the relay has handed over and the launcher, which stands still, has not taken yet.
fn until_handed_over() {
    let mut looks = 0;
    until("the new content waits in the launcher's socket", || {
        let waiting = sh("ss -xlH | awk '$5 == \"/run/pi-gateway/launcher-model/launcher.sock\" { print $3 }'");
        looks = if waiting.trim() == "1" { looks + 1 } else { 0 };
        // Connected and written are two steps, though of the same moment.
        (looks == 10).then_some(())
    });
}

/// No refresh token was good twice, and the last one is in the file.
fn nothing_is_lost(name: &str) {
    let all = exchanges("rt-")
        .into_iter()
        .filter(|(refresh, _)| refresh.trim_start_matches("rt-slow-").trim_start_matches("rt-").starts_with(name));
    let all: Vec<_> = all.collect();
    let good = |refresh: &str| all.iter().filter(|(other, status)| other == refresh && *status == 200).count();
    assert!(all.iter().all(|(refresh, _)| good(refresh) <= 1), "{all:?}");
    assert!(all.iter().all(|(_, status)| *status == 200 || *status == 0), "one was given twice: {all:?}");
    assert_eq!(tokens()["refresh_token"], format!("rt-{name}.1"), "{all:?}");
    assert_eq!(sh(&format!("ls {FILE}* | wc -l")), "1");
}

#[test]
fn a_rotated_token_survives_the_death_of_any_process() {
    testhost();
    sign_in("rt-none", &access(3600, "none"));
    let _account = Account::configured("", false);
    let user = User::new("deaths");
    assert_eq!(run(&user, "hello")["status"], "succeeded");
    // Before the issuer has answered: the token was not used yet.
    sign_in("rt-slow-asked", &access(-60, "asked"));
    sh("systemctl reset-failed pi-gateway-relay-model pi-gateway-launcher");
    kill(RELAY);
    let id = start(&user, "[[say one]]");
    until("the issuer is asked", || (!exchanges("rt-slow-asked").is_empty()).then_some(()));
    kill(RELAY);
    assert_eq!(user.finished(&id)["status"], "succeeded");
    nothing_is_lost("asked");
    for (name, dies) in [("relay", &[RELAY][..]), ("launcher", &[LAUNCHER]), ("used", &[RELAY, LAUNCHER])] {
        until_ready();
        sh("systemctl reset-failed pi-gateway-relay-model pi-gateway-launcher");
        let before = format!("rt-slow-{name}");
        sign_in(&before, &access(-60, name));
        // The relay holds a token that is good; it looks at the file again when it starts anew.
        kill(RELAY);
        let id = start(&user, &format!("[[say {name}]]"));
        until("the issuer is asked", || (!exchanges(&before).is_empty()).then_some(()));
        let launcher = main_pid(LAUNCHER);
        if name == "used" {
            // Stored, and used by the time they die.
            until("the new token is stored", || (tokens()["refresh_token"] == format!("rt-{name}.1")).then_some(()));
        } else {
            sh(&format!("kill -STOP {launcher}"));
            until_handed_over();
        }
        dies.iter().for_each(|unit| kill(unit));
        let _ = try_sh(&format!("kill -CONT {launcher}"));
        until("it is stored", || (tokens()["refresh_token"] == format!("rt-{name}.1")).then_some(()));
        assert_eq!(user.finished(&id)["status"], "succeeded", "{name}");
        assert_eq!(run(&user, "and on")["status"], "succeeded", "{name}");
        nothing_is_lost(name);
    }
}

#[test]
fn a_sign_in_that_has_ended_is_reported_and_the_operators_next_file_is_taken_without_a_restart() {
    testhost();
    sign_in("rt-refused-1", &access(-60, "refused"));
    let _account = Account::configured("", false);
    let user = User::new("refused");
    let run_of = |prompt: &str| run(&user, prompt);
    let failed = run_of("hello");
    assert_eq!(
        (failed["status"].as_str(), failed["error"]["code"].as_str()),
        (Some("failed"), Some("codex_signed_out")),
        "{failed}"
    );
    account::until_standing("signed_out");
    assert_eq!(exchanges("rt-refused-1"), [("rt-refused-1".to_owned(), 401)], "it is not given again and again");
    assert_eq!(user.run("openai goes on")["status"], "succeeded");
    let before = (main_pid(RELAY), main_pid(LAUNCHER), main_pid("pi-gateway"));
    sign_in("rt-back", &access(3600, "back"));
    account::until_standing("ok");
    assert_eq!(run_of("hello again")["status"], "succeeded");
    assert_eq!(before, (main_pid(RELAY), main_pid(LAUNCHER), main_pid("pi-gateway")));
    // One that is no account is told as well, and the next good one taken.
    sh(&format!("echo '{{}}' > {FILE}; systemctl restart pi-gateway-relay-model"));
    account::until_standing("unreadable");
    sign_in("rt-good", &access(3600, "good"));
    account::until_standing("ok");
}

#[test]
fn a_gateway_with_an_account_alone_needs_no_key() {
    testhost();
    sign_in("rt-alone", &access(3600, "alone"));
    let _account = Account::configured("", true);
    let user = User::new("alone");
    let run = user.run("hello");
    assert_eq!((run["status"].as_str(), run["error"].as_object()), (Some("succeeded"), None), "{run}");
    sh(&format!("rm {FILE}"));
    let (ok, _) = try_sh("systemctl restart pi-gateway-launcher");
    let told = sh("pi-gateway doctor || true");
    assert!(
        !ok && told.contains("PI_GATEWAY_CODEX_AUTH_FILE: there is no") && told.contains("install -D -m 0600"),
        "{told}"
    );
    sign_in("rt-alone", &access(3600, "alone"));
    sh("systemctl reset-failed pi-gateway-launcher; systemctl restart pi-gateway-launcher");
}

#[test]
fn the_accounts_tokens_are_in_no_sandbox_front_log_or_command_line() {
    testhost();
    sign_in("rt-slow-hidden-4711", &access(-60, "hidden"));
    let _account = Account::configured("", false);
    let user = User::new("hidden");
    let places =
        "/workspace /session /trusted /agent /tmp /var /run /etc /dev/shm /proc/[0-9]*/environ /proc/[0-9]*/cmdline";
    let bash = |command: &str| {
        let id = start(&user, &format!("[[bash {command}]]"));
        let completed = user.stream(&id, None).find(|event| event.name == "tool.completed").expect("a tool's end");
        user.finished(&id);
        completed.data["output"].as_str().unwrap().to_owned()
    };
    let planted = "planted-word-9876543210";
    bash(&format!("printf %s {planted} > /workspace/planted"));
    assert!(bash(&search(planted, places)).contains("/workspace/planted"), "the search finds what is there");
    let held = tokens();
    let (token, refresh) = (held["access_token"].as_str().unwrap(), held["refresh_token"].as_str().unwrap());
    assert_eq!(refresh, "rt-hidden-4711.1", "it was exchanged");
    for word in [token, refresh, ID] {
        assert_eq!(bash(&search(word, places)).trim(), "0", "in a sandbox");
    }
    // The front, the agent, the journal, units, command lines and every file but its own, while a run is active.
    let id = start(&user, "[[slow 3000 30]]");
    user.stream(&id, None).find(|event| event.name == "text.delta").unwrap();
    let (front, agent) = (main_pid("pi-gateway"), main_pid(&format!("pi-gateway-agent-{}", user.name)));
    let relay = main_pid(RELAY);
    for word in [token, refresh] {
        std::fs::write("/root/needle-codex", word).unwrap();
        assert!(memory_holds(&relay, "/root/needle-codex"), "the search finds what is there: the relay has it");
        for (name, pid) in [("front", &front), ("agent", &agent)] {
            assert!(!memory_holds(pid, "/root/needle-codex"), "in the memory of the {name}");
        }
        let units = "journalctl -b --no-pager; systemctl show 'pi-gateway*' --all; cat /run/systemd/transient/* \
            /run/pi-gateway/config/* /var/lib/pi-gateway/usage/* /proc/[0-9]*/cmdline /proc/[0-9]*/environ";
        let count = sh(&format!("({units}) 2>/dev/null | grep -caF -f /root/needle-codex || true"));
        assert_eq!(count, "0", "journal, units, environments or command lines");
        let files = sh("grep -rlaF -f /root/needle-codex --devices=skip /etc /var/lib /var/log /run \
            --exclude-dir=pi-gateway-upstream 2>/dev/null || true");
        assert_eq!(files, FILE, "the search finds it in its own file, and nowhere else");
    }
    user.post(&format!("/runs/{id}/cancel"), &[], &nothing());
    user.finished(&id);
}

#[test]
fn what_a_sandbox_may_not_ask_reaches_the_account_with_no_byte() {
    testhost();
    sign_in("rt-abuse", &access(3600, "abuse"));
    let _account = Account::configured("", false);
    let user = User::new("abuse");
    let good = format!("{{\"model\":\"{MODEL}\",\"stream\":true,\"store\":false,\"input\":\"by-hand-{}\"}}", user.name);
    let script = format!(
        r#"set -u
B=http://127.0.0.1:4180
J='Content-Type: application/json'
ask() {{ curl -s -o /dev/null -w "$1=%{{http_code}}\n" --max-time 20 "${{@:2}}"; }}
printf '%s' '{good}' > good
sed 's/{MODEL}/gpt-6-sol/' good > other
sed 's/"store":false/"store":true/' good > stored
(cat good; head -c 40000000 /dev/zero | tr '\0' ' ') > large
/usr/lib/pi-gateway/runtime/1.5.2/node -e 'const z=require("zlib"),f=require("fs");
for(const n of ["good","other","large"])f.writeFileSync(n+".zst",z.zstdCompressSync(f.readFileSync(n)))'
Z='Content-Encoding: zstd'
ask plain -H "$J" --data-binary @good $B/v1/codex/responses
ask path -H "$J" --data-binary @good $B/backend-api/codex/responses
ask below -H "$J" --data-binary @good $B/v1/codex/responses/x
ask token -H "$J" --data-binary @good $B/oauth/token
ask model -H "$J" --data-binary @other $B/v1/codex/responses
ask whole -H "$J" -H "$Z" --data-binary @good.zst $B/v1/codex/responses
ask packed -H "$J" -H "$Z" --data-binary @other.zst $B/v1/codex/responses
ask stored -H "$J" --data-binary @stored $B/v1/codex/responses
ask bomb -H "$J" -H "$Z" --data-binary @large.zst $B/v1/codex/responses
ask websocket -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: eA==' $B/v1/codex/responses
ask upgrade -H "$J" -H 'Connection: Upgrade' -H 'Upgrade: websocket' --data-binary @good $B/v1/codex/responses
"#
    );
    let file = pi_gateway_e2e::attack::place("codex.sh", &script);
    let count = || upstream_log().iter().filter(|line| line.to_string().contains("/codex/")).count();
    let before = count();
    let output = user.bash(&format!("bash {file}"));
    let facts = pi_gateway_e2e::attack::facts(&output);
    let status =
        |name: &str| facts.iter().find(|(known, _)| known == name).map_or("none", |(_, status)| status.as_str());
    assert_eq!((status("plain"), status("whole")), ("200", "200"), "the way is open: {output}");
    for (name, expected) in [
        ("path", "404"),
        ("below", "404"),
        ("token", "404"),
        ("model", "400"),
        ("packed", "400"),
        ("stored", "400"),
        ("bomb", "413"),
        ("websocket", "405"),
        ("upgrade", "400"),
    ] {
        assert_eq!(status(name), expected, "{name}: {output}");
    }
    assert_eq!(count(), before + 2, "those that are allowed");
    assert_eq!(exchanges("rt-abuse").len(), 0);
}
