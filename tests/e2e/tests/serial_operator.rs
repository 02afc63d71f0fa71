//! What an operator does and reads: settings that disagree, remedies that are followed to the letter, warnings.

use pi_gateway_e2e::host::{try_sh, until_ready};
use pi_gateway_e2e::http::try_request;
use pi_gateway_e2e::operator::{FILE, Restore, kill};
use pi_gateway_e2e::{User, sh, testhost, until};

/// A place in the journal.
fn cursor() -> String {
    sh("journalctl -b -n0 --show-cursor -q | sed -n 's/^-- cursor: //p'")
}

/// What a unit has said since; the whole journal without one.
fn said(unit: Option<&str>, cursor: &str) -> String {
    let unit = unit.map(|unit| format!("-u {unit}")).unwrap_or_default();
    sh(&format!("journalctl --sync; journalctl -b --no-pager -o cat --after-cursor='{cursor}' {unit}"))
}

/// Restarts a unit that must not come up; gives what it said.
fn refuses_to_start(unit: &str) -> String {
    let from = cursor();
    assert!(!try_sh(&format!("systemctl restart {unit}")).0, "{unit} started");
    until("the service has given up", || {
        (sh(&format!("systemctl show -P ActiveState {unit}")) == "failed").then_some(())
    });
    assert_eq!(sh(&format!("systemctl show -P NRestarts {unit}")), "0", "a wrong configuration is not tried again");
    assert_eq!(sh(&format!("systemctl show -P ExecMainStatus {unit}")), "78");
    said(Some(unit), &from)
}

#[test]
fn a_weak_secret_is_refused_by_both_with_status_78_and_its_value_is_not_told() {
    testhost();
    let _restore = Restore::new();
    let from = cursor();
    let weak = "feeble-Vq7Zk2";
    sh(&format!("sed -i 's/^JWT_SHARED_SECRET=.*/JWT_SHARED_SECRET={weak}/' {FILE}"));
    for unit in ["pi-gateway", "pi-gateway-launcher"] {
        let told = refuses_to_start(unit);
        assert!(told.contains("JWT_SHARED_SECRET"), "{told}");
    }
    let journal = said(None, &from);
    assert!(journal.contains("JWT_SHARED_SECRET"), "the search finds what is there");
    assert!(!journal.contains(weak), "the secret's value is in the journal");
}

#[test]
fn a_configuration_that_others_can_read_is_refused_by_the_launcher_as_well() {
    testhost();
    let _restore = Restore::new();
    sh(&format!("chmod 0644 {FILE}"));
    for unit in ["pi-gateway", "pi-gateway-launcher"] {
        let told = refuses_to_start(unit);
        assert!(told.contains("chown ") && told.contains(FILE), "{told}");
    }
}

#[test]
fn another_address_works_once_the_told_drop_in_is_made() {
    testhost();
    let _restore = Restore::new();
    sh(&format!("echo HOST=127.0.0.2 >> {FILE}; echo PORT=9999 >> {FILE}"));
    let told = refuses_to_start("pi-gateway");
    assert!(told.contains("systemctl edit pi-gateway.socket") && told.contains("127.0.0.2:9999"), "{told}");
    sh("mkdir -p /etc/systemd/system/pi-gateway.socket.d; \
        printf '[Socket]\\nListenStream=\\nListenStream=127.0.0.2:9999\\n' >/etc/systemd/system/pi-gateway.socket.d/override.conf; \
        systemctl daemon-reload; systemctl stop pi-gateway pi-gateway.socket; systemctl reset-failed pi-gateway; \
        systemctl start pi-gateway.socket pi-gateway");
    assert!(sh("curl -s -m 5 http://127.0.0.2:9999/health").contains("version"));
    assert!(!try_sh("curl -s -m 2 http://127.0.0.1:8787/health").0, "the old address still answers");
}

#[test]
fn an_unknown_variable_is_warned_about_and_does_not_stop_the_start() {
    testhost();
    let _restore = Restore::new();
    let from = cursor();
    sh(&format!("echo NO_SUCH_VARIABLE=1 >> {FILE}; systemctl restart pi-gateway-launcher pi-gateway"));
    until_ready();
    assert!(said(Some("pi-gateway"), &from).contains("NO_SUCH_VARIABLE"), "{}", said(Some("pi-gateway"), &from));
}

#[test]
fn a_reload_of_systemd_takes_no_restriction_from_a_relay_that_is_restarted_after_it() {
    testhost();
    until_ready();
    let unit = "pi-gateway-relay-model";
    let main = || sh(&format!("systemctl show -P MainPID {unit}"));
    // The number of filters that the kernel has for the process, not only what systemd says.
    let restrictions = || {
        let properties = "-p RestrictNamespaces -p RestrictAddressFamilies -p SystemCallFilter -p CapabilityBoundingSet \
            -p ProtectSystem -p NoNewPrivileges -p DevicePolicy";
        sh(&format!("systemctl show {unit} {properties}; grep Seccomp_filters /proc/{}/status", main()))
    };
    let before = restrictions();
    assert!(before.contains("RestrictNamespaces=yes"), "{before}");
    let pid = main();
    sh("systemctl daemon-reload");
    kill(unit);
    // Both in one question: between two, an old "active" would meet the process id 0 of a service that is being restarted.
    until("the relay is back", || {
        let state = sh(&format!("systemctl show -p ActiveState -p MainPID {unit}"));
        let started = state.contains("ActiveState=active");
        let successor = !state.lines().any(|line| line == "MainPID=0" || line == format!("MainPID={pid}"));
        (started && successor).then_some(())
    });
    assert_eq!(restrictions(), before);
    until_ready();
}

#[test]
fn whoever_asks_often_whether_it_is_ready_sees_that_it_is_not_any_more_and_that_it_is_again() {
    testhost();
    until_ready();
    // `until` asks every 20 ms, far more often than the answer is made anew.
    let status = |wanted: u16| {
        until(&format!("readiness is {wanted}"), || {
            let answer = try_request("GET", "/health/ready", None, &[], None)?;
            (answer.status == wanted).then_some(())
        });
    };
    sh("systemctl stop pi-gateway-launcher.socket pi-gateway-launcher");
    status(503);
    sh("systemctl start pi-gateway-launcher.socket pi-gateway-launcher");
    status(200);
}

#[test]
fn many_new_users_at_once_leave_no_unit_failed() {
    testhost();
    until_ready();
    let triggered = || -> u32 {
        let starts = "journalctl --sync; journalctl -b -o cat -u pi-gateway-quota | grep -c '^Finished' || true";
        sh(starts).lines().last().unwrap().parse().unwrap()
    };
    let before = triggered();
    for _ in 0..8 {
        let count = triggered();
        // Each gets a uid, and with it a start of the unit that sets quotas.
        assert_eq!(User::new("crowd").put(b"file", &[], b"mine").status, 201);
        until("the unit has run once more or failed", || {
            (triggered() > count || sh("systemctl is-active pi-gateway-quota.path || true") != "active").then_some(())
        });
    }
    assert_eq!(sh("systemctl list-units --state=failed --plain --no-legend 'pi-gateway*'"), "");
    assert!(triggered() > before, "new users start the unit that sets quotas");
}
