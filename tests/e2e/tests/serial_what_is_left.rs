//! After all other tests: nothing of any run is left on the machine.

use pi_gateway_e2e::host::until_workers_are_gone;
use pi_gateway_e2e::{User, sh, testhost, until};

#[test]
fn no_unit_cgroup_process_file_or_mount_of_any_run_is_left() {
    testhost();
    let user = User::new("last");
    // While a run is active each of the searches finds it.
    let searches = [
        ("units", "systemctl list-units --all --plain --no-legend 'pi-gateway-agent-*'"),
        ("cgroups", "find /sys/fs/cgroup -type d -name 'pi-gateway-agent-*'"),
        ("processes", "ps -eo uid=,pid=,args= | awk '$1 >= 1879048193'"),
        ("raw output", "find /var/lib/pi-gateway/raw -mindepth 1"),
        ("active runs", "find /var/lib/pi-gateway/front/active -mindepth 1"),
        ("transient units", "find /run/systemd/transient -name 'pi-gateway-agent-*'"),
    ];
    let id = user.start("[[bash sleep 30]]");
    user.stream(&id, None).find(|event| event.name == "tool.started").unwrap();
    for (what, search) in searches {
        assert_ne!(sh(search), "", "the search finds the {what} of an active run");
    }
    let _ = user.post(&format!("/runs/{id}/cancel"), &[], &pi_gateway_e2e::operator::nothing());
    user.finished(&id);
    until_workers_are_gone();
    for (what, search) in searches {
        until(&format!("no {what} are left:\n{}", sh(search)), || sh(search).is_empty().then_some(()));
    }
    assert_eq!(
        sh("find /sys/fs/cgroup -type d -path '*pi-gateway.slice/*' -printf '%f\\n' | sort -u"),
        "pi-gateway-relay-model.service"
    );
    assert_eq!(sh("awk '$2 ~ \"^/run/pi-gateway\" {print $2}' /proc/1/mounts"), "");
    assert_eq!(sh("ls /run/credentials | grep ^pi-gateway || true"), "pi-gateway-relay-model.service");
}
