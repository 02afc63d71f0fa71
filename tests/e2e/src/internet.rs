//! An internet for a gateway that lets agents reach it: a network namespace with addresses that look public, and others
//! that do not, behind a wire. Nothing of it is anywhere but in the test host, whose own network is empty.

use crate::attack::place;
use crate::host::{try_sh, until_ready};
use crate::operator::{FILE, Restore};
use crate::{sh, until};

/// The relay's unit.
pub const RELAY: &str = "pi-gateway-relay-egress";
/// The one address that is the internet's.
pub const PUBLIC: &str = "93.184.216.34";
/// This machine's own address on the wire, which looks public.
pub const OWN: &str = "93.184.216.1";
/// Addresses behind the wire that no agent may reach; a connection outside the sandbox does.
pub const FORBIDDEN: [&str; 9] = [
    "10.1.2.3",
    "172.16.5.5",
    "192.168.7.7",
    "100.64.0.1",
    "169.254.169.254",
    "168.63.129.16",
    "198.18.0.1",
    "203.0.113.9",
    "192.0.0.192",
];
/// The same of IPv6, where there is any.
pub const FORBIDDEN_V6: [&str; 4] = ["fd00:ec2::254", "2001:db8::1", "64:ff9b::7f00:1", "2002:7f00:1::1"];

const SERVER: &str = include_str!("../internet/internet.py");
/// What each connection is written to.
const LOG: &str = "/run/internet.log";
const KEPT: &str = "/root/internet.kept";
/// Hosts of it, beside those that npm and pip ask unless told otherwise.
const NAMES: &str = "files.example.net github.com example.com";

/// The names that lead to the internet of the tests: those that the programs have built in are asked of them.
pub fn names() -> Vec<String> {
    let npm =
        sh("env -i HOME=/nonexistent PATH=/usr/lib/pi-gateway/runtime/1.5.2/bin:/usr/bin:/bin npm config get registry");
    let npm = npm.trim().trim_start_matches("https://").trim_end_matches('/');
    [npm, &pip_index()].into_iter().chain(NAMES.split(' ')).map(str::to_owned).collect()
}

/// The host that pip asks unless told otherwise.
pub fn pip_index() -> String {
    sh("python3 -c 'from pip._internal.models.index import PyPI; print(PyPI.netloc)'").trim().to_owned()
}

/// The gateway with an internet; without one again when this is dropped.
pub struct Internet {
    _restore: Restore,
}

impl Drop for Internet {
    fn drop(&mut self) {
        let _ = try_sh(&format!(
            "systemctl stop internet internet-names internet-inside; ip netns del internet; ip link del wire; \
             ip addr del 169.254.170.2/32 dev lo; rm -f {LOG}; \
             for f in hosts resolv.conf ssl/certs/ca-certificates.crt; do cat {KEPT}/$f >/etc/$f; done"
        ));
    }
}

impl Internet {
    /// With these further lines of configuration.
    pub fn with(more: &[&str]) -> Self {
        let restore = Restore::new();
        let script = place("internet.py", SERVER);
        let six = FORBIDDEN_V6.map(|address| {
            format!("ip -n internet addr add {address}/128 dev end nodad && ip route add {address} dev wire; ")
        });
        let four = FORBIDDEN
            .map(|address| format!("ip -n internet addr add {address}/32 dev end; ip route add {address} dev wire; "));
        sh(&format!(
            "mkdir -p {KEPT}/ssl/certs; for f in hosts resolv.conf ssl/certs/ca-certificates.crt; do \
             [ -e {KEPT}/$f ] || cat /etc/$f >{KEPT}/$f; done; : >{LOG}"
        ));
        sh(&format!(
            "ip netns add internet; ip link add wire type veth peer name end netns internet; \
             ip addr add {OWN}/24 dev wire; ip link set wire up; ip -n internet link set lo up; \
             ip -n internet addr add {PUBLIC}/24 dev end; ip -n internet addr add 93.184.216.53/24 dev end; \
             ip -n internet link set end up; {} ({}) 2>/dev/null; ip addr add 169.254.170.2/32 dev lo",
            four.concat(),
            six.concat()
        ));
        // An authority that the machine trusts, and what it says of the names.
        let names = names();
        let alternatives: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
        sh(&format!(
            "cd {KEPT} && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=authority of the tests' \
             -keyout ca.key -out ca.crt 2>/dev/null && \
             openssl req -newkey rsa:2048 -nodes -subj /CN=tests -keyout server.key -out server.csr 2>/dev/null && \
             openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out server.crt \
             -extfile <(echo subjectAltName={}) 2>/dev/null && cat ca.crt >>/etc/ssl/certs/ca-certificates.crt",
            alternatives.join(",")
        ));
        sh(&format!(
            "echo '{PUBLIC} {}' >>/etc/hosts; echo 'nameserver 93.184.216.53' >/etc/resolv.conf",
            names.join(" ")
        ));
        sh("rm -rf /srv/internet; mkdir -p /srv/internet/someone; cd /srv/internet/someone; git init -q -b main w; \
            cd w; echo 'hello from git' >README; git add .; git -c user.name=s -c user.email=s@s commit -qm one; \
            cd ..; git clone -q --bare w thing.git; git -C thing.git update-server-info");
        let serve = format!("/usr/bin/python3 {script} serve {LOG} {KEPT}/server.crt {KEPT}/server.key");
        sh(&format!(
            "systemctl reset-failed 'internet*' 2>/dev/null; \
             systemd-run -q --unit internet -- /usr/sbin/ip netns exec internet {serve}; \
             systemd-run -q --unit internet-names -- /usr/sbin/ip netns exec internet /usr/bin/python3 {script} names 93.184.216.53; \
             systemd-run -q --unit internet-inside -- {serve}"
        ));
        until("the internet answers", || {
            let asked = format!(
                "curl -fsS -m 2 https://example.com/ && curl -fsS -m 2 http://{OWN}/ && getent hosts public.dns.test"
            );
            try_sh(&asked).0.then_some(())
        });
        let more = more.join(" ");
        sh(&format!(
            "printf '%s\n' SANDBOX_INTERNET_ENABLED=true {more} >>{FILE}; systemctl restart pi-gateway-launcher pi-gateway"
        ));
        until_ready();
        let internet = Internet { _restore: restore };
        // What was called until here was to see that it answers.
        internet.called();
        internet
    }

    /// The addresses that were called since the last time this was asked, each once.
    pub fn called(&self) -> Vec<String> {
        let told = sh(&format!("cut -d' ' -f2 {LOG} | sort -u; : >{LOG}"));
        told.lines().map(str::to_owned).collect()
    }
}
