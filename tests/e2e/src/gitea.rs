//! A gateway that keeps workspaces in step with the tests' small Gitea, and what is in its repositories.

use serde_json::Value;

use crate::host::{try_sh, until_ready};
use crate::operator::{FILE, Restore};
use crate::{User, sh, until};

/// The relay's unit.
pub const RELAY: &str = "pi-gateway-relay-git";
/// Where the repositories are.
pub const REPOSITORIES: &str = "/var/lib/pi-gateway-gitea";

/// Hands a listener out as a git worker does, has port 4181 lead to it for git's own programs, and runs the commands in its
/// first argument.
pub const HAND_OVER: &str = r#"
import array, contextlib, os, socket, subprocess, sys, threading
listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
listener.bind("\0relay-git")
listener.listen(16)
relay = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
relay.connect("/run/pi-gateway/relay-git/relay.sock")
rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener.fileno()]))
relay.sendmsg([b"1 git 01a205e8-7d1f-7255-8c8f-ce60b3ba1d9d"], [rights])
print("hand-over:", relay.recv(256).decode(), flush=True)
listener.close()
def pump(source, sink):
    try:
        while piece := source.recv(65536):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        # A close would end nothing while the other thread still reads.
        for end in source, sink:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
def serve(port):
    while True:
        inner, outer = port.accept()[0], socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        outer.connect("\0relay-git")
        for pair in (inner, outer), (outer, inner):
            threading.Thread(target=pump, args=pair, daemon=True).start()
port = socket.create_server(("127.0.0.1", 4181))
threading.Thread(target=serve, args=(port,), daemon=True).start()
os.environ.update(GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="http.extraHeader", GIT_CONFIG_VALUE_0="Host: localhost")
sys.exit(subprocess.run(["/bin/sh", "-c", sys.argv[1]]).returncode)
"#;

/// The gateway with a Gitea; without one again when this is dropped.
pub struct Gitea {
    _restore: Restore,
}

impl Drop for Gitea {
    fn drop(&mut self) {
        let _ = crate::host::try_sh(&format!("rm -f {REPOSITORIES}/fault; systemctl stop pi-gateway-gitea"));
    }
}

impl Gitea {
    /// With empty repositories of these users.
    pub fn of(owners: &[&str]) -> Self {
        let restore = Restore::new();
        if !is_real() {
            for owner in owners {
                let path = format!("{REPOSITORIES}/{owner}/workspace.git");
                sh(&format!("rm -rf {path}; git init -q --bare -b main {path}; echo 'sync-bot write' >{path}/access"));
            }
        }
        sh(&format!(
            "printf '%s\n' WORKSPACE_REMOTE_MODE=gitea GITEA_BASE_URL=http://127.0.0.1:3000 \
             GITEA_SYNC_SERVICE_USERNAME=sync-bot >>{FILE}; systemctl start pi-gateway-gitea; \
             systemctl restart pi-gateway-launcher pi-gateway"
        ));
        until_ready();
        if is_real() {
            until("the Gitea answers", || try_sh("curl -fsS http://127.0.0.1:3000/api/v1/version").0.then_some(()));
            for owner in owners {
                sh(&format!("/usr/local/bin/gitea-repository {owner}"));
            }
        }
        Gitea { _restore: restore }
    }

    /// Makes something go wrong; see the library of tests/gitea. An empty fault is none.
    pub fn fault(&self, fault: &str) {
        sh(&format!("rm -f {REPOSITORIES}/fault; [ -z '{fault}' ] || echo '{fault}' >{REPOSITORIES}/fault"));
    }
}

/// The user's repository at the Gitea.
pub fn bare(user: &User) -> String {
    format!("{REPOSITORIES}/{}/workspace.git", user.name)
}

/// git in the user's repository at the Gitea.
pub fn at_gitea(user: &User, arguments: &str) -> String {
    sh(&format!("git -C {} {arguments}", bare(user)))
}

/// git in the user's workspace, as the user.
pub fn in_workspace(user: &User, arguments: &str) -> String {
    let path = format!("/var/lib/pi-gateway/workspaces/{}", user.name);
    sh(&format!("HOME=/nonexistent setpriv --reuid=$(stat -c %u {path}) --clear-groups git -C {path} {arguments}"))
}

/// Whether the Gitea is the real one (`make test-gitea`).
pub fn is_real() -> bool {
    std::path::Path::new("/usr/local/bin/gitea-repository").exists()
}

/// Somebody else's commit at the Gitea, made of shell commands in a clone.
pub fn elsewhere(user: &User, commands: &str) {
    sh(&format!(
        "url=http://sync-bot:$(cat /etc/pi-gateway/credentials/GITEA_SYNC_SERVICE_TOKEN)@127.0.0.1:3000/{}/workspace.git; \
         rm -rf /root/elsewhere; git clone -q $url /root/elsewhere && cd /root/elsewhere && ({commands}) && git add -A && \
         git -c user.name=e -c user.email=e@e commit -qm elsewhere && git push -q origin HEAD:main",
        user.name
    ));
}

/// The run, once its push is over.
pub fn pushed(user: &User, run: &Value) -> Value {
    let path = format!("/runs/{}", run["id"].as_str().unwrap());
    until("the push is over", || {
        let run = user.get(&path).json();
        (run["workspace"]["push"] != "pending").then_some(run)
    })
}

/// Holds that workspace and repository are sound, whatever has happened.
pub fn is_sound(user: &User) {
    assert_eq!(in_workspace(user, "fsck --strict --no-dangling"), "");
    assert_eq!(at_gitea(user, "fsck --strict --no-dangling"), "");
}
